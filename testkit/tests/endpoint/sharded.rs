//! A server of several shards: what holds for one endpoint holds for all of them together.

mod clients;
mod packets;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use masque_core::endpoint::{Counters, DropReason, PortId, TunnelHandle, Usage};
use masque_core::wire::offload::VnetHdr;
use masque_testkit::packet::{self, Packet};
use masque_testkit::scenario::{Options, Star};
use masque_testkit::world::{NodeId, Sharding, Steering};

use super::common::*;

const STEERINGS: [Steering; 3] = [Steering::Right, Steering::Flows, Steering::Scattered];

fn sharding(shards: u16, steering: Steering) -> Sharding {
    Sharding {
        shards: NonZeroU16::new(shards).expect("not 0"),
        steering,
        ..Sharding::default()
    }
}

fn options(shards: u16, steering: Steering) -> Options {
    Options {
        clients: 6,
        client_to_client: true,
        sharding: sharding(shards, steering),
        ..quiet()
    }
}

fn sum(star: &Star, of: impl Fn(&Counters) -> u64) -> u64 {
    let shards = star.shards.iter();
    shards.map(|shard| of(counters(star, *shard))).sum()
}

fn sum_dropped(star: &Star, reason: DropReason) -> u64 {
    sum(star, |counters| counters.dropped(reason))
}

/// The shard of the server that has a client, and the tunnel there.
fn home(star: &Star, client: NodeId) -> Option<(NodeId, TunnelHandle)> {
    let remote = star.world.node(client).sockets()[0];
    let all = star.shards.iter().flat_map(|shard| {
        let endpoint = star.world.node(*shard).endpoint().expect("running");
        endpoint.tunnels().map(move |tunnel| (*shard, tunnel))
    });
    let theirs = all.filter(|(shard, tunnel)| {
        let endpoint = star.world.node(*shard).endpoint().expect("running");
        let info = endpoint.connection(tunnel.conn).expect("listed");
        info.remote == remote
    });
    theirs.last()
}

/// Two clients on different shards.
fn apart(star: &Star) -> (NodeId, NodeId) {
    let one = star.clients[0];
    let shard = |client| home(star, client).expect("up").0;
    let others = star.clients.iter().copied();
    let mut others = others.filter(|other| shard(*other) != shard(one));
    (one, others.next().expect("not all on one shard"))
}

/// What was a packet from the network behind the server, at the queue of one shard.
fn at_queue(star: &mut Star, shard: NodeId, data: &[u8]) {
    let act = star.world.act(shard, |endpoint, now| {
        endpoint.handle_tun(now, PortId(0), VnetHdr::default(), data)
    });
    assert!(act.is_some(), "the shard runs");
}

/// Nothing is left of anybody on any shard.
fn assert_empty(star: &mut Star) {
    for client in star.clients.clone() {
        disconnect(star, client);
    }
    run(star, 60_000);
    for shard in star.shards.clone() {
        assert_eq!(usage(star, shard), Usage::default());
    }
    assert_eq!(
        sum(star, |counters| counters.mail_sent),
        sum(star, |counters| counters.mail_received) + refused_pieces(star),
        "mail is delivered or refused"
    );
}

/// Only tests with one packet per piece ask for this.
fn refused_pieces(star: &Star) -> u64 {
    sum_dropped(star, DropReason::MailboxFull)
}

/// UDP nobody answers, with a number.
fn numbered(source: IpAddr, destination: IpAddr, number: u16) -> Vec<u8> {
    let from = SocketAddr::new(source, 4000);
    let to = SocketAddr::new(destination, 9);
    packet::udp(from, to, &number.to_be_bytes())
}

fn numbers(packets: &[Vec<u8>]) -> Vec<u16> {
    let number = |bytes: &Vec<u8>| {
        let packet = Packet::parse(bytes).expect("undamaged");
        let (_, _, data) = packet::udp_of(&packet).expect("UDP");
        u16::from_be_bytes([data[0], data[1]])
    };
    packets.iter().map(number).collect()
}
