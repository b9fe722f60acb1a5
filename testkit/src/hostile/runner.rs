//! Takes a script through a connection. Sans I/O: *call any number of `handle_*`, drain
//! [`Runner::poll_transmit`], sleep until [`Runner::poll_timeout`], and stop when there is a
//! [`Runner::report`].*

mod expect;
mod steps;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use masque_core::H3Code;

use super::bytes::{Material, build};
use super::peer::{Heard, Peer, Refusal};
use super::report::{Report, Verdict};
use super::script::{Script, Step, Subject, Write};
use expect::words;
use steps::{expand, prelude};

/// The first Request ID of those that only ask whether a tunnel lives.
const PROBE_IDS: u64 = 1 << 30;

/// How long nothing must have happened to a connection before it is asked whether it lives.
const SETTLE: Duration = Duration::from_millis(100);

/// How long a stream may take nothing before a write that may block is given up.
const STUCK: Duration = Duration::from_secs(1);

/// A script under way.
pub struct Runner {
    script: Arc<Script>,
    subject: Subject,
    steps: Vec<Step>,
    /// Where the script's own steps begin.
    own: usize,
    at: usize,
    /// When the connection was begun.
    begun: Option<Instant>,
    /// When the step was.
    since: Option<Instant>,
    progress: Progress,
    wake: Option<Instant>,
    peer: Peer,
    material: Material,
    patience: Duration,
    aborted: BTreeSet<u64>,
    differs: Vec<String>,
    report: Option<Report>,
}

/// How far a step is.
#[derive(Default)]
struct Progress {
    bytes: Option<Vec<u8>>,
    sent: usize,
    next: Option<Instant>,
    moved: Option<Instant>,
    acks: Option<u64>,
}

/// What a step comes to.
enum Turn {
    Next,
    Until(Instant),
    Differs(String),
    /// As `Differs`, and nothing that follows can be asked any more.
    DiffersAtLast(String),
    Violation(String),
    Skip(String),
}

impl Runner {
    /// A script at its beginning. `patience` is how long an expectation may take that says nothing of
    /// its own.
    #[must_use]
    pub fn new(
        script: Arc<Script>,
        subject: Subject,
        peer: Peer,
        material: Material,
        patience: Duration,
    ) -> Self {
        let mut steps = prelude(script.start, subject);
        let own = steps.len();
        let mut probes = PROBE_IDS;
        expand(&script.steps, None, &mut probes, &mut steps);
        Self {
            script,
            subject,
            steps,
            own,
            at: 0,
            begun: None,
            since: None,
            progress: Progress::default(),
            wake: None,
            peer,
            material,
            patience,
            aborted: BTreeSet::new(),
            differs: Vec::new(),
            report: None,
        }
    }

    /// A UDP datagram arrives.
    pub fn handle_udp(&mut self, now: Instant, from: SocketAddr, to: Option<IpAddr>, data: &[u8]) {
        self.peer.handle_udp(now, from, to, data);
        self.advance(now);
    }

