//! Views of IP packets, fragments, ICMP errors and checksums.

pub mod checksum;
pub(crate) mod ext;
pub mod fragment;
pub mod icmp;

/// Whether the sender of a packet speaks ECN: ECT(0), ECT(1), or marked already (RFC 3168 §5).
#[must_use]
pub fn is_ecn_capable(packet: &[u8]) -> bool {
    match packet {
        [first, traffic_class, ..] if first >> 4 == 4 => traffic_class & 3 != 0,
        [first, second, ..] if first >> 4 == 6 => second & 0x30 != 0,
        _ => false,
    }
}

/// Writes "congestion experienced" into a packet whose sender speaks ECN, mending the IPv4 header
/// checksum (RFC 3168 §5).
pub fn mark_congestion(packet: &mut [u8]) {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => {
            if let Some(header) = packet.first_chunk_mut::<V4_HEADER>() {
                let (old, new) = ([header[0], header[1]], [header[0], header[1] | 3]);
                let mended = checksum::update([header[10], header[11]], old, new);
                header[1] |= 3;
                header[10..12].copy_from_slice(&mended);
            }
        }
        Some(6) => {
            if let Some(second) = packet.get_mut(1) {
                *second |= 0x30;
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use checksum::Sum;

/// The length of an IPv4 header without options.
pub(crate) const V4_HEADER: usize = 20;
/// The length of the fixed IPv6 header.
pub(crate) const V6_HEADER: usize = 40;

pub(crate) const ICMPV4: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;

/// More Fragments and the fragment offset: all zero in a packet that is no fragment.
pub(crate) const V4_FRAGMENT: u16 = 0x3fff;

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
    /// Whether an IPv6 routing header of type 0 still leads somewhere, which nobody follows (RFC 5095).
    pub source_routed: bool,
    /// The length the header states, which is all of the packet's bytes.
    pub length: usize,
}

impl PacketInfo {
    /// Reads the headers of exactly one packet. IPv4's header checksum is verified.
    ///
    /// # Errors
    /// [`PacketError`].
    #[inline]
    pub fn parse(packet: &[u8]) -> Result<Self, PacketError> {
        match packet.first().map(|byte| byte >> 4) {
            Some(4) => parse_v4(packet),
            Some(6) => parse_v6(packet),
            Some(_) => Err(PacketError::Version),
            None => Err(PacketError::Truncated),
        }
    }
}

#[inline]
fn parse_v4(packet: &[u8]) -> Result<PacketInfo, PacketError> {
    let header: &[u8; V4_HEADER] = packet.first_chunk().ok_or(PacketError::Truncated)?;
    let header_length = usize::from(header[0] & 15) * 4;
    if header_length < V4_HEADER {
        return Err(PacketError::HeaderLength);
    }
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    exactly(packet, length)?;
    let sum = if header_length == V4_HEADER {
        Sum::default().add(header)
    } else {
        let all = packet.get(..header_length).ok_or(PacketError::Truncated)?;
        Sum::default().add(all)
    };
    if !sum.is_valid() {
        return Err(PacketError::Checksum);
    }
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    Ok(PacketInfo {
        source: address_v4([header[12], header[13], header[14], header[15]]),
        destination: address_v4([header[16], header[17], header[18], header[19]]),
        protocol: header[9],
        hop_limit: header[8],
        transport_offset: header_length,
        later_fragment: fragment & 0x1fff != 0,
        fragment: fragment & V4_FRAGMENT != 0,
        dont_fragment: fragment & 0x4000 != 0,
        source_routed: false,
        length,
    })
}

#[inline]
fn parse_v6(packet: &[u8]) -> Result<PacketInfo, PacketError> {
    let (header, rest) = packet
        .split_first_chunk::<V6_HEADER>()
        .ok_or(PacketError::Truncated)?;
    // Jumbograms (RFC 2675) state a length of 0 and are refused as longer than that.
    let payload = usize::from(u16::from_be_bytes([header[4], header[5]]));
    exactly(rest, payload)?;
    let chain = ext::walk(packet, header[6])?;
    let address = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&header[at..at + 16]);
        IpAddr::V6(Ipv6Addr::from_octets(octets))
    };
    Ok(PacketInfo {
        source: address(8),
        destination: address(24),
        protocol: chain.protocol,
        hop_limit: header[7],
        transport_offset: chain.offset,
        later_fragment: chain.later_fragment,
        fragment: chain.fragment,
        dont_fragment: true,
        source_routed: chain.source_routed,
        length: packet.len(),
    })
}

#[inline]
fn exactly(bytes: &[u8], length: usize) -> Result<(), PacketError> {
    match bytes.len().cmp(&length) {
        core::cmp::Ordering::Equal => Ok(()),
        core::cmp::Ordering::Less => Err(PacketError::Truncated),
        core::cmp::Ordering::Greater => Err(PacketError::TrailingBytes),
    }
}

#[inline]
fn address_v4(octets: [u8; 4]) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_octets(octets))
}

/// Lowers TTL or hop limit by one, mending the IPv4 header checksum (RFC 1624). `false`, with the
/// packet unchanged, if it is 0 or 1 already: the packet must not go on.
#[must_use]
#[inline]
pub fn decrement_hop_limit(packet: &mut [u8]) -> bool {
    match hop_limit(packet) {
        Some(now) if now > 1 => set_hop_limit(packet, now - 1),
        _ => false,
    }
}

/// TTL or hop limit, or `None` if the bytes are shorter than an IP header or of another version.
#[must_use]
#[inline]
pub fn hop_limit(packet: &[u8]) -> Option<u8> {
    match packet.first()? >> 4 {
        4 => packet.first_chunk::<V4_HEADER>().map(|header| header[8]),
        6 => packet.first_chunk::<V6_HEADER>().map(|header| header[7]),
        _ => None,
    }
}

/// Writes TTL or hop limit, mending the IPv4 header checksum (RFC 1624: one that was wrong stays
/// wrong). `false`, with the bytes unchanged, where [`hop_limit`] finds none.
#[must_use]
#[inline]
pub fn set_hop_limit(packet: &mut [u8], value: u8) -> bool {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => packet.first_chunk_mut::<V4_HEADER>().is_some_and(|header| {
            let (old, new) = ([header[8], header[9]], [value, header[9]]);
            let mended = checksum::update([header[10], header[11]], old, new);
            header[8] = value;
            header[10..12].copy_from_slice(&mended);
            true
        }),
        Some(6) => packet.first_chunk_mut::<V6_HEADER>().is_some_and(|header| {
            header[7] = value;
            true
        }),
        _ => false,
    }
}
