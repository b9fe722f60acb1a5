//! What may pass, and what is told of what may not.

use masque_core::endpoint::{Command, DropReason, Event, Origin, PortId, RejectReason};
use masque_core::wire::prefix::IpPrefix;
use masque_testkit::packet::{self, Packet};
use masque_testkit::scenario::{Options, Star, star};

use super::common::*;

fn hops(bytes: &[u8]) -> u8 {
    Packet::parse(bytes).expect("undamaged").hop_limit
}

#[test]
fn what_the_kernel_routed_and_what_leaves_a_tunnel_keeps_its_hop_count() {
    let mut star = up(&quiet());
    let (server, client) = (star.server, star.client());
    for v4 in [true, false] {
        let own = address(&star, client, v4);
        send(
            &mut star,
            server,
            with_hops(datagram(inner(v4), own, 10), 1),
        );
        assert_eq!(
            received(&mut star, client)
                .iter()
                .map(|it| hops(it))
                .collect::<Vec<_>>(),
            [1]
        );
        send(
            &mut star,
            client,
            with_hops(datagram(own, inner(v4), 10), 1),
        );
        assert_eq!(
            received(&mut star, server)
                .iter()
                .map(|it| hops(it))
                .collect::<Vec<_>>(),
            [1]
        );
    }
    assert_eq!(dropped(&star, server, DropReason::HopLimit), 0);
}

#[test]
fn an_embedder_that_forwards_has_the_hop_count_lowered() {
    let mut star = up(&quiet());
    let (server, client) = (star.server, star.client());
    for v4 in [true, false] {
        let own = address(&star, client, v4);
        for (origin, hops_before, arrives) in [
            (Origin::Local, 1, Some(1)),
            (Origin::Forwarded, 64, Some(63)),
            (Origin::Forwarded, 2, Some(1)),
            (Origin::Forwarded, 1, None),
            (Origin::Forwarded, 0, None),
        ] {
            let packet = with_hops(datagram(inner(v4), own, 10), hops_before);
            let result = star.world.act(server, |endpoint, now| {
                endpoint.handle_ip(now, PortId(0), origin, packet.clone().into())
            });
            let result = result.expect("running");
            run(&mut star, 100);
            let got = received(&mut star, client);
            // 9484-7.2-04, 9484-7.2-05
            assert_eq!(
                got.first().map(|it| hops(it)),
                arrives,
                "{origin:?} {hops_before}"
            );
            if arrives.is_none() {
                let rejected = result.expect_err("handed back");
                assert_eq!(rejected.reason, RejectReason::Dropped(DropReason::HopLimit));
                assert_eq!(rejected.packet, packet, "unchanged");
                assert_eq!(
                    told(&mut star, server),
                    Some(if v4 { (11, 0) } else { (3, 0) })
                );
            }
        }
    }
    assert_eq!(dropped(&star, server, DropReason::HopLimit), 4);
}

#[test]
fn from_tunnel_to_tunnel_is_forwarding_and_lowers_the_hop_count() {
    let mut star = up(&Options {
        clients: 2,
        client_to_client: true,
        ..quiet()
    });
    let (server, [one, other]) = (star.server, [star.clients[0], star.clients[1]]);
    for v4 in [true, false] {
        let (from, to) = (address(&star, one, v4), address(&star, other, v4));
        send(&mut star, one, datagram(from, to, 10));
        assert_eq!(
            received(&mut star, other)
                .iter()
                .map(|it| hops(it))
                .collect::<Vec<_>>(),
            [63]
        );
        send(&mut star, one, with_hops(datagram(from, to, 10), 1));
        assert!(received(&mut star, other).is_empty());
        assert_eq!(
            told(&mut star, one),
            Some(if v4 { (11, 0) } else { (3, 0) })
        );
    }
    assert_eq!(dropped(&star, server, DropReason::HopLimit), 2);
    assert_eq!(counters(&star, server).packets_across, 2);
    assert_eq!(star.world.node(server).delivered(), 0);
}

