//! Which handshakes are accepted, and when: each costs half a millisecond of CPU.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use quinn_proto::Incoming;

use super::shard::Shared;
use super::turns::Budget;
use super::types::SocketId;
use super::{CloseReason, DropReason, Endpoint, Limits};
use crate::wire::prefix::IpPrefix;
use crate::wire::varint::VarInt;

/// While tunnels need the processor, a Retry is asked of everybody from so much fewer handshakes on:
/// what is answered with a handshake costs as much as twenty-five Retries.
const STRICTER: usize = 16;

/// Connection attempts that wait for their turn.
pub(super) struct Admission {
    waiting: VecDeque<(SocketId, Incoming, Ticket)>,
    /// Handshakes under way.
    handshaking: usize,
    /// Handshakes begun.
    accepted_this_turn: usize,
    /// What limits count, here and on the other shards.
    shared: Shared,
}

/// What the limits on connections and handshakes count, on all shards.
#[derive(Default)]
pub(super) struct Crowd {
    /// Connections, those that only wait for late packets included.
    connections: usize,
    /// Handshakes waiting for their turn.
    waiting: usize,
    /// Handshakes under way.
    handshaking: usize,
    /// Handshakes waiting or under way, per source prefix.
    sources: BTreeMap<IpPrefix, Load>,
}

/// What a handshake takes up from its first packet to its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    source: IpPrefix,
    /// Whether the source address is proven to be one.
    proven: bool,
    /// Whether its first packet filled a datagram of the largest size there is: what has come on this path, may
    /// go.
    wide: bool,
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

/// What becomes of a first packet.
enum Verdict {
    Ignore,
    Refuse,
    Retry,
    Queue,
}

impl Crowd {
    pub(super) fn connections(&self) -> usize {
        self.connections
    }

    pub(super) fn sources(&self) -> usize {
        self.sources.len()
    }

    fn judge(&self, limits: &Limits, ticket: Ticket, tunnels_busy: bool) -> Verdict {
        let busy = self.handshaking + self.waiting;
        let load = self.sources.get(&ticket.source).copied();
        let load = load.unwrap_or_default();
        if ticket.proven && load.proven >= limits.handshakes_per_source {
            return Verdict::Ignore;
        }
        let connections = self.connections + self.waiting;
        if busy >= limits.max_handshakes || connections >= limits.max_connections {
            return Verdict::Refuse;
        }
        let threshold = match tunnels_busy {
            true => limits.retry_threshold / STRICTER,
            false => limits.retry_threshold,
        };
        let suspicious =
            busy >= threshold || load.proven + load.unproven >= limits.handshakes_per_source;
        if suspicious && !ticket.proven {
            Verdict::Retry
        } else {
            Verdict::Queue
        }
    }

    fn begin(&mut self, ticket: Ticket) {
        self.waiting += 1;
        *self.sources.entry(ticket.source).or_default().of(ticket) += 1;
    }

    /// A handshake that waited waits no longer.
    fn end_wait(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
    }

    fn end(&mut self, ticket: Ticket) {
        if let Some(load) = self.sources.get_mut(&ticket.source) {
            let count = load.of(ticket);
            *count = count.saturating_sub(1);
            if load.proven + load.unproven == 0 {
                self.sources.remove(&ticket.source);
            }
        }
    }
}

impl Admission {
    pub(super) fn new(shared: Shared) -> Self {
        Self {
            waiting: VecDeque::new(),
            handshaking: 0,
            accepted_this_turn: 0,
            shared,
        }
    }

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

    /// A handshake under way is over, whatever came of it.
    pub(super) fn done(&mut self, ticket: Option<Ticket>) {
        if let Some(ticket) = ticket {
            self.handshaking = self.handshaking.saturating_sub(1);
            let crowd = &mut self.shared.registry().crowd;
            crowd.handshaking = crowd.handshaking.saturating_sub(1);
            crowd.end(ticket);
        }
    }

    /// A connection came to be.
    pub(super) fn arrived(&self) {
        self.shared.registry().crowd.connections += 1;
    }

    /// A connection is no more.
    pub(super) fn left(&self) {
        let crowd = &mut self.shared.registry().crowd;
        crowd.connections = crowd.connections.saturating_sub(1);
    }

    /// The next that waits; it counts as under way, or as over, from now on.
    fn next(&mut self, under_way: bool) -> Option<(SocketId, Incoming, Ticket)> {
        let (socket, incoming, ticket) = self.waiting.pop_front()?;
        let crowd = &mut self.shared.registry().crowd;
        crowd.end_wait();
        if under_way {
            crowd.handshaking += 1;
            self.handshaking += 1;
        } else {
            crowd.end(ticket);
        }
        Some((socket, incoming, ticket))
    }
}

