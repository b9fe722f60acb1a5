//! One session and a peer made of bytes: what no second session would send.

use bytes::Bytes;
use masque_core::error::{H3Code, WireErrorKind};
use masque_core::session::{
    Command, CommandError, Event, QuicInput, QuicOutput, Session, SessionConfig, SessionEnd,
    TunnelEnd, TunnelId,
};
use masque_core::wire::fields::{FieldList, RequestHead, RequestKind, ResponseHead};
use masque_core::wire::frame::{self, FrameDecoder, FrameEvent, FrameType};
use masque_core::wire::qpack;
use masque_core::wire::settings::Settings;
use masque_core::wire::stream::{Direction, Role, StreamId};

use crate::pump::{server_config, tunnel_request};

pub(crate) const SETTINGS: &[u8] = &[0x00, 0x04, 0x04, 0x08, 0x01, 0x33, 0x01];
pub(crate) const T0: TunnelId = TunnelId(0);

pub(crate) struct Alone {
    pub(crate) session: Session,
    pub(crate) role: Role,
}

impl Alone {
    pub(crate) fn new(role: Role, config: SessionConfig) -> Self {
        let mut session = Session::new(role, config);
        session.handle_quic(QuicInput::Connected {
            peer_max_datagram_frame_size: Some(65535),
        });
        let mut alone = Self { session, role };
        for index in 0..3 {
            let stream = StreamId::nth(role, Direction::Unidirectional, index);
            alone.session.handle_quic(QuicInput::Opened { stream });
        }
        alone.outputs();
        alone
    }

    /// With a tunnel 0 on stream 0, asked for and not answered.
    pub(crate) fn asked(role: Role, config: SessionConfig) -> Self {
        let mut alone = Self::new(role, config);
        alone.uni(0, SETTINGS);
        match role {
            Role::Client => {
                alone.session.open_tunnel(tunnel_request()).expect("room");
                alone
                    .session
                    .handle_quic(QuicInput::Opened { stream: bidi(0) });
            }
            Role::Server => alone.bidi(0, &tunnel_head("connect-ip")),
        }
        alone.outputs();
        alone.events();
        alone
    }

    pub(crate) fn open(role: Role, config: SessionConfig) -> Self {
        let mut alone = Self::asked(role, config);
        match role {
            Role::Client => alone.bidi(0, &response(200)),
            Role::Server => alone.command(Command::Accept { tunnel: T0 }),
        }
        alone.outputs();
        let established = Event::Established {
            tunnel: T0,
            status: 200,
        };
        assert_eq!(alone.events(), [established]);
        alone
    }

    pub(crate) fn peer_uni(&self, index: u32) -> StreamId {
        StreamId::nth(self.role.peer(), Direction::Unidirectional, index)
    }

    pub(crate) fn uni(&mut self, index: u32, data: &[u8]) {
        let stream = self.peer_uni(index);
        self.data(stream, data, false);
    }

    pub(crate) fn bidi(&mut self, index: u32, data: &[u8]) {
        self.data(bidi(index), data, false);
    }

    pub(crate) fn data(&mut self, stream: StreamId, data: &[u8], fin: bool) {
        let data = Bytes::copy_from_slice(data);
        self.session
            .handle_quic(QuicInput::Data { stream, data, fin });
    }

    pub(crate) fn command(&mut self, command: Command) {
        self.session.handle_command(command).expect("it fits");
    }

    /// What is to be done on QUIC; writes are taken whole.
    pub(crate) fn outputs(&mut self) -> Vec<QuicOutput> {
        let mut outputs = Vec::new();
        while let Some(output) = self.session.poll_quic() {
            if let QuicOutput::Write { stream, data } = &output {
                let (stream, bytes) = (*stream, data.len());
                self.session
                    .handle_quic(QuicInput::Written { stream, bytes });
            }
            outputs.push(output);
        }
        outputs
    }

    pub(crate) fn events(&mut self) -> Vec<Event> {
        core::iter::from_fn(|| self.session.poll_event()).collect()
    }

