//! The client: an [`App`] that keeps one tunnel up and its host's network in step with it.

mod backoff;
mod install;
mod moving;
mod settling;
mod verdict;

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use masque_adapter_kit::{App, Controller, Cx, Offload};
use masque_core::H3Code;
use masque_core::endpoint::{
    ClientConfig, CloseReason, Command, Config, ConnId, Event, Limits, PortId, SocketId, Target,
    TunnelHandle,
};
use masque_core::session::{SessionConfig, TunnelEnd};
use masque_core::wire::fields::FieldList;
use masque_core::wire::prefix::IpPrefix;

use self::backoff::Backoff;
pub use self::install::Installer;
use self::moving::Moving;
use self::settling::Settling;
use self::verdict::{Circumstances, Verdict};
use crate::app::{self, GRACE, StopSignals, list};
use crate::config::client::ClientSettings;
use crate::config::{ClientFile, Source};
use crate::exit::{Exit, Failure};
use crate::recording::RecordArgs;
use crate::runtime::Runtime;
use crate::tls;

/// How often the way to the server is looked at: a changed source address means another network.
const WATCH: Duration = Duration::from_secs(1);

/// Runs a client until a signal ends it, or for good reason.
///
/// # Errors
/// A [`Failure`]; the host is then as before.
pub fn run<R: Runtime>(path: &Path, once: bool, record: &RecordArgs) -> Result<(), Failure> {
    let mut settings = ClientFile::load(&Source::read(path)?)?;
    if once {
        settings.reconnect = None;
    }
    if let Some(tape) = record.open(&settings.profile)? {
        settings.credentials = settings.credentials.recorded_by(tape);
    }
    let signals = StopSignals::new()?;
    serve::<R>(settings, signals, None)
}

/// Runs a client with these settings; `observer` is told what happens.
///
/// # Errors
/// As [`run`].
pub fn serve<R: Runtime>(
    settings: ClientSettings,
    signals: StopSignals,
    observer: Option<mpsc::Sender<Status>>,
) -> Result<(), Failure> {
    let mut host = app::open_host(&settings.tun)?;
    let tun = app::open_tun(&settings.tun)?;
    host.set_up(tun.name(), Some(*settings.tun.mtu.get_ref()))
        .map_err(|error| app::host_failure(&error))?;
    let config = config(&settings, tun.offload());
    tracing::info!(
        runtime = R::NAME,
        tun = tun.name(),
        url = settings.url,
        "client ready"
    );
    let installer = Installer::new(host, &settings, tun.name());
    app::tell_forbidden(&settings.tun, &settings.transport);
    let mut io = app::system_io(&settings.transport);
    io.add_tun(tun);
    let recording = settings.credentials.recording();
    let app = ClientApp::new(settings, Some(installer), observer)?;
    let mut pump = app::recorded_pump(config, io, app, recording)?;
    let controller = pump.controller();
    pump.app_mut().controller = Some(controller.clone());
    let _watch = moving::watch(&controller);
    signals.forward(vec![controller], || Message::Stop);
    let pump = R::run(pump).map_err(|error| Failure::internal(error.to_string()))?;
    app::account(std::slice::from_ref(&pump));
    // The device goes first: deleting it takes its addresses and routes along.
    let (_, io, app) = pump.into_parts();
    drop(io);
    app.finish()
}

/// The endpoint's configuration.
#[must_use]
pub fn config(settings: &ClientSettings, offload: Offload) -> Config {
    let any = [
        IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    ];
    Config {
        server: None,
        transport: settings.profile.clone(),
        limits: Limits::default(),
        session: SessionConfig {
            wanted_addresses: any.into_iter().map(IpPrefix::host).collect(),
            ..SessionConfig::default()
        },
        shard: None,
        ports: vec![app::port_config(
            offload,
            *settings.tun.mtu.get_ref(),
            Vec::new(),
        )],
    }
}

