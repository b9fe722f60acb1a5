//! The controller itself; its reasoning stands in the module above.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory, ControllerMetrics};

use super::filter::{Largest, Least};

/// The window before anything is known, in packets.
const INITIAL: u64 = 16;
/// Where the path is long, the window begins with this many bytes per second instead: the pacer spreads
/// it, and flows inside begin gently themselves.
const INITIAL_RATE: f64 = 10e6 / 8.0;
/// And more where a round trip is long, for there doublings are dear: twice as much at this one, four times at
/// most.
const LONG: Duration = Duration::from_millis(100);
/// Less than this part of the window per round trip is a trickle: a call, handshakes of flows that are about
/// to begin, acknowledgements of flows the other way. Where delay wanders, it can look like a queue.
const TRICKLE: f64 = 4.0;
/// How far ahead of the rate seen so far the window is while starting up.
const AHEAD: f64 = 3.0;
/// The least window, in packets.
const FLOOR: u64 = 4;
/// The largest window there ever is, in bytes.
const CEILING: u64 = 64 << 20;
/// The queue held on the path, at least.
const TARGET: Duration = Duration::from_millis(4);
/// And as a part of the base round trip.
const TARGET_PART: u32 = 16;
/// For how long the shortest round trip counts.
const BASE_SPAN: Duration = Duration::from_secs(10);
/// Without a round trip near the base for so long, the queue is let run empty once.
const STALE: Duration = Duration::from_secs(5);
/// Loss beyond this share is congestion, whatever the delay says.
const LOSS_LIMIT: f64 = 0.25;
/// For how long what the path carried is remembered.
const CAPACITY_LASTS: Duration = Duration::from_secs(60);
/// Whether somebody else is there is found out anew after so long, where that is not known.
const RETEST: Duration = Duration::from_secs(10);
/// Cubic's constants (RFC 9438 §4.1).
const BETA: f64 = 0.7;
const C: f64 = 0.4;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Phase {
    Startup {
        flat: u32,
        best: f64,
    },
    Steady,
    /// The queue is let run empty, then the window is as before.
    Drain {
        restore: f64,
    },
    Compete(Contest),
}

/// Cubic's epoch while somebody else fills the queue.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Contest {
    since: Instant,
    origin: f64,
    k: f64,
    entered: Instant,
    /// Nothing was lost yet: it is not known how far the window is from its share.
    blind: bool,
}

/// What is gathered in an interval.
#[derive(Clone, Copy, Debug)]
struct Interval {
    begun: Instant,
    /// A packet sent after the begin was acknowledged.
    over: bool,
    shortest: Duration,
    sum: Duration,
    samples: u32,
    acked: u64,
    lost: u64,
    /// Of `acked`, what was acknowledged while more was to be sent than the window allowed.
    limited: u64,
}

impl Interval {
    fn new(begun: Instant) -> Self {
        Self {
            begun,
            over: false,
            shortest: Duration::MAX,
            sum: Duration::ZERO,
            samples: 0,
            acked: 0,
            lost: 0,
            limited: 0,
        }
    }

    /// Whether the window was what held the sender back for more than this share of the interval.
    fn is_limited(&self, share: f64) -> bool {
        self.limited as f64 > self.acked as f64 * share
    }
}

/// Where a run of reductions began.
#[derive(Clone, Copy, Debug)]
struct Run {
    window: f64,
    rate: f64,
    queue: Duration,
    begun: Instant,
}

#[derive(Clone, Debug)]
pub(super) struct Tunnel {
    mtu: u64,
    window: f64,
    phase: Phase,
    base: Least,
    near_base: Instant,
    jitter: Duration,
    /// How much the shortest round trips of two intervals in a row differ, smoothed.
    noise: Duration,
    last_shortest: Duration,
    /// What `noise` and `jitter` are made of so far, up to eight intervals.
    steps: u32,
    spreads: u32,
    /// How much two round trips in a row differ, smoothed: jitter of packet and packet.
    scatter: Duration,
    /// The last eight round trips.
    recent: [Duration; 8],
    at: usize,
    rate: Largest<10>,
    interval: Interval,
    run: Option<Run>,
    growth: f64,
    resume: Option<Contest>,
    peak: Duration,
    /// What the path carried while nobody else was on it, and when that was.
    capacity: Option<(f64, Instant)>,
    slow_rate: f64,
    /// The share lost, smoothed over a few intervals.
    loss: f64,
    reduced: Instant,
    started: bool,
}

