//! Rules about packets that depend on more than their addresses, and about lists of addresses.

use std::net::IpAddr;
use std::time::Duration;

use masque_core::endpoint::{Command, DropReason, Event};
use masque_core::wire::scope::Scope;
use masque_testkit::packet;
use masque_testkit::scenario::{Options, Star};
use masque_testkit::world::{Input, LinkConfig};

use super::common::*;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// UDP behind IPv6 extension headers, of which `first` is the first.
fn extended(source: IpAddr, destination: IpAddr, first: u8, headers: &[u8]) -> Vec<u8> {
    let plain = datagram(source, destination, 10);
    let payload = [headers, &plain[40..]].concat();
    packet::ip(source, destination, first, &payload)
}

#[test]
fn extension_headers_pass_as_they_are() {
    let mut star = up(&Options {
        clients: 2,
        client_to_client: true,
        ..quiet()
    });
    let (server, [one, other]) = (star.server, [star.clients[0], star.clients[1]]);
    let own = address(&star, one, false);
    // Destination Options with padding, then an atomic Fragment header, then UDP.
    let headers = [44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 0, 1, 2, 3, 4];
    let sent = extended(own, inner(false), 60, &headers);
    send(&mut star, one, sent.clone());
    // 8200-4-01: byte for byte,
    assert_eq!(received(&mut star, server), [sent]);
    // and between clients but for the hop limit.
    let to = address(&star, other, false);
    let sent = extended(own, to, 60, &headers);
    send(&mut star, one, sent.clone());
    assert_eq!(received(&mut star, other), [with_hops(sent, 63)]);
}

