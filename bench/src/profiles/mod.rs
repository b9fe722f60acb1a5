//! Whole tunnels on bad networks: what they leave of a path, how long they make a call wait, and what
//! they do when the network changes.
//!
//! | module | what is there |
//! |---|---|
//! | [`scenario`], `handover` | the tests |
//! | `running` | the probes of a lab, among them the element that is the bad network |
//! | [`record`] | raw numbers |
//! | [`report`], [`goals`], [`plots`] | tables; what must be reached; curves over time |

pub mod goals;
mod handover;
pub mod plots;
pub mod record;
pub mod report;
mod running;
pub mod scenario;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use indicatif::{ProgressBar, ProgressStyle};
use masque_testkit::traffic::profile::{self, Profile};

use crate::error::Error;
use crate::lab::{self, Lab, Space, Wire};
use crate::samples::Machine;
use crate::subject::{self, Places, Subject, Tunnel, Variant};
use record::{Record, Results};
use running::Element;
use scenario::{Scenario, Stage};

/// Our runtime, unless others are asked for.
const RUNTIME: &str = "masque-tokio";
/// The outer controllers compared.
const CONTROLLERS: [&str; 3] = ["cubic", "bbr", "tunnel"];
/// Others, where installed.
const OTHERS: [&str; 2] = ["wireguard-go", "openvpn"];
/// What all labs together carry without the processors being what is measured, in bits per second.
const CAPACITY: u64 = 150_000_000;
/// A tunnel has found its MTU by then.
const SETTLE: Duration = Duration::from_secs(4);
/// Queues are empty by then.
const PAUSE: Duration = Duration::from_millis(1_500);
/// Seconds it takes to bring a lab up and down, and to start and end a test.
const OVERHEAD: [f64; 2] = [7.0, 5.0];

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Profiles by name; empty: all.
    pub profiles: Vec<String>,
    /// Subjects by name; empty: no tunnel, one runtime of ours with each controller, and others.
    pub subjects: Vec<String>,
    /// Tests, in order.
    pub tests: Vec<Scenario>,
    /// How often, each with a seed of its own.
    pub repetitions: u32,
    /// The first seed.
    pub seed: u64,
    /// Seconds of each test with flows.
    pub secs: f64,
    /// Labs at a time, at most.
    pub jobs: u32,
    /// Where programs are.
    pub places: Places,
    /// Written again after each visit, so that an interrupted run leaves what it had.
    pub json: Option<PathBuf>,
}

/// A lab's worth of tests.
#[derive(Clone, Debug)]
struct Visit {
    profile: Profile,
    subject: String,
    repetition: u32,
    seed: u64,
    tests: Vec<Scenario>,
    secs: f64,
    /// How much of the machine it takes, of `jobs`.
    weight: u32,
}

impl Visit {
    fn length(&self) -> f64 {
        let tests = self.tests.iter();
        OVERHEAD[0]
            + tests
                .map(|test| test.length(self.secs) + OVERHEAD[1])
                .sum::<f64>()
    }

    fn record(&self, test: Scenario) -> Record {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Record {
            profile: self.profile.name.to_owned(),
            subject: self.subject.clone(),
            test: test.to_string(),
            repetition: self.repetition,
            seed: self.seed,
            at: since.map_or(0, |since| since.as_secs()),
            ..Record::default()
        }
    }
}

/// Measures.
///
/// # Errors
/// No root, unknown names, nothing to measure. What fails later is in the results.
pub fn run(plan: &Plan) -> Result<Results, Error> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::Usage(
            "network namespaces and devices need root: run it with sudo".to_owned(),
        ));
    }
    let profiles = profiles(&plan.profiles)?;
    let places = with_controllers(&plan.places);
    let mut results = choose(plan, &places)?;
    results.profiles = profiles.iter().map(|p| p.name.to_owned()).collect();
    for (name, why) in &results.skipped {
        eprintln!("skipped {name}: {why}");
    }
    lab::guard()?;
    let queue = visits(plan, &profiles, &results);
    if queue.is_empty() {
        return Err(Error::Usage("nothing to measure".to_owned()));
    }
    let all: f64 = queue
        .iter()
        .map(|visit| visit.length() * f64::from(visit.weight))
        .sum();
    let bar = ProgressBar::new(all as u64);
    // A constant template; without it the bar only looks plainer.
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {percent:>3} %, {eta} left: {msg}")
    {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_secs(1));
    let schedule = Schedule {
        queue: Mutex::new(Open {
            visits: queue,
            free: plan.jobs,
            results,
        }),
        freed: Condvar::new(),
        places,
        bar,
        json: plan.json.clone(),
    };
    thread::scope(|scope| {
        for number in 0..plan.jobs {
            let schedule = &schedule;
            scope.spawn(move || schedule.work(number));
        }
    });
    schedule.bar.finish_and_clear();
    let open = schedule.queue.into_inner();
    Ok(open.unwrap_or_else(PoisonError::into_inner).results)
}

