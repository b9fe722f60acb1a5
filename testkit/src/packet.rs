//! Inner IP packets: UDP, TCP segments and ICMP echo over IPv4 and IPv6, without masque-core's own code, so that the
//! two check each other.

use std::net::{IpAddr, SocketAddr};

/// ICMP for IPv4.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMP for IPv6.
pub const ICMP6: u8 = 58;

/// The port on which [`reply_to`] answers UDP (RFC 862).
pub const ECHO_PORT: u16 = 7;

/// An IP packet without options or extension headers, its checksums verified.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet<'a> {
    /// The source.
    pub source: IpAddr,
    /// The destination.
    pub destination: IpAddr,
    /// The upper-layer protocol.
    pub protocol: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Everything after the IP header.
    pub payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Reads exactly one packet. `None` unless lengths and all checksums hold.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let packet = match bytes.first()? >> 4 {
            4 => Self::parse_v4(bytes)?,
            6 => Self::parse_v6(bytes)?,
            _ => return None,
        };
        let checked = match packet.protocol {
            ICMP => checksum(0, packet.payload) == 0,
            TCP | UDP | ICMP6 => {
                let sum = pseudo_header(&packet);
                checksum(sum, packet.payload) == 0
            }
            _ => true,
        };
        checked.then_some(packet)
    }

    fn parse_v4(bytes: &'a [u8]) -> Option<Self> {
        let (header, payload) = bytes.split_first_chunk::<20>()?;
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header[0] != 0x45 || length != bytes.len() || checksum(0, header) != 0 {
            return None;
        }
        Some(Self {
            source: IpAddr::from([header[12], header[13], header[14], header[15]]),
            destination: IpAddr::from([header[16], header[17], header[18], header[19]]),
            protocol: header[9],
            hop_limit: header[8],
            payload,
        })
    }

    fn parse_v6(bytes: &'a [u8]) -> Option<Self> {
        let (header, payload) = bytes.split_first_chunk::<40>()?;
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        if length != payload.len() {
            return None;
        }
        let source: [u8; 16] = header[8..24].try_into().ok()?;
        let destination: [u8; 16] = header[24..40].try_into().ok()?;
        Some(Self {
            source: source.into(),
            destination: destination.into(),
            protocol: header[6],
            hop_limit: header[7],
            payload,
        })
    }
}

/// A packet as one line: addresses, protocol, bytes.
#[must_use]
pub fn summary(bytes: &[u8]) -> String {
    match Packet::parse(bytes) {
        Some(packet) => format!(
            "ip {} > {} proto {} hops {} {} bytes",
            packet.source,
            packet.destination,
            packet.protocol,
            packet.hop_limit,
            bytes.len()
        ),
        None => format!("ip malformed {} bytes", bytes.len()),
    }
}

/// An IP packet around `payload`, with hop limit 64.
///
/// # Panics
/// If the addresses are of different versions, or the packet exceeds 65,535 bytes.
#[must_use]
pub fn ip(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length =
        |bytes: usize| u16::try_from(bytes).expect("an IP packet has at most 65,535 bytes");
    let mut packet = Vec::with_capacity(40 + payload.len());
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            packet.extend_from_slice(&[0x45, 0]);
            packet.extend_from_slice(&length(20 + payload.len()).to_be_bytes());
            // No identification; Don't Fragment.
            packet.extend_from_slice(&[0, 0, 0x40, 0, 64, protocol, 0, 0]);
            packet.extend_from_slice(&source.octets());
            packet.extend_from_slice(&destination.octets());
            let sum = checksum(0, &packet);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            packet.extend_from_slice(&[0x60, 0, 0, 0]);
            packet.extend_from_slice(&length(payload.len()).to_be_bytes());
            packet.extend_from_slice(&[protocol, 64]);
            packet.extend_from_slice(&source.octets());
            packet.extend_from_slice(&destination.octets());
        }
        _ => panic!("{source} and {destination} are of different IP versions"),
    }
    packet.extend_from_slice(payload);
    packet
}

/// A UDP packet.
///
/// # Panics
/// As [`ip`].
#[must_use]
pub fn udp(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("an IP packet has at most 65,535 bytes");
    let mut segment = Vec::with_capacity(8 + payload.len());
    segment.extend_from_slice(&source.port().to_be_bytes());
    segment.extend_from_slice(&destination.port().to_be_bytes());
    segment.extend_from_slice(&length.to_be_bytes());
    segment.extend_from_slice(&[0, 0]);
    segment.extend_from_slice(payload);
    let packet = Packet {
        source: source.ip(),
        destination: destination.ip(),
        protocol: UDP,
        hop_limit: 64,
        payload: &segment,
    };
    // Zero means "no checksum" and is sent as its other representation (RFC 768).
    let sum = match checksum(pseudo_header(&packet), &segment) {
        0 => 0xffff,
        sum => sum,
    };
    segment[6..8].copy_from_slice(&sum.to_be_bytes());
    ip(source.ip(), destination.ip(), UDP, &segment)
}

