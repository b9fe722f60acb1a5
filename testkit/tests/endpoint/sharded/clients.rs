//! Who is there, with which addresses, and how many: on all shards together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use masque_core::endpoint::{CloseReason, Command, DropReason, Event, Identity, Usage};
use masque_testkit::scenario::{Star, client_identity, star};
use masque_testkit::world::{Input, NodeId, Steering};
use proptest::prelude::*;

use super::super::common::*;
use super::*;

#[test]
fn an_identity_has_so_many_connections_on_all_shards_together() {
    // With a mailbox that takes nothing, too: what the other shard must know does not go by mail.
    for mailbox in [0, 1000] {
        for seed in 0..6 {
            let mut options = options(4, Steering::Right);
            options.seed = seed;
            options.identity = |_| Identity("urn:masque:shared".to_owned());
            options.limits.connections_per_identity = 1;
            options.sharding.mailbox = mailbox;
            let mut star = star(&options).expect("valid");
            for (nth, node) in star.clients.clone().into_iter().enumerate() {
                star.world.schedule(Duration::ZERO, Input::Stop { node });
                let at = Duration::from_secs(20 * nth as u64 + 1);
                star.world.schedule(at, Input::Restart { node });
            }
            let mut leased = BTreeSet::new();
            for nth in 0..star.clients.len() {
                let at = Duration::from_secs(20 * nth as u64 + 1);
                star.world.run_until(at + Duration::from_millis(1));
                connect(&mut star, nth);
                // The keep-alive of a replaced connection is what wakes its shard at the latest.
                run(&mut star, 18_000);
                let alive: Vec<_> = star
                    .clients
                    .iter()
                    .filter(|it| home(&star, **it).is_some())
                    .collect();
                assert_eq!(
                    alive,
                    [&star.clients[nth]],
                    "only the newest, {seed} {mailbox}"
                );
                leased.insert(address(&star, star.clients[nth], true));
            }
            assert_eq!(leased.len(), 1, "all had the lease of the identity");
            let replaced = |event: &Event| {
                let reason = match event {
                    Event::ConnectionClosed { reason, .. } => Some(reason),
                    _ => None,
                };
                reason == Some(&CloseReason::Replaced)
            };
            let told: usize = star
                .shards
                .iter()
                .map(|it| count(&star, *it, replaced))
                .sum();
            assert_eq!(told, star.clients.len() - 1);
            let client = star.clients[5];
            let to = address(&star, client, true);
            for shard in star.shards.clone() {
                if mailbox > 0 {
                    at_queue(&mut star, shard, &datagram(inner(true), to, 10));
                }
            }
            run(&mut star, 300);
            let expected = if mailbox > 0 { 4 } else { 0 };
            assert_eq!(received(&mut star, client).len(), expected);
        }
    }
}

#[test]
fn addresses_follow_the_newest_connection_of_an_identity_to_its_shard_and_fall_back() {
    for seed in 0..6 {
        let mut options = options(4, Steering::Right);
        options.seed = seed;
        options.identity = |_| Identity("urn:masque:shared".to_owned());
        options.limits.connections_per_identity = 10;
        let mut star = up(&options);
        let to = address(&star, star.clients[0], true);
        let mut left: Vec<_> = star.clients.clone();
        left.sort_by_key(|client| home(&star, *client).expect("up").1);
        while let Some(newest) = left.pop() {
            for shard in star.shards.clone() {
                at_queue(&mut star, shard, &datagram(inner(true), to, 10));
            }
            run(&mut star, 300);
            assert_eq!(received(&mut star, newest).len(), 4, "from every queue");
            for other in left.clone() {
                assert_eq!(received(&mut star, other).len(), 0);
            }
            disconnect(&mut star, newest);
            run(&mut star, 500);
        }
        for shard in star.shards.clone() {
            at_queue(&mut star, shard, &datagram(inner(true), to, 10));
        }
        assert_eq!(sum_dropped(&star, DropReason::NoTunnel), 4);
        assert_empty(&mut star);
    }
}

