use alloc::vec;
use alloc::vec::Vec;

use bytes::BytesMut;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::wire::ip::PacketInfo;

proptest! {
    #[test]
    fn segments_are_those_made_the_slow_way(
        packet in any_packet(payload(20_000)),
        size in prop_oneof![10..1500u16, any::<u16>()],
        prefix in proptest::collection::vec(any::<u8>(), 0..9),
        hop_limit in any::<Option<u8>>(),
        ecn in any::<bool>(),
    ) {
        prop_assume!(packet.payload.len() / usize::from(size.max(1)) < 2000);
        let size = size.max(1);
        let (mut header, bytes) = packet.partial(size);
        // A hint, never trusted.
        header.hdr_len = header.hdr_len.wrapping_mul(size);
        if ecn && packet.tcp {
            header.gso_type |= VnetHdr::GSO_ECN;
        }
        let mut out = BytesMut::from(&b"before"[..]);
        let segments = segment(header, &bytes, &prefix, hop_limit, &mut out).expect("legal");
        prop_assert_eq!(&out[..6], b"before");
        let packets = cut(segments, &prefix, &out[6..]);
        let expected: Vec<_> = packet
            .split(size.into())
            .into_iter()
            .map(|part| Packet { hop_limit: hop_limit.unwrap_or(part.hop_limit), ..part }.on_wire())
            .collect();
        prop_assert_eq!(&packets, &expected);
        for packet in &packets {
            prop_assert!(PacketInfo::parse(packet).is_ok());
        }
        // Without extension headers nothing depends on the partial sum in the packet.
        if packet.v4 || packet.extensions == 0 {
            header.flags = 0;
            let mut again = BytesMut::new();
            segment(header, &packet.on_wire(), &prefix, hop_limit, &mut again).expect("legal");
            prop_assert_eq!(&again[..], &out[6..]);
        }
    }

    #[test]
    fn a_partial_checksum_is_completed(
        packet in any_packet(payload(3000)),
        prefix in proptest::collection::vec(any::<u8>(), 0..9),
        hop_limit in any::<Option<u8>>(),
    ) {
        let (header, bytes) = packet.partial(0);
        let mut out = BytesMut::new();
        let segments = segment(header, &bytes, &prefix, hop_limit, &mut out).expect("legal");
        let expected = Packet { hop_limit: hop_limit.unwrap_or(packet.hop_limit), ..packet }.on_wire();
        prop_assert_eq!(cut(segments, &prefix, &out), vec![expected]);
    }

    #[test]
    fn a_complete_packet_passes_as_it_is(packet in any_packet(payload(3000)), hop_limit in any::<Option<u8>>()) {
        let bytes = packet.on_wire();
        let mut out = BytesMut::new();
        segment(VnetHdr::default(), &bytes, &[], hop_limit, &mut out).expect("legal");
        let expected = Packet { hop_limit: hop_limit.unwrap_or(packet.hop_limit), ..packet }.on_wire();
        prop_assert_eq!(&out[..], &expected[..]);
    }

    #[test]
    fn no_header_makes_segmentation_panic_or_write_half(
        packet in any_packet(payload(300)),
        changes in proptest::collection::vec((0..10usize, any::<u8>()), 0..3),
        damage in proptest::collection::vec((any::<Index>(), any::<u8>()), 0..3),
        keep in any::<Option<Index>>(),
        gso_size in 0..100u16,
    ) {
        let (header, mut bytes) = packet.partial(gso_size);
        let mut header = header.to_bytes();
        for (at, value) in changes {
            header[at] = value;
        }
        for (at, value) in damage {
            let at = at.index(bytes.len().min(80));
            bytes[at] = value;
        }
        if let Some(keep) = keep {
            bytes.truncate(keep.index(bytes.len() + 1));
        }
        let mut out = BytesMut::from(&b"before"[..]);
        match segment(VnetHdr::from_bytes(header), &bytes, b"p", Some(9), &mut out) {
            Ok(segments) => {
                prop_assert_eq!(out.len(), 6 + segments.total);
                prop_assert_eq!(segments.total.div_ceil(segments.stride), segments.count);
                prop_assert!(segments.count <= 2048);
            }
            Err(_) => prop_assert_eq!(&out[..], b"before"),
        }
    }
}

