//! Many runs side by side, and the table of what came of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;

use super::host::End;
use super::trial::{self, Outcome, Subject, Trial};
use crate::crypto::TlsError;

/// A run and what came of it, in words and numbers.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// The path.
    pub profile: &'static str,
    /// What carried the flows.
    pub subject: &'static str,
    /// How many bulk flows.
    pub flows: usize,
    /// Their control.
    pub control: &'static str,
    /// `up` or `down`.
    pub direction: &'static str,
    /// The control of the flow outside the tunnel, if there was one.
    pub rival: Option<&'static str>,
    /// The seed.
    pub seed: u64,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl Record {
    fn new(trial: &Trial, outcome: Outcome) -> Self {
        Self {
            profile: trial.profile.name,
            subject: trial.subject.name(),
            flows: trial.flows,
            control: trial.control.name(),
            direction: match trial.from {
                End::Client => "up",
                End::Server => "down",
            },
            rival: trial.rival.map(super::control::ControlKind::name),
            seed: trial.seed,
            outcome,
        }
    }
}

/// Runs all of them on `jobs` threads; the records are in the order of the trials, whatever `jobs` is.
///
/// # Errors
/// [`TlsError`], the first there is.
///
/// # Panics
/// If a run does.
pub fn run(trials: &[Trial], jobs: usize) -> Result<Vec<Record>, TlsError> {
    let next = AtomicUsize::new(0);
    let done: Mutex<BTreeMap<usize, Result<Record, TlsError>>> = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(trial) = trials.get(index) else {
                        return;
                    };
                    let record = trial::run(trial).map(|outcome| Record::new(trial, outcome));
                    done.lock()
                        .expect("nobody panics while holding it")
                        .insert(index, record);
                }
            });
        }
    });
    let done = done.into_inner().expect("all threads have ended");
    done.into_values().collect()
}

type Key = (
    &'static str,
    usize,
    &'static str,
    &'static str,
    Option<&'static str>,
);

/// Medians over seeds: goodput of the raw path, the others' share of it, voice, and the rival's share of
/// an equal division.
#[must_use]
pub fn table(records: &[Record], subjects: &[Subject]) -> String {
    let mut rows: Vec<Key> = Vec::new();
    let mut cells: BTreeMap<(usize, &str), Vec<&Record>> = BTreeMap::new();
    for record in records {
        let key = (
            record.profile,
            record.flows,
            record.direction,
            record.control,
            record.rival,
        );
        let row = rows.iter().position(|row| *row == key);
        let row = row.unwrap_or_else(|| {
            rows.push(key);
            rows.len() - 1
        });
        cells.entry((row, record.subject)).or_default().push(record);
    }
    let mut out = String::from("| path | flows |");
    for subject in subjects {
        let _ = write!(out, " {} |", subject.name());
    }
    out.push_str("\n|---|---|");
    out.push_str(&"---|".repeat(subjects.len()));
    out.push('\n');
    for (row, key) in rows.iter().enumerate() {
        let (profile, flows, direction, control, rival) = key;
        let _ = write!(out, "| {profile} | {flows} {control} {direction}");
        if let Some(rival) = rival {
            let _ = write!(out, " against {rival}");
        }
        out.push_str(" |");
        let of = |subject: &str, value: fn(&Outcome) -> f64| {
            let cell = cells.get(&(row, subject))?;
            Some(median(
                cell.iter().map(|record| value(&record.outcome)).collect(),
            ))
        };
        let raw = of("raw", |outcome| outcome.mbit);
        for subject in subjects {
            let name = subject.name();
            let Some(mbit) = of(name, |outcome| outcome.mbit) else {
                out.push_str(" – |");
                continue;
            };
            match raw.filter(|raw| *raw > 0.0 && name != "raw" && rival.is_none()) {
                Some(raw) => {
                    let _ = write!(out, " {:.0} %", mbit / raw * 100.0);
                }
                None => {
                    let _ = write!(out, " {mbit:.2}");
                }
            }
            if rival.is_some() {
                let theirs = of(name, |outcome| outcome.rival_mbit).unwrap_or_default();
                let _ = write!(out, " : {theirs:.2}");
            }
            let p50 = of(name, |outcome| outcome.voice_p50).unwrap_or_default();
            if p50 > 0.0 {
                let p99 = of(name, |outcome| outcome.voice_p99).unwrap_or_default();
                let lost = of(name, |outcome| outcome.voice_lost).unwrap_or_default();
                let _ = write!(out, ", {p50:.0}/{p99:.0} ms, {:.1} %", lost * 100.0);
            }
            out.push_str(" |");
        }
        out.push('\n');
    }
    out
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
