//! Tables and plots of a run.

pub mod goals;
mod html;
pub(crate) mod svg;

pub use html::html;

use std::fmt::Write as _;

use crate::samples::{Results, Summary};

/// A table: what it shows of which test.
pub(crate) struct Table {
    pub(crate) title: &'static str,
    /// Test, value, head.
    pub(crate) columns: &'static [(&'static str, &'static str, &'static str)],
    /// Whether more is better, for ratios and plots.
    pub(crate) more: bool,
}

/// A run, and what it is called where there are several.
#[derive(Clone, Debug)]
pub struct Run {
    /// What the JSON file is called, for instance.
    pub name: String,
    /// What was measured.
    pub results: Results,
}

/// Everything that is shown, in order.
pub(crate) const TABLES: [Table; 9] = [
    Table {
        title: "TCP throughput, Gbit/s",
        columns: &[
            ("tcp_1_up", "gbit_per_s", "1 up"),
            ("tcp_1_down", "gbit_per_s", "1 down"),
            ("tcp_4_up", "gbit_per_s", "4 up"),
            ("tcp_4_down", "gbit_per_s", "4 down"),
        ],
        more: true,
    },
    Table {
        title: "CPU seconds per GB, whole machine",
        columns: &[
            ("tcp_1_up", "cpu_machine_s_per_gb", "1 up"),
            ("tcp_1_down", "cpu_machine_s_per_gb", "1 down"),
            ("tcp_4_up", "cpu_machine_s_per_gb", "4 up"),
            ("tcp_4_down", "cpu_machine_s_per_gb", "4 down"),
        ],
        more: false,
    },
    Table {
        title: "CPU seconds per GB, tunnel processes, one stream up",
        columns: &[
            ("tcp_1_up", "cpu_client_s_per_gb", "client (sends)"),
            ("tcp_1_up", "cpu_server_s_per_gb", "server (receives)"),
        ],
        more: false,
    },
    Table {
        title: "UDP packets per second at a loss of at most 0.1 %",
        columns: &[
            ("pps_64", "lossless_pps", "64 bytes"),
            ("pps_1200", "lossless_pps", "1200 bytes"),
        ],
        more: true,
    },
    Table {
        title: "Two clients at once, a TCP stream each: together, Gbit/s",
        columns: &[
            ("clients_2_up", "gbit_per_s", "up"),
            ("clients_2_down", "gbit_per_s", "down"),
        ],
        more: true,
    },
    Table {
        title: "Round trip, idle, ms",
        columns: &[("ping", "rtt_p50_ms", "p50"), ("ping", "rtt_p99_ms", "p99")],
        more: false,
    },
    Table {
        title: "Round trip while one stream uploads, ms",
        columns: &[
            ("tcp_1_up", "loaded_rtt_p50_ms", "p50"),
            ("tcp_1_up", "loaded_rtt_p99_ms", "p99"),
        ],
        more: false,
    },
    Table {
        title: "Resident memory after load, MB",
        columns: &[
            ("memory", "rss_client_mb", "client"),
            ("memory", "rss_server_mb", "server"),
        ],
        more: false,
    },
    Table {
        title: "From the client's start to the first ping, ms",
        columns: &[("startup", "startup_ms", "")],
        more: false,
    },
];

/// The whole report of one run or several as Markdown. Numbers of different runs never meet in one table
/// or ratio; only what became of the goals is listed together, in front. Ratios are taken against
/// `yardsticks`.
#[must_use]
pub fn markdown(runs: &[Run], yardsticks: &[String]) -> String {
    let mut text = String::new();
    if runs.len() > 1 {
        text.push_str("## Against the goals\n\n");
        judged(runs, &mut text);
    }
    for run in runs {
        let results = &run.results;
        if runs.len() > 1 {
            let _ = writeln!(text, "## {}: wire {}\n", run.name, results.wire.word());
        }
        for table in &TABLES {
            rows(results, table, &mut text);
        }
        for yardstick in yardsticks {
            ratios(results, yardstick, &mut text);
        }
        if runs.len() == 1 {
            let before = text.len();
            judged(runs, &mut text);
            if text.len() > before {
                text.insert_str(before, "### Against the goals\n\n");
            }
        }
        let _ = writeln!(text, "### How it was measured\n\n{}\n", setting(results));
        for line in measured(results) {
            let _ = writeln!(text, "- {line}");
        }
        text.push('\n');
    }
    text
}

