//! What a client lets a server install: pure functions.
//!
//! The server is a stranger. What it advertises and assigns is cut down to what the client's own
//! configuration accepts, and never touches loopback, link-local, multicast or unspecified addresses,
//! nor, unless allowed, the local networks. The server's own address is never given a route of its
//! own; inside a wider route it does no harm, because the tunnel's packets carry a firewall mark. (A
//! hole in the routes for it would let whoever answers the DNS query choose what leaves in clear.)

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use masque_core::wire::prefix::{AddressRange, IpPrefix};

/// What the client's configuration accepts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AcceptPolicy {
    /// Where routes may lie.
    pub routes: Vec<IpPrefix>,
    /// Where addresses may lie.
    pub addresses: Vec<IpPrefix>,
    /// Whether routes may cover the local networks.
    pub allow_lan: bool,
    /// The most routes installed.
    pub max_routes: usize,
    /// The most addresses installed.
    pub max_addresses: usize,
}

/// Where the client stands.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Surroundings {
    /// The address the tunnel's UDP packets go to.
    pub server: Option<IpAddr>,
    /// The networks the host is directly connected to.
    pub local: Vec<IpPrefix>,
}

/// What is to be installed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Installable<T> {
    /// What may be installed, in ascending order without overlaps.
    pub install: Vec<T>,
    /// What was offered and refused, in words.
    pub refused: Vec<String>,
}

/// The never-routable networks of both versions, and why.
const NEVER: [(IpAddr, u8, &str); 8] = [
    (
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        8,
        "\"this network\" (0.0.0.0/8)",
    ),
    (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8, "loopback"),
    (IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), 16, "link-local"),
    (IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), 4, "multicast"),
    (IpAddr::V4(Ipv4Addr::new(240, 0, 0, 0)), 4, "reserved"),
    (
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        32,
        "unspecified, loopback or IPv4-mapped (::/32)",
    ),
    (
        IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)),
        10,
        "link-local",
    ),
    (
        IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)),
        8,
        "multicast",
    ),
];

/// The networks that are never routed into a tunnel.
fn never() -> impl Iterator<Item = (IpPrefix, &'static str)> {
    NEVER
        .into_iter()
        .filter_map(|(address, length, why)| Some((IpPrefix::new(address, length).ok()?, why)))
}

/// Why all or part of `prefix` can never be routed, unless it is so short that it merely contains such
/// networks among others.
#[must_use]
pub fn never_routable(prefix: &IpPrefix) -> Option<&'static str> {
    never()
        .find(|(net, _)| net.covers(prefix) || (prefix.covers(net) && prefix.length() > 0))
        .map(|(_, why)| why)
}

/// The routes to install for what the server advertises: its ranges, whatever their protocol (the
/// core refuses packets of other protocols), within the accepted ones, without forbidden ones.
#[must_use]
pub fn routes(
    policy: &AcceptPolicy,
    around: &Surroundings,
    offered: &[AddressRange],
) -> Installable<IpPrefix> {
    let mut refused = Vec::new();
    let mut wanted = Ranges::default();
    for range in offered {
        let mut rest = Ranges::default();
        rest.add(Range::of(range));
        rest.intersect(policy.routes.iter().map(Range::of_prefix));
        if rest.is_empty() {
            refused.push(format!("{} is not in accept_routes", describe(range)));
            continue;
        }
        let mut reason = None;
        for (net, why) in never() {
            if rest.subtract(Range::of_prefix(&net)) {
                reason = reason.or(Some(why));
            }
        }
        if !policy.allow_lan {
            for net in &around.local {
                if rest.subtract(Range::of_prefix(net)) {
                    reason = reason.or(Some("a local network"));
                }
            }
        }
        if let Some(server) = around.server
            && rest.only(server)
        {
            rest = Ranges::default();
            reason = Some("the server's own address");
        }
        match reason {
            Some(why) if rest.is_empty() => {
                refused.push(format!("{} is {why}", describe(range)));
            }
            _ => wanted.merge(rest),
        }
    }
    let mut install: Vec<IpPrefix> = wanted.prefixes().collect();
    // Two neighbouring ranges, or what is left of a cut one, can leave a route for the server alone.
    install.retain(|prefix| !(prefix.is_host() && Some(prefix.address()) == around.server));
    if install.len() > policy.max_routes {
        refused.push(format!(
            "{} of {} routes are over max_routes",
            install.len() - policy.max_routes,
            install.len()
        ));
        // The widest first: they carry the most.
        install.sort_by_key(|prefix| (host_bits(prefix), *prefix));
        install.drain(..install.len() - policy.max_routes);
        install.sort();
    }
    Installable { install, refused }
}

