//! Proxying IP in HTTP/3 (CONNECT-IP, RFC 9484) as a pure state machine.
//!
//! | layer | in | out | needs |
//! |---|---|---|---|
//! | [`wire`] | bytes | types that are legal by construction | `no_std` + alloc |
//! | [`session`] | [`session::QuicInput`], [`session::Command`] | [`session::QuicOutput`], [`session::Event`] | `no_std` + alloc; no QUIC stack, clock or randomness |
//! | `endpoint` (feature `quic`) | UDP datagrams, IP packets, time | the same | quinn-proto, rustls |
//!
//! No layer opens a socket, reads a clock, starts a thread or draws randomness: time and entropy
//! are arguments. Imports run one way: endpoint → session → wire.
#![cfg_attr(not(feature = "quic"), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod error;
pub mod session;
pub mod trace;
pub mod wire;

#[cfg(all(feature = "quic", any(feature = "aws-lc-rs", feature = "ring")))]
pub mod endpoint;

// The endpoint is left out above, so that this is the only error.
#[cfg(all(feature = "quic", not(any(feature = "aws-lc-rs", feature = "ring"))))]
compile_error!(
    "masque-core's feature `quic` needs cryptography: turn on `aws-lc-rs` or `ring` (both imply `quic`)"
);

pub use error::{ErrorScope, H3Code, WireError, WireErrorKind};