/// What was measured and what not, in a line each.
pub(crate) fn measured(results: &Results) -> Vec<String> {
    let subjects = results.subjects.iter().map(|(name, note)| {
        let cipher = results.ciphers.get(name);
        let cipher = cipher.map_or(String::new(), |cipher| format!("; cipher {cipher}"));
        let mtu = results.inner_mtu(name).map_or(String::new(), |mtu| {
            match (mtu.least as u32, mtu.most as u32) {
                (least, most) if least == most => format!("; inner MTU {least}"),
                (least, most) => format!("; inner MTU {least} to {most}"),
            }
        });
        format!("{name}: {note}{cipher}{mtu}")
    });
    let skipped = results.skipped.iter();
    let skipped = skipped.map(|(name, why)| format!("{name}: not measured, {why}"));
    let failed = errors(results).into_iter();
    let failed = failed.map(|(what, error)| format!("{what} failed: {error}"));
    let missing = goals::unjudged(results);
    let missing = (!missing.is_empty()).then(|| {
        format!(
            "goals that this run says nothing about: {}",
            missing.join("; ")
        )
    });
    subjects
        .chain(skipped)
        .chain(failed)
        .chain(missing)
        .collect()
}

/// Machine and settings in one sentence.
pub(crate) fn setting(results: &Results) -> String {
    let machine = &results.machine;
    format!(
        "{} × {}, Linux {}; {} repetitions, {} s per TCP test, wire {}. Medians, with smallest and largest; ~ marks \
         what was only measured while the machine was not quiet.",
        machine.processors,
        machine.processor,
        machine.kernel,
        results.repetitions,
        results.secs,
        results.wire.word(),
    )
}

/// What failed, and why, in one line each.
pub(crate) fn errors(results: &Results) -> Vec<(String, String)> {
    let failed = results.samples.iter().filter_map(|sample| {
        let error = sample.error.as_ref()?.lines().next().unwrap_or_default();
        let what = format!("{} {} #{}", sample.subject, sample.test, sample.repetition);
        Some((what, error.to_owned()))
    });
    failed.collect()
}

fn rows(results: &Results, table: &Table, text: &mut String) {
    let mut lines = String::new();
    for (name, _) in &results.subjects {
        let cells: Vec<Option<Summary>> = table
            .columns
            .iter()
            .map(|(test, value, _)| results.summary(name, test, value))
            .collect();
        if cells.iter().any(Option::is_some) {
            let cells: Vec<String> = cells.into_iter().map(cell).collect();
            let _ = writeln!(lines, "| {name} | {} |", cells.join(" | "));
        }
    }
    if lines.is_empty() {
        return;
    }
    let heads: Vec<&str> = table.columns.iter().map(|(_, _, head)| *head).collect();
    let _ = writeln!(
        text,
        "### {}\n\n| | {} |\n|---{}|\n{lines}",
        table.title,
        heads.join(" | "),
        "|---:".repeat(heads.len()),
    );
}

/// The columns that are compared with yardsticks.
const COMPARED: [(&str, &str, &str); 9] = [
    ("tcp_1_up", "gbit_per_s", "1 up"),
    ("tcp_1_down", "gbit_per_s", "1 down"),
    ("tcp_4_up", "gbit_per_s", "4 up"),
    ("tcp_4_down", "gbit_per_s", "4 down"),
    ("tcp_1_up", "cpu_machine_s_per_gb", "CPU/GB"),
    ("pps_64", "lossless_pps", "pps 64"),
    ("pps_1200", "lossless_pps", "pps 1200"),
    ("ping", "rtt_p50_ms", "idle p50"),
    ("tcp_1_up", "loaded_rtt_p99_ms", "loaded p99"),
];

fn ratios(results: &Results, yardstick: &str, text: &mut String) {
    let median = |name: &str, test, value| {
        let summary = results.summary(name, test, value)?;
        (summary.median > 0.0).then_some(summary.median)
    };
    let heads: Vec<_> = COMPARED
        .into_iter()
        .filter(|(test, value, _)| median(yardstick, test, value).is_some())
        .collect();
    if heads.is_empty() {
        return;
    }
    let names: Vec<&str> = heads.iter().map(|(_, _, head)| *head).collect();
    let _ = writeln!(
        text,
        "### Ratio to {yardstick}\n\n| | {} |\n|---{}|",
        names.join(" | "),
        "|---:".repeat(names.len())
    );
    for (name, _) in &results.subjects {
        let cells: Vec<String> = heads
            .iter()
            .map(|(test, value, _)| {
                let own = median(name, test, value);
                own.zip(median(yardstick, test, value))
                    .map_or("–".to_owned(), |(own, other)| {
                        format!("{:.2}", own / other)
                    })
            })
            .collect();
        let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
    }
    text.push('\n');
}

