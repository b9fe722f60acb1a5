//! How many clients, over which path, with which cryptography.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use masque_core::endpoint::{
    Access, ClientConfig, Config, Limits, PortConfig, PortId, ServerConfig, SocketId, Target,
    TransportProfile,
};
use masque_core::session::SessionConfig;
use masque_core::wire::fields::FieldList;
use masque_core::wire::prefix::IpPrefix;
use masque_core::wire::scope::Scope;

use crate::crypto::TlsError;
use crate::scenario::{Crypto, Keys, SERVER_NAME, client_identity, server_address, template};
use crate::seed::Seed;

/// What the server's work costs in virtual time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Cost {
    /// Nothing: the server is infinitely fast, and the same plan does the same in every run.
    #[default]
    Free,
    /// What the clock says that it took.
    Measured,
}

/// What a fleet is made of.
#[derive(Clone)]
pub struct Plan {
    /// Decides everything but real TLS and [`Cost::Measured`].
    pub seed: u64,
    /// How many clients.
    pub clients: usize,
    /// The cryptography.
    pub crypto: Crypto,
    /// The time between a client and the server, one way.
    pub one_way: Duration,
    /// What the server can send, in bits per second; `None` is no limit.
    pub egress: Option<u64>,
    /// What the server's work costs.
    pub cost: Cost,
    /// QUIC, on both sides.
    pub transport: TransportProfile,
    /// The server's limits.
    pub limits: Limits,
    /// Bytes of datagrams that wait in front of a busy server; more are dropped.
    pub receive_buffer: usize,
    /// The most datagrams the server takes in one turn.
    pub turn: usize,
    /// The most datagrams per transmit.
    pub max_segments: usize,
    /// A client whose connection has ended connects again after so long.
    pub reconnect: Option<Duration>,
    /// Changes the server's part of its configuration.
    pub change_server: fn(&mut ServerConfig),
}

impl Default for Plan {
    /// One client, null crypto, 20 ms of round trip, an infinitely fast server with the default
    /// limits and a receive buffer of 4 MiB.
    fn default() -> Self {
        Self {
            seed: 0,
            clients: 1,
            crypto: Crypto::Null,
            one_way: Duration::from_millis(10),
            egress: None,
            cost: Cost::Free,
            transport: TransportProfile::default(),
            limits: Limits::default(),
            receive_buffer: 4 << 20,
            turn: 64,
            max_segments: 16,
            reconnect: None,
            change_server: |_| {},
        }
    }
}

impl Plan {
    pub(super) fn seed(&self) -> Seed {
        Seed::new(self.seed)
    }

    pub(super) fn keys(&self) -> Result<Keys, TlsError> {
        Keys::of(self.crypto, &self.seed())
    }

    pub(super) fn server(&self, keys: &Keys) -> Result<Config, TlsError> {
        let gateways: Vec<IpAddr> = ["10.64.0.1", "fd00:7::1"].map(literal).to_vec();
        let pools: Vec<IpPrefix> = ["10.64.0.0/10", "fd00:7::/64"].map(literal).to_vec();
        let mut server = ServerConfig {
            crypto: keys.server(false)?,
            secret: self.seed().bytes("server secret"),
            require_identity: true,
            port: PortId(0),
            pools,
            gateways: gateways.clone(),
            statics: Vec::new(),
            leases: Vec::new(),
            routes: Vec::new(),
            access: Access {
                client_to_client: false,
                gateway: true,
                deny: Vec::new(),
            },
        };
        (self.change_server)(&mut server);
        Ok(self.config(Some(server), self.limits.clone(), gateways))
    }

    pub(super) fn client(&self) -> Config {
        self.config(None, Limits::default(), Vec::new())
    }

    pub(super) fn target(&self, keys: &Keys, client: usize) -> Result<Target, TlsError> {
        Ok(Target {
            config: ClientConfig {
                crypto: keys.client(Some(&client_identity(client)), None, false)?,
                template: template(),
                port: PortId(0),
            },
            remote: server_address(),
            server_name: SERVER_NAME.to_owned(),
            socket: SocketId(0),
            scope: Scope::default(),
            fields: FieldList::default(),
        })
    }

    fn config(&self, server: Option<ServerConfig>, limits: Limits, own: Vec<IpAddr>) -> Config {
        let templates = server.iter().map(|_| template()).collect();
        Config {
            shard: None,
            server,
            transport: self.transport.clone(),
            limits,
            session: SessionConfig {
                templates,
                ..SessionConfig::default()
            },
            ports: vec![PortConfig {
                id: PortId(0),
                tcp_offload: false,
                udp_offload: false,
                addresses: own,
                mtu: 1500,
            }],
        }
    }
}

/// Limits that let `clients` be up at once, come back at once, and come from few networks.
#[must_use]
pub fn limits_for(clients: usize) -> Limits {
    let limits = Limits::default();
    Limits {
        max_connections: clients.max(limits.max_connections) * 2,
        ..limits
    }
}

/// Where client `index` is: each of the first 65,536 in a /24 of its own.
pub(super) fn address_of(index: usize) -> SocketAddr {
    let byte = |shift: usize| (index >> shift) as u8;
    SocketAddr::from(([11, byte(8), byte(0), 1 + byte(16)], 50_000))
}

/// Which client is at `address`.
pub(super) fn client_at(address: SocketAddr) -> Option<usize> {
    let IpAddr::V4(v4) = address.ip() else {
        return None;
    };
    let [net, high, low, host] = v4.octets();
    let index = |byte: u8, shift: u32| usize::from(byte) << shift;
    (net == 11 && host > 0).then(|| index(host - 1, 16) | index(high, 8) | index(low, 0))
}

fn literal<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a constant of this file")
}
