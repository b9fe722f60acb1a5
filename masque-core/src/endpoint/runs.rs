//! Numbers that are taken, as runs: finding the next free one takes no longer in a full pool than in
//! an empty one.

use std::collections::BTreeMap;

/// A set of numbers, kept as maximal runs.
#[derive(Debug, Default)]
pub(super) struct Runs {
    /// The last number of each run by its first; no two touch.
    runs: BTreeMap<u128, u128>,
}

impl Runs {
    /// Adds `first..=last`.
    pub(super) fn add(&mut self, mut first: u128, mut last: u128) {
        // A run that begins before and reaches here, then those that begin within or right behind.
        if let Some((&start, &end)) = self.runs.range(..first).next_back()
            && end >= first - 1
        {
            first = start;
            last = last.max(end);
        }
        let reach = last.saturating_add(1);
        while let Some((&start, &end)) = self.runs.range(first..=reach.max(last)).next() {
            self.runs.remove(&start);
            last = last.max(end);
        }
        self.runs.insert(first, last);
    }

    /// Removes `first..=last`.
    pub(super) fn remove(&mut self, first: u128, last: u128) {
        if let Some((&start, &end)) = self.runs.range(..first).next_back()
            && end >= first
        {
            // `first` is above `start`, hence above 0.
            self.runs.insert(start, first - 1);
            if end > last {
                self.runs.insert(last + 1, end);
            }
        }
        while let Some((&start, &end)) = self.runs.range(first..=last).next() {
            self.runs.remove(&start);
            if end > last {
                self.runs.insert(last + 1, end);
            }
        }
    }

    /// The first number from `at` on that is not in it.
    pub(super) fn next_free(&self, at: u128) -> Option<u128> {
        match self.runs.range(..=at).next_back() {
            Some((_, &end)) if end >= at => end.checked_add(1),
            _ => Some(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_are_a_set_of_numbers(
            changes in prop::collection::vec((any::<bool>(), 0..60_u128, 0..10_u128), 0..60),
            top in any::<bool>(),
        ) {
            // At the upper end of all numbers nothing overflows.
            let base = if top { u128::MAX - 69 } else { 0 };
            let (mut runs, mut model) = (Runs::default(), BTreeSet::new());
            for (add, first, more) in changes {
                let (first, last) = (base + first, base + first + more);
                match add {
                    true => {
                        runs.add(first, last);
                        model.extend(first..=last);
                    }
                    false => {
                        runs.remove(first, last);
                        model.retain(|number| *number < first || *number > last);
                    }
                }
                for at in base..=base + 69 {
                    let free = (at..=base + 69).find(|number| !model.contains(number));
                    let end = (base + 69).checked_add(1);
                    prop_assert_eq!(runs.next_free(at), free.or(end));
                }
                let mut before = None;
                for (&first, &last) in &runs.runs {
                    prop_assert!(first <= last && before.is_none_or(|end: u128| end + 1 < first));
                    before = Some(last);
                }
            }
        }
    }

    /// The cost of finding a number is a search in the runs, of which a full pool has one.
    #[test]
    fn a_full_pool_is_one_run() {
        let mut runs = Runs::default();
        for number in (0..65_534).rev().chain(0..65_534) {
            runs.add(number, number);
        }
        assert_eq!(runs.runs.len(), 1);
        assert_eq!(runs.next_free(0), Some(65_534));
    }
}
