//! What every CONNECT-IP adapter shares.
//!
//! An adapter adds only what its runtime is: readiness, deadlines, spawning, shutdown. Everything
//! else is the [`Pump`]: one bounded, non-blocking turn after another over an [`Io`].
//!
//! # How an adapter drives a pump
//!
//! Readiness is edge-triggered: the pump remembers what may be readable or writable until the system
//! says `WouldBlock`.
//!
//! 1. wait until a source for which [`Pump::interest`] is set is ready, and say so with
//!    [`Pump::ready`] (the timer and the control channel are sources too);
//! 2. call [`Pump::turn`] with one reading of the clock;
//! 3. if the report says `stopped`, end; if it says `again`, go to 2 after giving other tasks a
//!    chance; if it says `sources_changed`, register and deregister descriptors; else go to 1.
//!
//! The pump arms its own timer (a timerfd), so that deadlines finer than a millisecond are kept by
//! every runtime in the same way.

#![deny(unsafe_code)]

pub mod app;
mod bpf;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod control;
mod error;
mod fallback;
mod heap;
pub mod io;
pub mod mail;
pub mod memory;
pub mod pump;
mod sockopt;
pub mod steer;
pub mod system;
mod timer;
pub mod tun;
pub mod udp;

pub use app::{App, Cx, Sockets};
pub use control::{Controller, SendError};
pub use error::Error;
pub use fallback::Fallbacks;
pub use io::{Descriptors, Interest, Io, Source};
pub use mail::{MailLimits, Parcel, PostBox};
pub use masque_recording::Taped;
pub use pump::{Pump, PumpCounters, PumpOptions, TurnReport};
pub use steer::{Destinations, SocketGroup};
pub use system::SystemIo;
pub use timer::Timer;
pub use tun::{Offload, TunConfig, TunDevice, TunQueues};
pub use udp::UdpConfig;
