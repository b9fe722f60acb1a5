//! CONNECT-IP on mio: no async, one thread, one loop.

use masque_adapter_kit::{App, Descriptors, Error, Pump, SystemIo};

/// The name of the runtime, for logs and measurements.
pub const NAME: &str = "mio";

/// A pump on a mio reactor. An application embeds it on a thread of its own.
pub struct Driver<A: App, I: Descriptors = SystemIo> {
    pump: Pump<A, I>,
}

impl<A: App, I: Descriptors> Driver<A, I> {
    /// Registers the pump's descriptors.
    ///
    /// # Errors
    /// [`Error::Readiness`].
    pub fn new(pump: Pump<A, I>) -> Result<Self, Error> {
        Ok(Self { pump })
    }

    /// Runs until the application stops, and gives the pump back.
    ///
    /// # Errors
    /// [`Error`].
    pub fn run(self) -> Result<Pump<A, I>, Error> {
        let _ = self.pump;
        unimplemented!()
    }
}

/// Runs a pump on this thread until its application stops, and gives it back.
///
/// # Errors
/// [`Error`].
pub fn run<A: App, I: Descriptors>(pump: Pump<A, I>) -> Result<Pump<A, I>, Error> {
    Driver::new(pump)?.run()
}
