//! Whose turn it is: who sends next, and who is a stranger.
//!
//! No connection may have more of the endpoint's time than another that wants as much. A connection
//! is a *stranger* until its handshake is complete; all strangers together are served like one
//! connection, so that a storm of handshakes costs those that have a tunnel no more than another
//! tunnel would.
//!
//! | what is shared | how |
//! |---|---|
//! | time for handshakes | a quarter of what tunnels take, and all that they leave ([`Budget`]) |
//! | of it, for first packets that prove nothing | a twentieth of what tunnels take, and all that they leave |
//! | sending | deficit round robin over connections ([`QUANTUM`]), which pay for what devices bring them as well; a stranger, or a stateless answer, after each turn of theirs |
//! | room in the queues | `Forwarding::make_room`: each tunnel may hold what all leave free |

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Instant;

use quinn_proto::ConnectionHandle;

use super::conn::Conn;
use super::{DropReason, Endpoint, MAX_UDP, Transmit, ours};
use crate::wire::stream::Role;

/// What a connection may send in its turn: some short batches. A full one with GSO is more, and costs it
/// the turns that follow; on a slow link turns of its size would make the others wait for long.
const QUANTUM: isize = 32 << 10;
/// What a connection may owe at most.
const DEBT: isize = 6 << 20;
/// What a datagram costs beside its bytes: a small one takes more than half the time of a large one.
const PER_DATAGRAM: usize = 1000;
/// What a packet or super-packet from a device costs beside its bytes and its segments.
const PER_READ: usize = 4000;

/// What handshakes may take at once when nothing else is done: little more than one.
const MOST: i64 = 600_000;
/// A turn with less work than this leaves time for handshakes, in nanoseconds.
const IDLE: u64 = 50_000;

/// How much time handshakes may take, in nanoseconds by rough figures: what matters is the proportion.
///
/// Work on tunnels earns a quarter of itself, so that a storm takes a fifth of a busy server; a turn
/// almost without work gives all there is. What anybody can send under any address, and as much of it as
/// they like, gets a twentieth, so that a flood is hardly noticed; whoever has proven an address, or is
/// in the middle of a handshake, does not share in that.
#[derive(Debug)]
pub(super) struct Budget {
    left: i64,
    /// Of that, for first packets that prove nothing.
    unproven: i64,
    work: u64,
    busy: bool,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            left: MOST,
            unproven: MOST,
            work: 0,
            busy: false,
        }
    }
}

impl Budget {
    /// A flight that costs a key exchange and a signature.
    pub(super) const FIRST_FLIGHT: i64 = 500_000;
    /// One that costs the verification of a certificate.
    pub(super) const LAST_FLIGHT: i64 = 300_000;
    /// An answer without a connection to a first packet, which has to be decrypted.
    pub(super) const ANSWER: i64 = 12_000;
    /// Any other answer without a connection.
    pub(super) const STATELESS: i64 = 5_000;

    pub(super) fn allows(&self) -> bool {
        self.left > 0
    }

    fn allows_unproven(&self) -> bool {
        self.allows() && self.unproven > 0
    }

    /// Whether tunnels had work in the last turn.
    pub(super) fn is_busy(&self) -> bool {
        self.busy
    }

    pub(super) fn spend(&mut self, nanos: i64) {
        self.left = self.left.saturating_sub(nanos);
    }

    /// For a source that has proven nothing.
    pub(super) fn spend_unproven(&mut self, nanos: i64) {
        self.spend(nanos);
        self.unproven = self.unproven.saturating_sub(nanos);
    }

    /// A turn has ended; `work` is all that was ever done for tunnels.
    fn turn(&mut self, work: u64) {
        let done = work.saturating_sub(std::mem::replace(&mut self.work, work));
        self.busy = done >= IDLE;
        let done = i64::try_from(done).unwrap_or(MOST);
        let more = |left: i64, earned| match self.busy {
            true => left.saturating_add(earned).min(MOST),
            false => MOST,
        };
        self.left = more(self.left, done / 4);
        self.unproven = more(self.unproven, done / 20);
    }
}

/// Who waits for what.
#[derive(Default)]
pub(super) struct Turns {
    /// Connections that may have something to send.
    clients: VecDeque<usize>,
    /// The same, while their handshake lasts.
    strangers: VecDeque<usize>,
    strangers_next: bool,
    /// How many connections whose handshake is complete have this remote address.
    known: BTreeMap<SocketAddr, usize>,
}

impl Turns {
    pub(super) fn is_empty(&self) -> bool {
        self.clients.is_empty() && self.strangers.is_empty()
    }

    /// A connection may have something to send.
    pub(super) fn wake(&mut self, at: usize, conn: &mut Conn) {
        if !std::mem::replace(&mut conn.in_ring, true) {
            match conn.known.is_some() || conn.role == Role::Client {
                true => self.clients.push_back(at),
                false => self.strangers.push_back(at),
            }
        }
    }

    /// A connection is at this address now, its handshake complete; or it is gone.
    pub(super) fn know(&mut self, conn: &mut Conn, remote: Option<SocketAddr>) {
        if conn.known == remote {
            return;
        }
        if let Some(old) = std::mem::replace(&mut conn.known, remote)
            && let Some(count) = self.known.get_mut(&old)
        {
            *count -= 1;
            if *count == 0 {
                self.known.remove(&old);
            }
        }
        if let Some(new) = remote {
            *self.known.entry(new).or_default() += 1;
        }
    }
}

impl Conn {
    /// Taking a packet or super-packet in takes time, too, whether it is sent in the end or not: who
    /// has more of it sends later.
    pub(super) fn pay_for_entry(&mut self, length: usize) {
        let cost = length + PER_DATAGRAM * (length / 1400 + 1) + PER_READ;
        let cost = isize::try_from(cost).unwrap_or(isize::MAX);
        self.credit = self.credit.saturating_sub(cost).max(-DEBT);
    }
}

