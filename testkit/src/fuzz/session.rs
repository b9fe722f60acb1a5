//! Sessions alone, and two back to back with somebody in the middle.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use masque_core::H3Code;
use masque_core::session::{
    CloseHow, Command, Event, QuicInput, QuicOutput, Session, SessionConfig, SessionEnd, Timer,
    TimerOp, TunnelEnd, TunnelId, TunnelRequest,
};
use masque_core::wire::capsule::{AddressAssign, AddressEntry, RequestId, RouteAdvertisement};
use masque_core::wire::fields::FieldList;
use masque_core::wire::prefix::{AddressRange, IpPrefix};
use masque_core::wire::scope::Scope;
use masque_core::wire::stream::{Direction, Role, StreamId};
use masque_core::wire::template::UriTemplate;
use masque_core::wire::varint::VarInt;

/// More than any input can make a session say.
const MAX_OUTPUTS: usize = 10_000;
/// Streams times what may be queued for one, and room for small change.
const MAX_BUFFERED: usize = 40 * (64 << 10);

const TEMPLATE: &str = "https://vpn.example/.well-known/masque/ip/{target}/{ipproto}/";

fn template() -> UriTemplate {
    UriTemplate::parse(TEMPLATE).expect("a constant")
}

fn new(role: Role) -> Session {
    let templates = match role {
        Role::Server => vec![template()],
        Role::Client => Vec::new(),
    };
    let config = SessionConfig {
        templates,
        ..SessionConfig::default()
    };
    Session::new(role, Arc::new(config))
}

fn request() -> TunnelRequest {
    TunnelRequest {
        authority: "vpn.example".to_owned(),
        path: "/.well-known/masque/ip/*/*/".to_owned(),
        protocol: "connect-ip".to_owned(),
        scope: Scope::default(),
        fields: FieldList::default(),
    }
}

/// A command, in a few bytes.
#[derive(Arbitrary, Clone, Debug)]
enum Order {
    Open,
    Accept(u8),
    Refuse(u8, u16),
    Assign(u8, Vec<[u8; 4]>),
    Request(u8, [u8; 4]),
    Advertise(u8, Vec<([u8; 4], u8)>),
    Packet(u8, u8),
    Close(u8, bool),
    Shutdown,
    CloseAll,
}

fn give(session: &mut Session, order: &Order) {
    let tunnel = |nth: u8| TunnelId(u32::from(nth % 8));
    let host = |octets: [u8; 4]| IpPrefix::host(IpAddr::from(octets));
    let command = match order {
        Order::Open => {
            // At a limit, or of the wrong role: refused.
            let _ = session.open_tunnel(request());
            return;
        }
        Order::Accept(nth) => Command::Accept {
            tunnel: tunnel(*nth),
        },
        Order::Refuse(nth, status) => Command::Refuse {
            tunnel: tunnel(*nth),
            status: *status,
            fields: FieldList::default(),
        },
        Order::Assign(nth, hosts) => {
            let entry = |octets: &[u8; 4]| AddressEntry {
                request_id: RequestId(VarInt::from_u32(0)),
                prefix: host(*octets),
            };
            Command::AssignAddresses {
                tunnel: tunnel(*nth),
                assign: AddressAssign(hosts.iter().take(20).map(entry).collect()),
            }
        }
        Order::Request(nth, octets) => Command::RequestAddresses {
            tunnel: tunnel(*nth),
            prefixes: vec![host(*octets)],
        },
        Order::Advertise(nth, ranges) => {
            let range = |(octets, protocol): &([u8; 4], u8)| {
                AddressRange::from_prefix(host(*octets), *protocol)
            };
            let ranges = ranges.iter().take(20).map(range).collect();
            Command::AdvertiseRoutes {
                tunnel: tunnel(*nth),
                routes: RouteAdvertisement::from_unordered(ranges),
            }
        }
        Order::Packet(nth, size) => Command::SendPacket {
            tunnel: tunnel(*nth),
            packet: vec![0x45; usize::from(*size)].into(),
        },
        Order::Close(nth, abort) => Command::CloseTunnel {
            tunnel: tunnel(*nth),
            how: match abort {
                true => CloseHow::Abort(H3Code::NO_ERROR),
                false => CloseHow::Finish,
            },
        },
        Order::Shutdown => Command::Shutdown,
        Order::CloseAll => Command::Close {
            code: H3Code::NO_ERROR,
            reason: "enough",
        },
    };
    // Refused where it makes no sense.
    let _ = session.handle_command(command);
}

