//! The traffic: small programs that run inside the namespaces, each a hidden command of this one.
//!
//! Each prints one line of JSON at its end.

mod bulk;
mod element;
mod ping;
mod stream;
mod tcp;
mod udp;
mod voice;

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use clap::Subcommand;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::error::Error;

pub use bulk::{BulkArgs, BulkResult};
pub use element::{Did, ElementArgs, ElementReport, Order};
pub use voice::{VoiceArgs, VoiceResult};

/// What is told over time is told so often.
pub const SLOT: Duration = Duration::from_millis(100);

/// The traffic's programs.
#[derive(Clone, Debug, Subcommand)]
pub enum Probe {
    /// Take TCP streams until told to stop.
    TcpServe {
        /// Where.
        listen: SocketAddr,
    },
    /// Run TCP streams.
    Tcp {
        /// To whom.
        server: SocketAddr,
        /// How many.
        #[arg(long)]
        streams: usize,
        /// From the server.
        #[arg(long)]
        down: bool,
        /// How long.
        #[arg(long)]
        secs: f64,
        /// How much of the beginning is not measured.
        #[arg(long)]
        omit: f64,
    },
    /// Count UDP packets.
    UdpCount {
        /// Where.
        listen: SocketAddr,
    },
    /// Send UDP packets at a rate.
    UdpSend {
        /// To whom.
        to: SocketAddr,
        /// Bytes of payload.
        #[arg(long)]
        size: usize,
        /// Packets per second.
        #[arg(long)]
        rate: f64,
        /// How long.
        #[arg(long)]
        secs: f64,
        /// Sleep between packets instead of spinning.
        #[arg(long)]
        sleep: bool,
    },
    /// Ping at an interval.
    Ping {
        /// Whom.
        to: Ipv4Addr,
        /// How often.
        #[arg(long)]
        count: u32,
        /// Seconds between two.
        #[arg(long)]
        interval: f64,
    },
    /// Take the TCP streams of one run.
    BulkServe(BulkArgs),
    /// Run TCP streams, and say what arrived when.
    Bulk(BulkArgs),
    /// Talk to whoever says hello.
    VoiceServe(VoiceArgs),
    /// Talk.
    Voice(VoiceArgs),
    /// Be a bad network.
    Element(ElementArgs),
    /// Ping until the first answer.
    First {
        /// Whom.
        to: Ipv4Addr,
        /// How long at most, in seconds.
        #[arg(long)]
        limit: f64,
    },
}

/// What a TCP run gave.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct TcpResult {
    /// Bytes received behind the omitted beginning.
    pub bytes: u64,
    /// In so many seconds.
    pub secs: f64,
    /// Bytes received in all.
    pub total: u64,
}

/// What a sender of UDP packets did.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct SendResult {
    /// Packets sent.
    pub sent: u64,
    /// In so many seconds.
    pub secs: f64,
}

/// What a counter of UDP packets saw.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct CountResult {
    /// Packets received.
    pub received: u64,
    /// Of them, out of order.
    pub reordered: u64,
    /// One-way delay in microseconds: median.
    pub delay_p50: f64,
    /// 99th percentile.
    pub delay_p99: f64,
}

/// What a ping run gave.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct PingResult {
    /// Requests sent.
    pub sent: u32,
    /// Round trips of those answered, in milliseconds.
    pub millis: Vec<f64>,
}

/// When the first answer came, on the monotonic clock.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct FirstResult {
    /// Nanoseconds; `None`: no answer.
    pub at: Option<u64>,
}

/// Runs one.
///
/// # Errors
/// What the system says.
pub fn run(probe: &Probe) -> Result<(), Error> {
    let secs = Duration::from_secs_f64;
    match *probe {
        Probe::BulkServe(ref args) => bulk::serve(args),
        Probe::Bulk(ref args) => bulk::run(args),
        Probe::VoiceServe(ref args) => voice::serve(args),
        Probe::Voice(ref args) => voice::run(args),
        Probe::Element(ref args) => element::run(args),
        Probe::TcpServe { listen } => tcp::serve(listen),
        Probe::Tcp {
            server,
            streams,
            down,
            secs,
            omit,
        } => print(&tcp::run(server, streams, down, secs, omit)?),
        Probe::UdpCount { listen } => udp::count(listen),
        Probe::UdpSend {
            to,
            size,
            rate,
            secs: length,
            sleep,
        } => print(&udp::send(to, size, rate, secs(length), sleep)?),
        Probe::Ping {
            to,
            count,
            interval,
        } => print(&ping::run(to, count, secs(interval))?),
        Probe::First { to, limit } => print(&ping::first(to, secs(limit))?),
    }
}

fn print<T: Serialize>(result: &T) -> Result<(), Error> {
    let text = serde_json::to_string(result).map_err(|error| Error::Probe(error.to_string()))?;
    println!("{text}");
    Ok(())
}

/// Nanoseconds on the clock that all namespaces share.
#[must_use]
pub fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Sleeps until a moment on that clock.
fn sleep_until(at: u64) {
    thread::sleep(Duration::from_nanos(at.saturating_sub(monotonic())));
}
