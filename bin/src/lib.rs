//! The VPN.

pub mod host;