fn profiles(names: &[String]) -> Result<Vec<Profile>, Error> {
    if names.is_empty() {
        return Ok(profile::PROFILES.to_vec());
    }
    let named = |name: &String| {
        profile::named(name).ok_or_else(|| {
            let all: Vec<_> = profile::PROFILES.iter().map(|p| p.name).collect();
            Error::Usage(format!("no profile {name:?}; there are {}", all.join(", ")))
        })
    };
    names.iter().map(named).collect()
}

/// Ours with each controller are variants like those of the command line.
fn with_controllers(places: &Places) -> Places {
    let mut places = places.clone();
    for controller in CONTROLLERS.into_iter().rev() {
        places.variants.insert(
            0,
            Variant {
                name: controller.to_owned(),
                settings: vec![format!("transport.congestion = {controller:?}")],
            },
        );
    }
    places
}

fn choose(plan: &Plan, places: &Places) -> Result<Results, Error> {
    let all = subject::all(places);
    let mut wanted = plan.subjects.clone();
    if wanted.is_empty() {
        wanted.push("raw".to_owned());
        let variants = places.variants.iter().map(|variant| &variant.name);
        wanted.extend(variants.map(|name| format!("{RUNTIME}+{name}")));
        wanted.extend(OTHERS.map(str::to_owned));
    }
    let mut results = Results {
        machine: Machine::here(),
        secs: plan.secs,
        repetitions: plan.repetitions,
        jobs: plan.jobs,
        ..Results::default()
    };
    for name in wanted {
        let Some(subject) = all.iter().find(|subject| subject.name() == name) else {
            let names: Vec<_> = all.iter().map(|subject| subject.name()).collect();
            let text = format!("no subject {name:?}; there are {}", names.join(", "));
            return Err(Error::Usage(text));
        };
        match subject.available() {
            Ok(note) => {
                if subject.is_ours() {
                    results.ours.push(name.clone());
                }
                results.subjects.push((name, note));
            }
            Err(why) => results.skipped.push((name, why)),
        }
    }
    for test in &plan.tests {
        match test.control().is_available() {
            true => results.tests.push(test.to_string()),
            false => results.skipped.push((
                test.to_string(),
                format!("this kernel has no {}", test.control().name()),
            )),
        }
    }
    if results.subjects.iter().any(|(name, _)| name == "raw") {
        let moves = plan.tests.iter().filter(|test| test.uses_up());
        let skipped = moves.map(|test| (format!("{test} of raw"), "it has no mobility".to_owned()));
        results.skipped.extend(skipped);
    }
    Ok(results)
}

/// Repetition by repetition, profile by profile, so that what drifts hits all subjects alike.
fn visits(plan: &Plan, profiles: &[Profile], results: &Results) -> VecDeque<Visit> {
    let tests = plan.tests.iter().copied();
    let (once, often): (Vec<_>, Vec<_>) = tests
        .filter(|test| test.control().is_available())
        .partition(|test| test.uses_up());
    let mut groups: Vec<Vec<Scenario>> = once.into_iter().map(|test| vec![test]).collect();
    if !often.is_empty() {
        groups.insert(0, often);
    }
    let mut visits = VecDeque::new();
    for repetition in 1..=plan.repetitions {
        for profile in profiles {
            for group in &groups {
                for (subject, _) in &results.subjects {
                    if subject == "raw" && group.iter().any(|test| test.uses_up()) {
                        continue;
                    }
                    let rate = profile.link.rate.unwrap_or(CAPACITY);
                    let weight = (rate * u64::from(plan.jobs)).div_ceil(CAPACITY);
                    visits.push_back(Visit {
                        profile: *profile,
                        subject: subject.clone(),
                        repetition,
                        seed: plan.seed + u64::from(repetition) - 1,
                        tests: group.clone(),
                        secs: plan.secs,
                        weight: u32::try_from(weight).unwrap_or(1).clamp(1, plan.jobs),
                    });
                }
            }
        }
    }
    visits
}

/// What the workers share.
struct Schedule {
    queue: Mutex<Open>,
    freed: Condvar,
    places: Places,
    bar: ProgressBar,
    json: Option<PathBuf>,
}

struct Open {
    visits: VecDeque<Visit>,
    /// How much of the machine is free.
    free: u32,
    results: Results,
}

impl Schedule {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes visits, in order, as long as there are some.
    fn work(&self, number: u32) {
        let subjects = subject::all(&self.places);
        while let Some(visit) = self.take() {
            let subject = subjects
                .iter()
                .find(|subject| subject.name() == visit.subject);
            let mut records = Vec::new();
            if let Some(subject) = subject {
                self.visit(&visit, subject.as_ref(), number, &mut records);
            }
            self.give(&visit, records);
        }
    }

