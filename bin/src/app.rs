//! What server and client have in common: the host, the TUN, sockets, signals.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::time::{Duration, Instant, SystemTime};

use masque_adapter_kit::{
    App, Controller, Fallbacks, Offload, Pump, PumpCounters, PumpOptions, SocketGroup, SystemIo,
    TunConfig, TunDevice, TunQueues, UdpConfig,
};
use masque_core::endpoint::{
    Cipher, Config, ConnId, Counters, DropReason, Endpoint, Entropy, PortConfig, PortId,
};
use masque_core::wire::prefix::IpPrefix;
use masque_recording::{Setup, Start, Tape, Taped, Tls};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::config::shared::{TransportSection, TunSection};
use crate::exit::{Exit, Failure};
use crate::host::{HostError, HostNet};
use crate::tls;

/// How long peers have to say goodbye when we stop.
pub const GRACE: Duration = Duration::from_secs(2);

/// The one device of this program.
pub const PORT: PortId = PortId(0);

/// A failure of the host's network stack.
#[must_use]
pub fn host_failure(error: &HostError) -> Failure {
    match error.is_permission() {
        true => Failure::new(Exit::Permission, error.to_string())
            .help("run as root, or with CAP_NET_ADMIN"),
        false => Failure::new(Exit::Host, error.to_string()),
    }
}

/// Opens the host's network stack and takes back what a crash of the same instance left.
///
/// # Errors
/// Another process runs with the same TUN name, or no privileges.
pub fn open_host(tun: &TunSection) -> Result<HostNet, Failure> {
    let mut host = HostNet::open(&instance(tun.name.get_ref()), tun.run_dir.as_deref())
        .map_err(|error| host_failure(&error))?;
    for undone in host.cleanup_stale().map_err(|error| host_failure(&error))? {
        tracing::warn!("left by a crash, undone: {undone}");
    }
    Ok(host)
}

/// The device's name as the name of an instance, which begins with a letter and has no dots.
#[must_use]
pub fn instance(tun: &str) -> String {
    let name: String = tun
        .chars()
        .map(|c| if c == '.' { '_' } else { c })
        .collect();
    match name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        true => name,
        false => format!("tun{name}"),
    }
}

/// Makes the TUN device, not yet up.
///
/// # Errors
/// No permission, or no such thing in this kernel.
pub fn open_tun(tun: &TunSection) -> Result<TunDevice, Failure> {
    TunDevice::create(&tun_config(tun)).map_err(|error| tun_failure(tun.name.get_ref(), &error))
}

/// Makes the TUN device of a server with so many shards, not yet up.
///
/// # Errors
/// As [`open_tun`].
pub fn open_queues(tun: &TunSection, shards: NonZeroU16) -> Result<TunQueues, Failure> {
    TunDevice::create_queues(&tun_config(tun), shards, tun.multi_queue)
        .map_err(|error| tun_failure(tun.name.get_ref(), &error))
}

fn tun_config(tun: &TunSection) -> TunConfig {
    TunConfig {
        name: Some(tun.name.get_ref().clone()),
        mtu: u16::try_from(*tun.mtu.get_ref()).unwrap_or(u16::MAX),
        offload: tun.offload,
        queue: None,
        up: false,
    }
}

fn tun_failure(name: &str, error: &io::Error) -> Failure {
    let failure = Failure::system(format!("cannot make the TUN device {name}"), error);
    match (failure.code, error.kind()) {
        (Exit::Permission, _) => {
            failure.help("run as root, or with CAP_NET_ADMIN and access to /dev/net/tun")
        }
        (_, io::ErrorKind::NotFound) => failure
            .help("/dev/net/tun is missing: `modprobe tun`, or give the container the device"),
        (_, io::ErrorKind::ResourceBusy) => {
            failure.help("another process has a device of this name; set tun.name")
        }
        _ => failure,
    }
}

