//! Which handshakes are accepted, and when: each costs half a millisecond of CPU.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use quinn_proto::Incoming;

use super::types::SocketId;
use super::{DropReason, Endpoint};
use crate::wire::prefix::IpPrefix;

/// Connection attempts that wait for their turn.
#[derive(Default)]
pub(super) struct Admission {
    waiting: VecDeque<(SocketId, Incoming)>,
    /// Handshakes under way, per source prefix.
    sources: BTreeMap<IpPrefix, usize>,
    pub(super) handshaking: usize,
    accepted_this_turn: usize,
}

impl Admission {
    /// A new turn: the budget is whole again.
    pub(super) fn new_turn(&mut self) {
        self.accepted_this_turn = 0;
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// A handshake is over, whatever came of it.
    pub(super) fn done(&mut self, pays: Option<IpPrefix>) {
        let Some(prefix) = pays else { return };
        self.handshaking = self.handshaking.saturating_sub(1);
        if let Some(count) = self.sources.get_mut(&prefix) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&prefix);
            }
        }
    }
}

impl Endpoint {
    /// A first packet: refused at a limit, answered with a Retry under load, else queued.
    pub(super) fn on_incoming(&mut self, now: Instant, socket: SocketId, incoming: Incoming) {
        let limits = &self.limits;
        let source = paying_prefix(incoming.remote_address());
        let busy = self.admission.handshaking + self.admission.waiting.len();
        let of_source = self.admission.sources.get(&source).copied().unwrap_or(0);
        if of_source >= limits.handshakes_per_source && incoming.remote_address_validated() {
            self.fwd.counters.drop(DropReason::HandshakeLimit, 1);
            self.quic.ignore(incoming);
            return;
        }
        let full = busy >= limits.max_handshakes || self.ids.len() >= limits.max_connections;
        if full || self.shutdown.is_some() {
            self.fwd.counters.refused += 1;
            let mut buf = Vec::new();
            let transmit = self.quic.refuse(incoming, &mut buf);
            self.respond(socket, transmit, buf);
            return;
        }
        let suspicious =
            busy >= limits.retry_threshold || of_source >= limits.handshakes_per_source;
        if suspicious && !incoming.remote_address_validated() {
            let mut buf = Vec::new();
            match self.quic.retry(incoming, &mut buf) {
                Ok(transmit) => {
                    self.fwd.counters.retries += 1;
                    self.respond(socket, transmit, buf);
                }
                Err(refused) => {
                    self.fwd.counters.drop(DropReason::HandshakeLimit, 1);
                    self.quic.ignore(refused.into_incoming());
                }
            }
            return;
        }
        self.admission.waiting.push_back((socket, incoming));
        self.accept_waiting(now);
    }

    /// Accepts what the turn's budget allows.
    pub(super) fn accept_waiting(&mut self, now: Instant) {
        while self.admission.accepted_this_turn < self.limits.handshakes_per_turn {
            let Some((socket, incoming)) = self.admission.waiting.pop_front() else {
                return;
            };
            self.admission.accepted_this_turn += 1;
            self.accept(now, socket, incoming);
        }
    }

    fn accept(&mut self, now: Instant, socket: SocketId, incoming: Incoming) {
        let source = paying_prefix(incoming.remote_address());
        let remote = incoming.remote_address();
        let mut buf = Vec::new();
        match self.quic.accept(incoming, now, &mut buf, None) {
            Ok((handle, connection)) => {
                self.fwd.counters.handshakes += 1;
                self.admission.handshaking += 1;
                *self.admission.sources.entry(source).or_default() += 1;
                self.adopt_server(handle, connection, socket, remote, source);
                self.drive(now, handle.0);
            }
            Err(error) => {
                if let Some(transmit) = error.response {
                    self.respond(socket, transmit, buf);
                }
            }
        }
    }
}

/// Who pays for a handshake: IPv4 /24, IPv6 /56.
fn paying_prefix(remote: SocketAddr) -> IpPrefix {
    let (address, length) = match remote.ip().to_canonical() {
        IpAddr::V4(v4) => (IpAddr::V4((u32::from(v4) & 0xffff_ff00).into()), 24),
        IpAddr::V6(v6) => (IpAddr::V6((u128::from(v6) >> 72 << 72).into()), 56),
    };
    IpPrefix::new(address, length).unwrap_or_else(|_| IpPrefix::host(address))
}
