//! One input at a time: what it was, the state before, every output, the state after.
//!
//! Going back is going forward again from the start, with the same interventions at the same steps: a
//! world repeats itself. The commands are the same from a terminal, where they can be keys, and from a
//! script.

mod change;
mod illegal;
mod states;
mod terminal;

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::time::Duration;

use super::{Kind, LabError, Scenario, in_words};
use crate::packet;
use crate::world::{Input, NodeId, Step, World};
use change::Change;
use states::States;

pub use terminal::terminal;

const HELP: &str = "\
n [N]            the next input, or N of them, each in full
c [N]            on by N, showing the trace only
r                on to the next breakpoint, or the end
t MS             on to this time in milliseconds
b [N]            back by one or N
break WORDS      stop after an input whose trace has these words, or an event of this kind
breaks           the breakpoints; clear takes them away
w                what comes next, byte by byte
p                connections, tunnels, counters and the state of every layer
drop             the next datagram or packet never arrives
delay MS         the next datagram or packet arrives later
edit AT HEX      other bytes from byte AT on in the next datagram or packet
packet NODE HEX  an IP packet goes into a node's tunnels
assign NODE PREFIX...    an ADDRESS_ASSIGN in the node's first tunnel
request NODE PREFIX...   an ADDRESS_REQUEST
routes NODE FROM-TO...   a ROUTE_ADVERTISEMENT
close NODE       the node closes its first tunnel
capsule NODE drop             the next capsule that the node sends (DATAGRAM apart) is not sent
capsule NODE delay MS         or is sent later, behind what it sends meanwhile
capsule NODE edit AT HEX      or has other bytes from byte AT on; its type is byte 0
capsule NODE replace WHAT     or is replaced
inject NODE WHAT              any capsules, in a DATA frame on the stream of the node's first tunnel
raw NODE HEX                  any bytes there, without a frame around them
illegal          what WHAT can be beside hexadecimal digits: the names of broken capsules
q                quit
";

/// Steps through a run by the commands of a script, until `q` or its end.
///
/// # Errors
/// [`LabError`].
pub fn step(
    scenario: &Scenario,
    input: impl BufRead,
    out: &mut impl Write,
) -> Result<(), LabError> {
    let mut stepper = Stepper::new(scenario)?;
    converse(HELP, input, out, |line, out| stepper.command(line, out))
}

/// Does what each line says, until one says to quit.
pub(in crate::lab) fn converse<W: Write>(
    help: &str,
    input: impl BufRead,
    out: &mut W,
    mut command: impl FnMut(&str, &mut W) -> Result<bool, LabError>,
) -> Result<(), LabError> {
    out.write_all(help.as_bytes())?;
    for line in input.lines() {
        let goes_on = command(&line?, out)?;
        out.flush()?;
        if !goes_on {
            break;
        }
    }
    Ok(())
}

struct Stepper<'a> {
    world: World,
    scenario: &'a Scenario,
    taken: u64,
    /// How many trace lines were shown already.
    shown: usize,
    states: States,
    breakpoints: Vec<String>,
    /// What was done before which step.
    changes: BTreeMap<u64, Vec<Change>>,
}

impl<'a> Stepper<'a> {
    fn new(scenario: &'a Scenario) -> Result<Self, LabError> {
        let mut stepper = Self {
            world: scenario.build(true)?.into_world(),
            scenario,
            taken: 0,
            shown: 0,
            states: States::default(),
            breakpoints: Vec::new(),
            changes: BTreeMap::new(),
        };
        stepper.skip_lines();
        Ok(stepper)
    }

    /// Does what a line says; `false` to quit.
    fn command(&mut self, line: &str, out: &mut impl Write) -> Result<bool, LabError> {
        let mut words = line.split_whitespace();
        let command = words.next().unwrap_or("n");
        let rest: Vec<&str> = words.collect();
        let count = || rest.first().map_or(Ok(1), |word| word.parse::<u64>());
        match (command, count()) {
            ("n" | "c" | "b" | "t" | "delay", Err(_)) => writeln!(out, "not a number: {line}")?,
            ("n", Ok(count)) => self.forward(count, true, out)?,
            ("c", Ok(count)) => self.forward(count, false, out)?,
            ("b", Ok(count)) => self.back(count, out)?,
            ("t", Ok(millis)) => self.until(Duration::from_millis(millis), out)?,
            ("r", _) => self.run(out)?,
            ("break", _) if !rest.is_empty() => self.breakpoints.push(rest.join(" ")),
            ("breaks", _) => writeln!(out, "{}", self.breakpoints.join("\n"))?,
            ("clear", _) => self.breakpoints.clear(),
            ("w", _) => out.write_all(self.next_in_words().as_bytes())?,
            ("p", _) => self.print(out)?,
            ("illegal", _) => out.write_all(illegal::list().as_bytes())?,
            ("q", _) => return Ok(false),
            _ => match Change::parse(command, &rest) {
                Some(Ok(change)) => self.change(change, out)?,
                Some(Err(wrong)) => writeln!(out, "{wrong}")?,
                None => out.write_all(HELP.as_bytes())?,
            },
        }
        Ok(true)
    }

    fn change(&mut self, change: Change, out: &mut impl Write) -> Result<(), LabError> {
        match change.apply(&mut self.world) {
            Ok(words) => {
                writeln!(out, "{words}")?;
                let at = self.taken;
                self.changes.entry(at).or_default().push(change);
                self.show_new(out)?;
            }
            Err(wrong) => writeln!(out, "{wrong}")?,
        }
        Ok(())
    }

