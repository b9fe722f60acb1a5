//! Frames on their way to the devices.

use std::io::{self, ErrorKind};

use masque_core::endpoint::TunBatch;
use masque_core::wire::offload::TunFrame;

use super::PumpCounters;
use super::links::{Links, PortLink};
use crate::io::Io;

/// Writes what waited, as far as the devices take it.
pub(super) fn resume(io: &mut impl Io, links: &mut Links, counters: &mut PumpCounters) {
    for link in &mut links.ports {
        while link.writable
            && let Some(frame) = link.waiting.front()
        {
            match attempt(io, link.id, frame) {
                Outcome::Blocked => {
                    link.writable = link.write_only;
                    counters.writes_blocked += 1;
                    break;
                }
                Outcome::Written => {
                    counters.writes += 1;
                    link.waiting.pop_front();
                }
                Outcome::Refused(error) => {
                    refused(link, counters, &error);
                    link.waiting.pop_front();
                }
            }
        }
    }
}

/// Writes a batch in order. What the device does not take now waits, at most `limit` frames; what
/// comes after is dropped and counted.
pub(super) fn write(
    batch: &mut TunBatch,
    limit: usize,
    io: &mut impl Io,
    links: &mut Links,
    counters: &mut PumpCounters,
) {
    let Some(link) = links.port(batch.port) else {
        counters.writes_dropped += batch.frames.len() as u64;
        return;
    };
    for frame in &mut batch.frames {
        if link.writable && link.waiting.is_empty() {
            match attempt(io, link.id, frame) {
                Outcome::Written => {
                    counters.writes += 1;
                    continue;
                }
                Outcome::Refused(error) => {
                    refused(link, counters, &error);
                    continue;
                }
                Outcome::Blocked => {
                    // Nothing tells when a queue that another reads is writable: every turn tries.
                    link.writable = link.write_only;
                    counters.writes_blocked += 1;
                }
            }
        }
        if link.lost || link.waiting.len() >= limit {
            counters.writes_dropped += 1;
        } else {
            link.waiting.push_back(std::mem::take(frame));
        }
    }
}

enum Outcome {
    Written,
    Blocked,
    Refused(io::Error),
}

fn attempt(io: &mut impl Io, port: masque_core::endpoint::PortId, frame: &TunFrame) -> Outcome {
    loop {
        return match io.try_write_tun(port, frame) {
            Ok(()) => Outcome::Written,
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => continue,
                ErrorKind::WouldBlock => Outcome::Blocked,
                _ => Outcome::Refused(error),
            },
        };
    }
}

fn refused(link: &mut PortLink, counters: &mut PumpCounters, error: &io::Error) {
    counters.write_errors += 1;
    if !link.complained {
        link.complained = true;
        tracing::warn!(
            port = link.id.0, %error,
            "the device refused a packet; further ones are only counted"
        );
    }
}
