use alloc::string::ToString;

use proptest::prelude::*;

use super::{Direction, Role, StreamId, UniStreamType};
use crate::wire::varint::VarInt;

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Client), Just(Role::Server)]
}

fn direction() -> impl Strategy<Value = Direction> {
    prop_oneof![
        Just(Direction::Bidirectional),
        Just(Direction::Unidirectional)
    ]
}

proptest! {
    #[test]
    fn an_id_says_who_opened_it_and_which_way_it_goes(
        role in role(), direction in direction(), index: u32,
    ) {
        let id = StreamId::nth(role, direction, index);
        prop_assert_eq!(id.initiator(), role);
        prop_assert_eq!(id.direction(), direction);
        prop_assert_eq!(id.into_inner() >> 2, u64::from(index));
        prop_assert_eq!(
            id.is_request(),
            role == Role::Client && direction == Direction::Bidirectional
        );
        prop_assert_eq!(role.peer().peer(), role);
        prop_assert_ne!(role.peer(), role);
    }

    #[test]
    fn uni_stream_types_keep_their_number(ty in 0..=VarInt::MAX.into_inner()) {
        let ty = VarInt::saturating(ty);
        prop_assert_eq!(UniStreamType::from_varint(ty).into_varint(), ty);
    }
}

#[test]
fn the_first_ids_are_those_of_rfc_9000() {
    use Direction::{Bidirectional, Unidirectional};
    let id = |role, direction, index| StreamId::nth(role, direction, index).into_inner();
    assert_eq!(id(Role::Client, Bidirectional, 0), 0);
    assert_eq!(id(Role::Server, Bidirectional, 0), 1);
    assert_eq!(id(Role::Client, Unidirectional, 0), 2);
    assert_eq!(id(Role::Server, Unidirectional, 0), 3);
    assert_eq!(id(Role::Client, Bidirectional, 11), 44);
    assert_eq!(
        StreamId::new(VarInt::from_u32(44)),
        StreamId::nth(Role::Client, Bidirectional, 11)
    );
    assert_eq!(StreamId::new(VarInt::from_u32(44)).to_string(), "44");
}

#[test]
fn uni_stream_types_are_those_of_rfc_9114_and_9204() {
    let ty = |number| UniStreamType::from_varint(VarInt::from_u32(number));
    assert_eq!(ty(0), UniStreamType::Control);
    assert_eq!(ty(1), UniStreamType::Push);
    assert_eq!(ty(2), UniStreamType::QpackEncoder);
    assert_eq!(ty(3), UniStreamType::QpackDecoder);
    // 9114-6.2.3-01: a reserved type has no meaning.
    for reserved in [0x21, 0x40, 0x5f] {
        assert_eq!(
            ty(reserved),
            UniStreamType::Unknown(VarInt::from_u32(reserved))
        );
    }
}
