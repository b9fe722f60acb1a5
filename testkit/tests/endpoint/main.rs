//! Rules of the endpoint, one module for each kind.

mod admission;
mod common;
mod fairness;
mod forwarding;
mod handover;
mod identity;
mod leases;
mod model;
mod mtu;
mod sharded;
mod shutdown;
mod stranger;
