//! `masque-lab draw`: a ladder diagram, and quantities over time.

use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use masque_core::trace::{Layer, What};

use super::outputs::save;
use super::{LabError, Samples, Scenario, chart, quic, sample};
use crate::world::{Captured, Place, Said, World};

/// What is drawn.
#[derive(Args, Clone, Debug)]
pub struct Drawing {
    /// The directory for `ladder.svg` and `plots.svg`.
    #[arg(long, default_value = ".")]
    pub out: PathBuf,
    /// The most rows of the ladder.
    #[arg(long, default_value_t = 300)]
    pub rows: usize,
    /// Between two points of the plots, in milliseconds.
    #[arg(long, default_value_t = 20)]
    pub every: u64,
    /// What is run.
    #[command(flatten)]
    pub scenario: Scenario,
}

/// Runs a scenario and draws it.
///
/// # Errors
/// [`LabError`].
pub fn draw(what: &Drawing, out: &mut impl Write) -> Result<(), LabError> {
    let stage = what.scenario.build(true)?;
    let limit = stage.limit();
    let mut world = stage.into_world();
    world.set_capturing(true);
    let every = Duration::from_millis(what.every.max(1));
    let samples = sample(&mut world, limit, every);
    let files = [
        ("ladder.svg", ladder(&world, what.rows)),
        ("plots.svg", plots(&samples)),
    ];
    for (name, svg) in files {
        let path = what.out.join(name);
        save(&path, svg)?;
        writeln!(out, "{}", path.display())?;
    }
    Ok(())
}

/// Latency, loss, throughput and queue, one plot below the other.
pub(super) fn plots(samples: &Samples) -> String {
    chart::stack(&[
        ("latency", "ms", samples.series(|sample| &sample.latency)),
        ("loss", "packets", samples.series(|sample| &sample.loss)),
        (
            "throughput",
            "Mbit/s",
            samples.series(|sample| &sample.throughput),
        ),
        ("queue", "ms", samples.series(|sample| &sample.queue)),
    ])
}

/// One row of a ladder.
enum Row {
    /// A datagram, from its sender's row to its receiver's.
    Arrow {
        from: usize,
        to: usize,
        arrives: Option<(usize, Duration)>,
        words: String,
    },
    /// The other end of an arrow.
    Arrival,
    /// Something a node does.
    Note { node: usize, words: String },
}

/// A ladder diagram of the first `max` rows of a world that was traced and captured: a line per node, an
/// arrow per datagram, capsules, frames and states at their sides. Time goes down, a row per event.
#[must_use]
pub fn ladder(world: &World, max: usize) -> String {
    let names: Vec<_> = world
        .nodes()
        .map(|id| world.node(id).name().to_owned())
        .collect();
    let rows = rows(world, &names, max);
    let gap = 420.0;
    let (left, top, step) = (170.0, 50.0, 15.0);
    let width = left + gap * (names.len().max(2) - 1) as f64 + 330.0;
    let height = top + step * rows.len() as f64 + 30.0;
    let x = |node: usize| left + gap * node as f64;
    let y = |row: usize| top + step * row as f64;
    let mut out = chart::begin(width, height);
    out.push_str("<defs><marker id=\"a\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\"><path d=\"M0 0 L8 4 L0 8z\" fill=\"#0072b2\"/></marker></defs>\n");
    for (node, name) in names.iter().enumerate() {
        let _ = writeln!(
            out,
            "<text x=\"{0:.0}\" y=\"24\" text-anchor=\"middle\" font-size=\"14\" font-weight=\"bold\">{1}</text><line x1=\"{0:.0}\" x2=\"{0:.0}\" y1=\"32\" y2=\"{2:.0}\" stroke=\"#888\"/>",
            x(node),
            chart::escape(name),
            height - 10.0
        );
    }
    let mut last = None;
    for (index, (at, row)) in rows.iter().enumerate() {
        if last != Some(*at) {
            let _ = writeln!(
                out,
                "<text x=\"4\" y=\"{:.0}\" fill=\"#666\">{:.3} ms</text>",
                y(index) + 4.0,
                at.as_secs_f64() * 1000.0
            );
            last = Some(*at);
        }
        match row {
            Row::Arrival => {}
            Row::Note { node, words } => {
                let _ = writeln!(
                    out,
                    "<circle cx=\"{0:.0}\" cy=\"{1:.0}\" r=\"2.5\" fill=\"#009e73\"/><text x=\"{2:.0}\" y=\"{3:.0}\" font-size=\"10\">{4}</text>",
                    x(*node),
                    y(index),
                    x(*node) + 7.0,
                    y(index) + 4.0,
                    chart::escape(words)
                );
            }
            Row::Arrow {
                from,
                to,
                arrives,
                words,
            } => {
                let (x1, x2) = (x(*from), x(*to));
                let (end, y2, mark) = match arrives {
                    Some((row, _)) => (x2, y(*row), "url(#a)"),
                    None => (x1 + (x2 - x1) * 0.6, y(index), "none"),
                };
                let colour = if arrives.is_some() {
                    "#0072b2"
                } else {
                    "#d55e00"
                };
                let _ = writeln!(
                    out,
                    "<line x1=\"{x1:.0}\" y1=\"{:.0}\" x2=\"{end:.0}\" y2=\"{y2:.0}\" stroke=\"{colour}\" marker-end=\"{mark}\"/>",
                    y(index)
                );
                if arrives.is_none() {
                    let _ = writeln!(
                        out,
                        "<text x=\"{end:.0}\" y=\"{:.0}\" fill=\"{colour}\" font-weight=\"bold\">✕</text>",
                        y2 + 4.0
                    );
                }
                let (place, anchor) = if x2 > x1 {
                    (x1 - 7.0, "end")
                } else {
                    (x1 + 7.0, "start")
                };
                let _ = writeln!(
                    out,
                    "<text x=\"{place:.0}\" y=\"{:.0}\" font-size=\"10\" fill=\"{colour}\" text-anchor=\"{anchor}\">{}</text>",
                    y(index) + 4.0,
                    chart::escape(words)
                );
            }
        }
    }
    out.push_str("</svg>\n");
    out
}

