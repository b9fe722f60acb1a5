//! Endpoints, inner hosts and links in virtual time.
//!
//! A world is a queue of inputs, ordered by time and then by number. [`World::step`] takes the first one
//! (or the first deadline of a node), hands it to one endpoint, drains that endpoint as its contract
//! says, and puts what came out onto links or into inner hosts. Nothing else moves.
//!
//! Time begins at 0; one [`Instant`] is taken when the world is made, and only ever used as what
//! offsets are added to. Calendar time is [`WALL`].
//!
//! # Invariants
//!
//! Each step checks, and panics with the time and the node where one does not hold:
//!
//! - time never goes back;
//! - a drained endpoint has no deadline for `QueuedOutput`, nor one in the past that is not QUIC's own;
//! - time goes on: no node has a thousand deadlines at one moment, nor an endless drain;
//! - a transmit is not empty, names a socket there is, and holds no more segments than asked for;
//! - a port without offload gets plain packets;
//! - what `invariants.rs` says of packets, addresses, routes, rules and queues.

mod capsules;
mod deed;
mod direction;
mod drive;
mod host;
mod input;
mod invariants;
mod link;
mod node;
mod router;
mod shards;
mod stranger;
mod tamper;
mod trace;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use masque_core::endpoint::{Ecn, Endpoint, Event, TimerReason};

pub use capsules::{Fate, in_data_frame};
pub use deed::Deed;
pub use direction::{Delivery, Direction};
pub use host::{App, AppCx, Host, HostCx, Idle, InnerHost, PingPlan};
pub use input::Input;
pub use link::{Bursts, CoDel, LinkConfig, LinkStats};
pub(crate) use node::describe;
pub use node::{Node, NodeId, NodeSpec};
pub use router::{Dependence, NatConfig, RouterConfig, RouterId, RouterStats, Transit};
pub use shards::{Sharding, Steering};
pub use trace::{Captured, Entry, Metrics, Place, Said, Trace, kind};

use crate::crypto::Secrets;
use crate::seed::Seed;
use link::Link;
use shards::Group;

/// The calendar time of every world, since the Unix epoch: 2026-01-01.
pub const WALL: Duration = Duration::from_secs(1_767_225_600);

/// More than any honest endpoint has at one moment.
const MAX_DEADLINES_AT_ONCE: u32 = 1_000;

/// What a step did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// The virtual time.
    pub at: Duration,
    /// The node that got an input; `None` for a change of the world.
    pub node: Option<NodeId>,
    /// The input in words.
    pub input: String,
}

/// Datagrams that never reached a link or a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WorldStats {
    /// Sent to an address that nobody had.
    pub unknown_destination: u64,
    /// Sent where no link leads.
    pub no_link: u64,
    /// Arrived where nobody had the address any more, or where the node was stopped.
    pub nobody_home: u64,
}

/// A UDP datagram that a node sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tapped {
    /// When.
    pub at: Duration,
    /// Who.
    pub node: NodeId,
    /// To where.
    pub to: SocketAddr,
    /// The ECN codepoint it was to have.
    pub ecn: Option<Ecn>,
    /// Its bytes.
    pub data: Vec<u8>,
}

/// Endpoints, inner hosts and links in virtual time.
pub struct World {
    base: Instant,
    now: Duration,
    seed: Seed,
    nodes: Vec<Node>,
    links: BTreeMap<(NodeId, NodeId), Link>,
    groups: Vec<Group>,
    /// What has arrived at addresses that belong to no node.
    strangers: BTreeMap<SocketAddr, VecDeque<(SocketAddr, Vec<u8>)>>,
    routers: Vec<router::Router>,
    queue: BTreeMap<(Duration, u64), Input>,
    sequence: u64,
    deadlines_at_once: u32,
    max_segments: NonZeroUsize,
    stats: WorldStats,
    trace: Trace,
    secrets: Option<Arc<Secrets>>,
    watch: invariants::Watch,
    tap: Option<Vec<Tapped>>,
}