    /// A deadline has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.peer.handle_timeout(now);
        self.advance(now);
    }

    /// The next UDP datagram to send.
    #[must_use]
    pub fn poll_transmit(&mut self, now: Instant) -> Option<(SocketAddr, Vec<u8>)> {
        self.peer.poll_transmit(now)
    }

    /// When to call [`Self::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        let own = self.wake.filter(|_| self.report.is_none());
        own.into_iter().chain(self.peer.poll_timeout()).min()
    }

    /// What came of it, once it is over. What [`Self::poll_transmit`] still has is the farewell.
    #[must_use]
    pub fn report(&self) -> Option<&Report> {
        self.report.as_ref()
    }

    /// Whether somebody has come (to a server).
    #[must_use]
    pub fn has_subject(&self) -> bool {
        self.peer.has_subject()
    }

    /// The number of the step it is at, the opening ones counted.
    #[must_use]
    pub fn position(&self) -> usize {
        self.at
    }

    fn advance(&mut self, now: Instant) {
        if self.report.is_some() {
            return;
        }
        self.forget_aborted();
        if !self.peer.is_connected() {
            let begun = *self.begun.get_or_insert(now);
            if let Some(words) = self.closed_words() {
                return self.end(now, Verdict::Skipped, format!("no connection: {words}"));
            }
            if now >= begun + self.patience {
                return self.end(now, Verdict::Skipped, "no connection".to_owned());
            }
            self.wake = Some(begun + self.patience);
            return;
        }
        loop {
            let Some(step) = self.steps.get(self.at).cloned() else {
                let left = self.left_in_peace();
                let (verdict, seen) = match (self.closed_words(), self.differs.is_empty()) {
                    (Some(words), _) if left => (Verdict::Differs, words),
                    (Some(words), _) => (Verdict::Violation, words),
                    (None, false) => (Verdict::Differs, self.differs.join("; ")),
                    (None, true) => (Verdict::Pass, "as expected".to_owned()),
                };
                return self.end(now, verdict, seen);
            };
            let since = *self.since.get_or_insert(now);
            let turn = self.take(now, since, &step);
            match turn {
                Turn::Next => {}
                Turn::Differs(words) => self.differs.push(words),
                Turn::Until(at) => {
                    self.wake = Some(at);
                    return;
                }
                Turn::DiffersAtLast(words) => {
                    self.differs.push(words);
                    let seen = self.differs.join("; ");
                    return self.end(now, Verdict::Differs, seen);
                }
                // The requirements of the script are about what comes later.
                Turn::Violation(words) if self.at < self.own => {
                    let words = format!("not even {}: {words}", step.words());
                    return self.end(now, Verdict::Skipped, words);
                }
                Turn::Violation(words) => {
                    let words = format!("{}: {words}", step.words());
                    let stays = matches!(step, Step::Alive | Step::Finished(_) | Step::Quiet(_));
                    let verdict = match stays && self.left_in_peace() {
                        true => Verdict::Differs,
                        false => Verdict::Violation,
                    };
                    return self.end(now, verdict, words);
                }
                Turn::Skip(words) => return self.end(now, Verdict::Skipped, words),
            }
            self.at += 1;
            self.since = None;
            self.progress = Progress::default();
            self.forget_aborted();
        }
    }

    fn end(&mut self, now: Instant, verdict: Verdict, seen: String) {
        let own = self.steps[self.own..].iter().filter(|step| step.expects());
        let mut expected: Vec<_> = own.map(Step::words).collect();
        expected.dedup();
        self.report = Some(Report {
            script: self.script.name.clone(),
            subject: self.subject,
            requirements: self.script.requirements.clone(),
            expected: expected.join("; "),
            seen,
            verdict,
        });
        self.peer.close(now, H3Code::NO_ERROR.0);
    }

    fn take(&mut self, now: Instant, since: Instant, step: &Step) -> Turn {
        let until =
            |within: Option<u64>, usual| since + within.map_or(usual, Duration::from_millis);
        match step {
            Step::Write(write) => self.write(now, write),
            Step::Send(send) => {
                let quarter = match &send.stream {
                    Some(stream) => self.peer.quarter(stream),
                    None => Some(Vec::new()),
                };
                let (Some(mut bytes), Ok(rest)) = (quarter, build(&send.bytes, &self.material))
                else {
                    return Turn::Skip("nothing to send".to_owned());
                };
                bytes.extend(rest);
                if self.peer.datagram(bytes) {
                    Turn::Next
                } else {
                    Turn::Skip("the subject takes no such datagram".to_owned())
                }
            }
            Step::Reset(abort) => {
                self.peer.reset(&abort.stream, abort.code);
                Turn::Next
            }
            Step::Stop(abort) => {
                self.peer.stop(&abort.stream, abort.code);
                Turn::Next
            }
            Step::Close(close) => {
                self.peer.close(now, close.code);
                Turn::Next
            }
            Step::Wait(ms) => {
                let at = since + Duration::from_millis(*ms);
                if now < at {
                    Turn::Until(at)
                } else {
                    Turn::Next
                }
            }
            Step::Hold(stream) => {
                self.peer.hold(stream);
                Turn::Next
            }
            Step::Mute => {
                self.peer.mute();
                Turn::Next
            }
            // Taken apart before the first step.
            Step::Times(_) | Step::TunnelAlive => Turn::Next,
            Step::Closed(it) => self.closed(now, until(it.within, self.patience), it),
            Step::Aborted(it) => self.aborted(now, until(it.within, self.patience), it),
            Step::Asked => {
                let request = self.peer.stream("request");
                let asked = |heard: &Heard| matches!(heard, Heard::Head { stream, .. } if Some(*stream) == request);
                self.find(now, until(None, self.patience), asked)
            }
            Step::Unasked(ms) => {
                let at = since + Duration::from_millis(*ms);
                let asked = |heard: &&Heard| matches!(heard, Heard::Head { .. });
                match self.peer.heard().iter().find(asked) {
                    Some(heard) => Turn::Violation(words(heard)),
                    None if now < at => Turn::Until(at),
                    None => Turn::Next,
                }
            }
            Step::Answered(it) => self.answered(now, until(it.within, self.patience), it),
            Step::Capsule(it) => self.capsule(now, until(it.within, self.patience), it),
            Step::Datagram(name) => {
                let wanted = self.peer.stream(name);
                let came = |heard: &Heard| match heard {
                    Heard::Datagram { stream, .. } => Some(*stream) == wanted,
                    Heard::Capsule { stream, ty: 0, .. } => Some(*stream) == wanted,
                    _ => false,
                };
                self.find(now, until(None, self.patience), came)
            }
            Step::Finished(name) => {
                let wanted = self.peer.stream(name);
                let finished =
                    |heard: &Heard| matches!(heard, Heard::Finished(id) if Some(*id) == wanted);
                self.find(now, until(None, self.patience), finished)
            }
            Step::Settings(it) => self.settings(now, until(None, self.patience), it),
            Step::Goaway(it) => {
                let goaway = |heard: &Heard| matches!(heard, Heard::Goaway(_));
                self.find(now, until(it.within, self.patience), goaway)
            }
            Step::Quiet(ms) => {
                let at = since + Duration::from_millis(*ms);
                let loud = |heard: &&Heard| {
                    matches!(
                        heard,
                        Heard::Reset { .. } | Heard::Stopped { .. } | Heard::Closed { .. }
                    )
                };
                if let Some(heard) = self.peer.heard().iter().find(loud) {
                    return Turn::Violation(words(heard));
                }
                if now < at {
                    Turn::Until(at)
                } else {
                    Turn::Next
                }
            }
            Step::Alive => self.alive(now, since),
            Step::Held(held) => {
                let at = since + Duration::from_millis(held.ms);
                if self.peer.stream(&held.stream).is_some() {
                    Turn::Violation("it can be opened".to_owned())
                } else if now < at {
                    Turn::Until(at)
                } else {
                    Turn::Next
                }
            }
        }
    }

    fn write(&mut self, now: Instant, write: &Write) -> Turn {
        if self.progress.bytes.is_none() {
            match build(&write.bytes, &self.material) {
                Ok(bytes) => self.progress.bytes = Some(bytes),
                Err(error) => return Turn::Skip(error.to_string()),
            }
        }
        let bytes = self.progress.bytes.take().unwrap_or_default();
        let turn = self.write_rest(now, write, &bytes);
        self.progress.bytes = Some(bytes);
        turn
    }

    fn write_rest(&mut self, now: Instant, write: &Write, bytes: &[u8]) -> Turn {
        let moved = *self.progress.moved.get_or_insert(now);
        loop {
            if let Some(next) = self.progress.next.filter(|next| *next > now) {
                return Turn::Until(next);
            }
            let rest = &bytes[self.progress.sent..];
            let part = match write.split {
                0 => rest,
                split => &rest[..split.min(rest.len())],
            };
            match self.peer.write(&write.stream, part) {
                Ok(taken) => {
                    self.progress.sent += taken;
                    self.progress.moved = Some(now);
                    if self.progress.sent == bytes.len() {
                        if write.fin {
                            self.peer.finish(&write.stream);
                        }
                        return Turn::Next;
                    }
                    if write.split > 0 {
                        // What was written goes out before the next part is.
                        let next = now + Duration::from_millis(write.every);
                        self.progress.next = Some(next);
                        return Turn::Until(next);
                    }
                }
                // What follows will say whether that is right.
                Err(Refusal::Over) => return Turn::Next,
                Err(_) if self.closed_words().is_some() => return Turn::Next,
                Err(refusal) => {
                    let at = moved
                        + if write.may_block {
                            STUCK
                        } else {
                            self.patience
                        };
                    return match refusal {
                        _ if now < at => Turn::Until(at),
                        _ if write.may_block => Turn::Next,
                        Refusal::NoStream => {
                            Turn::Violation(format!("{} cannot be opened", write.stream))
                        }
                        _ => Turn::Violation(format!("{} takes no more", write.stream)),
                    };
                }
            }
        }
    }
}
