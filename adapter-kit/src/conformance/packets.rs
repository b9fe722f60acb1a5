//! Packets to send through a tunnel, and how to tell that they are the same at the other end.

use std::net::Ipv4Addr;

use masque_core::wire::offload::VnetHdr;

const IP: usize = 20;
const UDP: usize = 8;
const TCP: usize = 20;

/// A whole IPv4 UDP packet of `length` bytes (at least 36) that carries `number`, and bytes that
/// depend on it.
#[must_use]
pub fn udp(source: Ipv4Addr, destination: Ipv4Addr, number: u64, length: usize) -> Vec<u8> {
    let payload = filler(number, length.saturating_sub(IP + UDP));
    let mut packet = ip(source, destination, 17, UDP + payload.len());
    let udp_length = u16::try_from(UDP + payload.len()).expect("a short packet");
    packet.extend(4000u16.to_be_bytes());
    packet.extend(5000u16.to_be_bytes());
    packet.extend(udp_length.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    let sum = checksum(pseudo(source, destination, 17, udp_length), &packet[IP..]);
    packet[IP + 6..IP + 8].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// The number in a packet of [`udp`], if it is one and nothing in it has changed.
#[must_use]
pub fn number(packet: &[u8]) -> Option<u64> {
    let address = |at: usize| Some(Ipv4Addr::from(*packet.get(at..)?.first_chunk::<4>()?));
    let number = u64::from_be_bytes(*packet.get(IP + UDP..)?.first_chunk::<8>()?);
    (udp(address(12)?, address(16)?, number, packet.len()) == packet).then_some(number)
}

/// An IPv4 TCP super-packet of `count` segments of `size` bytes with its virtio-net header in front,
/// as a kernel with TSO hands it over: the checksum is that of the pseudo-header.
#[must_use]
pub fn tcp_super(source: Ipv4Addr, destination: Ipv4Addr, count: u16, size: u16) -> Vec<u8> {
    let payload = filler(7, usize::from(count) * usize::from(size));
    let header = VnetHdr {
        flags: VnetHdr::NEEDS_CSUM,
        gso_type: VnetHdr::GSO_TCPV4,
        hdr_len: (IP + TCP) as u16,
        gso_size: size,
        csum_start: IP as u16,
        csum_offset: 16,
    };
    let mut packet = header.to_bytes().to_vec();
    packet.extend(ip(source, destination, 6, TCP + payload.len()));
    let tcp_length = u16::try_from(TCP + payload.len()).expect("at most 64 KiB");
    let partial = !fold(pseudo(source, destination, 6, tcp_length));
    packet.extend(4000u16.to_be_bytes());
    packet.extend(5000u16.to_be_bytes());
    packet.extend(1u32.to_be_bytes());
    packet.extend(1u32.to_be_bytes());
    // Five words of header, ACK.
    packet.extend([0x50, 0x10, 0xff, 0xff]);
    packet.extend((!partial).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

/// The TCP payload of a packet with a virtio-net header in front: sequence number and bytes.
#[must_use]
pub fn tcp_payload(packet: &[u8]) -> Option<(u32, &[u8])> {
    let ip = packet.get(VnetHdr::LEN..)?;
    let sequence = u32::from_be_bytes(*ip.get(IP + 4..)?.first_chunk()?);
    (ip.get(9) == Some(&6)).then_some((sequence, ip.get(IP + TCP..)?))
}

fn ip(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: usize) -> Vec<u8> {
    let length = u16::try_from(IP + payload).expect("at most 64 KiB");
    let mut header = vec![0x45, 0];
    header.extend(length.to_be_bytes());
    header.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
    header.extend(source.octets());
    header.extend(destination.octets());
    let sum = checksum(0, &header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

/// Bytes that begin with `number` and are different for each.
fn filler(number: u64, length: usize) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while bytes.len() < length {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        bytes.extend((state >> 16).to_be_bytes());
    }
    bytes.truncate(length.max(8));
    bytes
}

fn pseudo(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, length: u16) -> u64 {
    sum(&source.octets()) + sum(&destination.octets()) + u64::from(protocol) + u64::from(length)
}

fn sum(bytes: &[u8]) -> u64 {
    bytes
        .chunks(2)
        .map(|pair| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u64::from(*low)))
        .sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn checksum(start: u64, bytes: &[u8]) -> u16 {
    fold(start + sum(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const TWO: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    #[test]
    fn a_packet_is_known_again_and_a_changed_one_is_not() {
        for length in [36, 37, 100, 1280] {
            let mut packet = udp(ONE, TWO, 42, length);
            assert_eq!(packet.len(), length);
            assert_eq!(number(&packet), Some(42));
            assert_eq!(fold(sum(&packet[..IP])), 0);
            packet[length - 1] ^= 1;
            assert_eq!(number(&packet), None);
        }
    }
}
