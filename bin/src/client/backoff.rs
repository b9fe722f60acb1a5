//! Exponential back-off with jitter.

use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use crate::config::client::ReconnectSection;

/// Waits between attempts: each twice the last up to a longest one, minus a random part, so that the
/// clients of a restarted server do not come back all at once.
#[derive(Debug)]
pub(super) struct Backoff {
    initial: Duration,
    max: Duration,
    jitter: f64,
    attempts: u32,
    rng: ChaCha20Rng,
}

impl Backoff {
    /// From the configuration and a seed.
    #[must_use]
    pub(super) fn new(section: &ReconnectSection, seed: [u8; 32]) -> Self {
        Self {
            initial: section.initial.0,
            max: section.max.0,
            jitter: section.jitter,
            attempts: 0,
            rng: ChaCha20Rng::from_seed(seed),
        }
    }

    /// An attempt succeeded: the next wait is the first again.
    pub(super) fn reset(&mut self) {
        self.attempts = 0;
    }

    /// The next wait.
    pub(super) fn next_wait(&mut self) -> Duration {
        let factor = 2_u32.saturating_pow(self.attempts.min(20));
        self.attempts = self.attempts.saturating_add(1);
        let whole = self.initial.saturating_mul(factor).min(self.max);
        let random = f64::from(self.rng.next_u32()) / f64::from(u32::MAX);
        whole.mul_f64(1.0 - self.jitter * random)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Span;

    proptest! {
        #[test]
        fn waits_grow_to_the_longest_and_stay_within_the_jitter(
            initial in 1..10_000u64,
            more in 0..100_000u64,
            jitter in 0.0..=1.0f64,
            seed in any::<[u8; 32]>(),
        ) {
            let (initial, max) = (Duration::from_millis(initial), Duration::from_millis(initial + more));
            let section = ReconnectSection { initial: Span(initial), max: Span(max), jitter };
            let mut backoff = Backoff::new(&section, seed);
            let mut whole = initial;
            for _ in 0..40 {
                let wait = backoff.next_wait();
                prop_assert!(wait <= whole);
                // mul_f64 rounds to nanoseconds.
                prop_assert!(wait + Duration::from_nanos(2) >= whole.mul_f64(1.0 - jitter));
                whole = (whole * 2).min(max);
            }
            backoff.reset();
            prop_assert!(backoff.next_wait() <= initial);
        }

        #[test]
        fn the_same_seed_gives_the_same_waits(seed in any::<[u8; 32]>()) {
            let section = ReconnectSection::default();
            let mut one = Backoff::new(&section, seed);
            let mut two = Backoff::new(&section, seed);
            for _ in 0..10 {
                prop_assert_eq!(one.next_wait(), two.next_wait());
            }
        }
    }
}
