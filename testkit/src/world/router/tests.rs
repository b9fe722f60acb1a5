use super::*;
use proptest::prelude::*;

fn nat(mapping: Dependence, filtering: Dependence) -> Nat {
    Nat::new(NatConfig {
        public: IpAddr::from([203, 0, 113, 77]),
        mapping,
        filtering,
        expiry: Duration::from_secs(30),
    })
}

fn inner(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 5000))
}

fn peer(last: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], port))
}

proptest! {
    // RFC 4787 §4.1 and §5, word for word: when two datagrams share an outer address, and who may answer.
    #[test]
    fn mappings_and_filters_depend_on_what_they_are_said_to(
        mapping in 0..3usize, filtering in 0..3usize, a in 0..3u8, b in 0..3u8,
        ports in proptest::array::uniform2(1..3u16)
    ) {
        let all = [Dependence::Nothing, Dependence::Address, Dependence::AddressAndPort];
        let same = |what: Dependence, one: SocketAddr, other: SocketAddr| match what {
            Dependence::Nothing => true,
            Dependence::Address => one.ip() == other.ip(),
            Dependence::AddressAndPort => one == other,
        };
        let (mapping, filtering) = (all[mapping], all[filtering]);
        let mut nat = nat(mapping, filtering);
        let (one, other) = (peer(a, ports[0]), peer(b, ports[1]));
        let (first, _) = nat.outward(Duration::ZERO, inner(1), one);
        prop_assert_eq!(
            nat.inward(Duration::ZERO, other, first).is_some(),
            same(filtering, one, other)
        );
        let (second, _) = nat.outward(Duration::ZERO, inner(1), other);
        prop_assert_eq!(first == second, same(mapping, one, other));
        let (third, _) = nat.outward(Duration::ZERO, inner(2), one);
        prop_assert_ne!(first, third);
        prop_assert_eq!(nat.inward(Duration::ZERO, one, third), Some(inner(2)));
    }
}

#[test]
fn a_mapping_lives_while_something_leaves_through_it() {
    let mut nat = nat(Dependence::Nothing, Dependence::Nothing);
    let secs = Duration::from_secs;
    let (outer, _) = nat.outward(secs(0), inner(1), peer(1, 1));
    assert_eq!(nat.outward(secs(29), inner(1), peer(1, 1)), (outer, false));
    assert_eq!(nat.inward(secs(58), peer(1, 1), outer), Some(inner(1)));
    // What comes in does not keep it alive (REQ-6).
    assert_eq!(nat.inward(secs(59), peer(1, 1), outer), None);
    let (another, is_new) = nat.outward(secs(60), inner(1), peer(1, 1));
    assert!(is_new && another != outer);
}
