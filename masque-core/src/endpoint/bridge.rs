//! Between a session and its QUIC connection: the only place that touches `quinn_proto::Connection`.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use quinn_proto::{
    Connection, ConnectionError, ConnectionHandle, Dir, Event as QuicEvent, ReadError,
    SendDatagramError, StreamEvent, VarInt, WriteError,
};

use super::cipher::{self, Cipher};
use super::event::CloseReason;
use super::farewell;
use super::tls;
use crate::error::H3Code;
use crate::few::FewMap;
use crate::session::{Event as SessionEvent, QuicInput, QuicOutput, Session, Timer, TimerOp};
use crate::trace::{Layer, Recorder, TraceEvent, What};
use crate::wire::stream::{Direction, Role, StreamId};

/// The most bytes of one stream handed to the session in one piece.
const READ_CHUNK: usize = 16 << 10;

/// What a step of a bridge brought up.
#[derive(Debug)]
pub(super) enum BridgeEvent {
    /// The handshake is complete.
    Connected,
    /// The session says something.
    Session(SessionEvent),
    /// The connection is gone.
    Lost(CloseReason),
}

/// One QUIC connection and the session on it.
pub(super) struct Bridge {
    conn: Connection,
    session: Session,
    role: Role,
    opens: VecDeque<Direction>,
    timers: FewMap<Timer, Instant>,
    /// Streams with bytes that the session did not want yet.
    paused: FewMap<StreamId, ()>,
    lost: bool,
    /// The most bytes of datagrams QUIC keeps.
    datagram_buffer: usize,
    lossy: Lossy,
}

/// How much of what is sent the path loses, looked at now and then.
#[derive(Clone, Copy, Debug)]
struct Lossy {
    /// Datagrams until the next look.
    left: u8,
    sent: u64,
    lost: u64,
    per_million: u32,
}

impl Default for Lossy {
    /// Much, until it has shown otherwise: losses are only known after two round trips, and by then flows that
    /// begin together have been dropped from.
    fn default() -> Self {
        Self {
            left: 0,
            sent: 0,
            lost: 0,
            per_million: 40_000,
        }
    }
}

impl Lossy {
    /// A datagram is handed over. The totals are only asked for once in 256 of them.
    fn count(&mut self, totals: impl FnOnce() -> (u64, u64)) {
        self.left = self.left.wrapping_sub(1);
        if self.left > 0 {
            return;
        }
        let (sent, lost) = totals();
        let new_sent = sent.saturating_sub(self.sent).max(1);
        let new_lost = lost.saturating_sub(self.lost).min(new_sent);
        (self.sent, self.lost) = (sent, lost);
        let share = u32::try_from(new_lost.saturating_mul(1_000_000) / new_sent);
        self.per_million = (self.per_million + share.unwrap_or(1_000_000)) / 2;
    }
}

impl Bridge {
    pub(super) fn new(
        conn: Connection,
        session: Session,
        role: Role,
        datagram_buffer: usize,
    ) -> Self {
        Self {
            conn,
            session,
            role,
            opens: VecDeque::new(),
            timers: FewMap::default(),
            paused: FewMap::default(),
            lost: false,
            datagram_buffer,
            lossy: Lossy::default(),
        }
    }

    pub(super) fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    pub(super) fn handle_quic_event(&mut self, event: quinn_proto::ConnectionEvent) {
        self.conn.handle_event(event);
    }

    /// Exchanges events with the QUIC endpoint, reads streams, carries out what the session wants.
    pub(super) fn step(
        &mut self,
        now: Instant,
        handle: ConnectionHandle,
        endpoint: &mut quinn_proto::Endpoint,
        trace: &mut Recorder,
        events: &mut Vec<BridgeEvent>,
    ) {
        self.exchange(handle, endpoint);
        while let Some(event) = self.conn.poll() {
            self.on_quic_event(event, trace, events);
        }
        self.settle(now, events);
        self.exchange(handle, endpoint);
    }

    /// Exchanges events with the QUIC endpoint: connection IDs, reset tokens, the end.
    pub(super) fn exchange(
        &mut self,
        handle: ConnectionHandle,
        endpoint: &mut quinn_proto::Endpoint,
    ) {
        while let Some(event) = self.conn.poll_endpoint_events() {
            if let Some(answer) = endpoint.handle_event(handle, event) {
                self.conn.handle_event(answer);
            }
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.conn.poll_timeout().is_some_and(|at| at <= now) {
            self.conn.handle_timeout(now);
        }
        let due: Vec<Timer> = self
            .timers
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(timer, _)| *timer)
            .collect();
        for timer in due {
            self.timers.remove(&timer);
            self.session.handle_timer(timer);
        }
    }

