use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use quinn_proto::congestion::Controller;

use super::filter::{Largest, Least};
use super::tunnel::Tunnel;
use crate::endpoint::tests::moment;

const MTU: u64 = 1452;

/// A path with a queue, and a sender that always (or never quite) has something to send: what the
/// controller sees of quinn-proto, and nothing else.
struct Path {
    start: Instant,
    now: u64,
    control: Tunnel,
    /// Bits per second.
    rate: u64,
    delay: u64,
    queue: u64,
    /// Every so many packets one is lost.
    loss_every: u64,
    busy_until: u64,
    flying: BinaryHeap<Reverse<(u64, u64)>>,
    in_flight: u64,
    sent: u64,
    delivered: u64,
    losses: VecDeque<(u64, u64)>,
    most_waited: u64,
}

/// Nanoseconds.
const MS: u64 = 1_000_000;

impl Path {
    fn new(rate: u64, delay: Duration) -> Self {
        let start = moment();
        Self {
            start,
            now: 0,
            control: Tunnel::new(start, MTU as u16),
            rate,
            delay: delay.as_nanos() as u64,
            queue: 200 * MS,
            loss_every: u64::MAX,
            busy_until: 0,
            flying: BinaryHeap::new(),
            in_flight: 0,
            sent: 0,
            delivered: 0,
            losses: VecDeque::new(),
            most_waited: 0,
        }
    }

    fn at(&self, nanos: u64) -> Instant {
        self.start + Duration::from_nanos(nanos)
    }

    /// Sends while the window allows, at most `most` bytes in flight.
    fn fill(&mut self, most: u64) {
        while self.in_flight + MTU < self.control.window().min(most) {
            self.sent += 1;
            self.in_flight += MTU;
            let waits = self.busy_until.saturating_sub(self.now);
            let lost = waits > self.queue || self.sent.is_multiple_of(self.loss_every);
            if waits <= self.queue {
                self.busy_until = self.busy_until.max(self.now) + MTU * 8_000_000_000 / self.rate;
                self.most_waited = self.most_waited.max(waits);
            }
            if lost {
                self.losses.push_back((self.now + 2 * self.delay, self.now));
            } else {
                self.flying
                    .push(Reverse((self.busy_until + self.delay, self.now)));
            }
        }
    }

    /// Runs until `until`; gives the bytes delivered meanwhile.
    fn run(&mut self, until: Duration, most: u64) -> u64 {
        let until = until.as_nanos() as u64;
        let before = self.delivered;
        loop {
            let limited = self.control.window() <= most;
            self.fill(most);
            let arrival = self.flying.peek().map(|Reverse((at, _))| *at);
            let loss = self.losses.front().map(|(at, _)| *at);
            let Some(next) = arrival
                .into_iter()
                .chain(loss)
                .min()
                .filter(|at| *at <= until)
            else {
                self.now = until;
                return self.delivered - before;
            };
            self.now = next.max(self.now);
            let now = self.at(self.now);
            if Some(next) == arrival {
                let Some(Reverse((_, sent))) = self.flying.pop() else {
                    continue;
                };
                self.in_flight -= MTU;
                self.delivered += MTU;
                let sent = self.at(sent);
                self.control.acked(now, sent, MTU, !limited);
                self.control
                    .on_end_acks(now, self.in_flight, !limited, None);
            } else if let Some((_, sent)) = self.losses.pop_front() {
                self.in_flight -= MTU;
                let sent = self.at(sent);
                self.control.on_congestion_event(now, sent, false, MTU);
            }
        }
    }

