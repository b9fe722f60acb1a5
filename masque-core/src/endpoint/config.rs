//! How an endpoint is set up.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::shard::Shard;
use super::types::{Identity, PortId};
use crate::session::SessionConfig;
use crate::wire::prefix::{AddressRange, IpPrefix};
use crate::wire::template::UriTemplate;

/// The whole configuration of an endpoint.
#[derive(Clone, Debug)]
pub struct Config {
    /// The server's part; `None` for a client.
    pub server: Option<ServerConfig>,
    /// QUIC on the path.
    pub transport: TransportProfile,
    /// What peers may use up.
    pub limits: Limits,
    /// HTTP/3 and capsules. A server's templates stand here.
    pub session: SessionConfig,
    /// The TUN devices.
    pub ports: Vec<PortConfig>,
    /// The place among the shards of a server on several cores; `None` for an endpoint that is all of
    /// its server, or a client.
    pub shard: Option<Shard>,
}

/// A TUN device as the endpoint sees it.
#[derive(Clone, Debug)]
pub struct PortConfig {
    /// Which.
    pub id: PortId,
    /// Whether it takes TCP super-packets.
    pub tcp_offload: bool,
    /// Whether it takes UDP super-packets.
    pub udp_offload: bool,
    /// Our own addresses on it: the sources of ICMP errors.
    pub addresses: Vec<IpAddr>,
    /// The device's MTU in bytes.
    pub mtu: u32,
}

/// The server's part of the configuration.
#[derive(Clone)]
pub struct ServerConfig {
    /// TLS; `quinn_proto::crypto::rustls::QuicServerConfig`, or a test double. It must demand client
    /// certificates unless `require_identity` is off.
    pub crypto: Arc<dyn quinn_proto::crypto::ServerConfig>,
    /// The secret behind stateless resets and Retry tokens. Kept across restarts, so that clients of
    /// the last run notice at once; the same on all shards.
    pub secret: [u8; 32],
    /// Refuse connections whose peer has no identity.
    pub require_identity: bool,
    /// The device clients' packets go to and come from.
    pub port: PortId,
    /// Where client addresses come from. Network, broadcast and gateway addresses are left out.
    pub pools: Vec<IpPrefix>,
    /// The server's own addresses within the pools, never given to a client.
    pub gateways: Vec<IpAddr>,
    /// Addresses that belong to an identity, inside the pools or not.
    pub statics: Vec<StaticAssignment>,
    /// Leases of earlier runs.
    pub leases: Vec<Lease>,
    /// What clients are told to route here; empty is "everything of the versions in the pools".
    pub routes: Vec<AddressRange>,
    /// What clients may reach.
    pub access: Access,
}

impl std::fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerConfig")
            .field("port", &self.port)
            .field("pools", &self.pools)
            .field("gateways", &self.gateways)
            .field("statics", &self.statics)
            .field("routes", &self.routes)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

/// What clients may reach.
#[derive(Clone, Debug)]
pub struct Access {
    /// Whether clients may reach each other.
    pub client_to_client: bool,
    /// Whether clients may reach the gateway addresses: the server's own services.
    pub gateway: bool,
    /// Destinations refused in any case, looked at before everything else. Link-local and loopback
    /// are always refused.
    pub deny: Vec<IpPrefix>,
}

/// Addresses of one identity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StaticAssignment {
    /// Whose.
    pub identity: Identity,
    /// Host addresses or prefixes, assigned all together.
    pub addresses: Vec<IpPrefix>,
}

/// Which addresses an identity last had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lease {
    /// Whose.
    pub identity: Identity,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// When it last was in use.
    pub last_used: SystemTime,
}

/// What a client needs for one connection.
#[derive(Clone)]
pub struct ClientConfig {
    /// TLS; `quinn_proto::crypto::rustls::QuicClientConfig`, or a test double.
    pub crypto: Arc<dyn quinn_proto::crypto::ClientConfig>,
    /// The proxy's URI template.
    pub template: UriTemplate,
    /// The device the tunnel's packets go to and come from.
    pub port: PortId,
}

/// How the outer QUIC connection controls congestion.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CongestionControl {
    /// RFC 9438.
    #[default]
    Cubic,
    /// RFC 9002.
    NewReno,
    /// quinn-proto's BBR. It draws randomness from the operating system, not from [`super::Entropy`]: runs
    /// with it cannot be replayed.
    Bbr,
    /// A window for this many bits per second at the current round-trip time.
    Fixed(u64),
    /// Ours, made for tunnels: goes by delay, not by loss. `docs/congestion.md` has its reasoning.
    Tunnel,
}

