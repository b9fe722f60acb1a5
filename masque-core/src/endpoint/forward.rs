//! The way of an IP packet through the endpoint: device to tunnel, tunnel to device, tunnel to tunnel.

use std::net::IpAddr;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::answers::error_for;
use super::arena::Arena;
use super::config::{Access, PortConfig};
use super::conn::{Conn, IPV6_MTU, Tunnel, Way, forwardable};
use super::counters::{Counters, DropReason};
use super::owners::Owners;
use super::rate::RateLimit;
use super::space::AddressSpace;
use super::types::{PortId, TunnelHandle};
use crate::session::Command as SessionCommand;
use crate::trace::{Layer, Recorder, TraceEvent, What};
use crate::wire::ip::fragment::{FragmentError, MIN_MTU, fragments};
use crate::wire::ip::icmp::IcmpError;
use crate::wire::ip::{self, PacketInfo};
use crate::wire::offload::{Coalescer, TunFrame, Verdict, VnetHdr, segment};
use crate::wire::stream::Role;

/// What tunnels with a queue leave free for one that has none.
const SPARE: usize = 64 << 10;
/// What a packet is expected to need beyond its length, for the header of a datagram; a super-packet needs a
/// quarter more, for those of its segments.
const HEADER_ROOM: usize = 256;

/// A device.
pub(super) struct Port {
    pub(super) config: PortConfig,
    pub(super) out: Coalescer,
    pub(super) icmp: RateLimit,
    /// The tunnels of clients behind this device; servers look destinations up in the trie.
    pub(super) clients: Vec<TunnelHandle>,
}

/// What the server lets through beside the rules of each tunnel.
pub(super) struct Policy {
    pub(super) access: Access,
    /// What `access` denies.
    pub(super) deny: AddressSpace,
    pub(super) gateways: Vec<IpAddr>,
    pub(super) port: PortId,
    /// Pools and static assignments: where clients' addresses are.
    pub(super) client_space: AddressSpace,
}

/// A packet on its way from one tunnel to another.
pub(super) struct Across {
    pub(super) to: TunnelHandle,
    pub(super) packet: Bytes,
}

/// Where a tunnel is: its connection among the endpoint's, and which of that connection's it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) handle: TunnelHandle,
    pub(super) conn: usize,
    pub(super) tunnel: usize,
}

/// Everything forwarding needs beside the connections themselves.
pub(super) struct Forwarding {
    pub(super) ports: Vec<Port>,
    /// Whose packets are whose, on all shards.
    pub(super) owners: Owners,
    pub(super) policy: Option<Policy>,
    pub(super) counters: Counters,
    pub(super) across: Vec<Across>,
    pub(super) arena: Arena,
    /// How many tunnels have had a packet let through.
    verdicts: Verdict,
    /// Device, protocol, destination and source of the last packet that entered a tunnel, and where.
    last: Option<((PortId, u8, IpAddr, IpAddr), Place)>,
    /// The bytes in the queues of all tunnels.
    pub(super) queued_bytes: usize,
    /// What inner flows are hashed with.
    pub(super) flow_key: u64,
    tunnel_queue_bytes: usize,
    total_queue_bytes: usize,
}

impl Forwarding {
    pub(super) fn new(
        ports: Vec<PortConfig>,
        policy: Option<Policy>,
        limits: &super::config::Limits,
        flow_key: u64,
        now: Instant,
    ) -> Self {
        let ports = ports
            .into_iter()
            .map(|config| Port {
                out: Coalescer::new(16, config.tcp_offload, config.udp_offload),
                icmp: RateLimit::new(limits.icmp_per_second, now),
                clients: Vec::new(),
                config,
            })
            .collect();
        Self {
            ports,
            owners: Owners::default(),
            policy,
            counters: Counters::default(),
            across: Vec::new(),
            arena: Arena::default(),
            verdicts: 0,
            last: None,
            queued_bytes: 0,
            flow_key,
            tunnel_queue_bytes: limits.tunnel_queue_bytes,
            total_queue_bytes: limits.total_queue_bytes,
        }
    }

