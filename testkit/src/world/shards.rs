//! Several nodes that are the shards of one server: one address, one path to it, one network behind
//! it, and mail between them.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use masque_core::endpoint::{Endpoint, Mail, Shard, ShardId, Shared, shard_of};
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

use super::{Input, NodeId, NodeSpec, World};
use crate::packet::Packet;
use crate::seed::{Fnv, Seed};

/// How well the outside finds the right shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Steering {
    /// Always: sockets know the connection IDs, device queues know where the tunnels are.
    #[default]
    Right,
    /// Not at all, but what belongs together comes to one shard: datagrams of one remote address,
    /// packets between two inner addresses.
    Flows,
    /// Each datagram and each packet comes to any shard.
    Scattered,
}

/// The shards of a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sharding {
    /// How many.
    pub shards: NonZeroU16,
    /// How well the outside finds the right one.
    pub steering: Steering,
    /// The longest time a piece of mail takes. Each takes its own, but mail from one shard to another
    /// stays in order.
    pub mail_delay: Duration,
    /// How many pieces of mail wait for a shard at most; what comes then is refused.
    pub mailbox: usize,
}

impl Default for Sharding {
    /// One shard; mail takes up to 50 µs, 1,024 pieces fit into a box.
    fn default() -> Self {
        Self {
            shards: NonZeroU16::MIN,
            steering: Steering::default(),
            mail_delay: Duration::from_micros(50),
            mailbox: 1024,
        }
    }
}

/// The nodes of one sharded server.
pub(super) struct Group {
    config: Sharding,
    nodes: Vec<NodeId>,
    rng: ChaCha20Rng,
    key: u64,
    /// Mail on its way: from, to.
    boxes: BTreeMap<(usize, usize), VecDeque<Mail>>,
    /// When the last piece of each arrives.
    last: BTreeMap<(usize, usize), Duration>,
}

impl Group {
    fn new(config: Sharding, nodes: Vec<NodeId>, seed: &Seed) -> Self {
        let mut rng = seed.rng("mail");
        Self {
            config,
            nodes,
            key: rng.next_u64(),
            rng,
            boxes: BTreeMap::new(),
            last: BTreeMap::new(),
        }
    }

    fn any(&mut self) -> usize {
        let shards = u64::from(self.config.shards.get());
        usize::try_from(self.rng.next_u64() % shards).expect("a remainder")
    }

    /// The same shard for the same words.
    fn by(&self, words: &str) -> usize {
        let mut hash = Fnv::default();
        hash.write(&self.key.to_be_bytes());
        hash.write(words.as_bytes());
        let shards = u64::from(self.config.shards.get());
        usize::try_from((hash.value() >> 32) % shards).expect("a remainder")
    }

    fn waiting_for(&self, to: usize) -> usize {
        let own = self.boxes.iter().filter(|((_, other), _)| *other == to);
        own.map(|(_, mail)| mail.len()).sum()
    }
}

impl World {
    /// Adds the shards of one server and starts them: as many nodes, called `name-0`, `name-1` and so
    /// on, which share the sockets' addresses. The first stands for all of them in [`World::link`].
    ///
    /// # Panics
    /// As [`World::add_node`]; and if `specs` makes them differ in more than their hosts.
    pub fn add_shards(
        &mut self,
        config: Sharding,
        mut spec: impl FnMut(usize) -> NodeSpec,
    ) -> Vec<NodeId> {
        let mut nodes = Vec::new();
        let mut shared = None;
        for index in 0..usize::from(config.shards.get()) {
            let mut spec = spec(index);
            let shared = shared.get_or_insert_with(|| Shared::new(&spec.config, config.shards));
            let id = u16::try_from(index).map(ShardId).expect("at most 65,535");
            spec.name = format!("{}-{index}", spec.name);
            spec.config.shard = Some(Shard {
                id,
                shared: shared.clone(),
            });
            nodes.push(self.add_node(spec));
        }
        let seed = self.seed.fork(&format!("shards {}", self.groups.len()));
        self.groups.push(Group::new(config, nodes.clone(), &seed));
        nodes
    }

