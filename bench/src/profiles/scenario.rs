//! What is measured on a bad network.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use super::handover;
use super::running::{Element, Running};
use crate::error::Error;
use crate::lab::{self, Space};
use crate::probe::{BulkResult, ElementReport, Order, PingResult, SLOT, VoiceResult, monotonic};
use crate::samples::quantile;
use crate::subject::Tunnel;

/// Packets of a voice call per second.
const VOICE_EVERY_MS: f64 = 20.0;
/// The same while an address changes, where it is the clock.
const HANDOVER_EVERY_MS: f64 = 10.0;
/// Voice begins so long after the bulk flows.
const VOICE_AFTER: f64 = 0.5;
/// Processes are up by then, and every packet between them has had time to cross.
const LEAD: Duration = Duration::from_millis(1_500);
/// What a rival is ahead of or behind the flow in the tunnel, of its length.
const RIVAL_AFTER: f64 = 0.25;

const BULK_PORT: u16 = 5201;
const RIVAL_PORT: u16 = 5202;
const VOICE_PORT: u16 = 5300;

/// The congestion control of a flow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Control {
    /// What most kernels use.
    Cubic,
    /// Where the kernel has it.
    Bbr,
}

impl Control {
    /// As the kernel calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cubic => "cubic",
            Self::Bbr => "bbr",
        }
    }

    /// Whether this kernel has it.
    #[must_use]
    pub fn is_available(self) -> bool {
        let path = "/proc/sys/net/ipv4/tcp_available_congestion_control";
        let all = std::fs::read_to_string(path).unwrap_or_default();
        all.split_whitespace().any(|name| name == self.name())
    }
}

/// One test.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Scenario {
    /// A call and nothing else.
    Voice,
    /// Bulk flows, with a call and pings beside them.
    Bulk {
        /// How many.
        flows: usize,
        /// From the server to the client.
        down: bool,
        /// What controls them.
        control: Control,
    },
    /// A flow up through the tunnel, and another beside the tunnel.
    Rival {
        /// What controls the one beside it.
        control: Control,
        /// It was there before.
        first: bool,
    },
    /// The client's address changes in the middle of an upload.
    Handover {
        /// Seconds without any; 0: the new network is there before the old one goes.
        gap: u32,
    },
}

impl Scenario {
    /// What is run if nothing is asked for.
    pub const ALL: [Self; 16] = [
        Self::Voice,
        Self::bulk(1, false, Control::Cubic),
        Self::bulk(1, true, Control::Cubic),
        Self::bulk(4, false, Control::Cubic),
        Self::bulk(4, true, Control::Cubic),
        Self::bulk(16, false, Control::Cubic),
        Self::bulk(16, true, Control::Cubic),
        Self::bulk(16, false, Control::Bbr),
        Self::bulk(16, true, Control::Bbr),
        Self::rival(Control::Cubic),
        Self::rival(Control::Bbr),
        Self::Handover { gap: 0 },
        Self::Handover { gap: 1 },
        Self::Handover { gap: 5 },
        Self::Handover { gap: 10 },
        Self::Handover { gap: 30 },
    ];

    /// To see whether everything works.
    pub const QUICK: [Self; 3] = [
        Self::Voice,
        Self::bulk(4, false, Control::Cubic),
        Self::Handover { gap: 1 },
    ];

    const fn bulk(flows: usize, down: bool, control: Control) -> Self {
        Self::Bulk {
            flows,
            down,
            control,
        }
    }

    const fn rival(control: Control) -> Self {
        Self::Rival {
            control,
            first: false,
        }
    }

    /// Whether nothing can be run after it.
    #[must_use]
    pub const fn uses_up(self) -> bool {
        matches!(self, Self::Handover { .. })
    }

    /// The control it needs of the kernel.
    #[must_use]
    pub const fn control(self) -> Control {
        match self {
            Self::Bulk { control, .. } | Self::Rival { control, .. } => control,
            Self::Voice | Self::Handover { .. } => Control::Cubic,
        }
    }

