//! What a tunnel does over paths of all kinds.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use masque_core::endpoint::{CloseReason, Command, Event, SocketId, TunnelClosed, TunnelHandle};
use masque_core::wire::prefix::IpPrefix;
use masque_testkit::packet::{self, Packet};
use masque_testkit::scenario::{Crypto, Options, Star, client_identity, pools, star};
use masque_testkit::world::{Input, LinkConfig, NodeId, PingPlan, last_event};

const LIMIT: Duration = Duration::from_secs(120);

fn plan(rounds: u32, millis: u64) -> Option<PingPlan> {
    Some(PingPlan {
        rounds,
        interval: Duration::from_millis(millis),
        size: 200,
        then_shut_down: None,
    })
}

/// A star that does not end by itself.
fn open_ended() -> Options {
    Options {
        client_plan: plan(10, 20),
        server_plan: plan(10, 20),
        ..Options::default()
    }
}

fn addresses(star: &Star, node: NodeId) -> Vec<IpPrefix> {
    last_event(star.world.node(node), |event| match event {
        Event::Addresses { addresses, .. } => Some(addresses.clone()),
        _ => None,
    })
    .unwrap_or_default()
}

fn tunnel(star: &Star, node: NodeId) -> Option<TunnelHandle> {
    star.world.node(node).endpoint()?.tunnels().next()
}

fn has_addresses(star: &Star, node: NodeId) -> bool {
    !addresses(star, node).is_empty()
}

fn count(star: &Star, node: NodeId, matches: impl Fn(&Event) -> bool) -> usize {
    let events = star.world.node(node).events().iter();
    events.filter(|(_, event)| matches(event)).count()
}

fn closed(star: &Star, node: NodeId) -> Option<CloseReason> {
    last_event(star.world.node(node), |event| match event {
        Event::ConnectionClosed { reason, .. } => Some(reason.clone()),
        _ => None,
    })
}

/// Whether these bytes are an undamaged ICMP error: what a host is told of a packet that went lost.
fn is_icmp_error(bytes: &[u8]) -> bool {
    Packet::parse(bytes).is_some_and(|packet| match (packet.protocol, packet.payload.first()) {
        (packet::ICMP, Some(ty)) => [3, 11].contains(ty),
        (packet::ICMP6, Some(ty)) => (1..=4).contains(ty),
        _ => false,
    })
}

/// Runs until both sides have had so many replies, or the limit.
fn replies_within(star: &mut Star, replies: u64) -> bool {
    let (server, client) = (star.server, star.clients[0]);
    star.world.run_to(LIMIT, |world| {
        [server, client].into_iter().all(|id| {
            let host = world.node(id).host::<masque_testkit::world::InnerHost>();
            host.is_some_and(|host| host.replies() >= replies)
        })
    })
}

#[test]
fn echoes_cross_both_ways_over_both_versions_and_the_end_is_graceful() {
    for crypto in [Crypto::Null, Crypto::Seeded, Crypto::Real] {
        let mut star = star(&Options {
            crypto,
            ..Options::default()
        })
        .expect("valid");
        star.world.run_until(LIMIT);
        let (server, client) = (star.server, star.clients[0]);
        for node in [server, client] {
            let host = star.inner(node);
            assert_eq!((host.replies_v4, host.replies_v6), (10, 10), "{crypto:?}");
            assert_eq!(host.answered, 20);
            assert!(host.others.is_empty());
            assert!(star.world.node(node).errors().is_empty());
        }
        let given = addresses(&star, client);
        assert!(given.iter().all(|address| address.is_host()));
        for pool in pools() {
            assert!(
                given.iter().any(|address| pool.covers(address)),
                "{given:?}"
            );
        }
        assert_eq!(
            count(&star, client, |event| matches!(event, Event::Routes { .. })),
            1
        );
        assert_eq!(closed(&star, client), Some(CloseReason::Local));
        assert!(matches!(
            closed(&star, server),
            Some(CloseReason::Peer { .. })
        ));
        let down = |event: &Event| {
            matches!(
                event,
                Event::TunnelDown {
                    reason: TunnelClosed::Finished,
                    ..
                }
            )
        };
        assert_eq!(count(&star, server, down), 1);
        assert_eq!(
            count(&star, client, |event| matches!(
                event,
                Event::ShutdownComplete
            )),
            1
        );
        // Nothing of the connection is left that would ever wake either side.
        assert_eq!(star.world.next_at(), None);
    }
}

