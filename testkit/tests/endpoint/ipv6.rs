//! A tunnel with IPv6 carries 1,280 bytes, or there is none.

use std::time::Duration;

use masque_core::endpoint::{Event, Ipv6Minimum, TunnelClosed};
use masque_testkit::scenario::{Options, Star};
use masque_testkit::world::{Input, LinkConfig, NodeId};

use super::common::*;

fn required() -> Options {
    let mut options = quiet();
    options.transport.ipv6_minimum = Ipv6Minimum::Require {
        probes: 3,
        interval: Duration::from_millis(500),
    };
    options
}

fn ends(star: &Star, node: NodeId) -> Vec<TunnelClosed> {
    let events = star.world.node(node).events().iter();
    let end = |event: &Event| match event {
        Event::TunnelDown { reason, .. } => Some(*reason),
        _ => None,
    };
    events.filter_map(|(_, event)| end(event)).collect()
}

fn narrow(star: &mut Star, mtu: usize) {
    let config = LinkConfig {
        mtu,
        ..LinkConfig::default()
    };
    let (a, b) = (star.client(), star.server);
    star.world
        .schedule_in(Duration::ZERO, Input::Link { a, b, config });
}

#[test]
fn both_ends_ask_whether_1280_bytes_pass_and_answer_each_other() {
    let mut options = required();
    options.clients = 2;
    let mut star = up(&options);
    run(&mut star, 10_000);
    // 9484-7.2-07, 4443-4.2-01: without an answer each would have ended the tunnel.
    for node in [star.clients[0], star.clients[1], star.server] {
        assert_eq!(ends(&star, node), []);
        assert!(received(&mut star, node).is_empty(), "no host is bothered");
    }
    assert_eq!(usage(&star, star.server).tunnels, 2);
}

#[test]
fn a_tunnel_whose_other_end_does_not_answer_is_aborted() {
    let mut options = required();
    // Without an IPv6 address of its own the server has nothing to answer from.
    options.change_server = |server| server.gateways.retain(|it| it.is_ipv4());
    let mut star = masque_testkit::scenario::star(&options).expect("valid");
    let (client, server) = (star.client(), star.server);
    run(&mut star, 1400);
    assert!(tunnel(&star, client).is_some(), "there is still hope");
    run(&mut star, 1000);
    // 9484-7.2-09
    assert_eq!(ends(&star, client), [TunnelClosed::Local]);
    let code = masque_core::H3Code::REQUEST_CANCELLED.0;
    assert_eq!(ends(&star, server), [TunnelClosed::ResetByPeer { code }]);
}

#[test]
fn a_path_too_narrow_for_ipv6_ends_the_tunnels_that_have_it() {
    // 9484-7.2-08, 8200-5-01: from the start,
    let mut options = required();
    options.link.mtu = 1260;
    let mut star = masque_testkit::scenario::star(&options).expect("valid");
    run(&mut star, 3000);
    assert!(!ends(&star, star.client()).is_empty());
    assert_eq!(usage(&star, star.server).tunnels, 0);

    // 9484-7.2-11: and when it becomes so.
    let mut star = up(&required());
    run(&mut star, 3000);
    assert_eq!(ends(&star, star.client()), []);
    narrow(&mut star, 1260);
    let own = address(&star, star.client(), true);
    for _ in 0..400 {
        let client = star.client();
        send_later(&mut star, client, datagram(own, inner(true), 1200));
        run(&mut star, 50);
    }
    assert_eq!(ends(&star, star.client()).len(), 1);
    assert_eq!(usage(&star, star.server).tunnels, 0);
}

#[test]
fn a_tunnel_without_ipv6_survives_a_narrow_path() {
    let mut options = required();
    options.link.mtu = 1260;
    options.change_server = |server| server.pools.retain(|pool| pool.address().is_ipv4());
    let mut star = up(&options);
    run(&mut star, 5000);
    let (client, server) = (star.client(), star.server);
    assert_eq!(ends(&star, client), []);
    let own = address(&star, client, true);
    send(&mut star, client, datagram(own, inner(true), 1000));
    assert_eq!(received(&mut star, server).len(), 1);
    // 9484-7.2-11: and it says what it carries.
    let handle = tunnel(&star, client).expect("up");
    let endpoint = star.world.node(client).endpoint().expect("running");
    assert!(endpoint.tunnel(handle).expect("listed").mtu < 1280);
}
