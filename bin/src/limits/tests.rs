use proptest::prelude::*;

use super::*;

fn prefix(text: &str) -> IpPrefix {
    text.parse().unwrap()
}

fn open() -> AcceptPolicy {
    AcceptPolicy {
        routes: vec![prefix("0.0.0.0/0"), prefix("::/0")],
        addresses: vec![prefix("0.0.0.0/0"), prefix("::/0")],
        allow_lan: false,
        max_routes: 4096,
        max_addresses: 8,
    }
}

fn home() -> Surroundings {
    Surroundings {
        server: Some("203.0.113.7".parse().unwrap()),
        local: vec![prefix("192.168.1.0/24"), prefix("2001:db8:1::/64")],
    }
}

fn offer(texts: &[&str]) -> Vec<AddressRange> {
    texts
        .iter()
        .map(|text| AddressRange::from_prefix(prefix(text), 0))
        .collect()
}

fn any_prefix() -> impl Strategy<Value = IpPrefix> {
    let v4 = (any::<u32>(), 0..=32u8).prop_map(|(bits, length)| {
        let net = ipnet::Ipv4Net::new_assert(bits.into(), length).trunc();
        IpPrefix::new(net.network().into(), length).unwrap()
    });
    let v6 = (any::<u128>(), 0..=128u8).prop_map(|(bits, length)| {
        let net = ipnet::Ipv6Net::new_assert(bits.into(), length).trunc();
        IpPrefix::new(net.network().into(), length).unwrap()
    });
    // Networks near the forbidden ones come up too rarely by chance.
    let near = prop::sample::select(vec![
        "127.0.0.0/8",
        "127.0.0.1",
        "126.0.0.0/7",
        "169.254.169.254",
        "0.0.0.0/0",
        "0.0.0.0/1",
        "224.0.0.0/3",
        "::/0",
        "::1",
        "fe80::/64",
        "fc00::/6",
        "203.0.113.7",
        "203.0.113.6/31",
        "192.168.0.0/16",
        "192.168.1.128/25",
        "2001:db8::/32",
    ])
    .prop_map(prefix);
    prop_oneof![v4, v6, near]
}

fn any_range() -> impl Strategy<Value = AddressRange> {
    prop_oneof![
        any_prefix().prop_map(|prefix| AddressRange::from_prefix(prefix, 0)),
        (any::<u32>(), any::<u32>(), any::<u8>()).prop_map(|(a, b, protocol)| {
            AddressRange::new(
                IpAddr::V4(a.min(b).into()),
                IpAddr::V4(a.max(b).into()),
                protocol,
            )
            .unwrap()
        }),
    ]
}

proptest! {
    #[test]
    fn no_route_ever_meets_what_is_forbidden(
        offered in prop::collection::vec(any_range(), 0..8),
        max_routes in 1..64usize,
    ) {
        let policy = AcceptPolicy { max_routes, ..open() };
        let around = home();
        let routes = routes(&policy, &around, &offered).install;
        prop_assert!(routes.len() <= max_routes);
        for route in &routes {
            for (net, why) in never() {
                prop_assert!(!net.covers(route) && !route.covers(&net), "{route} meets {why}");
            }
            for net in &around.local {
                prop_assert!(!net.covers(route) && !route.covers(net), "{route} meets the LAN");
            }
            prop_assert!(!(route.is_host() && Some(route.address()) == around.server));
        }
        for pair in routes.windows(2) {
            prop_assert!(pair[0] < pair[1] && !pair[0].covers(&pair[1]));
        }
    }

    #[test]
    fn exactly_the_accepted_rest_of_what_was_offered_is_routed(
        offered in prop::collection::vec(any_range(), 0..5),
        accepted in prop::collection::vec(any_prefix(), 0..4),
        probe in any::<u32>(),
    ) {
        let policy = AcceptPolicy { routes: accepted.clone(), max_routes: usize::MAX, ..open() };
        let around = Surroundings { server: None, ..home() };
        let routes = routes(&policy, &around, &offered).install;
        let mut probes: Vec<IpAddr> = vec![IpAddr::V4(probe.into())];
        for range in &offered {
            probes.extend([range.start(), range.end()]);
        }
        for probe in probes {
            let expected = offered.iter().any(|range| range.start() <= probe && probe <= range.end()
                    && range.start().is_ipv4() == probe.is_ipv4())
                && accepted.iter().any(|net| net.contains(probe))
                && !never().any(|(net, _)| net.contains(probe))
                && !around.local.iter().any(|net| net.contains(probe));
            prop_assert_eq!(routes.iter().any(|net| net.contains(probe)), expected, "{}", probe);
        }
    }

    #[test]
    fn no_address_is_taken_that_is_forbidden_or_over_the_limit(
        assigned in prop::collection::vec(any_prefix(), 0..12),
        max_addresses in 1..4usize,
    ) {
        let policy = AcceptPolicy { max_addresses, ..open() };
        let around = home();
        let taken = addresses(&policy, &around, &assigned).install;
        prop_assert!(taken.len() <= max_addresses);
        for address in &taken {
            prop_assert!(assigned.contains(address));
            prop_assert!(never_routable(address).is_none());
            prop_assert!(!address.contains(around.server.unwrap()));
        }
    }
}

#[test]
fn the_default_routes_stay_few() {
    let routes = routes(&open(), &home(), &offer(&["0.0.0.0/0", "::/0"]));
    assert!(routes.install.len() < 256, "{}", routes.install.len());
    assert!(routes.refused.is_empty(), "{:?}", routes.refused);
}

#[test]
fn a_hostile_advertisement_gets_nowhere_and_is_named() {
    let offered = offer(&["127.0.0.0/8", "203.0.113.7", "192.168.1.0/25", "fe80::/64"]);
    let routes = routes(&open(), &home(), &offered);
    assert_eq!(routes.install, []);
    assert_eq!(
        routes.refused,
        [
            "127.0.0.0/8 is loopback",
            "203.0.113.7/32 is the server's own address",
            "192.168.1.0/25 is a local network",
            "fe80::/64 is link-local",
        ]
    );
}

#[test]
fn a_wider_route_keeps_the_server_inside() {
    let routes = routes(&open(), &home(), &offer(&["203.0.113.0/24"]));
    assert_eq!(routes.install, [prefix("203.0.113.0/24")]);
}

#[test]
fn the_local_network_is_taken_in_halves_where_that_is_allowed() {
    let policy = AcceptPolicy {
        allow_lan: true,
        ..open()
    };
    let installed = routes(&policy, &home(), &offer(&["192.168.1.0/24", "10.0.0.0/8"])).install;
    assert_eq!(installed, [prefix("10.0.0.0/8"), prefix("192.168.1.0/24")]);
    assert_eq!(
        lan_routes(&policy, &home(), &installed),
        [prefix("192.168.1.0/25"), prefix("192.168.1.128/25")]
    );
    assert_eq!(lan_routes(&open(), &home(), &installed), []);
}

#[test]
fn a_default_route_is_not_called_unroutable_but_a_covering_half_is() {
    assert_eq!(never_routable(&prefix("0.0.0.0/0")), None);
    assert!(never_routable(&prefix("126.0.0.0/7")).is_some());
    assert!(never_routable(&prefix("10.0.0.0/8")).is_none());
}
