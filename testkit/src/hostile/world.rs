//! Scripts against our endpoints in the simulated world.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use masque_core::endpoint::{ClientConfig, PortId, SocketId, Target, Usage};
use masque_core::wire::fields::FieldList;
use masque_core::wire::scope::Scope;

use super::bytes::Material;
use super::catalogue::Case;
use super::peer::Peer;
use super::report::Report;
use super::runner::Runner;
use super::script::{Script, Subject};
use crate::crypto::null::{NullClient, NullServer};
use crate::scenario::{self, Options, SERVER_NAME, client_address, server_address, star};
use crate::world::{Host, HostCx, Input, NodeId, NodeSpec, World};

/// How long an expectation may take in virtual time.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// A script that is not over by then never will be.
const LIMIT: Duration = Duration::from_secs(600);

/// What came of a script in the simulated world.
pub struct Outcome {
    /// The report.
    pub report: Report,
    /// What our endpoint held a minute and a half after the end.
    pub left: Usage,
    /// Everything that happened, if traced.
    pub trace: String,
}

/// Where the nth hostile peer is.
#[must_use]
pub fn hostile_address(nth: u16) -> SocketAddr {
    let [high, low] = nth.to_be_bytes();
    SocketAddr::from((
        [192, 0, high.saturating_add(2), low.saturating_add(10)],
        6000,
    ))
}

/// Runs a script against an endpoint of ours, alone in a world.
///
/// # Panics
/// Where our endpoint or the world does.
#[must_use]
pub fn run(case: &Case, seed: u64, trace: bool) -> Outcome {
    let (mut world, subject, address) = match case.subject {
        Subject::Server => {
            let options = Options {
                seed,
                clients: 0,
                trace,
                client_plan: None,
                server_plan: None,
                ..Options::default()
            };
            let star = star(&options).expect("null crypto takes anything");
            (star.world, star.server, hostile_address(0))
        }
        Subject::Client => client_world(seed, trace),
    };
    world.add_stranger(address);
    let mut hostile = Hostile::new(&world, address, case.script.clone(), case.subject);
    hostile.run(&mut world, LIMIT);
    let report = hostile.runner.report().cloned().expect("it ran to its end");
    // Draining, and all timers of a connection that is gone.
    let rest = world.now() + Duration::from_secs(90);
    world.run_until(rest);
    let endpoint = world.node(subject).endpoint().expect("running");
    Outcome {
        report,
        left: endpoint.usage(),
        trace: world.trace().text(),
    }
}

/// A client of ours that connects to where the hostile server is, once.
fn client_world(seed: u64, trace: bool) -> (World, NodeId, SocketAddr) {
    let options = Options {
        seed,
        ..Options::default()
    };
    let mut world = World::new(seed);
    world.set_tracing(trace);
    let node = world.add_node(NodeSpec {
        name: "client".to_owned(),
        config: scenario::client_config(&options),
        sockets: vec![client_address(0)],
        host: Box::new(Quiet),
    });
    let target = Target {
        config: ClientConfig {
            crypto: NullClient::named("urn:masque:client-0"),
            template: scenario::template(),
            port: PortId(0),
        },
        remote: server_address(),
        server_name: SERVER_NAME.to_owned(),
        socket: SocketId(0),
        scope: Scope::default(),
        fields: FieldList::default(),
    };
    let target = Box::new(target);
    world.schedule(Duration::ZERO, Input::Connect { node, target });
    (world, node, server_address())
}

/// A host that takes what comes and says nothing.
struct Quiet;

impl Host for Quiet {
    fn on_packet(&mut self, _: &mut HostCx<'_>, _: PortId, _: &[u8]) {}
}

/// A hostile peer in a world.
pub struct Hostile {
    address: SocketAddr,
    /// Its script.
    pub runner: Runner,
}

impl Hostile {
    /// A peer at `address`, which must be a stranger's of `world`, before its first step.
    ///
    /// # Panics
    /// Never: null crypto takes any name.
    #[must_use]
    pub fn new(world: &World, address: SocketAddr, script: Arc<Script>, subject: Subject) -> Self {
        let seed = world.seed().fork(&format!("hostile {address}"));
        let peer = match subject {
            Subject::Server => Peer::client(
                world.instant(),
                &seed,
                NullClient::named(&format!("urn:hostile:{address}")),
                &script.offer,
                server_address(),
                SERVER_NAME,
            )
            .expect("null crypto takes any name"),
            Subject::Client => Peer::server(&seed, NullServer::named(SERVER_NAME), &script.offer),
        };
        let material = Material {
            authority: SERVER_NAME.to_owned(),
            path: "/.well-known/masque/ip/*/*/".to_owned(),
            assigned: Vec::new(),
        };
        Self {
            address,
            runner: Runner::new(script, subject, peer, material, PATIENCE),
        }
    }

    /// Runs the world until the script is over, or `limit` has passed.
    pub fn run(&mut self, world: &mut World, limit: Duration) {
        run_all(world, std::slice::from_mut(self), limit, |_| false);
    }

    fn flush(&mut self, world: &mut World) {
        let now = world.instant();
        while let Some((to, data)) = self.runner.poll_transmit(now) {
            world.send_as_stranger(self.address, to, data);
        }
    }

    fn deadline(&mut self, world: &World) -> Option<Duration> {
        let at = self.runner.poll_timeout()?;
        Some(world.since_start(at).max(world.now()))
    }
}

/// Runs a world and the hostile peers in it until all their scripts are over, `done` says so, or
/// `limit` has passed.
pub fn run_all(
    world: &mut World,
    hostiles: &mut [Hostile],
    limit: Duration,
    mut done: impl FnMut(&World) -> bool,
) {
    for hostile in &mut *hostiles {
        hostile.runner.handle_timeout(world.instant());
        hostile.flush(world);
    }
    while world.now() < limit && !done(world) {
        if !hostiles.is_empty() && hostiles.iter().all(|it| it.runner.report().is_some()) {
            return;
        }
        let next = world.next_at();
        let due = hostiles
            .iter_mut()
            .enumerate()
            .filter_map(|(index, hostile)| Some((hostile.deadline(world)?, index)))
            .min();
        match (due, next) {
            (Some((at, index)), next) if next.is_none_or(|next| at < next) => {
                if at > limit {
                    world.run_until(limit);
                    return;
                }
                world.run_until(at);
                let hostile = &mut hostiles[index];
                hostile.runner.handle_timeout(world.instant());
                hostile.flush(world);
            }
            (_, Some(next)) if next <= limit => {
                world.step();
            }
            _ => {
                world.run_until(limit);
                return;
            }
        }
        for hostile in &mut *hostiles {
            let mut came = false;
            while let Some((from, data)) = world.take_letter(hostile.address) {
                came = true;
                let now = world.instant();
                hostile.runner.handle_udp(now, from, None, &data);
            }
            if came {
                hostile.flush(world);
            }
        }
    }
}
