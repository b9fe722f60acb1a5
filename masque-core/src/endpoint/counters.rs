//! What is counted.

/// Why a packet was dropped. Every drop has a reason, every reason a counter.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(usize)]
pub enum DropReason {
    /// No IP packet, or a broken one.
    Malformed,
    /// The virtio-net header contradicts the packet.
    Offload,
    /// The source is not assigned to the peer (or to us, on the way out).
    SourceNotAssigned,
    /// The destination is neither assigned nor routed.
    DestinationNotRouted,
    /// Outside the tunnel's target or ipproto.
    OutOfScope,
    /// Forbidden by access policy.
    Prohibited,
    /// From one client to another, where that is not allowed.
    ClientToClient,
    /// Link-local, loopback, multicast or broadcast, which no tunnel carries, or a routing header of type 0.
    NotForwardable,
    /// The hop limit ran out.
    HopLimit,
    /// Larger than the tunnel MTU.
    TooBig,
    /// The tunnel's queue, or that of all tunnels, is full.
    QueueFull,
    /// Its flow had a queue standing in front of the tunnel for too long (CoDel).
    Congestion,
    /// It waited through a gap of the network, and newer packets of its flow are there.
    Stale,
    /// No tunnel for it.
    NoTunnel,
    /// QUIC did not take it.
    Quic,
    /// An HTTP Datagram for an unknown stream.
    UnknownStream,
    /// An HTTP Datagram for a tunnel that is not established.
    NotEstablished,
    /// An HTTP Datagram without, or with an unknown, context ID.
    UnknownContext,
    /// A UDP datagram from a source with too many handshakes.
    HandshakeLimit,
    /// IPv6 on a tunnel too small for it.
    NoIpv6,
    /// A TUN packet whose source lies inside a pool: it came back through the kernel.
    PoolSource,
    /// For another shard, whose mailbox was full.
    MailboxFull,
    /// An answer to an address from which too little came: it may not be the peer's.
    Unproven,
}

impl DropReason {
    /// Every reason.
    pub const ALL: [Self; 23] = [
        Self::Malformed,
        Self::Offload,
        Self::SourceNotAssigned,
        Self::DestinationNotRouted,
        Self::OutOfScope,
        Self::Prohibited,
        Self::ClientToClient,
        Self::NotForwardable,
        Self::HopLimit,
        Self::TooBig,
        Self::QueueFull,
        Self::Congestion,
        Self::Stale,
        Self::NoTunnel,
        Self::Quic,
        Self::UnknownStream,
        Self::NotEstablished,
        Self::UnknownContext,
        Self::HandshakeLimit,
        Self::NoIpv6,
        Self::PoolSource,
        Self::MailboxFull,
        Self::Unproven,
    ];

    /// Its name in logs, traces and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Offload => "offload",
            Self::SourceNotAssigned => "source_not_assigned",
            Self::DestinationNotRouted => "destination_not_routed",
            Self::OutOfScope => "out_of_scope",
            Self::Prohibited => "prohibited",
            Self::ClientToClient => "client_to_client",
            Self::NotForwardable => "not_forwardable",
            Self::HopLimit => "hop_limit",
            Self::TooBig => "too_big",
            Self::QueueFull => "queue_full",
            Self::Congestion => "congestion",
            Self::Stale => "stale",
            Self::NoTunnel => "no_tunnel",
            Self::Quic => "quic",
            Self::UnknownStream => "unknown_stream",
            Self::NotEstablished => "not_established",
            Self::UnknownContext => "unknown_context",
            Self::HandshakeLimit => "handshake_limit",
            Self::NoIpv6 => "no_ipv6",
            Self::PoolSource => "pool_source",
            Self::MailboxFull => "mailbox_full",
            Self::Unproven => "unproven",
        }
    }
}

/// Counters of an endpoint since it was made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    drops: [u64; DropReason::ALL.len()],
    /// UDP datagrams received.
    pub udp_received: u64,
    /// UDP datagrams sent.
    pub udp_sent: u64,
    /// IP packets taken from devices into tunnels.
    pub packets_in: u64,
    /// IP packets from tunnels to devices.
    pub packets_out: u64,
    /// IP packets from one tunnel to another.
    pub packets_across: u64,
    /// Super-packets read from devices.
    pub super_packets: u64,
    /// IP packets marked "congestion experienced" instead of dropped.
    pub congestion_marked: u64,
    /// ICMP errors made.
    pub icmp_sent: u64,
    /// ICMP errors not made because of the rate limit.
    pub icmp_limited: u64,
    /// Handshakes accepted.
    pub handshakes: u64,
    /// Retry packets sent.
    pub retries: u64,
    /// Tunnels that went on with the queue and the addresses of an older one (server), or took its place
    /// (client).
    pub handovers: u64,
    /// Requests with a handover token that was no good: guessed, used before, another identity's, or of a
    /// tunnel that is gone (server).
    pub handovers_refused: u64,
    /// Connections begun to take the place of another (client).
    pub heirs: u64,
    /// Connections refused at a limit.
    pub refused: u64,
    /// Pieces of mail for other shards.
    pub mail_sent: u64,
    /// Pieces of mail of other shards.
    pub mail_received: u64,
}

impl Counters {
    /// How many packets were dropped for `reason`.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    /// Counts drops.
    pub(crate) fn drop(&mut self, reason: DropReason, packets: u64) {
        self.drops[reason as usize] += packets;
    }

    /// All reasons with their counts.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL
            .into_iter()
            .map(|reason| (reason, self.dropped(reason)))
    }
}
