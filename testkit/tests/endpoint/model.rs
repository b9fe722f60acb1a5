//! Whatever happens in whatever order: who owns which address is what a small model says, both ends
//! agree when it is quiet, and after the end nothing is left.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use masque_core::endpoint::{Command, ConnId, Event, Identity, TunnelHandle, Usage};
use masque_core::wire::prefix::IpPrefix;
use masque_testkit::scenario::{Options, Star, star};
use masque_testkit::world::{Input, LinkConfig, NodeId};
use proptest::prelude::*;

use super::common::*;

const CLIENTS: usize = 4;

/// Two clients of one identity, two of identities of their own.
fn name(index: usize) -> Identity {
    Identity(format!("urn:masque:{}", index.saturating_sub(1)))
}

#[derive(Clone, Debug)]
enum Op {
    Connect(usize),
    Disconnect(usize),
    /// Without a word.
    Kill(usize),
    RestartServer,
    CloseTunnel {
        by_server: bool,
        nth: usize,
    },
    Assign {
        nth: usize,
        host: u8,
        also_own: bool,
    },
    Revoke(usize),
    Link {
        client: usize,
        up: bool,
        slow: bool,
    },
    Packets {
        client: usize,
        host: u8,
        size: usize,
        from_server: bool,
    },
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let client = || 0..CLIENTS;
    prop_oneof![
        4 => client().prop_map(Op::Connect),
        2 => client().prop_map(Op::Disconnect),
        1 => client().prop_map(Op::Kill),
        1 => Just(Op::RestartServer),
        2 => (any::<bool>(), 0..6usize).prop_map(|(by_server, nth)| Op::CloseTunnel { by_server, nth }),
        3 => (0..6usize, 2..14u8, any::<bool>())
            .prop_map(|(nth, host, also_own)| Op::Assign { nth, host, also_own }),
        1 => client().prop_map(Op::Revoke),
        2 => (client(), proptest::bool::weighted(0.7), any::<bool>())
            .prop_map(|(client, up, slow)| Op::Link { client, up, slow }),
        4 => (client(), 0..16u8, 0..4000usize, any::<bool>())
            .prop_map(|(client, host, size, from_server)| Op::Packets { client, host, size, from_server }),
        3 => (0..3000u64).prop_map(Op::Wait),
    ]
}

fn options() -> Options {
    let mut options = Options {
        clients: CLIENTS,
        identity: name,
        client_to_client: true,
        ..quiet()
    };
    options.change_server = |server| {
        // Small enough to be exhausted now and then.
        server.pools = ["10.7.0.0/29", "fd00:7::/64"]
            .map(|it| it.parse().expect("a prefix"))
            .into();
    };
    options.transport.idle_timeout = Duration::from_secs(10);
    options.transport.keep_alive = Some(Duration::from_secs(3));
    // QUIC takes little ahead of time, so that packets wait in tunnels' queues.
    options.transport.datagram_send_buffer = 4 << 10;
    options.limits.tunnel_queue_bytes = 20_000;
    options.limits.total_queue_bytes = 30_000;
    options
}

