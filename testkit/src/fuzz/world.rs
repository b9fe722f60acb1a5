//! A whole world driven by operations, against a small model of who has which address and where a packet
//! goes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use arbitrary::{Arbitrary, Result, Unstructured};
use masque_core::endpoint::{Command, Event, Identity, PortId, SocketId, TunnelHandle, Usage};
use masque_core::wire::prefix::IpPrefix;

use crate::packet;
use crate::scenario::{INNER_V4, INNER_V6, Options, Star, star};
use crate::traffic::profile::{self, PATHS, Path};
use crate::world::{
    Deed, Dependence, InnerHost, Input, LinkConfig, NatConfig, NodeId, RouterConfig, Sharding,
    Steering,
};

const CLIENTS: usize = 4;

/// Something that happens.
#[derive(Arbitrary, Clone, Debug)]
enum Op {
    Connect(u8),
    Disconnect(u8),
    /// Without a word.
    Restart(u8),
    RestartServer,
    CloseTunnels {
        client: u8,
        by_server: bool,
    },
    Assign {
        client: u8,
        host: u8,
        keep: bool,
    },
    Request {
        client: u8,
        host: u8,
    },
    Revoke(u8),
    Outage {
        client: u8,
        millis: u16,
    },
    Slow(u8),
    Move {
        client: u8,
        told: bool,
    },
    Rebind(u8),
    Packets {
        client: u8,
        host: u8,
        size: u16,
        from_server: bool,
        count: u8,
    },
    Wait(u16),
}

/// A world and what happens in it.
#[derive(Clone, Debug)]
pub struct Plan {
    seed: u64,
    path: &'static str,
    nat: bool,
    sharding: Sharding,
    ops: Vec<Op>,
}

impl Plan {
    /// What some bytes stand for, with the seed and the path among them.
    ///
    /// # Errors
    /// There are always enough bytes: none.
    pub fn read(bytes: &mut Unstructured<'_>) -> Result<Self> {
        let seed = u64::from(u16::arbitrary(bytes)?);
        let path = *bytes.choose(&PATHS)?;
        Self::of(seed, path, bytes)
    }

    /// What some bytes stand for.
    ///
    /// # Errors
    /// There are always enough bytes: none.
    pub fn of(seed: u64, path: &'static str, bytes: &mut Unstructured<'_>) -> Result<Self> {
        let kind = u8::arbitrary(bytes)?;
        let steering = [Steering::Right, Steering::Flows, Steering::Scattered];
        let mut plan = Self {
            seed,
            path,
            nat: kind & 1 != 0,
            sharding: Sharding {
                shards: NonZeroU16::new(1 + u16::from(kind >> 1 & 3).saturating_sub(1))
                    .expect("at least 1"),
                steering: steering[usize::from(kind >> 3) % 3],
                ..Sharding::default()
            },
            ops: Vec::new(),
        };
        while !bytes.is_empty() && plan.ops.len() < 60 {
            plan.ops.push(Op::arbitrary(bytes)?);
        }
        Ok(plan)
    }
}

/// The target: bytes to a world.
pub fn world(bytes: &[u8]) {
    if let Ok(plan) = Plan::read(&mut Unstructured::new(bytes)) {
        run(&plan);
    }
}

/// Two clients of one identity, the others of identities of their own.
fn name(index: usize) -> Identity {
    Identity(format!("urn:masque:{}", index.saturating_sub(1)))
}

fn options(plan: &Plan) -> Options {
    let mut options = Options {
        seed: plan.seed,
        clients: CLIENTS,
        identity: name,
        client_to_client: true,
        client_plan: None,
        server_plan: None,
        sharding: plan.sharding,
        ..Options::default()
    };
    options.change_server = |server| {
        // Small enough to be exhausted now and then.
        server.pools = ["10.7.0.0/29", "fd00:7::/64"]
            .map(|pool| pool.parse().expect("a prefix"))
            .into();
    };
    options.transport.idle_timeout = Duration::from_secs(10);
    options.transport.keep_alive = Some(Duration::from_secs(3));
    // QUIC takes little ahead of time, so that packets wait in tunnels' queues.
    options.transport.datagram_send_buffer = 4 << 10;
    options.limits.tunnel_queue_bytes = 20_000;
    options.limits.total_queue_bytes = 30_000;
    options
}

struct Driver {
    star: Star,
    path: Path,
    nat: bool,
    moves: u8,
}

/// Runs a plan.
///
/// # Panics
/// Where an invariant of [`crate::world`] or the model does not hold.
pub fn run(plan: &Plan) {
    let star = star(&options(plan)).expect("a constant configuration");
    let path = profile::path(plan.path).expect("one of the names there are");
    let mut driver = Driver {
        star,
        path,
        nat: plan.nat,
        moves: 0,
    };
    driver.prepare();
    for op in &plan.ops {
        driver.perform(op);
        driver.check();
    }
    driver.settle();
    driver.check_packets();
    driver.end();
}

