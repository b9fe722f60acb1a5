//! The pipeline counted in instructions, by callgrind: what a noisy machine cannot blur.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What cannot be counted.
#[derive(Debug, thiserror::Error)]
pub enum CountError {
    /// No valgrind, or no `pipeline` beside this program.
    #[error("{0}")]
    Missing(String),
    /// The run failed.
    #[error("{0}")]
    Failed(String),
    /// A file.
    #[error("{0}: {1}")]
    File(PathBuf, std::io::Error),
}

/// Where instructions went.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// Packets that passed while instructions were counted.
    pub packets: u64,
    /// All instructions.
    pub total: u64,
    /// By function: its own, without what it called.
    pub functions: BTreeMap<String, u64>,
    /// What the functions of the C library cost, by who called them.
    pub library: BTreeMap<(String, String), u64>,
}

/// Functions whose caller is the one to know.
const LIBRARY: [&str; 9] = [
    "memcpy", "memmove", "memset", "memcmp", "malloc", "calloc", "realloc", "free", "bcmp",
];

/// The part that is the core's own.
const OURS: &str = "masque-core";

/// Only what happens inside is counted.
const MEASURED: &str = "*pipeline::Pipeline::run*";

impl Profile {
    /// Runs `pipeline` with `arguments` under callgrind.
    ///
    /// # Errors
    /// [`CountError`].
    pub fn measure(
        pipeline: &Path,
        packets: u64,
        arguments: &[&str],
        folder: &Path,
    ) -> Result<Self, CountError> {
        let out = folder.join("callgrind.out");
        let run = Command::new("valgrind")
            .args(["--tool=callgrind", "--collect-atstart=no"])
            .arg(format!("--toggle-collect={MEASURED}"))
            .arg(format!("--callgrind-out-file={}", out.display()))
            .arg(pipeline)
            .args(["--packets", &packets.to_string()])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| CountError::Missing(format!("valgrind: {error}")))?;
        let said = String::from_utf8_lossy(&run.stdout);
        if !run.status.success() {
            let why = String::from_utf8_lossy(&run.stderr);
            return Err(CountError::Failed(format!("pipeline: {why}")));
        }
        let passed = said
            .split_whitespace()
            .nth(1)
            .and_then(|word| word.parse().ok())
            .ok_or_else(|| CountError::Failed(format!("pipeline said {said:?}")))?;
        let text =
            std::fs::read_to_string(&out).map_err(|error| CountError::File(out.clone(), error))?;
        let mut profile = Self::parse(&text);
        profile.packets = passed;
        if profile.total == 0 {
            return Err(CountError::Failed(
                "nothing was counted: is the program stripped?".to_owned(),
            ));
        }
        Ok(profile)
    }

    /// Reads callgrind's format: costs follow the `fn=` they belong to; the line behind `calls=` is what
    /// a call cost.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut profile = Self::default();
        let mut names: BTreeMap<String, String> = BTreeMap::new();
        let (mut function, mut callee) = (String::new(), String::new());
        let mut of_call = false;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("fn=") {
                function = expand(name, &mut names);
            } else if let Some(name) = line.strip_prefix("cfn=") {
                callee = expand(name, &mut names);
            } else if line.starts_with("calls=") {
                of_call = true;
            } else if line.starts_with(|c: char| c.is_ascii_digit() || "+-*".contains(c)) {
                let cost = line
                    .split_whitespace()
                    .nth(1)
                    .and_then(|cost| cost.parse::<u64>().ok())
                    .unwrap_or(0);
                if std::mem::take(&mut of_call) {
                    let name = plain(&callee);
                    if LIBRARY.contains(&name) && !LIBRARY.contains(&plain(&function)) {
                        let key = (name.to_owned(), function.clone());
                        *profile.library.entry(key).or_default() += cost;
                    }
                } else {
                    profile.total += cost;
                    *profile.functions.entry(function.clone()).or_default() += cost;
                }
            }
        }
        profile
    }

    /// Instructions per packet.
    #[must_use]
    pub fn per_packet(&self) -> f64 {
        self.total as f64 / self.packets.max(1) as f64
    }

    /// By part of the program, most first.
    #[must_use]
    pub fn parts(&self) -> Vec<(&'static str, f64)> {
        let mut parts: BTreeMap<&'static str, u64> = BTreeMap::new();
        for (function, cost) in &self.functions {
            *parts.entry(part(function)).or_default() += cost;
        }
        self.sorted(parts)
    }

    /// The `most` functions that cost most, most first.
    #[must_use]
    pub fn top(&self, most: usize) -> Vec<(&str, f64)> {
        let functions = self
            .functions
            .iter()
            .map(|(name, cost)| (name.as_str(), *cost));
        let mut list = self.sorted(functions);
        list.truncate(most);
        list
    }

    fn sorted<K>(&self, costs: impl IntoIterator<Item = (K, u64)>) -> Vec<(K, f64)> {
        let each = self.packets.max(1) as f64;
        let mut list: Vec<_> = costs
            .into_iter()
            .map(|(name, cost)| (name, cost as f64 / each))
            .collect();
        list.sort_by(|one, other| other.1.total_cmp(&one.1));
        list
    }

    /// The account as Markdown: parts, functions, and the library's callers.
    #[must_use]
    pub fn markdown(&self, most: usize) -> String {
        let mut text = String::new();
        let all = self.per_packet();
        let mut table = |head: &str, rows: Vec<(String, f64)>| {
            let _ = writeln!(
                text,
                "\n| {head} | instructions per packet | share |\n|---|---:|---:|"
            );
            for (name, cost) in rows {
                let _ = writeln!(text, "| {name} | {cost:.0} | {:.1} % |", cost / all * 100.0);
            }
        };
        let own = |(name, cost): (&str, f64)| (name.to_owned(), cost);
        table("part", self.parts().into_iter().map(own).collect());
        let code = |(name, cost): (&str, f64)| (format!("`{}`", short(name)), cost);
        table("function", self.top(most).into_iter().map(code).collect());
        let ours = self.top(usize::MAX).into_iter();
        let ours = ours.filter(|(name, cost)| part(name) == OURS && *cost >= 1.0);
        table(
            "function of masque-core",
            ours.take(most).map(code).collect(),
        );
        let library = self.library.iter().map(|(key, cost)| (key, *cost));
        let rows = self
            .sorted(library)
            .into_iter()
            .map(|((name, by), cost)| (format!("`{name}` called by `{}`", short(by)), cost))
            .filter(|(_, cost)| *cost >= 1.0)
            .take(most)
            .collect();
        table("C library, by caller", rows);
        text
    }
}

