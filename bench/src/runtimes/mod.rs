//! The three adapters held against each other in what runtimes differ in, over UDP on loopback and
//! devices in memory; no root.
//!
//! | test | what |
//! |---|---|
//! | `wake` | a message from another thread, each millisecond: how long until the application has it, and what such a wake-up costs |
//! | `timer` | deadlines 0.1 to 5.1 ms ahead: how late they are served |
//! | `idle` | an open tunnel without traffic: wake-ups and CPU |
//! | `rate` | 1,000 packets a second through the tunnel: CPU and system calls of both ends, delay |
//! | `busy` | the same with a task beside the client that works in slices of 50 µs and never rests |
//! | `connections` | many idle connections: how fast they come up, what they hold, what they cost |
//!
//! Each test of each runtime is a process of its own. Repetition 1 goes over all runtimes before
//! repetition 2 begins.

mod account;
mod child;
mod ends;
mod host;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

pub use host::Runtime;

use crate::samples::Machine;

/// Why something could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum RuntimesError {
    /// An end of the tunnel.
    #[error("setting up: {0}")]
    SettingUp(String),
    /// The process of a test.
    #[error("{0} failed")]
    Child(String),
    /// A file.
    #[error("{0}: {1}")]
    File(PathBuf, std::io::Error),
}

impl RuntimesError {
    fn setting_up(error: impl std::fmt::Display) -> Self {
        Self::SettingUp(error.to_string())
    }
}

/// What is measured; see the module.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, clap::ValueEnum)]
pub enum Test {
    /// Wake-ups.
    Wake,
    /// Deadlines.
    Timer,
    /// Nothing.
    Idle,
    /// Few packets.
    Rate,
    /// Few packets beside a busy task.
    Busy,
    /// Many connections.
    Connections,
}

impl Test {
    const ALL: [Self; 6] = [
        Self::Wake,
        Self::Timer,
        Self::Idle,
        Self::Rate,
        Self::Busy,
        Self::Connections,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Wake => "wake",
            Self::Timer => "timer",
            Self::Idle => "idle",
            Self::Rate => "rate",
            Self::Busy => "busy",
            Self::Connections => "connections",
        }
    }

    /// The variants without a pump have no controller, no deadlines of an application, and no one
    /// thread to share.
    const fn fits(self, runtime: Runtime) -> bool {
        runtime.has_pump() || !matches!(self, Self::Wake | Self::Timer | Self::Busy)
    }
}

/// How much of each.
#[derive(Clone, Debug, clap::Args)]
pub struct Amounts {
    /// Wake-ups.
    #[arg(long, default_value_t = 5_000)]
    wakes: u32,
    /// Deadlines.
    #[arg(long, default_value_t = 1_000)]
    deadlines: u32,
    /// Seconds of `idle`, `rate` and `busy`; `connections` takes at least ten.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Packets a second.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(4..=20_000))]
    rate: u32,
    /// Connections.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    connections: u32,
}