#[test]
fn an_echo_takes_exactly_one_round_trip_on_an_idle_path() {
    let mut star = star(&Options::default()).expect("valid");
    star.world.run_until(LIMIT);
    let trips = &star.inner(star.clients[0]).round_trips;
    let quick = trips
        .iter()
        .filter(|trip| **trip == Duration::from_millis(20));
    // 9484-10-01, 9221-5-01: nothing waits for anything, on either side.
    assert!(quick.count() >= 15, "{trips:?}");
}

#[test]
fn packets_cross_hard_paths() {
    let base = LinkConfig::default();
    let hard = [
        LinkConfig {
            loss: 50_000,
            ..base
        },
        LinkConfig {
            jitter: Duration::from_millis(40),
            ..base
        },
        LinkConfig {
            jitter: Duration::from_millis(40),
            reorder: true,
            ..base
        },
        LinkConfig {
            rate: Some(128_000),
            queue: 16 << 10,
            ..base
        },
        LinkConfig {
            duplicate: 300_000,
            corrupt: 30_000,
            ..base
        },
        LinkConfig {
            delay: Duration::from_millis(300),
            loss: 20_000,
            ..base
        },
    ];
    for (seed, link) in hard.into_iter().enumerate() {
        let mut star = star(&Options {
            seed: seed as u64,
            link,
            client_plan: plan(100, 50),
            server_plan: plan(100, 50),
            ..Options::default()
        })
        .expect("valid");
        // 400 echoes in all; datagrams are not retransmitted, so loss takes its share twice.
        assert!(replies_within(&mut star, 150), "{link:?}");
        let (client, server) = (star.clients[0], star.server);
        for node in [client, server] {
            let others = &star.inner(node).others;
            assert!(others.iter().all(|other| is_icmp_error(other)), "{link:?}");
            assert!(star.inner(node).replies_v4 > 60 && star.inner(node).replies_v6 > 60);
        }
        let stats = star.world.link_stats(client, server).expect("linked");
        assert_eq!(stats.lost > 0, link.loss > 0, "{link:?} {stats:?}");
    }
}

#[test]
fn two_clients_get_different_addresses() {
    let mut star = star(&Options {
        clients: 2,
        ..open_ended()
    })
    .expect("valid");
    star.world.run_until(Duration::from_secs(5));
    let (one, other) = (
        addresses(&star, star.clients[0]),
        addresses(&star, star.clients[1]),
    );
    assert_eq!((one.len(), other.len()), (2, 2));
    assert!(
        one.iter().all(|address| !other.contains(address)),
        "{one:?} {other:?}"
    );
    for client in star.clients.clone() {
        assert_eq!(star.inner(client).replies(), 20);
    }
}

