//! Running a scenario to its end, and saying what came of it.

use std::fmt::Write as _;
use std::io::Write;

use super::{LabError, Outputs, Scenario};
use crate::world::{InnerHost, World};

/// Runs a scenario to its end; writes what is wanted, then the summary.
///
/// # Errors
/// [`LabError`].
pub fn run(scenario: &Scenario, outputs: &Outputs, out: &mut impl Write) -> Result<(), LabError> {
    let mut stage = scenario.build(outputs.tracing())?;
    let limit = stage.limit();
    let world = stage.world_mut();
    world.set_capturing(outputs.capturing());
    world.run_until(limit);
    outputs.write(world, out)?;
    out.write_all(summary(world).as_bytes())?;
    out.write_all(stage.metrics().as_bytes())?;
    match stage.failures() {
        none if none.is_empty() => Ok(()),
        failures => Err(LabError::Expected(failures.join("; "))),
    }
}

/// What came of a world: one line per node and link, and the fingerprint.
#[must_use]
pub fn summary(world: &World) -> String {
    let mut out = format!("# time {} us\n", world.now().as_micros());
    for id in world.nodes() {
        if let Some(host) = world.node(id).host::<InnerHost>() {
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
        }
        for error in world.node(id).errors() {
            let _ = writeln!(out, "#   refused: {error}");
        }
    }
    for from in world.nodes() {
        for to in world.nodes() {
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