/// 30 KB of extension headers in each of 2,000 segments would be 60 MB.
#[test]
fn headers_that_repeat_too_often_are_refused() {
    let mut packet = Packet::new(false, true, &[5; 2000]);
    packet.extensions = 16;
    let (mut header, bytes) = packet.partial(1);
    let mut out = BytesMut::new();
    assert!(segment(header, &bytes, &[], None, &mut out).is_ok());
    let long = 2040;
    let mut grown = bytes[..40].to_vec();
    for nth in 0..16 {
        let next = bytes[40 + 8 * nth];
        grown.extend([next, (long / 8 - 1) as u8]);
        grown.resize(grown.len() + long - 2, 0);
    }
    grown.extend(&bytes[40 + 8 * 16..]);
    let length = (grown.len() - 40) as u16;
    grown[4..6].copy_from_slice(&length.to_be_bytes());
    header.csum_start = (40 + 16 * long) as u16;
    out.clear();
    let made = segment(header, &grown, &[], None, &mut out);
    assert_eq!(made, Err(SegmentError::Header));
    assert!(out.is_empty());
    header.gso_size = 100;
    assert!(segment(header, &grown, &[], None, &mut out).is_ok());
}

#[test]
fn a_header_that_contradicts_the_packet_is_refused() {
    let refused = |change: &dyn Fn(&mut VnetHdr, &mut Vec<u8>)| {
        let (mut header, mut bytes) = Packet::new(true, true, &[5; 3000]).partial(1000);
        change(&mut header, &mut bytes);
        segment(header, &bytes, &[], None, &mut BytesMut::new()).err()
    };
    assert_eq!(refused(&|_, _| {}), None);
    let header = Some(SegmentError::Header);
    assert_eq!(refused(&|header, _| header.gso_size = 0), header);
    assert_eq!(
        refused(&|header, _| header.gso_size = 1),
        header,
        "3,000 segments"
    );
    assert_eq!(refused(&|header, _| header.csum_start = 24), header);
    assert_eq!(refused(&|header, _| header.csum_offset = 6), header);
    assert_eq!(
        refused(&|header, _| header.gso_type = VnetHdr::GSO_TCPV6),
        header
    );
    assert_eq!(
        refused(&|header, _| header.gso_type = VnetHdr::GSO_UDP_L4),
        header
    );
    assert_eq!(
        refused(&|_, bytes| bytes.push(0)),
        header,
        "longer than it states"
    );
    assert_eq!(refused(&|_, bytes| bytes[6] = 0x20), header, "a fragment");
    assert_eq!(
        refused(&|_, bytes| bytes[32] = 0x40),
        header,
        "a short TCP header"
    );
    assert_eq!(refused(&|_, bytes| bytes.clear()), header);
    let kind = Some(SegmentError::Type);
    assert_eq!(refused(&|header, _| header.gso_type = 3), kind, "UFO");
    let udp_with_ecn = VnetHdr::GSO_UDP_L4 | VnetHdr::GSO_ECN;
    assert_eq!(refused(&|header, _| header.gso_type = udp_with_ecn), kind);
    let odd = |header: &mut VnetHdr, _: &mut Vec<u8>| {
        (header.gso_type, header.csum_offset) = (VnetHdr::GSO_NONE, 15);
    };
    assert_eq!(refused(&odd), header);
    let outside = |header: &mut VnetHdr, _: &mut Vec<u8>| {
        (header.gso_type, header.csum_offset) = (VnetHdr::GSO_NONE, 3020);
    };
    assert_eq!(refused(&outside), header);
    let inside_ip = |header: &mut VnetHdr, _: &mut Vec<u8>| {
        (header.gso_type, header.csum_start) = (VnetHdr::GSO_NONE, 8);
    };
    assert_eq!(refused(&inside_ip), header);
}

/// A UDP packet whose checksum comes out as zero is sent with 0xffff (RFC 768).
#[test]
fn a_udp_checksum_is_never_zero() {
    for v4 in [true, false] {
        let mut packet = Packet::new(v4, false, &[0, 0]);
        let wire = packet.on_wire();
        let at = packet.network(0).len() + 6;
        // What makes the sum all ones is what the checksum of zeroes is.
        packet.payload = wire[at..at + 2].to_vec();
        for gso_size in [0, 100] {
            let (header, bytes) = packet.partial(gso_size);
            let mut out = BytesMut::new();
            segment(header, &bytes, &[], None, &mut out).expect("legal");
            assert_eq!(out[at..at + 2], [0xff, 0xff]);
        }
    }
}
