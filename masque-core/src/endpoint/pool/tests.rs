use std::collections::BTreeSet;
use std::slice;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

fn prefix(text: &str) -> IpPrefix {
    text.parse().expect("a prefix")
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn identity(name: &str) -> Identity {
    Identity(name.into())
}

fn book(pools: &[&str], gateways: &[&str]) -> AddressBook {
    let pools: Vec<_> = pools.iter().map(|text| prefix(text)).collect();
    let gateways: Vec<_> = gateways.iter().map(|text| address(text)).collect();
    AddressBook::new(&pools, &gateways, &[], &[], DAY)
}

#[test]
fn network_broadcast_and_gateway_are_nobodys() {
    let mut book = book(&["10.0.0.0/29"], &["10.0.0.1"]);
    let mut given = Vec::new();
    while let Ok(lent) = book.lend() {
        given.push(lent[0].address());
    }
    assert_eq!(
        given,
        ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"].map(address)
    );
}

#[test]
fn a_huge_pool_costs_nothing_until_it_is_used() {
    let mut book = book(&["2001:db8::/32"], &["2001:db8::1"]);
    assert_eq!(book.lend(), Ok(vec![prefix("2001:db8::2/128")]));
    assert_eq!(book.taken.len(), 2);
}

#[test]
fn an_identity_keeps_its_addresses_across_a_restart_whatever_the_order() {
    let mut first = book(&["10.0.0.0/24", "fd00::/64"], &["10.0.0.1", "fd00::1"]);
    let now = SystemTime::UNIX_EPOCH + DAY;
    let (a, kept_a) = first.lease(&identity("a"), now).expect("space");
    let (b, kept_b) = first.lease(&identity("b"), now).expect("space");
    let leases = [kept_a.expect("changed"), kept_b.expect("changed")];
    let pools = [prefix("10.0.0.0/24"), prefix("fd00::/64")];
    let gateways = [address("10.0.0.1"), address("fd00::1")];
    let mut second = AddressBook::new(&pools, &gateways, &[], &leases, DAY);
    assert_eq!(second.lease(&identity("b"), now).expect("space").0, b);
    assert_eq!(second.lease(&identity("a"), now).expect("space").0, a);
}

#[test]
fn static_addresses_are_given_to_nobody_else() {
    let statics = [StaticAssignment {
        identity: identity("s"),
        addresses: vec![prefix("10.0.0.0/25")],
    }];
    let mut book = AddressBook::new(&[prefix("10.0.0.0/24")], &[], &statics, &[], DAY);
    assert_eq!(
        book.lease(&identity("s"), SystemTime::UNIX_EPOCH)
            .expect("static")
            .0,
        [prefix("10.0.0.0/25")]
    );
    assert_eq!(book.lend(), Ok(vec![prefix("10.0.0.128/32")]));
}

#[test]
fn a_lease_outside_of_what_the_pools_give_out_is_not_taken_up_again() {
    for (text, kept) in [
        ("10.0.0.2", true),
        ("10.0.0.0", false),
        ("10.0.0.7", false),
        ("10.0.0.8", false),
        // The same number as that of an IPv4 address in the pool.
        ("::a00:2", false),
    ] {
        let lease = Lease {
            identity: identity("a"),
            addresses: vec![address(text)],
            last_used: SystemTime::UNIX_EPOCH,
        };
        let pools = [prefix("10.0.0.0/29"), prefix("fd00::/64")];
        let book = AddressBook::new(&pools, &[], &[], slice::from_ref(&lease), DAY);
        let expected = kept.then_some(lease);
        assert_eq!(book.leased(&identity("a")), expected, "{text}");
    }
}

#[test]
fn a_lease_ends_only_after_its_lifetime_and_only_when_unused() {
    let mut book = book(&["10.0.0.0/24"], &[]);
    let start = SystemTime::UNIX_EPOCH;
    book.lease(&identity("a"), start).expect("space");
    book.lease(&identity("b"), start).expect("space");
    assert_eq!(book.expire(start + DAY, |_| false), (vec![], vec![]));
    let later = start + DAY + Duration::from_secs(1);
    let (ended, renewed) = book.expire(later, |who| who.0 == "b");
    assert_eq!(ended, [identity("a")]);
    assert_eq!(renewed.len(), 1);
    assert_eq!(
        (&renewed[0].identity, renewed[0].last_used),
        (&identity("b"), later)
    );
    // The one renewed lives on from then.
    assert_eq!(book.expire(later + DAY, |_| false), (vec![], vec![]));
    let later = later + DAY + Duration::from_secs(1);
    assert_eq!(book.expire(later, |_| false), (vec![identity("b")], vec![]));
}

#[test]
fn an_exhausted_second_pool_leaves_nothing_behind_in_the_first() {
    let mut book = book(&["10.0.0.0/24", "fd00::/127"], &["fd00::", "fd00::1"]);
    let before = book.taken.clone();
    assert_eq!(
        book.lease(&identity("a"), SystemTime::UNIX_EPOCH).err(),
        Some(Exhausted)
    );
    assert_eq!(book.lend(), Err(Exhausted));
    assert_eq!(book.taken, before);
}

#[test]
fn a_lease_stays_good_beside_a_pool_that_came_later_and_is_full() {
    let (pool, now) = (prefix("10.0.0.0/24"), SystemTime::UNIX_EPOCH + DAY);
    let mut first = AddressBook::new(&[pool], &[], &[], &[], DAY);
    let (had, lease) = first.lease(&identity("a"), now).expect("space");
    let pools = [pool, prefix("fd00::/127")];
    let gateways = [address("fd00::"), address("fd00::1")];
    let mut second = AddressBook::new(&pools, &gateways, &[], &[lease.expect("new")], DAY);
    assert_eq!(second.lease(&identity("a"), now).expect("kept").0, had);
    assert_eq!(second.lease(&identity("b"), now).err(), Some(Exhausted));
}

proptest! {
    #[test]
    fn no_two_hold_one_address(operations in prop::collection::vec((0u8..6, any::<bool>()), 1..200)) {
        let mut book = book(&["10.0.0.0/28"], &["10.0.0.1"]);
        let mut lent: Vec<Vec<IpPrefix>> = Vec::new();
        for (who, keep) in operations {
            if keep {
                let _ = book.lease(&identity(&who.to_string()), SystemTime::UNIX_EPOCH);
            } else if who % 2 == 0 {
                lent.extend(book.lend());
            } else if !lent.is_empty() {
                let back = lent.remove(usize::from(who) % lent.len());
                book.give_back(&back);
            }
            let leased = book.leases.values().flat_map(|lease| lease.addresses.iter().copied());
            let all: Vec<IpAddr> = leased.chain(lent.iter().flatten().map(IpPrefix::address)).collect();
            let distinct: BTreeSet<IpAddr> = all.iter().copied().collect();
            prop_assert_eq!(all.len(), distinct.len());
            prop_assert!(!distinct.contains(&address("10.0.0.1")) && !distinct.contains(&address("10.0.0.0")));
            prop_assert!(!distinct.contains(&address("10.0.0.15")));
        }
    }
}
