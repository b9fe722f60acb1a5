//! The command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde_json::json;

use crate::error::Error;
use crate::instructions::{CountError, Profile};
use crate::lab::Wire;
use crate::probe::{self, Probe};
use crate::profiles::{self, scenario::Scenario};
use crate::report::{self, Run};
use crate::run::{self, Plan};
use crate::runtimes::{self, ChildArgs, RuntimesArgs};
use crate::samples::Results;
use crate::subject::{self, Places, Variant};
use crate::trial::{Settings, Test};

/// Measures masque against other tunnels, in network namespaces of its own; needs root.
#[derive(Debug, Parser)]
#[command(name = "masque-bench", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Action>,

    #[command(flatten)]
    run: RunArgs,
}

/// What is measured, and where it goes.
#[derive(Debug, Args)]
struct RunArgs {
    /// Only these, by name (`--list` shows them).
    #[arg(long, value_delimiter = ',')]
    subjects: Vec<String>,
    /// Only these tests: startup, ping, tcp_N_up, tcp_N_down, clients_2_up, clients_2_down, pps_BYTES,
    /// memory. On profiles: voice, N_up, N_down, N_up_bbr, N_down_bbr, rival_cubic, rival_bbr,
    /// rival_cubic_first, rival_bbr_first, handover_SECONDS.
    #[arg(long, value_delimiter = ',')]
    tests: Vec<String>,
    /// Measure on bad networks instead: on these profiles, or on all. Compared are no tunnel, one runtime of
    /// ours with each congestion control, wireguard-go and OpenVPN, or what --subjects says; and with a
    /// file for --html, there are curves over time.
    #[arg(long, value_name = "PROFILE", num_args = 0.., value_delimiter = ',')]
    profiles: Option<Vec<String>>,
    /// Labs at a time, at most; fewer where a profile carries much. Only with --profiles.
    #[arg(long, default_value_t = 1, requires = "profiles", value_parser = clap::value_parser!(u32).range(1..=16))]
    jobs: u32,
    /// The seed of the first repetition. Only with --profiles.
    #[arg(long, default_value_t = 1, requires = "profiles")]
    seed: u64,
    /// Repetitions, each over all subjects.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    reps: u32,
    /// Seconds of each TCP test [default: 4; on profiles 15].
    #[arg(long)]
    secs: Option<f64>,
    /// Whether super-packets cross the path whole.
    #[arg(long, value_enum, default_value_t)]
    wire: Wire,
    /// One repetition of the shortest tests, to see whether everything works.
    #[arg(long)]
    quick: bool,
    /// Where our binaries are, if not beside this one or in target/release.
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Where the yardsticks tunfwd and qfwd are.
    #[arg(long, value_name = "DIR")]
    bounds: Option<PathBuf>,
    /// Measure ours with other settings, too: NAME:KEY=VALUE[,KEY=VALUE…], in the words of the
    /// configuration, for both ends or, as server.KEY or client.KEY, for one. A NAME with "chacha" in it is held against the goals for ChaCha20-Poly1305.
    #[arg(long, value_name = "VARIANT")]
    variant: Vec<Variant>,
    /// The UDP sender sleeps between packets instead of spinning.
    #[arg(long)]
    sleep: bool,
    /// Seconds to wait for a quiet machine before each test.
    #[arg(long, default_value_t = 20.0)]
    quiet: f64,
    /// Write all samples here.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
    /// Say what could be measured, and what not and why.
    #[arg(long)]
    list: bool,
}

/// Where a report goes beside standard output, and what it compares with.
#[derive(Debug, Args)]
struct Output {
    /// Ratios are taken to these.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "wireguard-go,fwd-offload"
    )]
    yardsticks: Vec<String>,
    /// Write a report with plots here.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the tables here.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

