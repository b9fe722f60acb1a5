//! The VPN: command line, configuration, certificates, host networking and the two applications on top
//! of the adapters.
#![forbid(unsafe_code)]

pub mod app;
pub mod check;
pub mod cli;
pub mod client;
pub mod config;
#[cfg(feature = "demo")]
pub mod demo;
pub mod exit;
pub mod files;
pub mod host;
pub mod limits;
pub mod logging;
#[cfg(feature = "pki")]
pub mod pki;
pub mod recording;
pub mod runtime;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod state;
pub mod tls;