#[test]
fn a_revoked_identity_is_closed_on_every_shard() {
    let mut options = options(3, Steering::Right);
    options.identity = |index| Identity(format!("urn:masque:{}", index % 2));
    options.limits.connections_per_identity = 10;
    let mut star = up(&options);
    let (server, identity) = (star.shards[1], Identity("urn:masque:0".to_owned()));
    command(&mut star, server, Command::Revoke { identity });
    run(&mut star, 500);
    for (index, client) in star.clients.clone().into_iter().enumerate() {
        assert_eq!(home(&star, client).is_none(), index % 2 == 0);
    }
}

#[test]
fn no_two_clients_have_an_address_and_each_keeps_its_own_on_another_shard() {
    for seed in 0..4 {
        let mut options = options(4, Steering::Right);
        options.seed = seed;
        options.clients = 20;
        let mut star = up(&options);
        let had = |star: &Star| -> Vec<IpAddr> {
            let clients = star.clients.iter();
            clients.map(|client| address(star, *client, true)).collect()
        };
        let shards = |star: &Star| -> Vec<NodeId> {
            let clients = star.clients.iter();
            clients
                .map(|client| home(star, *client).expect("up").0)
                .collect()
        };
        let (first, at_first) = (had(&star), shards(&star));
        assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 20);
        for client in star.clients.clone() {
            disconnect(&mut star, client);
        }
        run(&mut star, 5000);
        for index in 0..star.clients.len() {
            connect(&mut star, index);
        }
        run(&mut star, 1000);
        assert_eq!(had(&star), first);
        assert_ne!(shards(&star), at_first, "somebody is on another shard now");
        // What each shard told, together, is what there is.
        let told: BTreeMap<Identity, Vec<IpAddr>> = star
            .shards
            .iter()
            .flat_map(|shard| star.world.node(*shard).leases())
            .map(|lease| (lease.identity.clone(), lease.addresses.clone()))
            .collect();
        for (index, address) in first.iter().enumerate() {
            assert!(told[&client_identity(index)].contains(address));
        }
    }
}

#[test]
fn the_last_address_is_given_once() {
    let mut options = options(3, Steering::Right);
    options.change_server = |server| {
        server.pools = vec!["10.7.0.0/29".parse().expect("a constant")];
    };
    // Six hosts, one of them the gateway.
    options.clients = 8;
    let mut star = star(&options).expect("valid");
    run(&mut star, 2000);
    let up: Vec<_> = star
        .clients
        .iter()
        .filter(|it| home(&star, **it).is_some())
        .collect();
    assert_eq!(up.len(), 5);
    let all: BTreeSet<_> = up.iter().map(|it| address(&star, **it, true)).collect();
    assert_eq!(all.len(), 5);
}

#[test]
fn limits_count_all_shards_together() {
    let mut options = options(3, Steering::Right);
    options.clients = 12;
    options.limits.max_connections = 7;
    let mut star = star(&options).expect("valid");
    run(&mut star, 500);
    let up = star.clients.iter().filter(|it| home(&star, **it).is_some());
    assert_eq!(up.count(), 7);
    assert_eq!(sum(&star, |counters| counters.refused), 5);
    // A place that is free on one shard is free for all.
    for client in star.clients.clone() {
        disconnect(&mut star, client);
    }
    run(&mut star, 20_000);
    for index in 0..7 {
        connect(&mut star, 11 - index);
    }
    run(&mut star, 1000);
    let up = star.clients.iter().filter(|it| home(&star, **it).is_some());
    assert_eq!(up.count(), 7);
    assert_empty(&mut star);
}

#[test]
fn a_retry_stays_on_its_shard() {
    let mut options = options(4, Steering::Right);
    options.limits.retry_threshold = 0;
    let star = up(&options);
    assert_eq!(sum(&star, |counters| counters.retries), 6);
    assert_eq!(sum(&star, |counters| counters.mail_sent), 0);
}

