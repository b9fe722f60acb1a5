//! What an endpoint tells.

use std::net::SocketAddr;

use super::config::Lease;
use super::types::{ConnId, Identity, SocketId, TunnelHandle};
use crate::session::TunnelEnd;
use crate::wire::capsule::RouteAdvertisement;
use crate::wire::prefix::IpPrefix;
use crate::wire::scope::Scope;

/// What an endpoint tells its owner.
#[derive(Clone, Debug)]
pub enum Event {
    /// QUIC and TLS are up.
    Connected {
        /// The connection.
        conn: ConnId,
        /// The peer's address.
        remote: SocketAddr,
        /// Who the peer is.
        identity: Option<Identity>,
    },
    /// A client asks for a tunnel to a host name (server, with
    /// [`resolve_names`](crate::session::SessionConfig::resolve_names)): to be answered by
    /// [`super::Command::Resolved`] before the response is due.
    NameWanted {
        /// The tunnel asked for.
        tunnel: TunnelHandle,
        /// The name, ASCII.
        name: String,
    },
    /// A tunnel is open.
    TunnelUp {
        /// The tunnel.
        tunnel: TunnelHandle,
        /// Who is at the other end.
        identity: Option<Identity>,
        /// What it is for.
        scope: Scope,
    },
    /// A tunnel has taken another's place: the device's packets go there, its routes hold, and what it
    /// was assigned follows in [`Event::Addresses`], [`Event::Routes`] and [`Event::Mtu`] where it differs.
    /// The old one still takes packets in, until it is told of as ended (client).
    HandedOver {
        /// The old tunnel.
        from: TunnelHandle,
        /// The new one, which was not told of before.
        to: TunnelHandle,
        /// The socket of its connection.
        socket: SocketId,
        /// The server's address.
        remote: SocketAddr,
    },
    /// The server refused the request (client).
    TunnelRefused {
        /// The connection.
        conn: ConnId,
        /// The HTTP status.
        status: u16,
        /// Its `proxy-status`.
        proxy_status: Option<String>,
    },
    /// The full list of addresses the client end now has (both roles). Empty: none any more.
    Addresses {
        /// The tunnel.
        tunnel: TunnelHandle,
        /// The list.
        addresses: Vec<IpPrefix>,
    },
    /// The full list of what the peer routes.
    Routes {
        /// The tunnel.
        tunnel: TunnelHandle,
        /// The list.
        routes: RouteAdvertisement,
    },
    /// The largest packet the tunnel carries has changed.
    Mtu {
        /// The tunnel.
        tunnel: TunnelHandle,
        /// In bytes.
        mtu: u32,
    },
    /// A tunnel has ended.
    TunnelDown {
        /// The tunnel.
        tunnel: TunnelHandle,
        /// Why.
        reason: TunnelClosed,
    },
    /// A connection has ended; its tunnels have been told of before.
    ConnectionClosed {
        /// The connection.
        conn: ConnId,
        /// Why.
        reason: CloseReason,
    },
    /// A lease was made, changed or used: to be kept across restarts (server).
    LeaseChanged(Lease),
    /// A lease is no more (server).
    LeaseEnded(Identity),
    /// The peer moved to another address.
    Migrated {
        /// The connection.
        conn: ConnId,
        /// Where it is now.
        remote: SocketAddr,
    },
    /// After [`super::Command::Shutdown`]: every connection has ended.
    ShutdownComplete,
}

/// Why a tunnel ended.
pub type TunnelClosed = TunnelEnd;

/// Why a connection ended.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CloseReason {
    /// We closed it.
    #[error("closed locally")]
    Local,
    /// The peer closed it with an application error code.
    #[error("closed by the peer: {code:#x} {reason}")]
    Peer {
        /// The code.
        code: u64,
        /// In words.
        reason: String,
    },
    /// The peer's TLS or QUIC refused us, or broke a rule. TLS alerts are named.
    #[error("{0}")]
    Transport(String),
    /// The peer's certificate was refused, or it refused ours: the TLS alert in words.
    #[error("TLS: {0}")]
    Tls(String),
    /// Nothing came for too long.
    #[error("timed out")]
    TimedOut,
    /// The peer has forgotten the connection.
    #[error("reset by the peer")]
    Reset,
    /// The peer broke a rule of HTTP/3 or CONNECT-IP.
    #[error("protocol violation by the peer: {0}")]
    Violation(crate::WireErrorKind),
    /// The peer has no identity, or it was revoked.
    #[error("not authorised")]
    NotAuthorised,
    /// The peer's certificate has expired.
    #[error("certificate expired")]
    CertificateExpired,
    /// A newer connection of the same identity took its place.
    #[error("replaced by a newer connection")]
    Replaced,
    /// The peer sent no SETTINGS in time.
    #[error("no SETTINGS in time")]
    SettingsTimeout,
}
