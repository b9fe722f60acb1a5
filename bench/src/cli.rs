//! The command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde_json::json;

use crate::instructions::{CountError, Profile};

/// Measures masque against other tunnels, in network namespaces of its own; needs root.
#[derive(Debug, Parser)]
#[command(name = "masque-bench", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Count the instructions of the pipeline in memory, per packet; needs valgrind, not root.
    Instructions(InstructionsArgs),
}

/// What is counted, and compared with what.
#[derive(Debug, Args)]
struct InstructionsArgs {
    /// Packets through each pipeline.
    #[arg(long, default_value_t = 50_000)]
    packets: u64,
    /// Functions listed.
    #[arg(long, default_value_t = 25)]
    top: usize,
    /// The whole account of each run, as Markdown.
    #[arg(long)]
    account: bool,
    /// Write the numbers here.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Numbers of an earlier run; more instructions than then is a failure.
    #[arg(long)]
    baseline: Option<PathBuf>,
    /// How much more is not yet a failure, in percent.
    #[arg(long, default_value_t = 1.0)]
    tolerance: f64,
}

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Some(Action::Instructions(args)) => instructions(&args).map_err(|error| error.to_string()),
        None => Ok(true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Name and arguments of what is counted.
const COUNTED: [(&str, &[&str]); 6] = [
    ("tunnel, TCP super-packets", &[]),
    ("quinn-proto alone, same datagrams", &["--bare"]),
    ("tunnel, no coalescing", &["--no-coalesce"]),
    (
        "tunnel, 1200-byte UDP, one by one",
        &["--udp", "1200", "--burst", "32"],
    ),
    (
        "tunnel, 64-byte UDP, one by one",
        &["--udp", "64", "--burst", "32"],
    ),
    (
        "quinn-proto alone, 64-byte UDP",
        &["--bare", "--udp", "64", "--burst", "32"],
    ),
];

/// `false` if there are more instructions than in the baseline.
fn instructions(args: &InstructionsArgs) -> Result<bool, CountError> {
    let pipeline = std::env::current_exe()
        .map_err(|error| CountError::File(PathBuf::from("masque-bench"), error))?
        .with_file_name("pipeline");
    if !pipeline.exists() {
        return Err(CountError::Missing(format!(
            "{} is missing: cargo build --release -p masque-bench",
            pipeline.display()
        )));
    }
    let folder =
        tempfile::tempdir().map_err(|error| CountError::File(std::env::temp_dir(), error))?;
    let baseline = args.baseline.as_deref().map(read).transpose()?;
    let mut numbers = serde_json::Map::new();
    let mut fine = true;
    println!("| | instructions per packet |");
    println!("|---|---:|");
    let mut accounts = Vec::new();
    for (name, arguments) in COUNTED {
        let profile = Profile::measure(&pipeline, args.packets, arguments, folder.path())?;
        let each = profile.per_packet();
        let before = baseline
            .as_ref()
            .and_then(|numbers| numbers.get(name)?.as_f64());
        let change = before.map_or(String::new(), |before| {
            format!(" ({:+.1} %)", (each / before - 1.0) * 100.0)
        });
        fine &= before.is_none_or(|before| each <= before * (1.0 + args.tolerance / 100.0));
        println!("| {name} | {each:.0}{change} |");
        numbers.insert(name.to_owned(), json!(each.round()));
        accounts.push((name, profile));
    }
    let ratio = accounts[1].1.per_packet() / accounts[0].1.per_packet();
    println!("\nquinn-proto alone / tunnel: {ratio:.3}");
    if args.account {
        for (name, profile) in &accounts {
            println!("\n### {name}\n{}", profile.markdown(args.top));
        }
    }
    if let Some(path) = &args.json {
        let text = serde_json::Value::Object(numbers).to_string();
        std::fs::write(path, text).map_err(|error| CountError::File(path.clone(), error))?;
    }
    if !fine {
        eprintln!("more instructions than before");
    }
    Ok(fine)
}

fn read(path: &Path) -> Result<serde_json::Value, CountError> {
    let failed = |error| CountError::File(path.to_owned(), error);
    let text = std::fs::read_to_string(path).map_err(failed)?;
    serde_json::from_str(&text).map_err(|error| failed(error.into()))
}
