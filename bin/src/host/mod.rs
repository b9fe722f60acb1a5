//! The host's network stack behind one small interface.
//!
//! [`HostNet`] is everything this program changes outside itself: links, addresses, routes, routing
//! rules, packet filters and kernel settings. Its arguments and results are plain data, so that it
//! can move into a privileged helper process. It blocks, uses no async runtime, and starts no process
//! but `nft`, and that only when packet filters are asked for.
//!
//! **Everything is undone.** Before each change, what undoes it goes into a journal file; at a clean
//! stop [`HostNet::undo_all`] takes the changes back in reverse order, and after a crash
//! [`HostNet::cleanup_stale`] does it at the next start. Only what this instance made is touched:
//! another instance, or the administrator, keeps theirs.
//!
//! | thing | how it is known to be ours |
//! |---|---|
//! | addresses | in the journal, with the index and name of their link |
//! | routes | the protocol number [`ROUTE_PROTOCOL`], the table and the link in the journal |
//! | rules | the same protocol number, the priority in the journal |
//! | packet filters | the table `inet masque-<instance>` |
//! | kernel settings | in the journal with their old values; restored when the last instance that needs them stops |
//!
//! A `HostNet` acts on the network namespace of the thread that opened it, and must be used from
//! threads in the same one.
#![forbid(unsafe_code)]

mod error;
mod types;

use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::Path;

use ipnet::IpNet;
use masque_core::wire::prefix::IpPrefix;

pub use error::HostError;
pub use types::{ClientFilter, GatewayAccess, Link, Route, ServerNet, Table, Way};

/// The number in `rtm_protocol` that marks routes and rules of this program.
pub const ROUTE_PROTOCOL: u8 = 0x9c;

/// The handle to the host's network stack, and the owner of the changes made through it.
///
/// Dropping it undoes them as [`Self::undo_all`] does, and logs what fails.
#[derive(Debug)]
pub struct HostNet {}

/// Opening, and undoing.
impl HostNet {
    /// Opens the host's network stack for `instance` (1 to 32 letters, digits, `-`, `_`). Nothing is
    /// changed. The journal lies in `state_dir`, or in `/run/masque`.
    ///
    /// # Errors
    /// [`HostError::InstanceName`], [`HostError::InstanceInUse`], [`HostError::Journal`] if the
    /// directory cannot be used, [`HostError::Netlink`].
    pub fn open(instance: &str, state_dir: Option<&Path>) -> Result<Self, HostError> {
        unimplemented!("{instance} {state_dir:?}")
    }

    /// Takes back what a crashed process of the same instance left. Call it after [`Self::open`] and
    /// before anything else; calling it again does nothing. Gives a sentence for each thing undone.
    ///
    /// # Errors
    /// [`HostError::Undo`] if something is left.
    pub fn cleanup_stale(&mut self) -> Result<Vec<String>, HostError> {
        unimplemented!()
    }

    /// Takes back every change, the latest first. What fails stays in the journal. Gives a sentence
    /// for each thing undone; doing it again does nothing.
    ///
    /// # Errors
    /// [`HostError::Undo`] if something is left.
    pub fn undo_all(&mut self) -> Result<Vec<String>, HostError> {
        unimplemented!()
    }
}

/// Links, addresses and routes.
impl HostNet {
    /// The interface of this name.
    ///
    /// # Errors
    /// [`HostError::NoSuchLink`].
    pub fn link(&mut self, name: &str) -> Result<Link, HostError> {
        unimplemented!("{name}")
    }

    /// The kernel's number for the interface of this name.
    ///
    /// # Errors
    /// [`HostError::NoSuchLink`].
    pub fn link_index(&mut self, name: &str) -> Result<u32, HostError> {
        Ok(self.link(name)?.index)
    }

    /// Takes the interface up, with this MTU in bytes if one is given.
    ///
    /// # Errors
    /// [`HostError::NoSuchLink`], [`HostError::Permission`], [`HostError::Kernel`] for an MTU out of range.
    pub fn set_up(&mut self, name: &str, mtu: Option<u32>) -> Result<(), HostError> {
        unimplemented!("{name} {mtu:?}")
    }

    /// Sets the interface's MTU in bytes.
    ///
    /// # Errors
    /// As [`Self::set_up`].
    pub fn set_mtu(&mut self, name: &str, mtu: u32) -> Result<(), HostError> {
        unimplemented!("{name} {mtu}")
    }

    /// Makes `addresses` the ones this instance has on the interface: adds what is missing, removes what it
    /// added earlier and is not wanted any more, leaves the rest alone. An address brings no route
    /// for its prefix; use [`Self::replace_routes`]. IPv6 addresses are usable at once (no duplicate
    /// address detection).
    ///
    /// # Errors
    /// [`HostError::NoSuchLink`], [`HostError::Permission`], [`HostError::Unsupported`] if IPv6 is off.
    pub fn replace_addresses(&mut self, name: &str, addresses: &[IpNet]) -> Result<(), HostError> {
        unimplemented!("{name} {addresses:?}")
    }

