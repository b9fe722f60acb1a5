//! Sessions under arbitrary input, and pairs in arbitrary networks.

use std::collections::BTreeMap;

use bytes::Bytes;
use masque_core::error::H3Code;
use masque_core::session::{
    CloseHow, Command, Event, QuicInput, QuicOutput, Session, SessionConfig, SessionEnd, Timer,
    TunnelEnd, TunnelId,
};
use masque_core::wire::capsule::{AddressAssign, RouteAdvertisement};
use masque_core::wire::fields::{FieldList, RequestHead, RequestKind, ResponseHead};
use masque_core::wire::frame::{self, FrameType};
use masque_core::wire::prefix::IpPrefix;
use masque_core::wire::qpack;
use masque_core::wire::stream::{Role, StreamId};
use masque_core::wire::varint::VarInt;
use proptest::prelude::*;

use crate::pump::{Net, Pair, server_config, tunnel_request};

const MAX_OUTPUT: usize = 600;
/// The largest frame these tests send.
const ONE_CAPSULE: usize = 400;

#[derive(Clone, Debug)]
enum Op {
    Quic(QuicInput),
    Command(Command),
    OpenTunnel,
    Fire(Timer),
    Datagram(Vec<u8>),
}

fn section(fields: &FieldList) -> Vec<u8> {
    let mut section = Vec::new();
    qpack::encode(fields, &mut section);
    frame_of(FrameType::Headers, &section)
}

fn frame_of(ty: FrameType, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::encode_header(ty, payload.len(), &mut out);
    out.extend_from_slice(payload);
    out
}

fn request() -> Vec<u8> {
    section(
        &RequestHead {
            kind: RequestKind::ExtendedConnect("connect-ip".into()),
            scheme: "https".into(),
            authority: "proxy.example".into(),
            path: "/.well-known/masque/ip/*/*/".into(),
            capsule_protocol: true,
            fields: FieldList::default(),
        }
        .to_fields(),
    )
}

fn response(status: u16) -> Vec<u8> {
    section(
        &ResponseHead {
            status,
            capsule_protocol: status == 200,
            fields: FieldList::default(),
        }
        .to_fields(),
    )
}

/// Bytes that lead somewhere more often than chance would.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => Just(request()),
        3 => Just(response(200)),
        1 => Just(response(100)),
        1 => Just(response(404)),
        4 => Just(vec![0x00, 0x04, 0x04, 0x08, 0x01, 0x33, 0x01]),
        1 => Just(vec![0x07, 0x01, 0x04]),
        1 => Just(vec![0x02]),
        1 => Just(vec![0x03]),
        1 => Just(vec![0x21, 0x00]),
        2 => Just(vec![0x00, 0x09, 0x01, 0x07, 0x01, 0x04, 0xc0, 0x00, 0x02, 0x0b, 0x20]),
        2 => Just(vec![0x00, 0x09, 0x02, 0x07, 0x01, 0x04, 0xc0, 0x00, 0x02, 0x0b, 0x20]),
        2 => Just(vec![0x00, 0x04, 0x00, 0x02, 0x00, 0x45]),
        2 => proptest::collection::vec(any::<u8>(), 0..12),
    ];
    proptest::collection::vec(piece, 0..4).prop_map(|pieces| pieces.concat())
}

fn stream() -> impl Strategy<Value = StreamId> {
    let number = prop_oneof![20 => 0u64..24, 1 => 0..=VarInt::MAX.into_inner()];
    number.prop_map(|id| StreamId::new(VarInt::new(id).unwrap_or(VarInt::MAX)))
}

