//! A scenario from a file, made into a world, run, measured and judged.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use masque_core::endpoint::{CongestionControl, Event, SocketId};

use super::file::{
    CongestionName, EventKind, EventPart, FileError, From, LinkPart, ScenarioFile, TrafficKind,
    TrafficPart,
};
use super::{INNER_V4, INNER_V6, Options, Star, client_identity, star};
use crate::traffic::profile::{self, Path};
use crate::traffic::tcp::{Tcp, Transfer};
use crate::traffic::voice::{Call, Voice};
use crate::world::{
    Deed, InnerHost, Input, LinkConfig, NatConfig, NodeId, PingPlan, RouterConfig, World,
};

/// How a scenario is run, where that is not as its file says.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Another seed.
    pub seed: Option<u64>,
    /// Another path for every client.
    pub profile: Option<String>,
    /// Another cryptography.
    pub crypto: Option<super::Crypto>,
    /// Another length.
    pub length: Option<Duration>,
    /// Whether trace lines are kept.
    pub trace: bool,
}

/// A client of a run.
#[derive(Clone, Debug)]
pub struct RunClient {
    /// Its name.
    pub name: String,
    /// Its node.
    pub node: NodeId,
    /// Its paths to the server and back, as they are at first.
    pub links: [LinkConfig; 2],
}

enum App {
    Voice,
    Tcp(Transfer),
}

struct Placed {
    client: usize,
    at_client: usize,
    at_server: usize,
    app: App,
}

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

/// A scenario made into a world: at time 0, with everything that happens waiting in its queue.
pub struct Run {
    /// The world with its server and clients.
    pub star: Star,
    /// The clients, in the order of the file.
    pub clients: Vec<RunClient>,
    /// When it ends.
    pub length: Duration,
    file: ScenarioFile,
    placed: Vec<Placed>,
}

impl ScenarioFile {
    /// Makes the world.
    ///
    /// # Errors
    /// [`FileError::Wrong`] where the file contradicts itself or names a profile or a client that there
    /// is not, [`FileError::Tls`].
    pub fn build(&self, options: &RunOptions) -> Result<Run, FileError> {
        Builder::new(self, options)?.build()
    }
}

struct Builder<'a> {
    file: &'a ScenarioFile,
    parts: Vec<(String, super::file::ClientPart, Path)>,
    options: &'a RunOptions,
    length: Duration,
}

impl<'a> Builder<'a> {
    fn new(file: &'a ScenarioFile, options: &'a RunOptions) -> Result<Self, FileError> {
        let mut parts = Vec::new();
        let one = [super::file::ClientPart::default()];
        let clients = match file.clients.is_empty() {
            true => &one[..],
            false => &file.clients,
        };
        for part in clients {
            let own = part.profile.as_ref().unwrap_or(&file.profile);
            let path = path(options.profile.as_ref().unwrap_or(own))?;
            let count = part.count.unwrap_or(1);
            for nth in 0..count {
                let name = match &part.name {
                    None => format!("client-{}", parts.len()),
                    Some(name) if count == 1 => name.clone(),
                    Some(name) => format!("{name}-{nth}"),
                };
                if parts.iter().any(|(other, _, _)| *other == name) || name == "server" {
                    return Err(FileError::Wrong(format!("two are called {name}")));
                }
                parts.push((name, part.clone(), path));
            }
        }
        if parts.len() > 100 {
            return Err(FileError::Wrong("more than 100 clients".to_owned()));
        }
        Ok(Self {
            file,
            parts,
            options,
            length: options.length.unwrap_or(file.length.0),
        })
    }

