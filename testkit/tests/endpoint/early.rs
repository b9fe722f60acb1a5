//! Datagrams that overtake the opening of their tunnel.

use std::time::Duration;

use masque_core::endpoint::DropReason;
use masque_testkit::scenario::{Star, star};
use masque_testkit::world::LinkConfig;

use super::common::*;

/// A star where the server's response is lost once, and `count` packets for the client come right after
/// it; `gap` later the way to the client is open for good.
fn overtaken(count: u8, gap: u64) -> (Star, Vec<Vec<u8>>) {
    let mut star = star(&quiet()).expect("valid");
    let (server, client) = (star.server, star.client());
    let up = LinkConfig::default();
    let down = LinkConfig { up: false, ..up };
    let until = |star: &mut Star, millis| star.world.run_until(Duration::from_millis(millis));
    // One way takes 10 ms: the request arrives at 30.
    until(&mut star, 25);
    star.world.link_one_way(server, client, down);
    until(&mut star, 31);
    assert!(tunnel(&star, server).is_some(), "it is open there");
    star.world.link_one_way(server, client, up);
    let to = address(&star, server, true);
    let packets: Vec<_> = (0..count)
        .map(|size| datagram(inner(true), to, 10 + usize::from(size)))
        .collect();
    for packet in &packets {
        send_later(&mut star, server, packet.clone());
    }
    until(&mut star, 34);
    if gap > 0 {
        star.world.link_one_way(server, client, down);
        until(&mut star, 34 + gap);
        star.world.link_one_way(server, client, up);
    }
    (star, packets)
}

#[test]
fn packets_that_overtake_the_response_wait_for_it() {
    let (mut star, packets) = overtaken(5, 0);
    let client = star.client();
    star.world.run_until(Duration::from_millis(46));
    assert_eq!(tunnel(&star, client), None, "the response is late");
    assert_eq!(dropped(&star, client, DropReason::NotEstablished), 0);
    run(&mut star, 2000);
    assert_eq!(received(&mut star, client), packets);
}

#[test]
fn only_so_many_wait() {
    let (mut star, packets) = overtaken(60, 0);
    let client = star.client();
    run(&mut star, 2000);
    assert_eq!(received(&mut star, client), packets[..32]);
    assert_eq!(dropped(&star, client, DropReason::NotEstablished), 28);
}

#[test]
fn they_do_not_wait_for_long() {
    let (mut star, packets) = overtaken(5, 1500);
    let client = star.client();
    assert_eq!(tunnel(&star, client), None, "the response is very late");
    let count = packets.len() as u64;
    assert_eq!(dropped(&star, client, DropReason::NotEstablished), count);
    run(&mut star, 5000);
    assert!(tunnel(&star, client).is_some());
    assert!(received(&mut star, client).is_empty());
}
