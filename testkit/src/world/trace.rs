//! What happened, as lines that can be compared.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::time::Duration;

use masque_core::trace::{TraceEvent, What};
use serde::Serialize;

use crate::seed::Fnv;

/// What happened, in order, and a fingerprint of all bytes that moved.
///
/// A line is `TIME_US NODE LAYER [cCONNECTION][/sSTREAM] WHAT`. Layers are those of the core
/// ([`masque_core::trace::Layer`]), and `world` for what surrounds it: links, hosts, deadlines.
///
/// The fingerprint is always kept; entries only while tracing is on; packets only while capturing.
#[derive(Debug, Default)]
pub struct Trace {
    on: bool,
    capturing: bool,
    entries: Vec<Entry>,
    lines: Vec<String>,
    captured: Vec<Captured>,
    metrics: Vec<Metrics>,
    noted: BTreeMap<(String, u64), (Duration, u64)>,
    fingerprint: Fnv,
}

/// One thing that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Virtual time.
    pub at: Duration,
    /// Whose; `world` for what is nobody's.
    pub node: String,
    /// What.
    pub said: Said,
}

/// Who says it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Said {
    /// The world: links, hosts, deadlines, and what endpoints tell their owner.
    World(String),
    /// A state machine of the core.
    Core(TraceEvent),
}

/// A packet that crossed the surface of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Captured {
    /// Virtual time.
    pub at: Duration,
    /// Whose surface.
    pub node: String,
    /// How many lines were there before: puts packets and lines in one order.
    pub line: usize,
    /// Where it crossed.
    pub place: Place,
    /// The UDP payload, or the whole IP packet.
    pub data: Vec<u8>,
}

/// How a connection sees its path, from a moment on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Metrics {
    /// Virtual time.
    pub at: Duration,
    /// Whose connection.
    pub node: String,
    /// How many lines were there before.
    pub line: usize,
    /// Which connection.
    pub connection: u64,
    /// Its smoothed round-trip time.
    pub rtt: Duration,
    /// Its congestion window in bytes.
    pub congestion_window: u64,
}

/// Where a packet crossed the surface of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// A UDP datagram went out.
    Sent {
        /// From where.
        from: SocketAddr,
        /// To where.
        to: SocketAddr,
    },
    /// A UDP datagram came in.
    Received {
        /// From where.
        from: SocketAddr,
        /// To where.
        to: SocketAddr,
    },
    /// An IP packet went into the tunnels.
    IntoTun,
    /// An IP packet came out of the tunnels.
    OutOfTun,
}

impl Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.at.as_micros(), self.node)?;
        match &self.said {
            Said::World(text) => write!(f, "world {text}"),
            Said::Core(event) => event.fmt(f),
        }
    }
}

/// The fields of an [`Entry`] by name; those it does not have are left out.
#[derive(Serialize)]
struct Fields<'a> {
    time_us: u128,
    node: &'a str,
    layer: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<u64>,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
}

impl Entry {
    /// The same fields as the line has, as one JSON object.
    #[must_use]
    pub fn json(&self) -> String {
        let mut fields = Fields {
            time_us: self.at.as_micros(),
            node: &self.node,
            layer: "world",
            connection: None,
            stream: None,
            kind: "world",
            name: None,
            from: None,
            to: None,
            reason: None,
            after_us: None,
            bytes: None,
            text: None,
        };
        match &self.said {
            Said::World(text) => fields.text = Some(text),
            Said::Core(event) => {
                fields.layer = event.layer.name();
                fields.connection = event.connection;
                fields.stream = event.stream;
                fields.fill(&event.what);
            }
        }
        serde_json::to_string(&fields).unwrap_or_default()
    }
}

impl<'a> Fields<'a> {
    fn fill(&mut self, what: &'a What) {
        self.kind = kind(what);
        match what {
            What::Input(text) | What::Output(text) | What::Error(text) | What::Event(text) => {
                self.text = Some(text);
            }
            What::State { from, to } => {
                self.from = Some((*from).into());
                self.to = Some((*to).into());
            }
            What::Armed { reason, after_us } => {
                self.reason = Some(reason);
                self.after_us = Some(*after_us);
            }
            What::Fired { reason } | What::Disarmed { reason } => self.reason = Some(reason),
            What::Dropped { reason, bytes } => {
                self.reason = Some(reason);
                self.bytes = Some(*bytes);
            }
            What::Frame {
                name, bytes, text, ..
            }
            | What::Capsule {
                name, bytes, text, ..
            } => {
                self.name = Some(name);
                self.bytes = Some(*bytes);
                self.text = Some(text);
            }
            What::Changed { name, from, to } => {
                self.name = Some(name);
                self.from = Some((*from).into());
                self.to = Some((*to).into());
            }
        }
    }
}

