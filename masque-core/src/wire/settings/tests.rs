use alloc::vec;
use alloc::vec::Vec;

use bytes::Bytes;
use proptest::prelude::*;

use super::Settings;
use crate::error::{WireError, WireErrorKind};
use crate::wire::frame::{FrameDecoder, FrameEvent};
use crate::wire::varint::VarInt;

fn varint() -> impl Strategy<Value = VarInt> {
    (0..=VarInt::MAX.into_inner(), 0u32..62)
        .prop_map(|(value, shift)| VarInt::saturating(value >> shift))
}

fn settings() -> impl Strategy<Value = Settings> {
    let unknown_id = varint().prop_map(|id| match id.into_inner() {
        known @ (0..=8 | 0x33) => VarInt::saturating(0x100 + known),
        _ => id,
    });
    let unknown = prop::collection::vec((unknown_id, varint()), 0..Settings::MAX_UNKNOWN);
    (
        prop::option::of(varint()),
        varint(),
        varint(),
        any::<bool>(),
        any::<bool>(),
        unknown,
    )
        .prop_map(|(max, capacity, blocked, connect, datagram, mut unknown)| {
            let mut seen = Vec::new();
            unknown.retain(|&(id, _)| {
                !seen.contains(&id) && {
                    seen.push(id);
                    true
                }
            });
            Settings {
                max_field_section_size: max.map(VarInt::into_inner),
                qpack_max_table_capacity: capacity.into_inner(),
                qpack_blocked_streams: blocked.into_inner(),
                enable_connect_protocol: connect,
                h3_datagram: datagram,
                unknown,
            }
        })
}

fn payload(entries: &[(u64, u64)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for &(id, value) in entries {
        VarInt::saturating(id).encode(&mut bytes);
        VarInt::saturating(value).encode(&mut bytes);
    }
    bytes
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(settings in settings()) {
        let mut bytes = Vec::new();
        settings.encode_frame(&mut bytes);
        let mut input = Bytes::from(bytes);
        let mut decoder = FrameDecoder::new(0);
        let header = decoder.decode(&mut input);
        let is_header = matches!(header, Ok(Some(FrameEvent::Header { .. })));
        prop_assert!(is_header, "{:?}", header);
        prop_assert_eq!(
            decoder.decode(&mut input),
            Ok(Some(FrameEvent::Settings(settings)))
        );
        prop_assert_eq!(decoder.decode(&mut input), Ok(None));
        prop_assert_eq!(decoder.finish(), Ok(()));
    }

    #[test]
    fn arbitrary_payloads_give_settings_or_an_error_inside_them(bytes: Vec<u8>) {
        match Settings::decode(&bytes) {
            Ok(settings) => prop_assert!(settings.unknown.len() <= Settings::MAX_UNKNOWN),
            Err(error) => prop_assert!(error.offset <= bytes.len()),
        }
    }

    #[test]
    fn a_cut_setting_is_a_frame_error(settings in settings(), cut: usize) {
        // 9114-7.1-01
        let mut bytes = Vec::new();
        settings.encode_frame(&mut bytes);
        let whole = bytes.split_off(VarInt::decode(&bytes[1..]).map_or(0, |(_, n)| 1 + n));
        let cut = cut % (whole.len() + 1);
        match Settings::decode(&whole[..cut]) {
            Ok(prefix) => {
                // The cut fell between two settings.
                let mut again = Vec::new();
                prefix.encode_frame(&mut again);
                prop_assert!(again.ends_with(&whole[..cut]));
            }
            Err(error) => prop_assert_eq!(error.kind, WireErrorKind::FrameLength),
        }
    }
}

#[test]
fn errors_point_at_their_setting() {
    let error = |entries: &[(u64, u64)]| Settings::decode(&payload(entries)).err();
    for reserved in [0x00, 0x02, 0x03, 0x04, 0x05] {
        // 9114-7.2.4.1-03
        assert_eq!(
            error(&[(0x33, 1), (reserved, 0)]),
            Some(WireError::new(WireErrorKind::SettingsReserved, 2))
        );
    }
    for (flag, value) in [(0x08, 2), (0x33, 2), (0x33, u64::MAX)] {
        // 8441-3-01, 9297-2.1.1-02
        assert_eq!(
            error(&[(flag, value)]),
            Some(WireError::new(WireErrorKind::SettingsValue, 0))
        );
    }
    for twice in [0x01, 0x06, 0x07, 0x08, 0x33, 0x21] {
        // 9114-7.2.4-04, also where the first of the two says the default.
        assert_eq!(
            error(&[(twice, 0), (twice, 0)]),
            Some(WireError::new(WireErrorKind::SettingsDuplicate, 2))
        );
    }
}

#[test]
fn defaults_are_what_an_empty_frame_says_and_what_is_left_out() {
    // 9114-7.2.4-06, 9114-7.2.4.1-01, 9204-5-01, 9220-3-01
    assert_eq!(Settings::decode(&[]), Ok(Settings::default()));
    let mut bytes = Vec::new();
    Settings::default().encode_frame(&mut bytes);
    assert_eq!(bytes, [0x04, 0x00]);
    let zero = Settings {
        max_field_section_size: Some(0),
        ..Settings::default()
    };
    bytes.clear();
    zero.encode_frame(&mut bytes);
    assert_eq!(bytes, [0x04, 0x02, 0x06, 0x00]);
}

#[test]
fn only_so_many_unknown_settings_are_kept() {
    // 9114-7.2.4-05, 9114-10.5-01
    let entries: Vec<_> = (0x100..0x200).map(|id| (id, 0)).collect();
    let settings = Settings::decode(&payload(&entries)).map(|settings| settings.unknown);
    let first: Vec<_> = (0x100..0x100 + Settings::MAX_UNKNOWN as u32)
        .map(|id| (VarInt::from_u32(id), VarInt::default()))
        .collect();
    assert_eq!(settings, Ok(first));
}

#[test]
fn integers_the_wire_cannot_carry_are_written_as_the_largest() {
    let mut bytes = Vec::new();
    Settings {
        max_field_section_size: Some(u64::MAX),
        ..Settings::default()
    }
    .encode_frame(&mut bytes);
    let mut expected = vec![0x04, 0x09, 0x06];
    expected.extend([0xff; 8]);
    assert_eq!(bytes, expected);
}