    pub(super) fn port_mut(&mut self, id: PortId) -> Option<&mut Port> {
        self.ports.iter_mut().find(|port| port.config.id == id)
    }

    pub(super) fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.iter().find(|port| port.config.id == id)
    }

    /// Whose address this is.
    pub(super) fn owner(&self, address: IpAddr) -> Option<TunnelHandle> {
        self.owners.of(address)
    }

    /// Addresses, routes or tunnels are others than before: every packet is judged anew.
    pub(super) fn rules_changed(&mut self) {
        for port in &mut self.ports {
            port.out.forget_verdicts();
        }
        self.last = None;
    }

    /// Where the last packet from a device went, if this one is of the same hosts and protocol: the
    /// rules look at nothing else.
    #[inline]
    pub(super) fn last_place(&self, port: PortId, info: &PacketInfo) -> Option<Place> {
        let (last, place) = self.last.as_ref()?;
        (*last == (port, info.protocol, info.destination, info.source)).then_some(*place)
    }

    /// Remembers where a packet from a device went.
    pub(super) fn remember(&mut self, port: PortId, info: &PacketInfo, place: Place) {
        let packet = (port, info.protocol, info.destination, info.source);
        self.last = Some((packet, place));
    }

    /// How many devices lead to tunnels.
    pub(super) fn device_claims(&self) -> usize {
        self.ports.iter().map(|port| port.clients.len()).sum()
    }

    /// Takes frames the caller has written back into the coalescer.
    pub(super) fn recycle(&mut self, port: PortId, frames: &mut Vec<TunFrame>) {
        match self.port_mut(port) {
            Some(port) => frames.drain(..).for_each(|frame| port.out.recycle(frame)),
            None => frames.clear(),
        }
    }

    /// A packet from the client's side of the server, or from the server, has left its tunnel:
    /// judges it and passes it on.
    pub(super) fn leave_tunnel(
        &mut self,
        now: Instant,
        conn: &mut Conn,
        tunnel: usize,
        packet: &[u8],
        trace: &mut Recorder,
    ) {
        let state = &mut conn.tunnels[tunnel];
        // Most packets continue a super-packet whose first packet was judged by the same rules.
        if let Some(port) = self.port_mut(conn.port)
            && port.out.follow(state.verdict, packet)
        {
            state.received_packets += 1;
            state.received_bytes += packet.len() as u64;
            self.counters.packets_out += 1;
            return;
        }
        let info = match PacketInfo::parse(packet) {
            Ok(info) => info,
            Err(_) => return self.dropped(DropReason::Malformed, packet.len(), trace),
        };
        let way = match conn.role {
            Role::Server => Way::Up,
            Role::Client => Way::Down,
        };
        let state = &mut conn.tunnels[tunnel];
        state.received_packets += 1;
        state.received_bytes += packet.len() as u64;
        if info.protocol == ip::ICMPV6 && self.take_echo(now, conn, tunnel, packet, &info) {
            return;
        }
        let state = &conn.tunnels[tunnel];
        let verdict = state.judge(way, &info).and_then(|()| match way {
            Way::Up => self.admit(&info, state.handle),
            Way::Down => Ok(None),
        });
        match verdict {
            Ok(None) => {
                self.counters.packets_out += 1;
                let state = &mut conn.tunnels[tunnel];
                if state.verdict == 0 {
                    self.verdicts += 1;
                    state.verdict = self.verdicts;
                }
                let verdict = state.verdict;
                if let Some(port) = self.port_mut(conn.port) {
                    port.out.push_judged(verdict, packet);
                }
            }
            Ok(Some(to)) => {
                let mut copy = BytesMut::from(packet);
                if ip::decrement_hop_limit(&mut copy) {
                    self.across.push(Across {
                        to,
                        packet: copy.freeze(),
                    });
                } else {
                    self.dropped(DropReason::HopLimit, packet.len(), trace);
                    self.answer_inside(now, conn, tunnel, IcmpError::TimeExceeded, packet, &info);
                }
            }
            Err(reason) => {
                self.dropped(reason, packet.len(), trace);
                if let (Way::Up, Some(error)) = (way, error_for(reason)) {
                    self.answer_inside(now, conn, tunnel, error, packet, &info);
                }
            }
        }
    }

    /// The server's policy about a packet from a client: `Ok(None)` to the device, `Ok(Some(tunnel))`
    /// to another client.
    fn admit(
        &self,
        info: &PacketInfo,
        from: TunnelHandle,
    ) -> Result<Option<TunnelHandle>, DropReason> {
        let Some(policy) = &self.policy else {
            return Ok(None);
        };
        let to = info.destination;
        if policy.deny.contains(to) {
            return Err(DropReason::Prohibited);
        }
        if policy.gateways.contains(&to) {
            return if policy.access.gateway {
                Ok(None)
            } else {
                Err(DropReason::Prohibited)
            };
        }
        if let Some(owner) = self.owner(to) {
            return if owner == from || !policy.access.client_to_client {
                Err(DropReason::ClientToClient)
            } else {
                Ok(Some(owner))
            };
        }
        // An unused pool address must not reach the kernel, which would route it straight back.
        if self.in_pool(to) {
            Err(DropReason::NoTunnel)
        } else {
            Ok(None)
        }
    }

    /// Whether no client may reach `address`.
    pub(super) fn is_denied(&self, address: IpAddr) -> bool {
        let policy = self.policy.as_ref();
        policy.is_some_and(|policy| policy.deny.contains(address))
    }

    /// Whether `address` lies in a pool or a static assignment.
    pub(super) fn in_pool(&self, address: IpAddr) -> bool {
        let policy = self.policy.as_ref();
        policy.is_some_and(|policy| policy.client_space.contains(address))
    }

    /// Whether clients have addresses of this IP version.
    pub(super) fn has_version(&self, v4: bool) -> bool {
        let policy = self.policy.as_ref();
        policy.is_some_and(|policy| policy.client_space.has_version(v4))
    }

    /// Judges a packet from a device and finds its tunnel.
    pub(super) fn route(
        &self,
        port: PortId,
        info: &PacketInfo,
    ) -> Result<TunnelHandle, DropReason> {
        if info.source_routed || !forwardable(info.source) || !forwardable(info.destination) {
            return Err(DropReason::NotForwardable);
        }
        if let Some(policy) = self.policy.as_ref().filter(|policy| policy.port == port) {
            // Inside a pool, or assigned by command from elsewhere.
            let of_client = self.in_pool(info.source) || self.owner(info.source).is_some();
            if of_client && !policy.gateways.contains(&info.source) {
                return Err(DropReason::PoolSource);
            }
            return self.owner(info.destination).ok_or(DropReason::NoTunnel);
        }
        self.port(port)
            .and_then(|port| port.clients.last().copied())
            .ok_or(DropReason::NoTunnel)
    }

    /// Puts what `header` and `packet` stand for into a tunnel's queue. Gives how many packets were
    /// queued and how many dropped.
    #[expect(
        clippy::too_many_arguments,
        reason = "one call on the path of a packet, split for nobody"
    )]
    pub(super) fn enter_tunnel(
        &mut self,
        now: Instant,
        conn: &mut Conn,
        tunnel: usize,
        judged: bool,
        header: VnetHdr,
        packet: &[u8],
        info: &PacketInfo,
        from: From,
        trace: &mut Recorder,
    ) -> Result<u32, (DropReason, u32)> {
        let way = match conn.role {
            Role::Server => Way::Down,
            Role::Client => Way::Up,
        };
        let state = &mut conn.tunnels[tunnel];
        let mtu = state.admits(now);
        // Across tunnels the sender's own rules were checked already; here the receiver's hold.
        let verdict = match judged {
            true => Ok(()),
            false => state.judge(way, info).and_then(|()| match way {
                Way::Down => state.judge_quoted(packet, info),
                Way::Up => Ok(()),
            }),
        };
        if let Err(reason) = verdict.and_then(|()| fits_version(mtu, info)) {
            let count = self.lost(reason, header, packet, info, trace);
            if let Some(error) = error_for(reason) {
                self.report(now, conn, tunnel, from, error, packet, info);
            }
            return Err((reason, count));
        }
        let largest = match header.gso_type & !VnetHdr::GSO_ECN {
            VnetHdr::GSO_NONE => packet.len(),
            _ => header_length(packet, info) + usize::from(header.gso_size),
        };
        let too_big = largest.min(packet.len()) > mtu as usize;
        if too_big && (info.dont_fragment || (mtu as usize) < MIN_MTU) {
            let reason = DropReason::TooBig;
            let count = self.lost(reason, header, packet, info, trace);
            if info.dont_fragment {
                let error = IcmpError::PacketTooBig { mtu };
                self.report(now, conn, tunnel, from, error, packet, info);
            }
            return Err((reason, count));
        }
        let flow = flow_of(self.flow_key, info, packet);
        let full = state.queue.bytes() + packet.len() > self.tunnel_queue_bytes;
        // A flow that has its share of a full queue is not worth the work of making room for it.
        if full && state.queue.has_its_share(flow) || !self.make_room(state, packet.len()) {
            let reason = DropReason::QueueFull;
            return Err((reason, self.lost(reason, header, packet, info, trace)));
        }
        if too_big {
            return self.enter_in_fragments(now, conn, tunnel, header, packet, info, trace);
        }
        let Some(datagram_header) = state.header else {
            return self.enter_capsules(conn, tunnel, header, packet, info, trace);
        };
        let room = packet.len() + packet.len() / 4 + HEADER_ROOM;
        let made = match segment(
            header,
            packet,
            datagram_header.as_slice(),
            None,
            self.arena.room(room),
        ) {
            Ok(made) => made,
            Err(_) => {
                let reason = DropReason::Offload;
                return Err((reason, self.lost(reason, header, packet, info, trace)));
            }
        };
        let datagrams = self.arena.take();
        self.queued_bytes += datagrams.len();
        state.sent_packets += made.count as u64;
        state.sent_bytes += datagrams.len() as u64;
        state.queue.push(now, flow, datagrams, made.stride);
        Ok(made.count as u32)
    }

    /// IPv4 packets larger than the tunnel MTU that may be fragmented (RFC 791 §3.2).
    #[expect(clippy::too_many_arguments, reason = "what its one caller has at hand")]
    fn enter_in_fragments(
        &mut self,
        now: Instant,
        conn: &mut Conn,
        tunnel: usize,
        header: VnetHdr,
        packet: &[u8],
        info: &PacketInfo,
        trace: &mut Recorder,
    ) -> Result<u32, (DropReason, u32)> {
        let state = &mut conn.tunnels[tunnel];
        let prefix = state.header;
        let prefix = prefix.as_ref().map_or(&[][..], |header| header.as_slice());
        // Checksums are completed, and super-packets cut, before what they cover is spread out.
        let mut whole = BytesMut::new();
        let Ok(made) = segment(header, packet, &[], None, &mut whole) else {
            let reason = DropReason::Offload;
            return Err((reason, self.lost(reason, header, packet, info, trace)));
        };
        let mut pieces = Vec::new();
        let mut total = 0;
        for part in whole.chunks(made.stride.max(1)) {
            let Ok((cut, bytes)) = cut(prefix, part, state.mtu) else {
                let reason = DropReason::Malformed;
                return Err((reason, self.lost(reason, header, packet, info, trace)));
            };
            pieces.extend(cut);
            total += bytes;
        }
        if state.header.is_none() {
            return self.send_capsules(conn, tunnel, pieces.into_iter(), made.count);
        }
        if !self.make_room(state, total) {
            let reason = DropReason::QueueFull;
            return Err((reason, self.lost(reason, header, packet, info, trace)));
        }
        let state = &mut conn.tunnels[tunnel];
        self.queued_bytes += total;
        state.sent_packets += pieces.len() as u64;
        state.sent_bytes += total as u64;
        let flow = flow_of(self.flow_key, info, packet);
        for piece in pieces {
            let length = piece.len();
            state.queue.push(now, flow, piece, length);
        }
        Ok(made.count as u32)
    }

    /// For a peer that takes no QUIC datagrams: packets in DATAGRAM capsules, on the stream.
    fn enter_capsules(
        &mut self,
        conn: &mut Conn,
        tunnel: usize,
        header: VnetHdr,
        packet: &[u8],
        info: &PacketInfo,
        trace: &mut Recorder,
    ) -> Result<u32, (DropReason, u32)> {
        let mut out = BytesMut::new();
        let Ok(made) = segment(header, packet, &[], None, &mut out) else {
            let reason = DropReason::Offload;
            return Err((reason, self.lost(reason, header, packet, info, trace)));
        };
        let mut rest = out.freeze();
        let packets = std::iter::from_fn(|| {
            let packet = rest.split_to(made.stride.min(rest.len()));
            (!packet.is_empty()).then_some(packet)
        });
        self.send_capsules(conn, tunnel, packets, made.count)
    }

    /// Sends what stands for `count` packets. Once the stream is blocked the rest is dropped.
    pub(super) fn send_capsules(
        &mut self,
        conn: &mut Conn,
        tunnel: usize,
        packets: impl Iterator<Item = Bytes>,
        count: usize,
    ) -> Result<u32, (DropReason, u32)> {
        let id = conn.tunnels[tunnel].handle.tunnel;
        let mut sent = 0;
        for packet in packets {
            let bytes = packet.len() as u64;
            let command = SessionCommand::SendPacket { tunnel: id, packet };
            if conn.bridge.session().handle_command(command).is_err() {
                let left = count.saturating_sub(sent).max(1);
                self.counters.drop(DropReason::QueueFull, left as u64);
                break;
            }
            let state = &mut conn.tunnels[tunnel];
            state.sent_packets += 1;
            state.sent_bytes += bytes;
            sent += 1;
        }
        if sent == 0 {
            Err((DropReason::QueueFull, count as u32))
        } else {
            Ok(sent.min(count) as u32)
        }
    }

    /// Whether `bytes` more may be queued: a full queue first sheds what its fattest flow has.
    ///
    /// A tunnel may hold as much as all tunnels together leave free (Choudhury and Hahne's dynamic
    /// thresholds): many that want everything end up with the same. Who holds something already leaves
    /// room for a super-packet, so that one that comes late, or queues little, finds it. One that holds
    /// more than that sheds a little with every packet.
    pub(super) fn make_room(&mut self, tunnel: &mut Tunnel, bytes: usize) -> bool {
        let mut has_shed = false;
        loop {
            let queued = tunnel.queue.bytes();
            let free = self.total_queue_bytes.saturating_sub(self.queued_bytes);
            let fits = queued + bytes <= self.tunnel_queue_bytes && bytes <= free;
            let share = match queued {
                0 => free,
                _ => free.saturating_sub(SPARE),
            };
            if fits && (has_shed || queued + bytes <= share) {
                return true;
            }
            let shed = tunnel.queue.shed();
            if shed == 0 {
                return fits;
            }
            has_shed = true;
            self.queued_bytes -= queued - tunnel.queue.bytes();
            self.counters.drop(DropReason::QueueFull, shed);
        }
    }

    /// Counts the drop of a packet or super-packet; gives how many packets it stood for.
    fn lost(
        &mut self,
        reason: DropReason,
        header: VnetHdr,
        packet: &[u8],
        info: &PacketInfo,
        trace: &mut Recorder,
    ) -> u32 {
        let count = packets_in(header, packet, info);
        self.dropped(reason, packet.len(), trace);
        self.counters.drop(reason, u64::from(count) - 1);
        count
    }

    /// Counts and traces a drop.
    pub(super) fn dropped(&mut self, reason: DropReason, bytes: usize, trace: &mut Recorder) {
        self.counters.drop(reason, 1);
        trace.record(|| TraceEvent {
            layer: Layer::Forward,
            connection: None,
            stream: None,
            what: What::Dropped {
                reason: reason.name(),
                bytes,
            },
        });
    }
}

