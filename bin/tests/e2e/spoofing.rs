//! A client that lies about where its packets come from. Ours does not; this one is ours with a cipher that changes
//! source addresses just before it encrypts, so that the server sees what a hostile client would send.

use std::any::Any;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use bytes::BytesMut;
use masque::client;
use masque::config::{ClientFile, Source};
use masque_adapter_kit::memory::MemoryTun;
use masque_adapter_kit::{App, Controller, Cx, Offload, Pump, SystemIo};
use masque_core::endpoint::{ClientConfig, Endpoint, Entropy, Event, Target};
use masque_core::wire::fields::FieldList;
use quinn_proto::crypto::{
    self, CryptoError, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, Session,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectError, ConnectionId, Side, TransportError};

use crate::namespace::inside;
use crate::process::{Binary, PATIENCE};
use crate::world::{Egress, INET, Underlay, World, ip};

const OWN_4: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 2);
const OWN_6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0xaaaa, 0xbbbb);
/// The same with halves exchanged, which leaves every checksum right.
const FALSE_4: Ipv4Addr = Ipv4Addr::new(1, 2, 10, 77);
const FALSE_6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0xbbbb, 0xaaaa);
const PORT: u16 = 9_000;

#[test]
fn a_spoofed_source_never_leaves_the_server() {
    inside(|| {
        let world = World::new(Egress::Routed);
        let more = format!(
            "[[client]]\nidentity = \"alice\"\naddresses = [\"{OWN_4}/32\", \"{OWN_6}/128\"]"
        );
        let server = world.start_server(Binary::Tokio, &more);
        let filter = "/proc/sys/net/ipv4/conf/vpn0/rp_filter";
        let filter = world
            .server
            .run(|| std::fs::read_to_string(filter).unwrap());
        assert_eq!(filter.trim(), "0", "the kernel must not do it for us");

        let listener = world.inet.run(|| UdpSocket::bind(("::", PORT)).unwrap());
        listener.set_read_timeout(Some(PATIENCE)).unwrap();
        let config = world.client_config("alice", Underlay::V4, "");
        let liar = world.client.run(|| Liar::start(&config));
        const TRIES: u64 = 5;
        for packet in [datagram(OWN_4.into()), datagram(OWN_6.into())] {
            let own: IpAddr = if packet[0] >> 4 == 4 {
                OWN_4.into()
            } else {
                OWN_6.into()
            };
            liar.device.send(&packet).unwrap();
            assert_eq!(next_source(&listener), own);
            liar.lie(true);
            for _ in 0..TRIES {
                liar.device.send(&packet).unwrap();
            }
            // Once they are encrypted, the truth again; what it tells arrives behind the lies.
            liar.wait_for_lies(TRIES);
            liar.lie(false);
            liar.device.send(&packet).unwrap();
            assert_eq!(next_source(&listener), own);
        }
        liar.stop();
        let ended = server.stop();
        assert_eq!(
            ended.dropped("source_not_assigned"),
            2 * TRIES,
            "{}",
            ended.totals
        );
    });
}

fn next_source(listener: &UdpSocket) -> IpAddr {
    let (_, from) = listener.recv_from(&mut [0; 64]).unwrap();
    from.ip().to_canonical()
}

/// A UDP datagram from `source` to the host behind the server.
fn datagram(source: IpAddr) -> Vec<u8> {
    let mut udp = [PORT.to_be_bytes(), PORT.to_be_bytes(), [0, 12], [0, 0]].concat();
    udp.extend_from_slice(b"true");
    let (header, pseudo) = match (source, ip(INET[usize::from(source.is_ipv6())])) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let ends = [from.octets(), to.octets()].concat();
            let mut header = vec![0x45, 0, 0, 32, 0, 0, 0x40, 0, 64, 17, 0, 0];
            header.extend_from_slice(&ends);
            let checksum = checksum(&header);
            header[10..12].copy_from_slice(&checksum);
            (header, ends)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let ends = [from.octets(), to.octets()].concat();
            ([&[0x60, 0, 0, 0, 0, 12, 17, 64][..], &ends].concat(), ends)
        }
        _ => unreachable!("both ends have one version"),
    };
    let checksum = checksum(&[&pseudo[..], &[0, 17, 0, 12], &udp].concat());
    udp[6..8].copy_from_slice(&checksum);
    [header, udp].concat()
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// The hostile client.
struct Liar {
    device: MemoryTun,
    lies: Arc<Lies>,
    controller: Controller<()>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Lies {
    on: AtomicBool,
    told: std::sync::atomic::AtomicU64,
}

impl Liar {
    /// Connects, and waits for addresses and routes.
    fn start(config: &Path) -> Self {
        let settings = ClientFile::load(&Source::read(config).unwrap()).unwrap();
        let lies = Arc::new(Lies::default());
        let target = ClientConfig {
            crypto: Arc::new(LyingConfig {
                inner: settings.credentials.client().unwrap(),
                lies: Arc::clone(&lies),
            }),
            template: settings.template.clone(),
            port: masque::app::PORT,
        };
        let (ours, device) = MemoryTun::pair(false).unwrap();
        let (events, event) = mpsc::channel();
        let (controllers, controller) = mpsc::channel();
        // A loop stays on the thread that made it.
        let thread = std::thread::spawn(move || {
            let config = client::config(&settings, Offload::default());
            let entropy = Entropy::from_seed([7; 32]);
            let endpoint = Endpoint::new(Instant::now(), SystemTime::now(), config, entropy);
            let mut io = SystemIo::new();
            io.add_memory(ours);
            let app = Teller { target, events };
            let pump = Pump::new(endpoint.unwrap(), io, app).unwrap();
            controllers.send(pump.controller()).unwrap();
            masque_adapter_mio::run(pump).unwrap();
        });
        let (mut addresses, mut routes) = (false, false);
        while !addresses || !routes {
            match event.recv_timeout(PATIENCE).unwrap() {
                Event::Addresses { .. } => addresses = true,
                Event::Routes { .. } => routes = true,
                Event::ConnectionClosed { reason, .. } => panic!("{reason}"),
                _ => {}
            }
        }
        Self {
            device,
            lies,
            controller: controller.recv().unwrap(),
            thread: Some(thread),
        }
    }

