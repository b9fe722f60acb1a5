//! A server and a client, each in a loop on a thread of its own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use masque_core::endpoint::{
    Access, ClientConfig, Config, Endpoint, Entropy, Event, Limits, PortConfig, PortId,
    ServerConfig, SocketId, Target, TransportProfile,
};
use masque_core::session::SessionConfig;
use masque_core::wire::fields::FieldList;
use masque_core::wire::scope::Scope;
use masque_core::wire::template::UriTemplate;
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustix::event::{PollFd, PollFlags, poll};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::Runner;
use crate::app::{App, Cx};
use crate::control::Controller;
use crate::io::{Descriptors, TUN_READ};
use crate::memory::MemoryTun;
use crate::pump::{Pump, PumpCounters};
use crate::system::SystemIo;
use crate::udp::UdpConfig;

/// Longer than anything here takes; only a failing test waits for it.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Behind the server: no address of the tunnel.
pub(super) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

/// What a test wants of an application.
pub(super) enum Order {
    /// Connects.
    Connect(Box<Target>),
    /// Answers with the number and the time of the turn.
    Echo(u32),
    /// Asks for a deadline so long after this turn.
    Deadline(Duration),
    /// Adds a socket and tells its number.
    AddSocket(UdpSocket),
    /// Removes one.
    RemoveSocket(SocketId),
}

/// What an application tells its test.
#[derive(Debug)]
pub(super) enum Note {
    /// An event of the endpoint.
    Event(Event),
    /// An echo.
    Echo(u32),
    /// The deadline that was asked for, and when it was served.
    Deadline(Instant, Instant),
    /// A socket was added.
    Socket(SocketId),
    /// A device is gone.
    PortLost(PortId),
}

/// Does what it is told and tells what it sees.
pub(super) struct Puppet {
    notes: mpsc::Sender<Note>,
    deadline: Option<Instant>,
}

impl App for Puppet {
    type Message = Order;

