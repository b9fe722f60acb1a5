//! A client with two networks: from one to the other, and nobody inside the tunnel notices.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::namespace::{inside, say};
use crate::process::{Binary, Process};
use crate::traffic::{self, Direction};
use crate::world::{Egress, INET, Underlay, World, ip};

/// What crosses the tunnel while it moves.
const MUCH: u64 = 60_000_000;
/// How long an echo may take: one that took longer is lost.
const LATE: Duration = Duration::from_secs(1);

/// The client's second network, to which nothing leads yet.
fn second_network(world: &World) {
    let router = world.router.path();
    let pair = format!("link add eth1 type veth peer name c1 netns {router}\n");
    world.client.ip(&pair);
    world.router.ip("address add 192.0.4.1/24 dev c1\n\
         address add 2001:db8:6::1/64 dev c1 nodad\n\
         link set c1 up\n");
    world.client.ip("address add 192.0.4.2/24 dev eth1\n\
         address add 2001:db8:6::2/64 dev eth1 nodad\n\
         link set eth1 up\n");
}

/// Echoes without a pause until `enough`; how many were sent, and how many came back.
fn echoes(to: IpAddr, enough: impl Fn() -> bool) -> (u32, u32) {
    let (mut sent, mut came) = (0, 0);
    while !enough() {
        sent += 1;
        came += u32::from(traffic::ping_once(to, LATE).is_some());
        thread::sleep(Duration::from_millis(2));
    }
    (sent, came)
}

fn wait_handed_over(client: &Process, from: usize) -> usize {
    let told = client.wait_from(from, "a handover", |fields| {
        fields["message"] == "tunnel handed over"
    });
    told.1
}

fn moves_with_both_networks_up(binary: Binary) {
    let world = World::new(Egress::Routed);
    second_network(&world);
    let server = world.start_server(Binary::Tokio, "");
    let client = world.start_client(binary, Underlay::V4, "");
    let own = client.wait_up();
    let to = ip(INET[0]);
    let mut stream = world.client.run(|| {
        traffic::ping(to);
        traffic::connect(to)
    });
    let from = client.lines();
    let (sent, came) = thread::scope(|scope| {
        let transfer = scope.spawn(|| traffic::resume(&mut stream, Direction::Up, MUCH));
        let done = move || transfer.is_finished();
        let world = &world;
        let pinging = scope.spawn(move || world.client.run(|| echoes(to, done)));
        thread::sleep(Duration::from_millis(300));
        world
            .client
            .ip("route replace default via 192.0.4.1 dev eth1\n");
        wait_handed_over(&client, from);
        // The old network was of use until now, and is not any more.
        world.client.ip("link set eth0 down\n");
        pinging.join().unwrap()
    });
    say(&format!(
        "moved with both networks up: {} of {sent} echoes lost beside {MUCH} bytes up",
        sent - came
    ));
    assert!(sent - came <= 5, "{came} of {sent}");
    assert_eq!(world.client.run(|| traffic::seen_as(to)).0, own[0]);
    assert!(!client.has_said("will try again"));
    assert!(!client.has_said("tunnel refused"));
    client.stop();
    server.stop();
}

#[test]
fn tokio_moves_with_both_networks_up() {
    inside(|| moves_with_both_networks_up(Binary::Tokio));
}

#[test]
fn smol_moves_with_both_networks_up() {
    inside(|| moves_with_both_networks_up(Binary::Smol));
}

#[test]
fn mio_moves_with_both_networks_up() {
    inside(|| moves_with_both_networks_up(Binary::Mio));
}

#[test]
fn after_a_gap_the_tunnel_goes_on_in_the_other_network_at_once() {
    inside(|| {
        let world = World::new(Egress::Routed);
        second_network(&world);
        let server = world.start_server(Binary::Tokio, "");
        let client = world.start_client(Binary::Tokio, Underlay::V4, "");
        client.wait_up();
        let to = ip(INET[0]);
        let mut stream = world.client.run(|| {
            traffic::ping(to);
            traffic::connect(to)
        });
        world.client.ip("link set eth0 down\n");
        let down = Instant::now();
        // What is sent meanwhile gets no answer.
        while down.elapsed() < Duration::from_secs(3) {
            let lost = world
                .client
                .run(|| traffic::ping_once(to, Duration::from_millis(100)));
            assert!(lost.is_none(), "no network");
        }
        world
            .client
            .ip("route add default via 192.0.4.1 dev eth1\n");
        let back = Instant::now();
        world.client.run(|| {
            while traffic::ping_once(to, Duration::from_millis(20)).is_none() {
                assert!(back.elapsed() < Duration::from_secs(5), "never again");
            }
        });
        say(&format!(
            "another network after 3 s without any: echo after {:.2?}",
            back.elapsed()
        ));
        traffic::resume(&mut stream, Direction::Up, 1 << 20);
        assert!(!client.has_said("will try again"));
        client.stop();
        server.stop();
    });
}

#[test]
fn from_ipv4_to_ipv6_and_back_a_connection_inside_goes_on() {
    inside(|| {
        let world = World::new(Egress::Routed);
        let server = world.start_server(Binary::Tokio, "");
        let hosts = world.write("hosts", "198.51.100.2 vpn.test\n2001:db8:2::2 vpn.test\n");
        let config = world.client_config("alice", Underlay::V4, "connect = \"vpn.test:4433\"");
        let mount = format!(
            "mount --bind {} /etc/hosts && exec \"$0\" \"$@\"",
            hosts.display()
        );
        let launcher = ["unshare", "--mount", "sh", "-c", &mount];
        // IPv4 is all there is at first.
        world.client.ip("route del default via 2001:db8:1::1\n");
        let client = Process::start_by(
            &launcher,
            &world.client,
            Binary::Tokio,
            "client",
            &config,
            &[],
        );
        client.wait_up();
        let to = ip(INET[0]);
        for (change, address) in [
            (
                "route add default via 2001:db8:1::1\nroute del default via 192.0.2.1\n",
                "2001:db8:2::2",
            ),
            (
                "route add default via 192.0.2.1\nroute del default via 2001:db8:1::1\n",
                "198.51.100.2",
            ),
        ] {
            let mut streams = world
                .client
                .run(|| [traffic::connect(to), traffic::connect(to)]);
            let from = client.lines();
            world.client.ip(change);
            let (told, _) = client.wait_from(from, "a handover", |fields| {
                fields["message"] == "tunnel handed over"
            });
            assert!(told["remote"].to_string().contains(address), "{told}");
            let directions = [Direction::Up, Direction::Down];
            for (stream, direction) in streams.iter_mut().zip(directions) {
                traffic::resume(stream, direction, 1 << 20);
            }
        }
        assert!(!client.has_said("will try again"));
        client.stop();
        server.stop();
    });
}
