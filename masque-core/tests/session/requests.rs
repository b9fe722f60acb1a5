//! What is asked and answered, and when: requests, responses, and the settings they wait for.

use bytes::Bytes;
use masque_core::error::{H3Code, WireErrorKind};
use masque_core::session::{
    CloseHow, Command, CommandError, Event, QuicInput, QuicOutput, SessionConfig, SessionEnd,
    Timer, TunnelEnd, TunnelRequest,
};
use masque_core::wire::fields::{FieldList, RequestKind};
use masque_core::wire::frame::{FrameDecoder, FrameEvent, FrameType};
use masque_core::wire::qpack;
use masque_core::wire::stream::{Direction, Role};
use masque_core::wire::template::{UriTemplate, Wildcard};

use crate::alone::*;
use crate::pair::{connected, ended, nets, stream, tell};
use crate::pump::{Net, server_config, tunnel_request};

/// The fields of the first HEADERS frame in what was written on a stream, and what follows it.
fn head_of(outputs: &[QuicOutput]) -> (FieldList, Bytes) {
    let mut bytes = Bytes::from(written(outputs));
    let mut decoder = FrameDecoder::new(1 << 16);
    while let Some(event) = decoder.decode(&mut bytes).expect("our own frames") {
        if let FrameEvent::Headers(section) = event {
            let fields = qpack::decode(&section, 1 << 16).expect("our own section");
            return (fields, bytes);
        }
    }
    panic!("no HEADERS in {outputs:?}");
}

fn written(outputs: &[QuicOutput]) -> Vec<u8> {
    let data = outputs.iter().filter_map(|output| match output {
        QuicOutput::Write { stream, data } if *stream == bidi(0) => Some(&data[..]),
        _ => None,
    });
    data.collect::<Vec<_>>().concat()
}

fn opens_a_request(outputs: &[QuicOutput]) -> bool {
    let direction = Direction::Bidirectional;
    outputs.contains(&QuicOutput::Open { direction })
}

#[test]
fn a_request_has_the_fields_of_extended_connect_and_no_others() {
    let template = "https://proxy.example.org:4443/.well-known/masque/ip/{target}/{ipproto}/";
    let template = UriTemplate::parse(template).expect("legal");
    let mut alone = Alone::new(Role::Client, server_config());
    alone.uni(0, SETTINGS);
    let request = TunnelRequest {
        authority: template.authority().into(),
        path: template.expand(Some("192.0.2.0/24"), Some("17"), Wildcard::Encoded),
        ..tunnel_request()
    };
    alone.session.open_tunnel(request).expect("room");
    alone.outputs();
    let stream = bidi(0);
    alone.session.handle_quic(QuicInput::Opened { stream });
    let (fields, rest) = head_of(&alone.outputs());
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("ASCII");
    let lines: Vec<_> = fields
        .0
        .iter()
        .map(|field| (text(&field.name), text(&field.value)))
        .collect();
    let expected = [
        (":method", "CONNECT"),
        // 9484-12.1-01
        (":protocol", "connect-ip"),
        // 9484-4.4-05, 8441-4-02
        (":scheme", "https"),
        // 9484-4.4-04
        (":authority", "proxy.example.org:4443"),
        (":path", "/.well-known/masque/ip/192.0.2.0%2F24/17/"),
        ("capsule-protocol", "?1"),
    ];
    // 9114-4.3.1-05, 9484-4-03: neither Host nor anything that speaks of content; nothing follows.
    assert_eq!(lines.len(), expected.len(), "{lines:?}");
    for (name, value) in expected {
        assert!(lines.contains(&(name.into(), value.into())), "{lines:?}");
    }
    assert!(rest.is_empty());
}

#[test]
fn all_that_an_open_tunnel_sends_and_takes_are_capsules() {
    for role in BOTH {
        let mut alone = Alone::open(role, server_config());
        let packet = Bytes::from_static(&[0x45, 1]);
        alone.command(Command::SendPacket { tunnel: T0, packet });
        // 9297-3.2-04, 9484-4-03: DATA frames hold capsules in both directions.
        let sent = written(&alone.outputs());
        assert_eq!(sent, framed(FrameType::Data, &[0, 3, 0, 0x45, 1]));
        for part in [&[1, 0x40], &[0, 3], &[0x40, 0]] {
            alone.bidi(0, &framed(FrameType::Data, part));
        }
        let events = alone.events();
        let [assigned, advertised] = &events[..] else {
            panic!("{events:?}");
        };
        assert!(matches!(assigned, Event::AddressesAssigned { .. }));
        assert!(matches!(advertised, Event::RoutesAdvertised { .. }));
        alone.bidi(0, &framed(FrameType::Data, &[2, 0]));
        alone.assert_stream_error(WireErrorKind::EmptyRequest);
    }
}

