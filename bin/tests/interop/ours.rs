//! Our side in this process: an endpoint in the loop of a runtime, real UDP on loopback, and a device in
//! memory with a host behind it.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime};

use masque_adapter_kit::io::TUN_READ;
use masque_adapter_kit::memory::MemoryTun;
use masque_adapter_kit::{App, Controller, Cx, Error, Pump, SystemIo, UdpConfig};
use masque_core::endpoint::{
    Access, ClientConfig, Config, Counters, Endpoint, Entropy, Event, Limits, PortConfig, PortId,
    ServerConfig, SocketId, Target, TransportProfile, TunnelHandle,
};
use masque_core::session::SessionConfig;
use masque_core::wire::fields::FieldList;
use masque_core::wire::ip::PacketInfo;
use masque_core::wire::prefix::IpPrefix;
use masque_core::wire::scope::Scope;
use masque_core::wire::template::UriTemplate;

use crate::log::Log;
use crate::packets;
use crate::peer::default_url;
use crate::pki::Pki;

/// The MTU of the device: a tunnel over capsules has it too.
const DEVICE_MTU: u32 = 1400;

/// A runtime: runs a pump to its end.
pub(crate) type Runtime = fn(Pump<Puppet>) -> Result<Pump<Puppet>, Error>;

/// The runtime where it does not matter which.
pub(crate) const ANY_RUNTIME: Runtime = RUNTIMES[0];

/// Every runtime that this build has.
pub(crate) const RUNTIMES: &[Runtime] = &[
    #[cfg(feature = "mio")]
    masque_adapter_mio::run,
    #[cfg(feature = "tokio")]
    masque_adapter_tokio::run,
    #[cfg(feature = "smol")]
    masque_adapter_smol::run,
];

type Order = Box<dyn FnOnce(&mut Cx<'_>) + Send>;

/// Tells what it sees and does what it is told.
pub(crate) struct Puppet {
    events: Arc<Log<Event>>,
}

impl App for Puppet {
    type Message = Order;

    fn start(&mut self, _: &mut Cx<'_>) {}

    fn on_event(&mut self, _: &mut Cx<'_>, event: Event) {
        self.events.push(event);
    }

    fn on_message(&mut self, cx: &mut Cx<'_>, order: Order) {
        order(cx);
    }
}

/// What is special about our side.
pub(crate) struct Setup {
    pub(crate) runtime: Runtime,
    pub(crate) transport: TransportProfile,
    pub(crate) limits: Limits,
    pub(crate) session: SessionConfig,
    /// The server demands certificates.
    pub(crate) require_identity: bool,
    /// Path and query of the template, where not the default's.
    pub(crate) template: Option<&'static str>,
    /// What the client asks for.
    pub(crate) scope: Scope,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            runtime: ANY_RUNTIME,
            transport: TransportProfile::default(),
            limits: Limits::default(),
            session: SessionConfig::default(),
            require_identity: false,
            template: None,
            scope: Scope::default(),
        }
    }
}

/// Our side, running.
pub(crate) struct Ours {
    pub(crate) address: SocketAddr,
    pub(crate) events: Arc<Log<Event>>,
    pub(crate) host: Host,
    controller: Controller<Order>,
    thread: Option<JoinHandle<Counters>>,
}

impl Ours {
    /// A server that gives out 10.99.0.0/24 and fd00:99::/64.
    pub(crate) fn server(pki: &Pki, setup: Setup) -> Self {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let prefix = |text: &str| text.parse::<IpPrefix>().expect("a prefix");
        let gateways = vec![address("10.99.0.1"), address("fd00:99::1")];
        let server = ServerConfig {
            crypto: pki.server_crypto(setup.require_identity),
            secret: [7; 32],
            require_identity: setup.require_identity,
            port: PortId(0),
            pools: vec![prefix("10.99.0.0/24"), prefix("fd00:99::/64")],
            gateways,
            statics: Vec::new(),
            leases: Vec::new(),
            routes: Vec::new(),
            access: Access {
                client_to_client: false,
                gateway: true,
                deny: vec![prefix("203.0.113.0/24")],
            },
        };
        Self::start(setup, Some(server))
    }

    /// A client with a tunnel under way to `remote`.
    pub(crate) fn client(pki: &Pki, setup: Setup, remote: SocketAddr) -> Self {
        let template = setup.template.map_or_else(
            || default_url(remote.port()),
            |path| format!("https://localhost:{}{path}", remote.port()),
        );
        let target = Target {
            config: ClientConfig {
                crypto: pki.client_crypto(),
                template: UriTemplate::parse(&template).expect("a good template"),
                port: PortId(0),
            },
            remote,
            server_name: "localhost".to_owned(),
            socket: SocketId(0),
            scope: setup.scope.clone(),
            fields: FieldList::default(),
        };
        let client = Self::start(setup, None);
        client.order(move |cx| {
            cx.endpoint
                .connect(cx.now, target)
                .expect("a good configuration");
        });
        client
    }