/// What other threads may tell a client.
#[derive(Debug)]
pub enum Message {
    /// Say goodbye to the server, then end.
    Stop,
    /// Something about the host's network has changed.
    NetworkChanged,
    /// What the server's name resolves to.
    Resolved {
        /// For which attempt.
        attempt: u64,
        /// The addresses.
        result: io::Result<Vec<SocketAddr>>,
    },
}

/// What an observer of a client is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Status {
    /// The tunnel is up.
    Up,
    /// The tunnel is down.
    Down,
    /// These addresses are in use now.
    Addresses(Vec<IpPrefix>),
    /// These routes are in use now.
    Routes(Vec<IpPrefix>),
    /// The tunnel carries packets of this size.
    Mtu(u32),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Until the next attempt.
    Waiting(Instant),
    /// For the address of the server.
    Resolving,
    /// For the tunnel, until then at the latest.
    Connecting(Link, Instant),
    /// The tunnel is there.
    Up(Link, TunnelHandle),
    /// We are leaving.
    Stopping,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Link {
    conn: ConnId,
    socket: SocketId,
    remote: SocketAddr,
}

/// The client's application.
pub struct ClientApp {
    settings: ClientSettings,
    target: ClientConfig,
    installer: Option<Installer>,
    observer: Option<mpsc::Sender<Status>>,
    controller: Option<Controller<Message>>,
    backoff: Option<Backoff>,
    phase: Phase,
    attempt: u64,
    was_up: bool,
    timed_out: bool,
    tunnel_end: Option<TunnelEnd>,
    watch_at: Option<Instant>,
    moving: Moving,
    mtu: Settling,
    failure: Option<Failure>,
}

impl ClientApp {
    /// With the host to keep in step (`None` with devices in memory).
    ///
    /// # Errors
    /// TLS refuses the certificate.
    pub fn new(
        settings: ClientSettings,
        installer: Option<Installer>,
        observer: Option<mpsc::Sender<Status>>,
    ) -> Result<Self, Failure> {
        let target = ClientConfig {
            crypto: settings.credentials.client()?,
            template: settings.template.clone(),
            port: app::PORT,
        };
        let backoff = match &settings.reconnect {
            Some(section) => Some(Backoff::new(section, tls::random_seed()?)),
            None => None,
        };
        Ok(Self {
            settings,
            target,
            installer,
            observer,
            controller: None,
            backoff,
            phase: Phase::Resolving,
            attempt: 0,
            was_up: false,
            timed_out: false,
            tunnel_end: None,
            watch_at: None,
            moving: Moving::default(),
            mtu: Settling::default(),
            failure: None,
        })
    }

    /// Gives the application a way to hear from its own threads; to be called before the pump runs.
    pub fn set_controller(&mut self, controller: Controller<Message>) {
        self.controller = Some(controller);
    }

    /// Restores the host.
    ///
    /// # Errors
    /// Why the client ended, if not by a signal; or what could not be restored.
    pub fn finish(self) -> Result<(), Failure> {
        let restored = app::close_host(self.installer.map(Installer::into_host));
        match self.failure {
            Some(failure) => Err(failure),
            None => restored,
        }
    }

    fn tell(&self, status: Status) {
        if let Some(observer) = &self.observer {
            // An observer that has seen enough is no reason to stop.
            let _ = observer.send(status);
        }
    }

    /// Begins an attempt: the address first, then the connection.
    fn attempt(&mut self, cx: &mut Cx<'_>) {
        self.attempt += 1;
        self.timed_out = false;
        self.tunnel_end = None;
        self.phase = Phase::Resolving;
        let (host, port) = self.settings.connect.clone();
        if let Ok(address) = host.parse::<IpAddr>() {
            self.connect(cx, &[SocketAddr::new(address, port)]);
            return;
        }
        let (attempt, controller) = (self.attempt, self.controller.clone());
        // Resolving blocks for seconds where a network is broken; the loop must not.
        std::thread::spawn(move || {
            let result = (host.as_str(), port)
                .to_socket_addrs()
                .map(Iterator::collect);
            if let Some(controller) = controller {
                // The loop may have ended meanwhile.
                let _ = controller.send(Message::Resolved { attempt, result });
            }
        });
    }

