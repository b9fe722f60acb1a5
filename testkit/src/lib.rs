//! The simulated world for masque-core: endpoints, inner hosts and links in virtual time.
//!
//! One number, the seed, decides everything: the same seed gives the same bytes at the same
//! microseconds, in this process or another.
//!
//! | module | what is there |
//! |---|---|
//! | [`seed`] | one seed, a labelled stream for each purpose |
//! | [`crypto`] | null crypto, seeded TLS, real TLS |
//! | [`packet`] | inner IP packets, built and read by hand |
//! | [`world`] | nodes, links, time, trace |
//! | [`fuzz`] | what fuzz targets do with their bytes |
//! | [`hostile`] | a peer that says anything, scripts for it, and `masque-lab probe` |
//! | [`scenario`] | worlds ready to run |
//! | [`seeds`] | many worlds in which anything happens, one for each seed |
//! | [`witness`] | how to see a failure again |
//! | [`scale`] | one server, very many clients, and what they cost |
//! | [`traffic`] | bulk flows, voice, named paths, and trials of tunnels by them |
//! | [`lab`] | what `masque-lab` does: run and step |
#![forbid(unsafe_code)]

pub mod crypto;
pub mod fuzz;
pub mod hostile;
pub mod lab;
pub mod packet;
pub mod scale;
pub mod scenario;
pub mod seed;
pub mod seeds;
pub mod traffic;
pub mod witness;
pub mod world;

pub use seed::{Fnv, Seed};

/// The examples of `docs/lab/layers.md`.
#[cfg(doctest)]
#[doc = include_str!("../../docs/lab/layers.md")]
pub struct Layers;
