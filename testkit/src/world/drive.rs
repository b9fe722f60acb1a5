//! Draining an endpoint as its contract says, and where its output goes.

use std::net::SocketAddr;

use masque_core::endpoint::{Ecn, Endpoint, PortId, TimerReason, Transmit};
use masque_core::wire::offload::VnetHdr;

use super::host::{Action, Host, HostCx};
use super::link::{Loss, overhead};
use super::router::{RouterId, Transit};
use super::trace::Place;
use super::{Input, NodeId, Tapped, World};
use crate::packet;

/// More than any honest endpoint does in one step.
const MAX_OUTPUTS: usize = 100_000;

/// Changes one bit of a datagram.
pub(super) fn flip(data: &mut [u8], flip: Option<u64>) {
    if let Some(flip) = flip
        && !data.is_empty()
    {
        let bits = data.len() as u64 * 8;
        let bit = usize::try_from(flip % bits).expect("a datagram has fewer bits");
        data[bit / 8] ^= 1 << (bit % 8);
    }
}

impl World {
    /// The contract's loop: everything out, then the deadline.
    pub(super) fn drain(&mut self, id: NodeId) {
        let now = self.instant();
        let Some(mut endpoint) = self.nodes[id.0].endpoint.take() else {
            return;
        };
        self.log_endpoint(id, &mut endpoint);
        let mut buffer = std::mem::take(&mut self.nodes[id.0].transmit);
        let mut batch = std::mem::take(&mut self.nodes[id.0].batch);
        let mut outputs = 0;
        let mut asked_again = false;
        let mut deadline;
        loop {
            let before = outputs;
            buffer.clear();
            while let Some(transmit) = endpoint.poll_transmit(now, self.max_segments, &mut buffer) {
                self.log_endpoint(id, &mut endpoint);
                self.transmit(id, &transmit, &buffer);
                buffer.clear();
                outputs += 1;
                self.check_drain(id, outputs);
            }
            while endpoint.poll_tun(&mut batch) {
                for frame in &batch.frames {
                    self.deliver(id, batch.port, frame.header(), frame.packet());
                }
                outputs += 1;
                self.check_drain(id, outputs);
            }
            outputs += self.post(id, &mut endpoint);
            while let Some(event) = endpoint.poll_event() {
                self.log(id, format_args!("event {event:?}"));
                let node = &mut self.nodes[id.0];
                node.note(&event);
                node.events.push((self.now, event.clone()));
                self.watch_event(id, &event);
                self.with_host(id, |host, cx| host.on_event(cx, &event));
                outputs += 1;
                self.check_drain(id, outputs);
            }
            if outputs > before {
                continue;
            }
            deadline = endpoint.poll_timeout();
            self.log_endpoint(id, &mut endpoint);
            let queued = deadline.is_some_and(|it| it.reason == TimerReason::QueuedOutput);
            // Being asked for a deadline is when an endpoint finds that its shutdown is complete, and
            // says so: one more round, not two.
            if !queued || asked_again {
                break;
            }
            asked_again = true;
        }
        self.note_paths(id, &endpoint);
        let node = &mut self.nodes[id.0];
        node.endpoint = Some(endpoint);
        node.transmit = buffer;
        node.batch = batch;
        let deadline = deadline.map(|deadline| {
            let name = &self.nodes[id.0].name;
            let reason = deadline.reason;
            // quinn-proto counts a probe timeout from the last packet it sent, however long ago
            // that was: its deadlines may have passed when they are set.
            let quic = matches!(reason, TimerReason::Quic(_));
            assert!(
                deadline.at >= now || quic,
                "{name} at {:?}: deadline in the past: {reason:?}",
                self.now
            );
            assert!(
                reason != TimerReason::QueuedOutput,
                "{name} at {:?}: output queued after draining",
                self.now
            );
            (deadline.at.max(now).duration_since(self.base), reason)
        });
        if let Some((at, reason)) = deadline
            && self.nodes[id.0].deadline != deadline
        {
            self.log(
                id,
                format_args!("wakes at {} for {reason:?}", at.as_micros()),
            );
        }
        self.nodes[id.0].deadline = deadline;
        self.check_drained(id);
    }

    fn note_paths(&mut self, id: NodeId, endpoint: &Endpoint) {
        if !self.trace.is_capturing() {
            return;
        }
        let name = &self.nodes[id.0].name;
        for conn in endpoint.connections() {
            if let Some(info) = endpoint.connection(conn) {
                let seen = (info.rtt, info.congestion_window);
                self.trace.path(self.now, name, conn.0, seen);
            }
        }
    }

    fn check_drain(&self, id: NodeId, outputs: usize) {
        assert!(
            outputs <= MAX_OUTPUTS,
            "{} at {:?}: an endless drain",
            self.nodes[id.0].name,
            self.now
        );
    }

    pub(super) fn log_endpoint(&mut self, id: NodeId, endpoint: &mut Endpoint) {
        if self.trace.is_on() {
            for event in endpoint.take_trace() {
                let name = &self.nodes[id.0].name;
                self.trace.core(self.now, name, event);
            }
        }
        self.fates_met(id);
    }

