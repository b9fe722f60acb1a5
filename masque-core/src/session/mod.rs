//! One HTTP/3 connection and its CONNECT-IP tunnels over an abstract QUIC.
//!
//! Data in: [`QuicInput`] and [`Command`]. Data out: [`QuicOutput`], [`TimerOp`], [`Event`].
//! The contract: *handle any number of inputs, then drain `poll_quic`, `poll_timer` and
//! `poll_event` to `None`.*

mod command;
mod event;
mod quic;

use bytes::Bytes;

pub use command::{AddressRequestPolicy, CloseHow, Command, CommandError, SessionConfig};
pub use event::{Event, SessionEnd, TunnelEnd, TunnelRequest};
pub use quic::{QuicInput, QuicOutput, Timer, TimerOp};

use crate::trace::TraceEvent;
use crate::wire::datagram::DatagramHeader;
use crate::wire::stream::{Role, StreamId};

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

/// One HTTP/3 connection with its tunnels.
#[derive(Debug)]
pub struct Session {
    _todo: (),
}

impl Session {
    /// A session before [`QuicInput::Connected`].
    #[must_use]
    pub fn new(role: Role, config: SessionConfig) -> Self {
        let _ = (role, config);
        unimplemented!()
    }

    /// Takes what QUIC says. Peer input never fails: it becomes outputs and events.
    pub fn handle_quic(&mut self, input: QuicInput) {
        let _ = input;
        unimplemented!()
    }

    /// Takes a fired timer; one that was disarmed meanwhile is ignored.
    pub fn handle_timer(&mut self, timer: Timer) {
        let _ = timer;
        unimplemented!()
    }

    /// Asks for a tunnel (client). The request goes out once the peer's SETTINGS allow it.
    ///
    /// # Errors
    /// [`CommandError`] on a server, after GOAWAY or close, or at the limit of tunnels.
    pub fn open_tunnel(&mut self, request: TunnelRequest) -> Result<TunnelId, CommandError> {
        let _ = request;
        unimplemented!()
    }

    /// Takes a command.
    ///
    /// # Errors
    /// [`CommandError`] where the tunnel does not exist or the command does not fit its state.
    pub fn handle_command(&mut self, command: Command) -> Result<(), CommandError> {
        let _ = command;
        unimplemented!()
    }

    /// Whether data of `stream` may be handed over now. While `false` the bytes stay in QUIC, under
    /// its flow control, until [`QuicOutput::Resume`] names the stream.
    #[must_use]
    pub fn wants_data(&self, stream: StreamId) -> bool {
        let _ = stream;
        unimplemented!()
    }

    /// Judges a received QUIC DATAGRAM.
    pub fn open_datagram(&mut self, datagram: &[u8]) -> DatagramVerdict {
        let _ = datagram;
        unimplemented!()
    }

    /// What to put before an IP packet of `tunnel` in a QUIC DATAGRAM; `None` unless it is
    /// established and the peer takes datagrams.
    #[must_use]
    pub fn datagram_header(&self, tunnel: TunnelId) -> Option<DatagramHeader> {
        let _ = tunnel;
        unimplemented!()
    }

    /// The next thing to do on QUIC.
    #[must_use]
    pub fn poll_quic(&mut self) -> Option<QuicOutput> {
        unimplemented!()
    }

    /// The next change of a timer.
    #[must_use]
    pub fn poll_timer(&mut self) -> Option<TimerOp> {
        unimplemented!()
    }

    /// The next event.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        unimplemented!()
    }

    /// Turns tracing on or off.
    pub fn set_tracing(&mut self, on: bool) {
        let _ = on;
        unimplemented!()
    }

    /// The trace events since the last call; `connection` is left for the caller to fill in.
    pub fn take_trace(&mut self) -> alloc::vec::Vec<TraceEvent> {
        unimplemented!()
    }
}

#[allow(dead_code, reason = "skeleton")]
fn _keep(_: Bytes) {}
