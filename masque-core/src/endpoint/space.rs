//! A set of addresses made of prefixes, asked for every packet: as fast with ten thousand prefixes as
//! with one.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use crate::wire::prefix::IpPrefix;

/// Addresses covered by prefixes. A prefix that was put in twice has to be taken out twice.
#[derive(Debug, Default)]
pub(super) struct AddressSpace {
    v4: PrefixMap<Ipv4Net, u32>,
    v6: PrefixMap<Ipv6Net, u32>,
}

impl AddressSpace {
    /// Whether `address` is in it.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.v4.get_lpm(&Ipv4Net::from(v4)).is_some(),
            IpAddr::V6(v6) => self.v6.get_lpm(&Ipv6Net::from(v6)).is_some(),
        }
    }

    /// Whether it has addresses of this IP version.
    pub(super) fn has_version(&self, v4: bool) -> bool {
        match v4 {
            true => !self.v4.is_empty(),
            false => !self.v6.is_empty(),
        }
    }

    /// Puts a prefix in.
    pub(super) fn insert(&mut self, prefix: IpPrefix) {
        let times = match prefix.to_ipnet() {
            IpNet::V4(net) => self.v4.entry(net).or_default(),
            IpNet::V6(net) => self.v6.entry(net).or_default(),
        };
        *times += 1;
    }

    /// Takes a prefix out.
    pub(super) fn remove(&mut self, prefix: IpPrefix) {
        let left = |times: Option<&mut u32>| {
            times.map_or(1, |times| {
                *times -= 1;
                *times
            })
        };
        match prefix.to_ipnet() {
            IpNet::V4(net) if left(self.v4.get_mut(&net)) == 0 => drop(self.v4.remove(&net)),
            IpNet::V6(net) if left(self.v6.get_mut(&net)) == 0 => drop(self.v6.remove(&net)),
            IpNet::V4(_) | IpNet::V6(_) => {}
        }
    }
}

impl FromIterator<IpPrefix> for AddressSpace {
    fn from_iter<I: IntoIterator<Item = IpPrefix>>(prefixes: I) -> Self {
        let mut space = Self::default();
        prefixes.into_iter().for_each(|prefix| space.insert(prefix));
        space
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_address_is_in_it_if_a_prefix_contains_it(
            prefixes in prop::collection::vec((any::<bool>(), any::<u8>(), 0..=8_u8), 0..20),
            gone in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
            v4 in any::<bool>(),
            byte in any::<u8>(),
        ) {
            let address = |v4: bool, byte: u8| -> IpAddr {
                match v4 {
                    true => IpAddr::from([10, 0, 0, byte]),
                    false => IpAddr::from([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, byte]),
                }
            };
            let prefixes = prefixes.into_iter().filter_map(|(v4, byte, length)| {
                let cut = u8::try_from(u32::from(byte) >> (8 - length) << (8 - length)).unwrap_or(0);
                let whole = if v4 { 24 } else { 120 };
                IpPrefix::new(address(v4, cut), whole + length).ok()
            });
            let mut prefixes: Vec<IpPrefix> = prefixes.collect();
            let mut space: AddressSpace = prefixes.iter().copied().collect();
            for at in gone {
                if !prefixes.is_empty() {
                    space.remove(prefixes.swap_remove(at.index(prefixes.len())));
                }
            }
            let asked = address(v4, byte);
            let model = prefixes.iter().any(|prefix| prefix.contains(asked));
            prop_assert_eq!(space.contains(asked), model);
        }
    }
}
