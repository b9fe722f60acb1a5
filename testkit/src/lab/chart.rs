//! Plots as SVG, without a library: a few polylines, axes and a legend.

use std::fmt::Write as _;

use super::sample::Series;

/// Colours that most eyes tell apart (Okabe and Ito).
const COLOURS: [&str; 7] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000",
];

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 28.0;
const BOTTOM: f64 = 34.0;

/// Text as it may stand in XML.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// The start of an SVG of this size.
pub(super) fn begin(width: f64, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    )
}

/// Several plots below each other, over the same time.
pub(super) fn stack(plots: &[(&str, &str, Series)]) -> String {
    let mut out = begin(WIDTH, HEIGHT * plots.len() as f64);
    let ends = plots.iter().flat_map(|(_, _, series)| series.values());
    let end = ends.filter_map(|points| points.last()).map(|point| point.0);
    let end = end.fold(0.0, f64::max);
    for (index, (title, unit, series)) in plots.iter().enumerate() {
        plot(&mut out, HEIGHT * index as f64, end, title, unit, series);
    }
    out.push_str("</svg>\n");
    out
}

fn plot(out: &mut String, y: f64, end: f64, title: &str, unit: &str, series: &Series) {
    let values = series.values().flatten().map(|point| point.1);
    let top = nice(values.fold(0.0, f64::max));
    let (width, height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    let across = |at: f64| LEFT + width * if end > 0.0 { at / end } else { 0.0 };
    let up = |value: f64| y + TOP + height * (1.0 - value / top);
    let _ = writeln!(
        out,
        "<text x=\"{LEFT}\" y=\"{:.1}\" font-size=\"13\" font-weight=\"bold\">{} ({})</text>",
        y + 18.0,
        escape(title),
        escape(unit)
    );
    for part in 0..=4 {
        let share = f64::from(part) / 4.0;
        let (line, value) = (up(top * share), top * share);
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{line:.1}\" y2=\"{line:.1}\" stroke=\"#ddd\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT + width,
            LEFT - 6.0,
            line + 4.0,
            short(value)
        );
        let (x, at) = (across(end * share), end * share);
        let _ = writeln!(
            out,
            "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{at:.2} s</text>",
            y + HEIGHT - 14.0
        );
    }
    for (index, (name, points)) in series.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let path: String = points
            .iter()
            .map(|(at, value)| format!("{:.1},{:.1} ", across(*at), up(*value)))
            .collect();
        let _ = writeln!(
            out,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.3\" points=\"{}\"/>",
            path.trim_end()
        );
        // More would leave the plot.
        if index < 12 {
            let line = y + TOP + 8.0 + 14.0 * index as f64;
            let x = LEFT + width + 12.0;
            let _ = writeln!(
                out,
                "<line x1=\"{x}\" x2=\"{}\" y1=\"{line}\" y2=\"{line}\" stroke=\"{colour}\" stroke-width=\"3\"/><text x=\"{}\" y=\"{}\">{}</text>",
                x + 16.0,
                x + 22.0,
                line + 4.0,
                escape(name)
            );
        }
    }
}

/// Without digits that say nothing.
fn short(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}

/// The next round number above.
fn nice(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0];
    let step = steps.iter().find(|step| *step * power >= value);
    step.unwrap_or(&10.0) * power
}

/// A box from the lower to the upper quartile of each group, its median, and the extremes.
pub(super) fn boxes(title: &str, unit: &str, groups: &[(String, Vec<f64>)]) -> String {
    let row = 26.0;
    let height = 60.0 + row * groups.len() as f64;
    let mut out = begin(WIDTH, height);
    let top = nice(
        groups
            .iter()
            .flat_map(|(_, all)| all)
            .copied()
            .fold(0.0, f64::max),
    );
    let (left, width) = (180.0, WIDTH - 220.0);
    let across = |value: f64| left + width * value / top;
    let _ = writeln!(
        out,
        "<text x=\"{left}\" y=\"18\" font-size=\"13\" font-weight=\"bold\">{} ({})</text>",
        escape(title),
        escape(unit)
    );
    for part in 0..=4 {
        let value = top * f64::from(part) / 4.0;
        let x = across(value);
        let _ = writeln!(
            out,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"26\" y2=\"{:.1}\" stroke=\"#ddd\"/><text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            height - 24.0,
            height - 8.0,
            short(value)
        );
    }
    for (index, (name, values)) in groups.iter().enumerate() {
        let y = 30.0 + row * index as f64;
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 8.0,
            y + 13.0,
            escape(name)
        );
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| sorted.get((share * (sorted.len().max(1) - 1) as f64) as usize);
        let all = [0.0, 0.25, 0.5, 0.75, 1.0].map(at);
        let [Some(least), Some(low), Some(middle), Some(high), Some(most)] = all else {
            continue;
        };
        let colour = COLOURS[index % COLOURS.len()];
        let [least, low, middle, high, most] = [least, low, middle, high, most].map(|v| across(*v));
        let _ = writeln!(
            out,
            "<line x1=\"{least:.1}\" x2=\"{most:.1}\" y1=\"{0:.1}\" y2=\"{0:.1}\" stroke=\"{colour}\"/><rect x=\"{low:.1}\" y=\"{1:.1}\" width=\"{2:.1}\" height=\"14\" fill=\"{colour}\" fill-opacity=\"0.35\" stroke=\"{colour}\"/><line x1=\"{middle:.1}\" x2=\"{middle:.1}\" y1=\"{1:.1}\" y2=\"{3:.1}\" stroke=\"black\" stroke-width=\"2\"/>",
            y + 9.0,
            y + 2.0,
            (high - low).max(1.0),
            y + 16.0
        );
    }
    out.push_str("</svg>\n");
    out
}