    fn forward(&mut self, count: u64, full: bool, out: &mut impl Write) -> Result<(), LabError> {
        for _ in 0..count {
            if !self.one(full, out)? {
                break;
            }
        }
        Ok(())
    }

    /// Takes one input and shows it; `false` if there is none.
    fn one(&mut self, full: bool, out: &mut impl Write) -> Result<bool, LabError> {
        let before = self.describe_all();
        let Some(step) = self.world.step() else {
            writeln!(out, "nothing is left to happen")?;
            return Ok(false);
        };
        self.taken += 1;
        writeln!(out, "#{} {}", self.taken, headline(&self.world, &step))?;
        if full {
            self.show_state("before", step.node, &before, out)?;
        }
        self.show_new(out)?;
        if full {
            let after = self.describe_all();
            self.show_state("after", step.node, &after, out)?;
        }
        Ok(true)
    }

    fn until(&mut self, until: Duration, out: &mut impl Write) -> Result<(), LabError> {
        while self.world.next_at().is_some_and(|at| at <= until) {
            self.one(false, out)?;
        }
        Ok(())
    }

    fn run(&mut self, out: &mut impl Write) -> Result<(), LabError> {
        loop {
            let before = self.shown;
            if !self.one(false, out)? {
                return Ok(());
            }
            let trace = self.world.trace();
            let new = trace.entries()[before..]
                .iter()
                .zip(&trace.lines()[before..]);
            let hit = |(entry, line): (&_, &String)| {
                let mut all = self.breakpoints.iter();
                all.find(|words| states::matches(entry, line, words))
                    .cloned()
            };
            if let Some(words) = new.map(hit).find_map(|hit| hit) {
                writeln!(out, "stopped at: {words}")?;
                return Ok(());
            }
        }
    }

    fn back(&mut self, count: u64, out: &mut impl Write) -> Result<(), LabError> {
        let target = self.taken.saturating_sub(count);
        self.world = self.scenario.build(true)?.into_world();
        self.changes.retain(|at, _| *at <= target);
        for at in 0..=target {
            for change in self.changes.get(&at).into_iter().flatten() {
                // It could be applied when the same world was here before.
                let _ = change.apply(&mut self.world);
            }
            if at < target {
                self.world.step();
            }
        }
        self.taken = target;
        (self.states, self.shown) = (States::default(), 0);
        self.skip_lines();
        let at = self.world.now().as_micros();
        writeln!(out, "#{target} back at {at} us")?;
        Ok(())
    }

    fn print(&self, out: &mut impl Write) -> Result<(), LabError> {
        let world = &self.world;
        let next = world.next_at().map(|at| at.as_micros());
        writeln!(
            out,
            "#{} {} us, {} inputs wait, next at {next:?}",
            self.taken,
            world.now().as_micros(),
            world.waiting()
        )?;
        for state in self.describe_all() {
            out.write_all(state.as_bytes())?;
        }
        Ok(())
    }

    /// What comes next, with its bytes explained.
    fn next_in_words(&self) -> String {
        let Some(input) = self.world.peek() else {
            let next = self.world.next_at().map(|at| at.as_micros());
            return format!("a deadline at {next:?} us, or nothing\n");
        };
        match input {
            Input::Datagram { from, to, data, .. } => {
                let mut text = format!("a datagram of {} bytes {from} > {to}\n", data.len());
                if self.world.secrets().is_none() {
                    text.push_str(&in_words(Kind::Packet, data).1);
                }
                text
            }
            Input::Packet { node, data, .. } => {
                let name = self.world.node(*node).name();
                format!("into the tunnels of {name}: {}\n", packet::summary(data))
            }
            Input::Connect { .. } => "a connect\n".to_owned(),
            Input::Command { command, .. } => format!("a command: {command:?}\n"),
            Input::Raw { node, data, .. } => {
                let name = self.world.node(*node).name();
                let text = format!("raw bytes on a stream of {name}\n");
                text + &in_words(Kind::Frame, data).1
            }
            Input::Wake { .. } => "a host wakes\n".to_owned(),
            Input::Readdress { to, .. } => format!("a socket gets the address {to}\n"),
            _ => "a change of the world\n".to_owned(),
        }
    }

    fn describe_all(&self) -> Vec<String> {
        let world = &self.world;
        let describe = |id| {
            let node = world.node(id);
            let mut text = node.describe() + &self.states.of(node.name());
            for fate in world.decided(id) {
                text.push_str(&format!("  its next capsule: {fate}\n"));
            }
            text
        };
        world.nodes().map(describe).collect()
    }

    fn show_state(
        &self,
        when: &str,
        node: Option<NodeId>,
        states: &[String],
        out: &mut impl Write,
    ) -> Result<(), LabError> {
        let Some(state) = node.and_then(|node| states.get(node.0)) else {
            return Ok(());
        };
        writeln!(out, " {when}:")?;
        for line in state.lines() {
            writeln!(out, "  | {line}")?;
        }
        Ok(())
    }

    fn show_new(&mut self, out: &mut impl Write) -> Result<(), LabError> {
        for line in &self.world.trace().lines()[self.shown..] {
            writeln!(out, "  {line}")?;
        }
        self.skip_lines();
        Ok(())
    }

    fn skip_lines(&mut self) {
        let entries = self.world.trace().entries();
        for entry in &entries[self.shown..] {
            self.states.take(entry);
        }
        self.shown = entries.len();
    }
}

fn headline(world: &World, step: &Step) -> String {
    let name = step.node.map_or("world", |id| world.node(id).name());
    format!("{} us {name} {}", step.at.as_micros(), step.input)
}
