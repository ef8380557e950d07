//! Hash maps whose keys come from the configuration.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A map by byte strings with a fast hash. The keys come from the operator and not from clients, so that no protection
/// against chosen collisions is needed. Clients choose only the keys of lookups.
pub(super) type Map<V> = HashMap<Box<[u8]>, V, BuildHasherDefault<Xxh3>>;

/// A hasher for a single byte slice.
#[derive(Default)]
pub(super) struct Xxh3(u64);

impl Hasher for Xxh3 {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    /// `[u8]` writes its length before its bytes. Keys are single slices, so that the bytes suffice.
    #[inline]
    fn write_usize(&mut self, _: usize) {}

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}
