use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::collection::vec as vec_of;
use proptest::prelude::*;

use super::*;
use crate::error::{ErrorScope, WireError, WireErrorKind};
use crate::wire::prefix::{AddressRange, IpPrefix, successor};

/// All events and how the stream ends, the input coming in pieces that end at `cuts`.
type Outcome = (Vec<CapsuleEvent>, Result<(), WireError>);

fn run_pieces<'a>(pieces: impl Iterator<Item = &'a [u8]>, limits: CapsuleLimits) -> Outcome {
    let mut decoder = CapsuleDecoder::new(limits);
    let (mut events, mut given) = (Vec::new(), 0);
    for piece in pieces {
        let mut input = Bytes::copy_from_slice(piece);
        given += piece.len();
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => {
                    assert!(error.offset <= given, "{error} of {given}");
                    assert_eq!(decoder.decode(&mut input), Err(error), "an error is final");
                    assert_eq!(decoder.finish(), Err(error));
                    return (events, Err(error));
                }
            }
        }
        assert!(input.is_empty());
        assert!(decoder.buffered() <= 2 * given + 64, "more kept than came");
        assert!(decoder.buffered() <= 2 * limits.max_value.max(limits.max_datagram) + 64);
    }
    let end = decoder.finish();
    if let Err(error) = end {
        assert_eq!(error.offset, given);
    }
    (events, end)
}

fn run(input: &[u8]) -> Outcome {
    run_pieces(core::iter::once(input), CapsuleLimits::default())
}

fn varint() -> impl Strategy<Value = VarInt> {
    prop_oneof![0..70u64, 0..20_000u64, 0..1u64 << 62].prop_map(|n| VarInt::new(n).unwrap())
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from(bits))),
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from(bits))),
    ]
}

fn prefix() -> impl Strategy<Value = IpPrefix> {
    (address(), 0..=128u8).prop_map(|(address, length)| {
        let length = length.min(if address.is_ipv4() { 32 } else { 128 });
        let net = ipnet::IpNet::new(address, length).unwrap();
        IpPrefix::new(net.network(), length).unwrap()
    })
}

fn entries() -> impl Strategy<Value = Vec<AddressEntry>> {
    let entry = (varint(), prefix()).prop_map(|(id, prefix)| AddressEntry {
        request_id: RequestId(id),
        prefix,
    });
    vec_of(entry, 0..8)
}

/// Ranges in a world of 32 addresses at each end of both versions, so that they often meet.
fn small_ranges() -> impl Strategy<Value = Vec<AddressRange>> {
    let range =
        (0..4usize, 0..32u8, 0..8u8, 0..4usize).prop_map(|(space, start, len, protocol)| {
            let end = (start + len).min(31);
            let protocol = [0, 6, 17, 255][protocol];
            AddressRange::new(small(space, start), small(space, end), protocol).unwrap()
        });
    vec_of(range, 0..12)
}

fn small(space: usize, n: u8) -> IpAddr {
    let n = u32::from(n);
    match space {
        0 => Ipv4Addr::from(n).into(),
        1 => Ipv4Addr::from(u32::MAX - 31 + n).into(),
        2 => Ipv6Addr::from(u128::from(n)).into(),
        _ => Ipv6Addr::from(u128::MAX - 31 + u128::from(n)).into(),
    }
}

fn capsule() -> impl Strategy<Value = Capsule> {
    prop_oneof![
        vec_of(any::<u8>(), 0..80).prop_map(|payload| Capsule::Datagram(payload.into())),
        entries().prop_map(|entries| Capsule::AddressAssign(AddressAssign(entries))),
        entries().prop_filter_map("not a request", |entries| {
            AddressRequest::new(entries)
                .ok()
                .map(Capsule::AddressRequest)
        }),
        small_ranges().prop_map(|ranges| {
            Capsule::RouteAdvertisement(RouteAdvertisement::from_unordered(ranges))
        }),
    ]
}

fn encoded(capsules: &[Capsule]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for capsule in capsules {
        let before = bytes.len();
        capsule.encode(&mut bytes);
        assert_eq!(bytes.len() - before, capsule.encoded_len());
    }
    bytes
}

