//! How a flow of [`super::flow`] controls congestion: Cubic and BBR, in packets and seconds.

use std::collections::VecDeque;
use std::time::Duration;

/// What an acknowledgement says.
#[derive(Clone, Copy, Debug)]
pub struct Acked {
    /// When.
    pub now: Duration,
    /// The round trip it measured.
    pub rtt: Option<Duration>,
    /// The shortest round trip of the flow.
    pub min_rtt: Duration,
    /// Packets newly known to have arrived.
    pub packets: u64,
    /// Packets still on their way.
    pub flying: u64,
    /// The delivery rate in packets per second, as in draft-cheng-iccrg-delivery-rate-estimation.
    pub rate: Option<f64>,
    /// Whether a round trip has passed since the last that said so.
    pub round: bool,
    /// Whether losses are being made good.
    pub recovering: bool,
}

/// Decides how much may be on its way.
pub trait Control {
    /// The window in packets.
    fn window(&self) -> f64;
    /// Packets per second, if paced.
    fn pacing(&self) -> Option<f64>;
    /// An acknowledgement.
    fn on_ack(&mut self, acked: &Acked);
    /// Losses, once per round trip at most.
    fn on_loss(&mut self, now: Duration);
    /// Nothing came for too long.
    fn on_timeout(&mut self, now: Duration);
    /// The last loss was none.
    fn undo(&mut self, now: Duration);
}

/// Which control.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ControlKind {
    /// RFC 9438 with HyStart.
    Cubic,
    /// BBR, version 1.
    Bbr,
}

impl ControlKind {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cubic => "cubic",
            Self::Bbr => "bbr",
        }
    }

    /// One for a flow that begins at `now`.
    #[must_use]
    pub fn build(self, now: Duration) -> Box<dyn Control> {
        match self {
            Self::Cubic => Box::new(Cubic::new()),
            Self::Bbr => Box::new(Bbr::new(now)),
        }
    }
}

/// RFC 9438, with the delay half of HyStart as Linux has it.
struct Cubic {
    window: f64,
    threshold: f64,
    w_max: f64,
    /// The start of the epoch and its K.
    epoch: Option<(Duration, f64)>,
    friendly: f64,
    undo: Option<(f64, f64, f64)>,
    round_min: Duration,
    round_samples: u32,
}

const BETA: f64 = 0.7;
const C: f64 = 0.4;

impl Cubic {
    fn new() -> Self {
        Self {
            window: 10.0,
            threshold: f64::INFINITY,
            w_max: 0.0,
            epoch: None,
            friendly: 0.0,
            undo: None,
            round_min: Duration::MAX,
            round_samples: 0,
        }
    }
}

impl Control for Cubic {
    fn window(&self) -> f64 {
        self.window
    }

    fn pacing(&self) -> Option<f64> {
        None
    }

    fn on_ack(&mut self, acked: &Acked) {
        if acked.round {
            self.round_min = Duration::MAX;
            self.round_samples = 0;
        }
        if acked.recovering {
            return;
        }
        let packets = acked.packets as f64;
        // A window that is not used does not grow.
        if (acked.flying as f64 + packets) < self.window * 0.5 {
            return;
        }
        if self.window < self.threshold {
            self.window = (self.window + packets).min(self.threshold.max(self.window));
            if let Some(rtt) = acked.rtt
                && self.window >= 16.0
            {
                self.round_min = self.round_min.min(rtt);
                self.round_samples += 1;
                let margin =
                    (acked.min_rtt / 8).clamp(Duration::from_millis(4), Duration::from_millis(16));
                if self.round_samples == 8 && self.round_min > acked.min_rtt + margin {
                    self.threshold = self.window;
                }
            }
            return;
        }
        let (start, k) = *self.epoch.get_or_insert_with(|| {
            self.friendly = self.window;
            self.w_max = self.w_max.max(self.window);
            (acked.now, ((self.w_max - self.window) / C).cbrt())
        });
        let rtt = acked.rtt.unwrap_or(acked.min_rtt);
        let t = (acked.now - start + rtt).as_secs_f64() - k;
        let target = (C * t * t * t + self.w_max).clamp(self.window, self.window * 1.5);
        let alpha = 3.0 * (1.0 - BETA) / (1.0 + BETA);
        self.friendly += alpha * packets / self.window;
        self.window += (target - self.window) / self.window * packets;
        self.window = self.window.max(self.friendly);
    }

    fn on_loss(&mut self, _: Duration) {
        self.undo = Some((self.window, self.threshold, self.w_max));
        self.w_max = if self.window < self.w_max {
            self.window * (1.0 + BETA) / 2.0
        } else {
            self.window
        };
        self.window = (self.window * BETA).max(2.0);
        self.threshold = self.window;
        self.epoch = None;
    }

    fn on_timeout(&mut self, now: Duration) {
        self.on_loss(now);
        self.window = 1.0;
    }

