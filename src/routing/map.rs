//! Maps whose keys stand in the configuration.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// By bytes. The keys come from the operator, so nobody can choose them to collide: speed is all that counts.
pub(super) type Map<V> = HashMap<Box<[u8]>, V, BuildHasherDefault<Xxh3>>;

/// Hashes one slice of bytes.
#[derive(Default)]
pub(super) struct Xxh3(u64);

impl Hasher for Xxh3 {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    /// The length that precedes a slice; the bytes alone tell keys apart.
    #[inline]
    fn write_usize(&mut self, _: usize) {}

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}
