//! All clients come back at once.

use std::time::Duration;

use serde::Serialize;

use super::{Fleet, FleetError, Gauges, Plan, quantile};

/// How often clients that are up send an echo.
const PERIOD: Duration = Duration::from_millis(20);
const LIMIT: Duration = Duration::from_secs(300);

/// How a storm went by.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Storm {
    /// How many came.
    pub clients: usize,
    /// Seconds until half of them were up.
    pub half_up_s: f64,
    /// Seconds until the last of them was up.
    pub all_up_s: f64,
    /// Milliseconds from connecting for the first time to a tunnel: half of them took less.
    pub wait_p50_ms: f64,
    /// Connections that ended in failure on the way.
    pub failures: usize,
    /// Datagrams that were dropped in front of the server.
    pub overflowed: u64,
    /// The server's processor time per client, in microseconds.
    pub server_us: f64,
    /// How many were there before.
    pub there: usize,
    /// The round trip of the path in milliseconds.
    pub path_ms: f64,
    /// Echoes of those who were there, while the storm lasted, in milliseconds: half took less.
    pub echo_p50_ms: f64,
    /// 99 of 100 took less.
    pub echo_p99_ms: f64,
    /// The slowest.
    pub echo_max_ms: f64,
    /// Echoes that were not answered.
    pub echoes_lost: f64,
}

/// The first `there` clients of `plan` are up and ping; then all others connect within `within`.
///
/// # Errors
/// [`FleetError`].
pub fn storm(
    plan: Plan,
    gauges: Gauges,
    there: usize,
    within: Duration,
) -> Result<Storm, FleetError> {
    let path = plan.one_way * 2;
    let mut fleet = Fleet::new(plan, gauges)?;
    for index in 0..there {
        fleet.connect(fleet.now(), index);
        fleet.run_until(fleet.now() + Duration::from_millis(5));
    }
    fleet.run_until(fleet.now() + Duration::from_secs(2));
    let (start, before) = (fleet.now(), fleet.meter());
    let all = fleet.clients().len();
    let coming = all - there;
    for index in there..all {
        let nth = (index - there) as f64 / coming as f64;
        fleet.connect(start + within.mul_f64(nth), index);
    }
    let mut asked = 0_usize;
    while fleet.up() < all {
        if fleet.now() > start + LIMIT {
            return Err(FleetError::Stuck(format!("{} of {all} are up", fleet.up())));
        }
        let now = fleet.now();
        for index in 0..there {
            asked += 1;
            fleet.echo(now + PERIOD.mul_f64(index as f64 / there as f64), index);
        }
        fleet.run_until(now + PERIOD);
    }
    let spent = fleet.meter().since(&before);
    fleet.run_until(fleet.now() + Duration::from_secs(1));
    let (old, new) = fleet.clients().split_at(there);
    let mut up: Vec<Duration> = new.iter().filter_map(|client| client.up).collect();
    let since_start = |at: Duration| at.saturating_sub(start).as_secs_f64();
    let half_up_s = since_start(quantile(&mut up, 0.5));
    let all_up_s = since_start(quantile(&mut up, 1.0));
    let waits = new.iter().enumerate().filter_map(|(nth, client)| {
        let asked = start + within.mul_f64(nth as f64 / coming as f64);
        Some(client.up?.saturating_sub(asked))
    });
    let mut waits: Vec<_> = waits.collect();
    let mut echoes: Vec<_> = old
        .iter()
        .flat_map(|client| client.echoes.clone())
        .collect();
    let lost = asked.saturating_sub(echoes.len()) as f64 / asked.max(1) as f64;
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    Ok(Storm {
        clients: coming,
        half_up_s,
        all_up_s,
        wait_p50_ms: milliseconds(quantile(&mut waits, 0.5)),
        failures: new.iter().map(|client| client.ends.len()).sum(),
        overflowed: spent.overflowed,
        server_us: spent.time.as_secs_f64() * 1e6 / coming.max(1) as f64,
        there,
        path_ms: milliseconds(path),
        echo_p50_ms: milliseconds(quantile(&mut echoes, 0.5)),
        echo_p99_ms: milliseconds(quantile(&mut echoes, 0.99)),
        echo_max_ms: milliseconds(quantile(&mut echoes, 1.0)),
        echoes_lost: lost,
    })
}
