//! One input at a time: what it was, the state before, every output, the state after.
//!
//! Going back is going forward again from the start: a world repeats itself.

use std::io::{BufRead, Write};

use super::{LabError, Scenario};
use crate::scenario::Star;
use crate::world::{NodeId, Step};

const HELP: &str = "\
n [N]  the next input, or N of them, each in full
b [N]  back by one or N
c N    on by N, showing the trace only
p      connections, tunnels and counters of every node
q      quit
";

/// Reads commands from `input` until `q` or the end, and answers on `out`.
///
/// # Errors
/// [`LabError`].
pub fn step(
    scenario: &Scenario,
    input: impl BufRead,
    out: &mut impl Write,
) -> Result<(), LabError> {
    let mut stepper = Stepper {
        star: scenario.build(true)?,
        scenario,
        taken: 0,
        shown: 0,
    };
    stepper.skip_lines();
    out.write_all(HELP.as_bytes())?;
    for line in input.lines() {
        let line = line?;
        let mut words = line.split_whitespace();
        let command = words.next().unwrap_or("n");
        let Ok(count) = words.next().unwrap_or("1").parse::<u64>() else {
            writeln!(out, "not a number: {line}")?;
            continue;
        };
        match command {
            "n" => stepper.forward(count, true, out)?,
            "c" => stepper.forward(count, false, out)?,
            "b" => stepper.back(count, out)?,
            "p" => stepper.print(out)?,
            "q" => break,
            _ => out.write_all(HELP.as_bytes())?,
        }
        out.flush()?;
    }
    Ok(())
}

struct Stepper<'a> {
    star: Star,
    scenario: &'a Scenario,
    taken: u64,
    /// How many trace lines were shown already.
    shown: usize,
}

impl Stepper<'_> {
    fn forward(&mut self, count: u64, full: bool, out: &mut impl Write) -> Result<(), LabError> {
        for _ in 0..count {
            let before = self.describe_all();
            let Some(step) = self.star.world.step() else {
                writeln!(out, "nothing is left to happen")?;
                return Ok(());
            };
            self.taken += 1;
            writeln!(out, "#{} {}", self.taken, headline(&self.star, &step))?;
            if full {
                self.show_state("before", step.node, &before, out)?;
            }
            for line in &self.star.world.trace().lines()[self.shown..] {
                writeln!(out, "  {line}")?;
            }
            self.skip_lines();
            if full {
                let after = self.describe_all();
                self.show_state("after", step.node, &after, out)?;
            }
        }
        Ok(())
    }

    fn back(&mut self, count: u64, out: &mut impl Write) -> Result<(), LabError> {
        let target = self.taken.saturating_sub(count);
        self.star = self.scenario.build(true)?;
        for _ in 0..target {
            self.star.world.step();
        }
        self.taken = target;
        self.skip_lines();
        let at = self.star.world.now().as_micros();
        writeln!(out, "#{target} back at {at} us")?;
        Ok(())
    }

    fn print(&self, out: &mut impl Write) -> Result<(), LabError> {
        let world = &self.star.world;
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

    fn describe_all(&self) -> Vec<String> {
        let world = &self.star.world;
        world.nodes().map(|id| world.node(id).describe()).collect()
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

    fn skip_lines(&mut self) {
        self.shown = self.star.world.trace().lines().len();
    }
}

fn headline(star: &Star, step: &Step) -> String {
    let name = step.node.map_or("world", |id| star.world.node(id).name());
    format!("{} us {name} {}", step.at.as_micros(), step.input)
}
