//! The VPN as tasks and channels on tokio, to be measured beside the others.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use masque::runtime::Runtime;
use masque_adapter_kit::{App, Error, Pump};

struct Tasks;

impl Runtime for Tasks {
    const NAME: &'static str = "tokio, tasks and channels";

    fn run<A: App>(pump: Pump<A>) -> Result<Pump<A>, Error> {
        masque_bench::idiomatic::tokio::run(pump)
    }
}

fn main() -> ExitCode {
    masque::cli::main::<Tasks>()
}