/// A bound UDP socket.
///
/// # Errors
/// The port is in use, or not permitted.
pub fn bind(
    local: SocketAddr,
    transport: &TransportSection,
    mark: Option<u32>,
) -> Result<std::net::UdpSocket, Failure> {
    let bound = udp_config(local, transport, mark).bind();
    bound.map_err(|error| bind_failure(local, mark, &error))
}

/// Sockets on one address, one for each shard of a server.
///
/// # Errors
/// As [`bind`].
pub fn bind_group(
    local: SocketAddr,
    transport: &TransportSection,
    shards: NonZeroU16,
    steering: bool,
) -> Result<SocketGroup, Failure> {
    let bound = udp_config(local, transport, None).bind_group(shards, steering);
    bound.map_err(|error| bind_failure(local, None, &error))
}

fn udp_config(local: SocketAddr, transport: &TransportSection, mark: Option<u32>) -> UdpConfig {
    UdpConfig {
        mark,
        receive_buffer: transport.socket_buffer(),
        send_buffer: transport.socket_buffer(),
        ..UdpConfig::new(local)
    }
}

fn bind_failure(local: SocketAddr, mark: Option<u32>, error: &io::Error) -> Failure {
    let failure = Failure::system(format!("cannot bind UDP {local}"), error);
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            failure.help("another program listens there; change the port, or stop it")
        }
        io::ErrorKind::AddrNotAvailable => failure.help("this host has no such address"),
        io::ErrorKind::PermissionDenied if mark.is_some() => {
            failure.help("run as root, or with CAP_NET_ADMIN")
        }
        io::ErrorKind::PermissionDenied => {
            failure.help("ports below 1024 need root or CAP_NET_BIND_SERVICE")
        }
        _ => failure,
    }
}

/// Sockets and devices, with what the configuration forbids turned off.
#[must_use]
pub fn system_io(transport: &TransportSection) -> SystemIo {
    let mut io = SystemIo::new();
    if transport.gso == Some(false) {
        io.forbid_gso();
    }
    if transport.gro == Some(false) {
        io.forbid_gro();
    }
    io
}

/// The device as the endpoint sees it.
#[must_use]
pub fn port_config(offload: Offload, mtu: u32, addresses: Vec<std::net::IpAddr>) -> PortConfig {
    PortConfig {
        id: PORT,
        tcp_offload: offload.tcp,
        udp_offload: offload.udp,
        addresses,
        mtu,
    }
}

/// An endpoint with the system's clock and randomness, and its application, ready to run.
///
/// # Errors
/// No randomness, or no descriptors left.
pub fn pump<A: App>(config: Config, io: SystemIo, app: A) -> Result<Pump<A>, Failure> {
    recorded_pump(config, io, app, None)
}

/// The same, whose endpoint is recorded if there is a recording, which the configuration's TLS writes to
/// as well. It is no shard of several then.
///
/// # Errors
/// As [`pump`].
pub fn recorded_pump<A: App>(
    config: Config,
    io: SystemIo,
    app: A,
    recording: Option<(Tape, Tls)>,
) -> Result<Pump<A>, Failure> {
    let seed = tls::random_seed()?;
    let (now, wall) = (Instant::now(), SystemTime::now());
    let recorder = recording.map(|(tape, tls)| {
        let start = Start {
            about: concat!("masque ", env!("CARGO_PKG_VERSION")).to_owned(),
            wall,
            seed,
            setup: Setup::of(&config),
            tls,
        };
        tape.start(now, start);
        tape.recorder()
    });
    let endpoint = Endpoint::new(now, wall, config, Entropy::from_seed(seed))
        .map_err(|error| Failure::config(format!("the configuration cannot be used: {error}")))?;
    let mut endpoint = Taped::from(endpoint);
    if let Some(recorder) = recorder {
        endpoint.record(recorder);
    }
    Pump::with_options(endpoint, io, app, PumpOptions::default())
        .map_err(|error| Failure::system("cannot set up the loop", &error))
}

/// SIGTERM and SIGINT, kept from the moment this exists.
#[derive(Debug)]
pub struct StopSignals(Signals);

