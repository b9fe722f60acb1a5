//! What a script expects, and what was heard.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use masque_core::H3Code;

use super::{Runner, SETTLE, Turn};
use crate::hostile::bytes::unhex;
use crate::hostile::hear::varint;
use crate::hostile::peer::Heard;
use crate::hostile::script::{Aborted, Answered, Capsule, Closed, Settings, code};

impl Runner {
    pub(super) fn closed(&mut self, now: Instant, until: Instant, wanted: &Closed) -> Turn {
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

    pub(super) fn aborted(&mut self, now: Instant, until: Instant, wanted: &Aborted) -> Turn {
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
                Heard::Closed {
                    code: Some(seen), ..
                } if *seen == wanted.code || free(*seen) => Turn::DiffersAtLast(words(&heard)),
                _ => Turn::Violation(words(&heard)),
            };
        }
        let status = |heard: &Heard| match heard {
            Heard::Head { stream, fields } => {
                let class = |status: u16| status / 100;
                let seen = status(fields).map(class);
                *stream == id && seen.is_some() && wanted.or_status.map(class) == seen
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

    pub(super) fn answered(&mut self, now: Instant, until: Instant, wanted: &Answered) -> Turn {
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

    pub(super) fn capsule(&mut self, now: Instant, until: Instant, wanted: &Capsule) -> Turn {
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

    pub(super) fn settings(&mut self, now: Instant, until: Instant, wanted: &Settings) -> Turn {
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
        extra.map_or(Turn::Next, |(id, _)| {
            Turn::Violation(format!("has {id:#x}"))
        })
    }

    pub(super) fn alive(&mut self, now: Instant, since: Instant) -> Turn {
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
    pub(super) fn find(
        &mut self,
        now: Instant,
        until: Instant,
        wanted: impl Fn(&Heard) -> bool,
    ) -> Turn {
        if self.pick(wanted).is_some() {
            return Turn::Next;
        }
        match self.closed_words() {
            Some(words) => Turn::Violation(words),
            None => self.wait(now, until),
        }
    }

    pub(super) fn wait(&mut self, now: Instant, until: Instant) -> Turn {
        if now < until {
            Turn::Until(until)
        } else {
            Turn::Violation(self.what_else("nothing"))
        }
    }

    /// Takes the first of what was heard that is wanted.
    pub(super) fn pick(&mut self, wanted: impl Fn(&Heard) -> bool) -> Option<Heard> {
        let heard = self.peer.heard();
        let at = heard.iter().position(wanted)?;
        Some(heard.remove(at))
    }

    /// A stream is aborted by up to two frames, which may come apart: the second says nothing new.
    pub(super) fn forget_aborted(&mut self) {
        let aborted = &self.aborted;
        self.peer.heard().retain(|heard| match heard {
            Heard::Reset { stream, .. }
            | Heard::Stopped { stream, .. }
            | Heard::Finished(stream) => !aborted.contains(stream),
            _ => true,
        });
    }

    pub(super) fn closed_words(&mut self) -> Option<String> {
        let closed = |heard: &&Heard| matches!(heard, Heard::Closed { .. });
        self.peer.heard().iter().find(closed).map(words)
    }

    /// Whether the subject has closed the connection without calling it an error, as it may at any time
    /// (RFC 9114 §5.3): so does a client whose only tunnel has ended.
    pub(super) fn left_in_peace(&mut self) -> bool {
        let peace = Some(H3Code::NO_ERROR.0);
        let closed = |heard: &Heard| matches!(heard, Heard::Closed { code, .. } if *code == peace);
        self.peer.heard().iter().any(closed)
    }

    pub(super) fn what_else(&mut self, nothing: &str) -> String {
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
pub(super) fn words(heard: &Heard) -> String {
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
        Heard::Closed {
            code: Some(it),
            words,
        } if words.is_empty() => {
            format!("closed with {}", code(*it))
        }
        Heard::Closed {
            code: Some(it),
            words,
        } => format!("closed with {} ({words})", code(*it)),
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
        && unhex(whole).ok().as_deref() != Some(value)
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
