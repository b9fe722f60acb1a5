//! Routers between nodes and the rest of the world: a shared link, a NAT, or both; they may stand in a
//! row.
//!
//! A datagram of a node behind a router crosses the node's own link, then the router's NAT and its link
//! outwards, and so on up to the open network, where every address is reached at once. Towards the node
//! the same happens the other way round.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use masque_core::endpoint::Ecn;
use serde::Deserialize;

use super::link::{Link, LinkConfig, LinkStats, overhead};
use super::{Input, NodeId, World};

/// A router of a world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RouterId(pub usize);

/// What something depends on, in the words of RFC 4787 §4.1 and §5.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dependence {
    /// Endpoint-independent.
    #[default]
    Nothing,
    /// Address-dependent.
    Address,
    /// Address- and port-dependent.
    AddressAndPort,
}

impl Dependence {
    fn key(self, peer: SocketAddr) -> Option<SocketAddr> {
        match self {
            Self::Nothing => None,
            Self::Address => Some(SocketAddr::new(peer.ip(), 0)),
            Self::AddressAndPort => Some(peer),
        }
    }
}

/// A NAT (RFC 4787).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NatConfig {
    /// Its outer address.
    pub public: IpAddr,
    /// What a mapping depends on besides the inner address and port.
    pub mapping: Dependence,
    /// From whom packets are let in.
    pub filtering: Dependence,
    /// How long a mapping lives without a packet from inside (REQ-5, REQ-6).
    pub expiry: Duration,
}

/// What a router is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RouterConfig {
    /// The NAT in it.
    pub nat: Option<NatConfig>,
    /// Its link outwards; without one, packets are through at once.
    pub up: Option<LinkConfig>,
    /// Its link inwards.
    pub down: Option<LinkConfig>,
    /// The router it is itself behind.
    pub behind: Option<RouterId>,
}

/// What a router did, in packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RouterStats {
    /// Passed on.
    pub forwarded: u64,
    /// From outside, for nobody, or filtered.
    pub refused: u64,
    /// Mappings made.
    pub mappings: u64,
}

struct Mapping {
    inner: SocketAddr,
    port: u16,
    used: Duration,
    peers: BTreeSet<Option<SocketAddr>>,
}

pub(super) struct Nat {
    config: NatConfig,
    mappings: BTreeMap<(SocketAddr, Option<SocketAddr>), Mapping>,
    next_port: u16,
}

const FIRST_PORT: u16 = 20_000;

impl Nat {
    fn new(config: NatConfig) -> Self {
        Self {
            config,
            mappings: BTreeMap::new(),
            next_port: FIRST_PORT,
        }
    }

    fn expire(&mut self, now: Duration) {
        let expiry = self.config.expiry;
        self.mappings
            .retain(|_, mapping| now < mapping.used + expiry);
    }

    /// The outer address of a datagram from inside, and whether its mapping is new.
    fn outward(&mut self, now: Duration, from: SocketAddr, to: SocketAddr) -> (SocketAddr, bool) {
        self.expire(now);
        let key = (from, self.config.mapping.key(to));
        let next = &mut self.next_port;
        let mut is_new = false;
        let mapping = self.mappings.entry(key).or_insert_with(|| {
            is_new = true;
            let port = *next;
            *next = next.checked_add(1).unwrap_or(FIRST_PORT);
            Mapping {
                inner: from,
                port,
                used: now,
                peers: BTreeSet::new(),
            }
        });
        mapping.used = now;
        mapping.peers.insert(self.config.filtering.key(to));
        (SocketAddr::new(self.config.public, mapping.port), is_new)
    }

    /// The inner address of a datagram from outside.
    fn inward(&mut self, now: Duration, from: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        self.expire(now);
        let key = self.config.filtering.key(from);
        let mut mappings = self.mappings.values();
        let mapping = mappings.find(|mapping| mapping.port == to.port())?;
        mapping.peers.contains(&key).then_some(mapping.inner)
    }
}

pub(super) struct Router {
    nat: Option<Nat>,
    up: Option<Link>,
    down: Option<Link>,
    behind: Option<RouterId>,
    stats: RouterStats,
}

/// A datagram between two links.
#[derive(Clone)]
pub struct Transit {
    /// At which router.
    pub router: RouterId,
    /// Away from the nodes behind it.
    pub outward: bool,
    /// The node that sent it.
    pub origin: NodeId,
    /// From where, as seen here.
    pub from: SocketAddr,
    /// To where, as seen here.
    pub to: SocketAddr,
    /// Its ECN codepoint.
    pub ecn: Option<Ecn>,
    /// Its bytes.
    pub data: Vec<u8>,
}