fn quic() -> impl Strategy<Value = QuicInput> {
    let code = prop_oneof![(0x100u64..0x111), Just(0x33), any::<u64>()];
    prop_oneof![
        3 => proptest::option::of(0u64..3).prop_map(|peer_max_datagram_frame_size| {
            QuicInput::Connected { peer_max_datagram_frame_size }
        }),
        4 => stream().prop_map(|stream| QuicInput::Opened { stream }),
        20 => (stream(), bytes(), proptest::bool::weighted(0.1)).prop_map(|(stream, data, fin)| {
            QuicInput::Data { stream, data: data.into(), fin }
        }),
        1 => (stream(), code.clone()).prop_map(|(stream, code)| QuicInput::Reset { stream, code }),
        1 => (stream(), code).prop_map(|(stream, code)| QuicInput::Stopped { stream, code }),
        4 => (stream(), 0usize..300).prop_map(|(stream, bytes)| QuicInput::Written { stream, bytes }),
        2 => stream().prop_map(|stream| QuicInput::Writable { stream }),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    let tunnel = || (0u32..4).prop_map(TunnelId);
    let code = H3Code::CONNECT_ERROR;
    prop_oneof![
        8 => tunnel().prop_map(|tunnel| Command::Accept { tunnel }),
        1 => (tunnel(), 200u16..620).prop_map(|(tunnel, status)| Command::Refuse {
            tunnel,
            status,
            fields: FieldList::default(),
        }),
        3 => tunnel().prop_map(|tunnel| Command::AssignAddresses {
            tunnel,
            assign: AddressAssign::default(),
        }),
        3 => tunnel().prop_map(|tunnel| Command::AdvertiseRoutes {
            tunnel,
            routes: RouteAdvertisement::default(),
        }),
        3 => tunnel().prop_map(|tunnel| Command::RequestAddresses {
            tunnel,
            prefixes: vec![IpPrefix::host([192, 0, 2, 1].into())],
        }),
        6 => (tunnel(), 0usize..350).prop_map(|(tunnel, len)| Command::SendPacket {
            tunnel,
            packet: vec![0x45; len].into(),
        }),
        1 => tunnel().prop_map(|tunnel| Command::CloseTunnel { tunnel, how: CloseHow::Finish }),
        1 => tunnel().prop_map(move |tunnel| Command::CloseTunnel {
            tunnel,
            how: CloseHow::Abort(code),
        }),
        1 => Just(Command::Shutdown),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let timer = prop_oneof![
        Just(Timer::Settings),
        Just(Timer::Drain),
        Just(Timer::Burden),
        (0u32..4).prop_map(|t| Timer::Response(TunnelId(t))),
        (0u32..4).prop_map(|t| Timer::AddressRequest(TunnelId(t))),
    ];
    prop_oneof![
        30 => quic().prop_map(Op::Quic),
        12 => command().prop_map(Op::Command),
        3 => Just(Op::OpenTunnel),
        1 => timer.prop_map(Op::Fire),
        2 => proptest::collection::vec(any::<u8>(), 1..5).prop_map(Op::Datagram),
    ]
}

fn limits() -> SessionConfig {
    SessionConfig {
        max_stream_output: MAX_OUTPUT,
        max_tunnels: 3,
        max_unknown_streams: 2,
        max_address_requests: 2,
        wanted_addresses: vec![IpPrefix::host([0, 0, 0, 0].into())],
        ..server_config()
    }
}

/// What a session says, checked as it says it.
struct Watched {
    session: Session,
    /// Bytes written and not yet answered, per stream.
    writes: BTreeMap<StreamId, usize>,
    tunnels: BTreeMap<TunnelId, bool>,
    closed: bool,
    ended: bool,
}

impl Watched {
    fn new(role: Role) -> Self {
        Self {
            session: Session::new(role, limits()),
            writes: BTreeMap::new(),
            tunnels: BTreeMap::new(),
            closed: false,
            ended: false,
        }
    }

    fn apply(&mut self, op: &Op) {
        let was_over = self.ended;
        match op {
            Op::Quic(input) => {
                if let QuicInput::Written { stream, .. } = input {
                    self.writes.remove(stream);
                }
                self.session.handle_quic(input.clone());
            }
            Op::Command(command) => {
                let _ = self.session.handle_command(command.clone());
            }
            Op::OpenTunnel => {
                let _ = self.session.open_tunnel(tunnel_request());
            }
            Op::Fire(timer) => self.session.handle_timer(*timer),
            Op::Datagram(datagram) => {
                let _ = self.session.open_datagram(datagram);
            }
        }
        let mut said = 0;
        while let Some(output) = self.session.poll_quic() {
            said += 1;
            assert!(!self.closed, "{output:?} after Close");
            match output {
                QuicOutput::Write { stream, data } => {
                    let before = self.writes.insert(stream, data.len());
                    assert_eq!(before, None, "two writes under way");
                    assert!(data.len() <= MAX_OUTPUT + ONE_CAPSULE);
                }
                QuicOutput::Close { .. } => self.closed = true,
                QuicOutput::Reset { stream, .. } => {
                    self.writes.remove(&stream);
                }
                _ => {}
            }
        }
        while self.session.poll_timer().is_some() {
            said += 1;
        }
        while let Some(event) = self.session.poll_event() {
            said += 1;
            assert!(!self.ended, "{event:?} after Ended");
            match event {
                Event::Ended(_) => self.ended = true,
                Event::TunnelEnded { tunnel, .. } | Event::Refused { tunnel, .. } => {
                    let before = self.tunnels.insert(tunnel, false);
                    assert_ne!(before, Some(false), "{tunnel:?} ended twice");
                }
                Event::Requested { tunnel, .. } => {
                    assert_eq!(self.tunnels.insert(tunnel, true), None);
                }
                Event::Established { tunnel, .. }
                | Event::ResponseFields { tunnel, .. }
                | Event::AddressesAssigned { tunnel, .. }
                | Event::AddressesRequested { tunnel, .. }
                | Event::RoutesAdvertised { tunnel, .. }
                | Event::Packet { tunnel, .. } => {
                    let before = self.tunnels.insert(tunnel, true);
                    assert_ne!(before, Some(false), "{tunnel:?} speaks after its end");
                }
                Event::PeerSettings(_) | Event::GoAway => {}
            }
        }
        assert!(!was_over || said == 0, "{op:?} is answered after the end");
        assert!(!self.closed || self.ended);
        let streams = 3 + masque_core::session::SPARE_STREAMS;
        assert!(self.session.buffered_output() <= streams * (MAX_OUTPUT + ONE_CAPSULE));
        let requests = self.writes.keys().filter(|stream| stream.is_request());
        assert!(requests.count() <= streams);
    }
}

/// A legal way to an open tunnel 0, so that arbitrary operations meet one.
fn prelude(role: Role) -> Vec<Op> {
    let id = |id| StreamId::new(VarInt::from_u32(id));
    let data = |stream, data: Vec<u8>| {
        let data = Bytes::from(data);
        Op::Quic(QuicInput::Data {
            stream,
            data,
            fin: false,
        })
    };
    let connected = Op::Quic(QuicInput::Connected {
        peer_max_datagram_frame_size: Some(65535),
    });
    let settings = vec![0x00, 0x04, 0x04, 0x08, 0x01, 0x33, 0x01];
    match role {
        Role::Client => vec![
            connected,
            Op::OpenTunnel,
            data(id(3), settings),
            Op::Quic(QuicInput::Opened { stream: id(0) }),
            data(id(0), response(200)),
        ],
        Role::Server => vec![
            connected,
            data(id(2), settings),
            data(id(0), request()),
            Op::Command(Command::Accept {
                tunnel: TunnelId(0),
            }),
        ],
    }
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Client), Just(Role::Server)]
}

