//! Packets find their way, whichever shard they come to.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use masque_core::endpoint::{Command, DropReason, Event};
use masque_testkit::packet::Packet;
use masque_testkit::scenario::{Options, star};
use masque_testkit::world::{Input, LinkConfig, Steering};

use super::super::common::*;
use super::*;

#[test]
fn echoes_cross_both_ways_however_badly_shards_are_found() {
    for seed in 0..4 {
        for steering in STEERINGS {
            let mut star = star(&Options {
                seed,
                clients: 6,
                sharding: sharding(3, steering),
                ..Options::default()
            })
            .expect("valid");
            star.world.run_until(Duration::from_secs(2));
            for client in star.clients.clone() {
                let host = star.inner(client);
                assert_eq!((host.sent, host.replies()), (20, 20), "{seed} {steering:?}");
            }
            for shard in star.shards.clone() {
                let host = star.inner(shard);
                assert_eq!(host.replies(), host.sent, "{seed} {steering:?}");
            }
            let handshakes = star.shards.iter();
            let used = handshakes.filter(|shard| counters(&star, **shard).handshakes > 0);
            assert!(used.count() > 1, "clients spread over shards");
            let mail = sum(&star, |counters| counters.mail_sent);
            assert_eq!(mail > 0, steering != Steering::Right, "{mail}");
            run(&mut star, 60_000);
            assert_empty(&mut star);
        }
    }
}

#[test]
fn clients_reach_each_other_across_shards_once_and_one_hop_later() {
    for steering in STEERINGS {
        let mut star = up(&options(3, steering));
        apart(&star);
        for one in star.clients.clone() {
            for other in star.clients.clone() {
                for v4 in [true, false] {
                    let (from, to) = (address(&star, one, v4), address(&star, other, v4));
                    send(&mut star, one, datagram(from, to, 100));
                    let got = received(&mut star, other);
                    let hops = got
                        .iter()
                        .map(|it| Packet::parse(it).expect("whole").hop_limit);
                    let expected = if one == other { None } else { Some(63) };
                    // To itself: the one packet is the error about it.
                    let hops: Vec<u8> = hops.collect();
                    if one == other {
                        assert_eq!(got.len(), 1);
                        assert!(icmp_error(&got[0]).is_some());
                    } else {
                        assert_eq!(hops, expected.into_iter().collect::<Vec<_>>());
                    }
                }
            }
        }
        assert_eq!(sum(&star, |counters| counters.packets_across), 60);
        assert_empty(&mut star);
    }
}

#[test]
fn what_policy_refuses_between_clients_it_refuses_across_shards() {
    let mut star = up(&Options {
        client_to_client: false,
        ..options(3, Steering::Flows)
    });
    let (one, other) = apart(&star);
    let (from, to) = (address(&star, one, true), address(&star, other, true));
    send(&mut star, one, datagram(from, to, 10));
    assert_eq!(received(&mut star, other), Vec::<Vec<u8>>::new());
    assert_eq!(told(&mut star, one), Some((3, 13)));
    assert_eq!(sum_dropped(&star, DropReason::ClientToClient), 1);
    for shard in star.shards.clone() {
        assert_eq!(received(&mut star, shard), Vec::<Vec<u8>>::new());
    }
}

#[test]
fn errors_find_their_way_back_across_shards() {
    let mut star = up(&options(3, Steering::Right));
    let (one, other) = apart(&star);
    let narrow = LinkConfig {
        mtu: 1300,
        ..LinkConfig::default()
    };
    let server = star.server;
    star.world.link(other, server, narrow);
    let (from, to) = (address(&star, one, true), address(&star, other, true));
    for _ in 0..600 {
        send_later(&mut star, one, datagram(from, to, 1220));
        run(&mut star, 100);
    }
    let answers = received(&mut star, one);
    assert!(!answers.is_empty(), "the path shrank");
    for answer in answers {
        let (ty, code, mtu, _) = icmp_error(&answer).expect("nothing else");
        assert_eq!((ty, code), (3, 4));
        assert!(mtu < 1248, "{mtu}");
    }
}

#[test]
fn packets_of_one_flow_stay_in_order() {
    for seed in 0..4 {
        let mut options = options(3, Steering::Flows);
        options.seed = seed;
        options.sharding.mail_delay = Duration::from_millis(5);
        let mut star = up(&options);
        let (one, other) = apart(&star);
        let (from, to) = (address(&star, one, true), address(&star, other, true));
        let server = star.server;
        for number in 0..100 {
            send_later(&mut star, one, numbered(from, to, number));
            send_later(&mut star, one, numbered(from, inner(true), number));
            send_later(&mut star, server, numbered(inner(true), from, number));
            run(&mut star, 1);
        }
        run(&mut star, 500);
        let in_order: Vec<u16> = (0..100).collect();
        assert_eq!(numbers(&received(&mut star, other)), in_order, "across");
        assert_eq!(numbers(&received(&mut star, one)), in_order, "down");
        let shard = home(&star, one).expect("up").0;
        assert_eq!(numbers(&received(&mut star, shard)), in_order, "up");
    }
}

