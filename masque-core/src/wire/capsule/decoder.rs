//! Splits a data stream into capsules (RFC 9297 §3.2).
//!
//! | state | holds | next |
//! |---|---|---|
//! | `Header` | up to 15 bytes of type and length | `Value` or `Skip` |
//! | `Value` | what has arrived of a value within the limits | `Header` |
//! | `Skip` | a count | `Header` |
//! | `Failed` | the error | – |

use bytes::{Buf, Bytes, BytesMut};

use super::value::Value;
use super::{AddressAssign, AddressRequest, Capsule, RouteAdvertisement};
use crate::error::{WireError, WireErrorKind};
use crate::wire::varint::VarInt;

/// What a [`CapsuleDecoder`] has found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CapsuleEvent {
    /// A whole capsule.
    Capsule(Capsule),
    /// A capsule of an unknown type begins; its value is skipped without being kept.
    Unknown {
        /// The type.
        ty: VarInt,
        /// The length announced.
        length: VarInt,
    },
    /// A DATAGRAM capsule over the limit begins; its value is skipped.
    DatagramTooLarge {
        /// The length announced.
        length: VarInt,
    },
}

/// What a [`CapsuleDecoder`] keeps at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CapsuleLimits {
    /// The longest value of a capsule other than DATAGRAM, in bytes.
    pub max_value: usize,
    /// The longest DATAGRAM value, in bytes; longer ones are skipped.
    pub max_datagram: usize,
    /// The most entries in one capsule.
    pub max_entries: usize,
}

impl Default for CapsuleLimits {
    /// 64 KiB, 64 KiB, 1,024 entries.
    fn default() -> Self {
        Self {
            max_value: 64 << 10,
            max_datagram: 64 << 10,
            max_entries: 1024,
        }
    }
}

/// Splits a data stream into capsules.
///
/// Until a capsule's last byte is there, what has arrived of it is copied and kept: never more than
/// the limit, and nothing for what is skipped. An error is final: it is given again by every later
/// call.
#[derive(Clone, Debug)]
pub struct CapsuleDecoder {
    limits: CapsuleLimits,
    state: State,
    /// Bytes taken so far. 64 bits on every machine: a stream is longer than memory.
    taken: u64,
}

#[derive(Clone, Debug)]
enum State {
    Header {
        bytes: [u8; HEADER],
        len: usize,
    },
    Value {
        ty: Known,
        length: usize,
        buffer: BytesMut,
    },
    Skip {
        left: u64,
    },
    Failed(WireError),
}

/// A type and a length, each in its longest form.
const HEADER: usize = 2 * VarInt::MAX_LEN;

impl State {
    const START: Self = Self::Header {
        bytes: [0; HEADER],
        len: 0,
    };

