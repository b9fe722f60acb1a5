//! The capsule protocol (RFC 9297 §3) and the capsules of CONNECT-IP (RFC 9484 §4.7).

use alloc::vec::Vec;
use bytes::{BufMut, Bytes};

use super::prefix::{AddressRange, IpPrefix};
use super::varint::VarInt;
use crate::error::{WireError, WireErrorKind};

/// A Request ID (RFC 9484 §4.7.1): 0 is an assignment nobody asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct RequestId(pub VarInt);

/// One entry of ADDRESS_ASSIGN or ADDRESS_REQUEST.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AddressEntry {
    /// Which request is meant; 0 in an unasked assignment, never 0 in a request.
    pub request_id: RequestId,
    /// The prefix assigned or wanted. In a request an all-zero address means "any of this length";
    /// in an assignment `0.0.0.0/32` and `::/128` mean "refused".
    pub prefix: IpPrefix,
}

impl AddressEntry {
    /// Whether this entry of an ADDRESS_ASSIGN says no (RFC 9484 §4.7.1).
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.prefix.is_host() && self.prefix.address().is_unspecified()
    }
}

/// ADDRESS_ASSIGN (RFC 9484 §4.7.1): the full list of addresses the receiver now has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AddressAssign(pub Vec<AddressEntry>);

/// ADDRESS_REQUEST (RFC 9484 §4.7.2): at least one entry, Request IDs non-zero and distinct.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddressRequest(Vec<AddressEntry>);

impl AddressRequest {
    /// A request for these entries.
    ///
    /// # Errors
    /// [`WireErrorKind::EmptyRequest`], [`WireErrorKind::RequestIdZero`] or
    /// [`WireErrorKind::RequestIdReused`].
    pub fn new(entries: Vec<AddressEntry>) -> Result<Self, WireErrorKind> {
        let _ = entries;
        unimplemented!()
    }

    /// Its entries.
    #[must_use]
    pub fn entries(&self) -> &[AddressEntry] {
        &self.0
    }
}

/// ROUTE_ADVERTISEMENT (RFC 9484 §4.7.3): the full list of what the sender routes, in order:
/// by IP version, then protocol, then address, without overlap.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RouteAdvertisement(Vec<AddressRange>);

impl RouteAdvertisement {
    /// Ranges that are already in order.
    ///
    /// # Errors
    /// [`WireErrorKind::RangeOrder`]; also where a range for any protocol overlaps one for a
    /// specific protocol.
    pub fn new(ranges: Vec<AddressRange>) -> Result<Self, WireErrorKind> {
        let _ = ranges;
        unimplemented!()
    }

    /// Puts ranges in order and merges those that overlap, so that exactly the same addresses and
    /// protocols are advertised by a legal list.
    #[must_use]
    pub fn from_unordered(ranges: Vec<AddressRange>) -> Self {
        let _ = ranges;
        unimplemented!()
    }

    /// Its ranges, in order.
    #[must_use]
    pub fn ranges(&self) -> &[AddressRange] {
        &self.0
    }
}

/// A whole capsule of a type this crate knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Capsule {
    /// DATAGRAM (0x00): an HTTP Datagram payload, context ID included.
    Datagram(Bytes),
    /// ADDRESS_ASSIGN (0x01).
    AddressAssign(AddressAssign),
    /// ADDRESS_REQUEST (0x02).
    AddressRequest(AddressRequest),
    /// ROUTE_ADVERTISEMENT (0x03).
    RouteAdvertisement(RouteAdvertisement),
}

impl Capsule {
    /// Appends the capsule: type, length, value.
    pub fn encode(&self, out: &mut impl BufMut) {
        let _ = out;
        unimplemented!()
    }
}

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
#[derive(Clone, Debug)]
pub struct CapsuleDecoder {
    _todo: (),
}

impl CapsuleDecoder {
    /// A decoder at the start of a capsule.
    #[must_use]
    pub fn new(limits: CapsuleLimits) -> Self {
        let _ = limits;
        unimplemented!()
    }

    /// Takes bytes from the front of `input` until something is found; `Ok(None)` when all of it was
    /// taken. A capsule wholly inside `input` is decoded without a copy.
    ///
    /// # Errors
    /// [`WireError`], offsets counted from the first byte ever given.
    pub fn decode(&mut self, input: &mut Bytes) -> Result<Option<CapsuleEvent>, WireError> {
        let _ = input;
        unimplemented!()
    }

    /// Says that the stream has ended.
    ///
    /// # Errors
    /// [`WireErrorKind::CapsuleTruncated`] inside a capsule (RFC 9297 §3.3).
    pub fn finish(&self) -> Result<(), WireError> {
        unimplemented!()
    }
}
