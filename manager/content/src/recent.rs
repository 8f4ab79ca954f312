//! What was used recently, bounded by weight: the least recently used goes first.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

/// Values by key, with a bound on the sum of their weights.
pub(crate) struct Recent<K, V> {
    entries: HashMap<K, (V, usize, u64)>,
    order: BTreeMap<u64, K>,
    weight: usize,
    bound: usize,
    next: u64,
}

impl<K: Hash + Eq + Copy, V: Clone> Recent<K, V> {
    /// An empty one whose values weigh at most `bound` together.
    pub(crate) fn new(bound: usize) -> Self {
        Recent { entries: HashMap::new(), order: BTreeMap::new(), weight: 0, bound, next: 0 }
    }

    /// The value at `key`, which is now the most recently used one.
    pub(crate) fn get(&mut self, key: &K) -> Option<V> {
        let (value, _, used) = self.entries.get_mut(key)?;
        self.order.remove(used);
        *used = self.next;
        self.order.insert(self.next, *key);
        self.next += 1;
        Some(value.clone())
    }

    /// Keeps `value` at `key`. The newest one stays even if it alone is heavier than the bound.
    pub(crate) fn insert(&mut self, key: K, value: V, weight: usize) {
        self.remove(&key);
        self.entries.insert(key, (value, weight, self.next));
        self.order.insert(self.next, key);
        self.next += 1;
        self.weight += weight;
        while self.weight > self.bound && self.entries.len() > 1 {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            if let Some((_, weight, _)) = self.entries.remove(&oldest) {
                self.weight -= weight;
            }
        }
    }

    /// Forgets what is at `key`.
    pub(crate) fn remove(&mut self, key: &K) {
        if let Some((_, weight, used)) = self.entries.remove(key) {
            self.order.remove(&used);
            self.weight -= weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes_first_and_the_bound_holds() {
        let mut recent = Recent::new(10);
        recent.insert(1, 'a', 4);
        recent.insert(2, 'b', 4);
        assert_eq!(recent.get(&1), Some('a'));
        recent.insert(3, 'c', 4);
        assert_eq!((recent.get(&1), recent.get(&2), recent.get(&3)), (Some('a'), None, Some('c')));
        recent.insert(3, 'd', 9);
        assert_eq!((recent.get(&1), recent.get(&3), recent.weight), (None, Some('d'), 9));
        recent.insert(4, 'e', 99);
        assert_eq!((recent.get(&3), recent.get(&4)), (None, Some('e')));
        recent.remove(&4);
        assert_eq!((recent.weight, recent.order.len()), (0, 0));
    }
}
