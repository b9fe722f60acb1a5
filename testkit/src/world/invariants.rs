//! What holds in every simulated run, whatever happens in it.
//!
//! After each drain of an endpoint:
//!
//! - every packet it delivered was sent by somebody, is as it was sent, and has the hop count it had (one
//!   less from client to client, RFC 9484 §7.2);
//! - its source and destination are those of one tunnel: an assigned address at the client's end, a route
//!   the server advertised and the scope at the other (ICMP excepted, as §4.6 and §4.7.3 need it);
//! - no address belongs to tunnels of two identities;
//! - nobody closed a connection or a tunnel for a violation, as long as only nodes of this world speak;
//! - queues are within their limits.
//!
//! Once it is quiet, [`World::check_quiet`]:
//!
//! - both ends of every tunnel agree on its addresses;
//! - every packet sent was delivered, dropped with a counted reason, or lost with a datagram.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use masque_core::H3Code;
use masque_core::endpoint::{
    CloseReason, Config, DropReason, Endpoint, Event, Identity, TunnelClosed, TunnelHandle,
};
use masque_core::wire::capsule::RouteAdvertisement;
use masque_core::wire::prefix::IpPrefix;
use masque_core::wire::scope::{Scope, Target};

use super::{NodeId, World};
use crate::seed::Fnv;

/// No packet is on its way for so long.
const GENERATION: Duration = Duration::from_secs(60);
/// What total limits leave to tunnels whose queue is empty (`Forwarding`), for each.
const SPARE: usize = 64 << 10;
/// Inner packets in one datagram at most: none is smaller than an IPv4 header.
const PACKETS_PER_DATAGRAM: u64 = 80;

/// What is known of one tunnel from what its endpoint said.
#[derive(Clone, Debug, Default)]
struct Facts {
    identity: Option<Identity>,
    scope: Scope,
    addresses: Vec<IpPrefix>,
    routes: RouteAdvertisement,
}

/// What is known of a node.
#[derive(Debug, Default)]
pub(super) struct Audit {
    tunnels: BTreeMap<TunnelHandle, Facts>,
    /// What held until this drain.
    retired: Vec<Facts>,
    /// Delivered in this drain.
    delivered: Vec<Head>,
    changed: bool,
    drains: u64,
}

/// What is known of the world.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// What was sent, by who is a client: this generation and the last.
    sent: [BTreeMap<u64, Sides>; 2],
    rotated: Duration,
    given: u64,
    fragments: bool,
    /// Connections, tunnels or nodes ended: packets may have been in them.
    ended: bool,
    dropped_before: u64,
    icmp_before: u64,
    /// Every address a node ever had.
    known: BTreeSet<IpAddr>,
    strangers: bool,
    /// Endpoints were used in ways that nobody saw.
    unseen: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sides {
    client: bool,
    server: bool,
}

/// What decides about a packet.
#[derive(Clone, Copy, Debug)]
struct Head {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    is_error: bool,
    is_fragment: bool,
    hops: u8,
}

impl Head {
    /// Of IPv4 and of IPv6; the protocol is that behind no extension header.
    fn read(bytes: &[u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => {
                let header = bytes.first_chunk::<20>()?;
                let at = usize::from(header[0] & 0x0f) * 4;
                let protocol = header[9];
                let kind = bytes.get(at);
                Some(Self {
                    source: IpAddr::from([header[12], header[13], header[14], header[15]]),
                    destination: IpAddr::from([header[16], header[17], header[18], header[19]]),
                    protocol,
                    is_error: protocol == 1 && matches!(kind, Some(3 | 11 | 12)),
                    is_fragment: u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0,
                    hops: header[8],
                })
            }
            6 => {
                let header = bytes.first_chunk::<40>()?;
                let source: [u8; 16] = header[8..24].try_into().ok()?;
                let destination: [u8; 16] = header[24..40].try_into().ok()?;
                let kind = bytes.get(40);
                Some(Self {
                    source: source.into(),
                    destination: destination.into(),
                    protocol: header[6],
                    is_error: header[6] == 58 && kind.is_some_and(|kind| *kind < 128),
                    is_fragment: false,
                    hops: header[7],
                })
            }
            _ => None,
        }
    }

    fn client_end(&self, at_server: bool) -> IpAddr {
        if at_server {
            self.source
        } else {
            self.destination
        }
    }

    fn is_icmp(&self) -> bool {
        self.protocol == if self.source.is_ipv4() { 1 } else { 58 }
    }
}

