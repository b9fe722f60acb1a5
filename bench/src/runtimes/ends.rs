//! The two ends of the tunnels: over UDP on loopback, devices in memory.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use masque_adapter_kit::memory::MemoryTun;
use masque_adapter_kit::{App, Cx, Pump, SystemIo, UdpConfig};
use masque_core::endpoint::{
    Access, ClientConfig, Config, Endpoint, Entropy, Event, Limits, PortConfig, PortId,
    ServerConfig, SocketId, Target, TransportProfile,
};
use masque_core::session::SessionConfig;
use masque_core::wire::fields::FieldList;
use masque_core::wire::scope::Scope;
use masque_core::wire::template::UriTemplate;
use masque_testkit::crypto::real;
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};

use super::RuntimesError;

const NAME: &str = "vpn.example";
const TEMPLATE: &str = "https://vpn.example/.well-known/masque/ip/{target}/{ipproto}/";
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 1);

/// More connections than any test opens.
const MANY: usize = 20_000;

/// What a test asks of a loop.
#[derive(Debug)]
pub(super) enum Order {
    /// Note how long this message was on its way.
    Stamp(Instant),
    /// Ask for a deadline so long after this turn, and note how late it was served.
    Deadline(Duration),
}

/// What a loop has noted, for the test to read when it is done.
#[derive(Clone, Debug, Default)]
pub(super) struct Notes(Arc<Mutex<Vec<Duration>>>);

impl Notes {
    fn add(&self, duration: Duration) {
        // A list is whole after every step.
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notes.push(duration);
    }

    pub(super) fn take(&self) -> Vec<Duration> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What a client tells of its tunnels.
#[derive(Debug)]
pub(super) enum Told {
    /// A tunnel is up, with this address.
    Up(Ipv4Addr),
    /// A connection has ended.
    Lost(String),
}

/// The application of both ends.
pub(super) struct Puppet {
    notes: Notes,
    told: Option<Sender<Told>>,
    deadline: Option<Instant>,
    targets: Vec<Target>,
    /// Connections that are not up yet; a new one begins when there are few.
    opening: usize,
}

/// So many connections are opened at a time.
const AT_ONCE: usize = 32;

impl Puppet {
    fn open(&mut self, cx: &mut Cx<'_>) {
        while self.opening < AT_ONCE
            && let Some(target) = self.targets.pop()
        {
            match cx.endpoint.connect(cx.now, target) {
                Ok(_) => self.opening += 1,
                Err(error) => self.tell(Told::Lost(error.to_string())),
            }
        }
    }

    fn tell(&self, told: Told) {
        if let Some(teller) = &self.told {
            // The test may have seen enough.
            let _ = teller.send(told);
        }
    }
}

impl App for Puppet {
    type Message = Order;

    fn start(&mut self, cx: &mut Cx<'_>) {
        self.open(cx);
    }

    fn on_event(&mut self, cx: &mut Cx<'_>, event: Event) {
        match event {
            Event::Addresses { addresses, .. } => {
                let v4 = addresses.iter().find_map(|prefix| match prefix.address() {
                    IpAddr::V4(address) => Some(address),
                    IpAddr::V6(_) => None,
                });
                if let Some(address) = v4.filter(|_| self.told.is_some()) {
                    self.opening = self.opening.saturating_sub(1);
                    self.tell(Told::Up(address));
                    self.open(cx);
                }
            }
            Event::ConnectionClosed { .. } | Event::TunnelRefused { .. } => {
                self.tell(Told::Lost(format!("{event:?}")));
            }
            _ => {}
        }
    }

