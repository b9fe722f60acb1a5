//! The buffer that datagrams are received into.

use bytes::BytesMut;

use crate::io::UDP_BATCH;

/// Received bytes are cut off this buffer's front; what the endpoint has dropped is used again. Not
/// larger, as a peer that has one packet kept keeps all of it.
const SIZE: usize = 2 * UDP_BATCH;

/// Space for one receive after another, cleared only once as long as nobody keeps what was received.
#[derive(Debug, Default)]
pub(super) struct Intake {
    buffer: BytesMut,
    /// Where the buffer's memory begins, all of which has been cleared.
    cleared: Option<usize>,
}

impl Intake {
    /// Room for one receive.
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.buffer.len() < UDP_BATCH {
            self.refill();
        }
        &mut self.buffer
    }

    /// Whether it holds memory.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.capacity() == 0
    }

    /// Cuts off the `length` bytes that were received.
    pub(super) fn take(&mut self, length: usize) -> BytesMut {
        self.buffer.split_to(length.min(self.buffer.len()))
    }

    fn refill(&mut self) {
        self.buffer.clear();
        self.buffer.reserve(SIZE);
        let start = self.buffer.as_ptr() as usize;
        if self.cleared == Some(start) && self.buffer.capacity() >= SIZE {
            // Clearing it again would cost as much as copying what is received.
            #[expect(
                unsafe_code,
                reason = "the one way to have bytes back without clearing them"
            )]
            // SAFETY: `reserve` made room for `SIZE` bytes. They lie where the memory cleared below
            // does: `buffer` has held on to that memory since, so no other can have come to the same
            // address. Bytes once initialised stay so, whatever was written over them.
            unsafe {
                self.buffer.set_len(SIZE);
            }
            return;
        }
        self.buffer.resize(SIZE, 0);
        self.cleared = Some(start);
    }
}

#[cfg(test)]
mod tests {
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
