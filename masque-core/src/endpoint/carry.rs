//! Packets between devices, tunnels and QUIC.

use std::time::Instant;

use super::conn::{self, Conn};
use super::forward::{self, Across, From as PacketFrom, Place};
use super::{DropReason, Endpoint, PortId, TunnelHandle};
use crate::wire::ip::PacketInfo;
use crate::wire::ip::icmp::IcmpError;
use crate::wire::offload::VnetHdr;

impl Endpoint {
    /// Finds the tunnel of a packet from a device and queues it there.
    pub(super) fn take_from_port(
        &mut self,
        now: Instant,
        port: PortId,
        header: VnetHdr,
        data: &[u8],
    ) -> Result<u32, (DropReason, u32)> {
        let info = match PacketInfo::parse(data) {
            Ok(info) => info,
            Err(_) => {
                self.fwd
                    .dropped(DropReason::Malformed, data.len(), &mut self.trace);
                return Err((DropReason::Malformed, 1));
            }
        };
        let from = PacketFrom::Device(port);
        if !info.source_routed
            && let Some(place) = self.fwd.last_place(port, &info)
        {
            let result = self.enter_at(now, place, true, header, data, &info, from);
            return self.counted(result);
        }
        let handle = match self.fwd.route(port, &info) {
            Ok(handle) => handle,
            Err(reason) => {
                self.fwd.dropped(reason, data.len(), &mut self.trace);
                if reason == DropReason::NoTunnel && self.fwd.in_pool(info.destination) {
                    let error = IcmpError::AddressUnreachable;
                    self.fwd.answer_to_device(now, port, error, data, &info);
                }
                return Err((reason, 1));
            }
        };
        if let Some(shard) = self.elsewhere(handle.conn) {
            return Ok(self.send_on(shard, handle, port, header, data, &info));
        }
        let Some(place) = self.place_of(handle) else {
            return self.no_tunnel(data);
        };
        let result = self.enter_at(now, place, false, header, data, &info, from);
        // Of ICMP, what is quoted is looked at too.
        if result.is_ok() && !conn::is_icmp(&info) {
            self.fwd.remember(port, &info, place);
        }
        self.counted(result)
    }

    /// Queues a packet from a device of another shard in a tunnel that is here.
    pub(super) fn enter_from_port(
        &mut self,
        now: Instant,
        handle: TunnelHandle,
        port: PortId,
        header: VnetHdr,
        data: &[u8],
        info: &PacketInfo,
    ) -> Result<u32, (DropReason, u32)> {
        let from = PacketFrom::Device(port);
        let result = self.enter_tunnel(now, handle, header, data, info, from);
        self.counted(result)
    }

    fn counted(
        &mut self,
        result: Result<u32, (DropReason, u32)>,
    ) -> Result<u32, (DropReason, u32)> {
        self.fwd.counters.packets_in += u64::from(*result.as_ref().unwrap_or(&0));
        result
    }

    fn no_tunnel(&mut self, data: &[u8]) -> Result<u32, (DropReason, u32)> {
        let reason = DropReason::NoTunnel;
        self.fwd.dropped(reason, data.len(), &mut self.trace);
        Err((reason, 1))
    }

    fn place_of(&self, handle: TunnelHandle) -> Option<Place> {
        let conn = *self.ids.get(&handle.conn)?;
        let mut tunnels = self.conns.get(conn)?.as_ref()?.tunnels.iter();
        let tunnel = tunnels.position(|tunnel| tunnel.handle == handle)?;
        Some(Place {
            handle,
            conn,
            tunnel,
        })
    }

    pub(super) fn hop_limit_exceeded(&mut self, now: Instant, port: PortId, packet: &[u8]) {
        self.fwd
            .dropped(DropReason::HopLimit, packet.len(), &mut self.trace);
        if let Ok(info) = PacketInfo::parse(packet) {
            let error = IcmpError::TimeExceeded;
            self.fwd.answer_to_device(now, port, error, packet, &info);
        }
    }

    pub(super) fn enter_tunnel(
        &mut self,
        now: Instant,
        handle: TunnelHandle,
        header: VnetHdr,
        data: &[u8],
        info: &PacketInfo,
        from: PacketFrom,
    ) -> Result<u32, (DropReason, u32)> {
        match self.place_of(handle) {
            Some(place) => self.enter_at(now, place, false, header, data, info, from),
            None => self.no_tunnel(data),
        }
    }

    /// `judged`: the rules of forwarding were asked about such a packet before, and have not changed.
    #[expect(clippy::too_many_arguments, reason = "the path of a packet")]
    fn enter_at(
        &mut self,
        now: Instant,
        place: Place,
        judged: bool,
        header: VnetHdr,
        data: &[u8],
        info: &PacketInfo,
        from: PacketFrom,
    ) -> Result<u32, (DropReason, u32)> {
        let (at, index) = (place.conn, place.tunnel);
        let conn = self.conns.get_mut(at).and_then(Option::as_mut);
        let is_there = |conn: &&mut Box<Conn>| {
            let tunnel = conn.tunnels.get(index);
            tunnel.is_some_and(|tunnel| tunnel.handle == place.handle)
        };
        let Some(conn) = conn.filter(is_there) else {
            return self.no_tunnel(data);
        };
        let result = self.fwd.enter_tunnel(
            now,
            conn,
            index,
            judged,
            header,
            data,
            info,
            from,
            &mut self.trace,
        );
        conn.pay_for_entry(data.len());
        self.turns.wake(at, conn);
        let tunnel = conn.tunnels.get(index);
        if tunnel.is_some_and(|tunnel| tunnel.header.is_none()) {
            self.drive(now, at);
        }
        result
    }