fn judged(runs: &[Run], text: &mut String) {
    let lines: Vec<_> = runs
        .iter()
        .flat_map(|run| {
            goals::judge(&run.results)
                .into_iter()
                .map(move |line| (run, line))
        })
        .collect();
    if lines.is_empty() {
        return;
    }
    text.push_str("| wire | | | value | must | aim | |\n|---|---|---|---:|---:|---:|---|\n");
    for (run, line) in lines {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {:.2} | {} | {} | {} |",
            run.results.wire.word(),
            line.subject,
            line.what,
            line.value,
            line.must,
            line.aim,
            line.verdict.word()
        );
    }
    text.push('\n');
}

fn cell(summary: Option<Summary>) -> String {
    let Some(summary) = summary else {
        return "–".to_owned();
    };
    let mark = if summary.noisy { "~" } else { "" };
    match summary.count {
        1 => format!("{mark}{}", number(summary.median)),
        _ => format!(
            "{mark}{} ({}–{})",
            number(summary.median),
            number(summary.least),
            number(summary.most)
        ),
    }
}

/// Three digits that matter.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 10_000.0 => format!("{:.0}k", value / 1000.0),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::lab::Wire;
    use crate::samples::{INNER_MTU, Machine, Sample, TUNNEL};

    #[test]
    fn numbers_keep_three_digits() {
        let said: Vec<String> = [0.0123, 1.234, 12.34, 123.4, 9999.4, 12_345.0]
            .into_iter()
            .map(number)
            .collect();
        assert_eq!(said, ["0.012", "1.23", "12.3", "123", "9999", "12k"]);
    }

    /// A run in which ours and wireguard-go each gave one rate.
    fn run(wire: Wire, ours: f64) -> Run {
        let sample = |subject: &str, test: &str, value: &str, number: f64| Sample {
            subject: subject.to_owned(),
            test: test.to_owned(),
            quiet: true,
            values: BTreeMap::from([(value.to_owned(), number)]),
            ..Sample::default()
        };
        let named = |name: &str| (name.to_owned(), "note".to_owned());
        Run {
            name: format!("run-{}", wire.word()),
            results: Results {
                machine: Machine::default(),
                wire,
                secs: 4.0,
                repetitions: 1,
                subjects: vec![named("masque-mio"), named("wireguard-go")],
                ciphers: BTreeMap::from([("masque-mio".to_owned(), "aes-128-gcm".to_owned())]),
                ours: vec!["masque-mio".to_owned()],
                skipped: Vec::new(),
                samples: vec![
                    sample("masque-mio", "tcp_1_up", "gbit_per_s", ours),
                    sample("wireguard-go", "tcp_1_up", "gbit_per_s", 2.0),
                    sample("masque-mio", TUNNEL, INNER_MTU, 1396.0),
                ],
            },
        }
    }

    #[test]
    fn runs_are_put_together_without_comparing_their_numbers() {
        let runs = [run(Wire::Gso, 3.0), run(Wire::Segmented, 3.0)];
        let text = markdown(&runs, &["wireguard-go".to_owned()]);
        for expected in [
            "| gso | masque-mio | tcp_1_up gbit_per_s / wireguard-go | 1.50 | ≥ 1.6 | ≥ 2 | SHORT |",
            "| segmented | masque-mio | tcp_1_up gbit_per_s / wireguard-go | 1.50 | ≥ 1.4 | ≥ 1.7 | must |",
            "## run-gso: wire gso",
            "## run-segmented: wire segmented",
            "- masque-mio: note; cipher aes-128-gcm; inner MTU 1396",
            "goals that this run says nothing about: tcp_1_up gbit_per_s / quincy (masque-mio)",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
        let page = html(&runs);
        for expected in [
            "run-gso",
            "run-segmented",
            "inner MTU 1396",
            "class=\"must\"",
        ] {
            assert!(page.contains(expected), "{expected}\n{page}");
        }
    }

    #[test]
    fn one_run_has_its_goals_beside_its_tables() {
        let text = markdown(&[run(Wire::Gso, 4.0)], &[]);
        assert!(text.contains("### Against the goals\n\n| wire |"), "{text}");
        assert!(text.contains("wire gso."), "{text}");
        assert!(!text.contains("\n## "), "{text}");
    }
}
