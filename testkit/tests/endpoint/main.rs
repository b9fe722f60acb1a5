//! Rules of the endpoint, one module for each kind.

mod admission;
mod common;
mod counted;
mod early;
mod fairness;
mod forwarding;
mod handover;
mod identity;
mod ipv6;
mod leases;
mod model;
mod mtu;
mod names;
mod rules;
mod sharded;
mod shutdown;
mod stranger;
mod tapped;
