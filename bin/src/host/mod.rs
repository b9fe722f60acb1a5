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
//! | packet filters | the nftables table `inet masque-<instance>` |
//! | kernel settings | in the journal with their old values; restored when the last instance that needs them stops |
//!
//! A `HostNet` acts on the network namespace of the thread that opened it, and must be used from
//! threads in the same one.
#![forbid(unsafe_code)]

mod address;
mod error;
mod filter;
mod journal;
mod link;
mod netlink;
mod nft;
mod route;
mod rule;
mod sysctl;
mod types;
mod watch;

use std::path::Path;

use journal::{Change, Journal};
use netlink::Netlink;

pub use error::HostError;
pub use types::{ClientFilter, GatewayAccess, Link, Route, ServerNet, Table, Way};
pub use watch::Watch;

/// The number in `rtm_protocol` that marks routes and rules of this program.
pub const ROUTE_PROTOCOL: u8 = 0x9c;

/// Characters in an instance name.
const INSTANCE_LENGTH: usize = 32;

/// The handle to the host's network stack, and the owner of the changes made through it.
///
/// Dropping it undoes them as [`Self::undo_all`] does, and logs what fails.
#[derive(Debug)]
pub struct HostNet {
    netlink: Netlink,
    journal: Journal,
    instance: String,
}

/// Opening, and undoing.
impl HostNet {
    /// Opens the host's network stack for `instance` (1 to 32 letters, digits, `-`, `_`, the first a letter).
    /// Nothing is changed. The journal lies in `state_dir`, or in `/run/masque`.
    ///
    /// # Errors
    /// [`HostError::InstanceName`], [`HostError::InstanceInUse`], [`HostError::Journal`] if the
    /// directory cannot be used, [`HostError::Netlink`].
    pub fn open(instance: &str, state_dir: Option<&Path>) -> Result<Self, HostError> {
        let usable = instance.len() <= INSTANCE_LENGTH
            && instance.starts_with(|c: char| c.is_ascii_alphabetic())
            && instance
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        if !usable {
            return Err(HostError::InstanceName {
                name: instance.to_owned(),
            });
        }
        Ok(Self {
            netlink: Netlink::open()?,
            journal: Journal::open(instance, state_dir)?,
            instance: instance.to_owned(),
        })
    }

    /// Takes back what a crashed process of the same instance left. Call it after [`Self::open`] and
    /// before anything else; calling it again does nothing. Gives a sentence for each thing undone.
    ///
    /// # Errors
    /// [`HostError::Undo`] if something is left.
    pub fn cleanup_stale(&mut self) -> Result<Vec<String>, HostError> {
        let journaled = self.journal.changes().contains(&Change::Filter);
        // A packet filter is known by its name even if its journal is lost. Without `nft`, or without privileges, there
        // is nothing that could be found out or done about it.
        if !journaled && matches!(self.filter_table().exists(), Ok(true)) {
            self.journal.record(Change::Filter)?;
        }
        self.undo_all()
    }

    /// Takes back every change, the latest first. What fails stays in the journal. Gives a sentence
    /// for each thing undone; doing it again does nothing.
    ///
    /// # Errors
    /// [`HostError::Undo`] if something is left.
    pub fn undo_all(&mut self) -> Result<Vec<String>, HostError> {
        let changes = self.journal.changes().to_vec();
        let mut undone = Vec::new();
        let mut left = Vec::new();
        let mut failures = Vec::new();
        for change in changes.into_iter().rev() {
            match self.undo(&change) {
                Ok(sentence) => undone.extend(sentence),
                Err(failure) => {
                    left.insert(0, change);
                    failures.push(failure);
                }
            }
        }
        self.journal.replace(left)?;
        if failures.is_empty() {
            Ok(undone)
        } else {
            Err(HostError::Undo { failures })
        }
    }

    fn undo(&mut self, change: &Change) -> Result<Option<String>, HostError> {
        match change {
            Change::Created { name, index } => self.remove_created(name, *index),
            Change::Link { link, up, mtu } => self.restore_link(link, *up, *mtu),
            Change::Address { link, address } => {
                let there =
                    self.surviving(link)?.is_some() && self.remove_address(link, *address)?;
                Ok(there.then(|| format!("removed the address {address} from {}", link.name)))
            }
            Change::Routes { link, table } => self.remove_routes(link, Table(*table)),
            Change::Rule(rule) => self.remove_rule(*rule),
            Change::Filter => self.remove_filter(),
            Change::Sysctl {
                key,
                old,
                new,
                also,
            } => self.restore_sysctl(key, old, new, also),
        }
    }
}

impl Drop for HostNet {
    fn drop(&mut self) {
        if self.journal.changes().is_empty() {
            return;
        }
        if let Err(error) = self.undo_all() {
            tracing::warn!(%error, "what was changed on this host could not all be undone");
        }
    }
}
