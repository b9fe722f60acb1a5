use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

/// An option as it stands in a header, and whether it is to be copied.
fn option() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(vec![1]),
        (2..=255u8, proptest::collection::vec(any::<u8>(), 0..12)).prop_map(|(kind, data)| {
            let mut option = vec![kind, data.len() as u8 + 2];
            option.extend(data);
            option
        }),
    ]
}

#[derive(Clone, Debug)]
struct Original {
    options: Vec<Vec<u8>>,
    /// Of a packet that is a fragment already.
    offset: u16,
    more: bool,
    payload: Vec<u8>,
}

impl Original {
    fn bytes(&self, dont_fragment: bool) -> Vec<u8> {
        let mut options = self.options.concat();
        options.resize(options.len().next_multiple_of(4), 0);
        let length = (20 + options.len() + self.payload.len()) as u16;
        let flags = u16::from(dont_fragment) << 14 | u16::from(self.more) << 13;
        let mut header = vec![0x45 + (options.len() / 4) as u8, 0xb8];
        header.extend_from_slice(&length.to_be_bytes());
        header.extend_from_slice(&[0xab, 0xcd]);
        header.extend_from_slice(&(flags | self.offset).to_be_bytes());
        header.extend_from_slice(&[64, 17, 0, 0, 192, 0, 2, 1, 198, 51, 100, 7]);
        header.extend_from_slice(&options);
        let checksum = Sum::default().add(&header).checksum();
        header[10..12].copy_from_slice(&checksum);
        header.extend_from_slice(&self.payload);
        header
    }
}

fn original(longest: usize) -> impl Strategy<Value = Original> {
    (
        proptest::collection::vec(option(), 0..6),
        prop_oneof![3 => Just(0u16), 1 => 0..4000u16],
        any::<bool>(),
        proptest::collection::vec(any::<u8>(), 0..longest),
    )
        .prop_map(|(mut options, offset, more, mut payload)| {
            while options.iter().map(Vec::len).sum::<usize>() > 40 {
                options.pop();
            }
            if more {
                payload.truncate(payload.len() & !7);
            }
            Original {
                options,
                offset,
                more,
                payload,
            }
        })
}

fn split(packet: &[u8], mtu: usize) -> Result<Vec<Vec<u8>>, FragmentError> {
    let put = |fragment: Fragment<'_>| {
        let mut bytes = Vec::new();
        fragment.put(&mut bytes);
        assert_eq!(bytes.len(), fragment.len());
        bytes
    };
    Ok(fragments(packet, mtu)?.map(put).collect())
}

