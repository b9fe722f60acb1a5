//! Which code allocates on the server's account, and which holds what idle tunnels need.
//!
//! ```text
//! scale-sites packets 4000        allocations of 4,000 packets in the steady state
//! scale-sites memory 100          bytes held by 100 idle tunnels
//! ```
//!
//! Built with `--profile profiling`, so that functions that were inlined have names.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use masque_testkit::scale::steady::{Warm, Way};
use masque_testkit::scale::{Gauges, Plan, idle, sites};
use masque_testkit::scenario::Crypto;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Which code allocates.
#[derive(Parser)]
enum Args {
    /// In the steady state, by packets.
    Packets {
        /// From the server to the client.
        #[arg(long)]
        down: bool,
        /// How many packets.
        #[arg(default_value_t = 4_000)]
        count: u64,
    },
    /// By bytes held once tunnels are idle.
    Memory {
        /// How many tunnels.
        #[arg(default_value_t = 100)]
        tunnels: usize,
        /// Null crypto.
        #[arg(long)]
        null: bool,
    },
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    let file = tempfile::NamedTempFile::new()?;
    let profile = || {
        dhat::Profiler::builder()
            .file_name(file.path())
            .trim_backtraces(None)
            .build()
    };
    let plan = Plan {
        crypto: Crypto::Real,
        ..Plan::default()
    };
    match args {
        Args::Packets { down, count } => {
            let way = if *down { Way::Down } else { Way::Up };
            let mut warm = Warm::new(plan, Gauges::default())?;
            warm.run(way, 1, *count)?;
            let profiler = profile();
            let done = warm.run(way, 1, *count)?;
            drop(profiler);
            for site in sites::read(file.path())? {
                let each = site.blocks as f64 / done.packets as f64;
                println!(
                    "{each:8.4} {:?} {}",
                    site.owner,
                    site.frames.join("\n              ")
                );
            }
        }
        Args::Memory { tunnels, null } => {
            let profiler = profile();
            let crypto = if *null { Crypto::Null } else { Crypto::Real };
            let clients = *tunnels;
            let plan = Plan {
                clients,
                crypto,
                ..plan
            };
            idle::idle_then(plan, Gauges::default(), Duration::from_secs(20), |_| {
                drop(profiler)
            })?;
            let mut sites = sites::read(file.path())?;
            sites.sort_by_key(|site| std::cmp::Reverse(site.held));
            let total: u64 = sites.iter().map(|site| site.held).sum();
            println!("{} bytes each", total / *tunnels as u64);
            for site in sites.iter().filter(|site| site.held / *tunnels as u64 > 0) {
                let each = site.held / *tunnels as u64;
                println!(
                    "{each:8} {:?} {}",
                    site.owner,
                    site.frames.join("\n              ")
                );
            }
        }
    }
    Ok(())
}
