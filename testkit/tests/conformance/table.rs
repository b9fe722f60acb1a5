//! The requirements, what is noted about them, and the table made of both.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use serde::Deserialize;

use super::citations::Citation;

/// `testdata/requirements.toml`.
#[derive(Deserialize)]
pub(crate) struct Requirements {
    pub(crate) requirement: Vec<Requirement>,
}

#[derive(Clone, Deserialize)]
pub(crate) struct Requirement {
    pub(crate) id: String,
    pub(crate) level: String,
    pub(crate) layer: String,
    pub(crate) scope: String,
    pub(crate) text: String,
}

impl Requirement {
    fn is_core(&self) -> bool {
        self.scope == "core"
    }

    fn is_optional(&self) -> bool {
        self.level == "MAY"
    }
}

/// `testdata/conformance.toml`.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Notes {
    #[serde(default)]
    pub(crate) enforced: Vec<Enforced>,
    #[serde(default)]
    pub(crate) not_done: Vec<NotDone>,
    #[serde(default)]
    pub(crate) choice: Vec<Choice>,
}

/// Where requirements are enforced; what names an id or its section goes before what names a layer.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Enforced {
    /// Files, from the root of the workspace.
    pub(crate) at: Vec<String>,
    #[serde(default)]
    pub(crate) layers: Vec<String>,
    /// Ids, or what they begin with up to the section.
    #[serde(default)]
    pub(crate) ids: Vec<String>,
}

/// Deliberately not done.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NotDone {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) reason: String,
}

/// What was chosen where there was a choice, or where more than one way is offered.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Choice {
    pub(crate) id: String,
    pub(crate) choice: String,
}

/// The shortest text that can be a reason or a choice.
const WORDS: usize = 12;

pub(crate) fn documents(requirements: &Requirements) -> BTreeSet<&str> {
    let ids = requirements.requirement.iter();
    ids.filter_map(|it| it.id.split('-').next()).collect()
}

/// Everything that keeps the table from being complete and true, in words.
pub(crate) fn problems(
    requirements: &Requirements,
    notes: &Notes,
    citations: &[Citation],
    exists: impl Fn(&str) -> bool,
) -> Vec<String> {
    let all = &requirements.requirement;
    let known: BTreeSet<&str> = all.iter().map(|it| &*it.id).collect();
    let cited: BTreeSet<&str> = citations.iter().map(|it| &*it.id).collect();
    let mut problems = Vec::new();
    for citation in citations {
        let Citation { id, file, test } = citation;
        if !known.contains(&**id) {
            problems.push(format!("{file} cites {id}, which does not exist"));
        }
        if test.is_none() {
            problems.push(format!("{file} cites {id} outside of any test"));
        }
    }
    let mut noted = BTreeSet::new();
    for NotDone { id, reason } in &notes.not_done {
        noted.insert(&**id);
        if !known.contains(&**id) {
            problems.push(format!("{id}, not done, does not exist"));
        }
        if reason.trim().len() < WORDS {
            problems.push(format!("{id} is not done without a reason"));
        }
        if cited.contains(&**id) {
            problems.push(format!("{id} is not done, and yet a test cites it"));
        }
    }
    let mut chosen = BTreeSet::new();
    for Choice { id, choice } in &notes.choice {
        if !known.contains(&**id) {
            problems.push(format!(
                "{id}, of which something was chosen, does not exist"
            ));
        }
        let first = chosen.insert(&**id);
        if choice.trim().len() < WORDS || !first {
            problems.push(format!("{id}: no choice, or a second one"));
        }
    }
    for enforced in &notes.enforced {
        for path in enforced.at.iter().filter(|path| !exists(path)) {
            problems.push(format!(
                "{path}, where something is enforced, does not exist"
            ));
        }
        for layer in &enforced.layers {
            if !all.iter().any(|it| it.layer == *layer) {
                problems.push(format!("no requirement is of the layer {layer}"));
            }
        }
        for id in &enforced.ids {
            if !all.iter().any(|it| covers(id, &it.id)) {
                problems.push(format!("no requirement begins with {id}"));
            }
        }
    }
    for it in all.iter().filter(|it| it.is_core()) {
        let id = &*it.id;
        if it.is_optional() {
            if !chosen.contains(id) {
                problems.push(format!("{id} is a MAY, and nothing says what was chosen"));
            }
            continue;
        }
        if noted.contains(id) {
            continue;
        }
        if !cited.contains(id) {
            problems.push(format!("no test cites {id} ({}): {}", it.level, it.text));
        }
        if places(notes, it).is_empty() {
            problems.push(format!("nothing says where {id} is enforced"));
        }
    }
    problems
}

/// Whether `prefix` is this id or its section.
fn covers(prefix: &str, id: &str) -> bool {
    id.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// Where a requirement is enforced: by its id, else its section, else its layer.
fn places<'a>(notes: &'a Notes, requirement: &Requirement) -> &'a [String] {
    let of_id = notes.enforced.iter().flat_map(|enforced| {
        let matching = enforced.ids.iter().filter(|id| covers(id, &requirement.id));
        matching.map(move |id| (id.len(), enforced))
    });
    let mut of_layer = notes.enforced.iter().filter(|enforced| {
        let mut layers = enforced.layers.iter();
        layers.any(|layer| *layer == requirement.layer)
    });
    let best = of_id.max_by_key(|(length, _)| *length);
    let best = best.map(|(_, enforced)| enforced);
    best.or_else(|| of_layer.next())
        .map_or(&[], |enforced| &enforced.at)
}

