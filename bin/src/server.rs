//! The server: an [`App`] that gives clients addresses and forwards their packets.

mod leases;
mod names;
mod shards;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::path::Path;
use std::time::Instant;

use ipnet::IpNet;
use masque_adapter_kit::{App, Controller, Cx, Destinations, Offload, Pump};
use masque_core::endpoint::{
    Command, Config, ConnId, Event, Identity, PortId, ServerConfig, TunnelHandle,
};
use masque_core::session::SessionConfig;
use masque_core::wire::prefix::IpPrefix;

use crate::app::{self, GRACE, StopSignals, list};
use crate::config::server::ServerSettings;
use crate::config::{ServerFile, Source};
use crate::exit::{Exit, Failure};
use crate::host::{GatewayAccess, HostNet, ServerNet, Table};
use crate::recording::RecordArgs;
use crate::runtime::Runtime;
use crate::state::State;
use leases::Leases;
use names::Names;
use shards::Resources;

/// Runs a server until a signal ends it.
///
/// # Errors
/// A [`Failure`]; the host is then as before.
pub fn run<R: Runtime>(path: &Path, record: &RecordArgs) -> Result<(), Failure> {
    let mut settings = ServerFile::load(&Source::read(path)?)?;
    if let Some(tape) = record.open(&settings.profile)? {
        if settings.shards.get() > 1 {
            tracing::info!("--record: one shard; what several tell each other is not recorded");
            settings.shards = NonZeroU16::MIN;
        }
        settings.credentials = settings.credentials.recorded_by(tape);
    }
    let signals = StopSignals::new()?;
    let (state, warning) = State::open(&settings.state_dir)?;
    if let Some(warning) = warning {
        tracing::warn!("{warning}");
    }
    app::tell_forbidden(&settings.tun, &settings.transport);
    let mut resources = Resources::listen(&settings)?;
    let mut host = app::open_host(&settings.tun)?;
    let tun = resources.open_tun(&settings)?;
    install(&mut host, &settings, tun.name())?;
    let config = config(&settings, &state, tun.offload())?;
    tracing::info!(
        runtime = R::NAME,
        shards = settings.shards,
        listen = ?settings.listen,
        tun = tun.name(),
        pools = %list(&settings.pools),
        templates = ?settings.templates.iter().map(|(text, _)| text).collect::<Vec<_>>(),
        "server ready"
    );
    let pumps = resources.pumps(&settings, config, state, host)?;
    let controllers = pumps.iter().map(Pump::controller).collect();
    signals.forward(controllers, || Message::Stop);
    let (pumps, ran) = shards::run::<R>(pumps);
    app::account(&pumps);
    // The device goes first: deleting it takes its addresses and routes along.
    let apps: Vec<ServerApp> = pumps.into_iter().map(|pump| pump.into_parts().2).collect();
    let finished = apps.into_iter().map(ServerApp::finish);
    finished.fold(ran, Result::and)
}

/// Addresses, routes and packet filters of a server.
fn install(host: &mut HostNet, settings: &ServerSettings, tun: &str) -> Result<(), Failure> {
    let failed = |error| app::host_failure(&error);
    let gateways: Vec<IpNet> = settings.gateways.iter().copied().map(IpNet::from).collect();
    host.replace_addresses(tun, &gateways).map_err(failed)?;
    host.set_up(tun, Some(*settings.tun.mtu.get_ref()))
        .map_err(failed)?;
    host.replace_routes(tun, Table::MAIN, &client_networks(settings))
        .map_err(failed)?;
    if !settings.firewall {
        tracing::warn!("firewall = false: forwarding and packet filtering are left to you");
        return Ok(());
    }
    let access = &settings.access;
    host.install_server(&ServerNet {
        nat: settings.nat,
        inbound: settings.inbound,
        tun_to_tun: access.client_to_client,
        gateway: match access.gateway {
            true => GatewayAccess::Open,
            false => GatewayAccess::Closed,
        },
        ..ServerNet::new(tun, client_networks(settings))
    })
    .map_err(failed)
}

/// Everything that clients may have: the pools, and static addresses outside them.
fn client_networks(settings: &ServerSettings) -> Vec<IpPrefix> {
    let mut networks = settings.pools.clone();
    for prefix in settings.statics.iter().flat_map(|client| &client.addresses) {
        if !networks.iter().any(|net| net.covers(prefix)) {
            networks.push(*prefix);
        }
    }
    networks
}

/// The endpoint's configuration.
///
/// # Errors
/// TLS refuses the certificates.
pub fn config(
    settings: &ServerSettings,
    state: &State,
    offload: Offload,
) -> Result<Config, Failure> {
    Ok(Config {
        server: Some(ServerConfig {
            crypto: settings.credentials.server()?,
            secret: state.secret(),
            require_identity: true,
            port: app::PORT,
            pools: settings.pools.clone(),
            gateways: settings.gateways.clone(),
            statics: settings.statics.clone(),
            leases: state.leases(),
            routes: settings.routes.clone(),
            access: settings.access.clone(),
        }),
        transport: settings.profile.clone(),
        limits: settings.limits.clone(),
        session: SessionConfig {
            templates: settings
                .templates
                .iter()
                .map(|(_, template)| template.clone())
                .collect(),
            resolve_names: settings.resolve_names,
            ..settings.session.clone()
        },
        shard: None,
        ports: vec![app::port_config(
            offload,
            *settings.tun.mtu.get_ref(),
            settings.gateways.clone(),
        )],
    })
}

/// What other threads may tell a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// Say goodbye to all clients, then end.
    Stop,
    /// Another shard has news of leases.
    Leases,
    /// The addresses of the host name that a tunnel is asked for; none if it has none.
    Resolved {
        /// The tunnel asked for.
        tunnel: TunnelHandle,
        /// The addresses.
        addresses: Vec<IpAddr>,
    },
}

