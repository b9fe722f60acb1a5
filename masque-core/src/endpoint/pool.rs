//! Which addresses clients have: pools, leases per identity, static assignments.
//!
//! Nothing is enumerated: a pool is two numbers, and memory grows with the addresses in use.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use super::config::{Lease, StaticAssignment};
use super::types::Identity;
use crate::wire::prefix::IpPrefix;

/// No address is left in a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("address pool exhausted")]
pub(super) struct Exhausted;

/// Addresses for clients.
#[derive(Debug)]
pub(super) struct AddressBook {
    pools: Vec<Pool>,
    statics: BTreeMap<Identity, Vec<IpPrefix>>,
    leases: BTreeMap<Identity, Lease>,
    /// Every address somebody has: leased, lent for one tunnel, or static.
    taken: BTreeSet<IpAddr>,
    static_prefixes: Vec<IpPrefix>,
    lifetime: Duration,
}

#[derive(Debug)]
struct Pool {
    prefix: IpPrefix,
    first: u128,
    last: u128,
    cursor: u128,
}

impl AddressBook {
    pub(super) fn new(
        pools: &[IpPrefix],
        gateways: &[IpAddr],
        statics: &[StaticAssignment],
        leases: &[Lease],
        lifetime: Duration,
    ) -> Self {
        let mut book = Self {
            pools: pools.iter().map(|&prefix| Pool::new(prefix)).collect(),
            statics: statics
                .iter()
                .map(|entry| (entry.identity.clone(), entry.addresses.clone()))
                .collect(),
            leases: BTreeMap::new(),
            taken: gateways.iter().copied().collect(),
            static_prefixes: statics
                .iter()
                .flat_map(|entry| entry.addresses.iter().copied())
                .collect(),
            lifetime,
        };
        for lease in leases {
            let usable = lease.addresses.iter().all(|&address| book.is_free(address));
            if usable && !book.statics.contains_key(&lease.identity) {
                book.taken.extend(lease.addresses.iter().copied());
                book.leases.insert(lease.identity.clone(), lease.clone());
            }
        }
        book
    }

    /// Whether `address` lies in a pool or belongs to a static assignment.
    pub(super) fn covers(&self, address: IpAddr) -> bool {
        self.pools.iter().any(|pool| pool.prefix.contains(address))
            || self
                .static_prefixes
                .iter()
                .any(|prefix| prefix.contains(address))
    }

    /// The IP versions of the pools.
    pub(super) fn has_version(&self, v4: bool) -> bool {
        self.pools
            .iter()
            .any(|pool| pool.prefix.address().is_ipv4() == v4)
            || self
                .static_prefixes
                .iter()
                .any(|prefix| prefix.address().is_ipv4() == v4)
    }

    /// The addresses of an identity: its static ones, else its lease, renewed or made now. The second
    /// part says what changed, to be kept across restarts.
    pub(super) fn lease(
        &mut self,
        identity: &Identity,
        wanted: &[IpAddr],
        now: SystemTime,
    ) -> Result<(Vec<IpPrefix>, Option<Lease>), Exhausted> {
        if let Some(addresses) = self.statics.get(identity) {
            return Ok((addresses.clone(), None));
        }
        let mut addresses = self
            .leases
            .get(identity)
            .map(|lease| lease.addresses.clone())
            .unwrap_or_default();
        for index in 0..self.pools.len() {
            let prefix = self.pools[index].prefix;
            if addresses.iter().any(|&address| prefix.contains(address)) {
                continue;
            }
            match self.allocate(index, wanted, now) {
                Ok(address) => addresses.push(address),
                Err(exhausted) if self.leases.contains_key(identity) && !addresses.is_empty() => {
                    let _ = exhausted;
                }
                Err(exhausted) => {
                    for address in addresses {
                        self.taken.remove(&address);
                    }
                    return Err(exhausted);
                }
            }
        }
        let lease = Lease {
            identity: identity.clone(),
            addresses: addresses.clone(),
            last_used: now,
        };
        self.leases.insert(identity.clone(), lease.clone());
        Ok((
            addresses.into_iter().map(IpPrefix::host).collect(),
            Some(lease),
        ))
    }