/// What can happen to one session.
#[derive(Arbitrary, Clone, Debug)]
enum Step {
    Data {
        stream: u8,
        data: Vec<u8>,
        fin: bool,
    },
    /// A frame with a right length around the bytes.
    Frame {
        stream: u8,
        ty: u8,
        payload: Vec<u8>,
    },
    Fields {
        stream: u8,
        protocol: bool,
    },
    Reset(u8, u16),
    Stopped(u8, u16),
    Written(u8),
    Writable,
    Timer(u8),
    Order(Order),
    Datagram(Vec<u8>),
    Closed,
    /// A stream that was asked for is granted.
    Grant,
}

/// One session, with QUIC as its peer pleases. QUIC itself keeps to its rules.
struct Alone {
    session: Session,
    role: Role,
    /// Streams the peer may still speak on.
    open: BTreeSet<StreamId>,
    ended: BTreeSet<StreamId>,
    own: BTreeMap<bool, u32>,
    /// Streams are granted at once.
    prompt: bool,
    asked: VecDeque<Direction>,
    writes: BTreeMap<StreamId, usize>,
    blocked: BTreeSet<StreamId>,
    timers: BTreeSet<Timer>,
    closed: bool,
}

impl Alone {
    fn drain(&mut self) {
        let mut outputs = 0;
        loop {
            outputs += 1;
            assert!(outputs < MAX_OUTPUTS, "an endless drain");
            if let Some(output) = self.session.poll_quic() {
                self.take(output);
            } else if let Some(op) = self.session.poll_timer() {
                match op {
                    TimerOp::Arm { timer, .. } => self.timers.insert(timer),
                    TimerOp::Disarm { timer } => self.timers.remove(&timer),
                };
            } else if let Some(event) = self.session.poll_event() {
                self.hear(&event);
            } else {
                break;
            }
        }
        let buffered = self.session.buffered_output();
        assert!(buffered <= MAX_BUFFERED, "{buffered} bytes wait");
    }

    fn hear(&mut self, event: &Event) {
        assert!(!self.closed, "after the end comes nothing: {event:?}");
        self.closed = matches!(event, Event::Ended(_));
    }

    fn take(&mut self, output: QuicOutput) {
        match output {
            QuicOutput::Open { direction } if self.prompt => self.grant(direction),
            QuicOutput::Open { direction } => self.asked.push_back(direction),
            QuicOutput::Write { stream, data } => {
                assert!(!data.is_empty(), "an empty write");
                let before = self.writes.insert(stream, data.len());
                assert_eq!(before, None, "a second write before the first is answered");
            }
            _ => {}
        }
    }

    fn grant(&mut self, direction: Direction) {
        let both = direction == Direction::Bidirectional;
        let count = self.own.entry(both).or_default();
        let stream = StreamId::nth(self.role, direction, *count);
        *count += 1;
        // More than a few are not granted.
        if *count <= 8 {
            if both {
                self.open.insert(stream);
            }
            self.session.handle_quic(QuicInput::Opened { stream });
        }
    }

    fn stream(&self, nth: u8) -> StreamId {
        let direction = match nth & 1 {
            0 => Direction::Bidirectional,
            _ => Direction::Unidirectional,
        };
        // A client's requests are its own streams; everything else is the peer's.
        let initiator = match (self.role, direction) {
            (Role::Client, Direction::Bidirectional) => Role::Client,
            (role, _) => role.peer(),
        };
        StreamId::nth(initiator, direction, u32::from(nth >> 1) % 6)
    }