    /// How long it lasts when flows last `secs`, without what is around it.
    #[must_use]
    pub fn length(self, secs: f64) -> f64 {
        match self {
            Self::Voice | Self::Bulk { .. } => secs,
            Self::Rival { .. } => secs * 2.0,
            Self::Handover { gap } => f64::from(gap) + handover::BEFORE + handover::AFTER,
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Voice => f.write_str("voice"),
            Self::Bulk {
                flows,
                down,
                control,
            } => {
                write!(f, "{flows}_{}", if *down { "down" } else { "up" })?;
                match control {
                    Control::Cubic => Ok(()),
                    Control::Bbr => f.write_str("_bbr"),
                }
            }
            Self::Rival { control, first } => {
                let when = if *first { "_first" } else { "" };
                write!(f, "rival_{}{when}", control.name())
            }
            Self::Handover { gap } => write!(f, "handover_{gap}"),
        }
    }
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let control = |name: &str| match name {
            "cubic" => Some(Control::Cubic),
            "bbr" => Some(Control::Bbr),
            _ => None,
        };
        let parts: Vec<&str> = text.split('_').collect();
        let scenario = match parts[..] {
            ["voice"] => Some(Self::Voice),
            ["handover", gap] => {
                let gap = gap.parse().ok().filter(|gap| *gap <= 600);
                gap.map(|gap| Self::Handover { gap })
            }
            ["rival", name] => control(name).map(Self::rival),
            ["rival", name, "first"] => control(name).map(|control| Self::Rival {
                control,
                first: true,
            }),
            [flows, way @ ("up" | "down"), ref rest @ ..] => {
                let control = match rest {
                    [] => Some(Control::Cubic),
                    [name] => control(name),
                    _ => None,
                };
                let flows = flows.parse().ok().filter(|flows| (1..=256).contains(flows));
                flows
                    .zip(control)
                    .map(|(flows, control)| Self::bulk(flows, way == "down", control))
            }
            _ => None,
        };
        scenario.ok_or_else(|| {
            format!(
                "{text:?} is not a test on profiles: voice, N_up, N_down, N_up_bbr, N_down_bbr, \
                 rival_cubic, rival_bbr, rival_cubic_first, rival_bbr_first, handover_SECONDS"
            )
        })
    }
}

/// Values over time, each for a [`SLOT`]; `None` where there is none.
pub type Series = Vec<Option<f64>>;

/// What came of a test.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// By name; the unit is part of the name.
    pub values: BTreeMap<String, f64>,
    /// By name.
    pub series: BTreeMap<String, Series>,
    /// What the element did.
    pub element: ElementReport,
}

impl Outcome {
    pub(super) fn set(&mut self, name: &str, value: f64) {
        let rounded = (value * 1e4).round() / 1e4;
        self.values.insert(name.to_owned(), rounded);
    }

    fn set_bulk(&mut self, prefix: &str, result: &BulkResult, secs: f64) {
        let total: u64 = result.slots.iter().sum();
        let mbit = |bytes: u64, secs: f64| bytes as f64 * 8e-6 / secs;
        self.set(&format!("{prefix}mbit"), mbit(total, secs));
        let later = &result.slots[result.slots.len() / 2..];
        let seconds = later.len() as f64 * SLOT.as_secs_f64();
        self.set(
            &format!("{prefix}mbit_later"),
            mbit(later.iter().sum(), seconds),
        );
        if result.streams.len() > 1 {
            let all = result.streams.iter().map(|bytes| *bytes as f64);
            let squares: f64 = all.clone().map(|bytes| bytes * bytes).sum();
            let sum: f64 = all.sum();
            let jain = sum * sum / (squares.max(1.0) * result.streams.len() as f64);
            self.set(&format!("{prefix}jain"), jain);
        }
        if result.broken > 0 {
            self.set(&format!("{prefix}broken"), result.broken as f64);
        }
        let course = result.slots.iter();
        let course = course.map(|bytes| Some(round(mbit(*bytes, SLOT.as_secs_f64()), 2)));
        self.series
            .insert(format!("{prefix}mbit"), course.collect());
    }

