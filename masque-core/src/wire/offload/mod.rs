//! Segmentation and coalescing of super-packets: pure functions over the virtio-net header.
//!
//! A TUN with offload reads and writes packets of up to 64 KiB whose checksum is partial and that
//! stand for many packets on the wire. [`segment`] makes the packets, one pass over the payload;
//! [`Coalescer`] makes super-packets of what came off the wire, never reordering a flow and
//! never vouching for a checksum it has not verified.

mod coalesce;
mod flow;
mod segment;

#[cfg(test)]
mod tests;

pub use coalesce::{Coalescer, TunFrame, Verdict};
pub use segment::{SegmentError, Segments, segment};

/// `struct virtio_net_hdr` without `num_buffers`, as plain data (virtio 1.2 §5.1.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VnetHdr {
    /// [`VnetHdr::NEEDS_CSUM`] and [`VnetHdr::DATA_VALID`].
    pub flags: u8,
    /// One of the `GSO_` constants, or'd with [`VnetHdr::GSO_ECN`].
    pub gso_type: u8,
    /// The length of IP and transport headers, a hint.
    pub hdr_len: u16,
    /// The payload bytes in each segment.
    pub gso_size: u16,
    /// Where the checksummed part begins.
    pub csum_start: u16,
    /// Where in it the checksum is stored.
    pub csum_offset: u16,
}

impl VnetHdr {
    /// The encoded length in bytes.
    pub const LEN: usize = 10;
    /// The checksum is partial: the pseudo-header's sum only.
    pub const NEEDS_CSUM: u8 = 1;
    /// The checksum has been verified.
    pub const DATA_VALID: u8 = 2;
    /// One packet.
    pub const GSO_NONE: u8 = 0;
    /// TCP over IPv4.
    pub const GSO_TCPV4: u8 = 1;
    /// TCP over IPv6.
    pub const GSO_TCPV6: u8 = 4;
    /// UDP, each segment a datagram of its own (USO).
    pub const GSO_UDP_L4: u8 = 5;
    /// TCP with ECN: CWR belongs to the first segment only.
    pub const GSO_ECN: u8 = 0x80;

    /// Reads the header, in native byte order as the kernel writes it.
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        let u16_at = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: u16_at(2),
            gso_size: u16_at(4),
            csum_start: u16_at(6),
            csum_offset: u16_at(8),
        }
    }

    /// The header as the kernel reads it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0] = self.flags;
        bytes[1] = self.gso_type;
        bytes[2..4].copy_from_slice(&self.hdr_len.to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.gso_size.to_ne_bytes());
        bytes[6..8].copy_from_slice(&self.csum_start.to_ne_bytes());
        bytes[8..10].copy_from_slice(&self.csum_offset.to_ne_bytes());
        bytes
    }
}

pub(crate) const TCP_HEADER: usize = 20;
pub(crate) const UDP_HEADER: usize = 8;
/// Where in the header the checksum is.
pub(crate) const TCP_CHECKSUM: usize = 16;
pub(crate) const UDP_CHECKSUM: usize = 6;

/// TCP's flags (RFC 9293 §3.1).
pub(crate) mod flags {
    pub(crate) const FIN: u8 = 0x01;
    pub(crate) const PSH: u8 = 0x08;
    pub(crate) const ACK: u8 = 0x10;
    pub(crate) const CWR: u8 = 0x80;
}

/// The 16-bit number at `at`, which the caller knows to lie inside.
#[inline]
fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
