//! Keeps the host in step with the tunnel: addresses, routes, rules, MTU and packet filter.

use std::net::IpAddr;

use ipnet::IpNet;
use masque_core::wire::prefix::{AddressRange, IpPrefix};

use crate::config::client::ClientSettings;
use crate::host::{ClientFilter, HostError, HostNet, Table};
use crate::limits::{self, AcceptPolicy, Surroundings};

/// The least MTU of a link that carries IPv6 (RFC 8200 §5); below it the kernel takes IPv6 off the link.
const IPV6_MIN_MTU: u32 = 1280;

/// The host of a client, and what the server wants of it. What is installed survives a reconnection.
#[derive(Debug)]
pub struct Installer {
    host: HostNet,
    tun: String,
    mark: u32,
    policy: AcceptPolicy,
    server: Option<IpAddr>,
    /// Interface and address that packets to it leave from.
    source: Option<(String, IpAddr)>,
    mtu: u32,
    assigned: Vec<IpPrefix>,
    ranges: Vec<AddressRange>,
    rules: bool,
    no_filter: bool,
}

impl Installer {
    /// For the device `tun`, which is up and has the MTU of the configuration.
    #[must_use]
    pub fn new(host: HostNet, settings: &ClientSettings, tun: &str) -> Self {
        Self {
            host,
            tun: tun.to_owned(),
            mark: settings.mark,
            policy: settings.accept.clone(),
            server: None,
            source: None,
            mtu: *settings.tun.mtu.get_ref(),
            assigned: Vec::new(),
            ranges: Vec::new(),
            rules: false,
            no_filter: false,
        }
    }

    /// Gives the host back, with everything still installed.
    #[must_use]
    pub fn into_host(self) -> HostNet {
        self.host
    }

    /// There is a connection to the server at this address.
    pub fn connected(&mut self, server: IpAddr) {
        self.server = Some(server.to_canonical());
        self.source = self.way();
    }

    /// The connection to the server goes to this address from now on.
    ///
    /// # Errors
    /// The host refuses.
    pub fn moved_to(&mut self, server: IpAddr) -> Result<(), HostError> {
        let before = self.server;
        self.connected(server);
        if before == self.server {
            return Ok(());
        }
        // What may be installed depends on where the server is.
        self.install_routes().map(drop)
    }

    /// Where packets to `server` would leave from now; `None` if no way leads there.
    pub fn way_to(&mut self, server: IpAddr) -> Option<(String, IpAddr)> {
        let way = self.host.way_to(server, Some(self.mark)).ok()?;
        // A way through our own tunnel is none.
        let way = Some(way).filter(|way| way.link != self.tun)?;
        Some((way.link, way.source?))
    }

    fn way(&mut self) -> Option<(String, IpAddr)> {
        self.way_to(self.server?)
    }

    /// Whether packets to the server leave from elsewhere than when it was connected to.
    pub fn moved(&mut self) -> bool {
        self.way() != self.source
    }

    /// Sets the device's MTU.
    ///
    /// # Errors
    /// The host refuses.
    pub fn set_mtu(&mut self, mtu: u32) -> Result<(), HostError> {
        let had_ipv6 = self.carries_ipv6();
        self.host.set_mtu(&self.tun, mtu)?;
        self.mtu = mtu;
        if had_ipv6 && !self.carries_ipv6() {
            tracing::warn!(mtu, "the path is too narrow for IPv6 in the tunnel");
        }
        if had_ipv6 != self.carries_ipv6() {
            self.install_addresses()?;
            self.install_routes()?;
        }
        Ok(())
    }

    /// Takes what the server assigned; gives what is installed of it.
    ///
    /// # Errors
    /// The host refuses.
    pub fn set_addresses(&mut self, assigned: &[IpPrefix]) -> Result<Vec<IpPrefix>, HostError> {
        self.assigned = assigned.to_vec();
        let installed = self.install_addresses()?;
        // The kernel takes routes away whose preferred source is gone.
        self.install_routes()?;
        Ok(installed)
    }

    /// Takes what the server advertised; gives what is installed of it.
    ///
    /// # Errors
    /// The host refuses.
    pub fn set_routes(&mut self, ranges: &[AddressRange]) -> Result<Vec<IpPrefix>, HostError> {
        self.ranges = ranges.to_vec();
        self.install_routes()
    }

    fn carries_ipv6(&self) -> bool {
        self.mtu >= IPV6_MIN_MTU
    }

    fn fits(&self, prefix: &IpPrefix) -> bool {
        prefix.address().is_ipv4() || self.carries_ipv6()
    }

    fn around(&mut self) -> Result<Surroundings, HostError> {
        Ok(Surroundings {
            server: self.server,
            local: self.host.local_networks(Some(&self.tun))?,
        })
    }

    fn install_addresses(&mut self) -> Result<Vec<IpPrefix>, HostError> {
        let around = self.around()?;
        let judged = limits::addresses(&self.policy, &around, &self.assigned);
        for refused in &judged.refused {
            tracing::warn!("address not taken: {refused}");
        }
        let install: Vec<IpPrefix> = judged
            .install
            .into_iter()
            .filter(|prefix| self.fits(prefix))
            .collect();
        let hosts: Vec<IpNet> = install.iter().map(host_of).collect();
        self.host.replace_addresses(&self.tun, &hosts)?;
        self.install_filter(install.iter().map(IpPrefix::to_ipnet).collect())?;
        Ok(install)
    }

    /// A host without nftables does without the filter: it only makes things safer.
    fn install_filter(&mut self, addresses: Vec<IpNet>) -> Result<(), HostError> {
        if self.no_filter {
            return Ok(());
        }
        let filter = ClientFilter {
            tun: self.tun.clone(),
            fwmark: self.mark,
            addresses,
        };
        match self.host.install_client_filter(&filter) {
            Err(error @ (HostError::NftMissing { .. } | HostError::Nft { .. })) => {
                tracing::warn!("without a packet filter: {error}");
                self.no_filter = true;
                Ok(())
            }
            result => result,
        }
    }

    fn install_routes(&mut self) -> Result<Vec<IpPrefix>, HostError> {
        let around = self.around()?;
        let judged = limits::routes(&self.policy, &around, &self.ranges);
        for refused in &judged.refused {
            tracing::warn!("route not taken: {refused}");
        }
        let install: Vec<IpPrefix> = judged
            .install
            .into_iter()
            .filter(|prefix| self.fits(prefix) && self.has_address_for(prefix))
            .collect();
        if !install.is_empty() && !self.rules {
            self.host
                .install_client_rules(self.mark, Table(self.mark))?;
            self.rules = true;
        }
        self.host
            .replace_routes(&self.tun, Table(self.mark), &install)?;
        let lan = limits::lan_routes(&self.policy, &around, &install);
        self.host.replace_routes(&self.tun, Table::MAIN, &lan)?;
        Ok(install)
    }

    /// A route for an IP version without an address would leave packets without a source.
    fn has_address_for(&self, route: &IpPrefix) -> bool {
        self.assigned
            .iter()
            .any(|prefix| prefix.address().is_ipv4() == route.address().is_ipv4())
    }
}

/// The address to use of an assigned prefix: itself, or the first that is not the network's.
fn host_of(prefix: &IpPrefix) -> IpNet {
    match prefix.is_host() {
        true => prefix.to_ipnet(),
        false => IpNet::from(crate::config::server::gateway_of(prefix)),
    }
}