    fn speaks(&self, stream: StreamId) -> bool {
        let known = stream.initiator() != self.role || self.open.contains(&stream);
        known && !self.ended.contains(&stream) && self.session.wants_data(stream)
    }

    fn data(&mut self, stream: StreamId, data: Vec<u8>, fin: bool) {
        if self.speaks(stream) {
            if fin {
                self.ended.insert(stream);
            }
            let data = Bytes::from(data);
            self.session
                .handle_quic(QuicInput::Data { stream, data, fin });
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Data { stream, data, fin } => self.data(self.stream(stream), data, fin),
            Step::Frame {
                stream,
                ty,
                payload,
            } => {
                let mut data = Vec::new();
                VarInt::from_u32(u32::from(ty)).encode(&mut data);
                VarInt::from_u32(u32::try_from(payload.len()).unwrap_or_default())
                    .encode(&mut data);
                data.extend(payload);
                self.data(self.stream(stream), data, false);
            }
            Step::Fields { stream, protocol } => {
                let mut fields = FieldList::default();
                if self.role == Role::Server {
                    fields.push(":method", "CONNECT");
                    fields.push(":scheme", "https");
                    fields.push(":authority", "vpn.example");
                    fields.push(":path", "/.well-known/masque/ip/*/*/");
                    if protocol {
                        fields.push(":protocol", "connect-ip");
                    }
                } else {
                    fields.push(":status", if protocol { "200" } else { "503" });
                }
                fields.push("capsule-protocol", "?1");
                let mut section = Vec::new();
                masque_core::wire::qpack::encode(&fields, &mut section);
                self.step(Step::Frame {
                    stream,
                    ty: 1,
                    payload: section,
                });
            }
            Step::Reset(nth, code) => {
                let stream = self.stream(nth);
                if self.speaks(stream) {
                    self.ended.insert(stream);
                    let code = u64::from(code);
                    self.session.handle_quic(QuicInput::Reset { stream, code });
                }
            }
            Step::Stopped(nth, code) => {
                let own = StreamId::nth(
                    self.role,
                    Direction::Unidirectional,
                    u32::from(nth >> 2) % 4,
                );
                let stream = match nth & 1 {
                    0 => self.stream(nth & 0xfe),
                    _ => own,
                };
                self.writes.remove(&stream);
                let code = u64::from(code);
                self.session
                    .handle_quic(QuicInput::Stopped { stream, code });
            }
            Step::Written(share) => {
                if let Some((stream, length)) = self.writes.pop_first() {
                    let bytes = length * usize::from(share % 5).min(4) / 4;
                    if bytes < length {
                        self.blocked.insert(stream);
                    }
                    self.session
                        .handle_quic(QuicInput::Written { stream, bytes });
                }
            }
            Step::Writable => {
                if let Some(stream) = self.blocked.pop_first() {
                    self.session.handle_quic(QuicInput::Writable { stream });
                }
            }
            Step::Timer(nth) => {
                let nth = usize::from(nth) % self.timers.len().max(1);
                if let Some(timer) = self.timers.iter().nth(nth).copied() {
                    self.timers.remove(&timer);
                    self.session.handle_timer(timer);
                }
            }
            Step::Order(order) => give(&mut self.session, &order),
            Step::Datagram(bytes) => {
                let _ = self.session.open_datagram(&bytes);
            }
            Step::Closed => {
                self.session.handle_quic(QuicInput::Closed);
            }
            Step::Grant => {
                if let Some(direction) = self.asked.pop_front() {
                    self.grant(direction);
                }
            }
        }
    }
}

