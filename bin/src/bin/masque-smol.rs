//! The VPN on smol.
fn main() {}
