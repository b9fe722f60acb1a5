//! One bounded, non-blocking turn after another.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use masque_core::endpoint::Endpoint;

use crate::app::App;
use crate::control::Controller;
use crate::error::Error;
use crate::io::{Descriptors, Interest, Io, Source};
use crate::system::SystemIo;

/// How much one turn does at most, and what is forced off.
#[derive(Clone, Debug)]
pub struct PumpOptions {
    /// UDP receives per socket and turn.
    pub receives: usize,
    /// TUN reads per device and turn.
    pub reads: usize,
    /// UDP sends per turn.
    pub sends: usize,
    /// Messages and events per turn.
    pub events: usize,
    /// The most datagrams one send may carry, whatever the socket can do (1: no GSO).
    pub max_segments: usize,
    /// How many frames wait for a device that takes no more; what comes after is dropped.
    pub waiting_frames: usize,
    /// How long one datagram batch waits for a socket that takes no more before it is dropped, so
    /// that one stuck socket does not stop the others.
    pub send_patience: Duration,
}

impl Default for PumpOptions {
    fn default() -> Self {
        Self {
            receives: 16,
            reads: 32,
            sends: 64,
            events: 256,
            max_segments: 64,
            waiting_frames: 1024,
            send_patience: Duration::from_millis(100),
        }
    }
}

/// What the pump has done since it was made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PumpCounters {
    /// Turns.
    pub turns: u64,
    /// UDP receives that gave a batch.
    pub receives: u64,
    /// UDP receives that failed, other than by `WouldBlock`.
    pub receive_errors: u64,
    /// UDP sends that went out.
    pub sends: u64,
    /// UDP sends that had to wait.
    pub sends_blocked: u64,
    /// UDP batches dropped because the system refused them.
    pub send_errors: u64,
    /// UDP batches dropped because their socket was stuck, or gone.
    pub sends_dropped: u64,
    /// Sockets whose GSO was turned off after a failure.
    pub gso_disabled: u64,
    /// Packets and super-packets read from devices.
    pub reads: u64,
    /// Frames written to devices.
    pub writes: u64,
    /// Frame writes that had to wait.
    pub writes_blocked: u64,
    /// Frames dropped because the system refused them.
    pub write_errors: u64,
    /// Frames dropped because too many waited for their device.
    pub writes_dropped: u64,
    /// Messages of controllers.
    pub messages: u64,
    /// Times the timer was armed or disarmed.
    pub timer_sets: u64,
}

/// What a turn leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct TurnReport {
    /// There is more to do at once: call [`Pump::turn`] again after giving other tasks a chance.
    pub again: bool,
    /// The loop is over.
    pub stopped: bool,
    /// Sockets or devices came or went: look at [`Pump::sources`] again.
    pub sources_changed: bool,
    /// When the next turn is due; the pump's timer is armed for it unless `again`.
    pub deadline: Option<Instant>,
}

/// An endpoint, its application and its I/O.
pub struct Pump<A: App, I: Io = SystemIo> {
    endpoint: Endpoint,
    io: I,
    app: A,
}

impl<A: App, I: Io> Pump<A, I> {
    /// Puts them together. [`App::start`] is called in the first turn.
    ///
    /// # Errors
    /// No descriptors left for the timer and the control channel.
    pub fn new(endpoint: Endpoint, io: I, app: A) -> io::Result<Self> {
        Self::with_options(endpoint, io, app, PumpOptions::default())
    }

    /// The same with options.
    ///
    /// # Errors
    /// As [`Pump::new`].
    pub fn with_options(
        endpoint: Endpoint,
        io: I,
        app: A,
        options: PumpOptions,
    ) -> io::Result<Self> {
        let _ = options;
        let _ = Self { endpoint, io, app };
        unimplemented!()
    }

    /// A way into the loop for other threads.
    #[must_use]
    pub fn controller(&self) -> Controller<A::Message> {
        unimplemented!()
    }

    /// Everything there is to wait for: sockets, devices, the timer and the control channel.
    pub fn sources(&self) -> impl Iterator<Item = Source> + '_ {
        std::iter::empty()
    }

    /// What of `source` is to be waited for now. Nothing, where the pump already knows it is ready.
    #[must_use]
    pub fn interest(&self, source: Source) -> Interest {
        let _ = source;
        unimplemented!()
    }

    /// Says that a source is ready.
    pub fn ready(&mut self, source: Source, ready: Interest) {
        let _ = (source, ready);
        unimplemented!()
    }

    /// One turn: takes what waits (bounded), does what is due, sends and writes what there is.
    ///
    /// # Errors
    /// [`Error::Timer`] only.
    pub fn turn(&mut self, now: Instant) -> Result<TurnReport, Error> {
        let _ = now;
        unimplemented!()
    }

    /// What was counted so far.
    #[must_use]
    pub fn counters(&self) -> &PumpCounters {
        unimplemented!()
    }

    /// The endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The application.
    #[must_use]
    pub fn app(&self) -> &A {
        &self.app
    }

    /// The application, to be changed.
    pub fn app_mut(&mut self) -> &mut A {
        &mut self.app
    }

    /// The I/O.
    #[must_use]
    pub fn io(&self) -> &I {
        &self.io
    }

    /// Takes the pump apart.
    #[must_use]
    pub fn into_parts(self) -> (Endpoint, I, A) {
        unimplemented!()
    }
}

impl<A: App, I: Descriptors> Pump<A, I> {
    /// The descriptor to wait on for `source`.
    #[must_use]
    pub fn descriptor(&self, source: Source) -> Option<BorrowedFd<'_>> {
        let _ = source;
        unimplemented!()
    }
}