fn alone(role: Role, bytes: &[u8]) {
    let mut bytes = Unstructured::new(bytes);
    // Whether the peer takes DATAGRAM frames, and of which size.
    let datagrams: Option<u16> = bytes.arbitrary().unwrap_or_default();
    let mut alone = Alone {
        session: new(role),
        role,
        open: BTreeSet::new(),
        ended: BTreeSet::new(),
        own: BTreeMap::new(),
        prompt: bytes.arbitrary().unwrap_or_default(),
        asked: VecDeque::new(),
        writes: BTreeMap::new(),
        blocked: BTreeSet::new(),
        timers: BTreeSet::new(),
        closed: false,
    };
    alone.session.handle_quic(QuicInput::Connected {
        peer_max_datagram_frame_size: datagrams.map(u64::from),
    });
    alone.drain();
    while let Ok(step) = Step::arbitrary(&mut bytes) {
        alone.step(step);
        alone.drain();
        if bytes.is_empty() {
            break;
        }
    }
}

/// A client's session, whatever comes.
pub fn client(bytes: &[u8]) {
    alone(Role::Client, bytes);
}

/// A server's session, whatever comes.
pub fn server(bytes: &[u8]) {
    alone(Role::Server, bytes);
}

/// What can happen to two sessions that talk to each other.
#[derive(Arbitrary, Clone, Debug)]
enum Both {
    Client(Order),
    Server(Order),
    /// The next bytes of one side arrive, in pieces of this size.
    Carry {
        from_client: bool,
        piece: u8,
    },
    /// One byte of what is on its way is changed.
    Spoil {
        from_client: bool,
        at: u16,
        mask: u8,
    },
    /// Some of it is not there.
    Cut {
        from_client: bool,
        at: u16,
        count: u8,
    },
}

#[derive(Default)]
struct Way {
    inputs: VecDeque<QuicInput>,
}

struct Pair {
    sessions: [Session; 2],
    /// What is on its way to each.
    ways: [Way; 2],
    opened: [BTreeMap<bool, u32>; 2],
    spoilt: bool,
}

/// The client and the server.
const CLIENT: usize = 0;
const SERVER: usize = 1;

impl Pair {
    fn drain(&mut self, who: usize) {
        for round in 0.. {
            assert!(round < MAX_OUTPUTS, "an endless drain");
            let session = &mut self.sessions[who];
            if let Some(output) = session.poll_quic() {
                self.take(who, output);
            } else if let Some(event) = session.poll_event() {
                let violation = match &event {
                    Event::TunnelEnded {
                        end: TunnelEnd::Violation(kind),
                        ..
                    }
                    | Event::Ended(SessionEnd::Violation(kind)) => Some(*kind),
                    _ => None,
                };
                assert!(
                    self.spoilt || violation.is_none(),
                    "one of us broke a rule: {violation:?}"
                );
                if let Event::Requested { tunnel, .. } = event {
                    // Gone again already, perhaps.
                    let _ = self.sessions[who].handle_command(Command::Accept { tunnel });
                }
            } else if session.poll_timer().is_none() {
                return;
            }
        }
    }

    fn take(&mut self, who: usize, output: QuicOutput) {
        let role = [Role::Client, Role::Server][who];
        let there = &mut self.ways[1 - who].inputs;
        match output {
            QuicOutput::Open { direction } => {
                let count = self.opened[who]
                    .entry(direction == Direction::Bidirectional)
                    .or_default();
                let stream = StreamId::nth(role, direction, *count);
                *count += 1;
                self.sessions[who].handle_quic(QuicInput::Opened { stream });
            }
            QuicOutput::Write { stream, data } => {
                let bytes = data.len();
                there.push_back(QuicInput::Data {
                    stream,
                    data,
                    fin: false,
                });
                self.sessions[who].handle_quic(QuicInput::Written { stream, bytes });
            }
            QuicOutput::Finish { stream } => there.push_back(QuicInput::Data {
                stream,
                data: Bytes::new(),
                fin: true,
            }),
            QuicOutput::Reset { stream, code } => there.push_back(QuicInput::Reset {
                stream,
                code: code.0,
            }),
            QuicOutput::Stop { stream, code } => there.push_back(QuicInput::Stopped {
                stream,
                code: code.0,
            }),
            QuicOutput::Resume { .. } => {}
            QuicOutput::Close { .. } => {
                there.push_back(QuicInput::Closed);
                self.ways[who].inputs.push_back(QuicInput::Closed);
            }
        }
    }

