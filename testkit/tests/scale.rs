//! Many clients on one server, and what does not depend on how fast the machine is.

use std::time::Duration;

use masque_core::endpoint::Limits;
use masque_testkit::scale::steady::{Warm, Way};
use masque_testkit::scale::{Gauges, Plan, fairness, idle, jain, limits_for, setup, storm};
use masque_testkit::scenario::Crypto;

#[test]
fn jains_index_is_1_for_equals_and_1_in_n_for_one_of_n() {
    assert!((jain(&[3.0; 7]) - 1.0).abs() < 1e-9);
    assert!((jain(&[0.0, 5.0, 0.0, 0.0]) - 0.25).abs() < 1e-9);
}

/// The handshake takes one round trip, request and response the other: SETTINGS travel beside the
/// server's certificate, the request beside the end of the client's handshake.
#[test]
fn a_tunnel_is_up_after_two_round_trips_and_after_three_with_a_retry() {
    for crypto in [Crypto::Null, Crypto::Seeded] {
        for (retry_threshold, round_trips) in [(64, 2.0), (0, 3.0)] {
            let plan = Plan {
                crypto,
                limits: Limits {
                    retry_threshold,
                    ..Limits::default()
                },
                ..Plan::default()
            };
            let took = setup::setup(plan, Gauges::default()).expect("it comes up");
            // A few microseconds are pacing.
            assert!(
                (took.round_trips - round_trips).abs() < 0.01,
                "{crypto:?}: {took:?}"
            );
            assert!(
                (took.first_packet - round_trips - 0.5).abs() < 0.01,
                "{took:?}"
            );
        }
    }
}

#[test]
fn clients_that_want_everything_get_the_same() {
    // A little more than there is, and so much more that all the room for queues is in use.
    for demand in [1.3, 6.0] {
        let clients = 60;
        let plan = Plan {
            clients,
            egress: Some(60_000_000),
            limits: Limits {
                total_queue_bytes: 2 << 20,
                ..limits_for(clients)
            },
            ..Plan::default()
        };
        let time = Duration::from_secs(2);
        let got = fairness::fairness(plan, Gauges::default(), demand, time).expect("all are up");
        assert!(got.jain >= 0.95, "{got:?}");
        assert!(got.least > 0.5, "{got:?}");
        assert!(got.used > 0.9, "the link stays full: {got:?}");
    }
}

/// Only the client sends keep-alives, one every 10 s, and each is answered once.
#[test]
fn an_idle_tunnel_costs_twelve_datagrams_a_minute() {
    let plan = Plan {
        clients: 20,
        ..Plan::default()
    };
    let minute = Duration::from_secs(60);
    let cost = idle::idle(plan, Gauges::default(), minute).expect("all stay up");
    assert!(cost.received_per_minute <= 7.0, "{cost:?}");
    assert!(cost.sent_per_minute <= 7.0, "{cost:?}");
    assert!(cost.wakes_per_minute <= 14.0, "{cost:?}");
}

#[test]
fn a_storm_of_clients_gets_in_and_nobody_fails_for_good() {
    let (there, coming) = (5, 1_500);
    let plan = Plan {
        clients: there + coming,
        reconnect: Some(Duration::from_secs(1)),
        limits: limits_for(there + coming),
        ..Plan::default()
    };
    let within = Duration::from_millis(100);
    let storm = storm::storm(plan, Gauges::default(), there, within).expect("all get in");
    assert!(storm.all_up_s < 10.0, "{storm:?}");
    assert!(storm.echoes_lost == 0.0, "{storm:?}");
    assert!(storm.echo_max_ms < 2.0 * storm.path_ms, "{storm:?}");
}

#[test]
fn a_pool_without_an_address_to_spare_serves_all_its_clients() {
    let plan = Plan {
        clients: 250,
        // 254 hosts, one of them the server's.
        change_server: |server| {
            server.pools = vec!["10.64.0.0/24".parse().expect("a prefix")];
            server.gateways = vec!["10.64.0.1".parse().expect("an address")];
        },
        ..Plan::default()
    };
    let mut warm = Warm::new(plan, Gauges::default()).expect("every client gets an address");
    let packets = warm
        .run(Way::Down, 250, 250 * 16)
        .expect("each gets its packets");
    assert_eq!(packets.packets, 4_000);
}
