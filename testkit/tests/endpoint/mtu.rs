//! The tunnel MTU follows the path.

use std::net::SocketAddr;
use std::time::Duration;

use masque_core::endpoint::{Command, DropReason, Event};
use masque_testkit::scenario::Options;
use masque_testkit::world::{Input, LinkConfig, NodeId, PingPlan};

use super::common::*;

fn busy(size: usize) -> Options {
    let plan = Some(PingPlan {
        rounds: u32::MAX,
        interval: Duration::from_millis(20),
        size,
        then_shut_down: None,
    });
    Options {
        client_plan: plan.clone(),
        server_plan: plan,
        ..Options::default()
    }
}

/// Every MTU a node was told of.
fn told_mtus(star: &masque_testkit::scenario::Star, node: NodeId) -> Vec<u32> {
    let events = star.world.node(node).events().iter();
    let mtu = |event: &Event| match event {
        Event::Mtu { mtu, .. } => Some(*mtu),
        _ => None,
    };
    events.filter_map(|(_, event)| mtu(event)).collect()
}

fn path(star: &mut masque_testkit::scenario::Star, config: LinkConfig) {
    let (a, b) = (star.client(), star.server);
    star.world
        .schedule_in(Duration::ZERO, Input::Link { a, b, config });
}

#[test]
fn a_path_that_shrinks_is_noticed_told_and_gone_on_with_and_probed_again() {
    // Large enough for a packet of the old MTU, too large for the new path.
    let mut star = up(&busy(1250));
    let (client, server) = (star.client(), star.server);
    let before = *told_mtus(&star, client).last().expect("told");
    assert!(before > 1280);
    path(
        &mut star,
        LinkConfig {
            mtu: 1300,
            ..LinkConfig::default()
        },
    );
    run(&mut star, 20_000);
    for node in [client, server] {
        let shrunk = *told_mtus(&star, node).last().expect("told");
        assert!(shrunk < 1280, "{shrunk}");
        // What is too large now is said to be, with the value there is at the moment, and soon with the real one.
        let told = told_mtus(&star, node);
        let answers = received(&mut star, node);
        let mtus: Vec<_> = answers
            .iter()
            .filter_map(|it| icmp_error(it))
            .filter(|(ty, code, _, _)| (*ty, *code) == (3, 4))
            .map(|(_, _, mtu, _)| mtu)
            .collect();
        // 9221-5-03
        assert!(
            mtus.last() == Some(&shrunk) && mtus.iter().all(|mtu| told.contains(mtu)),
            "{mtus:?} {shrunk}"
        );
        assert!(dropped(&star, node, DropReason::TooBig) > 0);
    }
    let own = address(&star, client, true);
    send(&mut star, client, datagram(own, inner(true), 1000));
    let arrived = received(&mut star, server);
    assert!(
        arrived.iter().any(|it| it.len() == 1028),
        "smaller ones go on"
    );

    path(&mut star, LinkConfig::default());
    run(&mut star, 700_000);
    // 9000-14.2-01: found again, from 1,200 bytes on.
    assert_eq!(*told_mtus(&star, client).last().expect("told"), before);
    assert_eq!(*told_mtus(&star, server).last().expect("told"), before);
    assert_eq!(closed(&star, client), None);
}

#[test]
fn no_more_is_tried_than_carries_a_packet_of_the_device_whole() {
    for device_mtu in [1400, 1420, 1432] {
        let mut star = up(&Options {
            device_mtu,
            ..busy(1250)
        });
        run(&mut star, 20_000);
        for node in [star.client(), star.server] {
            assert_eq!(told_mtus(&star, node).last(), Some(&device_mtu));
        }
    }
}

#[test]
fn ordinary_loss_does_not_shrink_a_tunnel() {
    for seed in 0..5 {
        let mut options = Options { seed, ..busy(1100) };
        options.link.loss = 50_000;
        let mut star = masque_testkit::scenario::star(&options).expect("valid");
        run(&mut star, 120_000);
        for node in [star.client(), star.server] {
            let mtus = told_mtus(&star, node);
            assert!(mtus.is_sorted(), "seed {seed}: {mtus:?}");
            assert!(*mtus.last().expect("told") >= 1280, "seed {seed}: {mtus:?}");
        }
    }
}

#[test]
fn a_path_of_1200_bytes_carries_ipv4_and_says_so() {
    let mut options = busy(100);
    options.link.mtu = 1228;
    let mut star = up(&options);
    run(&mut star, 2000);
    let client = star.client();
    // 9000-14-01
    assert!(
        told_mtus(&star, client)
            .iter()
            .all(|mtu| (1100..1200).contains(mtu))
    );
    assert!(star.inner(client).replies_v4 > 100);
    assert_eq!(star.inner(client).replies_v6, 0);
    let answers = received(&mut star, client);
    assert!(
        answers
            .iter()
            .all(|it| matches!(icmp_error(it), Some((1, 0, ..)))),
        "no route for IPv6"
    );
    assert!(!answers.is_empty());
}

