//! What fuzzing has found worth keeping, and once-failing inputs, replayed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use masque_testkit::fuzz::TARGETS;

/// The one target whose body, and whose corpus test, is masque's own.
const CONFIGURATION: &str = "configuration";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn names(folder: &str) -> BTreeSet<String> {
    let path = root().join(folder);
    let entries = fs::read_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let stem = |path: PathBuf| {
        path.file_stem()
            .map(|name| name.to_string_lossy().into_owned())
    };
    entries
        .filter_map(|entry| stem(entry.expect("readable").path()))
        .collect()
}

/// The keys of a table in a TOML file, or the names of those in a list.
fn listed(file: &str, list: Option<&str>) -> BTreeSet<String> {
    let text = fs::read_to_string(root().join(file)).expect("readable");
    let table: toml::Table = text.parse().expect("TOML");
    let Some(list) = list else {
        return table.keys().cloned().collect();
    };
    let entries = table[list].as_array().expect("a list");
    let name = |entry: &toml::Value| entry["name"].as_str().map(str::to_owned);
    entries.iter().filter_map(name).collect()
}

/// `CORPUS` names the only one to replay.
#[test]
fn every_input_of_every_corpus_keeps_its_promise() {
    let only = std::env::var("CORPUS").ok();
    for (name, body) in TARGETS {
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        let mut files: Vec<_> = fs::read_dir(root().join("testdata/corpus").join(name))
            .unwrap_or_else(|error| panic!("{name} has no corpus: {error}"))
            .map(|entry| entry.expect("readable").path())
            .collect();
        files.sort();
        assert!(!files.is_empty(), "{name}");
        for file in files {
            // libtest shows it if the body panics.
            println!("{}", file.display());
            body(&fs::read(&file).expect("readable"));
        }
    }
}

/// One that lacks a part would silently not be fuzzed, replayed or held to its coverage.
#[test]
fn each_target_has_a_binary_a_corpus_and_a_floor() {
    let targets = TARGETS.iter().map(|(name, _)| (*name).to_owned());
    let targets: BTreeSet<_> = targets.chain([CONFIGURATION.to_owned()]).collect();
    assert_eq!(names("fuzz/fuzz_targets"), targets);
    assert_eq!(listed("fuzz/Cargo.toml", Some("bin")), targets);
    assert_eq!(names("testdata/corpus"), targets);
    assert_eq!(listed("fuzz/floors.toml", None), targets);
}
