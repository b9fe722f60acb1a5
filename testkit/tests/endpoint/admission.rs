//! Floods of handshakes.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant, SystemTime};

use masque_core::endpoint::{
    CloseReason, Command, DropReason, Endpoint, Entropy, RecvMeta, SocketId, Usage, is_unproven,
};
use masque_testkit::scenario::{Options, Star, client_config, server_address, star};
use masque_testkit::world::{Input, WALL};

use super::common::*;

/// The first datagram of a client nobody will hear of again.
fn first_packet(star: &Star, options: &Options, seed: u8) -> Vec<u8> {
    let now = Instant::now();
    let wall = SystemTime::UNIX_EPOCH + WALL;
    let entropy = Entropy::from_seed([seed; 32]);
    let mut endpoint = Endpoint::new(now, wall, client_config(options), entropy).expect("valid");
    endpoint
        .connect(now, star.targets[0].clone())
        .expect("valid");
    let (one, mut packet) = (NonZeroUsize::MIN, Vec::new());
    assert!(endpoint.poll_transmit(now, one, &mut packet).is_some());
    packet
}

/// A datagram that has come, handed over at once.
fn hand_over(endpoint: &mut Endpoint, now: Instant, from: SocketAddr, packet: &[u8]) {
    let meta = RecvMeta {
        socket: SocketId(0),
        remote: from,
        local_ip: None,
        ecn: None,
        stride: packet.len(),
    };
    endpoint.handle_udp(now, meta, packet.into());
}

fn arrives(star: &mut Star, from: SocketAddr, data: Vec<u8>) {
    let (to, ecn) = (server_address(), None);
    star.world.schedule_in(
        Duration::ZERO,
        Input::Datagram {
            from,
            to,
            ecn,
            data,
        },
    );
}

fn flood(star: &mut Star, options: &Options, packets: u8, from: impl Fn(u8) -> SocketAddr) {
    for nth in 0..packets {
        let packet = first_packet(star, options, nth);
        arrives(star, from(nth), packet);
    }
    run(star, 10);
}

fn far_apart(nth: u8) -> SocketAddr {
    SocketAddr::from(([10, nth, 1, 1], 1000))
}

/// In the same /24 as the honest clients of a star.
fn next_door(nth: u8) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, nth % 100], 1000 + u16::from(nth)))
}

/// A server with clients that have not connected, and nothing else.
fn idle(options: &Options) -> Star {
    let mut star = star(options).expect("valid");
    for client in star.clients.clone() {
        star.world
            .schedule(Duration::ZERO, Input::Stop { node: client });
    }
    star.world.run_until(Duration::from_secs(40));
    assert_eq!(usage(&star, star.server), Usage::default());
    star
}

fn honest_client_gets_in(star: &mut Star) {
    let node = star.clients[0];
    star.world
        .schedule_in(Duration::ZERO, Input::Restart { node });
    connect(star, 0);
    run(star, 2000);
    assert!(tunnel(star, node).is_some(), "{:?}", closed(star, node));
}

#[test]
fn beyond_the_threshold_forged_sources_cost_a_retry_and_no_handshake() {
    let mut options = quiet();
    options.limits.retry_threshold = 5;
    let mut star = idle(&options);
    let server = star.server;
    let before = counters(&star, server).clone();
    flood(&mut star, &options, 60, far_apart);
    let after = counters(&star, server).clone();
    assert_eq!(after.handshakes - before.handshakes, 5);
    assert_eq!(after.retries - before.retries, 55);
    assert_eq!(after.refused, 0);
    let held = usage(&star, server);
    assert_eq!(
        (held.handshakes, held.waiting_handshakes, held.connections),
        (5, 0, 5)
    );
    honest_client_gets_in(&mut star);
    let client = star.client();
    disconnect(&mut star, client);
    run(&mut star, 40_000);
    assert_eq!(
        usage(&star, server),
        Usage::default(),
        "what never went on is forgotten"
    );
}

#[test]
fn forged_sources_do_not_use_up_what_the_owners_of_their_network_have() {
    let mut options = quiet();
    options.limits.handshakes_per_source = 4;
    let mut star = idle(&options);
    let server = star.server;
    let before = counters(&star, server).clone();
    flood(&mut star, &options, 50, next_door);
    let after = counters(&star, server).clone();
    assert_eq!(after.handshakes - before.handshakes, 4);
    assert_eq!(after.retries - before.retries, 46);
    honest_client_gets_in(&mut star);
}

#[test]
fn proven_sources_have_a_limit_per_network_too() {
    let mut options = Options {
        clients: 10,
        ..quiet()
    };
    options.limits.handshakes_per_source = 3;
    options.limits.retry_threshold = 0;
    let mut star = star(&options).expect("valid");
    let (server, clients) = (star.server, star.clients.clone());
    // The Retry comes back; what follows it is answered into the void.
    star.world.run_until(Duration::from_millis(25));
    for client in &clients {
        let config = masque_testkit::world::LinkConfig {
            up: false,
            ..options.link
        };
        star.world.link_one_way(server, *client, config);
    }
    run(&mut star, 100);
    assert_eq!(usage(&star, server).handshakes, 3);
    assert!(dropped(&star, server, DropReason::HandshakeLimit) >= 7);
    run(&mut star, 40_000);
    assert_eq!(usage(&star, server), Usage::default());
}

