//! CONNECT-IP on smol.
//!
//! [`Driver`] is a future on one thread: awaited, or spawned on a `LocalExecutor` beside other tasks;
//! [`run`] blocks on it. All packets are the [`Pump`]'s work; here is only what smol is: readiness
//! through `async_io::Async`, which smol re-exports, and when to yield.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use async_io::Async;
use masque_adapter_kit::{App, Descriptors, Error, Interest, Pump, Source, SystemIo};

/// The name of the runtime, for logs and measurements.
pub const NAME: &str = "smol";

/// The most turns in one poll, before other tasks get theirs.
const TURNS: usize = 4;

/// How often in a row a source that gave something is read again before the reactor is asked about it. The
/// answer costs six system calls (its descriptors are armed for one event, as is its timer), a read that
/// finds nothing one; and while packets flow, more have come by the end of a turn.
const LOOKS: u8 = 3;

/// A pump as a future on smol: awaited, or spawned on a local executor (it need not be `Send`). It
/// ends when the application stops, and gives the pump back.
pub struct Driver<A: App, I: Descriptors = SystemIo> {
    /// `None` after the end.
    pump: Option<Pump<A, I>>,
    watches: Vec<Watch>,
    again: bool,
    /// The last turn read packets.
    flowing: bool,
}

/// One source, registered with smol's reactor.
struct Watch {
    source: Source,
    descriptor: Async<OwnedFd>,
    /// How often it may be read again without asking.
    looks: u8,
}

impl<A: App, I: Descriptors> Driver<A, I> {
    /// Registers the pump's descriptors with the reactor.
    ///
    /// # Errors
    /// [`Error::Readiness`].
    pub fn new(pump: Pump<A, I>) -> Result<Self, Error> {
        let mut watches = Vec::new();
        register(&pump, &mut watches).map_err(Error::Readiness)?;
        Ok(Self {
            pump: Some(pump),
            watches,
            again: true,
            flowing: false,
        })
    }
}

/// Receives and reads so far.
fn carried<A: App, I: Descriptors>(pump: &Pump<A, I>) -> u64 {
    let counters = pump.counters();
    counters.receives + counters.reads
}

/// Takes over what came or went.
fn register<A: App, I: Descriptors>(pump: &Pump<A, I>, watches: &mut Vec<Watch>) -> io::Result<()> {
    watches.retain(|watch| pump.sources().any(|source| source == watch.source));
    for source in pump.sources() {
        if watches.iter().all(|watch| watch.source != source) {
            // All of them are non-blocking as they were made.
            let descriptor = Async::new_nonblocking(pump.duplicate(source)?)?;
            watches.push(Watch {
                source,
                descriptor,
                looks: 0,
            });
        }
    }
    Ok(())
}

impl Watch {
    /// Tells the pump what is ready; `true` if anything is. What is not wakes the task later.
    fn poll<A: App, I: Descriptors>(
        &mut self,
        pump: &mut Pump<A, I>,
        cx: &mut Context<'_>,
    ) -> io::Result<bool> {
        let interest = pump.interest(self.source);
        let mut ready = Interest::default();
        if interest.read
            && let Poll::Ready(outcome) = self.descriptor.poll_readable(cx)
        {
            outcome?;
            ready.read = true;
            self.looks = LOOKS;
        }
        if interest.write
            && let Poll::Ready(outcome) = self.descriptor.poll_writable(cx)
        {
            outcome?;
            ready.write = true;
        }
        pump.ready(self.source, ready);
        Ok(!ready.is_none())
    }

    /// Has the pump read once more what has just been read from; `true` if there is such a thing.
    fn look<A: App, I: Descriptors>(&mut self, pump: &mut Pump<A, I>) -> bool {
        let is_link = matches!(self.source, Source::Socket(_) | Source::Port(_));
        if !is_link || self.looks == 0 {
            return false;
        }
        self.looks -= 1;
        pump.ready(self.source, Interest::READ);
        true
    }
}

impl<A: App, I: Descriptors> Future for Driver<A, I> {
    type Output = Result<Pump<A, I>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let outcome = ready!(this.drive(cx));
        let pump = this.pump.take();
        Poll::Ready(outcome.map(|()| pump.expect("a future is not polled after its end")))
    }
}

impl<A: App, I: Descriptors> Driver<A, I> {
    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let pump = self
            .pump
            .as_mut()
            .expect("a future is not polled after its end");
        for _ in 0..TURNS {
            let mut looked = false;
            if self.flowing {
                for watch in &mut self.watches {
                    looked |= watch.look(pump);
                }
            }
            let mut woken = self.again || looked;
            if !looked {
                for watch in &mut self.watches {
                    woken |= watch.poll(pump, cx).map_err(Error::Readiness)?;
                }
            }
            if !woken {
                return Poll::Pending;
            }
            let before = carried(pump);
            let report = pump.turn(pump.io().now())?;
            self.flowing = carried(pump) != before;
            if report.stopped {
                return Poll::Ready(Ok(()));
            }
            if report.sources_changed {
                register(pump, &mut self.watches).map_err(Error::Readiness)?;
            }
            self.again = report.again;
        }
        // Whether or not there is more: nothing has been asked to wake us since the last turn.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

// Nothing in it is ever pinned.
impl<A: App, I: Descriptors> Unpin for Driver<A, I> {}

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
/// let pump = masque_adapter_smol::run(pump)?;
/// assert!(pump.counters().turns >= 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn run<A: App, I: Descriptors>(pump: Pump<A, I>) -> Result<Pump<A, I>, Error> {
    async_io::block_on(Driver::new(pump)?)
}