#[test]
fn nothing_is_asked_before_the_settings_allow_it() {
    let mut alone = Alone::new(Role::Client, server_config());
    let tunnel = alone.session.open_tunnel(tunnel_request()).expect("room");
    // 9114-7.2.4.2-01, 9114-4.3-01: :protocol waits for SETTINGS_ENABLE_CONNECT_PROTOCOL.
    assert!(!opens_a_request(&alone.outputs()));
    assert_eq!(alone.session.datagram_header(tunnel), None);
    alone.uni(0, SETTINGS);
    assert!(opens_a_request(&alone.outputs()));

    // 9114-7.2.4.2-02: nor does it wait for ever.
    let mut alone = Alone::new(Role::Client, server_config());
    let tunnel = alone.session.open_tunnel(tunnel_request()).expect("room");
    alone.session.handle_timer(Timer::Settings);
    let end = SessionEnd::SettingsTimeout;
    let expected = [ended(tunnel, TunnelEnd::ConnectionEnded), Event::Ended(end)];
    assert_eq!(alone.events(), expected);
    let close = alone.outputs().pop();
    let code = H3Code::MISSING_SETTINGS;
    assert!(matches!(close, Some(QuicOutput::Close { code: c, .. }) if c == code));
}

#[test]
fn a_request_larger_than_the_peer_takes_is_not_sent() {
    let mut alone = Alone::new(Role::Client, server_config());
    // {8 = 1, 33 = 1, 6 = 100}
    alone.uni(0, &[0x00, 0x04, 0x07, 8, 1, 0x33, 1, 6, 0x40, 100]);
    alone.session.open_tunnel(tunnel_request()).expect("room");
    alone.outputs();
    let stream = bidi(0);
    alone.session.handle_quic(QuicInput::Opened { stream });
    // 9114-4.2.2-02
    assert_eq!(written(&alone.outputs()), []);
    let last = alone.events().pop();
    assert_eq!(last, Some(ended(T0, TunnelEnd::Unsupported)));
}

#[test]
fn each_tunnel_has_a_stream_and_contexts_of_its_own() {
    for net in nets() {
        let mut pair = connected(net);
        let tunnels = [pair.open(), pair.open()];
        let directions = pair
            .client
            .outputs
            .iter()
            .filter_map(|output| match output {
                QuicOutput::Open { direction } => Some(*direction),
                _ => None,
            });
        // 9114-4.1-01
        let requests = directions.filter(|it| *it == Direction::Bidirectional);
        assert_eq!(requests.count(), 2);
        for (index, (ours, theirs)) in tunnels.into_iter().enumerate() {
            use masque_core::session::{DatagramDrop, DatagramVerdict};
            let quarter = u8::try_from(index).expect("small");
            for (role, tunnel) in [(Role::Server, theirs), (Role::Client, ours)] {
                let session = &mut pair.side(role).session;
                // 9484-5-04: context 0 of each stream is that tunnel's.
                let verdict = session.open_datagram(&[quarter, 0, 0x45]);
                assert_eq!(verdict, DatagramVerdict::IpPacket { tunnel, offset: 2 });
                // 9484-5-01: no other context stands for packets, whoever would allocate it.
                for context in 1..64 {
                    let verdict = session.open_datagram(&[quarter, context, 0x45]);
                    let drop = DatagramVerdict::Drop(DatagramDrop::UnknownContext);
                    assert_eq!(verdict, drop, "{context}");
                }
                // 9297-2-01: what is sent belongs to the request of the tunnel.
                let header = session.datagram_header(tunnel).expect("open");
                assert_eq!(header.as_slice(), [quarter, 0]);
            }
        }
    }
}

#[test]
fn a_stream_has_one_request_and_one_final_response() {
    for role in BOTH {
        // 9114-4.1-02: on an accepted CONNECT stream only DATA follows.
        let mut alone = Alone::open(role, server_config());
        alone.bidi(
            0,
            &match role {
                Role::Client => response(200),
                Role::Server => tunnel_head("connect-ip"),
            },
        );
        alone.assert_violation(WireErrorKind::FrameUnexpected);
    }
}