    fn connect(&mut self, cx: &mut Cx<'_>, addresses: &[SocketAddr]) {
        // Each attempt tries the next address: one of them may be unreachable from here.
        let turn = usize::try_from(self.attempt - 1).unwrap_or(0);
        let Some(remote) = addresses.get(turn % addresses.len().max(1)).copied() else {
            let failure = Failure::new(
                Exit::Unreachable,
                format!("{} has no address", self.settings.connect.0),
            );
            return self.failed(cx, failure, false);
        };
        self.moving.servers = addresses.to_vec();
        let socket = self.open_socket(cx, remote);
        let socket = match socket {
            Ok(socket) => socket,
            Err(failure) => return self.failed(cx, failure, true),
        };
        let target = Target {
            config: self.target.clone(),
            remote,
            server_name: self.settings.template.host().to_owned(),
            socket,
            scope: self.settings.scope.clone(),
            fields: FieldList::default(),
        };
        match cx.endpoint.connect(cx.now, target) {
            Ok(conn) => {
                tracing::info!(%conn, %remote, "connecting");
                let link = Link {
                    conn,
                    socket,
                    remote,
                };
                let until = cx.now + self.settings.connect_timeout;
                self.phase = Phase::Connecting(link, until);
            }
            Err(error) => {
                cx.sockets.remove(socket);
                let failure =
                    Failure::new(Exit::Config, format!("cannot connect to {remote}: {error}"));
                self.failed(cx, failure, true);
            }
        }
    }

    /// An attempt or a tunnel has ended: wait and try again, or end for good.
    fn failed(&mut self, cx: &mut Cx<'_>, failure: Failure, permanent: bool) {
        self.watch_at = None;
        if self.phase == Phase::Stopping {
            return;
        }
        match &mut self.backoff {
            Some(backoff) if self.was_up || !permanent => {
                let wait = backoff.next_wait();
                tracing::warn!(reason = failure.message, ?wait, "will try again");
                self.phase = Phase::Waiting(cx.now + wait);
            }
            _ => {
                self.failure = Some(failure);
                self.leave(cx);
            }
        }
    }

    /// Something that no further attempt mends.
    fn fatal(&mut self, cx: &mut Cx<'_>, failure: Failure) {
        self.failure.get_or_insert(failure);
        self.leave(cx);
    }

    fn leave(&mut self, cx: &mut Cx<'_>) {
        self.watch_at = None;
        if self.phase == Phase::Stopping {
            return;
        }
        let connected = matches!(self.phase, Phase::Connecting(..) | Phase::Up(..));
        self.phase = Phase::Stopping;
        let goodbye = Command::Shutdown { grace: GRACE };
        if !connected || cx.endpoint.handle_command(cx.now, goodbye).is_err() {
            cx.stop();
        }
    }

    fn link(&self) -> Option<Link> {
        match self.phase {
            Phase::Connecting(link, _) | Phase::Up(link, _) => Some(link),
            _ => None,
        }
    }

    fn is_ours(&self, tunnel: TunnelHandle) -> bool {
        matches!(self.phase, Phase::Up(_, current) if current == tunnel)
    }

    fn close(&self, cx: &mut Cx<'_>, conn: ConnId) {
        let close = Command::CloseConnection {
            conn,
            code: H3Code::NO_ERROR,
        };
        if let Err(error) = cx.endpoint.handle_command(cx.now, close) {
            tracing::debug!(%error, "already closed");
        }
    }

    fn tunnel_up(&mut self, cx: &mut Cx<'_>, link: Link, tunnel: TunnelHandle) {
        self.phase = Phase::Up(link, tunnel);
        self.was_up = true;
        if let Some(backoff) = &mut self.backoff {
            backoff.reset();
        }
        if let Some(installer) = &mut self.installer {
            installer.connected(link.remote.ip());
            self.watch_at = Some(cx.now + WATCH);
        }
        self.tell(Status::Up);
        if let Some(info) = cx.endpoint.tunnel(tunnel) {
            tracing::info!(%tunnel, remote = %link.remote, mtu = info.mtu, "tunnel up");
            let mtu = self.device_mtu(info.mtu);
            let mtu = self.mtu.begin(mtu);
            self.mtu_settled(cx, mtu);
        }
    }

