//! Addresses that belong to no node: whoever writes a test reads and sends for them.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{Input, World};

/// How long a datagram takes from or to a stranger.
const DELAY: Duration = Duration::from_millis(5);

impl World {
    /// From now on datagrams to `address` are kept for [`Self::take_letter`].
    pub fn add_stranger(&mut self, address: SocketAddr) {
        self.strangers.entry(address).or_default();
    }

    /// The next datagram that has arrived at a stranger: from whom, and its bytes.
    pub fn take_letter(&mut self, address: SocketAddr) -> Option<(SocketAddr, Vec<u8>)> {
        self.strangers.get_mut(&address)?.pop_front()
    }

    /// Sends a datagram as if from `from`, over a path without limits.
    pub fn send_as_stranger(&mut self, from: SocketAddr, to: SocketAddr, data: Vec<u8>) {
        let input = Input::Datagram {
            from,
            to,
            ecn: None,
            data,
        };
        self.schedule_in(DELAY, input);
    }

    /// Virtual time as the endpoints see it.
    #[must_use]
    pub fn instant(&self) -> Instant {
        self.base + self.now
    }

    /// The virtual time of an [`Instant`] that came from [`Self::instant`].
    #[must_use]
    pub fn since_start(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.base)
    }

    /// Sends to a stranger, if there is one.
    pub(super) fn reaches_stranger(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        data: &[u8],
    ) -> bool {
        let known = self.strangers.contains_key(&to);
        if known {
            self.send_as_stranger(from, to, data.to_vec());
        }
        known
    }

    /// A datagram for a stranger arrives.
    pub(super) fn keep(&mut self, from: SocketAddr, to: SocketAddr, data: &[u8]) -> bool {
        let letters = self.strangers.get_mut(&to);
        letters
            .map(|letters: &mut VecDeque<_>| letters.push_back((from, data.to_vec())))
            .is_some()
    }
}
