//! What a session has to say, in order, until its owner drains it; and the trace of it.

use alloc::borrow::Cow;
use alloc::collections::{BTreeSet, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use super::describe;
use super::{Event, QuicInput, QuicOutput, Timer, TimerOp};
use crate::error::H3Code;
use crate::trace::{Layer, Recorder, TraceEvent, What};
use crate::wire::capsule::{Capsule, CapsuleEvent};
use crate::wire::fields::FieldList;
use crate::wire::stream::StreamId;

/// The three queues of a session and its trace. After [`Effects::end`] nothing more is taken.
#[derive(Debug, Default)]
pub(super) struct Effects {
    quic: VecDeque<QuicOutput>,
    timers: VecDeque<TimerOp>,
    events: VecDeque<Event>,
    armed: BTreeSet<Timer>,
    trace: Recorder,
    ended: bool,
    #[cfg(feature = "lab")]
    pub(super) tap: Option<super::CapsuleTap>,
}

impl Effects {
    pub(super) fn quic(&mut self, output: QuicOutput) {
        if self.ended {
            return;
        }
        self.trace.record(|| {
            let (stream, text) = describe_output(&output);
            trace_event(stream, What::Output(text))
        });
        self.quic.push_back(output);
    }

    /// Resets the sending part, stops the receiving part, or both.
    pub(super) fn abort(&mut self, stream: StreamId, code: H3Code, sending: bool, receiving: bool) {
        if sending {
            self.quic(QuicOutput::Reset { stream, code });
        }
        if receiving {
            self.quic(QuicOutput::Stop { stream, code });
        }
    }

    pub(super) fn event(&mut self, event: Event) {
        if !self.ended {
            self.trace.record(|| {
                let (layer, name) = describe_event(&event);
                TraceEvent {
                    layer,
                    connection: None,
                    stream: None,
                    what: What::Event(name),
                }
            });
            self.events.push_back(event);
        }
    }

    pub(super) fn arm(&mut self, timer: Timer, after: Duration) {
        if self.ended {
            return;
        }
        self.armed.insert(timer);
        self.trace.record(|| {
            let after_us = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
            let reason = timer_name(timer);
            timer_event(timer, What::Armed { reason, after_us })
        });
        self.timers.push_back(TimerOp::Arm { timer, after });
    }

    pub(super) fn disarm(&mut self, timer: Timer) {
        if self.armed.remove(&timer) {
            self.trace.record(|| {
                let reason = timer_name(timer);
                timer_event(timer, What::Disarmed { reason })
            });
            self.timers.push_back(TimerOp::Disarm { timer });
        }
    }

    /// Whether `timer` was armed; it is not any more.
    pub(super) fn fired(&mut self, timer: Timer) -> bool {
        let armed = self.armed.remove(&timer);
        if armed {
            self.trace.record(|| {
                let reason = timer_name(timer);
                timer_event(timer, What::Fired { reason })
            });
        }
        armed
    }

    /// Disarms everything, says `last`, and takes nothing more.
    pub(super) fn end(&mut self, last: Event) {
        for timer in core::mem::take(&mut self.armed) {
            self.timers.push_back(TimerOp::Disarm { timer });
        }
        self.event(last);
        self.ended = true;
    }

    pub(super) fn input(&mut self, input: &QuicInput) {
        self.trace.record(|| {
            let (stream, text) = describe_input(input);
            trace_event(stream, What::Input(text))
        });
    }

    pub(super) fn command(&mut self, stream: Option<StreamId>, name: &'static str) {
        self.trace
            .record(|| trace_event(stream, What::Input(Cow::Borrowed(name))));
    }

    pub(super) fn state(&mut self, stream: Option<StreamId>, from: &'static str, to: &'static str) {
        if from != to {
            self.trace
                .record(|| trace_event(stream, What::State { from, to }));
        }
    }

    /// A tunnel without a stream of its own comes further.
    pub(super) fn slot(&mut self, from: &'static str, to: &'static str) {
        self.trace.record(|| TraceEvent {
            layer: Layer::Tunnel,
            connection: None,
            stream: None,
            what: What::State { from, to },
        });
    }

    /// A HEADERS frame.
    pub(super) fn head(&mut self, stream: StreamId, sent: bool, bytes: usize, fields: &FieldList) {
        self.frame(Some(stream), sent, "HEADERS", || {
            (bytes, describe::fields(fields))
        });
    }

    /// Any frame: the length of its payload, and what it says.
    pub(super) fn frame(
        &mut self,
        stream: Option<StreamId>,
        sent: bool,
        name: &'static str,
        payload: impl FnOnce() -> (usize, String),
    ) {
        self.trace.record(|| {
            let (bytes, text) = payload();
            let text = Cow::Owned(text);
            let what = What::Frame {
                sent,
                name,
                bytes,
                text,
            };
            trace_event(stream, what)
        });
    }

    /// A capsule, sent.
    pub(super) fn capsule_sent(&mut self, stream: StreamId, capsule: &Capsule) {
        self.trace
            .record(|| trace_event(Some(stream), describe::capsule(true, capsule)));
    }

    /// A capsule, received.
    pub(super) fn capsule_received(&mut self, stream: StreamId, capsule: &CapsuleEvent) {
        self.trace
            .record(|| trace_event(Some(stream), describe::capsule_event(capsule)));
    }

    pub(super) fn error(&mut self, stream: Option<StreamId>, text: impl FnOnce() -> String) {
        self.trace
            .record(|| trace_event(stream, What::Error(Cow::Owned(text()))));
    }

    pub(super) fn dropped(&mut self, stream: Option<StreamId>, reason: &'static str, bytes: usize) {
        self.trace
            .record(|| trace_event(stream, What::Dropped { reason, bytes }));
    }

    pub(super) fn poll_quic(&mut self) -> Option<QuicOutput> {
        self.quic.pop_front()
    }

    pub(super) fn poll_timer(&mut self) -> Option<TimerOp> {
        self.timers.pop_front()
    }

    pub(super) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Gives back the room of empty queues.
    pub(super) fn rest(&mut self) {
        self.quic.shrink_to_fit();
        self.timers.shrink_to_fit();
        self.events.shrink_to_fit();
        if self.armed.is_empty() {
            // An emptied set keeps its last node.
            self.armed = BTreeSet::new();
        }
    }

    pub(super) fn set_tracing(&mut self, on: bool) {
        self.trace.set(on);
    }

    pub(super) fn take_trace(&mut self) -> Vec<TraceEvent> {
        self.trace.take()
    }
}

fn trace_event(stream: Option<StreamId>, what: What) -> TraceEvent {
    TraceEvent {
        layer: match stream {
            Some(stream) if stream.is_request() => Layer::Tunnel,
            _ => Layer::Http3,
        },
        connection: None,
        stream: stream.map(StreamId::into_inner),
        what,
    }
}

fn timer_event(timer: Timer, what: What) -> TraceEvent {
    TraceEvent {
        layer: match timer {
            Timer::Settings | Timer::Drain | Timer::Burden => Layer::Http3,
            Timer::Response(_) | Timer::AddressRequest(_) => Layer::Tunnel,
        },
        connection: None,
        stream: None,
        what,
    }
}

fn timer_name(timer: Timer) -> &'static str {
    match timer {
        Timer::Settings => "settings",
        Timer::Response(_) => "response",
        Timer::AddressRequest(_) => "address request",
        Timer::Drain => "drain",
        Timer::Burden => "burden",
    }
}