/// The beginning of a packet, all that routers change left out; its hop count is `hops`.
fn fingerprint(bytes: &[u8], hops: u8) -> u64 {
    let mut head = [0; 64];
    let length = bytes.len().min(head.len());
    head[..length].copy_from_slice(&bytes[..length]);
    if head[0] >> 4 == 4 {
        head[1] &= 0xfc;
        head[8] = hops;
        head[10..12].fill(0);
    } else {
        head[1] &= 0xcf;
        head[7] = hops;
    }
    let mut hash = Fnv::default();
    hash.write(&head[..length]);
    hash.write(&bytes.len().to_be_bytes());
    hash.value()
}

fn is_server(config: &Config) -> bool {
    config.server.is_some()
}

impl Facts {
    /// Whether a packet may have come out of this tunnel's end.
    fn admits(&self, at_server: bool, head: &Head) -> bool {
        let client_end = head.client_end(at_server);
        let server_end = head.client_end(!at_server);
        let mut own = self.addresses.iter();
        if !own.any(|prefix| prefix.contains(client_end)) {
            return false;
        }
        if head.is_icmp() {
            return true;
        }
        let of_scope = self
            .scope
            .protocol
            .is_none_or(|protocol| protocol == head.protocol)
            && match &self.scope.target {
                Target::Any => true,
                Target::Prefix(prefix) => prefix.contains(server_end),
                Target::Name(_) => false,
            };
        let matches = |range: &masque_core::wire::prefix::AddressRange| {
            range.matches(server_end, head.protocol)
        };
        of_scope && (at_server || self.routes.ranges().iter().any(matches))
    }
}

impl Audit {
    fn change(&mut self, tunnel: TunnelHandle) -> &mut Facts {
        self.changed = true;
        let facts = self.tunnels.entry(tunnel).or_default();
        self.retired.push(facts.clone());
        facts
    }
}

impl World {
    /// A packet goes into an endpoint.
    pub(super) fn watch_packet(&mut self, node: NodeId, bytes: &[u8]) {
        if self.now >= self.watch.rotated + GENERATION {
            self.watch.rotated = self.now;
            self.watch.sent.swap(0, 1);
            self.watch.sent[0].clear();
        }
        self.watch.given += 1;
        let Some(head) = Head::read(bytes) else {
            return;
        };
        let may_fragment = head.source.is_ipv4() && bytes[6] & 0x40 == 0;
        self.watch.fragments |= may_fragment && bytes.len() > 500;
        let sides = self.watch.sent[0]
            .entry(fingerprint(bytes, head.hops))
            .or_default();
        match is_server(&self.nodes[node.0].config) {
            true => sides.server = true,
            false => sides.client = true,
        }
    }

    /// A packet comes out of an endpoint.
    pub(super) fn watch_delivery(&mut self, node: NodeId, bytes: &[u8]) {
        let at_server = is_server(&self.nodes[node.0].config);
        let name = &self.nodes[node.0].name;
        let Some(head) = Head::read(bytes) else {
            panic!("{name} at {:?}: delivers what is no packet", self.now);
        };
        // Made on the way: of what was sent, neither has a copy.
        if head.is_error || head.is_fragment || self.watch.unseen {
            return;
        }
        let sent = |hops| {
            let key = fingerprint(bytes, hops);
            let mut all = self.watch.sent.iter();
            all.find_map(|sent| sent.get(&key)).copied()
        };
        let direct = sent(head.hops).is_some_and(|sides| match at_server {
            true => sides.client,
            false => sides.server,
        });
        let across = !at_server
            && head
                .hops
                .checked_add(1)
                .and_then(sent)
                .is_some_and(|sides| sides.client);
        assert!(
            direct || across,
            "{name} at {:?}: delivers a packet that nobody sent so: {head:?}",
            self.now
        );
        self.nodes[node.0].audit.delivered.push(head);
    }

