//! `masque-lab sweep`: many seeds on many paths, at once, and a page about what came of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::outputs::save;
use super::{LabError, Scenario, chart, draw, sample};
use crate::traffic::profile::PATHS;
use crate::witness;
use crate::world::InnerHost;

/// What is swept.
#[derive(Args, Clone, Debug)]
pub struct Sweeping {
    /// How many seeds, counted up from `--seed`.
    #[arg(long, default_value_t = 20)]
    pub seeds: u64,
    /// The paths; all of them if none is named.
    #[arg(long, value_delimiter = ',')]
    pub profiles: Vec<String>,
    /// Runs at once; as many as there are processors if not said.
    #[arg(long)]
    pub jobs: Option<usize>,
    /// Where the page goes.
    #[arg(long, default_value = "sweep.html")]
    pub html: PathBuf,
    /// What is run.
    #[command(flatten)]
    pub scenario: Scenario,
}

/// What came of one run.
#[derive(Clone, Debug)]
struct Outcome {
    profile: String,
    seed: u64,
    /// The median echo in milliseconds.
    echo: Option<f64>,
    asked: u64,
    answered: u64,
    lost: u64,
    sent: u64,
    fingerprint: u64,
}

/// A run that broke an invariant.
#[derive(Clone, Debug)]
struct Failure {
    command: String,
    words: String,
}

/// Runs every seed on every path.
///
/// # Errors
/// [`LabError::Failed`] if any run broke an invariant; the commands that repeat them are printed. Where
/// panics abort, the first ends the process, with the command that shows it again.
pub fn sweep(what: &Sweeping, out: &mut impl Write) -> Result<(), LabError> {
    let mut profiles = what.profiles.clone();
    if profiles.is_empty() {
        profiles = PATHS.iter().map(|&one| one.to_owned()).collect();
    }
    let first = what.scenario.seed.unwrap_or_default();
    let seeds = first..first.saturating_add(what.seeds);
    let of_profile = |profile: &String| {
        let profile = profile.clone();
        seeds.clone().map(move |seed| Scenario {
            seed: Some(seed),
            profile: Some(profile.clone()),
            ..what.scenario.clone()
        })
    };
    let scenarios: Vec<Scenario> = profiles.iter().flat_map(of_profile).collect();
    // A profile that there is not is told of at once, not by every thread.
    for scenario in &scenarios {
        scenario.options(false)?;
    }
    let began = Instant::now();
    let (outcomes, failures) = run_all(&scenarios, what.jobs);
    let page = page(what, &profiles, &outcomes, &failures)?;
    save(&what.html, page)?;
    out.write_all(table(&profiles, &outcomes).as_bytes())?;
    writeln!(
        out,
        "{} runs in {:.1} s, {} failed; {}",
        scenarios.len(),
        began.elapsed().as_secs_f64(),
        failures.len(),
        what.html.display()
    )?;
    for failure in &failures {
        writeln!(out, "{}\n  {}", failure.words, failure.command)?;
    }
    match failures.len() {
        0 => Ok(()),
        count => Err(LabError::Failed(count)),
    }
}

fn run_all(scenarios: &[Scenario], jobs: Option<usize>) -> (Vec<Outcome>, Vec<Failure>) {
    let jobs = jobs.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {eta} left {msg}");
    let bar = ProgressBar::new(scenarios.len() as u64);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let next = AtomicUsize::new(0);
    let done = Mutex::new((BTreeMap::new(), BTreeMap::new()));
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(scenario) = scenarios.get(index) else {
                        return;
                    };
                    let result = run_one(scenario);
                    let mut done = done.lock().unwrap_or_else(|held| held.into_inner());
                    match result {
                        Ok(outcome) => drop(done.0.insert(index, outcome)),
                        Err(failure) => drop(done.1.insert(index, failure)),
                    }
                    bar.set_message(format!("{} failed", done.1.len()));
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish_and_clear();
    let (outcomes, failures) = done.into_inner().unwrap_or_else(|held| held.into_inner());
    let outcomes = outcomes.into_values().collect();
    (outcomes, failures.into_values().collect())
}

fn run_one(scenario: &Scenario) -> Result<Outcome, Failure> {
    let command = format!("masque-lab run {}", scenario.arguments());
    let failure = |words: String| Failure {
        command: command.clone(),
        words,
    };
    let ran = witness::attempt(&command, || {
        let mut stage = scenario.build(false)?;
        let limit = stage.limit();
        stage.world_mut().run_until(limit);
        Ok::<_, LabError>(stage)
    });
    let stage = match ran {
        Ok(Ok(stage)) => stage,
        Ok(Err(error)) => return Err(failure(error.to_string())),
        Err(words) => return Err(failure(words)),
    };
    let expected = stage.failures();
    if !expected.is_empty() {
        return Err(failure(expected.join("; ")));
    }
    let world = stage.world();
    let mut outcome = Outcome {
        profile: scenario.profile.clone().unwrap_or_default(),
        seed: scenario.seed.unwrap_or_default(),
        echo: None,
        asked: 0,
        answered: 0,
        lost: 0,
        sent: 0,
        fingerprint: world.trace().fingerprint(),
    };
    let mut trips = Vec::new();
    for id in world.nodes() {
        if let Some(host) = world.node(id).host::<InnerHost>() {
            outcome.asked += host.sent;
            outcome.answered += host.replies();
            trips.extend_from_slice(&host.round_trips);
        }
        for to in world.nodes() {
            if let Some(stats) = world.link_stats(id, to) {
                outcome.sent += stats.sent;
                outcome.lost += stats.lost + stats.queue_full + stats.too_big + stats.down;
            }
        }
    }
    trips.sort();
    let median = trips.get(trips.len() / 2);
    outcome.echo = median.map(|trip| trip.as_secs_f64() * 1000.0);
    Ok(outcome)
}

