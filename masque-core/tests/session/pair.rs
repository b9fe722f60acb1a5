//! What two sessions do with each other, in every network of [`nets`].

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bytes::Bytes;
use masque_core::session::{
    AddressRequestPolicy, CloseHow, Command, CommandError, DatagramDrop, DatagramVerdict, Event,
    QuicInput, QuicOutput, SessionConfig, SessionEnd, Timer, TunnelEnd, TunnelId,
};
use masque_core::wire::capsule::{AddressAssign, AddressEntry, RequestId, RouteAdvertisement};
use masque_core::wire::prefix::{AddressRange, IpPrefix};
use masque_core::wire::stream::{Direction, Role, StreamId};
use masque_core::wire::varint::VarInt;

use crate::pump::{Net, Pair, server_config, tunnel_request};

pub(crate) fn nets() -> Vec<Net> {
    let mut nets = vec![Net::PLAIN];
    for (chunk, window) in [(1, 1), (3, 7), (50, 20), (7, 400)] {
        nets.extend((1..5).map(|seed| Net {
            chunk,
            window,
            seed,
        }));
    }
    nets
}

pub(crate) fn connected(net: Net) -> Pair {
    Pair::connected(SessionConfig::default(), server_config(), net)
}

pub(crate) fn tell(pair: &mut Pair, role: Role, command: Command) {
    pair.side(role)
        .session
        .handle_command(command)
        .expect("the command fits");
    pair.run();
}

pub(crate) fn entry(id: u32, last: u8) -> AddressEntry {
    AddressEntry {
        request_id: RequestId(VarInt::from_u32(id)),
        prefix: IpPrefix::host(Ipv4Addr::new(192, 0, 2, last).into()),
    }
}

pub(crate) fn routes() -> RouteAdvertisement {
    let any = Ipv4Addr::UNSPECIFIED.into();
    let all = AddressRange::new(any, IpAddr::V4(Ipv4Addr::BROADCAST), 0).expect("a range");
    RouteAdvertisement::new(vec![all]).expect("in order")
}

pub(crate) fn stream(index: u32) -> StreamId {
    StreamId::nth(Role::Client, Direction::Bidirectional, index)
}

pub(crate) fn ended(tunnel: TunnelId, end: TunnelEnd) -> Event {
    Event::TunnelEnded { tunnel, end }
}

#[test]
fn addresses_and_routes_and_packets_go_both_ways() {
    for net in nets() {
        let mut pair = connected(net);
        let (ours, theirs) = pair.open();
        let assign = AddressAssign(vec![entry(0, 7)]);
        for (role, from, to) in [(Role::Server, theirs, ours), (Role::Client, ours, theirs)] {
            // 9484-4.7-01: either endpoint, any number, at any time.
            for _ in 0..2 {
                tell(
                    &mut pair,
                    role,
                    Command::AssignAddresses {
                        tunnel: from,
                        assign: assign.clone(),
                    },
                );
                tell(
                    &mut pair,
                    role,
                    Command::AdvertiseRoutes {
                        tunnel: from,
                        routes: routes(),
                    },
                );
            }
            let packet = Bytes::from_static(b"\x45not an IP packet, which is not for us to judge");
            tell(
                &mut pair,
                role,
                Command::SendPacket {
                    tunnel: from,
                    packet: packet.clone(),
                },
            );
            let assigned = Event::AddressesAssigned {
                tunnel: to,
                assign: assign.clone(),
            };
            let advertised = Event::RoutesAdvertised {
                tunnel: to,
                routes: routes(),
            };
            // 9114-4.1-11: all of it long before the stream ends.
            // 9297-3.5-01: the same payload as in a QUIC DATAGRAM.
            let told = [
                assigned.clone(),
                advertised.clone(),
                assigned,
                advertised,
                Event::Packet { tunnel: to, packet },
            ];
            assert_eq!(pair.side(role.peer()).take_events(), told);
        }
    }
}

#[test]
fn datagrams_pass_once_both_sides_are_established() {
    let mut pair = connected(Net::PLAIN);
    let tunnel = pair
        .client
        .session
        .open_tunnel(tunnel_request())
        .expect("room");
    pair.run();
    let Some(Event::Requested { tunnel: theirs, .. }) = pair.server.take_events().pop() else {
        panic!("not asked");
    };
    assert_eq!(pair.client.session.datagram_header(tunnel), None);
    assert_eq!(pair.server.session.datagram_header(theirs), None);
    let early = pair.server.session.open_datagram(&[0, 0, 0x45]);
    assert_eq!(early, DatagramVerdict::Drop(DatagramDrop::NotEstablished));
    // 9297-2.1-07
    let unknown = pair.server.session.open_datagram(&[1, 0, 0x45]);
    assert_eq!(unknown, DatagramVerdict::Drop(DatagramDrop::UnknownStream));

    tell(&mut pair, Role::Server, Command::Accept { tunnel: theirs });
    for (from, to, tunnels) in [
        (Role::Client, Role::Server, (tunnel, theirs)),
        (Role::Server, Role::Client, (theirs, tunnel)),
    ] {
        let header = pair
            .side(from)
            .session
            .datagram_header(tunnels.0)
            .expect("established");
        let datagram = [header.as_slice(), &[0x45]].concat();
        let verdict = pair.side(to).session.open_datagram(&datagram);
        let offset = header.as_slice().len();
        assert_eq!(
            verdict,
            DatagramVerdict::IpPacket {
                tunnel: tunnels.1,
                offset
            }
        );
    }

    tell(
        &mut pair,
        Role::Client,
        Command::CloseTunnel {
            tunnel,
            how: CloseHow::Finish,
        },
    );
    // 9297-2.1-05, 9297-2.1-06
    assert_eq!(pair.client.session.datagram_header(tunnel), None);
    assert_eq!(pair.server.session.datagram_header(theirs), None);
    let late = pair.server.session.open_datagram(&[0, 0, 0x45]);
    assert_eq!(late, DatagramVerdict::Drop(DatagramDrop::UnknownStream));
}

