use alloc::vec;
use alloc::vec::Vec;

use bytes::Bytes;
use proptest::prelude::*;

use super::prefix_int::{self, Prefix};
use super::static_table::{self, Match};
use super::{DecoderStream, EncoderStream, decode, encode, huffman};
use crate::error::{WireError, WireErrorKind};
use crate::wire::fields::FieldList;
use crate::wire::varint::VarInt;

fn varint() -> impl Strategy<Value = VarInt> {
    (0..=VarInt::MAX.into_inner(), 0u32..62)
        .prop_map(|(value, shift)| VarInt::saturating(value >> shift))
}

fn prefix() -> impl Strategy<Value = Prefix> {
    (1u8..=8).prop_filter_map("1 to 8 bits", Prefix::new)
}

/// Any bytes, and often lines that the static table has in part or whole.
fn fields() -> impl Strategy<Value = FieldList> {
    let entry = (0..static_table::ENTRIES.len()).prop_map(|index| static_table::ENTRIES[index]);
    let name = prop_oneof![
        any::<Vec<u8>>(),
        entry.clone().prop_map(|(name, _)| name.into()),
        "[a-z-]{0,20}".prop_map(Vec::from),
    ];
    let value = prop_oneof![any::<Vec<u8>>(), "[ -~]{0,200}".prop_map(Vec::from)];
    let line = prop_oneof![
        (name, value),
        entry.prop_map(|(name, value)| (name.into(), value.into())),
    ];
    prop::collection::vec(line, 0..12).prop_map(|lines| {
        let mut fields = FieldList::default();
        for (name, value) in lines {
            fields.push(name, value);
        }
        fields
    })
}

fn error<T>(result: Result<T, WireError>) -> Option<(WireErrorKind, usize)> {
    result.err().map(|error| (error.kind, error.offset))
}

