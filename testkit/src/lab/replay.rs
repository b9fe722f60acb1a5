//! Playing what a program recorded.

mod step;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::Args;
use masque_core::endpoint::SocketId;
use masque_recording::{Input, Output, Played, Replay, Step};

use super::LabError;
pub use step::step_recording;

use super::outputs::save;
use super::pcap::capture_of;
use super::qlog::log_of;
use crate::crypto::Secrets;
use crate::packet;
use crate::world::{Place, Trace};

/// How many inputs before a difference are shown.
const CONTEXT: usize = 8;
/// A recording does not say which ports its own sockets have: these, counted up.
const FIRST_PORT: u16 = 40_000;

/// What is played.
#[derive(Args, Clone, Debug)]
pub struct Replaying {
    /// A file that `--record` wrote.
    pub file: PathBuf,
    /// Write one line per event, to a file or before the summary.
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    pub trace: Option<Option<PathBuf>>,
    /// Write a qlog as a JSON text sequence.
    #[arg(long, value_name = "FILE")]
    pub qlog: Option<PathBuf>,
    /// Write a pcapng of the packets, outside and inside the tunnels, with the TLS secrets.
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// Stop after this time, in milliseconds since the program began.
    #[arg(long, value_name = "MS")]
    pub until: Option<u64>,
}

/// Plays a recording; writes what is wanted, then what came of it.
///
/// # Errors
/// [`LabError::Diverged`] where the endpoint gives something else than it gave, [`LabError`].
pub fn replay(what: &Replaying, out: &mut impl Write) -> Result<(), LabError> {
    let tracing = what.trace.is_some() || what.qlog.is_some();
    let capturing = what.qlog.is_some() || what.pcap.is_some();
    let mut player = Player::open(&what.file, tracing, capturing)?;
    let until = what.until.map_or(Duration::MAX, Duration::from_millis);
    let mut difference = None;
    let mut unfinished = false;
    while difference.is_none()
        && let Some(taken) = player.step(until)?
    {
        unfinished = taken.unfinished;
        difference = taken.difference.map(|words| (taken.number, words));
    }
    let Player {
        replay,
        log,
        secrets,
    } = player;
    let (start, node) = (replay.start(), log.node);
    match &what.trace {
        Some(Some(path)) => save(path, log.trace.text())?,
        Some(None) => out.write_all(log.trace.text().as_bytes())?,
        None => {}
    }
    if let Some(path) = &what.qlog {
        let text = log_of(&log.trace, node, !start.setup.is_server(), false);
        save(path, text)?;
    }
    let wall = start.wall.duration_since(SystemTime::UNIX_EPOCH);
    let wall = wall.unwrap_or_default();
    if let Some(path) = &what.pcap {
        let about = format!("replayed: a {node}; its own ports are not those it had");
        save(
            path,
            capture_of(&log.trace, node, &about, wall, Some(secrets.text())),
        )?;
    }
    let seconds = wall.as_secs();
    writeln!(out, "# {node} of {}, {seconds} s after 1970", start.about)?;
    log.tally.write(out)?;
    if unfinished {
        writeln!(out, "# the recording ends within the last input")?;
    }
    if let Some(ending) = replay.ending() {
        writeln!(out, "# the end: {ending}")?;
    }
    let Some((number, words)) = difference else {
        writeln!(out, "# identical")?;
        return Ok(());
    };
    for line in &log.recent {
        writeln!(out, "  {line}")?;
    }
    writeln!(out, "! {words}")?;
    Err(LabError::Diverged(number))
}

/// A recording that is played, and what is written of it.
struct Player {
    replay: Replay<BufReader<File>>,
    log: Log,
    secrets: Arc<Secrets>,
}

/// An input that was played.
struct Taken {
    number: u64,
    difference: Option<String>,
    unfinished: bool,
}

impl Player {
    fn open(path: &Path, tracing: bool, capturing: bool) -> Result<Self, LabError> {
        let secrets = Arc::<Secrets>::default();
        let file = BufReader::new(File::open(path)?);
        let mut replay = Replay::with_key_log(file, secrets.clone())?;
        replay.endpoint_mut().set_tracing(tracing);
        let mut trace = Trace::default();
        trace.set(tracing);
        trace.set_capturing(capturing);
        let node = match replay.start().setup.is_server() {
            true => "server",
            false => "client",
        };
        let log = Log {
            node,
            trace,
            local: BTreeMap::new(),
            recent: VecDeque::new(),
            tally: Tally::default(),
        };
        Ok(Self {
            replay,
            log,
            secrets,
        })
    }

    /// Plays the next input, if it is not later than that.
    fn step(&mut self, until: Duration) -> Result<Option<Taken>, LabError> {
        let Self { replay, log, .. } = self;
        let Some(step) = replay.step_until(until)? else {
            return Ok(None);
        };
        let at = step.at;
        log.begin(&step);
        let told = log.end(&step);
        let taken = Taken {
            number: step.number,
            difference: step.difference.as_ref().map(ToString::to_string),
            unfinished: step.unfinished,
        };
        for event in replay.endpoint_mut().take_trace() {
            log.trace.core(at, log.node, event);
        }
        if let Some(words) = told {
            log.trace.line(at, log.node, words);
        }
        Ok(Some(taken))
    }
}

