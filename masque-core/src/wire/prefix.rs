//! Addresses, prefixes and ranges as CONNECT-IP speaks of them (RFC 9484 §4.7).

use core::net::IpAddr;

use crate::error::WireErrorKind;

/// An IP prefix whose bits below its length are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IpPrefix {
    net: ipnet::IpNet,
}

impl IpPrefix {
    /// The prefix of `length` bits at `address`.
    ///
    /// # Errors
    /// [`WireErrorKind::PrefixLength`] if `length` is beyond the address,
    /// [`WireErrorKind::HostBits`] if bits below it are set.
    pub fn new(address: IpAddr, length: u8) -> Result<Self, WireErrorKind> {
        let net = ipnet::IpNet::new(address, length).map_err(|_| WireErrorKind::PrefixLength)?;
        if net.network() == address {
            Ok(Self { net })
        } else {
            Err(WireErrorKind::HostBits)
        }
    }

    /// The prefix of full length: one address.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        Self {
            net: ipnet::IpNet::from(address),
        }
    }

    /// Its lowest address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.net.network()
    }

    /// Its highest address.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        match self.net {
            ipnet::IpNet::V4(net) => IpAddr::V4(net.broadcast()),
            ipnet::IpNet::V6(net) => IpAddr::V6(net.broadcast()),
        }
    }

    /// Its length in bits.
    #[must_use]
    pub fn length(&self) -> u8 {
        self.net.prefix_len()
    }

    /// Whether it is a single address.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.net.prefix_len() == self.net.max_prefix_len()
    }

    /// Whether `address` lies in it; never for the other IP version.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.net.contains(&address)
    }

    /// Whether all of `other` lies in it.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.net.contains(&other.net)
    }

    /// As the type of the crate `ipnet`.
    #[must_use]
    pub fn to_ipnet(&self) -> ipnet::IpNet {
        self.net
    }
}

impl core::fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.net.fmt(f)
    }
}

impl core::str::FromStr for IpPrefix {
    type Err = WireErrorKind;

    /// `address/length`, or an address alone for a single host.
    ///
    /// # Errors
    /// [`WireErrorKind::ScopeMalformed`] if the address is none, else as [`IpPrefix::new`].
    fn from_str(text: &str) -> Result<Self, WireErrorKind> {
        match text.split_once('/') {
            Some((address, length)) => {
                let address = address.parse().map_err(|_| WireErrorKind::ScopeMalformed)?;
                let length = Some(length)
                    .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
                    .and_then(|digits| digits.parse().ok())
                    .ok_or(WireErrorKind::PrefixLength)?;
                Self::new(address, length)
            }
            None => text
                .parse()
                .map(Self::host)
                .map_err(|_| WireErrorKind::ScopeMalformed),
        }
    }
}

/// A range of addresses of one IP version, and the protocol it is for (RFC 9484 §4.7.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AddressRange {
    start: IpAddr,
    end: IpAddr,
    protocol: u8,
}

impl AddressRange {
    /// `start` to `end`, both included, for `protocol` (0: any).
    ///
    /// # Errors
    /// [`WireErrorKind::RangeReversed`] if `start` is above `end`, [`WireErrorKind::IpVersion`] if
    /// they are of different versions.
    pub fn new(start: IpAddr, end: IpAddr, protocol: u8) -> Result<Self, WireErrorKind> {
        if start.is_ipv4() != end.is_ipv4() {
            Err(WireErrorKind::IpVersion)
        } else if start > end {
            Err(WireErrorKind::RangeReversed)
        } else {
            Ok(Self {
                start,
                end,
                protocol,
            })
        }
    }

    /// All of a prefix, for `protocol` (0: any).
    #[must_use]
    pub fn from_prefix(prefix: IpPrefix, protocol: u8) -> Self {
        Self {
            start: prefix.address(),
            end: prefix.last(),
            protocol,
        }
    }

    /// The lowest address.
    #[must_use]
    pub fn start(&self) -> IpAddr {
        self.start
    }

    /// The highest address.
    #[must_use]
    pub fn end(&self) -> IpAddr {
        self.end
    }

    /// The IP protocol number; 0 is any.
    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Whether a packet to (or from) `address` with upper-layer `protocol` is meant. ICMP (1 and
    /// 58) is always let through whatever the protocol says (RFC 9484 §4.7.3).
    #[must_use]
    pub fn matches(&self, address: IpAddr, protocol: u8) -> bool {
        let icmp = matches!(
            (address, protocol),
            (IpAddr::V4(_), 1) | (IpAddr::V6(_), 58)
        );
        (self.protocol == 0 || self.protocol == protocol || icmp)
            && address.is_ipv4() == self.start.is_ipv4()
            && self.start <= address
            && address <= self.end
    }

    /// Reaches up to where `other`, of the same version, ends.
    pub(super) fn grow(&mut self, other: &Self) {
        self.end = self.end.max(other.end);
    }

    /// The fewest prefixes that make up the range, in ascending order.
    pub fn prefixes(&self) -> impl Iterator<Item = IpPrefix> + use<> {
        let subnets = match (self.start, self.end) {
            (IpAddr::V4(start), IpAddr::V4(end)) => {
                ipnet::IpSubnets::from(ipnet::Ipv4Subnets::new(start, end, 0))
            }
            (IpAddr::V6(start), IpAddr::V6(end)) => {
                ipnet::IpSubnets::from(ipnet::Ipv6Subnets::new(start, end, 0))
            }
            _ => unreachable!("AddressRange::new refuses mixed versions"),
        };
        subnets.map(|net| IpPrefix { net })
    }
}

/// The address after `address`; `None` after the last of its version.
pub(super) fn successor(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => u32::from(address)
            .checked_add(1)
            .map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(address) => u128::from(address)
            .checked_add(1)
            .map(|bits| IpAddr::V6(bits.into())),
    }
}

/// The address before `address`; `None` before the first of its version.
pub(super) fn predecessor(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => u32::from(address)
            .checked_sub(1)
            .map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(address) => u128::from(address)
            .checked_sub(1)
            .map(|bits| IpAddr::V6(bits.into())),
    }
}

#[cfg(test)]
mod tests;
