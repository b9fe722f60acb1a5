//! One HTTP/3 connection and its CONNECT-IP tunnels over an abstract QUIC.
//!
//! Data in: [`QuicInput`] and [`Command`]. Data out: [`QuicOutput`], [`TimerOp`], [`Event`].
//! The contract: *handle any number of inputs, then drain `poll_quic`, `poll_timer` and
//! `poll_event` to `None`.*
//!
//! The connection:
//!
//! | state | meaning | leaves on |
//! |---|---|---|
//! | `Idle` | before [`QuicInput::Connected`]; every other input but `Closed` is ignored | `Connected` → `Running` |
//! | `Running` | HTTP/3 is up, or waits for the peer's SETTINGS | [`Command::Shutdown`] → `Draining` |
//! | `Draining` | GOAWAY is sent; no new tunnels | the last stream over, or [`Timer::Drain`] → `Ended` |
//! | `Ended` | nothing is taken or given any more | – |
//!
//! Every state leads to `Ended` on a connection error, [`Command::Close`] and [`QuicInput::Closed`].
//! The states of a request stream are in `request.rs`, those of the other streams in `control.rs`,
//! those of a sending part in `output.rs`.
//!
//! What a peer can make a session keep is bounded: per stream one incomplete frame and one
//! incomplete capsule (both limited), [`SessionConfig::max_stream_output`] and one capsule of output,
//! [`SessionConfig::max_address_requests`] Request IDs; at most [`SessionConfig::max_tunnels`] and
//! [`SPARE_STREAMS`] request streams. What it sends in vain is counted: see `burden.rs`.

mod burden;
mod client;
mod command;
mod control;
mod describe;
mod effects;
mod event;
#[cfg(feature = "lab")]
mod lab;
mod output;
mod owner;
mod quic;
mod request;
mod seen;
mod server;
mod streams;
mod tunnel;

use alloc::collections::VecDeque;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use bytes::Bytes;

pub use command::{AddressRequestPolicy, CloseHow, Command, CommandError, SessionConfig};
pub use event::{Event, SessionEnd, TunnelEnd, TunnelRequest};
#[cfg(feature = "lab")]
pub use lab::CapsuleTap;
pub use quic::{QuicInput, QuicOutput, Timer, TimerOp};

use crate::error::{H3Code, WireErrorKind};
use crate::few::FewMap;
use crate::trace::TraceEvent;
use crate::wire::datagram::{self, ContextId, DatagramHeader};
use crate::wire::settings::Settings;
use crate::wire::stream::{Direction, Role, StreamId};
use crate::wire::varint::VarInt;
use client::Slot;
use control::{Control, Notice};
use effects::Effects;
use request::{Request, State};
use seen::Ended;

/// How many request streams a server keeps beside those of its tunnels: requests not yet whole,
/// responses not yet taken, tunnels not yet closed by the peer.
pub const SPARE_STREAMS: usize = 16;

/// A tunnel of one session: counted up from 0, never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TunnelId(pub u32);

/// What a QUIC DATAGRAM holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DatagramVerdict {
    /// An IP packet of an open tunnel, from byte `offset` on.
    IpPacket {
        /// The tunnel.
        tunnel: TunnelId,
        /// Where the IP packet begins.
        offset: usize,
    },
    /// Nothing that can be used; not an error.
    Drop(DatagramDrop),
    /// A protocol error: the session has queued its wire action already.
    Error,
}

/// Why an HTTP Datagram is dropped in silence.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DatagramDrop {
    /// No such stream, or not yet, or not any more (RFC 9297 §2.1).
    UnknownStream,
    /// The tunnel is not established.
    NotEstablished,
    /// No context ID, or a cut one.
    NoContext,
    /// A context ID nobody registered (RFC 9484 §5).
    UnknownContext,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Idle,
    Running,
    Draining,
    Ended,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Idle => "Idle",
            Self::Running => "Running",
            Self::Draining => "Draining",
            Self::Ended => "Ended",
        }
    }
}

