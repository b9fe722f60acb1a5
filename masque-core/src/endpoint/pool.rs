//! Which addresses clients have: pools, leases per identity, static assignments.
//!
//! Nothing is enumerated: a pool is two numbers, and memory grows with the addresses in use.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use super::config::{Lease, StaticAssignment};
use super::runs::Runs;
use super::space::AddressSpace;
use super::types::{Identity, TunnelHandle};
use crate::wire::prefix::IpPrefix;

/// No address is left in a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("address pool exhausted")]
pub(super) struct Exhausted;

/// What a tunnel was assigned by command, and the identity it was for.
type Reservation = (Option<Identity>, Vec<IpPrefix>);

/// Addresses for clients.
#[derive(Debug)]
pub(super) struct AddressBook {
    pools: Vec<Pool>,
    statics: BTreeMap<Identity, Vec<IpPrefix>>,
    leases: BTreeMap<Identity, Lease>,
    /// Every address somebody has: leased, lent for one tunnel, or static.
    taken: BTreeSet<IpAddr>,
    static_prefixes: Vec<IpPrefix>,
    static_space: AddressSpace,
    /// What no pool may give out now, by IP version: taken, static or set aside. Kept beside the
    /// others, so that the next free address is found at once.
    blocked: [Runs; 2],
    /// Addresses lent for as long as one tunnel lives.
    lent: usize,
    /// What tunnels were assigned by command, and for whom: nobody else gets it meanwhile.
    reserved: BTreeMap<TunnelHandle, Reservation>,
    reserved_space: AddressSpace,
    /// Before then no lease expires.
    next_expiry: Option<SystemTime>,
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
            taken: BTreeSet::new(),
            blocked: Default::default(),
            static_space: statics
                .iter()
                .flat_map(|entry| entry.addresses.iter().copied())
                .collect(),
            static_prefixes: statics
                .iter()
                .flat_map(|entry| entry.addresses.iter().copied())
                .collect(),
            lent: 0,
            reserved: BTreeMap::new(),
            reserved_space: AddressSpace::default(),
            next_expiry: None,
            lifetime,
        };
        for &gateway in gateways {
            book.take(gateway);
        }
        for prefix in &book.static_prefixes {
            block(&mut book.blocked, prefix);
        }
        for lease in leases {
            let known = book.statics.contains_key(&lease.identity)
                || book.leases.contains_key(&lease.identity);
            let usable = lease.addresses.iter().all(|&address| book.is_free(address));
            if usable && !known {
                lease
                    .addresses
                    .iter()
                    .for_each(|&address| book.take(address));
                book.leases.insert(lease.identity.clone(), lease.clone());
            }
        }
        book.next_expiry = book.earliest_expiry();
        book
    }

    /// The addresses of an identity: its static ones, else its lease, renewed or made now. The second
    /// part says what changed, to be kept across restarts.
    pub(super) fn lease(
        &mut self,
        identity: &Identity,
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
            match self.allocate(index) {
                Ok(address) => addresses.push(address),
                // A lease stays good where a pool that came later has nothing to add.
                Err(_) if self.leases.contains_key(identity) && !addresses.is_empty() => {}
                Err(exhausted) => {
                    for address in addresses {
                        self.release(address);
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
        self.next_expiry = self.next_expiry.or_else(|| now.checked_add(self.lifetime));
        Ok((
            addresses.into_iter().map(IpPrefix::host).collect(),
            Some(lease),
        ))
    }

    /// One address of each pool for as long as one tunnel lives.
    pub(super) fn lend(&mut self) -> Result<Vec<IpPrefix>, Exhausted> {
        let mut lent = Vec::new();
        for index in 0..self.pools.len() {
            match self.allocate(index) {
                Ok(address) => {
                    self.lent += 1;
                    lent.push(IpPrefix::host(address));
                }
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
            if self.release(prefix.address()) {
                self.lent -= 1;
            }
        }
    }

    /// Whether all of this may be assigned to a tunnel by command: none of it is another identity's,
    /// another tunnel's or the server's. `own` is what the tunnel was lent.
    pub(super) fn may_reserve(
        &self,
        tunnel: TunnelHandle,
        identity: Option<&Identity>,
        own: &[IpPrefix],
        prefixes: &[IpPrefix],
    ) -> bool {
        prefixes
            .iter()
            .all(|prefix| self.may_have(tunnel, identity, own, prefix))
    }

    /// Sets aside what a tunnel is assigned by command, in place of what it was assigned so before,
    /// which [`Self::restore`] takes.
    pub(super) fn reserve(
        &mut self,
        tunnel: TunnelHandle,
        identity: Option<Identity>,
        prefixes: Vec<IpPrefix>,
    ) -> Option<Reservation> {
        let before = self.take_reservation(tunnel);
        self.put_reservation(tunnel, (identity, prefixes));
        before
    }

    /// Undoes a [`Self::reserve`].
    pub(super) fn restore(&mut self, tunnel: TunnelHandle, before: Option<Reservation>) {
        self.end_reservation(tunnel);
        if let Some(before) = before {
            self.put_reservation(tunnel, before);
        }
    }

    /// What a tunnel was assigned by command is free again.
    pub(super) fn end_reservation(&mut self, tunnel: TunnelHandle) {
        self.take_reservation(tunnel);
    }

    /// What a tunnel was assigned by command is another's as well, until both have ended.
    pub(super) fn share_reservation(&mut self, from: TunnelHandle, to: TunnelHandle) {
        if let Some(reservation) = self.reserved.get(&from).cloned() {
            self.put_reservation(to, reservation);
        }
    }

    fn put_reservation(&mut self, tunnel: TunnelHandle, reservation: Reservation) {
        for prefix in &reservation.1 {
            block(&mut self.blocked, prefix);
            self.reserved_space.insert(*prefix);
        }
        self.reserved.insert(tunnel, reservation);
    }

    fn take_reservation(&mut self, tunnel: TunnelHandle) -> Option<Reservation> {
        let ended = self.reserved.remove(&tunnel)?;
        for prefix in &ended.1 {
            self.reserved_space.remove(*prefix);
        }
        for prefix in &ended.1 {
            self.unblock(prefix);
        }
        Some(ended)
    }

    fn may_have(
        &self,
        tunnel: TunnelHandle,
        identity: Option<&Identity>,
        own: &[IpPrefix],
        prefix: &IpPrefix,
    ) -> bool {
        let lease = identity.and_then(|identity| self.leases.get(identity));
        let is_own = |address: &IpAddr| {
            own.iter().any(|own| own.contains(*address))
                || lease.is_some_and(|lease| lease.addresses.contains(address))
        };
        let overlaps = |other: &IpPrefix| other.covers(prefix) || prefix.covers(other);
        let mut taken = self.taken.range(prefix.address()..=prefix.last());
        let mut statics = self.statics.iter();
        let mut reserved = self.reserved.iter();
        taken.all(is_own)
            && (!self.may_overlap(prefix)
                || statics.all(|(owner, prefixes)| {
                    Some(owner) == identity || !prefixes.iter().any(overlaps)
                }) && reserved.all(|(holder, (owner, prefixes))| {
                    let same = owner.is_some() && owner.as_ref() == identity;
                    *holder == tunnel || same || !prefixes.iter().any(overlaps)
                }))
    }

    /// Addresses lent, and prefixes set aside.
    pub(super) fn in_use(&self) -> usize {
        let reserved = self.reserved.values();
        self.lent + reserved.map(|(_, prefixes)| prefixes.len()).sum::<usize>()
    }

    /// Notes that an identity's lease was in use until now.
    pub(super) fn touch(&mut self, identity: &Identity, now: SystemTime) -> Option<Lease> {
        let lease = self.leases.get_mut(identity)?;
        lease.last_used = now;
        Some(lease.clone())
    }

    /// Ends leases nobody has used for their lifetime; those that `in_use` names count as used now,
    /// and are the second part. Costs nothing while none can have expired.
    pub(super) fn expire(
        &mut self,
        now: SystemTime,
        in_use: impl Fn(&Identity) -> bool,
    ) -> (Vec<Identity>, Vec<Lease>) {
        let (mut ended, mut renewed) = (Vec::new(), Vec::new());
        if self.next_expiry.is_none_or(|at| now <= at) {
            return (ended, renewed);
        }
        for lease in self.leases.values_mut() {
            let unused = now.duration_since(lease.last_used).unwrap_or_default();
            if unused <= self.lifetime {
                continue;
            }
            if in_use(&lease.identity) {
                lease.last_used = now;
                renewed.push(lease.clone());
            } else {
                ended.push(lease.identity.clone());
            }
        }
        for identity in &ended {
            if let Some(lease) = self.leases.remove(identity) {
                for address in lease.addresses {
                    self.release(address);
                }
            }
        }
        self.next_expiry = self.earliest_expiry();
        (ended, renewed)
    }

    /// Before then no lease expires.
    pub(super) fn next_expiry(&self) -> Option<SystemTime> {
        self.next_expiry
    }

    /// The leases, in the order of identities.
    pub(super) fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values()
    }

    /// The lease of an identity, if it has one.
    pub(super) fn leased(&self, identity: &Identity) -> Option<Lease> {
        self.leases.get(identity).cloned()
    }

    fn earliest_expiry(&self) -> Option<SystemTime> {
        let last_used = self.leases.values().map(|lease| lease.last_used).min()?;
        last_used.checked_add(self.lifetime)
    }

    fn is_free(&self, address: IpAddr) -> bool {
        let blocked = &self.blocked[version(address)];
        blocked.next_free(number(address)) == Some(number(address))
            && self
                .pools
                .iter()
                .any(|pool| pool.prefix.contains(address) && pool.usable(address))
    }

    fn take(&mut self, address: IpAddr) {
        self.taken.insert(address);
        block(&mut self.blocked, &IpPrefix::host(address));
    }

    /// Whether it was taken.
    fn release(&mut self, address: IpAddr) -> bool {
        let taken = self.taken.remove(&address);
        if taken {
            self.unblock(&IpPrefix::host(address));
        }
        taken
    }

    /// `prefix` is no longer blocked for the one reason there was; what others block of it stays so.
    fn unblock(&mut self, prefix: &IpPrefix) {
        let searched = self.may_overlap(prefix);
        let runs = &mut self.blocked[version(prefix.address())];
        runs.remove(number(prefix.address()), number(prefix.last()));
        for &address in self.taken.range(prefix.address()..=prefix.last()) {
            runs.add(number(address), number(address));
        }
        let reserved = self.reserved.values().flat_map(|(_, prefixes)| prefixes);
        let others = self.static_prefixes.iter().chain(reserved);
        let others = others.filter(|_| searched);
        for other in others {
            if other.covers(prefix) {
                runs.add(number(prefix.address()), number(prefix.last()));
            } else if prefix.covers(other) {
                runs.add(number(other.address()), number(other.last()));
            }
        }
    }

    /// Whether something static or set aside may overlap `prefix`. For a single address it is known at
    /// once.
    fn may_overlap(&self, prefix: &IpPrefix) -> bool {
        let address = prefix.address();
        address != prefix.last()
            || self.static_space.contains(address)
            || self.reserved_space.contains(address)
    }

    fn allocate(&mut self, index: usize) -> Result<IpAddr, Exhausted> {
        let (first, last, cursor) = {
            let pool = &self.pools[index];
            (pool.first, pool.last, pool.cursor)
        };
        if first > last {
            return Err(Exhausted);
        }
        let blocked = &self.blocked[version(self.pools[index].prefix.address())];
        let free = |from| blocked.next_free(from).filter(|&found| found <= last);
        let found = free(cursor).or_else(|| free(first)).ok_or(Exhausted)?;
        let pool = &mut self.pools[index];
        pool.cursor = if found < pool.last {
            found + 1
        } else {
            pool.first
        };
        let address = pool.address(found);
        self.take(address);
        Ok(address)
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

/// Which of two.
fn version(address: IpAddr) -> usize {
    usize::from(address.is_ipv4())
}

fn block(blocked: &mut [Runs; 2], prefix: &IpPrefix) {
    let runs = &mut blocked[version(prefix.address())];
    runs.add(number(prefix.address()), number(prefix.last()));
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

#[cfg(test)]
mod tests;
