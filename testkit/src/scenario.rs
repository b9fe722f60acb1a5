//! Worlds ready to run: in code ([`star`]) or from files ([`mod@file`], [`play`]).

pub mod file;
pub mod play;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use masque_core::endpoint::{
    Access, ClientConfig, Config, Identity, Limits, PortConfig, PortId, ServerConfig, SocketId,
    Target, TransportProfile,
};
use masque_core::session::SessionConfig;
use masque_core::wire::fields::FieldList;
use masque_core::wire::prefix::IpPrefix;
use masque_core::wire::scope::Scope;
use masque_core::wire::template::UriTemplate;
use serde::Deserialize;

use crate::crypto::null::{NullClient, NullServer};
use crate::crypto::{Authority, Secrets, TlsError, real, seeded};
use crate::seed::Seed;
use crate::world::{InnerHost, Input, LinkConfig, NodeId, NodeSpec, PingPlan, Sharding, World};

/// The server's name.
pub const SERVER_NAME: &str = "vpn.example";

/// The template it answers under.
pub const TEMPLATE: &str = "https://vpn.example/.well-known/masque/ip/{target}/{ipproto}/";

/// A host behind the server.
pub const INNER_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// A host behind the server.
pub const INNER_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1));

/// The cryptography of a scenario.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Crypto {
    /// [`crate::crypto::null`].
    #[default]
    Null,
    /// [`crate::crypto::seeded`].
    Seeded,
    /// [`crate::crypto::real`].
    Real,
}

/// What a scenario is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decides everything (but for [`Crypto::Real`]).
    pub seed: u64,
    /// The cryptography.
    pub crypto: Crypto,
    /// How many clients.
    pub clients: usize,
    /// What the nodes of the clients are called in traces; `client-N` where there is no name.
    pub names: Vec<String>,
    /// When each client connects first; at once where there is no time.
    pub connects: Vec<Duration>,
    /// The path between each client and the server, both ways.
    pub link: LinkConfig,
    /// QUIC, on both sides.
    pub transport: TransportProfile,
    /// The MTU of every device, in bytes.
    pub device_mtu: u32,
    /// What clients send to hosts behind the server.
    pub client_plan: Option<PingPlan>,
    /// What hosts behind the server send to clients.
    pub server_plan: Option<PingPlan>,
    /// Clients connect again, so long after they lost their connection.
    pub reconnect: Option<Duration>,
    /// Whether clients may reach each other.
    pub client_to_client: bool,
    /// Whether clients lack an identity, which the server demands.
    pub anonymous_clients: bool,
    /// What each client is called.
    pub identity: fn(usize) -> Identity,
    /// How long client certificates are valid from [`crate::world::WALL`] on; not with [`Crypto::Null`].
    pub certificates_last: Option<Duration>,
    /// Whether clients may resume TLS sessions; not with [`Crypto::Null`].
    pub resumable: bool,
    /// Limits, on both sides.
    pub limits: Limits,
    /// The server's shards.
    pub sharding: Sharding,
    /// Whether host names are told of to be resolved.
    pub resolve_names: bool,
    /// Whether the devices take super-packets, of TCP and UDP.
    pub offload: bool,
    /// Changes the server's part of its configuration.
    pub change_server: fn(&mut ServerConfig),
    /// Whether trace lines are kept.
    pub trace: bool,
}

impl Default for Options {
    /// Seed 0, null crypto, one client, 10 ms; 10 rounds from the client and 10 from the server, then
    /// the client shuts down.
    fn default() -> Self {
        let plan = PingPlan {
            rounds: 10,
            interval: Duration::from_millis(20),
            size: 64,
            then_shut_down: None,
        };
        Self {
            seed: 0,
            crypto: Crypto::default(),
            clients: 1,
            names: Vec::new(),
            connects: Vec::new(),
            link: LinkConfig::default(),
            transport: TransportProfile::default(),
            device_mtu: 1500,
            client_plan: Some(PingPlan {
                then_shut_down: Some(Duration::from_millis(500)),
                ..plan.clone()
            }),
            server_plan: Some(plan),
            reconnect: None,
            client_to_client: false,
            anonymous_clients: false,
            identity: client_identity,
            certificates_last: None,
            resumable: false,
            limits: Limits::default(),
            sharding: Sharding::default(),
            resolve_names: false,
            offload: false,
            change_server: |_| {},
            trace: false,
        }
    }
}

