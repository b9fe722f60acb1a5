//! Many CONNECT-IP connections over quinn-proto: UDP datagrams, IP packets and time in and out.
//!
//! # The contract
//!
//! *Call any number of `handle_*` with one non-decreasing `now`; drain the `poll_*` to `None`; sleep
//! until [`Endpoint::poll_timeout`].* Forgetting is safe: while output is queued, `poll_timeout`
//! returns `now` with the reason [`TimerReason::QueuedOutput`].

//! # Where things are
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | the surface, and the order in which things happen |
//! | `bridge.rs` | one QUIC connection and its session |
//! | `setup.rs` | quinn-proto's configuration |
//! | `admit.rs` | which handshakes are accepted, and when |
//! | `server.rs`, `client.rs` | what each role decides about tunnels |
//! | `forward.rs`, `conn.rs`, `routes.rs` | the way of a packet and the rules it meets |
//! | `pool.rs` | addresses, leases, static assignments |

mod admit;
mod bridge;
mod client;
mod command;
mod config;
mod conn;
mod counters;
mod entropy;
mod event;
mod forward;
mod pool;
mod queue;
mod routes;
mod server;
mod setup;
mod timers;
mod tls;
mod types;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use quinn_proto::{ConnectionHandle, DatagramEvent};
use rand_chacha::ChaCha20Rng;

pub use command::{Command, CommandError, ConnectError, Target};
pub use config::{
    Access, ClientConfig, Config, CongestionControl, Lease, Limits, PortConfig, ServerConfig,
    StaticAssignment, TransportProfile,
};
pub use counters::{Counters, DropReason};
pub use entropy::Entropy;
pub use event::{CloseReason, Event, TunnelClosed};
pub use types::{
    Accepted, ConnId, ConnectionInfo, Deadline, Ecn, Identity, Origin, PeerIdentity, PortId,
    RecvMeta, RejectReason, Rejected, SocketId, TimerReason, Transmit, TunBatch, TunnelHandle,
    TunnelInfo,
};

use admit::Admission;
use bridge::{Bridge, BridgeEvent};
use conn::Conn;
use forward::{Across, Forwarding, From as PacketFrom, Policy};
use pool::AddressBook;
use setup::WallClock;

use crate::error::H3Code;
use crate::session::{
    DatagramDrop, DatagramVerdict, Event as SessionEvent, Session, SessionConfig, SessionEnd,
};
use crate::trace::{Layer, Recorder, TraceEvent, What};
use crate::wire::ip::{self, PacketInfo};
use crate::wire::offload::VnetHdr;
use crate::wire::prefix::IpPrefix;
use crate::wire::stream::Role;

/// The most stateless answers (Retry, reset, version negotiation) that wait to be sent.
const MAX_RESPONSES: usize = 256;
/// The largest UDP payload.
const MAX_UDP: usize = 65_507;

