//! UDP datagrams on their way out.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use masque_core::endpoint::Transmit;

use super::links::Links;
use super::{PumpCounters, PumpOptions};
use crate::io::Io;

/// The most bytes one UDP send carries over IPv4, with GSO or without.
const MAX_SEND: usize = 65_507;

/// At most one batch of datagrams: the one the system has not taken yet.
#[derive(Debug)]
pub(super) struct Sender {
    /// Its bytes; the endpoint writes here.
    pub(super) buffer: Vec<u8>,
    pending: Option<Pending>,
    max_segments: usize,
    patience: Duration,
    complained: bool,
}

#[derive(Debug)]
struct Pending {
    transmit: Transmit,
    /// How many bytes are out already.
    sent: usize,
    since: Instant,
}

impl Sender {
    pub(super) fn new(options: &PumpOptions) -> Self {
        Self {
            buffer: Vec::new(),
            pending: None,
            max_segments: options.max_segments.max(1),
            patience: options.send_patience,
            complained: false,
        }
    }

    /// Whether a batch waits for its socket.
    pub(super) fn is_blocked(&self) -> bool {
        self.pending.is_some()
    }

    /// Frees the buffer, if nothing in it waits.
    pub(super) fn rest(&mut self) {
        if self.pending.is_none() {
            self.buffer = Vec::new();
        }
    }

    /// The most datagrams the next batch may have, whatever socket it is for.
    pub(super) fn max_segments(&self, io: &impl Io, links: &Links) -> usize {
        links
            .sockets
            .iter()
            .map(|link| io.max_segments(link.id))
            .fold(self.max_segments, usize::min)
            .max(1)
    }

    /// Sends what the endpoint has put into the buffer; `false` if it has to wait.
    pub(super) fn send(
        &mut self,
        transmit: Transmit,
        io: &mut impl Io,
        links: &mut Links,
        counters: &mut PumpCounters,
        now: Instant,
    ) -> bool {
        debug_assert!(self.pending.is_none(), "one batch at a time");
        self.pending = Some(Pending {
            transmit,
            sent: 0,
            since: now,
        });
        self.resume(io, links, counters, now)
    }

    /// Goes on with a batch that waits; `false` if it still does.
    pub(super) fn resume(
        &mut self,
        io: &mut impl Io,
        links: &mut Links,
        counters: &mut PumpCounters,
        now: Instant,
    ) -> bool {
        let Some(pending) = &mut self.pending else {
            return true;
        };
        let transmit = pending.transmit;
        let Some(link) = links.socket(transmit.socket) else {
            counters.sends_dropped += 1;
            self.pending = None;
            return true;
        };
        let data = self.buffer.get(..transmit.size).unwrap_or(&self.buffer);
        while let Some(rest) = data.get(pending.sent..).filter(|rest| !rest.is_empty()) {
            if !link.writable {
                if !link.stuck && now.saturating_duration_since(pending.since) < self.patience {
                    return false;
                }
                link.stuck = true;
                counters.sends_dropped += 1;
                break;
            }
            let segment = transmit.segment_size.unwrap_or(rest.len()).max(1);
            let segments = self
                .max_segments
                .min(io.max_segments(link.id))
                .min(MAX_SEND / segment)
                .max(1);
            let chunk = rest.get(..segments.saturating_mul(segment)).unwrap_or(rest);
            let batched = chunk.len() > segment;
            let part = Transmit {
                size: chunk.len(),
                segment_size: batched.then_some(segment),
                ..transmit
            };
            match io.try_send(&part, chunk) {
                Ok(()) => {
                    counters.sends += 1;
                    pending.sent += chunk.len();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    counters.sends_blocked += 1;
                    link.writable = false;
                }
                Err(error)
                    if batched
                        && matches!(
                            error.raw_os_error(),
                            Some(libc::EIO | libc::EINVAL | libc::EOPNOTSUPP)
                        ) =>
                {
                    // Either GSO is at fault, or this destination: one datagram alone tells.
                    let alone = rest.get(..segment).unwrap_or(rest);
                    let single = Transmit {
                        size: alone.len(),
                        segment_size: None,
                        ..transmit
                    };
                    match io.try_send(&single, alone) {
                        Err(again) if again.kind() != ErrorKind::WouldBlock => {
                            counters.send_errors += 1;
                            pending.sent += chunk.len();
                        }
                        outcome => {
                            io.disable_gso(link.id);
                            counters.gso_disabled += 1;
                            tracing::debug!(
                                socket = link.id.0, %error,
                                "UDP segmentation offload failed"
                            );
                            if outcome.is_ok() {
                                counters.sends += 1;
                                pending.sent += alone.len();
                            }
                        }
                    }
                }
                Err(error) => {
                    counters.send_errors += 1;
                    pending.sent += chunk.len();
                    if !self.complained {
                        self.complained = true;
                        tracing::warn!(
                            destination = %transmit.destination, %error,
                            "a UDP datagram was refused; further ones are only counted"
                        );
                    }
                }
            }
        }
        self.pending = None;
        true
    }
}