    fn start(setup: Setup, server: Option<ServerConfig>) -> Self {
        let mut io = SystemIo::new();
        let (ours, far) = MemoryTun::pair(false).expect("a socket pair");
        let port = io.add_memory(ours);
        let socket = io.add_socket(loopback()).expect("a bound socket");
        let address = io.local_addr(socket).expect("just added");
        let mut session = setup.session;
        if server.is_some() {
            let path = setup.template;
            let url = path.map_or_else(
                || default_url(address.port()),
                |path| format!("https://localhost:{}{path}", address.port()),
            );
            session.templates = vec![UriTemplate::parse(&url).expect("a good template")];
        }
        let config = Config {
            shard: None,
            ports: vec![PortConfig {
                id: port,
                tcp_offload: false,
                udp_offload: false,
                addresses: server
                    .as_ref()
                    .map(|server| server.gateways.clone())
                    .unwrap_or_default(),
                mtu: DEVICE_MTU,
            }],
            transport: setup.transport,
            limits: setup.limits,
            session,
            server,
        };
        let events = Arc::new(Log::default());
        let puppet = Puppet {
            events: events.clone(),
        };
        let (hand_over, controller) = mpsc::channel();
        let runtime = setup.runtime;
        let thread = std::thread::spawn(move || {
            let entropy = Entropy::from_seed([address.port() as u8; 32]);
            let endpoint = Endpoint::new(Instant::now(), SystemTime::now(), config, entropy)
                .expect("a good configuration");
            let pump = Pump::new(endpoint, io, puppet).expect("descriptors");
            hand_over.send(pump.controller()).expect("the test waits");
            let pump = runtime(pump).expect("the loop ends in peace");
            pump.endpoint().counters().clone()
        });
        Self {
            address,
            events,
            host: Host::start(far),
            controller: controller.recv().expect("the loop has started"),
            thread: Some(thread),
        }
    }

    /// Has the loop do something.
    pub(crate) fn order(&self, order: impl FnOnce(&mut Cx<'_>) + Send + 'static) {
        assert!(self.controller.send(Box::new(order)).is_ok(), "it runs");
    }

    /// Waits for an open tunnel.
    #[track_caller]
    pub(crate) fn tunnel(&self) -> TunnelHandle {
        self.events.wait("tunnel", |event| match event {
            Event::TunnelUp { tunnel, .. } => Some(*tunnel),
            _ => None,
        })
    }

    /// Waits until we, a client, have exactly these addresses.
    #[track_caller]
    pub(crate) fn has_addresses(&self, wanted: &[&str]) {
        self.events.wait("addresses", |event| match event {
            Event::Addresses { addresses, .. } => {
                let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
                (texts == wanted).then_some(())
            }
            _ => None,
        });
    }

    /// Waits until the peer routes something.
    #[track_caller]
    pub(crate) fn has_routes(&self) {
        self.events.wait("routes", |event| {
            matches!(event, Event::Routes { routes, .. } if !routes.ranges().is_empty())
                .then_some(())
        });
    }

    /// Stops the loop and gives its counters.
    pub(crate) fn stop(mut self) -> Counters {
        self.controller.stop();
        let thread = self.thread.take().expect("taken only here");
        thread.join().expect("no panic in the loop")
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.controller.stop();
    }
}

/// The host behind the device: it has every address, answers echo requests and sends UDP back.
pub(crate) struct Host {
    tun: Arc<MemoryTun>,
    received: Arc<Log<Vec<u8>>>,
    sequence: AtomicU16,
}

impl Host {
    fn start(tun: MemoryTun) -> Self {
        tun.set_nonblocking(false).expect("a socket");
        let tun = Arc::new(tun);
        let received = Arc::new(Log::default());
        let host = Self {
            tun: tun.clone(),
            received: received.clone(),
            sequence: AtomicU16::new(1),
        };
        std::thread::spawn(move || {
            let mut buffer = vec![0; TUN_READ];
            // Until the loop and its end of the device are gone.
            while let Ok(length) = tun.recv(&mut buffer) {
                let packet = &buffer[..length];
                if let Some(answer) = packets::answer(packet) {
                    let _ = tun.send(&answer);
                }
                received.push(packet.to_vec());
            }
            received.end();
        });
        host
    }

    /// Sends an echo request and waits for the answer.
    #[track_caller]
    pub(crate) fn ping(&self, source: &str, destination: &str, size: usize) {
        let request = self.send_ping(source, destination, size);
        self.received.wait("echo reply", |packet| {
            packets::is_answer(&request, packet).then_some(())
        });
    }

    /// Sends an echo request that nobody may answer: that it is not on its way is proven by `other`,
    /// which follows it and is answered.
    #[track_caller]
    pub(crate) fn ping_in_vain(&self, source: &str, destination: &str, other: (&str, &str)) {
        let request = self.send_ping(source, destination, 8);
        self.ping(other.0, other.1, 8);
        let answered = self
            .received
            .has(|packet| packets::is_answer(&request, packet));
        assert!(!answered, "{destination} answers {source}");
    }

    /// Sends an echo request.
    pub(crate) fn send_ping(&self, source: &str, destination: &str, size: usize) -> Vec<u8> {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let request = packets::echo_request(address(source), address(destination), sequence, size);
        self.tun.send(&request).expect("the loop reads");
        request
    }

    /// Whether a packet from that source has come.
    pub(crate) fn has_from(&self, source: &str) -> bool {
        self.received.has(|packet| is_from(packet, source))
    }

    /// Waits for a packet from that source.
    #[track_caller]
    pub(crate) fn wait_from(&self, source: &str) {
        self.received
            .wait(source, |packet| is_from(packet, source).then_some(()));
    }
}

fn is_from(packet: &[u8], source: &str) -> bool {
    let source: IpAddr = source.parse().expect("an address");
    PacketInfo::parse(packet).is_ok_and(|info| info.source == source)
}

fn loopback() -> UdpSocket {
    UdpConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)))
        .bind()
        .expect("a loopback interface")
}
