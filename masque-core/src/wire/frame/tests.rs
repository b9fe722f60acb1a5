use alloc::vec;
use alloc::vec::Vec;

use bytes::Bytes;
use proptest::prelude::*;

use super::{FrameDecoder, FrameEvent, FrameType, MAX_KEPT, State, encode_goaway, encode_header};
use crate::error::{WireError, WireErrorKind};
use crate::wire::settings::Settings;
use crate::wire::varint::VarInt;

const MAX_HEADERS: usize = 64;

/// Everything a decoder says of `pieces`, with neighbouring DATA joined, up to the first error.
fn run<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<FrameEvent>, Result<(), WireError>) {
    let mut decoder = FrameDecoder::new(MAX_HEADERS);
    let mut events = Vec::new();
    for piece in pieces {
        let mut input = Bytes::copy_from_slice(piece);
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(event)) => push(&mut events, event),
                Ok(None) => break,
                Err(error) => return (events, Err(error)),
            }
        }
        assert!(input.is_empty(), "`Ok(None)` with bytes left");
        assert!(kept(&decoder) <= 2 * (MAX_KEPT + MAX_HEADERS));
    }
    (events, decoder.finish())
}

fn push(events: &mut Vec<FrameEvent>, event: FrameEvent) {
    match (events.last_mut(), event) {
        (Some(FrameEvent::Data(before)), FrameEvent::Data(piece)) => {
            assert!(!piece.is_empty(), "an empty piece of DATA");
            *before = [&before[..], &piece[..]].concat().into();
        }
        (_, event) => events.push(event),
    }
}

fn kept(decoder: &FrameDecoder) -> usize {
    match &decoder.state {
        State::Whole { held, .. } => held.capacity(),
        _ => 0,
    }
}

fn varint() -> impl Strategy<Value = VarInt> {
    (0..=VarInt::MAX.into_inner(), 0u32..62)
        .prop_map(|(value, shift)| VarInt::saturating(value >> shift))
}

/// A frame as bytes, and the events it stands for.
fn frame() -> impl Strategy<Value = (Vec<u8>, Vec<FrameEvent>)> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..MAX_HEADERS);
    let id = |ty| {
        varint().prop_map(move |id| {
            let mut payload = Vec::new();
            id.encode(&mut payload);
            let event = match ty {
                FrameType::GoAway => FrameEvent::GoAway(id),
                FrameType::CancelPush => FrameEvent::CancelPush(id),
                _ => FrameEvent::MaxPushId(id),
            };
            (ty, payload, Some(event))
        })
    };
    let skipped = prop_oneof![
        Just(FrameType::PushPromise),
        Just(FrameType::from_varint(VarInt::from_u32(0x02))),
        Just(FrameType::from_varint(VarInt::from_u32(0x21))),
        Just(FrameType::from_varint(VarInt::MAX)),
    ];
    prop_oneof![
        bytes().prop_map(|payload| {
            let data = Bytes::from(payload.clone());
            let event = (!data.is_empty()).then_some(FrameEvent::Data(data));
            (FrameType::Data, payload, event)
        }),
        bytes().prop_map(|payload| {
            let event = FrameEvent::Headers(payload.clone().into());
            (FrameType::Headers, payload, Some(event))
        }),
        (skipped, bytes()).prop_map(|(ty, payload)| (ty, payload, None)),
        id(FrameType::GoAway),
        id(FrameType::CancelPush),
        id(FrameType::MaxPushId),
    ]
    .prop_map(|(ty, payload, event)| {
        let mut frame = Vec::new();
        encode_header(ty, payload.len(), &mut frame);
        let length = payload.len() as u64;
        frame.extend(payload);
        let events = [Some(FrameEvent::Header { ty, length }), event];
        (frame, events.into_iter().flatten().collect())
    })
}