fn describe_event(event: &Event) -> (Layer, Cow<'static, str>) {
    let name = match event {
        Event::PeerSettings(_) => return (Layer::Http3, "settings".into()),
        Event::GoAway => return (Layer::Http3, "goaway".into()),
        Event::Ended(end) => return (Layer::Http3, format!("ended {end:?}").into()),
        Event::Requested { tunnel, request } => {
            format!("t{} requested {}", tunnel.0, request.path)
        }
        Event::ResponseFields { tunnel, .. } => format!("t{} response fields", tunnel.0),
        Event::Established { tunnel, status } => format!("t{} established {status}", tunnel.0),
        Event::Refused { tunnel, status, .. } => format!("t{} refused {status}", tunnel.0),
        Event::AddressesAssigned { tunnel, .. } => format!("t{} addresses", tunnel.0),
        Event::AddressesRequested { tunnel, .. } => format!("t{} addresses wanted", tunnel.0),
        Event::RoutesAdvertised { tunnel, .. } => format!("t{} routes", tunnel.0),
        Event::Packet { tunnel, packet } => format!("t{} packet {}", tunnel.0, packet.len()),
        Event::TunnelEnded { tunnel, end } => format!("t{} ended {end:?}", tunnel.0),
    };
    (Layer::Tunnel, name.into())
}

type Described = (Option<StreamId>, Cow<'static, str>);

fn describe_input(input: &QuicInput) -> Described {
    match input {
        QuicInput::Connected {
            peer_max_datagram_frame_size: size,
        } => (
            None,
            format!("connected, datagrams up to {}", size.unwrap_or(0)).into(),
        ),
        QuicInput::Opened { stream } => (Some(*stream), "opened".into()),
        QuicInput::Data { stream, data, fin } => {
            let fin = if *fin { " fin" } else { "" };
            (
                Some(*stream),
                format!("data {} bytes{fin}", data.len()).into(),
            )
        }
        QuicInput::Reset { stream, code } => {
            (Some(*stream), format!("reset {}", H3Code(*code)).into())
        }
        QuicInput::Stopped { stream, code } => {
            (Some(*stream), format!("stopped {}", H3Code(*code)).into())
        }
        QuicInput::Written { stream, bytes } => {
            (Some(*stream), format!("written {bytes} bytes").into())
        }
        QuicInput::Writable { stream } => (Some(*stream), "writable".into()),
        QuicInput::Closed => (None, "closed".into()),
    }
}

fn describe_output(output: &QuicOutput) -> Described {
    match output {
        QuicOutput::Open { direction } => (None, format!("open {direction:?}").into()),
        QuicOutput::Write { stream, data } => {
            (Some(*stream), format!("write {} bytes", data.len()).into())
        }
        QuicOutput::Finish { stream } => (Some(*stream), "finish".into()),
        QuicOutput::Reset { stream, code } => (Some(*stream), format!("reset {code}").into()),
        QuicOutput::Stop { stream, code } => (Some(*stream), format!("stop {code}").into()),
        QuicOutput::Resume { stream } => (Some(*stream), "resume".into()),
        QuicOutput::Close { code, reason } => (None, format!("close {code}: {reason}").into()),
    }
}
