//! ICMP errors about packets that cannot be forwarded (RFC 792, RFC 1812 §4.3, RFC 4443, RFC 9484 §7.2.1).

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum::{Sum, pseudo_header};
use super::{ICMPV4, ICMPV6, PacketInfo, V4_HEADER, V6_HEADER};

/// The length of the ICMP header before the quoted packet.
const ICMP_HEADER: usize = 8;
/// RFC 1812 §4.3.2.3.
const MAX_V4: usize = 576;
/// RFC 4443 §2.4 (c).
const MAX_V6: usize = 1280;
const HOP_LIMIT: u8 = 64;

/// What to tell the sender.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IcmpError {
    /// No route: 3/0, 1/0.
    NoRoute,
    /// Forbidden by policy: 3/13, 1/1.
    Prohibited,
    /// Host unreachable beyond the route: 3/1, 1/3.
    AddressUnreachable,
    /// The source is not assigned to the sender: 3/13, 1/5.
    SourcePolicy,
    /// Larger than the MTU: 3/4, 2/0. Never told with less than 576 (IPv4) or 1,280 (IPv6).
    PacketTooBig {
        /// The next hop's MTU in bytes.
        mtu: u32,
    },
    /// The hop limit ran out: 11/0, 3/0.
    TimeExceeded,
}

/// The whole IP packet that carries `error` about `about` from `source`, or `None` where RFC 1122
/// §3.2.2, RFC 1812 §4.3.2.7 and RFC 4443 §2.4 forbid an answer: about ICMP errors, later
/// fragments, non-unicast sources or destinations (Packet Too Big excepted for IPv6 multicast).
///
/// `None` also if `about` is no whole valid packet, or `source` no unicast address of its family.
/// Limiting the rate (RFC 4443 §2.4 (f)) is the caller's.
#[must_use]
pub fn build(error: IcmpError, source: IpAddr, about: &[u8]) -> Option<Vec<u8>> {
    let info = PacketInfo::parse(about).ok()?;
    if info.later_fragment || !may_be_answered(about, &info) {
        return None;
    }
    match (source, info.source, info.destination) {
        (IpAddr::V4(from), IpAddr::V4(to), IpAddr::V4(destination)) => {
            let fit = is_unicast_v4(from) && is_unicast_v4(to) && is_unicast_v4(destination);
            fit.then(|| build_v4(error, from, to, about))
        }
        (IpAddr::V6(from), IpAddr::V6(to), IpAddr::V6(destination)) => {
            let too_big = matches!(error, IcmpError::PacketTooBig { .. });
            let fit = is_unicast_v6(from)
                && is_unicast_v6(to)
                && (is_unicast_v6(destination) || too_big && destination.is_multicast());
            fit.then(|| build_v6(error, from, to, about))
        }
        _ => None,
    }
}

/// Whether `packet`, of which `info` was read, is an ICMP error message or a redirect, about which
/// no ICMP error may be sent (RFC 1122 §3.2.2, RFC 4443 §2.4 (e)). A later fragment, and a message
/// without its type, is not known to be one.
#[must_use]
pub fn is_icmp_error(packet: &[u8], info: &PacketInfo) -> bool {
    icmp_type(packet, info).is_some_and(|kind| match info.source {
        IpAddr::V4(_) => matches!(kind, 3 | 4 | 5 | 11 | 12),
        IpAddr::V6(_) => kind < 128 || kind == 137,
    })
}

/// What an ICMP error says about the packet it is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quoted {
    /// That packet's source.
    pub source: IpAddr,
    /// Its destination.
    pub destination: IpAddr,
    /// Its upper-layer protocol, after IPv6 extension headers.
    pub protocol: u8,
}

/// The packet that an ICMP error quotes; `None` if too little of it is there, or it is of another
/// version. `packet` is to be one for which [`is_icmp_error`] holds.
#[must_use]
pub fn quoted(packet: &[u8], info: &PacketInfo) -> Option<Quoted> {
    let quote = packet.get(info.transport_offset + ICMP_HEADER..)?;
    match info.source {
        IpAddr::V4(_) => {
            let header = quote.first_chunk::<V4_HEADER>()?;
            (header[0] >> 4 == 4).then(|| Quoted {
                source: super::address_v4([header[12], header[13], header[14], header[15]]),
                destination: super::address_v4([header[16], header[17], header[18], header[19]]),
                protocol: header[9],
            })
        }
        IpAddr::V6(_) => {
            let header = quote.first_chunk::<V6_HEADER>()?;
            let chain = super::ext::walk(quote, header[6]).ok()?;
            (header[0] >> 4 == 6).then(|| Quoted {
                source: address_v6(header, 8),
                destination: address_v6(header, 24),
                protocol: chain.protocol,
            })
        }
    }
}

fn address_v6(header: &[u8; V6_HEADER], at: usize) -> IpAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&header[at..at + 16]);
    IpAddr::V6(Ipv6Addr::from_octets(octets))
}

/// Of what never leaves the link.
const ON_LINK: u8 = 255;

const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;

/// An ICMPv6 echo, request or reply (RFC 4443 §4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Echo<'a> {
    /// Whether it asks.
    pub is_request: bool,
    /// Identifier and sequence number.
    pub word: u32,
    /// The data.
    pub data: &'a [u8],
}