/// Hands over first packets from as many sources within one turn.
fn in_one_turn(star: &mut Star, options: &Options, packets: u8) {
    let packets: Vec<_> = (0..packets)
        .map(|nth| first_packet(star, options, nth))
        .collect();
    let handed = star.world.act(star.server, |endpoint, now| {
        for (nth, packet) in packets.iter().enumerate() {
            hand_over(endpoint, now, far_apart(nth as u8), packet);
        }
        endpoint.usage()
    });
    let held = handed.expect("running");
    let limits = &options.limits;
    assert_eq!(held.handshakes, limits.handshakes_per_turn.max(1));
    assert!(held.handshakes + held.waiting_handshakes <= limits.max_handshakes);
}

#[test]
fn a_turn_accepts_its_share_and_the_rest_wait_bounded() {
    // A share of none would be a wait without end.
    for share in [0, 2] {
        let mut options = quiet();
        options.limits.handshakes_per_turn = share;
        options.limits.max_handshakes = 20;
        let mut star = idle(&options);
        let server = star.server;
        let before = counters(&star, server).clone();
        in_one_turn(&mut star, &options, 50);
        run(&mut star, 10);
        let after = counters(&star, server).clone();
        assert_eq!(after.refused - before.refused, 30);
        assert_eq!(after.handshakes - before.handshakes, 20);
        assert_eq!(usage(&star, server).waiting_handshakes, 0);
        run(&mut star, 40_000);
        assert_eq!(usage(&star, server), Usage::default());
    }
}

#[test]
fn those_that_wait_count_against_the_limit_of_connections() {
    let mut options = quiet();
    options.limits.handshakes_per_turn = 2;
    options.limits.max_connections = 6;
    let mut star = idle(&options);
    in_one_turn(&mut star, &options, 20);
    run(&mut star, 10);
    assert_eq!(usage(&star, star.server).connections, 6);
}

#[test]
fn those_that_wait_are_refused_at_shutdown_and_later_ones_at_once() {
    let mut options = quiet();
    options.limits.handshakes_per_turn = 2;
    let mut star = idle(&options);
    let server = star.server;
    let packets: Vec<_> = (0..10)
        .map(|nth| first_packet(&star, &options, nth))
        .collect();
    star.world.act(server, |endpoint, now| {
        for (nth, packet) in packets.iter().enumerate() {
            hand_over(endpoint, now, far_apart(nth as u8), packet);
        }
        assert_eq!(endpoint.usage().waiting_handshakes, 8);
        let grace = Duration::from_secs(1);
        endpoint
            .handle_command(now, Command::Shutdown { grace })
            .expect("taken");
        assert_eq!(endpoint.usage().waiting_handshakes, 0);
    });
    assert_eq!(counters(&star, server).refused, 8);
    let node = star.clients[0];
    star.world
        .schedule_in(Duration::ZERO, Input::Restart { node });
    connect(&mut star, 0);
    let asked = star.world.now();
    run(&mut star, 100);
    assert!(
        matches!(closed(&star, node), Some(CloseReason::Transport(_))),
        "{:?}",
        closed(&star, node)
    );
    assert!(
        star.world.now() - asked < Duration::from_secs(1),
        "not by a timeout"
    );
    run(&mut star, 40_000);
    assert_eq!(usage(&star, server), Usage::default());
}

/// While tunnels have work, a sixteenth of the threshold is enough for a Retry; and who follows it up gets in.
#[test]
fn while_tunnels_have_work_fewer_forged_sources_are_enough_for_a_retry() {
    let mut options = quiet();
    options.limits.retry_threshold = 64;
    for (packets, handshakes) in [(0, 60), (200, 4)] {
        let mut star = idle(&options);
        let server = star.server;
        let before = counters(&star, server).clone();
        let first: Vec<_> = (0..60)
            .map(|nth| first_packet(&star, &options, nth))
            .collect();
        star.world.act(server, |endpoint, now| {
            // What they are does not matter: they take time.
            for _ in 0..packets {
                hand_over(endpoint, now, far_apart(200), &[0x40; 20]);
            }
            let _ = endpoint.poll_timeout();
            for (nth, packet) in first.iter().enumerate() {
                hand_over(endpoint, now, far_apart(nth as u8), packet);
            }
        });
        run(&mut star, 10);
        let after = counters(&star, server).clone();
        assert_eq!(after.handshakes - before.handshakes, handshakes);
        assert_eq!(after.retries - before.retries, 60 - handshakes);
        honest_client_gets_in(&mut star);
    }
}

/// RFC 9000 §17.2.2: an Initial has a token, of whatever length.
#[test]
fn first_packets_without_a_token_prove_nothing() {
    let options = quiet();
    let star = star(&options).expect("valid");
    let packet = first_packet(&star, &options, 1);
    assert!(is_unproven(&packet));
    let ids = 6 + usize::from(packet[5]);
    let at = ids + 1 + usize::from(packet[ids]);
    assert_eq!(packet[at], 0, "the length of its token");
    let mut with_token = packet.clone();
    with_token.splice(at..=at, [2, 7, 7]);
    assert!(!is_unproven(&with_token));
    let mut other_version = with_token.clone();
    other_version[4] = 9;
    assert!(is_unproven(&other_version), "answered with a version");
    let mut handshake = packet.clone();
    handshake[0] |= 0x20;
    assert!(!is_unproven(&handshake), "goes on");
    let mut short = packet.clone();
    short[0] &= 0x7f;
    assert!(!is_unproven(&short));
    // Cut anywhere.
    for length in 0..at + 4 {
        let _ = is_unproven(&with_token[..length]);
    }
}
