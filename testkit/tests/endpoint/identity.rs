//! Who may stay.

use std::time::Duration;

use masque_core::endpoint::{CloseReason, Command, Event, Identity, Usage};
use masque_testkit::scenario::{Crypto, Options, client_identity, star};
use masque_testkit::world::Input;

use super::common::*;

fn shared() -> Options {
    Options {
        identity: |_| Identity("urn:masque:shared".to_owned()),
        ..quiet()
    }
}

#[test]
fn a_connection_too_many_replaces_the_oldest() {
    let mut star = star(&Options {
        clients: 3,
        ..shared()
    })
    .expect("valid");
    // One after the other, so that it is known which is the oldest.
    for (nth, node) in star.clients.clone().into_iter().enumerate().skip(1) {
        star.world.schedule(Duration::ZERO, Input::Stop { node });
        star.world
            .schedule(Duration::from_secs(nth as u64), Input::Restart { node });
    }
    for index in 1..3 {
        star.world
            .run_until(Duration::from_secs(index as u64) + Duration::from_millis(1));
        connect(&mut star, index);
    }
    run(&mut star, 2000);
    let of = |index: usize| closed(&star, star.clients[index]);
    assert!(matches!(of(0), Some(CloseReason::Peer { .. })));
    assert_eq!((of(1), of(2)), (None, None));
    let replaced = |event: &Event| {
        matches!(
            event,
            Event::ConnectionClosed {
                reason: CloseReason::Replaced,
                ..
            }
        )
    };
    assert_eq!(count(&star, star.server, replaced), 1);
    assert_eq!(usage(&star, star.server).identities, 1);
}

#[test]
fn a_connection_that_has_ended_takes_nobodys_place() {
    let mut star = up(&Options {
        clients: 2,
        ..shared()
    });
    let (one, other) = (star.clients[0], star.clients[1]);
    // The second ends and comes back at once, while the server still waits for its late packets.
    disconnect(&mut star, other);
    run(&mut star, 11);
    assert_eq!(
        usage(&star, star.server).connections,
        2,
        "one of them draining"
    );
    connect(&mut star, 1);
    run(&mut star, 1000);
    assert_eq!(closed(&star, one), None);
    assert!(tunnel(&star, other).is_some());
}

#[test]
fn the_addresses_of_an_identity_follow_its_newest_connection_and_fall_back() {
    let mut star = up(&Options {
        clients: 2,
        ..shared()
    });
    let (server, one, other) = (star.server, star.clients[0], star.clients[1]);
    let own = address(&star, one, true);
    assert_eq!(address(&star, other, true), own);
    let newest = {
        let endpoint = star.world.node(server).endpoint().expect("running");
        let tunnel = endpoint.tunnels().last().expect("two");
        let remote = endpoint.connection(tunnel.conn).expect("listed").remote;
        [one, other]
            .into_iter()
            .find(|node| star.world.node(*node).sockets() == [remote])
    };
    let newest = newest.expect("one of them");
    let older = if newest == one { other } else { one };
    send(&mut star, server, datagram(inner(true), own, 10));
    assert_eq!(received(&mut star, newest).len(), 1);
    disconnect(&mut star, newest);
    run(&mut star, 500);
    send(&mut star, server, datagram(inner(true), own, 10));
    assert_eq!(received(&mut star, older).len(), 1);
    disconnect(&mut star, older);
    run(&mut star, 5000);
    assert_eq!(usage(&star, server), Usage::default());
}

#[test]
fn a_lost_connection_is_told_of_once_and_after_its_tunnels() {
    let mut star = up(&quiet());
    let (server, client) = (star.server, star.client());
    disconnect(&mut star, client);
    run(&mut star, 5000);
    for node in [server, client] {
        let told: Vec<_> = star
            .world
            .node(node)
            .events()
            .iter()
            .filter_map(|(_, event)| match event {
                Event::TunnelDown { .. } => Some("tunnel"),
                Event::ConnectionClosed { .. } => Some("connection"),
                _ => None,
            })
            .collect();
        assert_eq!(told, ["tunnel", "connection"]);
    }
}

#[test]
fn a_revoked_identity_is_closed_and_others_stay() {
    let mut star = up(&Options {
        clients: 2,
        ..quiet()
    });
    let (server, one, other) = (star.server, star.clients[0], star.clients[1]);
    command(
        &mut star,
        server,
        Command::Revoke {
            identity: client_identity(0),
        },
    );
    run(&mut star, 500);
    assert!(matches!(closed(&star, one), Some(CloseReason::Peer { .. })));
    assert_eq!(closed(&star, server), Some(CloseReason::NotAuthorised));
    assert_eq!(closed(&star, other), None);
}

#[test]
fn a_connection_ends_with_its_certificate() {
    let lasting = Duration::from_secs(60);
    let options = Options {
        crypto: Crypto::Seeded,
        certificates_last: Some(lasting),
        ..quiet()
    };
    let mut star = up(&options);
    star.world.run_until(lasting - Duration::from_millis(1));
    assert_eq!(closed(&star, star.server), None);
    star.world.run_until(lasting + Duration::from_millis(100));
    assert_eq!(
        closed(&star, star.server),
        Some(CloseReason::CertificateExpired)
    );
    assert!(matches!(
        closed(&star, star.client()),
        Some(CloseReason::Peer { .. })
    ));
}

#[test]
fn a_certificate_that_expired_before_it_was_shown_takes_nobodys_place() {
    let lasting = Duration::from_secs(10);
    let mut star = star(&Options {
        crypto: Crypto::Seeded,
        certificates_last: Some(lasting),
        ..quiet()
    })
    .expect("valid");
    star.world.run_until(Duration::from_secs(30));
    // TLS's own clock stands still in this world; the endpoint's does not.
    connect(&mut star, 0);
    run(&mut star, 500);
    let up = |event: &Event| matches!(event, Event::TunnelUp { .. });
    assert_eq!(count(&star, star.server, up), 1, "only the first");
    assert_eq!(
        closed(&star, star.server),
        Some(CloseReason::CertificateExpired)
    );
    run(&mut star, 10_000);
    assert_eq!(usage(&star, star.server), Usage::default());
}
