//! Which handshakes are accepted, and when: each costs half a millisecond of CPU.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use quinn_proto::Incoming;

use super::turns::Budget;
use super::types::SocketId;
use super::{DropReason, Endpoint};
use crate::wire::prefix::IpPrefix;

/// Connection attempts that wait for their turn.
#[derive(Default)]
pub(super) struct Admission {
    waiting: VecDeque<(SocketId, Incoming, Ticket)>,
    /// Handshakes waiting or under way, per source prefix.
    sources: BTreeMap<IpPrefix, Load>,
    /// Handshakes under way.
    handshaking: usize,
    accepted_this_turn: usize,
}

/// What a handshake takes up from its first packet to its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    source: IpPrefix,
    /// Whether the source address is proven to be one.
    proven: bool,
}

/// Proven and unproven handshakes count apart: packets with forged sources then cannot use up what
/// the real owners of an address have.
#[derive(Clone, Copy, Default)]
struct Load {
    proven: usize,
    unproven: usize,
}

impl Load {
    fn of(&mut self, ticket: Ticket) -> &mut usize {
        if ticket.proven {
            &mut self.proven
        } else {
            &mut self.unproven
        }
    }
}

impl Admission {
    /// A new turn: the budget is whole again.
    pub(super) fn new_turn(&mut self) {
        self.accepted_this_turn = 0;
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn handshaking(&self) -> usize {
        self.handshaking
    }

    pub(super) fn sources(&self) -> usize {
        self.sources.len()
    }

    /// A handshake under way is over, whatever came of it.
    pub(super) fn done(&mut self, ticket: Option<Ticket>) {
        if let Some(ticket) = ticket {
            self.handshaking = self.handshaking.saturating_sub(1);
            self.give_back(ticket);
        }
    }

    fn enqueue(&mut self, socket: SocketId, incoming: Incoming, ticket: Ticket) {
        *self.sources.entry(ticket.source).or_default().of(ticket) += 1;
        self.waiting.push_back((socket, incoming, ticket));
    }

    fn give_back(&mut self, ticket: Ticket) {
        if let Some(load) = self.sources.get_mut(&ticket.source) {
            let count = load.of(ticket);
            *count = count.saturating_sub(1);
            if load.proven + load.unproven == 0 {
                self.sources.remove(&ticket.source);
            }
        }
    }
}

impl Endpoint {
    /// A first packet: refused at a limit, answered with a Retry under load, else queued.
    pub(super) fn on_incoming(&mut self, now: Instant, socket: SocketId, incoming: Incoming) {
        let limits = &self.limits;
        let ticket = Ticket {
            source: paying_prefix(incoming.remote_address()),
            proven: incoming.remote_address_validated(),
        };
        let admission = &self.admission;
        let busy = admission.handshaking + admission.waiting.len();
        let load = admission
            .sources
            .get(&ticket.source)
            .copied()
            .unwrap_or_default();
        if ticket.proven && load.proven >= limits.handshakes_per_source {
            self.fwd.counters.drop(DropReason::HandshakeLimit, 1);
            self.quic.ignore(incoming);
            return;
        }
        let connections = self.ids.len() + admission.waiting.len();
        let full = busy >= limits.max_handshakes || connections >= limits.max_connections;
        if full || self.shutdown.is_some() {
            self.refuse_incoming(socket, incoming);
            return;
        }
        let suspicious = busy >= limits.retry_threshold
            || load.proven + load.unproven >= limits.handshakes_per_source;
        if suspicious && !ticket.proven {
            let mut buf = Vec::new();
            match self.quic.retry(incoming, &mut buf) {
                Ok(transmit) => {
                    self.budget.spend(Budget::ANSWER);
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
        self.admission.enqueue(socket, incoming, ticket);
        self.accept_waiting(now);
    }

    /// Accepts what the turn's budget allows.
    pub(super) fn accept_waiting(&mut self, now: Instant) {
        // With a budget of none, those that wait would wait for ever, and be due all the time.
        while self.admission.accepted_this_turn < self.limits.handshakes_per_turn.max(1)
            && self.budget.allows()
        {
            let Some((socket, incoming, ticket)) = self.admission.waiting.pop_front() else {
                return;
            };
            self.admission.accepted_this_turn += 1;
            self.accept(now, socket, incoming, ticket);
        }
    }

    /// Refuses all that wait: nobody is let in any more.
    pub(super) fn refuse_waiting(&mut self) {
        while let Some((socket, incoming, ticket)) = self.admission.waiting.pop_front() {
            self.admission.give_back(ticket);
            self.refuse_incoming(socket, incoming);
        }
    }

    fn refuse_incoming(&mut self, socket: SocketId, incoming: Incoming) {
        self.budget.spend(Budget::ANSWER);
        self.fwd.counters.refused += 1;
        let mut buf = Vec::new();
        let transmit = self.quic.refuse(incoming, &mut buf);
        self.respond(socket, transmit, buf);
    }

    fn accept(&mut self, now: Instant, socket: SocketId, incoming: Incoming, ticket: Ticket) {
        let remote = incoming.remote_address();
        let mut buf = Vec::new();
        match self.quic.accept(incoming, now, &mut buf, None) {
            Ok((handle, connection)) => {
                self.budget.spend(Budget::FIRST_FLIGHT);
                self.fwd.counters.handshakes += 1;
                self.admission.handshaking += 1;
                self.adopt_server(handle, connection, socket, remote, ticket);
                self.drive(now, handle.0);
            }
            Err(error) => {
                self.admission.give_back(ticket);
                if let Some(transmit) = error.response {
                    self.respond(socket, transmit, buf);
                }
            }
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // quinn-proto wants to be told what became of each.
        while let Some((_, incoming, _)) = self.admission.waiting.pop_front() {
            self.quic.ignore(incoming);
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
