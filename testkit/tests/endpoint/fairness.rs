//! What clients of one server can take from each other.

use std::time::Duration;

use masque_core::endpoint::{DropReason, PortId};
use masque_core::wire::offload::VnetHdr;
use masque_testkit::scenario::{Options, Star};

use super::common::*;

/// Packets for one client until its queue, and with it that of all, is full.
fn fill(star: &mut Star, client: usize, bytes: usize) -> u32 {
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
fn a_super_packet_finds_room_where_many_others_have_all_they_can_get() {
    let mut options = Options {
        clients: 9,
        ..quiet()
    };
    options.limits.total_queue_bytes = 256 << 10;
    let mut star = up(&options);
    let (server, last) = (star.server, star.clients[8]);
    for flooded in 0..8 {
        fill(&mut star, flooded, 1 << 20);
    }
    let super_packet = datagram(inner(true), address(&star, last, true), 60_000);
    let header = VnetHdr {
        gso_type: VnetHdr::GSO_UDP_L4,
        gso_size: 1200,
        ..VnetHdr::default()
    };
    assert!(dropped(&star, server, DropReason::QueueFull) > 0);
    let held = usage(&star, server).queued_bytes;
    assert!(held > 128 << 10, "most of the room is taken: {held}");
    received(&mut star, last);
    let handed = star.world.act(server, |endpoint, now| {
        endpoint.handle_tun(now, PortId(0), header, &super_packet)
    });
    assert_eq!(handed.expect("running").queued, 50);
    assert!(usage(&star, server).queued_bytes <= 256 << 10);
    run(&mut star, 5_000);
    assert_eq!(
        received(&mut star, last).len(),
        50,
        "none of its packets was dropped"
    );
}

/// Who is known is who has a connection, where it is now, for as long as it has one.
#[test]
fn an_address_is_known_from_the_end_of_a_handshake_to_the_end_of_its_connection() {
    let mut star = masque_testkit::scenario::star(&quiet()).expect("valid");
    let (server, client) = (star.server, star.client());
    let from = masque_testkit::scenario::client_address(0);
    let known = |star: &Star| {
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
