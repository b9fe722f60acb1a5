use alloc::vec::Vec;
use core::net::IpAddr;

use proptest::prelude::*;

use super::icmp::{IcmpError, build, is_icmp_error};
use super::*;

/// A valid IPv4 packet with `options` (a multiple of four bytes).
fn v4(protocol: u8, ttl: u8, fragment: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let header = V4_HEADER + options.len();
    let mut packet = alloc::vec![0x40 | (header / 4) as u8, 0];
    packet.extend(((header + payload.len()) as u16).to_be_bytes());
    packet.extend([0x12, 0x34]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([ttl, protocol, 0, 0]);
    packet.extend([192, 0, 2, 11, 198, 51, 100, 2]);
    packet.extend(options);
    let checksum = Sum::default().add(&packet).checksum();
    packet[10..12].copy_from_slice(&checksum);
    packet.extend(payload);
    packet
}

fn v6(next: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = alloc::vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, hop_limit]);
    packet.extend([0x20; 16]);
    packet.extend([0x21; 16]);
    packet.extend(payload);
    packet
}

/// Bytes that are often a packet, or nearly one.
fn nearly_a_packet() -> impl Strategy<Value = Vec<u8>> {
    let payload = || proptest::collection::vec(any::<u8>(), 0..120);
    let whole = prop_oneof![
        (
            any::<u8>(),
            any::<u8>(),
            prop_oneof![Just(0), any::<u16>()],
            0..11usize,
            payload()
        )
            .prop_map(|(protocol, ttl, fragment, words, payload)| {
                v4(
                    protocol,
                    ttl,
                    fragment,
                    &alloc::vec![1; words * 4],
                    &payload,
                )
            }),
        (
            prop_oneof![
                proptest::sample::select(
                    &[0u8, 6, 17, 43, 44, 50, 51, 58, 59, 60, 135, 139, 140][..]
                ),
                any::<u8>()
            ],
            any::<u8>(),
            payload()
        )
            .prop_map(|(next, limit, payload)| v6(next, limit, &payload)),
        payload(),
    ];
    let change = proptest::option::of((any::<prop::sample::Index>(), any::<u8>()));
    (whole, change, 0..4usize).prop_map(|(mut packet, change, cut)| {
        if let (Some((at, value)), false) = (change, packet.is_empty()) {
            let at = at.index(packet.len());
            packet[at] = value;
        }
        packet.truncate(packet.len().saturating_sub(cut.saturating_sub(2)));
        packet
    })
}

fn any_error() -> impl Strategy<Value = IcmpError> {
    prop_oneof![
        Just(IcmpError::NoRoute),
        Just(IcmpError::Prohibited),
        Just(IcmpError::AddressUnreachable),
        Just(IcmpError::SourcePolicy),
        any::<u32>().prop_map(|mtu| IcmpError::PacketTooBig { mtu }),
        Just(IcmpError::TimeExceeded),
    ]
}

const NODE_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const NODE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