/// `docs/conformance.md`.
pub(crate) fn render(requirements: &Requirements, notes: &Notes, citations: &[Citation]) -> String {
    let mut tests: BTreeMap<&str, BTreeSet<(&str, &str)>> = BTreeMap::new();
    for citation in citations {
        let test = citation.test.as_deref().unwrap_or_default();
        let of_id = tests.entry(&citation.id).or_default();
        of_id.insert((&citation.file, test));
    }
    let reasons: BTreeMap<&str, &str> = notes
        .not_done
        .iter()
        .map(|it| (&*it.id, &*it.reason))
        .collect();
    let choices: BTreeMap<&str, &str> = notes
        .choice
        .iter()
        .map(|it| (&*it.id, &*it.choice))
        .collect();
    let status = |it: &Requirement| {
        let choice = choices.get(&*it.id).copied();
        match (
            it.is_core(),
            reasons.get(&*it.id),
            tests.contains_key(&*it.id),
        ) {
            (false, ..) => ("not done yet", None),
            (true, Some(reason), _) => ("not done", Some(*reason)),
            (true, None, true) => ("proven", choice),
            (true, None, false) if it.is_optional() => ("chosen", choice),
            (true, None, false) => ("open", choice),
        }
    };

    let all = &requirements.requirement;
    let mut out = String::from(HEAD);
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for it in all {
        let row = if it.is_core() { &*it.level } else { &*it.scope };
        *counts.entry((row, status(it).0)).or_default() += 1;
    }
    out.push_str("| | proven | chosen | not done | not done yet |\n|---|---|---|---|---|\n");
    let rows = [
        "MUST",
        "SHOULD",
        "MAY",
        "extension",
        "connect-udp",
        "http1",
        "relay",
    ];
    for row in rows {
        let count = |status| counts.get(&(row, status)).copied().unwrap_or(0);
        let [proven, chosen] = [count("proven"), count("chosen")];
        let [never, later] = [count("not done"), count("not done yet")];
        line(
            &mut out,
            format_args!("| {row} | {proven} | {chosen} | {never} | {later} |"),
        );
    }

    let mut layers: Vec<&str> = Vec::new();
    for it in all.iter().filter(|it| it.is_core()) {
        if !layers.contains(&&*it.layer) {
            layers.push(&it.layer);
        }
    }
    for layer in layers {
        line(&mut out, format_args!("\n## {layer}\n"));
        out.push_str("| id | level | what it says | enforced in | proven by | status |\n");
        out.push_str("|---|---|---|---|---|---|\n");
        for it in all.iter().filter(|it| it.is_core() && it.layer == layer) {
            let (word, words) = status(it);
            let words = words.map(|words| format!("{word}: {words}"));
            let done = word != "not done";
            let enforced = places(notes, it).iter().filter(|_| done);
            let enforced: Vec<_> = enforced.map(|path| format!("`{path}`")).collect();
            line(
                &mut out,
                format_args!(
                    "| {} | {} | {} | {} | {} | {} |",
                    it.id,
                    it.level,
                    cell(&it.text),
                    enforced.join(", "),
                    proofs(tests.get(&*it.id)),
                    cell(words.as_deref().unwrap_or(word)),
                ),
            );
        }
    }
    out.push_str("\n## Not done yet\n\n| id | level | scope | what it says |\n|---|---|---|---|\n");
    for it in all.iter().filter(|it| !it.is_core()) {
        let text = cell(&it.text);
        line(
            &mut out,
            format_args!("| {} | {} | {} | {text} |", it.id, it.level, it.scope),
        );
    }
    out
}

/// Functions, file by file.
fn proofs(tests: Option<&BTreeSet<(&str, &str)>>) -> String {
    let mut files: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (file, test) in tests.into_iter().flatten() {
        files.entry(file).or_default().push(test);
    }
    let of_file = |(file, tests): (&str, Vec<&str>)| {
        let short = Path::new(file).with_extension("");
        let tests: Vec<_> = tests.iter().map(|test| format!("`{test}`")).collect();
        format!("{}: {}", short.display(), tests.join(", "))
    };
    let all: Vec<_> = files.into_iter().map(of_file).collect();
    all.join("; ")
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = out.write_fmt(text);
    out.push('\n');
}

const HEAD: &str = "# Conformance

Every requirement of `testdata/requirements.toml`, in our words: where it is enforced, and which tests fail when it
is broken. A test proves a requirement by naming its id in a comment beside the assertion.

This file is written by a test, which also fails while a MUST or SHOULD is cited by no test, an id does not exist, or
something is left out without a reason (`testdata/conformance.toml`). To write it anew:

```sh
MASQUE_BLESS=1 cargo test -p masque-testkit --test conformance
```

";