    /// A call in one direction: sent by one end, heard by the other.
    pub(super) fn set_voice(&mut self, way: &str, sent: u32, heard: &VoiceResult, secs: f64) {
        let mut delays: Vec<f64> = heard.heard.iter().map(|(_, _, delay)| *delay).collect();
        delays.sort_by(f64::total_cmp);
        for (name, share) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)] {
            if let Some(delay) = quantile(&delays, share) {
                self.set(&format!("voice_{way}_{name}_ms"), delay);
            }
        }
        let lost = 1.0 - delays.len() as f64 / f64::from(sent.max(1));
        self.set(&format!("voice_{way}_lost"), lost.max(0.0));
        if heard.doubled > 0 {
            self.set(&format!("voice_{way}_doubled"), f64::from(heard.doubled));
        }
        let mut course: Series = vec![None; (secs / SLOT.as_secs_f64()).ceil() as usize];
        for (_, at, delay) in &heard.heard {
            let slot = (at / (SLOT.as_secs_f64() * 1e3)) as usize;
            if let Some(slot) = course.get_mut(slot) {
                *slot = Some(round(slot.map_or(*delay, |most| most.max(*delay)), 1));
            }
        }
        self.series.insert(format!("voice_{way}_ms"), course);
    }
}

fn round(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

/// Where a test is run: a tunnel that is up, across an element.
pub struct Stage<'s, 'l> {
    /// The tunnel.
    pub tunnel: &'s mut Tunnel<'l>,
    /// The bad network.
    pub element: &'s mut Element,
    /// The server's address inside.
    pub server: Ipv4Addr,
    /// How long flows last.
    pub secs: f64,
    /// What decides luck.
    pub seed: u64,
}

/// Runs one.
///
/// # Errors
/// What went wrong; the tunnel may be dead.
pub fn run(scenario: Scenario, stage: &mut Stage<'_, '_>) -> Result<Outcome, Error> {
    stage.element.order(Order::Begin(stage.seed))?;
    let mut outcome = match scenario {
        Scenario::Voice => voice(stage),
        Scenario::Bulk {
            flows,
            down,
            control,
        } => bulk(stage, flows, down, control),
        Scenario::Rival { control, first } => rival(stage, control, first),
        Scenario::Handover { gap } => handover::run(stage, gap),
    }?;
    outcome.element = stage.element.order(Order::Report)?;
    Ok(outcome)
}

/// A run of bulk flows: both ends.
pub(super) struct Flows {
    pub(super) to: SocketAddr,
    pub(super) flows: usize,
    pub(super) down: bool,
    pub(super) control: Control,
    pub(super) begin: u64,
    pub(super) secs: f64,
}

impl Flows {
    /// Starts both ends. What they give is what the receiver saw.
    pub(super) fn start(&self, stage: &Stage<'_, '_>) -> Result<Pair<BulkResult>, Error> {
        let mut common = vec![self.to.to_string()];
        for (name, value) in [
            ("--streams", self.flows.to_string()),
            ("--begin", self.begin.to_string()),
            ("--secs", self.secs.to_string()),
            ("--control", self.control.name().to_owned()),
        ] {
            common.extend([name.to_owned(), value]);
        }
        let mut sender = common.clone();
        sender.push("--send".to_owned());
        let (client, server) = match self.down {
            true => (common, sender),
            false => (sender, common),
        };
        let server = stage.listener("bulk-serve", &server, false)?;
        let client = stage.probe(Space::Client, "bulk", &client, false)?;
        Ok(Pair { client, server })
    }

    /// Waits for them.
    pub(super) fn result(&self, pair: Pair<BulkResult>) -> Result<BulkResult, Error> {
        let limit = self.limit();
        let client = pair.client.finish(limit)?;
        let server = pair.server.finish(limit)?;
        Ok(if self.down { client } else { server })
    }

    fn limit(&self) -> Duration {
        LEAD + Duration::from_secs_f64(self.secs + 15.0)
    }
}

/// Both ends of something.
pub(super) struct Pair<T> {
    client: Running<T>,
    server: Running<T>,
}

/// A call: both ends.
pub(super) struct Call {
    pub(super) begin: u64,
    pub(super) secs: f64,
    pub(super) every_ms: f64,
}

impl Call {
    pub(super) fn start(&self, stage: &Stage<'_, '_>) -> Result<Pair<VoiceResult>, Error> {
        let arguments = [
            SocketAddr::from((stage.server, VOICE_PORT)).to_string(),
            "--begin".to_owned(),
            self.begin.to_string(),
            "--secs".to_owned(),
            self.secs.to_string(),
            "--every".to_owned(),
            self.every_ms.to_string(),
        ];
        let server = stage.listener("voice-serve", &arguments, true)?;
        let client = stage.probe(Space::Client, "voice", &arguments, true)?;
        Ok(Pair { client, server })
    }

    /// What the client heard, and what the server heard.
    pub(super) fn result(
        &self,
        pair: Pair<VoiceResult>,
    ) -> Result<(VoiceResult, VoiceResult), Error> {
        let limit = LEAD + Duration::from_secs_f64(self.secs + 15.0);
        Ok((pair.client.finish(limit)?, pair.server.finish(limit)?))
    }

    fn tell(&self, outcome: &mut Outcome, client: &VoiceResult, server: &VoiceResult) {
        outcome.set_voice("up", client.sent, server, self.secs);
        outcome.set_voice("down", server.sent, client, self.secs);
    }
}

impl Stage<'_, '_> {
    /// When what is started now begins.
    pub(super) fn begin() -> u64 {
        monotonic() + LEAD.as_nanos() as u64
    }

    fn probe<T: serde::de::DeserializeOwned + Send + 'static>(
        &self,
        space: Space,
        what: &str,
        arguments: &[String],
        first: bool,
    ) -> Result<Running<T>, Error> {
        Running::start(self.tunnel.lab, space, what, arguments, first)
    }

    fn listener<T: serde::de::DeserializeOwned + Send + 'static>(
        &self,
        what: &str,
        arguments: &[String],
        first: bool,
    ) -> Result<Running<T>, Error> {
        let mut running = self.probe(Space::Server, what, arguments, first)?;
        running.wait_listening()?;
        Ok(running)
    }

    pub(super) fn call(&self, begin: u64, secs: f64, every_ms: f64) -> Call {
        let after = Duration::from_secs_f64(VOICE_AFTER).as_nanos() as u64;
        Call {
            begin: begin + after,
            secs: secs - VOICE_AFTER,
            every_ms,
        }
    }

    pub(super) fn flows(&self, begin: u64, flows: usize) -> Flows {
        Flows {
            to: SocketAddr::from((self.server, BULK_PORT)),
            flows,
            down: false,
            control: Control::Cubic,
            begin,
            secs: self.secs,
        }
    }

    pub(super) fn handover_call(&self, begin: u64, secs: f64) -> Call {
        self.call(begin, secs, HANDOVER_EVERY_MS)
    }
}

