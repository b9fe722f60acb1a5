//! CONNECT-IP on tokio.

use std::pin::Pin;
use std::task::{Context, Poll};

use masque_adapter_kit::{App, Descriptors, Error, Pump, SystemIo};

/// The name of the runtime, for logs and measurements.
pub const NAME: &str = "tokio";

/// A pump as a future on tokio: awaited, or spawned on a local task set (it need not be `Send`). It ends
/// when the application stops, and gives the pump back.
pub struct Driver<A: App, I: Descriptors = SystemIo> {
    pump: Pump<A, I>,
}

impl<A: App, I: Descriptors> Driver<A, I> {
    /// Registers the pump's descriptors with the runtime it is called in.
    ///
    /// # Errors
    /// [`Error::Readiness`].
    pub fn new(pump: Pump<A, I>) -> Result<Self, Error> {
        Ok(Self { pump })
    }
}

impl<A: App, I: Descriptors> Future for Driver<A, I> {
    type Output = Result<Pump<A, I>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let _ = (&self.pump, cx);
        unimplemented!()
    }
}

/// Runs a pump on this thread until its application stops, and gives it back.
///
/// # Errors
/// [`Error`].
pub fn run<A: App, I: Descriptors>(pump: Pump<A, I>) -> Result<Pump<A, I>, Error> {
    let _ = pump;
    unimplemented!()
}

// Nothing in it is ever pinned.
impl<A: App, I: Descriptors> Unpin for Driver<A, I> {}
