//! Views of IP packets, ICMP errors and checksums.

pub mod checksum;
pub mod icmp;

use core::net::IpAddr;

/// Why bytes are no IP packet that can be forwarded. Never a protocol error: the packet is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum PacketError {
    /// Shorter than its header or than the length it states.
    #[error("packet cut")]
    Truncated,
    /// Longer than the length it states.
    #[error("bytes after the end of the packet")]
    TrailingBytes,
    /// The version is neither 4 nor 6.
    #[error("IP version neither 4 nor 6")]
    Version,
    /// IHL below 5.
    #[error("IPv4 header length")]
    HeaderLength,
    /// The IPv4 header checksum does not hold.
    #[error("IPv4 header checksum")]
    Checksum,
    /// An IPv6 extension header chain cut or out of order.
    #[error("IPv6 extension header chain")]
    ExtensionHeader,
}

/// What forwarding needs to know of a packet, read in one pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PacketInfo {
    /// The source address.
    pub source: IpAddr,
    /// The destination address.
    pub destination: IpAddr,
    /// The upper-layer protocol after IPv6 extension headers (RFC 9484 §4.8); of a fragment, what
    /// its Fragment header says follows.
    pub protocol: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Where the upper-layer header begins.
    pub transport_offset: usize,
    /// Whether this is a fragment other than the first: it has no upper-layer header.
    pub later_fragment: bool,
    /// Whether it is any fragment at all.
    pub fragment: bool,
    /// IPv4's Don't Fragment bit; true for IPv6.
    pub dont_fragment: bool,
    /// The length the header states, which is all of the packet's bytes.
    pub length: usize,
}

impl PacketInfo {
    /// Reads the headers of exactly one packet. IPv4's header checksum is verified.
    ///
    /// # Errors
    /// [`PacketError`].
    pub fn parse(packet: &[u8]) -> Result<Self, PacketError> {
        let _ = packet;
        unimplemented!()
    }
}

/// Lowers TTL or hop limit by one, mending the IPv4 header checksum (RFC 1624). `false`, with the
/// packet unchanged, if it is 0 or 1 already: the packet must not go on.
#[must_use]
pub fn decrement_hop_limit(packet: &mut [u8]) -> bool {
    let _ = packet;
    unimplemented!()
}
