//! One run: a path, what crosses it, and what came of it.

use std::time::Duration;

use masque_core::endpoint::{CongestionControl, Event, TransportProfile};
use serde::Serialize;

use super::control::ControlKind;
use super::host::{BulkPlan, End, Heard, TrafficHost, VoicePlan, Way};
use super::profile::Profile;
use crate::crypto::TlsError;
use crate::scenario::{self, Options};
use crate::world::{Input, NodeId, World, last_event};

/// The MTU of the devices inside that the programs take by themselves, where the tunnel carries as much.
pub const DEVICE_MTU: usize = 1420;
/// The MTU of the path.
const PATH_MTU: usize = 1500;
/// The tunnel is up and its path MTU found by then; traffic begins.
const SETTLED: Duration = Duration::from_secs(6);
/// Voice begins so many seconds after the bulk flows, as on real networks, unless told otherwise.
const VOICE_AFTER: f64 = 0.5;
/// Between two points of the course.
const POINT: Duration = Duration::from_millis(100);

/// What carries the flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subject {
    /// Nothing: the bare path.
    Raw,
    /// A tunnel whose outer connection is controlled so.
    Tunnel(CongestionControl),
}

impl Subject {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Tunnel(CongestionControl::Cubic) => "cubic",
            Self::Tunnel(CongestionControl::NewReno) => "newreno",
            Self::Tunnel(CongestionControl::Bbr) => "bbr",
            Self::Tunnel(CongestionControl::Fixed(_)) => "none",
            Self::Tunnel(CongestionControl::Tunnel) => "tunnel",
        }
    }

    /// The subject of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "raw" => Self::Raw,
            "cubic" => Self::Tunnel(CongestionControl::Cubic),
            "newreno" => Self::Tunnel(CongestionControl::NewReno),
            "bbr" => Self::Tunnel(CongestionControl::Bbr),
            // More than any path here carries: as if there were no control.
            "none" => Self::Tunnel(CongestionControl::Fixed(1_000_000_000)),
            "tunnel" => Self::Tunnel(CongestionControl::Tunnel),
            _ => return None,
        })
    }
}

/// A change of the path in the middle of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// How long after the flows began.
    pub after: Duration,
    /// The new rate in bits per second.
    pub rate: u64,
}

/// One run.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The path.
    pub profile: Profile,
    /// What carries the flows.
    pub subject: Subject,
    /// Bulk flows.
    pub flows: usize,
    /// Their control.
    pub control: ControlKind,
    /// Who sends.
    pub from: End,
    /// Whether there is voice beside them.
    pub voice: bool,
    /// How long before them it begins, in seconds; negative if after them. What little it sends is all a
    /// tunnel then knows of its path.
    pub voice_before: f64,
    /// A flow on the same path, outside of the tunnel.
    pub rival: Option<ControlKind>,
    /// How long after the others the rival begins; negative if before them.
    pub rival_after: f64,
    /// How long.
    pub length: Duration,
    /// The MTU of the devices inside, where the tunnel carries as much.
    pub mtu: usize,
    /// What decides everything.
    pub seed: u64,
    /// Changes of the path's rate.
    pub changes: Vec<Change>,
}

impl Default for Trial {
    fn default() -> Self {
        Self {
            profile: super::profile::PROFILES[0],
            subject: Subject::Raw,
            flows: 1,
            control: ControlKind::Cubic,
            from: End::Client,
            voice: false,
            voice_before: -VOICE_AFTER,
            rival: None,
            rival_after: 0.0,
            length: Duration::from_secs(15),
            mtu: PATH_MTU,
            seed: 0,
            changes: Vec::new(),
        }
    }
}

/// The state at a moment.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Point {
    /// Seconds since the flows began.
    pub at: f64,
    /// The outer window in bytes.
    pub window: u64,
    /// The window of the other end, which carries acknowledgements.
    pub back_window: u64,
    /// The outer round-trip time in milliseconds, smoothed.
    pub rtt_ms: f64,
    /// The round trip of the bulk flows in milliseconds, smoothed, their mean.
    pub inner_rtt_ms: f64,
    /// The sum of their windows in packets.
    pub inner_window: f64,
    /// What waits for the link's transmitter, in milliseconds.
    pub queue_ms: f64,
    /// What waits in the tunnel's own queue, in bytes.
    pub tunnel_queue: usize,
    /// Goodput since the last point in megabits per second.
    pub mbit: f64,
    /// The same of the rival.
    pub rival_mbit: f64,
    /// QUIC packets declared lost so far.
    pub lost: u64,
}