    fn take(&self) -> Option<Visit> {
        let mut open = self.open();
        loop {
            let weight = open.visits.front()?.weight;
            if weight <= open.free {
                open.free -= weight;
                return open.visits.pop_front();
            }
            open = self
                .freed
                .wait(open)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn give(&self, visit: &Visit, records: Vec<Record>) {
        let mut open = self.open();
        open.free += visit.weight;
        open.results.records.extend(records);
        if let Some(path) = &self.json
            && let Err(error) = open.results.write(path)
        {
            self.bar.suspend(|| eprintln!("{error}"));
        }
        drop(open);
        self.freed.notify_all();
    }

    /// One subject in a lab of its own, through a group of tests. What fails is in the records.
    fn visit(&self, visit: &Visit, subject: &dyn Subject, number: u32, records: &mut Vec<Record>) {
        let failed = |test: Scenario, error: &Error| {
            let name = (visit.profile.name, &visit.subject);
            self.bar
                .suspend(|| eprintln!("{} {} {test}: {error}", name.0, name.1));
            Record {
                error: Some(error.to_string()),
                ..visit.record(test)
            }
        };
        if let Err(error) = self.tests(visit, subject, number, records, &failed) {
            for test in visit.tests.iter().skip(records.len()) {
                records.push(failed(*test, &error));
            }
        }
        let weight = f64::from(visit.weight);
        self.bar.inc((OVERHEAD[0] * weight) as u64);
    }

    fn tests(
        &self,
        visit: &Visit,
        subject: &dyn Subject,
        number: u32,
        records: &mut Vec<Record>,
        failed: &dyn Fn(Scenario, &Error) -> Record,
    ) -> Result<(), Error> {
        let lab = Lab::numbered(Wire::Gso, number)?;
        prepare(&lab)?;
        let mut element = Element::start(&lab, visit.profile.name, visit.seed)?;
        let mut tunnel = Tunnel::new(&lab, subject.server())?;
        subject.start(&mut tunnel)?;
        tunnel.wait_up()?;
        thread::sleep(SETTLE);
        for test in &visit.tests {
            self.bar.set_message(format!(
                "{} {} {} {test}",
                visit.repetition, visit.profile.name, visit.subject
            ));
            let mut stage = Stage {
                tunnel: &mut tunnel,
                element: &mut element,
                server: subject.server(),
                secs: visit.secs,
                seed: visit.seed,
            };
            match scenario::run(*test, &mut stage) {
                Ok(outcome) => {
                    let mut record = visit.record(*test);
                    record.values = outcome.values;
                    record.series = outcome.series;
                    record.element = outcome.element;
                    if let Some(mtu) = tunnel.inner_mtu() {
                        record.values.insert("inner_mtu_bytes".to_owned(), mtu);
                    }
                    records.push(record);
                }
                Err(error) => records.push(failed(*test, &error)),
            }
            let seconds = test.length(visit.secs) + OVERHEAD[1];
            self.bar.inc((seconds * f64::from(visit.weight)) as u64);
            thread::sleep(PAUSE);
        }
        subject.stop(&mut tunnel);
        Ok(())
    }
}

/// What long paths need of the kernel, and what keeps one test out of the next.
fn prepare(lab: &Lab) -> Result<(), Error> {
    lab.add_link()?;
    for space in [Space::Client, Space::Server] {
        for setting in [
            "net.ipv4.tcp_no_metrics_save=1",
            "net.ipv4.tcp_rmem=4096 131072 33554432",
            "net.ipv4.tcp_wmem=4096 131072 33554432",
        ] {
            lab.run(space, "sysctl", &["-qw", setting])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(jobs: u32) -> Plan {
        Plan {
            profiles: Vec::new(),
            subjects: Vec::new(),
            tests: Scenario::ALL.to_vec(),
            repetitions: 2,
            seed: 5,
            secs: 10.0,
            jobs,
            places: Places::default(),
            json: None,
        }
    }

    #[test]
    fn all_subjects_of_a_repetition_meet_one_seed_and_what_moves_has_its_own_lab() {
        let results = Results {
            subjects: ["raw", "one", "two"]
                .map(|name| (name.to_owned(), String::new()))
                .to_vec(),
            ..Results::default()
        };
        let all = visits(&plan(3), &profile::PROFILES, &results);
        assert!(
            all.iter()
                .all(|visit| visit.seed == 4 + u64::from(visit.repetition))
        );
        for visit in &all {
            let moves = visit.tests.iter().any(|test| test.uses_up());
            assert!(!moves || (visit.tests.len() == 1 && visit.subject != "raw"));
        }
        let weight = |name: &str| {
            let visit = all.iter().find(|visit| visit.profile.name == name);
            visit.map(|visit| visit.weight)
        };
        assert_eq!(weight("bottleneck-5"), Some(1));
        assert_eq!(weight("wifi"), Some(1));
        assert_eq!(weight("bottleneck-100"), Some(2));
    }

    #[test]
    fn ours_are_measured_with_each_controller_and_unknown_profiles_are_named() {
        let places = with_controllers(&Places::default());
        let names: Vec<_> = places.variants.iter().map(|v| v.name.as_str()).collect();
        assert_eq!(names, CONTROLLERS);
        let error = profiles(&["dialup".to_owned()]).expect_err("there is none");
        assert!(error.to_string().contains("satellite"));
    }
}
