//! Every client with every server.

use crate::namespace::{inside, say};
use crate::process::Binary::{self, Mio, Smol, Tokio};
use crate::process::Ended;
use crate::traffic::{self, Direction};
use crate::world::{Egress, INET, Underlay, World, ip};

/// Enough for the windows to open and close.
const SOME: u64 = 1 << 20;

/// Ping and TCP both ways, over IPv4 and IPv6, between the client and the host behind the server.
fn carries_everything(client: Binary, server: Binary, underlay: Underlay, egress: Egress) {
    let world = World::new(egress);
    let server = world.start_server(server, "");
    let client = world.start_client(client, underlay, "");
    let own = client.wait_up();
    for to in INET.map(ip) {
        world.client.run(|| {
            traffic::ping(to);
            let (from, _) = traffic::seen_as(to);
            let expected = match egress {
                Egress::Routed => own.clone(),
                Egress::Nat => ["203.0.113.1", "2001:db8:4::1"].map(ip).to_vec(),
            };
            assert!(expected.contains(&from), "seen as {from}");
            for direction in [Direction::Up, Direction::Down] {
                traffic::transfer(direction, to, SOME);
            }
        });
    }
    client.stop();
    went_through(&server.stop(), 4 * SOME);
}

/// The bytes cannot have taken another way: the server counts packets that are enough for them.
fn went_through(server: &Ended, bytes: u64) {
    let totals = &server.totals;
    let packets = totals["packets_in"].as_u64().unwrap() + totals["packets_out"].as_u64().unwrap();
    assert!(packets > bytes / 1400, "{totals}");
}

macro_rules! pairs {
    ($($name:ident: $client:expr, $server:expr, $underlay:expr, $egress:expr;)*) => {$(
        #[test]
        fn $name() {
            inside(|| carries_everything($client, $server, $underlay, $egress));
        }
    )*};
}

pairs! {
    tokio_client_and_tokio_server: Tokio, Tokio, Underlay::V4, Egress::Routed;
    tokio_client_and_smol_server: Tokio, Smol, Underlay::V6, Egress::Nat;
    tokio_client_and_mio_server: Tokio, Mio, Underlay::V4, Egress::Nat;
    smol_client_and_tokio_server: Smol, Tokio, Underlay::V6, Egress::Routed;
    smol_client_and_smol_server: Smol, Smol, Underlay::V4, Egress::Nat;
    smol_client_and_mio_server: Smol, Mio, Underlay::V6, Egress::Routed;
    mio_client_and_tokio_server: Mio, Tokio, Underlay::V4, Egress::Nat;
    mio_client_and_smol_server: Mio, Smol, Underlay::V4, Egress::Routed;
    mio_client_and_mio_server: Mio, Mio, Underlay::V6, Egress::Nat;
}

/// 100 MB each way, every byte compared.
fn carries_much(binary: Binary) {
    const MUCH: u64 = 100_000_000;
    let world = World::new(Egress::Routed);
    let server = world.start_server(binary, "");
    let client = world.start_client(binary, Underlay::V4, "");
    client.wait_up();
    world.client.run(|| {
        for direction in [Direction::Up, Direction::Down] {
            let time = traffic::transfer(direction, ip(INET[0]), MUCH);
            let rate = MUCH as f64 * 8e-6 / time.as_secs_f64();
            say(&format!(
                "{binary:?} 100 MB {direction:?}: {time:.2?}, {rate:.0} Mbit/s"
            ));
        }
    });
    client.stop();
    went_through(&server.stop(), 2 * MUCH);
}

#[test]
fn tokio_carries_100_mb_each_way() {
    inside(|| carries_much(Tokio));
}

#[test]
fn smol_carries_100_mb_each_way() {
    inside(|| carries_much(Smol));
}

#[test]
fn mio_carries_100_mb_each_way() {
    inside(|| carries_much(Mio));
}
