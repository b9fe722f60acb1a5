//! What `explain` says, and that it survives anything.

use super::{Kind, hex, in_words};
use proptest::prelude::*;

fn explained(kind: Kind, digits: &str) -> (Kind, String, Option<String>) {
    in_words(kind, &hex(digits).expect("digits"))
}

#[test]
fn an_address_assign_is_told_entry_by_entry() {
    let (kind, text, wrong) = explained(Kind::Auto, "01 07 00 04 0a070002 20");
    assert_eq!((kind, wrong), (Kind::Capsule, None));
    for part in [
        "0x1 ADDRESS_ASSIGN",
        "7 bytes",
        "not asked for",
        "10.7.0.2/32",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn a_wrong_version_is_named_with_its_offset_and_answer() {
    let (_, text, wrong) = explained(Kind::Capsule, "01 07 00 05 0a070002 20");
    let wrong = wrong.expect("version 5");
    assert!(wrong.contains("byte 3"), "{wrong}");
    assert!(text.contains("wrong:"));
}

#[test]
fn host_bits_are_wrong_only_to_the_decoder_and_still_told() {
    let (_, text, wrong) = explained(Kind::Capsule, "01 07 00 04 0a070002 18");
    assert!(text.contains("10.7.0.2/24"));
    assert!(
        wrong
            .expect("bits below the prefix")
            .contains("H3_MESSAGE_ERROR")
    );
}

#[test]
fn settings_and_fields_are_told_by_name() {
    let (_, text, wrong) = explained(Kind::Stream, "00 04 04 0801 3301");
    assert_eq!(wrong, None, "{text}");
    assert!(text.contains("ENABLE_CONNECT_PROTOCOL (0x8) = 1"));
    let (_, text, wrong) = explained(Kind::Fields, "0000 d9");
    assert_eq!(wrong, None, "{text}");
    assert!(text.contains("field :status: 200"));
}

proptest! {
    #[test]
    fn anything_is_explained_and_no_offset_is_beyond_the_end(
        bytes in proptest::collection::vec(any::<u8>(), 0..80),
        kind in prop_oneof![
            Just(Kind::Auto), Just(Kind::Capsule), Just(Kind::Frame), Just(Kind::Datagram),
            Just(Kind::Fields), Just(Kind::Stream), Just(Kind::Packet),
        ],
    ) {
        let (_, text, _) = in_words(kind, &bytes);
        for line in text.lines() {
            let offset: usize = line.split_whitespace().next().expect("an offset").parse().expect("a number");
            prop_assert!(offset <= bytes.len());
        }
    }
}
