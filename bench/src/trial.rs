//! The tests.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::lab::{Process, Space};
use crate::meter::{Used, resident};
use crate::probe::{CountResult, PingResult, SendResult, TcpResult};
use crate::samples::quantile;
use crate::subject::{Role, Subject, Tunnel, probe};

const TCP_PORT: u16 = 5201;
const UDP_PORT: u16 = 5300;

/// Not measured at the beginning of a TCP test: slow start.
const OMIT: f64 = 1.0;
/// What counts as lossless.
const LOSS: f64 = 0.001;
/// The sender must have kept the rate it was asked for that well.
const KEPT: f64 = 0.97;
/// Bisection ends when the rate is known that well.
const PRECISION: f64 = 1.04;
/// Between these rates a limit is looked for, in packets per second.
const RATES: (f64, f64) = (5_000.0, 2_000_000.0);
/// The factor by which the rate grows before a limit is known.
const GROWTH: f64 = 1.5;

/// A test.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Test {
    /// From the start of the client to the first answer.
    Startup,
    /// Round trips of an idle tunnel.
    Ping,
    /// TCP streams, with pings beside them.
    Tcp {
        /// How many.
        streams: usize,
        /// From the server to the client.
        down: bool,
    },
    /// A TCP stream of each of two clients at the same time: what a server with several shards is for. Not
    /// among [`Test::ALL`].
    Clients {
        /// From the server to the clients.
        down: bool,
    },
    /// The highest rate at which UDP packets are not lost.
    Pps {
        /// Bytes of payload.
        size: usize,
    },
    /// What the ends hold in memory, after everything before it.
    Memory,
}

impl Test {
    /// All, in the order in which they are run.
    pub const ALL: [Self; 9] = [
        Self::Startup,
        Self::Ping,
        Self::tcp(1, false),
        Self::tcp(1, true),
        Self::tcp(4, false),
        Self::tcp(4, true),
        Self::Pps { size: 64 },
        Self::Pps { size: 1200 },
        Self::Memory,
    ];

    /// Without the search for packet rates, which takes longest.
    pub const QUICK: [Self; 4] = [Self::Startup, Self::Ping, Self::tcp(1, false), Self::Memory];

    const fn tcp(streams: usize, down: bool) -> Self {
        Self::Tcp { streams, down }
    }

    /// About how long it takes.
    #[must_use]
    pub fn estimate(self, secs: f64) -> f64 {
        match self {
            Self::Startup => 0.1,
            Self::Memory => REST.as_secs_f64(),
            Self::Ping => 2.5,
            Self::Tcp { .. } => secs + 2.0,
            Self::Clients { .. } => secs + 3.0,
            Self::Pps { .. } => 14.0 * (step(secs) + 0.5),
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Startup => f.write_str("startup"),
            Self::Ping => f.write_str("ping"),
            Self::Tcp { streams, down } => {
                write!(f, "tcp_{streams}_{}", if *down { "down" } else { "up" })
            }
            Self::Clients { down } => {
                write!(f, "clients_2_{}", if *down { "down" } else { "up" })
            }
            Self::Pps { size } => write!(f, "pps_{size}"),
            Self::Memory => f.write_str("memory"),
        }
    }
}

impl FromStr for Test {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str, most: usize| {
            let number = text.parse().ok();
            number.filter(|number| (1..=most).contains(number))
        };
        let parts: Vec<&str> = text.split('_').collect();
        let test = match parts[..] {
            ["startup"] => Some(Self::Startup),
            ["ping"] => Some(Self::Ping),
            ["memory"] => Some(Self::Memory),
            ["tcp", streams, way @ ("up" | "down")] => {
                number(streams, 256).map(|streams| Self::Tcp {
                    streams,
                    down: way == "down",
                })
            }
            ["clients", "2", way @ ("up" | "down")] => Some(Self::Clients {
                down: way == "down",
            }),
            ["pps", size] => number(size, 1_400).map(|size| Self::Pps { size }),
            _ => None,
        };
        test.ok_or_else(|| {
            format!(
                "{text:?} is not a test: startup, ping, tcp_N_up, tcp_N_down, clients_2_up, \
                 clients_2_down, pps_BYTES, memory"
            )
        })
    }
}

