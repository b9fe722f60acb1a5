//! Deadlines, commands, and the end.

use std::time::Instant;

use super::{
    CloseReason, Command, CommandError, Deadline, Endpoint, Event, TimerReason, TunnelHandle,
};
use crate::error::H3Code;
use crate::session::{CloseHow, Command as SessionCommand};
use crate::trace::What;
use crate::wire::stream::Role;

impl Endpoint {
    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        self.admission.new_turn();
        self.refresh_deadlines();
        while let Some(&(due, at)) = self.armed.first() {
            if due > now {
                break;
            }
            self.armed.pop_first();
            let Some(conn) = self.conns.get_mut(at).and_then(Option::as_mut) else {
                continue;
            };
            conn.armed = None;
            let id = conn.id;
            conn.bridge.handle_timeout(now);
            let expired = conn.expires.is_some_and(|expires| expires <= now);
            self.trace(Some(id), || What::Fired { reason: "deadline" });
            if expired {
                self.close_by_id(
                    now,
                    id,
                    CloseReason::CertificateExpired,
                    H3Code::NO_ERROR,
                    "certificate expired",
                );
            }
            self.drive(now, at);
            self.refresh_deadlines();
        }
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
        self.admission.new_turn();
        self.refresh_deadlines();
        if self.has_output() {
            return Some(Deadline {
                at: self.now,
                reason: TimerReason::QueuedOutput,
            });
        }
        if self.admission.is_waiting() {
            return Some(Deadline {
                at: self.now,
                reason: TimerReason::Handshakes,
            });
        }
        let of_conns = self.armed.first().copied().map(|(due, at)| Deadline {
            at: due,
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
        match command {
            Command::AdvertiseRoutes { tunnel, routes } => {
                let state = self.tunnel_state(tunnel)?;
                if state.1 == Role::Server {
                    state.0.routes = super::routes::RouteTable::new(routes.clone());
                }
                self.tell(
                    now,
                    tunnel,
                    SessionCommand::AdvertiseRoutes {
                        tunnel: tunnel.tunnel,
                        routes,
                    },
                )
            }
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
                let conns = self.conns.iter().flatten();
                let of_identity = conns.filter(|conn| conn.identity.as_ref() == Some(&identity));
                let all: Vec<_> = of_identity.map(|conn| conn.id).collect();
                for id in all {
                    self.close_by_id(
                        now,
                        id,
                        CloseReason::NotAuthorised,
                        H3Code::REQUEST_REJECTED,
                        "revoked",
                    );
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
            Command::PortMtu { port, mtu } => {
                let port = self.fwd.port_mut(port).ok_or(CommandError::UnknownDevice)?;
                port.config.mtu = mtu;
                Ok(())
            }
            Command::Shutdown { grace } => {
                self.shutdown = Some(now + grace);
                self.quic.set_server_config(None);
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

    fn tunnel_state(
        &mut self,
        handle: TunnelHandle,
    ) -> Result<(&mut super::conn::Tunnel, Role), CommandError> {
        let at = *self
            .ids
            .get(&handle.conn)
            .ok_or(CommandError::UnknownConnection)?;
        let conn = self
            .conns
            .get_mut(at)
            .and_then(Option::as_mut)
            .ok_or(CommandError::UnknownConnection)?;
        let role = conn.role;
        conn.tunnel_mut(handle.tunnel)
            .map(|tunnel| (tunnel, role))
            .ok_or(CommandError::UnknownTunnel)
    }

    fn tell(
        &mut self,
        now: Instant,
        handle: TunnelHandle,
        command: SessionCommand,
    ) -> Result<(), CommandError> {
        let at = *self
            .ids
            .get(&handle.conn)
            .ok_or(CommandError::UnknownConnection)?;
        let conn = self
            .conns
            .get_mut(at)
            .and_then(Option::as_mut)
            .ok_or(CommandError::UnknownConnection)?;
        conn.bridge.session().handle_command(command)?;
        self.drive(now, at);
        Ok(())
    }

    fn assign(
        &mut self,
        now: Instant,
        handle: TunnelHandle,
        addresses: Vec<crate::wire::prefix::IpPrefix>,
    ) -> Result<(), CommandError> {
        let (tunnel, role) = self.tunnel_state(handle)?;
        if role != Role::Server {
            return Err(CommandError::Role);
        }
        let old = std::mem::replace(&mut tunnel.addresses, addresses.clone());
        for prefix in old {
            self.fwd.release(prefix, handle);
        }
        for &prefix in &addresses {
            self.fwd.claim(prefix, handle);
        }
        let assign = super::server::unasked(&addresses);
        self.events.push_back(Event::Addresses {
            tunnel: handle,
            addresses,
        });
        self.tell(
            now,
            handle,
            SessionCommand::AssignAddresses {
                tunnel: handle.tunnel,
                assign,
            },
        )
    }

    fn has_output(&self) -> bool {
        self.shutdown_is_over()
            || !self.responses.is_empty()
            || !self.ring.is_empty()
            || !self.events.is_empty()
            || self.fwd.ports.iter().any(|port| !port.out.is_empty())
    }

    /// Brings the deadlines of connections that did something up to date.
    fn refresh_deadlines(&mut self) {
        while let Some(at) = self.stale.pop() {
            let Some(conn) = self.conns.get_mut(at).and_then(Option::as_mut) else {
                continue;
            };
            conn.timer_dirty = false;
            let (quic, session) = conn.bridge.deadlines();
            let announce = conn
                .tunnels
                .iter()
                .filter(|tunnel| !tunnel.announced)
                .filter_map(|tunnel| tunnel.announce_by)
                .min();
            let expires = conn
                .expires
                .filter(|_| conn.closing.is_none() && !conn.bridge.is_closed());
            let due = [quic, session.map(|(at, _)| at), announce, expires]
                .into_iter()
                .flatten()
                .min();
            if conn.armed != due {
                if let Some(old) = conn.armed {
                    self.armed.remove(&(old, at));
                }
                if let Some(new) = due {
                    self.armed.insert((new, at));
                }
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
            _ if conn.expires == Some(due) => TimerReason::CertificateExpiry(conn.id),
            _ => TimerReason::PathMtu(conn.id),
        }
    }

    fn expire_leases(&mut self) {
        if self.server.is_none() {
            return;
        }
        let wall = quinn_proto::TimeSource::now(&*self.clock);
        let conns = &self.conns;
        let ended = self.book.expire(wall, |identity| {
            conns
                .iter()
                .flatten()
                .any(|conn| conn.identity.as_ref() == Some(identity))
        });
        self.events.extend(ended.into_iter().map(Event::LeaseEnded));
    }

    /// Whether [`Event::ShutdownComplete`] is due: asked for, not yet told, and every connection has
    /// said its goodbye, or the time for that is over.
    pub(super) fn shutdown_is_over(&self) -> bool {
        let said =
            || self.ring.is_empty() && self.conns.iter().flatten().all(|conn| conn.closed_told);
        !self.shutdown_told && self.shutdown.is_some_and(|end| end <= self.now || said())
    }
}
