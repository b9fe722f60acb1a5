//! Each kind of cryptography under quinn-proto itself, without masque-core's endpoint.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use masque_core::endpoint::{Identity, PeerIdentity};
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, ConnectionId, ConnectionIdGenerator, DatagramEvent,
    Endpoint, EndpointConfig, Event, ServerConfig, TransportConfig, crypto,
};

use super::null::{NullClient, NullHmac, NullServer, NullTokenKey};
use super::{real, seeded};
use crate::seed::Seed;

const NAME: &str = "vpn.example";

type Certificates = Vec<rustls::pki_types::CertificateDer<'static>>;

/// Connection IDs that count up: quinn-proto's own draw from the system.
struct Counted(u64);

impl ConnectionIdGenerator for Counted {
    fn generate_cid(&mut self) -> ConnectionId {
        self.0 += 1;
        ConnectionId::new(&self.0.to_be_bytes())
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// One side: an endpoint with at most one connection.
struct Peer {
    endpoint: Endpoint,
    connection: Option<(ConnectionHandle, Connection)>,
    address: SocketAddr,
    events: Vec<Event>,
    retry: bool,
}

impl Peer {
    fn new(address: &str, server: Option<Arc<dyn crypto::ServerConfig>>, seed: u8) -> Self {
        let mut config = EndpointConfig::new(Arc::new(NullHmac([7; 32])));
        config.rng_seed(Some([seed; 32]));
        config.cid_generator(move || Box::new(Counted(u64::from(seed) << 32)));
        let server = server.map(|crypto| {
            let mut server = ServerConfig::new(crypto, Arc::new(NullTokenKey([9; 32])));
            server.transport_config(transport());
            Arc::new(server)
        });
        Self {
            endpoint: Endpoint::new(Arc::new(config), server, true, Some([seed; 32])),
            connection: None,
            address: address.parse().expect("a constant"),
            events: Vec::new(),
            retry: false,
        }
    }

    fn connection(&mut self) -> &mut Connection {
        &mut self.connection.as_mut().expect("a connection").1
    }

    fn receive(&mut self, now: Instant, from: SocketAddr, data: &[u8]) -> Option<Vec<u8>> {
        let mut buf = Vec::new();
        let data = BytesMut::from(data);
        match self
            .endpoint
            .handle(now, from, None, None, data, &mut buf)?
        {
            DatagramEvent::ConnectionEvent(_, event) => self.connection().handle_event(event),
            DatagramEvent::NewConnection(incoming) if self.retry && incoming.may_retry() => {
                assert!(!incoming.remote_address_validated());
                let transmit = self.endpoint.retry(incoming, &mut buf).expect("may retry");
                buf.truncate(transmit.size);
                return Some(buf);
            }
            DatagramEvent::NewConnection(incoming) => {
                match self.endpoint.accept(incoming, now, &mut buf, None) {
                    Ok(connection) => self.connection = Some(connection),
                    Err(error) => panic!("accept: {}", error.cause),
                }
            }
            DatagramEvent::Response(_) => return Some(buf),
        }
        None
    }

    fn drive(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        let Some((handle, connection)) = &mut self.connection else {
            return;
        };
        let mut buf = Vec::new();
        while connection.poll_transmit(now, 1, &mut buf).is_some() {
            out.push(std::mem::take(&mut buf));
        }
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(*handle, event) {
                connection.handle_event(event);
            }
        }
        while let Some(event) = connection.poll() {
            self.events.push(event);
        }
    }
}

fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport.mtu_discovery_config(None);
    Arc::new(transport)
}

/// A client and a server that exchange datagrams without delay until both are silent.
struct Pair {
    client: Peer,
    server: Peer,
    now: Instant,
    wire: Vec<Vec<u8>>,
}

impl Pair {
    fn new(
        client: Arc<dyn crypto::ClientConfig>,
        server: Arc<dyn crypto::ServerConfig>,
        name: &str,
        retry: bool,
    ) -> Self {
        let now = Instant::now();
        let mut server = Peer::new("192.0.2.1:443", Some(server), 2);
        server.retry = retry;
        let mut peer = Peer::new("192.0.2.2:50000", None, 1);
        let mut config = ClientConfig::new(client);
        config.transport_config(transport());
        config.initial_dst_cid_provider(Arc::new(|| quinn_proto::ConnectionId::new(&[3; 8])));
        let connection = peer.endpoint.connect(now, config, server.address, name);
        peer.connection = Some(connection.expect("valid parameters"));
        let mut pair = Self {
            client: peer,
            server,
            now,
            wire: Vec::new(),
        };
        pair.exchange();
        pair
    }

    fn exchange(&mut self) {
        let mut to_server: VecDeque<Vec<u8>> = VecDeque::new();
        let mut to_client: VecDeque<Vec<u8>> = VecDeque::new();
        loop {
            let mut out = Vec::new();
            self.client.drive(self.now, &mut out);
            to_server.extend(out);
            let mut out = Vec::new();
            self.server.drive(self.now, &mut out);
            to_client.extend(out);
            let (client, server) = (self.client.address, self.server.address);
            if let Some(data) = to_server.pop_front() {
                to_client.extend(self.server.receive(self.now, client, &data));
                self.wire.push(data);
            } else if let Some(data) = to_client.pop_front() {
                to_server.extend(self.client.receive(self.now, server, &data));
                self.wire.push(data);
            } else {
                break;
            }
        }
    }

    fn is_up(&self) -> bool {
        let connected = |peer: &Peer| {
            let mut events = peer.events.iter();
            events.any(|event| matches!(event, Event::Connected))
        };
        connected(&self.client) && connected(&self.server)
    }

