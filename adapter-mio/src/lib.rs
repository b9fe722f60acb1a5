//! CONNECT-IP on mio: no async, one thread, one loop.
//!
//! All packets are the [`Pump`]'s work; here is only what mio is: an edge-triggered `Poll` over the
//! pump's descriptors.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use masque_adapter_kit::{App, Descriptors, Error, Interest, Pump, Source, SystemIo};
use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Poll, Token};

/// The name of the runtime, for logs and measurements.
pub const NAME: &str = "mio";

/// A pump on a mio reactor. An application embeds it on a thread of its own, or calls
/// [`Driver::step`] from a loop that it has anyway.
pub struct Driver<A: App, I: Descriptors = SystemIo> {
    pump: Pump<A, I>,
    poll: Poll,
    events: Events,
    watches: Vec<Watch>,
    next_token: usize,
    again: bool,
}

/// One source, registered with the reactor.
struct Watch {
    source: Source,
    token: Token,
    descriptor: OwnedFd,
    /// Registered for writing too. Only while something waits to be written: a UDP socket becomes
    /// writable with every datagram that has left it, and each time would be a wake-up.
    writing: bool,
}

impl<A: App, I: Descriptors> Driver<A, I> {
    /// Registers the pump's descriptors.
    ///
    /// # Errors
    /// [`Error::Readiness`].
    pub fn new(pump: Pump<A, I>) -> Result<Self, Error> {
        let mut driver = Self {
            pump,
            poll: Poll::new().map_err(Error::Readiness)?,
            events: Events::with_capacity(64),
            watches: Vec::new(),
            next_token: 0,
            again: true,
        };
        driver.register().map_err(Error::Readiness)?;
        Ok(driver)
    }

    /// Runs until the application stops, and gives the pump back.
    ///
    /// # Errors
    /// [`Error`].
    pub fn run(mut self) -> Result<Pump<A, I>, Error> {
        while self.step(None)? {}
        Ok(self.pump)
    }

    /// Waits until something is ready, a deadline has come or `timeout` is over, and makes one turn if
    /// there is cause for it. `false` once the application has stopped.
    ///
    /// # Errors
    /// [`Error`].
    pub fn step(&mut self, timeout: Option<Duration>) -> Result<bool, Error> {
        self.watch_writing().map_err(Error::Readiness)?;
        let timeout = if self.again {
            Some(Duration::ZERO)
        } else {
            timeout
        };
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            outcome => outcome.map_err(Error::Readiness)?,
        }
        for event in &self.events {
            let watch = self.watches.iter().find(|one| one.token == event.token());
            if let Some(watch) = watch {
                self.pump.ready(watch.source, readiness(event));
            }
        }
        if !self.again && self.events.is_empty() {
            return Ok(true);
        }
        let report = self.pump.turn(self.pump.io().now())?;
        if report.sources_changed {
            self.register().map_err(Error::Readiness)?;
        }
        self.again = report.again;
        Ok(!report.stopped)
    }

    /// The pump.
    #[must_use]
    pub fn pump(&self) -> &Pump<A, I> {
        &self.pump
    }

    /// Gives the pump back.
    #[must_use]
    pub fn into_pump(self) -> Pump<A, I> {
        self.pump
    }

    /// Takes over what came or went.
    fn register(&mut self) -> io::Result<()> {
        let registry = self.poll.registry();
        let pump = &self.pump;
        let mut outcome = Ok(());
        self.watches.retain(|watch| {
            let stays = pump.sources().any(|source| source == watch.source);
            if !stays {
                let result = registry.deregister(&mut SourceFd(&watch.descriptor.as_raw_fd()));
                outcome = std::mem::replace(&mut outcome, Ok(())).and(result);
            }
            stays
        });
        outcome?;
        for source in pump.sources() {
            if self.watches.iter().any(|watch| watch.source == source) {
                continue;
            }
            let descriptor = pump.duplicate(source)?;
            let token = Token(self.next_token);
            self.next_token += 1;
            registry.register(
                &mut SourceFd(&descriptor.as_raw_fd()),
                token,
                mio::Interest::READABLE,
            )?;
            self.watches.push(Watch {
                source,
                token,
                descriptor,
                writing: false,
            });
        }
        Ok(())
    }

    /// Asks for writability exactly where the pump waits for it.
    fn watch_writing(&mut self) -> io::Result<()> {
        for watch in &mut self.watches {
            let writing = self.pump.interest(watch.source).write;
            if writing == watch.writing {
                continue;
            }
            let interest = if writing {
                mio::Interest::READABLE | mio::Interest::WRITABLE
            } else {
                mio::Interest::READABLE
            };
            self.poll.registry().reregister(
                &mut SourceFd(&watch.descriptor.as_raw_fd()),
                watch.token,
                interest,
            )?;
            watch.writing = writing;
        }
        Ok(())
    }
}

/// An error or a hang-up shows in the next read or write.
fn readiness(event: &Event) -> Interest {
    Interest {
        read: event.is_readable() || event.is_read_closed() || event.is_error(),
        write: event.is_writable() || event.is_write_closed() || event.is_error(),
    }
}

/// Runs a pump on this thread until its application stops, and gives it back.
///
/// # Errors
/// [`Error`].
///
/// ```
/// use std::time::{Instant, SystemTime};
///
/// use masque_adapter_kit::{App, Cx, Pump, SystemIo, UdpConfig};
/// use masque_core::endpoint::{Config, Endpoint, Entropy, Event, Limits, TransportProfile};
/// use masque_core::session::SessionConfig;
///
/// /// Connects nowhere: it ends at its first deadline.
/// struct Nothing(Instant);
///
/// impl App for Nothing {
///     type Message = ();
///     fn start(&mut self, _: &mut Cx<'_>) {}
///     fn on_event(&mut self, _: &mut Cx<'_>, _: Event) {}
///     fn on_message(&mut self, _: &mut Cx<'_>, (): ()) {}
///     fn deadline(&self) -> Option<Instant> {
///         Some(self.0)
///     }
///     fn on_deadline(&mut self, cx: &mut Cx<'_>) {
///         cx.stop();
///     }
/// }
///
/// let config = Config {
///     server: None,
///     transport: TransportProfile::default(),
///     limits: Limits::default(),
///     session: SessionConfig::default(),
///     shard: None,
///     ports: Vec::new(),
/// };
/// let now = Instant::now();
/// // In earnest the seed comes from the system.
/// let entropy = Entropy::from_seed([7; 32]);
/// let endpoint = Endpoint::new(now, SystemTime::now(), config, entropy)?;
/// let mut io = SystemIo::new();
/// io.add_socket(UdpConfig::new("127.0.0.1:0".parse()?).bind()?)?;
/// let pump = Pump::new(endpoint, io, Nothing(now))?;
/// let pump = masque_adapter_mio::run(pump)?;
/// assert!(pump.counters().turns >= 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn run<A: App, I: Descriptors>(pump: Pump<A, I>) -> Result<Pump<A, I>, Error> {
    Driver::new(pump)?.run()
}
