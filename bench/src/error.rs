//! What can go wrong while measuring.

use std::io;

/// Why something could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program that was called failed.
    #[error("{command}: {output}")]
    Command {
        /// What was called.
        command: String,
        /// What it said.
        output: String,
    },
    /// The system refused something.
    #[error("{0}: {1}")]
    System(String, io::Error),
    /// Something did not happen in time.
    #[error("timed out: {0}")]
    Timeout(String),
    /// A probe said something unexpected.
    #[error("probe: {0}")]
    Probe(String),
    /// The command line asks for something that does not exist.
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// The system refused `what`.
    pub fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |error| Self::System(what, error)
    }
}