fn voice(stage: &Stage<'_, '_>) -> Result<Outcome, Error> {
    let call = stage.call(Stage::begin(), stage.secs, VOICE_EVERY_MS);
    let mut outcome = Outcome::default();
    let (client, server) = call.result(call.start(stage)?)?;
    call.tell(&mut outcome, &client, &server);
    Ok(outcome)
}

fn bulk(
    stage: &Stage<'_, '_>,
    flows: usize,
    down: bool,
    control: Control,
) -> Result<Outcome, Error> {
    const PING_EVERY: f64 = 0.05;
    let begin = Stage::begin();
    let flows = Flows {
        down,
        control,
        ..stage.flows(begin, flows)
    };
    let call = stage.call(begin, stage.secs, VOICE_EVERY_MS);
    let running = flows.start(stage)?;
    let talking = call.start(stage)?;
    std::thread::sleep(Duration::from_nanos(call.begin.saturating_sub(monotonic())));
    let pings = [
        stage.server.to_string(),
        "--count".to_owned(),
        ((call.secs / PING_EVERY) as u32).to_string(),
        "--interval".to_owned(),
        PING_EVERY.to_string(),
    ];
    let pings: Running<PingResult> = stage.probe(Space::Client, "ping", &pings, true)?;
    let mut outcome = Outcome::default();
    outcome.set_bulk("", &flows.result(running)?, flows.secs);
    let (client, server) = call.result(talking)?;
    call.tell(&mut outcome, &client, &server);
    let mut pings = pings.finish(Duration::from_secs(15))?;
    pings.millis.sort_by(f64::total_cmp);
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        if let Some(millis) = quantile(&pings.millis, share) {
            outcome.set(&format!("loaded_rtt_{name}_ms"), millis);
        }
    }
    Ok(outcome)
}

