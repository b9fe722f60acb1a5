//! Hosts are as before after a clean stop, and after the next start when there was none.

use crate::namespace::inside;
use crate::process::Binary;
use crate::traffic;
use crate::world::{Egress, INET, Underlay, World, ip};

fn assert_same(what: &str, before: &str, after: &str) {
    assert!(
        before == after,
        "{what}, before:\n{before}\nafter:\n{after}"
    );
}

fn restores(binary: Binary) {
    let world = World::new(Egress::Nat);
    let (server_before, client_before) = (world.server.snapshot(), world.client.snapshot());

    let server = world.start_server(binary, "");
    let client = world.start_client(binary, Underlay::V4, "");
    client.wait_up();
    for to in INET.map(ip) {
        world.client.run(|| traffic::ping(to));
    }
    let (server_during, client_during) = (world.server.snapshot(), world.client.snapshot());
    assert_ne!(server_before, server_during);
    assert_ne!(client_before, client_during);
    client.stop();
    server.stop();
    assert_same(
        "client after SIGTERM",
        &client_before,
        &world.client.snapshot(),
    );
    assert_same(
        "server after SIGTERM",
        &server_before,
        &world.server.snapshot(),
    );

    let server = world.start_server(binary, "");
    let client = world.start_client(binary, Underlay::V4, "");
    client.wait_up();
    world.client.run(|| traffic::ping(ip(INET[0])));
    client.kill();
    server.kill();
    assert_ne!(
        server_before,
        world.server.snapshot(),
        "SIGKILL leaves nothing"
    );
    assert_ne!(
        client_before,
        world.client.snapshot(),
        "SIGKILL leaves nothing"
    );

    let server = world.start_server(binary, "");
    let client = world.start_client(binary, Underlay::V4, "");
    client.wait_up();
    world.client.run(|| traffic::ping(ip(INET[0])));
    client.stop();
    server.stop();
    assert_same(
        "client after SIGKILL",
        &client_before,
        &world.client.snapshot(),
    );
    assert_same(
        "server after SIGKILL",
        &server_before,
        &world.server.snapshot(),
    );
}

#[test]
fn tokio_leaves_the_hosts_as_they_were() {
    inside(|| restores(Binary::Tokio));
}

#[test]
fn smol_leaves_the_hosts_as_they_were() {
    inside(|| restores(Binary::Smol));
}

#[test]
fn mio_leaves_the_hosts_as_they_were() {
    inside(|| restores(Binary::Mio));
}
