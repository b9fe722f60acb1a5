//! The VPN.