proptest! {
    #[test]
    fn parsing_never_panics_and_what_it_says_is_inside(packet in nearly_a_packet()) {
        if let Ok(info) = PacketInfo::parse(&packet) {
            prop_assert_eq!(info.length, packet.len());
            prop_assert!(info.transport_offset <= packet.len());
            prop_assert!(info.transport_offset >= V4_HEADER);
            prop_assert!(info.fragment || !info.later_fragment);
            prop_assert_eq!(info.source.is_ipv4(), packet[0] >> 4 == 4);
            prop_assert_eq!(Some(info.hop_limit), hop_limit(&packet));
        }
    }

    #[test]
    fn parsing_never_panics_on_noise(packet in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = PacketInfo::parse(&packet);
    }

    /// 9484-6-03, 8200-3-01
    #[test]
    fn exactly_one_whole_packet_is_parsed(
        payload in proptest::collection::vec(any::<u8>(), 0..60),
        four in any::<bool>(),
    ) {
        let mut packet = if four { v4(17, 64, 0, &[], &payload) } else { v6(17, 64, &payload) };
        prop_assert!(PacketInfo::parse(&packet).is_ok());
        for len in 0..packet.len() {
            prop_assert_eq!(PacketInfo::parse(&packet[..len]), Err(PacketError::Truncated));
        }
        packet.push(0);
        prop_assert_eq!(PacketInfo::parse(&packet), Err(PacketError::TrailingBytes));
    }

    /// 1812-5.2.2-01
    #[test]
    fn a_changed_ipv4_header_is_refused(
        words in 0..11usize,
        at in any::<prop::sample::Index>(),
        bit in 0..8u8,
    ) {
        let mut packet = v4(17, 64, 0, &alloc::vec![1; words * 4], b"data");
        let at = at.index(V4_HEADER + words * 4);
        packet[at] ^= 1 << bit;
        prop_assert!(PacketInfo::parse(&packet).is_err());
    }

    /// 1624-3-01, 1812-5.3.1-01
    #[test]
    fn a_decrement_equals_computing_the_checksum_anew(
        ttl in any::<u8>(),
        fragment in any::<u16>(),
        words in 0..11usize,
    ) {
        let options = alloc::vec![1; words * 4];
        let mut packet = v4(17, ttl, fragment, &options, b"data");
        let before = packet.clone();
        if ttl > 1 {
            prop_assert!(decrement_hop_limit(&mut packet));
            prop_assert_eq!(packet, v4(17, ttl - 1, fragment, &options, b"data"));
        } else {
            prop_assert!(!decrement_hop_limit(&mut packet));
            prop_assert_eq!(packet, before);
        }
    }

    #[test]
    fn a_decrement_of_ipv6_changes_the_hop_limit_alone(limit in any::<u8>()) {
        let mut packet = v6(17, limit, b"data");
        prop_assert_eq!(decrement_hop_limit(&mut packet), limit > 1);
        prop_assert_eq!(packet, v6(17, if limit > 1 { limit - 1 } else { limit }, b"data"));
    }

    #[test]
    fn no_bytes_make_a_decrement_panic(mut packet in nearly_a_packet()) {
        let before = packet.clone();
        if !decrement_hop_limit(&mut packet) {
            prop_assert_eq!(packet, before);
        }
    }

    /// 4443-2.4-04, 1812-4.3.2.3-01, 4443-2.3-01
    #[test]
    fn every_icmp_error_is_a_valid_packet_that_quotes_what_fits(
        packet in nearly_a_packet(),
        more in 0..2000usize,
        error in any_error(),
    ) {
        let packet = match PacketInfo::parse(&packet) {
            // Longer ones too, so that quotes are cut.
            Ok(info) if info.source.is_ipv4() && !info.fragment => {
                v4(info.protocol, info.hop_limit, 0, &[], &[&packet[info.transport_offset..], &alloc::vec![7; more]].concat())
            }
            Ok(info) if info.transport_offset == V6_HEADER => {
                v6(packet[6], info.hop_limit, &[&packet[V6_HEADER..], &alloc::vec![7; more]].concat())
            }
            _ => packet,
        };
        for source in [NODE_V4, NODE_V6] {
            let Some(answer) = build(error, source, &packet) else { continue };
            let about = PacketInfo::parse(&packet).expect("only valid packets are answered");
            let info = PacketInfo::parse(&answer).expect("what is sent is valid");
            prop_assert_eq!((info.source, info.destination), (source, about.source));
            prop_assert_eq!(info.hop_limit, 64);
            prop_assert!(is_icmp_error(&answer, &info));
            let (limit, sum) = match source {
                IpAddr::V4(_) => (576, Sum::default()),
                IpAddr::V6(_) => (1280, checksum::pseudo_header(source, about.source, 58, answer.len() as u32 - 40)),
            };
            let message = &answer[info.transport_offset..];
            prop_assert!(sum.add(message).is_valid());
            let quoted = packet.len().min(limit - info.transport_offset - 8);
            prop_assert_eq!(&message[8..], &packet[..quoted]);
            // No error about an error: 4443-2.4-01, 1812-4.3.2.7-01.
            prop_assert!(!is_icmp_error(&packet, &about));
            prop_assert_eq!(build(error, about.source, &answer), None);
        }
    }

    /// 4443-2.4-01, 1812-4.3.2.7-01
    #[test]
    fn icmp_errors_are_never_answered(
        kind in any::<u8>(),
        error in any_error(),
        rest in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let message = [&[kind][..], &rest].concat();
        let four = build(error, NODE_V4, &v4(1, 9, 0, &[], &message));
        prop_assert_eq!(four.is_none(), [3, 4, 5, 11, 12].contains(&kind));
        let six = build(error, NODE_V6, &v6(58, 9, &message));
        prop_assert_eq!(six.is_none(), kind < 128 || kind == 137);
        let hidden = [&[58, 0, 1, 4, 0, 0, 0, 0][..], &message].concat();
        let hidden = build(error, NODE_V6, &v6(60, 9, &hidden));
        prop_assert_eq!(hidden.is_none(), kind < 128 || kind == 137);
    }
}

