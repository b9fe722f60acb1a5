//! One connection at a time: what came for it goes in, what follows from that is done.

use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn_proto::ConnectionHandle;

use super::admit::Ticket;
use super::beside::Beside;
use super::bridge::{Bridge, BridgeEvent};
use super::conn::{Conn, Expected, Tunnel};
use super::early::Early;
use super::shard::Notice;
use super::turns::Budget;
use super::{
    CloseReason, ConnId, DropReason, Endpoint, Event, PortId, SocketId, TunnelClosed, TunnelHandle,
};
use crate::error::H3Code;
use crate::session::{DatagramDrop, DatagramVerdict, Event as SessionEvent, Session, SessionEnd};
use crate::trace::What;
use crate::wire::stream::Role;

/// How long a client has to complete its handshake.
const HANDSHAKE_TIME: Duration = Duration::from_secs(15);

impl Endpoint {
    /// Makes a connection ours.
    #[expect(clippy::too_many_arguments, reason = "each is one field")]
    pub(super) fn adopt(
        &mut self,
        handle: ConnectionHandle,
        connection: quinn_proto::Connection,
        role: Role,
        socket: SocketId,
        port: PortId,
        remote: std::net::SocketAddr,
        pays: Option<Ticket>,
    ) -> ConnId {
        let id = self.seat.shared.next_id(self.seat.id);
        self.admission.arrived();
        let mut session = Session::new(role, self.session.clone());
        session.set_tracing(self.trace.is_on());
        #[cfg(feature = "lab")]
        self.tapped(id, &mut session);
        let conn = Conn {
            id,
            role,
            bridge: Bridge::new(connection, session, role, self.profile.datagram_send_buffer),
            socket,
            port,
            identity: None,
            expires: None,
            pays,
            handshake_by: None,
            tunnels: Vec::new(),
            turn: 0,
            in_ring: false,
            credit: 0,
            known: None,
            timer_dirty: false,
            armed: None,
            closing: None,
            closed_told: false,
            remote,
            beside: Beside::default(),
            resolving: Vec::new(),
            early: Early::default(),
            asked: crate::wire::scope::Scope::default(),
            client: None,
        };
        if self.conns.len() <= handle.0 {
            self.conns.resize_with(handle.0 + 1, || None);
        }
        self.conns[handle.0] = Some(Box::new(conn));
        self.ids.insert(id, handle.0);
        id
    }

    pub(super) fn adopt_server(
        &mut self,
        handle: ConnectionHandle,
        connection: quinn_proto::Connection,
        socket: SocketId,
        remote: std::net::SocketAddr,
        ticket: Ticket,
    ) {
        let port = self
            .server
            .as_ref()
            .map(|server| server.port)
            .unwrap_or_default();
        let id = self.adopt(
            handle,
            connection,
            Role::Server,
            socket,
            port,
            remote,
            Some(ticket),
        );
        if let Some(conn) = self.conns[handle.0].as_mut() {
            conn.handshake_by = self.now.checked_add(HANDSHAKE_TIME);
        }
        self.trace(Some(id), || What::State {
            from: "none",
            to: "handshake",
        });
    }

    /// Lets a connection take in what has come for it, then does what follows from that.
    pub(super) fn drive(&mut self, now: Instant, at: usize) {
        let Some(mut conn) = self.conns.get_mut(at).and_then(Option::take) else {
            return;
        };
        let mut events = std::mem::take(&mut self.bridge_events);
        conn.bridge.step(
            now,
            ConnectionHandle(at),
            &mut self.quic,
            &mut self.trace,
            &mut events,
        );
        loop {
            for event in events.drain(..) {
                self.on_bridge_event(now, &mut conn, event);
            }
            // A tunnel and its addresses come before the packets that arrived together with them.
            while let Some(datagram) = conn.bridge.recv_datagram() {
                self.on_datagram(now, &mut conn, datagram);
            }
            self.release_early(now, &mut conn);
            conn.bridge.settle(now, &mut events);
            if events.is_empty() {
                break;
            }
        }
        if conn.remote != conn.bridge.remote() {
            conn.remote = conn.bridge.remote();
            conn.beside.migrated();
            // QUIC begins anew with what it knows of the path's size.
            let round_trip = conn.bridge.round_trip();
            for tunnel in conn.tunnels.iter_mut().filter(|it| it.announced) {
                let expected = Expected::new(tunnel.mtu, now, round_trip);
                tunnel.expected.get_or_insert(expected);
            }
            if conn.known.is_some() {
                let remote = conn.remote;
                self.turns.know(&mut conn, Some(remote));
            }
            self.events.push_back(Event::Migrated {
                conn: conn.id,
                remote: conn.remote,
            });
        }
        self.update_mtu(now, &mut conn);
        if self.check_ipv6(now, &mut conn) {
            conn.bridge.settle(now, &mut events);
            for event in events.drain(..) {
                self.on_bridge_event(now, &mut conn, event);
            }
        }
        conn.bridge.exchange(ConnectionHandle(at), &mut self.quic);
        self.bridge_events = events;
        if conn.client.is_some() {
            self.try_take_over(now, &mut conn);
        }
        self.collect_session_trace(&mut conn);
        self.turns.wake(at, &mut conn);
        self.put_back(at, conn);
        self.deliver_across(now);
        for id in std::mem::take(&mut self.to_replace) {
            self.obey(now, Notice::Replace(id));
        }
        self.discard(now);
    }

