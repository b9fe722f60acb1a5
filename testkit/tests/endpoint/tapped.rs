//! What is seen on the path: every UDP datagram that leaves an endpoint, and what it tells its peer of
//! itself before anything else.

mod bent;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use masque_core::endpoint::{Command, CongestionControl, DropReason, Ecn, Event};
use masque_testkit::crypto::null::NullClient;
use masque_testkit::scenario::{Crypto, Options, Star, star};
use masque_testkit::world::{Input, NodeId, Tapped, last_event};

use super::common::*;
use bent::{Bend, Bent};

/// What tests look for in UDP datagrams.
const MARK: &[u8] = b"an inner packet that nobody else writes";

fn marked(star: &Star, size: usize) -> Vec<u8> {
    let own = address(star, star.client(), true);
    let mut packet = datagram(own, inner(true), size.max(MARK.len()));
    // Behind the headers; the checksum of UDP is not looked at on the way.
    packet[28..28 + MARK.len()].copy_from_slice(MARK);
    packet
}

fn at(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|it| it == needle)
}

fn of(all: &[Tapped], node: NodeId) -> Vec<&Tapped> {
    all.iter().filter(|it| it.node == node).collect()
}

#[test]
fn packets_travel_in_datagram_frames_and_nothing_of_them_in_clear() {
    for (crypto, visible) in [(Crypto::Null, true), (Crypto::Seeded, false)] {
        let mut star = up(&Options { crypto, ..quiet() });
        let (client, server) = (star.client(), star.server);
        star.world.tap();
        let packet = marked(&star, 100);
        send(&mut star, client, packet.clone());
        assert_eq!(received(&mut star, server), std::slice::from_ref(&packet));
        let all = star.world.tapped();
        let seen = all.iter().find_map(|it| Some((it, at(&it.data, MARK)?)));
        // 9484-4-02: encrypted, but where cryptography itself is left out.
        assert_eq!(seen.is_some(), visible, "{crypto:?}");
        if let Some((datagram, mark)) = seen {
            let before = &datagram.data[..mark - 28];
            let length = u8::try_from(packet.len() + 2 - 64).expect("two bytes of length");
            // 9484-10-03: DATAGRAM frame with its length, quarter stream ID 0, context ID 0.
            assert!(
                before.ends_with(&[0x31, 0x40, 64 + length, 0, 0]),
                "{before:02x?}"
            );
        }
    }
}

#[test]
fn a_packet_too_large_goes_no_other_way() {
    let mut star = up(&quiet());
    let (client, server) = (star.client(), star.server);
    star.world.tap();
    let packet = marked(&star, 1450);
    send(&mut star, client, packet);
    // 9484-10.1-01, 8899-3-01: neither in a DATAGRAM capsule on the stream nor anywhere else.
    assert!(
        star.world
            .tapped()
            .iter()
            .all(|it| at(&it.data, MARK).is_none())
    );
    assert!(received(&mut star, server).is_empty());
    assert_eq!(dropped(&star, client, DropReason::TooBig), 1);
}

#[test]
fn relaxed_control_is_not_ecn_capable() {
    for (congestion, capable) in [
        (CongestionControl::Cubic, true),
        (CongestionControl::NewReno, true),
        (CongestionControl::Tunnel, false),
        (CongestionControl::Fixed(10_000_000), false),
    ] {
        let mut options = quiet();
        options.transport.congestion = congestion;
        let mut star = star(&options).expect("valid");
        star.world.tap();
        star.world.run_until(Duration::from_secs(2));
        let packet = marked(&star, 100);
        let client = star.client();
        send(&mut star, client, packet);
        let all = star.world.tapped();
        assert!(all.len() > 10);
        // 9484-10.2-01
        let marked = all.iter().filter(|it| it.ecn == Some(Ecn::Ect0)).count();
        assert_eq!(marked > 0, capable, "{congestion:?}");
        assert!(capable || all.iter().all(|it| it.ecn.is_none()));
    }
}

#[test]
fn inner_traffic_classes_leave_no_trace_outside() {
    let outside = |class: u8| {
        let mut star = up(&quiet());
        let (client, server) = (star.client(), star.server);
        star.world.tap();
        let own = address(&star, client, false);
        for class in [0, class, 0, class] {
            let mut packet = datagram(own, inner(false), 100);
            packet[0] |= class >> 4;
            packet[1] |= class << 4;
            send_later(&mut star, client, packet);
        }
        run(&mut star, 300);
        assert_eq!(received(&mut star, server).len(), 4);
        let shape = |it: &Tapped| (it.at, it.node, it.to, it.ecn, it.data.len());
        star.world.tapped().iter().map(shape).collect::<Vec<_>>()
    };
    // 9484-10.3-01, 9484-11-06, and with it 9484-10.3-03: Expedited Forwarding looks like best effort.
    assert_eq!(outside(0xb8), outside(0));
}