    /// Packets between clients, and ICMP errors about them. Each round may bring ICMP errors about
    /// packets of the one before, never errors about errors: two rounds always suffice.
    pub(super) fn deliver_across(&mut self, now: Instant) {
        // Reached again from a connection driven below, it leaves the rest to the call that drives:
        // the stack stays flat whoever sends to whom.
        if std::mem::replace(&mut self.delivering, true) {
            return;
        }
        while !self.fwd.across.is_empty() {
            for Across { to, packet } in std::mem::take(&mut self.fwd.across) {
                if let Some(shard) = self.elsewhere(to.conn) {
                    self.send_across(shard, to, packet);
                    continue;
                }
                let Ok(info) = PacketInfo::parse(&packet) else {
                    continue;
                };
                let from = self
                    .fwd
                    .owner(info.source)
                    .map_or(PacketFrom::Device(PortId(u32::MAX)), PacketFrom::Tunnel);
                if let Ok(queued) =
                    self.enter_tunnel(now, to, VnetHdr::default(), &packet, &info, from)
                {
                    self.fwd.counters.packets_across += u64::from(queued);
                }
            }
        }
        self.delivering = false;
    }

    /// Hands QUIC what it can send soon, tunnel after tunnel: its own queue stays short, so that ours
    /// decides what waits and what is dropped.
    pub(super) fn feed(&mut self, now: Instant, conn: &mut Conn) {
        if conn.is_silent(now) {
            // It waits where it can still be handed over, or dropped when it is stale.
            return;
        }
        let largest = conn.bridge.max_datagram().unwrap_or(0);
        // Long turns keep the packets of a flow together, which the far end then writes as one; short
        // ones keep others from waiting: on a fast path a turn is a super-packet, on a slow one a packet.
        let (mut room, quantum) = conn.bridge.datagram_room();
        let round_trip = conn.bridge.round_trip();
        let lossy = conn.bridge.lost_per_thousand();
        for tunnel in &mut conn.tunnels {
            tunnel.queue.expect(round_trip, lossy);
            let limit = tunnel.expected.map_or(usize::MAX, |_| largest);
            if tunnel.queue.has_parked(limit) {
                tunnel.queue.unpark(limit);
            }
        }
        let mut idle = 0;
        while idle < conn.tunnels.len() && room > 0 {
            conn.turn += 1;
            if conn.turn >= conn.tunnels.len() {
                conn.turn = 0;
            }
            let tunnel = &mut conn.tunnels[conn.turn];
            let prefix = tunnel.header.as_ref();
            let prefix = prefix.map_or(0, |header| header.as_slice().len());
            let before = tunnel.queue.bytes();
            let datagram = tunnel.queue.pop(now, prefix, quantum);
            self.fwd.queued_bytes -= before - tunnel.queue.bytes();
            if tunnel.queue.has_losses() {
                let losses = tunnel.queue.take_losses();
                self.fwd
                    .counters
                    .drop(DropReason::Congestion, losses.dropped);
                self.fwd.counters.congestion_marked += losses.marked;
            }
            let Some(datagram) = datagram else {
                idle += 1;
                continue;
            };
            let length = datagram.len();
            if length > largest {
                if tunnel.is_finding(now) {
                    // The probe that is under way may show that the path takes it.
                    self.fwd.queued_bytes += length;
                    tunnel.queue.push_front(datagram);
                    idle += 1;
                    continue;
                }
                idle = 0;
                if length <= prefix.saturating_add(tunnel.may_carry(now) as usize) {
                    self.fwd.queued_bytes += length;
                    tunnel.queue.park(datagram);
                    continue;
                }
                self.too_large(now, conn, &datagram);
                continue;
            }
            idle = 0;
            room = room.saturating_sub(length);
            match conn.bridge.send_datagram(datagram) {
                Ok(()) => {
                    if let Some(client) = &mut conn.client {
                        client.ask(now);
                    }
                }
                Err(quinn_proto::SendDatagramError::Blocked(datagram)) => {
                    self.fwd.queued_bytes += length;
                    conn.tunnels[conn.turn].queue.push_front(datagram);
                    return;
                }
                Err(_) => self.fwd.dropped(DropReason::Quic, length, &mut self.trace),
            }
        }
    }

    /// The path shrank while a packet was queued.
    pub(super) fn too_large(&mut self, now: Instant, conn: &mut Conn, datagram: &[u8]) {
        let tunnel = &mut conn.tunnels[conn.turn];
        let header = tunnel.header.map_or(0, |header| header.as_slice().len());
        let (prefix, packet) = datagram.split_at_checked(header).unwrap_or_default();
        let Ok(info) = PacketInfo::parse(packet) else {
            let reason = DropReason::Malformed;
            return self.fwd.dropped(reason, datagram.len(), &mut self.trace);
        };
        let max = conn.bridge.max_datagram().unwrap_or(0);
        let mtu = conn::tunnel_mtu(max, header);
        if packet.len() > mtu as usize
            && !info.dont_fragment
            && let Ok((pieces, _)) = forward::cut(prefix, packet, mtu)
        {
            for piece in pieces.into_iter().rev() {
                self.fwd.queued_bytes += piece.len();
                tunnel.queue.push_front(piece);
            }
            return;
        }
        let (reason, error) = if info.source.is_ipv6() && mtu < 1280 {
            (DropReason::NoIpv6, IcmpError::NoRoute)
        } else {
            (DropReason::TooBig, IcmpError::PacketTooBig { mtu })
        };
        self.fwd.dropped(reason, datagram.len(), &mut self.trace);
        let from = match self.fwd.owner(info.source) {
            Some(owner) => PacketFrom::Tunnel(owner),
            None => PacketFrom::Device(conn.port),
        };
        self.fwd
            .report(now, conn, conn.turn, from, error, packet, &info);
    }
}
