//! Heads that repeat.
//!
//! A client sends most fields of its requests over and over, and an application those of its responses. What was parsed is kept
//! for a few heads. One that is the same byte for byte is recognised by a comparison, which takes a fraction of the
//! instructions; from one that differs in some lines, the others are taken. Whether anything is found here never changes what
//! a head means: all of that follows from its bytes and the limits.
//!
//! The time that this takes tells a client at most whether another one has sent the same word of 32 bytes, not a byte of it:
//! a secret can't be guessed piece by piece.

use super::{Field, HeadLimits};

/// Number of heads that are kept.
const HEADS: usize = 16;
/// Maximum bytes of a head that is kept.
const MAX_BYTES: usize = 2048;

/// Heads that were parsed before. There is one for each worker and kind of head.
#[derive(Debug)]
pub struct HeadCache<H> {
    entries: [Option<Box<Entry<H>>>; HEADS],
    /// The one that was learned last.
    recent: usize,
}

#[derive(Debug)]
struct Entry<H> {
    /// The bytes that decide about `head`, and where they start in it.
    text: Vec<u8>,
    start: usize,
    limits: HeadLimits,
    head: H,
    /// Number of other heads since this one was found; it may wrap.
    misses: u8,
}

/// A head that can be kept.
pub trait ParsedHead: Clone {
    /// The field lines.
    fn fields(&self) -> &[Field];
}

/// A head that is kept, and where the bytes that decided about it start in it.
#[derive(Debug)]
pub(super) struct Known<'c, H> {
    pub head: &'c H,
    pub start: usize,
}

/// The lines of a head that is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct KnownLines<'c> {
    text: &'c [u8],
    start: usize,
    fields: &'c [Field],
}

impl<'c> KnownLines<'c> {
    /// The lines in `text`, which starts at `start` in the head of `fields`.
    #[inline]
    pub(super) fn new(text: &'c [u8], start: usize, fields: &'c [Field]) -> Self {
        Self {
            text,
            start,
            fields,
        }
    }

    /// Returns line number `n` if `received` starts with it, moved to where it is now: at `at`.
    #[inline]
    pub(super) fn get(&self, n: usize, received: &[u8], at: usize) -> Option<Field> {
        let field = self.fields.get(n)?;
        let start = field.line.start as usize;
        let line = self
            .text
            .get(start - self.start..)?
            .get(..field.line.len())?;
        // Other lines mostly differ in the first bytes, which are compared without a call.
        if received.first_chunk::<6>() != line.first_chunk() || !received.starts_with(line) {
            return None;
        }
        Some(Field {
            // Also a field that isn't hop-by-hop by itself may have been marked in the other head.
            hop: field.id.is_hop_by_hop(),
            ..field.moved(at as i32 - start as i32)
        })
    }
}

impl<H> Default for HeadCache<H> {
    fn default() -> Self {
        Self {
            entries: [const { None }; HEADS],
            recent: 0,
        }
    }
}

impl<H: ParsedHead> HeadCache<H> {
    /// Returns the head that was parsed from bytes which `received` starts with, under the same limits.
    #[inline]
    pub(super) fn find(&mut self, received: &[u8], limits: &HeadLimits) -> Option<Known<'_, H>> {
        let entry = self.entries[place(received)].as_deref_mut()?;
        if received.starts_with(&entry.text) && entry.limits == *limits {
            entry.misses = 0;
            Some(Known {
                head: &entry.head,
                start: entry.start,
            })
        } else {
            entry.misses = entry.misses.wrapping_add(1);
            None
        }
    }

    /// Returns the lines of a head that has some in common with `received`, which [`Self::find`] has not found.
    #[inline]
    pub(super) fn similar(&self, received: &[u8]) -> Option<KnownLines<'_>> {
        let entry = self.entries[place(received)]
            .as_deref()
            .or(self.entries[self.recent].as_deref())?;
        Some(KnownLines::new(
            &entry.text,
            entry.start,
            entry.head.fields(),
        ))
    }

    /// Keeps a head that [`Self::find`] has not found. It was parsed from the first `len` bytes of `received`, which start at
    /// `start` in it.
    #[inline]
    pub(super) fn learn(
        &mut self,
        (received, start, len): (&[u8], usize, usize),
        limits: &HeadLimits,
        head: &H,
    ) {
        let place = place(received);
        let entry = &mut self.entries[place];
        // A head that is found now and then is kept; and where none repeats, few are copied in vain.
        let replaces = match entry {
            None => true,
            Some(entry) => entry.misses > 1 && entry.misses.is_power_of_two(),
        };
        if replaces && len <= MAX_BYTES {
            replace(entry, (&received[..len], start), *limits, head.clone());
            self.recent = place;
        }
    }
}

#[cold]
fn replace<H>(
    entry: &mut Option<Box<Entry<H>>>,
    (text, start): (&[u8], usize),
    limits: HeadLimits,
    head: H,
) {
    *entry = Some(Box::new(Entry {
        text: text.to_vec(),
        start,
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

    impl ParsedHead for String {
        fn fields(&self) -> &[Field] {
            &[]
        }
    }

    /// Looks for these heads one after the other, learns those that aren't found, and returns how many were.
    fn found(heads: impl IntoIterator<Item = String>, cache: &mut HeadCache<String>) -> usize {
        let mut found = 0;
        for head in heads {
            match cache.find(head.as_bytes(), &LIMITS) {
                Some(known) => {
                    assert_eq!(*known.head, head);
                    found += 1;
                }
                None => cache.learn((head.as_bytes(), 0, head.len()), &LIMITS, &head),
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
    fn heads_are_similar_to_the_one_of_their_length_or_the_last_one() {
        let cache = &mut HeadCache::default();
        assert!(cache.similar(b"a").is_none());
        found(["a".to_owned(), "bb".to_owned()], cache);
        for (received, known) in [("c", "a"), ("cc", "bb"), ("ccc", "bb")] {
            let lines = cache.similar(received.as_bytes()).expect("some lines");
            assert_eq!(lines.text, known.as_bytes(), "{received}");
        }
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
