//! The VPN on mio.
fn main() {}