/// Bytes that often are almost a capsule.
fn near_capsules() -> impl Strategy<Value = Vec<u8>> {
    let mutated = (
        vec_of(capsule(), 1..4),
        any::<prop::sample::Index>(),
        any::<u8>(),
        0..6u8,
    );
    prop_oneof![
        vec_of(any::<u8>(), 0..40),
        (0..5u8, 0..40u8, vec_of(0..8u8, 0..40))
            .prop_map(|(ty, len, rest)| { [vec![ty, len], rest].concat() }),
        mutated.prop_map(|(capsules, at, byte, how)| {
            let mut bytes = encoded(&capsules);
            let at = at.index(bytes.len());
            match how {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, byte),
                _ => bytes[at] = byte,
            }
            bytes
        }),
    ]
}

fn tight() -> CapsuleLimits {
    CapsuleLimits {
        max_value: 40,
        max_datagram: 20,
        max_entries: 2,
    }
}

proptest! {
    // 9297-3.2-01
    #[test]
    fn capsules_decode_to_what_was_encoded(capsules in vec_of(capsule(), 0..6)) {
        let (events, end) = run(&encoded(&capsules));
        prop_assert_eq!(end, Ok(()));
        let expected: Vec<_> = capsules.into_iter().map(CapsuleEvent::Capsule).collect();
        prop_assert_eq!(events, expected);
    }

    // 9297-3.1-01, 9000-16-04
    #[test]
    fn how_input_is_split_changes_nothing(
        bytes in near_capsules(), sizes in vec_of(0..9usize, 1..20), limited in any::<bool>(),
    ) {
        let limits = if limited { tight() } else { CapsuleLimits::default() };
        let whole = run_pieces(core::iter::once(&bytes[..]), limits);
        let mut rest = &bytes[..];
        let mut sizes = sizes.iter().copied().chain(core::iter::once(1)).cycle();
        let pieces = core::iter::from_fn(|| {
            let (piece, after) = rest.split_at(sizes.next()?.min(rest.len()));
            (!rest.is_empty()).then(|| { rest = after; piece })
        });
        prop_assert_eq!(run_pieces(pieces, limits), whole.clone());
        prop_assert_eq!(run_pieces(bytes.chunks(1), limits), whole);
    }

    #[test]
    fn whatever_decodes_encodes_to_something_that_decodes_equally(bytes in near_capsules()) {
        for event in run(&bytes).0 {
            if let CapsuleEvent::Capsule(capsule) = event {
                let again = run(&encoded(core::slice::from_ref(&capsule)));
                prop_assert_eq!(again, (vec![CapsuleEvent::Capsule(capsule)], Ok(())));
            }
        }
    }

    // 9297-3.3-03
    #[test]
    fn a_stream_that_ends_inside_a_capsule_is_truncated(capsules in vec_of(capsule(), 1..4), at in any::<prop::sample::Index>()) {
        let bytes = encoded(&capsules);
        let cut = at.index(bytes.len());
        let mut boundaries = vec![0];
        for capsule in &capsules {
            boundaries.push(boundaries.last().unwrap() + capsule.encoded_len());
        }
        let expected = if boundaries.contains(&cut) {
            Ok(())
        } else {
            Err(WireError::new(WireErrorKind::CapsuleTruncated, cut))
        };
        prop_assert_eq!(run(&bytes[..cut]).1, expected);
    }

    // 9297-3.2-02: any type, any length, nothing kept.
    #[test]
    fn unknown_capsules_are_skipped(ty in varint(), junk in vec_of(any::<u8>(), 0..300)) {
        prop_assume!(ty.into_inner() > 3);
        let length = VarInt::from_u32(junk.len() as u32);
        let mut bytes = Vec::new();
        ty.encode(&mut bytes);
        length.encode(&mut bytes);
        bytes.extend_from_slice(&junk);
        bytes.extend_from_slice(&[0x03, 0x00]);
        let routes = Capsule::RouteAdvertisement(RouteAdvertisement::default());
        let expected = vec![CapsuleEvent::Unknown { ty, length }, CapsuleEvent::Capsule(routes)];
        prop_assert_eq!(run(&bytes), (expected, Ok(())));
    }

    // 9484-4.7.3-06, 9484-4.7.3-07, 9484-4.7.3-08, 9484-4.7.3-10
    #[test]
    fn normalised_routes_are_legal_and_mean_the_same(ranges in small_ranges()) {
        let routes = RouteAdvertisement::from_unordered(ranges.clone());
        prop_assert_eq!(RouteAdvertisement::new(routes.ranges().to_vec()), Ok(routes.clone()));
        prop_assert_eq!(&RouteAdvertisement::from_unordered(routes.ranges().to_vec()), &routes);
        for pair in routes.ranges().windows(2) {
            let touch = successor(pair[0].end()) == Some(pair[1].start());
            prop_assert!(!touch || pair[0].protocol() != pair[1].protocol(), "not joined");
        }
        for address in (0..4).flat_map(|space| (0..32).map(move |n| small(space, n))) {
            for protocol in [1, 6, 17, 58, 99, 255] {
                let any = |ranges: &[AddressRange]| {
                    ranges.iter().any(|range| range.matches(address, protocol))
                };
                prop_assert_eq!(any(&ranges), any(routes.ranges()), "{} {}", address, protocol);
            }
        }
    }

    // 9484-4.7.3-06, 9484-4.7.3-07, 9484-4.7.3-08, 9484-4.7.3-09, 9484-4.7.3-10: judged by the text of the RFC: every pair, not neighbours only.
    #[test]
    fn a_list_is_legal_exactly_if_every_pair_is(mut ranges in small_ranges(), sorted in any::<bool>()) {
        if sorted {
            ranges.sort_by_key(|range| (range.start().is_ipv6(), range.protocol(), range.start()));
        }
        let mut legal = true;
        for (index, b) in ranges.iter().enumerate() {
            for a in &ranges[..index] {
                let version = |range: &AddressRange| range.start().is_ipv6();
                let same_version = version(a) == version(b);
                let overlap = a.start() <= b.end() && b.start() <= a.end();
                let any = (a.protocol() == 0) != (b.protocol() == 0);
                legal &= version(a) <= version(b);
                legal &= !same_version || a.protocol() <= b.protocol();
                legal &= !same_version || a.protocol() != b.protocol() || a.end() < b.start();
                legal &= !(same_version && any && overlap);
            }
        }
        prop_assert_eq!(RouteAdvertisement::new(ranges.clone()).is_ok(), legal);
        let mut value = Vec::new();
        route::encode(&ranges, &mut value);
        let mut bytes = vec![3];
        length(value.len()).encode(&mut bytes);
        bytes.extend(value);
        match run(&bytes) {
            (events, Ok(())) => prop_assert!(legal && events.len() == 1),
            (_, Err(error)) => prop_assert!(!legal && error.kind == WireErrorKind::RangeOrder),
        }
    }

    // 9484-4.7.2-02, 9484-4.7.2-03, 9484-4.7.2-04
    #[test]
    fn a_request_has_entries_with_distinct_non_zero_ids(ids in vec_of(0..6u32, 0..5)) {
        let entries: Vec<_> = ids.iter().map(|&id| AddressEntry {
            request_id: RequestId(id.into()),
            prefix: IpPrefix::host(Ipv4Addr::UNSPECIFIED.into()),
        }).collect();
        let fault = ids.iter().enumerate().find_map(|(index, id)| match id {
            0 => Some((WireErrorKind::RequestIdZero, index)),
            id if ids[..index].contains(id) => Some((WireErrorKind::RequestIdReused, index)),
            _ => None,
        }).or(ids.is_empty().then_some((WireErrorKind::EmptyRequest, 0)));
        let made = AddressRequest::new(entries.clone());
        prop_assert_eq!(made.as_ref().err().copied(), fault.map(|(kind, _)| kind));
        let mut bytes = vec![2, 7 * ids.len() as u8];
        address::encode(&entries, &mut bytes);
        let expected = fault.map_or(Ok(()), |(kind, index)| Err(WireError::new(kind, 2 + 7 * index)));
        prop_assert_eq!(run(&bytes).1, expected);
    }
}