/// How tests are run.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Seconds of each TCP test.
    pub secs: f64,
    /// The UDP sender sleeps between packets instead of spinning.
    pub sleep: bool,
}

/// What a test gave.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// By name.
    pub values: BTreeMap<String, f64>,
    /// Round trips in milliseconds.
    pub round_trips: Vec<f64>,
}

impl Outcome {
    fn set(&mut self, name: &str, value: f64) {
        self.values.insert(name.to_owned(), value);
    }

    fn set_round_trips(&mut self, prefix: &str, pings: PingResult) {
        let mut millis = pings.millis;
        let lost = f64::from(pings.sent) - millis.len() as f64;
        millis.sort_by(f64::total_cmp);
        for (name, share) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)] {
            if let Some(value) = quantile(&millis, share) {
                self.set(&format!("{prefix}_{name}_ms"), value);
            }
        }
        self.set(&format!("{prefix}_lost"), lost);
        self.round_trips = millis;
    }
}

/// How long a tunnel rests before its memory is looked at: what load leaves, not what it takes.
const REST: Duration = Duration::from_secs(3);

/// Runs one test through a tunnel that is up.
///
/// # Errors
/// What went wrong; the tunnel may be dead.
pub fn run(
    test: Test,
    subject: &dyn Subject,
    tunnel: &mut Tunnel<'_>,
    settings: Settings,
) -> Result<Outcome, Error> {
    let mut outcome = Outcome::default();
    match test {
        Test::Startup => {
            if let Some(time) = tunnel.start_up {
                outcome.set("startup_ms", time.as_secs_f64() * 1e3);
            }
        }
        Test::Memory => {
            std::thread::sleep(REST);
            for (role, name) in [(Role::Client, "client"), (Role::Server, "server")] {
                let processes = tunnel.processes(role);
                if !processes.is_empty() {
                    outcome.set(&format!("rss_{name}_mb"), resident(&processes) / 1e6);
                }
            }
        }
        Test::Ping => {
            let pings: PingResult = finish(ping(subject, tunnel, 400, 0.005)?, 10.0)?;
            outcome.set_round_trips("rtt", pings);
        }
        Test::Tcp { streams, down } => {
            outcome = tcp(subject, tunnel, streams, down, settings.secs)?;
        }
        Test::Clients { down } => outcome = clients(subject, tunnel, down, settings.secs)?,
        Test::Pps { size } => outcome = pps(subject, tunnel, size, settings)?,
    }
    Ok(outcome)
}

fn ping(
    subject: &dyn Subject,
    tunnel: &Tunnel<'_>,
    count: u32,
    interval: f64,
) -> Result<Process, Error> {
    let mut command = probe(tunnel.lab, Space::Client)?;
    command.args(["ping", &subject.server().to_string()]);
    command.args(["--count", &count.to_string()]);
    command.args(["--interval", &interval.to_string()]);
    Process::start(&mut command)
}

/// Starts a probe on the server's side and waits until it listens.
fn listener(
    tunnel: &Tunnel<'_>,
    arguments: &[&str],
) -> Result<(Process, impl Read + use<>), Error> {
    let mut command: Command = probe(tunnel.lab, Space::Server)?;
    let mut process = Process::start(command.args(arguments))?;
    let missing = || Error::Probe("no output".to_owned());
    let mut out = BufReader::new(process.child().stdout.take().ok_or_else(missing)?);
    let mut line = String::new();
    out.read_line(&mut line)
        .map_err(Error::system("reading from a probe"))?;
    match line.trim() {
        "\"listening\"" => Ok((process, out)),
        said => Err(Error::Probe(format!(
            "{arguments:?} does not listen: {said}"
        ))),
    }
}