    pub(super) fn poll_transmit(
        &mut self,
        now: Instant,
        max_datagrams: usize,
        buf: &mut Vec<u8>,
    ) -> Option<quinn_proto::Transmit> {
        self.conn.poll_transmit(now, max_datagrams, buf)
    }

    /// The earliest QUIC deadline, and the earliest of the session's with its name.
    pub(super) fn deadlines(&mut self) -> (Option<Instant>, Option<(Instant, Timer)>) {
        let session = self.timers.iter().map(|(timer, at)| (*at, *timer)).min();
        (self.conn.poll_timeout(), session)
    }

    /// Gives back memory that a connection at rest does not need.
    pub(super) fn rest(&mut self) {
        self.session.rest();
        self.opens.shrink_to_fit();
        self.timers.shrink();
        self.paused.shrink();
    }

    /// The next received DATAGRAM frame.
    pub(super) fn recv_datagram(&mut self) -> Option<Bytes> {
        self.conn.datagrams().recv()
    }

    /// The largest DATAGRAM payload now; `None` where the peer takes none.
    pub(super) fn max_datagram(&mut self) -> Option<usize> {
        self.conn.datagrams().max_size().filter(|&size| size > 0)
    }

    /// How many bytes of datagrams QUIC is to be given now, and how many a flow may send in its turn.
    ///
    /// No more than an eighth of the congestion window, and no more than leaves in 2 ms, waits in QUIC's own
    /// queue, where nobody decides about it; on a fast path that is enough for a full send with GSO. A turn is as
    /// much, and no more than leaves in half a millisecond: a flow that sends little waits for a turn of each
    /// that sends much.
    pub(super) fn datagram_room(&mut self) -> (usize, usize) {
        let window = usize::try_from(self.conn.congestion_state().window()).unwrap_or(usize::MAX);
        let mtu = usize::from(self.conn.current_mtu());
        let micros = usize::try_from(self.conn.rtt().as_micros()).unwrap_or(usize::MAX);
        let half_milli = window.saturating_mul(500) / micros.max(1);
        let goal = (window / 8)
            .min(half_milli.saturating_mul(4))
            .clamp(4 * mtu, 64 * mtu)
            .min(self.datagram_buffer);
        let waiting = self
            .datagram_buffer
            .saturating_sub(self.conn.datagrams().send_buffer_space());
        (goal.saturating_sub(waiting), half_milli.min(goal))
    }

    /// The smoothed round-trip time.
    pub(super) fn round_trip(&self) -> std::time::Duration {
        self.conn.rtt()
    }

    /// Of a thousand packets, how many the path has lost of late.
    pub(super) fn lost_per_thousand(&self) -> u32 {
        self.lossy.per_million / 1000
    }

    /// Hands one DATAGRAM payload to QUIC.
    pub(super) fn send_datagram(&mut self, datagram: Bytes) -> Result<(), SendDatagramError> {
        self.lossy.count(|| {
            let path = self.conn.stats().path;
            (path.sent_packets, path.lost_packets)
        });
        self.conn.datagrams().send(datagram, false)
    }

    pub(super) fn close(&mut self, now: Instant, code: H3Code, reason: &'static str) {
        let code = VarInt::from_u64(code.0).unwrap_or(VarInt::MAX);
        farewell::open(&self.conn);
        self.conn
            .close(now, code, Bytes::from_static(reason.as_bytes()));
    }

    /// The local address changed: use a fresh connection ID and probe the path.
    pub(super) fn rebound(&mut self) {
        self.conn.local_address_changed();
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.conn.is_handshaking()
    }

    pub(super) fn is_drained(&self) -> bool {
        self.conn.is_drained()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.conn.is_closed()
    }

    pub(super) fn remote(&self) -> std::net::SocketAddr {
        self.conn.remote_address()
    }

    pub(super) fn path_mtu(&self) -> u16 {
        self.conn.current_mtu()
    }

    pub(super) fn stats(&self) -> quinn_proto::ConnectionStats {
        self.conn.stats()
    }

    pub(super) fn proven(&self) -> tls::Proven {
        tls::proven(self.conn.crypto_session().peer_identity())
    }

