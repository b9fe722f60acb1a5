//! Received datagrams that wait, so that one source cannot take the time of another.
//!
//! While the endpoint keeps up, what comes from known sources goes straight through in the order it
//! came. Once there is more than a turn may take, the socket is emptied into queues (its buffer is one
//! for all, and what a flood fills the others lose), one for each known source, and these are served
//! in turns (deficit round robin; a source that has just begun first, as in RFC 8290). When the
//! queues are full the source that has most waiting loses half of it.
//!
//! Strangers wait in a place of their own, hashed by network, and are served last and few at a time:
//! each of their datagrams may be a handshake, which takes as long as hundreds of packets. First packets that
//! prove nothing, which cost a flood least, wait apart from what strangers send otherwise: so whoever has got an answer
//! is not behind those who never will. Of them the newest of a network comes first: an old one's sender has
//! asked again, or given up.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, VecDeque};
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};

use bytes::BytesMut;
use masque_core::endpoint::{RecvMeta, is_unproven};

/// What a datagram costs beside its bytes: a small one takes more than half the time of a large one.
const PER_DATAGRAM: usize = 1000;
/// What a frame for a device costs.
const PER_FRAME: usize = 6000;
/// What a source may use up in its turn.
const QUANTUM: isize = 128 << 10;
/// What waits of known sources at most.
const KNOWN: usize = 8 << 20;
/// Over so many queues strangers are spread.
const BUCKETS: u64 = 256;
/// What waits in each of them at most.
const BUCKET: usize = 32 << 10;

/// What a batch takes of the endpoint's time, as bytes.
pub(super) fn cost(stride: usize, length: usize) -> usize {
    length + PER_DATAGRAM * length.div_ceil(stride.max(1))
}

type Batch = (RecvMeta, BytesMut);

/// What waits.
#[derive(Default)]
pub(super) struct Ingress {
    known: BTreeMap<SocketAddr, Queue>,
    /// Sources that have just begun to wait.
    fresh: VecDeque<SocketAddr>,
    turns: VecDeque<SocketAddr>,
    cost: usize,
    strangers: Strangers,
    unproven: Strangers,
    /// Whose turn it is of these two.
    unproven_next: bool,
    hasher: RandomState,
    dropped: u64,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Batch>,
    cost: usize,
    credit: isize,
}

impl Queue {
    fn push(&mut self, batch: Batch) {
        self.cost += cost(batch.0.stride, batch.1.len());
        self.waiting.push_back(batch);
    }

    fn pop(&mut self) -> Option<Batch> {
        let batch = self.waiting.pop_front()?;
        self.cost -= cost(batch.0.stride, batch.1.len());
        Some(batch)
    }

    fn pop_newest(&mut self) -> Option<Batch> {
        let batch = self.waiting.pop_back()?;
        self.cost -= cost(batch.0.stride, batch.1.len());
        Some(batch)
    }
}

/// Sources without a connection, spread over [`BUCKETS`].
#[derive(Default)]
struct Strangers {
    queues: BTreeMap<u64, Queue>,
    turns: VecDeque<u64>,
}

impl Strangers {
    fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    fn queue(&mut self, bucket: u64) -> &mut Queue {
        let queue = self.queues.entry(bucket).or_default();
        if queue.waiting.is_empty() {
            self.turns.push_back(bucket);
        }
        queue
    }

    /// One datagram of the next bucket.
    fn pop(&mut self, newest: bool) -> Option<Batch> {
        let bucket = self.turns.pop_front()?;
        let queue = self.queues.get_mut(&bucket)?;
        let (meta, mut data) = match newest {
            true => queue.pop_newest()?,
            false => queue.pop()?,
        };
        let one = data.split_to(meta.stride.clamp(1, data.len().max(1)).min(data.len()));
        if !data.is_empty() {
            queue.cost += cost(meta.stride, data.len());
            match newest {
                true => queue.waiting.push_back((meta, data)),
                false => queue.waiting.push_front((meta, data)),
            }
        }
        if queue.waiting.is_empty() {
            self.queues.remove(&bucket);
        } else {
            self.turns.push_back(bucket);
        }
        Some((meta, one))
    }
}

impl Ingress {
    /// Whether nothing of known sources waits.
    pub(super) fn is_clear(&self) -> bool {
        self.known.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty() && self.strangers.is_empty() && self.unproven.is_empty()
    }