/// One HTTP/3 connection with its tunnels.
#[derive(Debug)]
pub struct Session {
    role: Role,
    config: Arc<SessionConfig>,
    phase: Phase,
    out: Effects,
    control: Control,
    requests: FewMap<StreamId, Request>,
    tunnels: FewMap<TunnelId, Slot>,
    next_tunnel: u32,
    /// Bidirectional streams asked for, oldest first, and what for; `None` if that has ended meanwhile.
    opening: VecDeque<Option<TunnelId>>,
    /// Request streams that have been (server).
    ended_requests: Ended,
    /// The lowest request stream ID above all that were seen (server).
    next_request: u64,
    /// The ID in our GOAWAY.
    goaway_sent: Option<u64>,
    /// The ID in the peer's last GOAWAY.
    goaway_received: Option<u64>,
    peer_takes_datagrams: bool,
    peer_settings: Option<Settings>,
    /// What the peer sent in vain.
    burden: u32,
}

impl Session {
    /// A session before [`QuicInput::Connected`]. Many can share one configuration.
    #[must_use]
    pub fn new(role: Role, config: impl Into<Arc<SessionConfig>>) -> Self {
        let config = config.into();
        Self {
            role,
            phase: Phase::Idle,
            out: Effects::default(),
            control: Control::new(role, &config),
            requests: FewMap::default(),
            tunnels: FewMap::default(),
            next_tunnel: 0,
            opening: VecDeque::new(),
            ended_requests: Ended::default(),
            next_request: 0,
            goaway_sent: None,
            goaway_received: None,
            peer_takes_datagrams: false,
            peer_settings: None,
            burden: 0,
            config,
        }
    }

    /// Takes what QUIC says. Peer input never fails: it becomes outputs and events.
    pub fn handle_quic(&mut self, input: QuicInput) {
        if self.phase == Phase::Ended {
            return;
        }
        self.out.input(&input);
        match (self.phase, input) {
            (_, QuicInput::Closed) => self.end(SessionEnd::Transport),
            (
                Phase::Idle,
                QuicInput::Connected {
                    peer_max_datagram_frame_size: size,
                },
            ) => self.connected(size.is_some_and(|size| size > 0)),
            (Phase::Idle, _) | (_, QuicInput::Connected { .. }) => {}
            (_, QuicInput::Opened { stream }) => self.opened(stream),
            (_, QuicInput::Data { stream, data, fin }) => self.data(stream, data, fin),
            (_, QuicInput::Reset { stream, code }) => self.reset(stream, code),
            (_, QuicInput::Stopped { stream, code }) => self.stopped(stream, code),
            (_, QuicInput::Written { stream, bytes }) => {
                self.on_output(stream, |output, out| output.written(bytes, out));
            }
            (_, QuicInput::Writable { stream }) => {
                self.on_output(stream, |output, out| output.writable(out));
            }
        }
        self.end_if_drained();
    }

    /// Takes a fired timer; one that was disarmed meanwhile is ignored.
    pub fn handle_timer(&mut self, timer: Timer) {
        if self.phase == Phase::Ended || !self.out.fired(timer) {
            return;
        }
        match timer {
            Timer::Settings => {
                self.close(H3Code::MISSING_SETTINGS, "no SETTINGS in time");
                self.end(SessionEnd::SettingsTimeout);
            }
            Timer::Drain => {
                self.close(H3Code::NO_ERROR, "drained");
                self.end(SessionEnd::Local(H3Code::NO_ERROR));
            }
            Timer::Response(tunnel) => self.response_timeout(tunnel),
            Timer::AddressRequest(tunnel) => self.request_wanted(tunnel),
            Timer::Burden => self.relieved(),
        }
        self.end_if_drained();
    }

