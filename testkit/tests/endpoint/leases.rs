//! Who has which address, and for how long.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use masque_core::endpoint::{Command, Event, StaticAssignment, Usage};
use masque_testkit::crypto::null::NullServer;
use masque_testkit::scenario::{Options, SERVER_NAME, client_identity};
use masque_testkit::world::Input;

use super::common::*;

fn one_address() -> Options {
    let mut options = Options {
        clients: 2,
        ..quiet()
    };
    options.change_server = |server| {
        server.pools = vec!["10.7.0.0/30".parse().expect("a prefix")];
        server.gateways = vec!["10.7.0.1".parse().expect("an address")];
    };
    options.limits.lease_lifetime = Duration::from_secs(60);
    options
}

#[test]
fn an_exhausted_pool_refuses_with_503_until_a_lease_ends() {
    let mut star = masque_testkit::scenario::star(&one_address()).expect("valid");
    run(&mut star, 2000);
    let refused = |status: u16| move |event: &Event| matches!(event, Event::TunnelRefused { status: it, .. } if *it == status);
    let lucky = star
        .clients
        .iter()
        .position(|node| tunnel(&star, *node).is_some());
    let lucky = lucky.expect("one got it");
    let other = star.clients[1 - lucky];
    assert_eq!(count(&star, other, refused(503)), 1);
    let client = star.clients[lucky];
    disconnect(&mut star, client);
    disconnect(&mut star, other);
    // Kept for its owner while it lasts.
    run(&mut star, 30_000);
    connect(&mut star, 1 - lucky);
    run(&mut star, 2000);
    assert_eq!(count(&star, other, refused(503)), 2);
    disconnect(&mut star, other);
    // Nothing wakes the server when a lease ends: it is found out when somebody asks.
    run(&mut star, 60_000);
    connect(&mut star, 1 - lucky);
    run(&mut star, 2000);
    assert!(tunnel(&star, other).is_some());
    let ended =
        |event: &Event| matches!(event, Event::LeaseEnded(who) if *who == client_identity(lucky));
    assert_eq!(count(&star, star.server, ended), 1);
}

#[test]
fn a_lease_in_use_outlives_its_lifetime() {
    let mut star = up(&Options {
        clients: 1,
        ..one_address()
    });
    let before = address(&star, star.client(), true);
    run(&mut star, 300_000);
    // 9484-4.1-07
    assert_eq!(
        count(&star, star.server, |event| matches!(
            event,
            Event::LeaseEnded(_)
        )),
        0
    );
    assert_eq!(address(&star, star.client(), true), before);
}

#[test]
fn leases_survive_a_restart_whoever_comes_first() {
    let mut options = Options {
        clients: 5,
        ..quiet()
    };
    options.reconnect = None;
    let mut star = up(&options);
    let clients = star.clients.clone();
    let before: BTreeMap<_, _> = clients
        .iter()
        .map(|node| {
            (
                *node,
                [address(&star, *node, true), address(&star, *node, false)],
            )
        })
        .collect();
    let node = star.server;
    star.world
        .schedule_in(Duration::ZERO, Input::Restart { node });
    for client in &clients {
        disconnect(&mut star, *client);
    }
    run(&mut star, 5000);
    for index in (0..clients.len()).rev() {
        connect(&mut star, index);
        run(&mut star, 50);
    }
    run(&mut star, 2000);
    for (node, addresses) in before {
        assert_eq!(
            [address(&star, node, true), address(&star, node, false)],
            addresses
        );
    }
}

#[test]
fn static_assignments_are_their_owners_and_no_lease() {
    let mut options = Options {
        clients: 2,
        ..quiet()
    };
    options.change_server = |server| {
        server.statics = vec![StaticAssignment {
            identity: client_identity(1),
            addresses: vec![
                "10.7.0.2/32".parse().expect("a prefix"),
                "192.168.9.0/24".parse().expect("a prefix"),
                "fd00:7::2/128".parse().expect("a prefix"),
            ],
        }];
    };
    let mut star = up(&options);
    let (server, one, other) = (star.server, star.clients[0], star.clients[1]);
    assert_eq!(address(&star, one, true).to_string(), "10.7.0.3");
    assert_eq!(address(&star, other, true).to_string(), "10.7.0.2");
    assert_eq!(star.world.node(server).leases().count(), 1);
    let site = "192.168.9.77".parse().expect("an address");
    send(&mut star, server, datagram(inner(true), site, 10));
    assert_eq!(received(&mut star, other).len(), 1);
    send(&mut star, other, datagram(site, inner(true), 10));
    assert_eq!(received(&mut star, server).len(), 1);
}