/// Where a datagram is going next.
enum Hop {
    Router(RouterId),
    Node(NodeId),
}

impl World {
    /// Adds a router.
    pub fn add_router(&mut self, config: RouterConfig) -> RouterId {
        let id = RouterId(self.routers.len());
        let link = |config: Option<LinkConfig>, way: &str| {
            let label = format!("router {} {way}", id.0);
            config.map(|config| Link::new(config, self.seed.rng(&label)))
        };
        let router = Router {
            up: link(config.up, "up"),
            down: link(config.down, "down"),
            nat: config.nat.map(Nat::new),
            behind: config.behind,
            stats: RouterStats::default(),
        };
        self.routers.push(router);
        id
    }

    /// Puts a node behind a router, or in front of all.
    ///
    /// # Panics
    /// If there is no such node or router.
    pub fn put_behind(&mut self, node: NodeId, router: Option<RouterId>) {
        assert!(router.is_none_or(|router| router.0 < self.routers.len()));
        self.nodes[node.0].behind = router;
    }

    /// The router a node is behind.
    #[must_use]
    pub fn behind(&self, node: NodeId) -> Option<RouterId> {
        self.nodes[node.0].behind
    }

    /// What a router did.
    ///
    /// # Panics
    /// If there is no such router.
    #[must_use]
    pub fn router_stats(&self, router: RouterId) -> RouterStats {
        self.routers[router.0].stats
    }

    /// What a router's links did, outwards and inwards.
    ///
    /// # Panics
    /// If there is no such router.
    #[must_use]
    pub fn router_links(&self, router: RouterId) -> [Option<LinkStats>; 2] {
        let router = &self.routers[router.0];
        [&router.up, &router.down].map(|link| link.as_ref().map(|link| link.stats))
    }

    /// How many routers there are.
    #[must_use]
    pub fn routers(&self) -> usize {
        self.routers.len()
    }

    pub(super) fn forget_mappings(&mut self, router: RouterId) {
        if let Some(nat) = &mut self.routers[router.0].nat {
            // Ports are not used again: what was said to the old ones reaches nobody.
            nat.mappings.clear();
        }
    }

    /// Whose link a datagram to `to` comes down at last, as far as is known before it is sent.
    pub(super) fn destination(&self, to: SocketAddr) -> Option<NodeId> {
        if let Some((node, _)) = self.owner(to) {
            return Some(node);
        }
        let nat = self.nat_of(to.ip())?;
        let mut mappings = nat.mappings.values();
        let mapping = mappings.find(|mapping| mapping.port == to.port())?;
        self.destination(mapping.inner)
    }

    fn nat_of(&self, address: IpAddr) -> Option<&Nat> {
        let mut nats = self.routers.iter().filter_map(|router| router.nat.as_ref());
        nats.find(|nat| nat.config.public == address)
    }

    /// Whether this is the outer address of a NAT.
    pub(super) fn is_nat(&self, address: IpAddr) -> bool {
        self.nat_of(address).is_some()
    }

    fn router_of(&self, address: IpAddr) -> Option<RouterId> {
        let is_its = |router: &Router| {
            let nat = router.nat.as_ref();
            nat.is_some_and(|nat| nat.config.public == address)
        };
        self.routers.iter().position(is_its).map(RouterId)
    }

    /// The first thing on the way from `above` (the open network if `None`) down to who has `to`.
    fn hop_below(&self, above: Option<RouterId>, to: SocketAddr) -> Option<Hop> {
        let (mut hop, mut parent) = match self.router_of(to.ip()) {
            Some(router) => (Hop::Router(router), self.routers[router.0].behind),
            None => {
                let (node, _) = self.owner(to)?;
                (Hop::Node(node), self.nodes[node.0].behind)
            }
        };
        while parent != above {
            let router = parent?;
            hop = Hop::Router(router);
            parent = self.routers[router.0].behind;
        }
        Some(hop)
    }

