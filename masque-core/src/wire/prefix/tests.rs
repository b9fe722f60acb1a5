use alloc::string::ToString;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from(bits))),
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from(bits))),
    ]
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

proptest! {
    // 9484-4.7.1-07, 9484-4.7.1-08
    #[test]
    fn a_prefix_exists_exactly_if_its_host_bits_are_zero(address in address(), length in any::<u8>()) {
        let width: u8 = if address.is_ipv4() { 32 } else { 128 };
        let expected = match width.checked_sub(length) {
            None => Err(WireErrorKind::PrefixLength),
            Some(host) => {
                let mask = 1u128.checked_shl(host.into()).map_or(u128::MAX, |bit| bit - 1);
                let zero = bits(address) & mask == 0;
                zero.then_some((address, length)).ok_or(WireErrorKind::HostBits)
            }
        };
        prop_assert_eq!(
            IpPrefix::new(address, length).map(|prefix| (prefix.address(), prefix.length())),
            expected
        );
    }

    #[test]
    fn a_prefix_reads_back_from_its_text(address in address(), length in 0..=128u8) {
        let Ok(net) = ipnet::IpNet::new(address, length) else { return Ok(()) };
        let prefix = IpPrefix::new(net.network(), length).unwrap();
        prop_assert_eq!(prefix.to_string().parse(), Ok(prefix));
    }

    #[test]
    fn the_prefixes_of_a_range_are_exactly_the_range(a in address(), b in address()) {
        let Ok(range) = AddressRange::new(a.min(b), a.max(b), 0) else { return Ok(()) };
        let prefixes: Vec<_> = range.prefixes().collect();
        prop_assert_eq!(prefixes.first().map(IpPrefix::address), Some(range.start()));
        prop_assert_eq!(prefixes.last().map(IpPrefix::last), Some(range.end()));
        for pair in prefixes.windows(2) {
            prop_assert_eq!(successor(pair[0].last()), Some(pair[1].address()));
        }
    }

    #[test]
    fn predecessor_undoes_successor(address in address()) {
        if let Some(next) = successor(address) {
            prop_assert!(next > address && next.is_ipv4() == address.is_ipv4());
            prop_assert_eq!(predecessor(next), Some(address));
        }
    }
}

#[test]
fn neither_version_runs_over_into_the_other() {
    assert_eq!(successor(Ipv4Addr::BROADCAST.into()), None);
    assert_eq!(predecessor(Ipv6Addr::UNSPECIFIED.into()), None);
    let mixed = AddressRange::new(
        Ipv4Addr::UNSPECIFIED.into(),
        Ipv6Addr::UNSPECIFIED.into(),
        0,
    );
    assert_eq!(mixed, Err(WireErrorKind::IpVersion));
}

#[test]
fn text_that_is_no_prefix_is_refused() {
    for (text, kind) in [
        ("", WireErrorKind::ScopeMalformed),
        ("10.0.0.0.0/8", WireErrorKind::ScopeMalformed),
        ("fe80::1%eth0", WireErrorKind::ScopeMalformed),
        ("10.0.0.0/", WireErrorKind::PrefixLength),
        ("10.0.0.0/+8", WireErrorKind::PrefixLength),
        ("10.0.0.0/33", WireErrorKind::PrefixLength),
        ("::/256", WireErrorKind::PrefixLength),
        ("10.0.0.1/8", WireErrorKind::HostBits),
    ] {
        assert_eq!(text.parse::<IpPrefix>(), Err(kind), "{text:?}");
    }
}

// 9484-4.7.3-04
#[test]
fn icmp_of_the_right_version_passes_whatever_the_protocol() {
    let v4 = AddressRange::from_prefix("192.0.2.0/24".parse().unwrap(), 17);
    let v6 = AddressRange::from_prefix("2001:db8::/32".parse().unwrap(), 17);
    let (in4, in6) = ("192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap());
    for (range, address, protocol, expected) in [
        (v4, in4, 17, true),
        (v4, in4, 1, true),
        (v4, in4, 58, false),
        (v4, in4, 6, false),
        (v6, in6, 17, true),
        (v6, in6, 58, true),
        (v6, in6, 1, false),
        (v6, in4, 17, false),
    ] {
        assert_eq!(
            range.matches(address, protocol),
            expected,
            "{address} {protocol}"
        );
    }
}
