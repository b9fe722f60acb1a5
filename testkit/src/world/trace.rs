//! What happened, as lines that can be compared.

use std::fmt::Display;
use std::time::Duration;

use crate::seed::Fnv;

/// Lines `TIME_US node event`, and a fingerprint of all bytes that moved.
///
/// The fingerprint is always kept; the lines only while tracing is on.
#[derive(Debug, Default)]
pub struct Trace {
    on: bool,
    lines: Vec<String>,
    fingerprint: Fnv,
}

impl Trace {
    pub(super) fn set(&mut self, on: bool) {
        self.on = on;
    }

    /// Whether lines are kept.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.on
    }

    pub(super) fn line(&mut self, at: Duration, node: &str, event: impl Display) {
        if self.on {
            self.lines
                .push(format!("{} {node} {event}", at.as_micros()));
        }
    }

    /// Bytes that crossed the surface of a node: a UDP datagram sent, an IP packet delivered.
    pub(super) fn bytes(&mut self, at: Duration, kind: u8, bytes: &[u8]) {
        self.fingerprint.write(&at.as_nanos().to_le_bytes());
        self.fingerprint.write(&[kind]);
        self.fingerprint.write(&(bytes.len() as u64).to_le_bytes());
        self.fingerprint.write(bytes);
    }

    /// The lines so far.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// The lines as one text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = self.lines.join("\n");
        text.push('\n');
        text
    }

    /// FNV-1a over every UDP datagram sent and every IP packet delivered, with their times.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint.value()
    }
}
