//! What the endpoint knows of one connection and its tunnels.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::admit::Ticket;
use super::beside::Beside;
use super::bridge::Bridge;
use super::counters::DropReason;
use super::early::Early;
use super::event::CloseReason;
use super::fq_codel::TunnelQueue;
use super::heirs::Client;
use super::ipv6::Probe;
use super::rate::RateLimit;
use super::routes::RouteTable;
use super::types::{ConnId, Identity, PortId, SocketId, TunnelHandle};
use crate::session::{TunnelId, TunnelRequest};
use crate::wire::datagram::DatagramHeader;
use crate::wire::ip::PacketInfo;
use crate::wire::ip::icmp;
use crate::wire::offload::Verdict;
use crate::wire::prefix::IpPrefix;
use crate::wire::scope::{Scope, Target};
use crate::wire::stream::Role;

/// The least a link must carry for IPv6 (RFC 8200 §5).
pub(super) const IPV6_MTU: u32 = 1280;

/// How long the probes of a path are waited for at most.
const PROBING: Duration = Duration::from_secs(3);

/// One connection.
pub(super) struct Conn {
    pub(super) id: ConnId,
    pub(super) role: Role,
    pub(super) bridge: Bridge,
    pub(super) socket: SocketId,
    pub(super) port: PortId,
    pub(super) identity: Option<Identity>,
    pub(super) expires: Option<Instant>,
    /// What the handshake takes up while it lasts (server).
    pub(super) pays: Option<Ticket>,
    /// When an unfinished handshake is given up (server): the idle timeout alone could be put off for
    /// ever.
    pub(super) handshake_by: Option<Instant>,
    pub(super) tunnels: Vec<Tunnel>,
    /// The tunnel whose queue is served next.
    pub(super) turn: usize,
    pub(super) in_ring: bool,
    /// What it may still send in its turn.
    pub(super) credit: isize,
    /// Where it is, once its handshake is complete.
    pub(super) known: Option<std::net::SocketAddr>,
    pub(super) timer_dirty: bool,
    pub(super) armed: Option<Instant>,
    /// Why we closed it, which says more than what QUIC reports afterwards.
    pub(super) closing: Option<CloseReason>,
    pub(super) closed_told: bool,
    pub(super) remote: std::net::SocketAddr,
    /// What may be sent to other addresses than that.
    pub(super) beside: Beside,
    /// Requests that wait for the addresses of a host name (server).
    pub(super) resolving: Vec<(TunnelId, TunnelRequest)>,
    /// Datagrams that came before their tunnel was open.
    pub(super) early: Early,
    /// The scope asked for (client), for the event that tells of the tunnel.
    pub(super) asked: Scope,
    /// What another connection in its place needs to know (client).
    pub(super) client: Option<Box<Client>>,
}

impl Conn {
    pub(super) fn tunnel_mut(&mut self, id: TunnelId) -> Option<&mut Tunnel> {
        self.tunnels
            .iter_mut()
            .find(|tunnel| tunnel.handle.tunnel == id)
    }

    pub(super) fn tunnel(&self, id: TunnelId) -> Option<&Tunnel> {
        self.tunnels
            .iter()
            .find(|tunnel| tunnel.handle.tunnel == id)
    }
}

/// Which way a packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// What was carried before, by the tunnel whose place this one took, or on the path it came from: the path
/// it is on now may well carry that, too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Expected {
    pub(super) mtu: u32,
    since: Instant,
    /// Until then what is larger than shown so far waits.
    pub(super) until: Instant,
}

impl Expected {
    pub(super) fn new(mtu: u32, now: Instant, round_trip: Duration) -> Self {
        let expected = Self {
            mtu,
            since: now,
            until: now,
        };
        expected.over(round_trip)
    }

    /// The same, once a round trip has turned out to take so long: the path shows probe by probe what it
    /// carries.
    pub(super) fn over(mut self, round_trip: Duration) -> Self {
        let patience = (round_trip * 10 + Duration::from_millis(100)).min(PROBING);
        self.until = self.until.max(self.since + patience);
        self
    }
}

/// One established tunnel.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) handle: TunnelHandle,
    /// What stands before a packet in a QUIC DATAGRAM; `None` where packets go in capsules.
    pub(super) header: Option<DatagramHeader>,
    pub(super) scope: Scope,
    /// The addresses of the client end.
    pub(super) addresses: Vec<IpPrefix>,
    /// Addresses that go back to the pool with the tunnel, whatever it has been assigned since.
    pub(super) lent: Vec<IpPrefix>,
    /// What the server end routes.
    pub(super) routes: RouteTable,
    pub(super) mtu: u32,
    /// Told of by an event: before that, the path MTU is still being found.
    pub(super) announced: bool,
    /// Whether 1,280 bytes of IPv6 have been seen to pass, if that is asked for.
    pub(super) probe: Option<Probe>,
    /// When it is told of whatever the path MTU is by then.
    pub(super) announce_by: Option<Instant>,
    pub(super) queue: TunnelQueue,
    /// The tunnel whose place it takes (server), until its queue has moved.
    pub(super) predecessor: Option<TunnelHandle>,
    pub(super) expected: Option<Expected>,
    pub(super) icmp: RateLimit,
    /// Stands for this tunnel's rules where packets that continue others are let through with them; 0
    /// before the first packet.
    pub(super) verdict: Verdict,
    pub(super) sent_packets: u64,
    pub(super) received_packets: u64,
    pub(super) sent_bytes: u64,
    pub(super) received_bytes: u64,
}