    fn start(&mut self, _: &mut Cx<'_>) {}

    fn on_event(&mut self, _: &mut Cx<'_>, event: Event) {
        self.note(Note::Event(event));
    }

    fn on_message(&mut self, cx: &mut Cx<'_>, order: Order) {
        match order {
            Order::Connect(target) => {
                cx.endpoint
                    .connect(cx.now, *target)
                    .expect("a good configuration");
            }
            Order::Echo(number) => self.note(Note::Echo(number)),
            Order::Deadline(after) => self.deadline = Some(cx.now + after),
            Order::AddSocket(socket) => {
                let id = cx.sockets.add(socket).expect("a bound socket");
                self.note(Note::Socket(id));
            }
            Order::RemoveSocket(socket) => cx.sockets.remove(socket),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn on_deadline(&mut self, cx: &mut Cx<'_>) {
        if let Some(deadline) = self.deadline.take() {
            self.note(Note::Deadline(deadline, cx.now));
        }
    }

    fn on_port_lost(&mut self, cx: &mut Cx<'_>, port: PortId, _: &std::io::Error) {
        self.note(Note::PortLost(port));
        cx.stop();
    }
}

impl Puppet {
    fn note(&self, note: Note) {
        // The test may have seen enough.
        let _ = self.notes.send(note);
    }
}

/// What is special about a pair.
#[derive(Clone)]
pub(super) struct Setup {
    pub(super) transport: TransportProfile,
    pub(super) gso: bool,
    pub(super) gro: bool,
    pub(super) vnet_hdr: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            transport: TransportProfile::default(),
            gso: true,
            gro: true,
            vnet_hdr: false,
        }
    }
}

/// A loop on a thread, and the far end of its device.
pub(super) struct Peer {
    pub(super) tun: Option<MemoryTun>,
    pub(super) address: SocketAddr,
    pub(super) controller: Controller<Order>,
    notes: mpsc::Receiver<Note>,
    thread: JoinHandle<PumpCounters>,
}

impl Peer {
    /// Starts a loop over what `wrap` makes of the system's I/O.
    pub(super) fn start<R: Runner, I: Descriptors + Send + 'static>(
        runner: R,
        setup: &Setup,
        server: Option<ServerConfig>,
        wrap: impl FnOnce(SystemIo) -> I + Send + 'static,
    ) -> Self {
        let mut io = SystemIo::new();
        if !setup.gso {
            io.forbid_gso();
        }
        if !setup.gro {
            io.forbid_gro();
        }
        let (ours, tun) = MemoryTun::pair(setup.vnet_hdr).expect("a socket pair");
        tun.set_nonblocking(false).expect("a socket");
        let port = io.add_memory(ours);
        let socket = io.add_socket(loopback()).expect("a bound socket");
        let address = io.local_addr(socket).expect("just added");
        let gateway = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1));
        let config = Config {
            transport: setup.transport.clone(),
            limits: Limits::default(),
            session: SessionConfig {
                templates: server
                    .is_some()
                    .then(|| template(address))
                    .into_iter()
                    .collect(),
                ..SessionConfig::default()
            },
            shard: None,
            ports: vec![PortConfig {
                id: port,
                tcp_offload: setup.vnet_hdr,
                udp_offload: false,
                addresses: server.is_some().then_some(gateway).into_iter().collect(),
                mtu: 1280,
            }],
            server,
        };
        let (notes, receiver) = mpsc::channel();
        let (hand_over, controller) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let entropy = Entropy::from_seed([address.port() as u8; 32]);
            let endpoint = Endpoint::new(Instant::now(), SystemTime::now(), config, entropy)
                .expect("a good configuration");
            let puppet = Puppet {
                notes,
                deadline: None,
            };
            let pump = Pump::new(endpoint, wrap(io), puppet).expect("descriptors");
            hand_over.send(pump.controller()).expect("the test waits");
            let pump = runner.run(pump).expect("the loop ends in peace");
            pump.counters().clone()
        });
        Self {
            tun: Some(tun),
            address,
            controller: controller.recv().expect("the loop has started"),
            notes: receiver,
            thread,
        }
    }

    /// Gives an order.
    pub(super) fn order(&self, order: Order) {
        self.controller.send(order).expect("the loop runs");
    }

    /// The first note that `wanted` takes; those before it are passed over.
    pub(super) fn wait<T>(&self, what: &str, mut wanted: impl FnMut(Note) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.notes.recv_timeout(left) {
                Ok(note) => {
                    if let Some(found) = wanted(note) {
                        return found;
                    }
                }
                Err(error) => panic!("no {what}: {error}"),
            }
        }
    }

    /// Whether `unwanted` takes any of the notes there are.
    pub(super) fn has(&self, unwanted: impl FnMut(Note) -> bool) -> bool {
        self.notes.try_iter().any(unwanted)
    }

    /// Writes a packet to the device.
    pub(super) fn write(&self, packet: &[u8]) {
        let tun = self.tun.as_ref().expect("not dropped yet");
        tun.send(packet).expect("the loop reads");
    }

    /// The next packet of the device, if one comes within `patience`.
    pub(super) fn read(&self, patience: Duration) -> Option<Vec<u8>> {
        let tun = self.tun.as_ref().expect("not dropped yet");
        let timeout = patience.try_into().expect("short");
        let ready = poll(&mut [PollFd::new(tun, PollFlags::IN)], Some(&timeout)).expect("poll");
        (ready > 0).then(|| {
            let mut buffer = vec![0; TUN_READ];
            let length = tun.recv(&mut buffer).expect("a packet");
            buffer.truncate(length);
            buffer
        })
    }

    /// Stops the loop and gives its counters.
    pub(super) fn stop(self) -> PumpCounters {
        self.controller.stop();
        self.join()
    }

    /// Waits for the end of the loop.
    pub(super) fn join(self) -> PumpCounters {
        let until = Instant::now() + PATIENCE;
        while !self.controller.is_closed() {
            assert!(Instant::now() < until, "the loop does not end");
            std::thread::yield_now();
        }
        self.thread.join().expect("no panic in the loop")
    }
}

