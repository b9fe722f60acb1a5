//! Deadlines, commands, and the end.

use std::time::Instant;

use super::config::Ipv6Minimum;
use super::conn::{Conn, Tunnel};
use super::owners::Change;
use super::shard::Notice;
use super::{
    CloseReason, Command, CommandError, Deadline, Endpoint, Event, Identity, TimerReason,
    TunnelHandle,
};
use crate::error::H3Code;
use crate::session::{CloseHow, Command as SessionCommand};
use crate::trace::What;
use crate::wire::prefix::IpPrefix;
use crate::wire::stream::Role;

/// How many connections' deadlines are seen to in one call.
const DUE_AT_ONCE: usize = 64;

impl Endpoint {
    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        self.refresh_deadlines();
        // Each connection once: one whose next deadline has passed as well sends first, and is due again.
        // Not more at once than fit between two looks at the sockets: the rest is still due afterwards.
        let mut due = std::mem::take(&mut self.due);
        while due.len() < DUE_AT_ONCE
            && let Some((_, at)) = self.armed.first().filter(|(due, _)| *due <= now)
        {
            self.armed.set(at, None);
            due.push(at);
        }
        for at in due.drain(..) {
            let Some(conn) = self.conns.get_mut(at).and_then(Option::as_mut) else {
                continue;
            };
            let id = conn.id;
            if let Some(due) = conn.armed.take().filter(|_| self.trace.is_on()) {
                let reason = self.reason(due, at).name();
                self.trace(Some(id), || What::Fired { reason });
            }
            let Some(conn) = self.conns.get_mut(at).and_then(Option::as_mut) else {
                continue;
            };
            conn.bridge.handle_timeout(now);
            for tunnel in &mut conn.tunnels {
                tunnel.queue.rest(now);
            }
            conn.bridge.rest();
            let expired = conn.expires.is_some_and(|expires| expires <= now);
            let too_slow = conn.handshake_by.is_some_and(|by| by <= now);
            if too_slow {
                let words = "handshake not completed in time";
                self.close_by_id(now, id, CloseReason::TimedOut, H3Code::NO_ERROR, words);
            }
            if expired {
                self.close_by_id(
                    now,
                    id,
                    CloseReason::CertificateExpired,
                    H3Code::NO_ERROR,
                    "certificate expired",
                );
            }
            self.mind(now, at);
            self.drive(now, at);
        }
        self.due = due;
        self.discard(now);
        self.accept_waiting(now);
        self.expire_leases();
        if self.shutdown.is_some_and(|end| end <= now) {
            for id in self.ids.keys().copied().collect::<Vec<_>>() {
                self.close_by_id(
                    now,
                    id,
                    CloseReason::Local,
                    H3Code::NO_ERROR,
                    "shutting down",
                );
            }
        }
    }

    /// When to call [`Endpoint::handle_timeout`], and why. A new turn begins with it.
    #[must_use]
    pub fn poll_timeout(&mut self) -> Option<Deadline> {
        debug_assert!(
            self.fwd.across.is_empty(),
            "packets between tunnels wait for no later call"
        );
        self.new_turn();
        self.refresh_deadlines();
        if self.has_output() {
            return Some(Deadline {
                at: self.now,
                reason: TimerReason::QueuedOutput,
            });
        }
        if self.admission.waiting() > 0 {
            return Some(Deadline {
                at: self.now,
                reason: TimerReason::Handshakes,
            });
        }
        let of_conns = self.armed.first().map(|(due, at)| Deadline {
            // QUIC counts a probe timeout from the last packet sent, however long ago that was.
            at: due.max(self.now),
            reason: self.reason(due, at),
        });
        let of_shutdown = self
            .shutdown
            .filter(|_| !self.shutdown_told)
            .map(|due| Deadline {
                at: due,
                reason: TimerReason::Shutdown,
            });
        [of_conns, of_shutdown]
            .into_iter()
            .flatten()
            .min_by_key(|deadline| deadline.at)
    }

    /// Takes a command.
    ///
    /// # Errors
    /// [`CommandError`] for local misuse.
    pub fn handle_command(&mut self, now: Instant, command: Command) -> Result<(), CommandError> {
        self.advance(now);
        self.trace(None, || What::Input(format!("command {command:?}").into()));
        self.fwd.rules_changed();
        match command {
            Command::AdvertiseRoutes { tunnel, routes } => {
                let advertise = SessionCommand::AdvertiseRoutes {
                    tunnel: tunnel.tunnel,
                    routes: routes.clone(),
                };
                let (at, conn) = self.conn_of(tunnel)?;
                let is_server = conn.role == Role::Server;
                let state = conn.tunnel(tunnel.tunnel);
                state.ok_or(CommandError::UnknownTunnel)?;
                conn.bridge.session().handle_command(advertise)?;
                // Only once the peer will be told: both sides judge by the same routes.
                if let Some(state) = conn.tunnel_mut(tunnel.tunnel).filter(|_| is_server) {
                    state.routes = super::routes::RouteTable::new(routes);
                }
                self.drive(now, at);
                Ok(())
            }
            Command::Resolved { tunnel, addresses } => self.resolved(now, tunnel, &addresses),
            Command::RequestAddresses { tunnel, prefixes } => self.tell(
                now,
                tunnel,
                SessionCommand::RequestAddresses {
                    tunnel: tunnel.tunnel,
                    prefixes,
                },
            ),
            Command::AssignAddresses { tunnel, addresses } => self.assign(now, tunnel, addresses),
            Command::CloseTunnel { tunnel } => self.tell(
                now,
                tunnel,
                SessionCommand::CloseTunnel {
                    tunnel: tunnel.tunnel,
                    how: CloseHow::Finish,
                },
            ),
            Command::CloseConnection { conn, code } => {
                if !self.ids.contains_key(&conn) {
                    return Err(CommandError::UnknownConnection);
                }
                self.close_by_id(now, conn, CloseReason::Local, code, "closed");
                Ok(())
            }
            Command::Revoke { identity } => {
                let all = self
                    .seat
                    .shared
                    .registry()
                    .of_identity
                    .get(&identity)
                    .cloned();
                for id in all.unwrap_or_default() {
                    match self.elsewhere(id) {
                        Some(shard) => self.leave_notice(shard, Notice::Revoke(id)),
                        None => self.obey(now, Notice::Revoke(id)),
                    }
                }
                Ok(())
            }
            Command::Rebound { socket } => {
                for at in 0..self.conns.len() {
                    if let Some(conn) = self.conns[at]
                        .as_mut()
                        .filter(|conn| conn.socket == socket && conn.role == Role::Client)
                    {
                        conn.bridge.rebound();
                        self.drive(now, at);
                    }
                }
                Ok(())
            }
            Command::HandOver {
                conn,
                socket,
                remote,
                lost,
            } => self.hand_over(now, conn, socket, remote, lost),
            Command::PortMtu { port, mtu } => {
                let port = self.fwd.port_mut(port).ok_or(CommandError::UnknownDevice)?;
                port.config.mtu = mtu;
                let id = port.config.id;
                for at in 0..self.conns.len() {
                    // Tunnels without QUIC datagrams follow the device.
                    if self.conns[at].as_ref().is_some_and(|conn| conn.port == id) {
                        self.drive(now, at);
                    }
                }
                Ok(())
            }
            Command::Shutdown { grace } => {
                // Too far away to express is as good as never.
                let never = std::time::Duration::from_secs(u32::MAX.into());
                self.shutdown = now.checked_add(grace).or(now.checked_add(never));
                self.refuse_waiting();
                for at in 0..self.conns.len() {
                    if let Some(conn) = self.conns[at].as_mut() {
                        let id = conn.id;
                        let over = conn
                            .bridge
                            .session()
                            .handle_command(SessionCommand::Shutdown)
                            .is_err();
                        for tunnel in conn
                            .tunnels
                            .iter()
                            .map(|tunnel| tunnel.handle.tunnel)
                            .collect::<Vec<_>>()
                        {
                            let close = SessionCommand::CloseTunnel {
                                tunnel,
                                how: CloseHow::Finish,
                            };
                            let _ = conn.bridge.session().handle_command(close);
                        }
                        if over || conn.bridge.is_handshaking() {
                            self.close_by_id(
                                now,
                                id,
                                CloseReason::Local,
                                H3Code::NO_ERROR,
                                "shutting down",
                            );
                        } else {
                            self.drive(now, at);
                        }
                    }
                }
                Ok(())
            }
        }
    }

    pub(super) fn conn_of(
        &mut self,
        handle: TunnelHandle,
    ) -> Result<(usize, &mut Conn), CommandError> {
        let unknown = CommandError::UnknownConnection;
        let at = *self.ids.get(&handle.conn).ok_or(unknown)?;
        let conn = self.conns.get_mut(at).and_then(Option::as_mut);
        conn.map(|conn| (at, &mut **conn)).ok_or(unknown)
    }

    fn tell(
        &mut self,
        now: Instant,
        handle: TunnelHandle,
        command: SessionCommand,
    ) -> Result<(), CommandError> {
        let (at, conn) = self.conn_of(handle)?;
        conn.bridge.session().handle_command(command)?;
        self.drive(now, at);
        Ok(())
    }

    fn assign(
        &mut self,
        now: Instant,
        handle: TunnelHandle,
        addresses: Vec<IpPrefix>,
    ) -> Result<(), CommandError> {
        let (at, conn) = self.conn_of(handle)?;
        if conn.role != Role::Server {
            return Err(CommandError::Role);
        }
        let identity = conn.identity.clone();
        let tunnel = conn.tunnel(handle.tunnel);
        let tunnel = tunnel.ok_or(CommandError::UnknownTunnel)?;
        let (lent, before) = (tunnel.lent.clone(), tunnel.addresses.clone());
        // Asked and reserved in one: two shards never both get the last yes.
        let kept = {
            let book = &mut self.seat.shared.registry().book;
            if !book.may_reserve(handle, identity.as_ref(), &lent, &addresses) {
                return Err(CommandError::AddressInUse);
            }
            book.reserve(handle, identity, addresses.clone())
        };
        let assign = SessionCommand::AssignAddresses {
            tunnel: handle.tunnel,
            assign: super::server::unasked(&addresses),
        };
        let (_, conn) = self.conn_of(handle)?;
        if let Err(refused) = conn.bridge.session().handle_command(assign) {
            self.seat.shared.registry().book.restore(handle, kept);
            return Err(refused.into());
        }
        if let Some(tunnel) = conn.tunnel_mut(handle.tunnel) {
            tunnel.addresses.clone_from(&addresses);
        }
        let release = before.iter().map(|prefix| Change::Release(*prefix, handle));
        let claim = addresses
            .iter()
            .map(|prefix| Change::Claim(*prefix, handle));
        self.change_owners(&release.chain(claim).collect::<Vec<_>>());
        self.events.push_back(Event::Addresses {
            tunnel: handle,
            addresses,
        });
        self.drive(now, at);
        Ok(())
    }

    fn has_output(&self) -> bool {
        self.shutdown_is_over()
            || !self.responses.is_empty()
            || !self.turns.is_empty()
            || !self.events.is_empty()
            || !self.mail.is_empty()
            || self.fwd.ports.iter().any(|port| !port.out.is_empty())
    }

    /// Brings the deadlines of connections that did something up to date.
    fn refresh_deadlines(&mut self) {
        let required = self.profile.ipv6_minimum != Ipv6Minimum::Follow;
        while let Some(at) = self.stale.pop() {
            let Some(conn) = self.conns.get_mut(at).and_then(Option::as_mut) else {
                continue;
            };
            conn.timer_dirty = false;
            let (quic, session) = conn.bridge.deadlines();
            let at_now = self.now;
            let held = |tunnel: &Tunnel| tunnel.is_finding(at_now) && tunnel.queue.len() > 0;
            let announce = conn
                .tunnels
                .iter()
                .filter(|tunnel| {
                    let waits = required && tunnel.is_finding(at_now);
                    !tunnel.announced || waits || held(tunnel)
                })
                .filter_map(|tunnel| tunnel.announce_by)
                // An heir that has all it needs but nobody to inherit from waits for nothing.
                .filter(|by| !conn.is_heir() || *by > at_now)
                .min();
            let expected = conn.tunnels.iter();
            let expected = expected.filter_map(|tunnel| Some(tunnel.expected?.until));
            let expected = expected.filter(|until| *until > at_now).min();
            let probes = conn.tunnels.iter();
            let probe = probes.filter_map(|tunnel| tunnel.probe?.due()).min();
            let early = conn.early.until();
            let open = conn.closing.is_none() && !conn.bridge.is_closed();
            let expires = conn.expires.filter(|_| open);
            let handshake = conn.handshake_by.filter(|_| open);
            let handover = conn.handover_due().filter(|_| open);
            let due = [
                quic,
                session.map(|(at, _)| at),
                announce,
                expected,
                handover,
                probe,
                early,
                expires,
                handshake,
            ]
            .into_iter()
            .flatten()
            .min();
            if conn.armed != due {
                self.armed.set(at, due);
                conn.armed = due;
                let (id, from) = (conn.id, self.now);
                if let Some(due) = due.filter(|_| self.trace.is_on()) {
                    let reason = self.reason(due, at).name();
                    let after_us = due.saturating_duration_since(from).as_micros() as u64;
                    self.trace(Some(id), || What::Armed { reason, after_us });
                }
            }
        }
    }

    fn reason(&mut self, due: Instant, at: usize) -> TimerReason {
        let Some(conn) = self.conns.get_mut(at).and_then(Option::as_mut) else {
            return TimerReason::QueuedOutput;
        };
        let (quic, session) = conn.bridge.deadlines();
        match session {
            Some((at, timer)) if at == due => TimerReason::Session(conn.id, timer),
            _ if quic == Some(due) => TimerReason::Quic(conn.id),
            _ if conn.handshake_by == Some(due) => TimerReason::Handshakes,
            _ if conn.expires == Some(due) => TimerReason::CertificateExpiry(conn.id),
            _ if conn.handover_due() == Some(due) => TimerReason::Handover(conn.id),
            _ => TimerReason::PathMtu(conn.id),
        }
    }

    pub(super) fn expire_leases(&mut self) {
        if !self.seat.shared.may_expire(self.clock.micros()) {
            return;
        }
        let wall = quinn_proto::TimeSource::now(&*self.clock);
        let (ended, renewed) = self.seat.shared.change_leases(|registry| {
            let of_identity = &registry.of_identity;
            let in_use = |identity: &Identity| of_identity.contains_key(identity);
            registry.book.expire(wall, in_use)
        });
        self.events.extend(ended.into_iter().map(Event::LeaseEnded));
        self.events
            .extend(renewed.into_iter().map(Event::LeaseChanged));
    }

    /// Whether [`Event::ShutdownComplete`] is due: asked for, not yet told, and every connection has
    /// ended and said its goodbye, or has been ended because the time for that is over.
    pub(super) fn shutdown_is_over(&self) -> bool {
        let ended = || self.conns.iter().flatten().all(|conn| conn.closed_told);
        let said = |end: Instant| end <= self.now || self.turns.is_empty();
        !self.shutdown_told && self.shutdown.is_some_and(|end| said(end) && ended())
    }
}