/// The server's application, or that of one of its shards.
pub struct ServerApp {
    shard: u16,
    leases: Leases,
    names: Names,
    host: Option<HostNet>,
    destinations: Option<Destinations>,
    clients: BTreeMap<ConnId, Option<Identity>>,
    stopping: bool,
    failure: Option<Failure>,
}

impl ServerApp {
    /// With its state, and the host to be restored at the end (`None` with devices in memory).
    #[must_use]
    pub fn new(state: State, host: Option<HostNet>) -> Self {
        Self::of_shard(0, Leases::alone(state), host, None)
    }

    fn of_shard(
        shard: u16,
        leases: Leases,
        host: Option<HostNet>,
        destinations: Option<Destinations>,
    ) -> Self {
        Self {
            shard,
            leases,
            names: Names::default(),
            host,
            destinations,
            clients: BTreeMap::new(),
            stopping: false,
            failure: None,
        }
    }

    /// Resolves host names that clients ask for, and hears of them by this controller of its own pump.
    /// Without it they are refused.
    pub fn resolve_names(&mut self, controller: Controller<Message>) {
        self.names.answer_by(controller);
    }

    /// Writes the leases and restores the host. All shards have ended.
    ///
    /// # Errors
    /// Why the server ended, if not by a signal; or what could not be written or restored.
    pub fn finish(self) -> Result<(), Failure> {
        let refused = self.destinations.as_ref().map_or(0, Destinations::failures);
        if self.shard == 0 && refused > 0 {
            tracing::info!(refused, "prefixes that were not steered");
        }
        let saved = self.leases.finish();
        let restored = app::close_host(self.host);
        match self.failure {
            Some(failure) => Err(failure),
            None => saved.and(restored),
        }
    }

    /// Has the kernel bring packets for these addresses here.
    fn steer(&self, tunnel: TunnelHandle, addresses: &[IpPrefix]) {
        let Some(destinations) = &self.destinations else {
            return;
        };
        if let Err((prefix, error)) = destinations.set(tunnel, self.shard, addresses)
            && destinations.failures() == 1
        {
            tracing::warn!(
                %prefix, %error,
                "packets for a client are not steered to its shard; further ones are only counted"
            );
        }
    }

    fn name(&self, conn: ConnId) -> String {
        match self.clients.get(&conn) {
            Some(Some(identity)) => identity.0.clone(),
            _ => "unknown".to_owned(),
        }
    }
}

impl App for ServerApp {
    type Message = Message;

    fn start(&mut self, _cx: &mut Cx<'_>) {}

    fn on_event(&mut self, cx: &mut Cx<'_>, event: Event) {
        match event {
            Event::Connected {
                conn,
                remote,
                identity,
            } => {
                let client = identity.as_ref().map_or("unknown", |identity| &identity.0);
                let cipher = app::cipher(cx.endpoint, conn);
                tracing::info!(%conn, %remote, client, cipher, shard = self.shard, "client connected");
                self.clients.insert(conn, identity);
            }
            Event::TunnelUp { tunnel, .. } => {
                tracing::info!(%tunnel, client = self.name(tunnel.conn), "tunnel up");
            }
            Event::Addresses { tunnel, addresses } => {
                self.steer(tunnel, &addresses);
                let client = self.name(tunnel.conn);
                tracing::info!(%tunnel, client, addresses = %list(&addresses), "addresses assigned");
            }
            Event::Mtu { tunnel, mtu } => tracing::debug!(%tunnel, mtu, "tunnel MTU"),
            Event::TunnelDown { tunnel, reason } => {
                self.steer(tunnel, &[]);
                tracing::info!(%tunnel, client = self.name(tunnel.conn), ?reason, "tunnel down");
            }
            Event::ConnectionClosed { conn, reason } => {
                tracing::info!(%conn, client = self.name(conn), %reason, "client gone");
                self.clients.remove(&conn);
            }
            Event::Migrated { conn, remote } => {
                let client = self.name(conn);
                tracing::info!(%conn, client, %remote, shard = self.shard, "client moved");
            }
            Event::LeaseChanged(lease) => self.leases.changed(cx.now, lease),
            Event::LeaseEnded(identity) => self.leases.ended(cx.now, identity),
            Event::Routes { tunnel, .. } => {
                tracing::debug!(%tunnel, "client advertises routes");
            }
            Event::NameWanted { tunnel, name } => self.names.wanted(cx, tunnel, name),
            Event::TunnelRefused { .. } | Event::HandedOver { .. } => {}
            Event::ShutdownComplete => cx.stop(),
        }
    }

    fn on_message(&mut self, cx: &mut Cx<'_>, message: Message) {
        match message {
            Message::Stop => {}
            Message::Leases => return self.leases.collect(cx.now),
            Message::Resolved { tunnel, addresses } => {
                return self.names.resolved(cx, tunnel, addresses);
            }
        }
        if std::mem::replace(&mut self.stopping, true) {
            return;
        }
        let goodbye = Command::Shutdown { grace: GRACE };
        if let Err(error) = cx.endpoint.handle_command(cx.now, goodbye) {
            tracing::warn!(%error, "no graceful shutdown");
            cx.stop();
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.leases.deadline()
    }

    fn on_deadline(&mut self, cx: &mut Cx<'_>) {
        self.leases.on_deadline(cx.now);
    }

    fn on_port_lost(&mut self, cx: &mut Cx<'_>, _port: PortId, error: &io::Error) {
        self.failure = Some(Failure::new(
            Exit::Host,
            format!("the TUN device was taken away: {error}"),
        ));
        cx.stop();
    }
}
