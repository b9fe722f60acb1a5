//! Many CONNECT-IP connections over quinn-proto: UDP datagrams, IP packets and time in and out.
//!
//! # The contract
//!
//! *Call any number of `handle_*` with one non-decreasing `now`; drain the `poll_*` to `None`; sleep
//! until [`Endpoint::poll_timeout`].* Forgetting is safe: while output is queued, `poll_timeout`
//! returns `now` with the reason [`TimerReason::QueuedOutput`].
//!
//! # Where things are
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | the surface |
//! | `drive.rs` | one connection's turn: the order in which things happen |
//! | `bridge.rs` | one QUIC connection and its session |
//! | `setup.rs` | quinn-proto's configuration |
//! | `admit.rs` | which handshakes are accepted, and when |
//! | `server.rs`, `client.rs` | what each role decides about tunnels |
//! | `heirs.rs`, `handover.rs`, `token.rs` | another connection in the place of one: when, how, and who may |
//! | `carry.rs`, `forward.rs`, `answers.rs`, `conn.rs`, `routes.rs` | the way of a packet and the rules it meets |
//! | `pool.rs`, `runs.rs`, `space.rs` | addresses, leases, static assignments |
//! | `shard.rs` | several endpoints as one server, and the mail between them |
//! | `timers.rs`, `deadlines.rs` | when what is due |
//! | `turns.rs` | whose turn it is to send, and how much time handshakes get |

mod admit;
mod answers;
mod arena;
mod beside;
mod bridge;
mod carry;
mod cipher;
mod client;
mod command;
mod config;
mod congestion;
mod conn;
mod counters;
mod deadlines;
mod drive;
mod early;
mod entropy;
mod event;
mod farewell;
mod forward;
mod fq_codel;
mod handover;
mod heirs;
mod ipv6;
#[cfg(feature = "lab")]
mod lab;
mod names;
mod owners;
mod pool;
mod rate;
mod routes;
mod runs;
mod server;
mod setup;
mod shard;
mod space;
#[cfg(test)]
mod tests;
mod timers;
mod tls;
mod token;
mod turns;
mod types;

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use quinn_proto::DatagramEvent;
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

pub use admit::is_unproven;
pub use cipher::Cipher;
pub use command::{Command, CommandError, ConnectError, Target};
pub use config::{
    Access, ClientConfig, Config, CongestionControl, Ipv6Minimum, Lease, Limits, PortConfig,
    ServerConfig, StaticAssignment, TransportProfile,
};
pub use counters::{Counters, DropReason};
pub use entropy::Entropy;
pub use event::{CloseReason, Event, TunnelClosed};
#[cfg(feature = "lab")]
pub use lab::CapsuleTap;
pub use shard::{MAX_SHARDS, Mail, Shard, ShardId, Shared, shard_of};
pub use types::{
    Accepted, ConnId, ConnectionInfo, Deadline, Ecn, Identity, Origin, PeerIdentity, PortId,
    RecvMeta, RejectReason, Rejected, SocketId, TimerReason, Transmit, TunBatch, TunnelHandle,
    TunnelInfo, Usage,
};

use admit::Admission;
use bridge::BridgeEvent;
use conn::Conn;
use deadlines::Deadlines;
use forward::{Forwarding, Policy};
use setup::WallClock;
use shard::Seat;
use turns::{Budget, Turns};

use crate::session::SessionConfig;
use crate::trace::{Layer, Recorder, TraceEvent, What};
use crate::wire::ip::{self, PacketInfo};
use crate::wire::offload::VnetHdr;

/// The most stateless answers (Retry, reset, version negotiation) that wait to be sent.
const MAX_RESPONSES: usize = 256;
/// After so many datagrams of a batch their connection looks at what they have brought: the packets
/// are then still in the innermost cache, where decryption has left them.
const DRIVE_AFTER: usize = 12;
/// The largest UDP payload.
const MAX_UDP: usize = 65_507;

