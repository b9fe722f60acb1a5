//! Tables and plots of a run.

pub mod goals;
mod html;
mod svg;

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

/// The whole report as Markdown. Ratios are taken against `yardsticks`.
#[must_use]
pub fn markdown(results: &Results, yardsticks: &[String]) -> String {
    let mut text = String::new();
    for table in &TABLES {
        rows(results, table, &mut text);
    }
    for yardstick in yardsticks {
        ratios(results, yardstick, &mut text);
    }
    judged(results, &mut text);
    let _ = writeln!(text, "### How it was measured\n\n{}\n", setting(results));
    for (name, note) in &results.subjects {
        let _ = writeln!(text, "- {name}: {note}");
    }
    for (name, why) in &results.skipped {
        let _ = writeln!(text, "- {name}: not measured, {why}");
    }
    for (what, error) in errors(results) {
        let _ = writeln!(text, "- {what} failed: {error}");
    }
    text
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
        match results.wire {
            crate::lab::Wire::Gso => "gso",
            crate::lab::Wire::Segmented => "segmented",
        },
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

fn judged(results: &Results, text: &mut String) {
    let judged = goals::judge(results);
    if judged.is_empty() {
        return;
    }
    text.push_str(
        "### Against the goals\n\n| | | value | must | aim | |\n|---|---|---:|---:|---:|---|\n",
    );
    for line in judged {
        let _ = writeln!(
            text,
            "| {} | {} | {:.2} | {} | {} | {} |",
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
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        let said: Vec<String> = [0.0123, 1.234, 12.34, 123.4, 9999.4, 12_345.0]
            .into_iter()
            .map(number)
            .collect();
        assert_eq!(said, ["0.012", "1.23", "12.3", "123", "9999", "12k"]);
    }
}