impl Driver {
    fn prepare(&mut self) {
        let server = self.star.server;
        for (node, last) in self.star.clients.clone().into_iter().zip(1..) {
            let world = &mut self.star.world;
            world.link_one_way(node, server, self.path.up);
            world.link_one_way(server, node, self.path.down);
            if self.nat {
                let router = world.add_router(RouterConfig {
                    nat: Some(NatConfig {
                        public: IpAddr::from([198, 18, 250, last]),
                        mapping: Dependence::AddressAndPort,
                        filtering: Dependence::AddressAndPort,
                        expiry: Duration::from_secs(30),
                    }),
                    ..RouterConfig::default()
                });
                world.put_behind(node, Some(router));
            }
        }
    }

    fn run(&mut self, millis: u64) {
        let until = self.star.world.now() + Duration::from_millis(millis);
        self.star.world.run_until(until);
    }

    fn now(&mut self, input: Input) {
        self.star.world.schedule_in(Duration::ZERO, input);
    }

    fn client(&self, nth: u8) -> (usize, NodeId) {
        let index = usize::from(nth) % CLIENTS;
        (index, self.star.clients[index])
    }

    fn on_server(&mut self, deed: &Deed) {
        for node in self.star.shards.clone() {
            let deed = deed.clone();
            self.now(Input::Deed { node, deed });
        }
    }

    fn links(&mut self, node: NodeId, change: impl Fn(&mut LinkConfig), after: Duration) {
        let server = self.star.server;
        for (from, to, mut config) in [(node, server, self.path.up), (server, node, self.path.down)]
        {
            change(&mut config);
            let input = Input::LinkOneWay { from, to, config };
            self.star.world.schedule_in(after, input);
        }
    }

    fn perform(&mut self, op: &Op) {
        match *op {
            Op::Connect(nth) => {
                let (index, node) = self.client(nth);
                let target = Box::new(self.star.targets[index].clone());
                self.now(Input::Connect { node, target });
            }
            Op::Disconnect(nth) => {
                let node = self.client(nth).1;
                let deed = Deed::CloseConnections;
                self.now(Input::Deed { node, deed });
            }
            Op::Restart(nth) => {
                let node = self.client(nth).1;
                self.now(Input::Restart { node });
            }
            Op::RestartServer => {
                // Shards share what they know: one alone cannot start anew.
                if let [node] = self.star.shards[..] {
                    self.now(Input::Restart { node });
                }
            }
            Op::CloseTunnels { client, by_server } => {
                let (index, node) = self.client(client);
                if by_server {
                    self.on_server(&Deed::CloseTunnelsOf(name(index)));
                } else {
                    let deed = Deed::CloseTunnels;
                    self.now(Input::Deed { node, deed });
                }
            }
            Op::Assign { client, host, keep } => {
                let identity = name(self.client(client).0);
                let addresses = vec![IpPrefix::host(pool_address(host % 12 + 2))];
                self.on_server(&Deed::Assign {
                    identity,
                    addresses,
                    keep,
                });
            }
            Op::Request { client, host } => {
                let node = self.client(client).1;
                let deed = Deed::Request(vec![IpPrefix::host(pool_address(host % 12 + 2))]);
                self.now(Input::Deed { node, deed });
            }
            Op::Revoke(nth) => {
                let identity = name(self.client(nth).0);
                for node in self.star.shards.clone() {
                    let identity = identity.clone();
                    let command = Command::Revoke { identity };
                    self.now(Input::Command { node, command });
                }
            }
            Op::Outage { client, millis } => {
                let node = self.client(client).1;
                self.links(node, |config| config.up = false, Duration::ZERO);
                let after = Duration::from_millis(u64::from(millis) % 20_000);
                self.links(node, |_| {}, after);
            }
            Op::Slow(nth) => {
                let node = self.client(nth).1;
                self.links(node, |config| config.rate = Some(50_000), Duration::ZERO);
            }
            Op::Move { client, told } => {
                let (index, node) = self.client(client);
                self.moves = self.moves.wrapping_add(1);
                let last = u8::try_from(index).unwrap_or_default() + 100;
                let to = SocketAddr::from(([198, 18, self.moves, last], 50_000));
                self.now(Input::Readdress {
                    node,
                    socket: SocketId(0),
                    to,
                    tell: told,
                });
            }
            Op::Rebind(nth) => {
                if let Some(router) = self.star.world.behind(self.client(nth).1) {
                    self.now(Input::Rebind { router });
                }
            }
            Op::Packets {
                client,
                host,
                size,
                from_server,
                count,
            } => {
                let node = self.client(client).1;
                let own = self.newest(node).and_then(|tunnel| {
                    let addresses = self.addresses(node, tunnel);
                    addresses.into_iter().find(IpAddr::is_ipv4)
                });
                let source = if from_server { Some(INNER_V4) } else { own };
                let Some(source) = source else { return };
                let node = if from_server { self.star.server } else { node };
                for _ in 0..count % 8 + 1 {
                    let to = pool_address(host % 16);
                    let data = datagram(source, to, usize::from(size) % 4000);
                    self.now(Input::Packet {
                        node,
                        port: PortId(0),
                        data,
                    });
                }
            }
            Op::Wait(millis) => return self.run(u64::from(millis) % 3000),
        }
        self.run(1);
    }

