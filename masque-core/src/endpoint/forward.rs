//! The way of an IP packet through the endpoint: device to tunnel, tunnel to device, tunnel to tunnel.

use std::net::IpAddr;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use ipnet::{Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use super::config::{Access, PortConfig};
use super::conn::{Conn, Tunnel, Way, forwardable};
use super::counters::{Counters, DropReason};
use super::queue::RateLimit;
use super::types::{PortId, TunnelHandle};
use crate::session::Command as SessionCommand;
use crate::trace::{Layer, Recorder, TraceEvent, What};
use crate::wire::ip::icmp::{self, IcmpError};
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
    icmp: RateLimit,
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
    pub(super) queued_bytes: usize,
    tunnel_queue_bytes: usize,
    total_queue_bytes: usize,
}

impl Forwarding {
    pub(super) fn new(
        ports: Vec<PortConfig>,
        policy: Option<Policy>,
        limits: &super::config::Limits,
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

    pub(super) fn claim(&mut self, prefix: IpPrefix, owner: TunnelHandle) {
        match prefix.to_ipnet() {
            ipnet::IpNet::V4(net) => self.v4.insert(net, owner),
            ipnet::IpNet::V6(net) => self.v6.insert(net, owner),
        };
    }

    /// Forgets a claim, if it is still `owner`'s.
    pub(super) fn release(&mut self, prefix: IpPrefix, owner: TunnelHandle) {
        match prefix.to_ipnet() {
            ipnet::IpNet::V4(net) if self.v4.get(&net) == Some(&owner) => {
                self.v4.remove(&net);
            }
            ipnet::IpNet::V6(net) if self.v6.get(&net) == Some(&owner) => {
                self.v6.remove(&net);
            }
            _ => {}
        }
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
            if self.in_pool(info.source) && !policy.gateways.contains(&info.source) {
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
        if let Err(reason) = state
            .judge(way, info)
            .and_then(|()| fits_version(state, info))
        {
            // Across tunnels the sender's own rules were checked already; here the receiver's hold.
            let count = packets_in(header, packet, info);
            self.dropped(reason, packet.len(), trace);
            self.refuse(now, conn, from, reason, packet, info);
            return Err((reason, count));
        }
        let largest = match header.gso_type & !VnetHdr::GSO_ECN {
            VnetHdr::GSO_NONE => packet.len(),
            _ => header_length(packet, info) + usize::from(header.gso_size),
        };
        if largest > state.mtu as usize {
            let count = packets_in(header, packet, info);
            let mtu = state.mtu;
            self.dropped(DropReason::TooBig, packet.len(), trace);
            if info.dont_fragment {
                self.report(
                    now,
                    conn,
                    from,
                    IcmpError::PacketTooBig { mtu },
                    packet,
                    info,
                );
            }
            return Err((DropReason::TooBig, count));
        }
        let room = self.tunnel_queue_bytes.saturating_sub(state.queue.bytes());
        if packet.len() > room || self.queued_bytes + packet.len() > self.total_queue_bytes {
            let count = packets_in(header, packet, info);
            self.dropped(DropReason::QueueFull, packet.len(), trace);
            return Err((DropReason::QueueFull, count));
        }
        let Some(datagram_header) = state.header else {
            return self.enter_capsules(conn, tunnel, header, packet);
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
                self.dropped(DropReason::Offload, packet.len(), trace);
                return Err((DropReason::Offload, 1));
            }
        };
        let mut rest = self.arena.split().freeze();
        self.queued_bytes += rest.len();
        state.sent_packets += made.count as u64;
        state.sent_bytes += rest.len() as u64;
        while rest.len() > made.stride {
            state.queue.push(rest.split_to(made.stride));
        }
        state.queue.push(rest);
        Ok(made.count as u32)
    }

    /// For a peer that takes no QUIC datagrams: packets in DATAGRAM capsules, on the stream.
    fn enter_capsules(
        &mut self,
        conn: &mut Conn,
        tunnel: usize,
        header: VnetHdr,
        packet: &[u8],
    ) -> Result<u32, (DropReason, u32)> {
        let id = conn.tunnels[tunnel].handle.tunnel;
        let mut out = BytesMut::new();
        let made =
            segment(header, packet, &[], None, &mut out).map_err(|_| (DropReason::Offload, 1))?;
        let mut rest = out.freeze();
        let mut queued = 0;
        while !rest.is_empty() {
            let packet = rest.split_to(made.stride.min(rest.len()));
            let bytes = packet.len() as u64;
            if conn
                .bridge
                .session()
                .handle_command(SessionCommand::SendPacket { tunnel: id, packet })
                .is_err()
            {
                self.counters
                    .drop(DropReason::QueueFull, (made.count - queued as usize) as u64);
                break;
            }
            let state = &mut conn.tunnels[tunnel];
            state.sent_packets += 1;
            state.sent_bytes += bytes;
            queued += 1;
        }
        if queued == 0 {
            Err((DropReason::QueueFull, made.count as u32))
        } else {
            Ok(queued)
        }
    }

    /// Tells the sender of a refused packet, where that is a thing to tell.
    fn refuse(
        &mut self,
        now: Instant,
        conn: &mut Conn,
        from: From,
        reason: DropReason,
        packet: &[u8],
        info: &PacketInfo,
    ) {
        if let Some(error) = error_for(reason) {
            self.report(now, conn, from, error, packet, info);
        }
    }

    pub(super) fn report(
        &mut self,
        now: Instant,
        conn: &mut Conn,
        from: From,
        error: IcmpError,
        packet: &[u8],
        info: &PacketInfo,
    ) {
        match from {
            From::Device(port) => self.answer_to_device(now, port, error, packet, info),
            From::Tunnel(to) => {
                let source = self
                    .own_address(conn.port, info.source.is_ipv4())
                    .unwrap_or(info.destination);
                let Some(answer) = icmp::build(error, source, packet) else {
                    return;
                };
                let allowed = conn
                    .tunnels
                    .first_mut()
                    .is_some_and(|tunnel| tunnel.icmp.allow(now));
                if allowed {
                    self.counters.icmp_sent += 1;
                    self.across.push(Across {
                        to,
                        packet: answer.into(),
                    });
                } else {
                    self.counters.icmp_limited += 1;
                }
            }
        }
    }

    /// An ICMP error about a packet that came from a device goes back to it. Its source is the
    /// packet's destination: an address of our own would be a martian to the kernel.
    pub(super) fn answer_to_device(
        &mut self,
        now: Instant,
        port: PortId,
        error: IcmpError,
        packet: &[u8],
        info: &PacketInfo,
    ) {
        let Some(device) = self
            .ports
            .iter_mut()
            .find(|device| device.config.id == port)
        else {
            return;
        };
        let Some(answer) = icmp::build(error, info.destination, packet) else {
            return;
        };
        if device.icmp.allow(now) {
            device.out.push(&answer);
            self.counters.icmp_sent += 1;
        } else {
            self.counters.icmp_limited += 1;
        }
    }

    /// An ICMP error about a packet that came out of a tunnel goes back into it.
    fn answer_inside(
        &mut self,
        now: Instant,
        conn: &mut Conn,
        tunnel: usize,
        error: IcmpError,
        packet: &[u8],
        info: &PacketInfo,
    ) {
        let source = self.own_address(conn.port, info.source.is_ipv4());
        let state = &mut conn.tunnels[tunnel];
        // Only to addresses that are the client's: a spoofed source is answered to nobody.
        if !state
            .addresses
            .iter()
            .any(|prefix| prefix.contains(info.source))
        {
            return;
        }
        let Some(answer) = source.and_then(|source| icmp::build(error, source, packet)) else {
            return;
        };
        if !state.icmp.allow(now) {
            self.counters.icmp_limited += 1;
            return;
        }
        let room = self.tunnel_queue_bytes.saturating_sub(state.queue.bytes());
        if let (Some(header), true) = (state.header, answer.len() <= (state.mtu as usize).min(room))
        {
            let mut datagram = BytesMut::with_capacity(header.as_slice().len() + answer.len());
            datagram.extend_from_slice(header.as_slice());
            datagram.extend_from_slice(&answer);
            self.queued_bytes += datagram.len();
            state.queue.push(datagram.freeze());
            self.counters.icmp_sent += 1;
        }
    }

    fn own_address(&self, port: PortId, v4: bool) -> Option<IpAddr> {
        self.port(port)?
            .config
            .addresses
            .iter()
            .copied()
            .find(|address| address.is_ipv4() == v4)
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

/// Where a packet on its way into a tunnel came from, and where errors about it go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum From {
    /// A device.
    Device(PortId),
    /// Another tunnel.
    Tunnel(TunnelHandle),
}

/// A tunnel below 1,280 bytes carries no IPv6 (RFC 8200 §5, RFC 9484 §7.2).
fn fits_version(tunnel: &Tunnel, info: &PacketInfo) -> Result<(), DropReason> {
    if info.source.is_ipv4() || tunnel.mtu >= 1280 {
        Ok(())
    } else {
        Err(DropReason::NoIpv6)
    }
}

/// What a drop is told as, if it is told.
fn error_for(reason: DropReason) -> Option<IcmpError> {
    match reason {
        DropReason::SourceNotAssigned => Some(IcmpError::SourcePolicy),
        DropReason::DestinationNotRouted | DropReason::NoTunnel | DropReason::NoIpv6 => {
            Some(IcmpError::NoRoute)
        }
        DropReason::OutOfScope | DropReason::Prohibited | DropReason::ClientToClient => {
            Some(IcmpError::Prohibited)
        }
        _ => None,
    }
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