proptest! {
    #[test]
    fn frames_are_found_however_the_stream_is_split(
        frames in prop::collection::vec(frame(), 0..6),
        size in 1usize..40,
    ) {
        // 9114-7.1-03
        let stream: Vec<u8> = frames.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let mut expected = Vec::new();
        for event in frames.into_iter().flat_map(|(_, events)| events) {
            push(&mut expected, event);
        }
        let expected = (expected, Ok(()));
        prop_assert_eq!(&run([&stream[..]]), &expected);
        prop_assert_eq!(&run(stream.chunks(size)), &expected);
        prop_assert_eq!(&run(stream.chunks(1)), &expected);
    }

    #[test]
    fn arbitrary_bytes_mean_the_same_however_they_are_split(
        // Small numbers, so that most types and lengths mean something.
        stream in prop::collection::vec(prop_oneof![0u8..16, any::<u8>()], 0..200),
        size in 1usize..40,
    ) {
        let whole = run([&stream[..]]);
        if let Err(error) = whole.1 {
            prop_assert!(error.offset <= stream.len());
        }
        prop_assert_eq!(&run(stream.chunks(size)), &whole);
        prop_assert_eq!(&run(stream.chunks(1)), &whole);
    }

    #[test]
    fn a_stream_that_ends_inside_a_frame_is_truncated((bytes, _) in frame(), cut: usize) {
        // 9114-7.1-02
        let cut = cut % bytes.len();
        let (_, end) = run([&bytes[..cut]]);
        let expected = if cut == 0 {
            Ok(())
        } else {
            Err(WireError::new(WireErrorKind::FrameTruncated, cut))
        };
        prop_assert_eq!(end, expected);
    }

    #[test]
    fn memory_follows_what_arrived_not_what_was_announced(
        ty in prop_oneof![
            Just(FrameType::Headers), Just(FrameType::Settings), Just(FrameType::GoAway),
            Just(FrameType::Data), Just(FrameType::PushPromise),
            Just(FrameType::Unknown(VarInt::from_u32(0x21))),
        ],
        length in 0..=VarInt::MAX.into_inner(),
        shift in 0u32..62,
        arriving in 0usize..200,
    ) {
        // 9114-10.5-01
        let mut bytes = Vec::new();
        ty.into_varint().encode(&mut bytes);
        VarInt::saturating(length >> shift).encode(&mut bytes);
        let mut decoder = FrameDecoder::new(usize::MAX);
        bytes.extend(vec![0x3f; arriving]);
        for (at, piece) in bytes.chunks(1).enumerate() {
            let mut input = Bytes::copy_from_slice(piece);
            loop {
                match decoder.decode(&mut input) {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => return Ok(()),
                }
            }
            prop_assert!(kept(&decoder) <= 2 * at + 8);
        }
    }

    #[test]
    fn types_keep_their_number(ty in varint()) {
        prop_assert_eq!(FrameType::from_varint(ty).into_varint(), ty);
    }
}

#[test]
fn payloads_wholly_in_the_input_are_not_copied() {
    let mut input = Bytes::from_static(&[0x01, 2, 0xaa, 0xbb, 0x00, 3, 1, 2, 3]);
    let source = input.clone();
    let mut decoder = FrameDecoder::new(MAX_HEADERS);
    let mut found = Vec::new();
    while let Ok(Some(event)) = decoder.decode(&mut input) {
        match event {
            FrameEvent::Headers(bytes) | FrameEvent::Data(bytes) => found.push(bytes),
            _ => {}
        }
    }
    let places: Vec<_> = found.iter().map(|bytes| bytes.as_ptr()).collect();
    assert_eq!(places, [source[2..].as_ptr(), source[6..].as_ptr()]);
}

