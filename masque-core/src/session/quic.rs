//! The abstract QUIC under a session: streams are data.

use core::time::Duration;

use bytes::Bytes;

use super::TunnelId;
use crate::error::H3Code;
use crate::wire::stream::{Direction, StreamId};

/// What QUIC says to a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum QuicInput {
    /// The handshake is complete.
    Connected {
        /// The peer's `max_datagram_frame_size` transport parameter; `None` or 0: it takes no
        /// DATAGRAM frames.
        peer_max_datagram_frame_size: Option<u64>,
    },
    /// The oldest unanswered [`QuicOutput::Open`] of this stream's direction was granted.
    Opened {
        /// The new stream.
        stream: StreamId,
    },
    /// Bytes of a stream, in order; a stream not seen before was opened by the peer.
    Data {
        /// The stream.
        stream: StreamId,
        /// The bytes, possibly none.
        data: Bytes,
        /// Whether they are the last.
        fin: bool,
    },
    /// The peer reset its sending part.
    Reset {
        /// The stream.
        stream: StreamId,
        /// Its error code.
        code: u64,
    },
    /// The peer stopped our sending part (STOP_SENDING).
    Stopped {
        /// The stream.
        stream: StreamId,
        /// Its error code.
        code: u64,
    },
    /// The answer to [`QuicOutput::Write`]: so many of its bytes were taken. Fewer than all means
    /// that the stream is blocked until [`QuicInput::Writable`].
    Written {
        /// The stream.
        stream: StreamId,
        /// How many bytes.
        bytes: usize,
    },
    /// A blocked stream takes bytes again.
    Writable {
        /// The stream.
        stream: StreamId,
    },
    /// The connection is gone, whoever ended it.
    Closed,
}

/// What a session wants done on QUIC.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum QuicOutput {
    /// Open a stream; answered by [`QuicInput::Opened`] when the peer's limit allows.
    Open {
        /// Its direction.
        direction: Direction,
    },
    /// Write bytes; answered by [`QuicInput::Written`]. No second write of a stream is given before.
    Write {
        /// The stream.
        stream: StreamId,
        /// The bytes.
        data: Bytes,
    },
    /// End our sending part.
    Finish {
        /// The stream.
        stream: StreamId,
    },
    /// Reset our sending part.
    Reset {
        /// The stream.
        stream: StreamId,
        /// Why.
        code: H3Code,
    },
    /// Ask the peer to stop sending (STOP_SENDING); what still arrives is dropped.
    Stop {
        /// The stream.
        stream: StreamId,
        /// Why.
        code: H3Code,
    },
    /// Data of this stream is wanted again.
    Resume {
        /// The stream.
        stream: StreamId,
    },
    /// Close the connection.
    Close {
        /// Why.
        code: H3Code,
        /// In words, for the peer's log.
        reason: &'static str,
    },
}

/// What a session waits for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Timer {
    /// The peer's SETTINGS.
    Settings,
    /// The response to a request (client), or the local decision about one (server).
    Response(TunnelId),
    /// An unprompted ADDRESS_ASSIGN, before the client asks for one.
    AddressRequest(TunnelId),
    /// The end of the tunnels after GOAWAY.
    Drain,
    /// The end of the period in which what the peer sends in vain is counted.
    Burden,
}

/// A change of a timer. Times are relative: a session has no clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimerOp {
    /// Call [`super::Session::handle_timer`] after this time, replacing an earlier arming.
    Arm {
        /// Which.
        timer: Timer,
        /// From now.
        after: Duration,
    },
    /// Do not.
    Disarm {
        /// Which.
        timer: Timer,
    },
}