/// What came of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcome {
    /// Goodput of all bulk flows, in megabits per second, slow start included.
    pub mbit: f64,
    /// Of each.
    pub each: Vec<f64>,
    /// Of the rival.
    pub rival_mbit: f64,
    /// Median one-way delay of voice in the direction of the bulk flows, in milliseconds.
    pub voice_p50: f64,
    /// 99th percentile.
    pub voice_p99: f64,
    /// 99.9th percentile.
    pub voice_p999: f64,
    /// Voice packets lost, both ways, as a share.
    pub voice_lost: f64,
    /// QUIC packets declared lost by the sending end, and sent.
    pub outer_lost: u64,
    /// QUIC packets sent by the sending end.
    pub outer_sent: u64,
    /// Packets the link lost for good, whoever sent them.
    pub link_lost: u64,
    /// Packets the link's queue had no room for.
    pub link_full: u64,
    /// Packets the tunnel's queue dropped.
    pub queue_dropped: u64,
    /// What bulk flows sent again.
    pub retransmitted: u64,
    /// The smallest path MTU there was while the flows ran, in bytes; 0 without a tunnel.
    pub least_mtu: u16,
    /// The course.
    pub points: Vec<Point>,
}

/// Runs it.
///
/// # Errors
/// [`TlsError`] if the world cannot be made.
///
/// # Panics
/// If an invariant of [`crate::world`] does not hold, or the tunnel does not come up on a path that
/// works.
pub fn run(trial: &Trial) -> Result<Outcome, TlsError> {
    let congestion = match trial.subject {
        Subject::Raw => CongestionControl::Cubic,
        Subject::Tunnel(congestion) => congestion,
    };
    let device_mtu = u32::try_from(trial.mtu).unwrap_or(u32::MAX);
    let mut star = scenario::star(&Options {
        seed: trial.seed,
        link: trial.profile.link,
        transport: TransportProfile {
            congestion,
            ..TransportProfile::default()
        },
        device_mtu,
        client_plan: None,
        server_plan: None,
        ..Options::default()
    })?;
    let (client, server) = (star.client(), star.server);
    let world = &mut star.world;
    world.set_host(client, Box::new(TrafficHost::new(End::Client, server)));
    world.set_host(server, Box::new(TrafficHost::new(End::Server, client)));
    world.run_until(SETTLED);
    assert!(
        host(world, client).is_ready(),
        "no tunnel on {}, seed {}",
        trial.profile.name,
        trial.seed
    );
    let (sender, receiver) = match trial.from {
        End::Client => (client, server),
        End::Server => (server, client),
    };
    let way = match trial.subject {
        Subject::Raw => Way::Outside,
        Subject::Tunnel(_) => Way::Tunnel,
    };
    let size = match trial.subject {
        Subject::Raw => PATH_MTU,
        Subject::Tunnel(_) => tunnel_mtu(world, sender).min(trial.mtu),
    };
    let quiet = world.now();
    let begin = quiet + Duration::from_secs_f64(trial.voice_before.max(0.0));
    let end = begin + trial.length;
    let rival_begin = (begin.as_secs_f64() + trial.rival_after).max(0.0);
    let rival_begin = Duration::from_secs_f64(rival_begin).max(begin);
    // A rival that was there first: the flows wait instead.
    let head_start = Duration::from_secs_f64((-trial.rival_after).max(0.0));
    let mut plans = vec![
        BulkPlan {
            way,
            from: trial.from,
            control: trial.control,
            size,
            begin: begin + head_start,
        };
        trial.flows
    ];
    if let Some(control) = trial.rival {
        plans.push(BulkPlan {
            way: Way::Outside,
            from: trial.from,
            control,
            size: PATH_MTU,
            begin: rival_begin,
        });
    }
    let voice = trial.voice.then_some(VoicePlan {
        way,
        begin: begin.max(quiet + Duration::from_secs_f64((-trial.voice_before).max(0.0))),
        end,
    });
    for node in [client, server] {
        let host: &mut TrafficHost = world.node_mut(node).host_mut().expect("set above");
        host.plan(&plans, voice);
        world.schedule(quiet, Input::Wake { node, token: 0 });
    }
    world.run_until(begin);
    for change in &trial.changes {
        let mut config = trial.profile.link;
        config.queue = scaled(
            config.queue,
            change.rate,
            config.rate.unwrap_or(change.rate),
        );
        config.rate = Some(change.rate);
        let (a, b) = (client, server);
        world.schedule(begin + change.after, Input::Link { a, b, config });
    }
    let bulk = |world: &World, flows: std::ops::Range<usize>| -> u64 {
        flows
            .map(|flow| host(world, receiver).delivered(flow))
            .sum()
    };
    let mut outcome = Outcome {
        least_mtu: u16::MAX,
        ..Outcome::default()
    };
    let (mut before, mut rival_before) = (0, 0);
    let start = (info(world, sender), world.link_stats(sender, receiver));
    while world.now() < end {
        world.run_until((world.now() + POINT).min(end));
        let (window, rtt, mtu, lost, _) = info(world, sender);
        outcome.least_mtu = outcome.least_mtu.min(mtu);
        let total = bulk(world, 0..trial.flows);
        let rival = bulk(world, trial.flows..plans.len());
        let endpoint = world.node(sender).endpoint();
        let (inner_rtt, inner_window) = inside(host(world, sender), trial.flows);
        outcome.points.push(Point {
            at: (world.now() - begin).as_secs_f64(),
            window,
            back_window: info(world, receiver).0,
            rtt_ms: millis(rtt),
            inner_rtt_ms: millis(inner_rtt),
            inner_window,
            queue_ms: millis(world.backlog(sender, receiver).unwrap_or_default()),
            tunnel_queue: endpoint.map_or(0, |endpoint| endpoint.usage().queued_bytes),
            mbit: mbit(total - before, POINT),
            rival_mbit: mbit(rival - rival_before, POINT),
            lost,
        });
        (before, rival_before) = (total, rival);
    }
    let took = end - begin - head_start;
    outcome.mbit = mbit(before, took);
    outcome.each = (0..trial.flows)
        .map(|flow| mbit(host(world, receiver).delivered(flow), took))
        .collect();
    outcome.rival_mbit = mbit(rival_before, end.saturating_sub(rival_begin));
    outcome.retransmitted = (0..trial.flows)
        .filter_map(|flow| host(world, sender).sender(flow))
        .map(|(_, again)| again)
        .sum();
    // What is on its way still arrives.
    let rest = world.now() + Duration::from_secs(3);
    let counted = (info(world, sender), world.link_stats(sender, receiver));
    if trial.voice {
        world.run_until(rest);
    }
    outcome.outer_lost = counted.0.3 - start.0.3;
    outcome.outer_sent = counted.0.4 - start.0.4;
    if let (Some(now), Some(then)) = (counted.1, start.1) {
        outcome.link_lost = now.lost - then.lost;
        outcome.link_full = now.queue_full - then.queue_full;
    }
    let endpoint = world.node(sender).endpoint().expect("it runs");
    let reason = masque_core::endpoint::DropReason::Congestion;
    outcome.queue_dropped = endpoint.counters().dropped(reason);
    hear(
        &mut outcome,
        host(world, receiver).heard(),
        host(world, sender).heard(),
    );
    if trial.subject == Subject::Raw {
        outcome.least_mtu = 0;
    }
    Ok(outcome)
}

