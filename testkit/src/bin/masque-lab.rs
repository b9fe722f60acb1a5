//! masque-lab
fn main() {}
