//! A client and a server with real TLS in virtual time, both recorded.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use masque_core::endpoint::{
    Access, Cipher, ClientConfig, Command, Config, Endpoint, Entropy, Event, Identity, Limits,
    Origin, PortConfig, PortId, RecvMeta, ServerConfig, SocketId, Target, TransportProfile,
    TunBatch,
};
use masque_core::session::SessionConfig;
use masque_core::wire::offload::VnetHdr;
use masque_core::wire::prefix::IpPrefix;
use masque_core::wire::scope::Scope;
use masque_core::wire::template::UriTemplate;
use masque_recording::tls::Side;
use masque_recording::{Setup, Start, Tape, Taped};
use masque_testkit::crypto::{Authority, real};
use masque_testkit::packet;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

const DELAY: Duration = Duration::from_millis(7);
const PORT: PortId = PortId(0);
const NAME: &str = "vpn.test";

/// What happens.
#[derive(Clone)]
pub(crate) struct Plan {
    /// One after another.
    pub(crate) connections: usize,
    /// Each way, of each.
    pub(crate) packets: usize,
    /// Of each recording, in bytes.
    pub(crate) limit: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            connections: 1,
            packets: 10,
            limit: u64::MAX,
        }
    }
}

/// What came of it.
pub(crate) struct Recordings {
    pub(crate) client: Vec<u8>,
    pub(crate) server: Vec<u8>,
    /// Packets that came out at the client and at the server.
    pub(crate) written: [usize; 2],
    /// The private keys of both.
    pub(crate) keys: Vec<Vec<u8>>,
}

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Sink {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().expect("no panic"))
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct End {
    endpoint: Taped,
    address: SocketAddr,
    events: Vec<Event>,
    written: usize,
    deadline: Option<Instant>,
    batch: TunBatch,
    buffer: Vec<u8>,
}

impl End {
    fn new(
        now: Instant,
        address: SocketAddr,
        config: Config,
        seed: u8,
        tape: &Tape,
        side: &Side,
    ) -> Self {
        let wall = SystemTime::now();
        let seed = [seed; 32];
        tape.start(
            now,
            Start {
                about: "a test".to_owned(),
                wall,
                seed,
                setup: Setup::of(&config),
                tls: side.described(),
            },
        );
        let endpoint = Endpoint::new(now, wall, config, Entropy::from_seed(seed));
        let mut endpoint = Taped::from(endpoint.expect("a good configuration"));
        endpoint.record(tape.recorder());
        Self {
            endpoint,
            address,
            events: Vec::new(),
            written: 0,
            deadline: None,
            batch: TunBatch::default(),
            buffer: Vec::new(),
        }
    }

    /// Everything out; datagrams with their destinations.
    fn drain(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let segments = NonZeroUsize::new(10).expect("10 is not 0");
        let mut sent = Vec::new();
        loop {
            let mut some = false;
            while self.endpoint.poll_tun(&mut self.batch) {
                some = true;
                self.written += self.batch.frames.len();
            }
            self.buffer.clear();
            while let Some(transmit) = self.endpoint.poll_transmit(now, segments, &mut self.buffer)
            {
                some = true;
                let size = transmit.segment_size.unwrap_or(transmit.size);
                sent.extend(self.buffer.chunks(size).map(<[u8]>::to_vec));
                self.buffer.clear();
            }
            while let Some(event) = self.endpoint.poll_event() {
                some = true;
                self.events.push(event);
            }
            self.deadline = self.endpoint.poll_timeout().map(|deadline| deadline.at);
            if !some {
                return sent;
            }
        }
    }
}

struct Pair {
    now: Instant,
    ends: [End; 2],
    flying: VecDeque<(Instant, usize, Vec<u8>)>,
}

impl Pair {
    fn drain(&mut self) {
        for (index, end) in self.ends.iter_mut().enumerate() {
            for data in end.drain(self.now) {
                self.flying.push_back((self.now + DELAY, 1 - index, data));
            }
        }
    }

    /// Goes on until `done` holds.
    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        for _ in 0..10_000 {
            self.drain();
            if done(self) {
                return;
            }
            let arrival = self.flying.front().map(|(at, _, _)| *at);
            let deadlines = self.ends.iter().filter_map(|end| end.deadline);
            let Some(next) = arrival.into_iter().chain(deadlines).min() else {
                break;
            };
            self.now = self.now.max(next);
            while self
                .flying
                .front()
                .is_some_and(|(at, _, _)| *at <= self.now)
            {
                let Some((_, to, data)) = self.flying.pop_front() else {
                    break;
                };
                let remote = self.ends[1 - to].address;
                let end = &mut self.ends[to];
                let meta = RecvMeta {
                    socket: SocketId(0),
                    remote,
                    local_ip: Some(end.address.ip()),
                    ecn: None,
                    stride: data.len(),
                };
                end.endpoint
                    .handle_udp(self.now, meta, BytesMut::from(&data[..]));
            }
            for end in &mut self.ends {
                if end.deadline.is_some_and(|at| at <= self.now) {
                    end.endpoint.handle_timeout(self.now);
                }
            }
        }
        panic!(
            "{what} never came: {:?} {:?}",
            self.ends[0].events, self.ends[1].events
        );
    }
}