fn finish<T: DeserializeOwned>(mut process: Process, secs: f64) -> Result<T, Error> {
    let ended = process
        .wait(Duration::from_secs_f64(secs))
        .map_err(Error::system("waiting for a probe"))?;
    if ended.is_none() {
        return Err(Error::Timeout("a probe".to_owned()));
    }
    let missing = || Error::Probe("no output".to_owned());
    parse(process.child().stdout.take().ok_or_else(missing)?)
}

fn parse<T: DeserializeOwned>(mut out: impl Read) -> Result<T, Error> {
    let mut text = String::new();
    out.read_to_string(&mut text)
        .map_err(Error::system("reading from a probe"))?;
    serde_json::from_str(&text).map_err(|error| Error::Probe(format!("{error}: {text:?}")))
}

fn tcp(
    subject: &dyn Subject,
    tunnel: &Tunnel<'_>,
    streams: usize,
    down: bool,
    secs: f64,
) -> Result<Outcome, Error> {
    let address = format!("{}:{TCP_PORT}", subject.server());
    let (_server, _out) = listener(tunnel, &["tcp-serve", &address])?;
    let (client, server) = (
        tunnel.processes(Role::Client),
        tunnel.processes(Role::Server),
    );
    let before = Used::now(&client, &server);
    let mut command = probe(tunnel.lab, Space::Client)?;
    command.args(["tcp", &address, "--streams", &streams.to_string()]);
    command.args(["--secs", &secs.to_string(), "--omit", &OMIT.to_string()]);
    if down {
        command.arg("--down");
    }
    let flow = Process::start(&mut command)?;
    let interval = 0.02;
    let pings = ping(subject, tunnel, (secs / interval) as u32, interval)?;
    let result: TcpResult = finish(flow, secs + OMIT + 20.0)?;
    let used = Used::now(&client, &server).since(before);
    let pings: PingResult = finish(pings, 10.0)?;
    if result.bytes == 0 {
        return Err(Error::Probe("no byte arrived".to_owned()));
    }
    let mut outcome = Outcome::default();
    outcome.set("gbit_per_s", result.bytes as f64 * 8e-9 / result.secs);
    let gigabytes = result.total as f64 / 1e9;
    outcome.set("cpu_machine_s_per_gb", used.machine / gigabytes);
    if !client.is_empty() {
        outcome.set("cpu_client_s_per_gb", used.client / gigabytes);
        outcome.set("cpu_server_s_per_gb", used.server / gigabytes);
    }
    outcome.set_round_trips("loaded_rtt", pings);
    Ok(outcome)
}

/// A stream of each of two clients.
fn clients(
    subject: &dyn Subject,
    tunnel: &mut Tunnel<'_>,
    down: bool,
    secs: f64,
) -> Result<Outcome, Error> {
    if !tunnel.has_second() {
        subject.start_second(tunnel)?;
    }
    let address = format!("{}:{TCP_PORT}", subject.server());
    let (_server, _out) = listener(tunnel, &["tcp-serve", &address])?;
    let (client, server) = (
        tunnel.processes(Role::Client),
        tunnel.processes(Role::Server),
    );
    let before = Used::now(&client, &server);
    let mut flows = Vec::new();
    for space in [Space::Client, Space::Second] {
        let mut command = probe(tunnel.lab, space)?;
        command.args(["tcp", &address, "--streams", "1"]);
        command.args(["--secs", &secs.to_string(), "--omit", &OMIT.to_string()]);
        if down {
            command.arg("--down");
        }
        flows.push(Process::start(&mut command)?);
    }
    let (mut rate, mut total) = (0.0, 0.0);
    for flow in flows {
        let result: TcpResult = finish(flow, secs + OMIT + 20.0)?;
        if result.bytes == 0 {
            return Err(Error::Probe("no byte arrived".to_owned()));
        }
        rate += result.bytes as f64 * 8e-9 / result.secs;
        total += result.total as f64 / 1e9;
    }
    let used = Used::now(&client, &server).since(before);
    let mut outcome = Outcome::default();
    outcome.set("gbit_per_s", rate);
    outcome.set("cpu_machine_s_per_gb", used.machine / total);
    outcome.set("cpu_client_s_per_gb", used.client / total);
    outcome.set("cpu_server_s_per_gb", used.server / total);
    Ok(outcome)
}

