//! How tunnels and connections end, seen from both sides, in every network of [`nets`].

use bytes::Bytes;
use masque_core::error::H3Code;
use masque_core::session::{
    CloseHow, Command, CommandError, Event, QuicInput, QuicOutput, SessionConfig, SessionEnd,
    Timer, TunnelEnd, TunnelId,
};
use masque_core::wire::fields::FieldList;
use masque_core::wire::stream::{Direction, Role, StreamId};

use crate::pair::{connected, ended, nets, stream, tell};
use crate::pump::{Net, Pair, server_config, tunnel_request};

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
            // 9484-4.1-08, 9484-4.1-11, 9220-3-04: an orderly end is a FIN, and is answered by one.
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
            // 9000-3.5-01, 9114-4.1.1-01
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
fn the_goaway_is_given_to_quic_before_the_connection_is_closed() {
    // 9114-5.2-03, 9114-3.3-02
    let mut pair = connected(Net::PLAIN);
    let server = &mut pair.server.session;
    server.handle_command(Command::Shutdown).expect("running");
    let Some(QuicOutput::Write { stream, data }) = server.poll_quic() else {
        panic!("no GOAWAY");
    };
    assert_eq!(&data[..], [0x07, 0x01, 0x00]);
    assert_eq!(server.poll_quic(), None);
    let bytes = data.len();
    server.handle_quic(QuicInput::Written { stream, bytes });
    let close = server.poll_quic();
    let code = H3Code::NO_ERROR;
    assert!(matches!(close, Some(QuicOutput::Close { code: c, .. }) if c == code));
}

#[test]
fn a_peer_that_answers_no_fin_keeps_few_streams() {
    let config = SessionConfig {
        max_tunnels: 1,
        ..SessionConfig::default()
    };
    let mut pair = Pair::connected(config, server_config(), Net::PLAIN);
    let code = H3Code::NO_ERROR;
    for index in 0..2 {
        let stream = stream(index);
        let (tunnel, _) = pair.open();
        pair.stalled.insert(stream);
        let how = CloseHow::Finish;
        tell(
            &mut pair,
            Role::Client,
            Command::CloseTunnel { tunnel, how },
        );
        pair.client.take_events();
        let stop = QuicOutput::Stop { stream, code };
        assert_eq!(pair.client.outputs.contains(&stop), index == 1);
    }
}

#[test]
fn bytes_for_a_peer_that_stopped_the_stream_are_let_go() {
    let mut pair = connected(Net::PLAIN);
    let (tunnel, _) = pair.open();
    let client = &mut pair.client.session;
    let packet = Bytes::from_static(&[0x45; 100]);
    let send = Command::SendPacket { tunnel, packet };
    client.handle_command(send).expect("room");
    let how = CloseHow::Finish;
    let close = Command::CloseTunnel { tunnel, how };
    client.handle_command(close).expect("open");
    assert!(client.buffered_output() > 100);
    let stream = stream(0);
    client.handle_quic(QuicInput::Stopped { stream, code: 0 });
    assert_eq!(client.buffered_output(), 0);
    assert!(matches!(client.poll_quic(), Some(QuicOutput::Write { .. })));
    let code = H3Code::REQUEST_CANCELLED;
    assert_eq!(client.poll_quic(), Some(QuicOutput::Reset { stream, code }));
}

#[test]
fn a_timer_that_was_disarmed_is_ignored_and_so_is_every_timer_after_the_end() {
    for role in [Role::Client, Role::Server] {
        let mut pair = connected(Net::PLAIN);
        let (ours, theirs) = pair.open();
        let tunnel = match role {
            Role::Client => ours,
            Role::Server => theirs,
        };
        let all = [
            Timer::Settings,
            Timer::Response(tunnel),
            Timer::AddressRequest(tunnel),
            Timer::Drain,
            Timer::Burden,
        ];
        for ended in [false, true] {
            if ended {
                let close = Command::Close {
                    code: H3Code::NO_ERROR,
                    reason: "",
                };
                tell(&mut pair, role, close);
                pair.side(role).take_events();
            }
            let outputs = pair.side(role).outputs.len();
            // Late, as when a caller has taken it from a queue of its own already.
            for timer in all {
                if !pair.side(role).timers.contains_key(&timer) {
                    pair.side(role).session.handle_timer(timer);
                }
            }
            pair.run();
            assert_eq!(
                pair.side(role).take_events(),
                [],
                "{role:?}, ended: {ended}"
            );
            assert_eq!(pair.side(role).outputs.len(), outputs);
        }
    }
}
