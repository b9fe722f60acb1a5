//! The queue in front of one tunnel: FQ-CoDel (RFC 8290), as pure as the rest.
//!
//! Each flow inside the tunnel has a queue of its own, and CoDel (RFC 8289) keeps each of them short:
//! a flow that builds a standing queue loses (or has marked, where it speaks ECN) one packet at a
//! time, and a flow that sends little is served at once, whatever the others do. Memory grows with
//! what is queued; an idle tunnel has no flows.
//!
//! | state of a flow | list | becomes |
//! |---|---|---|
//! | new: has just begun to queue | `fresh` | established when its quantum is used up or it is empty |
//! | established | `established` | gone when it is empty at its turn |

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::wire::ip;

/// How long packets may wait on the average: a part of so many round trips as the interval has (RFC 8289 §4.4).
const TARGET_PART: u32 = 10;
/// But no less: what that RFC takes for paths of any kind. More would also stand in a queue on a fast path, and
/// its packets would have left the processor's cache when their turn comes.
const TARGET: Duration = Duration::from_millis(5);
/// For how long they may wait longer than that before one is dropped, at least: a round trip of the slowest
/// paths that are common (RFC 8289 §4.4).
const INTERVAL: Duration = Duration::from_millis(100);
/// The same in round trips of the path: flows inside cannot answer a drop in less than one and their own queue's
/// wait.
const ROUND_TRIPS: u32 = 3;
/// Twice as many where of a thousand packets the path itself loses so many: there it is the path that teaches
/// flows, within a few round trips, and each drop too many costs them dear.
const LOSSY: u32 = 5;
/// And at most, however long a path is.
const MAX_INTERVAL: Duration = Duration::from_secs(2);
/// A flow with no more than this queued is never dropped from: one packet is no queue.
const FLOOR: usize = 1600;
/// After so long without a packet a tunnel gives its memory back.
const IDLE: Duration = Duration::from_secs(1);
/// What has waited for longer has waited through a gap of the network, and most of it is of no use to
/// anybody any more.
const STALE: Duration = Duration::from_secs(1);
/// So many of the newest packets of a flow outlast a gap: what TCP repeats when it hears nothing.
const KEPT: usize = 2;
/// A turn is no shorter: less than a packet would only mean more rounds (RFC 8290 §5.2.4).
const PACKET: isize = 1514;
/// So many turns may be borrowed for the rest of a super-packet: half a super-packet of 64 KiB, a turn, is enough
/// to send it whole.
const BORROWED: isize = 2;
/// Over how many queues flows are spread.
const BUCKETS: u32 = 1024;

/// Datagrams waiting for QUIC to take them.
#[derive(Debug, Default)]
pub(super) struct TunnelQueue {
    flows: Vec<Flow>,
    free: Vec<usize>,
    by_bucket: BTreeMap<u32, usize>,
    fresh: VecDeque<usize>,
    established: VecDeque<usize>,
    /// Datagrams handed back: they leave first, and are not judged again.
    front: VecDeque<Bytes>,
    /// Too large for what the path is known to carry so far.
    parked: VecDeque<Bytes>,
    bytes: usize,
    datagrams: usize,
    last: Option<Instant>,
    losses: Losses,
    patience: Patience,
}

/// How long packets may wait: the target on the average, the interval at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Patience {
    target: Duration,
    interval: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self::on_a_path_of(Duration::ZERO, 0)
    }
}

impl Patience {
    fn on_a_path_of(round_trip: Duration, lost_per_thousand: u32) -> Self {
        let parts = ROUND_TRIPS * (LOSSY + lost_per_thousand.min(LOSSY));
        let span = (round_trip * parts / LOSSY).min(MAX_INTERVAL);
        Self {
            target: (span / TARGET_PART).max(TARGET),
            interval: span.max(INTERVAL),
        }
    }
}

/// What a queue did to packets since it was last asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Losses {
    /// Dropped because their flow's queue stood for too long.
    pub(super) dropped: u64,
    /// Marked instead, because their flow speaks ECN.
    pub(super) marked: u64,
}

#[derive(Debug)]
struct Flow {
    bucket: u32,
    waiting: VecDeque<Train>,
    bytes: usize,
    /// Of datagrams.
    count: usize,
    credit: isize,
    /// More of the super-packet that the last datagram was of waits.
    has_begun: bool,
    codel: CoDel,
}

/// What one packet or super-packet became.
#[derive(Debug)]
struct Train {
    since: Instant,
    /// Never empty while it waits.
    datagrams: Bytes,
    /// The length of each but the last.
    stride: usize,
}