    pub(super) fn cipher(&self) -> Option<Cipher> {
        cipher::negotiated(self.conn.crypto_session())
    }

    fn on_quic_event(
        &mut self,
        event: QuicEvent,
        trace: &mut Recorder,
        events: &mut Vec<BridgeEvent>,
    ) {
        match event {
            QuicEvent::DatagramReceived | QuicEvent::DatagramsUnblocked => {}
            // A server can send before the handshake is complete: its SETTINGS travel beside its
            // certificate, and a client's request beside the end of the handshake (RFC 9114 §7.2.4.2).
            // Nothing in them is a secret; what a client says is not read before it is known.
            QuicEvent::HandshakeDataReady if self.role == Role::Server => self.start_session(),
            QuicEvent::HandshakeDataReady => {}
            QuicEvent::Connected => {
                events.push(BridgeEvent::Connected);
                self.start_session();
            }
            QuicEvent::ConnectionLost { reason } => {
                trace.record(|| TraceEvent {
                    layer: Layer::Quic,
                    connection: None,
                    stream: None,
                    what: What::Error(reason.to_string().into()),
                });
                self.lost = true;
                self.session.handle_quic(QuicInput::Closed);
                events.push(BridgeEvent::Lost(close_reason(reason)));
            }
            QuicEvent::Stream(event) => self.on_stream_event(event),
        }
    }

    /// The peer's transport parameters are known, and streams can be opened. The session ignores a
    /// second start.
    fn start_session(&mut self) {
        let limit = self.max_datagram().map(|_| u64::from(u16::MAX));
        self.session.handle_quic(QuicInput::Connected {
            peer_max_datagram_frame_size: limit,
        });
    }

    fn on_stream_event(&mut self, event: StreamEvent) {
        match event {
            StreamEvent::Opened { dir } => {
                while let Some(id) = self.conn.streams().accept(dir) {
                    self.read(ours(id));
                }
            }
            StreamEvent::Readable { id } => self.read(ours(id)),
            StreamEvent::Writable { id } => self
                .session
                .handle_quic(QuicInput::Writable { stream: ours(id) }),
            StreamEvent::Stopped { id, error_code } => {
                self.session.handle_quic(QuicInput::Stopped {
                    stream: ours(id),
                    code: error_code.into_inner(),
                });
            }
            StreamEvent::Available { .. } => self.open_streams(),
            StreamEvent::Finished { .. } => {}
        }
    }

    /// Reads while the session wants bytes of this stream; what it does not want stays in QUIC,
    /// under its flow control.
    fn read(&mut self, stream: StreamId) {
        self.paused.remove(&stream);
        let mut stream_half = self.conn.recv_stream(theirs(stream));
        let Ok(mut chunks) = stream_half.read(true) else {
            return;
        };
        loop {
            if !self.session.wants_data(stream) {
                self.paused.insert(stream, ());
                break;
            }
            match chunks.next(READ_CHUNK) {
                Ok(Some(chunk)) => {
                    self.session.handle_quic(QuicInput::Data {
                        stream,
                        data: chunk.bytes,
                        fin: false,
                    });
                }
                Ok(None) => {
                    self.session.handle_quic(QuicInput::Data {
                        stream,
                        data: Bytes::new(),
                        fin: true,
                    });
                    break;
                }
                Err(ReadError::Blocked) => break,
                Err(ReadError::Reset(code)) => {
                    self.session.handle_quic(QuicInput::Reset {
                        stream,
                        code: code.into_inner(),
                    });
                    break;
                }
            }
        }
        // Whether flow control credit has to be sent is found out by the next poll_transmit.
        let _ = chunks.finalize();
    }

    fn open_streams(&mut self) {
        while let Some(&direction) = self.opens.front() {
            let dir = match direction {
                Direction::Bidirectional => Dir::Bi,
                Direction::Unidirectional => Dir::Uni,
            };
            let Some(id) = self.conn.streams().open(dir) else {
                return;
            };
            self.opens.pop_front();
            self.session
                .handle_quic(QuicInput::Opened { stream: ours(id) });
        }
    }

    /// Carries out what the session wants until it wants nothing more.
    pub(super) fn settle(&mut self, now: Instant, events: &mut Vec<BridgeEvent>) {
        loop {
            let mut idle = true;
            while let Some(output) = self.session.poll_quic() {
                idle = false;
                if !self.lost {
                    self.carry_out(now, output);
                }
            }
            while let Some(op) = self.session.poll_timer() {
                match op {
                    TimerOp::Arm { timer, after } => self.timers.insert(timer, now + after),
                    TimerOp::Disarm { timer } => self.timers.remove(&timer),
                };
            }
            while let Some(event) = self.session.poll_event() {
                idle = false;
                events.push(BridgeEvent::Session(event));
            }
            if idle {
                break;
            }
        }
    }

