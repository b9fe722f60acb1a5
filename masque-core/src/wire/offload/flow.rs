//! What coalescing needs to know of a packet: its flow, and whether it could be part of a super-packet.

use super::{TCP_HEADER, UDP_HEADER, be16, flags};
use crate::wire::ip::checksum::Sum;
use crate::wire::ip::{TCP, UDP, V4_FRAGMENT, V4_HEADER, V6_HEADER};

/// Source and destination, as words that compare quickly; IPv4 uses the first only.
type Addresses = [u64; 4];

/// A flow: addresses, and ports with protocol and version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Key {
    /// Compared first: it differs most.
    ports: u64,
    addresses: Addresses,
}

impl Key {
    pub(super) fn is_between(&self, addresses: Addresses) -> bool {
        self.addresses == addresses
    }
}

/// What a packet is to the coalescer.
#[derive(Debug)]
pub(super) enum Seen {
    /// A TCP or UDP packet of this flow, perhaps one that can be merged.
    Flow(Key, Option<Candidate>),
    /// An IP packet whose ports are not in the usual place: it may be of any flow between these.
    Between(Addresses),
    /// No IP packet.
    Nothing,
}

/// A packet that can be part of a super-packet, by its headers alone; its checksum is not verified.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) v4: bool,
    pub(super) tcp: bool,
    /// Where the transport header begins.
    pub(super) transport: usize,
    /// Where the payload begins.
    pub(super) header_len: usize,
    next: u32,
    /// TCP's PSH: the last of its super-packet.
    pub(super) push: bool,
}

impl Seen {
    #[inline]
    pub(super) fn of(packet: &[u8]) -> Self {
        match packet.first().map(|byte| byte >> 4) {
            Some(4) => seen_v4(packet),
            Some(6) => seen_v6(packet),
            _ => Self::Nothing,
        }
    }
}

#[inline]
fn seen_v4(packet: &[u8]) -> Seen {
    let Some((header, rest)) = packet.split_first_chunk::<V4_HEADER>() else {
        return Seen::Nothing;
    };
    let addresses = [word(header, 12), 0, 0, 0];
    // No options, no fragment.
    let plain = header[0] == 0x45 && be16(header, 6) & V4_FRAGMENT == 0;
    let whole = usize::from(be16(header, 2)) == packet.len();
    transport(addresses, true, plain, whole, header[9], rest)
}

#[inline]
fn seen_v6(packet: &[u8]) -> Seen {
    let Some((header, rest)) = packet.split_first_chunk::<V6_HEADER>() else {
        return Seen::Nothing;
    };
    let addresses = [8, 16, 24, 32].map(|at| word(header, at));
    let whole = usize::from(be16(header, 4)) == rest.len();
    transport(addresses, false, true, whole, header[6], rest)
}

#[inline]
fn transport(
    addresses: Addresses,
    v4: bool,
    plain: bool,
    whole: bool,
    protocol: u8,
    segment: &[u8],
) -> Seen {
    let (true, TCP | UDP, Some(ports)) = (plain, protocol, segment.first_chunk::<4>()) else {
        return Seen::Between(addresses);
    };
    let key = Key {
        ports: u64::from(u32::from_ne_bytes(*ports)) << 32
            | u64::from(protocol) << 8
            | u64::from(v4),
        addresses,
    };
    let start = if v4 { V4_HEADER } else { V6_HEADER };
    let candidate = match protocol {
        TCP => tcp(v4, start, segment),
        _ => udp(v4, start, segment),
    };
    Seen::Flow(key, candidate.filter(|_| whole))
}

#[inline]
fn tcp(v4: bool, transport: usize, segment: &[u8]) -> Option<Candidate> {
    let header: &[u8; TCP_HEADER] = segment.first_chunk()?;
    let length = usize::from(header[12] >> 4) * 4;
    let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    let fit =
        length >= TCP_HEADER && length < segment.len() && header[13] & !flags::PSH == flags::ACK;
    fit.then(|| Candidate {
        v4,
        tcp: true,
        transport,
        header_len: transport + length,
        next: sequence.wrapping_add((segment.len() - length) as u32),
        push: header[13] & flags::PSH != 0,
    })
}

#[inline]
fn udp(v4: bool, transport: usize, segment: &[u8]) -> Option<Candidate> {
    let header: &[u8; UDP_HEADER] = segment.first_chunk()?;
    // Without a checksum there is nothing to verify, and the kernel would make one up.
    let fit = segment.len() > UDP_HEADER
        && usize::from(be16(header, 4)) == segment.len()
        && header[6..8] != [0, 0];
    fit.then_some(Candidate {
        v4,
        tcp: false,
        transport,
        header_len: transport + UDP_HEADER,
        next: 0,
        push: false,
    })
}

impl Candidate {
    /// TCP: the sequence number behind its payload.
    pub(super) fn next_sequence(&self) -> u32 {
        self.next
    }

    pub(super) fn payload_len(&self, packet: &[u8]) -> usize {
        packet.len() - self.header_len
    }

    /// IPv4's; 0 for IPv6.
    pub(super) fn identification(&self, packet: &[u8]) -> u16 {
        if self.v4 { be16(packet, 4) } else { 0 }
    }

    /// The pseudo-header's sum for a transport header and payload of `length` bytes.
    #[inline]
    pub(super) fn pseudo_header(&self, packet: &[u8], length: u16) -> Sum {
        let addresses = if self.v4 {
            &packet[12..20]
        } else {
            &packet[8..40]
        };
        Sum::default()
            .add(addresses)
            .add_u16(u16::from(if self.tcp { TCP } else { UDP }))
            .add_u16(length)
    }
}

/// Eight bytes at `at`, which the caller knows to lie inside.
#[inline]
fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(word)
}