/// Many connections and their tunnels: the whole protocol, without I/O.
pub struct Endpoint {
    quic: quinn_proto::Endpoint,
    /// For clients whose first packet shows that the path carries the largest datagrams.
    wide_server: Option<Arc<quinn_proto::ServerConfig>>,
    clock: Arc<WallClock>,
    client_ids: Arc<Mutex<ChaCha20Rng>>,
    profile: TransportProfile,
    limits: Limits,
    session: Arc<SessionConfig>,
    server: Option<ServerConfig>,
    /// By quinn-proto's handle.
    conns: Vec<Option<Box<Conn>>>,
    ids: BTreeMap<ConnId, usize>,
    fwd: Forwarding,
    seat: Seat,
    admission: Admission,
    events: VecDeque<Event>,
    responses: VecDeque<(Transmit, Vec<u8>)>,
    turns: Turns,
    budget: Budget,
    /// Deadlines of connections; kept up lazily through `stale`.
    armed: Deadlines,
    stale: Vec<usize>,
    /// Connections that are due: a buffer.
    due: Vec<usize>,
    /// The last `now`, so that forgotten output is due at once.
    now: Instant,
    shutdown: Option<Instant>,
    shutdown_told: bool,
    to_replace: Vec<ConnId>,
    /// Connections nobody needs any more.
    to_discard: Vec<ConnId>,
    /// What handover tokens are drawn from.
    token_rng: ChaCha20Rng,
    trace: Recorder,
    scratch: Vec<u8>,
    bridge_events: Vec<BridgeEvent>,
    touched: Vec<usize>,
    /// Packets between tunnels are being delivered further down the stack.
    delivering: bool,
    /// For other shards.
    mail: VecDeque<(ShardId, Mail)>,
    mail_bytes: usize,
    #[cfg(feature = "lab")]
    tap: Option<CapsuleTap>,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint")
            .field("connections", &self.ids.len())
            .finish_non_exhaustive()
    }
}

impl Endpoint {
    /// An endpoint at `now`, which is `wall` in calendar time (certificates expire by it).
    ///
    /// # Errors
    /// [`ConnectError::Profile`] if the transport profile cannot be used;
    /// [`ConnectError::UnknownShard`] if the server has fewer shards than that.
    pub fn new(
        now: Instant,
        wall: SystemTime,
        config: Config,
        entropy: Entropy,
    ) -> Result<Self, ConnectError> {
        let seat = Seat::new(&config)?;
        let entropy = seat.entropy(entropy);
        let profile = config.transport.fitted(&config.ports);
        let mut limits = config.limits;
        limits.total_queue_bytes /= usize::from(seat.shared.shards().get());
        let clock = Arc::new(WallClock::new(now, wall));
        let secret = config
            .server
            .as_ref()
            .map_or_else(|| entropy.bytes("secret"), |server| server.secret);
        let server_config = |profile: &TransportProfile| {
            let server = config.server.as_ref();
            let made =
                server.map(|server| setup::server_config(server, profile, &limits, clock.clone()));
            let made = made.transpose().map_err(ConnectError::Profile)?;
            Ok::<_, ConnectError>(made.map(Arc::new))
        };
        let server = server_config(&profile)?;
        let wide_server = match profile.discover_mtu {
            true => server_config(&TransportProfile {
                initial_mtu: profile.max_mtu,
                ..profile.clone()
            })?,
            false => None,
        };
        let quic_config = Arc::new(setup::endpoint_config(
            &entropy,
            secret,
            seat.id,
            seat.shared.shards(),
        ));
        let policy = config.server.as_ref().map(|server| Policy {
            access: server.access.clone(),
            deny: server.access.deny.iter().copied().collect(),
            gateways: server.gateways.clone(),
            port: server.port,
            client_space: server
                .pools
                .iter()
                .copied()
                .chain(
                    server
                        .statics
                        .iter()
                        .flat_map(|entry| entry.addresses.iter().copied()),
                )
                .collect(),
        });
        let mut session = config.session;
        let grease = entropy.fork("reserved setting").next_u64() as u32;
        session.grease.get_or_insert(grease);
        let flow_key = entropy.fork("inner flows").next_u64();
        Ok(Self {
            quic: quinn_proto::Endpoint::new(quic_config, server, true, None),
            wide_server,
            clock,
            client_ids: Arc::new(Mutex::new(entropy.fork("client cid"))),
            fwd: Forwarding::new(config.ports, policy, &limits, flow_key, now),
            profile,
            limits,
            session: Arc::new(session),
            server: config.server,
            conns: Vec::new(),
            ids: BTreeMap::new(),
            admission: Admission::new(seat.shared.clone()),
            seat,
            events: VecDeque::new(),
            responses: VecDeque::new(),
            turns: Turns::default(),
            budget: Budget::default(),
            armed: Deadlines::default(),
            stale: Vec::new(),
            due: Vec::new(),
            now,
            shutdown: None,
            shutdown_told: false,
            to_replace: Vec::new(),
            to_discard: Vec::new(),
            token_rng: entropy.fork("handover tokens"),
            trace: Recorder::default(),
            scratch: Vec::new(),
            bridge_events: Vec::new(),
            touched: Vec::new(),
            delivering: false,
            mail: VecDeque::new(),
            mail_bytes: 0,
            #[cfg(feature = "lab")]
            tap: None,
        })
    }

