//! The bounded queue in front of one tunnel.

use std::collections::VecDeque;

use bytes::Bytes;

/// Datagrams waiting for QUIC to take them, bounded in bytes.
#[derive(Debug, Default)]
pub(super) struct TunnelQueue {
    datagrams: VecDeque<Bytes>,
    bytes: usize,
}

impl TunnelQueue {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn push(&mut self, datagram: Bytes) {
        self.bytes += datagram.len();
        self.datagrams.push_back(datagram);
    }

    pub(super) fn pop(&mut self) -> Option<Bytes> {
        let datagram = self.datagrams.pop_front()?;
        self.bytes -= datagram.len();
        Some(datagram)
    }

    pub(super) fn push_front(&mut self, datagram: Bytes) {
        self.bytes += datagram.len();
        self.datagrams.push_front(datagram);
    }

    pub(super) fn len(&self) -> usize {
        self.datagrams.len()
    }
}

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