    /// An endpoint says something.
    pub(super) fn watch_event(&mut self, node: NodeId, event: &Event) {
        let audit = &mut self.nodes[node.0].audit;
        let mut violation = None;
        match event {
            Event::TunnelUp {
                tunnel,
                identity,
                scope,
            } => {
                let facts = audit.change(*tunnel);
                facts.identity = identity.clone();
                facts.scope = scope.clone();
            }
            Event::Addresses { tunnel, addresses } => {
                audit.change(*tunnel).addresses = addresses.clone();
            }
            Event::Routes { tunnel, routes } => audit.change(*tunnel).routes = routes.clone(),
            Event::HandedOver { from, to, .. } => {
                // The old one takes packets in until it is told of as ended.
                let facts = audit.tunnels.get(from).cloned().unwrap_or_default();
                *audit.change(*to) = facts;
            }
            Event::TunnelDown { tunnel, reason } => {
                self.watch.ended = true;
                audit.retired.extend(audit.tunnels.remove(tunnel));
                // More than a limit allows is no rule broken.
                if let TunnelClosed::Violation(kind) = reason
                    && kind.code() != H3Code::EXCESSIVE_LOAD
                {
                    violation = Some(kind.to_string());
                }
            }
            Event::ConnectionClosed { reason, .. } => {
                self.watch.ended = true;
                violation = match reason {
                    CloseReason::Violation(kind) => Some(kind.to_string()),
                    CloseReason::Transport(text)
                        if ["violation", "illegal", "malformed", "flow control"]
                            .iter()
                            .any(|word| text.contains(word)) =>
                    {
                        Some(text.clone())
                    }
                    _ => None,
                };
            }
            _ => {}
        }
        if let Some(violation) = violation.filter(|_| !self.watch.strangers && !self.watch.unseen) {
            let name = &self.nodes[node.0].name;
            panic!(
                "{name} at {:?}: one of us broke a rule: {violation}",
                self.now
            );
        }
    }

    /// A datagram arrives from this address.
    pub(super) fn watch_sender(&mut self, from: IpAddr) {
        if !self.watch.known.contains(&from) && !self.is_known(from) {
            self.watch.strangers = true;
        }
    }

    fn is_known(&mut self, from: IpAddr) -> bool {
        let mut sockets = self.nodes.iter().flat_map(|node| &node.sockets);
        let known = sockets.any(|socket| socket.ip() == from) || self.is_nat(from);
        if known {
            self.watch.known.insert(from);
        }
        known
    }

    /// A socket moves: what it sent still arrives.
    pub(super) fn watch_move(&mut self, from: IpAddr) {
        self.watch.known.insert(from);
    }

    /// A node stops.
    pub(super) fn watch_stop(&mut self, node: NodeId) {
        self.nodes[node.0].audit = Audit::default();
        if let Some(endpoint) = &self.nodes[node.0].endpoint {
            self.watch.ended = true;
            self.watch.dropped_before += drops(endpoint);
            self.watch.icmp_before += endpoint.counters().icmp_sent;
        }
    }

    /// Somebody does with an endpoint what no input stands for.
    pub(super) fn watch_nothing(&mut self) {
        self.watch.unseen = true;
    }

    /// An endpoint has been drained.
    pub(super) fn check_drained(&mut self, node: NodeId) {
        let id = node;
        let now = self.now;
        let node = &mut self.nodes[id.0];
        let at_server = is_server(&node.config);
        let audit = &mut node.audit;
        for head in std::mem::take(&mut audit.delivered) {
            let mut facts = audit.tunnels.values().rev().chain(&audit.retired);
            let told = facts.any(|facts| facts.admits(at_server, &head));
            // A new tunnel carries packets before it is told of, which takes a few round trips.
            let endpoint = node.endpoint.as_ref().filter(|_| !told);
            let untold = endpoint.is_some_and(|endpoint| {
                let mut new = endpoint
                    .tunnels()
                    .filter(|it| !audit.tunnels.contains_key(it));
                new.any(|tunnel| {
                    let own = endpoint.tunnel(tunnel).map(|info| info.addresses);
                    let own = own.unwrap_or_default();
                    own.iter()
                        .any(|prefix| prefix.contains(head.client_end(at_server)))
                })
            });
            assert!(
                told || untold,
                "{} at {now:?}: delivers what belongs to no tunnel: {head:?}",
                node.name
            );
        }
        audit.retired.clear();
        if std::mem::take(&mut audit.changed) && at_server {
            let mut owners: Vec<(&IpPrefix, &Option<Identity>)> = Vec::new();
            for facts in audit.tunnels.values() {
                for own in &facts.addresses {
                    let theirs = owners.iter().find(|(other, identity)| {
                        (other.covers(own) || own.covers(other)) && **identity != facts.identity
                    });
                    assert!(
                        theirs.is_none(),
                        "{} at {now:?}: {own} is {:?}'s and {theirs:?}",
                        node.name,
                        facts.identity
                    );
                    owners.push((own, &facts.identity));
                }
            }
        }
        audit.drains += 1;
        if audit.drains.is_multiple_of(16)
            && let Some(endpoint) = &node.endpoint
        {
            let usage = endpoint.usage();
            let limits = &node.config.limits;
            let spare = SPARE * usage.tunnels;
            assert!(
                usage.queued_bytes <= limits.total_queue_bytes + spare,
                "{} at {now:?}: {usage:?} is more than {limits:?}",
                node.name
            );
            assert!(
                usage.connections <= limits.max_connections,
                "{} at {now:?}: {usage:?} is more than {limits:?}",
                node.name
            );
        }
    }