/// Many connections and their tunnels: the whole protocol, without I/O.
pub struct Endpoint {
    quic: quinn_proto::Endpoint,
    clock: Arc<WallClock>,
    client_ids: Arc<Mutex<ChaCha20Rng>>,
    profile: TransportProfile,
    limits: Limits,
    session: SessionConfig,
    server: Option<ServerConfig>,
    /// By quinn-proto's handle.
    conns: Vec<Option<Box<Conn>>>,
    ids: BTreeMap<ConnId, usize>,
    next_id: u64,
    fwd: Forwarding,
    book: AddressBook,
    admission: Admission,
    events: VecDeque<Event>,
    responses: VecDeque<(Transmit, Vec<u8>)>,
    /// Connections that may have something to send.
    ring: VecDeque<usize>,
    /// Deadlines of connections; kept up lazily through `stale`.
    armed: BTreeSet<(Instant, usize)>,
    stale: Vec<usize>,
    /// The last `now`, so that forgotten output is due at once.
    now: Instant,
    shutdown: Option<Instant>,
    shutdown_told: bool,
    to_replace: Vec<ConnId>,
    trace: Recorder,
    scratch: Vec<u8>,
    bridge_events: Vec<BridgeEvent>,
    touched: Vec<usize>,
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
    /// [`ConnectError::Profile`] if the transport profile cannot be used.
    pub fn new(
        now: Instant,
        wall: SystemTime,
        config: Config,
        entropy: Entropy,
    ) -> Result<Self, ConnectError> {
        let clock = Arc::new(WallClock::new(now, wall));
        let secret = config
            .server
            .as_ref()
            .map_or_else(|| entropy.bytes("secret"), |server| server.secret);
        let server = match &config.server {
            Some(server) => Some(Arc::new(
                setup::server_config(server, &config.transport, &config.limits, clock.clone())
                    .map_err(ConnectError::Profile)?,
            )),
            None => None,
        };
        let quic_config = Arc::new(setup::endpoint_config(&entropy, secret));
        let book = match &config.server {
            Some(server) => AddressBook::new(
                &server.pools,
                &server.gateways,
                &server.statics,
                &server.leases,
                config.limits.lease_lifetime,
            ),
            None => AddressBook::new(&[], &[], &[], &[], config.limits.lease_lifetime),
        };
        let policy = config.server.as_ref().map(|server| Policy {
            access: server.access.clone(),
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
        Ok(Self {
            quic: quinn_proto::Endpoint::new(quic_config, server, true, None),
            clock,
            client_ids: Arc::new(Mutex::new(entropy.fork("client cid"))),
            fwd: Forwarding::new(config.ports, policy, &config.limits, now),
            profile: config.transport,
            limits: config.limits,
            session: config.session,
            server: config.server,
            conns: Vec::new(),
            ids: BTreeMap::new(),
            next_id: 0,
            book,
            admission: Admission::default(),
            events: VecDeque::new(),
            responses: VecDeque::new(),
            ring: VecDeque::new(),
            armed: BTreeSet::new(),
            stale: Vec::new(),
            now,
            shutdown: None,
            shutdown_told: false,
            to_replace: Vec::new(),
            trace: Recorder::default(),
            scratch: Vec::new(),
            bridge_events: Vec::new(),
            touched: Vec::new(),
        })
    }

    /// Takes a whole GRO batch: datagrams of `meta.stride` bytes each, the last perhaps shorter.
    pub fn handle_udp(&mut self, now: Instant, meta: RecvMeta, mut data: BytesMut) {
        self.advance(now);
        let total = data.len();
        self.trace(None, || {
            What::Input(format!("udp {total} bytes from {}", meta.remote).into())
        });
        let ecn = meta.ecn.map(|ecn| match ecn {
            Ecn::Ect0 => quinn_proto::EcnCodepoint::Ect0,
            Ecn::Ect1 => quinn_proto::EcnCodepoint::Ect1,
            Ecn::Ce => quinn_proto::EcnCodepoint::Ce,
        });
        let mut touched = std::mem::take(&mut self.touched);
        while !data.is_empty() {
            let datagram = data.split_to(meta.stride.clamp(1, data.len()));
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
                        conn.socket = meta.socket;
                        conn.bridge.handle_quic_event(event);
                        if touched.last() != Some(&handle.0) && !touched.contains(&handle.0) {
                            touched.push(handle.0);
                        }
                    }
                }
                Some(DatagramEvent::NewConnection(incoming)) => {
                    self.on_incoming(now, meta.socket, incoming)
                }
                Some(DatagramEvent::Response(transmit)) => {
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
            Ok(queued) => {
                self.fwd.counters.packets_in += u64::from(queued);
                Accepted { queued, dropped: 0 }
            }
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
            Ok(queued) => {
                self.fwd.counters.packets_in += u64::from(queued);
                Ok(())
            }
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
        if let Some((transmit, bytes)) = self.responses.pop_front() {
            buf.extend_from_slice(&bytes);
            return Some(self.sent(None, transmit));
        }
        while let Some(&at) = self.ring.front() {
            let Some(mut conn) = self.conns.get_mut(at).and_then(Option::take) else {
                self.ring.pop_front();
                continue;
            };
            self.feed(now, &mut conn);
            let fits = MAX_UDP / usize::from(conn.bridge.path_mtu());
            let segments = max_segments.get().min(fits).max(1);
            let transmit = conn.bridge.poll_transmit(now, segments, buf);
            self.ring.pop_front();
            conn.in_ring = transmit.is_some();
            if transmit.is_some() {
                self.ring.push_back(at);
            } else {
                conn.bridge.exchange(ConnectionHandle(at), &mut self.quic);
            }
            let socket = conn.socket;
            let id = conn.id;
            self.put_back(at, conn);
            if let Some(transmit) = transmit {
                return Some(self.sent(Some(id), ours(transmit, socket)));
            }
        }
        None
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

    fn advance(&mut self, now: Instant) {
        self.now = now;
        self.clock.set(now);
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

    /// Makes a connection ours.
    #[expect(clippy::too_many_arguments, reason = "each is one field")]
    fn adopt(
        &mut self,
        handle: ConnectionHandle,
        connection: quinn_proto::Connection,
        role: Role,
        socket: SocketId,
        port: PortId,
        remote: std::net::SocketAddr,
        pays: Option<IpPrefix>,
    ) -> ConnId {
        let id = ConnId(self.next_id);
        self.next_id += 1;
        let mut session = Session::new(role, self.session.clone());
        session.set_tracing(self.trace.is_on());
        let conn = Conn {
            id,
            role,
            bridge: Bridge::new(connection, session, role),
            socket,
            port,
            identity: None,
            expires: None,
            pays,
            tunnels: Vec::new(),
            turn: 0,
            in_ring: false,
            timer_dirty: false,
            armed: None,
            closing: None,
            closed_told: false,
            remote,
            asked: crate::wire::scope::Scope::default(),
        };
        if self.conns.len() <= handle.0 {
            self.conns.resize_with(handle.0 + 1, || None);
        }
        self.conns[handle.0] = Some(Box::new(conn));
        self.ids.insert(id, handle.0);
        id
    }

    fn adopt_server(
        &mut self,
        handle: ConnectionHandle,
        connection: quinn_proto::Connection,
        socket: SocketId,
        remote: std::net::SocketAddr,
        source: IpPrefix,
    ) {
        let port = self
            .server
            .as_ref()
            .map(|server| server.port)
            .unwrap_or_default();
        let id = self.adopt(
            handle,
            connection,
            Role::Server,
            socket,
            port,
            remote,
            Some(source),
        );
        self.trace(Some(id), || What::State {
            from: "none",
            to: "handshake",
        });
    }

    /// Lets a connection take in what has come for it, then does what follows from that.
    fn drive(&mut self, now: Instant, at: usize) {
        let Some(mut conn) = self.conns.get_mut(at).and_then(Option::take) else {
            return;
        };
        let mut events = std::mem::take(&mut self.bridge_events);
        conn.bridge.step(
            now,
            ConnectionHandle(at),
            &mut self.quic,
            &mut self.trace,
            &mut events,
        );
        while let Some(datagram) = conn.bridge.recv_datagram() {
            self.on_datagram(now, &mut conn, &datagram);
        }
        loop {
            for event in events.drain(..) {
                self.on_bridge_event(now, &mut conn, event);
            }
            conn.bridge.settle(now, &mut events);
            if events.is_empty() {
                break;
            }
        }
        conn.bridge.exchange(ConnectionHandle(at), &mut self.quic);
        self.bridge_events = events;
        self.update_mtu(now, &mut conn);
        if conn.remote != conn.bridge.remote() {
            conn.remote = conn.bridge.remote();
            self.events.push_back(Event::Migrated {
                conn: conn.id,
                remote: conn.remote,
            });
        }
        self.collect_session_trace(&mut conn);
        if !conn.in_ring {
            conn.in_ring = true;
            self.ring.push_back(at);
        }
        self.put_back(at, conn);
        self.deliver_across(now);
        for id in std::mem::take(&mut self.to_replace) {
            self.close_by_id(
                now,
                id,
                CloseReason::Replaced,
                H3Code::NO_ERROR,
                "replaced by a newer connection",
            );
        }
    }

    /// Puts a connection back where it was, or forgets it once QUIC has.
    fn put_back(&mut self, at: usize, mut conn: Box<Conn>) {
        if conn.bridge.is_drained() {
            self.admission.done(conn.pays.take());
            self.tell_closed(&mut conn, CloseReason::Local);
            self.ids.remove(&conn.id);
            if let Some(armed) = conn.armed {
                self.armed.remove(&(armed, at));
            }
            return;
        }
        if !conn.timer_dirty {
            conn.timer_dirty = true;
            self.stale.push(at);
        }
        self.conns[at] = Some(conn);
    }

    fn on_datagram(&mut self, now: Instant, conn: &mut Conn, datagram: &[u8]) {
        match conn.bridge.session().open_datagram(datagram) {
            DatagramVerdict::IpPacket { tunnel, offset } => {
                self.on_packet(
                    now,
                    conn,
                    tunnel,
                    datagram.get(offset..).unwrap_or_default(),
                );
            }
            DatagramVerdict::Drop(why) => {
                let reason = match why {
                    DatagramDrop::UnknownStream => DropReason::UnknownStream,
                    DatagramDrop::NotEstablished => DropReason::NotEstablished,
                    DatagramDrop::NoContext | DatagramDrop::UnknownContext => {
                        DropReason::UnknownContext
                    }
                };
                self.fwd.dropped(reason, datagram.len(), &mut self.trace);
            }
            DatagramVerdict::Error => {}
        }
    }

    fn on_packet(
        &mut self,
        now: Instant,
        conn: &mut Conn,
        tunnel: crate::session::TunnelId,
        packet: &[u8],
    ) {
        match conn
            .tunnels
            .iter()
            .position(|state| state.handle.tunnel == tunnel)
        {
            Some(index) => self
                .fwd
                .leave_tunnel(now, conn, index, packet, &mut self.trace),
            None => self
                .fwd
                .dropped(DropReason::NotEstablished, packet.len(), &mut self.trace),
        }
    }

    fn on_bridge_event(&mut self, now: Instant, conn: &mut Conn, event: BridgeEvent) {
        match event {
            BridgeEvent::Connected => {
                self.admission.done(conn.pays.take());
                match conn.role {
                    Role::Server => self.on_client_connected(now, conn),
                    Role::Client => self.on_server_connected(now, conn),
                }
                self.trace(Some(conn.id), || What::State {
                    from: "handshake",
                    to: "connected",
                });
                self.events.push_back(Event::Connected {
                    conn: conn.id,
                    remote: conn.bridge.remote(),
                    identity: conn.identity.clone(),
                });
            }
            BridgeEvent::Lost(reason) => {
                self.admission.done(conn.pays.take());
                self.tell_closed(conn, reason);
            }
            BridgeEvent::Session(event) => self.on_session_event(now, conn, event),
        }
    }

    fn on_session_event(&mut self, now: Instant, conn: &mut Conn, event: SessionEvent) {
        match event {
            SessionEvent::PeerSettings(_) | SessionEvent::GoAway => {}
            SessionEvent::Requested { tunnel, request } => {
                self.on_requested(now, conn, tunnel, request)
            }
            SessionEvent::Established { tunnel, .. } => self.on_established(now, conn, tunnel),
            SessionEvent::Refused {
                status,
                proxy_status,
                ..
            } => {
                self.events.push_back(Event::TunnelRefused {
                    conn: conn.id,
                    status,
                    proxy_status,
                });
            }
            SessionEvent::AddressesAssigned { tunnel, assign } => {
                self.on_assigned(now, conn, tunnel, &assign)
            }
            SessionEvent::AddressesRequested { tunnel, request } => {
                self.on_addresses_requested(conn, tunnel, &request);
            }
            SessionEvent::RoutesAdvertised { tunnel, routes } => {
                self.on_routes(now, conn, tunnel, routes)
            }
            SessionEvent::Packet { tunnel, packet } => self.on_packet(now, conn, tunnel, &packet),
            SessionEvent::TunnelEnded { tunnel, end } => {
                let handle = TunnelHandle {
                    conn: conn.id,
                    tunnel,
                };
                self.forget_tunnel(conn, tunnel);
                self.events.push_back(Event::TunnelDown {
                    tunnel: handle,
                    reason: end,
                });
            }
            SessionEvent::Ended(end) => {
                let reason = match end {
                    SessionEnd::Violation(kind) => Some(CloseReason::Violation(kind)),
                    SessionEnd::SettingsTimeout => Some(CloseReason::SettingsTimeout),
                    SessionEnd::Local(_) => Some(CloseReason::Local),
                    SessionEnd::Transport => None,
                };
                if let Some(reason) = reason {
                    self.tell_closed(conn, reason);
                }
            }
        }
    }

    /// Closes a connection for a reason of ours; the event follows when the session has ended.
    fn close(
        &mut self,
        now: Instant,
        conn: &mut Conn,
        reason: CloseReason,
        code: H3Code,
        words: &'static str,
    ) {
        if conn.closing.is_none() {
            conn.closing = Some(reason);
            let close = crate::session::Command::Close {
                code,
                reason: words,
            };
            if conn.bridge.session().handle_command(close).is_err() {
                conn.bridge.close(now, code, words);
            }
        }
    }

    fn close_by_id(
        &mut self,
        now: Instant,
        id: ConnId,
        reason: CloseReason,
        code: H3Code,
        words: &'static str,
    ) {
        let Some(&at) = self.ids.get(&id) else { return };
        let Some(mut conn) = self.conns.get_mut(at).and_then(Option::take) else {
            return;
        };
        self.close(now, &mut conn, reason, code, words);
        self.conns[at] = Some(conn);
        self.drive(now, at);
    }

    fn tell_closed(&mut self, conn: &mut Conn, reason: CloseReason) {
        if std::mem::replace(&mut conn.closed_told, true) {
            return;
        }
        let left: Vec<_> = conn.tunnels.iter().map(|tunnel| tunnel.handle).collect();
        for handle in left {
            self.forget_tunnel(conn, handle.tunnel);
            let reason = TunnelClosed::ConnectionEnded;
            self.events.push_back(Event::TunnelDown {
                tunnel: handle,
                reason,
            });
        }
        let reason = conn.closing.clone().unwrap_or(reason);
        self.trace(Some(conn.id), || What::State {
            from: "connected",
            to: "closed",
        });
        self.events.push_back(Event::ConnectionClosed {
            conn: conn.id,
            reason,
        });
    }

    fn collect_session_trace(&mut self, conn: &mut Conn) {
        if self.trace.is_on() {
            for mut event in conn.bridge.session().take_trace() {
                event.connection = Some(conn.id.0);
                self.trace.record(|| event);
            }
        }
    }

    /// Finds the tunnel of a packet from a device and queues it there.
    fn take_from_port(
        &mut self,
        now: Instant,
        port: PortId,
        header: VnetHdr,
        data: &[u8],
    ) -> Result<u32, (DropReason, u32)> {
        let info = match PacketInfo::parse(data) {
            Ok(info) => info,
            Err(_) => {
                self.fwd
                    .dropped(DropReason::Malformed, data.len(), &mut self.trace);
                return Err((DropReason::Malformed, 1));
            }
        };
        let handle = match self.fwd.route(port, &info) {
            Ok(handle) => handle,
            Err(reason) => {
                self.fwd.dropped(reason, data.len(), &mut self.trace);
                if reason == DropReason::NoTunnel && self.is_client_space(info.destination) {
                    let error = crate::wire::ip::icmp::IcmpError::AddressUnreachable;
                    self.fwd.answer_to_device(now, port, error, data, &info);
                }
                return Err((reason, 1));
            }
        };
        self.enter_tunnel(now, handle, header, data, &info, PacketFrom::Device(port))
    }

    fn hop_limit_exceeded(&mut self, now: Instant, port: PortId, packet: &[u8]) {
        self.fwd
            .dropped(DropReason::HopLimit, packet.len(), &mut self.trace);
        if let Ok(info) = PacketInfo::parse(packet) {
            let error = crate::wire::ip::icmp::IcmpError::TimeExceeded;
            self.fwd.answer_to_device(now, port, error, packet, &info);
        }
    }

    fn enter_tunnel(
        &mut self,
        now: Instant,
        handle: TunnelHandle,
        header: VnetHdr,
        data: &[u8],
        info: &PacketInfo,
        from: PacketFrom,
    ) -> Result<u32, (DropReason, u32)> {
        let gone = (DropReason::NoTunnel, 1);
        let at = *self.ids.get(&handle.conn).ok_or(gone)?;
        let Some(conn) = self.conns.get_mut(at).and_then(Option::as_mut) else {
            return Err(gone);
        };
        let index = conn
            .tunnels
            .iter()
            .position(|tunnel| tunnel.handle == handle)
            .ok_or(gone)?;
        let result =
            self.fwd
                .enter_tunnel(now, conn, index, header, data, info, from, &mut self.trace);
        if !conn.in_ring {
            conn.in_ring = true;
            self.ring.push_back(at);
        }
        if conn
            .tunnels
            .get(index)
            .is_some_and(|tunnel| tunnel.header.is_none())
        {
            self.drive(now, at);
        }
        result
    }

    /// Packets between clients, and ICMP errors about them. Each round may bring ICMP errors about
    /// packets of the one before, never errors about errors: two rounds always suffice.
    fn deliver_across(&mut self, now: Instant) {
        while !self.fwd.across.is_empty() {
            for Across { to, packet } in std::mem::take(&mut self.fwd.across) {
                let Ok(info) = PacketInfo::parse(&packet) else {
                    continue;
                };
                let from = self
                    .fwd
                    .owner(info.source)
                    .map_or(PacketFrom::Device(PortId(u32::MAX)), PacketFrom::Tunnel);
                if let Ok(queued) =
                    self.enter_tunnel(now, to, VnetHdr::default(), &packet, &info, from)
                {
                    self.fwd.counters.packets_across += u64::from(queued);
                }
            }
        }
    }

    /// Hands QUIC what it has room for, tunnel after tunnel: its own queue stays short, so that ours
    /// decides what is dropped.
    fn feed(&mut self, now: Instant, conn: &mut Conn) {
        let mut idle = 0;
        while idle < conn.tunnels.len() {
            conn.turn = (conn.turn + 1) % conn.tunnels.len();
            let tunnel = &mut conn.tunnels[conn.turn];
            let Some(datagram) = tunnel.queue.pop() else {
                idle += 1;
                continue;
            };
            idle = 0;
            let length = datagram.len();
            match conn.bridge.send_datagram(datagram.clone()) {
                Ok(()) => self.fwd.queued_bytes = self.fwd.queued_bytes.saturating_sub(length),
                Err(quinn_proto::SendDatagramError::Blocked(datagram)) => {
                    conn.tunnels[conn.turn].queue.push_front(datagram);
                    return;
                }
                Err(quinn_proto::SendDatagramError::TooLarge) => {
                    self.fwd.queued_bytes = self.fwd.queued_bytes.saturating_sub(length);
                    self.too_large(now, conn, &datagram);
                }
                Err(_) => {
                    self.fwd.queued_bytes = self.fwd.queued_bytes.saturating_sub(length);
                    self.fwd.dropped(DropReason::Quic, length, &mut self.trace);
                }
            }
        }
    }

    /// The path shrank while a packet was queued.
    fn too_large(&mut self, now: Instant, conn: &mut Conn, datagram: &[u8]) {
        self.fwd
            .dropped(DropReason::TooBig, datagram.len(), &mut self.trace);
        let tunnel = &conn.tunnels[conn.turn];
        let header = tunnel.header.map_or(0, |header| header.as_slice().len());
        let packet = datagram.get(header..).unwrap_or_default();
        let Ok(info) = PacketInfo::parse(packet) else {
            return;
        };
        let from = match self.fwd.owner(info.source) {
            Some(owner) => PacketFrom::Tunnel(owner),
            None => PacketFrom::Device(conn.port),
        };
        let max = conn.bridge.max_datagram().unwrap_or(0);
        let mtu = conn::tunnel_mtu(max, header);
        let error = crate::wire::ip::icmp::IcmpError::PacketTooBig { mtu };
        self.fwd.report(now, conn, from, error, packet, &info);
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
