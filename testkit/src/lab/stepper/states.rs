//! Where every state machine stands, as its trace tells.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use masque_core::trace::{TraceEvent, What};

use crate::world::{Entry, Said, kind};

/// A state machine: its node, layer, connection and stream, and what it is the state of.
type Machine = (String, &'static str, Option<u64>, Option<u64>, &'static str);

/// Where every state machine stands, and which timers are armed.
#[derive(Debug, Default)]
pub(super) struct States {
    states: BTreeMap<Machine, String>,
}

impl States {
    /// Takes what an event says about states.
    pub(super) fn take(&mut self, entry: &Entry) {
        let Said::Core(event) = &entry.said else {
            return;
        };
        let machine = |what| machine(entry, event, what);
        match &event.what {
            What::State { to, .. } => {
                let what = of(to);
                self.states.insert(machine(what), (*to).to_owned());
            }
            What::Armed { reason, after_us } => {
                let at = entry.at.as_micros() + u128::from(*after_us);
                let words = format!("armed for {at} us");
                self.states.insert(machine(reason), words);
            }
            What::Fired { reason } | What::Disarmed { reason } => {
                self.states.remove(&machine(reason));
            }
            What::Changed { name, to, .. } => {
                self.states.insert(machine(name), to.to_string());
            }
            _ => {}
        }
    }

    /// All state machines of a node, one per line.
    pub(super) fn of(&self, node: &str) -> String {
        let mut out = String::new();
        let own = self.states.iter().filter(|(machine, _)| machine.0 == node);
        for ((_, layer, connection, stream, what), state) in own {
            let _ = write!(out, "  {layer}");
            if let Some(connection) = connection {
                let _ = write!(out, " c{connection}");
            }
            if let Some(stream) = stream {
                let _ = write!(out, "/s{stream}");
            }
            let _ = writeln!(out, " {what}: {state}");
        }
        out
    }
}

fn machine(entry: &Entry, event: &TraceEvent, what: &'static str) -> Machine {
    let layer = event.layer.name();
    let node = entry.node.clone();
    (node, layer, event.connection, event.stream, what)
}

/// A stream has a state as such, and its sending part another.
fn of(to: &str) -> &'static str {
    match to {
        "Blocked" | "Idle" | "finished" | "reset" => "sending",
        _ if to.starts_with("tunnel ") => "tunnel",
        _ => "state",
    }
}

/// Whether a breakpoint's words are in a line, or name the kind of its event.
pub(super) fn matches(entry: &Entry, line: &str, words: &str) -> bool {
    let named = match &entry.said {
        Said::Core(event) => kind(&event.what) == words,
        Said::World(_) => false,
    };
    named || line.contains(words)
}
