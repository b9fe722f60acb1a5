//! One bounded, non-blocking turn after another.

mod ingress;
mod intake;
mod links;
mod post;
mod receive;
mod sender;
mod writer;

use std::io::{self, ErrorKind};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use masque_core::endpoint::{Endpoint, Mail, TimerReason, TunBatch};
use masque_recording::Taped;

use crate::app::{App, Cx};
use crate::control::{Controller, Inbox};
use crate::error::Error;
use crate::heap;
use crate::io::{Descriptors, Interest, Io, Source};
use crate::mail::PostBox;
use crate::system::SystemIo;
use ingress::Ingress;
use intake::Intake;
use links::Links;
use sender::Sender;

/// A send counts once more for each so many bytes.
const SMALL_SEND: usize = 16 << 10;

/// How often a turn looks again because an event's handler may have made output.
const PASSES: usize = 4;

/// While a socket takes nothing the endpoint's output hides its timers: look so often.
const BLOCKED_TICK: Duration = Duration::from_millis(10);

/// How often a pump that has had much to do looks whether it still has.
const REST: Duration = Duration::from_secs(1);

/// From so many receives and reads between two looks on there is much to do. Single packets leave little
/// behind, and must not cost further wake-ups.
const BUSY: u64 = 256;

/// The most batches that go out after the application has stopped.
const LAST_SENDS: usize = 1024;

/// How much one turn does at most, and what is forced off.
#[derive(Clone, Debug)]
pub struct PumpOptions {
    /// What the endpoint takes in of known sources in a turn, in full batches of 64 KiB; of smaller
    /// ones, as many as take about as long. What has been received beyond that waits.
    pub receives: usize,
    /// UDP receives per socket and turn: more than the endpoint takes in, so that what a flood sends
    /// does not fill the socket's buffer, which all sources share.
    pub drained: usize,
    /// Datagrams of sources without a connection per turn: each may be a step of a handshake.
    pub strangers: usize,
    /// TUN reads per device and turn, of super-packets; of single packets, as many as take about as
    /// long.
    pub reads: usize,
    /// UDP sends per turn, of up to 16 KiB; a larger one counts more.
    pub sends: usize,
    /// Messages and events per turn.
    pub events: usize,
    /// Mail of other shards per turn.
    pub mails: usize,
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
            receives: 12,
            drained: 1024,
            strangers: 4,
            reads: 16,
            sends: 32,
            events: 256,
            mails: 64,
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
    /// Datagrams dropped because their source had too much waiting.
    pub receives_dropped: u64,
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
    /// Mail from other shards.
    pub mails_received: u64,
    /// Mail to other shards.
    pub mails_sent: u64,
    /// Mail that its shard had no room for.
    pub mails_refused: u64,
    /// Kinds of steering that the kernel did not take ([`Pump::set_steering_failures`]).
    pub steering_failures: u64,
    /// Times the timer was armed or disarmed.
    pub timer_sets: u64,
    /// Times memory was given back after load.
    pub rests: u64,
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
    endpoint: Taped,
    io: I,
    app: A,
    options: PumpOptions,
    counters: PumpCounters,
    links: Links,
    sender: Sender,
    intake: Intake,
    ingress: Ingress,
    read: Box<[u8]>,
    batch: TunBatch,
    inbox: Inbox<A::Message>,
    inbox_ready: bool,
    post: Option<PostBox<Mail>>,
    clock: Clock,
    rest: Rest,
    started: bool,
    stop: bool,
    stopped: bool,
}

/// Notices when load is over, so that what only load needs can be given back.
#[derive(Default)]
struct Rest {
    /// Receives and reads when it was last looked at.
    seen: u64,
    /// When to look again; nothing while there was little to do.
    at: Option<Instant>,
}

/// Deadlines.
#[derive(Default)]
struct Clock {
    /// The timer is ready, and has not been armed since.
    fired: bool,
    /// What the endpoint asked for in the last turn.
    due: Option<Instant>,
}

impl<A: App, I: Io> Pump<A, I> {
    /// Puts them together. [`App::start`] is called in the first turn.
    ///
    /// # Errors
    /// No descriptors left for the timer and the control channel.
    pub fn new(endpoint: impl Into<Taped>, io: I, app: A) -> io::Result<Self> {
        Self::with_options(endpoint, io, app, PumpOptions::default())
    }

    /// The same with options.
    ///
    /// # Errors
    /// As [`Pump::new`].
    pub fn with_options(
        endpoint: impl Into<Taped>,
        mut io: I,
        app: A,
        options: PumpOptions,
    ) -> io::Result<Self> {
        let now = io.now();
        io.arm(now, None, false)?;
        let mut links = Links::default();
        links.sync(&io);
        Ok(Self {
            endpoint: endpoint.into(),
            io,
            app,
            counters: PumpCounters::default(),
            links,
            sender: Sender::new(&options),
            intake: Intake::default(),
            ingress: Ingress::default(),
            read: Box::default(),
            batch: TunBatch::default(),
            inbox: Inbox::new()?,
            inbox_ready: true,
            post: None,
            clock: Clock::default(),
            rest: Rest::default(),
            started: false,
            stop: false,
            stopped: false,
            options,
        })
    }