/// What a TCP header says beside ports and checksum (RFC 9293 §3.1); the rest is zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpHeader<'a> {
    /// The number of the first byte of payload.
    pub sequence: u32,
    /// CWR to FIN.
    pub flags: u8,
    /// Up to 40 bytes, a multiple of four.
    pub options: &'a [u8],
}

/// A TCP segment; longer than a path takes, one that a device cuts.
///
/// # Panics
/// As [`ip`], and if the options do not fit.
#[must_use]
pub fn tcp(
    source: SocketAddr,
    destination: SocketAddr,
    header: &TcpHeader<'_>,
    payload: &[u8],
) -> Vec<u8> {
    let length = 20 + header.options.len();
    assert!(length <= 60 && length.is_multiple_of(4), "{length} bytes");
    let words = u8::try_from(length / 4).expect("15 at most");
    let mut segment = Vec::with_capacity(length + payload.len());
    segment.extend_from_slice(&source.port().to_be_bytes());
    segment.extend_from_slice(&destination.port().to_be_bytes());
    segment.extend_from_slice(&header.sequence.to_be_bytes());
    // Acknowledgment, then window, checksum and urgent pointer.
    segment.extend_from_slice(&[0; 4]);
    segment.extend_from_slice(&[words << 4, header.flags]);
    segment.extend_from_slice(&[0; 6]);
    segment.extend_from_slice(header.options);
    segment.extend_from_slice(payload);
    let packet = Packet {
        source: source.ip(),
        destination: destination.ip(),
        protocol: TCP,
        hop_limit: 64,
        payload: &segment,
    };
    let sum = checksum(pseudo_header(&packet), &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    ip(source.ip(), destination.ip(), TCP, &segment)
}

/// What an ICMP echo says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Echo {
    /// Whether it is the question.
    pub request: bool,
    /// The identifier.
    pub id: u16,
    /// The sequence number.
    pub sequence: u16,
    /// The rest.
    pub data: Vec<u8>,
}

/// An ICMP or ICMPv6 echo.
///
/// # Panics
/// As [`ip`].
#[must_use]
pub fn icmp_echo(source: IpAddr, destination: IpAddr, echo: &Echo) -> Vec<u8> {
    let (protocol, ty) = match (source.is_ipv4(), echo.request) {
        (true, true) => (ICMP, 8),
        (true, false) => (ICMP, 0),
        (false, true) => (ICMP6, 128),
        (false, false) => (ICMP6, 129),
    };
    let mut message = vec![ty, 0, 0, 0];
    message.extend_from_slice(&echo.id.to_be_bytes());
    message.extend_from_slice(&echo.sequence.to_be_bytes());
    message.extend_from_slice(&echo.data);
    let packet = Packet {
        source,
        destination,
        protocol,
        hop_limit: 64,
        payload: &message,
    };
    let start = if protocol == ICMP6 {
        pseudo_header(&packet)
    } else {
        0
    };
    let sum = checksum(start, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ip(source, destination, protocol, &message)
}

/// The echo in a packet, if it is one.
#[must_use]
pub fn echo_of(packet: &Packet<'_>) -> Option<Echo> {
    let (head, data) = packet.payload.split_first_chunk::<8>()?;
    let request = match (packet.protocol, head[0]) {
        (ICMP, 8) | (ICMP6, 128) => true,
        (ICMP, 0) | (ICMP6, 129) => false,
        _ => return None,
    };
    Some(Echo {
        request,
        id: u16::from_be_bytes([head[4], head[5]]),
        sequence: u16::from_be_bytes([head[6], head[7]]),
        data: data.to_vec(),
    })
}

/// Source port, destination port and data of a UDP packet, if it is one.
#[must_use]
pub fn udp_of<'a>(packet: &Packet<'a>) -> Option<(u16, u16, &'a [u8])> {
    let (head, data) = packet.payload.split_first_chunk::<8>()?;
    (packet.protocol == UDP).then(|| {
        (
            u16::from_be_bytes([head[0], head[1]]),
            u16::from_be_bytes([head[2], head[3]]),
            data,
        )
    })
}

/// The answer of a host to an ICMP echo request or to UDP on [`ECHO_PORT`].
#[must_use]
pub fn reply_to(bytes: &[u8]) -> Option<Vec<u8>> {
    let packet = Packet::parse(bytes)?;
    if let Some((from, ECHO_PORT, data)) = udp_of(&packet) {
        return Some(udp(
            SocketAddr::new(packet.destination, ECHO_PORT),
            SocketAddr::new(packet.source, from),
            data,
        ));
    }
    let mut echo = echo_of(&packet).filter(|echo| echo.request)?;
    echo.request = false;
    Some(icmp_echo(packet.destination, packet.source, &echo))
}

