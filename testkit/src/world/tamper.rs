//! For those who look into a world, and change what comes next.

use std::sync::Arc;
use std::time::Duration;

use super::{Input, World};
use crate::crypto::Secrets;

impl World {
    /// Keeps, or stops keeping, the bytes of every packet that crosses the surface of a node.
    pub fn set_capturing(&mut self, on: bool) {
        self.trace.set_capturing(on);
    }

    /// Notes where the TLS secrets of this world's nodes are collected.
    pub fn keep_secrets(&mut self, secrets: Option<Arc<Secrets>>) {
        self.secrets = secrets;
    }

    /// The TLS secrets of this world's nodes; `None` without TLS.
    #[must_use]
    pub fn secrets(&self) -> Option<&Secrets> {
        self.secrets.as_deref()
    }

    /// Takes the next input away before it happens; `None` if a deadline comes first or nothing is
    /// left.
    pub fn drop_next(&mut self) -> Option<(Duration, Input)> {
        self.peek()?;
        // What becomes of a packet that was taken away is not ours to say.
        self.watch_nothing();
        let ((at, _), input) = self.queue.pop_first()?;
        Some((at, input))
    }

    /// Changes the next input before it happens; `false` if a deadline comes first or nothing is left.
    pub fn edit_next(&mut self, edit: impl FnOnce(&mut Input)) -> bool {
        if self.peek().is_none() {
            return false;
        }
        self.watch_nothing();
        let next = self.queue.values_mut().next();
        next.map(edit).is_some()
    }
}
