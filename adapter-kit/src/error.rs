//! Why a loop cannot go on.

use std::io;

/// Why a loop cannot go on. Failing sockets and devices are never fatal: they are counted and told to
/// the application.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The runtime or the system gave no reactor, or none for a descriptor.
    #[error("readiness: {0}")]
    Readiness(#[source] io::Error),
    /// The timer failed.
    #[error("timer: {0}")]
    Timer(#[source] io::Error),
}
