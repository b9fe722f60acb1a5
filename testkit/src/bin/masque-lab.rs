//! masque-lab: runs and steps simulated worlds.

use std::io::{self, BufWriter};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use masque_testkit::lab::{self, Comparison, LabError, Scenario};

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
        /// Print every input and output.
        #[arg(long)]
        trace: bool,
        #[command(flatten)]
        scenario: Scenario,
    },
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
    /// Takes one input at a time; commands come from standard input.
    Step {
        #[command(flatten)]
        scenario: Scenario,
    },
}

fn main() -> ExitCode {
    let mut out = BufWriter::new(io::stdout().lock());
    let result = match Cli::parse().command {
        Command::Run { trace, scenario } => lab::run(&scenario, trace, &mut out),
        Command::Profiles { comparison } => lab::profiles(&comparison, &mut out),
        Command::Seeds { seeds } => lab::seeds(&seeds, &mut out),
        Command::Step { scenario } => lab::step(&scenario, io::stdin().lock(), &mut out),
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
