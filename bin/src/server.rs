//! The server: an [`App`] that gives clients addresses and forwards their packets.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use masque_adapter_kit::{App, Cx, Offload};
use masque_core::endpoint::{Command, Config, ConnId, Event, Identity, PortId, ServerConfig};
use masque_core::session::SessionConfig;
use masque_core::wire::prefix::IpPrefix;

use crate::app::{self, GRACE, StopSignals, list};
use crate::config::server::ServerSettings;
use crate::config::{ServerFile, Source};
use crate::exit::{Exit, Failure};
use crate::files;
use crate::host::{GatewayAccess, HostNet, ServerNet, Table};
use crate::runtime::Runtime;
use crate::state::State;

/// How long changed leases wait to be written together.
const SAVE_DELAY: Duration = Duration::from_millis(100);

/// Runs a server until a signal ends it.
///
/// # Errors
/// A [`Failure`]; the host is then as before.
pub fn run<R: Runtime>(path: &Path) -> Result<(), Failure> {
    let settings = ServerFile::load(&Source::read(path)?)?;
    let signals = StopSignals::new()?;
    let (state, warning) = State::open(&settings.state_dir)?;
    if let Some(warning) = warning {
        tracing::warn!("{warning}");
    }
    let mut io = app::system_io(&settings.transport);
    for listen in &settings.listen {
        let socket = app::bind(*listen, &settings.transport, None)?;
        io.add_socket(socket)
            .map_err(|error| Failure::system(format!("cannot use UDP {listen}"), &error))?;
    }
    let mut host = app::open_host(&settings.tun)?;
    let tun = app::open_tun(&settings.tun)?;
    install(&mut host, &settings, tun.name())?;
    let config = config(&settings, &state, tun.offload())?;
    tracing::info!(
        runtime = R::NAME,
        listen = ?settings.listen,
        tun = tun.name(),
        pools = %list(&settings.pools),
        templates = ?settings.templates.iter().map(|(text, _)| text).collect::<Vec<_>>(),
        "server ready"
    );
    io.add_tun(tun);
    let pump = app::pump(config, io, ServerApp::new(state, Some(host)))?;
    signals.forward(pump.controller(), || Message::Stop);
    let pump = R::run(pump).map_err(|error| Failure::internal(error.to_string()))?;
    app::account(&pump);
    // The device goes first: deleting it takes its addresses and routes along.
    let (_, io, app) = pump.into_parts();
    drop(io);
    app.finish()
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
            ..SessionConfig::default()
        },
        ports: vec![app::port_config(
            offload,
            *settings.tun.mtu.get_ref(),
            settings.gateways.clone(),
        )],
    })
}

/// What other threads may tell a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message {
    /// Say goodbye to all clients, then end.
    Stop,
}

/// The server's application.
pub struct ServerApp {
    state: State,
    writer: Writer,
    save_at: Option<Instant>,
    host: Option<HostNet>,
    clients: BTreeMap<ConnId, Option<Identity>>,
    stopping: bool,
    failure: Option<Failure>,
}

impl ServerApp {
    /// With its state, and the host to be restored at the end (`None` with devices in memory).
    #[must_use]
    pub fn new(state: State, host: Option<HostNet>) -> Self {
        Self {
            writer: Writer::new(state.leases_path()),
            state,
            save_at: None,
            host,
            clients: BTreeMap::new(),
            stopping: false,
            failure: None,
        }
    }

    /// Writes the leases and restores the host.
    ///
    /// # Errors
    /// Why the server ended, if not by a signal; or what could not be written or restored.
    pub fn finish(mut self) -> Result<(), Failure> {
        if self.writer.finish().is_err() {
            self.state.mark_dirty();
        }
        let saved = self.state.save().map_err(|error| {
            let path = self.state.leases_path();
            Failure::system(format!("cannot write {}", path.display()), &error)
        });
        let restored = app::close_host(self.host.take());
        match self.failure.take() {
            Some(failure) => Err(failure),
            None => saved.and(restored),
        }
    }

    fn lease_changed(&mut self, now: Instant) {
        if self.save_at.is_none() {
            self.save_at = Some(now + SAVE_DELAY);
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
                tracing::info!(%conn, %remote, client, "client connected");
                self.clients.insert(conn, identity);
            }
            Event::TunnelUp { tunnel, .. } => {
                tracing::info!(%tunnel, client = self.name(tunnel.conn), "tunnel up");
            }
            Event::Addresses { tunnel, addresses } => {
                let client = self.name(tunnel.conn);
                tracing::info!(%tunnel, client, addresses = %list(&addresses), "addresses assigned");
            }
            Event::Mtu { tunnel, mtu } => tracing::debug!(%tunnel, mtu, "tunnel MTU"),
            Event::TunnelDown { tunnel, reason } => {
                tracing::info!(%tunnel, client = self.name(tunnel.conn), ?reason, "tunnel down");
            }
            Event::ConnectionClosed { conn, reason } => {
                tracing::info!(%conn, client = self.name(conn), %reason, "client gone");
                self.clients.remove(&conn);
            }
            Event::Migrated { conn, remote } => {
                tracing::info!(%conn, client = self.name(conn), %remote, "client moved");
            }
            Event::LeaseChanged(lease) => {
                self.state.set(lease);
                self.lease_changed(cx.now);
            }
            Event::LeaseEnded(identity) => {
                self.state.remove(&identity);
                self.lease_changed(cx.now);
            }
            Event::Routes { tunnel, .. } => {
                tracing::debug!(%tunnel, "client advertises routes");
            }
            Event::TunnelRefused { .. } => {}
            Event::ShutdownComplete => cx.stop(),
        }
    }

    fn on_message(&mut self, cx: &mut Cx<'_>, Message::Stop: Message) {
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
        self.save_at
    }

    fn on_deadline(&mut self, cx: &mut Cx<'_>) {
        if self.save_at.is_some_and(|at| at <= cx.now) {
            self.save_at = None;
            if let Some(text) = self.state.changed() {
                self.writer.write(text);
            }
        }
    }

    fn on_port_lost(&mut self, cx: &mut Cx<'_>, _port: PortId, error: &io::Error) {
        self.failure = Some(Failure::new(
            Exit::Host,
            format!("the TUN device was taken away: {error}"),
        ));
        cx.stop();
    }
}

/// Writes lease files on a thread of its own: the loop must not wait for a disk.
struct Writer {
    sender: Option<mpsc::Sender<Vec<u8>>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Writer {
    fn new(path: PathBuf) -> Self {
        let (sender, texts) = mpsc::channel::<Vec<u8>>();
        let thread = std::thread::spawn(move || {
            let mut last = Ok(());
            while let Ok(mut text) = texts.recv() {
                // Each text is the whole file: only the latest counts.
                text = texts.try_iter().last().unwrap_or(text);
                last = files::replace(&path, &text);
                if let Err(error) = &last {
                    tracing::error!(%error, path = %path.display(), "cannot write the leases");
                }
            }
            last
        });
        Self {
            sender: Some(sender),
            thread: Some(thread),
        }
    }

    fn write(&self, text: Vec<u8>) {
        if let Some(sender) = &self.sender {
            // The thread ends only after the sender.
            let _ = sender.send(text);
        }
    }

    /// Waits for what is under way; the result of the last write.
    fn finish(&mut self) -> io::Result<()> {
        self.sender = None;
        match self.thread.take() {
            Some(thread) => thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the writer panicked"))),
            None => Ok(()),
        }
    }
}
