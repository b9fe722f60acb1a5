//! Many CONNECT-IP connections over quinn-proto: UDP datagrams, IP packets and time in and out.
//!
//! # The contract
//!
//! *Call any number of `handle_*` with one non-decreasing `now`; drain the `poll_*` to `None`; sleep
//! until [`Endpoint::poll_timeout`].* Forgetting is safe: while output is queued, `poll_timeout`
//! returns `now` with the reason [`TimerReason::QueuedOutput`].

mod command;
mod config;
mod counters;
mod entropy;
mod event;
mod types;

use std::num::NonZeroUsize;
use std::time::{Instant, SystemTime};

use bytes::{Bytes, BytesMut};

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

use crate::trace::TraceEvent;
use crate::wire::offload::VnetHdr;

/// Many connections and their tunnels: the whole protocol, without I/O.
pub struct Endpoint {
    _todo: (),
}

impl Endpoint {
    /// An endpoint at `now`, which is `wall` in calendar time (certificates expire by it).
    #[must_use]
    pub fn new(now: Instant, wall: SystemTime, config: Config, entropy: Entropy) -> Self {
        let _ = (now, wall, config, entropy);
        unimplemented!()
    }

    /// Connects to a server and asks it for a tunnel.
    ///
    /// # Errors
    /// [`ConnectError`]; nothing was sent then.
    pub fn connect(&mut self, now: Instant, target: Target) -> Result<ConnId, ConnectError> {
        let _ = (now, target);
        unimplemented!()
    }

    /// Takes a whole GRO batch: datagrams of `meta.stride` bytes each, the last perhaps shorter.
    pub fn handle_udp(&mut self, now: Instant, meta: RecvMeta, data: BytesMut) {
        let _ = (now, meta, data);
        unimplemented!()
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
        let _ = (now, port, header, data);
        unimplemented!()
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
        let _ = (now, port, origin, packet);
        unimplemented!()
    }

    /// Takes a command.
    ///
    /// # Errors
    /// [`CommandError`] for local misuse.
    pub fn handle_command(&mut self, now: Instant, command: Command) -> Result<(), CommandError> {
        let _ = (now, command);
        unimplemented!()
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
        unimplemented!()
    }

    /// Appends the next UDP datagrams to `buf` (the caller clears it), at most `max_segments` of equal
    /// size for one send with GSO.
    #[must_use]
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        max_segments: NonZeroUsize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        let _ = (now, max_segments, buf);
        unimplemented!()
    }

    /// Fills `batch` with what one TUN is to be written, taking the batch's old buffers back; `false`
    /// if there is nothing.
    #[must_use]
    pub fn poll_tun(&mut self, batch: &mut TunBatch) -> bool {
        let _ = batch;
        unimplemented!()
    }

    /// The next event.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        unimplemented!()
    }

    /// When to call [`Endpoint::handle_timeout`], and why.
    #[must_use]
    pub fn poll_timeout(&mut self) -> Option<Deadline> {
        unimplemented!()
    }

    /// What was counted so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        unimplemented!()
    }

    /// What is known of a connection.
    #[must_use]
    pub fn connection(&self, conn: ConnId) -> Option<ConnectionInfo> {
        let _ = conn;
        unimplemented!()
    }

    /// What is known of a tunnel.
    #[must_use]
    pub fn tunnel(&self, tunnel: TunnelHandle) -> Option<TunnelInfo> {
        let _ = tunnel;
        unimplemented!()
    }

    /// The open tunnels, in ascending order.
    pub fn tunnels(&self) -> impl Iterator<Item = TunnelHandle> + '_ {
        core::iter::empty()
    }

    /// Turns tracing on or off.
    pub fn set_tracing(&mut self, on: bool) {
        let _ = on;
        unimplemented!()
    }

    /// The trace events since the last call.
    pub fn take_trace(&mut self) -> Vec<TraceEvent> {
        unimplemented!()
    }
}
