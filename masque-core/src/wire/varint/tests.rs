use alloc::vec::Vec;

use proptest::prelude::*;

use super::VarInt;

fn any_varint() -> impl Strategy<Value = VarInt> {
    // All four lengths as often.
    (0..=VarInt::MAX.into_inner(), 0u32..62).prop_map(|(value, shift)| VarInt(value >> shift))
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(value in any_varint(), tail: Vec<u8>) {
        let mut bytes = Vec::new();
        value.encode(&mut bytes);
        let length = bytes.len();
        prop_assert_eq!(length, value.encoded_len());
        bytes.extend(tail);
        prop_assert_eq!(VarInt::decode(&bytes), Some((value, length)));
        // 9000-16-04: a cut integer is incomplete, not another value.
        for cut in 0..length {
            prop_assert_eq!(VarInt::decode(&bytes[..cut]), None);
        }
    }

    #[test]
    fn any_length_that_fits_is_accepted(value in any_varint(), exponent in 0u8..4) {
        // 9000-16-02
        let exponent = exponent.max(value.encoded_len().ilog2() as u8);
        let length = 1usize << exponent;
        let mut bytes = value.into_inner().to_be_bytes()[8 - length..].to_vec();
        bytes[0] |= exponent << 6;
        prop_assert_eq!(VarInt::decode(&bytes), Some((value, length)));
    }

    #[test]
    fn whatever_is_decoded_has_no_shorter_encoding_than_ours(bytes: Vec<u8>) {
        if let Some((value, length)) = VarInt::decode(&bytes) {
            prop_assert!(length <= bytes.len() && value <= VarInt::MAX);
            prop_assert!(value.encoded_len() <= length);
        }
    }

    #[test]
    fn values_over_62_bits_are_refused(value: u64) {
        // 9000-16-03
        prop_assert_eq!(VarInt::new(value).is_some(), value < 1 << 62);
        prop_assert_eq!(VarInt::try_from(value).is_err(), value >= 1 << 62);
        prop_assert_eq!(u64::from(VarInt::saturating(value)), value.min((1 << 62) - 1));
    }
}

#[test]
fn lengths_change_where_rfc_9000_says() {
    // 9000-16-01
    for (value, length) in [
        (0x3f, 1),
        (0x40, 2),
        (0x3fff, 2),
        (0x4000, 4),
        (0x3fff_ffff, 4),
        (0x4000_0000, 8),
        ((1 << 62) - 1, 8),
    ] {
        assert_eq!(VarInt::new(value).map(VarInt::encoded_len), Some(length));
    }
}
