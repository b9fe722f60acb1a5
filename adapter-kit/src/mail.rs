//! Mail between the pumps of one server: what the kernel delivered to the wrong shard, and what one
//! shard's client sends to another's.
//!
//! Every shard has a [`PostBox`]. What is put into it is gathered until [`PostBox::deliver`], so that a
//! turn takes the lock of each destination once, however many parcels there are, and wakes it only
//! where nothing waited there before. A box is bounded: what does not fit comes back to its sender,
//! which counts it, as a router does with a full queue.

use std::collections::VecDeque;
use std::io;
use std::num::NonZeroU16;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

/// Something with a size, which one shard sends to another.
pub trait Parcel: Send {
    /// The bytes of memory it holds on to, about.
    fn bytes(&self) -> usize;
}

impl Parcel for masque_core::endpoint::Mail {
    fn bytes(&self) -> usize {
        Self::bytes(self)
    }
}

/// How much may wait for one shard. What it has already taken out, and not yet handled, is another such
/// amount at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MailLimits {
    /// Parcels.
    pub items: usize,
    /// Bytes; a single parcel may have more.
    pub bytes: usize,
}

impl Default for MailLimits {
    fn default() -> Self {
        Self {
            items: 4096,
            bytes: 4 << 20,
        }
    }
}

/// A box for each of `shards` pumps, in their order; each can send to all.
///
/// # Errors
/// No descriptors left.
pub fn post_office<M: Parcel>(
    shards: NonZeroU16,
    limits: MailLimits,
) -> io::Result<Vec<PostBox<M>>> {
    let slots = (0..shards.get())
        .map(|_| Slot::new(limits))
        .collect::<io::Result<Arc<[Slot<M>]>>>()?;
    let boxes = (0..slots.len()).map(|own| PostBox {
        own,
        outgoing: slots.iter().map(|_| Vec::new()).collect(),
        slots: Arc::clone(&slots),
        taken: VecDeque::new(),
        rung: true,
    });
    Ok(boxes.collect())
}

/// One shard's place in the post office: receives its own mail, sends to the others.
pub struct PostBox<M> {
    own: usize,
    slots: Arc<[Slot<M>]>,
    /// By destination; not yet delivered.
    outgoing: Vec<Vec<M>>,
    taken: VecDeque<M>,
    /// Something may wait that was not taken.
    rung: bool,
}

struct Slot<M> {
    waiting: Mutex<Waiting<M>>,
    limits: MailLimits,
    event: OwnedFd,
}

struct Waiting<M> {
    items: VecDeque<M>,
    bytes: usize,
    /// Its pump is gone.
    closed: bool,
}

impl<M: Parcel> PostBox<M> {
    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.slots.len()
    }

    /// Puts a parcel for shard `to` on the pile that goes out with [`PostBox::deliver`].
    ///
    /// # Errors
    /// Handed back if there is no such shard.
    pub fn put(&mut self, to: usize, parcel: M) -> Result<(), M> {
        match self.outgoing.get_mut(to) {
            Some(pile) => {
                pile.push(parcel);
                Ok(())
            }
            None => Err(parcel),
        }
    }

    /// Delivers what was put: in order, and each shard is woken at most once. `refused` gets what a full
    /// box, or one whose pump is gone, did not take. How many were taken.
    pub fn deliver(&mut self, mut refused: impl FnMut(M)) -> usize {
        let mut delivered = 0;
        for (slot, pile) in self.slots.iter().zip(&mut self.outgoing) {
            if !pile.is_empty() {
                delivered += slot.take_in(pile, &mut refused);
            }
        }
        delivered
    }

    /// Says that it is readable. Readiness may be told once only, at any time: it is remembered.
    pub fn ring(&mut self) {
        self.rung = true;
    }

    /// Whether [`PostBox::ring`] was called and what waits has not been taken since.
    #[must_use]
    pub fn is_rung(&self) -> bool {
        self.rung
    }

    /// The next parcel. It looks for new ones when the last batch is handled, if it has been rung for.
    pub fn take(&mut self) -> Option<M> {
        if self.taken.is_empty()
            && std::mem::take(&mut self.rung)
            && let Some(slot) = self.slots.get(self.own)
        {
            slot.hand_out(&mut self.taken);
        }
        self.taken.pop_front()
    }

    /// Whether [`PostBox::take`] may give something.
    #[must_use]
    pub fn has_mail(&self) -> bool {
        self.rung || !self.taken.is_empty()
    }
}

impl<M: Parcel> Slot<M> {
    fn new(limits: MailLimits) -> io::Result<Self> {
        Ok(Self {
            waiting: Mutex::new(Waiting {
                items: VecDeque::new(),
                bytes: 0,
                closed: false,
            }),
            limits,
            event: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
        })
    }

    fn take_in(&self, pile: &mut Vec<M>, refused: &mut impl FnMut(M)) -> usize {
        let mut parcels = pile.drain(..);
        let mut taken = 0;
        let mut too_much = None;
        let first = {
            let mut waiting = self.lock();
            let first = waiting.items.is_empty();
            if !waiting.closed {
                for parcel in parcels.by_ref() {
                    let bytes = waiting.bytes.saturating_add(parcel.bytes());
                    let fits = waiting.items.len() < self.limits.items
                        && (bytes <= self.limits.bytes || waiting.items.is_empty());
                    if !fits {
                        too_much = Some(parcel);
                        break;
                    }
                    waiting.bytes = bytes;
                    waiting.items.push_back(parcel);
                    taken += 1;
                }
            }
            first
        };
        if first && taken > 0 {
            // Fails only where the counter is full, and then the loop is awake.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
        // Outside the lock: counting what was refused is not the receiver's business.
        too_much.into_iter().chain(parcels).for_each(refused);
        taken
    }

    fn hand_out(&self, taken: &mut VecDeque<M>) {
        // Before the box is emptied: what comes in between wakes the loop once more.
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.event, &mut count[..]);
        let mut waiting = self.lock();
        waiting.bytes = 0;
        std::mem::swap(taken, &mut waiting.items);
    }
}

impl<M> Slot<M> {
    fn lock(&self) -> MutexGuard<'_, Waiting<M>> {
        // Nothing panics while it is held, and a box is whole after every step.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M> Drop for PostBox<M> {
    fn drop(&mut self) {
        if let Some(slot) = self.slots.get(self.own) {
            let mut waiting = slot.lock();
            waiting.closed = true;
            waiting.bytes = 0;
            waiting.items.clear();
        }
    }
}

impl<M> AsFd for PostBox<M> {
    /// Readable when something waits.
    fn as_fd(&self) -> BorrowedFd<'_> {
        // `own` is one of the slots as long as the box exists.
        self.slots[self.own].event.as_fd()
    }
}

impl<M> std::fmt::Debug for PostBox<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostBox")
            .field("own", &self.own)
            .field("shards", &self.slots.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
