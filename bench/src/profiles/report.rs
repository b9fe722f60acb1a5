//! Tables.

use std::fmt::Write as _;

use super::goals;
use super::record::{Cell, Results};
use crate::samples::Summary;

/// No tunnel.
pub(super) const RAW: &str = "raw";
/// What ours are held against besides.
pub(super) const PEER: &str = "wireguard-go";

/// The tables as Markdown.
#[must_use]
pub fn markdown(results: &Results) -> String {
    let mut text = String::new();
    goals::table(results, &mut text);
    goodput(results, &mut text);
    voice(results, &mut text);
    loaded(results, &mut text);
    rivals(results, &mut text);
    handovers(results, &mut text);
    text.push_str("### How it was measured\n\n");
    for line in setting(results) {
        let _ = writeln!(text, "- {line}");
    }
    text.push('\n');
    text
}

/// What was measured, how, and what not.
pub(super) fn setting(results: &Results) -> Vec<String> {
    let machine = &results.machine;
    let mut lines = vec![format!(
        "{} × {}, Linux {}; masque-bench {}; {} s per test, {} seeds, up to {} labs at a time; medians, with \
         the range in brackets; shares are taken within a seed",
        machine.processors,
        machine.processor,
        machine.kernel,
        machine.version,
        results.secs,
        results.repetitions,
        results.jobs,
    )];
    for (name, note) in &results.subjects {
        let mtu = results
            .records
            .iter()
            .filter(|record| record.subject == *name);
        let mut mtu: Vec<f64> = mtu
            .filter_map(|record| record.values.get("inner_mtu_bytes").copied())
            .collect();
        mtu.sort_by(f64::total_cmp);
        let mtu = match (mtu.first(), mtu.last()) {
            (Some(least), Some(most)) if least == most => format!("; inner MTU {least}"),
            (Some(least), Some(most)) => format!("; inner MTU {least} to {most}"),
            _ => String::new(),
        };
        lines.push(format!("{name}: {note}{mtu}"));
    }
    let counted = results
        .records
        .iter()
        .filter(|record| record.error.is_none());
    let late = Summary::of(counted.map(|record| record.element.late_p99_us).collect());
    if let Some(late) = late {
        lines.push(format!(
            "packets left the bad network late by {:.0} µs (99th percentile; median of all tests; at worst {:.0} µs)",
            late.median, late.most
        ));
    }
    let disturbed = results.disturbed().count();
    if disturbed > 0 {
        lines.push(format!(
            "{disturbed} of {} tests do not count: the bad network itself was late",
            results.records.len()
        ));
    }
    for record in results.records.iter() {
        if let Some(error) = &record.error {
            let error = error.lines().next().unwrap_or_default();
            lines.push(format!(
                "failed: {} {} {}, seed {}: {error}",
                record.profile, record.subject, record.test, record.seed
            ));
        }
    }
    for (name, why) in &results.skipped {
        lines.push(format!("skipped: {name}: {why}"));
    }
    lines
}

fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn ranged(summary: Option<Summary>) -> String {
    match summary {
        None => "–".to_owned(),
        Some(one) if one.count == 1 => number(one.median),
        Some(all) => format!(
            "{} ({}–{})",
            number(all.median),
            number(all.least),
            number(all.most)
        ),
    }
}

/// Writes a table whose rows are tests on profiles, if anything is in it.
fn table(
    title: &str,
    results: &Results,
    subjects: &[&str],
    shown: impl Fn(&str) -> bool,
    cell: impl Fn(&str, &str, &str) -> Option<String>,
    text: &mut String,
) {
    let mut rows = String::new();
    for profile in &results.profiles {
        for test in results.tests.iter().filter(|test| shown(test)) {
            let cells: Vec<_> = subjects
                .iter()
                .map(|subject| cell(profile, test, subject))
                .collect();
            if cells.iter().all(Option::is_none) {
                continue;
            }
            let _ = write!(rows, "| {profile} | {test} |");
            for cell in cells {
                let _ = write!(rows, " {} |", cell.unwrap_or_else(|| "–".to_owned()));
            }
            rows.push('\n');
        }
    }
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(
        text,
        "### {title}\n\n| path | test | {} |",
        subjects.join(" | ")
    );
    let _ = writeln!(text, "|---|---|{}", "---|".repeat(subjects.len()));
    let _ = writeln!(text, "{rows}");
}

fn names(results: &Results) -> Vec<&str> {
    results
        .subjects
        .iter()
        .map(|(name, _)| name.as_str())
        .collect()
}

pub(super) fn is_bulk(test: &str) -> bool {
    test.starts_with(|first: char| first.is_ascii_digit())
}

pub(super) fn is_down(test: &str) -> bool {
    test.split('_').any(|part| part == "down")
}

fn goodput(results: &Results, text: &mut String) {
    let shares = |reference: &'static str, subjects: &[&str], title: &str, text: &mut String| {
        let cell = |profile: &str, test: &str, subject: &str| {
            let cell = Cell {
                profile,
                test,
                value: "mbit",
            };
            let all = match subject == reference {
                true => results.summary(cell, subject),
                false => results.share(cell, subject, reference),
            };
            all.map(|all| ranged(Some(all)))
        };
        table(title, results, subjects, is_bulk, cell, text);
    };
    let all = names(results);
    if all.contains(&RAW) {
        let title = "Goodput: Mbit/s of raw, shares of it of the others, slow start included";
        shares(RAW, &all, title, text);
    }
    if all.contains(&PEER) {
        let ours = results.ours.iter().map(String::as_str);
        let subjects: Vec<_> = [PEER].into_iter().chain(ours).collect();
        let title = "Goodput: Mbit/s of wireguard-go, shares of it of ours";
        shares(PEER, &subjects, title, text);
    }
}