#[test]
fn a_client_notices_a_restarted_server_at_once_and_keeps_its_addresses() {
    let mut star = star(&Options {
        clients: 2,
        // Longer than the idle timeout could explain.
        client_plan: plan(400, 50),
        server_plan: None,
        reconnect: Some(Duration::from_millis(100)),
        ..Options::default()
    })
    .expect("valid");
    let restart = Duration::from_secs(2);
    let node = star.server;
    star.world.schedule(restart, Input::Restart { node });
    star.world.run_until(restart - Duration::from_millis(1));
    let before: Vec<_> = star
        .clients
        .iter()
        .map(|id| addresses(&star, *id))
        .collect();
    assert!(before.iter().all(|addresses| addresses.len() == 2));
    assert_eq!(star.world.node(node).leases().count(), 2);

    star.world.run_until(Duration::from_secs(10));
    for (client, before) in star.clients.clone().into_iter().zip(before) {
        assert_eq!(closed(&star, client), Some(CloseReason::Reset));
        let events = star.world.node(client).events();
        let at = events
            .iter()
            .find_map(|(at, event)| matches!(event, Event::ConnectionClosed { .. }).then_some(*at));
        let noticed = at.expect("closed") - restart;
        assert!(noticed < Duration::from_millis(200), "after {noticed:?}");
        assert_eq!(addresses(&star, client), before);
        let late = star.inner(client).replies();
        star.world
            .run_until(star.world.now() + Duration::from_secs(1));
        assert!(
            star.inner(client).replies() > late,
            "no packets after the restart"
        );
    }
}

#[test]
fn the_smallest_path_quic_allows_still_carries_ipv4() {
    // 1,200 bytes of UDP payload, and a little more, but too little for IPv6 in a datagram.
    for mtu in [1228, 1256, 1300] {
        let mut options = open_ended();
        options.link.mtu = mtu;
        let mut star = star(&options).expect("valid");
        star.world.run_until(Duration::from_secs(20));
        let client = star.clients[0];
        assert_eq!(star.inner(client).replies_v4, 10, "mtu {mtu}");
        let handle = tunnel(&star, client).expect("still up");
        let endpoint = star.world.node(client).endpoint().expect("running");
        let info = endpoint.tunnel(handle).expect("listed");
        assert!(
            (1000..1280).contains(&info.mtu),
            "mtu {mtu}: tunnel {}",
            info.mtu
        );
        assert_eq!(star.inner(client).replies_v6, 0, "IPv6 needs 1,280 bytes");
    }
}

#[test]
fn silence_ends_a_connection_after_the_idle_timeout() {
    let idle = Duration::from_secs(8);
    let mut options = open_ended();
    options.transport.idle_timeout = idle;
    options.transport.keep_alive = None;
    let mut star = star(&options).expect("valid");
    star.world.run_until(LIMIT);
    for node in [star.client(), star.server] {
        assert_eq!(closed(&star, node), Some(CloseReason::TimedOut));
        let events = star.world.node(node).events();
        let at = events
            .iter()
            .rev()
            .find_map(|(at, event)| matches!(event, Event::ConnectionClosed { .. }).then_some(*at));
        let at = at.expect("closed");
        assert!(at >= idle && at < idle * 2, "{at:?}");
    }
}

#[test]
fn keep_alive_keeps_a_silent_connection() {
    let mut options = open_ended();
    options.transport.idle_timeout = Duration::from_secs(8);
    options.transport.keep_alive = Some(Duration::from_secs(3));
    let mut star = star(&options).expect("valid");
    star.world.run_until(LIMIT);
    for node in [star.client(), star.server] {
        // 9114-5.1-01
        assert_eq!(closed(&star, node), None);
        assert!(tunnel(&star, node).is_some());
    }
}

#[test]
fn a_link_that_was_down_for_a_while_carries_again() {
    let mut options = Options {
        client_plan: plan(200, 50),
        server_plan: None,
        ..Options::default()
    };
    options.transport.keep_alive = Some(Duration::from_secs(1));
    let mut star = star(&options).expect("valid");
    let (a, b) = (star.client(), star.server);
    let link = |up| Input::Link {
        a,
        b,
        config: LinkConfig {
            up,
            ..LinkConfig::default()
        },
    };
    star.world.schedule(Duration::from_secs(2), link(false));
    star.world.schedule(Duration::from_secs(5), link(true));
    star.world.run_until(Duration::from_millis(4900));
    let during = star.inner(a).replies();
    star.world.run_until(Duration::from_secs(20));
    assert!(star.inner(a).replies() > during + 50);
    assert!(star.world.link_stats(a, b).expect("linked").down > 10);
    // Another connection may have taken its place, but nothing has come to an end.
    assert!(matches!(
        closed(&star, a),
        None | Some(CloseReason::Replaced)
    ));
}