/// What is put together.
#[derive(Debug, Args)]
struct ReportArgs {
    /// What `--json` wrote, for instance of a run with each `--wire`; or of several with `--profiles`.
    #[arg(required = true, value_name = "FILE")]
    runs: Vec<PathBuf>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Puts the samples of several runs into one report.
    Report(ReportArgs),
    /// Count the instructions of the pipeline in memory, per packet; needs valgrind, not root.
    Instructions(InstructionsArgs),
    /// Hold the three runtimes against each other in memory; needs no root.
    Runtimes(RuntimesArgs),
    /// One test of one runtime.
    #[command(hide = true)]
    RuntimesChild(ChildArgs),
    /// Traffic; run by this program inside the namespaces.
    #[command(subcommand, hide = true)]
    Probe(Probe),
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
        Some(Action::Report(args)) => put_together(&args)
            .map(|()| true)
            .map_err(|error| error.to_string()),
        Some(Action::Runtimes(args)) => runtimes::run(&args)
            .map(|()| true)
            .map_err(|error| error.to_string()),
        Some(Action::RuntimesChild(args)) => runtimes::child(&args)
            .map(|()| true)
            .map_err(|error| error.to_string()),
        Some(Action::Probe(probe)) => probe::run(&probe)
            .map(|()| true)
            .map_err(|error| error.to_string()),
        None => measure(cli.run)
            .map(|()| true)
            .map_err(|error| error.to_string()),
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

fn measure(args: RunArgs) -> Result<(), Error> {
    let places = Places {
        bin_dir: args.bin_dir,
        bounds: args.bounds,
        variants: args.variant,
    };
    if args.list {
        for subject in subject::all(&places) {
            match subject.available() {
                Ok(note) => println!("{:22} {note}", subject.name()),
                Err(why) => println!("{:22} not available: {why}", subject.name()),
            }
        }
        return Ok(());
    }
    let positive = |number: f64| number.is_finite() && (0.0..=3600.0).contains(&number);
    let default = if args.profiles.is_some() { 15.0 } else { 4.0 };
    let secs = args.secs.unwrap_or(default);
    if !positive(secs) || secs < 0.5 || !positive(args.quiet) {
        return Err(Error::Usage(
            "--secs is 0.5 to 3600, --quiet 0 to 3600".to_owned(),
        ));
    }
    if let Some(profiles) = args.profiles {
        let tests = match (args.tests.is_empty(), args.quick) {
            (false, _) => parsed(&args.tests)?,
            (true, true) => Scenario::QUICK.to_vec(),
            (true, false) => Scenario::ALL.to_vec(),
        };
        let results = profiles::run(&profiles::Plan {
            profiles,
            subjects: args.subjects,
            tests,
            repetitions: if args.quick { 1 } else { args.reps },
            seed: args.seed,
            secs: if args.quick { secs.min(5.0) } else { secs },
            jobs: args.jobs,
            places,
            json: args.json,
        })?;
        return tell_profiles(&results, &args.output);
    }
    let tests = match (args.tests.is_empty(), args.quick) {
        (false, _) => parsed(&args.tests)?,
        (true, true) => Test::QUICK.to_vec(),
        (true, false) => Test::ALL.to_vec(),
    };
    let results = run::run(&Plan {
        subjects: args.subjects,
        tests,
        repetitions: if args.quick { 1 } else { args.reps },
        wire: args.wire,
        settings: Settings {
            secs: if args.quick { secs.min(2.0) } else { secs },
            sleep: args.sleep,
        },
        places,
        patience: Duration::from_secs_f64(if args.quick {
            args.quiet.min(1.0)
        } else {
            args.quiet
        }),
        json: args.json,
    })?;
    let name = "masque-bench".to_owned();
    tell(&[Run { name, results }], &args.output)
}

/// Tests by name.
fn parsed<T: FromStr<Err = String>>(names: &[String]) -> Result<Vec<T>, Error> {
    let tests = names.iter().map(|name| name.parse());
    tests.collect::<Result<_, _>>().map_err(Error::Usage)
}

fn put_together(args: &ReportArgs) -> Result<(), Error> {
    let profiles = args
        .runs
        .iter()
        .map(|path| profiles::record::Results::read(path))
        .collect::<Result<Option<Vec<_>>, Error>>()?;
    if let Some(runs) = profiles {
        let mut all = profiles::record::Results::default();
        runs.into_iter().for_each(|run| all.add(run));
        return tell_profiles(&all, &args.output);
    }
    let run = |path: &PathBuf| {
        let stem = path.file_stem().unwrap_or(path.as_os_str());
        let name = stem.to_string_lossy().into_owned();
        let results = Results::read(path)?;
        Ok(Run { name, results })
    };
    let runs = args
        .runs
        .iter()
        .map(run)
        .collect::<Result<Vec<_>, Error>>()?;
    tell(&runs, &args.output)
}

fn tell(runs: &[Run], output: &Output) -> Result<(), Error> {
    let markdown = report::markdown(runs, &output.yardsticks);
    output.write(&markdown, || report::html(runs))
}

fn tell_profiles(results: &profiles::record::Results, output: &Output) -> Result<(), Error> {
    let markdown = profiles::report::markdown(results);
    output.write(&markdown, || profiles::plots::html(results))
}

impl Output {
    fn write(&self, markdown: &str, html: impl FnOnce() -> String) -> Result<(), Error> {
        println!("{markdown}");
        let write = |path: &Path, text: &str| {
            std::fs::write(path, text).map_err(Error::system(path.display().to_string()))
        };
        if let Some(path) = &self.markdown {
            write(path, markdown)?;
        }
        match &self.html {
            Some(path) => write(path, &html()),
            None => Ok(()),
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
