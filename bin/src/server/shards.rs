//! A server on several cores: a thread, a loop, sockets and a queue of the device for each shard.

use std::thread;

use masque_adapter_kit::mail::post_office;
use masque_adapter_kit::{
    Controller, Destinations, MailLimits, Pump, SystemIo, TunDevice, TunQueues,
};
use masque_core::endpoint::{Config, Shard, ShardId, Shared};

use super::leases::Leases;
use super::{Message, ServerApp};
use crate::app;
use crate::config::server::ServerSettings;
use crate::exit::Failure;
use crate::host::HostNet;
use crate::runtime::Runtime;
use crate::state::State;

/// Everything of the system that the shards use.
pub(super) struct Resources {
    /// One for each shard, with sockets only.
    ios: Vec<SystemIo>,
    /// One for each shard.
    queues: Vec<TunDevice>,
    destinations: Option<Destinations>,
    /// What the kernel did not take.
    failures: u64,
}

impl Resources {
    /// Binds all sockets.
    ///
    /// # Errors
    /// An address cannot be used. That the kernel does not steer is no error.
    pub(super) fn listen(settings: &ServerSettings) -> Result<Self, Failure> {
        let steering = settings.transport.steering.unwrap_or(true);
        if settings.shards.get() > 1 {
            tell_forbidden(settings, steering);
        }
        let first = app::system_io(&settings.transport);
        let siblings = (1..settings.shards.get()).map(|_| first.sibling());
        let mut ios: Vec<SystemIo> = siblings.collect();
        ios.insert(0, first);
        let mut failure = None;
        // A socket has the same number on every shard.
        for listen in &settings.listen {
            let group = app::bind_group(*listen, &settings.transport, settings.shards, steering)?;
            failure = failure.or(group.failure);
            for (io, socket) in ios.iter_mut().zip(group.sockets) {
                io.add_socket(socket)
                    .map_err(|error| Failure::system(format!("cannot use UDP {listen}"), &error))?;
            }
        }
        if let Some(error) = &failure {
            tracing::warn!(
                %error,
                "datagrams are not steered by connection ID: the shards hand them to each other"
            );
        }
        Ok(Self {
            ios,
            queues: Vec::new(),
            destinations: None,
            failures: failure.is_some().into(),
        })
    }

    /// Makes the device. Its queues are in the order of the shards.
    ///
    /// # Errors
    /// It cannot be made. That it has one queue only, or is not steered, is no error.
    pub(super) fn open_tun(&mut self, settings: &ServerSettings) -> Result<&TunDevice, Failure> {
        let TunQueues { devices, failure } = app::open_queues(&settings.tun, settings.shards)?;
        if let Some(error) = &failure {
            self.failures += 1;
            tracing::warn!(
                %error,
                "the TUN device has one queue: the first shard reads for all"
            );
        }
        self.queues = devices;
        let many = match self.queues.as_slice() {
            [_, second, ..] => !second.is_write_only(),
            _ => false,
        };
        if let Some(first) = self
            .queues
            .first()
            .filter(|_| many && settings.tun.steering)
        {
            match Destinations::attach(first) {
                Ok(destinations) => self.destinations = Some(destinations),
                Err(error) => {
                    self.failures += 1;
                    tracing::warn!(
                        %error,
                        "the queues of the TUN device are not steered by destination: the kernel \
                         goes by flows, and the shards hand on the rest"
                    );
                }
            }
        }
        self.queues
            .first()
            .ok_or_else(|| Failure::internal("a device without a queue"))
    }