#[test]
fn what_a_client_was_assigned_by_command_is_its_on_every_shard() {
    let mut star = up(&options(3, Steering::Right));
    let client = star.clients[0];
    let (at, tunnel) = home(&star, client).expect("up");
    let prefix = "172.16.5.0/24".parse().expect("a constant");
    let addresses = vec![prefix];
    command(
        &mut star,
        at,
        Command::AssignAddresses { tunnel, addresses },
    );
    run(&mut star, 300);
    let its: IpAddr = "172.16.5.9".parse().expect("a constant");
    for shard in star.shards.clone() {
        at_queue(&mut star, shard, &datagram(inner(true), its, 10));
        // It came back through the kernel.
        at_queue(&mut star, shard, &datagram(its, inner(true), 10));
    }
    run(&mut star, 300);
    assert_eq!(received(&mut star, client).len(), 3);
    assert_eq!(sum_dropped(&star, DropReason::PoolSource), 3);
    let (other, theirs) = star
        .clients
        .iter()
        .filter_map(|client| home(&star, *client))
        .find(|(shard, _)| *shard != at)
        .expect("not all on one shard");
    let addresses = vec!["172.16.5.128/25".parse().expect("a constant")];
    let assign = Command::AssignAddresses {
        tunnel: theirs,
        addresses,
    };
    command(&mut star, other, assign);
    run(&mut star, 300);
    let errors = star.world.node(other).errors();
    assert_eq!(errors, ["the address is somebody else's"]);
    // An address nobody has any more is nobody's on every shard.
    disconnect(&mut star, client);
    run(&mut star, 5000);
    let before = sum_dropped(&star, DropReason::NoTunnel);
    for shard in star.shards.clone() {
        at_queue(&mut star, shard, &datagram(inner(true), its, 10));
    }
    assert_eq!(sum_dropped(&star, DropReason::NoTunnel) - before, 3);
}

#[test]
fn a_shard_that_ends_takes_what_it_had_with_it() {
    let mut star = up(&options(3, Steering::Right));
    let (one, other) = apart(&star);
    let (gone, stays) = (
        home(&star, one).expect("up").0,
        home(&star, other).expect("up").0,
    );
    let on_it = star
        .clients
        .iter()
        .filter(|it| home(&star, **it).map(|(at, _)| at) == Some(gone));
    let on_it = on_it.count();
    star.world
        .schedule_in(Duration::ZERO, Input::Stop { node: gone });
    run(&mut star, 10);
    assert_eq!(usage(&star, stays).identities, 6 - on_it);
    let to = address(&star, one, true);
    at_queue(&mut star, stays, &datagram(inner(true), to, 10));
    assert_eq!(dropped(&star, stays, DropReason::NoTunnel), 1);
    // It comes back, and so do its clients.
    star.world
        .schedule_in(Duration::ZERO, Input::Restart { node: gone });
    run(&mut star, 60_000);
    for (index, client) in star.clients.clone().into_iter().enumerate() {
        if home(&star, client).is_none() {
            connect(&mut star, index);
        }
    }
    run(&mut star, 1000);
    assert_eq!(address(&star, one, true), to);
    assert_empty(&mut star);
}

#[test]
fn a_shutdown_of_every_shard_leaves_nothing() {
    for steering in STEERINGS {
        let mut star = up(&options(3, steering));
        for shard in star.shards.clone() {
            let grace = Duration::from_secs(2);
            command(&mut star, shard, Command::Shutdown { grace });
        }
        run(&mut star, 20_000);
        let complete = |event: &Event| matches!(event, Event::ShutdownComplete);
        for shard in star.shards.clone() {
            assert_eq!(count(&star, shard, complete), 1);
            assert_eq!(usage(&star, shard), Usage::default());
        }
        for client in star.clients.clone() {
            assert!(closed(&star, client).is_some());
        }
    }
}