    fn carry_out(&mut self, now: Instant, output: QuicOutput) {
        match output {
            QuicOutput::Open { direction } => {
                self.opens.push_back(direction);
                self.open_streams();
            }
            QuicOutput::Write { stream, data } => {
                let length = data.len();
                let bytes = match self
                    .conn
                    .send_stream(theirs(stream))
                    .write_chunks(&mut [data])
                {
                    Ok(written) => written.bytes,
                    Err(WriteError::Blocked) => 0,
                    // The stream is gone: its STOP_SENDING arrives, or has arrived, as an input.
                    Err(WriteError::Stopped(_) | WriteError::ClosedStream) => length,
                };
                self.session
                    .handle_quic(QuicInput::Written { stream, bytes });
            }
            QuicOutput::Finish { stream } => {
                let _ = self.conn.send_stream(theirs(stream)).finish();
            }
            QuicOutput::Reset { stream, code } => {
                let _ = self.conn.send_stream(theirs(stream)).reset(quic_code(code));
            }
            QuicOutput::Stop { stream, code } => {
                if self.receives(stream) {
                    let _ = self.conn.recv_stream(theirs(stream)).stop(quic_code(code));
                }
                self.paused.remove(&stream);
            }
            QuicOutput::Resume { stream } => {
                if self.paused.contains_key(&stream) {
                    self.read(stream);
                }
            }
            QuicOutput::Close { code, reason } => self.close(now, code, reason),
        }
    }

    fn receives(&self, stream: StreamId) -> bool {
        stream.direction() == Direction::Bidirectional || stream.initiator() != self.role
    }
}

fn quic_code(code: H3Code) -> VarInt {
    VarInt::from_u64(code.0).unwrap_or(VarInt::MAX)
}

fn ours(id: quinn_proto::StreamId) -> StreamId {
    let number = VarInt::from(id).into_inner();
    StreamId::new(
        crate::wire::varint::VarInt::new(number).unwrap_or(crate::wire::varint::VarInt::MAX),
    )
}

fn theirs(id: StreamId) -> quinn_proto::StreamId {
    let side = match id.initiator() {
        Role::Client => quinn_proto::Side::Client,
        Role::Server => quinn_proto::Side::Server,
    };
    let dir = match id.direction() {
        Direction::Bidirectional => Dir::Bi,
        Direction::Unidirectional => Dir::Uni,
    };
    quinn_proto::StreamId::new(side, dir, id.into_inner() >> 2)
}

fn close_reason(reason: ConnectionError) -> CloseReason {
    match reason {
        ConnectionError::TransportError(error) => match alert(error.code) {
            Some(alert) => CloseReason::Tls(tls_text(alert, &error.reason)),
            None => CloseReason::Transport(error.to_string()),
        },
        ConnectionError::ConnectionClosed(close) => match alert(close.error_code) {
            Some(alert) => CloseReason::Tls(tls_text(alert, "told by the peer")),
            None => CloseReason::Transport(format!("closed by the peer: {close}")),
        },
        ConnectionError::ApplicationClosed(close) => CloseReason::Peer {
            code: close.error_code.into_inner(),
            reason: String::from_utf8_lossy(&close.reason).into_owned(),
        },
        ConnectionError::Reset => CloseReason::Reset,
        ConnectionError::TimedOut => CloseReason::TimedOut,
        ConnectionError::LocallyClosed => CloseReason::Local,
        ConnectionError::VersionMismatch => CloseReason::Transport("no common QUIC version".into()),
        ConnectionError::CidsExhausted => CloseReason::Transport("connection IDs exhausted".into()),
    }
}

/// The TLS alert in a QUIC CRYPTO_ERROR (RFC 9001 §4.8).
fn alert(code: quinn_proto::TransportErrorCode) -> Option<u8> {
    u64::from(code)
        .checked_sub(0x100)
        .and_then(|alert| u8::try_from(alert).ok())
}

fn tls_text(alert: u8, detail: &str) -> String {
    let words = tls::alert_in_words(alert);
    if detail.is_empty() {
        words.to_owned()
    } else {
        format!("{words} ({detail})")
    }
}