    fn device_mtu(&self, tunnel_mtu: u32) -> u32 {
        tunnel_mtu.min(*self.settings.tun.mtu.get_ref())
    }

    fn mtu_settled(&mut self, cx: &mut Cx<'_>, mtu: Option<u32>) {
        let Some(mtu) = mtu else {
            return;
        };
        if let Some(installer) = &mut self.installer {
            if let Err(error) = installer.set_mtu(mtu) {
                return self.fatal(cx, app::host_failure(&error));
            }
            let told = Command::PortMtu {
                port: app::PORT,
                mtu,
            };
            if let Err(error) = cx.endpoint.handle_command(cx.now, told) {
                tracing::warn!(%error, "the endpoint does not take the MTU");
            }
        }
        tracing::info!(mtu, "MTU");
        self.tell(Status::Mtu(mtu));
    }

    fn addresses(&mut self, cx: &mut Cx<'_>, assigned: Vec<IpPrefix>) {
        let installed = match &mut self.installer {
            Some(installer) => match installer.set_addresses(&assigned) {
                Ok(installed) => installed,
                Err(error) => return self.fatal(cx, app::host_failure(&error)),
            },
            None => assigned,
        };
        tracing::info!(addresses = %list(&installed), "addresses");
        self.tell(Status::Addresses(installed));
    }

    fn routes(&mut self, cx: &mut Cx<'_>, ranges: &[masque_core::wire::prefix::AddressRange]) {
        let installed = match &mut self.installer {
            Some(installer) => match installer.set_routes(ranges) {
                Ok(installed) => installed,
                Err(error) => return self.fatal(cx, app::host_failure(&error)),
            },
            None => ranges.iter().flat_map(|range| range.prefixes()).collect(),
        };
        let shown: Vec<IpPrefix> = ranges
            .iter()
            .flat_map(|range| range.prefixes())
            .take(8)
            .collect();
        tracing::info!(advertised = %list(&shown), installed = installed.len(), "routes");
        tracing::debug!(routes = %list(&installed), "routes installed");
        self.tell(Status::Routes(installed));
    }

    fn closed(&mut self, cx: &mut Cx<'_>, reason: &CloseReason) {
        if let Some(link) = self.link() {
            cx.sockets.remove(link.socket);
        }
        self.forget_sockets(cx, None);
        if matches!(self.phase, Phase::Up(..)) {
            self.tell(Status::Down);
        }
        let verdict = Verdict::of_connection(reason, &self.circumstances());
        self.failed(cx, verdict.failure, verdict.permanent);
    }

    fn circumstances(&self) -> Circumstances<'_> {
        let (host, port) = &self.settings.connect;
        Circumstances {
            server: match host.contains(':') {
                true => format!("[{host}]:{port}"),
                false => format!("{host}:{port}"),
            },
            credentials: &self.settings.credentials,
            was_up: self.was_up,
            timed_out: self.timed_out,
            tunnel_end: self.tunnel_end,
        }
    }
}

impl App for ClientApp {
    type Message = Message;

    fn start(&mut self, cx: &mut Cx<'_>) {
        self.attempt(cx);
    }