mod integers {
    use super::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            prefix in prefix(), flags: u8, value in varint(), tail: Vec<u8>,
        ) {
            // 9204-4.1.1-01
            let mut bytes = Vec::new();
            prefix_int::encode(flags, prefix, value, &mut bytes);
            let length = bytes.len();
            prop_assert!(length <= prefix_int::MAX_LEN);
            prop_assert_eq!(bytes[0] & !prefix.mask(), flags & !prefix.mask());
            bytes.extend(tail);
            prop_assert_eq!(prefix_int::decode(prefix, &bytes), Ok(Some((value, length))));
            for cut in 0..length {
                prop_assert_eq!(prefix_int::decode(prefix, &bytes[..cut]), Ok(None));
            }
        }

        #[test]
        fn arbitrary_bytes_are_an_integer_or_an_error_inside_them(
            prefix in prefix(),
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0x80u8..], 0..16),
        ) {
            match prefix_int::decode(prefix, &bytes) {
                Ok(Some((value, length))) => {
                    prop_assert!(length <= bytes.len() && value <= VarInt::MAX);
                }
                Ok(None) => prop_assert!(bytes.len() < prefix_int::MAX_LEN),
                Err(error) => {
                    prop_assert_eq!(error.kind, WireErrorKind::QpackInteger);
                    prop_assert!(error.offset < bytes.len());
                }
            }
        }
    }

    #[test]
    fn a_prefix_has_one_to_eight_bits() {
        let valid: Vec<_> = (0..=u8::MAX)
            .filter(|&bits| Prefix::new(bits).is_some())
            .collect();
        assert_eq!(valid, [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn values_over_62_bits_and_endless_encodings_are_refused() {
        // 9204-7.4-01
        let mut over = vec![0xff; 10];
        over[9] = 0x7f;
        assert_eq!(
            error(prefix_int::decode(Prefix::SEVEN, &over)),
            Some((WireErrorKind::QpackInteger, 9))
        );
        let mut zeros = vec![0x80; 20];
        zeros[0] = 0xff;
        assert_eq!(
            error(prefix_int::decode(Prefix::SEVEN, &zeros)),
            Some((WireErrorKind::QpackInteger, 9))
        );
    }
}

mod strings {
    use super::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_are_text_or_an_error_inside_them(coded: Vec<u8>) {
            match huffman::decode(&coded) {
                Ok(text) => prop_assert!(text.len() <= coded.len() * 8 / 5),
                Err(error) => prop_assert!(error.offset <= coded.len()),
            }
        }

        #[test]
        fn what_is_encoded_is_decoded(text: Vec<u8>) {
            let mut coded = Vec::new();
            huffman::encode(&text, &mut coded);
            prop_assert_eq!(coded.len(), huffman::encoded_len(&text));
            prop_assert_eq!(huffman::decode(&coded), Ok(text));
        }

        #[test]
        fn each_text_has_one_code(text: Vec<u8>, last: u8, change: bool) {
            let mut coded = Vec::new();
            huffman::encode(&text, &mut coded);
            if change {
                // Other padding, or another symbol.
                coded.pop();
                coded.push(last);
            }
            match huffman::decode(&coded) {
                Ok(text) => {
                    let mut again = Vec::new();
                    huffman::encode(&text, &mut again);
                    prop_assert_eq!(again, coded);
                }
                Err(error) => {
                    prop_assert_eq!(error.kind, WireErrorKind::QpackHuffman);
                    prop_assert!(error.offset <= coded.len());
                }
            }
        }
    }

    #[test]
    fn one_symbol_of_each_length_has_the_code_of_rfc_7541() {
        // 9204-4.1.2-01. The code being canonical, the last code of each length fixes all others.
        let codes: [(u8, u32, u32); 20] = [
            (116, 0x9, 5),
            (117, 0x2d, 6),
            (122, 0x7b, 7),
            (90, 0xfd, 8),
            (63, 0x3fc, 10),
            (124, 0x7fc, 11),
            (62, 0xffb, 12),
            (126, 0x1ffd, 13),
            (125, 0x3ffd, 14),
            (123, 0x7ffe, 15),
            (208, 0x7fff2, 19),
            (226, 0xfffed, 20),
            (230, 0x1f_ffe8, 21),
            (233, 0x3f_ffeb, 22),
            (239, 0x7f_fff4, 23),
            (237, 0xff_fff5, 24),
            (235, 0x1ff_ffef, 25),
            (255, 0x3ff_ffee, 26),
            (254, 0x7ff_fff0, 27),
            (249, 0xfff_fffe, 28),
        ];
        for (symbol, code, length) in codes {
            let mut coded = Vec::new();
            huffman::encode(&[symbol], &mut coded);
            let padded = ((u64::from(code) + 1) << (32 - length)) - 1;
            let bytes = (padded as u32).to_be_bytes();
            assert_eq!(coded, bytes[..length.div_ceil(8) as usize], "{symbol}");
        }
    }

    #[test]
    fn eos_and_wrong_padding_are_refused() {
        // 9204-4.1.2-02
        for coded in [
            &[0xff, 0xff, 0xff, 0xff][..], // EOS
            &[0xff, 0xff, 0xff, 0xfc],     // EOS, then zeros
            &[0x00],                       // "0", then zeros
            &[0x06],                       // "0", then ones and a zero
            &[0x07, 0xff],                 // "0", then 11 ones
            &[0xff],                       // 8 ones
            &[0xf8, 0xff],                 // "&", then 8 ones
        ] {
            let (kind, offset) = error(huffman::decode(coded)).unzip();
            assert_eq!(kind, Some(WireErrorKind::QpackHuffman), "{coded:?}");
            assert!(offset <= Some(coded.len()));
        }
        assert_eq!(huffman::decode(&[]), Ok(vec![]));
        assert_eq!(huffman::decode(&[0x07]), Ok(b"0".to_vec()));
    }
}

mod sections {
    use super::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(fields in fields()) {
            // 9204-2.1-01, 9204-2.2-01
            let mut section = Vec::new();
            encode(&fields, &mut section);
            let decoded = decode(&section, fields.size());
            prop_assert_eq!(decoded.as_ref(), Ok(&fields));
            // 9204-3.2.3-01, 9204-4.5.1-01: nothing of ours needs a dynamic table.
            prop_assert!(section.starts_with(&[0, 0]));
            if let Some(less) = fields.size().checked_sub(1) {
                // 9114-4.2.2-01
                let kind = decode(&section, less).map_err(|error| error.kind);
                prop_assert_eq!(kind, Err(WireErrorKind::FieldSectionTooLarge));
            }
        }

        #[test]
        fn a_cut_section_is_truncated_or_ends_between_lines(fields in fields(), cut: usize) {
            // 9204-4.5-02
            let mut section = Vec::new();
            encode(&fields, &mut section);
            let cut = cut % section.len();
            match decode(&section[..cut], usize::MAX) {
                Ok(first) => {
                    let length = first.0.len();
                    prop_assert_eq!(&first.0[..], &fields.0[..length]);
                    let mut again = Vec::new();
                    encode(&first, &mut again);
                    prop_assert_eq!(again.len(), cut);
                }
                Err(error) => {
                    prop_assert_eq!(error, WireError::new(WireErrorKind::QpackTruncated, cut));
                }
            }
        }

        #[test]
        fn arbitrary_bytes_are_fields_or_an_error_inside_them(
            mut section: Vec<u8>, plain: bool, max in 0usize..4096,
        ) {
            if plain {
                section.splice(0..0, [0, 0]);
            }
            match decode(&section, max) {
                Ok(fields) => prop_assert!(fields.size() <= max),
                Err(error) => prop_assert!(error.offset <= section.len()),
            }
        }
    }

    #[test]
    fn errors_point_at_the_line_or_byte_that_is_wrong() {
        let cases: [(&[u8], WireErrorKind, usize); 11] = [
            // 9204-4.5.1.1-01, 9204-2.1.2-01: nothing may block.
            (&[0x01, 0x00, 0xd9], WireErrorKind::QpackDynamic, 0),
            // 9204-4.5.1.2-01
            (&[0x00, 0x80, 0xd9], WireErrorKind::QpackDynamic, 1),
            // 9204-2.2.1-01, 9204-2.2.3-01, in all four dynamic representations of 9204-4.5-01
            (&[0x00, 0x00, 0xd9, 0x80], WireErrorKind::QpackDynamic, 3),
            (&[0x00, 0x00, 0xd9, 0x10], WireErrorKind::QpackDynamic, 3),
            (
                &[0x00, 0x00, 0x40, 0x01, 0x61],
                WireErrorKind::QpackDynamic,
                2,
            ),
            (
                &[0x00, 0x00, 0x00, 0x01, 0x61],
                WireErrorKind::QpackDynamic,
                2,
            ),
            // 9204-3.1-01
            (
                &[0x00, 0x00, 0xff, 0x24],
                WireErrorKind::QpackStaticIndex,
                2,
            ),
            (
                &[0x00, 0x00, 0x5f, 0x54, 0x00],
                WireErrorKind::QpackStaticIndex,
                2,
            ),
            // A length far beyond the section.
            (
                &[
                    0x00, 0x00, 0x50, 0x7f, 0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f,
                ],
                WireErrorKind::QpackTruncated,
                13,
            ),
            // 9204-7.4-01
            (
                &[
                    0x00, 0x00, 0x50, 0x7f, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80,
                ],
                WireErrorKind::QpackInteger,
                12,
            ),
            // Zero padding in a Huffman value.
            (
                &[0x00, 0x00, 0x50, 0x82, 0x07, 0x00],
                WireErrorKind::QpackHuffman,
                5,
            ),
        ];
        for (section, kind, offset) in cases {
            assert_eq!(
                error(decode(section, usize::MAX)),
                Some((kind, offset)),
                "{section:02x?}"
            );
        }
    }

    #[test]
    fn every_static_entry_takes_its_index_alone_unless_it_holds_credentials() {
        for (index, (name, value)) in static_table::ENTRIES.into_iter().enumerate() {
            let mut fields = FieldList::default();
            fields.push(name, value);
            let mut section = Vec::new();
            encode(&fields, &mut section);
            if ["authorization", "cookie", "set-cookie"].contains(&name) {
                // 9204-4.5.4-01: the N bit.
                assert_eq!(section[2] & 0b1111_0000, 0b0111_0000, "{name}");
                continue;
            }
            let found = static_table::find(name.as_bytes(), value.as_bytes());
            assert_eq!(found, Match::Line(index as u8));
            let mut expected = vec![0, 0];
            let index = VarInt::from_u32(index as u32);
            prefix_int::encode(0xc0, Prefix::SIX, index, &mut expected);
            assert_eq!(section, expected);
        }
    }

    #[test]
    fn static_entries_are_those_of_rfc_9204() {
        // 9204-3.1-01
        let expected = [
            (0, ":authority", ""),
            (1, ":path", "/"),
            (4, "content-length", "0"),
            (12, "location", ""),
            (15, ":method", "CONNECT"),
            (17, ":method", "GET"),
            (22, ":scheme", "http"),
            (23, ":scheme", "https"),
            (24, ":status", "103"),
            (25, ":status", "200"),
            (28, ":status", "503"),
            (44, "content-type", "application/dns-message"),
            (54, "content-type", "text/plain;charset=utf-8"),
            (63, ":status", "100"),
            (68, ":status", "403"),
            (71, ":status", "500"),
            (84, "authorization", ""),
            (92, "server", ""),
            (95, "user-agent", ""),
            (98, "x-frame-options", "sameorigin"),
        ];
        for (index, name, value) in expected {
            assert_eq!(static_table::ENTRIES[index], (name, value));
        }
        assert_eq!(static_table::find(b":status", b"501"), Match::Name(24));
        assert_eq!(static_table::find(b":protocol", b""), Match::None);
    }

    #[test]
    fn huffman_is_used_only_where_it_is_shorter() {
        let mut fields = FieldList::default();
        fields.push(*b"x", *b"?1");
        let mut section = Vec::new();
        encode(&fields, &mut section);
        assert_eq!(section, *b"\0\0\x21x\x02?1");
    }
}

