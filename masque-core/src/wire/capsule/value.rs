//! Reads fields from the whole value of a capsule.

use core::net::IpAddr;

use super::VarInt;
use crate::error::{WireError, WireErrorKind};

/// What is left of a capsule's value, and where that stands in the stream.
pub(super) struct Value<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Value<'a> {
    /// `bytes`, the first of which is byte `offset` of the stream.
    pub(super) fn new(bytes: &'a [u8], offset: usize) -> Self {
        Self {
            rest: bytes,
            offset,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Where the next field begins.
    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    pub(super) fn varint(&mut self) -> Result<VarInt, WireError> {
        let (value, len) = VarInt::decode(self.rest).ok_or_else(|| self.cut())?;
        self.advance(len);
        Ok(value)
    }

    pub(super) fn byte(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// The IP version: 4 or 6.
    pub(super) fn version(&mut self) -> Result<Version, WireError> {
        let at = self.offset;
        match self.byte()? {
            4 => Ok(Version::V4),
            6 => Ok(Version::V6),
            _ => Err(WireError::new(WireErrorKind::IpVersion, at)),
        }
    }

    /// An address, whose length its version says.
    pub(super) fn address(&mut self, version: Version) -> Result<IpAddr, WireError> {
        match version {
            Version::V4 => self.array::<4>().map(IpAddr::from),
            Version::V6 => self.array::<16>().map(IpAddr::from),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let array = *self.rest.first_chunk().ok_or_else(|| self.cut())?;
        self.advance(N);
        Ok(array)
    }

    fn advance(&mut self, len: usize) {
        self.rest = self.rest.get(len..).unwrap_or_default();
        self.offset = self.offset.saturating_add(len);
    }

    /// The value ends inside a field: found where it ends.
    fn cut(&self) -> WireError {
        WireError::new(
            WireErrorKind::CapsuleLength,
            self.offset.saturating_add(self.rest.len()),
        )
    }
}

/// An IP version that CONNECT-IP knows.
#[derive(Clone, Copy)]
pub(super) enum Version {
    V4,
    V6,
}

/// The version octet of `address`.
pub(super) fn put_version(address: IpAddr, out: &mut impl bytes::BufMut) {
    out.put_u8(if address.is_ipv4() { 4 } else { 6 });
}

/// The octets of `address`.
pub(super) fn put_address(address: IpAddr, out: &mut impl bytes::BufMut) {
    match address {
        IpAddr::V4(address) => out.put_slice(&address.octets()),
        IpAddr::V6(address) => out.put_slice(&address.octets()),
    }
}

/// How many octets `address` has.
pub(super) fn address_len(address: IpAddr) -> usize {
    if address.is_ipv4() { 4 } else { 16 }
}
