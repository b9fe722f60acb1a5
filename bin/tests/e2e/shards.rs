//! A server on two threads: whatever the kernel delivers where, clients notice nothing.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::clients::leased;
use crate::namespace::{inside, say};
use crate::process::{Binary, Ended, PATIENCE, Process};
use crate::traffic::{self, Direction};
use crate::world::{Egress, INET, Underlay, World, ip};

const SOME: u64 = 1 << 20;

/// The shard that a client's newest connection is on, told from line `from` of the server's log on.
fn shard_of(server: &Process, client: &str, from: usize) -> u64 {
    let (fields, _) = server.wait_from(from, "client connected", |fields| {
        fields["message"] == "client connected" && fields["client"] == client
    });
    fields["shard"].as_u64().unwrap()
}

/// Starts `bob` until he is on that shard: which one it is comes of a random connection ID.
fn bob_on(world: &World, server: &Process, binary: Binary, shard: u64) -> (Process, Vec<IpAddr>) {
    for _ in 0..40 {
        let from = server.lines();
        let bob = world.start_second(binary, "");
        let addresses = bob.wait_up();
        if shard_of(server, "bob", from) == shard {
            return (bob, addresses);
        }
        bob.stop();
    }
    panic!("bob never came to shard {shard}");
}

/// The same for `alice`.
fn alice_on(world: &World, server: &Process, binary: Binary, shard: u64) -> (Process, Vec<IpAddr>) {
    for _ in 0..40 {
        let from = server.lines();
        let alice = world.start_client(binary, Underlay::V4, "");
        let addresses = alice.wait_up();
        if shard_of(server, "alice", from) == shard {
            return (alice, addresses);
        }
        alice.stop();
    }
    panic!("alice never came to shard {shard}");
}

fn number(totals: &Value, name: &str) -> u64 {
    totals[name].as_u64().unwrap()
}

/// Ping, UDP and TCP both ways to the host behind the server, every byte compared.
fn reaches_inet(own: &[IpAddr]) {
    for to in INET.map(ip) {
        traffic::ping(to);
        let (from, hops) = traffic::seen_as(to);
        assert!(own.contains(&from), "seen as {from}");
        assert_eq!(hops, 63, "the kernel of the server is the one router");
        for direction in [Direction::Up, Direction::Down] {
            traffic::transfer(direction, to, SOME);
        }
    }
}

/// A client on each shard: both reach the world, at the same time, and each other.
fn carries_everything(server: Binary, clients: [Binary; 2], settings: &str) -> Ended {
    let world = World::new(Egress::Routed);
    let more = format!("shards = 2\nclient_to_client = true\n{settings}");
    let server = world.start_server(server, &more);
    let (alice, own) = alice_on(&world, &server, clients[0], 1);
    let (bob, others) = bob_on(&world, &server, clients[1], 0);
    thread::scope(|scope| {
        scope.spawn(|| world.client.run(|| reaches_inet(&own)));
        scope.spawn(|| world.second.run(|| reaches_inet(&others)));
    });
    world.second.run(traffic::serve);
    for &to in &others {
        world.client.run(|| {
            traffic::ping(to);
            let (from, hops) = traffic::seen_as(to);
            assert!(own.contains(&from), "seen as {from}");
            assert_eq!(hops, 63, "the server is one hop, on however many threads");
            traffic::transfer(Direction::Up, to, SOME);
            traffic::transfer(Direction::Down, to, SOME);
        });
    }
    alice.stop();
    bob.stop();
    let ended = server.stop();
    // Both shards' packets are in the account.
    let carried = number(&ended.totals, "packets_in") + number(&ended.totals, "packets_out");
    assert!(carried > 8 * SOME / 1400, "{}", ended.totals);
    let across = number(&ended.totals, "packets_across");
    assert!(across > 4 * SOME / 1400, "{}", ended.totals);
    assert_eq!(ended.dropped("mailbox_full"), 0, "{}", ended.totals);
    ended
}

#[test]
fn two_shards_carry_everything_on_tokio() {
    inside(|| {
        drop(carries_everything(
            Binary::Tokio,
            [Binary::Smol, Binary::Mio],
            "",
        ))
    });
}

#[test]
fn two_shards_carry_everything_on_smol() {
    inside(|| {
        drop(carries_everything(
            Binary::Smol,
            [Binary::Mio, Binary::Tokio],
            "",
        ))
    });
}