fn rival(stage: &Stage<'_, '_>, control: Control, first: bool) -> Result<Outcome, Error> {
    let begin = Stage::begin();
    let secs = stage.secs * 2.0;
    let behind = RIVAL_AFTER * secs;
    let later = begin + Duration::from_secs_f64(behind).as_nanos() as u64;
    let mut inside = Flows {
        secs,
        ..stage.flows(begin, 1)
    };
    let mut outside = Flows {
        to: SocketAddr::from((lab::SERVER, RIVAL_PORT)),
        control,
        secs,
        ..stage.flows(begin, 1)
    };
    let late = if first { &mut inside } else { &mut outside };
    late.begin = later;
    late.secs = secs - behind;
    let running = [inside.start(stage)?, outside.start(stage)?];
    let [one, other] = running;
    let (inside_result, outside_result) = (inside.result(one)?, outside.result(other)?);
    let mut outcome = Outcome::default();
    for (name, flows, result) in [
        ("", &inside, &inside_result),
        ("rival_", &outside, &outside_result),
    ] {
        outcome.set_bulk(name, result, flows.secs);
        let shift = ((flows.begin - begin) / SLOT.as_nanos() as u64) as usize;
        if let Some(course) = outcome.series.get_mut(&format!("{name}mbit")) {
            course.splice(..0, vec![None; shift]);
        }
    }
    // The second half: both are there, and have had time to find their places.
    let half = ((secs / 2.0) / SLOT.as_secs_f64()) as usize;
    let mean = |name: &str| {
        let course = outcome.series.get(name).map(Vec::as_slice);
        let later = course.unwrap_or_default().iter().skip(half).flatten();
        later.clone().sum::<f64>() / later.count().max(1) as f64
    };
    let (ours, theirs) = (mean("mbit"), mean("rival_mbit"));
    outcome.set("ours_mbit", ours);
    outcome.set("theirs_mbit", theirs);
    if ours + theirs > 0.0 {
        outcome.set("rival_keeps", 2.0 * theirs / (ours + theirs));
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_test_is_named_as_it_is_asked_for() {
        for scenario in Scenario::ALL {
            assert_eq!(scenario.to_string().parse(), Ok(scenario));
        }
        for wrong in [
            "",
            "up",
            "0_up",
            "4_sideways",
            "4_up_vegas",
            "handover_x",
            "rival_me",
        ] {
            assert!(wrong.parse::<Scenario>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_call_is_told_by_quantiles_losses_and_the_worst_of_each_moment() {
        let heard = VoiceResult {
            sent: 0,
            heard: vec![(0, 0.0, 10.0), (1, 20.0, 30.0), (3, 260.0, 20.0)],
            doubled: 0,
        };
        let mut outcome = Outcome::default();
        outcome.set_voice("up", 4, &heard, 0.3);
        assert_eq!(outcome.values["voice_up_p50_ms"], 20.0);
        assert_eq!(outcome.values["voice_up_lost"], 0.25);
        assert_eq!(
            outcome.series["voice_up_ms"],
            [Some(30.0), None, Some(20.0)]
        );
    }
}
