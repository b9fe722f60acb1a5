//! The Internet checksum (RFC 1071), over many bytes at once.

use core::net::IpAddr;

/// A partial one's-complement sum in native byte order, of data that starts at an even offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sum(pub u64);

impl Sum {
    /// Adds bytes; an odd last byte is padded with zero, so only the last call may have one.
    #[must_use]
    pub fn add(self, data: &[u8]) -> Self {
        let _ = data;
        unimplemented!()
    }

    /// Adds a 16-bit number in host order.
    #[must_use]
    pub fn add_u16(self, value: u16) -> Self {
        let _ = value;
        unimplemented!()
    }

    /// Copies `from` to `to`, of equal length, and adds it: one pass over memory.
    #[must_use]
    pub fn copy_add(self, from: &[u8], to: &mut [u8]) -> Self {
        let _ = (from, to);
        unimplemented!()
    }

    /// The folded sum, not complemented, as the two bytes to store.
    #[must_use]
    pub fn fold(self) -> [u8; 2] {
        unimplemented!()
    }

    /// The checksum (complemented) as the two bytes to store.
    #[must_use]
    pub fn checksum(self) -> [u8; 2] {
        unimplemented!()
    }

    /// Whether data that includes its own checksum adds up.
    #[must_use]
    pub fn is_valid(self) -> bool {
        self.fold() == [0xff, 0xff]
    }
}

/// The pseudo-header of an upper-layer checksum (RFC 9293 §3.1, RFC 8200 §8.1). `length` is that of
/// upper-layer header and data.
#[must_use]
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: u32) -> Sum {
    let _ = (source, destination, protocol, length);
    unimplemented!()
}