/// CoDel's state (RFC 8289 §5).
#[derive(Clone, Copy, Debug, Default)]
struct CoDel {
    /// When a packet may be dropped, if the wait stays above the target until then.
    first_above: Option<Instant>,
    /// The next drop, while dropping.
    drop_next: Option<Instant>,
    dropping: bool,
    count: u32,
    last_count: u32,
}

impl TunnelQueue {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.datagrams
    }

    /// Says how long a round trip over the path takes: flows inside cannot answer a drop any sooner, and what
    /// is dropped before they can is dropped for nothing. And how many of a thousand packets the path loses.
    pub(super) fn expect(&mut self, round_trip: Duration, lost_per_thousand: u32) {
        self.patience = Patience::on_a_path_of(round_trip, lost_per_thousand);
    }

    /// Whether there are losses to be taken.
    #[inline]
    pub(super) fn has_losses(&self) -> bool {
        self.losses.dropped + self.losses.marked > 0
    }

    /// Takes the losses counted since the last call.
    pub(super) fn take_losses(&mut self) -> Losses {
        std::mem::take(&mut self.losses)
    }

    /// Queues what one packet or super-packet of a flow became: datagrams of `stride` bytes behind each other, of
    /// which the last may be shorter.
    pub(super) fn push(&mut self, now: Instant, flow: u32, datagrams: Bytes, stride: usize) {
        if datagrams.is_empty() {
            return;
        }
        let slot = self.slot(flow % BUCKETS);
        let flow = &mut self.flows[slot];
        let train = Train {
            since: now,
            stride: stride.clamp(1, datagrams.len()),
            datagrams,
        };
        let count = train.count();
        self.last = Some(now);
        self.bytes += train.datagrams.len();
        self.datagrams += count;
        flow.bytes += train.datagrams.len();
        flow.count += count;
        flow.waiting.push_back(train);
    }

    /// Puts a datagram back in front of all others.
    pub(super) fn push_front(&mut self, datagram: Bytes) {
        self.bytes += datagram.len();
        self.datagrams += 1;
        self.front.push_front(datagram);
    }

    /// Sets a datagram aside until [`Self::unpark`].
    pub(super) fn park(&mut self, datagram: Bytes) {
        self.bytes += datagram.len();
        self.datagrams += 1;
        self.parked.push_back(datagram);
    }

    /// Whether there is a datagram set aside that is no longer than `largest`.
    pub(super) fn has_parked(&self, largest: usize) -> bool {
        self.parked.iter().any(|datagram| datagram.len() <= largest)
    }

    /// What was set aside and is no longer than `largest` leaves next, in its order.
    pub(super) fn unpark(&mut self, largest: usize) {
        let (fitting, parked) = std::mem::take(&mut self.parked)
            .into_iter()
            .partition::<VecDeque<_>, _>(|datagram| datagram.len() <= largest);
        self.parked = parked;
        for datagram in fitting.into_iter().rev() {
            self.front.push_front(datagram);
        }
    }

    /// The network is back after a gap, or another. Of what has waited too long each flow keeps its newest
    /// packets, and those leave first; that the queue stood is nobody's fault. Gives how many were dropped.
    pub(super) fn freshen(&mut self, now: Instant) -> u64 {
        let mut dropped = 0;
        for slot in self.fresh.iter().chain(&self.established) {
            let flow = &mut self.flows[*slot];
            flow.codel = CoDel::default();
            let is_stale = |since| now.saturating_duration_since(since) > STALE;
            let mut was_stale = false;
            while flow
                .waiting
                .front()
                .is_some_and(|train| is_stale(train.since))
            {
                was_stale = true;
                if flow.count <= KEPT {
                    break;
                }
                let Some((_, datagram)) = flow.first() else {
                    break;
                };
                self.bytes -= datagram.len();
                self.datagrams -= 1;
                dropped += 1;
            }
            if was_stale && flow.count <= KEPT {
                let kept = std::iter::from_fn(|| flow.first());
                self.front.extend(kept.map(|(_, datagram)| datagram));
            }
        }
        dropped
    }

    /// Takes over what waits in another queue, behind what waits here.
    pub(super) fn append(&mut self, other: Self) {
        self.bytes += other
            .front
            .iter()
            .chain(&other.parked)
            .map(Bytes::len)
            .sum::<usize>();
        self.datagrams += other.front.len() + other.parked.len();
        self.front.extend(other.front);
        self.parked.extend(other.parked);
        self.losses.dropped += other.losses.dropped;
        self.losses.marked += other.losses.marked;
        for flow in other.flows {
            for train in flow.waiting {
                self.push(train.since, flow.bucket, train.datagrams, train.stride);
            }
        }
    }

    /// Puts `new` in the place of the first `old` bytes of every datagram.
    pub(super) fn change_prefix(&mut self, old: usize, new: &[u8]) {
        let changed = |datagrams: &Bytes, stride: usize| {
            let mut copy = BytesMut::with_capacity(datagrams.len());
            for datagram in datagrams.chunks(stride.max(1)) {
                copy.extend_from_slice(new);
                copy.extend_from_slice(datagram.get(old..).unwrap_or_default());
            }
            copy.freeze()
        };
        for datagram in self.front.iter_mut().chain(&mut self.parked) {
            *datagram = changed(datagram, datagram.len());
        }
        for flow in &mut self.flows {
            for train in &mut flow.waiting {
                train.datagrams = changed(&train.datagrams, train.stride);
                train.stride = train.stride.saturating_sub(old) + new.len();
            }
            flow.bytes = flow.waiting.iter().map(|it| it.datagrams.len()).sum();
        }
        let outside = self.front.iter().chain(&self.parked).map(Bytes::len);
        self.bytes =
            outside.sum::<usize>() + self.flows.iter().map(|flow| flow.bytes).sum::<usize>();
    }

    /// The next datagram. `prefix` bytes stand before the IP packet in each; a flow may send `quantum`
    /// bytes in its turn, and where that is more than a packet also the rest of the super-packet it has begun, at
    /// the cost of its next turns: what left one device together comes to the other in one piece.
    pub(super) fn pop(&mut self, now: Instant, prefix: usize, quantum: usize) -> Option<Bytes> {
        let quantum = isize::try_from(quantum).unwrap_or(isize::MAX).max(PACKET);
        if let Some(datagram) = self.front.pop_front() {
            self.bytes -= datagram.len();
            self.datagrams -= 1;
            return Some(datagram);
        }
        loop {
            let is_fresh = !self.fresh.is_empty();
            let list = if is_fresh {
                &mut self.fresh
            } else {
                &mut self.established
            };
            let slot = *list.front()?;
            let flow = &mut self.flows[slot];
            // A new flow begins with a whole turn; a quantum that has shrunk since holds for all.
            flow.credit = flow.credit.min(quantum);
            let owed = if flow.has_begun {
                BORROWED * (PACKET - quantum)
            } else {
                0
            };
            if flow.credit <= owed {
                flow.has_begun = false;
                flow.credit += quantum;
                list.pop_front();
                self.established.push_back(slot);
                continue;
            }
            let (before, count) = (flow.bytes, flow.count);
            let datagram = flow.next(now, prefix, self.patience, &mut self.losses);
            self.bytes -= before - flow.bytes;
            self.datagrams -= count - flow.count;
            if let Some(datagram) = datagram {
                flow.credit -= isize::try_from(datagram.len()).unwrap_or(isize::MAX);
                return Some(datagram);
            }
            list.pop_front();
            // An empty new flow waits a turn among the others: else a flow that sends one packet at a
            // time would always come first.
            if is_fresh && !self.established.is_empty() {
                self.established.push_back(slot);
            } else {
                self.forget(slot);
            }
        }
    }

    /// Gives memory back when nothing has come for a while: idle tunnels are many.
    pub(super) fn rest(&mut self, now: Instant) {
        let idle = |last| now.saturating_duration_since(last) >= IDLE;
        if self.datagrams == 0 && self.last.is_some_and(idle) {
            let (losses, patience) = (self.losses, self.patience);
            *self = Self {
                losses,
                patience,
                ..Self::default()
            };
        }
    }

    /// Whether a flow queues as much as flows do on the average, or more.
    pub(super) fn has_its_share(&self, flow: u32) -> bool {
        let slot = self.by_bucket.get(&(flow % BUCKETS));
        let queued = slot.map_or(0, |&slot| self.flows[slot].bytes);
        queued > 0 && queued * self.by_bucket.len() >= self.bytes
    }

    /// Makes room at the cost of the flow that uses most: drops from its head up to half of what it
    /// has, at most 64 datagrams at once (RFC 8290 §4.1). Gives how many were dropped; 0 if none are left.
    pub(super) fn shed(&mut self) -> u64 {
        let lists = self.fresh.iter().chain(&self.established);
        let Some(fattest) = lists.copied().max_by_key(|&slot| self.flows[slot].bytes) else {
            return 0;
        };
        let flow = &mut self.flows[fattest];
        let goal = flow.bytes / 2;
        let mut dropped = 0;
        while dropped < 64 && flow.bytes > goal {
            let Some((_, datagram)) = flow.first() else {
                break;
            };
            self.bytes -= datagram.len();
            self.datagrams -= 1;
            dropped += 1;
        }
        dropped
    }

    fn slot(&mut self, bucket: u32) -> usize {
        if let Some(&slot) = self.by_bucket.get(&bucket) {
            return slot;
        }
        let slot = self.free.pop().unwrap_or(self.flows.len());
        match self.flows.get_mut(slot) {
            Some(flow) => flow.renew(bucket),
            None => self.flows.push(Flow::new(bucket)),
        }
        self.by_bucket.insert(bucket, slot);
        self.fresh.push_back(slot);
        slot
    }

    fn forget(&mut self, slot: usize) {
        self.by_bucket.remove(&self.flows[slot].bucket);
        self.free.push(slot);
        if self.by_bucket.is_empty() {
            // One flow's buffer is kept for the next packet; a burst of many flows leaves nothing behind.
            self.flows.truncate(1);
            self.free.retain(|&slot| slot == 0);
        }
    }
}