    fn build(self) -> Result<Run, FileError> {
        let mut run = Run {
            star: star(&self.star_options()?)?,
            clients: Vec::new(),
            length: self.length,
            file: self.file.clone(),
            placed: Vec::new(),
        };
        let server = run.star.server;
        for (index, (name, part, path)) in self.parts.iter().enumerate() {
            let node = run.star.clients[index];
            let mut links = [path.up, path.down];
            for (link, own) in links.iter_mut().zip([&part.up, &part.down]) {
                part.link.apply(link);
                own.apply(link);
            }
            let world = &mut run.star.world;
            world.link_one_way(node, server, links[0]);
            world.link_one_way(server, node, links[1]);
            for (from, to, own) in [(node, server, &part.up), (server, node, &part.down)] {
                let numbers = part.link.lose.iter().chain(&own.lose);
                world.lose(from, to, numbers.copied());
            }
            if let Some(nat) = &part.nat {
                let last = u8::try_from(index).unwrap_or(u8::MAX);
                let expiry = nat.expiry.map_or(Duration::from_secs(120), |span| span.0);
                let router = world.add_router(RouterConfig {
                    nat: Some(NatConfig {
                        public: IpAddr::from([198, 18, 250, last]),
                        mapping: nat.mapping,
                        filtering: nat.filtering,
                        expiry,
                    }),
                    ..RouterConfig::default()
                });
                world.put_behind(node, Some(router));
            }
            let reconnect = part.reconnect.map(|span| span.0);
            let target = run.star.targets[index].clone();
            inner_mut(&mut run.star.world, node).reconnect = reconnect.map(|after| (after, target));
            run.clients.push(RunClient {
                name: name.clone(),
                node,
                links,
            });
            self.path_events(&mut run, index, path);
        }
        for (nth, traffic) in self.file.traffic.iter().enumerate() {
            self.place(&mut run, nth, traffic)?;
        }
        for (nth, event) in self.file.events.iter().enumerate() {
            self.happen(&mut run, nth, event)?;
        }
        for expect in &self.file.expects {
            run.chosen(expect.client.as_deref())?;
            if !NAMES.contains(&expect.what.as_str()) {
                let names = NAMES.join(", ");
                let what = &expect.what;
                return Err(FileError::Wrong(format!("{what:?} is none of {names}")));
            }
        }
        for node in run.star.clients.iter().chain([&run.star.server]) {
            run.star.world.start_apps(*node);
        }
        Ok(run)
    }

    fn star_options(&self) -> Result<Options, FileError> {
        let server = &self.file.server;
        let mut options = Options {
            seed: self.options.seed.unwrap_or(self.file.seed),
            crypto: self.options.crypto.unwrap_or(self.file.crypto),
            clients: self.parts.len(),
            names: self.parts.iter().map(|(name, ..)| name.clone()).collect(),
            connects: self
                .parts
                .iter()
                .map(|(_, part, _)| part.connect.0)
                .collect(),
            client_plan: None,
            server_plan: None,
            client_to_client: server.client_to_client,
            trace: self.options.trace,
            ..Options::default()
        };
        if let Some(congestion) = server.congestion {
            options.transport.congestion = match congestion {
                CongestionName::Cubic => CongestionControl::Cubic,
                CongestionName::Newreno => CongestionControl::NewReno,
                CongestionName::Bbr => CongestionControl::Bbr,
                CongestionName::Tunnel => CongestionControl::Tunnel,
            };
        }
        if let Some(timeout) = server.idle_timeout {
            options.transport.idle_timeout = timeout.0;
        }
        if let Some(keep_alive) = server.keep_alive {
            options.transport.keep_alive = Some(keep_alive.0);
        }
        let shards = server.shards.unwrap_or(1);
        let wrong = || FileError::Wrong("a server has at least one shard".to_owned());
        options.sharding.shards = NonZeroU16::new(shards).ok_or_else(wrong)?;
        let plain = |traffic: &TrafficPart| traffic.kind == TrafficKind::Echo;
        if shards > 1 && !self.file.traffic.iter().all(plain) {
            let words = "with several shards there is only echo";
            return Err(FileError::Wrong(words.to_owned()));
        }
        Ok(options)
    }

    /// What a path does by itself.
    fn path_events(&self, run: &mut Run, index: usize, path: &Path) {
        if let Some(handover) = path.handover {
            let part = &self.parts[index].1;
            let mut links = [handover.link; 2];
            for (link, own) in links.iter_mut().zip([&part.up, &part.down]) {
                part.link.apply(link);
                own.apply(link);
            }
            let to = another_address(index, 200);
            run.readdress(index, handover.at, handover.gap, to, true, links);
        }
        if let Some(outages) = path.outages {
            let mut end = outages.every;
            while end < self.length {
                run.outage(index, end.saturating_sub(outages.length), outages.length);
                end += outages.every.max(Duration::from_millis(1));
            }
        }
    }

