//! masque-lab: runs and steps simulated worlds.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use masque_testkit::hostile::probe::{self, Probe, ProbeError};
use masque_testkit::lab::{
    self, Comparing, Comparison, Drawing, LabError, Outputs, Question, Replaying, Scenario,
    Sweeping,
};

/// Runs a server and clients in a simulated world: the same seed gives the same bytes.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the scenario to its end and says what came of it.
    Run {
        #[command(flatten)]
        outputs: Outputs,
        #[command(flatten)]
        scenario: Scenario,
    },
    /// Shows where two traces part.
    Diff(Comparing),
    /// Runs the scenario and draws a ladder diagram and plots, as SVG.
    Draw(Drawing),
    /// Says in words what bytes mean.
    Explain(Question),
    /// Judges tunnels on named paths: goodput, voice beside it, and what they leave to others.
    Profiles {
        #[command(flatten)]
        comparison: Box<Comparison>,
    },
    /// Runs many worlds in which anything happens, one for each seed: every invariant must hold.
    Seeds {
        #[command(flatten)]
        seeds: lab::SeedsArgs,
    },
    /// Judges any CONNECT-IP server, or with --listen any client, by what it does when its peer breaks
    /// the rules; fails if it breaks one itself.
    Probe(Box<Probe>),
    /// Plays a recording of a program (`--record FILE`) and says whether every byte is the same.
    Replay(Replaying),
    /// Runs many seeds on many paths and writes a page about them.
    Sweep(Sweeping),
    /// Takes one input at a time, on the terminal, or by commands from a script or from standard input.
    Step {
        /// A file of commands, one per line.
        #[arg(long)]
        script: Option<PathBuf>,
        /// Steps through a recording of a program instead.
        #[arg(long, value_name = "FILE")]
        recording: Option<PathBuf>,
        #[command(flatten)]
        scenario: Scenario,
    },
}

fn step(
    script: Option<PathBuf>,
    recording: Option<&Path>,
    scenario: &Scenario,
    out: &mut impl Write,
) -> Result<(), LabError> {
    if let Some(file) = recording {
        return match script {
            Some(path) => lab::step_recording(file, BufReader::new(File::open(path)?), out),
            None => lab::step_recording(file, io::stdin().lock(), out),
        };
    }
    match script {
        Some(path) => lab::step(scenario, BufReader::new(File::open(path)?), out),
        None if io::stdin().is_terminal() => lab::terminal(scenario),
        None => lab::step(scenario, io::stdin().lock(), out),
    }
}

fn main() -> ExitCode {
    let mut out = BufWriter::new(io::stdout().lock());
    let result = match Cli::parse().command {
        Command::Probe(options) => return judge(&options, &mut out),
        Command::Run { outputs, scenario } => lab::run(&scenario, &outputs, &mut out),
        Command::Diff(what) => lab::diff(&what, &mut out),
        Command::Draw(what) => lab::draw(&what, &mut out),
        Command::Explain(question) => lab::explain(&question, &mut out),
        Command::Profiles { comparison } => lab::profiles(&comparison, &mut out),
        Command::Seeds { seeds } => lab::seeds(&seeds, &mut out),
        Command::Replay(what) => lab::replay(&what, &mut out),
        Command::Sweep(what) => lab::sweep(&what, &mut out),
        Command::Step {
            script,
            recording,
            scenario,
        } => step(script, recording.as_deref(), &scenario, &mut out),
    };
    drop(out);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads may have seen enough.
        Err(LabError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("masque-lab: {error}");
            ExitCode::FAILURE
        }
    }
}

fn judge(options: &Probe, out: &mut impl io::Write) -> ExitCode {
    match probe::probe(options, out) {
        Ok(tally) if tally.violations == 0 && tally.pass > 0 => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(ProbeError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("masque-lab: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
        for line in [
            "masque-lab probe https://a/{target}/{ipproto}/ --ca ca.pem --json",
            "masque-lab probe --listen [::1]:4433 --cert a.pem --key a.key",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in [
            "masque-lab probe",
            "masque-lab probe https://a/ --listen [::1]:4433 --cert a --key b",
            "masque-lab probe https://a/ --cert a.pem",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
