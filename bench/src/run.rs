//! The schedule: repetition by repetition, subject by subject, so that what drifts hits all alike.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use indicatif::{ProgressBar, ProgressStyle};

use crate::error::Error;
use crate::lab::{self, Lab, Wire};
use crate::meter;
use crate::samples::{INNER_MTU, Machine, Results, Sample, TUNNEL};
use crate::subject::{self, Places, Subject, Tunnel};
use crate::trial::{self, Outcome, Settings, Test};

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Subjects by name; empty: everything there is.
    pub subjects: Vec<String>,
    /// Tests, in order.
    pub tests: Vec<Test>,
    /// How often.
    pub repetitions: u32,
    /// How packets cross the path.
    pub wire: Wire,
    /// How tests are run.
    pub settings: Settings,
    /// Where programs are.
    pub places: Places,
    /// How long to wait for a quiet machine before each test.
    pub patience: Duration,
    /// Written again after each subject, so that an interrupted run leaves what it had.
    pub json: Option<PathBuf>,
}

/// Seconds a lab and a tunnel take to come up and down.
const OVERHEAD: f64 = 3.0;

/// Measures.
///
/// # Errors
/// No root, unknown subjects, nothing to measure, no namespaces. What fails later is in the results.
pub fn run(plan: &Plan) -> Result<Results, Error> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::Usage(
            "network namespaces and devices need root: run it with sudo".to_owned(),
        ));
    }
    lab::guard()?;
    let (subjects, notes, skipped) = choose(plan)?;
    for (name, why) in &skipped {
        eprintln!("skipped {name}: {why}");
    }
    let ours = subjects.iter().filter(|subject| subject.is_ours());
    let mut results = Results {
        machine: Machine::here(),
        wire: plan.wire,
        secs: plan.settings.secs,
        repetitions: plan.repetitions,
        ours: ours.map(|subject| subject.name().to_owned()).collect(),
        subjects: notes,
        ciphers: BTreeMap::new(),
        skipped,
        samples: Vec::new(),
    };
    let each: f64 = plan
        .tests
        .iter()
        .map(|test| test.estimate(plan.settings.secs) + 0.5)
        .sum();
    let all = (each + OVERHEAD) * subjects.len() as f64 * f64::from(plan.repetitions);
    let bar = ProgressBar::new(all.ceil() as u64);
    // A constant template; without it the bar only looks plainer.
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {percent:>3} %, {eta} left: {msg}")
    {
        bar.set_style(style);
    }
    let mut done = 0.0;
    for repetition in 1..=plan.repetitions {
        for subject in &subjects {
            let mut advance = |seconds: f64, what: &str| {
                done += seconds;
                bar.set_position(done as u64);
                bar.set_message(format!(
                    "{repetition}/{} {} {what}",
                    plan.repetitions,
                    subject.name()
                ));
            };
            advance(0.0, "starting");
            if let Err(error) = visit(
                plan,
                subject.as_ref(),
                repetition,
                &mut results,
                &mut advance,
            ) {
                bar.suspend(|| eprintln!("{}: {error}", subject.name()));
                results.samples.push(Sample {
                    error: Some(error.to_string()),
                    ..sample(subject.as_ref(), "start", repetition)
                });
            }
            advance(OVERHEAD, "done");
            if let Some(path) = &plan.json {
                results.write(path)?;
            }
        }
    }
    bar.finish_and_clear();
    Ok(results)
}

type Chosen = (
    Vec<Box<dyn Subject>>,
    Vec<(String, String)>,
    Vec<(String, String)>,
);

fn choose(plan: &Plan) -> Result<Chosen, Error> {
    let all = subject::all(&plan.places);
    let known = |name: &String| all.iter().any(|subject| subject.name() == name);
    if let Some(unknown) = plan.subjects.iter().find(|name| !known(name)) {
        let names: Vec<_> = all.iter().map(|subject| subject.name()).collect();
        let text = format!("no subject {unknown:?}; there are {}", names.join(", "));
        return Err(Error::Usage(text));
    }
    let wanted = |name: &str| plan.subjects.is_empty() || plan.subjects.iter().any(|n| n == name);
    let (mut subjects, mut notes, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
    for subject in all {
        let name = subject.name().to_owned();
        match subject.available() {
            _ if !wanted(&name) => {}
            Ok(note) => {
                notes.push((name, note));
                subjects.push(subject);
            }
            Err(why) => skipped.push((name, why)),
        }
    }
    if subjects.is_empty() {
        return Err(Error::Usage("nothing to measure".to_owned()));
    }
    Ok((subjects, notes, skipped))
}

/// One subject in a lab of its own, through all tests.
fn visit(
    plan: &Plan,
    subject: &dyn Subject,
    repetition: u32,
    results: &mut Results,
    advance: &mut dyn FnMut(f64, &str),
) -> Result<(), Error> {
    let lab = Lab::new(plan.wire)?;
    let mut tunnel = Tunnel::new(&lab, subject.server())?;
    subject.start(&mut tunnel)?;
    tunnel.wait_up()?;
    for test in &plan.tests {
        advance(0.0, &test.to_string());
        let quiet = meter::quiet(plan.patience);
        let mut sample = sample(subject, &test.to_string(), repetition);
        sample.quiet = quiet;
        match trial::run(*test, subject, &mut tunnel, plan.settings) {
            Ok(Outcome {
                values,
                round_trips,
            }) => {
                sample.values = values;
                sample.round_trips = round_trips;
            }
            Err(error) => sample.error = Some(error.to_string()),
        }
        results.samples.push(sample);
        advance(test.estimate(plan.settings.secs) + 0.5, "");
    }
    // At the end: path MTU discovery takes its time.
    if let Some(mtu) = tunnel.inner_mtu() {
        results.samples.push(Sample {
            quiet: true,
            values: BTreeMap::from([(INNER_MTU.to_owned(), mtu)]),
            ..sample(subject, TUNNEL, repetition)
        });
    }
    if let Some(cipher) = subject.cipher(&tunnel) {
        let name = subject.name().to_owned();
        results.ciphers.insert(name, cipher);
    }
    subject.stop(&mut tunnel);
    Ok(())
}

fn sample(subject: &dyn Subject, test: &str, repetition: u32) -> Sample {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Sample {
        subject: subject.name().to_owned(),
        test: test.to_owned(),
        repetition,
        at: since.map_or(0, |since| since.as_secs()),
        ..Sample::default()
    }
}
