//! A bad network between two good ones: a router that treats packets as a profile says.
//!
//! Policy routes lead what comes in through some devices into one TUN device for each direction, where the
//! kernel has cut super-packets into real ones. Each is held until the moment at which
//! [`Direction`] lets it go, the same code that simulations run on; what is written back is forwarded
//! by the main table.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::fd::AsFd;
use std::time::Duration;

use clap::Args;
use masque_adapter_kit::tun::{TunConfig, TunDevice};
use masque_testkit::seed::Seed;
use masque_testkit::traffic::profile;
use masque_testkit::world::{Direction, LinkStats};
use nix::sys::prctl;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use serde::{Deserialize, Serialize};

use super::monotonic;
use crate::error::Error;
use crate::lab;
use crate::samples::quantile;

/// More than any profile holds for a moment.
const DEVICE_QUEUE: u32 = 4_000;
/// Read at a time, so that what is due does not wait.
const BATCH: usize = 32;
/// Lateness kept for its distribution.
const KEPT: usize = 1 << 21;

/// What it does.
#[derive(Clone, Debug, Args)]
pub struct ElementArgs {
    /// The profile.
    #[arg(long)]
    pub profile: String,
    /// What decides luck.
    #[arg(long)]
    pub seed: u64,
    /// Devices whose packets go up.
    #[arg(long, value_delimiter = ',')]
    pub up: Vec<String>,
    /// Devices whose packets go down.
    #[arg(long, value_delimiter = ',')]
    pub down: Vec<String>,
}

/// What it is told, each in a line of JSON on its standard input. It answers each with an
/// [`ElementReport`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Begin anew with a seed; counters, too. What is on its way arrives.
    Begin(u64),
    /// Nothing passes, or everything again.
    Outage(bool),
    /// Only answer.
    Report,
}

/// What it did in one direction, in packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Did {
    /// Came in.
    pub packets: u64,
    /// Lost at random.
    pub lost: u64,
    /// Found the queue full.
    pub queue_full: u64,
    /// Larger than the MTU.
    pub too_big: u64,
    /// Came in an outage.
    pub outage: u64,
}

/// What it did since the last beginning.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct ElementReport {
    /// From the client to the server.
    pub up: Did,
    /// From the server to the client.
    pub down: Did,
    /// How late packets left, in microseconds: median.
    pub late_p50_us: f64,
    /// 99th percentile.
    pub late_p99_us: f64,
    /// The latest.
    pub late_most_us: f64,
    /// Packets the kernel had no room for in front of it, or did not take back.
    pub overrun: u64,
}

impl ElementReport {
    /// Whether its own lateness, or the kernel's, is part of what was measured.
    #[must_use]
    pub fn is_disturbed(&self) -> bool {
        self.late_p99_us > LATE_US || self.overrun > 0
    }
}

/// As much as this is less than what anybody can tell from a profile's jitter.
const LATE_US: f64 = 500.0;

