//! CONNECT-IP on tokio.
//!
//! [`Driver`] is a future on one thread: awaited, or spawned on a `LocalSet` beside other tasks;
//! [`run`] brings a runtime of its own. All packets are the [`Pump`]'s work; here is only what tokio
//! is: readiness through `AsyncFd`, and when to yield.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use masque_adapter_kit::{App, Descriptors, Error, Interest, Pump, Source, SystemIo};
use tokio::io::unix::AsyncFd;

/// The name of the runtime, for logs and measurements.
pub const NAME: &str = "tokio";

/// The most turns in one poll, before other tasks get theirs.
const TURNS: usize = 4;

/// A pump as a future on tokio: awaited, or spawned on a local task set (it need not be `Send`). It
/// ends when the application stops, and gives the pump back.
pub struct Driver<A: App, I: Descriptors = SystemIo> {
    /// `None` after the end.
    pump: Option<Pump<A, I>>,
    watches: Vec<Watch>,
    again: bool,
}

/// One source, registered with tokio's reactor.
struct Watch {
    source: Source,
    read: AsyncFd<OwnedFd>,
    /// Only while something waits to be written: a UDP socket becomes writable with every datagram
    /// that has left it, and each time would be a wake-up.
    write: Option<AsyncFd<OwnedFd>>,
}

impl<A: App, I: Descriptors> Driver<A, I> {
    /// Registers the pump's descriptors with the runtime it is called in.
    ///
    /// # Errors
    /// [`Error::Readiness`].
    ///
    /// # Panics
    /// Outside a runtime, or in one without I/O, as tokio does.
    pub fn new(pump: Pump<A, I>) -> Result<Self, Error> {
        let mut watches = Vec::new();
        register(&pump, &mut watches).map_err(Error::Readiness)?;
        Ok(Self {
            pump: Some(pump),
            watches,
            again: true,
        })
    }
}

/// Takes over what came or went.
fn register<A: App, I: Descriptors>(pump: &Pump<A, I>, watches: &mut Vec<Watch>) -> io::Result<()> {
    watches.retain(|watch| pump.sources().any(|source| source == watch.source));
    for source in pump.sources() {
        if watches.iter().all(|watch| watch.source != source) {
            let descriptor = pump.duplicate(source)?;
            watches.push(Watch {
                source,
                read: watched(descriptor, tokio::io::Interest::READABLE)?,
                write: None,
            });
        }
    }
    Ok(())
}

#[expect(
    deprecated,
    reason = "the new form is unsafe, for types that are not what an `OwnedFd` is: one descriptor, open"
)]
fn watched(descriptor: OwnedFd, interest: tokio::io::Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor, interest)
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
            && let Poll::Ready(guard) = self.read.poll_read_ready(cx)
        {
            // From here on the pump remembers it.
            guard?.clear_ready();
            ready.read = true;
        }
        // A device that was deleted is in error and nothing else, which tokio takes for the end of
        // writing, whatever was asked for.
        if interest.read
            && matches!(self.source, Source::Port(_))
            && let Poll::Ready(guard) = self.read.poll_write_ready(cx)
        {
            guard?.clear_ready();
            ready.read = true;
        }
        if interest.write {
            let write = match &mut self.write {
                Some(write) => write,
                none => none.insert(watched(
                    pump.duplicate(self.source)?,
                    tokio::io::Interest::WRITABLE,
                )?),
            };
            if let Poll::Ready(guard) = write.poll_write_ready(cx) {
                guard?.clear_ready();
                ready.write = true;
            }
        } else {
            self.write = None;
        }
        pump.ready(self.source, ready);
        Ok(!ready.is_none())
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
            let mut woken = self.again;
            for watch in &mut self.watches {
                woken |= watch.poll(pump, cx).map_err(Error::Readiness)?;
            }
            if !woken {
                return Poll::Pending;
            }
            let report = pump.turn(pump.io().now())?;
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
/// let pump = masque_adapter_tokio::run(pump)?;
/// assert!(pump.counters().turns >= 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn run<A: App, I: Descriptors>(pump: Pump<A, I>) -> Result<Pump<A, I>, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        // There is only this task: the reactor is asked whenever it yields.
        .event_interval(1)
        .build()
        .map_err(Error::Readiness)?;
    runtime.block_on(async { Driver::new(pump)?.await })
}
