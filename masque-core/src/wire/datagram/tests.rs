use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

fn quarter() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..130u64,
        0x3ff0..0x4010u64,
        0..1u64 << 60,
        Just((1 << 60) - 1)
    ]
}

proptest! {
    // 9297-2.1-01, 9484-6-01
    #[test]
    fn the_header_opens_to_its_stream_and_context_zero(
        quarter in quarter(), packet in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let stream = StreamId::new(VarInt::new(quarter << 2).unwrap());
        let header = DatagramHeader::ip_packet(stream);
        let datagram: Vec<u8> = header.as_slice().iter().copied().chain(packet.iter().copied()).collect();
        let (opened, at) = open(&datagram).unwrap();
        prop_assert_eq!(opened, stream);
        let (context, len) = open_context(&datagram[at..]).unwrap();
        prop_assert_eq!(context, ContextId::IP_PACKET);
        prop_assert_eq!(&datagram[at + len..], &packet[..]);
    }

    // 9297-2.1-02, 9297-2.1-03
    #[test]
    fn only_a_whole_quarter_stream_id_below_two_to_the_60_opens(
        datagram in proptest::collection::vec(any::<u8>(), 0..16),
    ) {
        let legal = VarInt::decode(&datagram)
            .filter(|(quarter, _)| quarter.into_inner() < 1 << 60);
        match (open(&datagram), legal) {
            (Ok((stream, at)), Some((quarter, len))) => {
                prop_assert_eq!(stream.into_inner(), quarter.into_inner() * 4);
                prop_assert_eq!(at, len);
            }
            (Err(error), None) => {
                prop_assert_eq!(error, WireError::new(WireErrorKind::QuarterStreamId, 0));
                prop_assert_eq!(error.scope(), crate::ErrorScope::Connection);
            }
            (opened, legal) => prop_assert!(false, "{opened:?} but {legal:?}"),
        }
    }
}

#[test]
fn a_cut_context_id_is_none() {
    for cut in [&[][..], &[0x40], &[0x80, 0, 0], &[0xc0; 7]] {
        assert_eq!(open_context(cut), None);
    }
}