fn side(
    authority: &Authority,
    (certificate, key): (CertificateDer<'static>, PrivateKeyDer<'static>),
) -> Side {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let key = provider.key_provider.load_private_key(key).expect("a key");
    let own = CertifiedKey::new(vec![certificate], key);
    Side::new(
        &Cipher::ALL,
        vec![authority.certificate()],
        Some(Arc::new(own)),
    )
}

fn config(server: Option<ServerConfig>, addresses: Vec<IpAddr>) -> Config {
    Config {
        server,
        transport: TransportProfile::default(),
        limits: Limits::default(),
        session: SessionConfig {
            templates: vec![UriTemplate::well_known(NAME).expect("a constant")],
            ..SessionConfig::default()
        },
        ports: vec![PortConfig {
            id: PORT,
            tcp_offload: true,
            udp_offload: true,
            addresses,
            mtu: 1400,
        }],
        shard: None,
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a constant")
}

/// Lets a plan happen.
pub(crate) fn record(plan: &Plan) -> Recordings {
    let authority = real::authority().expect("keys");
    let server_identity = authority.issue_server(NAME).expect("a certificate");
    let client_identity = authority.issue_client(&Identity("alice".to_owned()));
    let client_identity = client_identity.expect("a certificate");
    let keys = [&server_identity.1, &client_identity.1].map(|key| key.secret_der().to_vec());
    let sinks = [Sink::default(), Sink::default()];
    let tapes = sinks.clone().map(|sink| Tape::new(sink, plan.limit));
    let sides = [
        side(&authority, client_identity).recorded(&tapes[0]),
        side(&authority, server_identity).recorded(&tapes[1]),
    ];
    let now = Instant::now();
    let server = ServerConfig {
        crypto: sides[1].server().expect("TLS"),
        secret: [7; 32],
        require_identity: true,
        port: PORT,
        pools: vec![
            IpPrefix::new(ip("10.7.0.0"), 24).expect("a constant"),
            IpPrefix::new(ip("fd00:7::"), 64).expect("a constant"),
        ],
        gateways: vec![ip("10.7.0.1"), ip("fd00:7::1")],
        statics: Vec::new(),
        leases: Vec::new(),
        routes: Vec::new(),
        access: Access {
            client_to_client: false,
            gateway: true,
            deny: Vec::new(),
        },
    };
    let gateways = server.gateways.clone();
    let addresses = ["192.0.2.1:50000", "192.0.2.2:443"];
    let [at_client, at_server] = addresses.map(|text| text.parse().expect("a constant"));
    let client = config(None, Vec::new());
    let server = config(Some(server), gateways);
    let mut pair = Pair {
        now,
        ends: [
            End::new(now, at_client, client, 1, &tapes[0], &sides[0]),
            End::new(now, at_server, server, 2, &tapes[1], &sides[1]),
        ],
        flying: VecDeque::new(),
    };
    let crypto = sides[0].client().expect("TLS");
    for _ in 0..plan.connections {
        let target = Target {
            config: ClientConfig {
                crypto: crypto.clone(),
                template: UriTemplate::well_known(NAME).expect("a constant"),
                port: PORT,
            },
            remote: at_server,
            server_name: NAME.to_owned(),
            socket: SocketId(0),
            scope: Scope::default(),
            fields: masque_core::wire::fields::FieldList::default(),
        };
        let conn = pair.ends[0].endpoint.connect(pair.now, target);
        let conn = conn.expect("it may connect");
        let mut own = None;
        pair.until("addresses and routes", |pair| {
            let events = &pair.ends[0].events;
            own = events.iter().rev().find_map(|event| match event {
                Event::Addresses { tunnel, addresses } if tunnel.conn == conn => addresses
                    .iter()
                    .map(IpPrefix::address)
                    .find(IpAddr::is_ipv4),
                _ => None,
            });
            let routed = events
                .iter()
                .any(|event| matches!(event, Event::Routes { tunnel, .. } if tunnel.conn == conn));
            own.is_some() && routed
        });
        let (own, gateway) = (own.expect("it came"), ip("10.7.0.1"));
        let before = [0, 1].map(|index: usize| pair.ends[index].written);
        for number in 0..plan.packets {
            let payload = vec![number as u8; 1100];
            let up = packet::udp((own, 1000).into(), (gateway, 2000).into(), &payload);
            let down = packet::udp((gateway, 2000).into(), (own, 1000).into(), &payload);
            let now = pair.now;
            let none = VnetHdr::default();
            let _ = pair.ends[0].endpoint.handle_tun(now, PORT, none, &up);
            let down = Bytes::from(down);
            let sent = pair.ends[1]
                .endpoint
                .handle_ip(now, PORT, Origin::Local, down);
            sent.expect("there is room");
            let wanted = before.map(|before| before + number + 1);
            pair.until("the packets", |pair| {
                [0, 1].map(|index: usize| pair.ends[index].written) >= wanted
            });
        }
        let close = Command::CloseConnection {
            conn,
            code: masque_core::H3Code::NO_ERROR,
        };
        let closed = pair.ends[0].endpoint.handle_command(pair.now, close);
        closed.expect("it is there");
        pair.until("the end of both", |pair| {
            let mut ends = pair.ends.iter();
            ends.all(|end| end.endpoint.usage().connections == 0)
        });
    }
    let written = [0, 1].map(|index: usize| pair.ends[index].written);
    drop(pair);
    let [client, server] = sinks.map(|sink| sink.take());
    Recordings {
        client,
        server,
        written,
        keys: keys.to_vec(),
    }
}