    #[track_caller]
    pub(crate) fn assert_violation(&mut self, kind: WireErrorKind) {
        let last = self.events().pop();
        assert_eq!(last, Some(Event::Ended(SessionEnd::Violation(kind))));
        let close = self.outputs().pop();
        assert!(
            matches!(close, Some(QuicOutput::Close { code, .. }) if code == kind.code()),
            "{close:?}"
        );
    }

    #[track_caller]
    pub(crate) fn assert_stream_error(&mut self, kind: WireErrorKind) {
        let end = TunnelEnd::Violation(kind);
        let ended = Event::TunnelEnded { tunnel: T0, end };
        assert_eq!(self.events().pop(), Some(ended));
        let (stream, code) = (bidi(0), kind.code());
        let reset = QuicOutput::Reset { stream, code };
        let stop = QuicOutput::Stop { stream, code };
        assert_eq!(self.outputs(), [reset, stop]);
    }
}

pub(crate) fn bidi(index: u32) -> StreamId {
    StreamId::nth(Role::Client, Direction::Bidirectional, index)
}

pub(crate) fn framed(ty: FrameType, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::encode_header(ty, payload.len(), &mut out);
    out.extend_from_slice(payload);
    out
}

pub(crate) fn section(fields: &FieldList) -> Vec<u8> {
    let mut section = Vec::new();
    qpack::encode(fields, &mut section);
    framed(FrameType::Headers, &section)
}

pub(crate) fn request(kind: RequestKind, path: &str) -> Vec<u8> {
    let plain = kind == RequestKind::Connect;
    let head = RequestHead {
        kind,
        scheme: if plain { "" } else { "https" }.into(),
        authority: "proxy.example:443".into(),
        path: if plain { "" } else { path }.into(),
        capsule_protocol: !plain,
        fields: FieldList::default(),
    };
    section(&head.to_fields())
}

pub(crate) fn tunnel_head(protocol: &str) -> Vec<u8> {
    let kind = RequestKind::ExtendedConnect(protocol.into());
    request(kind, "/.well-known/masque/ip/*/*/")
}

pub(crate) fn response(status: u16) -> Vec<u8> {
    let head = ResponseHead {
        status,
        capsule_protocol: status == 200,
        fields: FieldList::default(),
    };
    section(&head.to_fields())
}

pub(crate) fn status(outputs: &[QuicOutput]) -> Option<u16> {
    let Some(QuicOutput::Write { data, .. }) = outputs.first() else {
        return None;
    };
    let event = FrameDecoder::new(1 << 16)
        .decode(&mut data.clone())
        .expect("our own frame");
    assert!(matches!(
        event,
        Some(FrameEvent::Header {
            ty: FrameType::Headers,
            ..
        })
    ));
    let section = &data[2..];
    let fields = qpack::decode(section, 1 << 16).expect("our own section");
    Some(ResponseHead::parse(fields).expect("our own head").status)
}

pub(crate) const BOTH: [Role; 2] = [Role::Client, Role::Server];

#[test]
fn both_roles_open_three_streams_and_say_what_they_can() {
    for role in BOTH {
        let mut session = Session::new(role, server_config());
        session.handle_quic(QuicInput::Connected {
            peer_max_datagram_frame_size: None,
        });
        let direction = Direction::Unidirectional;
        let open = QuicOutput::Open { direction };
        let outputs: Vec<_> = core::iter::from_fn(|| session.poll_quic()).collect();
        assert_eq!(outputs, [open.clone(), open.clone(), open]);
        let mut written = Vec::new();
        for index in 0..3 {
            let stream = StreamId::nth(role, direction, index);
            session.handle_quic(QuicInput::Opened { stream });
            match session.poll_quic() {
                Some(QuicOutput::Write { stream: s, data }) if s == stream => written.push(data),
                other => panic!("{other:?}"),
            }
        }
        // 9114-6.2.1-01, 9114-6.2.1-06, 9114-6.2-03
        assert_eq!(written[0][..2], [0x00, 0x04]);
        assert_eq!((&written[1][..], &written[2][..]), (&[2][..], &[3][..]));
        let settings = Settings::decode(&written[0][3..]).expect("our own settings");
        // 9297-2.1.1-01, 9297-2.1.1-07, 9484-4.4-01
        assert!(settings.h3_datagram);
        assert_eq!(settings.enable_connect_protocol, role == Role::Server);
        assert_eq!(settings.max_field_section_size, Some(16 << 10));
    }
}