impl Tunnel {
    pub(super) fn new(now: Instant, mtu: u16) -> Self {
        let mtu = u64::from(mtu);
        Self {
            mtu,
            window: (INITIAL * mtu) as f64,
            phase: Phase::Startup { flat: 0, best: 0.0 },
            base: Least::new(BASE_SPAN),
            near_base: now,
            jitter: Duration::ZERO,
            noise: Duration::ZERO,
            last_shortest: Duration::MAX,
            steps: 0,
            spreads: 0,
            scatter: Duration::ZERO,
            recent: [Duration::MAX; 8],
            at: 0,
            rate: Largest::new(),
            interval: Interval::new(now),
            run: None,
            growth: GROWTH,
            resume: None,
            peak: Duration::ZERO,
            capacity: None,
            slow_rate: 0.0,
            loss: 0.0,
            reduced: now,
            started: false,
        }
    }

    /// One packet has arrived. quinn-proto's own estimate takes a round trip per ACK; this takes one per packet.
    pub(super) fn acked(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool) {
        let sample = now.saturating_duration_since(sent);
        self.base.add(now, sample);
        let interval = &mut self.interval;
        interval.shortest = interval.shortest.min(sample);
        interval.sum += sample;
        interval.samples += 1;
        interval.acked += bytes;
        if !app_limited {
            interval.limited += bytes;
        }
        interval.over |= sent >= interval.begun;
        let last = self.recent[(self.at + 7) % 8];
        if last != Duration::MAX {
            let step = sample.abs_diff(last).min(self.base.get());
            self.scatter = (self.scatter * 15 + step) / 16;
        }
        self.recent[self.at] = sample;
        self.at = (self.at + 1) % self.recent.len();
        if !self.started {
            self.started = true;
            let trip = sample.as_secs_f64().min(1.0);
            let start = INITIAL_RATE * trip * (1.0 + (trip / LONG.as_secs_f64()).min(3.0));
            self.set(self.window.max(start));
        }
        if matches!(self.phase, Phase::Startup { .. }) && !self.is_late() {
            // Ahead of what flows inside ask for, who double what they send per round trip as well.
            let trip = (self.base.get() + self.jitter).as_secs_f64();
            let most = AHEAD * self.rate.get() * trip;
            if self.window < most {
                self.set((self.window + bytes as f64).min(most));
            }
        }
    }

    fn target(&self) -> Duration {
        let base = self.base.get();
        TARGET.max(base / TARGET_PART).max(self.jitter / 2) + self.noise * 2
    }

    /// Whether even the quickest of the last packets met a queue.
    fn is_late(&self) -> bool {
        let base = self.base.get();
        let margin = (base / 8).clamp(TARGET, Duration::from_millis(16));
        let quickest = self.recent.iter().min().copied().unwrap_or_default();
        quickest != Duration::MAX && quickest > base + margin + self.noise + self.scatter
    }

    /// What the path holds with a queue of the target, by the largest rate of late.
    fn product(&self) -> f64 {
        let trip = self.base.get() + self.target() + self.jitter;
        self.rate.get() * trip.as_secs_f64()
    }

    fn set(&mut self, window: f64) {
        let floor = (FLOOR * self.mtu) as f64;
        self.window = window.clamp(floor, CEILING as f64);
    }

    /// A queue stands though the window is not used up: it is made smaller until it is, and the queue
    /// stands in front of it instead: by this factor at a time, or at once where the window is a mere guess.
    /// What is known of the path stays as it is.
    fn tighten(&mut self, factor: f64) {
        // Short packets come in bursts: ACKs of flows the other way, for one.
        let least = self.product() + (INITIAL * self.mtu / 2) as f64;
        if self.window > least {
            self.set((self.window * factor).max(least));
        }
    }

