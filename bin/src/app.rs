//! What server and client have in common: the host, the TUN, sockets, signals.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use masque_adapter_kit::{
    App, Controller, Offload, Pump, PumpOptions, SystemIo, TunConfig, TunDevice, UdpConfig,
};
use masque_core::endpoint::{Config, Endpoint, Entropy, PortConfig, PortId};
use masque_core::wire::prefix::IpPrefix;
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
    let name = tun.name.get_ref();
    TunDevice::create(&TunConfig {
        name: Some(name.clone()),
        mtu: u16::try_from(*tun.mtu.get_ref()).unwrap_or(u16::MAX),
        offload: tun.offload,
        queue: None,
        up: false,
    })
    .map_err(|error| tun_failure(name, &error))
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
    let config = UdpConfig {
        mark,
        receive_buffer: transport.socket_buffer(),
        send_buffer: transport.socket_buffer(),
        ..UdpConfig::new(local)
    };
    config.bind().map_err(|error| {
        let failure = Failure::system(format!("cannot bind UDP {local}"), &error);
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
    })
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
    let entropy = Entropy::from_seed(tls::random_seed()?);
    let endpoint = Endpoint::new(Instant::now(), SystemTime::now(), config, entropy)
        .map_err(|error| Failure::config(format!("the configuration cannot be used: {error}")))?;
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

    /// Sends `stop` to the loop at the first signal, and ends the loop at the second.
    pub fn forward<M: Send + 'static>(mut self, controller: Controller<M>, stop: fn() -> M) {
        std::thread::spawn(move || {
            for (count, signal) in self.0.forever().enumerate() {
                tracing::info!(signal, "stopping");
                if count > 0 || controller.send(stop()).is_err() {
                    controller.stop();
                }
            }
        });
    }
}

/// Says what was carried and what was dropped.
pub fn account<A: App>(pump: &Pump<A>) {
    let counters = pump.endpoint().counters();
    let drops: Vec<String> = counters
        .drops()
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| format!("{} {count}", reason.name()))
        .collect();
    tracing::info!(
        packets_in = counters.packets_in,
        packets_out = counters.packets_out,
        packets_across = counters.packets_across,
        drops = drops.join(", "),
        "packets carried"
    );
    tracing::debug!(?counters, pump = ?pump.counters(), "counters");
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