    fn newest(&self, node: NodeId) -> Option<TunnelHandle> {
        self.star.world.node(node).endpoint()?.tunnels().last()
    }

    fn addresses(&self, node: NodeId, tunnel: TunnelHandle) -> Vec<IpAddr> {
        let endpoint = self.star.world.node(node).endpoint().expect("it runs");
        let info = endpoint.tunnel(tunnel).expect("it is listed");
        info.addresses.iter().map(IpPrefix::address).collect()
    }

    /// Who has what, from the server's tunnels alone.
    fn owners(&self) -> BTreeMap<IpAddr, (TunnelHandle, Identity)> {
        let mut owners: BTreeMap<IpAddr, (TunnelHandle, Identity)> = BTreeMap::new();
        for node in &self.star.shards {
            let endpoint = self.star.world.node(*node).endpoint().expect("it runs");
            for tunnel in endpoint.tunnels() {
                let info = endpoint.connection(tunnel.conn).expect("it is listed");
                let identity = info.identity.expect("demanded");
                for address in self.addresses(*node, tunnel) {
                    let new = (tunnel, identity.clone());
                    let owner = owners.entry(address).or_insert_with(|| new.clone());
                    assert_eq!(owner.1, identity, "{address} is of two identities");
                    // The newest tunnel of an identity is the one that counts.
                    if new.0 > owner.0 {
                        *owner = new;
                    }
                }
            }
        }
        assert!(
            !owners.contains_key(&pool_address(1)),
            "the gateway is nobody's"
        );
        owners
    }

    fn nodes(&self) -> Vec<NodeId> {
        [&self.star.clients[..], &self.star.shards[..]].concat()
    }

    fn usage(&self, node: NodeId) -> Usage {
        let endpoint = self.star.world.node(node).endpoint();
        endpoint.expect("it runs").usage()
    }

    /// What holds at every moment; the world checks the rest.
    fn check(&self) {
        self.owners();
        let limits = options_limit();
        for node in self.nodes() {
            let held = self.usage(node);
            assert!(held.queued_bytes <= limits, "{held:?}");
            assert!(held.handshakes + held.waiting_handshakes <= held.connections);
            assert!(held.tunnels > 0 || held.queued_bytes == 0, "{held:?}");
        }
        for node in &self.star.shards {
            let endpoint = self.star.world.node(*node).endpoint().expect("it runs");
            let mut live: BTreeMap<Identity, BTreeSet<_>> = BTreeMap::new();
            for tunnel in endpoint.tunnels() {
                let info = endpoint.connection(tunnel.conn).expect("it is listed");
                let identity = info.identity.expect("demanded");
                live.entry(identity).or_default().insert(tunnel.conn);
            }
            let most = masque_core::endpoint::Limits::default().connections_per_identity;
            for (identity, conns) in live {
                assert!(conns.len() <= most, "{identity} has {conns:?}");
            }
        }
    }

    /// Good links, and nobody does anything for long: the ends agree.
    fn settle(&mut self) {
        self.path.up = LinkConfig::default();
        self.path.down = LinkConfig::default();
        for node in self.star.clients.clone() {
            self.links(node, |_| {}, Duration::ZERO);
            // An outage that began before may end by putting the old path back.
            self.links(node, |_| {}, Duration::from_secs(20));
        }
        // A keep-alive after the last packet of a peer that is gone puts the idle timeout off once; and three
        // probe timeouts are minutes where the round-trip time was seconds.
        for _ in 0..10 {
            self.run(65_000);
            if self.star.world.ends_agree() {
                break;
            }
        }
        self.check();
        self.star.world.check_quiet();
    }

