//! Every scenario of testdata/scenarios is read, run, and gives what its file expects.

use std::path::{Path, PathBuf};
use std::time::Duration;

use masque_testkit::scenario::file::{ScenarioFile, Span};
use masque_testkit::scenario::play::RunOptions;
use masque_testkit::traffic::profile::{self, PATHS};

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/scenarios");
    let entries = std::fs::read_dir(folder).expect("it is there");
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|it| it == "toml"))
        .collect();
    files.sort();
    files
}

#[test]
fn every_scenario_gives_what_it_expects() {
    let mut wrong = Vec::new();
    for path in files() {
        let file = ScenarioFile::read(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        assert!(!file.expects.is_empty(), "{path:?} expects nothing");
        let options = RunOptions {
            // Two minutes of a long one; `masque-lab run` plays all of it and judges it alike.
            length: Some(file.length.0.min(Duration::from_secs(120))),
            ..RunOptions::default()
        };
        let mut run = file.build(&options).expect("it can be built");
        run.play();
        for failure in run.failures() {
            wrong.push(format!("{}: {failure}", file.name));
        }
        println!("{}: {:?}", file.name, run.metrics());
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_path_carries_a_tunnel() {
    for name in PATHS {
        assert_eq!(profile::path(name).map(|path| path.name), Some(name));
        let text = "length = \"9s\"\n[[client]]\nreconnect = \"1s\"\n[[traffic]]\nkind = \"echo\"";
        let file = ScenarioFile::parse(text).expect("a constant");
        let options = RunOptions {
            profile: Some(name.to_owned()),
            ..RunOptions::default()
        };
        let mut run = file.build(&options).expect("a constant");
        run.play();
        let lost = run.metric("echo-lost", None);
        assert!(lost.is_some_and(|lost| lost < 0.3), "{name}: {lost:?}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_words() {
    for (text, words) in [
        ("nonsense = 1", "nonsense"),
        ("length = \"5 parsecs\"", "parsecs"),
        ("length = \"-5s\"", "range"),
        ("profile = \"carrier-pigeon\"", "carrier-pigeon"),
        (
            "[[traffic]]\nkind = \"echo\"\nclient = \"nobody\"",
            "nobody",
        ),
        ("[[event]]\nat = \"1s\"\ndo = \"nat-rebind\"", "NAT"),
        ("[[event]]\nat = \"1s\"\ndo = \"link\"", "profile or a link"),
        ("[[expect]]\nwhat = \"happiness\"", "happiness"),
        ("[[client]]\ncount = 101", "100 clients"),
        (
            "[[client]]\nname = \"a\"\n[[client]]\nname = \"a\"",
            "two are called a",
        ),
        ("[server]\nshards = 0", "one shard"),
        ("[[client]]\nlink.loss = \"much\"", "f64"),
        (
            "[[event]]\nat = \"1s\"\ndo = \"assign\"\naddresses = [\"10.0.0.1/8\"]",
            "10.0.0.1/8",
        ),
    ] {
        let built = ScenarioFile::parse(text).and_then(|file| {
            let run = file.build(&RunOptions::default());
            run.map(|_| ())
        });
        let error = built.expect_err(text).to_string();
        assert!(error.contains(words), "{text:?}: {error}");
    }
}

#[test]
fn times_are_numbers_with_units() {
    for (text, micros) in [
        ("20ms", 20_000),
        ("1.5s", 1_500_000),
        ("7us", 7),
        ("2min", 120_000_000),
        ("1h", 3_600_000_000),
    ] {
        assert_eq!(text.parse(), Ok(Span(Duration::from_micros(micros))));
    }
}

#[test]
fn the_same_file_and_seed_give_the_same_trace() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/scenarios");
    for name in ["handover.toml", "nat.toml", "loss-and-queues.toml"] {
        let file = ScenarioFile::read(&folder.join(name)).expect("it is there");
        let trace = |seed| {
            let options = RunOptions {
                seed: Some(seed),
                trace: true,
                ..RunOptions::default()
            };
            let mut run = file.build(&options).expect("it can be built");
            run.play();
            run.star.world.trace().text()
        };
        let first = trace(3);
        assert!(first == trace(3), "{name}");
        assert!(first != trace(4), "{name}");
    }
}
