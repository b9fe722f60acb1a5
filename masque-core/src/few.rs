//! A map for a few entries, of which a server has several per connection: a sorted array that is as
//! large as what is in it. A `BTreeMap` with one entry has room for eleven.

use alloc::vec::Vec;

/// A map for a few entries, in ascending order.
#[derive(Clone, Debug)]
pub(crate) struct FewMap<K, V> {
    entries: Vec<(K, V)>,
}

impl<K, V> Default for FewMap<K, V> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
        }
    }
}

impl<K: Ord + Copy, V> FewMap<K, V> {
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        let at = self.find(key).ok()?;
        self.entries.get(at).map(|(_, value)| value)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let at = self.find(key).ok()?;
        self.entries.get_mut(at).map(|(_, value)| value)
    }

    pub(crate) fn contains_key(&self, key: &K) -> bool {
        self.find(key).is_ok()
    }

    /// Gives back what was there before.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.find(&key) {
            Ok(at) => Some(core::mem::replace(&mut self.entries[at].1, value)),
            Err(at) => {
                self.entries.reserve_exact(1);
                self.entries.insert(at, (key, value));
                None
            }
        }
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let at = self.find(key).ok()?;
        Some(self.entries.remove(at).1)
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, value)| (key, value))
    }

    pub(crate) fn keys(&self) -> impl DoubleEndedIterator<Item = &K> {
        self.entries.iter().map(|(key, _)| key)
    }

    pub(crate) fn values(&self) -> impl DoubleEndedIterator<Item = &V> {
        self.entries.iter().map(|(_, value)| value)
    }

    /// Gives back room that nothing is in.
    pub(crate) fn shrink(&mut self) {
        self.entries.shrink_to_fit();
    }

    fn find(&self, key: &K) -> Result<usize, usize> {
        self.entries.binary_search_by_key(key, |(key, _)| *key)
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map(changes in prop::collection::vec((any::<bool>(), 0..12_u8, any::<u8>()), 0..80)) {
            let (mut few, mut model) = (FewMap::default(), BTreeMap::new());
            for (insert, key, value) in changes {
                match insert {
                    true => prop_assert_eq!(few.insert(key, value), model.insert(key, value)),
                    false => prop_assert_eq!(few.remove(&key), model.remove(&key)),
                }
                prop_assert!(few.iter().eq(model.iter()));
                prop_assert_eq!(few.get(&key), model.get(&key));
                prop_assert_eq!(few.len(), model.len());
            }
        }
    }
}
