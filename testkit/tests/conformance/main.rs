//! Every requirement is proven, chosen or left out for a reason, and `docs/conformance.md` says which.
//!
//! `MASQUE_BLESS=1` writes that file anew.

mod citations;
mod table;

use std::path::{Path, PathBuf};

use citations::{Citation, of_source};
use table::{Choice, Enforced, NotDone, Notes, Requirement, Requirements};

fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().expect("in the workspace").to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn every_requirement_is_proven_or_accounted_for_and_the_table_says_so() {
    let requirements: Requirements =
        toml::from_str(&read("testdata/requirements.toml")).expect("requirements");
    let notes: Notes = toml::from_str(&read("testdata/conformance.toml")).expect("notes");
    let citations = citations::collect(&root(), &table::documents(&requirements));
    let exists = |path: &str| root().join(path).exists();
    let problems = table::problems(&requirements, &notes, &citations, exists);
    let count = problems.len();
    assert!(
        problems.is_empty(),
        "{count} problems:\n{}",
        problems.join("\n")
    );

    let path = "docs/conformance.md";
    let table = table::render(&requirements, &notes, &citations);
    if std::env::var_os("MASQUE_BLESS").is_some() {
        std::fs::write(root().join(path), &table).expect("the table can be written");
    }
    let blessed = read(path) == table;
    assert!(blessed, "{path} is stale: MASQUE_BLESS=1 writes it anew");
}

fn small() -> (Requirements, Notes, Vec<Citation>) {
    let requirement = |id: &str, level: &str, scope: &str| Requirement {
        id: id.to_owned(),
        level: level.to_owned(),
        layer: "capsule".to_owned(),
        scope: scope.to_owned(),
        text: "Something.".to_owned(),
    };
    let requirements = Requirements {
        requirement: vec![
            requirement("9484-1-01", "MUST", "core"),
            requirement("9484-1-02", "SHOULD", "core"),
            requirement("9484-1-03", "MAY", "core"),
            requirement("bind-1-01", "MUST", "extension"),
        ],
    };
    let notes = Notes {
        enforced: vec![Enforced {
            at: vec!["here.rs".to_owned()],
            layers: vec!["capsule".to_owned()],
            ids: Vec::new(),
        }],
        not_done: vec![NotDone {
            id: "9484-1-02".to_owned(),
            reason: "It would be of no use.".to_owned(),
        }],
        choice: vec![Choice {
            id: "9484-1-03".to_owned(),
            choice: "It is left out.".to_owned(),
        }],
    };
    let source = "#[test]\nfn it_holds() {\n    // 9484-1-01\n    assert!(true);\n}\n";
    let citations = of_source("a/tests/b.rs", source, &table::documents(&requirements));
    (requirements, notes, citations)
}

fn problems(change: impl FnOnce(&mut Requirements, &mut Notes, &mut Vec<Citation>)) -> Vec<String> {
    let (mut requirements, mut notes, mut citations) = small();
    change(&mut requirements, &mut notes, &mut citations);
    table::problems(&requirements, &notes, &citations, |path| path == "here.rs")
}

#[test]
fn each_way_to_be_incomplete_or_untrue_is_found() {
    assert_eq!(problems(|_, _, _| {}), Vec::<String>::new());
    let found = |change: fn(&mut Requirements, &mut Notes, &mut Vec<Citation>)| {
        let problems = problems(change);
        assert_eq!(problems.len(), 1, "{problems:?}");
    };
    found(|_, _, citations| citations.clear());
    found(|_, notes, _| notes.not_done.clear());
    found(|_, notes, _| notes.not_done[0].reason = " ".to_owned());
    found(|_, notes, _| notes.choice.clear());
    found(|_, notes, _| notes.choice[0].choice.clear());
    found(|_, notes, _| notes.choice.push(notes.choice[0].clone()));
    found(|_, notes, _| notes.enforced[0].at.push("gone.rs".to_owned()));
    found(|_, notes, _| notes.enforced[0].ids.push("9484-2".to_owned()));
    found(|_, notes, _| notes.enforced.clear());
    found(|_, notes, _| notes.enforced[0].layers.push("none".to_owned()));
    found(|_, _, citations| citations[0].test = None);
    found(|_, _, citations| {
        let unknown = Citation {
            id: "9484-1-99".to_owned(),
            ..citations[0].clone()
        };
        citations.push(unknown);
    });
    found(|_, _, citations| {
        let not_done = Citation {
            id: "9484-1-02".to_owned(),
            ..citations[0].clone()
        };
        citations.push(not_done);
    });
}

#[test]
fn citations_are_found_in_tests_and_belong_to_a_function() {
    let documents = ["9484", "bind"].into();
    let names = |file, source| -> Vec<(String, Option<String>)> {
        let found = of_source(file, source, &documents);
        found.into_iter().map(|it| (it.id, it.test)).collect()
    };
    let some = |id: &str, test: &str| (id.to_owned(), Some(test.to_owned()));
    let source = "\
// 9484-0-00, and what a date is: 2026-11-20.
use x;

/// 9484-4.7.1-01: said of what follows,
// bind-2-03.
#[test]
fn first() {
    for it in all {
        // 9484-4.7.1-02
        assert!(it);
    }
}

proptest! {
    // 9484-4.7.1-03
    #[test]
    fn second(x in any::<u8>()) {
        prop_assert!(x); // 9484-4.7.1-04
    }
}
";
    let expected = [
        ("9484-0-00".to_owned(), None),
        some("9484-4.7.1-01", "first"),
        some("bind-2-03", "first"),
        some("9484-4.7.1-02", "first"),
        some("9484-4.7.1-03", "second"),
        some("9484-4.7.1-04", "second"),
    ];
    assert_eq!(names("a/tests/b.rs", source), expected);
    assert_eq!(names("a/src/b.rs", source), []);
    let inline = format!("// 9484-0-01\n#[cfg(test)]\nmod tests {{\n{source}}}\n");
    assert_eq!(names("a/src/b.rs", &inline).len(), expected.len());
    assert_eq!(
        names("a/src/b.rs", "#[cfg(test)]\nmod tests;\n// 9484-0-01\n"),
        []
    );
}