proptest! {
    #[test]
    fn reassembly_gives_the_original_in_whatever_order(
        original in original(5000), mtu in MIN_MTU..3000, again in MIN_MTU..3000, backwards: bool
    ) {
        let packet = original.bytes(false);
        // Split twice, as two routers would.
        let mut parts = Vec::new();
        for part in split(&packet, mtu)? {
            let fits = part.len() <= again;
            let pieces = split(&part, again)?;
            prop_assert!(!fits || pieces == [part]);
            parts.extend(pieces);
        }
        if backwards {
            parts.reverse();
        }
        // RFC 791's model: a buffer of bytes, and the end known from the one without More Fragments.
        let (mut buffer, mut end) = (BTreeMap::new(), None);
        for part in &parts {
            prop_assert!(part.len() <= mtu.min(again));
            let info = PacketInfo::parse(part).expect("length and checksum hold");
            prop_assert_eq!(&part[4..6], &packet[4..6], "one identification");
            prop_assert_eq!((part[1], part[8], part[9]), (packet[1], packet[8], packet[9]));
            prop_assert_eq!(&part[12..20], &packet[12..20]);
            let word = u16::from_be_bytes([part[6], part[7]]);
            let start = usize::from(word & OFFSET) * 8;
            let payload = &part[info.transport_offset..];
            for (at, byte) in payload.iter().enumerate() {
                prop_assert_eq!(buffer.insert(start + at, *byte), None, "no byte twice");
            }
            if word & MORE_FRAGMENTS == 0 {
                prop_assert_eq!(end.replace(start + payload.len()), None, "one end");
            } else {
                prop_assert_eq!(payload.len() % 8, 0);
            }
            // Every option in the first, those with the copied flag in the others.
            let first = word & OFFSET == original.offset;
            let kept = original.options.iter().filter(|option| first || option[0] & COPIED != 0);
            let mut expected = kept.flatten().copied().collect::<Vec<_>>();
            expected.resize(expected.len().next_multiple_of(4), 0);
            prop_assert_eq!(&part[20..info.transport_offset], &expected[..]);
        }
        let start = usize::from(original.offset) * 8;
        prop_assert_eq!(end, (!original.more).then_some(start + original.payload.len()));
        let positions: Vec<_> = buffer.keys().copied().collect();
        prop_assert_eq!(positions, (start..start + original.payload.len()).collect::<Vec<_>>());
        prop_assert_eq!(buffer.into_values().collect::<Vec<_>>(), original.payload);
    }

    #[test]
    fn with_dont_fragment_a_packet_stays_whole_or_is_refused(original in original(400), mtu in 0..500usize) {
        let packet = original.bytes(true);
        match split(&packet, mtu) {
            Ok(parts) => prop_assert!(parts == [packet.clone()] && packet.len() <= mtu),
            Err(error) => prop_assert!(packet.len() > mtu && error == FragmentError::DontFragment),
        }
    }

    #[test]
    fn below_the_least_mtu_nothing_is_split(original in original(400), mtu in 0..MIN_MTU) {
        let packet = original.bytes(false);
        match split(&packet, mtu) {
            Ok(parts) => prop_assert!(parts == [packet.clone()] && packet.len() <= mtu),
            Err(error) => prop_assert!(packet.len() > mtu && error == FragmentError::Mtu),
        }
    }

    #[test]
    fn any_bytes_are_split_or_refused(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..400), mtu in 0..200usize, whole: bool
    ) {
        if whole && bytes.len() >= 20 {
            // A header that holds, around options that may not.
            let words = (bytes.len() / 4).min(15);
            let length = bytes.len() as u16;
            bytes[0] = 0x40 | (words as u8).min(5 + bytes[0] % 11);
            bytes[2..4].copy_from_slice(&length.to_be_bytes());
            bytes[6] &= 0xbf;
            bytes[10..12].fill(0);
            let header = usize::from(bytes[0] & 15) * 4;
            let checksum = Sum::default().add(&bytes[..header]).checksum();
            bytes[10..12].copy_from_slice(&checksum);
        }
        if let Ok(parts) = split(&bytes, mtu) {
            for part in parts {
                prop_assert!(PacketInfo::parse(&part).is_ok());
            }
        }
    }
}

#[test]
fn an_end_beyond_65535_is_malformed() {
    let original = Original {
        options: Vec::new(),
        offset: 8190,
        more: false,
        payload: vec![0; 100],
    };
    let packet = original.bytes(false);
    assert_eq!(
        fragments(&packet, 68).err(),
        Some(FragmentError::Malformed),
        "offsets would run over"
    );
}

#[test]
fn a_broken_option_is_malformed() {
    for option in [vec![0x94, 0], vec![0x94, 1], vec![0x94, 9, 0, 0], vec![7]] {
        let mut original = Original {
            options: vec![option],
            offset: 0,
            more: false,
            payload: vec![0; 100],
        };
        if original.options[0].len() == 1 {
            original.options[0] = vec![1, 1, 1, 7];
        }
        let packet = original.bytes(false);
        assert_eq!(fragments(&packet, 68).err(), Some(FragmentError::Malformed));
    }
}

#[test]
fn ipv6_is_never_fragmented_on_the_way() {
    let mut packet = vec![0; 140];
    packet[0] = 0x60;
    packet[5] = 100;
    packet[6] = 59;
    assert_eq!(fragments(&packet, 68).err(), Some(FragmentError::Malformed));
}