/// A packet that waits for its moment. Ordered by it, then by number.
#[derive(PartialEq, Eq)]
struct Waiting {
    at: u64,
    number: u64,
    way: usize,
    packet: Vec<u8>,
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The names of both ways: of their luck, their device and their table.
const WAYS: [(&str, &str, &str); 2] = [("up", "mqbup", "101"), ("down", "mqbdown", "102")];

struct Element {
    profile: profile::Profile,
    begun: u64,
    directions: [Direction; 2],
    devices: [TunDevice; 2],
    waiting: BinaryHeap<Reverse<Waiting>>,
    spare: Vec<Vec<u8>>,
    number: u64,
    late_us: Vec<f64>,
    refused: u64,
    /// Dropped before the last beginning.
    dropped_before: u64,
}

fn directions(profile: profile::Profile, seed: u64) -> [Direction; 2] {
    let seed = Seed::new(seed);
    WAYS.map(|(name, _, _)| Direction::new(profile.link, &seed, name))
}

/// Runs until its input ends.
pub(super) fn run(args: &ElementArgs) -> Result<(), Error> {
    let profile = profile::named(&args.profile)
        .ok_or_else(|| Error::Usage(format!("no profile {:?}", args.profile)))?;
    // The kernel may otherwise add 50 µs to each wait.
    let _ = prctl::set_timerslack(1);
    let device = |name: &str| {
        TunDevice::create(&TunConfig {
            name: Some(name.to_owned()),
            mtu: 1500,
            offload: false,
            queue: Some(DEVICE_QUEUE),
            up: true,
        })
        .map_err(Error::system(name))
    };
    let devices = [device(WAYS[0].1)?, device(WAYS[1].1)?];
    for ((_, device, table), inputs) in WAYS.iter().zip([&args.up, &args.down]) {
        lab::run(
            "ip",
            &["route", "add", "default", "dev", device, "table", table],
        )?;
        for input in inputs {
            lab::run("ip", &["rule", "add", "iif", input, "lookup", table])?;
        }
    }
    let mut element = Element {
        profile,
        begun: monotonic(),
        directions: directions(profile, args.seed),
        devices,
        waiting: BinaryHeap::new(),
        spare: Vec::new(),
        number: 0,
        late_us: Vec::new(),
        refused: 0,
        dropped_before: 0,
    };
    element.dropped_before = element.dropped();
    super::print(&"listening")?;
    element.serve().map_err(Error::system("the element"))
}

impl Element {
    fn serve(&mut self) -> io::Result<()> {
        let mut orders = BufReader::new(io::stdin());
        loop {
            self.let_go();
            let now = monotonic();
            let next = self.waiting.peek().map(|Reverse(next)| next.at);
            let wait = next.map(|next| {
                let nanos = next.saturating_sub(now);
                Timespec {
                    tv_sec: (nanos / 1_000_000_000) as i64,
                    tv_nsec: (nanos % 1_000_000_000) as i64,
                }
            });
            let input = io::stdin();
            let mut polled = [
                PollFd::from_borrowed_fd(self.devices[0].as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.devices[1].as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(input.as_fd(), PollFlags::IN),
            ];
            match poll(&mut polled, wait.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let ready = polled.map(|polled| !polled.revents().is_empty());
            for (way, ready) in ready.into_iter().take(2).enumerate() {
                if ready {
                    self.take(way)?;
                }
            }
            if ready[2] {
                let mut line = String::new();
                if orders.read_line(&mut line)? == 0 {
                    return Ok(());
                }
                let order = serde_json::from_str(&line).map_err(io::Error::other)?;
                self.obey(order)?;
            }
        }
    }

    /// Takes what has come in.
    fn take(&mut self, way: usize) -> io::Result<()> {
        for _ in 0..BATCH {
            let mut packet = self.spare.pop().unwrap_or_default();
            packet.resize(2048, 0);
            let size = match rustix::io::read(&self.devices[way], &mut packet) {
                Ok(size) => size,
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {
                    self.spare.push(packet);
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            };
            packet.truncate(size);
            // What the devices say of themselves is not traffic.
            if packet.first().is_some_and(|first| first >> 4 != 4) {
                self.spare.push(packet);
                continue;
            }
            let now = Duration::from_nanos(monotonic().saturating_sub(self.begun));
            let Some(delivery) = self.directions[way].send(now, size) else {
                self.spare.push(packet);
                continue;
            };
            if let Some(again) = delivery.again {
                self.hold(way, again, packet.clone());
            }
            self.hold(way, delivery.at, packet);
        }
        Ok(())
    }

    fn hold(&mut self, way: usize, at: Duration, packet: Vec<u8>) {
        self.number += 1;
        self.waiting.push(Reverse(Waiting {
            at: self.begun + at.as_nanos() as u64,
            number: self.number,
            way,
            packet,
        }));
    }

    /// Lets go what is due.
    fn let_go(&mut self) {
        let mut now = monotonic();
        while let Some(Reverse(next)) = self.waiting.peek()
            && next.at <= now
        {
            let Some(Reverse(next)) = self.waiting.pop() else {
                return;
            };
            let written = rustix::io::write(&self.devices[next.way], &next.packet);
            self.refused += u64::from(written.is_err());
            if self.late_us.len() < KEPT {
                self.late_us.push(now.saturating_sub(next.at) as f64 / 1e3);
            }
            self.spare.push(next.packet);
            now = monotonic();
        }
    }

    fn obey(&mut self, order: Order) -> io::Result<()> {
        match order {
            Order::Begin(seed) => {
                self.directions = directions(self.profile, seed);
                self.begun = monotonic();
                self.late_us.clear();
                self.refused = 0;
                self.dropped_before = self.dropped();
            }
            Order::Outage(outage) => {
                for direction in &mut self.directions {
                    direction.configure(|link| link.up = !outage);
                }
            }
            Order::Report => {}
        }
        super::print(&self.report()).map_err(io::Error::other)
    }

    fn report(&mut self) -> ElementReport {
        self.late_us.sort_by(f64::total_cmp);
        let late = |share| quantile(&self.late_us, share).unwrap_or(0.0);
        let did = |stats: LinkStats| Did {
            packets: stats.sent,
            lost: stats.lost,
            queue_full: stats.queue_full,
            too_big: stats.too_big,
            outage: stats.down,
        };
        ElementReport {
            up: did(self.directions[0].stats()),
            down: did(self.directions[1].stats()),
            late_p50_us: late(0.5),
            late_p99_us: late(0.99),
            late_most_us: late(1.0),
            overrun: self.dropped().saturating_sub(self.dropped_before) + self.refused,
        }
    }

    /// What the kernel has dropped in front of the devices since they were made.
    fn dropped(&self) -> u64 {
        let dropped = |device: &TunDevice| {
            let path = format!("/sys/class/net/{}/statistics/tx_dropped", device.name());
            let text = fs::read_to_string(path).unwrap_or_default();
            text.trim().parse().unwrap_or(0)
        };
        self.devices.iter().map(dropped).sum()
    }
}
