//! The report as one HTML file that needs nothing else.

use std::fmt::Write as _;

use super::svg::{bars, colour, distributions, escape};
use super::{Run, TABLES, goals, measured, setting};
use crate::samples::Results;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:920px;margin:2em auto;padding:0 1em;color:#222}\
                     svg{width:100%;font:12px system-ui,sans-serif;margin:.6em 0}\
                     table{border-collapse:collapse;font-size:13px}td,th{padding:2px 10px;border-bottom:1px solid #ddd;text-align:left}\
                     .aim{background:#d9f2d9}.must{background:#fff4cc}.SHORT{background:#f9d6d5}.apart{color:#777}\
                     @media(prefers-color-scheme:dark){body{background:#fff}}";

/// The whole report of one run or several, one below the other.
#[must_use]
pub fn html(runs: &[Run]) -> String {
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>masque-bench</title><style>{STYLE}</style>\
         <h1>masque-bench</h1>\n"
    );
    for run in runs {
        if runs.len() > 1 {
            let _ = write!(page, "<h1>{}</h1>", escape(&run.name));
        }
        section(&run.results, &mut page);
    }
    page + "</html>\n"
}

fn section(results: &Results, page: &mut String) {
    let _ = writeln!(page, "<p>{}</p>", escape(&setting(results)));
    goals_table(results, page);
    for table in &TABLES {
        let mut plots = String::new();
        for (test, value, head) in table.columns {
            let rows: Vec<_> = results
                .subjects
                .iter()
                .enumerate()
                .filter_map(|(nth, (name, _))| {
                    let summary = results.summary(name, test, value)?;
                    Some((name.as_str(), colour(nth), summary))
                })
                .collect();
            if !rows.is_empty() {
                plots += &bars(head, &rows);
            }
        }
        if !plots.is_empty() {
            let better = if table.more { "more" } else { "less" };
            let _ = write!(
                page,
                "<h2>{}</h2><p>{better} is better</p>{plots}",
                escape(table.title)
            );
        }
    }
    page.push_str("<h2>How round trips are distributed</h2>");
    for (test, title) in [
        ("ping", "idle"),
        ("tcp_1_up", "while one stream uploads"),
        ("tcp_4_up", "while four streams upload"),
        ("tcp_1_down", "while one stream downloads"),
    ] {
        let curves: Vec<_> = results
            .subjects
            .iter()
            .enumerate()
            .map(|(nth, (name, _))| (name.as_str(), colour(nth), results.round_trips(name, test)))
            .filter(|(_, _, values)| !values.is_empty())
            .collect();
        if !curves.is_empty() {
            page.push_str(&distributions(title, &curves));
        }
    }
    page.push_str("<h2>What was measured</h2><ul>");
    for line in measured(results) {
        let _ = write!(page, "<li>{}", escape(&line));
    }
    page.push_str("</ul>\n");
}

fn goals_table(results: &Results, page: &mut String) {
    let judged = goals::judge(results);
    if judged.is_empty() {
        return;
    }
    page.push_str("<h2>Against the goals</h2><table><tr><th><th><th>value<th>must<th>aim<th></tr>");
    for line in judged {
        let word = line.verdict.word();
        let _ = write!(
            page,
            "<tr class=\"{word}\"><td>{}<td>{}<td>{:.2}<td>{}<td>{}<td>{word}</tr>",
            escape(&line.subject),
            escape(&line.what),
            line.value,
            line.must,
            line.aim,
        );
    }
    page.push_str("</table>");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::lab::Wire;
    use crate::samples::{Machine, Sample};

    #[test]
    fn what_was_measured_is_in_the_page_and_nothing_is_loaded_from_elsewhere() {
        let sample = |subject: &str, gbit: f64| Sample {
            subject: subject.to_owned(),
            test: "tcp_1_up".to_owned(),
            quiet: true,
            values: BTreeMap::from([("gbit_per_s".to_owned(), gbit)]),
            round_trips: vec![0.1, 0.2, 3.0],
            ..Sample::default()
        };
        let named = |name: &str| (name.to_owned(), "<note>".to_owned());
        let results = Results {
            machine: Machine::default(),
            wire: Wire::Gso,
            secs: 4.0,
            repetitions: 1,
            subjects: vec![named("masque-mio"), named("wireguard-go")],
            ciphers: BTreeMap::new(),
            ours: vec!["masque-mio".to_owned()],
            skipped: Vec::new(),
            samples: vec![sample("masque-mio", 4.0), sample("wireguard-go", 2.0)],
        };
        let name = "a run".to_owned();
        let page = html(&[Run { name, results }]);
        for expected in ["4.00", "masque-mio", "&lt;note&gt;", "class=\"aim\"", "p99"] {
            assert!(page.contains(expected), "{expected}");
        }
        for outside in ["http:", "https:", "<script", "src="] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
