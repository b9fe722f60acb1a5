//! Quantities over virtual time.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::world::{InnerHost, NodeId, World};

/// The quantities of one moment; rates and losses are since the moment before.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Virtual time.
    pub at: Duration,
    /// The latest round trip inside the tunnel, or QUIC's smoothed one, by node, in milliseconds.
    pub latency: BTreeMap<String, f64>,
    /// Packets lost on a link, by link.
    pub loss: BTreeMap<String, f64>,
    /// What came out of a link, in megabits per second.
    pub throughput: BTreeMap<String, f64>,
    /// How long a packet would wait for a link's transmitter, in milliseconds.
    pub queue: BTreeMap<String, f64>,
}

/// The quantities of a run.
#[derive(Clone, Debug, Default)]
pub struct Samples(pub Vec<Sample>);

/// One line of a plot: a name and its points.
pub type Series = BTreeMap<String, Vec<(f64, f64)>>;

impl Samples {
    /// One quantity as lines over time in seconds.
    #[must_use]
    pub fn series(&self, of: impl Fn(&Sample) -> &BTreeMap<String, f64>) -> Series {
        let mut series = Series::new();
        for sample in &self.0 {
            for (name, value) in of(sample) {
                let points = series.entry(name.clone()).or_default();
                points.push((sample.at.as_secs_f64(), *value));
            }
        }
        series
    }
}

/// Runs a world to its end, or until `limit`, and looks at it every so often.
pub fn sample(world: &mut World, limit: Duration, every: Duration) -> Samples {
    let mut samples = Vec::new();
    let mut before = Totals::default();
    let mut at = world.now();
    let mut more = true;
    while more && at < limit {
        // The last one may be shorter.
        let span = every.min(limit - at);
        at += span;
        more = world.run_until(at);
        samples.push(take(world, span, &mut before));
    }
    Samples(samples)
}

#[derive(Default)]
struct Totals(BTreeMap<(NodeId, NodeId), (u64, u64)>);

fn take(world: &World, span: Duration, before: &mut Totals) -> Sample {
    let mut sample = Sample {
        at: world.now(),
        ..Sample::default()
    };
    let name = |id: NodeId| world.node(id).name().to_owned();
    let millis = |time: Duration| time.as_secs_f64() * 1000.0;
    for id in world.nodes() {
        let node = world.node(id);
        if let Some(trip) = node
            .host::<InnerHost>()
            .and_then(|host| host.round_trips.last())
        {
            sample
                .latency
                .insert(format!("{} echo", name(id)), millis(*trip));
        }
        if let Some(endpoint) = node.endpoint() {
            let infos = endpoint.connections();
            for conn in infos.filter(|_| node.config_is_client()) {
                if let Some(info) = endpoint.connection(conn) {
                    let line = format!("{} QUIC", name(id));
                    sample.latency.insert(line, millis(info.rtt));
                }
            }
        }
        for to in world.nodes() {
            let Some(stats) = world.link_stats(id, to) else {
                continue;
            };
            let link = format!("{} > {}", name(id), name(to));
            let lost = stats.lost + stats.queue_full + stats.too_big + stats.down;
            let now = (lost, stats.bytes);
            let then = before.0.insert((id, to), now).unwrap_or_default();
            let bits = (now.1 - then.1) as f64 * 8.0;
            sample.loss.insert(link.clone(), (now.0 - then.0) as f64);
            sample
                .throughput
                .insert(link.clone(), bits / span.as_secs_f64() / 1e6);
            let backlog = world.backlog(id, to).unwrap_or_default();
            sample.queue.insert(link, millis(backlog));
        }
    }
    sample
}
