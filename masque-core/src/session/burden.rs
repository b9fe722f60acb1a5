//! What a peer may send without use to anybody (RFC 9114 §10.5).
//!
//! Each piece costs a little work and no memory; only their number is a burden. Half of
//! [`SessionConfig::max_burden`](super::SessionConfig::max_burden) may come at any pace, so that an honest
//! peer never costs a timer. From there on a period is measured: what comes in it counts, and its end
//! forgets all.

use super::{Session, Timer};
use crate::error::WireErrorKind;

impl Session {
    /// Counts pieces; too many end the session.
    pub(super) fn burden(&mut self, pieces: u32) {
        if pieces == 0 {
            return;
        }
        let max = self.config.max_burden;
        let before = self.burden;
        self.burden = before.saturating_add(pieces);
        if self.burden > max {
            return self.violation(None, WireErrorKind::Burden);
        }
        if before <= max / 2 && self.burden > max / 2 {
            self.out.arm(Timer::Burden, self.config.burden_period);
        }
    }

    /// The period is over.
    pub(super) fn relieved(&mut self) {
        self.burden = 0;
    }
}
