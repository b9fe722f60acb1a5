use proptest::prelude::*;

use super::*;
use crate::endpoint::config::{Limits, TransportProfile};
use crate::endpoint::owners::Owners;
use crate::session::{SessionConfig, TunnelId};

fn shards(count: u16) -> NonZeroU16 {
    NonZeroU16::new(count).expect("not 0")
}

fn shared(count: u16) -> Shared {
    let config = Config {
        server: None,
        transport: TransportProfile::default(),
        limits: Limits::default(),
        session: SessionConfig::default(),
        ports: Vec::new(),
        shard: None,
    };
    Shared::new(&config, shards(count))
}

proptest! {
    /// Whatever arrives: there is an answer, and it is one of the shards.
    #[test]
    fn every_datagram_has_a_shard(data: Vec<u8>, count in 1..=MAX_SHARDS) {
        prop_assert!(shard_of(&data, shards(count)).0 < count);
    }

    /// The destination connection ID stands where RFC 8999 §5 puts it, whatever the version.
    #[test]
    fn the_first_byte_of_the_connection_id_decides(
        byte: u8,
        rest: [u8; 16],
        count in 1..=MAX_SHARDS,
    ) {
        let expected = ShardId(u16::from(byte) % count);
        let short = [&[0x40, byte][..], &rest].concat();
        prop_assert_eq!(shard_of(&short, shards(count)), expected);
        let long = [&[0xc0, 0, 0, 0, 1, 8, byte][..], &rest].concat();
        prop_assert_eq!(shard_of(&long, shards(count)), expected);
        let no_id = [&[0xc0, 0, 0, 0, 1, 0, byte][..], &rest].concat();
        prop_assert_eq!(shard_of(&no_id, shards(count)), ShardId(0));
    }

    /// However far a shard is behind the others, it ends up with what they have.
    #[test]
    fn every_copy_of_the_owners_becomes_the_same(
        steps in prop::collection::vec((0..2_u64, 0..700_u32, any::<bool>()), 1..12),
    ) {
        let shared = shared(2);
        let mut copies = [(Owners::default(), 0), (Owners::default(), 0)];
        let mut next = 0_u32;
        let mut all = Vec::new();
        for (shard, count, release) in steps {
            for _ in 0..count {
                next += 1;
                let address = std::net::Ipv4Addr::from(0x0a00_0000 + next % 1000);
                let prefix = crate::wire::prefix::IpPrefix::host(address.into());
                let tunnel = TunnelHandle {
                    conn: ConnId(shard),
                    tunnel: TunnelId(next % 3),
                };
                let change = if release {
                    Change::Release(prefix, tunnel)
                } else {
                    Change::Claim(prefix, tunnel)
                };
                let (owners, seen) = &mut copies[usize::from(shard == 1)];
                shared.announce(&[change], owners, seen);
                all.push(address);
            }
        }
        for (index, (owners, seen)) in copies.iter_mut().enumerate() {
            let id = ShardId(u16::try_from(index).expect("0 or 1"));
            shared.catch_up(id, owners, seen);
            prop_assert!(!shared.has_news(id, *seen));
        }
        let [(one, _), (other, _)] = &copies;
        prop_assert_eq!(one.len(), other.len());
        for address in all {
            prop_assert_eq!(one.of(address.into()), other.of(address.into()));
        }
    }
}

#[test]
fn a_connection_id_tells_its_shard_and_the_newer_is_the_greater() {
    let shared = shared(3);
    let ids: Vec<ConnId> = [0, 2, 2, 1, 0]
        .map(|shard| {
            let id = shared.next_id(ShardId(shard));
            assert_eq!(shared.home(id), ShardId(shard));
            id
        })
        .to_vec();
    assert!(ids.is_sorted_by(|older, newer| older < newer));
}

#[test]
fn a_notice_reaches_its_shard_once() {
    let shared = shared(2);
    let notice = Notice::Replace(shared.next_id(ShardId(1)));
    shared.leave(notice);
    assert!(!shared.has_news(ShardId(0), 0));
    assert!(shared.has_news(ShardId(1), 0));
    let (mut owners, mut seen) = (Owners::default(), 0);
    let mut read = || shared.catch_up(ShardId(1), &mut owners, &mut seen);
    assert_eq!(read(), [notice]);
    assert_eq!(read(), []);
    assert!(!shared.has_news(ShardId(1), 0));
}

#[test]
fn there_are_no_more_shards_than_the_bytes_of_a_connection_id_can_tell() {
    assert_eq!(shared(1000).shards(), shards(MAX_SHARDS));
}
