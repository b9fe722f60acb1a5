//! What came of a run, in numbers, and whether that is what its file expects.

use std::collections::BTreeMap;
use std::time::Duration;

use masque_core::endpoint::Event;

use super::{App, Run};
use crate::traffic::tcp::Tcp;
use crate::traffic::voice::Voice;

/// What one number says of a run.
#[derive(Clone, PartialEq, Debug)]
pub struct Metric {
    /// What; the names are the keys of `[[expect]]`.
    pub name: &'static str,
    /// Of which client.
    pub client: String,
    /// How much.
    pub value: f64,
}

/// The names of all metrics.
pub const NAMES: [&str; 21] = [
    "echo-sent",
    "echo-replies",
    "echo-lost",
    "echo-median-ms",
    "voice-sent",
    "voice-heard",
    "voice-lost",
    "voice-p50-ms",
    "voice-p99-ms",
    "tcp-bytes",
    "tcp-mbit",
    "tcp-done",
    "tcp-connections",
    "connections",
    "connections-lost",
    "tunnels",
    "tunnels-now",
    "addresses-now",
    "migrations",
    "packets-dropped",
    "packets-delivered",
];

impl Run {
    /// Everything that can be said in numbers, of each client.
    #[must_use]
    pub fn metrics(&self) -> Vec<Metric> {
        let mut metrics = Vec::new();
        for (index, client) in self.clients.iter().enumerate() {
            for (name, value) in self.metrics_of(index) {
                metrics.push(Metric {
                    name,
                    client: client.name.clone(),
                    value,
                });
            }
        }
        metrics
    }

    fn metrics_of(&self, index: usize) -> Vec<(&'static str, f64)> {
        let world = &self.star.world;
        let node = world.node(self.clients[index].node);
        let host = self.star.inner(self.clients[index].node);
        let server = self.star.inner(self.star.server);
        let events = |is_it: fn(&Event) -> bool| {
            let all = node.events().iter();
            all.filter(|(_, event)| is_it(event)).count() as f64
        };
        let mut out: Vec<(&'static str, f64)> = Vec::new();
        if host.sent > 0 {
            let mut trips = host.round_trips.clone();
            out.push(("echo-sent", host.sent as f64));
            out.push(("echo-replies", host.replies() as f64));
            out.push(("echo-lost", 1.0 - host.replies() as f64 / host.sent as f64));
            out.push(("echo-median-ms", percentile(&mut trips, 0.5)));
        }
        let (mut sent, mut delays) = (0, Vec::new());
        let mut tcp = BTreeMap::new();
        for placed in self.placed.iter().filter(|placed| placed.client == index) {
            match placed.app {
                App::Voice => {
                    let ends = [
                        host.app::<Voice>(placed.at_client),
                        server.app::<Voice>(placed.at_server),
                    ];
                    for voice in ends.into_iter().flatten() {
                        sent += voice.heard().sent;
                        delays.extend(voice.heard().delays.iter().map(|(_, delay)| *delay));
                    }
                }
                App::Tcp(transfer) => {
                    let at = match transfer.up {
                        true => server.app::<Tcp>(placed.at_server),
                        false => host.app::<Tcp>(placed.at_client),
                    };
                    let Some(at) = at else { continue };
                    let end = transfer.end.min(world.now());
                    let secs = end.saturating_sub(transfer.begin).as_secs_f64();
                    let bits = at.received() as f64 * 8.0;
                    *tcp.entry("tcp-bytes").or_default() += at.received() as f64;
                    *tcp.entry("tcp-mbit").or_default() += bits / 1e6 / secs.max(1e-6);
                    for flow in at.flows() {
                        *tcp.entry("tcp-done").or_default() +=
                            f64::from(u8::from(flow.done.is_some()));
                        *tcp.entry("tcp-connections").or_default() += flow.connections as f64;
                    }
                }
            }
        }
        if sent > 0 {
            out.push(("voice-sent", sent as f64));
            out.push(("voice-heard", delays.len() as f64));
            out.push(("voice-lost", 1.0 - delays.len() as f64 / sent as f64));
            out.push(("voice-p50-ms", percentile(&mut delays, 0.5)));
            out.push(("voice-p99-ms", percentile(&mut delays, 0.99)));
        }
        out.extend(tcp);
        out.push((
            "connections",
            events(|event| matches!(event, Event::Connected { .. })),
        ));
        out.push((
            "connections-lost",
            events(|event| matches!(event, Event::ConnectionClosed { .. })),
        ));
        out.push((
            "tunnels",
            events(|event| matches!(event, Event::TunnelUp { .. })),
        ));
        let (mut tunnels, mut addresses, mut dropped) = (0, 0, 0);
        if let Some(endpoint) = node.endpoint() {
            for tunnel in endpoint.tunnels() {
                tunnels += 1;
                addresses += endpoint
                    .tunnel(tunnel)
                    .map_or(0, |info| info.addresses.len());
            }
            dropped = endpoint.counters().drops().map(|(_, count)| count).sum();
        }
        out.push(("tunnels-now", f64::from(tunnels)));
        out.push(("addresses-now", addresses as f64));
        // The server sees a client move.
        let remote = |event: &Event| match event {
            Event::Migrated { remote, .. } => Some(*remote),
            _ => None,
        };
        let own = node.sockets().to_vec();
        let moves = world.node(self.star.server).events().iter();
        let moves = moves.filter_map(|(_, event)| remote(event));
        let single = self.clients.len() == 1;
        let moves = moves
            .filter(|remote| single || own.contains(remote))
            .count();
        out.push(("migrations", moves as f64));
        out.push(("packets-dropped", dropped as f64));
        out.push(("packets-delivered", node.delivered() as f64));
        out
    }

    /// A metric over all clients or of one: shares and delays are those of the worst, others the sum.
    #[must_use]
    pub fn metric(&self, name: &str, client: Option<&str>) -> Option<f64> {
        let chosen = self.chosen(client).ok()?;
        let values = chosen
            .into_iter()
            .flat_map(|index| self.metrics_of(index))
            .filter(|(own, _)| *own == name)
            .map(|(_, value)| value);
        if name.ends_with("-lost") && name != "connections-lost" || name.ends_with("-ms") {
            values.reduce(f64::max)
        } else {
            values.reduce(|a, b| a + b)
        }
    }

    /// What was expected and did not come.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        for expect in &self.file.expects {
            let of = expect.client.as_deref().unwrap_or("all");
            let Some(value) = self.metric(&expect.what, expect.client.as_deref()) else {
                failures.push(format!("{} of {of}: there is none", expect.what));
                continue;
            };
            let low = expect.min.is_some_and(|min| value < min);
            let high = expect.max.is_some_and(|max| value > max);
            if low || high {
                let bounds = match (expect.min, expect.max) {
                    (Some(min), Some(max)) => format!("{min} to {max}"),
                    (Some(min), None) => format!("at least {min}"),
                    (_, max) => format!("at most {}", max.unwrap_or_default()),
                };
                failures.push(format!("{} of {of} is {value}, not {bounds}", expect.what));
            }
        }
        failures
    }
}

fn percentile(durations: &mut [Duration], share: f64) -> f64 {
    durations.sort_unstable();
    let index = (durations.len() as f64 * share) as usize;
    let at = durations.get(index.min(durations.len().saturating_sub(1)));
    at.map_or(0.0, |duration| duration.as_secs_f64() * 1e3)
}