    fn on_event(&mut self, cx: &mut Cx<'_>, event: Event) {
        match event {
            Event::Connected { conn, remote, .. } => {
                let cipher = app::cipher(cx.endpoint, conn);
                tracing::info!(%conn, %remote, cipher, "connected");
            }
            Event::TunnelUp { tunnel, .. } => {
                if let Phase::Connecting(link, _) = self.phase
                    && link.conn == tunnel.conn
                {
                    self.tunnel_up(cx, link, tunnel);
                }
            }
            Event::TunnelRefused {
                conn,
                status,
                proxy_status,
            } => {
                let Some(link) = self.link().filter(|link| link.conn == conn) else {
                    return;
                };
                self.close(cx, conn);
                cx.sockets.remove(link.socket);
                let verdict =
                    Verdict::of_status(&self.settings.url, status, proxy_status.as_deref());
                // The connection's own end is no further news.
                self.phase = Phase::Resolving;
                self.failed(cx, verdict.failure, verdict.permanent);
            }
            Event::Addresses { tunnel, addresses } if self.is_ours(tunnel) => {
                self.addresses(cx, addresses);
            }
            Event::Routes { tunnel, routes } if self.is_ours(tunnel) => {
                self.routes(cx, routes.ranges());
            }
            Event::Mtu { tunnel, mtu } if self.is_ours(tunnel) => {
                let mtu = self.device_mtu(mtu);
                let mtu = self.mtu.tell(cx.now, mtu);
                self.mtu_settled(cx, mtu);
            }
            Event::TunnelDown { tunnel, reason } => {
                tracing::info!(%tunnel, ?reason, "tunnel down");
                if self.link().is_some_and(|link| link.conn == tunnel.conn)
                    && reason != TunnelEnd::ConnectionEnded
                {
                    self.tunnel_end = Some(reason);
                    self.close(cx, tunnel.conn);
                }
            }
            Event::ConnectionClosed { conn, reason } => {
                if self.link().is_some_and(|link| link.conn == conn) {
                    self.closed(cx, &reason);
                } else {
                    self.old_is_gone(cx);
                }
            }
            Event::HandedOver {
                from,
                to,
                socket,
                remote,
            } => {
                let link = Link {
                    conn: to.conn,
                    socket,
                    remote,
                };
                self.handed_over(cx, from, to, link);
            }
            Event::ShutdownComplete => cx.stop(),
            Event::Migrated { remote, .. } => tracing::info!(%remote, "server moved"),
            Event::Addresses { .. }
            | Event::Routes { .. }
            | Event::Mtu { .. }
            | Event::NameWanted { .. }
            | Event::LeaseChanged(_)
            | Event::LeaseEnded(_) => {}
        }
    }

    fn on_message(&mut self, cx: &mut Cx<'_>, message: Message) {
        match message {
            Message::Stop => self.leave(cx),
            Message::NetworkChanged => self.network_changed(cx),
            Message::Resolved { attempt, result } => {
                if attempt != self.attempt || self.phase != Phase::Resolving {
                    return;
                }
                match result {
                    Ok(addresses) => self.connect(cx, &addresses),
                    Err(error) => {
                        let host = &self.settings.connect.0;
                        let failure = Failure::new(
                            Exit::Unreachable,
                            format!("cannot resolve {host}: {error}"),
                        );
                        self.failed(cx, failure, false);
                    }
                }
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let phase = match self.phase {
            Phase::Waiting(at) | Phase::Connecting(_, at) => Some(at),
            _ => None,
        };
        let settled = self.moving.settles_at;
        let others = [self.watch_at, settled, self.mtu.due()];
        phase.into_iter().chain(others.into_iter().flatten()).min()
    }

    fn on_deadline(&mut self, cx: &mut Cx<'_>) {
        match self.phase {
            Phase::Waiting(at) if at <= cx.now => self.attempt(cx),
            Phase::Connecting(link, at) if at <= cx.now => {
                self.timed_out = true;
                self.close(cx, link.conn);
                self.closed(cx, &CloseReason::Local);
            }
            _ => {}
        }
        if self.watch_at.is_some_and(|at| at <= cx.now) {
            self.watch_at = Some(cx.now + WATCH);
            self.look(cx);
        }
        if self.moving.settles_at.is_some_and(|at| at <= cx.now) {
            self.look(cx);
        }
        let mtu = self.mtu.settled(cx.now);
        self.mtu_settled(cx, mtu);
    }

    fn on_port_lost(&mut self, cx: &mut Cx<'_>, _port: PortId, error: &io::Error) {
        self.failure.get_or_insert(Failure::new(
            Exit::Host,
            format!("the TUN device was taken away: {error}"),
        ));
        cx.stop();
    }
}