impl<'a> Echo<'a> {
    /// Reads an ICMPv6 echo; `None` for everything else, fragments, and a wrong checksum.
    #[must_use]
    pub fn parse(packet: &'a [u8], info: &PacketInfo) -> Option<Self> {
        if info.protocol != ICMPV6 || info.source.is_ipv4() || info.fragment {
            return None;
        }
        let message = packet.get(info.transport_offset..)?;
        let (header, data) = message.split_first_chunk::<ICMP_HEADER>()?;
        let is_request = match header[..2] {
            [ECHO_REQUEST, 0] => true,
            [ECHO_REPLY, 0] => false,
            _ => return None,
        };
        let length = u32::try_from(message.len()).ok()?;
        let pseudo = pseudo_header(info.source, info.destination, ICMPV6, length);
        pseudo.add(message).is_valid().then(|| Self {
            is_request,
            word: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            data,
        })
    }

    /// The whole packet; to a multicast address with the greatest hop limit. Data beyond what one packet
    /// holds is left out.
    #[must_use]
    pub fn packet(&self, source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
        let most = usize::from(u16::MAX) - ICMP_HEADER;
        let data = &self.data[..self.data.len().min(most)];
        let length = (ICMP_HEADER + data.len()) as u16;
        let kind = match self.is_request {
            true => ECHO_REQUEST,
            false => ECHO_REPLY,
        };
        let mut packet = header_v6(source, destination, length);
        if destination.is_multicast() {
            packet[7] = ON_LINK;
        }
        let pseudo = pseudo_header(source.into(), destination.into(), ICMPV6, length.into());
        push_message(&mut packet, kind, 0, self.word, data, pseudo);
        packet
    }
}

fn is_icmp(info: &PacketInfo) -> bool {
    match info.source {
        IpAddr::V4(_) => info.protocol == ICMPV4,
        IpAddr::V6(_) => info.protocol == ICMPV6,
    }
}

fn icmp_type(packet: &[u8], info: &PacketInfo) -> Option<u8> {
    if info.later_fragment || !is_icmp(info) {
        return None;
    }
    packet.get(info.transport_offset).copied()
}

/// An ICMP message cut before its type could be an error, so it gets no answer either.
fn may_be_answered(packet: &[u8], info: &PacketInfo) -> bool {
    !is_icmp(info) || icmp_type(packet, info).is_some() && !is_icmp_error(packet, info)
}

fn is_unicast_v4(address: Ipv4Addr) -> bool {
    // Net 0, loopback, multicast, class E and with it the limited broadcast (RFC 1812 §5.3.7).
    !matches!(address.octets()[0], 0 | 127 | 224..)
}

fn is_unicast_v6(address: Ipv6Addr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast())
}

fn build_v4(error: IcmpError, source: Ipv4Addr, to: Ipv4Addr, about: &[u8]) -> Vec<u8> {
    let (kind, code, mtu) = match error {
        IcmpError::NoRoute => (3, 0, 0),
        IcmpError::AddressUnreachable => (3, 1, 0),
        IcmpError::Prohibited | IcmpError::SourcePolicy => (3, 13, 0),
        IcmpError::PacketTooBig { mtu } => (3, 4, mtu.clamp(MAX_V4 as u32, 0xffff)),
        IcmpError::TimeExceeded => (11, 0, 0),
    };
    let quote = &about[..about.len().min(MAX_V4 - V4_HEADER - ICMP_HEADER)];
    // At most 576.
    let length = (V4_HEADER + ICMP_HEADER + quote.len()) as u16;

    let mut packet = Vec::with_capacity(usize::from(length));
    packet.extend_from_slice(&[0x45, 0]);
    packet.extend_from_slice(&length.to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0, 0, HOP_LIMIT, ICMPV4, 0, 0]);
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&to.octets());
    let checksum = Sum::default().add(&packet).checksum();
    packet[10..12].copy_from_slice(&checksum);

    push_message(&mut packet, kind, code, mtu, quote, Sum::default());
    packet
}

fn build_v6(error: IcmpError, source: Ipv6Addr, to: Ipv6Addr, about: &[u8]) -> Vec<u8> {
    let (kind, code, mtu) = match error {
        IcmpError::NoRoute => (1, 0, 0),
        IcmpError::Prohibited => (1, 1, 0),
        IcmpError::AddressUnreachable => (1, 3, 0),
        IcmpError::SourcePolicy => (1, 5, 0),
        IcmpError::PacketTooBig { mtu } => (2, 0, mtu.max(MAX_V6 as u32)),
        IcmpError::TimeExceeded => (3, 0, 0),
    };
    let quote = &about[..about.len().min(MAX_V6 - V6_HEADER - ICMP_HEADER)];
    // At most 1,240.
    let length = (ICMP_HEADER + quote.len()) as u16;

    let mut packet = header_v6(source, to, length);
    let pseudo = pseudo_header(source.into(), to.into(), ICMPV6, u32::from(length));
    push_message(&mut packet, kind, code, mtu, quote, pseudo);
    packet
}

/// The fixed header before `length` bytes of ICMPv6, with room for them.
fn header_v6(source: Ipv6Addr, to: Ipv6Addr, length: u16) -> Vec<u8> {
    let mut packet = Vec::with_capacity(V6_HEADER + usize::from(length));
    packet.extend_from_slice(&[0x60, 0, 0, 0]);
    packet.extend_from_slice(&length.to_be_bytes());
    packet.extend_from_slice(&[ICMPV6, HOP_LIMIT]);
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&to.octets());
    packet
}

/// Type, code, checksum that starts from `sum`, the second word, and the quoted packet.
fn push_message(packet: &mut Vec<u8>, kind: u8, code: u8, word: u32, quote: &[u8], sum: Sum) {
    let [a, b, c, d] = word.to_be_bytes();
    let mut header = [kind, code, 0, 0, a, b, c, d];
    let checksum = sum.add(&header).add(quote).checksum();
    header[2..4].copy_from_slice(&checksum);
    packet.extend_from_slice(&header);
    packet.extend_from_slice(quote);
}
