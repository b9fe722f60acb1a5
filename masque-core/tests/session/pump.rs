//! Two sessions over a QUIC that exists only here: streams are byte queues with a window, and every
//! choice (whose turn, how many bytes) is drawn from a seed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use masque_core::session::{
    Event, QuicInput, QuicOutput, Session, SessionConfig, Timer, TimerOp, TunnelId, TunnelRequest,
};
use masque_core::wire::fields::FieldList;
use masque_core::wire::scope::Scope;
use masque_core::wire::stream::{Direction, Role, StreamId};
use masque_core::wire::template::UriTemplate;

pub(crate) const TEMPLATE: &str = "https://proxy.example/.well-known/masque/ip/{target}/{ipproto}/";

pub(crate) fn server_config() -> SessionConfig {
    SessionConfig {
        templates: vec![UriTemplate::parse(TEMPLATE).expect("the template is legal")],
        ..SessionConfig::default()
    }
}

pub(crate) fn tunnel_request() -> TunnelRequest {
    TunnelRequest {
        authority: "proxy.example".into(),
        path: "/.well-known/masque/ip/*/*/".into(),
        protocol: "connect-ip".into(),
        scope: Scope::default(),
        fields: FieldList::default(),
    }
}

/// How the network behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Net {
    /// The most bytes handed over at once.
    pub(crate) chunk: usize,
    /// The most bytes a stream holds under way.
    pub(crate) window: usize,
    pub(crate) seed: u64,
}

impl Net {
    pub(crate) const PLAIN: Self = Self {
        chunk: 1 << 20,
        window: 1 << 20,
        seed: 1,
    };
}

#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    fin: bool,
    reset: Option<u64>,
    over: bool,
    blocked: bool,
}

pub(crate) struct Side {
    pub(crate) session: Session,
    pub(crate) events: Vec<Event>,
    pub(crate) outputs: Vec<QuicOutput>,
    pub(crate) timers: BTreeMap<Timer, Duration>,
    pub(crate) closed: bool,
    inputs: VecDeque<QuicInput>,
    writes: VecDeque<(StreamId, Bytes)>,
    paused: BTreeSet<StreamId>,
    opened: [u32; 2],
}

impl Side {
    fn new(role: Role, config: SessionConfig) -> Self {
        Self {
            session: Session::new(role, config),
            events: Vec::new(),
            outputs: Vec::new(),
            timers: BTreeMap::new(),
            closed: false,
            inputs: VecDeque::new(),
            writes: VecDeque::new(),
            paused: BTreeSet::new(),
            opened: [0; 2],
        }
    }

    pub(crate) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }
}

pub(crate) struct Pair {
    pub(crate) client: Side,
    pub(crate) server: Side,
    /// Streams on which nothing is taken from the sender or handed to the receiver.
    pub(crate) stalled: BTreeSet<StreamId>,
    pub(crate) max_bidi: u32,
    net: Net,
    rng: u64,
    pipes: BTreeMap<(bool, StreamId), Pipe>,
}

impl Pair {
    pub(crate) fn new(client: SessionConfig, server: SessionConfig, net: Net) -> Self {
        let mut pair = Self {
            client: Side::new(Role::Client, client),
            server: Side::new(Role::Server, server),
            stalled: BTreeSet::new(),
            max_bidi: 100,
            net,
            rng: net.seed | 1,
            pipes: BTreeMap::new(),
        };
        for role in [Role::Client, Role::Server] {
            pair.side(role).inputs.push_back(QuicInput::Connected {
                peer_max_datagram_frame_size: Some(65535),
            });
        }
        pair
    }

    /// Both sides plain, the client's SETTINGS and the server's exchanged.
    pub(crate) fn connected(client: SessionConfig, server: SessionConfig, net: Net) -> Self {
        let mut pair = Self::new(client, server, net);
        pair.run();
        pair.client.take_events();
        pair.server.take_events();
        pair
    }

    pub(crate) fn side(&mut self, role: Role) -> &mut Side {
        match role {
            Role::Client => &mut self.client,
            Role::Server => &mut self.server,
        }
    }

