//! The way of an IP packet through the endpoint: device to tunnel, tunnel to device, tunnel to tunnel.

use std::net::IpAddr;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use ipnet::{Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use super::answers::error_for;
use super::config::{Access, PortConfig};
use super::conn::{Conn, IPV6_MTU, Tunnel, Way, forwardable};
use super::counters::{Counters, DropReason};
use super::rate::RateLimit;
use super::types::{PortId, TunnelHandle};
use crate::session::Command as SessionCommand;
use crate::trace::{Layer, Recorder, TraceEvent, What};
use crate::wire::ip::fragment::{FragmentError, MIN_MTU, fragments};
use crate::wire::ip::icmp::IcmpError;
use crate::wire::ip::{self, PacketInfo};
use crate::wire::offload::{Coalescer, TunFrame, VnetHdr, segment};
use crate::wire::prefix::IpPrefix;
use crate::wire::stream::Role;

/// Bytes taken from the allocator at a time for packets on their way into tunnels.
const ARENA: usize = 256 << 10;
/// What one super-packet can need at most: 64 KiB of payload in segments with headers of their own.
const SUPER_PACKET: usize = 160 << 10;

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
    pub(super) gateways: Vec<IpAddr>,
    pub(super) port: PortId,
    /// Pools and static assignments: where clients' addresses are.
    pub(super) client_space: Vec<IpPrefix>,
}

/// A packet on its way from one tunnel to another.
pub(super) struct Across {
    pub(super) to: TunnelHandle,
    pub(super) packet: Bytes,
}

/// Everything forwarding needs beside the connections themselves.
pub(super) struct Forwarding {
    pub(super) ports: Vec<Port>,
    v4: PrefixMap<Ipv4Net, TunnelHandle>,
    v6: PrefixMap<Ipv6Net, TunnelHandle>,
    pub(super) policy: Option<Policy>,
    pub(super) counters: Counters,
    pub(super) across: Vec<Across>,
    arena: BytesMut,
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
            v4: PrefixMap::new(),
            v6: PrefixMap::new(),
            policy,
            counters: Counters::default(),
            across: Vec::new(),
            arena: BytesMut::new(),
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
        match address {
            IpAddr::V4(v4) => self.v4.get_lpm(&Ipv4Net::from(v4)).map(|(_, owner)| *owner),
            IpAddr::V6(v6) => self.v6.get_lpm(&Ipv6Net::from(v6)).map(|(_, owner)| *owner),
        }
    }

    /// Packets for `prefix` go to `owner`, unless a newer tunnel has the same prefix: tunnels of one
    /// identity share addresses, and which was established last is a matter of luck.
    pub(super) fn claim(&mut self, prefix: IpPrefix, owner: TunnelHandle) {
        let older = |other: &TunnelHandle| *other < owner;
        match prefix.to_ipnet() {
            ipnet::IpNet::V4(net) if self.v4.get(&net).is_none_or(older) => {
                self.v4.insert(net, owner);
            }
            ipnet::IpNet::V6(net) if self.v6.get(&net).is_none_or(older) => {
                self.v6.insert(net, owner);
            }
            _ => {}
        }
    }

    /// Forgets a claim, if it is still `owner`'s, and says whether it was.
    pub(super) fn release(&mut self, prefix: IpPrefix, owner: TunnelHandle) -> bool {
        match prefix.to_ipnet() {
            ipnet::IpNet::V4(net) if self.v4.get(&net) == Some(&owner) => {
                self.v4.remove(&net).is_some()
            }
            ipnet::IpNet::V6(net) if self.v6.get(&net) == Some(&owner) => {
                self.v6.remove(&net).is_some()
            }
            _ => false,
        }
    }

    /// How many prefixes and devices lead to tunnels.
    pub(super) fn claims(&self) -> usize {
        let of_clients = self.ports.iter().map(|port| port.clients.len());
        self.v4.len() + self.v6.len() + of_clients.sum::<usize>()
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
        let verdict = state.judge(way, &info).and_then(|()| match way {
            Way::Up => self.admit(&info, state.handle),
            Way::Down => Ok(None),
        });
        match verdict {
            Ok(None) => {
                self.counters.packets_out += 1;
                if let Some(port) = self.port_mut(conn.port) {
                    port.out.push(packet);
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
        if policy.access.deny.iter().any(|prefix| prefix.contains(to)) {
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

    fn in_pool(&self, address: IpAddr) -> bool {
        let space = self
            .policy
            .as_ref()
            .map(|policy| policy.client_space.as_slice())
            .unwrap_or_default();
        space.iter().any(|prefix| prefix.contains(address))
    }

    /// Judges a packet from a device and finds its tunnel.
    pub(super) fn route(
        &self,
        port: PortId,
        info: &PacketInfo,
    ) -> Result<TunnelHandle, DropReason> {
        if !forwardable(info.source) || !forwardable(info.destination) {
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
        if let Err(reason) = state
            .judge(way, info)
            .and_then(|()| fits_version(mtu, info))
        {
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
        if self.arena.capacity() - self.arena.len() < SUPER_PACKET.min(packet.len() * 2 + 256) {
            self.arena.reserve(ARENA);
        }
        let made = match segment(
            header,
            packet,
            datagram_header.as_slice(),
            None,
            &mut self.arena,
        ) {
            Ok(made) => made,
            Err(_) => {
                let reason = DropReason::Offload;
                return Err((reason, self.lost(reason, header, packet, info, trace)));
            }
        };
        let mut rest = self.arena.split().freeze();
        self.queued_bytes += rest.len();
        state.sent_packets += made.count as u64;
        state.sent_bytes += rest.len() as u64;
        let parts = std::iter::from_fn(|| {
            let part = rest.split_to(made.stride.min(rest.len()));
            (!part.is_empty()).then_some(part)
        });
        state.queue.push(now, flow, parts);
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
        state.queue.push(now, flow, pieces.into_iter());
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

    /// Whether all tunnels together may queue `bytes` more.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.queued_bytes + bytes <= self.total_queue_bytes
    }

    /// Whether `bytes` more may be queued: a full queue first sheds what its fattest flow has.
    pub(super) fn make_room(&mut self, tunnel: &mut Tunnel, bytes: usize) -> bool {
        loop {
            let queued = tunnel.queue.bytes();
            let fits = queued + bytes <= self.tunnel_queue_bytes && self.has_room(bytes);
            if fits {
                return true;
            }
            let shed = tunnel.queue.shed();
            if shed == 0 {
                return false;
            }
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
fn packets_in(header: VnetHdr, packet: &[u8], info: &PacketInfo) -> u32 {
    if header.gso_type & !VnetHdr::GSO_ECN == VnetHdr::GSO_NONE || header.gso_size == 0 {
        return 1;
    }
    let payload = packet.len().saturating_sub(header_length(packet, info));
    (payload.div_ceil(usize::from(header.gso_size)) as u32).max(1)
}