    fn place(&self, run: &mut Run, nth: usize, part: &TrafficPart) -> Result<(), FileError> {
        let chosen = run.chosen(part.client.as_deref())?;
        let begin = part.begin.0;
        let end = part.end.map_or(self.length, |span| span.0);
        let server = run.star.server;
        let address = if part.ipv6 { INNER_V6 } else { INNER_V4 };
        for index in chosen {
            let node = run.clients[index].node;
            // Ports of its own for each client and each kind of traffic: 16 flows fit.
            let port = u16::try_from(10_000 + (nth * 100 + index) % 2000 * 16).unwrap_or(10_000);
            let to = SocketAddr::new(address, port);
            let world = &mut run.star.world;
            let app = match part.kind {
                TrafficKind::Echo => {
                    let every = part.every.map_or(Duration::from_millis(100), |span| span.0);
                    let every = every.max(Duration::from_millis(1));
                    let rounds = end.saturating_sub(begin).as_micros() / every.as_micros();
                    let who = match part.from {
                        From::Client => node,
                        From::Server => server,
                    };
                    let host = inner_mut(world, who);
                    host.plan_begins = begin;
                    host.plan = Some(PingPlan {
                        rounds: u32::try_from(rounds).unwrap_or(u32::MAX),
                        interval: every,
                        size: part.size.unwrap_or(64),
                        then_shut_down: None,
                    });
                    continue;
                }
                TrafficKind::Voice => {
                    let call = Call {
                        server: to,
                        every: part.every.map_or(Duration::from_millis(20), |span| span.0),
                        size: part.size.unwrap_or(160),
                        begin,
                        end,
                    };
                    inner_mut(world, node).add_app(Box::new(Voice::client(call)));
                    inner_mut(world, server).add_app(Box::new(Voice::server(call)));
                    App::Voice
                }
                TrafficKind::Tcp => {
                    let flows = part.flows.unwrap_or(1);
                    if !(1..=16).contains(&flows) {
                        return Err(FileError::Wrong("flows are 1 to 16".to_owned()));
                    }
                    let transfer = Transfer {
                        server: to,
                        flows,
                        up: part.from == From::Client,
                        bytes: part.bytes,
                        mtu: part.mtu.unwrap_or(1280),
                        window: 256 << 10,
                        begin,
                        end,
                    };
                    inner_mut(world, node).add_app(Box::new(Tcp::client(transfer)));
                    inner_mut(world, server).add_app(Box::new(Tcp::server(transfer)));
                    App::Tcp(transfer)
                }
            };
            run.placed.push(Placed {
                client: index,
                at_client: run.star.inner(node).apps() - 1,
                at_server: run.star.inner(server).apps() - 1,
                app,
            });
        }
        Ok(())
    }

    fn happen(&self, run: &mut Run, nth: usize, event: &EventPart) -> Result<(), FileError> {
        let every = event.every.map(|span| span.0.max(Duration::from_millis(1)));
        let mut at = event.at.0;
        loop {
            for index in run.chosen(event.client.as_deref())? {
                self.happen_once(run, nth, index, at, event)?;
            }
            match every {
                Some(every) if at + every < self.length => at += every,
                _ => return Ok(()),
            }
        }
    }

