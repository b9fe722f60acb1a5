//! Variable-length integers (RFC 9000 §16).

use bytes::BufMut;

/// An integer below 2^62. Any encoded length is accepted; the shortest is written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct VarInt(u64);

impl VarInt {
    /// 2^62 - 1.
    pub const MAX: Self = Self((1 << 62) - 1);
    /// The most bytes an encoded integer takes.
    pub const MAX_LEN: usize = 8;

    /// `value`, or `None` if it does not fit 62 bits.
    #[must_use]
    pub const fn new(value: u64) -> Option<Self> {
        if value <= Self::MAX.0 {
            Some(Self(value))
        } else {
            None
        }
    }

    /// Every `u32` fits.
    #[must_use]
    pub const fn from_u32(value: u32) -> Self {
        Self(value as u64)
    }

    /// `value`, or the largest integer if that is smaller. For lengths of buffers in memory, none of
    /// which comes near.
    #[must_use]
    pub const fn saturating(value: u64) -> Self {
        match Self::new(value) {
            Some(value) => value,
            None => Self::MAX,
        }
    }

    /// The integer.
    #[must_use]
    pub const fn into_inner(self) -> u64 {
        self.0
    }

    /// The bytes the shortest encoding takes: 1, 2, 4 or 8.
    #[must_use]
    pub const fn encoded_len(self) -> usize {
        match self.0 {
            0..=0x3f => 1,
            0x40..=0x3fff => 2,
            0x4000..=0x3fff_ffff => 4,
            _ => 8,
        }
    }

    /// Appends the shortest encoding.
    pub fn encode(self, out: &mut impl BufMut) {
        match self.encoded_len() {
            1 => out.put_u8(self.0 as u8),
            2 => out.put_u16(0x4000 | self.0 as u16),
            4 => out.put_u32(0x8000_0000 | self.0 as u32),
            _ => out.put_u64(0xc000_0000_0000_0000 | self.0),
        }
    }

    /// The integer at the front of `input` and how many bytes it took; `None` if `input` ends
    /// inside it.
    #[must_use]
    pub fn decode(input: &[u8]) -> Option<(Self, usize)> {
        let first = *input.first()?;
        let len = 1usize << (first >> 6);
        let bytes = input.get(..len)?;
        let value = bytes[1..]
            .iter()
            .fold(u64::from(first & 0x3f), |value, &byte| {
                value << 8 | u64::from(byte)
            });
        Some((Self(value), len))
    }
}

impl TryFrom<u64> for VarInt {
    type Error = u64;

    /// Hands the value back when it does not fit.
    fn try_from(value: u64) -> Result<Self, u64> {
        Self::new(value).ok_or(value)
    }
}

impl From<u32> for VarInt {
    fn from(value: u32) -> Self {
        Self::from_u32(value)
    }
}

impl From<VarInt> for u64 {
    fn from(value: VarInt) -> Self {
        value.0
    }
}

impl core::fmt::Display for VarInt {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests;