impl Amounts {
    fn arguments(&self) -> Vec<String> {
        [
            ("--wakes", self.wakes),
            ("--deadlines", self.deadlines),
            ("--seconds", self.seconds),
            ("--rate", self.rate),
            ("--connections", self.connections),
        ]
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value.to_string()])
        .collect()
    }
}

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct RuntimesArgs {
    /// Only these.
    #[arg(long, value_enum, value_delimiter = ',')]
    runtimes: Vec<Runtime>,
    /// Only these.
    #[arg(long, value_enum, value_delimiter = ',')]
    tests: Vec<Test>,
    /// Repetitions, each over all runtimes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    reps: u32,
    #[command(flatten)]
    amounts: Amounts,
    /// Write all numbers here.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One test of one runtime, in this process.
#[derive(Debug, clap::Args)]
pub struct ChildArgs {
    #[arg(value_enum)]
    test: Test,
    #[arg(value_enum)]
    runtime: Runtime,
    #[command(flatten)]
    amounts: Amounts,
}

/// Name, heading and decimals of what is shown; everything is in the JSON file.
const ROWS: [(&str, &str, usize); 28] = [
    ("wake_calls", "wake-up: system calls", 1),
    ("wake_cpu_us", "wake-up: CPU, µs", 1),
    ("wake_sleeps", "wake-up: sleeps", 2),
    ("wake_p50_us", "wake-up: latency p50, µs", 0),
    ("wake_p99_us", "wake-up: latency p99, µs", 0),
    ("wake_p999_us", "wake-up: latency p99.9, µs", 0),
    ("timer_p50_us", "deadline: late by p50, µs", 0),
    ("timer_p99_us", "deadline: late by p99, µs", 0),
    ("timer_cpu_us", "deadline: CPU, µs", 1),
    ("idle_wakes", "idle tunnel: wake-ups/s, both ends", 2),
    ("idle_cpu_us", "idle tunnel: CPU µs/s, both ends", 0),
    ("rate_cpu_percent", "at the rate: CPU of both ends, %", 2),
    (
        "rate_calls",
        "at the rate: system calls per packet, both ends",
        1,
    ),
    (
        "rate_sleeps",
        "at the rate: sleeps per packet, both ends",
        2,
    ),
    ("rate_p50_us", "at the rate: delay p50, µs", 0),
    ("rate_p99_us", "at the rate: delay p99, µs", 0),
    ("rate_p999_us", "at the rate: delay p99.9, µs", 0),
    ("rate_lost_percent", "at the rate: lost, %", 2),
    ("busy_p50_us", "beside a busy task: delay p50, µs", 0),
    ("busy_p99_us", "beside a busy task: delay p99, µs", 0),
    ("busy_p999_us", "beside a busy task: delay p99.9, µs", 0),
    ("busy_lost_percent", "beside a busy task: lost, %", 2),
    (
        "busy_work_percent",
        "beside a busy task: its share of time, %",
        1,
    ),
    ("conn_per_s", "connections: set up per second", 0),
    ("conn_kb", "connections: KB each, both ends", 1),
    (
        "conn_idle_cpu_percent",
        "connections: idle CPU of both ends, %",
        2,
    ),
    (
        "conn_idle_wakes",
        "connections: idle wake-ups/s, both ends",
        0,
    ),
    ("binary_mb", "binary, MB", 2),
];

type Samples = BTreeMap<(String, Runtime), Vec<f64>>;

/// Measures and prints.
///
/// # Errors
/// [`RuntimesError`]; a test that fails is said and left out.
pub fn run(args: &RuntimesArgs) -> Result<(), RuntimesError> {
    let runtimes = or_all(&args.runtimes, &Runtime::ALL);
    let tests = or_all(&args.tests, &Test::ALL);
    let mut samples = Samples::new();
    for repetition in 1..=args.reps {
        for test in &tests {
            for runtime in runtimes.iter().filter(|runtime| test.fits(**runtime)) {
                eprintln!(
                    "{repetition}/{} {} {}",
                    args.reps,
                    test.name(),
                    runtime.name()
                );
                match in_a_child(*test, *runtime, &args.amounts) {
                    Ok(numbers) => {
                        for (name, number) in numbers {
                            samples.entry((name, *runtime)).or_default().push(number);
                        }
                    }
                    Err(error) => eprintln!("{error}"),
                }
            }
        }
    }
    for runtime in &runtimes {
        if let Some(size) = binary_size(*runtime) {
            samples.insert(("binary_mb".to_owned(), *runtime), vec![size / 1e6]);
        }
    }
    println!("{}", table(&runtimes, &samples));
    if let Some(path) = &args.json {
        let all: Vec<_> = samples
            .iter()
            .map(|((name, runtime), values)| {
                json!({ "runtime": runtime.name(), "name": name, "values": values })
            })
            .collect();
        let text = json!({ "machine": Machine::here(), "amounts": args.amounts.arguments(), "samples": all });
        fs::write(path, format!("{text:#}\n"))
            .map_err(|error| RuntimesError::File(path.clone(), error))?;
    }
    Ok(())
}

/// One test, its numbers as JSON on standard output. Ends the process, with loops that still run.
///
/// # Errors
/// [`RuntimesError`].
pub fn child(args: &ChildArgs) -> Result<(), RuntimesError> {
    let numbers = child::run(args.test, args.runtime, &args.amounts)?;
    println!("{}", json!(numbers));
    std::process::exit(0)
}

fn in_a_child(
    test: Test,
    runtime: Runtime,
    amounts: &Amounts,
) -> Result<child::Numbers, RuntimesError> {
    let program = std::env::current_exe()
        .map_err(|error| RuntimesError::File(PathBuf::from("masque-bench"), error))?;
    let output = Command::new(&program)
        .args(["runtimes-child", test.name(), runtime.name()])
        .args(amounts.arguments())
        .output()
        .map_err(|error| RuntimesError::File(program, error))?;
    let failed = || {
        let said = String::from_utf8_lossy(&output.stderr);
        let what = format!("{} on {}: {}", test.name(), runtime.name(), said.trim());
        RuntimesError::Child(what)
    };
    if !output.status.success() {
        return Err(failed());
    }
    serde_json::from_slice(&output.stdout).map_err(|_| failed())
}

fn binary_size(runtime: Runtime) -> Option<f64> {
    let name = match runtime {
        Runtime::Tokio => "masque-tokio",
        Runtime::Smol => "masque-smol",
        Runtime::Mio => "masque-mio",
        Runtime::TokioTasks => "masque-idiomatic-tokio",
        Runtime::SmolTasks => "masque-idiomatic-smol",
    };
    let path = std::env::current_exe().ok()?.with_file_name(name);
    Some(fs::metadata(path).ok()?.len() as f64)
}

fn or_all<T: Copy>(wanted: &[T], all: &[T]) -> Vec<T> {
    if wanted.is_empty() { all } else { wanted }.to_vec()
}

/// Medians, with the smallest and the largest value.
fn table(runtimes: &[Runtime], samples: &Samples) -> String {
    let mut text = "| |".to_owned();
    // Writing to a string does not fail.
    for runtime in runtimes {
        let _ = write!(text, " {} |", runtime.name());
    }
    let _ = write!(text, "\n|---|{}", "---:|".repeat(runtimes.len()));
    for (name, heading, decimals) in ROWS {
        let of = |runtime: &Runtime| samples.get(&(name.to_owned(), *runtime));
        if runtimes.iter().all(|runtime| of(runtime).is_none()) {
            continue;
        }
        let _ = write!(text, "\n| {heading} |");
        for runtime in runtimes {
            let cell = of(runtime).map_or("–".to_owned(), |values| cell(values, decimals));
            let _ = write!(text, " {cell} |");
        }
    }
    text
}

fn cell(values: &[f64], decimals: usize) -> String {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let (Some(least), Some(most)) = (sorted.first(), sorted.last()) else {
        return "–".to_owned();
    };
    let middle = sorted[sorted.len() / 2];
    if sorted.len() == 1 {
        format!("{middle:.decimals$}")
    } else {
        format!("{middle:.decimals$} ({least:.decimals$}–{most:.decimals$})")
    }
}