#[test]
fn datagrams_that_contradict_the_transport_parameters_end_the_connection() {
    for (size, role) in [None, Some(0)]
        .into_iter()
        .flat_map(|s| BOTH.map(|r| (s, r)))
    {
        let mut session = Session::new(role, server_config());
        session.handle_quic(QuicInput::Connected {
            peer_max_datagram_frame_size: size,
        });
        let mut alone = Alone { session, role };
        alone.outputs();
        alone.uni(0, SETTINGS);
        alone.assert_violation(WireErrorKind::SettingsDowngrade);
    }
}

#[test]
fn a_second_critical_stream_ends_the_connection() {
    // 9114-6.2.1-03, 9204-4.2-01
    for (role, ty) in BOTH.into_iter().flat_map(|r| [0u8, 2, 3].map(|t| (r, t))) {
        let mut alone = Alone::new(role, server_config());
        alone.uni(0, &[ty]);
        alone.uni(1, &[ty]);
        alone.assert_violation(WireErrorKind::StreamCreation);
    }
}

#[test]
fn the_end_of_a_critical_stream_ends_the_connection() {
    // 9114-6.2.1-04, 9204-4.2-02
    for (role, ty) in BOTH.into_iter().flat_map(|r| [0u8, 2, 3].map(|t| (r, t))) {
        for reset in [false, true] {
            let mut alone = Alone::new(role, server_config());
            alone.uni(0, &[ty]);
            let stream = alone.peer_uni(0);
            if reset {
                let code = 0x100;
                alone.session.handle_quic(QuicInput::Reset { stream, code });
            } else {
                alone.data(stream, &[], true);
            }
            alone.assert_violation(WireErrorKind::CriticalStreamClosed);
        }
        let mut alone = Alone::new(role, server_config());
        let stream = StreamId::nth(
            role,
            Direction::Unidirectional,
            u32::from(ty.saturating_sub(1)),
        );
        let code = 0x100;
        alone
            .session
            .handle_quic(QuicInput::Stopped { stream, code });
        alone.assert_violation(WireErrorKind::CriticalStreamClosed);
    }
}

#[test]
fn other_streams_come_and_go() {
    for role in BOTH {
        let config = SessionConfig {
            max_unknown_streams: 2,
            ..server_config()
        };
        let mut alone = Alone::new(role, config);
        // 9114-6.2-07: ended before the type has come.
        let stream = alone.peer_uni(0);
        alone.data(stream, &[0x40], true);
        let stream = alone.peer_uni(1);
        alone
            .session
            .handle_quic(QuicInput::Reset { stream, code: 0 });
        assert_eq!(alone.outputs(), []);
        // 9114-6.2-04, 9114-6.2.3-01: any number of them, one after the other.
        for index in 2..40 {
            alone.uni(index, &[0x40, 0x5f]);
            alone.uni(index, b"more");
            let stream = alone.peer_uni(index);
            let code = H3Code::STREAM_CREATION_ERROR;
            assert_eq!(alone.outputs(), [QuicOutput::Stop { stream, code }]);
        }
        // Streams that do not even say their type are few.
        for index in 40..43 {
            alone.uni(index, &[0x40]);
        }
        let stream = alone.peer_uni(42);
        let code = H3Code::STREAM_CREATION_ERROR;
        assert_eq!(alone.outputs(), [QuicOutput::Stop { stream, code }]);
        // 9114-6.2-06: a type in two pieces.
        alone.uni(40, &[0x00]);
        alone.uni(40, &SETTINGS[1..]);
        assert!(matches!(alone.events()[..], [Event::PeerSettings(_)]));
    }
}