    /// Asks for a tunnel (client). The request goes out once the peer's SETTINGS allow it.
    ///
    /// # Errors
    /// [`CommandError`] on a server, after GOAWAY or close, or at the limit of tunnels.
    pub fn open_tunnel(&mut self, request: TunnelRequest) -> Result<TunnelId, CommandError> {
        if self.role == Role::Server {
            return Err(CommandError::Role);
        }
        if matches!(self.phase, Phase::Draining | Phase::Ended) || self.goaway_received.is_some() {
            return Err(CommandError::Closing);
        }
        if self.tunnels.len() >= self.config.max_tunnels {
            return Err(CommandError::Limit);
        }
        let tunnel = self.new_tunnel().ok_or(CommandError::Limit)?;
        self.out.command(None, "open tunnel");
        self.tunnels.insert(tunnel, Slot::Waiting(request));
        if self.peer_settings.is_some() {
            self.ask(tunnel);
        }
        Ok(tunnel)
    }

    /// Takes a command.
    ///
    /// # Errors
    /// [`CommandError`] where the tunnel does not exist or the command does not fit its state.
    pub fn handle_command(&mut self, command: Command) -> Result<(), CommandError> {
        if self.phase == Phase::Ended {
            return Err(CommandError::Closing);
        }
        let result = self.command(command);
        self.end_if_drained();
        result
    }

    /// Whether data of `stream` may be handed over now. While `false` the bytes stay in QUIC, under
    /// its flow control, until [`QuicOutput::Resume`] names the stream.
    #[must_use]
    pub fn wants_data(&self, stream: StreamId) -> bool {
        match self.phase {
            Phase::Idle | Phase::Ended => false,
            Phase::Running | Phase::Draining => self
                .requests
                .get(&stream)
                .is_none_or(|request| request.wants_data()),
        }
    }

    /// Judges a received QUIC DATAGRAM.
    pub fn open_datagram(&mut self, datagram: &[u8]) -> DatagramVerdict {
        if matches!(self.phase, Phase::Idle | Phase::Ended) {
            return DatagramVerdict::Drop(DatagramDrop::UnknownStream);
        }
        let (stream, start) = match datagram::open(datagram) {
            Ok(opened) => opened,
            Err(error) => {
                self.violation(None, error.kind);
                return DatagramVerdict::Error;
            }
        };
        let payload = datagram.get(start..).unwrap_or_default();
        let drop = match self.requests.get(&stream) {
            None => DatagramDrop::UnknownStream,
            Some(request) if request.plain => {
                self.fail(stream, WireErrorKind::DatagramSemantics);
                return DatagramVerdict::Error;
            }
            Some(request) => match (request.state(), request.tunnel) {
                (State::Draining, _) => DatagramDrop::UnknownStream,
                (State::Open, Some(tunnel)) => match datagram::open_context(payload) {
                    Some((ContextId::IP_PACKET, len)) => {
                        let offset = start + len;
                        return DatagramVerdict::IpPacket { tunnel, offset };
                    }
                    Some(_) => DatagramDrop::UnknownContext,
                    None => DatagramDrop::NoContext,
                },
                _ => DatagramDrop::NotEstablished,
            },
        };
        let reason = match drop {
            DatagramDrop::UnknownStream => "unknown stream",
            DatagramDrop::NotEstablished => "not established",
            DatagramDrop::NoContext => "no context",
            DatagramDrop::UnknownContext => "unknown context",
        };
        self.out.dropped(Some(stream), reason, datagram.len());
        DatagramVerdict::Drop(drop)
    }

    /// What to put before an IP packet of `tunnel` in a QUIC DATAGRAM; `None` unless it is
    /// established and the peer takes datagrams.
    #[must_use]
    pub fn datagram_header(&self, tunnel: TunnelId) -> Option<DatagramHeader> {
        let enabled = self.phase != Phase::Ended
            && self.control.settings_sent()
            && self.peer_takes_datagrams
            && self.peer_settings.as_ref().is_some_and(|s| s.h3_datagram);
        match self.tunnels.get(&tunnel) {
            Some(Slot::Stream(stream)) if enabled => self
                .requests
                .get(stream)
                .filter(|request| matches!(request.state(), State::Open))
                .map(|_| DatagramHeader::ip_packet(*stream)),
            _ => None,
        }
    }