    /// Sends datagrams to the server until quinn has changed keys several times.
    fn talk(&mut self, datagrams: u16) -> usize {
        let mut received = 0;
        for number in 0..datagrams {
            let data = number.to_be_bytes().to_vec().into();
            let sent = self.client.connection().datagrams().send(data, false);
            sent.expect("datagrams are on");
            self.exchange();
            while let Some(data) = self.server.connection().datagrams().recv() {
                assert_eq!(data[..], number.to_be_bytes());
                received += 1;
            }
        }
        received
    }
}

fn lost(peer: &Peer) -> Option<String> {
    peer.events.iter().find_map(|event| match event {
        Event::ConnectionLost { reason } => Some(reason.to_string()),
        _ => None,
    })
}

/// Datagram and byte where two runs part.
fn difference(one: &[Vec<u8>], other: &[Vec<u8>]) -> Option<(usize, usize)> {
    let at = one.iter().zip(other).position(|(one, other)| one != other);
    match at {
        Some(at) => {
            let mut pairs = one[at].iter().zip(&other[at]);
            let byte = pairs.position(|(one, other)| one != other);
            Some((at, byte.unwrap_or(one[at].len().min(other[at].len()))))
        }
        None => (one.len() != other.len()).then(|| (one.len().min(other.len()), 0)),
    }
}

fn null_pair(retry: bool) -> Pair {
    let client = NullClient::named("urn:client");
    Pair::new(client, NullServer::named(NAME), NAME, retry)
}

fn tls_pair(authority: &super::Authority) -> Pair {
    let identity = Identity("urn:client".to_owned());
    let client = authority.client(Some(&identity)).expect("valid");
    let server = authority.server(NAME).expect("valid");
    Pair::new(client, server, NAME, false)
}

#[test]
fn null_crypto_comes_up_and_names_the_client() {
    let mut pair = null_pair(false);
    assert!(pair.is_up());
    let session = pair.server.connection().crypto_session();
    let identity = session.peer_identity().expect("the client stated one");
    let identity = identity
        .downcast::<PeerIdentity>()
        .expect("the documented type");
    assert_eq!(identity.identity, Identity("urn:client".to_owned()));
    assert!(
        pair.client
            .connection()
            .crypto_session()
            .peer_identity()
            .is_none()
    );
    let data = session.handshake_data().expect("the hello came");
    let data = data.downcast::<crypto::rustls::HandshakeData>();
    assert_eq!(
        data.expect("rustls's type").server_name.as_deref(),
        Some(NAME)
    );
}

#[test]
fn null_crypto_survives_a_retry() {
    let pair = null_pair(true);
    assert!(pair.is_up());
    // A long header whose type bits are 3 (RFC 9000 §17.2.5).
    assert!(pair.wire.iter().any(|datagram| datagram[0] & 0xf0 == 0xf0));
}

#[test]
fn null_crypto_survives_key_updates() {
    // quinn-proto updates its keys after at most 1,000 packets.
    assert_eq!(null_pair(false).talk(1200), 1200);
}

#[test]
fn null_crypto_repeats_itself() {
    assert_eq!(
        difference(&null_pair(true).wire, &null_pair(true).wire),
        None
    );
}

#[test]
fn a_null_client_refuses_a_server_of_another_name() {
    let client = NullClient::named("urn:client");
    let pair = Pair::new(client, NullServer::named(NAME), "other.example", false);
    assert!(!pair.is_up());
    let reason = lost(&pair.client).expect("refused");
    assert!(reason.contains("another server name"), "{reason}");
}

#[test]
fn a_null_server_refuses_a_client_without_identity() {
    let pair = {
        let server = NullServer::named(NAME);
        let client = Arc::new(NullClient::default());
        std::panic::catch_unwind(|| Pair::new(client, server, NAME, false))
    };
    // quinn-proto finds it while accepting, which this harness takes for a failure.
    let panic = pair.err().expect("refused");
    let text = panic.downcast_ref::<String>().expect("a message");
    assert!(text.contains("no identity"), "{text}");
}

#[test]
fn real_tls_comes_up_with_the_clients_certificate() {
    let mut pair = tls_pair(&real::authority().expect("keys"));
    assert!(pair.is_up(), "{:?}", lost(&pair.client));
    let session = pair.server.connection().crypto_session();
    let chain = session.peer_identity().expect("demanded");
    let chain = chain.downcast::<Certificates>().expect("rustls's type");
    assert_eq!(chain.len(), 1);
    assert_eq!(pair.talk(10), 10);
}

#[test]
fn real_tls_refuses_a_client_without_certificate() {
    let authority = real::authority().expect("keys");
    let client = authority.client(None).expect("valid");
    let server = authority.server(NAME).expect("valid");
    let pair = Pair::new(client, server, NAME, false);
    let reason = lost(&pair.client).or(lost(&pair.server)).expect("refused");
    assert!(reason.to_lowercase().contains("certificate"), "{reason}");
}

#[test]
fn real_tls_refuses_an_authority_it_does_not_know() {
    let client = real::authority()
        .expect("keys")
        .client(None)
        .expect("valid");
    let server = real::authority()
        .expect("keys")
        .server(NAME)
        .expect("valid");
    let pair = Pair::new(client, server, NAME, false);
    assert!(!pair.is_up());
    let reason = lost(&pair.client).expect("refused");
    assert!(reason.contains("invalid peer certificate"), "{reason}");
}

#[test]
fn seeded_tls_repeats_itself_byte_for_byte() {
    let wire = |seed| {
        let mut pair = tls_pair(&seeded::authority(&Seed::new(seed)).expect("keys"));
        assert!(pair.is_up(), "{:?}", lost(&pair.client));
        assert_eq!(pair.talk(10), 10);
        pair.wire
    };
    assert_eq!(difference(&wire(1), &wire(1)), None);
    assert!(difference(&wire(1), &wire(2)).is_some());
}