    fn lie(&self, on: bool) {
        self.lies.told.store(0, Ordering::SeqCst);
        self.lies.on.store(on, Ordering::SeqCst);
    }

    fn wait_for_lies(&self, count: u64) {
        let until = Instant::now() + PATIENCE;
        while self.lies.told.load(Ordering::SeqCst) < count {
            assert!(Instant::now() < until, "no packet to lie about");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn stop(mut self) {
        self.controller.stop();
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.controller.stop();
    }
}

/// Connects, and tells what happens.
struct Teller {
    target: ClientConfig,
    events: mpsc::Sender<Event>,
}

impl App for Teller {
    type Message = ();

    fn start(&mut self, cx: &mut Cx<'_>) {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let target = Target {
            config: self.target.clone(),
            remote: "198.51.100.2:4433".parse().unwrap(),
            server_name: "198.51.100.2".to_owned(),
            socket: cx.sockets.add(socket).unwrap(),
            scope: masque_core::wire::scope::Scope::parse(None, None).unwrap(),
            fields: FieldList::default(),
        };
        cx.endpoint.connect(cx.now, target).unwrap();
    }

    fn on_event(&mut self, _: &mut Cx<'_>, event: Event) {
        // Nobody listens once the tunnel is up.
        let _ = self.events.send(event);
    }

    fn on_message(&mut self, _: &mut Cx<'_>, (): ()) {}
}

/// TLS as it should be, with [`LyingKey`]s.
struct LyingConfig {
    inner: Arc<dyn crypto::ClientConfig>,
    lies: Arc<Lies>,
}

impl crypto::ClientConfig for LyingConfig {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let inner = Arc::clone(&self.inner).start_session(version, server_name, params)?;
        Ok(Box::new(LyingSession {
            inner,
            lies: Arc::clone(&self.lies),
        }))
    }
}

struct LyingSession {
    inner: Box<dyn Session>,
    lies: Arc<Lies>,
}

impl LyingSession {
    fn lying(&self, key: Box<dyn PacketKey>) -> Box<dyn PacketKey> {
        Box::new(LyingKey {
            inner: key,
            lies: Arc::clone(&self.lies),
        })
    }
}

impl Session for LyingSession {
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
        self.inner.transport_parameters()
    }
    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let mut keys = self.inner.write_handshake(buf)?;
        keys.packet.local = self.lying(keys.packet.local);
        Some(keys)
    }
    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let mut keys = self.inner.next_1rtt_keys()?;
        keys.local = self.lying(keys.local);
        Some(keys)
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

struct LyingKey {
    inner: Box<dyn PacketKey>,
    lies: Arc<Lies>,
}

impl LyingKey {
    fn replace(&self, plain: &mut [u8], truth: &[u8], lie: &[u8]) {
        for at in 0..plain.len().saturating_sub(truth.len() - 1) {
            if plain[at..].starts_with(truth) {
                plain[at..at + lie.len()].copy_from_slice(lie);
                self.lies.told.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

impl PacketKey for LyingKey {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        if self.lies.on.load(Ordering::SeqCst) {
            let plain = &mut buf[header_len..];
            self.replace(plain, &OWN_4.octets(), &FALSE_4.octets());
            self.replace(plain, &OWN_6.octets(), &FALSE_6.octets());
        }
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
