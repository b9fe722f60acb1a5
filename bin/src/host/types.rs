//! Plain data in and out of [`HostNet`](super::HostNet): nothing here borrows, opens or runs anything, so each
//! call could cross to a helper process as a message.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use masque_core::wire::prefix::IpPrefix;

/// A routing table, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Table(pub u32);

impl Table {
    /// The table that every host uses.
    pub const MAIN: Self = Self(254);
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::MAIN => f.write_str("main"),
            Self(number) => write!(f, "{number}"),
        }
    }
}

/// A network interface as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether it is administratively up.
    pub up: bool,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is a loopback interface.
    pub loopback: bool,
}

/// A route as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The addresses it is for.
    pub destination: IpPrefix,
    /// The table it is in.
    pub table: Table,
    /// The interface it leads through, if one.
    pub link: Option<String>,
    /// The next router, if one.
    pub gateway: Option<IpAddr>,
    /// Its metric; the lowest wins.
    pub metric: u32,
    /// Whether this program made it, in whichever instance.
    pub ours: bool,
}

/// The way to one address, as the kernel would take it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The interface.
    pub link: String,
    /// The next router; none if the address is on the link.
    pub gateway: Option<IpAddr>,
    /// The source address that would be used.
    pub source: Option<IpAddr>,
    /// The largest IP packet that the way is known to carry, in bytes: the route's MTU or a learned
    /// path MTU, otherwise the interface's.
    pub mtu: u32,
}

/// The client's packet filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFilter {
    /// The tunnel's interface.
    pub tun: String,
    /// The mark on the client's own UDP socket (`SO_MARK`); not 0.
    pub fwmark: u32,
    /// The addresses on the tunnel: packets to them that arrive on another interface are dropped.
    pub addresses: Vec<IpNet>,
}

/// Which of the server host's own addresses and services its clients reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GatewayAccess {
    /// None: only answers to what the host itself began.
    #[default]
    Closed,
    /// They may ping it.
    Ping,
    /// Everything that the host's own firewall lets through.
    Open,
}

/// What a server needs from its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerNet {
    /// The tunnel's interface.
    pub tun: String,
    /// The pools from which clients get their addresses; forwarding is enabled for the IP versions in it.
    pub pools: Vec<IpPrefix>,
    /// Whether packets from the pools leave by other interfaces under the host's own address.
    pub nat: bool,
    /// Whether clients may reach each other through the kernel.
    pub tun_to_tun: bool,
    /// Whether hosts beyond the server may open connections to clients.
    pub inbound: bool,
    /// The only interfaces by which clients' packets may leave; empty means any.
    pub egress: Vec<String>,
    /// What clients reach on the host itself.
    pub gateway: GatewayAccess,
    /// Whether the MSS of TCP connections through the tunnel is lowered to what the way carries. It
    /// helps against networks that drop the ICMP messages of path MTU discovery.
    pub clamp_mss: bool,
}

impl ServerNet {
    /// The safe choice: no NAT, no traffic between clients, nothing inbound, the host closed.
    #[must_use]
    pub fn new(tun: impl Into<String>, pools: Vec<IpPrefix>) -> Self {
        Self {
            tun: tun.into(),
            pools,
            nat: false,
            tun_to_tun: false,
            inbound: false,
            egress: Vec::new(),
            gateway: GatewayAccess::Closed,
            clamp_mss: true,
        }
    }
}