/// What an event is called in JSON, and where the stepper stops at it.
#[must_use]
pub fn kind(what: &What) -> &'static str {
    match what {
        What::Input(_) => "input",
        What::Output(_) => "output",
        What::State { .. } => "state",
        What::Armed { .. } => "armed",
        What::Disarmed { .. } => "disarmed",
        What::Fired { .. } => "fired",
        What::Dropped { .. } => "dropped",
        What::Error(_) => "error",
        What::Event(_) => "event",
        What::Frame { sent: true, .. } => "frame_sent",
        What::Frame { sent: false, .. } => "frame_received",
        What::Capsule { sent: true, .. } => "capsule_sent",
        What::Capsule { sent: false, .. } => "capsule_received",
        What::Changed { .. } => "changed",
    }
}

impl Trace {
    pub(crate) fn set(&mut self, on: bool) {
        self.on = on;
    }

    pub(crate) fn set_capturing(&mut self, on: bool) {
        self.capturing = on;
    }

    /// Whether entries are kept.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.on
    }

    pub(crate) fn line(&mut self, at: Duration, node: &str, event: impl Display) {
        if self.on {
            self.push(at, node, Said::World(event.to_string()));
        }
    }

    pub(crate) fn core(&mut self, at: Duration, node: &str, event: TraceEvent) {
        self.push(at, node, Said::Core(event));
    }

    fn push(&mut self, at: Duration, node: &str, said: Said) {
        let node = node.to_owned();
        let entry = Entry { at, node, said };
        self.lines.push(entry.to_string());
        self.entries.push(entry);
    }

    /// A packet that crosses the surface of a node.
    pub(crate) fn packet(&mut self, at: Duration, node: &str, place: Place, data: &[u8]) {
        match place {
            Place::Sent { .. } => self.bytes(at, b'u', data),
            Place::OutOfTun => self.bytes(at, b't', data),
            // What comes in left another node, or a host, before.
            Place::Received { .. } | Place::IntoTun => {}
        }
        if self.capturing {
            self.captured.push(Captured {
                at,
                node: node.to_owned(),
                line: self.lines.len(),
                place,
                data: data.to_vec(),
            });
        }
    }

    /// How a connection sees its path now; kept if it is news.
    pub(crate) fn path(
        &mut self,
        at: Duration,
        node: &str,
        connection: u64,
        seen: (Duration, u64),
    ) {
        let key = (node.to_owned(), connection);
        if self.noted.get(&key) == Some(&seen) {
            return;
        }
        self.noted.insert(key, seen);
        self.metrics.push(Metrics {
            at,
            node: node.to_owned(),
            line: self.lines.len(),
            connection,
            rtt: seen.0,
            congestion_window: seen.1,
        });
    }

    /// Whether packets are kept.
    pub(crate) fn is_capturing(&self) -> bool {
        self.capturing
    }

    /// Bytes that crossed the surface of a node: a UDP datagram sent, an IP packet delivered.
    fn bytes(&mut self, at: Duration, kind: u8, bytes: &[u8]) {
        self.fingerprint.write(&at.as_nanos().to_le_bytes());
        self.fingerprint.write(&[kind]);
        self.fingerprint.write(&(bytes.len() as u64).to_le_bytes());
        self.fingerprint.write(bytes);
    }

    /// The entries so far.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entries as lines.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// The packets captured so far.
    #[must_use]
    pub fn captured(&self) -> &[Captured] {
        &self.captured
    }

    /// How connections saw their paths while packets were captured.
    #[must_use]
    pub fn metrics(&self) -> &[Metrics] {
        &self.metrics
    }

    /// The lines as one text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = self.lines.join("\n");
        text.push('\n');
        text
    }

    /// The entries as JSON, one object per line.
    #[must_use]
    pub fn json(&self) -> String {
        let each = self.entries.iter().map(|entry| entry.json() + "\n");
        each.collect()
    }

    /// FNV-1a over every UDP datagram sent and every IP packet delivered, with their times.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint.value()
    }
}