impl CongestionControl {
    /// Whether loss and marks do not slow it down as RFC 9002 has it: then nothing is sent as ECN-capable,
    /// since marks would go unanswered.
    #[must_use]
    pub const fn is_relaxed(self) -> bool {
        matches!(self, Self::Fixed(_) | Self::Tunnel)
    }
}

/// How a tunnel makes sure that IPv6 packets of 1,280 bytes pass (RFC 8200 §5, RFC 9484 §7.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Ipv6Minimum {
    /// QUIC's path MTU says it. While it is too small the tunnel goes on with IPv4, puts no IPv6 packet
    /// into a QUIC DATAGRAM, and tells their senders that there is no route.
    #[default]
    Follow,
    /// As for paths with HTTP intermediaries, of whose other legs QUIC's path MTU says nothing: an echo
    /// request of 1,280 bytes to ff02::1 must be answered, and a tunnel with IPv6 addresses is aborted
    /// where it is not, or where the path MTU is or becomes too small.
    Require {
        /// How often to ask.
        probes: u32,
        /// How long to wait for each answer.
        interval: Duration,
    },
}

/// QUIC on the path: every window, buffer and limit is set here on purpose.
///
/// Pacing has no setting: quinn-proto always spreads a window over a round trip, in bursts of about 2 ms,
/// until the window passes 4 GiB.
#[derive(Clone, Debug)]
pub struct TransportProfile {
    /// The controller.
    pub congestion: CongestionControl,
    /// The UDP payload to start with, in bytes. From 1,200, the first probe of path MTU discovery asks
    /// for 1,336 with the default `max_mtu`; it travels beside the request and is back before the
    /// response, so a tunnel that can carry IPv6 does so from its first packet, and a path that takes
    /// no more than 1,200 costs no round trip to find out.
    pub initial_mtu: u16,
    /// The largest UDP payload that path MTU discovery tries. The default is what IPv4 leaves of 1,500
    /// bytes; over IPv6 the search ends 20 bytes below it, after the loss of a few probes. Where the packets of
    /// the widest [`PortConfig::mtu`] need less, no more than that is tried.
    pub max_mtu: u16,
    /// Whether path MTU discovery runs.
    pub discover_mtu: bool,
    /// How tunnels make sure that they carry IPv6.
    pub ipv6_minimum: Ipv6Minimum,
    /// Close after so long without anything from the peer.
    pub idle_timeout: Duration,
    /// A connection is kept for so much longer than `idle_timeout`, with its tunnel, lease and queue, so that
    /// a peer that comes back from a gap in its network goes on where it was. Holds where both sides have
    /// it: the shorter time of the two decides (RFC 9000 §10.1).
    pub linger: Duration,
    /// Send something after so long in silence.
    pub keep_alive: Option<Duration>,
    /// The round-trip time assumed before the first sample.
    pub initial_rtt: Duration,
    /// Bytes of received DATAGRAM frames kept.
    pub datagram_receive_buffer: usize,
    /// Bytes of DATAGRAM frames handed to QUIC ahead of sending.
    pub datagram_send_buffer: usize,
    /// Bytes per stream the peer may have in flight.
    pub stream_receive_window: u32,
    /// Bytes of stream data kept for sending.
    pub send_window: u64,
    /// Bytes in flight before the first ACK; `None` is the controller's own choice. A fixed rate has none.
    pub initial_window: Option<u64>,
    /// Ask for fewer ACKs: only after more than so many packets (draft-ietf-quic-ack-frequency). The peer
    /// does as asked if it knows the extension, as ours do.
    pub ack_threshold: Option<u32>,
    /// Ask for an ACK after so long at the latest, however few packets there are
    /// (draft-ietf-quic-ack-frequency); `None` leaves it at the peer's own `max_ack_delay`.
    pub max_ack_delay: Option<Duration>,
}

impl Default for TransportProfile {
    fn default() -> Self {
        Self {
            congestion: CongestionControl::Cubic,
            initial_mtu: 1200,
            max_mtu: 1472,
            discover_mtu: true,
            ipv6_minimum: Ipv6Minimum::Follow,
            idle_timeout: Duration::from_secs(30),
            linger: Duration::ZERO,
            keep_alive: Some(Duration::from_secs(10)),
            initial_rtt: Duration::from_millis(100),
            datagram_receive_buffer: 1 << 20,
            datagram_send_buffer: 256 << 10,
            stream_receive_window: 128 << 10,
            send_window: 256 << 10,
            initial_window: None,
            ack_threshold: None,
            max_ack_delay: None,
        }
    }
}