    /// Puts a connection back where it was, or forgets it once QUIC has.
    pub(super) fn put_back(&mut self, at: usize, mut conn: Box<Conn>) {
        if conn.bridge.is_drained() {
            self.trace(Some(conn.id), || What::State {
                from: "closed",
                to: "drained",
            });
            self.admission.done(conn.pays.take());
            self.tell_closed(&mut conn, CloseReason::Local);
            self.admission.left();
            self.turns.know(&mut conn, None);
            self.ids.remove(&conn.id);
            self.armed.set(at, None);
            return;
        }
        if !conn.timer_dirty {
            conn.timer_dirty = true;
            self.stale.push(at);
        }
        self.conns[at] = Some(conn);
    }

    pub(super) fn on_datagram(&mut self, now: Instant, conn: &mut Conn, datagram: Bytes) {
        // What packets of an established tunnel begin with is known; the session reads all else.
        let strip = |state: &Tunnel| state.header.as_ref()?.strip(&datagram);
        let mut tunnels = conn.tunnels.iter().enumerate();
        if let Some((index, packet)) =
            tunnels.find_map(|(index, state)| strip(state).map(|packet| (index, packet)))
        {
            // What waited at the server comes ahead of the capsules it is judged by.
            if conn.is_heir() && conn.early.hold(now, &datagram) {
                return;
            }
            return self
                .fwd
                .leave_tunnel(now, conn, index, packet, &mut self.trace);
        }
        match conn.bridge.session().open_datagram(&datagram) {
            DatagramVerdict::IpPacket { tunnel, offset } => {
                self.on_packet(
                    now,
                    conn,
                    tunnel,
                    datagram.get(offset..).unwrap_or_default(),
                );
            }
            DatagramVerdict::Drop(DatagramDrop::NotEstablished)
                if conn.early.hold(now, &datagram) => {}
            DatagramVerdict::Drop(why) => {
                let reason = match why {
                    DatagramDrop::UnknownStream => DropReason::UnknownStream,
                    DatagramDrop::NotEstablished => DropReason::NotEstablished,
                    DatagramDrop::NoContext | DatagramDrop::UnknownContext => {
                        DropReason::UnknownContext
                    }
                };
                self.fwd.dropped(reason, datagram.len(), &mut self.trace);
            }
            DatagramVerdict::Error => {}
        }
    }

    pub(super) fn on_packet(
        &mut self,
        now: Instant,
        conn: &mut Conn,
        tunnel: crate::session::TunnelId,
        packet: &[u8],
    ) {
        match conn
            .tunnels
            .iter()
            .position(|state| state.handle.tunnel == tunnel)
        {
            Some(index) => self
                .fwd
                .leave_tunnel(now, conn, index, packet, &mut self.trace),
            None => self
                .fwd
                .dropped(DropReason::NotEstablished, packet.len(), &mut self.trace),
        }
    }

    pub(super) fn on_bridge_event(&mut self, now: Instant, conn: &mut Conn, event: BridgeEvent) {
        match event {
            BridgeEvent::Connected => {
                if conn.pays.is_some() {
                    self.budget.spend(Budget::LAST_FLIGHT);
                }
                self.admission.done(conn.pays.take());
                conn.handshake_by = None;
                let remote = conn.bridge.remote();
                self.turns.know(conn, Some(remote));
                match conn.role {
                    Role::Server => self.on_client_connected(now, conn),
                    Role::Client => self.on_server_connected(now, conn),
                }
                self.trace(Some(conn.id), || What::State {
                    from: "handshake",
                    to: "connected",
                });
                if !conn.is_heir() {
                    self.events.push_back(Event::Connected {
                        conn: conn.id,
                        remote: conn.bridge.remote(),
                        identity: conn.identity.clone(),
                    });
                }
            }
            BridgeEvent::Lost(reason) => {
                if conn.pays.is_some() {
                    self.budget.spend(Budget::LAST_FLIGHT);
                }
                self.admission.done(conn.pays.take());
                self.tell_closed(conn, reason);
            }
            BridgeEvent::Session(event) => self.on_session_event(now, conn, event),
        }
    }

