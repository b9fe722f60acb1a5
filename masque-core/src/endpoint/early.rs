//! Datagrams that overtake the opening of their tunnel: the response, or the decision about it, is
//! still on its way (RFC 9484 §7.1). A few are held for a moment; the tunnel's rules judge them then. So are
//! those for a tunnel that is to take the place of another and has no addresses or routes yet.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::conn::Conn;
use super::{DropReason, Endpoint};

/// The most datagrams held for one connection.
const MAX_HELD: usize = 32;
/// How long the oldest is held.
const HOLD: Duration = Duration::from_secs(1);

/// The datagrams held for one connection.
#[derive(Debug, Default)]
pub(super) struct Early {
    held: Vec<Bytes>,
    until: Option<Instant>,
    opened: bool,
}

impl Early {
    /// Holds a datagram, if there is room. The first one says for how long all are held.
    pub(super) fn hold(&mut self, now: Instant, datagram: &Bytes) -> bool {
        if self.held.len() >= MAX_HELD {
            return false;
        }
        let until = self.until.or_else(|| now.checked_add(HOLD));
        let may = until.is_some_and(|until| now < until);
        if may {
            self.until = until;
            // A copy: what was received shares its allocation with others.
            self.held.push(Bytes::copy_from_slice(datagram));
        }
        may
    }

    /// A tunnel was opened.
    pub(super) fn open(&mut self) {
        self.opened = true;
    }

    /// When what is held is given up.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }
}

impl Endpoint {
    /// Lets go of what is held: to its tunnel, if that is open by now, or because it is too late.
    pub(super) fn release_early(&mut self, now: Instant, conn: &mut Conn) {
        let opened = std::mem::take(&mut conn.early.opened);
        let Some(until) = conn.early.until else {
            return;
        };
        if now >= until {
            conn.early.until = None;
            for datagram in std::mem::take(&mut conn.early.held) {
                let reason = DropReason::NotEstablished;
                self.fwd.dropped(reason, datagram.len(), &mut self.trace);
            }
        } else if opened {
            // What belongs to another tunnel, not open yet, is held again for as long as was left.
            for datagram in std::mem::take(&mut conn.early.held) {
                self.on_datagram(now, conn, datagram);
            }
            if conn.early.held.is_empty() {
                conn.early.until = None;
            }
        }
    }
}
