//! A world made of a scenario file: nodes, paths, traffic, and what happens when.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use masque_core::endpoint::{CongestionControl, SocketId};

use super::{App, NAMES, Placed, Run, RunClient, RunOptions};
use crate::scenario::file::{
    ClientPart, CongestionName, EventKind, EventPart, FileError, From, LinkPart, ScenarioFile,
    TrafficKind, TrafficPart,
};
use crate::scenario::{INNER_V4, INNER_V6, Options, client_identity, star};
use crate::traffic::profile::{self, Path};
use crate::traffic::tcp::{Tcp, Transfer};
use crate::traffic::voice::{Call, Voice};
use crate::world::{
    Deed, InnerHost, Input, LinkConfig, NatConfig, NodeId, PingPlan, RouterConfig, World,
};

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
    parts: Vec<(String, ClientPart, Path)>,
    options: &'a RunOptions,
    length: Duration,
}

impl<'a> Builder<'a> {
    fn new(file: &'a ScenarioFile, options: &'a RunOptions) -> Result<Self, FileError> {
        let mut parts = Vec::new();
        let one = [ClientPart::default()];
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

impl Run {
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
}