proptest! {
    #[test]
    fn arbitrary_input_never_panics_nor_grows_nor_speaks_after_the_end(
        role in role(),
        opened in any::<bool>(),
        ops in proptest::collection::vec(op(), 0..60),
    ) {
        let mut watched = Watched::new(role);
        let prelude = if opened { prelude(role) } else { Vec::new() };
        for op in prelude.iter().chain(&ops) {
            watched.apply(op);
        }
        watched.apply(&Op::Quic(QuicInput::Closed));
        prop_assert!(watched.ended);
        prop_assert!(watched.tunnels.values().all(|live| !live) || role == Role::Server);
    }

    #[test]
    fn how_bytes_are_cut_never_shows(
        role in role(),
        data in bytes(),
        more in bytes(),
        fin in any::<bool>(),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
        uni in any::<bool>(),
    ) {
        let stream = match (uni, role) {
            (false, _) => StreamId::new(VarInt::from_u32(0)),
            (true, Role::Client) => StreamId::new(VarInt::from_u32(7)),
            (true, Role::Server) => StreamId::new(VarInt::from_u32(6)),
        };
        let data = [data, more].concat();
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(data.len() + 1)).collect();
        cuts.extend([0, data.len()]);
        cuts.sort_unstable();
        let run = |cuts: &[usize]| {
            let mut session = Session::new(role, limits());
            for op in prelude(role) {
                match op {
                    Op::Quic(input) => session.handle_quic(input),
                    Op::Command(command) => session.handle_command(command).expect("legal"),
                    _ => session.open_tunnel(tunnel_request()).map(|_| ()).expect("legal"),
                }
            }
            for pair in cuts.windows(2) {
                let last = fin && pair[1] == data.len();
                let piece = Bytes::copy_from_slice(&data[pair[0]..pair[1]]);
                session.handle_quic(QuicInput::Data { stream, data: piece, fin: last });
                if last {
                    break;
                }
            }
            let outputs: Vec<_> = core::iter::from_fn(|| session.poll_quic()).collect();
            let events: Vec<_> = core::iter::from_fn(|| session.poll_event()).collect();
            (outputs, events)
        };
        let whole = run(&[0, data.len()]);
        let cut = run(&cuts);
        // A stream error found before the FIN stops the peer too; that is all the cutting may show.
        let told = |(outputs, events): (Vec<QuicOutput>, Vec<Event>)| {
            let outputs: Vec<_> = outputs
                .into_iter()
                .filter(|output| !fin || !matches!(output, QuicOutput::Stop { .. }))
                .collect();
            (outputs, events)
        };
        prop_assert_eq!(told(whole), told(cut));
    }

    #[test]
    fn two_sessions_agree_in_any_network(
        seed in any::<u64>(),
        chunk in 1usize..200,
        window in 1usize..300,
        max_bidi in 1u32..6,
        script in proptest::collection::vec((any::<bool>(), command(), 0u8..4), 0..30),
    ) {
        let net = Net { chunk, window, seed };
        let mut pair = Pair::connected(SessionConfig::default(), server_config(), net);
        pair.max_bidi = max_bidi;
        for (client, command, open) in script {
            if open == 0 {
                let _ = pair.client.session.open_tunnel(tunnel_request());
            }
            let role = if client { Role::Client } else { Role::Server };
            let _ = pair.side(role).session.handle_command(command);
            pair.run();
        }
        for role in [Role::Client, Role::Server] {
            for event in pair.side(role).take_events() {
                let violated = matches!(
                    event,
                    Event::TunnelEnded { end: TunnelEnd::Violation(_), .. }
                        | Event::Ended(SessionEnd::Violation(_))
                );
                prop_assert!(!violated, "{role:?}: {event:?}");
            }
            prop_assert_eq!(pair.side(role).session.buffered_output(), 0);
        }
    }

    #[test]
    fn a_peer_that_never_reads_costs_bounded_memory(
        sizes in proptest::collection::vec(0usize..350, 1..80),
        requests in 1u32..60,
    ) {
        let mut watched = Watched::new(Role::Server);
        for op in prelude(Role::Server) {
            watched.apply(&op);
        }
        for size in sizes {
            let packet = vec![0x45; size].into();
            watched.apply(&Op::Command(Command::SendPacket { tunnel: TunnelId(0), packet }));
        }
        // Requests that are answered at once, with nobody to take the answers.
        let get = section(
            &RequestHead {
                kind: RequestKind::Ordinary("GET".into()),
                scheme: "https".into(),
                authority: "proxy.example".into(),
                path: "/".into(),
                capsule_protocol: false,
                fields: FieldList::default(),
            }
            .to_fields(),
        );
        for index in 1..=requests {
            let stream = StreamId::new(VarInt::from_u32(index * 4));
            let data = get.clone().into();
            watched.apply(&Op::Quic(QuicInput::Data { stream, data, fin: false }));
        }
        prop_assert!(!watched.ended);
    }
}
