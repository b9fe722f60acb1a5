//! The buffers that datagrams are received into.

use std::collections::VecDeque;

use bytes::BytesMut;

use crate::io::UDP_BATCH;

/// Received bytes are cut off a buffer's front; what the endpoint has dropped is used again. Not
/// larger, as a peer that has one packet kept keeps all of it.
const SIZE: usize = 2 * UDP_BATCH;

/// So many used buffers are remembered: with fewer, a burst has the system make new memory for every receive
/// (a page fault for each 4 KiB), and all of it be cleared; what is kept is 2 MiB.
const USED: usize = 16;

/// Space for one receive after another, cleared only once as long as nobody keeps what was received.
#[derive(Debug, Default)]
pub(super) struct Intake {
    buffer: Buffer,
    /// Full ones, of which parts may still be in use; the oldest first.
    used: VecDeque<Buffer>,
}

#[derive(Debug, Default)]
struct Buffer {
    rest: BytesMut,
    /// Where its memory begins, all of which has been cleared.
    cleared: Option<usize>,
}

impl Intake {
    /// Room for one receive.
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.buffer.rest.len() < UDP_BATCH {
            self.refill();
        }
        &mut self.buffer.rest
    }

    /// Whether it holds memory.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.rest.capacity() == 0 && self.used.is_empty()
    }

    /// Cuts off the `length` bytes that were received.
    pub(super) fn take(&mut self, length: usize) -> BytesMut {
        let rest = &mut self.buffer.rest;
        rest.split_to(length.min(rest.len()))
    }

    fn refill(&mut self) {
        if self.buffer.reclaim() {
            return;
        }
        // What was handed out comes back in much the same order: if the oldest is still in use, so are the
        // others.
        let next = match self.used.front_mut().map(Buffer::reclaim) {
            Some(true) => self.used.pop_front(),
            Some(false) | None => None,
        };
        let full = std::mem::replace(&mut self.buffer, next.unwrap_or_else(Buffer::new));
        if full.cleared.is_some() {
            self.used.push_back(full);
        }
        if self.used.len() > USED {
            self.used.pop_front();
        }
    }
}

impl Buffer {
    fn new() -> Self {
        let rest = BytesMut::zeroed(SIZE);
        Self {
            cleared: Some(rest.as_ptr() as usize),
            rest,
        }
    }

    /// Makes all of it room again, if nobody holds a part of it.
    fn reclaim(&mut self) -> bool {
        let Some(start) = self.cleared else {
            return false;
        };
        self.rest.clear();
        if !self.rest.try_reclaim(SIZE) || self.rest.as_ptr() as usize != start {
            return false;
        }
        // Clearing it again would cost as much as copying what is received.
        #[expect(
            unsafe_code,
            reason = "the one way to have bytes back without clearing them"
        )]
        // SAFETY: there is room for `SIZE` bytes, and they lie where the memory that `new` cleared does:
        // `rest` has held on to that memory since, so no other can have come to the same address. Bytes
        // once initialised stay so, whatever was written over them.
        unsafe {
            self.rest.set_len(SIZE);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn memory_given_back_is_used_again_without_being_cleared() {
        let mut intake = Intake::default();
        for round in 0..10u8 {
            let room = intake.room();
            assert!(room.len() >= UDP_BATCH);
            if round > 2 {
                assert_ne!(room[0], 0, "cleared again");
            }
            room[..UDP_BATCH].fill(round + 1);
            let taken = intake.take(UDP_BATCH);
            assert!(taken.iter().all(|&byte| byte == round + 1));
        }
    }

    #[test]
    fn what_is_kept_is_never_written_over() {
        let mut intake = Intake::default();
        let mut kept = Vec::new();
        for round in 0..20u8 {
            intake.room()[..1000].fill(round + 1);
            let taken = intake.take(1000 + usize::from(round) * 4000);
            if round % 3 == 0 {
                kept.push((round, taken));
            }
        }
        for (round, bytes) in kept {
            assert!(bytes[..1000].iter().all(|&byte| byte == round + 1));
        }
    }

    #[test]
    fn as_many_buffers_as_are_remembered_come_back_after_a_burst() {
        let mut intake = Intake::default();
        let burst = |intake: &mut Intake| -> Vec<BytesMut> {
            (0..USED)
                .map(|_| {
                    let _ = intake.room();
                    intake.take(SIZE)
                })
                .collect()
        };
        let addresses = |taken: &[BytesMut]| -> BTreeSet<usize> {
            taken.iter().map(|bytes| bytes.as_ptr() as usize).collect()
        };
        let first = burst(&mut intake);
        let known = addresses(&first);
        // Their places in the heap are taken by others once they are given back.
        let elsewhere: Vec<_> = (0..4 * USED).map(|_| BytesMut::zeroed(SIZE)).collect();
        drop(first);
        let second = burst(&mut intake);
        assert_eq!(addresses(&second), known);
        drop(elsewhere);
    }

    #[test]
    fn no_more_buffers_are_remembered_than_stated() {
        let mut intake = Intake::default();
        let mut kept = Vec::new();
        for _ in 0..4 * USED {
            let _ = intake.room();
            kept.push(intake.take(SIZE));
            assert!(intake.used.len() <= USED);
        }
    }

    #[test]
    fn new_memory_is_cleared() {
        let mut intake = Intake::default();
        let mut kept = Vec::new();
        for _ in 0..6 {
            let room = intake.room();
            assert!(room.iter().all(|&byte| byte == 0));
            let length = room.len();
            kept.push(intake.take(length));
        }
    }
}