    fn undo(&mut self, _: Duration) {
        if let Some((window, threshold, w_max)) = self.undo.take() {
            self.window = self.window.max(window);
            self.threshold = threshold;
            self.w_max = w_max;
            self.epoch = None;
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Startup,
    Drain,
    Cruise(usize),
    Probe { until: Duration },
}

/// BBR, version 1 (draft-cardwell-iccrg-bbr-congestion-control-00), without its long-term sampling.
struct Bbr {
    phase: Phase,
    phase_at: Duration,
    rates: VecDeque<(u64, f64)>,
    rounds: u64,
    min_rtt: Duration,
    min_at: Duration,
    full: f64,
    full_rounds: u32,
    filled: bool,
    window: f64,
    conserve: bool,
}

const GAINS: [f64; 8] = [1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
const STARTUP: f64 = 2.885;

impl Bbr {
    fn new(now: Duration) -> Self {
        Self {
            phase: Phase::Startup,
            phase_at: now,
            rates: VecDeque::new(),
            rounds: 0,
            min_rtt: Duration::MAX,
            min_at: now,
            full: 0.0,
            full_rounds: 0,
            filled: false,
            window: 10.0,
            conserve: false,
        }
    }

    fn rate(&self) -> f64 {
        self.rates.iter().map(|(_, rate)| *rate).fold(0.0, f64::max)
    }

    fn product(&self) -> f64 {
        if self.min_rtt == Duration::MAX {
            return 10.0;
        }
        self.rate() * self.min_rtt.as_secs_f64()
    }
}

impl Control for Bbr {
    fn window(&self) -> f64 {
        if matches!(self.phase, Phase::Probe { .. }) {
            return self.window.min(4.0);
        }
        self.window.max(4.0)
    }

    fn pacing(&self) -> Option<f64> {
        let gain = match self.phase {
            Phase::Startup => STARTUP,
            Phase::Drain => 1.0 / STARTUP,
            Phase::Cruise(index) => GAINS[index],
            Phase::Probe { .. } => 1.0,
        };
        if self.rates.is_empty() {
            return None;
        }
        Some((self.rate() * gain).max(10.0))
    }

    fn on_ack(&mut self, acked: &Acked) {
        let now = acked.now;
        if acked.round {
            self.rounds += 1;
            self.conserve = false;
        }
        if let Some(rate) = acked.rate {
            let rounds = self.rounds;
            self.rates.retain(|(round, _)| *round + 10 > rounds);
            while self.rates.back().is_some_and(|(_, other)| *other <= rate) {
                self.rates.pop_back();
            }
            self.rates.push_back((rounds, rate));
        }
        let expired = now.saturating_sub(self.min_at) > Duration::from_secs(10);
        if let Some(rtt) = acked.rtt
            && (rtt <= self.min_rtt || expired)
        {
            self.min_rtt = rtt;
            self.min_at = now;
        }
        if acked.round && !self.filled && acked.rate.is_some() {
            if self.rate() >= self.full * 1.25 {
                self.full = self.rate();
                self.full_rounds = 0;
            } else {
                self.full_rounds += 1;
                self.filled = self.full_rounds >= 3;
            }
        }
        let flying = acked.flying as f64;
        match self.phase {
            Phase::Startup if self.filled => self.phase = Phase::Drain,
            Phase::Drain if flying <= self.product() => {
                self.phase = Phase::Cruise(2);
                self.phase_at = now;
            }
            Phase::Cruise(index) => {
                let full_round = now.saturating_sub(self.phase_at) > self.min_rtt;
                let next = match index {
                    0 => full_round && flying >= 1.2 * self.product() || acked.recovering,
                    1 => full_round || flying <= self.product(),
                    _ => full_round,
                };
                if next && (full_round || index == 1) {
                    self.phase = Phase::Cruise((index + 1) % GAINS.len());
                    self.phase_at = now;
                }
            }
            Phase::Probe { until } if now >= until => {
                self.min_at = now;
                self.phase = if self.filled {
                    Phase::Cruise(2)
                } else {
                    Phase::Startup
                };
                self.phase_at = now;
            }
            _ => {}
        }
        if expired && !matches!(self.phase, Phase::Probe { .. }) {
            let until = now + Duration::from_millis(200).max(self.min_rtt);
            self.phase = Phase::Probe { until };
        }
        let gain = if self.filled { 2.0 } else { STARTUP };
        // Three packets of offload either way, as the kernel allows for.
        let target = gain * self.product() + 3.0;
        let packets = acked.packets as f64;
        if self.conserve && acked.recovering {
            self.window = self.window.max(flying + packets);
        } else if self.filled {
            self.window = (self.window + packets).min(target);
        } else if self.window < target || self.rounds < 3 {
            self.window += packets;
        }
        self.window = self.window.max(4.0);
    }

    fn on_loss(&mut self, _: Duration) {
        self.conserve = true;
    }

    fn on_timeout(&mut self, _: Duration) {
        self.window = 4.0;
    }

    fn undo(&mut self, _: Duration) {
        self.conserve = false;
    }
}