/// `(3) name` defines 3, `(3)` means it.
fn expand(text: &str, names: &mut BTreeMap<String, String>) -> String {
    match text.split_once(' ') {
        Some((number, name)) if number.starts_with('(') => {
            // A recursive function appears once per depth.
            let name = name.split('\'').next().unwrap_or(name).to_owned();
            names.insert(number.to_owned(), name.clone());
            name
        }
        _ => names.get(text).cloned().unwrap_or_else(|| text.to_owned()),
    }
}

/// `__memcpy_avx_unaligned_erms` is memcpy to everybody.
fn plain(function: &str) -> &str {
    let name = function.trim_start_matches('_');
    let name = name.strip_prefix("libc_").unwrap_or(name);
    LIBRARY
        .into_iter()
        .find(|library| {
            name.strip_prefix(library)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['_', '@']))
        })
        .unwrap_or(function)
}

fn part(function: &str) -> &'static str {
    let name = function.trim_start_matches('<');
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    if starts(&["masque_core"]) {
        OURS
    } else if starts(&["quinn_proto", "&mut quinn_proto"]) {
        "quinn-proto"
    } else if name.contains("aws_lc") || name.contains("aesni") || name.contains("gcm") {
        "AEAD and header protection"
    } else if starts(&["rustls"]) {
        "rustls"
    } else if starts(&["bytes", "&bytes"]) {
        "bytes"
    } else if starts(&["masque_bench"]) {
        "the bench itself"
    } else if starts(&["mem", "__mem", "bcmp"]) {
        "memcpy and the like"
    } else if starts(&[
        "malloc",
        "free",
        "calloc",
        "realloc",
        "_int_",
        "unlink_chunk",
        "__rust",
        "__rdl",
        "tcache",
    ]) {
        "malloc and free"
    } else {
        "other (core, alloc, std, libc)"
    }
}

fn short(function: &str) -> String {
    let text = function.replace("aws_lc_0_47_0_", "").replace('|', "\\|");
    match text.char_indices().nth(90) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUT: &str = "fn=(1) masque_core::a\n10 100\nfi=(2) x.rs\n+3 50\nfe=(1)\ncfn=(2) __memcpy_avx_unaligned\n\
                       calls=5 0\n12 40\n* 7\nfn=(2)\n1 40\n\nfn=(3) quinn_proto::b'2\n-1 3\n";

    #[test]
    fn costs_belong_to_functions_and_library_calls_to_their_callers() {
        let profile = Profile::parse(OUT);
        assert_eq!(profile.total, 200);
        assert_eq!(profile.functions["masque_core::a"], 157);
        assert_eq!(profile.functions["quinn_proto::b"], 3);
        let key = ("memcpy".to_owned(), "masque_core::a".to_owned());
        assert_eq!(profile.library[&key], 40);
        let parts = profile.parts();
        assert_eq!(parts[0], ("masque-core", 157.0));
    }
}
