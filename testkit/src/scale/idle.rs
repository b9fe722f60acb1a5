//! Tunnels that nobody uses.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use super::{Fleet, FleetError, Gauges, Plan};
use crate::packet;
use crate::scenario::INNER_V4;

/// How long clients take to connect, one after the other.
const APART: Duration = Duration::from_micros(500);

/// What idle tunnels cost the server.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Idle {
    /// How many tunnels.
    pub tunnels: usize,
    /// Bytes of each, as soon as it is up.
    pub fresh_bytes: f64,
    /// Bytes of each, a while after it carried traffic.
    pub bytes: f64,
    /// The server's wake-ups per tunnel and minute.
    pub wakes_per_minute: f64,
    /// Datagrams that the server received, per tunnel and minute.
    pub received_per_minute: f64,
    /// Datagrams that the server sent, per tunnel and minute.
    pub sent_per_minute: f64,
    /// Processor time per tunnel and minute, in microseconds.
    pub cpu_us_per_minute: f64,
}

/// Connects the clients of `plan`, loads every tunnel in both directions, lets them rest, then watches them for
/// `silence`.
///
/// # Errors
/// [`FleetError`].
pub fn idle(plan: Plan, gauges: Gauges, silence: Duration) -> Result<Idle, FleetError> {
    idle_then(plan, gauges, silence, |_| {})
}

/// As [`idle()`]; `look` sees the fleet while it still has all its tunnels.
///
/// # Errors
/// [`FleetError`].
pub fn idle_then(
    plan: Plan,
    gauges: Gauges,
    silence: Duration,
    look: impl FnOnce(&Fleet),
) -> Result<Idle, FleetError> {
    let mut fleet = Fleet::new(plan, gauges)?;
    let empty = fleet.meter().live;
    connect_all(&mut fleet, APART)?;
    let each = |bytes: i64, fleet: &Fleet| (bytes - empty) as f64 / fleet.clients().len() as f64;
    let fresh_bytes = each(fleet.meter().live, &fleet);
    load(&mut fleet);
    fleet.run_until(fleet.now() + Duration::from_secs(15));
    fleet.rest();
    let before = fleet.meter();
    fleet.run_until(fleet.now() + silence);
    let spent = fleet.meter().since(&before);
    let tunnels = fleet.clients().len();
    if fleet.up() < tunnels {
        return Err(FleetError::Stuck(format!(
            "{} of {tunnels} are left",
            fleet.up()
        )));
    }
    look(&fleet);
    let scale = 60.0 / silence.as_secs_f64() / tunnels as f64;
    Ok(Idle {
        tunnels,
        fresh_bytes,
        bytes: each(fleet.meter().live, &fleet),
        wakes_per_minute: spent.turns as f64 * scale,
        received_per_minute: spent.received as f64 * scale,
        sent_per_minute: spent.sent as f64 * scale,
        cpu_us_per_minute: spent.time.as_secs_f64() * 1e6 * scale,
    })
}

/// Connects all clients, so long after each other, and waits until all have a tunnel.
///
/// # Errors
/// [`FleetError::Stuck`] if some never have.
pub fn connect_all(fleet: &mut Fleet, apart: Duration) -> Result<(), FleetError> {
    let (start, all) = (fleet.now(), fleet.clients().len());
    let mut last = start;
    for (index, nth) in (0..all).zip(0_u32..) {
        last = start + apart * nth;
        fleet.connect(last, index);
    }
    fleet.run_until(last + Duration::from_secs(5));
    if fleet.up() < all {
        let ends: Vec<_> = fleet
            .clients()
            .iter()
            .flat_map(|c| c.ends.first())
            .take(3)
            .collect();
        return Err(FleetError::Stuck(format!(
            "{} of {all} are up; {ends:?}",
            fleet.up()
        )));
    }
    Ok(())
}

/// A burst of eight flows down every tunnel, and some packets up.
fn load(fleet: &mut Fleet) {
    let start = fleet.now();
    for (index, nth) in (0..fleet.clients().len()).zip(0_u32..) {
        let Some(address) = fleet.clients()[index].v4() else {
            continue;
        };
        let at = start + APART * nth;
        for packet in 0..64_u16 {
            let here = SocketAddr::new(address, 1_000 + packet % 8);
            let there = SocketAddr::new(INNER_V4, 2_000);
            fleet.from_hosts(at, packet::udp(there, here, &[7; 1000]));
            if packet % 4 == 0 {
                fleet.from_client(at, index, packet::udp(here, there, &[8; 1000]));
            }
        }
    }
    let all = u32::try_from(fleet.clients().len()).unwrap_or(u32::MAX);
    fleet.run_until(start + APART * all + Duration::from_secs(1));
}
