//! One server and very many clients, in memory and in virtual time.
//!
//! A [`Fleet`] holds one server endpoint, which is measured, and as many client endpoints as wanted,
//! which are not. Every call to the server is made on its account ([`Meter`]): memory it keeps,
//! allocations, processor time. With [`Cost::Measured`] that time passes in the simulation too, so
//! that a server that is busy makes everybody wait, as it would.
//!
//! | module | question |
//! |---|---|
//! | [`idle`] | What does a tunnel that nobody uses cost, in memory and in wake-ups? |
//! | [`fairness`] | Do clients that all want everything get the same? |
//! | [`storm`] | All come back at once: how long does it take, and how do others fare? |
//! | [`setup`] | How many round trips until a packet can travel, and how much work? |
//! | [`steady`] | What does a packet cost, and does it cost more the more clients there are? |
//! | [`sites`] | Who allocates? |

mod client;
pub mod fairness;
mod fleet;
pub mod idle;
mod meter;
mod plan;
pub mod setup;
pub mod sites;
pub mod steady;
pub mod storm;

pub use client::Client;
pub use fleet::{Fleet, FleetError};
pub use meter::{Gauges, Heap, Meter, jain, quantile};
pub use plan::{Cost, Plan, limits_for};