#[test]
fn a_datagram_inside_the_input_is_not_copied() {
    let bytes = Bytes::from_static(&[0x17, 0, 0x00, 3, 0, 1, 2, 0x00, 0]);
    let mut input = bytes.clone();
    let mut decoder = CapsuleDecoder::new(CapsuleLimits::default());
    assert!(matches!(
        decoder.decode(&mut input),
        Ok(Some(CapsuleEvent::Unknown { .. }))
    ));
    match decoder.decode(&mut input) {
        Ok(Some(CapsuleEvent::Capsule(Capsule::Datagram(payload)))) => {
            assert_eq!(payload.as_ptr(), bytes[4..].as_ptr());
            assert_eq!(payload, bytes.slice(4..7));
        }
        other => panic!("{other:?}"),
    }
}

// 9297-3.5-03
#[test]
fn an_oversize_datagram_is_skipped_and_the_next_capsule_read() {
    let mut bytes = vec![0x00, 21];
    bytes.extend([0xff; 21]);
    bytes.extend([0x00, 1, 7]);
    let length = VarInt::from_u32(21);
    let next = Capsule::Datagram(Bytes::from_static(&[7]));
    let events = vec![
        CapsuleEvent::DatagramTooLarge { length },
        CapsuleEvent::Capsule(next),
    ];
    let whole = run_pieces(core::iter::once(&bytes[..]), tight());
    assert_eq!(whole, (events, Ok(())));
}