#[test]
fn a_client_whose_address_changes_goes_on() {
    for tell in [true, false] {
        let mut star = star(&Options {
            client_plan: plan(100, 50),
            server_plan: plan(100, 50),
            ..Options::default()
        })
        .expect("valid");
        let node = star.client();
        let to: SocketAddr = "198.51.100.200:6000".parse().expect("a constant");
        let input = Input::Readdress {
            node,
            socket: SocketId(0),
            to,
            tell,
        };
        star.world.schedule(Duration::from_secs(2), input);
        star.world.run_until(Duration::from_secs(15));
        assert_eq!(closed(&star, node), None);
        assert!(
            star.inner(node).replies() > 190,
            "{}",
            star.inner(node).replies()
        );
        let migrated =
            |event: &Event| matches!(event, Event::Migrated { remote, .. } if *remote == to);
        assert_eq!(count(&star, star.server, migrated), 1, "tell {tell}");
    }
}

#[test]
fn clients_reach_each_other_only_if_allowed() {
    for allowed in [true, false] {
        let mut options = open_ended();
        options.clients = 2;
        options.client_to_client = allowed;
        options.client_plan = None;
        options.server_plan = None;
        let mut star = star(&options).expect("valid");
        let clients = star.clients.clone();
        star.world.run_until(Duration::from_secs(1));
        let at = |node| -> Vec<IpAddr> {
            addresses(&star, node)
                .iter()
                .map(IpPrefix::address)
                .collect()
        };
        let pairs: Vec<_> = at(clients[0]).into_iter().zip(at(clients[1])).collect();
        for (source, destination) in pairs {
            let echo = packet::Echo {
                request: true,
                id: 9,
                sequence: 9,
                data: vec![1, 2, 3],
            };
            star.world.schedule_in(
                Duration::ZERO,
                Input::Packet {
                    node: clients[0],
                    port: Default::default(),
                    data: packet::icmp_echo(source, destination, &echo),
                },
            );
        }
        star.world.run_until(Duration::from_secs(2));
        let answered = star.inner(clients[1]).answered;
        assert_eq!(answered, if allowed { 2 } else { 0 });
        assert_eq!(
            star.world.node(star.server).delivered(),
            0,
            "nothing leaks to the TUN"
        );
    }
}

#[test]
fn a_client_without_identity_is_refused() {
    for crypto in [Crypto::Null, Crypto::Seeded] {
        let mut star = star(&Options {
            crypto,
            anonymous_clients: true,
            ..open_ended()
        })
        .expect("valid");
        star.world.run_until(Duration::from_secs(5));
        let client = star.client();
        assert!(!has_addresses(&star, client));
        // 9484-11-01
        assert!(
            matches!(
                closed(&star, client),
                Some(CloseReason::Tls(_) | CloseReason::Transport(_))
            ),
            "{:?}",
            closed(&star, client)
        );
    }
}

#[test]
fn a_revoked_identity_is_closed() {
    let mut star = star(&open_ended()).expect("valid");
    star.world.schedule(
        Duration::from_secs(1),
        Input::Command {
            node: star.server,
            command: Command::Revoke {
                identity: client_identity(0),
            },
        },
    );
    star.world.run_until(Duration::from_secs(5));
    assert_eq!(closed(&star, star.server), Some(CloseReason::NotAuthorised));
    assert!(matches!(
        closed(&star, star.client()),
        Some(CloseReason::Peer { .. })
    ));
}

#[test]
fn every_shape_of_transmit_gives_a_working_tunnel() {
    for segments in [1, 2, 64] {
        let mut star = star(&open_ended()).expect("valid");
        star.world
            .set_max_segments(segments.try_into().expect("not 0"));
        star.world.run_until(Duration::from_secs(5));
        assert_eq!(star.inner(star.client()).replies(), 20);
    }
}