    /// One address of each pool for as long as one tunnel lives.
    pub(super) fn lend(&mut self, now: SystemTime) -> Result<Vec<IpPrefix>, Exhausted> {
        let mut lent = Vec::new();
        for index in 0..self.pools.len() {
            match self.allocate(index, &[], now) {
                Ok(address) => lent.push(IpPrefix::host(address)),
                Err(exhausted) => {
                    self.give_back(&lent);
                    return Err(exhausted);
                }
            }
        }
        Ok(lent)
    }

    /// Takes lent addresses back.
    pub(super) fn give_back(&mut self, addresses: &[IpPrefix]) {
        for prefix in addresses {
            self.taken.remove(&prefix.address());
        }
    }

    /// Notes that an identity's lease was in use until now.
    pub(super) fn touch(&mut self, identity: &Identity, now: SystemTime) -> Option<Lease> {
        let lease = self.leases.get_mut(identity)?;
        lease.last_used = now;
        Some(lease.clone())
    }

    /// Ends leases nobody has used for their lifetime, except those `in_use` names.
    pub(super) fn expire(
        &mut self,
        now: SystemTime,
        in_use: impl Fn(&Identity) -> bool,
    ) -> Vec<Identity> {
        let ended: Vec<Identity> = self
            .leases
            .values()
            .filter(|lease| {
                now.duration_since(lease.last_used)
                    .is_ok_and(|unused| unused > self.lifetime)
            })
            .map(|lease| lease.identity.clone())
            .filter(|identity| !in_use(identity))
            .collect();
        for identity in &ended {
            if let Some(lease) = self.leases.remove(identity) {
                for address in lease.addresses {
                    self.taken.remove(&address);
                }
            }
        }
        ended
    }

    fn is_free(&self, address: IpAddr) -> bool {
        !self.taken.contains(&address)
            && !self
                .static_prefixes
                .iter()
                .any(|prefix| prefix.contains(address))
            && self
                .pools
                .iter()
                .any(|pool| pool.prefix.contains(address) && pool.usable(address))
    }

    fn allocate(
        &mut self,
        index: usize,
        wanted: &[IpAddr],
        _now: SystemTime,
    ) -> Result<IpAddr, Exhausted> {
        let prefix = self.pools[index].prefix;
        if let Some(&address) = wanted
            .iter()
            .find(|&&address| prefix.contains(address) && self.is_free(address))
        {
            self.taken.insert(address);
            return Ok(address);
        }
        let (first, last, cursor) = {
            let pool = &self.pools[index];
            (pool.first, pool.last, pool.cursor)
        };
        if first > last {
            return Err(Exhausted);
        }
        let found = self
            .gap(index, cursor, last)
            .or_else(|| self.gap(index, first, last))
            .ok_or(Exhausted)?;
        let pool = &mut self.pools[index];
        pool.cursor = if found < pool.last {
            found + 1
        } else {
            pool.first
        };
        let address = pool.address(found);
        self.taken.insert(address);
        Ok(address)
    }

    /// The first free number in `from..=to`: steps over taken addresses, of which there are finitely
    /// many, and over static prefixes, each at once.
    fn gap(&self, index: usize, from: u128, to: u128) -> Option<u128> {
        let pool = &self.pools[index];
        let mut at = from;
        while at <= to {
            let address = pool.address(at);
            if let Some(prefix) = self
                .static_prefixes
                .iter()
                .find(|prefix| prefix.contains(address))
            {
                at = number(prefix.last()).checked_add(1)?;
            } else if self.taken.contains(&address) {
                at = at.checked_add(1)?;
            } else {
                return Some(at);
            }
        }
        None
    }
}

impl Pool {
    /// Network and broadcast addresses of IPv4, and the subnet-router anycast address of IPv6, are
    /// nobody's; in /31, /32, /127 and /128 every address is a host (RFC 3021, RFC 6164).
    fn new(prefix: IpPrefix) -> Self {
        let (mut first, mut last) = (number(prefix.address()), number(prefix.last()));
        if last - first > 1 {
            first += 1;
            if prefix.address().is_ipv4() {
                last -= 1;
            }
        }
        Self {
            prefix,
            first,
            last,
            cursor: first,
        }
    }

    fn usable(&self, address: IpAddr) -> bool {
        (self.first..=self.last).contains(&number(address))
    }

    fn address(&self, number: u128) -> IpAddr {
        match self.prefix.address() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(number as u32)),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

#[cfg(test)]
mod tests;