    /// Opens a tunnel on a connected pair and has the server accept it.
    pub(crate) fn open(&mut self) -> (TunnelId, TunnelId) {
        use masque_core::session::Command;
        let ours = self
            .client
            .session
            .open_tunnel(tunnel_request())
            .expect("the client takes tunnels");
        self.run();
        let Some(Event::Requested { tunnel: theirs, .. }) = self.server.take_events().pop() else {
            panic!("the server was not asked");
        };
        let accept = Command::Accept { tunnel: theirs };
        self.server
            .session
            .handle_command(accept)
            .expect("it is pending");
        self.run();
        let established = Event::Established {
            tunnel: ours,
            status: 200,
        };
        assert_eq!(self.client.take_events(), [established]);
        self.server.take_events();
        (ours, theirs)
    }

    /// Lets `timer` of one side fire, if it is armed.
    pub(crate) fn fire(&mut self, role: Role, timer: Timer) -> bool {
        let armed = self.side(role).timers.remove(&timer).is_some();
        if armed {
            self.side(role).session.handle_timer(timer);
            self.run();
        }
        armed
    }

    /// Runs until nothing moves any more.
    pub(crate) fn run(&mut self) {
        for _ in 0..200_000 {
            self.drain(Role::Client);
            self.drain(Role::Server);
            if !self.step() {
                return;
            }
        }
        panic!("the pair never comes to rest");
    }

    fn random(&mut self, below: usize) -> usize {
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        (self.rng >> 11) as usize % below.max(1)
    }

    fn drain(&mut self, role: Role) {
        let side = self.side(role);
        let mut done = Vec::new();
        while let Some(output) = side.session.poll_quic() {
            done.push(output);
        }
        while let Some(op) = side.session.poll_timer() {
            match op {
                TimerOp::Arm { timer, after } => side.timers.insert(timer, after),
                TimerOp::Disarm { timer } => side.timers.remove(&timer),
            };
        }
        while let Some(event) = side.session.poll_event() {
            let ended = matches!(side.events.last(), Some(Event::Ended(_)));
            assert!(!ended, "{event:?} after the end");
            side.events.push(event);
        }
        for output in done {
            self.obey(role, output);
        }
    }

    fn obey(&mut self, role: Role, output: QuicOutput) {
        let from_client = role == Role::Client;
        assert!(!self.side(role).closed, "{output:?} after Close");
        self.side(role).outputs.push(output.clone());
        match output {
            QuicOutput::Open { direction } => {
                let max_bidi = self.max_bidi;
                let side = self.side(role);
                let kind = usize::from(direction == Direction::Unidirectional);
                let index = side.opened[kind];
                if kind == 1 || index < max_bidi {
                    side.opened[kind] += 1;
                    let stream = StreamId::nth(role, direction, index);
                    side.inputs.push_back(QuicInput::Opened { stream });
                }
            }
            QuicOutput::Write { stream, data } => {
                assert!(!data.is_empty());
                let writes = &mut self.side(role).writes;
                assert!(
                    writes.iter().all(|(other, _)| *other != stream),
                    "two writes of one stream under way"
                );
                writes.push_back((stream, data));
            }
            QuicOutput::Finish { stream } => {
                assert!(self.side(role).writes.iter().all(|(s, _)| *s != stream));
                self.pipe(from_client, stream).fin = true;
            }
            QuicOutput::Reset { stream, code } => {
                let pipe = self.pipe(from_client, stream);
                assert!(!pipe.fin, "reset after finish");
                pipe.bytes.clear();
                pipe.reset = Some(code.0);
            }
            QuicOutput::Stop { stream, code } => {
                let pipe = self.pipe(!from_client, stream);
                if !pipe.over {
                    pipe.over = true;
                    pipe.bytes.clear();
                    let peer = self.side(role.peer());
                    peer.inputs.push_back(QuicInput::Stopped {
                        stream,
                        code: code.0,
                    });
                }
            }
            QuicOutput::Resume { stream } => {
                assert!(self.side(role).session.wants_data(stream));
                self.side(role).paused.remove(&stream);
            }
            QuicOutput::Close { .. } => {
                self.side(role).closed = true;
                self.side(role).inputs.clear();
                self.side(role.peer()).inputs.push_back(QuicInput::Closed);
            }
        }
    }