    fn skip(left: u64) -> Self {
        match left {
            0 => Self::START,
            left => Self::Skip { left },
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Known {
    Datagram,
    AddressAssign,
    AddressRequest,
    RouteAdvertisement,
}

impl Known {
    fn new(ty: VarInt) -> Option<Self> {
        match ty {
            Capsule::DATAGRAM => Some(Self::Datagram),
            Capsule::ADDRESS_ASSIGN => Some(Self::AddressAssign),
            Capsule::ADDRESS_REQUEST => Some(Self::AddressRequest),
            Capsule::ROUTE_ADVERTISEMENT => Some(Self::RouteAdvertisement),
            _ => None,
        }
    }
}

impl CapsuleDecoder {
    /// A decoder at the start of a capsule.
    #[must_use]
    pub fn new(limits: CapsuleLimits) -> Self {
        Self {
            limits,
            state: State::START,
            taken: 0,
        }
    }

    /// Takes bytes from the front of `input` until something is found; `Ok(None)` when all of it was
    /// taken. A capsule whose value lies wholly in `input` is decoded without a copy: a DATAGRAM is
    /// a slice of it.
    ///
    /// # Errors
    /// [`WireError`], offsets counted from the first byte ever given. How much of `input` is left is
    /// then of no meaning.
    pub fn decode(&mut self, input: &mut Bytes) -> Result<Option<CapsuleEvent>, WireError> {
        loop {
            let found = match &mut self.state {
                State::Header { .. } => self.header(input),
                State::Value { .. } => self.value(input),
                State::Skip { .. } => self.skip(input),
                State::Failed(error) => return Err(*error),
            };
            match found {
                Ok(Progress::Starved) => return Ok(None),
                Ok(Progress::Moved) => {}
                Ok(Progress::Found(event)) => return Ok(Some(event)),
                Err(error) => self.state = State::Failed(error),
            }
        }
    }

    /// Says that the stream has ended.
    ///
    /// # Errors
    /// [`WireErrorKind::CapsuleTruncated`] inside a capsule (RFC 9297 §3.3), or the error found
    /// before.
    pub fn finish(&self) -> Result<(), WireError> {
        match self.state {
            State::Header { len: 0, .. } => Ok(()),
            State::Failed(error) => Err(error),
            _ => Err(WireError::new(
                WireErrorKind::CapsuleTruncated,
                offset(self.taken),
            )),
        }
    }

    /// How many bytes of memory an unfinished value occupies: at most twice what has arrived of it.
    #[must_use]
    pub fn buffered(&self) -> usize {
        match &self.state {
            State::Value { buffer, .. } => buffer.capacity(),
            _ => 0,
        }
    }

    fn header(&mut self, input: &mut Bytes) -> Result<Progress, WireError> {
        let State::Header { bytes, len } = &mut self.state else {
            return Ok(Progress::Moved);
        };
        let held = *len;
        let copied = input.len().min(HEADER - held);
        let filled = held + copied;
        bytes[held..filled].copy_from_slice(&input[..copied]);
        let Some(header) = Header::decode(&bytes[..filled]) else {
            *len = filled;
            self.take(input, copied);
            return Ok(Progress::Starved);
        };
        let start = self.taken - held as u64;
        // A header that was already whole before these bytes would have been found before.
        self.take(input, header.len.saturating_sub(held));
        self.begin(header, start)
    }

    /// What follows a header that began at byte `start`.
    fn begin(&mut self, header: Header, start: u64) -> Result<Progress, WireError> {
        let Header {
            ty, length, ty_len, ..
        } = header;
        let announced = length.into_inner();
        let Some(known) = Known::new(ty) else {
            self.state = State::skip(announced);
            return Ok(Progress::Found(CapsuleEvent::Unknown { ty, length }));
        };
        let datagram = matches!(known, Known::Datagram);
        let limit = if datagram {
            self.limits.max_datagram
        } else {
            self.limits.max_value
        };
        match usize::try_from(announced).ok().filter(|&n| n <= limit) {
            Some(length) => {
                self.state = State::Value {
                    ty: known,
                    length,
                    buffer: BytesMut::new(),
                };
                Ok(Progress::Moved)
            }
            None if datagram => {
                self.state = State::skip(announced);
                Ok(Progress::Found(CapsuleEvent::DatagramTooLarge { length }))
            }
            None => Err(WireError::new(
                WireErrorKind::CapsuleTooLarge,
                offset(start + ty_len as u64),
            )),
        }
    }

    fn value(&mut self, input: &mut Bytes) -> Result<Progress, WireError> {
        let State::Value { ty, length, buffer } = &mut self.state else {
            return Ok(Progress::Moved);
        };
        let (ty, length) = (*ty, *length);
        let held = buffer.len();
        let step = input.len().min(length - held);
        let start = self.taken - held as u64;
        let value = if step == length {
            input.split_to(step)
        } else {
            buffer.extend_from_slice(&input[..step]);
            input.advance(step);
            if held + step < length {
                self.taken += step as u64;
                return Ok(Progress::Starved);
            }
            core::mem::take(buffer).freeze()
        };
        self.taken += step as u64;
        self.state = State::START;
        decode_value(ty, value, offset(start), self.limits.max_entries)
            .map(|capsule| Progress::Found(CapsuleEvent::Capsule(capsule)))
    }

    fn skip(&mut self, input: &mut Bytes) -> Result<Progress, WireError> {
        let State::Skip { left } = self.state else {
            return Ok(Progress::Moved);
        };
        let step = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
        self.take(input, step);
        self.state = State::skip(left - step as u64);
        Ok(match self.state {
            State::Skip { .. } => Progress::Starved,
            _ => Progress::Moved,
        })
    }

    fn take(&mut self, input: &mut Bytes, len: usize) {
        input.advance(len);
        self.taken += len as u64;
    }
}

enum Progress {
    /// The input is used up.
    Starved,
    /// Another state.
    Moved,
    Found(CapsuleEvent),
}

struct Header {
    ty: VarInt,
    length: VarInt,
    ty_len: usize,
    len: usize,
}

impl Header {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (ty, ty_len) = VarInt::decode(bytes)?;
        let (length, length_len) = VarInt::decode(bytes.get(ty_len..)?)?;
        Some(Self {
            ty,
            length,
            ty_len,
            len: ty_len + length_len,
        })
    }
}

fn decode_value(
    ty: Known,
    value: Bytes,
    offset: usize,
    max_entries: usize,
) -> Result<Capsule, WireError> {
    let fields = &mut Value::new(&value, offset);
    Ok(match ty {
        Known::Datagram => Capsule::Datagram(value),
        Known::AddressAssign => Capsule::AddressAssign(AddressAssign::decode(fields, max_entries)?),
        Known::AddressRequest => {
            Capsule::AddressRequest(AddressRequest::decode(fields, max_entries)?)
        }
        Known::RouteAdvertisement => {
            Capsule::RouteAdvertisement(RouteAdvertisement::decode(fields, max_entries)?)
        }
    })
}

fn offset(taken: u64) -> usize {
    usize::try_from(taken).unwrap_or(usize::MAX)
}