#[test]
fn a_server_opens_no_bidirectional_stream() {
    // 9114-6.1-02
    let stream = StreamId::nth(Role::Server, Direction::Bidirectional, 0);
    let mut alone = Alone::new(Role::Client, server_config());
    alone.data(stream, &[], false);
    alone.assert_violation(WireErrorKind::StreamCreation);
    let mut alone = Alone::new(Role::Client, server_config());
    let code = 0;
    alone.session.handle_quic(QuicInput::Reset { stream, code });
    alone.assert_violation(WireErrorKind::StreamCreation);
}

#[test]
fn pushes_are_never_granted() {
    let after_settings = |role, frame: &[u8]| {
        let mut alone = Alone::new(role, server_config());
        alone.uni(0, &[SETTINGS, frame].concat());
        alone
    };
    for role in BOTH {
        // 9114-7.2.3-02
        after_settings(role, &[0x03, 0x01, 0x00]).assert_violation(WireErrorKind::PushId);
        // 9114-7.2.5-02
        after_settings(role, &[0x05, 0x01, 0x00]).assert_violation(WireErrorKind::FrameUnexpected);
    }
    // 9114-7.2.7-01
    let grant = [0x0d, 0x01, 0x05];
    after_settings(Role::Client, &grant).assert_violation(WireErrorKind::FrameUnexpected);
    let mut server = after_settings(Role::Server, &grant);
    server.uni(0, &[0x0d, 0x01, 0x05, 0x0d, 0x01, 0x06]);
    assert_eq!(server.outputs(), []);
    // 9114-7.2.7-02
    server.uni(0, &[0x0d, 0x01, 0x05]);
    server.assert_violation(WireErrorKind::PushId);
    // 9114-7.2.5-01, 9114-7.2.5-03
    for (role, kind) in [
        (Role::Client, WireErrorKind::PushId),
        (Role::Server, WireErrorKind::FrameUnexpected),
    ] {
        let mut alone = Alone::open(role, server_config());
        alone.bidi(0, &[0x05, 0x03, 0x00, 0x00, 0x00]);
        alone.assert_violation(kind);
    }
}

#[test]
fn requests_that_are_no_tunnels_are_answered_and_no_more_is_read() {
    let connect = |p: &str| RequestKind::ExtendedConnect(p.into());
    let ip = "/.well-known/masque/ip/*/*/";
    for (kind, path, expected) in [
        (RequestKind::Ordinary("GET".into()), ip, 404),
        (RequestKind::Connect, "", 501),
        // 9220-3-02, 9484-4.4-03
        (connect("websocket"), ip, 501),
        (connect("Connect-IP"), ip, 501),
        (connect("connect-ip"), "/elsewhere", 404),
    ] {
        for fin in [false, true] {
            let mut alone = Alone::new(Role::Server, server_config());
            alone.uni(0, SETTINGS);
            alone.data(bidi(0), &request(kind.clone(), path), fin);
            let outputs = alone.outputs();
            assert_eq!(status(&outputs), Some(expected), "{kind:?}");
            let stream = bidi(0);
            let code = H3Code::NO_ERROR;
            let stop = QuicOutput::Stop { stream, code };
            assert_eq!(outputs.contains(&stop), !fin);
            assert_eq!(outputs.last(), Some(&QuicOutput::Finish { stream }));
            // 8441-4-03: nobody is asked to go anywhere, whatever :authority says.
            assert!(matches!(alone.events()[..], [Event::PeerSettings(_)]));
        }
    }
    let config = SessionConfig {
        extra_protocols: vec!["cf-connect-ip".into()],
        ..server_config()
    };
    let mut alone = Alone::new(Role::Server, config);
    alone.uni(0, SETTINGS);
    alone.bidi(0, &tunnel_head("cf-connect-ip"));
    assert!(matches!(
        alone.events().last(),
        Some(Event::Requested { .. })
    ));
}

#[test]
fn interim_responses_change_nothing_and_the_final_one_decides() {
    // 9484-4.5-03
    let mut alone = Alone::asked(Role::Client, server_config());
    alone.bidi(0, &[response(100), response(103)].concat());
    assert_eq!(alone.events(), []);
    alone.bidi(0, &response(200));
    assert_eq!(alone.events().len(), 1);

    // A server that only hangs up.
    let mut alone = Alone::asked(Role::Client, server_config());
    alone.data(bidi(0), &[], true);
    let end = TunnelEnd::Finished;
    assert_eq!(alone.events(), [Event::TunnelEnded { tunnel: T0, end }]);
    let (stream, code) = (bidi(0), H3Code::REQUEST_CANCELLED);
    assert_eq!(alone.outputs(), [QuicOutput::Reset { stream, code }]);
}

