//! Plots without a library: bars with ranges, and distributions.

use std::fmt::Write as _;

use super::number;
use crate::samples::Summary;

const WIDTH: f64 = 860.0;
const LABEL: f64 = 170.0;
const ROW: f64 = 20.0;
/// Room behind the bars for numbers.
const TAIL: f64 = 120.0;
const COLOURS: [&str; 12] = [
    "#1b6ca8", "#d1495b", "#2e933c", "#edae49", "#6a4c93", "#00798c", "#8d6a4f", "#444444",
    "#c0c781", "#f26ca7", "#5f0f40", "#7f7f7f",
];

/// A colour for the `nth` subject.
pub(crate) fn colour(nth: usize) -> &'static str {
    COLOURS[nth % COLOURS.len()]
}

/// What XML does not take as it is.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// One bar: label, colour, what it shows.
pub(super) type Bar<'a> = (&'a str, &'static str, Summary);

/// Bars from zero, one below the other, with a line from the smallest to the largest value.
pub(super) fn bars(title: &str, bars: &[Bar<'_>]) -> String {
    let most = bars.iter().map(|(_, _, summary)| summary.most);
    let scale = (WIDTH - LABEL - TAIL) / most.fold(f64::MIN_POSITIVE, f64::max);
    let height = ROW * (bars.len() as f64 + 1.5);
    let mut svg = open(title, height);
    for (nth, (label, colour, summary)) in bars.iter().enumerate() {
        let top = ROW * (nth as f64 + 1.3);
        let middle = top + ROW * 0.4;
        let x = |value: f64| LABEL + value * scale;
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LABEL}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>\
             <path d=\"M{:.1} {middle:.1}H{:.1}\" stroke=\"#000\" stroke-width=\"1.5\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            LABEL - 8.0,
            middle + 4.0,
            escape(label),
            summary.median * scale,
            ROW * 0.8,
            x(summary.least),
            x(summary.most),
            x(summary.most) + 6.0,
            middle + 4.0,
            number(summary.median),
        );
    }
    svg + "</svg>\n"
}

/// One curve: label, colour, sorted values.
pub(super) type Curve<'a> = (&'a str, &'static str, Vec<f64>);

/// Which share of the values is below a value, on a logarithmic scale.
pub(super) fn distributions(title: &str, curves: &[Curve<'_>]) -> String {
    const HEIGHT: f64 = 300.0;
    const BOTTOM: f64 = 30.0;
    const TOP: f64 = 26.0;
    let values = || {
        curves
            .iter()
            .flat_map(|(_, _, values)| values.iter().copied())
    };
    let least = values().fold(f64::INFINITY, f64::min).max(1e-3);
    let most = values().fold(least * 2.0, f64::max);
    let (from, to) = (least.log10().floor(), most.log10().ceil());
    let x = |value: f64| {
        let share = (value.max(least).log10() - from) / (to - from).max(1.0);
        LABEL / 3.0 + share * (WIDTH - LABEL / 3.0 - LABEL)
    };
    let y = |share: f64| TOP + (1.0 - share) * (HEIGHT - TOP - BOTTOM);
    let mut svg = open(title, HEIGHT);
    for decade in from as i32..=to as i32 {
        let value = 10_f64.powi(decade);
        let _ = write!(
            svg,
            "<path d=\"M{0:.1} {1:.1}V{2:.1}\" stroke=\"#ddd\"/><text x=\"{0:.1}\" y=\"{3:.1}\" \
             text-anchor=\"middle\">{value} ms</text>",
            x(value),
            y(1.0),
            y(0.0),
            y(0.0) + 18.0,
        );
    }
    for share in [0.5, 0.9, 0.99] {
        let _ = write!(
            svg,
            "<path d=\"M{:.1} {1:.1}H{2:.1}\" stroke=\"#ddd\"/><text x=\"2\" y=\"{3:.1}\">p{4:.0}</text>",
            LABEL / 3.0,
            y(share),
            WIDTH - LABEL,
            y(share) + 4.0,
            share * 100.0,
        );
    }
    for (nth, (label, colour, values)) in curves.iter().enumerate() {
        let mut path = String::new();
        // 200 points are more than the eye sees.
        let step = (values.len() / 200).max(1);
        let last = values.len().saturating_sub(1);
        for (index, value) in values.iter().enumerate() {
            if index % step == 0 || index == last {
                let letter = if path.is_empty() { 'M' } else { 'L' };
                let share = index as f64 / (last.max(1)) as f64;
                let _ = write!(path, "{letter}{:.1} {:.1}", x(*value), y(share));
            }
        }
        let _ = write!(
            svg,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{}</text>",
            WIDTH - LABEL + 10.0,
            TOP + 14.0 + nth as f64 * 16.0,
            escape(label),
        );
    }
    svg + "</svg>\n"
}

/// Begins a picture of the usual width.
pub(crate) fn open(title: &str, height: f64) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"{0}\">\
         <text x=\"0\" y=\"14\" font-weight=\"bold\">{0}</text>",
        escape(title)
    )
}