    fn happen_once(
        &self,
        run: &mut Run,
        nth: usize,
        index: usize,
        at: Duration,
        event: &EventPart,
    ) -> Result<(), FileError> {
        let RunClient { node, links, .. } = run.clients[index];
        let server = run.star.server;
        let identity = client_identity(index);
        let first = index == 0 || event.client.is_some();
        let mut new = links;
        if let Some(name) = &event.profile {
            let path = path(name)?;
            new = [path.up, path.down];
        }
        new.iter_mut().for_each(|link| event.link.apply(link));
        let changed = event.profile.is_some() || event.link != LinkPart::default();
        let deed = |node, deed| Some(Input::Deed { node, deed });
        let input = match event.what {
            EventKind::Address => {
                let nth = u8::try_from(nth % 200).unwrap_or(0);
                let to = event.to.unwrap_or_else(|| another_address(index, nth));
                run.readdress(index, at, event.gap.0, to, event.tell, new);
                None
            }
            EventKind::Outage => {
                run.outage(index, at, event.gap.0);
                None
            }
            EventKind::Link => {
                if !changed {
                    let words = "a changed link has a profile or a link";
                    return Err(FileError::Wrong(words.to_owned()));
                }
                run.set_links(index, at, new);
                None
            }
            EventKind::NatRebind => {
                let router = run.star.world.behind(node);
                let wrong = || FileError::Wrong("the client is behind no NAT".to_owned());
                let router = router.ok_or_else(wrong)?;
                Some(Input::Rebind { router })
            }
            EventKind::Assign => deed(
                server,
                Deed::Assign {
                    identity,
                    addresses: event.addresses.iter().map(|text| text.0).collect(),
                    keep: event.keep,
                },
            ),
            EventKind::CloseTunnel => deed(server, Deed::CloseTunnelsOf(identity)),
            EventKind::Disconnect => deed(node, Deed::CloseConnections),
            EventKind::Connect => Some(Input::Connect {
                node,
                target: Box::new(run.star.targets[index].clone()),
            }),
            EventKind::RestartClient => Some(Input::Restart { node }),
            EventKind::RestartServer => first.then_some(Input::Restart { node: server }),
            EventKind::ShutDown if first => deed(server, Deed::ShutDown(Duration::from_secs(1))),
            EventKind::ShutDown => None,
        };
        if let Some(input) = input {
            run.star.world.schedule(at, input);
        }
        Ok(())
    }
}

fn path(name: &str) -> Result<Path, FileError> {
    let known = profile::PATHS.join(", ");
    let wrong = || FileError::Wrong(format!("no profile {name:?}; there are {known}"));
    profile::path(name).ok_or_else(wrong)
}

fn another_address(index: usize, nth: u8) -> SocketAddr {
    let last = u8::try_from(index).unwrap_or(u8::MAX);
    SocketAddr::from(([198, 18, nth, last.saturating_add(100)], 50_000))
}

fn inner_mut(world: &mut World, node: NodeId) -> &mut InnerHost {
    let host = world.node_mut(node).host_mut();
    host.expect("every node of a star has an InnerHost")
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
    /// Runs to the end, and gives what is on its way another moment to arrive.
    pub fn play(&mut self) {
        self.star.world.run_until(self.length);
    }

    /// The file it is from.
    #[must_use]
    pub fn file(&self) -> &ScenarioFile {
        &self.file
    }

    fn chosen(&self, name: Option<&str>) -> Result<Vec<usize>, FileError> {
        let all = 0..self.clients.len();
        let Some(name) = name else {
            return Ok(all.collect());
        };
        let is_it = |index: &usize| {
            let own = &self.clients[*index].name;
            let numbered = own
                .strip_prefix(name)
                .and_then(|rest| rest.strip_prefix('-'));
            own == name || numbered.is_some_and(|rest| rest.parse::<usize>().is_ok())
        };
        let chosen: Vec<_> = all.filter(is_it).collect();
        match chosen.is_empty() {
            true => Err(FileError::Wrong(format!("no client is called {name:?}"))),
            false => Ok(chosen),
        }
    }

    fn set_links(&mut self, index: usize, at: Duration, links: [LinkConfig; 2]) {
        let (node, server) = (self.clients[index].node, self.star.server);
        for ((from, to), config) in [(node, server), (server, node)].into_iter().zip(links) {
            let input = Input::LinkOneWay { from, to, config };
            self.star.world.schedule(at, input);
        }
        // Later events begin with what is then.
        self.clients[index].links = links;
    }

    fn outage(&mut self, index: usize, at: Duration, length: Duration) {
        let links = self.clients[index].links;
        self.set_links(
            index,
            at,
            links.map(|link| LinkConfig { up: false, ..link }),
        );
        self.set_links(index, at + length, links);
    }

    fn readdress(
        &mut self,
        index: usize,
        at: Duration,
        gap: Duration,
        to: SocketAddr,
        tell: bool,
        links: [LinkConfig; 2],
    ) {
        if !gap.is_zero() {
            self.outage(index, at, gap);
        }
        self.set_links(index, at + gap, links);
        let input = Input::Readdress {
            node: self.clients[index].node,
            socket: SocketId(0),
            to,
            tell,
        };
        self.star.world.schedule(at + gap, input);
    }

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
