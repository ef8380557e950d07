//! Heads that repeat.
//!
//! A client sends most of its requests with the same fields, and an application most of its responses. What was parsed is kept for
//! a few heads; one that is the same byte for byte is then recognised by a comparison, which takes a fraction of the
//! instructions. Whether a head is found here never changes what it means: all of that follows from its bytes and the limits.

use super::HeadLimits;

/// Number of heads that are kept.
const HEADS: usize = 16;
/// Maximum bytes of a head that is kept.
const MAX_BYTES: usize = 2048;

/// Heads that were parsed before. There is one for each worker and kind of head.
#[derive(Debug)]
pub struct HeadCache<H> {
    entries: [Option<Box<Entry<H>>>; HEADS],
}

#[derive(Debug)]
struct Entry<H> {
    /// The bytes that `head` was parsed from.
    text: Vec<u8>,
    limits: HeadLimits,
    head: H,
    /// Number of other heads since this one was found; it may wrap.
    misses: u8,
}

impl<H> Default for HeadCache<H> {
    fn default() -> Self {
        Self {
            entries: [const { None }; HEADS],
        }
    }
}

impl<H: Clone> HeadCache<H> {
    /// Returns the head that was parsed from bytes which `received` starts with, under the same limits.
    #[inline]
    pub(super) fn find(&mut self, received: &[u8], limits: &HeadLimits) -> Option<&H> {
        let entry = self.entries[place(received)].as_deref_mut()?;
        if received.starts_with(&entry.text) && entry.limits == *limits {
            entry.misses = 0;
            Some(&entry.head)
        } else {
            entry.misses = entry.misses.wrapping_add(1);
            None
        }
    }

    /// Keeps the head that was parsed from the first `len` bytes of `received`, which [`Self::find`] has not found.
    #[inline]
    pub(super) fn learn(&mut self, received: &[u8], len: usize, limits: &HeadLimits, head: &H) {
        let entry = &mut self.entries[place(received)];
        // A head that is found now and then is kept; and where none repeats, few are copied in vain.
        let replaces = match entry {
            None => true,
            Some(entry) => entry.misses > 1 && entry.misses.is_power_of_two(),
        };
        if replaces && len <= MAX_BYTES {
            replace(entry, &received[..len], *limits, head.clone());
        }
    }
}

#[cold]
fn replace<H>(entry: &mut Option<Box<Entry<H>>>, text: &[u8], limits: HeadLimits, head: H) {
    *entry = Some(Box::new(Entry {
        text: text.to_vec(),
        limits,
        head,
        misses: entry.as_ref().map_or(0, |e| e.misses),
    }));
}

/// The place of a head, by the number of bytes that have been received from its start on: with the same head, also a body
/// has the same length.
#[inline]
fn place(received: &[u8]) -> usize {
    let len = received.len();
    (len ^ (len / HEADS)) % HEADS
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits {
        bytes: 4096,
        fields: 100,
        target: 100,
        underscores: true,
    };

    /// Looks for these heads one after the other, learns those that aren't found, and returns how many were.
    fn found(heads: impl IntoIterator<Item = String>, cache: &mut HeadCache<String>) -> usize {
        let mut found = 0;
        for head in heads {
            match cache.find(head.as_bytes(), &LIMITS) {
                Some(known) => {
                    assert_eq!(*known, head);
                    found += 1;
                }
                None => cache.learn(head.as_bytes(), head.len(), &LIMITS, &head),
            }
        }
        found
    }

    fn numbered(heads: std::ops::Range<u32>) -> impl Iterator<Item = String> {
        heads.map(|n| format!("{n:9}"))
    }

    #[test]
    fn a_head_that_repeats_is_found() {
        let cache = &mut HeadCache::default();
        assert_eq!(found(vec!["a".to_owned(); 10], cache), 9);
        let long = vec!["a".repeat(MAX_BYTES), "b".repeat(MAX_BYTES + 1)];
        assert_eq!(found([&long[..], &long].concat(), cache), 1);
    }

    #[test]
    fn heads_of_different_lengths_have_their_places() {
        let cache = &mut HeadCache::default();
        let heads: Vec<_> = (1..HEADS).map(|len| "a".repeat(len)).collect();
        assert_eq!(
            found([&heads[..], &heads, &heads].concat(), cache),
            2 * heads.len()
        );
    }

    #[test]
    fn a_head_that_is_found_now_and_then_stays() {
        let cache = &mut HeadCache::default();
        let heads = numbered(0..100).flat_map(|other| ["same head".to_owned(), other]);
        assert_eq!(found(heads, cache), 99);
    }

    #[test]
    fn a_head_that_is_no_longer_found_makes_room() {
        for others in 0..1000 {
            let cache = &mut HeadCache::default();
            assert_eq!(found(numbered(0..others), cache), 0);
            let next = found(vec!["next head".to_owned(); 200], cache);
            assert!(next + 130 >= 200, "{next} after {others}");
        }
    }

    #[test]
    fn few_heads_are_copied_where_none_repeats() {
        let cache = &mut HeadCache::default();
        let mut copies = 0;
        let mut last = String::new();
        for head in numbered(0..1024) {
            found([head], cache);
            let kept = &cache.entries.iter().flatten().next().unwrap().head;
            copies += u32::from(last != *kept);
            last.clone_from(kept);
        }
        // Doubling: 2, 4, 8 … 128 of 256.
        assert_eq!(copies, 1 + 4 * 7);
    }

    #[test]
    fn other_limits_are_other_heads() {
        let cache = &mut HeadCache::default();
        found(["a".to_owned()], cache);
        let narrow = HeadLimits {
            fields: 1,
            ..LIMITS
        };
        assert!(cache.find(b"a", &narrow).is_none() && cache.find(b"a", &LIMITS).is_some());
    }
}