#[test]
fn routing_headers_of_type_0_lead_nowhere() {
    let mut star = up(&quiet());
    let (server, client) = (star.server, star.client());
    let own = address(&star, client, false);
    let hop = [0x20, 1, 0xd, 0xb8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
    let routing = |kind: u8, left: u8| [&[17, 2, kind, left, 0, 0, 0, 0][..], &hop].concat();
    // Other packets of the same hosts are known to be allowed.
    send(&mut star, client, datagram(own, inner(false), 10));
    send(&mut star, server, datagram(inner(false), own, 10));
    received(&mut star, client);
    received(&mut star, server);
    for (node, peer, from, to) in [
        (client, server, own, inner(false)),
        (server, client, inner(false), own),
    ] {
        send(&mut star, node, extended(from, to, 43, &routing(0, 1)));
        // 5095-3-01, 9484-11-05
        assert_eq!(dropped(&star, node, DropReason::NotForwardable), 1);
        assert!(received(&mut star, peer).is_empty());
        // What leads nowhere any more is passed over, and other types are others' business.
        for harmless in [routing(0, 0), routing(4, 1)] {
            let sent = extended(from, to, 43, &harmless);
            send(&mut star, node, sent.clone());
            assert_eq!(received(&mut star, peer), [sent]);
        }
    }
}

#[test]
fn no_neighbour_is_looked_for_and_no_router_heard() {
    let mut star = up(&quiet());
    let (server, client) = (star.server, star.client());
    // Router solicitation and advertisement, neighbour solicitation and advertisement.
    for kind in 133..=136 {
        let message = [kind, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for to in ["ff02::2", "ff02::1", "ff02::1:ff00:1"] {
            let ours = packet::ip(ip("fe80::1"), ip(to), packet::ICMP6, &message);
            send(&mut star, client, ours.clone());
            send(&mut star, server, ours);
        }
    }
    run(&mut star, 60_000);
    // 9484-7.1-04: none of it got anywhere, nothing like it was made, nothing has changed.
    assert_eq!(dropped(&star, client, DropReason::NotForwardable), 12);
    assert_eq!(dropped(&star, server, DropReason::NotForwardable), 12);
    assert!(received(&mut star, client).is_empty());
    assert!(received(&mut star, server).is_empty());
    let told = |event: &Event| matches!(event, Event::Addresses { .. });
    assert_eq!(count(&star, client, told), 1);
}

/// An ICMP error, port unreachable, about the beginning of `about`.
fn unreachable(from: IpAddr, to: IpAddr, about: &[u8]) -> Vec<u8> {
    let (protocol, head) = if from.is_ipv4() {
        (packet::ICMP, [3, 3, 0, 0, 0, 0, 0, 0])
    } else {
        (packet::ICMP6, [1, 4, 0, 0, 0, 0, 0, 0])
    };
    // The checksum is the hosts' business, not the tunnel's.
    packet::ip(from, to, protocol, &[&head, about].concat())
}

fn scoped(target: Option<&str>, ipproto: Option<&str>) -> Scope {
    Scope::parse(target, ipproto).expect("legal")
}

#[test]
fn errors_reach_those_whose_scope_holds_what_they_are_about() {
    for v4 in [true, false] {
        let mut star = up(&quiet());
        ask_for(&mut star, scoped(None, Some("17")));
        let (server, client) = (star.server, star.client());
        let own = address(&star, client, v4);
        let udp = datagram(own, inner(v4), 10);
        let tcp = packet::ip(own, inner(v4), 6, &[0; 20]);
        send(&mut star, server, unreachable(inner(v4), own, &udp));
        assert_eq!(received(&mut star, client).len(), 1);
        // 9484-11-04: the other protocol is another tunnel's, though all else is the same.
        send(&mut star, server, unreachable(inner(v4), own, &tcp));
        assert!(received(&mut star, client).is_empty());
        assert_eq!(dropped(&star, server, DropReason::OutOfScope), 1);
        // Nor what cannot be read.
        send(&mut star, server, unreachable(inner(v4), own, &udp[..19]));
        assert!(received(&mut star, client).is_empty());
        send(&mut star, server, unreachable(inner(v4), own, &udp));
        assert_eq!(received(&mut star, client).len(), 1);
    }
}

#[test]
fn routers_outside_of_the_scope_are_heard() {
    let mut star = up(&quiet());
    ask_for(&mut star, scoped(Some("192.0.2.0/24"), None));
    let (server, client) = (star.server, star.client());
    let own = address(&star, client, true);
    let about = datagram(own, inner(true), 10);
    // 9484-7.2.1-05: it is no part of what was advertised, nor of the target.
    let router = ip("203.0.113.9");
    send(&mut star, server, unreachable(router, own, &about));
    assert_eq!(received(&mut star, client).len(), 1);
    // Everything else from there is not.
    send(&mut star, server, datagram(router, own, 10));
    assert!(received(&mut star, client).is_empty());
}

fn assign(star: &mut Star, list: &[&str]) {
    let server = star.server;
    let endpoint = star.world.node(server).endpoint();
    let tunnel = endpoint.and_then(|it| it.tunnels().next()).expect("up");
    let parsed = list.iter().map(|text| text.parse().expect("a prefix"));
    let addresses = parsed.collect();
    command(star, server, Command::AssignAddresses { tunnel, addresses });
    run(star, 300);
}

#[test]
fn each_list_of_addresses_replaces_the_one_before() {
    let mut star = up(&quiet());
    let (server, client) = (star.server, star.client());
    let (a, b, c) = (ip("192.168.7.1"), ip("192.168.7.2"), ip("192.168.7.3"));
    let passes = |star: &mut Star, from: IpAddr| {
        let refused = dropped(star, client, DropReason::SourceNotAssigned);
        send(star, client, datagram(from, inner(true), 10));
        let up = received(star, server).len() == 1;
        let refused = dropped(star, client, DropReason::SourceNotAssigned) > refused;
        assert_eq!(up, !refused, "the client keeps to what it has");
        send(star, server, datagram(inner(true), from, 10));
        let down = received(star, client)
            .iter()
            .any(|it| icmp_error(it).is_none());
        assert_eq!(up, down, "both ends of {from} agree");
        received(star, server);
        up
    };
    assign(&mut star, &["192.168.7.1/32", "192.168.7.2/32"]);
    assert_eq!(
        [a, b, c].map(|it| passes(&mut star, it)),
        [true, true, false]
    );
    assign(&mut star, &["192.168.7.2/32", "192.168.7.3/32"]);
    // 9484-4.7.1-02
    assert_eq!(
        [a, b, c].map(|it| passes(&mut star, it)),
        [false, true, true]
    );
    // 9484-4.7.1-09: of a prefix every address, and none beside it.
    assign(&mut star, &["192.168.7.16/28"]);
    let hosts = [
        "192.168.7.15",
        "192.168.7.16",
        "192.168.7.31",
        "192.168.7.32",
    ];
    let allowed = hosts.map(|it| passes(&mut star, ip(it)));
    assert_eq!(allowed, [false, true, true, false]);
    assign(&mut star, &[]);
    // 9484-4.7.1-03
    assert!(!passes(&mut star, ip("192.168.7.16")));
}

#[test]
fn each_connect_is_a_connection_whose_server_proves_its_name() {
    let mut star = up(&quiet());
    let client = star.client();
    let mut target = star.targets[0].clone();
    target.server_name = "other.example".to_owned();
    let input = Input::Connect {
        node: client,
        target: Box::new(target),
    };
    star.world.schedule_in(Duration::ZERO, input);
    run(&mut star, 1000);
    // 9114-3.3-01: not over the connection there is, and not to a server of another name.
    assert!(closed(&star, client).is_some());
    let endpoint = star.world.node(client).endpoint().expect("running");
    assert_eq!(endpoint.tunnels().count(), 1, "the first goes on");
    let up = |event: &Event| matches!(event, Event::TunnelUp { .. });
    assert_eq!(count(&star, client, up), 1);
}

#[test]
fn what_congestion_control_does_not_let_out_waits_bounded_or_is_dropped() {
    let mut options = quiet();
    options.limits.tunnel_queue_bytes = 64 << 10;
    let mut star = up(&options);
    let (server, client) = (star.server, star.client());
    let own = address(&star, client, true);
    // Nothing comes back: no ACK opens the window.
    let dead = LinkConfig {
        up: false,
        ..LinkConfig::default()
    };
    star.world.link_one_way(server, client, dead);
    let sent = |star: &Star| star.world.link_stats(client, server).expect("linked").sent;
    let before = sent(&star);
    for _ in 0..1000 {
        send_later(&mut star, client, datagram(own, inner(true), 1000));
    }
    run(&mut star, 100);
    // 9221-5.4-01: an initial window of packets, not a thousand.
    assert!(sent(&star) - before < 100, "{}", sent(&star) - before);
    assert!(usage(&star, client).queued_bytes <= 64 << 10);
    assert!(dropped(&star, client, DropReason::QueueFull) > 500);
}
