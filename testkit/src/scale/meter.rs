//! What the server's side costs: memory, allocations, processor time, calls.

use std::time::Duration;

/// A reading of a counting allocator.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Heap {
    /// Allocations and reallocations so far.
    pub allocations: u64,
    /// Bytes allocated and not freed.
    pub live: i64,
}

/// Where readings come from. Only a program has a global allocator and a clock; a library is given
/// them.
#[derive(Clone, Copy, Debug)]
pub struct Gauges {
    /// Reads the allocator.
    pub heap: fn() -> Heap,
    /// Reads a clock that counts while the server works.
    pub clock: fn() -> Duration,
}

impl Default for Gauges {
    /// Gauges that always read nothing.
    fn default() -> Self {
        Self {
            heap: Heap::default,
            clock: Duration::default,
        }
    }
}

/// What was used up while the server's endpoint was called, and only then.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Meter {
    /// Bytes that became the server's, less those it gave back.
    pub live: i64,
    /// Allocations and reallocations.
    pub allocations: u64,
    /// Time on the clock.
    pub time: Duration,
    /// Turns, each a wake-up.
    pub turns: u64,
    /// Datagrams taken in.
    pub received: u64,
    /// Datagrams given out.
    pub sent: u64,
    /// Datagrams dropped in front of the server because its receive buffer was full.
    pub overflowed: u64,
}

impl Meter {
    /// Does `work` on the server's account. Never inlined, so that a profiler finds its name in every
    /// backtrace of the server's side.
    #[inline(never)]
    pub fn server_side<T>(&mut self, gauges: &Gauges, work: impl FnOnce() -> T) -> T {
        let (heap, clock) = ((gauges.heap)(), (gauges.clock)());
        let done = work();
        let (time, after) = ((gauges.clock)() - clock, (gauges.heap)());
        self.time += time;
        self.live += after.live - heap.live;
        self.allocations += after.allocations - heap.allocations;
        done
    }

    /// What came on top since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            live: self.live - earlier.live,
            allocations: self.allocations - earlier.allocations,
            time: self.time.saturating_sub(earlier.time),
            turns: self.turns - earlier.turns,
            received: self.received - earlier.received,
            sent: self.sent - earlier.sent,
            overflowed: self.overflowed - earlier.overflowed,
        }
    }
}

/// Jain's index of fairness: 1 if all have the same, 1/n if one has everything.
#[must_use]
pub fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    if squares == 0.0 {
        return 0.0;
    }
    sum * sum / (shares.len() as f64 * squares)
}

/// The value below which the share `rank` (0 to 1) of `values` lies; the default of none.
#[must_use]
pub fn quantile<T: Copy + Ord + Default>(values: &mut [T], rank: f64) -> T {
    values.sort_unstable();
    let last = values.len().saturating_sub(1);
    let at = (last as f64 * rank).round() as usize;
    values.get(at).copied().unwrap_or_default()
}
