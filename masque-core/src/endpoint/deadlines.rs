//! When which connection wants to be woken: a heap in which every connection has at most one place.
//!
//! Nothing is allocated while connections come and go within what there was before, and a change
//! costs the logarithm of how many wait, whether a deadline moves closer or further away.

use std::time::Instant;

/// Not in the heap.
const NOWHERE: usize = usize::MAX;

/// The deadlines of connections, by their number.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    heap: Vec<(Instant, usize)>,
    /// Where in the heap each connection is.
    places: Vec<usize>,
}

impl Deadlines {
    /// Connection `at` is due at `due`, and no longer at any other time.
    pub(super) fn set(&mut self, at: usize, due: Option<Instant>) {
        let place = self.places.get(at).copied().unwrap_or(NOWHERE);
        match (due, place) {
            (None, NOWHERE) => {}
            (None, place) => self.remove(place),
            (Some(due), NOWHERE) => {
                if self.places.len() <= at {
                    self.places.resize(at + 1, NOWHERE);
                }
                self.heap.push((due, at));
                self.places[at] = self.heap.len() - 1;
                self.rise(self.heap.len() - 1);
            }
            (Some(due), place) => {
                self.heap[place].0 = due;
                let place = self.rise(place);
                self.sink(place);
            }
        }
    }

    /// The earliest, and whose it is.
    pub(super) fn first(&self) -> Option<(Instant, usize)> {
        self.heap.first().copied()
    }

    /// How many connections have one.
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    fn remove(&mut self, place: usize) {
        let (_, gone) = self.heap.swap_remove(place);
        self.places[gone] = NOWHERE;
        if let Some(&(_, moved)) = self.heap.get(place) {
            self.places[moved] = place;
            let place = self.rise(place);
            self.sink(place);
        }
    }

    /// Swaps two places in the heap.
    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.places[self.heap[a].1] = a;
        self.places[self.heap[b].1] = b;
    }

    fn rise(&mut self, mut place: usize) -> usize {
        while place > 0 {
            let parent = (place - 1) / 2;
            if self.heap[parent] <= self.heap[place] {
                break;
            }
            self.swap(parent, place);
            place = parent;
        }
        place
    }

    fn sink(&mut self, mut place: usize) {
        loop {
            let children = (place * 2 + 1)..self.heap.len().min(place * 2 + 3);
            let Some(least) = children.min_by_key(|&child| self.heap[child]) else {
                return;
            };
            if self.heap[place] <= self.heap[least] {
                return;
            }
            self.swap(place, least);
            place = least;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::endpoint::tests::moment;

    proptest! {
        #[test]
        fn the_first_is_the_earliest_whatever_was_set_moved_and_removed(
            changes in prop::collection::vec((0..20_usize, prop::option::of(0..50_u64)), 0..200),
        ) {
            let base = moment();
            let mut deadlines = Deadlines::default();
            let mut model = BTreeMap::new();
            for (at, due) in changes {
                let due = due.map(|due| base + Duration::from_millis(due));
                deadlines.set(at, due);
                match due {
                    Some(due) => model.insert(at, due),
                    None => model.remove(&at),
                };
                let earliest = model.iter().map(|(at, due)| (*due, *at)).min();
                prop_assert_eq!(deadlines.first(), earliest);
                prop_assert_eq!(deadlines.len(), model.len());
            }
        }
    }
}
