//! What can go wrong between this program and the host's network stack.

use std::io;
use std::path::PathBuf;

/// Why a change to the host, or a question to it, failed. Every message says what was being done,
/// on what, and why it did not work; `doing` reads as "adding the route 10.0.0.0/8 through tun0".
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// The instance name cannot be part of an nftables table name and of a file name.
    #[error(
        "the instance name {name:?} is not usable: 1 to 32 letters, digits, '-' and '_', beginning with a letter"
    )]
    InstanceName {
        /// The name given.
        name: String,
    },

    /// Another process runs under the same instance name.
    #[error("another process runs as instance {instance:?} (it holds {path})", path = path.display())]
    InstanceInUse {
        /// The instance.
        instance: String,
        /// The lock file that is held.
        path: PathBuf,
    },

    /// The kernel refuses because of missing privileges.
    #[error("{doing}: not permitted (this needs root or CAP_NET_ADMIN in this network namespace)")]
    Permission {
        /// What was being done.
        doing: String,
    },

    /// No network interface has this name.
    #[error("{doing}: there is no network interface {link:?}")]
    NoSuchLink {
        /// What was being done.
        doing: String,
        /// The name looked for.
        link: String,
    },

    /// Something the request names is not there (ESRCH, ENOENT, ENODEV, ENXIO).
    #[error("{doing}: {reason}")]
    NotFound {
        /// What was being done.
        doing: String,
        /// The kernel's words.
        reason: String,
    },

    /// What was to be made exists already, and is not ours.
    #[error("{doing}: it exists already and was not made by this instance")]
    Exists {
        /// What was being done.
        doing: String,
    },

    /// This kernel, or this interface, does not do it (an IPv6 address where IPv6 is switched off).
    #[error("{doing}: {reason}")]
    Unsupported {
        /// What was being done.
        doing: String,
        /// The kernel's words, or ours where we know better.
        reason: String,
    },

    /// The kernel refused for any other reason.
    #[error("{doing}: {source}{}", detail(.kernel.as_deref()))]
    Kernel {
        /// What was being done.
        doing: String,
        /// The error number.
        source: io::Error,
        /// The kernel's own explanation, if it gave one (extended acknowledgement).
        kernel: Option<String>,
    },

    /// The netlink socket failed, or what came back could not be read.
    #[error("{doing}: netlink: {source}")]
    Netlink {
        /// What was being done.
        doing: String,
        /// The cause.
        source: io::Error,
    },

    /// A kernel setting could not be read or written.
    #[error("{doing}: {path}: {source}", path = path.display())]
    Sysctl {
        /// What was being done.
        doing: String,
        /// The file under /proc/sys.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },

    /// Firewall rules are needed and the program that loads them is missing.
    #[error(
        "{doing}: the program `nft` was not found; install nftables (on Debian: apt install nftables)"
    )]
    NftMissing {
        /// What was being done.
        doing: String,
    },

    /// `nft` ran and refused.
    #[error("{doing}: nft: {reason}")]
    Nft {
        /// What was being done.
        doing: String,
        /// Its own words.
        reason: String,
    },

    /// The journal of changes could not be read or written; nothing is changed without it.
    #[error("{doing}: {path}: {source}", path = path.display())]
    Journal {
        /// What was being done.
        doing: String,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },

    /// Some changes could not be undone. They stay in the journal, for the next attempt.
    #[error("{} of the changes to this host could not be undone: {}", .failures.len(), list(.failures))]
    Undo {
        /// One error per change that is left.
        failures: Vec<HostError>,
    },
}

impl HostError {
    /// Whether privileges are what is missing: as root, or with CAP_NET_ADMIN, the same call might
    /// have succeeded.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        match self {
            Self::Permission { .. } => true,
            Self::Kernel { source, .. }
            | Self::Netlink { source, .. }
            | Self::Sysctl { source, .. }
            | Self::Journal { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
            ),
            Self::Undo { failures } => failures.iter().any(Self::is_permission),
            _ => false,
        }
    }

    /// Whether what the request named is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NoSuchLink { .. } | Self::NotFound { .. })
    }
}

fn detail(kernel: Option<&str>) -> String {
    kernel.map_or_else(String::new, |text| format!(" ({text})"))
}

fn list(failures: &[HostError]) -> String {
    let texts: Vec<String> = failures.iter().map(ToString::to_string).collect();
    texts.join("; ")
}