impl Endpoint {
    /// Whether a connection with a complete handshake has this remote address.
    ///
    /// An adapter under load serves what comes from there before what strangers send. The address
    /// is not proof: whoever can forge it shares in what its owner is given, and no more.
    #[must_use]
    pub fn is_known(&self, remote: SocketAddr) -> bool {
        self.turns.known.contains_key(&remote)
    }

    /// Whether there is time for datagrams of strangers: each may be a step of a handshake, and takes
    /// as long as hundreds of packets. An adapter that has other datagrams to hand over as well asks
    /// before each of theirs; those it does not hand over in this turn wait.
    #[must_use]
    pub fn takes_strangers(&self) -> bool {
        self.budget.allows()
    }

    /// Whether there is time for a datagram that [`is_unproven`](super::is_unproven) as well: the answer to it
    /// is worth less to everybody than what [`Endpoint::takes_strangers`] is about.
    #[must_use]
    pub fn takes_unproven(&self) -> bool {
        self.budget.allows_unproven()
    }

    /// A new turn begins.
    pub(super) fn new_turn(&mut self) {
        self.admission.new_turn();
        let counters = &self.fwd.counters;
        let datagrams = counters.udp_received + counters.udp_sent;
        let packets = counters.packets_in + counters.packets_out + counters.packets_across;
        self.budget.turn(datagrams * 900 + packets * 600);
    }

    /// The next datagrams: of connections in turns, and of a stranger after each of them.
    pub(super) fn next_transmit(
        &mut self,
        now: Instant,
        max_segments: NonZeroUsize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        if std::mem::take(&mut self.turns.strangers_next)
            && let Some(transmit) = self.transmit_to_stranger(now, max_segments, buf)
        {
            return Some(transmit);
        }
        if let Some(transmit) = self.transmit_to_client(now, max_segments, buf) {
            self.turns.strangers_next = true;
            return Some(transmit);
        }
        self.transmit_to_stranger(now, max_segments, buf)
    }

    fn transmit_to_client(
        &mut self,
        now: Instant,
        max_segments: NonZeroUsize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        while let Some(&at) = self.turns.clients.front() {
            let conn = self.conns.get_mut(at).and_then(Option::as_mut);
            if let Some(conn) = conn.filter(|conn| conn.credit <= 0) {
                conn.credit += QUANTUM;
                self.turns.clients.rotate_left(1);
                continue;
            }
            self.turns.clients.pop_front();
            let transmit = self.transmit_of(at, now, max_segments, buf);
            if let Some(conn) = self.conns.get_mut(at).and_then(Option::as_mut) {
                match &transmit {
                    Some(transmit) => {
                        let count = match transmit.segment_size {
                            Some(size) => transmit.size.div_ceil(size),
                            None => 1,
                        };
                        let cost = transmit.size + PER_DATAGRAM * count;
                        conn.credit -= isize::try_from(cost).unwrap_or(isize::MAX);
                        conn.in_ring = true;
                        self.turns.clients.push_front(at);
                    }
                    // What it owes it keeps owing: others that wait come first, and nobody else does.
                    None => conn.credit = conn.credit.min(QUANTUM),
                }
            }
            // A path that shrank may have brought errors for other tunnels.
            self.deliver_across(now);
            if transmit.is_some() {
                return transmit;
            }
        }
        None
    }

    fn transmit_to_stranger(
        &mut self,
        now: Instant,
        max_segments: NonZeroUsize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        if let Some((transmit, bytes)) = self.responses.pop_front() {
            buf.extend_from_slice(&bytes);
            return Some(self.sent(None, transmit));
        }
        while let Some(at) = self.turns.strangers.pop_front() {
            let transmit = self.transmit_of(at, now, max_segments, buf);
            let conn = self.conns.get_mut(at).and_then(Option::as_mut);
            if let Some(conn) = conn.filter(|_| transmit.is_some()) {
                self.turns.wake(at, conn);
            }
            self.deliver_across(now);
            if transmit.is_some() {
                return transmit;
            }
        }
        None
    }

    /// What one connection sends next; it is in no list any more.
    fn transmit_of(
        &mut self,
        at: usize,
        now: Instant,
        max_segments: NonZeroUsize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        let mut conn = self.conns.get_mut(at).and_then(Option::take)?;
        conn.in_ring = false;
        self.feed(now, &mut conn);
        let fits = MAX_UDP / usize::from(conn.bridge.path_mtu());
        let segments = max_segments.get().min(fits).max(1);
        let begin = buf.len();
        let transmit = loop {
            let transmit = conn.bridge.poll_transmit(now, segments, buf);
            let Some(sent) = &transmit else { break None };
            let peer = conn.bridge.remote();
            if conn.beside.allows(peer, sent.destination, sent.size) {
                break transmit;
            }
            buf.truncate(begin);
            self.fwd.counters.drop(DropReason::Unproven, 1);
        };
        if transmit.is_none() {
            conn.bridge.exchange(ConnectionHandle(at), &mut self.quic);
        }
        let (socket, id) = (conn.socket, conn.id);
        let shows = conn.client.as_ref().map_or(0, |client| client.shows());
        self.put_back(at, conn);
        let mut transmit = ours(transmit?, socket);
        if transmit.size < shows && transmit.segment_size.is_none() {
            // What follows the last packet of a datagram is no packet (RFC 9000 §12.2): it is ignored.
            buf.resize(buf.len() + shows - transmit.size, 0);
            transmit.size = shows;
        }
        if self.profile.congestion.is_relaxed() {
            transmit.ecn = None;
        }
        Some(self.sent(Some(id), transmit))
    }
}