/// A server, its clients, and a link to each.
pub struct Star {
    /// The world, at time 0, with every client's connect waiting.
    pub world: World,
    /// The server; its first shard, if it has several.
    pub server: NodeId,
    /// All shards of the server.
    pub shards: Vec<NodeId>,
    /// The clients.
    pub clients: Vec<NodeId>,
    /// Where each client connects to.
    pub targets: Vec<Target>,
}

/// `two-node`, and more clients if wanted: each connects at time 0, gets its addresses, and echoes
/// cross both ways over IPv4 and IPv6 as planned.
///
/// # Errors
/// [`TlsError`] if certificates or configurations cannot be made.
pub fn star(options: &Options) -> Result<Star, TlsError> {
    let mut world = World::new(options.seed);
    world.set_tracing(options.trace);
    let crypto = Keys::of(options.crypto, world.seed())?;
    world.keep_secrets(crypto.secrets());
    let address = server_address();
    let config_of_server = server_config(options, crypto.server(options.resumable)?, &world);
    let spec = |_| {
        let mut host = InnerHost::server(vec![INNER_V4, INNER_V6]);
        host.plan = options.server_plan.clone();
        NodeSpec {
            name: "server".to_owned(),
            config: config_of_server.clone(),
            sockets: vec![address],
            host: Box::new(host),
        }
    };
    let shards = if options.sharding.shards.get() == 1 {
        vec![world.add_node(spec(0))]
    } else {
        world.add_shards(options.sharding, spec)
    };
    let server = shards[0];
    let (mut clients, mut targets) = (Vec::new(), Vec::new());
    for index in 0..options.clients {
        let identity = (!options.anonymous_clients).then(|| (options.identity)(index));
        let target = Target {
            config: ClientConfig {
                crypto: crypto.client(
                    identity.as_ref(),
                    options.certificates_last,
                    options.resumable,
                )?,
                template: template(),
                port: PortId(0),
            },
            remote: address,
            server_name: SERVER_NAME.to_owned(),
            socket: SocketId(0),
            scope: Scope::default(),
            fields: FieldList::default(),
        };
        let mut host = InnerHost::client(vec![INNER_V4, INNER_V6]);
        host.plan = options.client_plan.clone();
        host.reconnect = options.reconnect.map(|after| (after, target.clone()));
        let node = world.add_node(NodeSpec {
            name: options
                .names
                .get(index)
                .cloned()
                .unwrap_or_else(|| format!("client-{index}")),
            config: config(options, None),
            sockets: vec![client_address(index)],
            host: Box::new(host),
        });
        world.link(node, server, options.link);
        world.schedule(
            options.connects.get(index).copied().unwrap_or_default(),
            Input::Connect {
                node,
                target: Box::new(target.clone()),
            },
        );
        clients.push(node);
        targets.push(target);
    }
    Ok(Star {
        world,
        server,
        shards,
        clients,
        targets,
    })
}

impl Star {
    /// The first client.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn client(&self) -> NodeId {
        self.clients[0]
    }

    /// The inner hosts of a node.
    ///
    /// # Panics
    /// If `node` is not of this star.
    #[must_use]
    pub fn inner(&self, node: NodeId) -> &InnerHost {
        self.world
            .node(node)
            .host()
            .expect("every node of a star has an InnerHost")
    }
}

/// Where the server listens.
#[must_use]
pub fn server_address() -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 1], 443))
}