    fn transmit(&mut self, id: NodeId, transmit: &Transmit, buffer: &[u8]) {
        let node = &self.nodes[id.0];
        let name = &node.name;
        assert!(transmit.size > 0, "{name}: an empty transmit");
        assert!(
            transmit.size <= buffer.len(),
            "{name}: more than the buffer"
        );
        let segment = transmit.segment_size.unwrap_or(transmit.size);
        assert!(segment > 0, "{name}: segments of no bytes");
        let segments = transmit.size.div_ceil(segment);
        assert!(
            segments <= self.max_segments.get(),
            "{name}: {segments} segments"
        );
        let mut from = *node
            .sockets
            .get(transmit.socket.0 as usize)
            .unwrap_or_else(|| panic!("{name}: no socket {:?}", transmit.socket));
        if node.down.contains(&transmit.socket.0) {
            self.stats.no_link += 1;
            return;
        }
        if let Some(ip) = transmit.src_ip
            && node.sockets.iter().any(|own| own.ip() == ip)
        {
            from.set_ip(ip);
        }
        for data in buffer[..transmit.size].chunks(segment) {
            self.send(id, from, transmit.destination, transmit.ecn, data);
        }
    }

    fn send(
        &mut self,
        id: NodeId,
        from: SocketAddr,
        to: SocketAddr,
        ecn: Option<Ecn>,
        data: &[u8],
    ) {
        let name = &self.nodes[id.0].name;
        let place = Place::Sent { from, to };
        self.trace.packet(self.now, name, place, data);
        if let Some(tap) = &mut self.tap {
            tap.push(Tapped {
                at: self.now,
                node: id,
                to,
                ecn,
                data: data.to_vec(),
            });
        }
        let words = format!("-> udp {} bytes {from} > {to}", data.len());
        if self.reaches_stranger(from, to, data) {
            return;
        }
        let origin = self.head(id);
        let behind = self.nodes[origin.0].behind;
        let datagram = Transit {
            router: behind.unwrap_or(RouterId(0)),
            outward: true,
            origin,
            from,
            to,
            ecn,
            data: data.to_vec(),
        };
        let Some(peer) = self.destination(to) else {
            self.stats.unknown_destination += 1;
            self.log(id, format_args!("{words}: nobody has the address"));
            return;
        };
        if behind.is_none() && self.nodes[peer.0].behind.is_some() {
            self.log(id, &words);
            self.send_up(None, datagram);
            return;
        }
        let Some(link) = self.links.get_mut(&(origin, peer)) else {
            self.stats.no_link += 1;
            self.log(id, format_args!("{words}: no link"));
            return;
        };
        let passage = match link.send(self.now, data.len() + overhead(to), ecn) {
            Ok(passage) => passage,
            Err(loss) => {
                self.log(id, format_args!("{words}: {}", loss.name()));
                return;
            }
        };
        self.log(
            id,
            format_args!("{words} arrives at {}", passage.at.as_micros()),
        );
        let mut datagram = datagram;
        datagram.ecn = passage.ecn;
        flip(&mut datagram.data, passage.flip);
        for at in [Some(passage.at), passage.again].into_iter().flatten() {
            let datagram = datagram.clone();
            let input = if behind.is_some() {
                Input::Transit(Box::new(datagram))
            } else {
                Input::Datagram {
                    from,
                    to,
                    ecn: datagram.ecn,
                    data: datagram.data,
                }
            };
            self.schedule(at, input);
        }
    }

    /// Puts a packet that no endpoint has to do with onto a link.
    pub(super) fn send_outside(&mut self, from: NodeId, to: NodeId, data: Vec<u8>) {
        let Some(link) = self.links.get_mut(&(from, to)) else {
            self.stats.no_link += 1;
            return;
        };
        let told = link.config.icmp.then_some(link.config.mtu);
        let passage = match link.send(self.now, data.len(), None) {
            Ok(passage) => passage,
            Err(loss) => {
                let mtu = told.filter(|_| loss == Loss::TooBig);
                if let Some(answer) = mtu.and_then(|mtu| packet::too_big(&data, mtu)) {
                    let (from, to) = (to, from);
                    let data = answer;
                    self.schedule(self.now, Input::OutsideArrives { from, to, data });
                }
                return;
            }
        };
        // A changed bit is a checksum error to whoever gets it.
        if passage.flip.is_some() {
            return;
        }
        for at in [Some(passage.at), passage.again].into_iter().flatten() {
            let data = data.clone();
            self.schedule(at, Input::OutsideArrives { from, to, data });
        }
    }

    fn deliver(&mut self, id: NodeId, port: PortId, header: VnetHdr, packet: &[u8]) {
        let name = &self.nodes[id.0].name;
        self.trace.packet(self.now, name, Place::OutOfTun, packet);
        self.log(id, format_args!("-> tun {}", packet::summary(packet)));
        let node = &mut self.nodes[id.0];
        let config = node.config.ports.iter().find(|config| config.id == port);
        let offload = config.is_some_and(|config| config.tcp_offload || config.udp_offload);
        let plain = header.gso_type == VnetHdr::GSO_NONE && header.flags & VnetHdr::NEEDS_CSUM == 0;
        assert!(
            offload || plain,
            "{}: {header:?} without offload",
            node.name
        );
        node.delivered += 1;
        if !offload {
            self.watch_delivery(id, packet);
        }
        self.with_host(id, |host, cx| host.on_packet(cx, port, packet));
    }

    pub(super) fn with_host(
        &mut self,
        id: NodeId,
        call: impl FnOnce(&mut dyn Host, &mut HostCx<'_>),
    ) {
        let mut actions = Vec::new();
        let mut cx = HostCx {
            now: self.now,
            actions: &mut actions,
        };
        call(&mut *self.nodes[id.0].host, &mut cx);
        for (after, action) in actions {
            let node = id;
            let input = match action {
                Action::Packet(port, data) => Input::Packet { node, port, data },
                Action::Outside(to, data) => Input::Outside {
                    from: node,
                    to,
                    data,
                },
                Action::Command(command) => Input::Command { node, command },
                Action::Connect(target) => Input::Connect { node, target },
                Action::Wake(token) => Input::Wake { node, token },
            };
            self.schedule(self.now + after, input);
        }
    }
}