/// An IPv4 packet in fragments of at most `mtu` bytes, each behind `prefix`; and their bytes in all.
pub(super) fn cut(
    prefix: &[u8],
    packet: &[u8],
    mtu: u32,
) -> Result<(Vec<Bytes>, usize), FragmentError> {
    let fragments = fragments(packet, mtu as usize)?;
    let mut out = BytesMut::with_capacity(packet.len() * 2);
    let pieces: Vec<Bytes> = fragments
        .map(|fragment| {
            out.extend_from_slice(prefix);
            fragment.put(&mut out);
            out.split().freeze()
        })
        .collect();
    let total = pieces.iter().map(Bytes::len).sum();
    Ok((pieces, total))
}

/// Where a packet on its way into a tunnel came from, and where errors about it go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum From {
    /// A device.
    Device(PortId),
    /// Another tunnel.
    Tunnel(TunnelHandle),
}

/// A tunnel below 1,280 bytes carries no IPv6 (RFC 8200 §5, RFC 9484 §7.2).
fn fits_version(mtu: u32, info: &PacketInfo) -> Result<(), DropReason> {
    if info.source.is_ipv4() || mtu >= IPV6_MTU {
        Ok(())
    } else {
        Err(DropReason::NoIpv6)
    }
}

/// Which flow a packet belongs to: addresses, protocol and ports; all fragments of a packet, and those
/// of packets between the same hosts, are one flow (RFC 8290 §4.1.1).
pub(super) fn flow_of(key: u64, info: &PacketInfo, packet: &[u8]) -> u32 {
    let mut hash = key;
    let mut mix = |word: u64| {
        hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 29;
    };
    for address in [info.source, info.destination] {
        match address {
            IpAddr::V4(v4) => mix(u64::from(u32::from(v4))),
            IpAddr::V6(v6) => {
                let bits = u128::from(v6);
                mix(bits as u64);
                mix((bits >> 64) as u64);
            }
        }
    }
    let ports = match (info.fragment, info.protocol) {
        (false, 6 | 17 | 33 | 132 | 136) => packet.get(info.transport_offset..),
        _ => None,
    };
    let ports = ports.and_then(|transport| transport.first_chunk::<4>());
    mix(u64::from(info.protocol) << 32
        | u64::from(ports.map_or(0, |ports| u32::from_ne_bytes(*ports))));
    (hash >> 32) as u32
}

/// The bytes of IP and transport headers of a super-packet.
fn header_length(packet: &[u8], info: &PacketInfo) -> usize {
    let transport = match info.protocol {
        6 => packet
            .get(info.transport_offset + 12)
            .map_or(20, |byte| usize::from(byte >> 4) * 4),
        _ => 8,
    };
    info.transport_offset + transport
}

/// How many packets a super-packet stands for.
pub(super) fn packets_in(header: VnetHdr, packet: &[u8], info: &PacketInfo) -> u32 {
    if header.gso_type & !VnetHdr::GSO_ECN == VnetHdr::GSO_NONE || header.gso_size == 0 {
        return 1;
    }
    let payload = packet.len().saturating_sub(header_length(packet, info));
    (payload.div_ceil(usize::from(header.gso_size)) as u32).max(1)
}