fn perform(star: &mut Star, op: &Op) {
    match *op {
        Op::Connect(index) => connect(star, index),
        Op::Disconnect(index) => disconnect(star, star.clients[index]),
        Op::Kill(index) => {
            let node = star.clients[index];
            star.world
                .schedule_in(Duration::ZERO, Input::Restart { node });
        }
        Op::RestartServer => {
            let node = star.server;
            star.world
                .schedule_in(Duration::ZERO, Input::Restart { node });
        }
        Op::CloseTunnel { by_server, nth } => {
            let nodes = if by_server {
                vec![star.server]
            } else {
                star.clients.clone()
            };
            let all: Vec<_> = nodes.iter().flat_map(|node| tunnels(star, *node)).collect();
            if let Some((node, tunnel)) = all.get(nth).copied() {
                command(star, node, Command::CloseTunnel { tunnel });
            }
        }
        Op::Assign {
            nth,
            host,
            also_own,
        } => {
            if let Some((node, tunnel)) = tunnels(star, star.server).get(nth).copied() {
                let mut addresses = vec![IpPrefix::host(pool_address(host))];
                if also_own {
                    addresses.extend(addresses_of(star, node, tunnel));
                }
                command(star, node, Command::AssignAddresses { tunnel, addresses });
            }
        }
        Op::Revoke(index) => {
            let identity = name(index);
            command(star, star.server, Command::Revoke { identity });
        }
        Op::Link { client, up, slow } => {
            let (a, b) = (star.clients[client], star.server);
            let config = LinkConfig {
                up,
                rate: slow.then_some(50_000),
                ..LinkConfig::default()
            };
            star.world
                .schedule_in(Duration::ZERO, Input::Link { a, b, config });
        }
        Op::Packets {
            client,
            host,
            size,
            from_server,
        } => {
            let node = if from_server {
                star.server
            } else {
                star.clients[client]
            };
            let source = match tunnels(star, star.clients[client]).last() {
                Some((node, tunnel)) if !from_server => addresses_of(star, *node, *tunnel)
                    .iter()
                    .map(IpPrefix::address)
                    .find(IpAddr::is_ipv4),
                _ => Some(inner(true)),
            };
            let Some(source) = source else { return };
            for nth in 0..8 {
                let packet = datagram(source, pool_address(host), size);
                let packet = if nth % 2 == 0 {
                    packet
                } else {
                    may_fragment(packet)
                };
                send_later(star, node, packet);
            }
        }
        Op::Wait(millis) => return run(star, millis),
    }
    run(star, 1);
}

fn pool_address(host: u8) -> IpAddr {
    IpAddr::from([10, 7, 0, host])
}

fn tunnels(star: &Star, node: NodeId) -> Vec<(NodeId, TunnelHandle)> {
    let endpoint = star.world.node(node).endpoint().expect("running");
    endpoint.tunnels().map(|tunnel| (node, tunnel)).collect()
}

fn addresses_of(star: &Star, node: NodeId, tunnel: TunnelHandle) -> Vec<IpPrefix> {
    let endpoint = star.world.node(node).endpoint().expect("running");
    endpoint.tunnel(tunnel).expect("listed").addresses
}

/// What the model knows of the server: who has what, from its tunnels alone.
type Owners = BTreeMap<IpAddr, (TunnelHandle, Identity, NodeId)>;

fn owners(star: &Star) -> Result<Owners, TestCaseError> {
    let endpoint = star.world.node(star.server).endpoint().expect("running");
    let mut owners = Owners::new();
    // In ascending order: the newest tunnel of an identity is the one that counts.
    for tunnel in endpoint.tunnels() {
        let info = endpoint.connection(tunnel.conn).expect("listed");
        let identity = info.identity.expect("demanded");
        let mut clients = star.clients.iter();
        let node = clients.find(|node| star.world.node(**node).sockets() == [info.remote]);
        for prefix in endpoint.tunnel(tunnel).expect("listed").addresses {
            prop_assert!(prefix.is_host());
            let entry = (tunnel, identity.clone(), *node.expect("no other clients"));
            let before = owners.insert(prefix.address(), entry);
            let theirs = before.filter(|(_, owner, _)| *owner != identity);
            prop_assert!(theirs.is_none(), "{prefix} is {identity}'s and {theirs:?}");
        }
    }
    prop_assert!(
        !owners.contains_key(&pool_address(1)),
        "the gateway is nobody's"
    );
    Ok(owners)
}

