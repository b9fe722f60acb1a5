//! Prefixed integers (RFC 7541 §5.1, RFC 9204 §4.1.1).

use bytes::BufMut;

use crate::error::{WireError, WireErrorKind};
use crate::wire::varint::VarInt;

/// Seven-bit groups that 62 bits take; a longer encoding is refused, whatever its value.
const MAX_GROUPS: usize = 9;

/// The most bytes an encoded integer takes.
pub const MAX_LEN: usize = 1 + MAX_GROUPS;

/// How many low bits of the first byte belong to the integer: 1 to 8.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Prefix(u8);

impl Prefix {
    pub(super) const THREE: Self = Self(3);
    pub(super) const FOUR: Self = Self(4);
    pub(super) const SIX: Self = Self(6);
    pub(super) const SEVEN: Self = Self(7);
    pub(super) const EIGHT: Self = Self(8);

    /// A prefix of `bits` bits, or `None` unless that is 1 to 8.
    #[must_use]
    pub const fn new(bits: u8) -> Option<Self> {
        match bits {
            1..=8 => Some(Self(bits)),
            _ => None,
        }
    }

    /// The bits of the first byte that belong to the integer.
    #[must_use]
    pub const fn mask(self) -> u8 {
        0xff >> (8 - self.0)
    }

    /// The lowest bit above the prefix, where string literals have their Huffman flag; 0 if the
    /// prefix takes the whole byte.
    pub(super) const fn flag_above(self) -> u8 {
        !self.mask() & self.mask().wrapping_add(1)
    }
}

/// Appends `value`, with the bits of `flags` above the prefix.
pub fn encode(flags: u8, prefix: Prefix, value: VarInt, out: &mut impl BufMut) {
    let mask = prefix.mask();
    let flags = flags & !mask;
    let value = value.into_inner();
    if value < u64::from(mask) {
        out.put_u8(flags | value as u8);
        return;
    }
    out.put_u8(flags | mask);
    let mut rest = value - u64::from(mask);
    while rest >= 0x80 {
        out.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

/// The integer at the front of `input`, whose first byte may have flags above the prefix, and how
/// many bytes it took; `Ok(None)` if `input` ends inside it.
///
/// # Errors
/// [`WireErrorKind::QpackInteger`] for a value over 62 bits or an encoding over [`MAX_LEN`] bytes.
pub fn decode(prefix: Prefix, input: &[u8]) -> Result<Option<(VarInt, usize)>, WireError> {
    let Some((&first, groups)) = input.split_first() else {
        return Ok(None);
    };
    let mask = prefix.mask();
    let mut value = u64::from(first & mask);
    if first & mask != mask {
        return Ok(Some((VarInt::saturating(value), 1)));
    }
    for (index, &byte) in groups.iter().take(MAX_GROUPS).enumerate() {
        // Nine groups stay below 2^63, so that neither the shift nor the sum can overflow.
        value += u64::from(byte & 0x7f) << (7 * index);
        let at = index + 1;
        if byte & 0x80 == 0 {
            return match VarInt::new(value) {
                Some(value) => Ok(Some((value, at + 1))),
                None => Err(WireError::new(WireErrorKind::QpackInteger, at)),
            };
        }
    }
    if groups.len() >= MAX_GROUPS {
        return Err(WireError::new(WireErrorKind::QpackInteger, MAX_GROUPS));
    }
    Ok(None)
}
