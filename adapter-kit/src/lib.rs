//! What every CONNECT-IP adapter shares.
//!
//! An adapter adds only what its runtime is: readiness, deadlines, spawning, shutdown. Everything
//! else is the [`Pump`]: one bounded, non-blocking turn after another over an [`Io`].

pub mod app;
pub mod io;

pub use app::{App, Cx};
pub use io::Io;
