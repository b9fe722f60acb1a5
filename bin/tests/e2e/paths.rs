//! What the path does to the tunnel: hops, sizes, other addresses.

use std::net::{IpAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use crate::namespace::{inside, say};
use crate::process::{Binary, PATIENCE};
use crate::traffic::{self, Direction};
use crate::world::{Egress, GATEWAYS, INET, Underlay, World, ip};

#[test]
fn traceroute_shows_the_server_once() {
    inside(|| {
        let world = World::new(Egress::Routed);
        let server = world.start_server(Binary::Tokio, "client_to_client = true");
        let alice = world.start_client(Binary::Tokio, Underlay::V4, "");
        alice.wait_up();
        let bob = world.start_second(Binary::Tokio, "");
        let addresses = bob.wait_up();
        for (version, to) in INET.map(ip).into_iter().chain(addresses).enumerate() {
            world.client.run(|| traffic::ping(to));
            let gateway = ip(GATEWAYS[version % 2]);
            assert_eq!(hops(&world, to), [gateway, to], "to {to}");
        }
        for to in INET.map(ip) {
            // The kernel of the server is the only router between the client's and the far one.
            assert_eq!(world.client.run(|| traffic::seen_as(to)).1, 63);
        }
        alice.stop();
        bob.stop();
        server.stop();
    });
}

/// What answers on the way, hop by hop.
fn hops(world: &World, to: IpAddr) -> Vec<IpAddr> {
    let to = to.to_string();
    let options = ["-n", "-q", "1", "-w", "2", "-m", "5", &to];
    let shown = world.client.command("traceroute", &options);
    shown
        .lines()
        .skip(1)
        .map(|line| {
            let mut words = line.split_whitespace().skip(1);
            let word = words.next().unwrap_or_default();
            word.parse().unwrap_or_else(|_| panic!("{shown}"))
        })
        .collect()
}

/// The path MTU that this namespace believes in.
fn believed_mtu(world: &World, to: IpAddr) -> Option<u32> {
    let shown = world.inet.command("ip", &["route", "get", &to.to_string()]);
    let mut words = shown.split_whitespace();
    words.find(|word| *word == "mtu")?;
    words.next()?.parse().ok()
}

#[test]
fn a_packet_too_big_for_the_tunnel_is_answered_by_us() {
    inside(|| {
        let world = World::new(Egress::Routed);
        // The device takes 1,500 bytes, the tunnel less: the kernel has no reason to object.
        let narrow = "transport.initial_mtu = 1350\ntransport.discover_mtu = false";
        let more = format!("allow_inbound = true\ntun.mtu = 1500\n{narrow}");
        let server = world.start_server(Binary::Tokio, &more);
        let client = world.start_client(Binary::Tokio, Underlay::V4, narrow);
        let addresses = client.wait_up();
        let mtu = client.wait_for("MTU")["mtu"].as_u64().unwrap();
        assert!((1280..1350).contains(&mtu), "{mtu}");
        for to in addresses {
            world.client.run(|| traffic::ping(fence(to)));
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = world.inet.run(|| UdpSocket::bind(any).unwrap());
            let until = Instant::now() + PATIENCE;
            // The kernel sets DF until it knows better, which it does some time later.
            while believed_mtu(&world, to).is_none() {
                assert!(Instant::now() < until, "nobody objects");
                socket.send_to(&[0; 1372], (to, 9)).unwrap();
                thread::sleep(Duration::from_millis(5));
            }
            assert_eq!(
                believed_mtu(&world, to).map(u64::from),
                Some(mtu),
                "to {to}"
            );
        }
        client.stop();
        assert!(server.stop().dropped("too_big") >= 2);
    });
}

fn fence(to: IpAddr) -> IpAddr {
    ip(INET[usize::from(to.is_ipv6())])
}

#[test]
fn a_path_that_shrinks_under_traffic_stops_nothing() {
    inside(|| {
        const MUCH: u64 = 40_000_000;
        let world = World::new(Egress::Routed);
        let server = world.start_server(Binary::Tokio, "tun.mtu = 1500");
        let client = world.start_client(Binary::Tokio, Underlay::V4, "");
        let own = client.wait_up()[0];
        let to = ip(INET[0]);
        world.client.run(|| traffic::ping(to));
        let before = client.lines();
        let (down, up) = thread::scope(|scope| {
            // In the middle of the transfers, seen by the packets on the underlay.
            let transfers = [Direction::Down, Direction::Up].map(|direction| {
                let world = &world;
                scope.spawn(move || world.client.run(|| traffic::transfer(direction, to, MUCH)))
            });
            let until = Instant::now() + PATIENCE;
            while carried(&world) < MUCH / 8 {
                assert!(Instant::now() < until, "no traffic");
                thread::sleep(Duration::from_millis(1));
            }
            world
                .router
                .ip("link set s0 mtu 1300\nlink set c0 mtu 1300\n");
            let [down, up] = transfers.map(|transfer| transfer.join().unwrap());
            (down, up)
        });
        say(&format!(
            "the path shrank to 1300 bytes: 40 MB down in {down:.2?}, up in {up:.2?}"
        ));
        let (told, _) = client.wait_from(before, "a smaller MTU", |fields| {
            fields["message"] == "MTU" && fields["mtu"].as_u64() < Some(1272)
        });
        let mtu = told["mtu"].as_u64().unwrap();
        let believed = believed_mtu(&world, own).map(u64::from);
        assert!(
            believed.is_some_and(|believed| believed <= 1272),
            "{believed:?} of {mtu}"
        );
        client.stop();
        assert!(server.stop().dropped("too_big") > 0);
    });
}

/// Bytes the server has sent towards the client so far.
fn carried(world: &World) -> u64 {
    let shown = world
        .router
        .command("ip", &["-j", "-s", "link", "show", "s0"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    shown[0]["stats64"]["rx"]["bytes"].as_u64().unwrap()
}

#[test]
fn a_path_for_1232_bytes_carries_an_ipv4_tunnel() {
    inside(|| {
        let world = World::new(Egress::Routed);
        // 1,232 bytes, 8 of UDP, 20 of IPv4.
        world
            .router
            .ip("link set s0 mtu 1260\nlink set c0 mtu 1260\n");
        let server = world.start_server(Binary::Tokio, "");
        let client = world.start_client(Binary::Tokio, Underlay::V4, "");
        client.wait_up();
        let to = ip(INET[0]);
        world.client.run(|| {
            traffic::ping(to);
            traffic::transfer(Direction::Up, to, 1 << 20);
            traffic::transfer(Direction::Down, to, 1 << 20);
        });
        assert!(client.has_said("too narrow for IPv6"));
        let v6 = world
            .client
            .command("ip", &["-6", "route", "show", "table", "all"]);
        assert!(!v6.contains("dev vpn0"), "{v6}");
        client.stop();
        server.stop();
    });
}

#[test]
fn the_tunnel_lives_on_when_the_underlay_address_changes() {
    inside(|| {
        let world = World::new(Egress::Routed);
        let server = world.start_server(Binary::Tokio, "");
        let client = world.start_client(Binary::Tokio, Underlay::V4, "");
        let own = client.wait_up();
        let to = ip(INET[0]);
        let mut stream = world.client.run(|| {
            traffic::ping(to);
            traffic::connect(to)
        });
        world.client.set("ipv4/conf/eth0/promote_secondaries", "1");
        world.client.ip("address add 192.0.2.77/24 dev eth0\n\
             address del 192.0.2.2/24 dev eth0\n\
             route replace default via 192.0.2.1\n");
        let begun = Instant::now();
        world.client.run(|| traffic::ping(to));
        say(&format!(
            "the underlay address changed: ping after {:.2?}",
            begun.elapsed()
        ));
        let moved = server.wait_for("client moved");
        assert!(
            moved["remote"].to_string().contains("192.0.2.77"),
            "{moved}"
        );
        // A TCP connection through the tunnel from before.
        traffic::resume(&mut stream, Direction::Up, 1 << 20);
        assert_eq!(world.client.run(|| traffic::seen_as(to)).0, own[0]);
        assert!(!client.has_said("will try again"));
        client.stop();
        server.stop();
    });
}