#[test]
fn packets_are_acknowledged_within_the_time_that_was_promised() {
    let mut star = up(&quiet());
    let (client, server) = (star.client(), star.server);
    run(&mut star, 1000);
    star.world.tap();
    let packet = marked(&star, 100);
    send(&mut star, client, packet);
    let all = star.world.tapped();
    let sent = of(&all, client)[0].at;
    let ack = of(&all, server)[0].at;
    let arrived = sent + Duration::from_millis(10);
    // 9221-5.2-01: not at once, since nobody acts on it, and not later than max_ack_delay.
    assert!(
        ack > arrived && ack <= arrived + Duration::from_millis(25),
        "{ack:?}"
    );
}

#[test]
fn nothing_is_said_before_the_handshake_is_complete_though_tls_would_allow_it() {
    // Tickets and early data on both sides: only the endpoint keeps from using them.
    let mut star = bent::resuming();
    let client = star.client();
    run(&mut star, 100);
    disconnect(&mut star, client);
    run(&mut star, 1000);
    star.world.tap();
    let mut flights = Vec::new();
    for _ in 0..2 {
        connect(&mut star, 0);
        run(&mut star, 1000);
        assert!(tunnel(&star, client).is_some());
        let packet = marked(&star, 100);
        send(&mut star, client, packet);
        disconnect(&mut star, client);
        run(&mut star, 500);
        let all = star.world.tapped();
        let ours = of(&all, client);
        let packets = ours.iter().flat_map(|it| bent::packets(&it.data));
        let packets: Vec<(u8, usize)> = packets.collect();
        let of_type = |kind: u8| {
            packets
                .iter()
                .filter(move |(first, _)| first & 0xb0 == kind)
        };
        // The last flight, in Handshake packets.
        flights.push(of_type(0xa0).map(|(_, length)| length).sum::<usize>());
        // 9221-5-02, 9221-3-06, 9221-3-07, 9000-7.4.1-01, 9297-2.1.1-05, 9297-2.1.1-06, 8441-3-02,
        // 9114-7.2.4.2-03, 9114-7.2.4.2-04, 9114-10.9-01, 9204-3.2.3-02: no 0-RTT packet.
        assert_eq!(of_type(0x90).count(), 0);
    }
    // The second one was resumed: the client sent no certificate.
    assert!(flights[1] < flights[0], "{flights:?}");
}

#[test]
fn transport_parameters_give_the_room_that_http3_needs() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut star = up(&quiet());
    let client = star.client();
    let mut target = star.targets[0].clone();
    let crypto = NullClient::named("urn:masque:client-0");
    target.config.crypto = Arc::new(Bent::new(crypto, Bend::Watch(seen.clone())));
    let input = Input::Connect {
        node: client,
        target: Box::new(target),
    };
    star.world.schedule_in(Duration::ZERO, input);
    run(&mut star, 1000);
    let seen = seen.lock().expect("not poisoned");
    let [ours, theirs] = &seen[..] else {
        panic!("{} sets of parameters", seen.len());
    };
    for parameters in [ours, theirs] {
        let value = |id: u64| bent::parameter(parameters, id).expect("given");
        // 9221-3-05
        assert_eq!(value(0x20), 65_535);
        // 9114-6.2-01
        assert!(value(0x09) >= 3);
        // 9114-6.2-02
        assert!(value(0x07) >= 1024);
    }
}

#[test]
fn a_datagram_larger_than_the_peer_takes_is_told_and_not_sent() {
    let mut star = up(&quiet());
    let (client, server) = (star.client(), star.server);
    disconnect(&mut star, client);
    run(&mut star, 500);
    let mut target = star.targets[0].clone();
    let crypto = NullClient::named("urn:masque:client-0");
    target.config.crypto = Arc::new(Bent::new(crypto, Bend::MaxDatagram(100)));
    let input = Input::Connect {
        node: client,
        target: Box::new(target),
    };
    star.world.schedule_in(Duration::ZERO, input);
    run(&mut star, 1000);
    let mtu = last_event(star.world.node(client), |event| match event {
        Event::Mtu { mtu, .. } => Some(*mtu),
        _ => None,
    });
    let mtu = mtu.expect("told") as usize;
    // Frame type, length, quarter stream ID and context ID come out of the 100.
    assert!((85..=96).contains(&mtu), "{mtu}");
    star.world.tap();
    let fits = marked(&star, mtu - 28);
    send(&mut star, client, fits.clone());
    assert_eq!(received(&mut star, server), [fits]);
    let packet = marked(&star, mtu - 27);
    send(&mut star, client, packet);
    // 9221-3-02
    assert_eq!(dropped(&star, client, DropReason::TooBig), 1);
    assert!(received(&mut star, server).is_empty());
    let (ty, code) = told(&mut star, client).expect("told");
    assert_eq!((ty, code), (3, 4));
}