/// Whether the headers of a packet are those of a frame's first packet, eight bytes at a time. What
/// segmentation rewrites is left out: lengths, identification, checksums, sequence number, PSH.
pub(super) mod follows {
    use super::{TCP_HEADER, UDP_HEADER, V4_HEADER, V6_HEADER, be16, flags, word};
    use crate::wire::ip::checksum::Sum;

    const ALL: [u8; 8] = [0xff; 8];
    /// Total length and identification, at 0 in an IPv4 header.
    const V4_START: [u8; 8] = [0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff];
    /// The header checksum, at 8.
    const V4_MIDDLE: [u8; 8] = [0xff, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff];
    /// The payload length, at 0 in an IPv6 header.
    const V6_START: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0xff, 0xff];
    /// Ports, then TCP's sequence number or UDP's length and checksum.
    const PORTS: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
    /// TCP from the data offset: PSH and the checksum left out.
    const TCP_END: [u8; 8] = [0xff, !flags::PSH, 0xff, 0xff, 0, 0, 0xff, 0xff];

    #[inline(always)]
    fn differ<const N: usize>(one: &[u8; N], other: &[u8; N], at: usize, mask: [u8; 8]) -> u64 {
        (word(one, at) ^ word(other, at)) & u64::from_ne_bytes(mask)
    }

    /// The fixed header that `transport` bytes end, the lengths it states, the header checksum.
    #[inline(always)]
    fn v4<'a, const N: usize>(
        first: &'a [u8],
        packet: &'a [u8],
    ) -> Option<(&'a [u8; N], &'a [u8; N])> {
        let (one, other) = (first.first_chunk::<N>()?, packet.first_chunk::<N>()?);
        let differences = differ(one, other, 0, V4_START) | differ(one, other, 8, V4_MIDDLE);
        let header = other.first_chunk::<V4_HEADER>()?;
        let fit = differences == 0
            && usize::from(be16(header, 2)) == packet.len()
            && Sum::default().add(header).is_valid();
        fit.then_some((one, other))
    }

    #[inline(always)]
    fn v6<'a, const N: usize>(
        first: &'a [u8],
        packet: &'a [u8],
    ) -> Option<(&'a [u8; N], &'a [u8; N])> {
        let (one, other) = (first.first_chunk::<N>()?, packet.first_chunk::<N>()?);
        let differences = differ(one, other, 0, V6_START)
            | differ(one, other, 8, ALL)
            | differ(one, other, 16, ALL)
            | differ(one, other, 24, ALL)
            | differ(one, other, 32, ALL);
        let fit = differences == 0 && usize::from(be16(other, 4)) + V6_HEADER == packet.len();
        fit.then_some((one, other))
    }

    /// TCP options, of which `first` and `packet` have equally many.
    #[inline(always)]
    fn options(first: &[u8], packet: &[u8], from: usize, to: usize) -> bool {
        let (Some(one), Some(other)) = (first.get(from..to), packet.get(from..to)) else {
            return false;
        };
        let (one, other) = (one.as_chunks::<4>().0, other.as_chunks::<4>().0);
        one.iter().zip(other).all(|(one, other)| one == other)
    }

    #[inline]
    pub(in super::super) fn tcp_v4(
        first: &[u8],
        packet: &[u8],
        header_len: usize,
        next: u32,
    ) -> bool {
        const N: usize = V4_HEADER + TCP_HEADER;
        v4::<N>(first, packet).is_some_and(|(one, other)| {
            let differences = differ(one, other, 16, ALL)
                | differ(one, other, 28, [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0])
                | differ(one, other, 32, TCP_END);
            let sequence = u32::from_be_bytes([other[24], other[25], other[26], other[27]]);
            differences == 0 && sequence == next && options(first, packet, N, header_len)
        })
    }

    #[inline]
    pub(in super::super) fn tcp_v6(
        first: &[u8],
        packet: &[u8],
        header_len: usize,
        next: u32,
    ) -> bool {
        const N: usize = V6_HEADER + TCP_HEADER;
        v6::<N>(first, packet).is_some_and(|(one, other)| {
            let differences = differ(one, other, 40, PORTS)
                | differ(one, other, 48, [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0])
                | differ(one, other, 52, TCP_END);
            let sequence = u32::from_be_bytes([other[44], other[45], other[46], other[47]]);
            differences == 0 && sequence == next && options(first, packet, N, header_len)
        })
    }

    #[inline]
    pub(in super::super) fn udp_v4(first: &[u8], packet: &[u8]) -> bool {
        const N: usize = V4_HEADER + UDP_HEADER;
        v4::<N>(first, packet).is_some_and(|(one, other)| {
            let differences = differ(one, other, 12, ALL) | differ(one, other, 20, PORTS);
            differences == 0
                && usize::from(be16(other, V4_HEADER + 4)) + V4_HEADER == packet.len()
                && be16(other, V4_HEADER + 6) != 0
        })
    }

    #[inline]
    pub(in super::super) fn udp_v6(first: &[u8], packet: &[u8]) -> bool {
        const N: usize = V6_HEADER + UDP_HEADER;
        v6::<N>(first, packet).is_some_and(|(one, other)| {
            differ(one, other, 40, PORTS) == 0
                && usize::from(be16(other, V6_HEADER + 4)) + V6_HEADER == packet.len()
                && be16(other, V6_HEADER + 6) != 0
        })
    }

    /// An identification means something only where fragmenting is allowed (RFC 6864 §4).
    #[inline]
    pub(in super::super) fn identification(packet: &[u8], last: u16) -> bool {
        be16(packet, 6) & 0x4000 != 0 || be16(packet, 4) == last.wrapping_add(1)
    }
}