#[test]
fn a_denied_packet_between_clients_is_told_and_never_reaches_the_device() {
    let mut star = up(&Options {
        clients: 2,
        ..quiet()
    });
    let (server, [one, other]) = (star.server, [star.clients[0], star.clients[1]]);
    for v4 in [true, false] {
        let (from, to) = (address(&star, one, v4), address(&star, other, v4));
        send(&mut star, one, datagram(from, to, 10));
        assert_eq!(
            told(&mut star, one),
            Some(if v4 { (3, 13) } else { (1, 1) })
        );
        // Nor does one to itself come back.
        send(&mut star, one, datagram(from, from, 10));
        assert_eq!(
            told(&mut star, one),
            Some(if v4 { (3, 13) } else { (1, 1) })
        );
    }
    assert_eq!(dropped(&star, server, DropReason::ClientToClient), 4);
    assert_eq!(star.world.node(server).delivered(), 0);
    assert!(received(&mut star, other).is_empty());
}

#[test]
fn an_unused_pool_address_is_a_dead_end_from_both_sides() {
    let mut star = up(&quiet());
    let (server, client) = (star.server, star.client());
    for (v4, nobody) in [(true, "10.7.0.200"), (false, "fd00:7::200")] {
        let nobody = nobody.parse().expect("an address");
        let from = address(&star, client, v4);
        send(&mut star, client, datagram(from, nobody, 10));
        assert_eq!(
            told(&mut star, client),
            Some(if v4 { (3, 0) } else { (1, 0) })
        );
        send(&mut star, server, datagram(inner(v4), nobody, 10));
        assert_eq!(
            told(&mut star, server),
            Some(if v4 { (3, 1) } else { (1, 3) })
        );
    }
    assert_eq!(dropped(&star, server, DropReason::NoTunnel), 4);
}

#[test]
fn the_device_gives_nothing_whose_source_is_a_clients() {
    let mut star = up(&Options {
        clients: 2,
        ..quiet()
    });
    let (server, [one, other]) = (star.server, [star.clients[0], star.clients[1]]);
    for v4 in [true, false] {
        let (from, to) = (address(&star, one, v4), address(&star, other, v4));
        send(&mut star, server, datagram(from, to, 10));
    }
    let unused = "10.7.0.99".parse().expect("an address");
    let to = address(&star, other, true);
    send(&mut star, server, datagram(unused, to, 10));
    assert_eq!(dropped(&star, server, DropReason::PoolSource), 3);
    assert!(received(&mut star, other).is_empty());
    assert!(received(&mut star, server).is_empty(), "in silence");
    // The gateway is the server itself.
    let gateway = "10.7.0.1".parse().expect("an address");
    send(&mut star, server, datagram(gateway, to, 10));
    assert_eq!(received(&mut star, other).len(), 1);
}

#[test]
fn an_address_assigned_by_command_is_a_clients_too() {
    let mut star = up(&Options {
        clients: 2,
        ..quiet()
    });
    let (server, [one, other]) = (star.server, [star.clients[0], star.clients[1]]);
    let tunnel = star
        .world
        .node(server)
        .endpoint()
        .and_then(|it| it.tunnels().next());
    let outside: IpPrefix = "192.168.77.0/28".parse().expect("a prefix");
    let addresses = vec![outside];
    command(
        &mut star,
        server,
        Command::AssignAddresses {
            tunnel: tunnel.expect("up"),
            addresses,
        },
    );
    run(&mut star, 300);
    let inside = "192.168.77.3".parse().expect("an address");
    send(&mut star, server, datagram(inner(true), inside, 10));
    assert_eq!(received(&mut star, one).len(), 1);
    let to = address(&star, other, true);
    send(&mut star, server, datagram(inside, to, 10));
    assert_eq!(dropped(&star, server, DropReason::PoolSource), 1);
    assert!(received(&mut star, other).is_empty());
}

#[test]
fn a_client_sends_from_nothing_but_its_addresses() {
    let mut star = up(&quiet());
    let (server, client) = (star.server, star.client());
    for (v4, foreign) in [(true, "10.7.0.77"), (false, "2001:db8::77")] {
        send(
            &mut star,
            client,
            datagram(foreign.parse().expect("valid"), inner(v4), 10),
        );
        assert_eq!(
            told(&mut star, client),
            Some(if v4 { (3, 13) } else { (1, 5) })
        );
    }
    assert_eq!(dropped(&star, client, DropReason::SourceNotAssigned), 2);
    assert_eq!(all_dropped(&star, server), 0);
}