mod streams {
    use super::*;

    fn encoder(pieces: &[&[u8]]) -> Result<(), WireError> {
        let mut stream = EncoderStream::default();
        pieces
            .iter()
            .try_for_each(|piece| stream.feed(&mut Bytes::copy_from_slice(piece)))
    }

    fn decoder(pieces: &[&[u8]]) -> Result<(), WireError> {
        let mut stream = DecoderStream::default();
        pieces
            .iter()
            .try_for_each(|piece| stream.feed(&mut Bytes::copy_from_slice(piece)))
    }

    proptest! {
        #[test]
        fn splitting_changes_nothing(
            bytes in prop::collection::vec(
                prop_oneof![Just(0x20u8), Just(0x40), Just(0x7f), Just(0xff), any::<u8>()], 0..40,
            ),
            at: usize,
        ) {
            let at = at % (bytes.len() + 1);
            for stream in [encoder, decoder] {
                let whole = stream(&[&bytes]);
                if let Err(error) = whole {
                    prop_assert!(error.offset < bytes.len());
                }
                prop_assert_eq!(stream(&[&bytes[..at], &bytes[at..]]), whole);
                let single: Vec<_> = bytes.chunks(1).collect();
                prop_assert_eq!(stream(&single), whole);
            }
        }

        #[test]
        fn cancellations_of_any_stream_are_read_over(ids in prop::collection::vec(varint(), 0..8)) {
            let mut bytes = Vec::new();
            for id in ids {
                prefix_int::encode(0x40, Prefix::SIX, id, &mut bytes);
            }
            let mut input = Bytes::from(bytes);
            prop_assert_eq!(DecoderStream::default().feed(&mut input), Ok(()));
            prop_assert!(input.is_empty());
        }
    }

