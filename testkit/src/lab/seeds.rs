//! `masque-lab seeds`: many worlds in which anything happens.

use std::io::Write;

use clap::Args;

use super::LabError;
use crate::seeds::{self, Seeds};
use crate::traffic::profile::PATHS;

/// Which worlds.
#[derive(Args, Clone, Debug)]
pub struct SeedsArgs {
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    pub first: u64,
    /// How many.
    #[arg(long, default_value_t = 1000)]
    pub count: u64,
    /// The path of all worlds; `all` takes one after the other.
    #[arg(long, default_value = "all")]
    pub profile: String,
    /// Worlds at once.
    #[arg(long, default_value_t = 1)]
    pub jobs: usize,
}

/// Runs them, and says which failed and how to see that again.
///
/// # Errors
/// [`LabError::Name`] for a path that there is not, [`LabError::Failed`] if something did not hold.
pub fn seeds(args: &SeedsArgs, out: &mut impl Write) -> Result<(), LabError> {
    let path = match args.profile.as_str() {
        "all" => None,
        name => {
            let known = PATHS.into_iter().find(|known| *known == name);
            Some(known.ok_or_else(|| LabError::Name(name.to_owned()))?)
        }
    };
    let report = seeds::run(&Seeds {
        first: args.first,
        count: args.count,
        path,
        jobs: args.jobs,
    });
    for failure in &report.failures {
        writeln!(out, "seed {} on {}:", failure.seed, failure.path)?;
        writeln!(out, "  {}", failure.message)?;
        writeln!(out, "  to see it again: {}", failure.command)?;
    }
    let (failed, runs) = (report.failures.len(), report.runs);
    writeln!(
        out,
        "{runs} worlds in {:.1} s, {failed} failed",
        report.took.as_secs_f64()
    )?;
    match failed {
        0 => Ok(()),
        failed => Err(LabError::Failed(failed)),
    }
}