    /// Sends a datagram on from the open network, or from a router inwards.
    pub(super) fn send_down(&mut self, above: Option<RouterId>, datagram: Transit) {
        match self.hop_below(above, datagram.to) {
            Some(Hop::Router(router)) => {
                let datagram = Transit {
                    router,
                    outward: false,
                    ..datagram
                };
                self.over(Over::Down(router), datagram);
            }
            Some(Hop::Node(node)) => {
                // Who comes from behind a router has crossed a link of its own already.
                let crossed = above.is_none() && self.nodes[datagram.origin.0].behind.is_some();
                if crossed {
                    self.arrive_later(self.now, datagram);
                } else {
                    self.over(Over::Access(datagram.origin, node), datagram);
                }
            }
            None => {
                self.stats.nobody_home += 1;
                if let Some(router) = above {
                    self.routers[router.0].stats.refused += 1;
                }
            }
        }
    }

    /// A datagram is at a router.
    pub(super) fn transit(&mut self, mut datagram: Transit) -> String {
        let id = datagram.router;
        let words = format!(
            "router {} {} {} bytes {} > {}",
            id.0,
            if datagram.outward { "out" } else { "in" },
            datagram.data.len(),
            datagram.from,
            datagram.to
        );
        let now = self.now;
        let router = &mut self.routers[id.0];
        if datagram.outward {
            if let Some(nat) = &mut router.nat {
                let (from, is_new) = nat.outward(now, datagram.from, datagram.to);
                datagram.from = from;
                router.stats.mappings += u64::from(is_new);
            }
            router.stats.forwarded += 1;
            self.over(Over::Up(id), datagram);
            return words;
        }
        if let Some(nat) = &mut router.nat
            && nat.config.public == datagram.to.ip()
        {
            let Some(inner) = nat.inward(now, datagram.from, datagram.to) else {
                router.stats.refused += 1;
                self.stats.nobody_home += 1;
                return format!("{words}: refused");
            };
            datagram.to = inner;
        }
        router.stats.forwarded += 1;
        self.send_down(Some(id), datagram);
        words
    }

    /// Leaves a router, or a node, outwards.
    pub(super) fn send_up(&mut self, from: Option<RouterId>, mut datagram: Transit) {
        match from {
            Some(router) => {
                datagram.router = router;
                datagram.outward = true;
                self.schedule(self.now, Input::Transit(Box::new(datagram)));
            }
            None => self.send_down(None, datagram),
        }
    }

    fn arrive_later(&mut self, at: Duration, datagram: Transit) {
        let Transit {
            from,
            to,
            ecn,
            data,
            ..
        } = datagram;
        let input = Input::Datagram {
            from,
            to,
            ecn,
            data,
        };
        self.schedule(at, input);
    }

    /// Puts a datagram onto a link, and lets what comes out happen.
    fn over(&mut self, over: Over, datagram: Transit) {
        let size = datagram.data.len() + overhead(datagram.to);
        let link = match over {
            Over::Up(router) => self.routers[router.0].up.as_mut(),
            Over::Down(router) => self.routers[router.0].down.as_mut(),
            Over::Access(from, to) => {
                let Some(link) = self.links.get_mut(&(from, to)) else {
                    self.stats.no_link += 1;
                    return;
                };
                Some(link)
            }
        };
        let passage = match link {
            None => None,
            Some(link) => match link.send(self.now, size, datagram.ecn) {
                Ok(passage) => Some(passage),
                Err(loss) => {
                    let words = format!(
                        "-> udp {} bytes {} > {}: {}",
                        datagram.data.len(),
                        datagram.from,
                        datagram.to,
                        loss.name()
                    );
                    self.log(datagram.origin, words);
                    return;
                }
            },
        };
        let mut datagram = datagram;
        let mut times = [Some(self.now), None];
        if let Some(passage) = passage {
            datagram.ecn = passage.ecn;
            super::drive::flip(&mut datagram.data, passage.flip);
            times = [Some(passage.at), passage.again];
        }
        for at in times.into_iter().flatten() {
            let datagram = datagram.clone();
            match over {
                Over::Up(router) => {
                    let behind = self.routers[router.0].behind;
                    match behind {
                        Some(next) => {
                            let datagram = Transit {
                                router: next,
                                outward: true,
                                ..datagram
                            };
                            self.schedule(at, Input::Transit(Box::new(datagram)));
                        }
                        None => self.schedule(at, Input::Open(Box::new(datagram))),
                    }
                }
                Over::Down(_) => self.schedule(at, Input::Transit(Box::new(datagram))),
                Over::Access(..) => self.arrive_later(at, datagram),
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Over {
    Up(RouterId),
    Down(RouterId),
    Access(NodeId, NodeId),
}

#[cfg(test)]
mod tests;
