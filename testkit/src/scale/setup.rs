//! From the first Initial to the first inner packet.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use super::{Fleet, FleetError, Gauges, Plan};
use crate::packet;
use crate::scenario::INNER_V4;

/// How a tunnel came up.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Setup {
    /// The round trip of the path in milliseconds.
    pub round_trip_ms: f64,
    /// Round trips from the client's first Initial until its tunnel is up with addresses and its first
    /// inner packet leaves.
    pub round_trips: f64,
    /// Round trips from the first Initial until the first inner packet has come out behind the server.
    pub first_packet: f64,
    /// Datagrams that the server sent until then.
    pub sent: u64,
    /// The server's processor time until then, in microseconds.
    pub server_us: f64,
    /// The server's allocations until then.
    pub allocations: u64,
}

/// Lets the last client of `plan` connect after all others are up, and send a packet as soon as it
/// can.
///
/// # Errors
/// [`FleetError`].
pub fn setup(plan: Plan, gauges: Gauges) -> Result<Setup, FleetError> {
    let round_trip = plan.one_way * 2;
    let mut fleet = Fleet::new(plan, gauges)?;
    let Some(last) = fleet.clients().len().checked_sub(1) else {
        return Err(FleetError::Stuck("no clients".to_owned()));
    };
    for index in 0..last {
        fleet.connect(fleet.now(), index);
        fleet.run_until(fleet.now() + round_trip);
    }
    fleet.run_until(fleet.now() + Duration::from_secs(2));
    let (start, before, limit) = (
        fleet.now(),
        fleet.meter(),
        fleet.now() + Duration::from_secs(20),
    );
    fleet.connect(start, last);
    if !fleet.run_to(limit, |fleet| fleet.clients()[last].is_up()) {
        return Err(FleetError::Stuck("no tunnel".to_owned()));
    }
    let up = fleet.now() - start;
    if let Some(source) = fleet.clients()[last].v4() {
        let (from, to) = (SocketAddr::new(source, 1), SocketAddr::new(INNER_V4, 2));
        fleet.from_client(fleet.now(), last, packet::udp(from, to, b"first"));
    }
    let delivered = fleet.delivered();
    if !fleet.run_to(limit, |fleet| fleet.delivered() > delivered) {
        return Err(FleetError::Stuck("the packet is lost".to_owned()));
    }
    let spent = fleet.meter().since(&before);
    let trips = |time: Duration| time.as_secs_f64() / round_trip.as_secs_f64();
    Ok(Setup {
        round_trip_ms: round_trip.as_secs_f64() * 1e3,
        round_trips: trips(up),
        first_packet: trips(fleet.now() - start),
        sent: spent.sent,
        server_us: spent.time.as_secs_f64() * 1e6,
        allocations: spent.allocations,
    })
}
