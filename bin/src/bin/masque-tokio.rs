//! The VPN on tokio.
fn main() {}
