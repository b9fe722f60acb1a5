//! What is ignored, what is never sent, and what streams are for.

use bytes::Bytes;
use masque_core::error::{H3Code, WireErrorKind};
use masque_core::session::{
    Command, DatagramDrop, DatagramVerdict, Event, QuicInput, QuicOutput, Session, SessionConfig,
};
use masque_core::wire::fields::RequestKind;
use masque_core::wire::frame::FrameType;
use masque_core::wire::settings::Settings;
use masque_core::wire::stream::{Direction, Role, StreamId};

use crate::alone::*;
use crate::pump::server_config;

fn unknown_frame() -> Vec<u8> {
    framed(FrameType::Unknown(0x21u32.into()), b"\xaa\xbb")
}

#[test]
fn unknown_frames_change_nothing_wherever_they_stand() {
    for role in BOTH {
        let mut alone = Alone::asked(role, server_config());
        let head = match role {
            Role::Client => response(200),
            Role::Server => tunnel_head("connect-ip"),
        };
        let index = match role {
            Role::Client => 0,
            Role::Server => 1,
        };
        let capsule = framed(FrameType::Data, &[1, 0]);
        let grease = unknown_frame();
        // 9114-4.1-04
        let all = [
            &grease, &head, &grease, &grease, &capsule, &grease, &capsule, &grease,
        ];
        let all: Vec<u8> = all.into_iter().flatten().copied().collect();
        for byte in all {
            alone.bidi(index, &[byte]);
        }
        if role == Role::Server {
            let tunnel = masque_core::session::TunnelId(1);
            alone.command(Command::Accept { tunnel });
        }
        let assigned = |event: &&Event| matches!(event, Event::AddressesAssigned { .. });
        assert_eq!(alone.events().iter().filter(assigned).count(), 2);
        let ends = |output: &QuicOutput| {
            matches!(output, QuicOutput::Reset { .. } | QuicOutput::Close { .. })
        };
        assert!(!alone.outputs().iter().any(ends));
    }
}

#[test]
fn everything_unknown_at_once_leaves_a_tunnel_that_works() {
    for role in BOTH {
        let mut alone = Alone::new(role, server_config());
        // A reserved setting, a reserved frame on the control stream, two streams of unknown types.
        alone.uni(
            0,
            &[0x00, 0x04, 0x07, 0x08, 0x01, 0x33, 0x01, 0x40, 0x5f, 0x07],
        );
        alone.uni(0, &unknown_frame());
        alone.uni(1, &[0x21, 1, 2, 3]);
        alone.uni(2, &[0x40, 0x5f]);
        match role {
            Role::Client => {
                let request = crate::pump::tunnel_request();
                alone.session.open_tunnel(request).expect("room");
                let stream = bidi(0);
                alone.session.handle_quic(QuicInput::Opened { stream });
                alone.bidi(0, &[unknown_frame(), response(200)].concat());
            }
            Role::Server => {
                alone.bidi(0, &[unknown_frame(), tunnel_head("connect-ip")].concat());
                alone.command(Command::Accept { tunnel: T0 });
            }
        }
        // A reserved error code of a stream that is not needed.
        let stream = alone.peer_uni(1);
        let code = 0x1f * 9 + 0x21;
        alone.session.handle_quic(QuicInput::Reset { stream, code });
        // A reserved capsule, then a known one.
        alone.bidi(0, &framed(FrameType::Data, &[0x17, 0x02, 7, 7, 0x03, 0x00]));
        // 9114-9-01, 9297-5.4-01
        let last = alone.events().pop();
        assert!(
            matches!(last, Some(Event::RoutesAdvertised { .. })),
            "{last:?}"
        );
        let packet = Bytes::from_static(&[0x45]);
        alone.command(Command::SendPacket { tunnel: T0, packet });
        assert!(alone.session.datagram_header(T0).is_some());
    }
}

#[test]
fn a_client_may_go_away_with_any_push_id_and_never_a_greater_one() {
    let goaway = |alone: &mut Alone, id: u8| alone.uni(0, &[0x07, 0x01, id]);
    let mut alone = Alone::open(Role::Server, server_config());
    // 9114-7.2.6-03: push IDs are not stream IDs.
    for id in [7, 3, 3, 1] {
        goaway(&mut alone, id);
    }
    assert_eq!(alone.events(), [Event::GoAway]);
    assert_eq!(alone.outputs(), []);
    goaway(&mut alone, 2);
    alone.assert_violation(WireErrorKind::GoAwayId);
}

