//! Typed trace events: what happened inside, for logs, golden traces, qlog and the stepper.
//!
//! Layers record events only while tracing is on; formatting them is the reader's business.

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::fmt;

/// Which state machine speaks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Layer {
    /// UDP in and out, timers, connection management.
    Endpoint,
    /// The QUIC connection.
    Quic,
    /// The HTTP/3 connection: control and QPACK streams.
    Http3,
    /// One request stream and its capsules.
    Tunnel,
    /// IP packets: verdicts of forwarding.
    Forward,
}

impl Layer {
    /// Its name in traces.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Quic => "quic",
            Self::Http3 => "http3",
            Self::Tunnel => "tunnel",
            Self::Forward => "forward",
        }
    }
}

/// One thing that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TraceEvent {
    /// Which state machine.
    pub layer: Layer,
    /// The connection, where there is one.
    pub connection: Option<u64>,
    /// The stream or tunnel, where there is one.
    pub stream: Option<u64>,
    /// What happened.
    pub what: What,
}

/// The kinds of things that happen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// An input was taken.
    Input(Cow<'static, str>),
    /// An output was given.
    Output(Cow<'static, str>),
    /// A state changed.
    State {
        /// Before.
        from: &'static str,
        /// After.
        to: &'static str,
    },
    /// A timer was armed, and why.
    Armed {
        /// Why.
        reason: &'static str,
        /// How long until it fires, in microseconds.
        after_us: u64,
    },
    /// A timer was disarmed before it fired.
    Disarmed {
        /// Which.
        reason: &'static str,
    },
    /// An HTTP/3 frame, whole or its header.
    Frame {
        /// Whether we sent it.
        sent: bool,
        /// Its name (RFC 9114 §7.2).
        name: &'static str,
        /// The length of its payload in bytes.
        bytes: usize,
        /// What it says.
        text: Cow<'static, str>,
    },
    /// A capsule.
    Capsule {
        /// Whether we sent it.
        sent: bool,
        /// Its name (RFC 9297 §3.5, RFC 9484 §4.7).
        name: &'static str,
        /// The length of its value in bytes.
        bytes: usize,
        /// What it says.
        text: Cow<'static, str>,
    },
    /// The owner was told something.
    Event(Cow<'static, str>),
    /// A quantity changed.
    Changed {
        /// Which.
        name: &'static str,
        /// Before.
        from: u64,
        /// After.
        to: u64,
    },
    /// A timer fired.
    Fired {
        /// Which.
        reason: &'static str,
    },
    /// A packet or datagram was dropped.
    Dropped {
        /// Why.
        reason: &'static str,
        /// How many bytes.
        bytes: usize,
    },
    /// A protocol error was found.
    Error(Cow<'static, str>),
}

impl fmt::Display for TraceEvent {
    /// One line without the time: `layer connection/stream what`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.layer.name())?;
        match (self.connection, self.stream) {
            (Some(connection), Some(stream)) => write!(f, " c{connection}/s{stream}")?,
            (Some(connection), None) => write!(f, " c{connection}")?,
            (None, Some(stream)) => write!(f, " s{stream}")?,
            (None, None) => {}
        }
        match &self.what {
            What::Input(text) => write!(f, " <- {text}"),
            What::Output(text) => write!(f, " -> {text}"),
            What::State { from, to } => write!(f, " state {from} => {to}"),
            What::Armed { reason, after_us } => write!(f, " armed {reason} after {after_us} us"),
            What::Disarmed { reason } => write!(f, " disarmed {reason}"),
            What::Frame {
                sent,
                name,
                bytes,
                text,
            } => write!(f, " {} frame {name} {bytes} bytes: {text}", arrow(*sent)),
            What::Capsule {
                sent,
                name,
                bytes,
                text,
            } => write!(f, " {} capsule {name} {bytes} bytes: {text}", arrow(*sent)),
            What::Event(text) => write!(f, " event {text}"),
            What::Changed { name, from, to } => write!(f, " {name} {from} => {to}"),
            What::Fired { reason } => write!(f, " fired {reason}"),
            What::Dropped { reason, bytes } => write!(f, " dropped {bytes} bytes: {reason}"),
            What::Error(text) => write!(f, " error {text}"),
        }
    }
}

fn arrow(sent: bool) -> &'static str {
    if sent { "->" } else { "<-" }
}

/// Collects events while on; costs one branch while off.
#[derive(Debug, Default)]
pub struct Recorder {
    on: bool,
    events: Vec<TraceEvent>,
}

impl Recorder {
    /// Turns recording on or off.
    pub fn set(&mut self, on: bool) {
        self.on = on;
    }

    /// Whether events are recorded.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// Records what `event` makes, if on.
    pub fn record(&mut self, event: impl FnOnce() -> TraceEvent) {
        if self.on {
            self.events.push(event());
        }
    }

    /// The events recorded since the last call, oldest first.
    pub fn take(&mut self) -> Vec<TraceEvent> {
        core::mem::take(&mut self.events)
    }
}