#[test]
fn the_server_judges_sources_for_itself_and_answers_no_forged_one() {
    let mut star = up(&quiet());
    let (server, client) = (star.server, star.client());
    let old = address(&star, client, true);
    let tunnel = star
        .world
        .node(server)
        .endpoint()
        .and_then(|it| it.tunnels().next());
    let addresses = vec!["10.7.0.50/32".parse().expect("a prefix")];
    command(
        &mut star,
        server,
        Command::AssignAddresses {
            tunnel: tunnel.expect("up"),
            addresses,
        },
    );
    // The client does not know yet.
    send(&mut star, client, datagram(old, inner(true), 10));
    // 9484-11-03
    assert_eq!(dropped(&star, server, DropReason::SourceNotAssigned), 1);
    assert_eq!(counters(&star, server).icmp_sent, 0);
    assert!(received(&mut star, client).is_empty());
    assert_eq!(address(&star, client, true).to_string(), "10.7.0.50");
    let new = address(&star, client, true);
    send(&mut star, client, datagram(new, inner(true), 10));
    assert_eq!(received(&mut star, server).len(), 1);
}

#[test]
fn the_client_takes_nothing_for_an_address_it_no_longer_has() {
    let mut star = up(&quiet());
    let (server, client) = (star.server, star.client());
    let tunnel = star
        .world
        .node(server)
        .endpoint()
        .and_then(|it| it.tunnels().next());
    let tunnel = tunnel.expect("up");
    let old = address(&star, client, true);
    // The packet is in QUIC's queue behind nothing; the list goes first on the stream.
    let addresses = Vec::new();
    command(
        &mut star,
        server,
        Command::AssignAddresses { tunnel, addresses },
    );
    send(&mut star, server, datagram(inner(true), old, 10));
    assert!(received(&mut star, client).is_empty());
    assert_eq!(dropped(&star, server, DropReason::NoTunnel), 1);
    let withdrawn =
        |event: &Event| matches!(event, Event::Addresses { addresses, .. } if addresses.is_empty());
    assert_eq!(count(&star, client, withdrawn), 1);
    // 9484-4.7.1-03: with nothing assigned the client sends nothing.
    send(&mut star, client, datagram(old, inner(true), 10));
    assert_eq!(dropped(&star, client, DropReason::SourceNotAssigned), 1);
}

#[test]
fn routes_are_judged_on_both_sides() {
    let mut star = up(&quiet());
    let (server, client) = (star.server, star.client());
    let tunnel = star
        .world
        .node(server)
        .endpoint()
        .and_then(|it| it.tunnels().next());
    let range = masque_core::wire::prefix::AddressRange::new(
        "192.0.2.0".parse().expect("valid"),
        "192.0.2.255".parse().expect("valid"),
        0,
    );
    let routes =
        masque_core::wire::capsule::RouteAdvertisement::from_unordered(vec![range.expect("valid")]);
    let own = address(&star, client, true);
    let elsewhere = "203.0.113.9".parse().expect("an address");
    command(
        &mut star,
        server,
        Command::AdvertiseRoutes {
            tunnel: tunnel.expect("up"),
            routes,
        },
    );
    // The client does not know yet: the server says so.
    send(&mut star, client, datagram(own, elsewhere, 10));
    // 9484-7.2.1-01, 9484-4.7.3-14
    assert_eq!(dropped(&star, server, DropReason::DestinationNotRouted), 1);
    assert_eq!(told(&mut star, client), Some((3, 0)));
    // Now it does, and says so itself.
    send(&mut star, client, datagram(own, elsewhere, 10));
    assert_eq!(dropped(&star, client, DropReason::DestinationNotRouted), 1);
    assert_eq!(told(&mut star, client), Some((3, 0)));
    send(&mut star, server, datagram(elsewhere, own, 10));
    assert_eq!(dropped(&star, server, DropReason::SourceNotAssigned), 1);
    send(&mut star, client, datagram(own, inner(true), 10));
    // 9484-4.8-03, 9484-4.7.3-14: the range is for any protocol.
    assert_eq!(
        received(&mut star, server)
            .iter()
            .filter(|it| icmp_error(it).is_none())
            .count(),
        1
    );
}