#[test]
fn the_settings_frame_comes_first_names_nothing_twice_and_one_thing_nobody_knows() {
    for (role, grease) in BOTH
        .into_iter()
        .flat_map(|r| [0, 1, 7, u32::MAX].map(|g| (r, g)))
    {
        let config = SessionConfig {
            grease: Some(grease),
            ..server_config()
        };
        let mut session = Session::new(role, config);
        session.handle_quic(QuicInput::Connected {
            peer_max_datagram_frame_size: Some(65535),
        });
        let mut alone = Alone { session, role };
        alone.outputs();
        let stream = StreamId::nth(role, Direction::Unidirectional, 0);
        alone.session.handle_quic(QuicInput::Opened { stream });
        let outputs = alone.outputs();
        let [QuicOutput::Write { data, .. }] = &outputs[..] else {
            panic!("{outputs:?}");
        };
        // 9114-3.2-03: a control stream, and SETTINGS as its first frame.
        assert_eq!(data[..2], [0x00, 0x04]);
        let payload = &data[3..];
        assert_eq!(payload.len(), usize::from(data[2]));
        // 9114-7.2.4-03: what is given twice is an error to ourselves.
        let settings = Settings::decode(payload).expect("legal");
        // 9114-7.2.4.1-02
        let [(id, _)] = settings.unknown[..] else {
            panic!("{settings:?}");
        };
        assert_eq!((id.into_inner() - 0x21) % 0x1f, 0);
    }
}

#[test]
fn the_peers_control_stream_is_read_whatever_else_waits() {
    for role in BOTH {
        let config = SessionConfig {
            max_stream_output: 10,
            ..server_config()
        };
        let mut alone = Alone::open(role, config);
        let packet = Bytes::from(vec![0x45; 200]);
        // Not taken by QUIC: the request stream is not read any more.
        alone.command(Command::SendPacket { tunnel: T0, packet });
        assert!(!alone.session.wants_data(bidi(0)));
        let control = alone.peer_uni(0);
        for _ in 0..100 {
            // 9114-6.2.1-05
            assert!(alone.session.wants_data(control));
            alone.uni(0, &framed(FrameType::Unknown(0x21u32.into()), &[0; 1000]));
        }
        assert_eq!(alone.events(), []);
    }
}

#[test]
fn idle_qpack_streams_are_accepted_and_left_open() {
    for role in BOTH {
        let mut alone = Alone::open(role, server_config());
        alone.uni(1, &[0x02]);
        alone.uni(2, &[0x03]);
        // 9204-4.2-04
        assert_eq!(alone.outputs(), []);
        assert_eq!(alone.events(), []);
        alone.bidi(0, &framed(FrameType::Data, &[1, 0]));
        assert_eq!(alone.events().len(), 1);
    }
}

#[test]
fn a_datagram_for_a_request_that_gives_it_no_meaning_aborts_the_request() {
    for kind in [RequestKind::Ordinary("GET".into()), RequestKind::Connect] {
        let mut alone = Alone::open(Role::Server, server_config());
        alone.data(bidi(1), &request(kind, "/"), false);
        // The response is under way when the datagram comes.
        let verdict = alone.session.open_datagram(&[1, 0, 0x45]);
        assert_eq!(verdict, DatagramVerdict::Error);
        // 9297-2-02
        let (stream, code) = (bidi(1), H3Code::DATAGRAM_ERROR);
        let outputs = alone.outputs();
        assert!(
            outputs.contains(&QuicOutput::Reset { stream, code }),
            "{outputs:?}"
        );
        assert_eq!(alone.events(), [], "nothing else ends");
        let sibling = alone.session.open_datagram(&[0, 0, 0x45]);
        assert!(matches!(sibling, DatagramVerdict::IpPacket { .. }));
        // Once the stream is over it is one that is not known.
        let verdict = alone.session.open_datagram(&[1, 0, 0x45]);
        assert_eq!(verdict, DatagramVerdict::Drop(DatagramDrop::UnknownStream));
    }
}