    fn on_message(&mut self, cx: &mut Cx<'_>, order: Order) {
        match order {
            Order::Stamp(sent) => self.notes.add(sent.elapsed()),
            Order::Deadline(after) => self.deadline = Some(cx.now + after),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn on_deadline(&mut self, _: &mut Cx<'_>) {
        if let Some(deadline) = self.deadline.take() {
            self.notes.add(deadline.elapsed());
        }
    }
}

/// Keys and certificates of both ends.
pub(super) struct Keys {
    client: Arc<QuicClientConfig>,
    server: Arc<QuicServerConfig>,
    template: UriTemplate,
}

impl Keys {
    pub(super) fn new() -> Result<Self, RuntimesError> {
        let authority = real::authority().map_err(RuntimesError::setting_up)?;
        let (certificate, key) = authority
            .issue_server(NAME)
            .map_err(RuntimesError::setting_up)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        // Clients prove nothing: thousands of them must not cost a certificate each.
        let mut server = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(RuntimesError::setting_up)?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .map_err(RuntimesError::setting_up)?;
        server.alpn_protocols = vec![b"h3".to_vec()];
        Ok(Self {
            client: authority.client(None).map_err(RuntimesError::setting_up)?,
            server: Arc::new(
                QuicServerConfig::try_from(server).map_err(RuntimesError::setting_up)?,
            ),
            template: UriTemplate::parse(TEMPLATE).map_err(RuntimesError::setting_up)?,
        })
    }

    fn target(&self, remote: SocketAddr) -> Target {
        Target {
            config: ClientConfig {
                crypto: self.client.clone(),
                template: self.template.clone(),
                port: PortId(0),
            },
            remote,
            server_name: NAME.to_owned(),
            socket: SocketId(0),
            scope: Scope::default(),
            fields: FieldList::default(),
        }
    }
}

/// One end, not yet running.
pub(super) struct End {
    pub(super) pump: Pump<Puppet>,
    pub(super) notes: Notes,
    pub(super) address: SocketAddr,
    /// The far end of its device.
    pub(super) tun: MemoryTun,
}

impl End {
    /// A client without connections: what it does costs no cryptography.
    pub(super) fn alone() -> Result<Self, RuntimesError> {
        Self::new(None, Vec::new(), None, true)
    }

    pub(super) fn server(keys: &Keys, gro: bool) -> Result<Self, RuntimesError> {
        let config = ServerConfig {
            crypto: keys.server.clone(),
            secret: [7; 32],
            require_identity: false,
            port: PortId(0),
            pools: vec!["10.64.0.0/15".parse().map_err(RuntimesError::setting_up)?],
            gateways: vec![IpAddr::V4(GATEWAY)],
            statics: Vec::new(),
            leases: Vec::new(),
            routes: Vec::new(),
            access: Access {
                client_to_client: false,
                gateway: false,
                deny: Vec::new(),
            },
        };
        Self::new(Some((config, keys.template.clone())), Vec::new(), None, gro)
    }

    /// A client that opens so many connections to `server` at once.
    pub(super) fn client(
        keys: &Keys,
        server: SocketAddr,
        connections: usize,
        told: Sender<Told>,
        gro: bool,
    ) -> Result<Self, RuntimesError> {
        let targets = vec![keys.target(server); connections];
        Self::new(None, targets, Some(told), gro)
    }

    fn new(
        server: Option<(ServerConfig, UriTemplate)>,
        targets: Vec<Target>,
        told: Option<Sender<Told>>,
        gro: bool,
    ) -> Result<Self, RuntimesError> {
        let mut io = SystemIo::new();
        if !gro {
            io.forbid_gro();
        }
        let (ours, tun) = MemoryTun::pair(false).map_err(RuntimesError::setting_up)?;
        tun.set_nonblocking(false)
            .map_err(RuntimesError::setting_up)?;
        let port = io.add_memory(ours);
        let loopback = UdpConfig::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let socket = io
            .add_socket(loopback.bind().map_err(RuntimesError::setting_up)?)
            .map_err(RuntimesError::setting_up)?;
        let address = io
            .local_addr(socket)
            .ok_or_else(|| RuntimesError::setting_up("a socket without address"))?;
        let gateway = server.is_some().then_some(IpAddr::V4(GATEWAY));
        let seed = if server.is_some() { 1 } else { 2 };
        let (server, templates) = server
            .map(|(config, template)| (Some(config), vec![template]))
            .unwrap_or_default();
        let config = Config {
            shard: None,
            server,
            transport: TransportProfile::default(),
            limits: Limits {
                max_connections: MANY,
                handshakes_per_source: MANY,
                retry_threshold: MANY,
                ..Limits::default()
            },
            session: SessionConfig {
                templates,
                ..SessionConfig::default()
            },
            ports: vec![PortConfig {
                id: port,
                tcp_offload: false,
                udp_offload: false,
                addresses: gateway.into_iter().collect(),
                mtu: 1280,
            }],
        };
        let endpoint = Endpoint::new(
            Instant::now(),
            SystemTime::now(),
            config,
            Entropy::from_seed([seed; 32]),
        )
        .map_err(RuntimesError::setting_up)?;
        let notes = Notes::default();
        let puppet = Puppet {
            notes: notes.clone(),
            told,
            deadline: None,
            targets,
            opening: 0,
        };
        Ok(Self {
            pump: Pump::new(endpoint, io, puppet).map_err(RuntimesError::setting_up)?,
            notes,
            address,
            tun,
        })
    }
}