    /// Which group a node is of, and which shard it is there.
    pub(super) fn place(&self, node: NodeId) -> Option<(usize, usize)> {
        let mut groups = self.groups.iter().enumerate();
        groups.find_map(|(index, group)| {
            let shard = group.nodes.iter().position(|other| *other == node)?;
            Some((index, shard))
        })
    }

    /// The node that stands for all shards of a server, at links and addresses.
    pub(super) fn head(&self, node: NodeId) -> NodeId {
        let place = self.place(node);
        place.map_or(node, |(group, _)| self.groups[group].nodes[0])
    }

    /// The shard at which a datagram arrives that is addressed to the one at `node`.
    pub(super) fn steer_datagram(&mut self, node: NodeId, from: SocketAddr, data: &[u8]) -> NodeId {
        let Some((group, _)) = self.place(node) else {
            return node;
        };
        let group = &mut self.groups[group];
        let shard = match group.config.steering {
            Steering::Right => usize::from(shard_of(data, group.config.shards).0),
            Steering::Flows => group.by(&from.to_string()),
            Steering::Scattered => group.any(),
        };
        group.nodes[shard]
    }

    /// The shard at whose queue a packet from the network behind a server arrives.
    pub(super) fn steer_packet(&mut self, node: NodeId, data: &[u8]) -> NodeId {
        let Some((index, _)) = self.place(node) else {
            return node;
        };
        let Some(packet) = Packet::parse(data) else {
            return node;
        };
        let group = &self.groups[index];
        let shard = match group.config.steering {
            Steering::Right => {
                let mut shards = group.nodes.iter();
                let has = |node: &NodeId| self.has_address(*node, packet.destination);
                shards.position(has).unwrap_or(0)
            }
            Steering::Flows => group.by(&format!("{} {}", packet.source, packet.destination)),
            Steering::Scattered => self.groups[index].any(),
        };
        self.groups[index].nodes[shard]
    }

    fn has_address(&self, node: NodeId, address: IpAddr) -> bool {
        let endpoint = self.nodes[node.0].endpoint.as_ref();
        endpoint.is_some_and(|endpoint| {
            let mut tunnels = endpoint.tunnels();
            tunnels.any(|tunnel| {
                let info = endpoint.tunnel(tunnel).expect("it is listed");
                info.addresses.iter().any(|own| own.contains(address))
            })
        })
    }

    /// Posts what an endpoint has for other shards; says how many pieces that were.
    pub(super) fn post(&mut self, id: NodeId, endpoint: &mut Endpoint) -> usize {
        let mut posted = 0;
        while let Some((to, mail)) = endpoint.poll_mail() {
            posted += 1;
            self.log_endpoint(id, endpoint);
            let (index, from) = self.place(id).expect("only shards write mail");
            let to = usize::from(to.0);
            assert_ne!(from, to, "nobody writes to itself");
            let group = &mut self.groups[index];
            let limit = u64::try_from(group.config.mail_delay.as_micros()).unwrap_or(u64::MAX);
            let delay = Duration::from_micros(group.rng.next_u64() % limit.saturating_add(1));
            if group.waiting_for(to) >= group.config.mailbox {
                self.log(id, "mail refused");
                endpoint.mail_refused(mail);
                continue;
            }
            let last = group.last.entry((from, to)).or_default();
            *last = (*last).max(self.now + delay);
            let at = *last;
            group.boxes.entry((from, to)).or_default().push_back(mail);
            let input = Input::Mail {
                group: index,
                from,
                to,
            };
            self.schedule(at, input);
        }
        posted
    }

    /// The next piece of mail from one shard to another arrives.
    pub(super) fn deliver_mail(
        &mut self,
        group: usize,
        from: usize,
        to: usize,
    ) -> (Option<NodeId>, String) {
        let group = &mut self.groups[group];
        let node = group.nodes[to];
        let mail = group.boxes.get_mut(&(from, to));
        let mail = mail.and_then(VecDeque::pop_front);
        let mail = mail.expect("as many inputs as pieces of mail");
        let words = format!("<- mail from shard {from}");
        self.tell(node, &words, |endpoint, now| {
            endpoint.handle_mail(now, mail);
            None
        });
        (Some(node), words)
    }
}