#[test]
fn datagram_frames_with_and_without_length_and_without_payload_are_understood() {
    for (bend, ends) in [(Bend::NoLength, false), (Bend::NoPayload, true)] {
        let mut star = up(&quiet());
        let (client, server) = (star.client(), star.server);
        disconnect(&mut star, client);
        run(&mut star, 500);
        let mut target = star.targets[0].clone();
        let crypto = NullClient::named("urn:masque:client-0");
        target.config.crypto = Arc::new(Bent::new(crypto, bend));
        let input = Input::Connect {
            node: client,
            target: Box::new(target),
        };
        star.world.schedule_in(Duration::ZERO, input);
        run(&mut star, 1000);
        star.world.tap();
        let packet = marked(&star, 100);
        send(&mut star, client, packet.clone());
        // 9221-4-01: an empty one is legal to QUIC, and an error of HTTP/3 (9297-2.1-01).
        if ends {
            let reason = closed(&star, server);
            let kind = masque_core::WireErrorKind::QuarterStreamId;
            let violation = masque_core::endpoint::CloseReason::Violation(kind);
            assert_eq!(reason, Some(violation));
        } else {
            assert_eq!(received(&mut star, server), [packet]);
            let all = star.world.tapped();
            let without = all.iter().any(|it| {
                let mark = at(&it.data, MARK);
                mark.is_some_and(|mark| it.data[..mark - 28].ends_with(&[0x30, 0, 0]))
            });
            assert!(without, "the frame was as wanted: {:02x?}", all[0].data);
        }
    }
}

/// An ADDRESS_ASSIGN capsule in a DATA frame.
fn assign_frame(entries: &[(u8, &str)]) -> Vec<u8> {
    let mut value = Vec::new();
    for (id, prefix) in entries {
        let prefix: masque_core::wire::prefix::IpPrefix = prefix.parse().expect("a prefix");
        value.push(*id);
        match prefix.address() {
            std::net::IpAddr::V4(v4) => {
                value.push(4);
                value.extend(v4.octets());
            }
            std::net::IpAddr::V6(v6) => {
                value.push(6);
                value.extend(v6.octets());
            }
        }
        value.push(prefix.length());
    }
    let length = |bytes: usize| match u8::try_from(bytes).expect("short") {
        short @ 0..64 => vec![short],
        long => vec![0x40, long],
    };
    let capsule = [&[1], &length(value.len())[..], &value].concat();
    [&[0], &length(capsule.len())[..], &capsule].concat()
}

#[test]
fn every_entry_of_a_request_is_answered_with_its_id_and_refusals_only_once() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let mut star = up(&quiet());
        let (client, server) = (star.client(), star.server);
        let own = |v4| {
            format!(
                "{}/{}",
                address(&star, client, v4),
                if v4 { 32 } else { 128 }
            )
        };
        let (v4, v6) = (own(true), own(false));
        let tunnel = tunnel(&star, client).expect("up");
        // Any address of each version, and a size that nobody gets.
        let wanted = ["0.0.0.0/32", "::/128", "0.0.0.0/24"];
        let prefixes = order
            .map(|at| wanted[at].parse().expect("a prefix"))
            .to_vec();
        // Request IDs are counted from 1 in the order of the request.
        let id = |at: usize| {
            let place = order.iter().position(|it| *it == at).expect("there");
            u8::try_from(place).expect("few") + 1
        };
        star.world.tap();
        command(
            &mut star,
            client,
            Command::RequestAddresses { tunnel, prefixes },
        );
        run(&mut star, 300);
        let answered = |all: &[Tapped], entries: &[(u8, &str)]| {
            let frame = assign_frame(entries);
            of(all, server)
                .iter()
                .any(|it| at(&it.data, &frame).is_some())
        };
        let all = star.world.tapped();
        // 9484-4.7.1-04, 9484-4.7.2-06, 9484-4.7.2-07, 9484-4.7.2-12: whatever the order,
        // all zeros is any address, and of another size there is none.
        let answer = [(id(0), &*v4), (id(1), &*v6), (id(2), "0.0.0.0/32")];
        assert!(answered(&all, &answer), "{order:?}");
        // 9484-4.7.1-04: unprompted, with 0; 9484-4.7.2-10: the refusal is not said again.
        let endpoint = star.world.node(server).endpoint().expect("running");
        let tunnel = endpoint.tunnels().next().expect("up");
        let addresses = vec![v4.parse().expect("a prefix"), v6.parse().expect("a prefix")];
        command(
            &mut star,
            server,
            Command::AssignAddresses { tunnel, addresses },
        );
        run(&mut star, 300);
        let all = star.world.tapped();
        assert!(answered(&all, &[(0, &*v4), (0, &*v6)]), "{order:?}");
    }
}