#[test]
fn every_wanted_address_is_answered_entry_by_entry() {
    for (net, policy) in nets().into_iter().flat_map(|net| {
        let after = AddressRequestPolicy::After(Duration::from_millis(500));
        [(net, after), (net, AddressRequestPolicy::AtOnce)]
    }) {
        let any = |length| IpPrefix::new(Ipv4Addr::UNSPECIFIED.into(), length).expect("a prefix");
        let config = SessionConfig {
            address_request: policy,
            wanted_addresses: vec![any(32), any(0)],
            ..SessionConfig::default()
        };
        let mut pair = Pair::connected(config, server_config(), net);
        let ours = pair
            .client
            .session
            .open_tunnel(tunnel_request())
            .expect("room");
        pair.run();
        let Some(Event::Requested { tunnel, .. }) = pair.server.take_events().pop() else {
            panic!("not asked");
        };
        // 9484-4.5-01; what came with the request is looked at only now.
        tell(&mut pair, Role::Server, Command::Accept { tunnel });
        if policy == AddressRequestPolicy::AtOnce {
            assert!(!pair.fire(Role::Client, Timer::AddressRequest(ours)));
        } else {
            assert_eq!(pair.server.events.len(), 1);
            assert!(pair.fire(Role::Client, Timer::AddressRequest(ours)));
        }
        let prefixes = vec![any(24)];
        tell(
            &mut pair,
            Role::Client,
            Command::RequestAddresses {
                tunnel: ours,
                prefixes,
            },
        );
        let mut asked = Vec::new();
        for event in pair.server.take_events() {
            if let Event::AddressesRequested { request, .. } = event {
                asked.extend_from_slice(request.entries());
            }
        }
        let ids: Vec<_> = asked.iter().map(|e| e.request_id.0.into_inner()).collect();
        // 9484-4.7.2-03, 9484-4.7.2-04: never 0, never again.
        assert_eq!(ids, [1, 2, 3]);
        // 9484-4.7.2-08, 9484-4.7.2-09
        let assign = AddressAssign(vec![
            AddressEntry {
                request_id: asked[0].request_id,
                ..entry(0, 9)
            },
            AddressEntry {
                request_id: asked[1].request_id,
                prefix: any(32),
            },
            AddressEntry {
                request_id: asked[2].request_id,
                prefix: any(32),
            },
        ]);
        pair.client.take_events();
        tell(
            &mut pair,
            Role::Server,
            Command::AssignAddresses {
                tunnel,
                assign: assign.clone(),
            },
        );
        assert_eq!(
            pair.client.take_events(),
            [Event::AddressesAssigned {
                tunnel: ours,
                assign
            }]
        );
    }
}

#[test]
fn an_assignment_nobody_asked_for_spares_the_request() {
    let config = SessionConfig {
        wanted_addresses: vec![entry(0, 0).prefix],
        ..SessionConfig::default()
    };
    let mut pair = Pair::connected(config, server_config(), Net::PLAIN);
    let (ours, tunnel) = pair.open();
    assert!(
        pair.client
            .timers
            .contains_key(&Timer::AddressRequest(ours))
    );
    // 9484-4.7.1-12
    let assign = AddressAssign(vec![entry(0, 7)]);
    tell(
        &mut pair,
        Role::Server,
        Command::AssignAddresses { tunnel, assign },
    );
    assert!(!pair.fire(Role::Client, Timer::AddressRequest(ours)));
}

