//! How often a tunnel may be answered.

/// How many packets each tunnel may have answered with ICMP: a token bucket of one second's worth.
#[derive(Clone, Copy, Debug)]
pub(super) struct RateLimit {
    per_second: u32,
    tokens: f64,
    last: std::time::Instant,
}

impl RateLimit {
    pub(super) fn new(per_second: u32, now: std::time::Instant) -> Self {
        Self {
            per_second,
            tokens: f64::from(per_second),
            last: now,
        }
    }

    pub(super) fn allow(&mut self, now: std::time::Instant) -> bool {
        let rate = f64::from(self.per_second);
        let elapsed = now.saturating_duration_since(self.last).as_secs_f64();
        self.last = now;
        self.tokens = (self.tokens + elapsed * rate).min(rate);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            true
        } else {
            false
        }
    }
}