impl StopSignals {
    /// From now on a signal waits for [`Self::forward`] instead of ending the process.
    ///
    /// # Errors
    /// What the system says.
    pub fn new() -> Result<Self, Failure> {
        Signals::new([SIGTERM, SIGINT])
            .map(Self)
            .map_err(|error| Failure::system("cannot catch signals", &error))
    }

    /// Sends `stop` to all loops at the first signal, and ends them at the second.
    pub fn forward<M: Send + 'static>(
        mut self,
        controllers: Vec<Controller<M>>,
        stop: impl Fn() -> M + Send + 'static,
    ) {
        std::thread::spawn(move || {
            for (count, signal) in self.0.forever().enumerate() {
                tracing::info!(signal, "stopping");
                for controller in &controllers {
                    if count > 0 || controller.send(stop()).is_err() {
                        controller.stop();
                    }
                }
            }
        });
    }
}

/// The name of a connection's cipher, for a log line.
#[must_use]
pub fn cipher(endpoint: &Endpoint, conn: ConnId) -> &'static str {
    let info = endpoint.connection(conn);
    info.and_then(|info| info.cipher)
        .map_or("unknown", Cipher::name)
}

/// Says which offloads the configuration switches off, a line each. What the kernel lacks or fails at is
/// told where it shows.
pub fn tell_forbidden(tun: &TunSection, transport: &TransportSection) {
    if transport.gso == Some(false) {
        tracing::info!("transport.gso = false: datagrams are sent one by one");
    }
    if transport.gro == Some(false) {
        tracing::info!("transport.gro = false: datagrams are received one by one");
    }
    if !tun.offload {
        tracing::info!("tun.offload = false: packets cross the TUN device one by one");
    }
}

/// Says what was carried and what was dropped by all pumps of this program together, how often the system
/// was called for it, and which offloads were missing.
pub fn account<A: App>(pumps: &[Pump<A>]) {
    let sum = |count: fn(&Counters) -> u64| -> u64 {
        let counts = pumps.iter().map(|pump| count(pump.endpoint().counters()));
        counts.sum()
    };
    let calls = |count: fn(&PumpCounters) -> u64| -> u64 {
        pumps.iter().map(|pump| count(pump.counters())).sum()
    };
    let without = pumps.iter().map(|pump| pump.io().fallbacks());
    let without = without.fold(Fallbacks::default(), Fallbacks::and);
    let drops: Vec<String> = DropReason::ALL
        .into_iter()
        .map(|reason| {
            let counts = pumps
                .iter()
                .map(|pump| pump.endpoint().counters().dropped(reason));
            (reason, counts.sum::<u64>())
        })
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| format!("{} {count}", reason.name()))
        .collect();
    tracing::info!(
        packets_in = sum(|counters| counters.packets_in),
        packets_out = sum(|counters| counters.packets_out),
        packets_across = sum(|counters| counters.packets_across),
        mails = calls(|calls| calls.mails_sent),
        steering_failures = calls(|calls| calls.steering_failures),
        drops = drops.join(", "),
        udp_receives = calls(|calls| calls.receives),
        udp_sends = calls(|calls| calls.sends),
        tun_reads = calls(|calls| calls.reads),
        tun_writes = calls(|calls| calls.writes),
        %without,
        "packets carried"
    );
    for pump in pumps {
        let counters = pump.endpoint().counters();
        tracing::debug!(?counters, pump = ?pump.counters(), "counters");
    }
}

/// Undoes all changes to the host.
///
/// # Errors
/// Something is left; it stays in the journal for the next start.
pub fn close_host(host: Option<HostNet>) -> Result<(), Failure> {
    let Some(mut host) = host else {
        return Ok(());
    };
    for undone in host.undo_all().map_err(|error| host_failure(&error))? {
        tracing::debug!("undone: {undone}");
    }
    Ok(())
}

/// Prefixes in one line.
#[must_use]
pub fn list(prefixes: &[IpPrefix]) -> String {
    let texts: Vec<String> = prefixes.iter().map(IpPrefix::to_string).collect();
    texts.join(", ")
}