#[test]
fn capsules_begin_after_the_final_response() {
    let capsule = framed(FrameType::Data, &[1, 0]);
    let mut alone = Alone::asked(Role::Client, server_config());
    alone.bidi(0, &[response(103), response(200), capsule.clone()].concat());
    // 9297-3.1-02
    let assigned = |event: &&Event| matches!(event, Event::AddressesAssigned { .. });
    assert_eq!(alone.events().iter().filter(assigned).count(), 1);

    let mut alone = Alone::asked(Role::Client, server_config());
    alone.bidi(0, &[response(103), capsule].concat());
    alone.assert_violation(WireErrorKind::FrameUnexpected);
}

#[test]
fn an_unknown_status_is_as_good_as_its_class() {
    // 9110-15-01
    for status in [201, 226, 299] {
        let mut alone = Alone::asked(Role::Client, server_config());
        alone.bidi(0, &response(status));
        let established = Event::Established { tunnel: T0, status };
        assert_eq!(alone.events(), [established]);
    }
    for status in [399, 499, 599] {
        let mut alone = Alone::asked(Role::Client, server_config());
        alone.bidi(0, &response(status));
        let refused = Event::Refused {
            tunnel: T0,
            status,
            proxy_status: None,
        };
        assert_eq!(alone.events(), [refused]);
    }
}

#[test]
fn a_server_opens_tunnels_with_200_and_says_nothing_of_capsules_in_refusals() {
    let mut alone = Alone::asked(Role::Server, server_config());
    for status in [204, 205, 206] {
        let fields = FieldList::default();
        let refuse = Command::Refuse {
            tunnel: T0,
            status,
            fields,
        };
        // 9297-3.2-07
        let refused = alone.session.handle_command(refuse);
        assert_eq!(refused, Err(CommandError::State));
    }
    alone.command(Command::Accept { tunnel: T0 });
    let (fields, _) = head_of(&alone.outputs());
    assert!(fields.values(":status").eq([b"200"]));
    assert!(fields.values("capsule-protocol").eq([b"?1"]));

    for status in [302, 403, 502] {
        let mut alone = Alone::asked(Role::Server, server_config());
        let fields = FieldList::default();
        alone.command(Command::Refuse {
            tunnel: T0,
            status,
            fields,
        });
        // 9297-3.4-04
        let (fields, _) = head_of(&alone.outputs());
        assert_eq!(fields.values("capsule-protocol").count(), 0, "{status}");
    }
    for kind in [RequestKind::Connect, RequestKind::Ordinary("GET".into())] {
        let mut alone = Alone::new(Role::Server, server_config());
        alone.bidi(0, &request(kind, "/"));
        let (fields, _) = head_of(&alone.outputs());
        assert_eq!(fields.values("capsule-protocol").count(), 0);
    }
}

#[test]
fn a_request_that_ends_too_soon_is_incomplete() {
    let unknown = framed(FrameType::Unknown(0x21u32.into()), b"\xaa\xbb");
    for bytes in [&[][..], &unknown] {
        let mut alone = Alone::new(Role::Server, server_config());
        alone.uni(0, SETTINGS);
        alone.data(bidi(0), bytes, true);
        // 9114-4.1-08
        let (stream, code) = (bidi(0), H3Code::REQUEST_INCOMPLETE);
        assert_eq!(alone.outputs(), [QuicOutput::Reset { stream, code }]);
        alone.bidi(1, &tunnel_head("connect-ip"));
        let last = alone.events().pop();
        assert!(matches!(last, Some(Event::Requested { .. })), "a sibling");
    }
}

#[test]
fn of_a_response_that_was_cut_off_nothing_is_used() {
    let mut alone = Alone::asked(Role::Client, server_config());
    let assign = framed(FrameType::Data, &[1, 7, 0, 4, 192, 0, 2, 1, 32]);
    // The capsule is not whole when the reset comes.
    alone.bidi(0, &[response(200), assign[..7].to_vec()].concat());
    let (stream, code) = (bidi(0), 0x10c);
    alone.session.handle_quic(QuicInput::Reset { stream, code });
    alone.bidi(0, &assign[7..]);
    // 9114-4.1.1-06
    let established = Event::Established {
        tunnel: T0,
        status: 200,
    };
    let end = ended(T0, TunnelEnd::ResetByPeer { code });
    assert_eq!(alone.events(), [established, end]);
}

#[test]
fn a_request_without_an_answer_may_have_been_processed() {
    let mut alone = Alone::asked(Role::Client, server_config());
    alone.session.handle_quic(QuicInput::Closed);
    // 9114-5.4-01: not Rejected, which says that it can be asked again.
    let expected = [
        ended(T0, TunnelEnd::ConnectionEnded),
        Event::Ended(SessionEnd::Transport),
    ];
    assert_eq!(alone.events(), expected);
}