impl Flow {
    fn new(bucket: u32) -> Self {
        Self {
            bucket,
            waiting: VecDeque::new(),
            bytes: 0,
            count: 0,
            credit: isize::MAX,
            has_begun: false,
            codel: CoDel::default(),
        }
    }

    fn renew(&mut self, bucket: u32) {
        self.bucket = bucket;
        self.credit = isize::MAX;
        self.has_begun = false;
        self.codel = CoDel::default();
    }

    /// The next datagram after CoDel's judgement.
    fn next(
        &mut self,
        now: Instant,
        prefix: usize,
        patience: Patience,
        losses: &mut Losses,
    ) -> Option<Bytes> {
        let interval = patience.interval;
        let (mut datagram, mut late) = self.take(now, patience)?;
        if self.codel.dropping {
            self.codel.dropping = late;
            while self.codel.dropping && self.codel.drop_next.is_some_and(|next| next <= now) {
                self.codel.count = self.codel.count.saturating_add(1);
                let spacing = self.codel.spacing(interval);
                self.codel.drop_next = self.codel.drop_next.map(|next| next + spacing);
                if let Some(marked) = mark(&datagram, prefix) {
                    losses.marked += 1;
                    return Some(marked);
                }
                losses.dropped += 1;
                let Some(next) = self.take(now, patience) else {
                    self.codel.dropping = false;
                    return None;
                };
                (datagram, late) = next;
                self.codel.dropping = late;
            }
        } else if late {
            self.codel.begin(now, interval);
            if let Some(marked) = mark(&datagram, prefix) {
                losses.marked += 1;
                return Some(marked);
            }
            losses.dropped += 1;
            (datagram, _) = self.take(now, patience)?;
        }
        Some(datagram)
    }