impl TransportProfile {
    /// What a QUIC packet may need beyond the IP packet in it: short header with the longest packet number,
    /// authentication tag, what quinn-proto allows for a DATAGRAM frame, quarter stream ID and context ID.
    const AROUND_A_PACKET: u32 = 1 + 8 + 4 + 16 + 9 + 2;
    /// The first probe for this much is as large as 1,280 bytes of IPv6 need.
    const LEAST_FITTED: u32 = 1440;

    /// With a `max_mtu` no larger than what packets of those devices need.
    ///
    /// On a path that takes more, an ACK fits beside a full-size packet, and such packets are now and then
    /// larger than all others; then quinn-proto takes ordinary losses of the others for a black hole, and
    /// flows inside go on with small packets (`docs/congestion.md`).
    pub(super) fn fitted(mut self, ports: &[PortConfig]) -> Self {
        if let Some(widest) = ports.iter().map(|port| port.mtu).max() {
            let needed = widest.saturating_add(Self::AROUND_A_PACKET);
            let needed = u16::try_from(needed.max(Self::LEAST_FITTED)).unwrap_or(u16::MAX);
            self.max_mtu = self.max_mtu.min(needed);
        }
        self.max_mtu = self.max_mtu.max(self.initial_mtu);
        self
    }
}

/// A limit on everything a peer can grow.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once.
    pub max_connections: usize,
    /// Handshakes at once.
    pub max_handshakes: usize,
    /// Handshakes begun per turn at most; the rest wait. Fewer where those that have tunnels need the
    /// time: everybody else waits for the end of the turn.
    pub handshakes_per_turn: usize,
    /// From so many handshakes at once on, an unproven source address gets a Retry; from a sixteenth of them on
    /// while tunnels have work to do.
    pub retry_threshold: usize,
    /// Handshakes at once per source prefix (IPv4 /24, IPv6 /56).
    pub handshakes_per_source: usize,
    /// Connections at once per identity; a further one replaces the oldest.
    pub connections_per_identity: usize,
    /// Tunnels at once per connection.
    pub tunnels_per_connection: usize,
    /// Bytes queued towards one tunnel.
    pub tunnel_queue_bytes: usize,
    /// Bytes queued towards all tunnels.
    pub total_queue_bytes: usize,
    /// Routes one peer may advertise to us.
    pub max_routes: usize,
    /// ICMP errors per second and tunnel.
    pub icmp_per_second: u32,
    /// How long an unused lease is kept.
    pub lease_lifetime: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_handshakes: 1_000,
            handshakes_per_turn: 2,
            retry_threshold: 64,
            handshakes_per_source: 64,
            connections_per_identity: 2,
            tunnels_per_connection: 4,
            tunnel_queue_bytes: 4 << 20,
            total_queue_bytes: 64 << 20,
            max_routes: 256,
            icmp_per_second: 100,
            lease_lifetime: Duration::from_secs(30 * 24 * 3600),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_larger_path_is_tried_than_devices_need_nor_a_smaller_one_than_it_begins_with() {
        let fitted = |initial_mtu, devices: &[u32]| {
            let port = |mtu: &u32| PortConfig {
                id: PortId(0),
                tcp_offload: false,
                udp_offload: false,
                addresses: Vec::new(),
                mtu: *mtu,
            };
            let ports: Vec<_> = devices.iter().map(port).collect();
            let profile = TransportProfile {
                initial_mtu,
                ..TransportProfile::default()
            };
            profile.fitted(&ports).max_mtu
        };
        assert_eq!(fitted(1200, &[1420]), 1460);
        assert_eq!(fitted(1200, &[1400, 1420, 1280]), 1460, "the widest");
        assert_eq!(fitted(1200, &[576]), 1440, "IPv6 needs that");
        assert_eq!(fitted(1200, &[9000]), 1472);
        assert_eq!(fitted(1200, &[u32::MAX]), 1472);
        assert_eq!(fitted(1200, &[]), 1472);
        assert_eq!(fitted(1465, &[1280]), 1465);
        assert_eq!(fitted(1500, &[9000]), 1500);
    }
}
