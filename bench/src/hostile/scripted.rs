//! Attackers who follow a script of `testdata/hostile/attacks.toml`: they have QUIC connections like
//! everybody, and what they say on them is what attacks.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use masque_testkit::hostile::bytes::Material;
use masque_testkit::hostile::catalogue;
use masque_testkit::hostile::peer::Peer;
use masque_testkit::hostile::runner::Runner;
use masque_testkit::hostile::script::Subject;
use masque_testkit::seed::Seed;

use super::kernel::Later;
use super::peer::{Keys, SERVER, server_address};
use crate::pipeline::PipelineError;

/// How long the server may take over an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// One of them.
pub(super) struct Scripted {
    pub(super) address: SocketAddr,
    runner: Runner,
    /// What is on its way to it.
    pub(super) inbox: Later<(usize, Vec<u8>)>,
    begun: bool,
}

impl Scripted {
    pub(super) fn new(
        keys: &Keys,
        name: &str,
        nth: u8,
        now: Instant,
    ) -> Result<Self, PipelineError> {
        let cases = catalogue::all().map_err(PipelineError::set_up)?;
        let mut cases = cases.into_iter();
        let script = cases.find(|case| case.script.name == name);
        let script = script.ok_or_else(|| PipelineError::SetUp(format!("no script {name}")))?;
        let script = script.script;
        let peer = Peer::client(
            now,
            &Seed::new(0).fork(&format!("{name} {nth}")),
            keys.client(&format!("urn:masque:hostile-{nth}"))?,
            &script.offer,
            server_address(),
            SERVER,
        );
        let material = Material {
            authority: SERVER.to_owned(),
            path: "/.well-known/masque/ip/*/*/".to_owned(),
            assigned: Vec::new(),
        };
        let peer = peer.map_err(PipelineError::set_up)?;
        Ok(Self {
            address: SocketAddr::from(([198, 18, nth, 10], 40_000)),
            runner: Runner::new(script, Subject::Server, peer, material, PATIENCE),
            inbox: Later::default(),
            begun: false,
        })
    }

    /// When it has something to do.
    pub(super) fn next(&mut self, now: Instant) -> Option<Instant> {
        let begins = (!self.begun).then_some(now);
        let own = self.runner.poll_timeout();
        [self.inbox.next(), own, begins].into_iter().flatten().min()
    }

    /// Takes in what has come, does what is due, and gives what it sends.
    pub(super) fn run(&mut self, now: Instant) -> Vec<Vec<u8>> {
        while let Some((_, (stride, data))) = self.inbox.take(now) {
            for datagram in data.chunks(stride.max(1)) {
                self.runner
                    .handle_udp(now, server_address(), None, datagram);
            }
        }
        if !std::mem::replace(&mut self.begun, true)
            || self.runner.poll_timeout().is_some_and(|at| at <= now)
        {
            self.runner.handle_timeout(now);
        }
        let sent = std::iter::from_fn(|| self.runner.poll_transmit(now));
        sent.map(|(_, data)| data).collect()
    }
}