/// The part of `installed` that only wins over a local network when it stands in the main table, as
/// halves where it is as wide as that network. Empty unless `allow_lan`.
#[must_use]
pub fn lan_routes(
    policy: &AcceptPolicy,
    around: &Surroundings,
    installed: &[IpPrefix],
) -> Vec<IpPrefix> {
    if !policy.allow_lan {
        return Vec::new();
    }
    let mut over = Ranges::default();
    for prefix in installed {
        for net in &around.local {
            if prefix.covers(net) {
                over.add(Range::of_prefix(net));
            } else if net.covers(prefix) {
                over.add(Range::of_prefix(prefix));
            }
        }
    }
    let halve = |prefix: IpPrefix| {
        let same = around.local.iter().any(|net| prefix.covers(net));
        match prefix.to_ipnet().subnets(prefix.length().saturating_add(1)) {
            Ok(halves) if same => halves
                .filter_map(|net| IpPrefix::new(net.network(), net.prefix_len()).ok())
                .collect(),
            _ => vec![prefix],
        }
    };
    over.prefixes().flat_map(halve).collect()
}

/// The addresses to install for what the server assigns.
#[must_use]
pub fn addresses(
    policy: &AcceptPolicy,
    around: &Surroundings,
    assigned: &[IpPrefix],
) -> Installable<IpPrefix> {
    let mut install: Vec<IpPrefix> = Vec::new();
    let mut refused = Vec::new();
    for prefix in assigned {
        let why = if let Some(why) = never_routable(prefix) {
            Some(why)
        } else if !policy.addresses.iter().any(|net| net.covers(prefix)) {
            Some("not in accept_addresses")
        } else if around.server.is_some_and(|server| prefix.contains(server)) {
            Some("the server's own address")
        } else if !policy.allow_lan
            && around
                .local
                .iter()
                .any(|net| net.covers(prefix) || prefix.covers(net))
        {
            Some("in a local network")
        } else if install.len() >= policy.max_addresses {
            Some("over max_addresses")
        } else {
            None
        };
        match why {
            Some(why) => refused.push(format!("{prefix} is {why}")),
            None => install.push(*prefix),
        }
    }
    install.sort();
    install.dedup();
    Installable { install, refused }
}

fn describe(range: &AddressRange) -> String {
    let mut prefixes = range.prefixes();
    match (prefixes.next(), prefixes.next()) {
        (Some(only), None) => only.to_string(),
        _ => format!("{}-{}", range.start(), range.end()),
    }
}

fn host_bits(prefix: &IpPrefix) -> u8 {
    let bits = if prefix.address().is_ipv4() { 32 } else { 128 };
    bits - prefix.length()
}

/// Addresses of one version as numbers, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Range {
    v6: bool,
    first: u128,
    last: u128,
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

impl Range {
    fn of(range: &AddressRange) -> Self {
        Self {
            v6: range.start().is_ipv6(),
            first: number(range.start()),
            last: number(range.end()),
        }
    }

    fn of_prefix(prefix: &IpPrefix) -> Self {
        Self {
            v6: prefix.address().is_ipv6(),
            first: number(prefix.address()),
            last: number(prefix.last()),
        }
    }

    fn meets(&self, other: &Self) -> bool {
        self.v6 == other.v6 && self.first <= other.last && other.first <= self.last
    }

    fn address(&self, number: u128) -> IpAddr {
        match u32::try_from(number) {
            Ok(number) if !self.v6 => IpAddr::V4(number.into()),
            _ => IpAddr::V6(number.into()),
        }
    }
}

/// A set of addresses.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Ranges(Vec<Range>);

impl Ranges {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn only(&self, address: IpAddr) -> bool {
        let number = number(address);
        matches!(self.0[..], [range]
            if range.v6 == address.is_ipv6() && range.first == number && range.last == number)
    }

    fn add(&mut self, range: Range) {
        self.merge(Self(vec![range]));
    }

    fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
        self.0.sort_by_key(|range| (range.v6, range.first));
        let mut merged: Vec<Range> = Vec::with_capacity(self.0.len());
        for range in self.0.drain(..) {
            match merged.last_mut() {
                Some(last)
                    if last.v6 == range.v6
                        && last
                            .last
                            .checked_add(1)
                            .is_none_or(|next| range.first <= next) =>
                {
                    last.last = last.last.max(range.last);
                }
                _ => merged.push(range),
            }
        }
        self.0 = merged;
    }

    /// Takes `hole` out; whether there was anything of it.
    fn subtract(&mut self, hole: Range) -> bool {
        let mut hit = false;
        let mut rest = Vec::with_capacity(self.0.len() + 1);
        for range in self.0.drain(..) {
            if !range.meets(&hole) {
                rest.push(range);
                continue;
            }
            hit = true;
            if range.first < hole.first {
                rest.push(Range {
                    last: hole.first - 1,
                    ..range
                });
            }
            if range.last > hole.last {
                rest.push(Range {
                    first: hole.last + 1,
                    ..range
                });
            }
        }
        self.0 = rest;
        hit
    }

    fn intersect(&mut self, with: impl Iterator<Item = Range>) {
        let mut both = Self::default();
        for other in with {
            for range in self.0.iter().filter(|range| range.meets(&other)) {
                both.add(Range {
                    v6: range.v6,
                    first: range.first.max(other.first),
                    last: range.last.min(other.last),
                });
            }
        }
        *self = both;
    }

    fn prefixes(&self) -> impl Iterator<Item = IpPrefix> + '_ {
        self.0
            .iter()
            .filter_map(|range| {
                AddressRange::new(range.address(range.first), range.address(range.last), 0).ok()
            })
            .flat_map(|range| range.prefixes())
    }
}

#[cfg(test)]
mod tests;
