//! Running a scenario to its end, and saying what came of it.

use std::fmt::Write as _;
use std::io::Write;

use super::{LIMIT, LabError, Scenario};
use crate::scenario::Star;

/// Runs a scenario to its end; writes the trace if wanted, then the summary.
///
/// # Errors
/// [`LabError`].
pub fn run(scenario: &Scenario, trace: bool, out: &mut impl Write) -> Result<(), LabError> {
    let mut star = scenario.build(trace)?;
    star.world.run_until(LIMIT);
    if trace {
        out.write_all(star.world.trace().text().as_bytes())?;
    }
    out.write_all(summary(&star).as_bytes())?;
    Ok(())
}

/// What came of a world: one line per node and link, and the fingerprint.
#[must_use]
pub fn summary(star: &Star) -> String {
    let world = &star.world;
    let mut out = format!("# time {} us\n", world.now().as_micros());
    for id in world.nodes() {
        let host = star.inner(id);
        let mut trips = host.round_trips.clone();
        trips.sort();
        let median = trips.get(trips.len() / 2).copied().unwrap_or_default();
        let _ = writeln!(
            out,
            "# {}: echoes sent {} answered v4 {} v6 {} median {} us; requests answered {}; delivered {}",
            world.node(id).name(),
            host.sent,
            host.replies_v4,
            host.replies_v6,
            median.as_micros(),
            host.answered,
            world.node(id).delivered(),
        );
        for error in world.node(id).errors() {
            let _ = writeln!(out, "#   refused: {error}");
        }
    }
    for client in &star.clients {
        for (from, to) in [(*client, star.server), (star.server, *client)] {
            let Some(stats) = world.link_stats(from, to) else {
                continue;
            };
            let _ = writeln!(
                out,
                "# {} > {}: sent {} arrived {} lost {} queue full {} too big {} down {} bytes {}",
                world.node(from).name(),
                world.node(to).name(),
                stats.sent,
                stats.arrived,
                stats.lost,
                stats.queue_full,
                stats.too_big,
                stats.down,
                stats.bytes,
            );
        }
    }
    let stats = world.stats();
    let _ = writeln!(
        out,
        "# nobody home {} unknown destination {} no link {}",
        stats.nobody_home, stats.unknown_destination, stats.no_link
    );
    let _ = writeln!(out, "# fingerprint {:016x}", world.trace().fingerprint());
    out
}
