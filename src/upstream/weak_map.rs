//! A map that doesn't keep its values alive.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};

/// A map of values that exist as long as something else holds them.
pub(super) struct WeakMap<K, V> {
    pub(super) known: HashMap<K, Weak<V>>,
    /// Dead entries are removed at this many entries. It is set to twice the number of living ones each time, so that an
    /// insertion costs constant time on average.
    sweep_at: usize,
}

impl<K, V> Default for WeakMap<K, V> {
    fn default() -> Self {
        Self {
            known: HashMap::new(),
            sweep_at: 64,
        }
    }
}

impl<K: Eq + Hash, V> WeakMap<K, V> {
    pub(super) fn get(&self, key: &K) -> Option<Arc<V>> {
        self.known.get(key).and_then(Weak::upgrade)
    }

    pub(super) fn add(&mut self, key: K, value: &Arc<V>) {
        if self.known.len() >= self.sweep_at {
            self.known.retain(|_, held| held.strong_count() > 0);
            self.sweep_at = 64.max(2 * self.known.len());
        }
        self.known.insert(key, Arc::downgrade(value));
    }
}
