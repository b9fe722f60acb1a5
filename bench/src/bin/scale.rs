//! Very many clients on one server, in memory: what each costs, and how they fare.
//!
//! ```text
//! scale                        every part, with as many clients as the goals say
//! scale idle storm             some
//! scale --clients 1000 idle    fewer clients
//! scale --json run.json        the numbers in a file too
//! ```

use std::alloc::System;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use masque_core::endpoint::{Identity, Limits, ServerConfig, StaticAssignment, TransportProfile};
use masque_core::wire::prefix::IpPrefix;
use masque_testkit::scale::steady::{Steady, Warm, Way};
use masque_testkit::scale::{
    Cost, FleetError, Gauges, Heap, Plan, fairness, idle, limits_for, setup, storm,
};
use masque_testkit::scenario::Crypto;
use serde_json::{Value, json};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Very many clients on one server, in memory.
#[derive(Parser)]
struct Args {
    /// What to measure; all of it if nothing is named.
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// How many clients, in place of what the goals say: 10,000, and 500 for fairness.
    #[arg(long)]
    clients: Option<usize>,
    /// Writes the numbers there.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Null crypto where TLS would be used.
    #[arg(long)]
    null: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Part {
    /// Memory, processor time and wake-ups of tunnels that nobody uses.
    Idle,
    /// Who gets how much when all want everything.
    Fairness,
    /// All come back at once.
    Storm,
    /// The processor time of one handshake.
    Handshake,
    /// Round trips until the first inner packet.
    Setup,
    /// What a packet costs with 1, 100 and 10,000 clients, and with 20,000 prefixes.
    PerPacket,
    /// Allocations per packet.
    Allocations,
}

fn gauges() -> Gauges {
    Gauges {
        heap: || {
            let stats = ALLOCATOR.stats();
            Heap {
                allocations: (stats.allocations + stats.reallocations) as u64,
                live: stats.bytes_allocated as i64 - stats.bytes_deallocated as i64,
            }
        },
        // Not the time of day: others use the machine, too.
        clock: || {
            let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
        },
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    let parts = match args.parts.as_slice() {
        [] => Part::value_variants(),
        some => some,
    };
    let mut results = serde_json::Map::new();
    for &part in parts {
        let name = part
            .to_possible_value()
            .map(|value| value.get_name().to_owned());
        let name = name.unwrap_or_default();
        println!("{name}");
        let result = measure(part, args)?;
        table(&result);
        results.insert(name, result);
    }
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_vec_pretty(&results)?)?;
    }
    Ok(())
}

fn measure(part: Part, args: &Args) -> Result<Value, FleetError> {
    let many = args.clients.unwrap_or(10_000);
    let tls = if args.null {
        Crypto::Null
    } else {
        Crypto::Real
    };
    let plan = Plan {
        clients: many,
        crypto: tls,
        limits: limits_for(many),
        ..Plan::default()
    };
    Ok(match part {
        Part::Idle => json!(idle::idle(plan, gauges(), Duration::from_secs(60))?),
        Part::Fairness => {
            let clients = args.clients.unwrap_or(500);
            let limits = limits_for(clients);
            let mut rows = Vec::new();
            for demand in [1.2, 4.0] {
                let plan = Plan {
                    clients,
                    crypto: Crypto::Null,
                    egress: Some(1_000_000_000),
                    limits: limits.clone(),
                    ..Plan::default()
                };
                let time = Duration::from_secs(3);
                let row = fairness::fairness(plan, gauges(), demand, time)?;
                rows.push(json!({"demand": demand, "result": row}));
            }
            json!(rows)
        }
        Part::Storm => {
            let there = (many / 100).max(1);
            let plan = Plan {
                clients: many + there,
                cost: Cost::Measured,
                reconnect: Some(Duration::from_secs(1)),
                limits: Limits {
                    max_connections: (many + there) * 2,
                    ..Limits::default()
                },
                ..plan
            };
            json!(storm::storm(
                plan,
                gauges(),
                there,
                Duration::from_millis(100)
            )?)
        }
        Part::Handshake => {
            let plan = Plan {
                clients: 500,
                ..plan
            };
            let before = Warm::new(
                Plan {
                    clients: 0,
                    ..plan.clone()
                },
                gauges(),
            )?;
            let before = before.meter().time;
            let after = Warm::new(plan.clone(), gauges())?.meter();
            let each = |time: Duration| time.as_secs_f64() * 1e6 / plan.clients as f64;
            let null = Plan {
                crypto: Crypto::Null,
                ..plan.clone()
            };
            let ours = Warm::new(null, gauges())?.meter();
            json!({
                "handshakes": plan.clients,
                "server_us": each(after.time.saturating_sub(before)),
                "without_tls_us": each(ours.time.saturating_sub(before)),
                "allocations": after.allocations as f64 / plan.clients as f64,
                "sent": after.sent as f64 / plan.clients as f64,
            })
        }
        Part::Setup => {
            let mut rows = Vec::new();
            for (name, retry) in [("cold", false), ("after a Retry", true)] {
                let mut plan = Plan {
                    clients: 1,
                    ..plan.clone()
                };
                if retry {
                    plan.limits.retry_threshold = 0;
                }
                rows.push(json!({"how": name, "result": setup::setup(plan, gauges())?}));
            }
            json!(rows)
        }
        Part::PerPacket => json!(per_packet(many)?),
        Part::Allocations => {
            let mut rows = Vec::new();
            let mut warm = Warm::new(Plan { clients: 1, ..plan }, gauges())?;
            for way in [Way::Up, Way::Down] {
                warm.run(way, 1, 4_000)?;
                rows.push(warm.run(way, 1, 16_000)?);
            }
            json!(rows)
        }
    })
}