#[test]
fn two_shards_carry_everything_on_mio() {
    inside(|| {
        drop(carries_everything(
            Binary::Mio,
            [Binary::Tokio, Binary::Smol],
            "",
        ))
    });
}

const UNSTEERED: &str = "transport.steering = false\ntun.steering = false";

#[test]
fn shards_that_nobody_steers_carry_everything() {
    inside(|| {
        for server in [Binary::Tokio, Binary::Smol, Binary::Mio] {
            let ended = carries_everything(server, [Binary::Tokio, Binary::Mio], UNSTEERED);
            assert_eq!(number(&ended.totals, "steering_failures"), 0);
        }
    });
}

#[test]
fn shards_with_one_queue_between_them_carry_everything() {
    inside(|| {
        for server in [Binary::Tokio, Binary::Smol, Binary::Mio] {
            let ended = carries_everything(
                server,
                [Binary::Mio, Binary::Tokio],
                "tun.multi_queue = false",
            );
            // All that came down to the client of the other shard.
            let mails = number(&ended.totals, "mails");
            assert!(mails > 0, "{}", ended.totals);
            assert_eq!(number(&ended.totals, "steering_failures"), 0);
        }
    });
}

/// The server's account after one client on the second shard has moved `much` bytes each way.
fn bulk(settings: &str, much: u64) -> (Value, bool) {
    let world = World::new(Egress::Routed);
    let server = world.start_server(Binary::Mio, &format!("shards = 2\n{settings}"));
    let (alice, _) = alice_on(&world, &server, Binary::Mio, 1);
    world.client.run(|| {
        for direction in [Direction::Up, Direction::Down] {
            traffic::transfer(direction, ip(INET[0]), much);
        }
    });
    alice.stop();
    let unsteered = server.has_said("not steered by destination");
    let totals = server.stop().totals;
    say(&format!(
        "{settings:?}: {} mails for {} packets in and {} out",
        totals["mails"], totals["packets_in"], totals["packets_out"]
    ));
    (totals, unsteered)
}

/// Where the kernel steers, next to nothing goes through a mailbox.
#[test]
fn a_steered_server_has_no_mail() {
    inside(|| {
        let (totals, unsteered) = bulk("", 8 * SOME);
        // In a user namespace eBPF is not allowed, and the server says so.
        assert_eq!(number(&totals, "steering_failures"), u64::from(unsteered));
        assert!(number(&totals, "mails") < 100, "{totals}");
    });
}

#[test]
fn with_one_queue_all_that_comes_down_to_another_shard_is_mail() {
    inside(|| {
        let (totals, _) = bulk("tun.multi_queue = false", 8 * SOME);
        // Super-packets of at most 64 KiB.
        let least = 8 * SOME / 65_536;
        assert!(number(&totals, "mails") >= least, "{totals}");
    });
}

/// As in most containers: the server says so once, goes on, and counts it.
#[test]
fn a_server_that_may_not_use_ebpf_carries_everything() {
    inside(|| {
        let world = World::new(Egress::Routed);
        let config = world.server_config("shards = 2");
        let launcher = ["setpriv", "--bounding-set", "-bpf,-sys_admin"];
        let server = Process::start_by(
            &launcher,
            &world.server,
            Binary::Smol,
            "server",
            &config,
            &[],
        );
        server.wait_for("server ready");
        assert!(server.has_said("not steered by destination"));
        let (alice, own) = alice_on(&world, &server, Binary::Mio, 1);
        world.client.run(|| reaches_inet(&own));
        alice.stop();
        let totals = server.stop().totals;
        assert_eq!(number(&totals, "steering_failures"), 1, "{totals}");
    });
}