#[test]
fn a_command_assigns_nothing_that_is_somebody_elses() {
    let mut options = Options {
        clients: 2,
        ..quiet()
    };
    options.change_server = |server| {
        server.statics = vec![StaticAssignment {
            identity: client_identity(7),
            addresses: vec!["192.168.9.0/24".parse().expect("a prefix")],
        }];
    };
    let mut star = up(&options);
    let (server, one, other) = (star.server, star.clients[0], star.clients[1]);
    let (own, theirs) = (address(&star, one, true), address(&star, other, true));
    let first = {
        let endpoint = star.world.node(server).endpoint().expect("running");
        let has = |prefix: &masque_core::wire::prefix::IpPrefix| prefix.address() == own;
        let all = endpoint.tunnels();
        all.into_iter().find(|tunnel| {
            endpoint
                .tunnel(*tunnel)
                .is_some_and(|it| it.addresses.iter().any(has))
        })
    };
    let tunnel = first.expect("up");
    let host = |address: std::net::IpAddr| format!("{address}/32");
    let no = [
        host(theirs),
        "10.7.0.0/24".into(),
        "10.7.0.1/32".into(),
        "192.168.9.9/32".into(),
        "192.168.0.0/16".into(),
    ];
    for text in &no {
        let addresses = vec![text.parse().expect("a prefix")];
        command(
            &mut star,
            server,
            Command::AssignAddresses { tunnel, addresses },
        );
        run(&mut star, 100);
        assert_eq!(address(&star, one, true), own, "{text}");
    }
    assert_eq!(star.world.node(server).errors().len(), no.len());
    let free = vec![
        host(own).parse().expect("own"),
        "10.7.0.200/32".parse().expect("free"),
    ];
    command(
        &mut star,
        server,
        Command::AssignAddresses {
            tunnel,
            addresses: free,
        },
    );
    run(&mut star, 100);
    assert_eq!(star.world.node(server).errors().len(), no.len());
    assert_eq!(usage(&star, server).addresses, 2);
    for client in [one, other] {
        disconnect(&mut star, client);
    }
    run(&mut star, 10_000);
    assert_eq!(usage(&star, server), Usage::default());
}

#[test]
fn what_is_assigned_by_command_is_not_leased_to_another() {
    let mut options = Options {
        clients: 3,
        ..quiet()
    };
    options.change_server = |server| {
        server.pools = vec!["10.7.0.0/29".parse().expect("a prefix")];
        server.gateways = vec!["10.7.0.1".parse().expect("an address")];
    };
    let mut star = masque_testkit::scenario::star(&options).expect("valid");
    for node in star.clients.clone().into_iter().skip(1) {
        star.world.schedule(Duration::ZERO, Input::Stop { node });
    }
    run(&mut star, 2000);
    let server = star.server;
    let tunnel = tunnel(&star, server).expect("one");
    let addresses = vec![
        "10.7.0.2/31".parse().expect("a prefix"),
        "10.7.0.4/32".parse().expect("a prefix"),
    ];
    command(
        &mut star,
        server,
        Command::AssignAddresses { tunnel, addresses },
    );
    for index in 1..3 {
        let node = star.clients[index];
        star.world
            .schedule_in(Duration::ZERO, Input::Restart { node });
        connect(&mut star, index);
        run(&mut star, 1000);
    }
    let given = star.clients[1..]
        .iter()
        .map(|node| address(&star, *node, true).to_string());
    assert_eq!(given.collect::<Vec<_>>(), ["10.7.0.5", "10.7.0.6"]);
}

#[test]
fn an_address_lent_to_nobody_in_particular_comes_back_whatever_was_assigned_since() {
    let mut options = Options {
        clients: 5,
        anonymous_clients: true,
        ..quiet()
    };
    options.change_server = |server| {
        server.pools = vec!["10.7.0.0/29".parse().expect("a prefix")];
        server.gateways = vec!["10.7.0.1".parse().expect("an address")];
        server.require_identity = false;
        server.crypto = Arc::new(NullServer {
            name: SERVER_NAME.to_owned(),
            require_identity: false,
        });
    };
    let mut star = up(&options);
    let (server, clients) = (star.server, star.clients.clone());
    for round in 0..5 {
        assert_eq!(
            usage(&star, server).addresses,
            5,
            "round {round}: all there are"
        );
        let mut given: Vec<_> = clients
            .iter()
            .map(|node| address(&star, *node, true))
            .collect();
        given.sort();
        given.dedup();
        assert_eq!(given.len(), 5, "round {round}");
        let first = tunnel(&star, server).expect("up");
        let addresses = vec!["192.168.5.5/32".parse().expect("a prefix")];
        let tunnel = first;
        command(
            &mut star,
            server,
            Command::AssignAddresses { tunnel, addresses },
        );
        run(&mut star, 100);
        for client in &clients {
            disconnect(&mut star, *client);
        }
        run(&mut star, 10_000);
        assert_eq!(usage(&star, server), Usage::default());
        for index in 0..clients.len() {
            connect(&mut star, index);
        }
        run(&mut star, 2000);
    }
}
