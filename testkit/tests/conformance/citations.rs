//! Which tests of the workspace cite which requirement.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// An id in a comment of a test.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Citation {
    pub(crate) id: String,
    /// From the root of the workspace, with slashes.
    pub(crate) file: String,
    /// The function, or the table of a test, that the comment stands in or before.
    pub(crate) test: Option<String>,
}

/// The citations in all Rust sources under `root`.
pub(crate) fn collect(root: &Path, documents: &BTreeSet<&str>) -> Vec<Citation> {
    let mut files = Vec::new();
    walk(root, &mut files);
    files.sort();
    let mut all = Vec::new();
    for path in files {
        let file = path.strip_prefix(root).expect("found under it");
        let file = file.to_string_lossy().replace('\\', "/");
        let text = std::fs::read_to_string(&path).expect("a source is UTF-8");
        all.extend(of_source(&file, &text, documents));
    }
    all
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(dir).expect("a directory of the workspace");
    for entry in entries {
        let path = entry.expect("readable").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            // Build products and hidden directories are nobody's tests.
            let others = name == "target" || name.starts_with('.');
            // What is cited here is made up.
            if !others && !path.ends_with("testkit/tests/conformance") {
                walk(&path, files);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The citations of one source: only those in tests count. `documents` are what ids begin with.
pub(crate) fn of_source(file: &str, text: &str, documents: &BTreeSet<&str>) -> Vec<Citation> {
    let lines: Vec<&str> = text.lines().collect();
    let is_test = file.contains("/tests/") || file.ends_with("/tests.rs");
    let begin = match is_test {
        true => 0,
        // A module of tests at the end of a source.
        false => lines
            .windows(2)
            .position(|pair| pair[0] == "#[cfg(test)]" && pair[1].ends_with('{'))
            .unwrap_or(lines.len()),
    };
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate().skip(begin) {
        let Some((_, comment)) = line.split_once("//") else {
            continue;
        };
        for id in ids(comment, documents) {
            found.push(Citation {
                id,
                file: file.to_owned(),
                test: function_of(&lines, at),
            });
        }
    }
    found
}

/// What looks like an id: a known document, a section, and two digits.
fn ids(comment: &str, documents: &BTreeSet<&str>) -> Vec<String> {
    let within = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    comment
        .split(|c| !within(c))
        .map(|word| word.trim_matches(['.', '-']))
        .filter(|word| {
            let parts: Vec<_> = word.split('-').collect();
            matches!(parts[..], [document, section, number]
                if documents.contains(document)
                    && !section.is_empty()
                    && number.len() == 2
                    && number.bytes().all(|b| b.is_ascii_digit()))
        })
        .map(str::to_owned)
        .collect()
}

/// The function or table that line `at` stands in; of a comment before one, that one.
fn function_of(lines: &[&str], at: usize) -> Option<String> {
    let is_comment = lines[at].trim_start().starts_with("//");
    if is_comment {
        let code = lines[at..]
            .iter()
            .map(|line| line.trim_start())
            .find(|line| !(line.is_empty() || line.starts_with("//") || line.starts_with("#[")));
        if let Some(name) = code.and_then(name) {
            return Some(name);
        }
    }
    let depth = indentation(lines[at]);
    lines[..at]
        .iter()
        .rev()
        .filter(|line| indentation(line) < depth)
        .find_map(|line| name(line.trim_start()))
}

fn indentation(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

fn name(code: &str) -> Option<String> {
    let code = code
        .trim_start_matches("pub(crate) ")
        .trim_start_matches("pub ");
    let rest = code
        .strip_prefix("fn ")
        .or_else(|| code.strip_prefix("const "))?;
    let end = rest.find(['(', '<', ':'])?;
    Some(rest[..end].to_owned())
}
