//! Memory for what waits in queues, used again.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Made at once for many packets: not larger, as one packet that is kept keeps all of it.
const SIZE: usize = 256 << 10;

/// So many used blocks are remembered: with fewer, every burst has the system make new memory, and a page
/// fault costs as much as a packet. What is kept is 2 MiB, as much as may wait for one tunnel by default.
const USED: usize = 8;

/// Blocks from which packets are cut, each free again when the last of its packets is gone.
#[derive(Debug, Default)]
pub(super) struct Arena {
    /// Nothing before the first packet.
    block: Option<BytesMut>,
    /// Full ones, of which packets may still wait; the oldest first.
    used: VecDeque<BytesMut>,
}

impl Arena {
    /// An empty buffer with room for `length` bytes, to be appended to. If more are appended it grows,
    /// which is slower, and no error. What was appended and not taken is forgotten.
    pub(super) fn room(&mut self, length: usize) -> &mut BytesMut {
        let block = match self.block.take() {
            Some(mut block) => {
                block.clear();
                match block.capacity() < length {
                    true => self.renew(block, length),
                    false => block,
                }
            }
            None => BytesMut::with_capacity(SIZE.max(length)),
        };
        self.block.insert(block)
    }

    /// What was appended.
    pub(super) fn take(&mut self) -> Bytes {
        let appended = self.block.as_mut().map(BytesMut::split);
        appended.unwrap_or_default().freeze()
    }

    /// Gives all memory back that nobody holds.
    pub(super) fn rest(&mut self) {
        *self = Self::default();
    }

    fn renew(&mut self, mut full: BytesMut, length: usize) -> BytesMut {
        let size = SIZE.max(length);
        if full.try_reclaim(size) {
            return full;
        }
        self.used.push_back(full);
        // Packets leave in much the order they came: if the oldest block is still in use, so are the others.
        if let Some(mut oldest) = self.used.pop_front() {
            if oldest.try_reclaim(size) {
                return oldest;
            }
            if self.used.len() < USED {
                self.used.push_front(oldest);
            }
        }
        BytesMut::with_capacity(size)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn fill(arena: &mut Arena, length: usize) -> Bytes {
        arena.room(length).resize(length, 7);
        arena.take()
    }

    #[test]
    fn blocks_whose_packets_are_gone_are_used_again() {
        let mut arena = Arena::default();
        let burst =
            |arena: &mut Arena| -> Vec<Bytes> { (0..USED).map(|_| fill(arena, SIZE)).collect() };
        let places = |packets: &[Bytes]| -> BTreeSet<usize> {
            packets
                .iter()
                .map(|bytes| bytes.as_ptr() as usize)
                .collect()
        };
        let first = burst(&mut arena);
        let known = places(&first);
        // Whoever gets new memory now gets it elsewhere.
        let elsewhere: Vec<_> = (0..4 * USED).map(|_| vec![0u8; SIZE]).collect();
        drop(first);
        let second = burst(&mut arena);
        assert_eq!(places(&second), known);
        drop(elsewhere);
    }

    #[test]
    fn a_packet_that_stays_holds_back_one_block_and_not_the_others() {
        let mut arena = Arena::default();
        let kept = fill(&mut arena, 100);
        let mut seen = BTreeSet::new();
        for _ in 0..100 {
            seen.insert(fill(&mut arena, SIZE).as_ptr() as usize);
        }
        assert!(seen.len() <= 3 * USED, "{} blocks", seen.len());
        assert!(kept.iter().all(|&byte| byte == 7));
    }

    #[test]
    fn no_more_is_remembered_than_stated_and_rest_forgets_all() {
        let mut arena = Arena::default();
        let kept: Vec<_> = (0..4 * USED).map(|_| fill(&mut arena, SIZE)).collect();
        assert!(arena.used.len() <= USED);
        arena.rest();
        assert!(arena.block.is_none());
        assert!(arena.used.is_empty());
        drop(kept);
    }

    #[test]
    fn more_than_a_block_is_one_piece() {
        let mut arena = Arena::default();
        assert_eq!(fill(&mut arena, 3 * SIZE).len(), 3 * SIZE);
        arena.room(10).resize(5000, 1);
        assert_eq!(arena.take().len(), 5000);
    }
}