fn of<'a>(outcomes: &'a [Outcome], profile: &'a str) -> impl Iterator<Item = &'a Outcome> {
    outcomes.iter().filter(move |one| one.profile == profile)
}

/// The share of `part` in `whole`, in per cent.
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 * 100.0 / whole as f64
    }
}

fn medians(outcomes: &[Outcome], profile: &str) -> Vec<f64> {
    let mut all: Vec<f64> = of(outcomes, profile).filter_map(|one| one.echo).collect();
    all.sort_by(f64::total_cmp);
    all
}

fn table(profiles: &[String], outcomes: &[Outcome]) -> String {
    let mut out = format!(
        "{:<22} {:>5} {:>10} {:>12} {:>10}\n",
        "profile", "runs", "echo ms", "answered %", "lost %"
    );
    for profile in profiles {
        let all = medians(outcomes, profile);
        let echo = all.get(all.len() / 2).copied().unwrap_or_default();
        let sum = |of_one: fn(&Outcome) -> u64| of(outcomes, profile).map(of_one).sum::<u64>();
        let _ = writeln!(
            out,
            "{profile:<22} {:>5} {echo:>10.2} {:>12.2} {:>10.2}",
            of(outcomes, profile).count(),
            percent(sum(|one| one.answered), sum(|one| one.asked)),
            percent(sum(|one| one.lost), sum(|one| one.sent)),
        );
    }
    out
}

fn page(
    what: &Sweeping,
    profiles: &[String],
    outcomes: &[Outcome],
    failures: &[Failure],
) -> Result<String, LabError> {
    let mut out = String::from(
        "<!doctype html><meta charset=\"utf-8\"><title>masque-lab sweep</title>\n<style>body{font-family:sans-serif;max-width:960px;margin:2em auto}table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:2px 8px;text-align:right}pre{background:#f4f4f4;padding:8px}</style>\n<h1>masque-lab sweep</h1>\n",
    );
    let _ = writeln!(
        out,
        "<p>{} runs, {} failed. {} seeds from {} on.</p>",
        outcomes.len() + failures.len(),
        failures.len(),
        what.seeds,
        what.scenario.seed.unwrap_or_default()
    );
    for failure in failures {
        let _ = writeln!(
            out,
            "<pre>{}\n{}</pre>",
            chart::escape(&failure.words),
            chart::escape(&failure.command)
        );
    }
    let _ = writeln!(out, "<pre>{}</pre>", table(profiles, outcomes));
    let groups = |value: fn(&Outcome) -> Option<f64>| -> Vec<(String, Vec<f64>)> {
        let group = |profile: &String| {
            let values = of(outcomes, profile).filter_map(value).collect();
            (profile.clone(), values)
        };
        profiles.iter().map(group).collect()
    };
    let echoes = groups(|one| one.echo);
    out.push_str(&chart::boxes(
        "median echo inside the tunnel, per run",
        "ms",
        &echoes,
    ));
    let losses = groups(|one| Some(percent(one.lost, one.sent)));
    out.push_str(&chart::boxes(
        "lost on the links, per run",
        "per cent",
        &losses,
    ));
    let answers = groups(|one| Some(percent(one.asked - one.answered.min(one.asked), one.asked)));
    out.push_str(&chart::boxes(
        "echoes without an answer, per run",
        "per cent",
        &answers,
    ));
    for profile in profiles {
        let first = Scenario {
            // A file has a seed of its own: the runs began with this one.
            seed: Some(what.scenario.seed.unwrap_or_default()),
            profile: Some(profile.clone()),
            ..what.scenario.clone()
        };
        let failed = |one: &Failure| one.command.ends_with(&first.arguments());
        if failures.iter().any(failed) {
            continue;
        }
        let stage = first.build(false)?;
        let (limit, mut world) = (stage.limit(), stage.into_world());
        let samples = sample(&mut world, limit, Duration::from_millis(20));
        let seed = first.seed.unwrap_or_default();
        let _ = writeln!(out, "<h2>{}, seed {seed}</h2>", chart::escape(profile));
        out.push_str(&draw::plots(&samples));
    }
    out.push_str("<h2>all runs</h2><table><tr><th>profile<th>seed<th>echo ms<th>asked<th>answered<th>sent<th>lost<th>fingerprint</tr>\n");
    for one in outcomes {
        let _ = writeln!(
            out,
            "<tr><td>{}<td>{}<td>{:.2}<td>{}<td>{}<td>{}<td>{}<td>{:016x}</tr>",
            chart::escape(&one.profile),
            one.seed,
            one.echo.unwrap_or_default(),
            one.asked,
            one.answered,
            one.sent,
            one.lost,
            one.fingerprint
        );
    }
    out.push_str("</table>\n");
    Ok(out)
}
