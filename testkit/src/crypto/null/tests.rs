use bytes::BytesMut;
use proptest::prelude::*;
use quinn_proto::Side;
use quinn_proto::crypto::{HandshakeTokenKey, HmacKey, PacketKey};

use super::keys::{Level, NullPacketKey, TAG_LEN};
use super::{NullHmac, NullTokenKey, tag};

fn sealed(key: &NullPacketKey, number: u64, header: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut packet = [header, payload, &[0; TAG_LEN]].concat();
    key.encrypt(number, &mut packet, header.len());
    packet
}

fn opens(key: &NullPacketKey, number: u64, header: &[u8], rest: &[u8]) -> Option<Vec<u8>> {
    let mut payload = BytesMut::from(rest);
    key.decrypt(number, header, &mut payload).ok()?;
    Some(payload.to_vec())
}

proptest! {
    #[test]
    fn a_packet_stays_readable_and_opens(
        number: u64, header in proptest::collection::vec(any::<u8>(), 1..40),
        payload in proptest::collection::vec(any::<u8>(), 0..300)
    ) {
        let sender = NullPacketKey::new(b"secret", Level::Data, Side::Client, 0);
        let packet = sealed(&sender, number, &header, &payload);
        prop_assert_eq!(&packet[header.len()..packet.len() - TAG_LEN], &payload[..]);
        prop_assert_eq!(opens(&sender, number, &header, &packet[header.len()..]), Some(payload));
    }

    #[test]
    fn a_changed_bit_anywhere_is_refused(
        number: u64, at: proptest::sample::Index, bit in 0..8u32,
        payload in proptest::collection::vec(any::<u8>(), 0..300)
    ) {
        let key = NullPacketKey::new(b"secret", Level::Data, Side::Client, 0);
        let mut packet = sealed(&key, number, b"header", &payload);
        let at = at.index(packet.len());
        packet[at] ^= 1 << bit;
        let (header, rest) = packet.split_at(6);
        prop_assert_eq!(opens(&key, number, header, rest), None);
    }

    #[test]
    fn short_garbage_does_not_open(payload in proptest::collection::vec(any::<u8>(), 0..40)) {
        let key = NullPacketKey::new(b"secret", Level::Initial, Side::Server, 0);
        prop_assert_eq!(opens(&key, 0, b"header", &payload), None);
    }

    #[test]
    fn parts_do_not_run_into_each_other(
        bytes in proptest::collection::vec(any::<u8>(), 1..40), at: proptest::sample::Index
    ) {
        let (left, right) = bytes.split_at(at.index(bytes.len()));
        prop_assert_ne!(tag(&[left, right]), tag(&[&bytes]));
    }
}

#[test]
fn another_level_direction_phase_number_or_connection_does_not_open() {
    let key = |secret: &[u8], level, side, phase| NullPacketKey::new(secret, level, side, phase);
    let packet = sealed(
        &key(b"a", Level::Data, Side::Client, 0),
        7,
        b"h",
        b"payload",
    );
    let rest = &packet[1..];
    for (other, number) in [
        (key(b"b", Level::Data, Side::Client, 0), 7),
        (key(b"a", Level::Handshake, Side::Client, 0), 7),
        (key(b"a", Level::Data, Side::Server, 0), 7),
        (key(b"a", Level::Data, Side::Client, 1), 7),
        (key(b"a", Level::Data, Side::Client, 0), 8),
    ] {
        assert_eq!(opens(&other, number, b"h", rest), None);
    }
}

#[test]
fn tokens_and_signatures_hold_only_under_their_own_key() {
    let mut sealed = b"token".to_vec();
    let aead = NullTokenKey([1; 32]).aead_from_hkdf(b"nonce");
    aead.seal(&mut sealed, b"").expect("never fails");
    let other = NullTokenKey([2; 32]).aead_from_hkdf(b"nonce");
    assert!(other.open(&mut sealed.clone(), b"").is_err());
    assert_eq!(aead.open(&mut sealed, b"").expect("own key"), b"token");

    let mut signature = [0; 32];
    NullHmac([1; 32]).sign(b"data", &mut signature);
    assert!(NullHmac([1; 32]).verify(b"data", &signature).is_ok());
    assert!(NullHmac([2; 32]).verify(b"data", &signature).is_err());
    assert!(NullHmac([1; 32]).verify(b"date", &signature).is_err());
}