/// How long one rate is tried.
fn step(secs: f64) -> f64 {
    (secs / 4.0).clamp(0.4, 1.0)
}

/// The highest rate at which at most one packet of a thousand is lost.
fn pps(
    subject: &dyn Subject,
    tunnel: &Tunnel<'_>,
    size: usize,
    settings: Settings,
) -> Result<Outcome, Error> {
    let mut outcome = Outcome::default();
    let mut passes = |rate: f64| -> Result<bool, Error> {
        // One more try: a hiccup is not a limit.
        for _ in 0..2 {
            let step = packets(subject, tunnel, size, rate, settings)?;
            if step.loss <= LOSS && step.offered >= rate * KEPT {
                outcome.set("lossless_pps", step.offered * (1.0 - step.loss));
                outcome.set("delay_p50_us", step.delay_p50);
                outcome.set("delay_p99_us", step.delay_p99);
                outcome.set("cpu_machine_us_per_packet", step.cpu);
                return Ok(true);
            }
        }
        Ok(false)
    };
    let (mut good, mut bad) = (RATES.0, RATES.1);
    if !passes(good)? {
        outcome.set("lossless_pps", 0.0);
        return Ok(outcome);
    }
    let mut rate = good * 8.0;
    loop {
        let fine = passes(rate)?;
        match fine {
            true => good = rate,
            false => bad = rate,
        }
        if bad / good <= PRECISION {
            break;
        }
        // Nothing failed yet: grow; otherwise halve what is not known, on a logarithmic scale.
        rate = match bad < RATES.1 {
            true => (good * bad).sqrt(),
            false => (good * GROWTH).min(RATES.1),
        };
    }
    Ok(outcome)
}

struct Step {
    offered: f64,
    loss: f64,
    delay_p50: f64,
    delay_p99: f64,
    cpu: f64,
}

fn packets(
    subject: &dyn Subject,
    tunnel: &Tunnel<'_>,
    size: usize,
    rate: f64,
    settings: Settings,
) -> Result<Step, Error> {
    let secs = step(settings.secs);
    let address = format!("{}:{UDP_PORT}", subject.server());
    let (mut counter, out) = listener(tunnel, &["udp-count", &address])?;
    let before = Used::now(&[], &[]);
    let mut command = probe(tunnel.lab, Space::Client)?;
    command.args(["udp-send", &address, "--size", &size.to_string()]);
    command.args(["--rate", &rate.to_string(), "--secs", &secs.to_string()]);
    if settings.sleep {
        command.arg("--sleep");
    }
    let sent: SendResult = finish(Process::start(&mut command)?, secs + 10.0)?;
    let used = Used::now(&[], &[]).since(before);
    let ended = counter
        .wait(Duration::from_secs(15))
        .map_err(Error::system("waiting for a probe"))?;
    if ended.is_none() {
        return Err(Error::Timeout("the counter of packets".to_owned()));
    }
    let counted: CountResult = parse(out)?;
    let received = counted.received as f64;
    Ok(Step {
        offered: sent.sent as f64 / sent.secs,
        loss: (1.0 - received / (sent.sent as f64).max(1.0)).max(0.0),
        delay_p50: counted.delay_p50,
        delay_p99: counted.delay_p99,
        cpu: used.machine * 1e6 / received.max(1.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_test_is_found_by_its_name() {
        let clients = [true, false].map(|down| Test::Clients { down });
        for test in Test::ALL.into_iter().chain(clients) {
            assert_eq!(test.to_string().parse(), Ok(test));
        }
        for wrong in [
            "",
            "tcp",
            "tcp_0_up",
            "tcp_1_sideways",
            "clients_1_up",
            "pps_",
            "pps_9000",
        ] {
            assert!(wrong.parse::<Test>().is_err(), "{wrong}");
        }
    }
}