// 9297-3.2-09
#[test]
fn an_oversize_capsule_is_refused_at_its_header() {
    for ty in 1..=3u8 {
        let fits = run_pieces(core::iter::once(&[ty, 40][..]), tight());
        assert_eq!(
            fits.1,
            Err(WireError::new(WireErrorKind::CapsuleTruncated, 2))
        );
        for header in [
            &[ty, 41][..],
            &[ty, 0xff, 255, 255, 255, 255, 255, 255, 255],
        ] {
            let (events, end) = run_pieces(core::iter::once(header), tight());
            assert_eq!(events, []);
            let error = end.unwrap_err();
            assert_eq!(error, WireError::new(WireErrorKind::CapsuleTooLarge, 1));
            assert_eq!(error.scope(), ErrorScope::Stream);
        }
    }
}

#[test]
fn announced_lengths_cost_no_memory() {
    let limits = CapsuleLimits {
        max_value: usize::MAX,
        max_datagram: usize::MAX,
        max_entries: usize::MAX,
    };
    for ty in 0..=4u8 {
        let header = [ty, 0xff, 255, 255, 255, 255, 255, 255, 255];
        let mut decoder = CapsuleDecoder::new(limits);
        let mut input = Bytes::copy_from_slice(&header);
        while decoder.decode(&mut input).unwrap().is_some() {}
        assert_eq!(decoder.buffered(), 0);
        for given in 1..=1000 {
            assert_eq!(decoder.decode(&mut Bytes::from_static(&[0])), Ok(None));
            assert!(decoder.buffered() <= 2 * given + 64);
        }
    }
}

#[test]
fn more_entries_than_the_limit_are_refused_where_they_begin() {
    let entries = vec![
        AddressEntry {
            request_id: RequestId::default(),
            prefix: IpPrefix::host(Ipv4Addr::LOCALHOST.into()),
        };
        3
    ];
    let bytes = encoded(&[Capsule::AddressAssign(AddressAssign(entries))]);
    let error = WireError::new(WireErrorKind::CapsuleTooMany, 2 + 2 * 7);
    assert_eq!(
        run_pieces(core::iter::once(&bytes[..]), tight()).1,
        Err(error)
    );
}

#[test]
fn errors_point_at_the_field() {
    for (bytes, kind, offset) in [
        (
            &[1, 7, 1, 5, 0, 0, 0, 0, 32][..],
            WireErrorKind::IpVersion,
            3,
        ),
        (
            &[1, 7, 1, 4, 0, 0, 0, 0, 33],
            WireErrorKind::PrefixLength,
            8,
        ),
        (&[1, 7, 1, 4, 0, 0, 0, 1, 31], WireErrorKind::HostBits, 8),
        (
            &[1, 6, 1, 4, 0, 0, 0, 1, 31],
            WireErrorKind::CapsuleLength,
            8,
        ),
        (&[0x17, 0, 2, 0], WireErrorKind::EmptyRequest, 4),
        (
            &[3, 10, 4, 0, 0, 0, 1, 0, 0, 0, 0, 0],
            WireErrorKind::RangeReversed,
            2,
        ),
    ] {
        let error = WireError::new(kind, offset);
        assert_eq!(run(bytes).1, Err(error));
        assert_eq!(error.code(), crate::H3Code::MESSAGE_ERROR);
    }
}
