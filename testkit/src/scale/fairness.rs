//! Clients that all want everything.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use super::idle::connect_all;
use super::{Fleet, FleetError, Gauges, Plan, jain};
use crate::packet;
use crate::scenario::INNER_V4;

/// Bytes of payload of each packet.
const PAYLOAD: usize = 1000;

/// How a server's link was shared.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Fairness {
    /// How many clients wanted something.
    pub clients: usize,
    /// Jain's index over the bytes of inner packets each got.
    pub jain: f64,
    /// The smallest share, of the mean.
    pub least: f64,
    /// The largest share, of the mean.
    pub most: f64,
    /// The share of the link that inner packets filled.
    pub used: f64,
}

/// Offers every client of `plan` the same `demand` for `time`, which is how much more than its share
/// of the link. Every other client gets its packets in bursts of 16, the others one by one.
///
/// # Errors
/// [`FleetError`].
pub fn fairness(
    plan: Plan,
    gauges: Gauges,
    demand: f64,
    time: Duration,
) -> Result<Fairness, FleetError> {
    let rate = plan.egress.unwrap_or(1_000_000_000);
    let mut fleet = Fleet::new(plan, gauges)?;
    connect_all(&mut fleet, Duration::from_micros(500))?;
    let clients = fleet.clients().len();
    let packets_a_second = rate as f64 / 8.0 / (PAYLOAD + 28) as f64 * demand / clients as f64;
    let start = fleet.now();
    let warm = start + Duration::from_secs(1);
    let end = warm + time;
    // A slice at a time, so that what waits in the harness stays small.
    let slice = Duration::from_millis(20);
    let mut owed = vec![0.0; clients];
    let mut counted = false;
    while fleet.now() < end {
        let now = fleet.now();
        if now >= warm && !std::mem::replace(&mut counted, true) {
            fleet
                .clients_mut()
                .iter_mut()
                .for_each(|client| client.received = 0);
        }
        for (index, owed) in owed.iter_mut().enumerate() {
            *owed += packets_a_second * slice.as_secs_f64();
            let least = if index % 2 == 0 { 16.0 } else { 1.0 };
            if *owed < least {
                continue;
            }
            let Some(address) = fleet.clients()[index].v4() else {
                continue;
            };
            let here = SocketAddr::new(address, 1_000);
            let there = SocketAddr::new(INNER_V4, 2_000);
            let bytes = packet::udp(there, here, &[7; PAYLOAD]);
            let count = *owed as u32;
            *owed -= f64::from(count);
            for nth in 0..count {
                let burst = index % 2 == 0;
                let later = if burst {
                    Duration::ZERO
                } else {
                    slice * nth / count
                };
                fleet.from_hosts(now + later, bytes.clone());
            }
        }
        fleet.run_until(now + slice);
    }
    let received = fleet.clients().iter().map(|client| client.received as f64);
    let shares: Vec<f64> = received.collect();
    let total: f64 = shares.iter().sum();
    let mean = total / clients as f64;
    Ok(Fairness {
        clients,
        jain: jain(&shares),
        least: shares.iter().copied().fold(f64::INFINITY, f64::min) / mean,
        most: shares.iter().copied().fold(0.0, f64::max) / mean,
        used: total * 8.0 / time.as_secs_f64() / rate as f64,
    })
}