/// 1812-4.3.2.7-01, 4443-2.4-02, 4443-2.4-03
#[test]
fn only_packets_between_unicast_addresses_are_answered() {
    let four = |source: [u8; 4], destination: [u8; 4]| {
        let mut packet = v4(17, 9, 0, &[], b"12345678");
        packet[12..16].copy_from_slice(&source);
        packet[16..20].copy_from_slice(&destination);
        packet[10..12].fill(0);
        let checksum = Sum::default().add(&packet[..20]).checksum();
        packet[10..12].copy_from_slice(&checksum);
        build(IcmpError::NoRoute, NODE_V4, &packet)
    };
    let host = [10, 0, 0, 1];
    assert!(four(host, host).is_some());
    for other in [
        [0, 0, 0, 0],
        [127, 0, 0, 1],
        [224, 0, 0, 1],
        [240, 0, 0, 1],
        [255; 4],
    ] {
        assert_eq!(four(other, host), None, "from {other:?}");
        assert_eq!(four(host, other), None, "to {other:?}");
    }

    let six = |error, source: Ipv6Addr, destination: Ipv6Addr| {
        let mut packet = v6(17, 9, b"12345678");
        packet[8..24].copy_from_slice(&source.octets());
        packet[24..40].copy_from_slice(&destination.octets());
        build(error, NODE_V6, &packet)
    };
    let host = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let too_big = IcmpError::PacketTooBig { mtu: 1300 };
    for error in [IcmpError::NoRoute, too_big] {
        assert!(six(error, host, host).is_some());
        for other in [Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST, group] {
            assert_eq!(six(error, other, host), None, "from {other}");
        }
    }
    assert_eq!(six(IcmpError::NoRoute, host, group), None);
    assert!(six(too_big, host, group).is_some());
}

/// 4443-2.2-01
#[test]
fn an_answer_comes_from_a_unicast_address_of_the_same_family() {
    let (four, six) = (v4(17, 9, 0, &[], b"data"), v6(17, 9, b"data"));
    assert!(build(IcmpError::NoRoute, NODE_V4, &four).is_some());
    assert_eq!(build(IcmpError::NoRoute, NODE_V6, &four), None);
    assert_eq!(build(IcmpError::NoRoute, NODE_V4, &six), None);
    assert_eq!(
        build(IcmpError::NoRoute, Ipv4Addr::UNSPECIFIED.into(), &four),
        None
    );
    assert_eq!(
        build(IcmpError::NoRoute, Ipv6Addr::UNSPECIFIED.into(), &six),
        None
    );
}

/// 8201-4-01, 9484-7.2.1-04
#[test]
fn no_packet_too_big_tells_less_than_the_minimum() {
    let told = |source, about: &[u8], mtu| {
        let answer = build(IcmpError::PacketTooBig { mtu }, source, about).expect("answered");
        let at = PacketInfo::parse(&answer).expect("valid").transport_offset;
        u32::from_be_bytes([
            answer[at + 4],
            answer[at + 5],
            answer[at + 6],
            answer[at + 7],
        ])
    };
    let (four, six) = (v4(17, 9, 0x4000, &[], b"data"), v6(17, 9, b"data"));
    assert_eq!(told(NODE_V4, &four, 0), 576);
    assert_eq!(told(NODE_V4, &four, 1400), 1400);
    assert_eq!(told(NODE_V4, &four, u32::MAX), 65535);
    assert_eq!(told(NODE_V6, &six, 1279), 1280);
    assert_eq!(told(NODE_V6, &six, 1400), 1400);
}

#[test]
fn later_fragments_and_cut_icmp_get_no_answer() {
    assert!(
        build(
            IcmpError::NoRoute,
            NODE_V4,
            &v4(17, 9, 0x2000, &[], b"first")
        )
        .is_some()
    );
    assert_eq!(
        build(IcmpError::NoRoute, NODE_V4, &v4(17, 9, 1, &[], b"later")),
        None
    );
    let later = [17, 0, 0, 8, 0, 0, 0, 0];
    assert_eq!(build(IcmpError::NoRoute, NODE_V6, &v6(44, 9, &later)), None);
    let first = [17, 0, 0, 1, 0, 0, 0, 0];
    assert!(build(IcmpError::NoRoute, NODE_V6, &v6(44, 9, &first)).is_some());
    assert_eq!(
        build(IcmpError::NoRoute, NODE_V4, &v4(1, 9, 0, &[], &[])),
        None
    );
    assert_eq!(build(IcmpError::NoRoute, NODE_V6, &v6(58, 9, &[])), None);
}