/// What came of a replay, in numbers.
#[derive(Default)]
struct Tally {
    at: Duration,
    inputs: BTreeMap<&'static str, u64>,
    datagrams: u64,
    sent_bytes: u64,
    frames: u64,
    frame_bytes: u64,
    events: u64,
    fingerprint: crate::seed::Fnv,
}

impl Tally {
    fn write(&self, out: &mut impl Write) -> Result<(), LabError> {
        let all: u64 = self.inputs.values().sum();
        writeln!(out, "# time {} us", self.at.as_micros())?;
        let each = self.inputs.iter();
        let each: Vec<_> = each
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        writeln!(out, "# inputs {all}: {}", each.join(", "))?;
        writeln!(
            out,
            "# outputs: datagrams {} of {} bytes, frames {} of {} bytes, events {}",
            self.datagrams, self.sent_bytes, self.frames, self.frame_bytes, self.events
        )?;
        let fingerprint = self.fingerprint.value();
        writeln!(out, "# fingerprint {fingerprint:016x}")?;
        Ok(())
    }
}

struct Log {
    node: &'static str,
    trace: Trace,
    /// The address of each of our sockets, as far as it was seen.
    local: BTreeMap<SocketId, IpAddr>,
    recent: VecDeque<String>,
    tally: Tally,
}

impl Log {
    fn local(&self, socket: SocketId, told: Option<IpAddr>, peer: SocketAddr) -> SocketAddr {
        let unknown: IpAddr = match peer {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let seen = self.local.get(&socket).copied();
        let ip = told.or(seen).filter(|ip| ip.is_ipv4() == peer.is_ipv4());
        let number = u16::try_from(socket.0).unwrap_or(u16::MAX);
        SocketAddr::new(ip.unwrap_or(unknown), FIRST_PORT.saturating_add(number))
    }

    /// The input, before what the endpoint says of it.
    fn begin(&mut self, step: &Step<'_>) {
        let (at, node) = (step.at, self.node);
        self.tally.at = at;
        *self.tally.inputs.entry(step.input.name()).or_default() += 1;
        let words = match &step.input {
            Input::Udp { meta, data } => {
                if let Some(ip) = meta.local_ip {
                    self.local.insert(meta.socket, ip);
                }
                let (from, to) = (
                    meta.remote,
                    self.local(meta.socket, meta.local_ip, meta.remote),
                );
                for datagram in data.chunks(meta.stride.max(1)) {
                    let place = Place::Received { from, to };
                    self.trace.packet(at, node, place, datagram);
                }
                format!("<- udp {} bytes {from} > {to}", data.len())
            }
            Input::Tun { data, .. } | Input::Ip { data, .. } => {
                self.trace.packet(at, node, Place::IntoTun, data);
                format!("<- tun {}", packet::summary(data))
            }
            Input::Connect(destination) => format!("<- connect {destination:?}"),
            Input::Command(command) => format!("<- command {command:?}"),
            Input::Timeout => "<- timeout".to_owned(),
            Input::PollTransmit(_)
            | Input::PollTun
            | Input::PollEvent
            | Input::PollTimeout
            | Input::Rest => String::new(),
        };
        if !words.is_empty() {
            self.trace.line(at, node, &words);
        }
        if self.recent.len() > CONTEXT {
            self.recent.pop_front();
        }
        let what = match words.is_empty() {
            true => step.input.name(),
            false => &words,
        };
        let line = format!(
            "#{} {} us {what}: {:?}",
            step.number,
            at.as_micros(),
            step.output
        );
        self.recent.push_back(line);
    }

    /// What it came to; gives what is to be said of it.
    fn end(&mut self, step: &Step<'_>) -> Option<String> {
        let (at, node) = (step.at, self.node);
        match &step.played {
            Played::Nothing => match &step.output {
                Output::Judged(Err(error)) | Output::Connected(Err(error)) => {
                    Some(format!("refuses: {error}"))
                }
                _ => None,
            },
            Played::Transmit(transmit, data) => {
                let to = transmit.destination;
                let from = self.local(transmit.socket, transmit.src_ip, to);
                let segment = transmit.segment_size.unwrap_or(transmit.size).max(1);
                for datagram in data.chunks(segment) {
                    self.tally.datagrams += 1;
                    self.trace
                        .packet(at, node, Place::Sent { from, to }, datagram);
                }
                self.tally.sent_bytes += data.len() as u64;
                self.tally.fingerprint.write(data);
                Some(format!("-> udp {} bytes {from} > {to}", data.len()))
            }
            Played::Frames(batch) => {
                for frame in &batch.frames {
                    let packet = frame.packet();
                    self.tally.frames += 1;
                    self.tally.frame_bytes += packet.len() as u64;
                    self.tally.fingerprint.write(packet);
                    self.trace.packet(at, node, Place::OutOfTun, packet);
                }
                Some(format!("-> tun {} frames", batch.frames.len()))
            }
            Played::Event(event) => {
                self.tally.events += 1;
                Some(format!("event {event:?}"))
            }
        }
    }
}