    /// The next thing on its way to somebody arrives there.
    fn carry(&mut self, to: usize, piece: usize) -> bool {
        let wanted = match self.ways[to].inputs.front() {
            Some(QuicInput::Data { stream, .. }) => self.sessions[to].wants_data(*stream),
            Some(_) => true,
            None => false,
        };
        if !wanted {
            return false;
        }
        let Some(input) = self.ways[to].inputs.pop_front() else {
            return false;
        };
        match input {
            QuicInput::Data { stream, data, fin } => {
                let mut rest = data;
                while rest.len() > piece.max(1) {
                    let data = rest.split_to(piece.max(1));
                    let fin = false;
                    self.sessions[to].handle_quic(QuicInput::Data { stream, data, fin });
                    self.drain(to);
                }
                let data = rest;
                self.sessions[to].handle_quic(QuicInput::Data { stream, data, fin });
            }
            other => self.sessions[to].handle_quic(other),
        }
        self.drain(to);
        true
    }

    fn change(&mut self, from_client: bool, change: impl FnOnce(&mut Vec<u8>)) {
        let to = if from_client { SERVER } else { CLIENT };
        let mut inputs = self.ways[to].inputs.iter_mut();
        let data = inputs.find_map(|input| match input {
            QuicInput::Data { data, .. } if !data.is_empty() => Some(data),
            _ => None,
        });
        if let Some(data) = data {
            let mut bytes = data.to_vec();
            change(&mut bytes);
            self.spoilt |= bytes != data[..];
            *data = bytes.into();
        }
    }
}

/// Two sessions, and somebody in the middle who may change what they say: nothing panics, and as long
/// as nobody does, none of them breaks a rule.
pub fn pair(bytes: &[u8]) {
    let mut bytes = Unstructured::new(bytes);
    let mut pair = Pair {
        sessions: [new(Role::Client), new(Role::Server)],
        ways: Default::default(),
        opened: Default::default(),
        spoilt: false,
    };
    for who in [CLIENT, SERVER] {
        pair.sessions[who].handle_quic(QuicInput::Connected {
            peer_max_datagram_frame_size: Some(65_535),
        });
        pair.drain(who);
    }
    give(&mut pair.sessions[CLIENT], &Order::Open);
    pair.drain(CLIENT);
    while !bytes.is_empty() {
        let Ok(step) = Both::arbitrary(&mut bytes) else {
            break;
        };
        match step {
            Both::Client(order) => {
                give(&mut pair.sessions[CLIENT], &order);
                pair.drain(CLIENT);
            }
            Both::Server(order) => {
                give(&mut pair.sessions[SERVER], &order);
                pair.drain(SERVER);
            }
            Both::Carry { from_client, piece } => {
                let to = if from_client { SERVER } else { CLIENT };
                pair.carry(to, usize::from(piece));
            }
            Both::Spoil {
                from_client,
                at,
                mask,
            } => pair.change(from_client, |data| {
                let at = usize::from(at) % data.len();
                data[at] ^= mask;
            }),
            Both::Cut {
                from_client,
                at,
                count,
            } => pair.change(from_client, |data| {
                let at = usize::from(at) % data.len();
                let end = (at + usize::from(count)).min(data.len());
                data.drain(at..end);
            }),
        }
    }
    // All that is said is heard in the end.
    while pair.carry(SERVER, 7) || pair.carry(CLIENT, 1000) {}
}
