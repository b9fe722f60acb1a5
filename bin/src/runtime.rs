//! The runtime a binary carries: each has exactly one.

use masque_adapter_kit::{App, Error, Pump};

/// What runs a pump until its application stops.
pub trait Runtime {
    /// Its name.
    const NAME: &'static str;

    /// Runs `pump` on this thread and gives it back.
    ///
    /// # Errors
    /// The runtime gave no reactor.
    fn run<A: App>(pump: Pump<A>) -> Result<Pump<A>, Error>;
}

/// Runs on tokio.
#[cfg(feature = "tokio")]
#[derive(Clone, Copy, Debug)]
pub struct Tokio;

#[cfg(feature = "tokio")]
impl Runtime for Tokio {
    const NAME: &'static str = masque_adapter_tokio::NAME;

    fn run<A: App>(pump: Pump<A>) -> Result<Pump<A>, Error> {
        masque_adapter_tokio::run(pump)
    }
}

/// Runs on smol.
#[cfg(feature = "smol")]
#[derive(Clone, Copy, Debug)]
pub struct Smol;

#[cfg(feature = "smol")]
impl Runtime for Smol {
    const NAME: &'static str = masque_adapter_smol::NAME;

    fn run<A: App>(pump: Pump<A>) -> Result<Pump<A>, Error> {
        masque_adapter_smol::run(pump)
    }
}

/// Runs on mio.
#[cfg(feature = "mio")]
#[derive(Clone, Copy, Debug)]
pub struct Mio;

#[cfg(feature = "mio")]
impl Runtime for Mio {
    const NAME: &'static str = masque_adapter_mio::NAME;

    fn run<A: App>(pump: Pump<A>) -> Result<Pump<A>, Error> {
        masque_adapter_mio::run(pump)
    }
}
