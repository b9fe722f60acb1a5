//! Clients whose cryptography does something else than theirs, and TLS that allows more than ours.

use std::any::Any;
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use masque_testkit::crypto::null::TAG_LEN;
use masque_testkit::crypto::{ALPN, real};
use masque_testkit::scenario::{Options, SERVER_NAME, Star, client_identity, star};
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::crypto::{
    ClientConfig, CryptoError, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey,
    ServerConfig, Session,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectError, ConnectionId, Side, TransportError};

/// What is different.
#[derive(Clone)]
pub(super) enum Bend {
    /// Nothing; both sides' transport parameters are kept, the own ones first.
    Watch(Arc<Mutex<Vec<Vec<u8>>>>),
    /// The peer seems to take DATAGRAM frames of so many bytes.
    MaxDatagram(u64),
    /// DATAGRAM frames at the end of a packet are sent without their length.
    NoLength,
    /// DATAGRAM frames are sent empty.
    NoPayload,
}

/// A client with a bend.
pub(super) struct Bent<C> {
    inner: Arc<C>,
    bend: Bend,
}

impl<C> Bent<C> {
    pub(super) fn new(inner: Arc<C>, bend: Bend) -> Self {
        Self { inner, bend }
    }
}

impl<C: ClientConfig + 'static> ClientConfig for Bent<C> {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        if let Bend::Watch(seen) = &self.bend {
            seen.lock().expect("not poisoned").push(written(params));
        }
        let inner = self
            .inner
            .clone()
            .start_session(version, server_name, params)?;
        let bend = self.bend.clone();
        Ok(Box::new(BentSession {
            inner,
            bend,
            told: Mutex::new(false),
        }))
    }
}

fn written(params: &TransportParameters) -> Vec<u8> {
    let mut bytes = Vec::new();
    params.write(&mut bytes);
    bytes
}

/// The first byte and the length of each QUIC packet in a UDP datagram (RFC 9000 §12.2, §17.2).
pub(super) fn packets(mut data: &[u8]) -> Vec<(u8, usize)> {
    let mut all = Vec::new();
    while let Some(&first) = data.first() {
        if first & 0x80 == 0 {
            all.push((first, data.len()));
            break;
        }
        let id = |rest: &mut &[u8]| {
            let length = usize::from(rest[0]);
            *rest = &rest[1 + length..];
        };
        let mut rest = &data[5..];
        id(&mut rest);
        id(&mut rest);
        if first & 0x30 == 0 {
            let (token, after) = varint(rest);
            rest = &after[usize::try_from(token).expect("short")..];
        }
        let (length, after) = varint(rest);
        let length = usize::try_from(length).expect("short").min(after.len());
        all.push((first, length));
        data = &after[length..];
    }
    all
}

/// A varint at the front of `bytes`, and the rest.
fn varint(bytes: &[u8]) -> (u64, &[u8]) {
    let (value, length) = masque_core::wire::varint::VarInt::decode(bytes).expect("whole");
    (value.into_inner(), &bytes[length..])
}

/// The transport parameters as identifier and value.
fn parameters(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (id, rest) = varint(bytes);
        let (length, rest) = varint(rest);
        let (value, rest) = rest.split_at(usize::try_from(length).expect("short"));
        all.push((id, value.to_vec()));
        bytes = rest;
    }
    all
}

/// An integer among transport parameters.
pub(super) fn parameter(bytes: &[u8], id: u64) -> Option<u64> {
    let all = parameters(bytes);
    let (_, value) = all.iter().find(|(found, _)| *found == id)?;
    Some(varint(value).0)
}

struct BentSession {
    inner: Box<dyn Session>,
    bend: Bend,
    told: Mutex<bool>,
}

impl BentSession {
    fn bend_keys(&self, keys: KeyPair<Box<dyn PacketKey>>) -> KeyPair<Box<dyn PacketKey>> {
        KeyPair {
            local: Box::new(BentKey {
                inner: keys.local,
                bend: self.bend.clone(),
            }),
            remote: keys.remote,
        }
    }
}