/// What can happen to a sharded server.
#[derive(Clone, Debug)]
enum Step {
    Connect(usize),
    Disconnect(usize),
    Across(usize, usize),
    Down(usize),
    Up(usize),
    Pause(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let client = || 0..8_usize;
    prop_oneof![
        2 => client().prop_map(Step::Connect),
        1 => client().prop_map(Step::Disconnect),
        3 => (client(), client()).prop_map(|(one, other)| Step::Across(one, other)),
        2 => client().prop_map(Step::Down),
        2 => client().prop_map(Step::Up),
        3 => (0..200_u16).prop_map(Step::Pause),
    ]
}

/// Two identities never have one address, and no identity has more connections than allowed, on all
/// shards together.
fn check_shards(star: &Star, settled: bool) {
    let mut holders: BTreeMap<IpAddr, Identity> = BTreeMap::new();
    let mut connections: BTreeMap<Identity, usize> = BTreeMap::new();
    for shard in &star.shards {
        let endpoint = star.world.node(*shard).endpoint().expect("running");
        let mut seen = BTreeSet::new();
        for tunnel in endpoint.tunnels() {
            let info = endpoint.connection(tunnel.conn).expect("listed");
            let identity = info.identity.expect("demanded");
            if seen.insert(tunnel.conn) {
                *connections.entry(identity.clone()).or_default() += 1;
            }
            for prefix in endpoint.tunnel(tunnel).expect("listed").addresses {
                let holder = holders.entry(prefix.address()).or_insert(identity.clone());
                assert_eq!(*holder, identity, "{prefix:?}");
            }
        }
    }
    if settled {
        for (identity, count) in connections {
            assert!(count <= 2, "{identity} has {count}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever clients do, in whatever order mail travels: addresses are unique, limits hold, and at
    /// the end nothing is left.
    #[test]
    fn shards_stay_one_server(
        seed: u64,
        shards in 2..5_u16,
        way in 0..3_usize,
        mailbox in prop_oneof![Just(0_usize), Just(3), Just(1000)],
        delay in 0..30_u64,
        steps in prop::collection::vec(step(), 1..40),
    ) {
        // With no mailbox at all, only what finds its shard gets through.
        let steering = if mailbox == 0 { Steering::Right } else { STEERINGS[way] };
        let mut options = options(shards, steering);
        options.seed = seed;
        options.clients = 8;
        options.identity = |index| Identity(format!("urn:masque:{}", index % 3));
        options.sharding.mailbox = mailbox;
        options.sharding.mail_delay = Duration::from_millis(delay);
        let mut star = star(&options).expect("valid");
        for step in steps {
            match step {
                Step::Connect(index) => connect(&mut star, index),
                Step::Disconnect(index) => {
                    let client = star.clients[index];
                    disconnect(&mut star, client);
                }
                Step::Across(one, other) => {
                    let (one, other) = (star.clients[one], star.clients[other]);
                    if tunnel(&star, one).is_some() && tunnel(&star, other).is_some() {
                        let (from, to) = (address(&star, one, true), address(&star, other, true));
                        send_later(&mut star, one, datagram(from, to, 50));
                    }
                }
                Step::Down(index) => {
                    let client = star.clients[index];
                    if tunnel(&star, client).is_some() {
                        let packet = datagram(inner(true), address(&star, client, true), 50);
                        let server = star.server;
                        send_later(&mut star, server, packet);
                    }
                }
                Step::Up(index) => {
                    let client = star.clients[index];
                    if tunnel(&star, client).is_some() {
                        let packet = datagram(address(&star, client, true), inner(true), 50);
                        send_later(&mut star, client, packet);
                    }
                }
                Step::Pause(millis) => run(&mut star, u64::from(millis)),
            }
            check_shards(&star, false);
        }
        run(&mut star, 30_000);
        check_shards(&star, true);
        for client in star.clients.clone() {
            disconnect(&mut star, client);
        }
        run(&mut star, 120_000);
        for shard in star.shards.clone() {
            prop_assert_eq!(usage(&star, shard), Usage::default());
        }
    }
}
