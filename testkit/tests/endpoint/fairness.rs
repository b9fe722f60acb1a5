//! What clients of one server can take from each other.

use std::time::Duration;

use masque_core::endpoint::{DropReason, PortId};
use masque_core::wire::offload::VnetHdr;
use masque_testkit::scenario::Options;

use super::common::*;

/// Packets for one client until its queue, and with it that of all, is full.
fn fill(star: &mut masque_testkit::scenario::Star, client: usize, bytes: usize) -> u32 {
    let to = address(star, star.clients[client], true);
    let packet = datagram(inner(true), to, 1200);
    let handed = star.world.act(star.server, |endpoint, now| {
        let mut queued = 0;
        for _ in 0..bytes / packet.len() {
            let taken = endpoint.handle_tun(now, PortId(0), VnetHdr::default(), &packet);
            queued += taken.queued;
        }
        queued
    });
    handed.expect("running")
}

#[test]
fn a_client_whose_queue_takes_all_the_room_loses_packets_and_another_does_not() {
    let mut options = Options {
        clients: 3,
        ..quiet()
    };
    options.limits.tunnel_queue_bytes = 2 << 20;
    options.limits.total_queue_bytes = 3 << 20;
    let mut star = up(&options);
    for flooded in [0, 1] {
        fill(&mut star, flooded, 4 << 20);
    }
    let server = star.server;
    let before = usage(&star, server).queued_bytes;
    assert!(
        before > (3 << 20) * 2 / 3,
        "each has as much as is left free: {before}"
    );
    const WANTED: usize = 256 << 10;
    let sent = WANTED / datagram(inner(true), inner(true), 1200).len();
    assert_eq!(fill(&mut star, 2, WANTED) as usize, sent);
    assert!(usage(&star, server).queued_bytes <= 3 << 20);
    assert!(dropped(&star, server, DropReason::QueueFull) > 0);
    let client = star.clients[2];
    received(&mut star, client);
    run(&mut star, 5_000);
    assert_eq!(
        received(&mut star, client).len(),
        sent,
        "none of its packets was dropped"
    );
}

/// Who is known is who has a connection, where it is now, for as long as it has one.
#[test]
fn an_address_is_known_from_the_end_of_a_handshake_to_the_end_of_its_connection() {
    let mut star = masque_testkit::scenario::star(&quiet()).expect("valid");
    let (server, client) = (star.server, star.client());
    let from = masque_testkit::scenario::client_address(0);
    let known = |star: &masque_testkit::scenario::Star| {
        let endpoint = star.world.node(server).endpoint();
        endpoint.expect("running").is_known(from)
    };
    assert!(!known(&star));
    star.world.run_until(Duration::from_secs(2));
    assert!(tunnel(&star, client).is_some() && known(&star));
    disconnect(&mut star, client);
    run(&mut star, 1_000);
    assert!(!known(&star));
}