    /// The next thing to do on QUIC.
    #[must_use]
    pub fn poll_quic(&mut self) -> Option<QuicOutput> {
        self.out.poll_quic()
    }

    /// The next change of a timer.
    #[must_use]
    pub fn poll_timer(&mut self) -> Option<TimerOp> {
        self.out.poll_timer()
    }

    /// The next event.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.out.poll_event()
    }

    /// How many bytes wait for QUIC to take them, over all request streams. Of one stream never more
    /// than [`SessionConfig::max_stream_output`] and one capsule.
    #[must_use]
    pub fn buffered_output(&self) -> usize {
        self.requests
            .values()
            .map(|request| request.output.buffered())
            .sum()
    }

    /// Gives back memory that only the beginning and the end of a tunnel need. To be called now and
    /// then in silence: it costs next to nothing, but what is given back has to be fetched again.
    pub fn rest(&mut self) {
        self.out.rest();
        self.opening.shrink_to_fit();
        self.requests.shrink();
    }

    /// Turns tracing on or off.
    pub fn set_tracing(&mut self, on: bool) {
        self.out.set_tracing(on);
    }

    /// The trace events since the last call; `connection` is left for the caller to fill in.
    pub fn take_trace(&mut self) -> Vec<TraceEvent> {
        self.out.take_trace()
    }

    fn enter(&mut self, phase: Phase) {
        self.out.state(None, self.phase.name(), phase.name());
        self.phase = phase;
    }

    fn connected(&mut self, peer_takes_datagrams: bool) {
        self.enter(Phase::Running);
        self.peer_takes_datagrams = peer_takes_datagrams;
        // Reserved identifiers are 0x1f * N + 0x21 (RFC 9114 §7.2.4.1); every u32 keeps below 2^62.
        let reserved = self.config.grease.and_then(|number| {
            let id = VarInt::new(0x1f * u64::from(number) + 0x21)?;
            Some((id, VarInt::from_u32(number & 0x3f)))
        });
        let settings = Settings {
            unknown: reserved.into_iter().collect(),
            max_field_section_size: Some(self.config.max_field_section as u64),
            enable_connect_protocol: self.role == Role::Server,
            h3_datagram: true,
            ..Settings::default()
        };
        self.out.frame(None, true, "SETTINGS", || {
            let bytes = describe::settings_len(&settings);
            (bytes, describe::settings(&settings))
        });
        self.control.start(&settings, &mut self.out);
        self.out.arm(Timer::Settings, self.config.settings_timeout);
    }

    fn opened(&mut self, stream: StreamId) {
        if stream.initiator() != self.role {
            return;
        }
        match stream.direction() {
            Direction::Unidirectional => self.control.opened(stream, &mut self.out),
            Direction::Bidirectional => self.request_opened(stream),
        }
    }

    fn on_output(&mut self, stream: StreamId, act: impl FnOnce(&mut output::Output, &mut Effects)) {
        if let Some(request) = self.requests.get_mut(&stream) {
            act(&mut request.output, &mut self.out);
            self.settle(stream);
        } else if let Some(output) = self.control.own(stream) {
            act(output, &mut self.out);
        }
    }

    fn peer_control(&mut self, stream: StreamId, mut data: Bytes, fin: bool) {
        loop {
            let received = self.control.receive(stream, &mut data, &mut self.out);
            let ignored = self.control.take_ignored();
            self.burden(ignored);
            if self.phase == Phase::Ended {
                return;
            }
            match received {
                Ok(None) => break,
                Ok(Some(Notice::Settings(settings))) => self.settings(settings),
                Ok(Some(Notice::GoAway(id))) => self.goaway(id.into_inner()),
                Err(kind) => self.violation(Some(stream), kind),
            }
            if self.phase == Phase::Ended {
                return;
            }
        }
        if fin && let Err(kind) = self.control.ended(stream) {
            self.violation(Some(stream), kind);
        }
    }

    fn settings(&mut self, settings: Settings) {
        // RFC 9297 §2.1.1: the setting needs the transport parameter.
        if settings.h3_datagram && !self.peer_takes_datagrams {
            return self.violation(None, WireErrorKind::SettingsDowngrade);
        }
        self.out.frame(None, false, "SETTINGS", || {
            let bytes = describe::settings_len(&settings);
            (bytes, describe::settings(&settings))
        });
        self.out.disarm(Timer::Settings);
        self.out.event(Event::PeerSettings(settings.clone()));
        self.peer_settings = Some(settings);
        match self.role {
            Role::Client => {
                let waiting: Vec<_> = self.tunnels.keys().copied().collect();
                for tunnel in waiting {
                    self.ask(tunnel);
                }
            }
            Role::Server => self.unpark(),
        }
    }

    fn goaway(&mut self, id: u64) {
        self.out.frame(None, false, "GOAWAY", || {
            let bytes = VarInt::new(id).map_or(0, VarInt::encoded_len);
            (bytes, format!("id {id}"))
        });
        if self.goaway_received.is_none() {
            self.out.event(Event::GoAway);
        }
        self.goaway_received = Some(id);
        if self.role == Role::Client {
            self.drop_unprocessed(id);
        }
    }

    fn shutdown(&mut self) {
        match self.phase {
            Phase::Draining | Phase::Ended => return,
            Phase::Idle => {
                // Nobody is there to be told.
                self.close(H3Code::NO_ERROR, "shut down");
                return self.end(SessionEnd::Local(H3Code::NO_ERROR));
            }
            Phase::Running => {}
        }
        let id = match self.role {
            Role::Client => 0,
            Role::Server => self.next_request,
        };
        self.goaway_sent = Some(id);
        let id = VarInt::new(id).unwrap_or(VarInt::MAX);
        self.out.frame(None, true, "GOAWAY", || {
            (id.encoded_len(), format!("id {}", id.into_inner()))
        });
        self.control.send_goaway(id, &mut self.out);
        self.enter(Phase::Draining);
        self.out.arm(Timer::Drain, self.config.drain_timeout);
    }

    fn end_if_drained(&mut self) {
        // Closing throws away what QUIC has not been given: the GOAWAY goes first.
        let drained = self.tunnels.is_empty() && self.requests.is_empty();
        if self.phase == Phase::Draining && drained && self.control.is_flushed() {
            self.close(H3Code::NO_ERROR, "drained");
            self.end(SessionEnd::Local(H3Code::NO_ERROR));
        }
    }

    /// The peer broke a rule of the connection.
    fn violation(&mut self, stream: Option<StreamId>, kind: WireErrorKind) {
        let code = kind.code();
        self.out.error(stream, || format!("{code}: {kind}"));
        self.close(code, code.name().unwrap_or_default());
        self.end(SessionEnd::Violation(kind));
    }

    fn close(&mut self, code: H3Code, reason: &'static str) {
        self.out.quic(QuicOutput::Close { code, reason });
    }

    /// Ends every tunnel, then the session.
    fn end(&mut self, end: SessionEnd) {
        let tunnels: Vec<_> = self.tunnels.keys().copied().collect();
        for tunnel in tunnels {
            self.end_tunnel(tunnel, Some(TunnelEnd::ConnectionEnded));
        }
        self.requests.clear();
        self.opening.clear();
        self.enter(Phase::Ended);
        self.out.end(Event::Ended(end));
    }

    fn new_tunnel(&mut self) -> Option<TunnelId> {
        let tunnel = TunnelId(self.next_tunnel);
        self.next_tunnel = self.next_tunnel.checked_add(1)?;
        Some(tunnel)
    }
}
