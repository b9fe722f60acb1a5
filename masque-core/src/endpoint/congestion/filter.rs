//! Extremes over a sliding window of time or of intervals.

use std::time::{Duration, Instant};

/// The least duration of the last one to two spans.
#[derive(Clone, Copy, Debug)]
pub(super) struct Least {
    span: Duration,
    since: Option<Instant>,
    current: Duration,
    previous: Duration,
}

impl Least {
    pub(super) fn new(span: Duration) -> Self {
        Self {
            span,
            since: None,
            current: Duration::MAX,
            previous: Duration::MAX,
        }
    }

    pub(super) fn add(&mut self, now: Instant, sample: Duration) {
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= self.span {
            self.since = Some(now);
            self.previous = self.current;
            self.current = Duration::MAX;
        }
        self.current = self.current.min(sample);
    }

    /// [`Duration::MAX`] before the first sample.
    pub(super) fn get(&self) -> Duration {
        self.current.min(self.previous)
    }
}

/// The largest of the last `N` values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Largest<const N: usize> {
    values: [f64; N],
    next: usize,
}

impl<const N: usize> Largest<N> {
    pub(super) fn new() -> Self {
        Self {
            values: [0.0; N],
            next: 0,
        }
    }

    pub(super) fn add(&mut self, value: f64) {
        self.values[self.next] = value;
        self.next = (self.next + 1) % N;
    }

    /// 0 before the first.
    pub(super) fn get(&self) -> f64 {
        self.values.iter().copied().fold(0.0, f64::max)
    }
}