impl Session for BentSession {
    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        self.inner.initial_keys(dst_cid, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.inner.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.inner.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.inner.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.inner.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        self.inner.read_handshake(buf)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let Some(theirs) = self.inner.transport_parameters()? else {
            return Ok(None);
        };
        let bytes = written(&theirs);
        match &self.bend {
            Bend::Watch(seen) => {
                let mut told = self.told.lock().expect("not poisoned");
                if !std::mem::replace(&mut *told, true) {
                    seen.lock().expect("not poisoned").push(bytes);
                }
                Ok(Some(theirs))
            }
            Bend::MaxDatagram(size) => {
                let mut bent = Vec::new();
                let put = |value: u64, out: &mut Vec<u8>| {
                    masque_core::wire::varint::VarInt::saturating(value).encode(out);
                };
                for (id, mut value) in parameters(&bytes) {
                    if id == 0x20 {
                        value.clear();
                        put(*size, &mut value);
                    }
                    put(id, &mut bent);
                    put(value.len() as u64, &mut bent);
                    bent.extend(value);
                }
                let read = TransportParameters::read(Side::Client, &mut &bent[..]);
                Ok(Some(read.expect("still legal")))
            }
            Bend::NoLength | Bend::NoPayload => Ok(Some(theirs)),
        }
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let keys = self.inner.write_handshake(buf)?;
        Some(Keys {
            header: keys.header,
            packet: self.bend_keys(keys.packet),
        })
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let keys = self.inner.next_1rtt_keys()?;
        Some(self.bend_keys(keys))
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.inner.is_valid_retry(orig_dst_cid, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.inner.export_keying_material(output, label, context)
    }
}

struct BentKey {
    inner: Box<dyn PacketKey>,
    bend: Bend,
}

impl BentKey {
    /// Rewrites a packet that begins with a DATAGRAM with its length in two bytes: other frames go
    /// before it, PADDING fills up.
    fn rewrite(&self, payload: &mut [u8]) {
        let Some((&[0x31, high, low], data)) = payload.split_first_chunk::<3>() else {
            return;
        };
        let length = usize::from(u16::from_be_bytes([high & 0x3f, low]));
        if high >> 6 != 1 || length > data.len() {
            return;
        }
        payload.rotate_left(3 + length);
        let at = payload.len() - 3 - length;
        match self.bend {
            Bend::NoLength => payload[at..at + 3].copy_from_slice(&[0, 0, 0x30]),
            Bend::NoPayload => payload[at + 1..].fill(0),
            Bend::Watch(_) | Bend::MaxDatagram(_) => payload.rotate_right(3 + length),
        }
    }
}

impl PacketKey for BentKey {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        let end = buf.len() - TAG_LEN;
        self.rewrite(&mut buf[header_len..end]);
        self.inner.encrypt(packet, buf, header_len);
    }

    fn decrypt(
        &self,
        packet: u64,
        header: &[u8],
        payload: &mut BytesMut,
    ) -> Result<(), CryptoError> {
        self.inner.decrypt(packet, header, payload)
    }

    fn tag_len(&self) -> usize {
        self.inner.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.inner.confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.inner.integrity_limit()
    }
}

/// A star whose TLS gives out tickets, resumes, and takes early data; nobody is connected.
pub(super) fn resuming() -> Star {
    use rustls::crypto::aws_lc_rs::default_provider;
    use rustls::version::TLS13;
    let authority = real::authority().expect("made");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.certificate()).expect("a certificate");

    let (certificate, key) = authority.issue_server(SERVER_NAME).expect("issued");
    let provider = Arc::new(default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots.clone()),
        provider.clone(),
    );
    let mut server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .expect("supported")
        .with_client_cert_verifier(verifier.build().expect("made"))
        .with_single_cert(vec![certificate], key)
        .expect("they match");
    server.alpn_protocols = vec![ALPN.to_vec()];
    server.max_early_data_size = u32::MAX;

    let (certificate, key) = authority.issue_client(&client_identity(0)).expect("issued");
    let mut client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .expect("supported")
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate], key)
        .expect("they match");
    client.alpn_protocols = vec![ALPN.to_vec()];
    client.enable_early_data = true;

    let server: Arc<dyn ServerConfig> = Arc::new(QuicServerConfig::try_from(server).expect("fit"));
    let client: Arc<dyn ClientConfig> = Arc::new(QuicClientConfig::try_from(client).expect("fit"));
    SERVER.with(|place| *place.borrow_mut() = Some(server));
    let mut star = star(&Options {
        client_plan: None,
        server_plan: None,
        // A function without surroundings: what it puts in is left where it finds it.
        change_server: |config| {
            let server = SERVER.with(|place| place.borrow_mut().take());
            config.crypto = server.expect("put there before");
        },
        ..Options::default()
    })
    .expect("valid");
    // The first attempt, without TLS, is not understood.
    star.targets[0].config.crypto = client;
    star
}

thread_local! {
    static SERVER: std::cell::RefCell<Option<Arc<dyn ServerConfig>>> =
        const { std::cell::RefCell::new(None) };
}
