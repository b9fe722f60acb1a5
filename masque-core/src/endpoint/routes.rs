//! The addresses and routes of one tunnel, made for one lookup per packet.

use std::net::IpAddr;

use crate::wire::capsule::RouteAdvertisement;
use crate::wire::prefix::AddressRange;

/// A route advertisement made searchable.
///
/// Cost per lookup: a binary search in the ranges for any protocol and one in those for the
/// packet's protocol, however many there are.
#[derive(Clone, Debug, Default)]
pub(super) struct RouteTable {
    v4: Vec<Group>,
    v6: Vec<Group>,
    advertised: RouteAdvertisement,
}

/// Disjoint ascending ranges for one protocol (0: any).
#[derive(Clone, Debug)]
struct Group {
    protocol: u8,
    ranges: Vec<(u128, u128)>,
}

impl RouteTable {
    pub(super) fn new(advertised: RouteAdvertisement) -> Self {
        let mut table = Self {
            advertised,
            ..Self::default()
        };
        for range in table.advertised.ranges() {
            let groups = if range.start().is_ipv4() {
                &mut table.v4
            } else {
                &mut table.v6
            };
            let bounds = (number(range.start()), number(range.end()));
            match groups
                .iter_mut()
                .find(|group| group.protocol == range.protocol())
            {
                Some(group) => group.ranges.push(bounds),
                None => groups.push(Group {
                    protocol: range.protocol(),
                    ranges: vec![bounds],
                }),
            }
        }
        // There is one per tunnel.
        for groups in [&mut table.v4, &mut table.v6] {
            groups
                .iter_mut()
                .for_each(|group| group.ranges.shrink_to_fit());
            groups.shrink_to_fit();
        }
        table
    }

    /// Whether a packet to or from `address` with this upper-layer protocol is covered. ICMP is
    /// covered by a range for any protocol (RFC 9484 §4.7.3).
    pub(super) fn matches(&self, address: IpAddr, protocol: u8) -> bool {
        let groups = if address.is_ipv4() {
            &self.v4
        } else {
            &self.v6
        };
        let icmp = protocol == if address.is_ipv4() { 1 } else { 58 };
        let address = number(address);
        groups.iter().any(|group| {
            (group.protocol == 0 || group.protocol == protocol || icmp) && {
                let after = group.ranges.partition_point(|range| range.0 <= address);
                after > 0 && address <= group.ranges[after - 1].1
            }
        })
    }

    /// The advertisement it was made of.
    pub(super) fn advertised(&self) -> &RouteAdvertisement {
        &self.advertised
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

/// The parts of `ranges` that a tunnel's scope leaves, with its protocol.
pub(super) fn scoped(
    ranges: &[AddressRange],
    target: Option<crate::wire::prefix::IpPrefix>,
    protocol: Option<u8>,
) -> Vec<AddressRange> {
    ranges
        .iter()
        .filter_map(|range| {
            let (mut start, mut end) = (range.start(), range.end());
            if let Some(prefix) = target {
                if prefix.address().is_ipv4() != start.is_ipv4() {
                    return None;
                }
                start = start.max(prefix.address());
                end = end.min(prefix.last());
            }
            let protocol = match (range.protocol(), protocol) {
                (0, Some(wanted)) => wanted,
                (of_range, Some(wanted)) if of_range != wanted => return None,
                (of_range, _) => of_range,
            };
            AddressRange::new(start, end, protocol).ok()
        })
        .collect()
}