    /// The loops, ready to run, the first shard's first.
    ///
    /// # Errors
    /// The configuration cannot be used, or no descriptors are left.
    pub(super) fn pumps(
        self,
        settings: &ServerSettings,
        config: Config,
        state: State,
        host: HostNet,
    ) -> Result<Vec<Pump<ServerApp>>, Failure> {
        let shards = settings.shards;
        let mut members = self
            .ios
            .into_iter()
            .zip(self.queues)
            .map(|(mut io, queue)| {
                io.add_tun(queue);
                io
            });
        if shards.get() == 1 {
            let io = members.next().unwrap_or_default();
            let app = ServerApp::new(state, Some(host));
            let recording = settings.credentials.recording();
            let mut pump = app::recorded_pump(config, io, app, recording)?;
            let controller = pump.controller();
            pump.app_mut().resolve_names(controller);
            return Ok(vec![pump]);
        }
        let shared = Shared::new(&config, shards);
        let (keeper, reporter) = Leases::shared(state, shared.clone());
        let boxes = post_office(shards, MailLimits::default())
            .map_err(|error| Failure::system("cannot set up the mail between shards", &error))?;
        let mut keeper = Some((keeper, host));
        let mut pumps: Vec<Pump<ServerApp>> = Vec::new();
        for ((number, io), post) in (0..).zip(members).zip(boxes) {
            let (leases, host) = match (keeper.take(), pumps.first()) {
                (Some((keeper, host)), _) => (keeper, Some(host)),
                (None, Some(first)) => (reporter.clone().to(first.controller()), None),
                (None, None) => break,
            };
            let app = ServerApp::of_shard(number, leases, host, self.destinations.clone());
            let config = Config {
                shard: Some(Shard {
                    id: ShardId(number),
                    shared: shared.clone(),
                }),
                ..config.clone()
            };
            let mut pump = app::pump(config, io, app)?.with_post_box(post);
            let controller = pump.controller();
            pump.app_mut().resolve_names(controller);
            if number == 0 {
                pump.set_steering_failures(self.failures);
            }
            pumps.push(pump);
        }
        Ok(pumps)
    }
}

/// Says which ways to the right shard the configuration forbids.
fn tell_forbidden(settings: &ServerSettings, steering: bool) {
    if !steering {
        tracing::info!("transport.steering = false: datagrams come by addresses and ports");
    }
    if !settings.tun.multi_queue {
        tracing::info!("tun.multi_queue = false: the first shard reads the TUN device for all");
    } else if !settings.tun.steering {
        tracing::info!("tun.steering = false: packets from the TUN device come by flows");
    }
}

/// Says `Stop` to all shards when it goes: when one ends, for whatever reason, all do.
struct StopAll<'a>(&'a [Controller<Message>]);

impl Drop for StopAll<'_> {
    fn drop(&mut self) {
        for controller in self.0 {
            // Gone, or stopping already.
            let _ = controller.send(Message::Stop);
        }
    }
}

/// Runs each pump on a thread of its own, a single one on this; all have ended when it returns. The first
/// failure stands beside the pumps that have none.
pub(super) fn run<R: Runtime>(
    mut pumps: Vec<Pump<ServerApp>>,
) -> (Vec<Pump<ServerApp>>, Result<(), Failure>) {
    let run = |pump| R::run(pump).map_err(|error| Failure::internal(error.to_string()));
    let ended: Vec<_> = match pumps.len() {
        0 | 1 => pumps.pop().map(run).into_iter().collect(),
        _ => {
            let controllers: Vec<_> = pumps.iter().map(Pump::controller).collect();
            let controllers = controllers.as_slice();
            thread::scope(|scope| {
                let start = |pump| {
                    scope.spawn(move || {
                        let _stop = StopAll(controllers);
                        run(pump)
                    })
                };
                let threads: Vec<_> = pumps.into_iter().map(start).collect();
                let panicked = |_| Err(Failure::internal("a shard panicked"));
                let join = |thread: thread::ScopedJoinHandle<'_, _>| {
                    thread.join().unwrap_or_else(panicked)
                };
                threads.into_iter().map(join).collect()
            })
        }
    };
    let mut outcome = Ok(());
    let mut pumps = Vec::new();
    for pump in ended {
        match pump {
            Ok(pump) => pumps.push(pump),
            Err(failure) => outcome = outcome.and(Err(failure)),
        }
    }
    (pumps, outcome)
}