#[test]
fn a_stop_without_error_leaves_the_response_time_to_come() {
    let stream = bidi(0);
    let stopped = |code| {
        let mut alone = Alone::asked(Role::Client, server_config());
        alone
            .session
            .handle_quic(QuicInput::Stopped { stream, code });
        let code = H3Code::REQUEST_CANCELLED;
        assert_eq!(alone.outputs()[0], QuicOutput::Reset { stream, code });
        alone
    };
    // 9114-4.1-10, 9114-8-02: a code without a meaning is no error either.
    for code in [0x100, 0x0, 0x21] {
        let mut alone = stopped(code);
        alone.bidi(0, &response(403));
        assert!(matches!(
            alone.events()[..],
            [Event::Refused { status: 403, .. }]
        ));
        let mut alone = stopped(code);
        alone.bidi(0, &response(200));
        let end = TunnelEnd::ResetByPeer { code };
        assert_eq!(alone.events(), [Event::TunnelEnded { tunnel: T0, end }]);
    }
    for (code, end) in [
        (0x10b, TunnelEnd::Rejected),
        (0x107, TunnelEnd::ResetByPeer { code: 0x107 }),
    ] {
        let mut alone = stopped(code);
        assert_eq!(alone.events(), [Event::TunnelEnded { tunnel: T0, end }]);
    }
}

#[test]
fn request_ids_are_remembered_up_to_the_limit() {
    let config = || SessionConfig {
        max_address_requests: 2,
        ..server_config()
    };
    let ask = |id| framed(FrameType::Data, &[2, 7, id, 4, 0, 0, 0, 0, 32]);
    for role in BOTH {
        let mut alone = Alone::open(role, config());
        alone.bidi(0, &[ask(1), ask(2)].concat());
        assert_eq!(alone.events().len(), 2);
        // 9484-4.7.2-04
        alone.bidi(0, &ask(1));
        alone.assert_stream_error(WireErrorKind::RequestIdReused);

        let mut alone = Alone::open(role, config());
        alone.bidi(0, &[ask(1), ask(2), ask(3)].concat());
        alone.assert_stream_error(WireErrorKind::CapsuleTooMany);
    }
}

#[test]
fn a_client_without_datagrams_is_served_by_capsules() {
    // 9297-2.2-01, 9221-3-08, 9297-2.1.1-03
    let mut session = Session::new(Role::Server, server_config());
    session.handle_quic(QuicInput::Connected {
        peer_max_datagram_frame_size: None,
    });
    let mut alone = Alone {
        session,
        role: Role::Server,
    };
    alone.uni(0, &[0x00, 0x04, 0x00]);
    alone.bidi(0, &tunnel_head("connect-ip"));
    alone.command(Command::Accept { tunnel: T0 });
    alone.outputs();
    alone.events();
    // 9221-3-01: nothing is ever put into a QUIC datagram, and all goes in capsules.
    assert_eq!(alone.session.datagram_header(T0), None);
    let packet = Bytes::from_static(&[0x45, 1, 2]);
    alone.command(Command::SendPacket { tunnel: T0, packet });
    let data = Bytes::from_static(&[0x00, 0x06, 0x00, 0x04, 0x00, 0x45, 1, 2]);
    let stream = bidi(0);
    assert_eq!(alone.outputs(), [QuicOutput::Write { stream, data }]);
    // 9297-3.5-02, 9484-6-02: contexts are the same as in datagrams.
    alone.bidi(
        0,
        &framed(FrameType::Data, &[0, 2, 2, 0x45, 0, 0, 0, 2, 0, 0x60]),
    );
    let packet = Bytes::from_static(&[0x60]);
    assert_eq!(alone.events(), [Event::Packet { tunnel: T0, packet }]);
}

