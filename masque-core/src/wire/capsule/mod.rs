//! The capsule protocol (RFC 9297 §3) and the capsules of CONNECT-IP (RFC 9484 §4.7).
//!
//! | type | name | here |
//! |---|---|---|
//! | 0x00 | DATAGRAM | [`Capsule::Datagram`] |
//! | 0x01 | ADDRESS_ASSIGN | [`AddressAssign`] |
//! | 0x02 | ADDRESS_REQUEST | [`AddressRequest`] |
//! | 0x03 | ROUTE_ADVERTISEMENT | [`RouteAdvertisement`] |
//! | any other | extensions, reserved types | [`CapsuleEvent::Unknown`], skipped |

mod address;
mod decoder;
mod route;
mod value;

use bytes::{BufMut, Bytes};

use super::varint::VarInt;

pub use address::{AddressAssign, AddressEntry, AddressRequest, RequestId};
pub use decoder::{CapsuleDecoder, CapsuleEvent, CapsuleLimits};
pub use route::RouteAdvertisement;

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
    /// The type of DATAGRAM (RFC 9297 §3.5).
    pub const DATAGRAM: VarInt = VarInt::from_u32(0x00);
    /// The type of ADDRESS_ASSIGN (RFC 9484 §4.7.1).
    pub const ADDRESS_ASSIGN: VarInt = VarInt::from_u32(0x01);
    /// The type of ADDRESS_REQUEST (RFC 9484 §4.7.2).
    pub const ADDRESS_REQUEST: VarInt = VarInt::from_u32(0x02);
    /// The type of ROUTE_ADVERTISEMENT (RFC 9484 §4.7.3).
    pub const ROUTE_ADVERTISEMENT: VarInt = VarInt::from_u32(0x03);

    /// Its type.
    #[must_use]
    pub const fn ty(&self) -> VarInt {
        match self {
            Self::Datagram(_) => Self::DATAGRAM,
            Self::AddressAssign(_) => Self::ADDRESS_ASSIGN,
            Self::AddressRequest(_) => Self::ADDRESS_REQUEST,
            Self::RouteAdvertisement(_) => Self::ROUTE_ADVERTISEMENT,
        }
    }

    /// How many bytes [`Capsule::encode`] appends.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let value = self.value_len();
        self.ty().encoded_len() + length(value).encoded_len() + value
    }

    /// Appends the capsule: type, length, value.
    pub fn encode(&self, out: &mut impl BufMut) {
        self.ty().encode(out);
        length(self.value_len()).encode(out);
        match self {
            Self::Datagram(payload) => out.put_slice(payload),
            Self::AddressAssign(assign) => address::encode(&assign.0, out),
            Self::AddressRequest(request) => address::encode(request.entries(), out),
            Self::RouteAdvertisement(routes) => route::encode(routes.ranges(), out),
        }
    }

    fn value_len(&self) -> usize {
        match self {
            Self::Datagram(payload) => payload.len(),
            Self::AddressAssign(assign) => address::encoded_len(&assign.0),
            Self::AddressRequest(request) => address::encoded_len(request.entries()),
            Self::RouteAdvertisement(routes) => route::encoded_len(routes.ranges()),
        }
    }
}

fn length(bytes: usize) -> VarInt {
    VarInt::new(bytes as u64).expect("nothing held in memory is 2^62 bytes long")
}

#[cfg(test)]
mod tests;
