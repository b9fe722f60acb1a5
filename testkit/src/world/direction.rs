//! One direction of a path by itself, for those who move packets in real time.

use std::time::Duration;

use super::link::{Link, LinkConfig, LinkStats};
use crate::seed::Seed;

/// When a packet leaves the path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delivery {
    /// Since the direction began.
    pub at: Duration,
    /// Once more, where the path doubles it.
    pub again: Option<Duration>,
}

/// What a [`crate::world::World`] sends packets through, without a world around it. It knows sizes and
/// times; the packets are the caller's. Packet N meets the same luck in every direction of one seed and
/// label, whatever its size.
pub struct Direction(Link);

impl Direction {
    /// A fresh one, at time 0.
    #[must_use]
    pub fn new(config: LinkConfig, seed: &Seed, label: &str) -> Self {
        Self(Link::new(config, seed.rng(label)))
    }

    /// Takes an IP packet of `size` bytes at `now`, which never goes back: when it leaves, or `None` if it
    /// does not.
    pub fn send(&mut self, now: Duration, size: usize) -> Option<Delivery> {
        let passage = self.0.send(now, size, None).ok()?;
        Some(Delivery {
            at: passage.at,
            again: passage.again,
        })
    }

    /// What it treats packets like from now on.
    pub fn configure(&mut self, change: impl FnOnce(&mut LinkConfig)) {
        change(&mut self.0.config);
    }

    /// What it did so far.
    #[must_use]
    pub fn stats(&self) -> LinkStats {
        self.0.stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn packet_n_meets_the_same_luck_whatever_came_before_it(
            sizes in proptest::collection::vec(40..1500usize, 200),
            others in proptest::collection::vec(40..1500usize, 200),
        ) {
            let config = LinkConfig { loss: 100_000, ..LinkConfig::default() };
            let fates = |sizes: &[usize]| {
                let mut direction = Direction::new(config, &Seed::new(7), "up");
                let fate = |size: &usize| direction.send(Duration::ZERO, *size).is_some();
                sizes.iter().map(fate).collect::<Vec<_>>()
            };
            let fates = [fates(&sizes), fates(&others)];
            prop_assert!(fates[0].contains(&false));
            prop_assert_eq!(&fates[0], &fates[1]);
        }
    }
}
