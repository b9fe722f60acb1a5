//! A server the client does not trust.

use masque_core::endpoint::{Command, DropReason, Event};
use masque_core::wire::capsule::RouteAdvertisement;
use masque_core::wire::prefix::{AddressRange, IpPrefix};
use masque_testkit::scenario::star;

use super::common::*;

fn down(event: &Event) -> bool {
    matches!(event, Event::TunnelDown { .. })
}

#[test]
fn more_routes_than_the_limit_end_the_tunnel_and_none_of_them_is_told() {
    let mut options = quiet();
    options.limits.max_routes = 2;
    options.change_server = |server| {
        server.routes = ["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"]
            .map(|it| AddressRange::from_prefix(it.parse().expect("a prefix"), 0))
            .into();
    };
    let mut star = star(&options).expect("valid");
    run(&mut star, 3000);
    let (server, client) = (star.server, star.client());
    assert_eq!(count(&star, client, down), 1);
    assert_eq!(count(&star, server, down), 1);
    let routes = |event: &Event| matches!(event, Event::Routes { .. });
    assert_eq!(count(&star, client, routes), 0);
    assert_eq!(
        (usage(&star, client).tunnels, usage(&star, server).claims),
        (0, 0)
    );
}

#[test]
fn more_addresses_than_a_capsule_may_have_end_the_tunnel_alone() {
    let mut star = up(&quiet());
    let (server, client) = (star.server, star.client());
    let tunnel = tunnel(&star, server).expect("up");
    let host =
        |nth: u16| IpPrefix::host(std::net::Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, nth).into());
    let addresses: Vec<_> = (1..2000).map(host).collect();
    command(
        &mut star,
        server,
        Command::AssignAddresses { tunnel, addresses },
    );
    run(&mut star, 3000);
    assert_eq!(count(&star, client, down), 1);
    assert_eq!(closed(&star, client), None);
    let held = usage(&star, server);
    assert_eq!((held.tunnels, held.claims, held.addresses), (0, 0, 0));
}

#[test]
fn routes_can_be_withdrawn_and_given_again_while_packets_flow() {
    let mut star = up(&quiet());
    let (server, client) = (star.server, star.client());
    let tunnel = tunnel(&star, server).expect("up");
    let own = address(&star, client, true);
    let all = AddressRange::from_prefix("0.0.0.0/0".parse().expect("a prefix"), 0);
    let lists = [vec![], vec![all], vec![], vec![all]];
    for list in lists {
        let open = !list.is_empty();
        let routes = RouteAdvertisement::from_unordered(list);
        command(
            &mut star,
            server,
            Command::AdvertiseRoutes {
                tunnel,
                routes: routes.clone(),
            },
        );
        for _ in 0..5 {
            // Some are on their way while the list is.
            send_later(&mut star, client, datagram(own, inner(true), 100));
            run(&mut star, 4);
        }
        run(&mut star, 300);
        received(&mut star, client);
        received(&mut star, server);
        let last =
            masque_testkit::world::last_event(star.world.node(client), |event| match event {
                Event::Routes { routes, .. } => Some(routes.clone()),
                _ => None,
            });
        assert_eq!(last, Some(routes));
        let before = dropped(&star, client, DropReason::DestinationNotRouted);
        send(&mut star, client, datagram(own, inner(true), 100));
        assert_eq!(received(&mut star, server).len(), usize::from(open));
        let more = dropped(&star, client, DropReason::DestinationNotRouted) - before;
        assert_eq!(more, u64::from(!open));
    }
}