    /// Makes it one of the shards of a server: the one that the box belongs to.
    #[must_use]
    pub fn with_post_box(mut self, post: PostBox<Mail>) -> Self {
        self.post = Some(post);
        self
    }

    /// Has it count what whoever made its sockets and devices was refused by the kernel.
    pub fn set_steering_failures(&mut self, failures: u64) {
        self.counters.steering_failures = failures;
    }

    /// A way into the loop for other threads.
    #[must_use]
    pub fn controller(&self) -> Controller<A::Message> {
        self.inbox.controller()
    }

    /// Everything there is to wait for: sockets, devices, the timer, the control channel and mail.
    pub fn sources(&self) -> impl Iterator<Item = Source> + '_ {
        let own = [Source::Timer, Source::Control];
        let mail = self.post.as_ref().map(|_| Source::Mail);
        self.links.sources().chain(own).chain(mail)
    }

    /// What of `source` is to be waited for now. Nothing, where the pump already knows it is ready.
    #[must_use]
    pub fn interest(&self, source: Source) -> Interest {
        match source {
            Source::Timer if self.clock.fired => Interest::default(),
            Source::Control if self.inbox_ready => Interest::default(),
            Source::Mail if self.post.as_ref().is_none_or(PostBox::is_rung) => Interest::default(),
            Source::Timer | Source::Control | Source::Mail => Interest::READ,
            Source::Socket(_) | Source::Port(_) => self.links.interest(source),
        }
    }

    /// Says that a source is ready.
    pub fn ready(&mut self, source: Source, ready: Interest) {
        match source {
            Source::Timer => self.clock.fired |= ready.read,
            Source::Control => self.inbox_ready |= ready.read,
            Source::Mail if ready.read => {
                if let Some(post) = &mut self.post {
                    post.ring();
                }
            }
            Source::Mail => {}
            Source::Socket(_) | Source::Port(_) => self.links.ready(source, ready),
        }
    }

    /// One turn: takes what waits (bounded), does what is due, sends and writes what there is. `now` is
    /// what [`Io::now`] says, and must not go back.
    ///
    /// # Errors
    /// [`Error::Timer`] only.
    pub fn turn(&mut self, now: Instant) -> Result<TurnReport, Error> {
        self.counters.turns += 1;
        self.links.sync(&self.io);
        if !self.started {
            self.started = true;
            self.with_app(now, |app, cx| app.start(cx));
        }
        let mut again = self.messages(now);
        again |= self.open_mail(now);
        again |= self.receive(now);
        again |= self.read(now);
        self.timeouts(now);
        again |= self.output(now);
        self.links.sync(&self.io);
        // What came during output has not been tried yet, and nobody waits for it to become readable.
        again |= self.links.any_readable();
        if self.stop && !self.stopped {
            self.stopped = true;
            self.output_for(now, LAST_SENDS);
        }
        let deadline = earlier(self.deadline(now), self.rest(now));
        again |= deadline.is_some_and(|deadline| deadline <= now);
        if !again && !self.stopped {
            let fired = self.clock.fired;
            let set = self.io.arm(now, deadline, fired).map_err(Error::Timer)?;
            self.clock.fired &= !set;
            self.counters.timer_sets += u64::from(set);
        }
        Ok(TurnReport {
            again,
            stopped: self.stopped,
            sources_changed: self.links.take_changed(),
            deadline,
        })
    }

    /// What was counted so far.
    #[must_use]
    pub fn counters(&self) -> &PumpCounters {
        &self.counters
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

    /// Takes the pump apart. A recording of the endpoint ends.
    #[must_use]
    pub fn into_parts(self) -> (Endpoint, I, A) {
        (self.endpoint.into_inner(), self.io, self.app)
    }

    fn with_app<T>(&mut self, now: Instant, call: impl FnOnce(&mut A, &mut Cx<'_>) -> T) -> T {
        let mut cx = Cx {
            now,
            endpoint: &mut self.endpoint,
            sockets: &mut self.io,
            stop: &mut self.stop,
        };
        call(&mut self.app, &mut cx)
    }

    fn messages(&mut self, now: Instant) -> bool {
        if std::mem::take(&mut self.inbox_ready) {
            self.stop |= self.inbox.collect();
        }
        for _ in 0..self.options.events {
            let Some(message) = self.inbox.next() else {
                break;
            };
            self.counters.messages += 1;
            self.with_app(now, |app, cx| app.on_message(cx, message));
        }
        !self.inbox.is_empty()
    }

    fn timeouts(&mut self, now: Instant) {
        // Output that cannot leave hides the endpoint's timers.
        if self.clock.due.is_some_and(|due| due <= now) || self.sender.is_blocked() {
            self.endpoint.handle_timeout(now);
        }
        if self.app.deadline().is_some_and(|deadline| deadline <= now) {
            self.with_app(now, |app, cx| app.on_deadline(cx));
        }
    }

    fn output(&mut self, now: Instant) -> bool {
        self.output_for(now, self.options.sends)
    }

    /// Writes, sends and tells; `true` if there is more than a turn may do.
    fn output_for(&mut self, now: Instant, mut sends: usize) -> bool {
        for _ in 0..PASSES {
            self.links.sync(&self.io);
            self.send_mail();
            self.write_frames();
            let more = self.send_datagrams(now, &mut sends);
            let events = self.tell_events(now);
            if more {
                return true;
            }
            if events == 0 {
                return false;
            }
        }
        true
    }

    fn write_frames(&mut self) {
        writer::resume(&mut self.io, &mut self.links, &mut self.counters);
        while self.endpoint.poll_tun(&mut self.batch) {
            writer::write(
                &mut self.batch,
                self.options.waiting_frames,
                &mut self.io,
                &mut self.links,
                &mut self.counters,
            );
        }
    }

    fn send_datagrams(&mut self, now: Instant, sends: &mut usize) -> bool {
        let Self {
            endpoint,
            io,
            links,
            sender,
            counters,
            ..
        } = self;
        if !sender.resume(io, links, counters, now) {
            return false;
        }
        while *sends > 0 {
            let segments =
                NonZeroUsize::new(sender.max_segments(io, links)).unwrap_or(NonZeroUsize::MIN);
            sender.buffer.clear();
            let Some(transmit) = endpoint.poll_transmit(now, segments, &mut sender.buffer) else {
                return false;
            };
            *sends = sends.saturating_sub(1 + transmit.size / SMALL_SEND);
            if !sender.send(transmit, io, links, counters, now) {
                return false;
            }
        }
        true
    }

    fn tell_events(&mut self, now: Instant) -> usize {
        for told in 0..self.options.events {
            let Some(event) = self.endpoint.poll_event() else {
                return told;
            };
            self.with_app(now, |app, cx| app.on_event(cx, event));
        }
        self.options.events
    }

    fn deadline(&mut self, now: Instant) -> Option<Instant> {
        let endpoint = self.endpoint.poll_timeout().map(|deadline| {
            if deadline.reason == TimerReason::QueuedOutput && self.sender.is_blocked() {
                now + BLOCKED_TICK
            } else {
                deadline.at
            }
        });
        self.clock.due = endpoint;
        earlier(endpoint, self.app.deadline())
    }

    /// Gives memory back once load is over; says when to look again.
    fn rest(&mut self, now: Instant) -> Option<Instant> {
        let all = self.counters.receives + self.counters.reads;
        let new = all - self.rest.seen;
        match self.rest.at {
            None if new < BUSY => {}
            Some(at) if now < at => {}
            Some(_) if new < BUSY => {
                self.rest = Rest {
                    seen: all,
                    at: None,
                };
                self.give_back(now);
            }
            _ => {
                self.rest = Rest {
                    seen: all,
                    at: Some(now + REST),
                };
            }
        }
        self.rest.at
    }

    fn give_back(&mut self, now: Instant) {
        self.counters.rests += 1;
        self.endpoint.rest(now);
        self.intake = Intake::default();
        self.batch.frames = Vec::new();
        self.sender.rest();
        self.links.rest();
        self.read = Box::default();
        heap::trim();
    }
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

impl<A: App, I: Descriptors> Pump<A, I> {
    /// The descriptor to wait on for `source`.
    #[must_use]
    pub fn descriptor(&self, source: Source) -> Option<BorrowedFd<'_>> {
        match source {
            Source::Control => Some(self.inbox.as_fd()),
            Source::Mail => self.post.as_ref().map(AsFd::as_fd),
            Source::Timer | Source::Socket(_) | Source::Port(_) => self.io.descriptor(source),
        }
    }

    /// A descriptor of the adapter's own for `source`, to register and to close when it likes: the
    /// pump's own may be closed, and its number given to another, before the adapter hears of it.
    ///
    /// # Errors
    /// What the system says; `NotFound` if there is no such source.
    pub fn duplicate(&self, source: Source) -> io::Result<OwnedFd> {
        self.descriptor(source)
            .ok_or(ErrorKind::NotFound)?
            .try_clone_to_owned()
    }
}

#[cfg(test)]
mod tests;
