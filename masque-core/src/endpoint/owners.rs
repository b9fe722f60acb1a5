//! Whose packets are whose: every prefix that a tunnel has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use super::types::TunnelHandle;
use crate::wire::prefix::IpPrefix;

/// A prefix is a tunnel's from now on, or no longer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    Claim(IpPrefix, TunnelHandle),
    Release(IpPrefix, TunnelHandle),
}

/// Which tunnel a packet goes to. Tunnels of one identity share addresses: the newest has the
/// packets, and which was established last is a matter of luck.
#[derive(Clone, Default)]
pub(super) struct Owners {
    v4: PrefixMap<Ipv4Net, TunnelHandle>,
    v6: PrefixMap<Ipv6Net, TunnelHandle>,
    /// The older tunnels of prefixes that several have.
    older: BTreeMap<IpPrefix, BTreeSet<TunnelHandle>>,
}

impl Owners {
    /// Whose address this is.
    pub(super) fn of(&self, address: IpAddr) -> Option<TunnelHandle> {
        match address {
            IpAddr::V4(v4) => self.v4.get_lpm(&Ipv4Net::from(v4)).map(|(_, owner)| *owner),
            IpAddr::V6(v6) => self.v6.get_lpm(&Ipv6Net::from(v6)).map(|(_, owner)| *owner),
        }
    }

    /// How many prefixes lead to tunnels.
    pub(super) fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::Claim(prefix, tunnel) => match self.get(prefix) {
                Some(owner) if owner == tunnel => {}
                Some(owner) => {
                    let older = self.older.entry(prefix).or_default();
                    older.insert(owner.min(tunnel));
                    self.set(prefix, Some(owner.max(tunnel)));
                }
                None => self.set(prefix, Some(tunnel)),
            },
            Change::Release(prefix, tunnel) => {
                let mut older = self.older.remove(&prefix).unwrap_or_default();
                if self.get(prefix) == Some(tunnel) {
                    self.set(prefix, older.pop_last());
                } else {
                    older.remove(&tunnel);
                }
                if !older.is_empty() {
                    self.older.insert(prefix, older);
                }
            }
        }
    }

    fn get(&self, prefix: IpPrefix) -> Option<TunnelHandle> {
        match prefix.to_ipnet() {
            IpNet::V4(net) => self.v4.get(&net).copied(),
            IpNet::V6(net) => self.v6.get(&net).copied(),
        }
    }

    fn set(&mut self, prefix: IpPrefix, owner: Option<TunnelHandle>) {
        match (prefix.to_ipnet(), owner) {
            (IpNet::V4(net), Some(owner)) => drop(self.v4.insert(net, owner)),
            (IpNet::V6(net), Some(owner)) => drop(self.v6.insert(net, owner)),
            (IpNet::V4(net), None) => drop(self.v4.remove(&net)),
            (IpNet::V6(net), None) => drop(self.v6.remove(&net)),
        }
    }
}

#[cfg(test)]
mod tests;
