//! Many worlds in which anything happens, one for each seed: whatever an invariant says must hold in all
//! of them.
//!
//! A seed and the name of a path decide everything: how many shards the server has, whether there are
//! NATs, what clients do, and what the links do to them ([`crate::fuzz::world`]).

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arbitrary::Unstructured;
use rand_core::Rng;

use crate::fuzz::world::{self, Plan};
use crate::seed::Seed;
use crate::traffic::profile::PATHS;
use crate::witness;

/// Bytes that decide what happens in one world: some 60 operations.
const BYTES: usize = 400;

/// Which worlds.
#[derive(Clone, Debug)]
pub struct Seeds {
    /// The first seed.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// The one path all are on; otherwise each seed is on the next.
    pub path: Option<&'static str>,
    /// How many threads.
    pub jobs: usize,
}

/// A world in which something did not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// Its path.
    pub path: &'static str,
    /// What did not hold.
    pub message: String,
    /// What shows it again.
    pub command: String,
}

/// What came of many worlds.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How many there were.
    pub runs: u64,
    /// Those in which something did not hold.
    pub failures: Vec<Failure>,
    /// How long it took.
    pub took: Duration,
}

/// The path of a seed, unless all are on one.
#[must_use]
pub fn path_of(seed: u64) -> &'static str {
    let paths = PATHS.len() as u64;
    PATHS[usize::try_from(seed % paths).expect("a remainder")]
}

/// What shows a world again.
#[must_use]
pub fn command(seed: u64, path: &str) -> String {
    format!("masque-lab seeds --first {seed} --count 1 --profile {path}")
}

/// Runs one world.
///
/// # Panics
/// Where something does not hold.
pub fn run_one(seed: u64, path: &'static str) {
    let mut bytes = [0; BYTES];
    Seed::new(seed).rng("plan").fill_bytes(&mut bytes);
    let plan = Plan::of(seed, path, &mut Unstructured::new(&bytes));
    world::run(&plan.expect("bytes never run out"));
}

/// Runs them all. Where panics abort, the first failure ends the process, with the command that shows it
/// again.
pub fn run(seeds: &Seeds) -> Report {
    let begun = Instant::now();
    let next = AtomicU64::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..seeds.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let nth = next.fetch_add(1, Ordering::Relaxed);
                    if nth >= seeds.count {
                        return;
                    }
                    let seed = seeds.first.wrapping_add(nth);
                    let path = seeds.path.unwrap_or_else(|| path_of(seed));
                    let command = command(seed, path);
                    if let Err(message) = witness::attempt(&command, || run_one(seed, path)) {
                        let failure = Failure {
                            seed,
                            path,
                            message,
                            command,
                        };
                        let mut failures = failures.lock().expect("nobody panics with it");
                        failures.push(failure);
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().expect("nobody panics with it");
    failures.sort_by_key(|failure: &Failure| failure.seed);
    Report {
        runs: seeds.count,
        failures,
        took: begun.elapsed(),
    }
}
