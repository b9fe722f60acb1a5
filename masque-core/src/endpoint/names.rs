//! Tunnels to host names: asked for by an event, answered by a command, and opened only then
//! (RFC 9484 §4.1, §4.6).

use std::net::IpAddr;
use std::time::Instant;

use super::conn::{Conn, forwardable};
use super::event::Event;
use super::types::TunnelHandle;
use super::{CommandError, Endpoint};
use crate::session::{TunnelId, TunnelRequest};
use crate::wire::prefix::IpPrefix;

/// The most addresses of one name that are used.
const MAX_ADDRESSES: usize = 64;

impl Endpoint {
    /// Asks for the addresses of a request's target. How many wait is bounded by the tunnels a session
    /// may have, how long by its response timeout.
    pub(super) fn want_name(
        &mut self,
        conn: &mut Conn,
        id: TunnelId,
        request: TunnelRequest,
        name: String,
    ) {
        conn.resolving.push((id, request));
        let tunnel = TunnelHandle {
            conn: conn.id,
            tunnel: id,
        };
        self.events.push_back(Event::NameWanted { tunnel, name });
    }

    /// The addresses have come: opens the tunnel to those that may be reached.
    pub(super) fn resolved(
        &mut self,
        now: Instant,
        tunnel: TunnelHandle,
        addresses: &[IpAddr],
    ) -> Result<(), CommandError> {
        let (at, conn) = self.conn_of(tunnel)?;
        let id = tunnel.tunnel;
        let waiting = conn.resolving.iter().position(|(it, _)| *it == id);
        let waiting = waiting.ok_or(CommandError::UnknownTunnel)?;
        let (_, request) = conn.resolving.remove(waiting);
        let Some(mut conn) = self.conns.get_mut(at).and_then(Option::take) else {
            return Err(CommandError::UnknownConnection);
        };
        if conn.closing.is_some() || self.shutdown.is_some() {
            self.refuse(&mut conn, id, 503, "masque; error=connection_terminated");
        } else if addresses.is_empty() {
            self.refuse(&mut conn, id, 502, "masque; error=dns_error");
        } else {
            // A name that leads to loopback or to what is denied opens no way there.
            let mut targets: Vec<_> = addresses
                .iter()
                .filter(|address| forwardable(**address) && !self.fwd.is_denied(**address))
                .map(|address| IpPrefix::host(*address))
                .take(MAX_ADDRESSES)
                .collect();
            targets.sort();
            targets.dedup();
            self.grant(now, &mut conn, id, request, Some(&targets));
        }
        self.conns[at] = Some(conn);
        self.drive(now, at);
        Ok(())
    }
}
