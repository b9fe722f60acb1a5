//! HTTP/3 frames (RFC 9114 §7), decoded as they arrive.

use bytes::{BufMut, Bytes};

use super::settings::Settings;
use super::varint::VarInt;
use crate::error::WireError;

/// The type of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FrameType {
    /// 0x00
    Data,
    /// 0x01
    Headers,
    /// 0x03
    CancelPush,
    /// 0x04
    Settings,
    /// 0x05
    PushPromise,
    /// 0x07
    GoAway,
    /// 0x0d
    MaxPushId,
    /// 0x02, 0x06, 0x08, 0x09: HTTP/2 types that HTTP/3 forbids (RFC 9114 §7.2.8).
    Http2(VarInt),
    /// Anything else, reserved types (0x1f*N+0x21) included: to be ignored.
    Unknown(VarInt),
}

/// What a [`FrameDecoder`] has found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FrameEvent {
    /// A frame begins. Its type is known before a byte of its payload is kept, so that a type that
    /// is not allowed here can be refused at once.
    Header {
        /// The type.
        ty: FrameType,
        /// The payload length announced.
        length: u64,
    },
    /// A piece of a DATA payload, passed on without being kept.
    Data(Bytes),
    /// A whole encoded field section.
    Headers(Bytes),
    /// A whole SETTINGS frame.
    Settings(Settings),
    /// A GOAWAY frame.
    GoAway(VarInt),
    /// A CANCEL_PUSH frame.
    CancelPush(VarInt),
    /// A MAX_PUSH_ID frame.
    MaxPushId(VarInt),
}

/// Splits a stream into frames.
///
/// Keeps at most one frame header, or one payload of a type that has to be whole (HEADERS,
/// SETTINGS, GOAWAY, CANCEL_PUSH, MAX_PUSH_ID), never more than the limits given; memory grows with
/// what arrived, never with what a length field announces. Unknown, HTTP/2 and PUSH_PROMISE
/// payloads are skipped after their [`FrameEvent::Header`].
#[derive(Clone, Debug)]
pub struct FrameDecoder {
    _todo: (),
}

impl FrameDecoder {
    /// A decoder at the start of a frame. A HEADERS payload over `max_headers` bytes or any other
    /// kept payload over 16 KiB is [`crate::WireErrorKind::FrameTooLarge`].
    #[must_use]
    pub fn new(max_headers: usize) -> Self {
        let _ = max_headers;
        unimplemented!()
    }

    /// Takes bytes from the front of `input` until something is found; `Ok(None)` when all of
    /// `input` was taken. After an error the decoder must not be used again.
    ///
    /// # Errors
    /// [`WireError`] with the offset counted from the first byte this decoder was ever given.
    pub fn decode(&mut self, input: &mut Bytes) -> Result<Option<FrameEvent>, WireError> {
        let _ = input;
        unimplemented!()
    }

    /// Says that the stream has ended.
    ///
    /// # Errors
    /// [`crate::WireErrorKind::FrameTruncated`] if it ended inside a frame (RFC 9114 §7.1).
    pub fn finish(&self) -> Result<(), WireError> {
        unimplemented!()
    }
}

/// Appends the header of a frame whose payload is `length` bytes long.
pub fn encode_header(ty: FrameType, length: usize, out: &mut impl BufMut) {
    let _ = (ty, length, out);
    unimplemented!()
}

/// Appends a GOAWAY frame.
pub fn encode_goaway(id: VarInt, out: &mut impl BufMut) {
    let _ = (id, out);
    unimplemented!()
}