    /// Whether servers and clients know the same tunnels with the same addresses. A peer that is gone is missed
    /// after three probe timeouts only, however short the idle timeout (RFC 9000 §10.1).
    #[must_use]
    pub fn ends_agree(&self) -> bool {
        let (of_servers, of_clients) = self.addresses_by_role();
        of_servers == of_clients
    }

    /// The addresses of each tunnel, as servers and as clients know them.
    fn addresses_by_role(&self) -> (Vec<Vec<IpPrefix>>, Vec<Vec<IpPrefix>>) {
        let (mut of_servers, mut of_clients) = (Vec::new(), Vec::new());
        for node in &self.nodes {
            let Some(endpoint) = &node.endpoint else {
                continue;
            };
            for tunnel in endpoint.tunnels() {
                let info = endpoint.tunnel(tunnel).expect("it is listed");
                let mut addresses = info.addresses;
                addresses.sort_unstable();
                match is_server(&node.config) {
                    true => of_servers.push(addresses),
                    false => of_clients.push(addresses),
                }
            }
        }
        of_servers.sort_unstable();
        of_clients.sort_unstable();
        (of_servers, of_clients)
    }

    /// Checks what holds once nothing is on its way any more and nobody is about to do anything: the
    /// caller sees to that, with links that work and time for keep-alives and time-outs.
    ///
    /// # Panics
    /// Where it does not hold.
    pub fn check_quiet(&self) {
        let mut queued = 0;
        let (mut dropped, mut icmp) = (self.watch.dropped_before, self.watch.icmp_before);
        let mut delivered = 0;
        for node in &self.nodes {
            delivered += node.delivered;
            let Some(endpoint) = &node.endpoint else {
                continue;
            };
            dropped += drops(endpoint);
            icmp += endpoint.counters().icmp_sent;
            queued += endpoint.usage().queued_datagrams as u64;
        }
        let (of_servers, of_clients) = self.addresses_by_role();
        assert_eq!(
            of_servers, of_clients,
            "at {:?}: both ends know the same tunnels with the same addresses",
            self.now
        );
        let lost = self.lost();
        let came = delivered + dropped + queued;
        let went = self.watch.given + icmp;
        if self.watch.fragments || self.watch.unseen {
            return;
        }
        assert!(
            came <= went,
            "at {:?}: {came} packets came of {went}",
            self.now
        );
        let may_lack = match self.watch.ended {
            true => u64::MAX,
            false => lost.saturating_mul(PACKETS_PER_DATAGRAM),
        };
        assert!(
            went - came <= may_lack,
            "at {:?}: of {went} packets {delivered} were delivered, {dropped} dropped for a reason, \
             {queued} wait; {lost} datagrams were lost",
            self.now
        );
    }

    /// Datagrams lost on the way, damaged ones among them.
    fn lost(&self) -> u64 {
        let routers = (0..self.routers()).flat_map(|nth| {
            let id = super::RouterId(nth);
            self.router_links(id).into_iter().flatten()
        });
        let links = self.links.values().map(|link| link.stats).chain(routers);
        let on_links: u64 = links
            .map(|stats| {
                stats.lost
                    + stats.queue_full
                    + stats.too_big
                    + stats.down
                    + stats.listed
                    + stats.codel
                    + stats.corrupted
            })
            .sum();
        let stats = self.stats;
        on_links + stats.nobody_home + stats.no_link + stats.unknown_destination
    }
}

fn drops(endpoint: &Endpoint) -> u64 {
    let counters = endpoint.counters();
    counters
        .drops()
        // UDP datagrams, not packets.
        .filter(|(reason, _)| *reason != DropReason::HandshakeLimit)
        .map(|(_, count)| count)
        .sum()
}
