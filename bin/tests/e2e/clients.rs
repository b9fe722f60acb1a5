//! Clients among each other, and after a crash of the server.

use std::net::{IpAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use crate::namespace::{Namespace, inside, say};
use crate::process::Binary;
use crate::traffic::{self, Direction, PORT};
use crate::world::{Egress, INET, Underlay, World, ip};

/// Counts, in a table of the test's own, packets that come out of the tunnel for a client.
const PROBE: &str = "add table inet probe
add chain inet probe before { type filter hook prerouting priority -400; }
add rule inet probe before iifname vpn0 ip daddr 10.89.0.0/24 ip daddr != 10.89.0.1 counter
add rule inet probe before iifname vpn0 ip6 daddr fd89::/64 ip6 daddr != fd89::1 counter";

#[test]
fn clients_do_not_reach_each_other_unless_allowed() {
    inside(|| {
        let world = World::new(Egress::Routed);
        let server = world.start_server(Binary::Tokio, "");
        world.server.command("nft", &[PROBE]);
        let alice = world.start_client(Binary::Mio, Underlay::V4, "");
        alice.wait_up();
        let bob = world.start_second(Binary::Smol, "");
        let addresses = bob.wait_up();
        assert_eq!(addresses.len(), 2);
        const TRIES: u64 = 5;
        for &to in &addresses {
            let listener = world.second.run(|| UdpSocket::bind((to, PORT)).unwrap());
            world.client.run(|| {
                let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                for _ in 0..TRIES {
                    // A socket of its own each: an ICMP error would be reported at the next call.
                    let socket = UdpSocket::bind(any).unwrap();
                    socket.send_to(b"refused", (to, PORT)).unwrap();
                }
                // Behind the refused ones in every queue on the way.
                traffic::seen_as(fence(to));
            });
            world.second.run(|| traffic::seen_as(fence(to)));
            listener.set_nonblocking(true).unwrap();
            let heard = listener.recv_from(&mut [0; 16]);
            assert_eq!(heard.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        }
        let probe = world
            .server
            .command("nft", &["list", "table", "inet", "probe"]);
        assert_eq!(
            probe.matches("counter packets 0 bytes 0").count(),
            2,
            "{probe}"
        );
        alice.stop();
        bob.stop();
        let counted = server.stop();
        assert_eq!(
            counted.dropped("client_to_client"),
            2 * TRIES,
            "{}",
            counted.totals
        );
        assert_eq!(counted.dropped("pool_source"), 0, "{}", counted.totals);
        assert_eq!(counted.totals["packets_across"], 0);
    });
}

fn fence(to: IpAddr) -> IpAddr {
    ip(INET[usize::from(to.is_ipv6())])
}

#[test]
fn clients_reach_each_other_where_allowed() {
    inside(|| {
        let world = World::new(Egress::Routed);
        let server = world.start_server(Binary::Mio, "client_to_client = true");
        world.server.command("nft", &[PROBE]);
        let alice = world.start_client(Binary::Tokio, Underlay::V4, "");
        let own = alice.wait_up();
        let bob = world.start_second(Binary::Mio, "");
        let addresses = bob.wait_up();
        world.second.run(traffic::serve);
        for to in addresses {
            world.client.run(|| {
                traffic::ping(to);
                let (from, hops) = traffic::seen_as(to);
                assert!(own.contains(&from), "seen as {from}");
                assert_eq!(hops, 63, "the server is one hop");
                traffic::transfer(Direction::Up, to, 1 << 20);
                traffic::transfer(Direction::Down, to, 1 << 20);
            });
        }
        let probe = world
            .server
            .command("nft", &["list", "table", "inet", "probe"]);
        assert_eq!(
            probe.matches("counter packets 0 bytes 0").count(),
            2,
            "{probe}"
        );
        alice.stop();
        bob.stop();
        let across = server.stop().totals["packets_across"].as_u64().unwrap();
        assert!(across > (4 << 20) / 1400, "{across}");
    });
}

/// Pings until the tunnel is there again.
fn comes_back(namespace: &Namespace) {
    namespace.run(|| traffic::ping(ip(INET[0])));
}

#[test]
fn after_a_crash_of_the_server_clients_come_back_with_their_addresses() {
    inside(|| {
        let world = World::new(Egress::Nat);
        let server = world.start_server(Binary::Tokio, "");
        let alice = world.start_client(Binary::Tokio, Underlay::V4, "");
        let first = alice.wait_up();
        let bob = world.start_second(Binary::Mio, "");
        let second = bob.wait_up();
        assert_ne!(first, second);
        for namespace in [&world.client, &world.second] {
            comes_back(namespace);
        }
        // On the disk a moment after they were given.
        let until = Instant::now() + Duration::from_secs(5);
        while !leased(&world, &second) || !leased(&world, &first) {
            assert!(Instant::now() < until, "the leases are not written");
            thread::sleep(Duration::from_millis(10));
        }
        let said = [alice.lines(), bob.lines()];
        server.kill();
        let block = "add table ip block
add chain ip block way { type filter hook forward priority 0; }
add rule ip block way ip saddr 192.0.2.2 drop";
        world.router.command("nft", &[block]);
        let server = world.restart_server(Binary::Tokio, &world.path("server.toml"));
        let begun = Instant::now();
        comes_back(&world.second);
        let bob_back = begun.elapsed();
        assert!(!server.has_said("192.0.2.2"), "alice came first");
        world.router.command("nft", &["delete table ip block"]);
        comes_back(&world.client);
        let both_back = begun.elapsed();
        say(&format!(
            "after SIGKILL of the server: second client back in {bob_back:.2?}, first, let in then, in {both_back:.2?}"
        ));
        assert!(both_back < Duration::from_secs(3), "{both_back:?}");
        assert_eq!(alice.wait_up_from(said[0]), first);
        assert_eq!(bob.wait_up_from(said[1]), second);
        alice.stop();
        bob.stop();
        server.stop();
    });
}

/// Whether the server has written that these addresses are taken: in the file itself, not in the one
/// that is about to replace it.
pub(crate) fn leased(world: &World, addresses: &[IpAddr]) -> bool {
    let file = std::path::Path::new(&world.path("state")).join("leases.json");
    let text = std::fs::read_to_string(file).unwrap_or_default();
    addresses
        .iter()
        .all(|address| text.contains(&format!("\"{address}\"")))
}