    #[test]
    fn only_capacity_zero_is_legal_on_the_encoder_stream() {
        // 9204-4.3-01
        for byte in 0..=u8::MAX {
            let expected = (byte != 0x20).then_some((WireErrorKind::QpackEncoderStream, 1));
            assert_eq!(error(encoder(&[&[0x20, byte]])), expected, "{byte:#x}");
        }
    }

    #[test]
    fn only_cancellation_is_legal_on_the_decoder_stream() {
        // 9204-4.4.1-01, 9204-4.4.3-01
        for byte in 0..=u8::MAX {
            let expected = (byte >> 6 != 0b01).then_some((WireErrorKind::QpackDecoderStream, 1));
            assert_eq!(error(decoder(&[&[0x40, byte]])), expected, "{byte:#x}");
        }
    }

    #[test]
    fn an_endless_cancellation_is_refused_and_feeding_on_does_not_panic() {
        // 9204-7.4-01
        let mut stream = DecoderStream::default();
        for _ in 0..3 {
            let fed = stream.feed(&mut Bytes::from_static(&[0x7f; 1]));
            assert_eq!(fed, Ok(()));
            let fed = stream.feed(&mut Bytes::from_static(&[0xff; 20]));
            assert_eq!(
                error(fed).unzip().0,
                Some(WireErrorKind::QpackDecoderStream)
            );
        }
    }
}

#[test]
fn error_codes_are_those_of_the_registry() {
    // 9204-6-01
    for (kind, code) in [
        (WireErrorKind::QpackDynamic, 0x200),
        (WireErrorKind::QpackStaticIndex, 0x200),
        (WireErrorKind::QpackHuffman, 0x200),
        (WireErrorKind::QpackEncoderStream, 0x201),
        (WireErrorKind::QpackDecoderStream, 0x202),
    ] {
        assert_eq!(
            (kind.code().0, kind.scope()),
            (code, crate::error::ErrorScope::Connection)
        );
    }
}

#[test]
fn the_largest_field_that_is_allowed_can_be_read() {
    for max in [1024, 16 << 10, 1 << 20] {
        let mut fields = FieldList::default();
        fields.push("n", vec![b'v'; max - 33]);
        let mut section = Vec::new();
        encode(&fields, &mut section);
        // 9204-7.4-02
        assert_eq!(decode(&section, max).as_ref(), Ok(&fields));
        let error = decode(&section, max - 1).map_err(|error| error.kind);
        assert_eq!(error, Err(WireErrorKind::FieldSectionTooLarge));
    }
}