impl Endpoint {
    /// A first packet: refused at a limit, answered with a Retry under load, else queued.
    pub(super) fn on_incoming(
        &mut self,
        now: Instant,
        socket: SocketId,
        incoming: Incoming,
        size: usize,
    ) {
        let ticket = Ticket {
            source: paying_prefix(incoming.remote_address()),
            proven: incoming.remote_address_validated(),
            wide: size >= usize::from(self.profile.max_mtu),
        };
        // Judged and counted in one: two shards never both take the last place.
        let busy = self.budget.is_busy();
        let verdict = {
            let crowd = &mut self.admission.shared.registry().crowd;
            let verdict = match crowd.judge(&self.limits, ticket, busy) {
                Verdict::Retry | Verdict::Queue if self.shutdown.is_some() => Verdict::Refuse,
                verdict => verdict,
            };
            if matches!(verdict, Verdict::Queue) {
                crowd.begin(ticket);
            }
            verdict
        };
        match verdict {
            Verdict::Ignore => {
                self.fwd.counters.drop(DropReason::HandshakeLimit, 1);
                self.quic.ignore(incoming);
            }
            Verdict::Refuse => self.refuse_incoming(socket, incoming),
            Verdict::Retry => {
                let mut buf = Vec::new();
                match self.quic.retry(incoming, &mut buf) {
                    Ok(transmit) => {
                        self.budget.spend_unproven(Budget::ANSWER);
                        self.fwd.counters.retries += 1;
                        self.respond(socket, transmit, buf);
                    }
                    Err(refused) => {
                        self.fwd.counters.drop(DropReason::HandshakeLimit, 1);
                        self.quic.ignore(refused.into_incoming());
                    }
                }
            }
            Verdict::Queue => {
                self.admission.waiting.push_back((socket, incoming, ticket));
                self.accept_waiting(now);
            }
        }
    }

    /// Accepts what the turn's budget allows.
    pub(super) fn accept_waiting(&mut self, now: Instant) {
        // With a budget of none, those that wait would wait for ever, and be due all the time.
        while self.admission.accepted_this_turn < self.limits.handshakes_per_turn.max(1)
            && self.budget.allows()
        {
            let Some((socket, incoming, ticket)) = self.admission.next(true) else {
                return;
            };
            self.admission.accepted_this_turn += 1;
            self.accept(now, socket, incoming, ticket);
        }
    }

    /// Refuses all that wait: nobody is let in any more.
    pub(super) fn refuse_waiting(&mut self) {
        while let Some((socket, incoming, _)) = self.admission.next(false) {
            self.refuse_incoming(socket, incoming);
        }
    }

    fn refuse_incoming(&mut self, socket: SocketId, incoming: Incoming) {
        match incoming.remote_address_validated() {
            true => self.budget.spend(Budget::ANSWER),
            false => self.budget.spend_unproven(Budget::ANSWER),
        }
        self.fwd.counters.refused += 1;
        let mut buf = Vec::new();
        let transmit = self.quic.refuse(incoming, &mut buf);
        self.respond(socket, transmit, buf);
    }

    fn accept(&mut self, now: Instant, socket: SocketId, incoming: Incoming, ticket: Ticket) {
        let remote = incoming.remote_address();
        let mut buf = Vec::new();
        let config = self.wide_server.clone().filter(|_| ticket.wide);
        match self.quic.accept(incoming, now, &mut buf, config) {
            Ok((handle, connection)) => {
                match ticket.proven {
                    true => self.budget.spend(Budget::FIRST_FLIGHT),
                    false => self.budget.spend_unproven(Budget::FIRST_FLIGHT),
                }
                self.fwd.counters.handshakes += 1;
                self.adopt_server(handle, connection, socket, remote, ticket);
                self.drive(now, handle.0);
            }
            Err(error) => {
                self.admission.done(Some(ticket));
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
        while let Some((_, incoming, _)) = self.admission.next(false) {
            self.quic.ignore(incoming);
        }
        // The other shards go on, and count what is left.
        for mut conn in std::mem::take(&mut self.conns).into_iter().flatten() {
            self.admission.done(conn.pays.take());
            self.tell_closed(&mut conn, CloseReason::Local);
            self.admission.left();
        }
    }
}

/// Whether a datagram asks for something and proves nothing: the first packet of a handshake without a
/// token, or one of another version of QUIC. Anybody can make as many as they like, under any address, so under load an adapter
/// lets them wait apart from what strangers send otherwise, and hands them over while
/// [`Endpoint::takes_unproven`]. A token is taken for one, whatever is in it (RFC 9000 §17.2.2).
#[must_use]
pub fn is_unproven(datagram: &[u8]) -> bool {
    let Some((&[first, a, b, c, d], rest)) = datagram.split_first_chunk() else {
        return false;
    };
    if first & 0x80 == 0 {
        return false;
    }
    if [a, b, c, d] != [0, 0, 0, 1] {
        return true;
    }
    // A long header of version 1: two connection IDs with their lengths, and of an Initial the token's length.
    let after_id = |from: usize| Some(from + 1 + usize::from(*rest.get(from)?));
    let token = after_id(0).and_then(after_id).and_then(|at| rest.get(at..));
    let length = token.and_then(VarInt::decode);
    first & 0x30 == 0 && length.is_none_or(|(length, _)| length.into_inner() == 0)
}

/// Who pays for a handshake: IPv4 /24, IPv6 /56.
fn paying_prefix(remote: SocketAddr) -> IpPrefix {
    let (address, length) = match remote.ip().to_canonical() {
        IpAddr::V4(v4) => (IpAddr::V4((u32::from(v4) & 0xffff_ff00).into()), 24),
        IpAddr::V6(v6) => (IpAddr::V6((u128::from(v6) >> 72 << 72).into()), 56),
    };
    IpPrefix::new(address, length).unwrap_or_else(|_| IpPrefix::host(address))
}