    /// Makes `routes` the ones this instance has through the interface in `table`, each straight onto the
    /// link; adds and removes only the difference.
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
        unimplemented!("{name} {table} {routes:?}")
    }
}

/// What a VPN client and server install.
impl HostNet {
    /// Sends everything but packets marked `fwmark` through `table`, except where table main has a
    /// route more specific than the default one; for both IP versions. A default route in
    /// `table` therefore never catches the tunnel's own UDP packets. `fwmark` and `table` are not 0.
    ///
    /// # Errors
    /// [`HostError::Permission`], [`HostError::Kernel`], [`HostError::Sysctl`].
    pub fn install_client_rules(&mut self, fwmark: u32, table: Table) -> Result<(), HostError> {
        unimplemented!("{fwmark} {table}")
    }

    /// Installs the client's packet filter, or replaces it in one step (call it again when the addresses
    /// change): packets to the tunnel's addresses that arrive elsewhere are dropped, and answers to the tunnel's own UDP
    /// packets get its mark, so that reverse path filtering lets them in.
    ///
    /// # Errors
    /// [`HostError::NftMissing`], [`HostError::Nft`], [`HostError::Permission`].
    pub fn install_client_filter(&mut self, filter: &ClientFilter) -> Result<(), HostError> {
        unimplemented!("{filter:?}")
    }

    /// Installs what a server needs, or replaces it in one step: forwarding for the IP versions of the pools, and the packet
    /// filter. Link-local and metadata addresses are never reachable from the tunnel.
    ///
    /// # Errors
    /// [`HostError::NftMissing`], [`HostError::Nft`], [`HostError::Permission`], [`HostError::Sysctl`].
    pub fn install_server(&mut self, server: &ServerNet) -> Result<(), HostError> {
        unimplemented!("{server:?}")
    }
}

/// Questions, which change nothing and need no privileges.
impl HostNet {
    /// All interfaces.
    ///
    /// # Errors
    /// [`HostError::Netlink`].
    pub fn links(&mut self) -> Result<Vec<Link>, HostError> {
        unimplemented!()
    }

    /// The addresses on an interface, each with the length of its prefix.
    ///
    /// # Errors
    /// [`HostError::NoSuchLink`].
    pub fn addresses(&mut self, name: &str) -> Result<Vec<IpNet>, HostError> {
        unimplemented!("{name}")
    }

    /// The unicast routes of all tables but the kernel's own (local).
    ///
    /// # Errors
    /// [`HostError::Netlink`].
    pub fn routes(&mut self) -> Result<Vec<Route>, HostError> {
        unimplemented!()
    }

    /// The networks this host is directly connected to by interfaces other than loopback and
    /// `except`, without link-local ones: what a client must not let a server take over unless allowed.
    ///
    /// # Errors
    /// [`HostError::Netlink`].
    pub fn local_networks(&mut self, except: Option<&str>) -> Result<Vec<IpPrefix>, HostError> {
        unimplemented!("{except:?}")
    }

    /// The way that packets to `destination` with the mark `fwmark` would take now.
    ///
    /// # Errors
    /// [`HostError::NotFound`] if there is none.
    pub fn way_to(&mut self, destination: IpAddr, fwmark: Option<u32>) -> Result<Way, HostError> {
        unimplemented!("{destination} {fwmark:?}")
    }
}

/// Links made here, for the demo and for tests. They are removed again by [`Self::undo_all`].
impl HostNet {
    /// Makes a pair of connected Ethernet interfaces.
    ///
    /// # Errors
    /// [`HostError::Exists`], [`HostError::Permission`].
    pub fn create_veth(&mut self, name: &str, peer: &str) -> Result<(), HostError> {
        unimplemented!("{name} {peer}")
    }

    /// Makes an interface that swallows what is sent to it.
    ///
    /// # Errors
    /// [`HostError::Exists`], [`HostError::Permission`].
    pub fn create_dummy(&mut self, name: &str) -> Result<(), HostError> {
        unimplemented!("{name}")
    }

    /// Removes an interface.
    ///
    /// # Errors
    /// [`HostError::NoSuchLink`], [`HostError::Permission`].
    pub fn delete_link(&mut self, name: &str) -> Result<(), HostError> {
        unimplemented!("{name}")
    }

    /// Moves an interface to the network namespace of a process.
    ///
    /// # Errors
    /// [`HostError::NoSuchLink`], [`HostError::NotFound`] if there is no such process,
    /// [`HostError::Permission`].
    pub fn move_to_process(&mut self, name: &str, pid: u32) -> Result<(), HostError> {
        unimplemented!("{name} {pid}")
    }

    /// Moves an interface to the network namespace behind an open `/proc/<pid>/ns/net`.
    ///
    /// # Errors
    /// As [`Self::move_to_process`].
    pub fn move_to_namespace(
        &mut self,
        name: &str,
        namespace: BorrowedFd<'_>,
    ) -> Result<(), HostError> {
        unimplemented!("{name} {namespace:?}")
    }
}