/// The fleets take turns, so that whatever else the machine does hits all alike; of each the fastest
/// run counts. The last fleet is one client of a server with ten thousand static assignments and as
/// many denied prefixes.
fn per_packet(many: usize) -> Result<Vec<Value>, FleetError> {
    let mut fleets = Vec::new();
    for (clients, prefixes) in [(1, 0), (100, 0), (many, 0), (1, 2 * PREFIXES)] {
        let plan = Plan {
            clients,
            limits: limits_for(clients),
            change_server: if prefixes > 0 { add_prefixes } else { |_| {} },
            // Between bursts time passes: what idle tunnels cost is measured elsewhere.
            one_way: Duration::from_micros(200),
            transport: TransportProfile {
                keep_alive: None,
                idle_timeout: Duration::from_secs(3_600),
                ..TransportProfile::default()
            },
            ..Plan::default()
        };
        fleets.push((prefixes, Warm::new(plan, gauges())?));
    }
    let mut best: Vec<(usize, Steady)> = Vec::new();
    for _ in 0..5 {
        for (prefixes, warm) in &mut fleets {
            let clients = warm.clients();
            let actives = if clients > 1 {
                vec![1, clients]
            } else {
                vec![1]
            };
            for way in [Way::Up, Way::Down] {
                for &active in &actives {
                    let row = warm.run(way, active, 4_096.max(active as u64 * 16))?;
                    let same = best.iter_mut().find(|(others, seen)| {
                        let key = |row: &Steady| (row.clients, row.active, row.way);
                        *others == *prefixes && key(seen) == key(&row)
                    });
                    match same {
                        None => best.push((*prefixes, row)),
                        Some((_, seen)) if row.nanoseconds < seen.nanoseconds => *seen = row,
                        Some(_) => {}
                    }
                }
            }
        }
    }
    let rows = best.into_iter();
    let rows = rows.map(|(prefixes, row)| json!({"prefixes": prefixes, "result": row}));
    Ok(rows.collect())
}

const PREFIXES: usize = 10_000;

fn add_prefixes(server: &mut ServerConfig) {
    for number in 0..PREFIXES {
        let (high, low) = ((number >> 8) as u8, number as u8);
        server.statics.push(StaticAssignment {
            identity: Identity(format!("urn:masque:static-{number}")),
            addresses: vec![IpPrefix::host([172, 16, high, low].into())],
        });
        let denied = IpPrefix::host([198, 18, high, low].into());
        server.access.deny.push(denied);
    }
}

/// One line per number.
fn table(value: &Value) {
    match value {
        Value::Array(rows) => {
            for row in rows {
                line(row);
            }
        }
        Value::Object(_) => {
            if let Value::Object(entries) = value {
                for (name, value) in entries {
                    println!("  {name:24} {}", short(value));
                }
            }
        }
        other => println!("  {other}"),
    }
}

fn line(row: &Value) {
    let mut words = Vec::new();
    flatten(row, &mut words);
    println!("  {}", words.join("  "));
}

fn flatten(value: &Value, words: &mut Vec<String>) {
    let Value::Object(entries) = value else {
        return;
    };
    for (name, value) in entries {
        match value {
            Value::Object(_) => flatten(value, words),
            other => words.push(format!("{name} {}", short(other))),
        }
    }
}

fn short(value: &Value) -> String {
    match value.as_f64().filter(|_| value.is_f64()) {
        Some(number) => format!("{number:.3}"),
        None => value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned),
    }
}