    /// The first datagram, and since when it has waited.
    fn first(&mut self) -> Option<(Instant, Bytes)> {
        let train = self.waiting.front_mut()?;
        let since = train.since;
        self.has_begun = train.datagrams.len() > train.stride;
        let datagram = if self.has_begun {
            train.datagrams.split_to(train.stride)
        } else {
            self.waiting.pop_front()?.datagrams
        };
        self.bytes -= datagram.len();
        self.count -= 1;
        Some((since, datagram))
    }

    /// The first datagram, and whether it may be dropped: the queue has stood too long.
    fn take(&mut self, now: Instant, patience: Patience) -> Option<(Bytes, bool)> {
        let Some((since, datagram)) = self.first() else {
            self.codel.first_above = None;
            return None;
        };
        if self.bytes <= FLOOR || now.saturating_duration_since(since) < patience.target {
            self.codel.first_above = None;
            return Some((datagram, false));
        }
        let first_above = *self
            .codel
            .first_above
            .get_or_insert(now + patience.interval);
        Some((datagram, now >= first_above))
    }
}

impl Train {
    fn count(&self) -> usize {
        self.datagrams.len().div_ceil(self.stride)
    }
}

impl CoDel {
    /// Starts dropping; soon after the last time it goes on at the rate it had reached.
    fn begin(&mut self, now: Instant, interval: Duration) {
        let recently = self
            .drop_next
            .is_some_and(|next| now.saturating_duration_since(next) < 16 * interval);
        let reached = self.count.saturating_sub(self.last_count);
        self.count = if recently && reached > 1 { reached } else { 1 };
        self.last_count = self.count;
        self.dropping = true;
        self.drop_next = Some(now + self.spacing(interval));
    }

    /// The time between two drops: the interval over the square root of their number.
    fn spacing(&self, interval: Duration) -> Duration {
        interval.div_f64(f64::from(self.count.max(1)).sqrt())
    }
}

/// A copy of the datagram whose IP packet says "congestion experienced" (RFC 3168 §5), if its sender
/// speaks ECN.
fn mark(datagram: &Bytes, prefix: usize) -> Option<Bytes> {
    let packet = datagram.get(prefix..)?;
    if !ip::is_ecn_capable(packet) {
        return None;
    }
    let mut copy = BytesMut::from(&datagram[..]);
    ip::mark_congestion(copy.get_mut(prefix..)?);
    Some(copy.freeze())
}

#[cfg(test)]
mod tests;