/// What a router that cannot forward `bytes` for their size says to whoever sent them: Fragmentation
/// Needed (RFC 1191 §4) or Packet Too Big (RFC 4443 §3.2), from the packet's own destination. `None` for
/// what is no packet.
#[must_use]
pub fn too_big(bytes: &[u8], mtu: usize) -> Option<Vec<u8>> {
    let packet = Packet::parse(bytes)?;
    let mtu = u32::try_from(mtu).unwrap_or(u32::MAX);
    let (protocol, kind, quoted) = match packet.source {
        IpAddr::V4(_) => (ICMP, [3, 4], 28),
        IpAddr::V6(_) => (ICMP6, [2, 0], 1280 - 48),
    };
    let mut message = [kind[0], kind[1], 0, 0].to_vec();
    message.extend_from_slice(&mtu.to_be_bytes());
    message.extend_from_slice(&bytes[..bytes.len().min(quoted)]);
    let answer = Packet {
        source: packet.destination,
        destination: packet.source,
        protocol,
        hop_limit: 64,
        payload: &message,
    };
    let start = if protocol == ICMP6 {
        pseudo_header(&answer)
    } else {
        0
    };
    let sum = checksum(start, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    Some(ip(packet.destination, packet.source, protocol, &message))
}

/// The one's-complement sum of the pseudo-header (RFC 8200 §8.1; RFC 768 gives the same sum).
fn pseudo_header(packet: &Packet<'_>) -> u32 {
    let words = |bytes: &[u8]| sum(0, bytes);
    let addresses = match (packet.source, packet.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            words(&source.octets()) + words(&destination.octets())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            words(&source.octets()) + words(&destination.octets())
        }
        _ => 0,
    };
    let length = u32::try_from(packet.payload.len()).unwrap_or(u32::MAX) & 0xffff;
    addresses + u32::from(packet.protocol) + length
}

fn sum(start: u32, bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<2>();
    let words = words.iter().map(|word| u16::from_be_bytes(*word));
    let last = rest.first().map(|byte| u16::from_be_bytes([*byte, 0]));
    words.chain(last).map(u32::from).sum::<u32>() + start
}

fn checksum(start: u32, bytes: &[u8]) -> u16 {
    let mut total = sum(start, bytes);
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    !u16::try_from(total).expect("folded to 16 bits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair(v6: bool) -> (IpAddr, IpAddr) {
        if v6 {
            (
                "fd00::2".parse().expect("constant"),
                "2001:db8::1".parse().expect("constant"),
            )
        } else {
            (
                "10.0.0.2".parse().expect("constant"),
                "192.0.2.1".parse().expect("constant"),
            )
        }
    }

    proptest! {
        #[test]
        fn an_echo_is_answered_with_its_own_data(
            v6: bool, id: u16, sequence: u16, data in proptest::collection::vec(any::<u8>(), 0..300)
        ) {
            let (source, destination) = pair(v6);
            let echo = Echo { request: true, id, sequence, data };
            let answer = reply_to(&icmp_echo(source, destination, &echo)).expect("a request");
            let packet = Packet::parse(&answer).expect("well-formed");
            prop_assert_eq!((packet.source, packet.destination), (destination, source));
            prop_assert_eq!(echo_of(&packet), Some(Echo { request: false, ..echo }));
            prop_assert_eq!(reply_to(&answer), None);
        }

        #[test]
        fn a_flipped_bit_of_tcp_is_seen(
            v6: bool, sequence: u32, flags: u8, words in 0..=10usize, at: proptest::sample::Index,
            bit in 0..8u32, data in proptest::collection::vec(any::<u8>(), 0..64)
        ) {
            let (source, destination) = pair(v6);
            let options = &[1; 40][..4 * words];
            let said = TcpHeader { sequence, flags, options };
            let (from, to) = (SocketAddr::new(source, 4000), SocketAddr::new(destination, 80));
            let mut bytes = tcp(from, to, &said, &data);
            let packet = Packet::parse(&bytes).expect("well-formed");
            let header = bytes.len() - packet.payload.len();
            prop_assert_eq!(packet.protocol, TCP);
            prop_assert_eq!(packet.payload[12] >> 4, 5 + u8::try_from(words).expect("ten"));
            prop_assert!(packet.payload.ends_with(&data));
            prop_assert_eq!(packet.payload.len(), 20 + options.len() + data.len());
            let at = header + at.index(bytes.len() - header);
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(Packet::parse(&bytes), None);
        }

        #[test]
        fn a_flipped_bit_is_seen(
            v6: bool, at: proptest::sample::Index, bit in 0..8u32,
            data in proptest::collection::vec(any::<u8>(), 0..64)
        ) {
            let (source, destination) = pair(v6);
            let from = SocketAddr::new(source, 4000);
            let mut bytes = udp(from, SocketAddr::new(destination, ECHO_PORT), &data);
            let whole = Packet::parse(&bytes).map(|packet| packet.payload.to_vec());
            prop_assert!(whole.is_some());
            // The transport part: an IPv6 header has no checksum of its own.
            let header = if v6 { 40 } else { 0 };
            let at = header + at.index(bytes.len() - header);
            bytes[at] ^= 1 << bit;
            // The checksum field 0 and 0xffff mean the same, but one bit cannot turn one to the other.
            prop_assert!(Packet::parse(&bytes).is_none_or(|packet| packet.protocol != UDP));
        }
    }

    #[test]
    fn the_checksum_is_that_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(checksum(0, &bytes), !0xddf2);
    }
}
