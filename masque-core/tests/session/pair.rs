//! What two sessions do with each other, in every network of [`nets`].

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bytes::Bytes;
use masque_core::error::H3Code;
use masque_core::session::{
    AddressRequestPolicy, CloseHow, Command, CommandError, DatagramDrop, DatagramVerdict, Event,
    QuicInput, QuicOutput, SessionConfig, SessionEnd, Timer, TunnelEnd, TunnelId,
};
use masque_core::wire::capsule::{AddressAssign, AddressEntry, RequestId, RouteAdvertisement};
use masque_core::wire::fields::FieldList;
use masque_core::wire::prefix::{AddressRange, IpPrefix};
use masque_core::wire::stream::{Direction, Role, StreamId};
use masque_core::wire::varint::VarInt;

use crate::pump::{Net, Pair, server_config, tunnel_request};

fn nets() -> Vec<Net> {
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

fn connected(net: Net) -> Pair {
    Pair::connected(SessionConfig::default(), server_config(), net)
}

fn tell(pair: &mut Pair, role: Role, command: Command) {
    pair.side(role)
        .session
        .handle_command(command)
        .expect("the command fits");
    pair.run();
}

fn entry(id: u32, last: u8) -> AddressEntry {
    AddressEntry {
        request_id: RequestId(VarInt::from_u32(id)),
        prefix: IpPrefix::host(Ipv4Addr::new(192, 0, 2, last).into()),
    }
}

fn routes() -> RouteAdvertisement {
    let any = Ipv4Addr::UNSPECIFIED.into();
    let all = AddressRange::new(any, IpAddr::V4(Ipv4Addr::BROADCAST), 0).expect("a range");
    RouteAdvertisement::new(vec![all]).expect("in order")
}

fn stream(index: u32) -> StreamId {
    StreamId::nth(Role::Client, Direction::Bidirectional, index)
}

fn ended(tunnel: TunnelId, end: TunnelEnd) -> Event {
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
fn a_finished_tunnel_ends_on_both_sides_and_leaves_its_siblings() {
    for net in nets() {
        for role in [Role::Client, Role::Server] {
            let mut pair = connected(net);
            let first = pair.open();
            let second = pair.open();
            let mine = |pair: (TunnelId, TunnelId), role| match role {
                Role::Client => pair.0,
                Role::Server => pair.1,
            };
            let tunnel = mine(first, role);
            // What was queued before the FIN still arrives.
            let packet = Bytes::from(vec![0x45; 300]);
            tell(
                &mut pair,
                role,
                Command::SendPacket {
                    tunnel,
                    packet: packet.clone(),
                },
            );
            let how = CloseHow::Finish;
            tell(&mut pair, role, Command::CloseTunnel { tunnel, how });
            assert_eq!(
                pair.side(role).take_events(),
                [ended(tunnel, TunnelEnd::Local)]
            );
            let theirs = mine(first, role.peer());
            // 9484-4.1-11, 9220-3-04: an orderly end is a FIN, and is answered by one.
            let packet = Event::Packet {
                tunnel: theirs,
                packet,
            };
            assert_eq!(
                pair.side(role.peer()).take_events(),
                [packet, ended(theirs, TunnelEnd::Finished)]
            );
            for role in [Role::Client, Role::Server] {
                let finish = QuicOutput::Finish { stream: stream(0) };
                assert!(pair.side(role).outputs.contains(&finish));
                let aborted = |output: &QuicOutput| {
                    matches!(output, QuicOutput::Reset { .. } | QuicOutput::Stop { .. })
                };
                assert!(!pair.side(role).outputs.iter().any(aborted));
                let again = Command::CloseTunnel {
                    tunnel: mine(first, role),
                    how,
                };
                assert_eq!(
                    pair.side(role).session.handle_command(again),
                    Err(CommandError::UnknownTunnel)
                );
            }
            let packet = Bytes::from_static(&[0x45]);
            let tunnel = mine(second, role);
            tell(&mut pair, role, Command::SendPacket { tunnel, packet });
            assert_eq!(pair.side(role.peer()).take_events().len(), 1);
        }
    }
}

#[test]
fn an_aborted_tunnel_is_reset_in_both_directions() {
    for net in nets() {
        for role in [Role::Client, Role::Server] {
            let mut pair = connected(net);
            let (ours, theirs) = pair.open();
            let (tunnel, other) = match role {
                Role::Client => (ours, theirs),
                Role::Server => (theirs, ours),
            };
            let code = H3Code::CONNECT_ERROR;
            let how = CloseHow::Abort(code);
            tell(&mut pair, role, Command::CloseTunnel { tunnel, how });
            assert_eq!(
                pair.side(role).take_events(),
                [ended(tunnel, TunnelEnd::Local)]
            );
            let end = TunnelEnd::ResetByPeer { code: code.0 };
            assert_eq!(pair.side(role.peer()).take_events(), [ended(other, end)]);
            // 9000-3.5-01
            let outputs = &pair.side(role).outputs;
            let stream = stream(0);
            assert!(outputs.contains(&QuicOutput::Reset { stream, code }));
            assert!(outputs.contains(&QuicOutput::Stop { stream, code }));
            // 9114-4.4-03
            let code = H3Code::REQUEST_CANCELLED;
            let outputs = &pair.side(role.peer()).outputs;
            assert!(outputs.contains(&QuicOutput::Reset { stream, code }));
        }
    }
}

#[test]
fn a_refusal_reaches_the_client_with_its_reason() {
    for net in nets() {
        let mut pair = connected(net);
        let ours = pair
            .client
            .session
            .open_tunnel(tunnel_request())
            .expect("room");
        pair.run();
        let Some(Event::Requested { tunnel, .. }) = pair.server.take_events().pop() else {
            panic!("not asked");
        };
        let mut fields = FieldList::default();
        fields.push("proxy-status", "masque; error=destination_ip_prohibited");
        let status = 403;
        tell(
            &mut pair,
            Role::Server,
            Command::Refuse {
                tunnel,
                status,
                fields,
            },
        );
        // 9484-4.1-06, 9484-4.1-09, 9484-4.5-02
        let proxy_status = Some("masque; error=destination_ip_prohibited".into());
        let refused = Event::Refused {
            tunnel: ours,
            status,
            proxy_status,
        };
        assert_eq!(pair.client.take_events(), [refused]);
        assert_eq!(pair.server.take_events(), []);
        assert!(!pair.fire(Role::Server, Timer::Response(tunnel)));
    }
}

#[test]
fn goaway_lets_tunnels_live_and_takes_no_more() {
    for net in nets() {
        for role in [Role::Client, Role::Server] {
            let mut pair = connected(net);
            let (ours, theirs) = pair.open();
            tell(&mut pair, role, Command::Shutdown);
            assert_eq!(pair.side(role.peer()).take_events(), [Event::GoAway]);
            // 9114-5.2-01
            let refused = pair.client.session.open_tunnel(tunnel_request());
            assert_eq!(refused, Err(CommandError::Closing));
            // 9114-5.2-07
            let packet = Bytes::from_static(&[0x45]);
            tell(
                &mut pair,
                Role::Client,
                Command::SendPacket {
                    tunnel: ours,
                    packet: packet.clone(),
                },
            );
            let arrived = Event::Packet {
                tunnel: theirs,
                packet,
            };
            assert_eq!(pair.server.take_events(), [arrived]);

            let how = CloseHow::Finish;
            tell(
                &mut pair,
                Role::Client,
                Command::CloseTunnel { tunnel: ours, how },
            );
            // 9114-5.2-06
            let end = SessionEnd::Local(H3Code::NO_ERROR);
            assert_eq!(pair.side(role).events.last(), Some(&Event::Ended(end)));
            let events = &pair.side(role.peer()).events;
            assert_eq!(events.last(), Some(&Event::Ended(SessionEnd::Transport)));
        }
    }
}

#[test]
fn the_drain_timer_ends_tunnels_that_will_not_end() {
    let mut pair = connected(Net::PLAIN);
    let (ours, theirs) = pair.open();
    tell(&mut pair, Role::Server, Command::Shutdown);
    assert!(pair.fire(Role::Server, Timer::Drain));
    let last = Event::Ended(SessionEnd::Local(H3Code::NO_ERROR));
    assert_eq!(
        pair.server.take_events(),
        [ended(theirs, TunnelEnd::ConnectionEnded), last]
    );
    assert_eq!(
        pair.client.take_events()[1..],
        [
            ended(ours, TunnelEnd::ConnectionEnded),
            Event::Ended(SessionEnd::Transport)
        ]
    );
    assert!(pair.server.timers.is_empty() && pair.client.timers.is_empty());
}

#[test]
fn requests_at_or_above_the_goaway_id_are_rejected_for_a_retry() {
    for net in nets() {
        let mut pair = connected(net);
        pair.open();
        // The request is under way when the server goes away.
        pair.stalled.insert(stream(1));
        let ours = pair
            .client
            .session
            .open_tunnel(tunnel_request())
            .expect("room");
        pair.run();
        tell(&mut pair, Role::Server, Command::Shutdown);
        // 9114-5.2-05
        assert!(
            pair.client
                .take_events()
                .contains(&ended(ours, TunnelEnd::Rejected))
        );
    }
    // 9114-5.2-04: the same, where the client does not see the GOAWAY in time.
    let mut pair = connected(Net::PLAIN);
    let (ours, theirs) = pair.open();
    pair.stalled
        .insert(StreamId::nth(Role::Server, Direction::Unidirectional, 0));
    tell(&mut pair, Role::Server, Command::Shutdown);
    let late = pair
        .client
        .session
        .open_tunnel(tunnel_request())
        .expect("room");
    pair.run();
    assert_eq!(
        pair.client.take_events(),
        [ended(late, TunnelEnd::Rejected)]
    );
    let code = H3Code::REQUEST_REJECTED;
    let stream = stream(1);
    assert!(
        pair.server
            .outputs
            .contains(&QuicOutput::Reset { stream, code })
    );
    assert!(pair.server.session.datagram_header(theirs).is_some());
    assert!(pair.client.session.datagram_header(ours).is_some());
}

#[test]
fn requests_over_the_limit_of_tunnels_are_rejected() {
    let server = SessionConfig {
        max_tunnels: 2,
        ..server_config()
    };
    let mut pair = Pair::connected(SessionConfig::default(), server, Net::PLAIN);
    pair.open();
    pair.open();
    let third = pair
        .client
        .session
        .open_tunnel(tunnel_request())
        .expect("room");
    pair.run();
    // 9114-4.1.1-03
    assert_eq!(
        pair.client.take_events(),
        [ended(third, TunnelEnd::Rejected)]
    );
    assert_eq!(pair.server.take_events(), []);
}

#[test]
fn a_response_that_does_not_come_is_not_waited_for() {
    // Of the client: the request is cancelled.
    let mut pair = connected(Net::PLAIN);
    let ours = pair
        .client
        .session
        .open_tunnel(tunnel_request())
        .expect("room");
    pair.run();
    assert!(pair.fire(Role::Client, Timer::Response(ours)));
    assert_eq!(
        pair.client.take_events(),
        [ended(ours, TunnelEnd::TimedOut)]
    );
    let code = H3Code::REQUEST_CANCELLED;
    let stream = stream(0);
    // 9114-4.1.1-02
    assert!(
        pair.client
            .outputs
            .contains(&QuicOutput::Reset { stream, code })
    );
    let events = pair.server.take_events();
    let [Event::Requested { tunnel, .. }, end] = &events[..] else {
        panic!("{events:?}");
    };
    let reset = TunnelEnd::ResetByPeer { code: code.0 };
    assert_eq!(*end, ended(*tunnel, reset));

    // Of the server's owner: the request is answered.
    let mut pair = connected(Net::PLAIN);
    let ours = pair
        .client
        .session
        .open_tunnel(tunnel_request())
        .expect("room");
    pair.run();
    let Some(Event::Requested { tunnel, .. }) = pair.server.take_events().pop() else {
        panic!("not asked");
    };
    assert!(pair.fire(Role::Server, Timer::Response(tunnel)));
    assert_eq!(
        pair.server.take_events(),
        [ended(tunnel, TunnelEnd::TimedOut)]
    );
    let refused = Event::Refused {
        tunnel: ours,
        status: 503,
        proxy_status: None,
    };
    assert_eq!(pair.client.take_events(), [refused]);

    // Nor is a stream, where the server grants none.
    let mut pair = connected(Net::PLAIN);
    pair.max_bidi = 0;
    let ours = pair
        .client
        .session
        .open_tunnel(tunnel_request())
        .expect("room");
    pair.run();
    assert!(pair.fire(Role::Client, Timer::Response(ours)));
    assert_eq!(
        pair.client.take_events(),
        [ended(ours, TunnelEnd::TimedOut)]
    );
    // Granted after all, it must not stay half open.
    pair.client
        .session
        .handle_quic(QuicInput::Opened { stream });
    assert_eq!(
        pair.client.session.poll_quic(),
        Some(QuicOutput::Reset { stream, code })
    );
    assert_eq!(
        pair.client.session.poll_quic(),
        Some(QuicOutput::Stop { stream, code })
    );
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