#[test]
fn no_tunnel_carries_link_local_loopback_or_multicast() {
    let mut star = up(&quiet());
    let (server, client) = (star.server, star.client());
    let never = [
        "127.0.0.1",
        "169.254.169.254",
        "224.0.0.1",
        "255.255.255.255",
        "0.0.0.0",
        "::1",
        "::",
        "fe80::1",
        "ff02::1",
        "::ffff:192.0.2.1",
    ];
    for (nth, text) in never.iter().enumerate() {
        let bad = text.parse::<std::net::IpAddr>().expect("an address");
        let own = address(&star, client, bad.is_ipv4());
        send(&mut star, client, datagram(own, bad, 10));
        send(&mut star, client, datagram(bad, inner(bad.is_ipv4()), 10));
        send(&mut star, server, datagram(bad, own, 10));
        send(&mut star, server, datagram(inner(bad.is_ipv4()), bad, 10));
        let expected = 2 * (nth as u64 + 1);
        // 9484-7.2-06, 6890-2-01
        assert_eq!(
            dropped(&star, client, DropReason::NotForwardable),
            expected,
            "{text}"
        );
        assert_eq!(
            dropped(&star, server, DropReason::NotForwardable),
            expected,
            "{text}"
        );
    }
    assert!(received(&mut star, client).is_empty() && received(&mut star, server).is_empty());
}

#[test]
fn access_rules_hold_before_everything_else() {
    let mut options = Options {
        clients: 2,
        client_to_client: true,
        ..quiet()
    };
    options.change_server = |server| {
        server.access.gateway = false;
        server.access.deny = vec![
            "192.0.2.128/25".parse().expect("a prefix"),
            "fd00:7::/64".parse().expect("a prefix"),
        ];
    };
    let mut star = up(&options);
    let (server, [one, other]) = (star.server, [star.clients[0], star.clients[1]]);
    let own = |v4| (v4, address(&star, one, v4));
    let to_other = address(&star, other, false);
    let cases = [
        (own(true), "192.0.2.200".parse().expect("valid")),
        (own(true), "10.7.0.1".parse().expect("valid")),
        (own(false), to_other),
    ];
    for ((v4, from), to) in cases {
        send(&mut star, one, datagram(from, to, 10));
        assert_eq!(
            told(&mut star, one),
            Some(if v4 { (3, 13) } else { (1, 1) }),
            "{to}"
        );
    }
    assert_eq!(dropped(&star, server, DropReason::Prohibited), 3);
    assert_eq!(star.world.node(server).delivered(), 0);
    assert!(received(&mut star, other).is_empty());
}

#[test]
fn no_error_is_told_about_an_error() {
    let mut star = up(&quiet());
    let (server, client) = (star.server, star.client());
    for v4 in [true, false] {
        let own = address(&star, client, v4);
        let (protocol, ty) = if v4 {
            (packet::ICMP, 3)
        } else {
            (packet::ICMP6, 1)
        };
        let nobody = if v4 { "10.7.0.200" } else { "fd00:7::200" }
            .parse()
            .expect("valid");
        let error = |source, destination| {
            packet::ip(
                source,
                destination,
                protocol,
                &[ty, 0, 0, 0, 0, 0, 0, 0, 0x45],
            )
        };
        send(&mut star, client, error(own, nobody));
        send(&mut star, server, error(inner(v4), nobody));
    }
    assert_eq!(dropped(&star, server, DropReason::NoTunnel), 4);
    assert_eq!(counters(&star, server).icmp_sent, 0);
    assert!(received(&mut star, client).is_empty() && received(&mut star, server).is_empty());
}

#[test]
fn errors_are_limited_in_rate() {
    for v4 in [true, false] {
        let mut options = quiet();
        options.limits.icmp_per_second = 10;
        let mut star = up(&options);
        let (server, client) = (star.server, star.client());
        let own = address(&star, client, v4);
        let nobody = if v4 { "10.7.0.200" } else { "fd00:7::200" };
        let nobody = nobody.parse().expect("valid");
        for _ in 0..50 {
            send_later(&mut star, client, datagram(own, nobody, 10));
            send_later(&mut star, server, datagram(inner(v4), nobody, 10));
        }
        run(&mut star, 500);
        // 4443-2.4-05, 1812-4.3.2.8-01
        assert_eq!(received(&mut star, client).len(), 10);
        assert_eq!(received(&mut star, server).len(), 10);
        assert_eq!(counters(&star, server).icmp_sent, 20);
        assert_eq!(counters(&star, server).icmp_limited, 80);
        assert_eq!(dropped(&star, server, DropReason::NoTunnel), 100);
        // A second later there are ten more.
        run(&mut star, 1000);
        for _ in 0..50 {
            send_later(&mut star, client, datagram(own, nobody, 10));
        }
        run(&mut star, 500);
        assert_eq!(received(&mut star, client).len(), 10);
    }
}

