//! Curves over time, as one HTML file that needs nothing else.

use std::fmt::Write as _;

use super::record::Results;
use super::report;
use crate::probe::SLOT;
use crate::report::svg::{colour, escape, open};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:920px;margin:2em auto;padding:0 1em;color:#222}\
                     svg{width:100%;font:12px system-ui,sans-serif;margin:.6em 0}pre{overflow-x:auto;font-size:12px}\
                     @media(prefers-color-scheme:dark){body{background:#fff}}";
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 170.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 24.0;

/// What is drawn of each test, with its unit.
const CURVES: [(&str, &str); 4] = [
    ("mbit", "Mbit/s"),
    ("rival_mbit", "Mbit/s of the flow outside"),
    ("voice_up_ms", "delay up, ms"),
    ("voice_down_ms", "delay down, ms"),
];

/// Tables and curves.
#[must_use]
pub fn html(results: &Results) -> String {
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>masque-bench --profiles</title>\
         <style>{STYLE}</style><h1>Bad networks</h1>\n<ul>"
    );
    for line in report::setting(results) {
        let _ = write!(page, "<li>{}", escape(&line));
    }
    let _ = writeln!(
        page,
        "</ul><h2>Tables</h2><pre>{}</pre>",
        escape(&report::markdown(results))
    );
    for profile in &results.profiles {
        let _ = write!(page, "<h2>{}</h2>", escape(profile));
        for test in &results.tests {
            for (name, unit) in CURVES {
                let title = format!("{profile}, {test}: {unit}");
                page.push_str(&curves(results, profile, test, name, &title));
            }
        }
    }
    page + "</html>\n"
}

/// One curve for each repetition of each subject; those of a subject have one colour, and the first is the
/// boldest.
fn curves(results: &Results, profile: &str, test: &str, name: &str, title: &str) -> String {
    let all: Vec<_> = results
        .subjects
        .iter()
        .enumerate()
        .flat_map(|(nth, (subject, _))| {
            let records = results.of(profile, test, subject);
            let series = records.filter_map(|record| record.series.get(name));
            series.map(move |series| (nth, series))
        })
        .collect();
    let points = || all.iter().flat_map(|(_, series)| series.iter().flatten());
    let Some(most) = points().copied().reduce(f64::max) else {
        return String::new();
    };
    // One outlier must not flatten everything else.
    let mut sorted: Vec<f64> = points().copied().collect();
    sorted.sort_by(f64::total_cmp);
    let usual = sorted[(sorted.len() - 1) * 995 / 1000] * 1.2;
    let most = most.min(usual).max(1e-3);
    let longest = all
        .iter()
        .map(|(_, series)| series.len())
        .max()
        .unwrap_or(1)
        .max(1);
    let x = |slot: usize| LEFT + slot as f64 / longest as f64 * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| TOP + (1.0 - (value / most).min(1.0)) * (HEIGHT - TOP - BOTTOM);
    let mut svg = open(title, HEIGHT);
    for quarter in 0..=4 {
        let value = most * f64::from(quarter) / 4.0;
        let _ = write!(
            svg,
            "<path d=\"M{LEFT} {0:.1}H{1:.1}\" stroke=\"#ddd\"/><text x=\"{2:.1}\" y=\"{3:.1}\" \
             text-anchor=\"end\">{value:.1}</text>",
            y(value),
            WIDTH - RIGHT,
            LEFT - 4.0,
            y(value) + 4.0,
        );
    }
    let second = (1.0 / SLOT.as_secs_f64()).round() as usize;
    let every = (longest / second / 8).max(1) * second;
    for slot in (0..=longest).step_by(every) {
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{} s</text>",
            x(slot),
            HEIGHT - 8.0,
            slot / second,
        );
    }
    let mut labelled = Vec::new();
    for (nth, series) in &all {
        let first = !labelled.contains(nth);
        let mut path = String::new();
        let mut pen_down = false;
        for (slot, value) in series.iter().enumerate() {
            let Some(value) = value else {
                pen_down = false;
                continue;
            };
            let letter = if pen_down { 'L' } else { 'M' };
            let _ = write!(path, "{letter}{:.1} {:.1}", x(slot), y(*value));
            pen_down = true;
        }
        let _ = write!(
            svg,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.3\" opacity=\"{}\"/>",
            colour(*nth),
            if first { 1.0 } else { 0.35 },
        );
        if first {
            let _ = write!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{}\">{}</text>",
                WIDTH - RIGHT + 10.0,
                TOP + 12.0 + labelled.len() as f64 * 16.0,
                colour(*nth),
                escape(&results.subjects[*nth].0),
            );
            labelled.push(*nth);
        }
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::record::Record;
    use super::*;

    #[test]
    fn a_curve_breaks_where_nothing_arrived_and_nothing_is_loaded_from_elsewhere() {
        let series = vec![Some(1.0), Some(2.0), None, Some(3.0)];
        let record = Record {
            profile: "wifi".to_owned(),
            subject: "<us>".to_owned(),
            test: "1_up".to_owned(),
            series: BTreeMap::from([("mbit".to_owned(), series)]),
            ..Record::default()
        };
        let results = Results {
            profiles: vec!["wifi".to_owned()],
            tests: vec!["1_up".to_owned()],
            subjects: vec![("<us>".to_owned(), String::new())],
            records: vec![record],
            ..Results::default()
        };
        let page = html(&results);
        let path = page.split("fill=\"none\"").next().expect("a curve");
        let path = path.rsplit("<path d=").next().expect("a path");
        assert_eq!(path.matches('M').count(), 2, "{path}");
        assert!(page.contains("&lt;us&gt;"));
        for outside in ["http:", "https:", "<script", "src="] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