/// A server and a client with an open tunnel.
pub(super) struct Pair {
    pub(super) server: Peer,
    pub(super) client: Peer,
    /// The client's address in the tunnel.
    pub(super) inside: Ipv4Addr,
}

impl Pair {
    pub(super) fn start<R: Runner>(runner: R, setup: &Setup) -> Self {
        Self::start_with(runner, setup, |io| io)
    }

    /// With the client's I/O wrapped.
    pub(super) fn start_with<R: Runner, I: Descriptors + Send + 'static>(
        runner: R,
        setup: &Setup,
        wrap: impl FnOnce(SystemIo) -> I + Send + 'static,
    ) -> Self {
        let tls = Tls::new();
        let server = Peer::start(runner, setup, Some(tls.server()), |io| io);
        let client = Peer::start(runner, setup, None, wrap);
        client.order(Order::Connect(Box::new(
            tls.target(server.address, SocketId(0)),
        )));
        let inside = client.address_inside();
        server.wait("tunnel at the server", |note| {
            matches!(note, Note::Event(Event::TunnelUp { .. })).then_some(())
        });
        Self {
            server,
            client,
            inside,
        }
    }

    /// Stops both; server first.
    pub(super) fn stop(self) -> (PumpCounters, PumpCounters) {
        (self.server.stop(), self.client.stop())
    }
}

impl Peer {
    /// The address a client is given.
    pub(super) fn address_inside(&self) -> Ipv4Addr {
        self.wait("address", |note| match note {
            Note::Event(Event::Addresses { addresses, .. }) => {
                addresses.iter().find_map(|prefix| match prefix.address() {
                    IpAddr::V4(address) => Some(address),
                    IpAddr::V6(_) => None,
                })
            }
            Note::Event(
                event @ (Event::ConnectionClosed { .. }
                | Event::TunnelRefused { .. }
                | Event::TunnelDown { .. }),
            ) => panic!("no tunnel: {event:?}"),
            _ => None,
        })
    }
}

/// A certificate of the test's own, and who trusts it.
pub(super) struct Tls {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Tls {
    pub(super) fn new() -> Self {
        let certified =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        Self {
            certificate: certified.cert.der().clone(),
            key: certified.signing_key.serialize_der(),
        }
    }

    /// A server that gives out 10.9.0.0/24 to anybody.
    pub(super) fn server(&self) -> ServerConfig {
        let key = PrivateKeyDer::Pkcs8(self.key.clone().into());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], key)
            .expect("a key of the certificate");
        tls.alpn_protocols = vec![b"h3".to_vec()];
        ServerConfig {
            crypto: Arc::new(QuicServerConfig::try_from(tls).expect("a QUIC cipher suite")),
            secret: [3; 32],
            require_identity: false,
            port: PortId(0),
            pools: vec!["10.9.0.0/24".parse().expect("a prefix")],
            gateways: vec![IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1))],
            statics: Vec::new(),
            leases: Vec::new(),
            routes: Vec::new(),
            access: Access {
                client_to_client: false,
                gateway: false,
                deny: Vec::new(),
            },
        }
    }

    /// A connection to that server.
    pub(super) fn target(&self, remote: SocketAddr, socket: SocketId) -> Target {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("a certificate");
        let mut tls = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h3".to_vec()];
        Target {
            config: ClientConfig {
                crypto: Arc::new(QuicClientConfig::try_from(tls).expect("a QUIC cipher suite")),
                template: template(remote),
                port: PortId(0),
            },
            remote,
            server_name: "localhost".to_owned(),
            socket,
            scope: Scope::default(),
            fields: FieldList::default(),
        }
    }
}

/// A socket on the loopback interface.
pub(super) fn loopback() -> UdpSocket {
    UdpConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)))
        .bind()
        .expect("a loopback interface")
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn template(server: SocketAddr) -> UriTemplate {
    let port = server.port();
    UriTemplate::parse(&format!(
        "https://localhost:{port}/.well-known/masque/ip/{{target}}/{{ipproto}}/"
    ))
    .expect("a good template")
}