    fn end_interval(&mut self, now: Instant) {
        let interval = std::mem::replace(&mut self.interval, Interval::new(now));
        if interval.samples == 0 {
            return;
        }
        let elapsed = now.saturating_duration_since(interval.begun);
        let base = self.base.get();
        let before = std::mem::replace(&mut self.last_shortest, interval.shortest);
        if before != Duration::MAX && interval.samples >= 4 {
            let step = interval.shortest.abs_diff(before).min(base / 2);
            self.noise = smoothed(self.noise, step, &mut self.steps);
        }
        let standing = interval.shortest;
        let queue = standing.saturating_sub(base);
        let mean = interval.sum / interval.samples;
        let spread = (mean - standing).min(base + Duration::from_millis(25));
        self.jitter = smoothed(self.jitter, spread, &mut self.spreads);
        let rate = interval.acked as f64 / elapsed.as_secs_f64().max(1e-6);
        if interval.is_limited(0.5) || rate > self.rate.get() {
            self.rate.add(rate);
        }
        let loss = interval.lost as f64 / (interval.lost + interval.acked).max(1) as f64;
        if queue <= self.target() / 2 {
            self.near_base = now;
        }
        self.loss += (loss - self.loss) / 4.0;
        let excess = self.loss > LOSS_LIMIT && interval.samples >= 16;
        match self.phase {
            Phase::Startup { flat, best } => {
                // A trickle has made no queue, and says nothing of what the path holds.
                let used = interval.acked as f64 >= self.window / TRICKLE;
                let limited = |share| used && interval.is_limited(share);
                let grown = rate >= best * 1.25 || !limited(0.9);
                let flat = if grown { 0 } else { flat + 1 };
                let stands = queue > self.target() && interval.samples >= 8;
                self.phase = Phase::Startup {
                    flat,
                    best: best.max(rate),
                };
                if stands && used && !limited(0.5) {
                    self.tighten(0.0);
                }
                if limited(0.5) && (stands && flat >= 1 || flat >= 3) || excess {
                    self.phase = Phase::Steady;
                    // What was measured before the window is cut: whether a queue is ours is seen then.
                    self.run = (queue > self.target()).then_some(Run {
                        window: self.window,
                        rate,
                        queue,
                        begun: now,
                    });
                    self.set(self.product().min(self.window));
                }
            }
            Phase::Steady => {
                let calm = standing.min(before);
                let calm_queue = calm.saturating_sub(base);
                self.steady(now, &interval, calm, calm_queue, rate, excess);
            }
            Phase::Drain { restore } => {
                self.near_base = now;
                self.phase = Phase::Steady;
                self.set(restore);
            }
            Phase::Compete(contest) => self.share(now, contest, &interval, elapsed, queue, rate),
        }
    }

    /// Somebody else fills the queue: how much is ours?
    fn share(
        &mut self,
        now: Instant,
        mut contest: Contest,
        interval: &Interval,
        elapsed: Duration,
        queue: Duration,
        rate: f64,
    ) {
        self.peak = self.peak.max(queue);
        self.slow_rate += (rate - self.slow_rate) / 4.0;
        if queue <= self.target() / 2 {
            self.leave(None);
            return;
        }
        // Time in which nothing is learned, or nothing wanted, does not count for Cubic.
        if !interval.is_limited(0.5) {
            contest.since += elapsed;
            self.phase = Phase::Compete(contest);
            return;
        }
        let known = self.capacity;
        let known = known.filter(|(_, at)| now.saturating_duration_since(*at) < CAPACITY_LASTS);
        let part = known.map(|(capacity, _)| self.slow_rate / capacity);
        match part {
            Some(part) if part > 0.85 => self.leave(None),
            Some(part) => {
                contest.since += elapsed;
                self.phase = Phase::Compete(contest);
                if part > 0.52 {
                    self.set(self.window * 0.97);
                } else if part <= 0.46 {
                    self.set(self.window * (1.0 + 0.25 * (0.46 - part)));
                }
            }
            None if now.saturating_duration_since(contest.entered) > RETEST => {
                self.leave(Some(contest));
            }
            None if contest.blind => self.set(self.window * 1.25),
            None => {
                let unit = self.mtu as f64;
                let t = now.saturating_duration_since(contest.since).as_secs_f64() - contest.k;
                let cubic = (C * t * t * t) * unit + contest.origin;
                let next = cubic.min(self.window * 1.1);
                if next > self.window {
                    self.set(next);
                }
            }
        }
    }

    /// Back to a window that goes by delay; to go on with `resume` if that turns out to be wrong.
    fn leave(&mut self, resume: Option<Contest>) {
        self.phase = Phase::Steady;
        self.run = None;
        self.resume = resume;
    }