#[test]
fn ipv4_that_may_be_fragmented_is_and_what_may_not_is_told_the_tunnel_mtu() {
    let mut star = up(&quiet());
    let (server, client) = (star.server, star.client());
    let own = address(&star, client, true);
    for (node, peer, source, destination) in [
        (server, client, inner(true), own),
        (client, server, own, inner(true)),
    ] {
        let handle = tunnel(&star, node).expect("up");
        let endpoint = star.world.node(node).endpoint().expect("running");
        let mtu = endpoint.tunnel(handle).expect("listed").mtu;
        let whole = datagram(source, destination, 3000);
        send(&mut star, node, may_fragment(whole.clone()));
        let parts = received(&mut star, peer);
        assert_eq!(parts.len(), 3);
        assert!(parts.iter().all(|part| part.len() <= mtu as usize));
        assert_eq!(reassemble(&parts), whole[20..]);
        assert_eq!(dropped(&star, node, DropReason::TooBig), 0);

        send(&mut star, node, whole);
        assert!(received(&mut star, peer).is_empty());
        let answers = received(&mut star, node);
        // 9484-10.1-02, 1191-3-01
        assert_eq!(icmp_error(&answers[0]), Some((3, 4, mtu, destination)));
        assert_eq!(dropped(&star, node, DropReason::TooBig), 1);

        let v6 = |size| {
            let (source, destination) = if node == server {
                (inner(false), address(&star, client, false))
            } else {
                (address(&star, client, false), inner(false))
            };
            (destination, datagram(source, destination, size))
        };
        let (destination, packet) = v6(3000);
        send(&mut star, node, packet);
        let answers = received(&mut star, node);
        assert_eq!(icmp_error(&answers[0]), Some((2, 0, mtu, destination)));
    }
}

#[test]
fn fragments_cross_between_clients() {
    let mut star = up(&Options {
        clients: 2,
        client_to_client: true,
        ..quiet()
    });
    let (one, other) = (star.clients[0], star.clients[1]);
    let (from, to) = (address(&star, one, true), address(&star, other, true));
    let whole = datagram(from, to, 5000);
    send(&mut star, one, may_fragment(whole.clone()));
    assert_eq!(reassemble(&received(&mut star, other)), whole[20..]);
}

/// A star at the moment its server's tunnel opens.
fn just_open(options: &Options) -> Star {
    let mut star = star(options).expect("valid");
    let server = star.server;
    let is_up = |event: &Event| matches!(event, Event::TunnelUp { .. });
    let limit = std::time::Duration::from_secs(5);
    let came = star.world.run_to(limit, |world| {
        let events = world.node(server).events();
        events.iter().any(|(_, event)| is_up(event))
    });
    assert!(came);
    star
}

#[test]
fn what_comes_before_the_path_mtu_is_known_waits_for_it() {
    let mut star = just_open(&quiet());
    let (server, client) = (star.server, star.client());
    let handle = tunnel(&star, server).expect("just opened");
    let endpoint = star.world.node(server).endpoint().expect("running");
    let mtu = endpoint.tunnel(handle).expect("listed").mtu;
    assert!(mtu < 1280, "the path is not known yet: {mtu}");
    let to = address(&star, server, false);
    let first = datagram(inner(false), to, 1280 - 48);
    let second = datagram(inner(false), to, 10);
    send_later(&mut star, server, first.clone());
    send_later(&mut star, server, second.clone());
    run(&mut star, 1000);
    assert_eq!(received(&mut star, client), [first, second]);
    assert!(
        received(&mut star, server).is_empty(),
        "nothing was refused"
    );
}

#[test]
fn ipv6_that_waited_for_a_path_too_narrow_is_refused() {
    let mut options = quiet();
    options.link.mtu = 1260;
    let mut star = just_open(&options);
    let (server, client) = (star.server, star.client());
    let to = address(&star, server, false);
    send_later(&mut star, server, datagram(inner(false), to, 1280 - 48));
    run(&mut star, 1);
    assert_eq!(dropped(&star, server, DropReason::NoIpv6), 0);
    assert!(received(&mut star, server).is_empty());
    run(&mut star, 2000);
    assert_eq!(dropped(&star, server, DropReason::NoIpv6), 1);
    assert_eq!(told(&mut star, server), Some((1, 0)));
    send(&mut star, server, datagram(inner(false), to, 10));
    assert_eq!(dropped(&star, server, DropReason::NoIpv6), 2);
    assert!(received(&mut star, client).is_empty());
}
