//! Which cipher protects a tunnel, and that both ends say the same.

use crate::namespace::inside;
use crate::process::Binary::{self, Mio, Smol, Tokio};
use crate::traffic::{self, Direction};
use crate::world::{Egress, INET, Underlay, World, ip};

/// A tunnel whose client and server have these lists carries bytes under `cipher`.
fn carries_under(binary: Binary, client: &str, server: &str, cipher: &str) {
    let world = World::new(Egress::Routed);
    let server = world.start_server(binary, server);
    let client = world.start_client(binary, Underlay::V4, client);
    client.wait_up();
    assert_eq!(client.wait_for("connected")["cipher"], cipher);
    assert_eq!(server.wait_for("client connected")["cipher"], cipher);
    world.client.run(|| {
        traffic::ping(ip(INET[0]));
        traffic::transfer(Direction::Up, ip(INET[0]), 1 << 20);
        traffic::transfer(Direction::Down, ip(INET[0]), 1 << 20);
    });
    client.stop();
    server.stop();
}

const CHACHA20: &str = "transport.ciphers = [\"chacha20-poly1305\"]";
const AES_256: &str = "transport.ciphers = [\"aes-256-gcm\"]";

#[test]
fn chacha20_carries_a_tunnel_of_tokio() {
    inside(|| carries_under(Tokio, CHACHA20, CHACHA20, "chacha20-poly1305"));
}

#[test]
fn aes_256_carries_a_tunnel_of_smol() {
    inside(|| carries_under(Smol, AES_256, "", "aes-256-gcm"));
}

#[test]
fn a_server_rules_ciphers_out_and_the_clients_order_decides_among_the_rest() {
    let wishes = "transport.ciphers = [\"aes-256-gcm\", \"chacha20-poly1305\", \"aes-128-gcm\"]";
    let allowed = "transport.ciphers = [\"aes-128-gcm\", \"chacha20-poly1305\"]";
    inside(|| carries_under(Mio, wishes, allowed, "chacha20-poly1305"));
}

#[test]
fn ends_without_a_common_cipher_say_so() {
    inside(|| {
        let world = World::new(Egress::Routed);
        let server = world.start_server(Tokio, AES_256);
        let more = format!("reconnect = false\n{CHACHA20}");
        let client = world.start_client(Tokio, Underlay::V4, &more);
        let (code, said) = client.fails();
        assert_ne!(code, 0);
        assert!(said.contains("handshake failure"), "{said}");
        server.stop();
    });
}
