//! HTTP/3 frames (RFC 9114 §7), decoded as they arrive.

use alloc::vec::Vec;

use bytes::{Buf, BufMut, Bytes};

use super::settings::Settings;
use super::varint::VarInt;
use crate::error::{WireError, WireErrorKind};

/// The longest payload kept of a frame other than HEADERS, in bytes.
const MAX_KEPT: usize = 16 << 10;

/// The longest header of a frame, in bytes: type and length.
const MAX_HEADER: usize = 2 * VarInt::MAX_LEN;

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

impl FrameType {
    /// The type with this number.
    #[must_use]
    pub const fn from_varint(ty: VarInt) -> Self {
        match ty.into_inner() {
            0x00 => Self::Data,
            0x01 => Self::Headers,
            0x03 => Self::CancelPush,
            0x04 => Self::Settings,
            0x05 => Self::PushPromise,
            0x07 => Self::GoAway,
            0x0d => Self::MaxPushId,
            0x02 | 0x06 | 0x08 | 0x09 => Self::Http2(ty),
            _ => Self::Unknown(ty),
        }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn into_varint(self) -> VarInt {
        match self {
            Self::Data => VarInt::from_u32(0x00),
            Self::Headers => VarInt::from_u32(0x01),
            Self::CancelPush => VarInt::from_u32(0x03),
            Self::Settings => VarInt::from_u32(0x04),
            Self::PushPromise => VarInt::from_u32(0x05),
            Self::GoAway => VarInt::from_u32(0x07),
            Self::MaxPushId => VarInt::from_u32(0x0d),
            Self::Http2(ty) | Self::Unknown(ty) => ty,
        }
    }
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
///
/// | state | takes | and gives |
/// |---|---|---|
/// | header | type and length | [`FrameEvent::Header`] |
/// | data | what there is of the payload | [`FrameEvent::Data`] |
/// | whole | the whole payload | the event of its type, or an error about it |
/// | skip | the payload | nothing |
///
/// An error about a payload or its length comes after the frame's [`FrameEvent::Header`], so that a
/// type that is not allowed is always known first.
#[derive(Clone, Debug)]
pub struct FrameDecoder {
    max_headers: usize,
    /// Bytes taken from all inputs, for the offsets of errors.
    taken: usize,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Header {
        bytes: [u8; MAX_HEADER],
        held: usize,
    },
    Data {
        left: u64,
    },
    Whole {
        kind: Whole,
        length: u64,
        held: Vec<u8>,
    },
    Skip {
        left: u64,
    },
}

impl State {
    const START: Self = Self::Header {
        bytes: [0; MAX_HEADER],
        held: 0,
    };

    fn payload(ty: FrameType, length: u64) -> Self {
        let whole = |kind| Self::Whole {
            kind,
            length,
            held: Vec::new(),
        };
        match ty {
            FrameType::Headers => whole(Whole::Headers),
            FrameType::Settings => whole(Whole::Settings),
            FrameType::GoAway => whole(Whole::Id(FrameEvent::GoAway)),
            FrameType::CancelPush => whole(Whole::Id(FrameEvent::CancelPush)),
            FrameType::MaxPushId => whole(Whole::Id(FrameEvent::MaxPushId)),
            _ if length == 0 => Self::START,
            FrameType::Data => Self::Data { left: length },
            FrameType::PushPromise | FrameType::Http2(_) | FrameType::Unknown(_) => {
                Self::Skip { left: length }
            }
        }
    }
}

/// A type whose payload has to be whole.
#[derive(Clone, Copy, Debug)]
enum Whole {
    Headers,
    Settings,
    /// Exactly one integer, and the event that carries it.
    Id(fn(VarInt) -> FrameEvent),
}

impl Whole {
    /// The payload's length, if it may be kept.
    fn check(self, length: u64, max_headers: usize) -> Result<usize, WireErrorKind> {
        let (max, error) = match self {
            // One message that is too large is no reason to end the others.
            Self::Headers => (max_headers, WireErrorKind::FieldSectionTooLarge),
            Self::Settings => (MAX_KEPT, WireErrorKind::FrameTooLarge),
            Self::Id(_) if (1..=VarInt::MAX_LEN as u64).contains(&length) => {
                (VarInt::MAX_LEN, WireErrorKind::FrameTooLarge)
            }
            Self::Id(_) => return Err(WireErrorKind::FrameLength),
        };
        usize::try_from(length)
            .ok()
            .filter(|&length| length <= max)
            .ok_or(error)
    }

    fn decode(self, payload: Bytes) -> Result<FrameEvent, WireError> {
        match self {
            Self::Headers => Ok(FrameEvent::Headers(payload)),
            Self::Settings => Settings::decode(&payload).map(FrameEvent::Settings),
            Self::Id(event) => match VarInt::decode(&payload) {
                Some((id, length)) if length == payload.len() => Ok(event(id)),
                Some((_, length)) => Err(WireError::new(WireErrorKind::FrameLength, length)),
                None => Err(WireError::new(WireErrorKind::FrameLength, payload.len())),
            },
        }
    }
}

impl FrameDecoder {
    /// A decoder at the start of a frame. A HEADERS payload over `max_headers` bytes is
    /// [`crate::WireErrorKind::FieldSectionTooLarge`], a SETTINGS payload over 16 KiB
    /// [`crate::WireErrorKind::FrameTooLarge`].
    #[must_use]
    pub fn new(max_headers: usize) -> Self {
        Self {
            max_headers,
            taken: 0,
            state: State::START,
        }
    }

    /// Takes bytes from the front of `input` until something is found; `Ok(None)` when all of
    /// `input` was taken. After an error the decoder must not be used again.
    ///
    /// Call it until it gives `Ok(None)`, also when `input` is empty already: the event of an empty
    /// payload, or the error about it, still follows its [`FrameEvent::Header`].
    ///
    /// # Errors
    /// [`WireError`] with the offset counted from the first byte this decoder was ever given.
    pub fn decode(&mut self, input: &mut Bytes) -> Result<Option<FrameEvent>, WireError> {
        loop {
            match &mut self.state {
                State::Header { bytes, held } => {
                    let Some((ty, length)) = header(&bytes[..*held]) else {
                        if input.is_empty() {
                            return Ok(None);
                        }
                        // `MAX_HEADER` bytes are always a whole header, so that one always fits.
                        bytes[*held] = input.get_u8();
                        *held += 1;
                        self.taken = self.taken.saturating_add(1);
                        continue;
                    };
                    let ty = FrameType::from_varint(ty);
                    let length = length.into_inner();
                    self.state = State::payload(ty, length);
                    return Ok(Some(FrameEvent::Header { ty, length }));
                }
                State::Data { left } => {
                    let piece = take(input, left, &mut self.taken);
                    if *left == 0 {
                        self.state = State::START;
                    }
                    return Ok((!piece.is_empty()).then_some(FrameEvent::Data(piece)));
                }
                State::Skip { left } => {
                    take(input, left, &mut self.taken);
                    if *left != 0 {
                        return Ok(None);
                    }
                    self.state = State::START;
                }
                State::Whole { kind, length, held } => {
                    let length = kind
                        .check(*length, self.max_headers)
                        .map_err(|kind| WireError::new(kind, self.taken))?;
                    let mut left = (length - held.len()) as u64;
                    let piece = take(input, &mut left, &mut self.taken);
                    if left != 0 {
                        held.extend_from_slice(&piece);
                        return Ok(None);
                    }
                    let payload = if held.is_empty() {
                        piece
                    } else {
                        held.extend_from_slice(&piece);
                        core::mem::take(held).into()
                    };
                    let event = kind
                        .decode(payload)
                        .map_err(|error| error.shifted(self.taken.saturating_sub(length)))?;
                    self.state = State::START;
                    return Ok(Some(event));
                }
            }
        }
    }

    /// How many bytes of memory an unfinished payload occupies: at most twice what has arrived of it.
    #[must_use]
    pub fn buffered(&self) -> usize {
        match &self.state {
            State::Whole { held, .. } => held.capacity(),
            _ => 0,
        }
    }

    /// Says that the stream has ended.
    ///
    /// # Errors
    /// [`crate::WireErrorKind::FrameTruncated`] if it ended inside a frame (RFC 9114 §7.1).
    pub fn finish(&self) -> Result<(), WireError> {
        match self.state {
            State::Header { held: 0, .. } => Ok(()),
            _ => Err(WireError::new(WireErrorKind::FrameTruncated, self.taken)),
        }
    }
}

/// Appends the header of a frame whose payload is `length` bytes long.
pub fn encode_header(ty: FrameType, length: usize, out: &mut impl BufMut) {
    ty.into_varint().encode(out);
    VarInt::saturating(length as u64).encode(out);
}

/// Appends a GOAWAY frame.
pub fn encode_goaway(id: VarInt, out: &mut impl BufMut) {
    encode_header(FrameType::GoAway, id.encoded_len(), out);
    id.encode(out);
}

/// The type and length at the front of `bytes`, once both are there.
fn header(bytes: &[u8]) -> Option<(VarInt, VarInt)> {
    let (ty, ty_length) = VarInt::decode(bytes)?;
    let (length, _) = VarInt::decode(&bytes[ty_length..])?;
    Some((ty, length))
}

/// Splits up to `left` bytes off the front of `input`.
fn take(input: &mut Bytes, left: &mut u64, taken: &mut usize) -> Bytes {
    let length = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
    *left -= length as u64;
    *taken = taken.saturating_add(length);
    input.split_to(length)
}

#[cfg(test)]
mod tests;
