//! Inner and competing traffic, and the trials that judge a tunnel by it.
//!
//! A path is judged by what flows get out of it: TCP-like flows ([`flow`], [`control`]), voice, both
//! through the tunnel and beside it on the same links ([`host`]), over named profiles ([`profile`]).
//! Scenarios from files have calls ([`voice`]) and a whole TCP/IP stack ([`tcp`]) instead.
//! [`trial`] is one run, [`sweep`] many.
//!
//! The flows are models at the level of packets, not a TCP/IP stack: a stack made for small devices has
//! neither selective acknowledgements on the sending side nor loss detection by time, and falls apart
//! on a path that reorders, with a tunnel or without one. What the models do like a current kernel is
//! what decides here: SACK, RACK with a reordering window that grows, tail loss probes, spurious losses
//! undone, Cubic with HyStart, BBR. What they leave out: the handshake, limits of the receiver, offloads.

pub mod control;
pub mod distribution;
pub mod flow;
pub mod host;
pub mod profile;
pub mod sweep;
pub mod tcp;
pub mod trial;
pub mod voice;
