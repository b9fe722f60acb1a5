//! The VPN on smol.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    masque::cli::main::<masque::runtime::Smol>()
}