#[test]
fn nothing_is_lost_or_doubled_where_each_datagram_comes_to_any_shard() {
    let mut options = options(4, Steering::Scattered);
    options.sharding.mail_delay = Duration::from_millis(5);
    let mut star = up(&options);
    let (one, other) = apart(&star);
    let (from, to) = (address(&star, one, false), address(&star, other, false));
    let server = star.server;
    for number in 0..200 {
        send_later(&mut star, one, numbered(from, to, number));
        send_later(&mut star, server, numbered(inner(false), from, number));
        run(&mut star, 1);
    }
    run(&mut star, 500);
    for node in [one, other] {
        let mut got = numbers(&received(&mut star, node));
        got.sort_unstable();
        assert_eq!(got, (0..200).collect::<Vec<_>>());
    }
    assert_empty(&mut star);
}

#[test]
fn what_a_full_mailbox_refuses_is_counted_and_nothing_else_is_lost() {
    let mut options = options(3, Steering::Flows);
    options.sharding.mailbox = 2;
    options.sharding.mail_delay = Duration::from_millis(20);
    let mut star = up(&options);
    for number in 0..200 {
        for client in star.clients.clone() {
            let from = address(&star, client, true);
            send_later(&mut star, client, numbered(from, inner(true), number));
        }
        run(&mut star, 1);
    }
    run(&mut star, 5000);
    let refused = sum_dropped(&star, DropReason::MailboxFull);
    assert!(refused > 100, "{refused}");
    // QUIC counts what is missing as lost; nobody is thrown out for it.
    for client in star.clients.clone() {
        assert_eq!(closed(&star, client), None);
        assert!(home(&star, client).is_some());
    }
    assert_empty(&mut star);
}

#[test]
fn a_client_that_moves_stays_on_its_shard() {
    for steering in STEERINGS {
        for tell in [false, true] {
            let mut star = up(&options(4, steering));
            let client = star.clients[0];
            let before = home(&star, client).expect("up");
            for port in 0..10 {
                star.world.schedule_in(
                    Duration::ZERO,
                    Input::Readdress {
                        node: client,
                        socket: masque_core::endpoint::SocketId(0),
                        to: SocketAddr::from(([198, 51, 100, 100], 51_000 + port)),
                        tell,
                    },
                );
                let packet = datagram(address(&star, client, true), inner(true), 10);
                send(&mut star, client, packet);
                run(&mut star, 200);
                assert_eq!(home(&star, client), Some(before));
            }
            assert_eq!(received(&mut star, before.0).len(), 10);
            let migrated = |event: &Event| matches!(event, Event::Migrated { .. });
            assert_eq!(count(&star, before.0, migrated), 10);
            let mail = sum(&star, |counters| counters.mail_sent);
            assert_eq!(mail > 0, steering != Steering::Right);
        }
    }
}

#[test]
fn packets_are_judged_anew_once_another_shard_changed_the_rules() {
    let mut star = up(&options(3, Steering::Right));
    let (one, other) = apart(&star);
    let (here, _) = home(&star, one).expect("up");
    let (there, tunnel) = home(&star, other).expect("up");
    let own = address(&star, one, true);
    let host: IpAddr = "172.16.5.9".parse().expect("a constant");
    // A host behind the server, to and fro, often enough to be remembered.
    for _ in 0..3 {
        at_queue(&mut star, here, &datagram(host, own, 10));
        send(&mut star, one, datagram(own, host, 10));
    }
    assert_eq!(received(&mut star, one).len(), 3);
    assert_eq!(received(&mut star, here).len(), 3);
    let addresses = vec![masque_core::wire::prefix::IpPrefix::host(host)];
    command(
        &mut star,
        there,
        Command::AssignAddresses { tunnel, addresses },
    );
    run(&mut star, 300);
    // Now it is a client of another shard.
    at_queue(&mut star, here, &datagram(host, own, 10));
    assert_eq!(dropped(&star, here, DropReason::PoolSource), 1);
    send(&mut star, one, datagram(own, host, 10));
    assert_eq!(received(&mut star, here).len(), 0);
    assert_eq!(received(&mut star, other).len(), 1);
}

#[test]
fn the_same_seed_gives_the_same_trace_on_all_shards() {
    let run = |seed| {
        let mut options = Options {
            seed,
            clients: 4,
            trace: true,
            sharding: sharding(3, Steering::Scattered),
            ..Options::default()
        };
        options.link.loss = 30_000;
        options.link.jitter = Duration::from_millis(8);
        options.link.reorder = true;
        let mut star = star(&options).expect("valid");
        star.world.run_until(Duration::from_secs(30));
        let trace = star.world.trace();
        (trace.text(), trace.fingerprint())
    };
    let (one, other) = (run(5), run(5));
    assert!(one == other, "the traces differ");
    assert!(one.0.contains("mail udp to shard"));
    assert_ne!(one.1, run(6).1);
}

#[test]
fn a_packet_whose_tunnel_ends_while_it_is_between_shards_is_counted() {
    let mut star = up(&options(3, Steering::Right));
    let client = star.clients[0];
    let (shard, tunnel) = home(&star, client).expect("up");
    let mut others = star.shards.iter().copied();
    let other = others.find(|it| *it != shard).expect("three");
    let packet = numbered(inner(true), address(&star, client, true), 1);
    at_queue(&mut star, other, &packet);
    let (conn, code) = (tunnel.conn, masque_core::H3Code::NO_ERROR);
    let close = Command::CloseConnection { conn, code };
    let closed = star
        .world
        .act(shard, |endpoint, now| endpoint.handle_command(now, close));
    assert!(matches!(closed, Some(Ok(_))));
    run(&mut star, 1_000);
    assert!(received(&mut star, client).is_empty());
    assert_eq!(dropped(&star, shard, DropReason::NoTunnel), 1);
}