#[test]
fn what_is_queued_when_a_path_shrinks_is_fragmented_or_told() {
    let mut options = Options {
        clients: 2,
        client_to_client: true,
        ..quiet()
    };
    options.transport.datagram_send_buffer = 8 << 10;
    let mut star = up(&options);
    let (one, other, server) = (star.clients[0], star.clients[1], star.server);
    let narrow = LinkConfig {
        mtu: 1300,
        ..LinkConfig::default()
    };
    star.world.schedule_in(
        Duration::ZERO,
        Input::Link {
            a: other,
            b: server,
            config: narrow,
        },
    );
    let (from, to) = (address(&star, one, true), address(&star, other, true));
    let whole = datagram(from, to, 1220);
    for nth in 0..200 {
        let packet = if nth % 2 == 0 {
            whole.clone()
        } else {
            may_fragment(whole.clone())
        };
        send_later(&mut star, one, packet);
    }
    for _ in 0..3000 {
        run(&mut star, 10);
        // It checks that the sum over all queues is what was counted.
        assert!(usage(&star, server).queued_bytes <= options.limits.tunnel_queue_bytes);
    }
    let mtus = told_mtus(&star, server);
    let mtu = *mtus.last().expect("told");
    assert!(mtu < 1248, "{mtu}");
    let answers = received(&mut star, one);
    assert!(answers.len() > 10, "{}", answers.len());
    for answer in &answers {
        let (ty, code, told, _) = icmp_error(answer).expect("nothing else");
        assert_eq!((ty, code), (3, 4));
        assert!(mtus.contains(&told), "{told} is none of {mtus:?}");
    }
    let parts = received(&mut star, other);
    assert!(parts.len() > 20);
    for pair in parts.chunks(2) {
        let payload = reassemble(pair);
        // UDP's checksum went along; ports, length and data are the same.
        assert_eq!(payload, whole[20..]);
    }
    assert_eq!(usage(&star, server).queued_bytes, 0);
}

/// A client has gone to a narrower network. Whoever sends it IPv6 is told the MTU of a tunnel of 1,280 bytes, and
/// that there is no way through a narrower one (RFC 9484 §7.2).
#[test]
fn what_waited_for_a_wider_path_is_told_1280_bytes_or_that_there_is_no_way() {
    // The first probe is for 1,320 bytes: with those of IPv4 and UDP 1,348.
    for (mtu, expected, drops) in [(1348, (2, 0, 1280), [1, 0]), (1347, (1, 0, 0), [0, 1])] {
        let mut options = quiet();
        options.device_mtu = 1280;
        options.link.delay = Duration::from_millis(25);
        let mut star = up(&options);
        run(&mut star, 5_000);
        let (client, server) = (star.client(), star.server);
        assert_eq!(told_mtus(&star, server).last(), Some(&1400));
        let own = address(&star, client, false);
        let before = tunnel(&star, server);
        let other = SocketAddr::from(([192, 0, 2, 200], 50_001));
        let socket = star.world.node_mut(client).add_socket(other);
        let narrow = LinkConfig {
            mtu,
            ..options.link
        };
        path(&mut star, narrow);
        let conn = tunnel(&star, client).expect("up").conn;
        let hand_over = Command::HandOver {
            conn,
            socket,
            remote: None,
            lost: true,
        };
        command(&mut star, client, hand_over);
        for _ in 0..1000 {
            if counters(&star, server).handovers > 0 {
                break;
            }
            run(&mut star, 1);
        }
        assert_ne!(tunnel(&star, server), before, "handed over");
        send_later(&mut star, server, datagram(inner(false), own, 1300));
        run(&mut star, 10);
        assert_eq!(usage(&star, server).queued_bytes, 1350, "it waits");
        run(&mut star, 10_000);
        let answers = received(&mut star, server);
        let answers = answers.iter().filter_map(|it| icmp_error(it));
        let answers: Vec<_> = answers.map(|it| (it.0, it.1, it.2)).collect();
        assert_eq!(answers, [expected], "{mtu}");
        let reasons = [DropReason::TooBig, DropReason::NoIpv6];
        assert_eq!(reasons.map(|it| dropped(&star, server, it)), drops, "{mtu}");
        let handle = tunnel(&star, server).expect("up");
        let endpoint = star.world.node(server).endpoint().expect("running");
        let carries = endpoint.tunnel(handle).expect("listed").mtu;
        assert_eq!(carries, u32::try_from(mtu).expect("small") - 68);
    }
}
