//! What comes in: from sockets and from devices.

use std::io::ErrorKind;
use std::time::Instant;

use super::{Pump, ingress};
use crate::app::App;
use crate::io::{Io, TUN_READ};

/// What a full batch counts for in the budget of a turn.
const FULL_BATCH: usize = 112 << 10;

/// The most bytes taken from a socket in a turn.
const DRAINED_BYTES: usize = 4 << 20;

/// The size of inner packets by which super-packets are counted.
const INNER: usize = 1400;

/// How often a socket or device may fail in a row before it has to be ready anew.
const FAILURES: usize = 8;

impl<A: App, I: Io> Pump<A, I> {
    /// Empties the sockets, and lets the endpoint take what a turn allows: known sources in the order
    /// they came while it keeps up, in turns once it does not; strangers last, and few of them.
    pub(super) fn receive(&mut self, now: Instant) -> bool {
        let mut left = self.options.receives.saturating_mul(FULL_BATCH);
        let mut again = false;
        for link in &mut self.links.sockets {
            let mut failures = 0;
            let mut bytes = 0;
            for _ in 0..self.options.drained {
                if !link.readable || bytes >= DRAINED_BYTES {
                    break;
                }
                match self.io.try_recv(link.id, self.intake.room()) {
                    Ok((meta, length)) => {
                        failures = 0;
                        self.counters.receives += 1;
                        let data = self.intake.take(length);
                        bytes += data.len();
                        // Nobody has port 0: an answer would fail as if GSO did.
                        if meta.remote.port() == 0 || data.is_empty() {
                            continue;
                        }
                        if !self.endpoint.is_known(meta.remote) {
                            self.ingress.push_stranger(meta, data);
                        } else if left > 0 && self.ingress.is_clear() {
                            left = left.saturating_sub(ingress::cost(meta.stride, data.len()));
                            self.endpoint.handle_udp(now, meta, data);
                        } else {
                            self.ingress.push(meta, data);
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => link.readable = false,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => {
                        // What ICMP has told about an earlier send, for instance.
                        tracing::debug!(socket = link.id.0, %error, "UDP receive");
                        self.counters.receive_errors += 1;
                        failures += 1;
                        link.readable = failures < FAILURES;
                    }
                }
            }
            again |= link.readable;
        }
        while left > 0
            && let Some((meta, data)) = self.ingress.pop()
        {
            left = left.saturating_sub(ingress::cost(meta.stride, data.len()));
            let before = self.endpoint.waiting_frames();
            self.endpoint.handle_udp(now, meta, data);
            let frames = self.endpoint.waiting_frames().saturating_sub(before);
            left = left.saturating_sub(self.ingress.charge(meta.remote, frames));
        }
        for _ in 0..self.options.strangers.max(1) {
            if !self.endpoint.takes_strangers() {
                break;
            }
            let unproven = self.endpoint.takes_unproven();
            let Some((meta, data)) = self.ingress.pop_stranger(unproven) else {
                break;
            };
            self.endpoint.handle_udp(now, meta, data);
        }
        self.counters.receives_dropped += self.ingress.take_dropped();
        again || !self.ingress.is_empty()
    }

    /// Reads the devices, as far as a turn allows; `true` if there may be more.
    pub(super) fn read(&mut self, now: Instant) -> bool {
        let mut again = false;
        for index in 0..self.links.ports.len() {
            let mut lost = None;
            let link = &mut self.links.ports[index];
            let port = link.id;
            let mut left = self.options.reads.saturating_mul(FULL_BATCH);
            while left > 0 {
                if !link.readable {
                    break;
                }
                if self.read.is_empty() {
                    self.read = vec![0; TUN_READ].into_boxed_slice();
                }
                match self.io.try_read_tun(port, &mut self.read) {
                    Ok((header, range)) => {
                        self.counters.reads += 1;
                        left = left.saturating_sub(ingress::cost(INNER, range.len()));
                        if let Some(packet) = self.read.get(range).filter(|data| !data.is_empty()) {
                            let _ = self.endpoint.handle_tun(now, port, header, packet);
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => link.readable = false,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => {
                        link.readable = false;
                        link.lost = true;
                        self.counters.writes_dropped += link.waiting.len() as u64;
                        link.waiting.clear();
                        lost = Some(error);
                    }
                }
            }
            again |= link.readable;
            if let Some(error) = lost {
                self.with_app(now, |app, cx| app.on_port_lost(cx, port, &error));
            }
        }
        again
    }
}
