//! Routes, and the questions about them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use masque_core::wire::prefix::IpPrefix;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::journal::{Change, LinkRef};
use super::{HostError, HostNet, ROUTE_PROTOCOL, Route, Table, Way};

/// The kernel's own table, of the addresses it delivers to itself.
const LOCAL_TABLE: Table = Table(255);

/// Routes.
impl HostNet {
    /// The unicast routes of all tables but the kernel's own (local).
    ///
    /// # Errors
    /// [`HostError::Netlink`].
    pub fn routes(&mut self) -> Result<Vec<Route>, HostError> {
        let names = self.link_names()?;
        let routes = self.raw_routes()?.into_iter();
        Ok(routes.filter_map(|raw| raw.named(&names)).collect())
    }

    /// Makes `routes` the ones this instance has through the interface in `table`, each straight onto the
    /// link; adds and removes only the difference. If one cannot be added the others before it stay.
    ///
    /// # Errors
    /// [`HostError::NoSuchLink`], [`HostError::Permission`], [`HostError::Exists`] if another program
    /// has the same route, [`HostError::Kernel`] if the interface is down.
    pub fn replace_routes(
        &mut self,
        name: &str,
        table: Table,
        routes: &[IpPrefix],
    ) -> Result<(), HostError> {
        let link = self.link(name)?.reference();
        let wanted: BTreeSet<IpNet> = routes.iter().map(IpPrefix::to_ipnet).collect();
        let present = self.our_routes(&link, table)?;
        let change = Change::Routes {
            link: link.clone(),
            table: table.0,
        };
        if !wanted.is_empty() {
            self.journal.record(change.clone())?;
        }
        // Additions first: a destination that only moves to a wider or narrower route is never without one.
        for &destination in wanted.difference(&present) {
            self.netlink
                .change(
                    RouteNetlinkMessage::NewRoute(message(&link, table, destination)),
                    NLM_F_CREATE | NLM_F_EXCL,
                )
                .map_err(|refused| {
                    refused.doing(format!(
                        "adding the route {destination} through {name} to table {table}"
                    ))
                })?;
        }
        for &destination in present.difference(&wanted) {
            self.remove_route(&link, table, destination)?;
        }
        if wanted.is_empty() {
            self.journal.strike(&change)?;
        }
        Ok(())
    }

    pub(super) fn remove_routes(
        &mut self,
        link: &LinkRef,
        table: Table,
    ) -> Result<Option<String>, HostError> {
        if self.surviving(link)?.is_none() {
            return Ok(None);
        }
        let present = self.our_routes(link, table)?;
        for &destination in &present {
            self.remove_route(link, table, destination)?;
        }
        let count = present.len();
        Ok((count > 0).then(|| {
            let name = &link.name;
            format!("removed {count} route(s) through {name} from table {table}")
        }))
    }

    fn remove_route(
        &mut self,
        link: &LinkRef,
        table: Table,
        destination: IpNet,
    ) -> Result<(), HostError> {
        let message = RouteNetlinkMessage::DelRoute(message(link, table, destination));
        match self.netlink.change(message, 0) {
            Err(refused) if !refused.is_absent() => Err(refused.doing(format!(
                "removing the route {destination} through {} from table {table}",
                link.name
            ))),
            _ => Ok(()),
        }
    }

    fn our_routes(&mut self, link: &LinkRef, table: Table) -> Result<BTreeSet<IpNet>, HostError> {
        let routes = self.raw_routes()?.into_iter();
        Ok(routes
            .filter(|raw| raw.ours && raw.table == table && raw.link == Some(link.index))
            .map(|raw| raw.destination)
            .collect())
    }

    /// The interfaces, apart from `except`, by which the kernel has learned a default route from an IPv6 router.
    pub(super) fn links_with_router_advertisements(&mut self) -> Result<Vec<String>, HostError> {
        let names = self.link_names()?;
        let routes = self.raw_routes()?.into_iter();
        let links: BTreeSet<u32> = routes
            .filter(|raw| raw.advertised && raw.destination.prefix_len() == 0)
            .filter_map(|raw| raw.link)
            .collect();
        Ok(links
            .iter()
            .filter_map(|index| names.get(index).cloned())
            .collect())
    }

    fn raw_routes(&mut self) -> Result<Vec<RawRoute>, HostError> {
        let replies = self
            .netlink
            .dump(&RouteNetlinkMessage::GetRoute(RouteMessage::default()))
            .map_err(|refused| refused.doing("listing the routes"))?;
        Ok(replies.iter().filter_map(RawRoute::parse).collect())
    }

    fn link_names(&mut self) -> Result<BTreeMap<u32, String>, HostError> {
        let links = self.links()?.into_iter();
        Ok(links.map(|link| (link.index, link.name)).collect())
    }
}

/// Questions about the surroundings. They change nothing and need no privileges.
impl HostNet {
    /// The networks this host is directly connected to by interfaces other than loopback and
    /// `except`, without link-local ones: what a client must not let a server take over unless allowed.
    ///
    /// # Errors
    /// [`HostError::Netlink`].
    pub fn local_networks(&mut self, except: Option<&str>) -> Result<Vec<IpPrefix>, HostError> {
        let links = self.links()?.into_iter();
        let others: BTreeSet<u32> = links
            .filter(|link| !link.loopback && Some(link.name.as_str()) != except)
            .map(|link| link.index)
            .collect();
        let routed = self.raw_routes()?.into_iter().filter_map(|raw| {
            let connected = raw.gateway.is_none()
                && !raw.ours
                && raw.table != LOCAL_TABLE
                && raw.destination.prefix_len() > 0;
            raw.link
                .filter(|_| connected)
                .map(|link| (link, raw.destination))
        });
        let routed: Vec<(u32, IpNet)> = routed.collect();
        let networks: BTreeSet<IpNet> = self
            .all_addresses()?
            .into_iter()
            .chain(routed)
            .filter(|(link, _)| others.contains(link))
            .map(|(_, network)| network.trunc())
            .filter(|network| !link_local_or_multicast(network.addr()))
            .collect();
        Ok(networks.into_iter().filter_map(prefix).collect())
    }