/// Invariants that hold at every moment; `usage` checks sums of its own.
fn check(star: &Star) -> Result<(), TestCaseError> {
    owners(star)?;
    let limits = options().limits;
    for node in star.clients.iter().chain([&star.server]) {
        let held = usage(star, *node);
        prop_assert!(held.queued_bytes <= limits.total_queue_bytes + 2000);
        prop_assert!(held.handshakes + held.waiting_handshakes <= held.connections);
        prop_assert!(held.tunnels > 0 || held.queued_bytes == 0);
    }
    let endpoint = star.world.node(star.server).endpoint().expect("running");
    let mut live: BTreeMap<Identity, BTreeSet<ConnId>> = BTreeMap::new();
    for tunnel in endpoint.tunnels() {
        let info = endpoint.connection(tunnel.conn).expect("listed");
        live.entry(info.identity.expect("demanded"))
            .or_default()
            .insert(tunnel.conn);
    }
    for (identity, conns) in live {
        prop_assert!(
            conns.len() <= limits.connections_per_identity,
            "{identity} has {conns:?}"
        );
    }
    Ok(())
}

/// Once nothing has happened for long: the ends agree, and packets go where the model says.
fn check_when_quiet(star: &mut Star) -> Result<(), TestCaseError> {
    for client in star.clients.clone() {
        let (a, b, config) = (client, star.server, LinkConfig::default());
        star.world
            .schedule_in(Duration::ZERO, Input::Link { a, b, config });
    }
    // A keep-alive after the last packet of a peer that is gone puts the idle timeout off once; and three probe
    // timeouts of a path that was slow are longer.
    for _ in 0..10 {
        run(star, 45_000);
        if star.world.ends_agree() {
            break;
        }
    }
    check(star)?;
    let owners = owners(star)?;
    let endpoint = star.world.node(star.server).endpoint().expect("running");
    let of_server = endpoint.tunnels().map(|tunnel| {
        let remote = endpoint.connection(tunnel.conn).expect("listed").remote;
        (remote, endpoint.tunnel(tunnel).expect("listed").addresses)
    });
    let mut of_clients = Vec::new();
    for client in &star.clients {
        let remote = star.world.node(*client).sockets()[0];
        for (node, tunnel) in tunnels(star, *client) {
            of_clients.push((remote, addresses_of(star, node, tunnel)));
        }
    }
    let sorted = |mut all: Vec<_>| {
        all.sort();
        all
    };
    prop_assert_eq!(
        sorted(of_server.collect()),
        sorted(of_clients),
        "both ends know the same tunnels"
    );

    for host in 2..14 {
        let to = pool_address(host);
        for node in star.clients.clone() {
            received(star, node);
        }
        let packet = datagram(inner(true), to, 100);
        send(star, star.server, packet.clone());
        for node in star.clients.clone() {
            let got = received(star, node).contains(&packet);
            let expected = owners.get(&to).is_some_and(|(_, _, owner)| *owner == node);
            // A client with two tunnels may have just one of them with this address.
            prop_assert_eq!(
                got,
                expected,
                "{} of {:?} at {:?}",
                to,
                owners.get(&to),
                node
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn addresses_have_one_owner_both_ends_agree_and_nothing_is_left(
        ops in proptest::collection::vec(op(), 1..60), seed in 0..1000u64
    ) {
        let mut star = star(&Options { seed, ..options() }).expect("valid");
        for op in &ops {
            perform(&mut star, op);
            check(&star)?;
        }
        check_when_quiet(&mut star)?;
        for client in star.clients.clone() {
            disconnect(&mut star, client);
        }
        let server = star.server;
        command(&mut star, server, Command::Shutdown { grace: Duration::from_secs(1) });
        // Three probe timeouts of a path whose queue stood for seconds may be more than a minute.
        run(&mut star, 300_000);
        for node in star.clients.iter().chain([&star.server]) {
            prop_assert_eq!(usage(&star, *node), Usage::default());
        }
        let complete = |event: &Event| matches!(event, Event::ShutdownComplete);
        prop_assert_eq!(count(&star, star.server, complete), 1);
        prop_assert_eq!(star.world.next_at(), None, "nothing will ever happen again");
    }
}