impl World {
    /// An empty world.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            base: Instant::now(),
            now: Duration::ZERO,
            seed: Seed::new(seed),
            nodes: Vec::new(),
            links: BTreeMap::new(),
            groups: Vec::new(),
            strangers: BTreeMap::new(),
            routers: Vec::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            deadlines_at_once: 0,
            max_segments: NonZeroUsize::new(10).expect("10 is not 0"),
            stats: WorldStats::default(),
            trace: Trace::default(),
            secrets: None,
            tap: None,
            watch: invariants::Watch::default(),
        }
    }

    /// The seed everything is forked from.
    #[must_use]
    pub fn seed(&self) -> &Seed {
        &self.seed
    }

    /// Keeps a copy of every UDP datagram that nodes send from now on.
    pub fn tap(&mut self) {
        // Who listens may speak for others.
        self.watch_nothing();
        self.tap.get_or_insert_default();
    }

    /// What was sent since the last call, lost or not.
    pub fn tapped(&mut self) -> Vec<Tapped> {
        self.tap.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Turns trace lines on or off, in endpoints too.
    pub fn set_tracing(&mut self, on: bool) {
        self.trace.set(on);
        for node in &mut self.nodes {
            if let Some(endpoint) = &mut node.endpoint {
                endpoint.set_tracing(on);
            }
        }
    }

    /// Asks endpoints for at most so many datagrams per transmit.
    pub fn set_max_segments(&mut self, max: NonZeroUsize) {
        self.max_segments = max;
    }

    /// Adds a node and starts it.
    ///
    /// # Panics
    /// If the endpoint refuses its transport profile.
    pub fn add_node(&mut self, spec: NodeSpec) -> NodeId {
        let id = NodeId(self.nodes.len());
        self.nodes.push(Node::new(spec));
        self.start(id);
        id
    }

    /// Links two nodes, both ways alike.
    pub fn link(&mut self, a: NodeId, b: NodeId, config: LinkConfig) {
        self.link_one_way(a, b, config);
        self.link_one_way(b, a, config);
    }

    /// Links `from` to `to`, or changes that link; what is on its way still arrives.
    pub fn link_one_way(&mut self, from: NodeId, to: NodeId, config: LinkConfig) {
        let label = format!("link {} {}", from.0, to.0);
        let seed = &self.seed;
        self.links
            .entry((from, to))
            .or_insert_with(|| Link::new(config, seed.rng(&label)))
            .config = config;
    }

    /// What the link from `from` to `to` did.
    #[must_use]
    pub fn link_stats(&self, from: NodeId, to: NodeId) -> Option<LinkStats> {
        self.links.get(&(from, to)).map(|link| link.stats)
    }

    /// How long a packet put into the link from `from` to `to` now would wait for its transmitter.
    #[must_use]
    pub fn backlog(&self, from: NodeId, to: NodeId) -> Option<Duration> {
        let link = self.links.get(&(from, to))?;
        Some(link.backlog(self.now))
    }

    /// Lets `input` happen at `at`, but not before now.
    pub fn schedule(&mut self, at: Duration, input: Input) {
        let at = at.max(self.now);
        self.queue.insert((at, self.sequence), input);
        self.sequence += 1;
    }

    /// Lets `input` happen `after` from now.
    pub fn schedule_in(&mut self, after: Duration, input: Input) {
        self.schedule(self.now + after, input);
    }

    /// Does something with a running endpoint that no [`Input`] stands for, then drains it; `None` if
    /// the node is stopped.
    pub fn act<T>(
        &mut self,
        node: NodeId,
        act: impl FnOnce(&mut Endpoint, Instant) -> T,
    ) -> Option<T> {
        self.watch_nothing();
        let now = self.instant();
        let done = act(self.nodes[node.0].endpoint.as_mut()?, now);
        self.drain(node);
        Some(done)
    }

    /// Virtual time.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.now
    }

    /// A node.
    ///
    /// # Panics
    /// If `node` is of another world.
    #[must_use]
    pub fn node(&self, node: NodeId) -> &Node {
        &self.nodes[node.0]
    }

    /// A node, to change its host.
    ///
    /// # Panics
    /// If `node` is of another world.
    #[must_use]
    pub fn node_mut(&mut self, node: NodeId) -> &mut Node {
        &mut self.nodes[node.0]
    }

    /// Puts another host in the place of a node's.
    ///
    /// # Panics
    /// If `node` is of another world.
    pub fn set_host(&mut self, node: NodeId, host: Box<dyn Host>) {
        self.nodes[node.0].host = host;
    }

    /// Wakes everything that runs on a node's [`InnerHost`], now.
    pub fn start_apps(&mut self, node: NodeId) {
        let host = self.node(node).host::<InnerHost>();
        let apps = host.map_or(0, InnerHost::apps);
        for token in (host::FIRST_APP..).take(apps) {
            self.schedule_in(Duration::ZERO, Input::Wake { node, token });
        }
    }

    /// Lets the link from `from` to `to` lose these packets; the first ever put into it is number 1.
    pub fn lose(&mut self, from: NodeId, to: NodeId, packets: impl IntoIterator<Item = u64>) {
        if let Some(link) = self.links.get_mut(&(from, to)) {
            link.listed.extend(packets);
        }
    }

    /// All nodes, in the order they were added.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes.len()).map(NodeId)
    }

    /// Inputs that wait, deadlines not counted.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Datagrams that never reached a link or a node.
    #[must_use]
    pub fn stats(&self) -> WorldStats {
        self.stats
    }

    /// What happened so far.
    #[must_use]
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// When the next step is.
    #[must_use]
    pub fn next_at(&self) -> Option<Duration> {
        let input = self.queue.keys().next().map(|(at, _)| *at);
        let deadline = self.next_deadline().map(|(at, _, _)| at);
        input.into_iter().chain(deadline).min()
    }

    /// The next input; `None` if a deadline comes first or nothing is left.
    #[must_use]
    pub fn peek(&self) -> Option<&Input> {
        let ((at, _), input) = self.queue.first_key_value()?;
        let deadline = self.next_deadline().map(|(at, _, _)| at);
        deadline
            .is_none_or(|deadline| *at <= deadline)
            .then_some(input)
    }

    /// Takes the next input or deadline; `None` when nothing is left to happen.
    ///
    /// # Panics
    /// Where an invariant of the module documentation does not hold.
    pub fn step(&mut self) -> Option<Step> {
        let input_at = self.queue.keys().next().map(|(at, _)| *at);
        match self.next_deadline() {
            Some((at, id, reason)) if input_at.is_none_or(|input_at| at < input_at) => {
                self.deadlines_at_once += 1;
                self.advance(at);
                assert!(
                    self.deadlines_at_once <= MAX_DEADLINES_AT_ONCE,
                    "{} never gets past {at:?}: {reason:?}",
                    self.nodes[id.0].name
                );
                Some(self.fire(id, reason))
            }
            _ => {
                let ((at, _), input) = self.queue.pop_first()?;
                self.advance(at);
                Some(self.take(input))
            }
        }
    }

    /// Steps until nothing is left or `until` has come; time is `until` then either way. `false` if
    /// nothing is left.
    pub fn run_until(&mut self, until: Duration) -> bool {
        while let Some(at) = self.next_at() {
            if at > until {
                self.advance(until.max(self.now));
                return true;
            }
            self.step();
        }
        self.advance(until.max(self.now));
        false
    }

    /// Steps until `done`, which it says, or until `limit` has passed or nothing is left.
    pub fn run_to(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        loop {
            if done(self) {
                return true;
            }
            if self.next_at().is_none_or(|at| at > limit) {
                return false;
            }
            self.step();
        }
    }

    fn advance(&mut self, to: Duration) {
        assert!(
            to >= self.now,
            "time goes back from {:?} to {to:?}",
            self.now
        );
        if to > self.now {
            self.deadlines_at_once = 0;
        }
        self.now = to;
    }

    fn next_deadline(&self) -> Option<(Duration, NodeId, TimerReason)> {
        let deadlines = self.nodes.iter().enumerate().filter_map(|(index, node)| {
            node.deadline
                .map(|(at, reason)| (at, NodeId(index), reason))
        });
        deadlines.min_by_key(|(at, id, _)| (*at, *id))
    }

    fn log(&mut self, id: NodeId, event: impl std::fmt::Display) {
        self.trace.line(self.now, &self.nodes[id.0].name, event);
    }

    fn start(&mut self, id: NodeId) {
        let node = &mut self.nodes[id.0];
        let label = format!("node {} {}", node.name, node.incarnation);
        node.incarnation += 1;
        let mut config = node.config.clone();
        if let Some(server) = &mut config.server {
            server.leases = node.leases.values().cloned().collect();
        }
        let now = self.base + self.now;
        let wall = SystemTime::UNIX_EPOCH + WALL + self.now;
        let entropy = self.seed.entropy(&label);
        let mut endpoint = Endpoint::new(now, wall, config, entropy)
            .unwrap_or_else(|error| panic!("{}: {error}", node.name));
        endpoint.set_tracing(self.trace.is_on());
        if let Some(gate) = &node.gate {
            gate.stand_at(&mut endpoint);
        }
        node.endpoint = Some(endpoint);
        self.drain(id);
    }

    fn stop(&mut self, id: NodeId) {
        self.watch_stop(id);
        let node = &mut self.nodes[id.0];
        node.endpoint = None;
        node.deadline = None;
    }

    fn fire(&mut self, id: NodeId, reason: TimerReason) -> Step {
        let input = format!("<- timeout {reason:?}");
        self.log(id, &input);
        let now = self.instant();
        if let Some(endpoint) = &mut self.nodes[id.0].endpoint {
            endpoint.handle_timeout(now);
        }
        self.drain(id);
        Step {
            at: self.now,
            node: Some(id),
            input,
        }
    }
}

/// The last time a node said something that `matches`.
#[must_use]
pub fn last_event<'a, T>(node: &'a Node, matches: impl FnMut(&'a Event) -> Option<T>) -> Option<T> {
    node.events()
        .iter()
        .rev()
        .map(|(_, event)| event)
        .find_map(matches)
}