    /// Packets go where the model says, and nowhere else.
    fn check_packets(&mut self) {
        let owners = self.owners();
        for node in self.nodes() {
            self.received(node);
        }
        let mut sent = Vec::new();
        let mut send = |this: &mut Self, node, source, to, expected: Option<Place>| {
            let size = 100 + sent.len();
            let data = datagram(source, to, size);
            this.now(Input::Packet {
                node,
                port: PortId(0),
                data,
            });
            // One at a time: the queue is no matter here.
            this.run(1);
            sent.push((source, to, size, expected));
        };
        for host in 2..14 {
            let to = pool_address(host);
            let expected = owners
                .get(&to)
                .map(|(_, identity)| Place::Client(identity.clone()));
            send(self, self.star.server, INNER_V4, to, expected);
        }
        for node in self.star.clients.clone() {
            let Some(tunnel) = self.newest(node) else {
                continue;
            };
            // Of several tunnels, the one that opened last takes packets: not always the newest.
            let tunnels = self.star.world.node(node).endpoint();
            if tunnels.map_or(0, |endpoint| endpoint.tunnels().count()) > 1 {
                continue;
            }
            let own = self.addresses(node, tunnel);
            for source in own {
                let v4 = source.is_ipv4();
                let inner = if v4 { INNER_V4 } else { INNER_V6 };
                send(self, node, source, inner, Some(Place::Server));
                let gateway: IpAddr = if v4 {
                    pool_address(1)
                } else {
                    "fd00:7::1".parse().expect("a constant")
                };
                send(self, node, source, gateway, Some(Place::Server));
                if !v4 {
                    continue;
                }
                for nowhere in ["127.0.0.1", "169.254.1.1", "224.0.0.1", "10.7.0.6"] {
                    let to: IpAddr = nowhere.parse().expect("a constant");
                    if !owners.contains_key(&to) {
                        send(self, node, source, to, None);
                    }
                }
                for (to, (_, theirs)) in owners.iter().filter(|(to, _)| to.is_ipv4()) {
                    let is_own = owners.get(&source).is_some_and(|(_, own)| own == theirs);
                    if !is_own {
                        send(self, node, source, *to, Some(Place::Client(theirs.clone())));
                    }
                }
            }
            let stolen = IpAddr::from([10, 7, 0, 250]);
            send(self, node, stolen, INNER_V4, None);
        }
        self.run(500);
        let mut arrived: BTreeMap<usize, Vec<Place>> = BTreeMap::new();
        for node in self.nodes() {
            let mut clients = self.star.clients.iter();
            let place = match clients.position(|client| *client == node) {
                Some(index) => Place::Client(name(index)),
                None => Place::Server,
            };
            for bytes in self.received(node) {
                let packet = packet::Packet::parse(&bytes);
                let packet = packet.expect("what arrives is whole");
                if let Some((4000, 9, payload)) = packet::udp_of(&packet) {
                    arrived
                        .entry(payload.len())
                        .or_default()
                        .push(place.clone());
                }
            }
        }
        for (source, to, size, expected) in sent {
            let places = arrived.remove(&size).unwrap_or_default();
            let expected: Vec<_> = expected.into_iter().collect();
            assert_eq!(places, expected, "{source} to {to} with {owners:?}");
        }
    }

    fn received(&mut self, node: NodeId) -> Vec<Vec<u8>> {
        let host = self.star.world.node_mut(node).host_mut::<InnerHost>();
        std::mem::take(&mut host.expect("every node of a star has one").others)
    }

    /// Everybody leaves, and nothing is left.
    fn end(mut self) {
        for node in self.star.clients.clone() {
            let deed = Deed::CloseConnections;
            self.now(Input::Deed { node, deed });
        }
        self.on_server(&Deed::ShutDown(Duration::from_secs(1)));
        // A closed connection stays for three probe timeouts (RFC 9000 §10.2): a minute and more where the
        // round-trip time was seconds.
        self.run(600_000);
        for node in self.nodes() {
            assert_eq!(self.usage(node), Usage::default());
        }
        for node in &self.star.shards {
            let events = self.star.world.node(*node).events().iter();
            let over = events.filter(|(_, event)| matches!(event, Event::ShutdownComplete));
            assert_eq!(over.count(), 1);
        }
        assert_eq!(
            self.star.world.next_at(),
            None,
            "nothing will ever happen again"
        );
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Place {
    Server,
    Client(Identity),
}

fn options_limit() -> usize {
    // One packet more than the limit may be queued where nothing was.
    30_000 + CLIENTS * (64 << 10)
}

fn pool_address(host: u8) -> IpAddr {
    IpAddr::from([10, 7, 0, host])
}

fn datagram(source: IpAddr, to: IpAddr, size: usize) -> Vec<u8> {
    packet::udp(
        SocketAddr::new(source, 4000),
        SocketAddr::new(to, 9),
        &vec![0x5a; size],
    )
}
