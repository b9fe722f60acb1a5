//! What the machine and single processes have used.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

/// Clock ticks per second in /proc: a constant of Linux's interface.
const TICKS: f64 = 100.0;

/// CPU seconds up to now.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Used {
    /// Of the whole machine, everything but idling.
    pub machine: f64,
    /// Of the tunnel's client.
    pub client: f64,
    /// Of the tunnel's server.
    pub server: f64,
}

impl Used {
    /// Up to now, for a tunnel whose ends are these processes.
    #[must_use]
    pub fn now(client: &[u32], server: &[u32]) -> Self {
        let sum = |pids: &[u32]| pids.iter().map(|pid| of_process(*pid)).sum();
        Self {
            machine: of_machine(),
            client: sum(client),
            server: sum(server),
        }
    }

    /// Since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            machine: self.machine - before.machine,
            client: self.client - before.client,
            server: self.server - before.server,
        }
    }
}

fn of_machine() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<f64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal; guest time is inside user.
    let busy = fields.iter().take(8).sum::<f64>()
        - fields.get(3).unwrap_or(&0.0)
        - fields.get(4).unwrap_or(&0.0);
    busy / TICKS
}

/// User and system time of all threads, and of children waited for.
fn of_process(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let behind_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    behind_name
        .split_whitespace()
        .skip(11)
        .take(4)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum::<f64>()
        / TICKS
}

/// Resident bytes of some processes.
#[must_use]
pub fn resident(pids: &[u32]) -> f64 {
    let page = rustix::param::page_size() as f64;
    let pages = |pid: &u32| {
        let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
        let resident = statm.split_whitespace().nth(1)?.parse::<f64>().ok()?;
        Some(resident * page)
    };
    pids.iter().filter_map(pages).sum()
}

/// Waits until nothing else uses the CPUs; `false` if that does not come within `limit`.
#[must_use]
pub fn quiet(limit: Duration) -> bool {
    let end = Instant::now() + limit;
    loop {
        let before = of_machine();
        thread::sleep(Duration::from_millis(400));
        if of_machine() - before < 0.06 {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
    }
}