    /// Takes a whole GRO batch: datagrams of `meta.stride` bytes each, the last perhaps shorter. What
    /// belongs to another shard leaves by [`Endpoint::poll_mail`].
    pub fn handle_udp(&mut self, now: Instant, meta: RecvMeta, data: BytesMut) {
        self.advance(now);
        let total = data.len();
        self.trace(None, || {
            What::Input(format!("udp {total} bytes from {}", meta.remote).into())
        });
        if self.seat.alone {
            self.take_udp(now, meta, data);
        } else {
            self.sort_udp(now, meta, data);
        }
    }

    #[inline]
    fn take_udp(&mut self, now: Instant, meta: RecvMeta, mut data: BytesMut) {
        let ecn = meta.ecn.map(|ecn| match ecn {
            Ecn::Ect0 => quinn_proto::EcnCodepoint::Ect0,
            Ecn::Ect1 => quinn_proto::EcnCodepoint::Ect1,
            Ecn::Ce => quinn_proto::EcnCodepoint::Ce,
        });
        let mut touched = std::mem::take(&mut self.touched);
        let mut taken = 0;
        while !data.is_empty() {
            if taken == DRIVE_AFTER {
                taken = 0;
                for at in touched.drain(..) {
                    self.drive(now, at);
                }
            }
            taken += 1;
            let datagram = data.split_to(meta.stride.clamp(1, data.len()));
            let length = datagram.len();
            self.fwd.counters.udp_received += 1;
            self.scratch.clear();
            match self.quic.handle(
                now,
                meta.remote,
                meta.local_ip,
                ecn,
                datagram,
                &mut self.scratch,
            ) {
                Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                    if let Some(conn) = self.conns.get_mut(handle.0).and_then(Option::as_mut) {
                        // A client says itself where it is, and late packets may come to where it was.
                        let listens = match &conn.client {
                            Some(client) => client.listens(),
                            None => {
                                conn.socket = meta.socket;
                                false
                            }
                        };
                        conn.beside.received(conn.remote, meta.remote, length);
                        conn.bridge.handle_quic_event(event);
                        if listens {
                            self.heard(now, handle.0);
                        }
                        if touched.last() != Some(&handle.0) && !touched.contains(&handle.0) {
                            touched.push(handle.0);
                        }
                    }
                }
                Some(DatagramEvent::NewConnection(incoming)) => {
                    self.on_incoming(now, meta.socket, incoming, length)
                }
                Some(DatagramEvent::Response(transmit)) => {
                    self.budget.spend_unproven(Budget::STATELESS);
                    let bytes = std::mem::take(&mut self.scratch);
                    self.respond(meta.socket, transmit, bytes);
                }
                None => {}
            }
        }
        for at in touched.drain(..) {
            self.drive(now, at);
        }
        self.touched = touched;
    }

    /// Takes one packet or super-packet read from a TUN. The kernel has routed it: its hop count is
    /// left alone.
    pub fn handle_tun(
        &mut self,
        now: Instant,
        port: PortId,
        header: VnetHdr,
        data: &[u8],
    ) -> Accepted {
        self.advance(now);
        self.trace(None, || {
            What::Input(format!("tun {} bytes", data.len()).into())
        });
        if header.gso_type != VnetHdr::GSO_NONE {
            self.fwd.counters.super_packets += 1;
        }
        match self.take_from_port(now, port, header, data) {
            Ok(queued) => Accepted { queued, dropped: 0 },
            Err((_, dropped)) => Accepted { queued: 0, dropped },
        }
    }

    /// Takes one IP packet of an embedder.
    ///
    /// # Errors
    /// [`Rejected`] hands the packet back with the reason.
    pub fn handle_ip(
        &mut self,
        now: Instant,
        port: PortId,
        origin: Origin,
        packet: Bytes,
    ) -> Result<(), Rejected> {
        self.advance(now);
        self.trace(None, || {
            What::Input(format!("ip {} bytes", packet.len()).into())
        });
        if self.fwd.port(port).is_none() {
            return Err(Rejected {
                packet,
                reason: RejectReason::UnknownPort,
            });
        }
        let result = match origin {
            Origin::Local => self.take_from_port(now, port, VnetHdr::default(), &packet),
            Origin::Forwarded => {
                let mut copy = BytesMut::from(&packet[..]);
                if PacketInfo::parse(&packet).is_ok() && !ip::decrement_hop_limit(&mut copy) {
                    self.hop_limit_exceeded(now, port, &packet);
                    Err((DropReason::HopLimit, 1))
                } else {
                    self.take_from_port(now, port, VnetHdr::default(), &copy)
                }
            }
        };
        match result {
            Ok(_) => Ok(()),
            Err((DropReason::QueueFull, _)) => Err(Rejected {
                packet,
                reason: RejectReason::Full,
            }),
            Err((reason, _)) => Err(Rejected {
                packet,
                reason: RejectReason::Dropped(reason),
            }),
        }
    }

    /// Appends the next UDP datagrams to `buf` (which the caller has cleared), at most `max_segments`
    /// of equal size for one send with GSO.
    #[must_use]
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        max_segments: NonZeroUsize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        self.advance(now);
        self.next_transmit(now, max_segments, buf)
    }

    /// Fills `batch` with what one TUN is to be written, taking the batch's old buffers back; `false`
    /// if there is nothing.
    #[must_use]
    pub fn poll_tun(&mut self, batch: &mut TunBatch) -> bool {
        self.fwd.recycle(batch.port, &mut batch.frames);
        for port in &mut self.fwd.ports {
            port.out.flush();
            batch.frames.extend(std::iter::from_fn(|| port.out.pop()));
            if !batch.frames.is_empty() {
                batch.port = port.config.id;
                return true;
            }
        }
        false
    }

    /// Gives back the memory that only load needs (spare buffers, emptied queues). To be called, if at
    /// all, when nothing has come for a while; the next packets pay for it with allocations.
    pub fn rest(&mut self, now: Instant) {
        for port in &mut self.fwd.ports {
            port.out.rest();
        }
        self.fwd.arena.rest();
        for conn in self.conns.iter_mut().flatten() {
            for tunnel in &mut conn.tunnels {
                tunnel.queue.rest(now);
            }
        }
    }

    /// The next event.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front();
        if event.is_none() && self.shutdown_is_over() {
            self.shutdown_told = true;
            return Some(Event::ShutdownComplete);
        }
        event
    }

    /// How many frames wait for [`Endpoint::poll_tun`], open ones included.
    #[must_use]
    pub fn waiting_frames(&self) -> usize {
        self.fwd.ports.iter().map(|port| port.out.len()).sum()
    }

    /// What was counted so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.fwd.counters
    }

    /// What is known of a connection.
    #[must_use]
    pub fn connection(&self, conn: ConnId) -> Option<ConnectionInfo> {
        let conn = self.conn(conn)?;
        let stats = conn.bridge.stats();
        Some(ConnectionInfo {
            remote: conn.bridge.remote(),
            identity: conn.identity.clone(),
            cipher: conn.bridge.cipher(),
            rtt: stats.path.rtt,
            congestion_window: stats.path.cwnd,
            path_mtu: conn.bridge.path_mtu(),
            sent_packets: stats.path.sent_packets,
            lost_packets: stats.path.lost_packets,
            sent_bytes: stats.udp_tx.bytes,
            received_bytes: stats.udp_rx.bytes,
        })
    }

    /// What is known of a tunnel.
    #[must_use]
    pub fn tunnel(&self, tunnel: TunnelHandle) -> Option<TunnelInfo> {
        let state = self.conn(tunnel.conn)?.tunnel(tunnel.tunnel)?;
        Some(TunnelInfo {
            addresses: state.addresses.clone(),
            mtu: state.mtu,
            scope: state.scope.clone(),
            sent_packets: state.sent_packets,
            received_packets: state.received_packets,
            sent_bytes: state.sent_bytes,
            received_bytes: state.received_bytes,
        })
    }

    /// The open tunnels, in ascending order.
    pub fn tunnels(&self) -> impl Iterator<Item = TunnelHandle> + '_ {
        let conns = self.ids.keys().filter_map(|id| self.conn(*id));
        conns.flat_map(|conn| conn.tunnels.iter().map(|tunnel| tunnel.handle))
    }

    /// The connections, in ascending order.
    pub fn connections(&self) -> impl Iterator<Item = ConnId> + '_ {
        self.ids.keys().copied()
    }

    /// What is held at this moment.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let conns = || self.conns.iter().flatten();
        let tunnels = || conns().flat_map(|conn| &conn.tunnels);
        debug_assert_eq!(
            self.fwd.queued_bytes,
            tunnels().map(|tunnel| tunnel.queue.bytes()).sum::<usize>(),
            "what all tunnels queue is counted as it comes and goes"
        );
        debug_assert_eq!(
            self.ids.len(),
            conns().count(),
            "every connection has an ID"
        );
        let prefixes = if self.seat.alone {
            self.fwd.owners.len()
        } else {
            self.seat.shared.prefixes()
        };
        let registry = self.seat.shared.registry();
        Usage {
            connections: self.ids.len(),
            identities: registry.of_identity.len(),
            tunnels: tunnels().count(),
            claims: prefixes + self.fwd.device_claims(),
            addresses: registry.book.in_use(),
            queued_bytes: self.fwd.queued_bytes,
            queued_datagrams: tunnels().map(|tunnel| tunnel.queue.len()).sum(),
            handshakes: self.admission.handshaking(),
            waiting_handshakes: self.admission.waiting(),
            handshake_sources: registry.crowd.sources(),
            deadlines: self.armed.len(),
        }
    }

    /// Turns tracing on or off, for connections made from now on too.
    pub fn set_tracing(&mut self, on: bool) {
        self.trace.set(on);
        for conn in self.conns.iter_mut().flatten() {
            conn.bridge.session().set_tracing(on);
        }
    }

    /// The trace events since the last call.
    pub fn take_trace(&mut self) -> Vec<TraceEvent> {
        self.trace.take()
    }

    fn conn(&self, id: ConnId) -> Option<&Conn> {
        self.conns.get(*self.ids.get(&id)?)?.as_deref()
    }

    #[inline]
    fn advance(&mut self, now: Instant) {
        self.now = now;
        self.clock.set(now);
        if self.seat.has_news() {
            self.catch_up(now);
        }
    }

    fn trace(&mut self, connection: Option<ConnId>, what: impl FnOnce() -> What) {
        let connection = connection.map(|id| id.0);
        self.trace.record(|| TraceEvent {
            layer: Layer::Endpoint,
            connection,
            stream: None,
            what: what(),
        });
    }

    fn sent(&mut self, conn: Option<ConnId>, transmit: Transmit) -> Transmit {
        let datagrams = transmit
            .segment_size
            .map_or(1, |size| transmit.size.div_ceil(size));
        self.fwd.counters.udp_sent += datagrams as u64;
        self.trace(conn, || {
            What::Output(
                format!(
                    "udp {} bytes in {datagrams} to {}",
                    transmit.size, transmit.destination
                )
                .into(),
            )
        });
        transmit
    }

    /// Queues a stateless answer; beyond the bound it is dropped, as the network might do.
    fn respond(&mut self, socket: SocketId, transmit: quinn_proto::Transmit, mut bytes: Vec<u8>) {
        if self.responses.len() < MAX_RESPONSES {
            bytes.truncate(transmit.size);
            self.responses.push_back((ours(transmit, socket), bytes));
        }
    }
}

fn ours(transmit: quinn_proto::Transmit, socket: SocketId) -> Transmit {
    Transmit {
        socket,
        destination: transmit.destination,
        src_ip: transmit.src_ip,
        ecn: transmit.ecn.map(|ecn| match ecn {
            quinn_proto::EcnCodepoint::Ect0 => Ecn::Ect0,
            quinn_proto::EcnCodepoint::Ect1 => Ecn::Ect1,
            quinn_proto::EcnCodepoint::Ce => Ecn::Ce,
        }),
        size: transmit.size,
        segment_size: transmit.segment_size,
    }
}
