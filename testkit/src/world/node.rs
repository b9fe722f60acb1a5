//! One endpoint and what is known of it.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use masque_core::endpoint::{
    Config, Endpoint, Event, Identity, Lease, SocketId, TimerReason, TunBatch,
};

use super::host::Host;

/// A node of a world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub usize);

/// What a node is made of.
pub struct NodeSpec {
    /// Its name in traces; its randomness is forked by it.
    pub name: String,
    /// Its endpoint's configuration.
    pub config: Config,
    /// The address of each of its UDP sockets, in the order of their `SocketId`.
    pub sockets: Vec<SocketAddr>,
    /// What surrounds it.
    pub host: Box<dyn Host>,
}

/// One endpoint and what is known of it.
pub struct Node {
    pub(super) name: String,
    pub(super) config: Config,
    pub(super) sockets: Vec<SocketAddr>,
    /// Sockets whose network is gone.
    pub(super) down: BTreeSet<u32>,
    pub(super) host: Box<dyn Host>,
    pub(super) audit: super::invariants::Audit,
    /// Where its capsules go out, once somebody meddles with them.
    pub(super) gate: Option<super::capsules::Gate>,
    pub(super) behind: Option<super::router::RouterId>,
    /// `None` while stopped.
    pub(super) endpoint: Option<Endpoint>,
    /// How often it was started.
    pub(super) incarnation: u32,
    pub(super) deadline: Option<(Duration, TimerReason)>,
    pub(super) events: Vec<(Duration, Event)>,
    pub(super) errors: Vec<String>,
    pub(super) leases: BTreeMap<Identity, Lease>,
    pub(super) delivered: u64,
    pub(super) transmit: Vec<u8>,
    pub(super) batch: TunBatch,
}

impl Node {
    pub(super) fn new(spec: NodeSpec) -> Self {
        let leases = spec.config.server.iter();
        let leases = leases
            .flat_map(|server| &server.leases)
            .map(|lease| (lease.identity.clone(), lease.clone()))
            .collect();
        Self {
            name: spec.name,
            config: spec.config,
            sockets: spec.sockets,
            down: BTreeSet::new(),
            host: spec.host,
            audit: super::invariants::Audit::default(),
            gate: None,
            behind: None,
            endpoint: None,
            incarnation: 0,
            deadline: None,
            events: Vec::new(),
            errors: Vec::new(),
            leases,
            delivered: 0,
            transmit: Vec::new(),
            batch: TunBatch::default(),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether its endpoint is a client's.
    #[must_use]
    pub fn config_is_client(&self) -> bool {
        self.config.server.is_none()
    }

    /// The addresses of its sockets.
    #[must_use]
    pub fn sockets(&self) -> &[SocketAddr] {
        &self.sockets
    }

    /// Gives it another socket.
    ///
    /// # Panics
    /// With more sockets than there are numbers.
    pub fn add_socket(&mut self, address: SocketAddr) -> SocketId {
        let number = u32::try_from(self.sockets.len()).expect("few sockets");
        self.sockets.push(address);
        SocketId(number)
    }

    /// Its endpoint; `None` while stopped.
    #[must_use]
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.endpoint.as_ref()
    }

    /// What its endpoint said, with the virtual time.
    #[must_use]
    pub fn events(&self) -> &[(Duration, Event)] {
        &self.events
    }

    /// Commands and connects that were refused.
    #[must_use]
    pub fn errors(&self) -> &[String] {
        &self.errors
    }

    /// The leases told by `LeaseChanged` and `LeaseEnded`, which survive a restart.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values()
    }

    /// IP packets delivered to its inner hosts.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Its host, if it is a `T`.
    #[must_use]
    pub fn host<T: Host>(&self) -> Option<&T> {
        let host: &dyn Any = &*self.host;
        host.downcast_ref()
    }

    /// Its host, if it is a `T`.
    #[must_use]
    pub fn host_mut<T: Host>(&mut self) -> Option<&mut T> {
        let host: &mut dyn Any = &mut *self.host;
        host.downcast_mut()
    }

    /// Notes what an event says about leases.
    pub(super) fn note(&mut self, event: &Event) {
        match event {
            Event::LeaseChanged(lease) => {
                self.leases.insert(lease.identity.clone(), lease.clone());
            }
            Event::LeaseEnded(identity) => {
                self.leases.remove(identity);
            }
            _ => {}
        }
    }

    /// Connections, tunnels, counters and the next deadline, one per line.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut out = format!("{} {:?}\n", self.name, self.sockets);
        let Some(endpoint) = &self.endpoint else {
            out.push_str("  stopped\n");
            return out;
        };
        out.push_str(&describe(endpoint));
        match self.deadline {
            Some((at, reason)) => {
                let _ = writeln!(out, "  wakes at {} us for {reason:?}", at.as_micros());
            }
            None => out.push_str("  sleeps\n"),
        }
        out
    }
}

/// Connections, tunnels and counters, one per line.
pub(crate) fn describe(endpoint: &Endpoint) -> String {
    let mut out = String::new();
    for conn in endpoint.connections() {
        let Some(info) = endpoint.connection(conn) else {
            continue;
        };
        let identity = info.identity.map_or("-".to_owned(), |identity| identity.0);
        let _ = writeln!(
            out,
            "  connection {conn} remote {} identity {identity} rtt {} us cwnd {} mtu {} packets {} lost {} bytes {}/{}",
            info.remote,
            info.rtt.as_micros(),
            info.congestion_window,
            info.path_mtu,
            info.sent_packets,
            info.lost_packets,
            info.sent_bytes,
            info.received_bytes,
        );
    }
    for handle in endpoint.tunnels() {
        let Some(info) = endpoint.tunnel(handle) else {
            continue;
        };
        let addresses: Vec<_> = info.addresses.iter().map(ToString::to_string).collect();
        let _ = writeln!(
            out,
            "  tunnel {handle} addresses [{}] mtu {} packets {}/{} bytes {}/{}",
            addresses.join(" "),
            info.mtu,
            info.sent_packets,
            info.received_packets,
            info.sent_bytes,
            info.received_bytes,
        );
    }
    let counters = endpoint.counters();
    let _ = writeln!(
        out,
        "  counters udp {}/{} ip {}/{} across {} icmp {} handshakes {} retries {} refused {}",
        counters.udp_sent,
        counters.udp_received,
        counters.packets_in,
        counters.packets_out,
        counters.packets_across,
        counters.icmp_sent,
        counters.handshakes,
        counters.retries,
        counters.refused,
    );
    for (reason, count) in counters.drops().filter(|(_, count)| *count > 0) {
        let _ = writeln!(out, "  dropped {} {count}", reason.name());
    }
    out
}
