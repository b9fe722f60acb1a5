//! Which streams have been and gone, so that a late word about one does not look like a new stream.

use alloc::collections::BTreeMap;

use crate::wire::stream::StreamId;

/// The ended streams of one kind (initiator and direction), as ranges. Their number is at most that
/// of the live and skipped streams below the highest, which QUIC's stream limits bound.
#[derive(Clone, Debug, Default)]
pub(super) struct Ended {
    /// First index to last index, disjoint and never adjacent.
    ranges: BTreeMap<u64, u64>,
}

impl Ended {
    pub(super) fn contains(&self, stream: StreamId) -> bool {
        let index = stream.into_inner() >> 2;
        self.ranges
            .range(..=index)
            .next_back()
            .is_some_and(|(_, &last)| index <= last)
    }

    pub(super) fn insert(&mut self, stream: StreamId) {
        if self.contains(stream) {
            return;
        }
        // An index is below 2^60: no sum overflows.
        let index = stream.into_inner() >> 2;
        let last = self.ranges.remove(&(index + 1)).unwrap_or(index);
        match self.ranges.range_mut(..index).next_back() {
            Some((_, end)) if *end + 1 == index => *end = last,
            _ => {
                self.ranges.insert(index, last);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::stream::{Direction, Role};
    use alloc::collections::BTreeSet;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn holds_what_was_put_in_and_nothing_else_as_few_ranges(
            indices in proptest::collection::vec(0u32..40, 0..60),
        ) {
            let id = |index| StreamId::nth(Role::Client, Direction::Bidirectional, index);
            let mut ended = Ended::default();
            let mut model = BTreeSet::new();
            for index in indices {
                ended.insert(id(index));
                model.insert(index);
            }
            for index in 0..41 {
                prop_assert_eq!(ended.contains(id(index)), model.contains(&index));
            }
            let runs = model.iter().filter(|&&i| i == 0 || !model.contains(&(i - 1))).count();
            prop_assert_eq!(ended.ranges.len(), runs);
        }
    }
}
