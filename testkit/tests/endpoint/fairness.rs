//! What clients of one server can take from each other.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use masque_core::endpoint::{DropReason, PortId};
use masque_core::wire::offload::VnetHdr;
use masque_testkit::packet;
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

/// Addresses and ports make a flow (RFC 8290 §4.1.1): what waits of one keeps no other waiting.
#[test]
fn a_packet_overtakes_those_of_other_flows_and_none_of_its_own() {
    let elsewhere = IpAddr::from([192, 0, 2, 2]);
    for (v4, host, ports, overtakes) in [
        (true, inner(true), (4000, 9), false),
        (true, inner(true), (4001, 9), true),
        (true, inner(true), (4000, 10), true),
        (true, elsewhere, (4000, 9), true),
        (false, inner(false), (4000, 9), true),
    ] {
        let mut options = quiet();
        options.link.rate = Some(4_000_000);
        let mut star = up(&options);
        let (client, server) = (star.client(), star.server);
        let waits = datagram(address(&star, client, true), inner(true), 1000);
        let from = SocketAddr::new(address(&star, client, v4), ports.0);
        let comes = packet::udp(from, SocketAddr::new(host, ports.1), &[0; 10]);
        for _ in 0..150 {
            send_later(&mut star, client, waits.clone());
        }
        send_later(&mut star, client, comes.clone());
        run(&mut star, 5_000);
        let arrived = received(&mut star, server);
        let before = arrived.iter().position(|it| *it == comes);
        let before = before.expect("it was not dropped");
        let after = arrived.len() - before - 1;
        assert!(arrived.len() > 100, "{}", arrived.len());
        assert_eq!(after > 50, overtakes, "{host} {ports:?}: {before}, {after}");
        assert!(overtakes || after == 0);
    }
}