#[test]
fn nobody_says_rejected_of_a_request_that_was_begun() {
    let code = H3Code::REQUEST_REJECTED;
    let how = CloseHow::Abort(code);
    let close = Command::CloseTunnel { tunnel: T0, how };
    // 9114-4.1.1-05: a client never does, 9114-4.1.1-04: nor a server after its response.
    for mut alone in [
        Alone::asked(Role::Client, server_config()),
        Alone::open(Role::Client, server_config()),
        Alone::open(Role::Server, server_config()),
    ] {
        let refused = alone.session.handle_command(close.clone());
        assert_eq!(refused, Err(CommandError::State));
        assert_eq!(alone.outputs(), []);
        let (stream, code) = (bidi(0), 0x10b);
        alone.session.handle_quic(QuicInput::Reset { stream, code });
        let code = H3Code::REQUEST_CANCELLED;
        let answer = alone.outputs();
        assert_eq!(answer[0], QuicOutput::Reset { stream, code });
    }
    let mut pending = Alone::asked(Role::Server, server_config());
    pending.command(close);
    let stream = bidi(0);
    assert!(
        pending
            .outputs()
            .contains(&QuicOutput::Reset { stream, code })
    );
}

#[test]
fn a_client_keeps_its_part_open_for_as_long_as_the_tunnel_lasts() {
    for net in nets() {
        let mut pair = connected(net);
        let (tunnel, _) = pair.open();
        for _ in 0..3 {
            let packet = Bytes::from_static(&[0x45]);
            tell(
                &mut pair,
                Role::Client,
                Command::SendPacket { tunnel, packet },
            );
        }
        // 9114-4.4-04
        let finish = QuicOutput::Finish { stream: stream(0) };
        assert!(!pair.client.outputs.contains(&finish));
        let how = CloseHow::Finish;
        tell(
            &mut pair,
            Role::Client,
            Command::CloseTunnel { tunnel, how },
        );
        assert!(pair.client.outputs.contains(&finish));
    }
}

#[test]
fn a_request_waits_until_there_is_a_stream_for_it() {
    let mut pair = connected(Net::PLAIN);
    pair.max_bidi = 1;
    pair.open();
    let second = pair.client.session.open_tunnel(tunnel_request());
    let second = second.expect("room");
    pair.run();
    // 9000-4.6-01: nothing fails, nothing is sent.
    assert_eq!(
        (pair.client.take_events(), pair.server.take_events()),
        (vec![], vec![])
    );
    let opened = QuicInput::Opened { stream: stream(1) };
    pair.client.session.handle_quic(opened);
    pair.run();
    let asked = pair.server.take_events();
    assert!(matches!(asked[..], [Event::Requested { .. }]), "{asked:?}");
    assert!(pair.fire(Role::Client, Timer::Response(second)));
}

#[test]
fn host_names_go_to_an_owner_that_resolves_them() {
    use masque_core::wire::scope::Target;
    let path = "/.well-known/masque/ip/host.example/*/";
    let head = request(RequestKind::ExtendedConnect("connect-ip".into()), path);
    for resolve_names in [false, true] {
        let config = SessionConfig {
            resolve_names,
            ..server_config()
        };
        let mut alone = Alone::new(Role::Server, config);
        alone.uni(0, SETTINGS);
        alone.bidi(0, &head);
        let events = alone.events();
        let outputs = alone.outputs();
        if resolve_names {
            let [_, Event::Requested { request, .. }] = &events[..] else {
                panic!("{events:?}");
            };
            assert_eq!(request.scope.target, Target::Name("host.example".into()));
            assert_eq!(outputs, []);
        } else {
            assert_eq!(events.len(), 1);
            assert_eq!(status(&outputs), Some(502));
        }
    }
}

#[test]
fn a_request_that_was_stopped_before_it_came_is_never_served() {
    for code in [0x100, 0x10c] {
        let mut alone = Alone::new(Role::Server, server_config());
        alone.uni(0, SETTINGS);
        alone.events();
        alone.outputs();
        let stream = bidi(0);
        let stopped = QuicInput::Stopped { stream, code };
        alone.session.handle_quic(stopped);
        let code = H3Code::REQUEST_CANCELLED;
        let reset = QuicOutput::Reset { stream, code };
        assert!(alone.outputs().contains(&reset));
        alone.bidi(0, &tunnel_head("connect-ip"));
        assert_eq!((alone.events(), alone.outputs()), (vec![], vec![]));
        // Another is.
        alone.bidi(1, &tunnel_head("connect-ip"));
        let events = alone.events();
        assert!(
            matches!(events[..], [Event::Requested { .. }]),
            "{events:?}"
        );
    }
}
