//! What an endpoint can be told.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::config::ClientConfig;
use super::types::{ConnId, Identity, PortId, SocketId, TunnelHandle};
use crate::error::H3Code;
use crate::wire::capsule::RouteAdvertisement;
use crate::wire::fields::FieldList;
use crate::wire::prefix::IpPrefix;
use crate::wire::scope::Scope;

/// Where to connect, and for what.
#[derive(Clone)]
pub struct Target {
    /// TLS and template.
    pub config: ClientConfig,
    /// The server's address.
    pub remote: SocketAddr,
    /// The name its certificate must have.
    pub server_name: String,
    /// The socket to use.
    pub socket: SocketId,
    /// The scope to ask for.
    pub scope: Scope,
    /// Further request fields.
    pub fields: FieldList,
}

/// What an endpoint can be told.
#[derive(Clone, Debug)]
pub enum Command {
    /// Tell the peer what we route (both roles): the full list.
    AdvertiseRoutes {
        /// The tunnel.
        tunnel: TunnelHandle,
        /// What we route.
        routes: RouteAdvertisement,
    },
    /// Ask the peer for addresses.
    RequestAddresses {
        /// The tunnel.
        tunnel: TunnelHandle,
        /// What is wanted; an all-zero address means any of that length.
        prefixes: Vec<IpPrefix>,
    },
    /// Change the addresses of a client (server): the full list.
    AssignAddresses {
        /// The tunnel.
        tunnel: TunnelHandle,
        /// What it now has.
        addresses: Vec<IpPrefix>,
    },
    /// Answer [`super::Event::NameWanted`] (server): the addresses of the host name. None means that it
    /// could not be resolved, and the request is refused with 502 and `dns_error` (RFC 9484 §4.1).
    Resolved {
        /// The tunnel asked for.
        tunnel: TunnelHandle,
        /// The addresses, of either version.
        addresses: Vec<IpAddr>,
    },
    /// End a tunnel with FIN.
    CloseTunnel {
        /// The tunnel.
        tunnel: TunnelHandle,
    },
    /// Close a connection at once.
    CloseConnection {
        /// The connection.
        conn: ConnId,
        /// The error code told.
        code: H3Code,
    },
    /// Close every connection of an identity.
    Revoke {
        /// Whose.
        identity: Identity,
    },
    /// The local address of a socket changed: every connection on it checks its path (client).
    Rebound {
        /// The socket.
        socket: SocketId,
    },
    /// The network changed: another connection to the server takes this one's place (client).
    ///
    /// It goes out of `socket`, and once its tunnel is open the device's packets go there;
    /// [`super::Event::HandedOver`] says so. Until then, and for a moment after, the old one is used as well
    /// as it can be.
    HandOver {
        /// The connection, which has a tunnel.
        conn: ConnId,
        /// The socket of the new network.
        socket: SocketId,
        /// The server's address as seen from there; `None` if it is the same.
        remote: Option<SocketAddr>,
        /// Whether the old socket leads nowhere any more: what is left of the old connection then goes out
        /// of the new one, if it is of the same IP version.
        lost: bool,
    },
    /// A device's MTU was changed.
    PortMtu {
        /// The device.
        port: PortId,
        /// Its MTU in bytes.
        mtu: u32,
    },
    /// Say goodbye: GOAWAY, FIN, close; all is over after `grace` at the latest.
    Shutdown {
        /// How long peers have.
        grace: Duration,
    },
}

/// Local misuse.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CommandError {
    /// No such connection.
    #[error("no such connection")]
    UnknownConnection,
    /// No such tunnel.
    #[error("no such tunnel")]
    UnknownTunnel,
    /// No such socket or port.
    #[error("no such socket or port")]
    UnknownDevice,
    /// Not for this role.
    #[error("not for this role")]
    Role,
    /// An address belongs to another identity, to another tunnel, or to the server.
    #[error("the address is somebody else's")]
    AddressInUse,
    /// The session refused it.
    #[error(transparent)]
    Session(#[from] crate::session::CommandError),
}

/// Why a connection cannot be started.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConnectError {
    /// QUIC or TLS refuses the parameters.
    #[error(transparent)]
    Quic(#[from] quinn_proto::ConnectError),
    /// At the limit of connections.
    #[error("too many connections")]
    Limit,
    /// The transport profile cannot be used.
    #[error("transport profile: {0}")]
    Profile(&'static str),
    /// Shutting down.
    #[error("shutting down")]
    ShuttingDown,
    /// No such port.
    #[error("no such port")]
    UnknownPort,
    /// The server has fewer shards.
    #[error("no such shard")]
    UnknownShard,
}