/// Moves the client to other addresses under a TCP connection; the server's account.
fn moves(server: Binary, settings: &str, times: u8) -> Ended {
    let world = World::new(Egress::Routed);
    let server = world.start_server(server, &format!("shards = 2\n{settings}"));
    let (client, own) = alice_on(&world, &server, Binary::Tokio, 1);
    let to = ip(INET[0]);
    let mut stream = world.client.run(|| {
        traffic::ping(to);
        traffic::connect(to)
    });
    world.client.set("ipv4/conf/eth0/promote_secondaries", "1");
    let mut before = 2;
    for after in (77..).take(times.into()) {
        let from = server.lines();
        world.client.ip(&format!(
            "address add 192.0.2.{after}/24 dev eth0\n\
             address del 192.0.2.{before}/24 dev eth0\n\
             route replace default via 192.0.2.1\n"
        ));
        world.client.run(|| traffic::ping(to));
        let (moved, _) = server.wait_from(from, "client moved", |fields| {
            fields["message"] == "client moved"
                && fields["remote"]
                    .to_string()
                    .contains(&format!("192.0.2.{after}:"))
        });
        // A connection's number says its shard. The tunnel is on one of either shard after each move.
        let conn = moved["conn"]
            .as_str()
            .and_then(|conn| conn.strip_prefix('c'));
        let conn: u64 = conn.and_then(|conn| conn.parse().ok()).unwrap();
        assert_eq!(moved["shard"], conn % 2, "{moved}");
        before = after;
    }
    // The TCP connection of the beginning.
    traffic::resume(&mut stream, Direction::Up, SOME);
    assert_eq!(world.client.run(|| traffic::seen_as(to)).0, own[0]);
    assert!(!client.has_said("will try again"));
    client.stop();
    server.stop()
}

#[test]
fn a_client_that_moves_stays_on_its_shard() {
    inside(|| {
        for server in [Binary::Tokio, Binary::Smol, Binary::Mio] {
            moves(server, "", 2);
        }
    });
}

/// Its datagrams come to either socket, by an address that says nothing about its shard: of so many
/// addresses it is next to impossible that all lead to the right one.
#[test]
fn a_client_that_moves_keeps_its_connection_where_nobody_steers() {
    inside(|| {
        let ended = moves(Binary::Mio, UNSTEERED, 14);
        assert!(number(&ended.totals, "mails") > 0, "{}", ended.totals);
    });
}

/// One shard writes the leases of all.
#[test]
fn clients_of_all_shards_keep_their_addresses_across_a_crash() {
    inside(|| {
        let world = World::new(Egress::Routed);
        let server = world.start_server(Binary::Tokio, "shards = 2");
        let (alice, first) = alice_on(&world, &server, Binary::Tokio, 1);
        let (bob, second) = bob_on(&world, &server, Binary::Mio, 0);
        let until = Instant::now() + PATIENCE;
        while !leased(&world, &first) || !leased(&world, &second) {
            assert!(Instant::now() < until, "the leases are not written");
            thread::sleep(Duration::from_millis(10));
        }
        let said = [alice.lines(), bob.lines()];
        server.kill();
        let server = world.restart_server(Binary::Smol, &world.path("server.toml"));
        for namespace in [&world.client, &world.second] {
            namespace.run(|| traffic::ping(ip(INET[0])));
        }
        assert_eq!(alice.wait_up_from(said[0]), first);
        assert_eq!(bob.wait_up_from(said[1]), second);
        alice.stop();
        bob.stop();
        server.stop();
    });
}

#[test]
fn a_shard_that_loses_its_device_stops_the_server_and_the_host_is_as_before() {
    inside(|| {
        for binary in [Binary::Tokio, Binary::Smol, Binary::Mio] {
            let world = World::new(Egress::Routed);
            let before = world.server.snapshot();
            let server = world.start_server(binary, "shards = 2");
            let alice = world.start_client(Binary::Mio, Underlay::V4, "");
            alice.wait_up();
            world.server.ip("link delete vpn0\n");
            let (code, last) = server.fails();
            assert!(code != 0 && last.contains("taken away"), "{code}: {last}");
            assert_eq!(world.server.snapshot(), before);
        }
    });
}

#[test]
fn a_second_server_on_the_same_port_is_refused_in_words() {
    inside(|| {
        let world = World::new(Egress::Routed);
        let server = world.start_server(Binary::Tokio, "shards = 2");
        let text = std::fs::read_to_string(world.path("server.toml")).unwrap();
        let other = text
            .replace("\"vpn0\"", "\"vpn1\"")
            .replace("\"state\"", "\"state-other\"");
        let config = world.write("other.toml", &other);
        let (code, last) = Process::start(&world.server, Binary::Tokio, "server", &config).fails();
        assert!(
            code != 0 && last.contains("another program listens"),
            "{code}: {last}"
        );
        server.stop();
    });
}
