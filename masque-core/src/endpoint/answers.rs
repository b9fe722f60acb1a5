//! ICMP errors: to whom, and how many (RFC 9484 §7.2.1).

use std::net::IpAddr;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::conn::Conn;
use super::counters::DropReason;
use super::forward::{Across, Forwarding, From, flow_of};
use super::types::PortId;
use crate::wire::ip::PacketInfo;
use crate::wire::ip::icmp::{self, IcmpError};

impl Forwarding {
    /// Tells the sender of a packet that did not get into a tunnel.
    #[expect(clippy::too_many_arguments, reason = "what, about what, and to whom")]
    pub(super) fn report(
        &mut self,
        now: Instant,
        conn: &mut Conn,
        tunnel: usize,
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
                    .get_mut(tunnel)
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
    pub(super) fn answer_inside(
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
        let flow = flow_of(self.flow_key, info, packet);
        if self.originate(now, conn, tunnel, answer, flow) {
            self.counters.icmp_sent += 1;
        }
    }

    /// Puts a packet of our own into a tunnel, if it fits and there is room.
    pub(super) fn originate(
        &mut self,
        now: Instant,
        conn: &mut Conn,
        tunnel: usize,
        packet: Vec<u8>,
        flow: u32,
    ) -> bool {
        let state = &mut conn.tunnels[tunnel];
        if packet.len() > state.mtu as usize {
            return false;
        }
        let Some(header) = state.header else {
            let packets = std::iter::once(Bytes::from(packet));
            return self.send_capsules(conn, tunnel, packets, 1).is_ok();
        };
        let mut datagram = BytesMut::with_capacity(header.as_slice().len() + packet.len());
        datagram.extend_from_slice(header.as_slice());
        datagram.extend_from_slice(&packet);
        let has_room = self.make_room(state, datagram.len());
        if has_room {
            self.queued_bytes += datagram.len();
            let length = datagram.len();
            state.queue.push(now, flow, datagram.freeze(), length);
        }
        has_room
    }

    pub(super) fn own_address(&self, port: PortId, v4: bool) -> Option<IpAddr> {
        self.port(port)?
            .config
            .addresses
            .iter()
            .copied()
            .find(|address| address.is_ipv4() == v4)
    }
}

/// What a drop is told as, if it is told.
pub(super) fn error_for(reason: DropReason) -> Option<IcmpError> {
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