    fn steady(
        &mut self,
        now: Instant,
        interval: &Interval,
        standing: Duration,
        queue: Duration,
        rate: f64,
        excess: bool,
    ) {
        if excess {
            self.set(self.product().max(self.window * BETA).min(self.window));
            return;
        }
        if !interval.is_limited(0.5) {
            if queue > self.target() {
                self.tighten(0.85);
            }
            return;
        }
        let base = self.base.get();
        let target = self.target();
        if queue >= target / 2 && queue <= target * 2 {
            let known = self.capacity.map_or(rate, |(known, _)| known);
            let weight = if rate > known { 4.0 } else { 16.0 };
            self.capacity = Some((known + (rate - known) / weight, now));
        }
        if now.saturating_duration_since(self.near_base) > STALE && queue > target / 2 {
            self.phase = Phase::Drain {
                restore: self.window,
            };
            let held = self.rate.get() * base.as_secs_f64();
            self.set((held * 0.75).min(self.window * 0.75));
            return;
        }
        if queue <= target {
            self.run = None;
            self.resume = None;
            if queue <= target / 2 {
                self.set(self.window * (1.0 + self.growth));
                self.growth = (self.growth * 2.0).min(0.25);
            } else {
                self.growth = GROWTH;
                let want = (base + target).as_secs_f64() / standing.as_secs_f64();
                self.set(self.window * want);
            }
            let most = 2.0 * self.product() + (INITIAL * self.mtu) as f64;
            self.set(self.window.min(most));
            return;
        }
        self.growth = GROWTH;
        let run = *self.run.get_or_insert(Run {
            window: self.window,
            rate,
            queue,
            begun: now,
        });
        let floor = (FLOOR * self.mtu) as f64 * 1.01;
        let smaller = self.window <= run.window * 0.75 && rate <= run.rate * 0.88;
        if (smaller || self.window <= floor) && queue >= run.queue.mul_f64(0.6) {
            // Less from us has not made the queue shorter: it is not ours.
            self.run = None;
            self.peak = self.peak.max(queue);
            self.slow_rate = rate;
            self.set(run.window);
            let mut contest = self.resume.take().unwrap_or(Contest {
                since: now,
                origin: run.window,
                k: 0.0,
                entered: now,
                blind: true,
            });
            contest.since += now.saturating_duration_since(run.begun);
            contest.entered = now;
            self.phase = Phase::Compete(contest);
            return;
        }
        let want = (base + target).as_secs_f64() / standing.as_secs_f64();
        self.set(self.window * want.max(0.85));
    }
}

/// A mean over the last eight values or so; of the first few, of all there are: flows inside are at their
/// greatest soon after they have begun.
fn smoothed(mean: Duration, value: Duration, count: &mut u32) -> Duration {
    *count = (*count + 1).clamp(2, 8);
    (mean * (*count - 1) + value) / *count
}

/// How much the window grows per interval without a queue, at first.
const GROWTH: f64 = 1.0 / 16.0;

/// By Newton's method: the standard library's differs between platforms.
fn cube_root(value: f64) -> f64 {
    if value <= 0.0 {
        return 0.0;
    }
    let mut root = value.max(1.0);
    for _ in 0..60 {
        root -= (root * root * root - value) / (3.0 * root * root);
    }
    root
}

impl Controller for Tunnel {
    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        _: &RttEstimator,
    ) {
        self.acked(now, sent, bytes, app_limited);
    }

    fn on_end_acks(&mut self, now: Instant, _: u64, _: bool, _: Option<u64>) {
        if self.interval.over {
            self.end_interval(now);
        }
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost: u64) {
        self.interval.lost += lost;
        if persistent {
            // Nothing came through for several timeouts: whatever the path is now, it is another.
            let mtu = u16::try_from(self.mtu).unwrap_or(u16::MAX);
            let window = self.window.min((INITIAL * self.mtu) as f64);
            *self = Self::new(now, mtu);
            self.set(window);
            return;
        }
        if let Phase::Compete(contest) = self.phase
            && sent > self.reduced
            && self.interval.samples > 0
        {
            let queue = self.interval.shortest.saturating_sub(self.base.get());
            if queue * 2 >= self.peak {
                self.reduced = now;
                self.peak = self.peak * 7 / 8;
                let origin = self.window;
                self.set(self.window * BETA);
                let packets = (origin - self.window) / self.mtu as f64;
                self.phase = Phase::Compete(Contest {
                    since: now,
                    origin,
                    k: cube_root(packets / C),
                    entered: contest.entered,
                    blind: false,
                });
            }
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = u64::from(new_mtu);
        self.set(self.window);
    }

    fn window(&self) -> u64 {
        self.window as u64
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Makes controllers for tunnels.
#[derive(Debug, Default)]
pub(in super::super) struct TunnelFactory {
    /// The first window in bytes, whatever the path is.
    pub(in super::super) window: Option<u64>,
}

impl ControllerFactory for TunnelFactory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let mut tunnel = Tunnel::new(now, current_mtu);
        if let Some(window) = self.window {
            tunnel.set(window as f64);
            tunnel.started = true;
        }
        Box::new(tunnel)
    }
}