    /// The share of the path used between two times.
    fn share(&mut self, from: u64, to: u64) -> f64 {
        self.run(Duration::from_secs(from), u64::MAX);
        let bytes = self.run(Duration::from_secs(to), u64::MAX);
        bytes as f64 * 8.0 / ((to - from) as f64 * self.rate as f64)
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_path_alone_is_used_and_its_queue_stays_short(
        megabits in 2u64..200,
        delay in 5u64..150,
        loss_every in prop_oneof![Just(u64::MAX), 10u64..200],
    ) {
        let mut path = Path::new(megabits * 1_000_000, millis(delay));
        path.loss_every = loss_every;
        let used = path.share(10, 20);
        let kept = if loss_every == u64::MAX { 1.0 } else { 1.0 - 1.0 / loss_every as f64 };
        prop_assert!(used > 0.9 * kept, "{used}");
        path.most_waited = 0;
        path.run(Duration::from_secs(30), u64::MAX);
            let packets = 12 * MTU * 8_000_000_000 / path.rate;
        let allowed = 15 * MS + path.delay + packets;
        prop_assert!(path.most_waited < allowed, "{} ms of {} ms", path.most_waited / MS, allowed / MS);
    }

    #[test]
    fn the_window_stays_within_its_bounds_whatever_is_said(
        calls in proptest::collection::vec((0u8..4, 0u64..300, 1u64..100_000, any::<bool>()), 1..400),
    ) {
        let start = moment();
        let mut control = Tunnel::new(start, 1200);
        let mut now = start;
        for (what, step, bytes, flag) in calls {
            now += millis(step);
            let sent = now.checked_sub(millis(bytes % 700)).unwrap_or(start).max(start);
            match what {
                0 => control.acked(now, sent, bytes, flag),
                1 => control.on_end_acks(now, bytes, flag, None),
                2 => control.on_congestion_event(now, sent, flag && step > 250, bytes),
                _ => control.on_mtu_update(1200 + (bytes % 300) as u16),
            }
            prop_assert!((4 * 1200..=64 << 20).contains(&control.window()), "{}", control.window());
        }
    }

    #[test]
    fn the_same_calls_make_the_same_window(megabits in 2u64..100, delay in 5u64..100) {
        let run = || {
            let mut path = Path::new(megabits * 1_000_000, millis(delay));
            path.loss_every = 30;
            path.run(5 * SECOND, u64::MAX);
            (path.control.window(), path.delivered)
        };
        prop_assert_eq!(run(), run());
    }
}

#[test]
fn a_path_that_halves_and_doubles_is_followed() {
    let mut path = Path::new(40_000_000, millis(25));
    assert!(path.share(5, 10) > 0.9);
    path.rate = 20_000_000;
    path.run(Duration::from_secs(12), u64::MAX);
    path.most_waited = 0;
    assert!(path.share(12, 15) > 0.9);
    assert!(path.most_waited < 40 * MS, "{}", path.most_waited / MS);
    path.rate = 40_000_000;
    assert!(path.share(17, 20) > 0.9);
}

#[test]
fn nothing_is_forgotten_while_little_is_sent() {
    let mut path = Path::new(50_000_000, millis(25));
    path.run(10 * SECOND, u64::MAX);
    let before = path.control.window();
    path.run(40 * SECOND, 4 * MTU);
    assert!(
        path.control.window() * 10 > before * 9,
        "{} of {before}",
        path.control.window()
    );
}

#[test]
fn a_fifth_of_loss_is_not_a_reason_to_stop() {
    let mut path = Path::new(20_000_000, millis(50));
    path.loss_every = 5;
    // Four fifths at most.
    assert!(path.share(10, 20) > 0.65);
}

#[test]
fn the_queue_runs_empty_now_and_then_so_that_the_base_stays_true() {
    let mut path = Path::new(20_000_000, millis(10));
    path.run(Duration::from_secs(120), u64::MAX);
    path.most_waited = 0;
    path.run(Duration::from_secs(140), u64::MAX);
    assert!(
        path.most_waited < 25 * MS,
        "{} ms after two minutes",
        path.most_waited / MS
    );
}

#[test]
fn a_dead_path_makes_it_begin_anew() {
    let mut path = Path::new(50_000_000, millis(50));
    path.run(5 * SECOND, u64::MAX);
    let (now, before) = (path.at(path.now), path.control.window());
    path.control.on_congestion_event(now, now, true, 100 * MTU);
    assert!(path.control.window() < before / 4);
}

#[test]
fn filters_forget_what_is_old() {
    let start = moment();
    let mut least = Least::new(SECOND);
    least.add(start, millis(10));
    for tenth in 1..=25 {
        least.add(start + millis(100) * tenth, millis(30));
    }
    assert_eq!(least.get(), millis(30));
    let mut largest = Largest::<4>::new();
    largest.add(5.0);
    for _ in 0..4 {
        largest.add(2.0);
    }
    assert_eq!(largest.get(), 2.0);
}

#[test]
fn a_trickle_before_the_first_flow_leaves_the_window_alone_where_delay_wanders() {
    let mut path = Path::new(20_000_000, Duration::from_millis(50));
    let trickle = 11 * MTU;
    path.run(Duration::from_secs(1), trickle);
    let before = path.control.window();
    for (second, delay) in [(2, 80), (3, 50), (4, 75)] {
        path.delay = delay * MS;
        path.run(Duration::from_secs(second), trickle);
    }
    assert!(path.control.window() >= before, "{}", path.control.window());
}