    /// The way that packets to `destination` with the mark `fwmark` would take now.
    ///
    /// # Errors
    /// [`HostError::NotFound`] if there is none.
    pub fn way_to(&mut self, destination: IpAddr, fwmark: Option<u32>) -> Result<Way, HostError> {
        let doing = format!("looking for the way to {destination}");
        let unreachable = |reason: &str| HostError::NotFound {
            doing: doing.clone(),
            reason: reason.to_owned(),
        };
        let mut request = RouteMessage::default();
        let host = IpNet::from(destination);
        request.header.address_family = family(host);
        request.header.destination_prefix_length = host.prefix_len();
        request
            .attributes
            .push(RouteAttribute::Destination(destination.into()));
        request.attributes.extend(fwmark.map(RouteAttribute::Mark));
        let reply = match self.netlink.get(RouteNetlinkMessage::GetRoute(request)) {
            Ok(RouteNetlinkMessage::NewRoute(reply)) => reply,
            Ok(_) => return Err(unreachable("the kernel answered something else")),
            Err(refused) => {
                return Err(match refused.errno() {
                    libc::ENETUNREACH => unreachable("no route leads there"),
                    // A route of the kinds unreachable, prohibit and blackhole.
                    libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL => {
                        unreachable("a route forbids it")
                    }
                    _ => refused.doing(doing),
                });
            }
        };
        if !matches!(reply.header.kind, RouteType::Unicast | RouteType::Local) {
            return Err(unreachable("a route forbids it"));
        }
        let (mut index, mut gateway, mut source, mut mtu) = (0, None, None, None);
        for attribute in &reply.attributes {
            match attribute {
                RouteAttribute::Oif(oif) => index = *oif,
                RouteAttribute::Gateway(address) => gateway = ip(address),
                RouteAttribute::PrefSource(address) => source = ip(address),
                RouteAttribute::Metrics(metrics) => {
                    mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        let link = self.links()?.into_iter().find(|link| link.index == index);
        let link = link.ok_or_else(|| unreachable("the interface it leads by is gone"))?;
        Ok(Way {
            mtu: mtu.unwrap_or(link.mtu),
            link: link.name,
            gateway,
            source,
        })
    }
}

/// A unicast route, before its interface's name is known.
struct RawRoute {
    destination: IpNet,
    table: Table,
    link: Option<u32>,
    gateway: Option<IpAddr>,
    metric: u32,
    ours: bool,
    /// Learned from an IPv6 router.
    advertised: bool,
}

impl RawRoute {
    fn parse(reply: &RouteNetlinkMessage) -> Option<Self> {
        let RouteNetlinkMessage::NewRoute(message) = reply else {
            return None;
        };
        let header = &message.header;
        let mut destination = match header.address_family {
            AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => return None,
        };
        if header.kind != RouteType::Unicast {
            return None;
        }
        let mut raw = Self {
            destination: IpNet::new(destination, header.destination_prefix_length).ok()?,
            table: Table(header.table.into()),
            link: None,
            gateway: None,
            metric: 0,
            ours: header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL),
            advertised: header.protocol == RouteProtocol::Ra,
        };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(address) => destination = ip(address)?,
                RouteAttribute::Table(table) => raw.table = Table(*table),
                RouteAttribute::Oif(index) => raw.link = Some(*index),
                RouteAttribute::Gateway(address) => raw.gateway = ip(address),
                RouteAttribute::Priority(metric) => raw.metric = *metric,
                _ => {}
            }
        }
        raw.destination = IpNet::new(destination, header.destination_prefix_length).ok()?;
        Some(raw)
    }

    fn named(self, names: &BTreeMap<u32, String>) -> Option<Route> {
        if self.table == LOCAL_TABLE {
            return None;
        }
        Some(Route {
            destination: prefix(self.destination)?,
            table: self.table,
            link: self.link.and_then(|index| names.get(&index).cloned()),
            gateway: self.gateway,
            metric: self.metric,
            ours: self.ours,
        })
    }
}

fn message(link: &LinkRef, table: Table, destination: IpNet) -> RouteMessage {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = family(destination);
    header.destination_prefix_length = destination.prefix_len();
    // The attribute counts; the header has no room for numbers over 255.
    header.table = u8::try_from(table.0).unwrap_or(0);
    header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    header.kind = RouteType::Unicast;
    header.scope = match destination {
        IpNet::V4(_) => RouteScope::Link,
        IpNet::V6(_) => RouteScope::Universe,
    };
    message.attributes = vec![
        RouteAttribute::Destination(destination.network().into()),
        RouteAttribute::Table(table.0),
        RouteAttribute::Oif(link.index),
    ];
    message
}

fn family(net: IpNet) -> AddressFamily {
    match net {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    }
}

fn prefix(net: IpNet) -> Option<IpPrefix> {
    IpPrefix::new(net.network(), net.prefix_len()).ok()
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match *address {
        RouteAddress::Inet(address) => Some(address.into()),
        RouteAddress::Inet6(address) => Some(address.into()),
        _ => None,
    }
}

fn link_local_or_multicast(address: IpAddr) -> bool {
    address.is_multicast()
        || match address {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        }
}