#[test]
fn datagrams_wait_for_a_stream_that_our_settings_go_on() {
    // 9297-2.1.1-03: a peer may allow none for a while.
    let mut session = Session::new(Role::Server, server_config());
    session.handle_quic(QuicInput::Connected {
        peer_max_datagram_frame_size: Some(65535),
    });
    let role = Role::Server;
    let mut alone = Alone { session, role };
    alone.uni(0, SETTINGS);
    alone.bidi(0, &tunnel_head("connect-ip"));
    alone.command(Command::Accept { tunnel: T0 });
    alone.outputs();
    assert_eq!(alone.session.datagram_header(T0), None);
    let stream = StreamId::nth(role, Direction::Unidirectional, 0);
    alone.session.handle_quic(QuicInput::Opened { stream });
    assert!(alone.session.datagram_header(T0).is_some());
}

#[test]
fn nothing_is_read_while_the_owner_decides() {
    let mut alone = Alone::asked(Role::Server, server_config());
    assert!(!alone.session.wants_data(bidi(0)));
    // What came along with the request is looked at once it is accepted (9484-4.1-10).
    alone.data(bidi(0), &framed(FrameType::Data, &[1, 0]), true);
    assert_eq!(alone.events(), []);
    alone.command(Command::Accept { tunnel: T0 });
    let events = alone.events();
    let end = TunnelEnd::Finished;
    assert!(
        matches!(
            events[..],
            [
                Event::Established { .. },
                Event::AddressesAssigned { .. },
                Event::TunnelEnded { end: e, .. }
            ] if e == end
        ),
        "{events:?}"
    );
    let again = alone.session.handle_command(Command::Accept { tunnel: T0 });
    assert_eq!(again, Err(CommandError::UnknownTunnel));
}

#[test]
fn an_ended_request_stream_is_not_taken_for_a_new_one() {
    let mut alone = Alone::open(Role::Server, server_config());
    alone.bidi(0, &framed(FrameType::Data, &[2, 0]));
    alone.assert_stream_error(WireErrorKind::EmptyRequest);
    alone.bidi(0, &tunnel_head("connect-ip"));
    let (stream, code) = (bidi(0), 0x100);
    alone.session.handle_quic(QuicInput::Reset { stream, code });
    alone
        .session
        .handle_quic(QuicInput::Stopped { stream, code });
    assert_eq!((alone.outputs(), alone.events()), (vec![], vec![]));
}

#[test]
fn commands_that_do_not_fit_are_refused() {
    let refused = |alone: &mut Alone, command| alone.session.handle_command(command);
    let mut client = Alone::asked(Role::Client, server_config());
    let accept = Command::Accept { tunnel: T0 };
    assert_eq!(
        refused(&mut client, accept.clone()),
        Err(CommandError::Role)
    );
    let prefixes = vec![];
    let early = Command::RequestAddresses {
        tunnel: T0,
        prefixes,
    };
    assert_eq!(
        refused(&mut client, early.clone()),
        Err(CommandError::State)
    );
    let unknown = Command::Accept {
        tunnel: TunnelId(9),
    };
    let mut server = Alone::asked(Role::Server, server_config());
    assert_eq!(
        refused(&mut server, unknown),
        Err(CommandError::UnknownTunnel)
    );
    for status in [200, 299, 600] {
        let fields = FieldList::default();
        let refuse = Command::Refuse {
            tunnel: T0,
            status,
            fields,
        };
        assert_eq!(refused(&mut server, refuse), Err(CommandError::State));
    }
    assert_eq!(
        server.session.open_tunnel(tunnel_request()),
        Err(CommandError::Role)
    );
    let close = Command::Close {
        code: H3Code::NO_ERROR,
        reason: "enough",
    };
    server.command(close.clone());
    assert_eq!(refused(&mut server, close), Err(CommandError::Closing));
    let end = TunnelEnd::ConnectionEnded;
    let ended = Event::Ended(SessionEnd::Local(H3Code::NO_ERROR));
    let expected = [Event::TunnelEnded { tunnel: T0, end }, ended];
    assert_eq!(server.events(), expected);
}