fn hear(outcome: &mut Outcome, with: &Heard, against: &Heard) {
    let mut delays: Vec<_> = with.delays.iter().map(|(_, delay)| *delay).collect();
    delays.sort_unstable();
    let at = |share: f64| {
        let index = (delays.len() as f64 * share) as usize;
        delays
            .get(index.min(delays.len().saturating_sub(1)))
            .map_or(0.0, |delay| millis(*delay))
    };
    outcome.voice_p50 = at(0.5);
    outcome.voice_p99 = at(0.99);
    outcome.voice_p999 = at(0.999);
    let sent = with.sent + against.sent;
    let arrived = (with.delays.len() + against.delays.len()) as f64;
    outcome.voice_lost = 1.0 - arrived / (sent.max(1)) as f64;
    if sent == 0 {
        outcome.voice_lost = 0.0;
    }
}

fn host(world: &World, node: NodeId) -> &TrafficHost {
    let host = world.node(node).host();
    host.expect("every node of a trial has a TrafficHost")
}

/// The mean round trip of the first so many flows, and the sum of their windows.
fn inside(host: &TrafficHost, flows: usize) -> (Duration, f64) {
    let trips: Vec<_> = (0..flows)
        .filter_map(|flow| host.round_trip(flow))
        .collect();
    let count = u32::try_from(trips.len()).unwrap_or(u32::MAX).max(1);
    let windows = (0..flows).filter_map(|flow| host.sender(flow));
    (
        trips.iter().sum::<Duration>() / count,
        windows.map(|(window, _)| window).sum(),
    )
}

fn tunnel_mtu(world: &World, node: NodeId) -> usize {
    let told = last_event(world.node(node), |event| match event {
        Event::Mtu { mtu, .. } => Some(*mtu as usize),
        _ => None,
    });
    told.unwrap_or(1280)
}

/// Window, round-trip time, path MTU, packets lost, packets sent.
fn info(world: &World, node: NodeId) -> (u64, Duration, u16, u64, u64) {
    let endpoint = world.node(node).endpoint();
    let info = endpoint.and_then(|endpoint| {
        let conn = endpoint.connections().next()?;
        endpoint.connection(conn)
    });
    info.map_or_else(Default::default, |info| {
        (
            info.congestion_window,
            info.rtt,
            info.path_mtu,
            info.lost_packets,
            info.sent_packets,
        )
    })
}

fn scaled(queue: usize, new: u64, old: u64) -> usize {
    usize::try_from(queue as u128 * u128::from(new) / u128::from(old.max(1))).unwrap_or(usize::MAX)
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

fn mbit(bytes: u64, over: Duration) -> f64 {
    let secs = over.as_secs_f64();
    if secs > 0.0 {
        bytes as f64 * 8.0 / 1e6 / secs
    } else {
        0.0
    }
}