impl Tunnel {
    /// Its state in traces.
    pub(super) fn state(&self) -> &'static str {
        match (self.announced, self.announce_by) {
            (true, _) => "tunnel up",
            (false, Some(_)) => "tunnel established",
            (false, None) => "tunnel none",
        }
    }

    /// Whether the first probe of the path has neither shown that the tunnel carries IPv6 nor had the
    /// time to: packets it may carry in a moment wait in the queue.
    pub(super) fn is_finding(&self, now: Instant) -> bool {
        self.mtu < IPV6_MTU && self.announce_by.is_none_or(|by| now < by)
    }

    /// The largest packet let into the queue.
    pub(super) fn admits(&self, now: Instant) -> u32 {
        let known = if self.header.is_some() && self.is_finding(now) {
            IPV6_MTU
        } else {
            self.mtu
        };
        known.max(self.may_carry(now))
    }

    /// Whether a packet may travel through this tunnel: its client end must be an address of the
    /// client, its other end must be routed by the server and within the scope (RFC 9484 §4.6 to §4.8).
    pub(super) fn judge(&self, way: Way, info: &PacketInfo) -> Result<(), DropReason> {
        let (client_end, server_end) = match way {
            Way::Up => (info.source, info.destination),
            Way::Down => (info.destination, info.source),
        };
        if info.source_routed || !forwardable(info.source) || !forwardable(info.destination) {
            return Err(DropReason::NotForwardable);
        }
        if !self
            .addresses
            .iter()
            .any(|prefix| prefix.contains(client_end))
        {
            return Err(match way {
                Way::Up => DropReason::SourceNotAssigned,
                Way::Down => DropReason::DestinationNotRouted,
            });
        }
        if !in_scope(&self.scope, server_end, info) {
            return Err(DropReason::OutOfScope);
        }
        if !self.routes.matches(server_end, info.protocol) {
            // A router on the way reports from wherever it is: its ICMP is let in.
            return match way {
                Way::Up => Err(DropReason::DestinationNotRouted),
                Way::Down if is_icmp(info) => Ok(()),
                Way::Down => Err(DropReason::SourceNotAssigned),
            };
        }
        Ok(())
    }

    /// Whether an ICMP error for the client is about a packet it may have sent here (RFC 9484 §11): where
    /// tunnels share an address, each hears of what is in its own scope only. `Ok` for all but ICMP errors.
    pub(super) fn judge_quoted(&self, packet: &[u8], info: &PacketInfo) -> Result<(), DropReason> {
        if self.scope == Scope::default() || !icmp::is_icmp_error(packet, info) {
            return Ok(());
        }
        let quoted = icmp::quoted(packet, info).ok_or(DropReason::OutOfScope)?;
        let protocol = quoted.protocol;
        let icmp = protocol == if quoted.source.is_ipv4() { 1 } else { 58 };
        let in_protocol = self.scope.protocol.is_none_or(|it| it == protocol || icmp);
        let in_target = match &self.scope.target {
            Target::Prefix(prefix) => prefix.contains(quoted.destination),
            Target::Any | Target::Name(_) => self.routes.matches(quoted.destination, protocol),
        };
        if in_protocol && in_target {
            Ok(())
        } else {
            Err(DropReason::OutOfScope)
        }
    }
}

pub(super) fn is_icmp(info: &PacketInfo) -> bool {
    info.protocol == if info.source.is_ipv4() { 1 } else { 58 }
}

/// ICMP belongs to every scope: without it path MTU discovery inside the tunnel would fail (RFC 9484 §4.6).
fn in_scope(scope: &Scope, server_end: IpAddr, info: &PacketInfo) -> bool {
    scope
        .protocol
        .is_none_or(|protocol| protocol == info.protocol || is_icmp(info))
        && match &scope.target {
            Target::Any => true,
            Target::Prefix(prefix) => prefix.contains(server_end) || is_icmp(info),
            // The routes are those of its addresses, and are asked as well.
            Target::Name(_) => true,
        }
}

/// Whether an address may be an end of a forwarded packet: no loopback, link-local, multicast,
/// broadcast or unspecified address.
pub(super) fn forwardable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
                || v4.octets()[0] == 0)
        }
        IpAddr::V6(v6) => {
            !(v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || v6.segments()[0] & 0xffc0 == 0xfe80
                || v6.to_ipv4_mapped().is_some())
        }
    }
}

/// What a tunnel carries when QUIC takes `max_datagram` bytes.
///
/// All of it, though an ACK then no longer fits beside a packet of the greatest size and travels in one of its
/// own. With a few bytes left free, packets with an ACK are now and then larger than all others, and
/// quinn-proto takes ordinary losses of the others for a black hole: `docs/congestion.md`.
pub(super) fn tunnel_mtu(max_datagram: usize, header: usize) -> u32 {
    u32::try_from(max_datagram.saturating_sub(header)).unwrap_or(u32::MAX)
}