/// Events in order, datagrams with their arrivals.
fn rows(world: &World, names: &[String], max: usize) -> Vec<(Duration, Row)> {
    let trace = world.trace();
    let index = |name: &str| names.iter().position(|own| own == name);
    let mut rows: Vec<(Duration, Row)> = Vec::new();
    // Datagrams on their way: the row they left in.
    let mut flying: Vec<(usize, &Captured)> = Vec::new();
    let mut packets = trace.captured().iter().peekable();
    let entries = trace.entries();
    for line in 0..=entries.len() {
        while let Some(packet) = packets.next_if(|packet| packet.line <= line) {
            let Some(node) = index(&packet.node) else {
                continue;
            };
            match packet.place {
                Place::Sent { to, .. } => {
                    let Some(peer) = owner(world, to) else {
                        continue;
                    };
                    flying.push((rows.len(), packet));
                    let row = Row::Arrow {
                        from: node,
                        to: peer,
                        arrives: None,
                        words: label(world, &packet.data),
                    };
                    rows.push((packet.at, row));
                }
                Place::Received { from, to } => {
                    let same = Place::Sent { from, to };
                    let found = flying
                        .iter()
                        .position(|(_, sent)| sent.place == same && sent.data == packet.data);
                    let Some(found) = found else { continue };
                    let (row, _) = flying.remove(found);
                    let here = rows.len();
                    if let Some((_, Row::Arrow { arrives, .. })) = rows.get_mut(row) {
                        *arrives = Some((here, packet.at));
                    }
                    rows.push((packet.at, Row::Arrival));
                }
                Place::IntoTun | Place::OutOfTun => {
                    let way = match packet.place {
                        Place::IntoTun => "tun in",
                        _ => "tun out",
                    };
                    let words = format!("{way}: {}", crate::packet::summary(&packet.data));
                    rows.push((packet.at, Row::Note { node, words }));
                }
            }
        }
        if rows.len() >= max {
            break;
        }
        let Some(entry) = entries.get(line) else {
            break;
        };
        if let (Some(words), Some(node)) = (note(&entry.said), index(&entry.node)) {
            rows.push((entry.at, Row::Note { node, words }));
        }
    }
    // An arrow that arrives beyond the last row ends in nothing.
    rows.truncate(max);
    rows
}

fn owner(world: &World, address: std::net::SocketAddr) -> Option<usize> {
    let mut nodes = world.nodes();
    let found = nodes.find(|id| world.node(*id).sockets().contains(&address));
    found.map(|id| id.0)
}

/// The frames of a datagram where they can be read, else its size.
fn label(world: &World, data: &[u8]) -> String {
    let size = format!("{} B", data.len());
    if world.secrets().is_some() {
        return size;
    }
    let Ok(packets) = quic::read(data) else {
        return size;
    };
    let each = packets.iter().map(|packet| {
        let mut names: Vec<_> = packet.frames.iter().map(quic::Frame::name).collect();
        names.retain(|name| *name != "padding");
        names.dedup();
        names.truncate(4);
        format!("{}({})", packet.kind, names.join(" "))
    });
    format!("{size} {}", each.collect::<Vec<_>>().join(" "))
}

/// What of the trace stands in a ladder.
fn note(said: &Said) -> Option<String> {
    let Said::Core(event) = said else {
        return None;
    };
    let shown = match event.what {
        What::State { .. } => event.layer != Layer::Http3 || event.stream.is_none(),
        What::Frame { .. } | What::Capsule { .. } | What::Dropped { .. } => true,
        What::Error(_) | What::Changed { .. } => true,
        _ => false,
    };
    let mut words = event.to_string();
    if words.chars().count() > 70 {
        words = words.chars().take(69).collect::<String>() + "…";
    }
    shown.then_some(words)
}
