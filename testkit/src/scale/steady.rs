//! Packets, one after the other, in tunnels that have been up for a while.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use super::idle::connect_all;
use super::{Fleet, FleetError, Gauges, Meter, Plan};
use crate::packet;
use crate::scenario::INNER_V4;

/// Packets of one visit to a tunnel.
const BURST: u16 = 16;
/// Bytes of payload of each packet.
const PAYLOAD: usize = 1000;

/// Which way packets travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum Way {
    /// From clients.
    Up,
    /// To clients.
    Down,
}

/// What a packet costs the server.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Steady {
    /// Clients with a tunnel.
    pub clients: usize,
    /// Of them, those that send or receive.
    pub active: usize,
    /// Which way.
    pub way: Way,
    /// How many packets.
    pub packets: u64,
    /// Nanoseconds per packet.
    pub nanoseconds: f64,
    /// Allocations per packet.
    pub allocations: f64,
}

/// A fleet whose clients are all up.
pub struct Warm {
    fleet: Fleet,
    next: usize,
    /// Long enough for a burst to arrive and its acknowledgements to come back.
    visit: Duration,
}

impl Warm {
    /// Connects the clients of `plan`.
    ///
    /// # Errors
    /// [`FleetError`].
    pub fn new(plan: Plan, gauges: Gauges) -> Result<Self, FleetError> {
        let visit = plan.one_way * 5;
        let mut fleet = Fleet::new(plan, gauges)?;
        connect_all(&mut fleet, Duration::from_micros(200))?;
        fleet.run_until(fleet.now() + Duration::from_secs(1));
        Ok(Self {
            fleet,
            next: 0,
            visit,
        })
    }

    /// How many clients it has.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.fleet.clients().len()
    }

    /// What the server has cost.
    #[must_use]
    pub fn meter(&self) -> Meter {
        self.fleet.meter()
    }

    /// Sends `packets` packets, 16 at a time to or from one of the first `active` clients after the
    /// other, and waits in between until they have arrived and are acknowledged.
    ///
    /// # Errors
    /// [`FleetError::Stuck`] if packets are lost.
    pub fn run(&mut self, way: Way, active: usize, packets: u64) -> Result<Steady, FleetError> {
        let (before, arrived) = (self.fleet.meter(), self.arrived(way));
        let mut sent = 0;
        while sent < packets {
            self.next = (self.next + 1) % active.max(1);
            let Some(address) = self.fleet.clients()[self.next].v4() else {
                return Err(FleetError::Stuck("a tunnel is gone".to_owned()));
            };
            let here = SocketAddr::new(address, 1_000);
            let there = SocketAddr::new(INNER_V4, 2_000);
            let now = self.fleet.now();
            for _ in 0..BURST {
                match way {
                    Way::Up => {
                        let packet = packet::udp(here, there, &[7; PAYLOAD]);
                        self.fleet.from_client(now, self.next, packet);
                    }
                    Way::Down => {
                        let packet = packet::udp(there, here, &[7; PAYLOAD]);
                        self.fleet.from_hosts(now, packet);
                    }
                }
            }
            sent += u64::from(BURST);
            self.fleet.run_until(now + self.visit);
        }
        self.fleet
            .run_until(self.fleet.now() + Duration::from_millis(60));
        let arrived = self.arrived(way) - arrived;
        if arrived < sent {
            return Err(FleetError::Stuck(format!("{arrived} of {sent} packets")));
        }
        let spent = self.fleet.meter().since(&before);
        Ok(Steady {
            clients: self.fleet.clients().len(),
            active,
            way,
            packets: sent,
            nanoseconds: spent.time.as_secs_f64() * 1e9 / sent as f64,
            allocations: spent.allocations as f64 / sent as f64,
        })
    }

    fn arrived(&self, way: Way) -> u64 {
        match way {
            Way::Up => self.fleet.delivered(),
            Way::Down => {
                let bytes: u64 = self
                    .fleet
                    .clients()
                    .iter()
                    .map(|client| client.received)
                    .sum();
                bytes / (PAYLOAD as u64 + 28)
            }
        }
    }
}