    /// Datagrams dropped since the last call.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// A batch of a known source waits for its turn.
    pub(super) fn push(&mut self, meta: RecvMeta, data: BytesMut) {
        let price = cost(meta.stride, data.len());
        while self.cost + price > KNOWN {
            self.shed();
        }
        let queue = self.known.entry(meta.remote).or_default();
        if queue.waiting.is_empty() {
            queue.credit = QUANTUM;
            self.fresh.push_back(meta.remote);
        }
        queue.push((meta, data));
        self.cost += price;
    }

    /// The next batch of a known source.
    pub(super) fn pop(&mut self) -> Option<Batch> {
        loop {
            let is_fresh = !self.fresh.is_empty();
            let list = if is_fresh {
                &mut self.fresh
            } else {
                &mut self.turns
            };
            let source = *list.front()?;
            let Some(queue) = self.known.get_mut(&source) else {
                list.pop_front();
                continue;
            };
            if queue.credit <= 0 {
                queue.credit += QUANTUM;
                list.pop_front();
                self.turns.push_back(source);
                continue;
            }
            if let Some(batch) = queue.pop() {
                let price = cost(batch.0.stride, batch.1.len());
                queue.credit -= isize::try_from(price).unwrap_or(isize::MAX);
                self.cost -= price;
                return Some(batch);
            }
            list.pop_front();
            // One turn among the others before it counts as new again.
            if is_fresh && !self.turns.is_empty() {
                self.turns.push_back(source);
            } else {
                self.known.remove(&source);
            }
        }
    }

    /// What a source sent made so many frames for a device; gives what they cost. A source whose
    /// packets cannot be merged takes more time than one whose packets can.
    pub(super) fn charge(&mut self, source: SocketAddr, frames: usize) -> usize {
        let price = frames.saturating_mul(PER_FRAME);
        if let Some(queue) = self.known.get_mut(&source) {
            queue.credit -= isize::try_from(price).unwrap_or(isize::MAX);
        }
        price
    }

    /// A batch of a stranger waits. If its network has enough waiting something of that is dropped: the oldest
    /// of what proves nothing, and otherwise the newest, as those that came before are steps before it.
    pub(super) fn push_stranger(&mut self, meta: RecvMeta, data: BytesMut) {
        let bucket = self.hasher.hash_one(network(meta.remote.ip())) % BUCKETS;
        let unproven = is_unproven(&data);
        let queue = match unproven {
            true => self.unproven.queue(bucket),
            false => self.strangers.queue(bucket),
        };
        let mut lost = None;
        if queue.cost > BUCKET {
            lost = match unproven {
                true => queue.pop(),
                false => {
                    self.dropped += count(&meta, &data);
                    return;
                }
            };
        }
        queue.push((meta, data));
        if let Some((meta, data)) = lost {
            self.dropped += count(&meta, &data);
        }
    }

    /// The next datagram of a stranger; one that proves nothing only if such are taken.
    pub(super) fn pop_stranger(&mut self, takes_unproven: bool) -> Option<Batch> {
        // In turns: a flood of the one kind is not to keep the other waiting.
        let first = takes_unproven && (self.unproven_next || self.strangers.is_empty());
        let batch = match first.then(|| self.unproven.pop(true)).flatten() {
            Some(batch) => {
                self.unproven_next = false;
                return Some(batch);
            }
            None => self.strangers.pop(false),
        };
        self.unproven_next = true;
        batch
    }

    /// Halves the longest queue, from its front: what is new says more than what is old.
    fn shed(&mut self) {
        let Some(queue) = self.known.values_mut().max_by_key(|queue| queue.cost) else {
            self.cost = 0;
            return;
        };
        let goal = queue.cost / 2;
        while queue.cost > goal {
            let before = queue.cost;
            let Some((meta, data)) = queue.pop() else {
                break;
            };
            self.cost -= before - queue.cost;
            self.dropped += count(&meta, &data);
        }
    }
}

/// Datagrams in a batch.
fn count(meta: &RecvMeta, data: &[u8]) -> u64 {
    data.len().div_ceil(meta.stride.max(1)) as u64
}

/// Who counts as one stranger: an IPv4 /24, an IPv6 /56.
fn network(ip: IpAddr) -> (bool, u64) {
    match ip {
        IpAddr::V4(v4) => (true, u64::from(u32::from(v4) >> 8)),
        IpAddr::V6(v6) => (false, (u128::from(v6) >> 72) as u64),
    }
}

#[cfg(test)]
mod tests;
