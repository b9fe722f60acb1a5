//! Addresses on interfaces.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::journal::{Change, LinkRef};
use super::{HostError, HostNet, ROUTE_PROTOCOL};

/// Addresses.
impl HostNet {
    /// The addresses on an interface, each with the length of its prefix.
    ///
    /// # Errors
    /// [`HostError::NoSuchLink`].
    pub fn addresses(&mut self, name: &str) -> Result<Vec<IpNet>, HostError> {
        let index = self.link_index(name)?;
        let all = self.all_addresses()?;
        let here = all.into_iter().filter(|&(on, _)| on == index);
        Ok(here.map(|(_, address)| address).collect())
    }

    /// Makes `addresses` the ones this instance has on the interface: adds what is missing, removes what it
    /// added earlier and is not wanted any more, leaves the rest alone. An address brings no route
    /// for its prefix; use [`Self::replace_routes`]. IPv6 addresses are usable at once (no duplicate
    /// address detection).
    ///
    /// # Errors
    /// [`HostError::NoSuchLink`], [`HostError::Permission`], [`HostError::Unsupported`] if IPv6 is off.
    pub fn replace_addresses(&mut self, name: &str, addresses: &[IpNet]) -> Result<(), HostError> {
        let link = self.link(name)?.reference();
        let wanted: BTreeSet<IpNet> = addresses.iter().copied().collect();
        let ours: Vec<IpNet> = self
            .journal
            .changes()
            .iter()
            .filter_map(|change| match change {
                Change::Address { link: on, address } if *on == link => Some(*address),
                _ => None,
            })
            .collect();
        for address in ours.into_iter().filter(|one| !wanted.contains(one)) {
            self.remove_address(&link, address)?;
            let link = link.clone();
            self.journal.strike(&Change::Address { link, address })?;
        }
        // Read after the removals: with its first IPv4 address of a prefix an interface loses the others too.
        let present = self.addresses(name)?;
        for &address in wanted.iter().filter(|one| !present.contains(one)) {
            self.add_address(&link, address)?;
        }
        Ok(())
    }

    fn add_address(&mut self, link: &LinkRef, address: IpNet) -> Result<(), HostError> {
        let change = Change::Address {
            link: link.clone(),
            address,
        };
        self.journal.record(change.clone())?;
        let mut message = message(link.index, address);
        let mut flags = AddressFlags::Noprefixroute;
        if address.addr().is_ipv6() {
            flags |= AddressFlags::Nodad;
        }
        message.attributes.extend([
            AddressAttribute::Flags(flags),
            AddressAttribute::Protocol(AddressProtocol::Other(ROUTE_PROTOCOL)),
        ]);
        let added = self.netlink.change(
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_EXCL,
        );
        added.or_else(|refused| {
            self.journal.strike(&change)?;
            let doing = format!("adding the address {address} to {}", link.name);
            Err(refused.doing(doing))
        })
    }

    /// Gives whether it was there.
    pub(super) fn remove_address(
        &mut self,
        link: &LinkRef,
        address: IpNet,
    ) -> Result<bool, HostError> {
        let message = message(link.index, address);
        match self
            .netlink
            .change(RouteNetlinkMessage::DelAddress(message), 0)
        {
            Ok(()) => Ok(true),
            Err(refused) if refused.is_absent() => Ok(false),
            Err(refused) => {
                let doing = format!("removing the address {address} from {}", link.name);
                Err(refused.doing(doing))
            }
        }
    }

    /// Each with the index of its interface.
    pub(super) fn all_addresses(&mut self) -> Result<Vec<(u32, IpNet)>, HostError> {
        let replies = self
            .netlink
            .dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))
            .map_err(|refused| refused.doing("listing the addresses"))?;
        Ok(replies.iter().filter_map(parse).collect())
    }
}

fn message(index: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = address.prefix_len();
    message.header.family = match address {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    message.attributes = vec![
        AddressAttribute::Local(address.addr()),
        AddressAttribute::Address(address.addr()),
    ];
    message
}

fn parse(reply: &RouteNetlinkMessage) -> Option<(u32, IpNet)> {
    let RouteNetlinkMessage::NewAddress(message) = reply else {
        return None;
    };
    // On a point-to-point link "address" is the peer's and "local" our own; elsewhere there may be only one.
    let mut local: Option<IpAddr> = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => local = local.or(Some(*address)),
            _ => {}
        }
    }
    let address = IpNet::new(local?, message.header.prefix_len).ok()?;
    Some((message.header.index, address))
}
