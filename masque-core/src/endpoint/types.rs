//! The plain data that crosses the endpoint's surface.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::cipher::Cipher;
use crate::session::TunnelId;
use crate::wire::offload::TunFrame;
use crate::wire::prefix::IpPrefix;
use crate::wire::scope::Scope;

/// A UDP socket of the adapter. A client can hold several: one per network.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SocketId(pub u32);

/// A TUN device of the adapter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PortId(pub u32);

/// A connection: counted up over all shards of a server, never used twice. The newer, the greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId(pub u64);

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}", self.0)
    }
}

/// A tunnel of one endpoint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TunnelHandle {
    /// Its connection.
    pub conn: ConnId,
    /// Which of that connection's tunnels.
    pub tunnel: TunnelId,
}

impl fmt::Display for TunnelHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/t{}", self.conn, self.tunnel.0)
    }
}

/// The ECN codepoint of an IP packet (RFC 3168).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Ecn {
    /// ECT(0).
    Ect0,
    /// ECT(1).
    Ect1,
    /// Congestion experienced.
    Ce,
}

/// What came with a batch of UDP datagrams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecvMeta {
    /// On which socket.
    pub socket: SocketId,
    /// From where.
    pub remote: SocketAddr,
    /// To which local address, where the socket tells.
    pub local_ip: Option<IpAddr>,
    /// Its ECN codepoint.
    pub ecn: Option<Ecn>,
    /// The size of each datagram in the batch but the last, in bytes; not 0.
    pub stride: usize,
}

/// UDP datagrams to send: the bytes are in the caller's buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transmit {
    /// From which socket.
    pub socket: SocketId,
    /// To where.
    pub destination: SocketAddr,
    /// From which local address, if it matters.
    pub src_ip: Option<IpAddr>,
    /// The ECN codepoint to set.
    pub ecn: Option<Ecn>,
    /// How many bytes of the buffer.
    pub size: usize,
    /// The size of each datagram but the last, if there is more than one.
    pub segment_size: Option<usize>,
}

/// What became of a packet or super-packet from a TUN, in packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Accepted {
    /// Queued for a tunnel, or on their way to its shard.
    pub queued: u32,
    /// Dropped, with a counted reason.
    pub dropped: u32,
}

/// Where an embedder's packet comes from; decides about its hop count (RFC 9484 §7.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Origin {
    /// Made here: the hop count is left alone.
    Local,
    /// Forwarded from elsewhere, and not yet decremented.
    Forwarded,
}

/// A packet that was refused, and why.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("packet refused: {reason:?}")]
pub struct Rejected {
    /// The packet, unchanged.
    pub packet: Bytes,
    /// Why.
    pub reason: RejectReason,
}

/// Why a packet is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RejectReason {
    /// No such port.
    UnknownPort,
    /// The queue is full; try again after a `poll_transmit`.
    Full,
    /// Dropped by forwarding.
    Dropped(super::DropReason),
}

/// When to wake up, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deadline {
    /// When.
    pub at: Instant,
    /// Why.
    pub reason: TimerReason,
}

/// Why a deadline is armed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimerReason {
    /// Output waits to be polled.
    QueuedOutput,
    /// A QUIC timer of a connection: loss detection, idle, keep-alive, pacing.
    Quic(ConnId),
    /// A timer of a session.
    Session(ConnId, crate::session::Timer),
    /// Handshakes wait for their turn, or one takes too long.
    Handshakes,
    /// A client certificate expires.
    CertificateExpiry(ConnId),
    /// The end of a graceful shutdown.
    Shutdown,
    /// A path check of the tunnel MTU.
    PathMtu(ConnId),
    /// A client's connection is silent, another is to take its place, or one whose place was taken ends.
    Handover(ConnId),
}

/// Frames for one TUN. The caller keeps it and hands it back, so that its buffers are used again.
#[derive(Debug, Default)]
pub struct TunBatch {
    /// Which device.
    pub port: PortId,
    /// The frames, to be written in order.
    pub frames: Vec<TunFrame>,
}

/// Who a peer is, proven by its certificate: URI SAN, else DNS SAN, else CN.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Identity(pub String);

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a crypto session without X.509 (testkit's null crypto) gives as its peer's identity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerIdentity {
    /// Who.
    pub identity: Identity,
}

/// What is known of a connection.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// The peer's address.
    pub remote: SocketAddr,
    /// The peer's identity, once the handshake is complete and it has one.
    pub identity: Option<Identity>,
    /// What protects its packets, once the server has chosen; `None` with cryptography other than TLS.
    pub cipher: Option<Cipher>,
    /// The smoothed round-trip time.
    pub rtt: Duration,
    /// The congestion window in bytes.
    pub congestion_window: u64,
    /// The UDP payload size in use, in bytes.
    pub path_mtu: u16,
    /// QUIC packets sent.
    pub sent_packets: u64,
    /// QUIC packets declared lost.
    pub lost_packets: u64,
    /// UDP bytes sent.
    pub sent_bytes: u64,
    /// UDP bytes received.
    pub received_bytes: u64,
}

/// What is known of a tunnel.
#[derive(Clone, Debug)]
pub struct TunnelInfo {
    /// The addresses of the client end.
    pub addresses: Vec<IpPrefix>,
    /// The largest IP packet it carries now, in bytes.
    pub mtu: u32,
    /// Its scope.
    pub scope: Scope,
    /// IP packets sent into it.
    pub sent_packets: u64,
    /// IP packets received from it.
    pub received_packets: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Their bytes.
    pub received_bytes: u64,
}

/// What an endpoint holds. All of it is 0 once every connection has drained, on all shards of a server:
/// identities, claims, addresses and handshake sources are those of all of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Connections, those that only wait for late packets included.
    pub connections: usize,
    /// Identities with a connection.
    pub identities: usize,
    /// Established tunnels.
    pub tunnels: usize,
    /// Prefixes whose packets go to a tunnel (server), and tunnels behind a device (client).
    pub claims: usize,
    /// Addresses lent to a tunnel or assigned to one by command; leases are not among them.
    pub addresses: usize,
    /// Bytes queued towards tunnels.
    pub queued_bytes: usize,
    /// The datagrams they are.
    pub queued_datagrams: usize,
    /// Handshakes under way (server).
    pub handshakes: usize,
    /// Handshakes that wait for their turn.
    pub waiting_handshakes: usize,
    /// Source prefixes they come from.
    pub handshake_sources: usize,
    /// Deadlines of connections.
    pub deadlines: usize,
}

impl TimerReason {
    /// Its name in traces.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::QueuedOutput => "queued_output",
            Self::Quic(_) => "quic",
            Self::Session(_, crate::session::Timer::Settings) => "settings",
            Self::Session(_, crate::session::Timer::Response(_)) => "response",
            Self::Session(_, crate::session::Timer::AddressRequest(_)) => "address_request",
            Self::Session(_, crate::session::Timer::Drain) => "drain",
            Self::Session(_, crate::session::Timer::Burden) => "burden",
            Self::Handshakes => "handshakes",
            Self::CertificateExpiry(_) => "certificate_expiry",
            Self::Shutdown => "shutdown",
            Self::PathMtu(_) => "path_mtu",
            Self::Handover(_) => "handover",
        }
    }
}
