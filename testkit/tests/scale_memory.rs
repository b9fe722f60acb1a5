//! What an idle tunnel keeps. One test, because the counting allocator counts the whole process.

use std::alloc::System;
use std::time::Duration;

use masque_testkit::scale::{Gauges, Heap, Plan, idle};
use masque_testkit::scenario::Crypto;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn heap() -> Heap {
    let stats = ALLOCATOR.stats();
    Heap {
        allocations: (stats.allocations + stats.reallocations) as u64,
        live: stats.bytes_allocated as i64 - stats.bytes_deallocated as i64,
    }
}

fn bytes_of(clients: usize) -> f64 {
    let plan = Plan {
        clients,
        crypto: Crypto::Real,
        ..Plan::default()
    };
    let gauges = Gauges {
        heap,
        ..Gauges::default()
    };
    let idle = idle::idle(plan, gauges, Duration::from_secs(30)).expect("all stay up");
    idle.bytes * clients as f64
}

/// With TLS and a client certificate, some time after both directions were loaded. What a server has
/// once does not count: the difference between two numbers of clients does.
#[test]
fn an_idle_tunnel_keeps_no_more_than_27_kilobytes() {
    let (few, many) = (20, 100);
    let each = (bytes_of(many) - bytes_of(few)) / (many - few) as f64;
    assert!((8_000.0..27_000.0).contains(&each), "{each} bytes");
}