/// Where a client's socket is at first.
///
/// # Panics
/// With more than 100 clients.
#[must_use]
pub fn client_address(index: usize) -> SocketAddr {
    let last = u8::try_from(index).ok().filter(|index| *index < 100);
    let last = last.expect("at most 100 clients") + 100;
    SocketAddr::from(([198, 51, 100, last], 50_000))
}

/// What a client is called.
#[must_use]
pub fn client_identity(index: usize) -> Identity {
    Identity(format!("urn:masque:client-{index}"))
}

/// The pools the server assigns from.
#[must_use]
pub fn pools() -> Vec<IpPrefix> {
    ["10.7.0.0/24", "fd00:7::/64"]
        .into_iter()
        .map(|pool| pool.parse().expect("a constant"))
        .collect()
}

pub(crate) fn template() -> UriTemplate {
    UriTemplate::parse(TEMPLATE).expect("a constant")
}

/// The configuration of a client.
#[must_use]
pub fn client_config(options: &Options) -> Config {
    config(options, None)
}

fn config(options: &Options, server: Option<ServerConfig>) -> Config {
    let templates = server.iter().map(|_| template()).collect();
    Config {
        server,
        transport: options.transport.clone(),
        limits: options.limits.clone(),
        session: SessionConfig {
            templates,
            resolve_names: options.resolve_names,
            ..SessionConfig::default()
        },
        shard: None,
        ports: vec![PortConfig {
            id: PortId(0),
            tcp_offload: options.offload,
            udp_offload: options.offload,
            addresses: Vec::new(),
            mtu: options.device_mtu,
        }],
    }
}

fn server_config(
    options: &Options,
    crypto: Arc<dyn quinn_proto::crypto::ServerConfig>,
    world: &World,
) -> Config {
    let gateways: Vec<IpAddr> = ["10.7.0.1", "fd00:7::1"]
        .into_iter()
        .map(|address| address.parse().expect("a constant"))
        .collect();
    let mut server = ServerConfig {
        crypto,
        secret: world.seed().bytes("server secret"),
        require_identity: true,
        port: PortId(0),
        pools: pools(),
        gateways,
        statics: Vec::new(),
        leases: Vec::new(),
        routes: Vec::new(),
        access: Access {
            client_to_client: options.client_to_client,
            gateway: true,
            deny: Vec::new(),
        },
    };
    (options.change_server)(&mut server);
    let addresses = server.gateways.clone();
    let mut config = config(options, Some(server));
    config.ports[0].addresses = addresses;
    config
}

/// Makes cryptography of the wanted kind.
pub(crate) enum Keys {
    Null,
    Tls(Box<Authority>),
}

impl Keys {
    pub(crate) fn of(crypto: Crypto, seed: &Seed) -> Result<Self, TlsError> {
        Ok(match crypto {
            Crypto::Null => Self::Null,
            Crypto::Seeded => Self::Tls(Box::new(seeded::authority(seed)?)),
            Crypto::Real => Self::Tls(Box::new(real::authority()?)),
        })
    }

    /// Where the secrets of all connections are collected.
    pub(crate) fn secrets(&self) -> Option<Arc<Secrets>> {
        match self {
            Self::Null => None,
            Self::Tls(authority) => Some(authority.secrets()),
        }
    }

    pub(crate) fn server(
        &self,
        resumable: bool,
    ) -> Result<Arc<dyn quinn_proto::crypto::ServerConfig>, TlsError> {
        Ok(match self {
            Self::Null => NullServer::named(SERVER_NAME),
            Self::Tls(authority) => authority.server_with(SERVER_NAME, resumable)?,
        })
    }

    pub(crate) fn client(
        &self,
        identity: Option<&Identity>,
        last: Option<Duration>,
        resuming: bool,
    ) -> Result<Arc<dyn quinn_proto::crypto::ClientConfig>, TlsError> {
        Ok(match self {
            Self::Null => Arc::new(NullClient {
                identity: identity.cloned(),
                rewrite: None,
            }),
            Self::Tls(authority) => authority.client_with(identity, last, resuming)?,
        })
    }
}
