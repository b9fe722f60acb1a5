//! Takes a script through a connection. Sans I/O: *call any number of `handle_*`, drain
//! [`Runner::poll_transmit`], sleep until [`Runner::poll_timeout`], and stop when there is a
//! [`Runner::report`].*

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use masque_core::H3Code;

use super::bytes::{Frame, Made, Material, Piece, build};
use super::hear::varint;
use super::peer::{Heard, Peer, Refusal};
use super::report::{Report, Verdict};
use super::script::{
    Aborted, Answered, Capsule, Closed, Script, Settings, Start, Step, Subject, Write, code,
};

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
            let since = *self.since.get_or_insert(now);
            if let Some(words) = self.closed_words() {
                return self.end(now, Verdict::Skipped, format!("no connection: {words}"));
            }
            if now >= since + self.patience {
                return self.end(now, Verdict::Skipped, "no connection".to_owned());
            }
            self.wake = Some(since + self.patience);
            return;
        }
        if self.at == 0 && self.progress.bytes.is_none() {
            self.since = None;
        }
        loop {
            let Some(step) = self.steps.get(self.at).cloned() else {
                let (verdict, seen) = match (self.closed_words(), self.differs.is_empty()) {
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
                Turn::Violation(words) if self.at < self.own => {
                    let words = format!("not even {}: {words}", step.words());
                    return self.end(now, Verdict::Violation, words);
                }
                Turn::Violation(words) => {
                    let words = format!("{}: {words}", step.words());
                    return self.end(now, Verdict::Violation, words);
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
        let until = |within: Option<u64>, usual| since + within.map_or(usual, Duration::from_millis);
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
                if now < at { Turn::Until(at) } else { Turn::Next }
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
                if now < at { Turn::Until(at) } else { Turn::Next }
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
                    let at = moved + if write.may_block { STUCK } else { self.patience };
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

    fn closed(&mut self, now: Instant, until: Instant, wanted: &Closed) -> Turn {
        let closed = |heard: &Heard| matches!(heard, Heard::Closed { .. });
        let Some(heard) = self.pick(closed) else {
            return match (now < until, wanted.optional) {
                (true, _) => Turn::Until(until),
                (false, true) => Turn::DiffersAtLast(self.what_else("does not notice")),
                (false, false) => Turn::Violation(self.what_else("not closed")),
            };
        };
        let Heard::Closed { code: seen, .. } = &heard else {
            return Turn::Next;
        };
        match seen {
            Some(seen) if *seen == wanted.code => Turn::Next,
            Some(seen) if !wanted.strict || *seen == H3Code::GENERAL_PROTOCOL_ERROR.0 => {
                Turn::Differs(words(&heard))
            }
            _ => Turn::Violation(words(&heard)),
        }
    }

    fn aborted(&mut self, now: Instant, until: Instant, wanted: &Aborted) -> Turn {
        let Some(id) = self.peer.stream(&wanted.stream) else {
            return Turn::Violation("no such stream".to_owned());
        };
        let free = |seen: u64| !wanted.strict || seen == H3Code::GENERAL_PROTOCOL_ERROR.0;
        let this = |heard: &Heard| match heard {
            Heard::Reset { stream, .. } | Heard::Stopped { stream, .. } => *stream == id,
            _ => false,
        };
        if let Some(heard) = self.pick(this) {
            self.aborted.insert(id);
            self.forget_aborted();
            return match heard {
                Heard::Reset { code, .. } | Heard::Stopped { code, .. } if code == wanted.code => {
                    Turn::Next
                }
                Heard::Reset { code, .. } | Heard::Stopped { code, .. } if free(code) => {
                    Turn::Differs(words(&heard))
                }
                heard => Turn::Violation(words(&heard)),
            };
        }
        // RFC 9114 §8: a stream error may be treated as a connection error.
        let closed = |heard: &Heard| matches!(heard, Heard::Closed { .. });
        if let Some(heard) = self.pick(closed) {
            return match &heard {
                Heard::Closed { code: Some(seen), .. } if *seen == wanted.code || free(*seen) => {
                    Turn::DiffersAtLast(words(&heard))
                }
                _ => Turn::Violation(words(&heard)),
            };
        }
        let status = |heard: &Heard| match heard {
            Heard::Head { stream, fields } => {
                *stream == id && wanted.or_status.is_some() && status(fields) == wanted.or_status
            }
            _ => false,
        };
        if let Some(heard) = self.pick(status) {
            self.aborted.insert(id);
            return Turn::Differs(words(&heard));
        }
        if now < until {
            return Turn::Until(until);
        }
        let finished = |heard: &Heard| *heard == Heard::Finished(id);
        if !wanted.strict && self.pick(finished).is_some() {
            return Turn::Differs("ended in peace".to_owned());
        }
        if wanted.optional {
            return Turn::Differs(self.what_else("does not notice"));
        }
        Turn::Violation(self.what_else("not aborted"))
    }

    fn answered(&mut self, now: Instant, until: Instant, wanted: &Answered) -> Turn {
        let id = self.peer.stream(&wanted.stream);
        let this = |heard: &Heard| match heard {
            Heard::Head { stream, fields } => {
                Some(*stream) == id && status(fields).is_none_or(|status| status >= 200)
            }
            _ => false,
        };
        if let Some(heard) = self.pick(this) {
            let Heard::Head { fields, .. } = &heard else {
                return Turn::Next;
            };
            let seen = status(fields).unwrap_or(0);
            let right = match wanted.status.is_empty() {
                true => (200..300).contains(&seen),
                false => wanted.status.contains(&seen),
            };
            let value = |name: &str| fields.iter().find(|(other, _)| other == name);
            for (name, part) in &wanted.fields {
                if !value(name).is_some_and(|(_, value)| value.contains(part)) {
                    return Turn::Violation(format!("no {name} with {part}: {}", words(&heard)));
                }
            }
            if let Some(name) = wanted.without.iter().find(|name| value(name).is_some()) {
                return Turn::Violation(format!("has {name}"));
            }
            return match (right, wanted.strict) {
                (true, _) => Turn::Next,
                (false, false) => Turn::Differs(words(&heard)),
                (false, true) => Turn::Violation(words(&heard)),
            };
        }
        let over = |heard: &&Heard| match heard {
            Heard::Reset { stream, .. } | Heard::Finished(stream) => Some(*stream) == id,
            Heard::Closed { .. } => true,
            _ => false,
        };
        if let Some(heard) = self.peer.heard().iter().find(over) {
            return Turn::Violation(words(heard));
        }
        self.wait(now, until)
    }

    fn capsule(&mut self, now: Instant, until: Instant, wanted: &Capsule) -> Turn {
        let id = self.peer.stream(&wanted.stream);
        let this = |heard: &Heard| match heard {
            Heard::Capsule { stream, ty, value } => {
                Some(*stream) == id && *ty == wanted.ty && fits(value, wanted)
            }
            _ => false,
        };
        if let Some(heard) = self.pick(this) {
            if let Heard::Capsule { ty: 1, value, .. } = heard {
                let entries = assigned(&value).into_iter();
                self.material.assigned.extend(
                    entries
                        .filter(|(_, _, refused)| !refused)
                        .map(|(_, ip, _)| ip),
                );
            }
            return Turn::Next;
        }
        let over = |heard: &&Heard| match heard {
            Heard::Reset { stream, .. } => Some(*stream) == id,
            Heard::Closed { .. } => true,
            _ => false,
        };
        if let Some(heard) = self.peer.heard().iter().find(over) {
            return Turn::Violation(words(heard));
        }
        self.wait(now, until)
    }

    fn settings(&mut self, now: Instant, until: Instant, wanted: &Settings) -> Turn {
        let this = |heard: &Heard| matches!(heard, Heard::Settings(_));
        let Some(heard) = self.pick(this) else {
            return self.wait(now, until);
        };
        let Heard::Settings(settings) = &heard else {
            return Turn::Next;
        };
        let missing = wanted.with.iter().find(|it| !settings.contains(it));
        if let Some((id, value)) = missing {
            return Turn::Violation(format!("no {id:#x} = {value} in {settings:x?}"));
        }
        let extra = settings.iter().find(|(id, _)| wanted.without.contains(id));
        extra.map_or(Turn::Next, |(id, _)| Turn::Violation(format!("has {id:#x}")))
    }

    fn alive(&mut self, now: Instant, since: Instant) -> Turn {
        if let Some(words) = self.closed_words() {
            return Turn::Violation(words);
        }
        let settled = since + SETTLE.max(self.peer.rtt() * 2);
        if now < settled {
            return Turn::Until(settled);
        }
        let acks = self.peer.acks();
        match self.progress.acks {
            None => {
                self.peer.ping();
                self.progress.acks = Some(acks);
                Turn::Until(since + self.patience)
            }
            Some(before) if acks > before => Turn::Next,
            Some(_) => self.wait(now, since + self.patience),
        }
    }

    /// Waits for what `wanted` knows; nothing else counts but the end.
    fn find(&mut self, now: Instant, until: Instant, wanted: impl Fn(&Heard) -> bool) -> Turn {
        if self.pick(wanted).is_some() {
            return Turn::Next;
        }
        match self.closed_words() {
            Some(words) => Turn::Violation(words),
            None => self.wait(now, until),
        }
    }

    fn wait(&mut self, now: Instant, until: Instant) -> Turn {
        if now < until {
            Turn::Until(until)
        } else {
            Turn::Violation(self.what_else("nothing"))
        }
    }

    /// Takes the first of what was heard that is wanted.
    fn pick(&mut self, wanted: impl Fn(&Heard) -> bool) -> Option<Heard> {
        let heard = self.peer.heard();
        let at = heard.iter().position(wanted)?;
        Some(heard.remove(at))
    }

    /// A stream is aborted by up to two frames, which may come apart: the second says nothing new.
    fn forget_aborted(&mut self) {
        let aborted = &self.aborted;
        self.peer.heard().retain(|heard| match heard {
            Heard::Reset { stream, .. }
            | Heard::Stopped { stream, .. }
            | Heard::Finished(stream) => !aborted.contains(stream),
            _ => true,
        });
    }

    fn closed_words(&mut self) -> Option<String> {
        let closed = |heard: &&Heard| matches!(heard, Heard::Closed { .. });
        self.peer.heard().iter().find(closed).map(words)
    }

    fn what_else(&mut self, nothing: &str) -> String {
        let heard = self.peer.heard().iter();
        let telling = heard.filter(|it| !matches!(it, Heard::Uni(_) | Heard::Settings(_)));
        let telling: Vec<_> = telling.take(4).map(words).collect();
        if telling.is_empty() {
            nothing.to_owned()
        } else {
            format!("{nothing}, but {}", telling.join(", "))
        }
    }
}

/// What was heard, in a few words.
fn words(heard: &Heard) -> String {
    match heard {
        Heard::Uni(ty) => format!("a stream of type {ty:#x}"),
        Heard::Settings(it) => format!("SETTINGS {it:x?}"),
        Heard::Head { fields, .. } => match status(fields) {
            Some(status) => format!("answered {status}"),
            None => "a request".to_owned(),
        },
        Heard::Capsule { ty, .. } => format!("capsule {ty:#x}"),
        Heard::Datagram { .. } => "a datagram".to_owned(),
        Heard::Goaway(id) => format!("GOAWAY {id}"),
        Heard::Frame { ty, .. } => format!("a frame of type {ty:#x}"),
        Heard::Finished(stream) => format!("stream {stream} finished"),
        Heard::Reset { stream, code: it } => format!("stream {stream} reset with {}", code(*it)),
        Heard::Stopped { stream, code: it } => {
            format!("stream {stream} stopped with {}", code(*it))
        }
        Heard::Closed { code: Some(it), words } if words.is_empty() => {
            format!("closed with {}", code(*it))
        }
        Heard::Closed { code: Some(it), words } => format!("closed with {} ({words})", code(*it)),
        Heard::Closed { code: None, words } => format!("lost: {words}"),
        Heard::Garbled(it) => format!("unreadable: {it}"),
    }
}

fn status(fields: &[(String, String)]) -> Option<u16> {
    let field = fields.iter().find(|(name, _)| name == ":status")?;
    field.1.parse().ok()
}

fn fits(value: &[u8], wanted: &Capsule) -> bool {
    if let Some(whole) = &wanted.value
        && super::bytes::unhex(whole).ok().as_deref() != Some(value)
    {
        return false;
    }
    if wanted.id.is_none() && wanted.refused.is_none() {
        return true;
    }
    assigned(value).iter().any(|(id, _, refused)| {
        wanted.id.is_none_or(|it| it == *id) && wanted.refused.is_none_or(|it| it == *refused)
    })
}

/// Request ID, address, and whether it is a refusal, of each entry of ADDRESS_ASSIGN.
fn assigned(mut value: &[u8]) -> Vec<(u64, IpAddr, bool)> {
    let mut entries = Vec::new();
    while let Some((id, rest)) = varint(value) {
        let (ip, rest): (IpAddr, _) = match rest.split_first() {
            Some((4, rest)) => match rest.split_first_chunk::<4>() {
                Some((ip, rest)) => (Ipv4Addr::from(*ip).into(), rest),
                None => break,
            },
            Some((6, rest)) => match rest.split_first_chunk::<16>() {
                Some((ip, rest)) => (Ipv6Addr::from(*ip).into(), rest),
                None => break,
            },
            _ => break,
        };
        let Some((length, rest)) = rest.split_first() else {
            break;
        };
        let full = if ip.is_ipv4() { 32 } else { 128 };
        entries.push((id, ip, ip.is_unspecified() && *length == full));
        value = rest;
    }
    entries
}

/// What goes before a script's own steps.
fn prelude(start: Start, subject: Subject) -> Vec<Step> {
    let write = |stream: &str, bytes| {
        Step::Write(Write {
            stream: stream.to_owned(),
            bytes,
            split: 0,
            every: 0,
            fin: false,
            may_block: false,
        })
    };
    let mut steps = Vec::new();
    if start == Start::Quic {
        return steps;
    }
    let settings = match subject {
        Subject::Server => vec![(0x33, 1)],
        Subject::Client => vec![(0x8, 1), (0x33, 1)],
    };
    let settings = Piece::Made(Made::Settings(settings));
    steps.push(write(
        "control",
        vec![Piece::Hex("00".to_owned()), settings],
    ));
    steps.push(write("encoder", vec![Piece::Hex("02".to_owned())]));
    steps.push(write("decoder", vec![Piece::Hex("03".to_owned())]));
    steps.push(Step::Settings(Settings::default()));
    match (start, subject) {
        (Start::Tunnel | Start::Head, Subject::Client) => steps.push(Step::Asked),
        (Start::Tunnel, Subject::Server) => {
            let request = Piece::Made(Made::Request(super::bytes::Change::default()));
            steps.push(write("request", vec![request]));
        }
        _ => {}
    }
    match (start, subject) {
        (Start::Tunnel, Subject::Client) => {
            let response = Piece::Made(Made::Response(super::bytes::Change::default()));
            steps.push(write("request", vec![response]));
        }
        (Start::Tunnel, Subject::Server) => steps.push(Step::Answered(Answered {
            stream: "request".to_owned(),
            status: Vec::new(),
            fields: Vec::new(),
            without: Vec::new(),
            strict: true,
            within: None,
        })),
        _ => {}
    }
    steps
}

/// Takes `Times` and `TunnelAlive` apart.
fn expand(steps: &[Step], turn: Option<u32>, probes: &mut u64, out: &mut Vec<Step>) {
    let named = |name: &str| turn.map_or_else(|| name.to_owned(), |n| name.replace('#', &n.to_string()));
    for step in steps {
        let mut step = step.clone();
        match &mut step {
            Step::Times(times) => {
                for turn in 1..=times.count {
                    expand(&times.steps, Some(turn), probes, out);
                }
                continue;
            }
            Step::TunnelAlive => {
                *probes += 1;
                // For any IPv4 address.
                let request = Piece::Made(Made::Capsule(Frame {
                    ty: 2,
                    length: None,
                    of: vec![
                        Piece::Made(Made::Varint(*probes)),
                        Piece::Hex("040000000020".to_owned()),
                    ],
                }));
                out.push(Step::Write(Write {
                    stream: "request".to_owned(),
                    bytes: vec![Piece::Made(Made::Data(vec![request]))],
                    split: 0,
                    every: 0,
                    fin: false,
                    may_block: false,
                }));
                out.push(Step::Capsule(Capsule {
                    stream: "request".to_owned(),
                    ty: 1,
                    id: Some(*probes),
                    refused: None,
                    value: None,
                    within: None,
                }));
                continue;
            }
            Step::Write(it) => it.stream = named(&it.stream),
            Step::Send(it) => it.stream = it.stream.as_deref().map(named),
            Step::Reset(it) | Step::Stop(it) => it.stream = named(&it.stream),
            Step::Aborted(it) => it.stream = named(&it.stream),
            Step::Answered(it) => it.stream = named(&it.stream),
            Step::Capsule(it) => it.stream = named(&it.stream),
            Step::Held(it) => it.stream = named(&it.stream),
            Step::Hold(it) | Step::Datagram(it) | Step::Finished(it) => *it = named(it),
            _ => {}
        }
        out.push(step);
    }
}