    pub(super) fn on_session_event(&mut self, now: Instant, conn: &mut Conn, event: SessionEvent) {
        if !matches!(event, SessionEvent::Packet { .. }) {
            self.fwd.rules_changed();
        }
        match event {
            SessionEvent::PeerSettings(_) | SessionEvent::GoAway => {}
            SessionEvent::Requested { tunnel, request } => {
                self.on_requested(now, conn, tunnel, request)
            }
            SessionEvent::ResponseFields { fields, .. } => self.on_response_fields(conn, &fields),
            SessionEvent::Refused { .. } if conn.is_heir() => self.heir_failed(now, conn),
            SessionEvent::TunnelEnded { tunnel, .. } if conn.is_heir() => {
                self.forget_tunnel(conn, tunnel);
                self.heir_failed(now, conn);
            }
            SessionEvent::Established { tunnel, .. } => {
                conn.early.open();
                self.on_established(now, conn, tunnel);
            }
            SessionEvent::Refused {
                status,
                proxy_status,
                ..
            } => {
                self.events.push_back(Event::TunnelRefused {
                    conn: conn.id,
                    status,
                    proxy_status,
                });
            }
            SessionEvent::AddressesAssigned { tunnel, assign } => {
                self.on_assigned(now, conn, tunnel, &assign)
            }
            SessionEvent::AddressesRequested { tunnel, request } => {
                self.on_addresses_requested(conn, tunnel, &request);
            }
            SessionEvent::RoutesAdvertised { tunnel, routes } => {
                self.on_routes(now, conn, tunnel, routes)
            }
            SessionEvent::Packet { tunnel, packet } => self.on_packet(now, conn, tunnel, &packet),
            SessionEvent::TunnelEnded { tunnel, end } => {
                let handle = TunnelHandle {
                    conn: conn.id,
                    tunnel,
                };
                conn.resolving.retain(|(waiting, _)| *waiting != tunnel);
                // With a lost connection its tunnels were told of already.
                if self.forget_tunnel(conn, tunnel) || !conn.closed_told {
                    self.events.push_back(Event::TunnelDown {
                        tunnel: handle,
                        reason: end,
                    });
                }
            }
            SessionEvent::Ended(end) => {
                let reason = match end {
                    SessionEnd::Violation(kind) => Some(CloseReason::Violation(kind)),
                    SessionEnd::SettingsTimeout => Some(CloseReason::SettingsTimeout),
                    SessionEnd::Local(_) => Some(CloseReason::Local),
                    SessionEnd::Transport => None,
                };
                if let Some(reason) = reason {
                    self.tell_closed(conn, reason);
                }
            }
        }
    }

    /// Closes a connection for a reason of ours; the event follows when the session has ended.
    pub(super) fn close(
        &mut self,
        now: Instant,
        conn: &mut Conn,
        reason: CloseReason,
        code: H3Code,
        words: &'static str,
    ) {
        if conn.closing.is_none() {
            conn.closing = Some(reason);
            let close = crate::session::Command::Close {
                code,
                reason: words,
            };
            if conn.bridge.session().handle_command(close).is_err() {
                conn.bridge.close(now, code, words);
            }
        }
    }

    pub(super) fn close_by_id(
        &mut self,
        now: Instant,
        id: ConnId,
        reason: CloseReason,
        code: H3Code,
        words: &'static str,
    ) {
        let Some(&at) = self.ids.get(&id) else { return };
        let Some(mut conn) = self.conns.get_mut(at).and_then(Option::take) else {
            return;
        };
        self.close(now, &mut conn, reason, code, words);
        self.conns[at] = Some(conn);
        self.drive(now, at);
    }

    pub(super) fn tell_closed(&mut self, conn: &mut Conn, reason: CloseReason) {
        if std::mem::replace(&mut conn.closed_told, true) {
            return;
        }
        self.disinherit(conn);
        let is_heir = conn.is_heir();
        if is_heir {
            self.heir_failed(self.now, conn);
        }
        let from = match conn.known {
            Some(_) => "connected",
            None => "handshake",
        };
        let left: Vec<_> = conn.tunnels.iter().map(|tunnel| tunnel.handle).collect();
        for handle in left {
            self.forget_tunnel(conn, handle.tunnel);
            let reason = TunnelClosed::ConnectionEnded;
            if !is_heir {
                self.events.push_back(Event::TunnelDown {
                    tunnel: handle,
                    reason,
                });
            }
        }
        self.forget_identity(conn);
        self.turns.know(conn, None);
        let reason = conn.closing.clone().unwrap_or(reason);
        self.trace(Some(conn.id), || What::State { from, to: "closed" });
        if !is_heir {
            self.events.push_back(Event::ConnectionClosed {
                conn: conn.id,
                reason,
            });
        }
    }

    pub(super) fn collect_session_trace(&mut self, conn: &mut Conn) {
        if self.trace.is_on() {
            for mut event in conn.bridge.session().take_trace() {
                event.connection = Some(conn.id.0);
                self.trace.record(|| event);
            }
        }
    }
}