    fn pipe(&mut self, from_client: bool, stream: StreamId) -> &mut Pipe {
        self.pipes.entry((from_client, stream)).or_default()
    }

    /// Does one of the things that can be done, or says that there is none.
    fn step(&mut self) -> bool {
        enum Turn {
            Input(Role),
            Write(Role, usize),
            Deliver(bool, StreamId),
        }
        let mut turns = Vec::new();
        for role in [Role::Client, Role::Server] {
            let side = self.side(role);
            let (inputs, writes, closed) = (side.inputs.len(), side.writes.len(), side.closed);
            if inputs > 0 {
                turns.push(Turn::Input(role));
            }
            if !closed {
                turns.extend((0..writes).map(|at| Turn::Write(role, at)));
            }
        }
        let pipes: Vec<_> = self.pipes.keys().copied().collect();
        for (from_client, stream) in pipes {
            let receiver = if from_client {
                Role::Server
            } else {
                Role::Client
            };
            let pipe = self.pipe(from_client, stream);
            let ready = !pipe.over && (!pipe.bytes.is_empty() || pipe.fin || pipe.reset.is_some());
            let reset = pipe.reset.is_some();
            if !ready || self.stalled.contains(&stream) || self.side(receiver).closed {
                continue;
            }
            let side = self.side(receiver);
            if !reset && !side.session.wants_data(stream) {
                side.paused.insert(stream);
            }
            if reset || !side.paused.contains(&stream) {
                turns.push(Turn::Deliver(from_client, stream));
            }
        }
        if turns.is_empty() {
            return false;
        }
        let pick = self.random(turns.len());
        match turns.swap_remove(pick) {
            Turn::Input(role) => {
                if let Some(input) = self.side(role).inputs.pop_front() {
                    self.side(role).session.handle_quic(input);
                }
            }
            Turn::Write(role, at) => self.write(role, at),
            Turn::Deliver(from_client, stream) => self.deliver(from_client, stream),
        }
        true
    }

    fn write(&mut self, role: Role, at: usize) {
        let window = if self.net.chunk < 1 << 16 {
            self.random(self.net.window) + 1
        } else {
            self.net.window
        };
        let Some((stream, data)) = self.side(role).writes.remove(at) else {
            return;
        };
        let pipe = self.pipe(role == Role::Client, stream);
        let room = if pipe.over || pipe.reset.is_some() {
            data.len()
        } else {
            window.saturating_sub(pipe.bytes.len()).min(data.len())
        };
        if !pipe.over && pipe.reset.is_none() {
            pipe.bytes.extend(&data[..room]);
            pipe.blocked = room < data.len();
        }
        let unblock = pipe.blocked && pipe.bytes.is_empty();
        if unblock {
            pipe.blocked = false;
        }
        let side = self.side(role);
        let bytes = room;
        side.session
            .handle_quic(QuicInput::Written { stream, bytes });
        if unblock {
            side.inputs.push_back(QuicInput::Writable { stream });
        }
    }

    fn deliver(&mut self, from_client: bool, stream: StreamId) {
        let (sender, receiver) = if from_client {
            (Role::Client, Role::Server)
        } else {
            (Role::Server, Role::Client)
        };
        let chunk = self.random(self.net.chunk) + 1;
        let chunk = if self.net.chunk >= 1 << 16 {
            1 << 16
        } else {
            chunk
        };
        let pipe = self.pipe(from_client, stream);
        if let Some(code) = pipe.reset {
            pipe.over = true;
            self.side(receiver)
                .session
                .handle_quic(QuicInput::Reset { stream, code });
            return;
        }
        let take = chunk.min(pipe.bytes.len());
        let data: Vec<u8> = pipe.bytes.drain(..take).collect();
        let fin = pipe.fin && pipe.bytes.is_empty();
        pipe.over = fin;
        if std::mem::take(&mut pipe.blocked) {
            let side = self.side(sender);
            side.inputs.push_back(QuicInput::Writable { stream });
        }
        let data = Bytes::from(data);
        self.side(receiver)
            .session
            .handle_quic(QuicInput::Data { stream, data, fin });
    }
}