#[test]
fn the_type_is_known_before_anything_is_wrong_with_the_length() {
    let cases = [
        (
            FrameType::Headers,
            MAX_HEADERS as u64 + 1,
            WireErrorKind::FieldSectionTooLarge,
        ),
        (
            FrameType::Settings,
            MAX_KEPT as u64 + 1,
            WireErrorKind::FrameTooLarge,
        ),
        (FrameType::GoAway, 0, WireErrorKind::FrameLength),
        (FrameType::CancelPush, 9, WireErrorKind::FrameLength),
        (
            FrameType::MaxPushId,
            VarInt::MAX.into_inner(),
            WireErrorKind::FrameLength,
        ),
    ];
    for (ty, length, kind) in cases {
        let mut bytes = Vec::new();
        ty.into_varint().encode(&mut bytes);
        VarInt::saturating(length).encode(&mut bytes);
        let offset = bytes.len();
        assert_eq!(
            run([&bytes[..]]),
            (
                vec![FrameEvent::Header { ty, length }],
                Err(WireError::new(kind, offset))
            )
        );
    }
}

#[test]
fn payloads_at_the_limit_are_taken() {
    let mut headers = Vec::new();
    encode_header(FrameType::Headers, MAX_HEADERS, &mut headers);
    headers.extend([0; MAX_HEADERS]);
    let (events, end) = run([&headers[..]]);
    assert_eq!(end, Ok(()));
    assert_eq!(
        events.last(),
        Some(&FrameEvent::Headers(vec![0; MAX_HEADERS].into()))
    );

    let mut settings = Vec::new();
    encode_header(FrameType::Settings, MAX_KEPT, &mut settings);
    for id in 0x4000..0x4000 + MAX_KEPT as u32 / 8 {
        VarInt::from_u32(id).encode(&mut settings);
        VarInt::from_u32(0x4000).encode(&mut settings);
    }
    let (events, end) = run(settings.chunks(1000));
    assert_eq!(end, Ok(()));
    assert!(matches!(events.last(), Some(FrameEvent::Settings(_))));
}

#[test]
fn the_payload_is_exactly_the_fields() {
    // 9114-7.1-01, 9114-10.8-01
    for (bytes, offset) in [
        (&[0x07, 2, 0, 0][..], 3),
        (&[0x07, 1, 0x40], 3),
        (&[0x03, 4, 0x40, 0, 1, 1], 4),
        (&[0x0d, 8, 0x80, 0, 0, 0, 0, 0, 0, 0], 6),
        (&[0x04, 3, 0x33, 1, 0x08], 4),
    ] {
        let (_, end) = run([bytes]);
        assert_eq!(
            end,
            Err(WireError::new(WireErrorKind::FrameLength, offset)),
            "{bytes:?}"
        );
    }
}

#[test]
fn empty_frames_need_no_further_bytes() {
    let header = |ty| FrameEvent::Header { ty, length: 0 };
    assert_eq!(
        run([&[0x00, 0, 0x01, 0, 0x04, 0, 0x21, 0, 0x05, 0][..]]),
        (
            vec![
                header(FrameType::Data),
                header(FrameType::Headers),
                FrameEvent::Headers(Bytes::new()),
                header(FrameType::Settings),
                FrameEvent::Settings(Settings::default()),
                header(FrameType::Unknown(VarInt::from_u32(0x21))),
                header(FrameType::PushPromise),
            ],
            Ok(())
        )
    );
}

#[test]
fn goaway_is_written_as_it_is_read() {
    let mut bytes = Vec::new();
    encode_goaway(VarInt::from_u32(400), &mut bytes);
    assert_eq!(bytes, [0x07, 0x02, 0x41, 0x90]);
    assert_eq!(
        run([&bytes[..]]).0.last(),
        Some(&FrameEvent::GoAway(VarInt::from_u32(400)))
    );
}

#[test]
fn http2_types_are_told_from_unknown_ones() {
    // 9114-7.2.8-02
    for number in [0x02, 0x06, 0x08, 0x09] {
        let number = VarInt::from_u32(number);
        assert_eq!(FrameType::from_varint(number), FrameType::Http2(number));
    }
    // 9114-7.2.8-01
    for number in [0x21, 0x40, 0x0a, 0x0b, 0x0c, 0x0e] {
        let number = VarInt::from_u32(number);
        assert_eq!(FrameType::from_varint(number), FrameType::Unknown(number));
    }
}