fn voice(results: &Results, text: &mut String) {
    let cell = |profile: &str, test: &str, subject: &str| {
        let ways: &[&str] = match (is_bulk(test), is_down(test)) {
            (true, true) => &["down"],
            (true, false) => &["up"],
            (false, _) => &["up", "down"],
        };
        let of = |way: &&str| {
            let median = |value: &str| {
                let value = format!("voice_{way}_{value}");
                let cell = Cell {
                    profile,
                    test,
                    value: &value,
                };
                results.summary(cell, subject).map(|all| all.median)
            };
            Some(format!(
                "{:.0}/{:.0}/{:.0} {:.1} %",
                median("p50_ms")?,
                median("p99_ms")?,
                median("p999_ms")?,
                median("lost")? * 100.0
            ))
        };
        let cells: Option<Vec<_>> = ways.iter().map(of).collect();
        cells.map(|cells| cells.join(" · "))
    };
    table(
        "A call: one-way delay p50/p99/p99.9 in ms and loss, in the direction of the bulk flows beside it; alone, up · down",
        results,
        &names(results),
        |test| test == "voice" || is_bulk(test),
        cell,
        text,
    );
}

fn loaded(results: &Results, text: &mut String) {
    let cell = |profile: &str, test: &str, subject: &str| {
        let of = |value| {
            let cell = Cell {
                profile,
                test,
                value,
            };
            Some(results.summary(cell, subject)?.median)
        };
        let (p50, p99) = (of("loaded_rtt_p50_ms")?, of("loaded_rtt_p99_ms")?);
        Some(format!("{p50:.0}/{p99:.0}"))
    };
    let title = "Latency under load: round trip p50/p99 in ms";
    table(title, results, &names(results), is_bulk, cell, text);
}

fn rivals(results: &Results, text: &mut String) {
    let cell = |profile: &str, test: &str, subject: &str| {
        let of = |value| {
            let cell = Cell {
                profile,
                test,
                value,
            };
            results.summary(cell, subject)
        };
        let (ours, theirs) = (of("ours_mbit")?, of("theirs_mbit")?);
        Some(format!(
            "{:.1} : {:.1}, keeps {}",
            ours.median,
            theirs.median,
            ranged(of("rival_keeps"))
        ))
    };
    table(
        "Beside a flow outside the tunnel: inside : outside in Mbit/s over the second half, and what the outside one keeps of its half",
        results,
        &names(results),
        |test| test.starts_with("rival"),
        cell,
        text,
    );
}

fn handovers(results: &Results, text: &mut String) {
    let cell = |profile: &str, test: &str, subject: &str| {
        let of = |value: &str| {
            let cell = Cell {
                profile,
                test,
                value,
            };
            results.summary(cell, subject).map(|all| all.median)
        };
        let both = |name: &str, unit: &str| {
            let of = |way: &str| {
                of(&format!("{name}_{way}{unit}"))
                    .map_or("–".to_owned(), |value| format!("{value:.0}"))
            };
            format!("{}/{}", of("up"), of("down"))
        };
        of("lost_up")?;
        Some(format!(
            "{}, {} lost, silent {}",
            both("first", "_ms"),
            both("lost", ""),
            both("silence", "_ms")
        ))
    };
    table(
        "Handover, up/down: ms from the new address to the first packet, packets of 100 per second lost (0.5 s before to 4 s after, gap included), longest silence in ms",
        results,
        &names(results),
        |test| test.starts_with("handover"),
        cell,
        text,
    );
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::record::Record;
    use super::*;

    #[test]
    fn tables_hold_shares_of_raw_and_of_the_peer_and_say_what_failed() {
        let record = |subject: &str, mbit: f64| Record {
            profile: "lte".to_owned(),
            subject: subject.to_owned(),
            test: "16_up".to_owned(),
            repetition: 1,
            values: BTreeMap::from([("mbit".to_owned(), mbit)]),
            ..Record::default()
        };
        let mut failed = record("ours", 1.0);
        failed.test = "handover_1".to_owned();
        failed.error = Some("it broke\nat length".to_owned());
        let results = Results {
            profiles: vec!["lte".to_owned()],
            tests: vec!["16_up".to_owned(), "handover_1".to_owned()],
            subjects: [RAW, "ours", PEER]
                .map(|name| (name.to_owned(), String::new()))
                .to_vec(),
            ours: vec!["ours".to_owned()],
            records: vec![
                record(RAW, 20.0),
                record("ours", 18.0),
                record(PEER, 19.0),
                failed,
            ],
            ..Results::default()
        };
        let text = markdown(&results);
        for expected in [
            "| lte | 16_up | 20.0 | 0.90 | 0.95 |",
            "| lte | 16_up | 19.0 | 0.95 |",
            "failed: lte ours handover_1, seed 0: it broke\n",
        ] {
            assert!(text.contains(expected), "{text}");
        }
        assert!(!text.contains("### Handover"));
    }
}
