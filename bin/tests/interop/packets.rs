//! IP packets of a host: echo requests, their answers, and UDP.

use std::net::IpAddr;

use masque_core::wire::ip::PacketInfo;
use masque_core::wire::ip::checksum::{Sum, pseudo_header};

const ICMP: u8 = 1;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// The types of an echo request and its reply.
fn echo_types(v4: bool) -> (u8, u8) {
    if v4 { (8, 0) } else { (128, 129) }
}

/// An echo request with `size` bytes of payload.
pub(crate) fn echo_request(
    source: IpAddr,
    destination: IpAddr,
    sequence: u16,
    size: usize,
) -> Vec<u8> {
    let v4 = source.is_ipv4();
    let mut message = vec![echo_types(v4).0, 0, 0, 0, 0x12, 0x34];
    message.extend(sequence.to_be_bytes());
    message.extend((0..size).map(|at| at as u8));
    packet(
        source,
        destination,
        if v4 { ICMP } else { ICMPV6 },
        64,
        message,
    )
}

/// What a host answers to `request`: echo replies, and UDP sent back; `None` to anything else.
pub(crate) fn answer(request: &[u8]) -> Option<Vec<u8>> {
    let info = PacketInfo::parse(request).ok()?;
    if info.fragment {
        return None;
    }
    let mut message = request.get(info.transport_offset..)?.to_vec();
    let (ask, reply) = echo_types(info.source.is_ipv4());
    match info.protocol {
        ICMP | ICMPV6 if message.len() >= 8 && message[0] == ask => message[0] = reply,
        UDP if message.len() >= 8 => {
            let (from, to) = message.split_at_mut(2);
            from.swap_with_slice(&mut to[..2]);
        }
        _ => return None,
    }
    Some(packet(
        info.destination,
        info.source,
        info.protocol,
        64,
        message,
    ))
}

/// Whether `reply` is the answer to `request`, whatever its hop limit.
pub(crate) fn is_answer(request: &[u8], reply: &[u8]) -> bool {
    let transport = |packet: &[u8]| {
        let info = PacketInfo::parse(packet).ok()?;
        let message = packet.get(info.transport_offset..)?.to_vec();
        Some((info.source, info.destination, info.protocol, message))
    };
    answer(request).is_some_and(|wanted| {
        let wanted = transport(&wanted);
        wanted.is_some() && wanted == transport(reply)
    })
}

fn packet(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    hop_limit: u8,
    mut message: Vec<u8>,
) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("a short packet");
    let at = if protocol == UDP { 6 } else { 2 };
    message[at..at + 2].fill(0);
    let pseudo = match protocol {
        ICMP => Sum::default(),
        _ => pseudo_header(source, destination, protocol, u32::from(length)),
    };
    let sum = pseudo.add(&message).checksum();
    message[at..at + 2].copy_from_slice(&sum);
    let mut packet = Vec::with_capacity(40 + message.len());
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let total = 20 + length;
            packet.extend([0x45, 0]);
            packet.extend(total.to_be_bytes());
            packet.extend([0, 0, 0x40, 0, hop_limit, protocol, 0, 0]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            let sum = Sum::default().add(&packet).checksum();
            packet[10..12].copy_from_slice(&sum);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            packet.extend([0x60, 0, 0, 0]);
            packet.extend(length.to_be_bytes());
            packet.extend([protocol, hop_limit]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
        }
        _ => panic!("{source} and {destination} are of two versions"),
    }
    packet.extend(message);
    packet
}

#[test]
fn the_host_answers_what_it_asks() {
    for (one, other) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
        let (one, other) = (one.parse().expect("good"), other.parse().expect("good"));
        let request = echo_request(one, other, 7, 33);
        let reply = answer(&request).expect("an echo request");
        assert!(is_answer(&request, &reply));
        assert!(!is_answer(&request, &request));
        assert_eq!(answer(&reply), None);
    }
}
