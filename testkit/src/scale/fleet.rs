//! The engine: one server, its clients, and virtual time.
//!
//! Like [`crate::world`], but made for numbers: one path for all, no traces, no invariants, every
//! call to the server's endpoint metered, and, where the plan says so, a server whose work takes time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant, SystemTime};

use bytes::BytesMut;
use masque_core::endpoint::{
    ConnectError, Endpoint, Event, PortId, RecvMeta, SocketId, TunBatch, Usage,
};
use masque_core::wire::offload::VnetHdr;

use super::client::Client;
use super::meter::{Gauges, Meter};
use super::plan::{Cost, Plan, address_of, client_at};
use crate::crypto::TlsError;
use crate::packet;
use crate::scenario::{INNER_V4, Keys, server_address};
use crate::world::WALL;

/// How much a server writes to its link ahead of time.
const LINK_SLACK: Duration = Duration::from_millis(1);
/// As the adapters have it: received bytes are cut off the front of a buffer of this size.
const RECEIVE_BUFFER: usize = 128 << 10;
const MAX_UDP: usize = 65_507;

/// Why a fleet cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// Certificates or configurations.
    #[error("TLS: {0}")]
    Tls(#[from] TlsError),
    /// An endpoint refuses its configuration.
    #[error("endpoint: {0}")]
    Endpoint(#[from] ConnectError),
    /// What was to happen does not.
    #[error("stuck: {0}")]
    Stuck(String),
}

/// One server and its clients.
pub struct Fleet {
    plan: Plan,
    gauges: Gauges,
    base: Instant,
    now: Duration,
    server: Server,
    clients: Vec<Client>,
    queue: BinaryHeap<Reverse<Due>>,
    sequence: u64,
    meter: Meter,
    jitter: u64,
    /// Inner packets that left the server's device and were no echoes.
    delivered: u64,
}

struct Server {
    endpoint: Endpoint,
    deadline: Option<Duration>,
    inbox: VecDeque<Arrival>,
    inbox_bytes: usize,
    tun: VecDeque<Vec<u8>>,
    busy_until: Duration,
    /// When the link has sent what it was given.
    link_free: Duration,
    output_waits: bool,
    wire: Vec<u8>,
    receive: BytesMut,
    batch: TunBatch,
}

struct Arrival {
    from: SocketAddr,
    data: Vec<u8>,
    stride: usize,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: Duration,
    sequence: u64,
    what: What,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum What {
    ToServer {
        client: usize,
        data: Vec<u8>,
        stride: usize,
    },
    ToClient {
        client: usize,
        data: Vec<u8>,
        stride: usize,
    },
    Wake {
        client: usize,
    },
    Connect {
        client: usize,
    },
    FromClient {
        client: usize,
        packet: Vec<u8>,
    },
    FromHosts {
        packet: Vec<u8>,
    },
}

impl Fleet {
    /// A server and clients that have not connected.
    ///
    /// # Errors
    /// [`FleetError`].
    pub fn new(plan: Plan, gauges: Gauges) -> Result<Self, FleetError> {
        let keys = plan.keys()?;
        let (base, wall) = (Instant::now(), SystemTime::UNIX_EPOCH + WALL);
        let config = plan.server(&keys)?;
        let entropy = plan.seed().entropy("server");
        let mut meter = Meter::default();
        let mut clients = Vec::with_capacity(plan.clients);
        for index in 0..plan.clients {
            clients.push(Self::client(&plan, &keys, index, base, wall)?);
        }
        // Allocated before anything is metered, as an adapter's buffers are.
        let (wire, receive) = (Vec::with_capacity(MAX_UDP), BytesMut::new());
        let endpoint = meter.server_side(&gauges, || Endpoint::new(base, wall, config, entropy))?;
        Ok(Self {
            base,
            now: Duration::ZERO,
            server: Server {
                endpoint,
                deadline: None,
                inbox: VecDeque::new(),
                inbox_bytes: 0,
                tun: VecDeque::new(),
                busy_until: Duration::ZERO,
                link_free: Duration::ZERO,
                output_waits: false,
                wire,
                receive,
                batch: TunBatch::default(),
            },
            clients,
            queue: BinaryHeap::new(),
            sequence: 0,
            meter,
            jitter: plan.seed,
            delivered: 0,
            gauges,
            plan,
        })
    }

    fn client(
        plan: &Plan,
        keys: &Keys,
        index: usize,
        base: Instant,
        wall: SystemTime,
    ) -> Result<Client, FleetError> {
        let entropy = plan.seed().entropy(&format!("client {index}"));
        let endpoint = Endpoint::new(base, wall, plan.client(), entropy)?;
        Ok(Client::new(endpoint, plan.target(keys, index)?))
    }

    /// Virtual time.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.now
    }

    /// The clients.
    #[must_use]
    pub fn clients(&self) -> &[Client] {
        &self.clients
    }

    /// The clients, to reset what they have seen.
    #[must_use]
    pub fn clients_mut(&mut self) -> &mut [Client] {
        &mut self.clients
    }

    /// How many clients have a tunnel.
    #[must_use]
    pub fn up(&self) -> usize {
        self.clients.iter().filter(|client| client.is_up()).count()
    }

    /// What the server has cost.
    #[must_use]
    pub fn meter(&self) -> Meter {
        self.meter
    }

    /// What the server's endpoint holds.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.server.endpoint.usage()
    }

    /// The server's endpoint.
    #[must_use]
    pub fn server(&self) -> &Endpoint {
        &self.server.endpoint
    }

    /// Has the server give back what only load needs, as an adapter does after a quiet second.
    pub fn rest(&mut self) {
        let now = self.base + self.now;
        let Self {
            meter,
            gauges,
            server,
            ..
        } = self;
        meter.server_side(gauges, || server.endpoint.rest(now));
    }

    /// Inner packets that left the server's device and were no echoes.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Lets a client connect at `at`.
    pub fn connect(&mut self, at: Duration, client: usize) {
        self.schedule(at, What::Connect { client });
    }

    /// Lets a client send an inner packet at `at`.
    pub fn from_client(&mut self, at: Duration, client: usize, packet: Vec<u8>) {
        self.schedule(at, What::FromClient { client, packet });
    }

    /// Lets a host behind the server send an inner packet at `at`.
    pub fn from_hosts(&mut self, at: Duration, packet: Vec<u8>) {
        self.schedule(at, What::FromHosts { packet });
    }

    /// Lets a client send an echo to a host behind the server at `at`; it must have a tunnel now.
    pub fn echo(&mut self, at: Duration, client: usize) {
        let Some(source) = self.clients[client].v4() else {
            return;
        };
        let from = SocketAddr::new(source, 4_000);
        let to = SocketAddr::new(INNER_V4, packet::ECHO_PORT);
        let sent = u64::try_from(at.as_micros()).unwrap_or(u64::MAX);
        self.from_client(at, client, packet::udp(from, to, &sent.to_be_bytes()));
    }

    /// Forgets a client without a word, as a machine does that loses its power, and starts it anew.
    ///
    /// # Errors
    /// [`FleetError`].
    pub fn restart_client(&mut self, client: usize) -> Result<(), FleetError> {
        self.jitter += 1;
        let wall = SystemTime::UNIX_EPOCH + WALL + self.now;
        let label = format!("client {client} again {}", self.jitter);
        let entropy = self.plan.seed().entropy(&label);
        let now = self.base + self.now;
        let endpoint = Endpoint::new(now, wall, self.plan.client(), entropy)?;
        let target = self.clients[client].target.clone();
        self.clients[client] = Client::new(endpoint, target);
        Ok(())
    }

    /// Runs until `until`.
    pub fn run_until(&mut self, until: Duration) {
        self.run_to(until, |_| false);
    }

    /// Runs until `done`, which it says, or until `limit`.
    pub fn run_to(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        loop {
            if done(self) {
                return true;
            }
            let queued = self.queue.peek().map(|due| due.0.at);
            let server = self.server_due();
            let Some(at) = queued
                .into_iter()
                .chain(server)
                .min()
                .filter(|at| *at <= limit)
            else {
                self.now = self.now.max(limit);
                return false;
            };
            self.now = self.now.max(at);
            // What arrives at one moment is taken in one turn.
            if queued == Some(at) {
                if let Some(Reverse(due)) = self.queue.pop() {
                    self.take(due.what);
                }
            } else {
                self.turn();
            }
        }
    }

    fn schedule(&mut self, at: Duration, what: What) {
        let (at, sequence) = (at.max(self.now), self.sequence);
        self.sequence += 1;
        self.queue.push(Reverse(Due { at, sequence, what }));
    }

    fn server_due(&self) -> Option<Duration> {
        let server = &self.server;
        let waits = !server.inbox.is_empty() || !server.tun.is_empty();
        let deadline = server.deadline.map(|at| match server.output_waits {
            true => at.max(server.link_free.saturating_sub(LINK_SLACK)),
            false => at,
        });
        let at = waits
            .then_some(self.now)
            .into_iter()
            .chain(deadline)
            .min()?;
        Some(at.max(server.busy_until))
    }

    fn take(&mut self, what: What) {
        match what {
            What::ToServer {
                client,
                data,
                stride,
            } => {
                if self.server.inbox_bytes + data.len() > self.plan.receive_buffer {
                    self.meter.overflowed += 1;
                    return;
                }
                self.server.inbox_bytes += data.len();
                let from = address_of(client);
                self.server.inbox.push_back(Arrival { from, data, stride });
            }
            What::ToClient {
                client,
                data,
                stride,
            } => self.act(client, |endpoint, now| {
                let meta = meta(server_address(), stride);
                endpoint.handle_udp(now, meta, data[..].into());
            }),
            What::Wake { client } => {
                if self.clients[client]
                    .deadline
                    .is_some_and(|at| at <= self.now)
                {
                    self.act(client, Endpoint::handle_timeout);
                }
            }
            What::Connect { client } => {
                self.clients[client].asked = Some(self.now);
                let target = self.clients[client].target.clone();
                self.act(client, |endpoint, now| {
                    // A client at its limit has a connection under way already.
                    let _ = endpoint.connect(now, target);
                });
            }
            What::FromClient { client, packet } => self.act(client, |endpoint, now| {
                endpoint.handle_tun(now, PortId(0), VnetHdr::default(), &packet);
            }),
            What::FromHosts { packet } => self.server.tun.push_back(packet),
        }
    }

    /// Does something with a client's endpoint, then drains it.
    fn act(&mut self, index: usize, act: impl FnOnce(&mut Endpoint, Instant)) {
        let instant = self.base + self.now;
        let client = &mut self.clients[index];
        act(&mut client.endpoint, instant);
        while client.endpoint.poll_tun(&mut client.batch) {
            for frame in &client.batch.frames {
                client.received += frame.packet().len() as u64;
                if let Some(sent) = echoed(frame.packet()) {
                    client.echoes.push(self.now.saturating_sub(sent));
                }
            }
        }
        let mut again = false;
        while let Some(event) = client.endpoint.poll_event() {
            match event {
                Event::Addresses { addresses, .. } => {
                    client.addresses = addresses.iter().map(|prefix| prefix.address()).collect();
                    client.up = Some(self.now);
                    client.times_up += 1;
                }
                Event::ConnectionClosed { reason, .. } => {
                    client.up = None;
                    client.addresses.clear();
                    client.ends.push(reason);
                    again = true;
                }
                _ => {}
            }
        }
        let segments = segments(self.plan.max_segments);
        let mut sent = Vec::new();
        loop {
            let mut data = Vec::new();
            let Some(transmit) = client.endpoint.poll_transmit(instant, segments, &mut data) else {
                break;
            };
            sent.push((data, transmit.segment_size.unwrap_or(transmit.size)));
        }
        let deadline = client.endpoint.poll_timeout();
        let deadline = deadline.map(|deadline| deadline.at.saturating_duration_since(self.base));
        let moved = std::mem::replace(&mut client.deadline, deadline) != deadline;
        for (data, stride) in sent {
            let client = index;
            let what = What::ToServer {
                client,
                data,
                stride,
            };
            self.schedule(self.now + self.plan.one_way, what);
        }
        if let Some(at) = deadline.filter(|_| moved) {
            self.schedule(at, What::Wake { client: index });
        }
        if let Some(after) = self.plan.reconnect.filter(|_| again) {
            let wait = after.mul_f64(0.5 + 0.5 * self.random());
            self.connect(self.now + wait, index);
        }
    }

    /// Between 0 and 1, the same in every run (SplitMix64).
    fn random(&mut self) -> f64 {
        self.jitter = self.jitter.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.jitter;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// One turn of the server, as a pump does it: what waits goes in, bounded; what comes out goes on.
    fn turn(&mut self) {
        let before = self.meter;
        let now = self.base + self.now;
        self.meter.turns += 1;
        let (server, meter, gauges) = (&mut self.server, &mut self.meter, &self.gauges);
        if server.deadline.is_some_and(|at| at <= self.now) {
            meter.server_side(gauges, || server.endpoint.handle_timeout(now));
        }
        for _ in 0..self.plan.turn {
            let Some(arrival) = server.inbox.pop_front() else {
                break;
            };
            server.inbox_bytes -= arrival.data.len();
            meter.received += arrival.data.len().div_ceil(arrival.stride) as u64;
            meter.server_side(gauges, || {
                if server.receive.capacity() < MAX_UDP {
                    server.receive.reserve(RECEIVE_BUFFER);
                }
                server.receive.extend_from_slice(&arrival.data);
                let data = server.receive.split();
                let meta = meta(arrival.from, arrival.stride);
                server.endpoint.handle_udp(now, meta, data);
            });
        }
        for _ in 0..self.plan.turn {
            let Some(packet) = server.tun.pop_front() else {
                break;
            };
            meter.server_side(gauges, || {
                let header = VnetHdr::default();
                server.endpoint.handle_tun(now, PortId(0), header, &packet)
            });
        }
        let mut answers = Vec::new();
        while meter.server_side(gauges, || server.endpoint.poll_tun(&mut server.batch)) {
            for frame in &server.batch.frames {
                match packet::reply_to(frame.packet()) {
                    Some(answer) => answers.push(answer),
                    None => self.delivered += 1,
                }
            }
        }
        server.tun.extend(answers);
        while meter.server_side(gauges, || server.endpoint.poll_event().is_some()) {}
        self.send(now, before);
        let (server, meter, gauges) = (&mut self.server, &mut self.meter, &self.gauges);
        let deadline = meter.server_side(gauges, || server.endpoint.poll_timeout());
        server.deadline = deadline.map(|at| at.at.saturating_duration_since(self.base));
        server.busy_until = self.now + Self::cost(&self.plan, meter, before);
    }

    /// Sends while the link takes it.
    fn send(&mut self, now: Instant, before: Meter) {
        let segments = segments(self.plan.max_segments);
        self.server.output_waits = false;
        loop {
            let (server, meter) = (&mut self.server, &mut self.meter);
            let at = self.now + Self::cost(&self.plan, meter, before);
            if server.link_free > at + LINK_SLACK {
                server.output_waits = true;
                return;
            }
            server.wire.clear();
            let transmit = meter.server_side(&self.gauges, || {
                server
                    .endpoint
                    .poll_transmit(now, segments, &mut server.wire)
            });
            let Some(transmit) = transmit else { return };
            let stride = transmit.segment_size.unwrap_or(transmit.size);
            meter.sent += transmit.size.div_ceil(stride) as u64;
            let data = server.wire[..transmit.size].to_vec();
            let mut leaves = self.now + Self::cost(&self.plan, meter, before);
            if let Some(rate) = self.plan.egress {
                let bits = transmit.size as f64 * 8.0;
                let takes = Duration::from_secs_f64(bits / rate as f64);
                server.link_free = server.link_free.max(leaves) + takes;
                leaves = server.link_free;
            }
            if let Some(client) = client_at(transmit.destination) {
                let what = What::ToClient {
                    client,
                    data,
                    stride,
                };
                self.schedule(leaves + self.plan.one_way, what);
            }
        }
    }

    fn cost(plan: &Plan, meter: &Meter, before: Meter) -> Duration {
        match plan.cost {
            Cost::Free => Duration::ZERO,
            Cost::Measured => meter.time.saturating_sub(before.time),
        }
    }
}

fn segments(most: usize) -> NonZeroUsize {
    NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN)
}

fn meta(remote: SocketAddr, stride: usize) -> RecvMeta {
    RecvMeta {
        socket: SocketId(0),
        remote,
        local_ip: None,
        ecn: None,
        stride,
    }
}

/// When the question was sent to which this is the answer.
fn echoed(bytes: &[u8]) -> Option<Duration> {
    let packet = packet::Packet::parse(bytes)?;
    let (from, _, data) = packet::udp_of(&packet)?;
    let sent = data
        .first_chunk::<8>()
        .filter(|_| from == packet::ECHO_PORT)?;
    Some(Duration::from_micros(u64::from_be_bytes(*sent)))
}