/// 9484-4.8-01
#[test]
fn the_chain_is_walked_to_the_first_header_that_is_no_extension() {
    let ends = |next, payload: &[u8]| {
        PacketInfo::parse(&v6(next, 9, payload)).map(|info| (info.protocol, info.transport_offset))
    };
    let bad = Err(PacketError::ExtensionHeader);
    for kind in [0, 43, 60, 135, 139, 140] {
        assert_eq!(ends(kind, &[17, 0, 0, 0, 0, 0, 0, 0]), Ok((17, 48)));
        assert_eq!(ends(kind, &[17, 1, 0, 0, 0, 0, 0, 0]), bad);
        assert_eq!(ends(kind, &[17, 0, 0, 0, 0, 0, 0]), bad);
    }
    assert_eq!(ends(51, &[6, 4].repeat(12)), Ok((6, 64)));
    assert_eq!(ends(51, &[6, 5].repeat(12)), bad);
    assert_eq!(ends(50, &[1]), Ok((50, 40)));
    assert_eq!(ends(59, &[]), Ok((59, 40)));
    assert_eq!(ends(132, &[]), Ok((132, 40)));
    // A first fragment has the whole chain; 8200-4.5-01: a later one has nothing to walk.
    let options = [17, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(
        ends(44, &[&[60, 0, 0, 1, 0, 0, 0, 0], &options[..]].concat()),
        Ok((17, 56))
    );
    assert_eq!(ends(44, &[60, 0, 0, 1, 0, 0, 0, 0]), bad);
    assert_eq!(ends(44, &[60, 0, 0, 9, 0, 0, 0, 0]), Ok((60, 48)));
}

#[test]
fn a_chain_has_a_bounded_number_of_headers() {
    let chain = |headers: usize| {
        let mut payload = [60, 0, 0, 0, 0, 0, 0, 0].repeat(headers);
        let last = payload.len() - 8;
        payload[last] = 17;
        PacketInfo::parse(&v6(60, 9, &payload)).map(|info| info.protocol)
    };
    assert_eq!(chain(16), Ok(17));
    assert_eq!(chain(17), Err(PacketError::ExtensionHeader));
}

#[test]
fn an_atomic_fragment_is_no_fragment() {
    let info = |word: u16| {
        let [high, low] = word.to_be_bytes();
        let info = PacketInfo::parse(&v6(44, 9, &[17, 0, high, low, 0, 0, 0, 0])).expect("valid");
        (info.fragment, info.later_fragment)
    };
    assert_eq!(info(0), (false, false));
    assert_eq!(info(1), (true, false));
    assert_eq!(info(8), (true, true));
    let info = |word: u16| {
        let info = PacketInfo::parse(&v4(17, 9, word, &[], &[])).expect("valid");
        (info.fragment, info.later_fragment, info.dont_fragment)
    };
    assert_eq!(info(0x4000), (false, false, true));
    assert_eq!(info(0x2000), (true, false, false));
    assert_eq!(info(0x0001), (true, true, false));
}

proptest! {
    /// RFC 3168 §5: any of the two bits says it; marking sets both, mends the checksum, and nothing else.
    #[test]
    fn ecn_is_spoken_where_a_bit_of_it_is_set_and_marking_sets_both(
        version4: bool,
        class: u8,
        payload in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let of_class = |class: u8| {
            if version4 {
                let mut packet = v4(17, 64, 0, &[], &payload);
                packet[1] = class;
                packet[10..12].fill(0);
                let checksum = Sum::default().add(&packet[..V4_HEADER]).checksum();
                packet[10..12].copy_from_slice(&checksum);
                packet
            } else {
                let mut packet = v6(17, 64, &payload);
                packet[0] |= class >> 4;
                packet[1] |= class << 4;
                packet
            }
        };
        let mut packet = of_class(class);
        prop_assert_eq!(is_ecn_capable(&packet), class & 3 != 0);
        mark_congestion(&mut packet);
        prop_assert_eq!(packet, of_class(class | 3));
    }
}
