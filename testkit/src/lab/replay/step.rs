//! A recording, one input at a time, forward and back.

use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Duration;

use super::Player;
use crate::lab::LabError;
use crate::lab::stepper::converse;
use crate::world::describe;

const HELP: &str = "\
n [N]            the next input, or N of them, with what came of it
r                on to the next line with the words of a breakpoint, or the end
t MS             on to this time in milliseconds
b [N]            back by one input or N
break WORDS      stop where the trace has these words; clear takes all away
p                connections, tunnels and counters
q                quit
";

/// Steps through a recording by the commands of a script, until `q` or its end. An input is what the
/// endpoint was told; what it was asked for afterwards belongs to it.
///
/// # Errors
/// [`LabError`].
pub fn step_recording(
    file: &Path,
    input: impl BufRead,
    out: &mut impl Write,
) -> Result<(), LabError> {
    let mut stepper = Stepper {
        file,
        player: Player::open(file, true, false)?,
        taken: 0,
        breakpoints: Vec::new(),
    };
    converse(HELP, input, out, |line, out| stepper.command(line, out))
}

struct Stepper<'a> {
    file: &'a Path,
    player: Player,
    /// Inputs that were told.
    taken: u64,
    breakpoints: Vec<String>,
}

impl Stepper<'_> {
    /// Does what a line says; `false` to quit.
    fn command(&mut self, line: &str, out: &mut impl Write) -> Result<bool, LabError> {
        let mut words = line.split_whitespace();
        let command = words.next().unwrap_or("n");
        let rest: Vec<&str> = words.collect();
        let count = rest.first().map_or(Ok(1), |word| word.parse::<u64>());
        match (command, count) {
            ("n" | "b" | "t", Err(_)) => writeln!(out, "not a number: {line}")?,
            ("n", Ok(count)) => {
                for _ in 0..count {
                    if !self.one(out)? {
                        break;
                    }
                }
            }
            ("b", Ok(count)) => self.back(count, out)?,
            ("t", Ok(millis)) => {
                let until = Duration::from_millis(millis);
                while self.next_at()?.is_some_and(|at| at <= until) && self.one(out)? {}
            }
            ("r", _) => self.run(out)?,
            ("break", _) if !rest.is_empty() => self.breakpoints.push(rest.join(" ")),
            ("clear", _) => self.breakpoints.clear(),
            ("p", _) => {
                let at = self.player.log.tally.at.as_micros();
                writeln!(out, "#{} {at} us", self.taken)?;
                out.write_all(describe(self.player.replay.endpoint()).as_bytes())?;
            }
            ("q", _) => return Ok(false),
            _ => out.write_all(HELP.as_bytes())?,
        }
        Ok(true)
    }

    fn next_at(&mut self) -> Result<Option<Duration>, LabError> {
        Ok(self.player.replay.peek()?.map(|(at, _)| at))
    }

    /// Plays one input and what was asked for after it; gives the differences.
    fn play(&mut self) -> Result<Option<Vec<String>>, LabError> {
        let mut differences = Vec::new();
        let mut told = false;
        while let Some((_, input)) = self.player.replay.peek()? {
            if input.is_told() && std::mem::replace(&mut told, true) {
                break;
            }
            let Some(taken) = self.player.step(Duration::MAX)? else {
                break;
            };
            differences.extend(taken.difference);
        }
        self.taken += u64::from(told);
        Ok(told.then_some(differences))
    }

    /// Plays one input and shows it; `false` if there is none.
    fn one(&mut self, out: &mut impl Write) -> Result<bool, LabError> {
        let before = self.player.log.trace.lines().len();
        let played = self.play()?;
        if played.is_some() {
            writeln!(out, "#{}", self.taken)?;
        }
        for line in &self.player.log.trace.lines()[before..] {
            writeln!(out, "  {line}")?;
        }
        match &played {
            None => writeln!(out, "the recording ends")?,
            Some(differences) => {
                for words in differences {
                    writeln!(out, "! {words}")?;
                }
            }
        }
        Ok(played.is_some())
    }

    fn run(&mut self, out: &mut impl Write) -> Result<(), LabError> {
        loop {
            let before = self.player.log.trace.lines().len();
            if !self.one(out)? {
                return Ok(());
            }
            let new = &self.player.log.trace.lines()[before..];
            let mut all = self.breakpoints.iter();
            if let Some(words) = all.find(|words| new.iter().any(|line| line.contains(*words))) {
                writeln!(out, "stopped at: {words}")?;
                return Ok(());
            }
        }
    }

    fn back(&mut self, count: u64, out: &mut impl Write) -> Result<(), LabError> {
        let target = self.taken.saturating_sub(count);
        self.player = Player::open(self.file, true, false)?;
        self.taken = 0;
        while self.taken < target && self.play()?.is_some() {}
        let at = self.player.log.tally.at.as_micros();
        writeln!(out, "#{target} back at {at} us")?;
        Ok(())
    }
}