#[test]
fn a_request_before_the_clients_settings_is_held_until_they_come() {
    let control = StreamId::nth(Role::Client, Direction::Unidirectional, 0);
    let mut pair = Pair::new(SessionConfig::default(), server_config(), Net::PLAIN);
    pair.stalled.insert(control);
    let ours = pair
        .client
        .session
        .open_tunnel(tunnel_request())
        .expect("room");
    pair.run();
    assert_eq!(pair.server.take_events(), []);
    assert!(!pair.server.session.wants_data(stream(0)));
    pair.stalled.clear();
    pair.run();
    let events = pair.server.take_events();
    let [Event::PeerSettings(_), Event::Requested { tunnel, .. }] = events[..] else {
        panic!("{events:?}");
    };
    tell(&mut pair, Role::Server, Command::Accept { tunnel });
    assert!(pair.client.session.datagram_header(ours).is_some());

    let mut pair = Pair::new(SessionConfig::default(), server_config(), Net::PLAIN);
    pair.stalled.insert(control);
    pair.client
        .session
        .open_tunnel(tunnel_request())
        .expect("room");
    pair.run();
    assert!(pair.fire(Role::Server, Timer::Settings));
    let end = Event::Ended(SessionEnd::SettingsTimeout);
    assert_eq!(pair.server.take_events(), [end]);
}

#[test]
fn a_tunnel_asked_for_without_settings_fails_when_they_do_not_allow_it() {
    // The peer is itself a client: it does not enable extended CONNECT (8441-3-03).
    let control = StreamId::nth(Role::Server, Direction::Unidirectional, 0);
    let settings: [&'static [u8]; 3] = [&[0, 4, 0], &[0, 4, 2, 0x33, 1], &[0, 4, 2, 8, 1]];
    for data in settings {
        let mut pair = Pair::new(SessionConfig::default(), server_config(), Net::PLAIN);
        let client = &mut pair.client.session;
        client.handle_quic(QuicInput::Connected {
            peer_max_datagram_frame_size: Some(65535),
        });
        let tunnel = client.open_tunnel(tunnel_request()).expect("room");
        client.handle_quic(QuicInput::Data {
            stream: control,
            data: Bytes::from_static(data),
            fin: false,
        });
        assert!(matches!(client.poll_event(), Some(Event::PeerSettings(_))));
        assert_eq!(
            client.poll_event(),
            Some(ended(tunnel, TunnelEnd::Unsupported))
        );
        let late = client.open_tunnel(tunnel_request()).expect("room");
        assert_eq!(
            client.poll_event(),
            Some(ended(late, TunnelEnd::Unsupported))
        );
    }
}

#[test]
fn output_is_bounded_and_reading_waits_for_it() {
    let config = SessionConfig {
        max_stream_output: 1000,
        ..SessionConfig::default()
    };
    let net = Net {
        window: 64,
        ..Net::PLAIN
    };
    let mut pair = Pair::connected(config, server_config(), net);
    let (tunnel, _) = pair.open();
    pair.stalled.insert(stream(0));
    let packet = Bytes::from(vec![0x45; 200]);
    let mut refused = 0;
    for _ in 0..10 {
        let packet = packet.clone();
        let sent = pair
            .client
            .session
            .handle_command(Command::SendPacket { tunnel, packet });
        refused += usize::from(sent == Err(CommandError::Blocked));
        assert!(pair.client.session.wants_data(stream(0)));
        pair.run();
    }
    assert!(refused >= 7, "{refused}");
    for _ in 0..100 {
        let assign = AddressAssign(vec![entry(0, 7)]);
        let sent = pair
            .client
            .session
            .handle_command(Command::AssignAddresses { tunnel, assign });
        refused += usize::from(sent == Err(CommandError::Blocked));
        assert!(pair.client.session.buffered_output() <= 1020);
        pair.run();
    }
    assert!(refused >= 40, "{refused}");
    assert!(!pair.client.session.wants_data(stream(0)));
    let resume = QuicOutput::Resume { stream: stream(0) };
    assert!(!pair.client.outputs.contains(&resume));
    pair.stalled.clear();
    pair.run();
    assert_eq!(pair.client.session.buffered_output(), 0);
    assert!(pair.client.outputs.contains(&resume));
    assert!(pair.client.session.wants_data(stream(0)));
}

#[test]
fn a_traced_run_names_states_timers_and_outputs() {
    let run = || {
        let mut pair = Pair::new(SessionConfig::default(), server_config(), Net::PLAIN);
        pair.server.session.set_tracing(true);
        pair.run();
        pair.client.take_events();
        let (_, tunnel) = pair.open();
        let how = CloseHow::Finish;
        tell(
            &mut pair,
            Role::Server,
            Command::CloseTunnel { tunnel, how },
        );
        pair.server.session.open_datagram(&[0, 0]);
        let trace = pair.server.session.take_trace();
        trace
            .iter()
            .map(|event| event.to_string())
            .collect::<Vec<_>>()
    };
    let lines = run();
    for line in [
        "http3 <- connected, datagrams up to 65535",
        "http3 state Idle => Running",
        "http3 armed settings after 10000000 us",
        "tunnel s0 state Head => Parked",
        "tunnel s0 state Parked => Pending",
        "tunnel s0 state Pending => Open",
        "tunnel s0 state Open => Draining",
        "tunnel s0 -> finish",
        "tunnel s0 dropped 2 bytes: unknown stream",
    ] {
        assert!(lines.iter().any(|l| l == line), "no {line:?} in {lines:#?}");
    }
    assert_eq!(lines, run());
}
