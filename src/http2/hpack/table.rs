//! The dynamic table (RFC 7541 §2.3.2 and §4), for both directions.
//!
//! The text of all entries is in one buffer and a new entry is appended to it, so every entry is one slice. Evicted entries
//! leave a gap at the start, which is closed when it has grown to half of the buffer: each byte is moved about once.

use super::{MAX_TABLE, OVERHEAD};

/// The buffer grows up to twice the size of a full table.
const MAX_BYTES: usize = 2 * MAX_TABLE;

/// An entry of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<T> {
    /// Offset of the text in the buffer.
    start: u32,
    /// Length of the text: more than name and value if the owner stores separators.
    len: u16,
    /// Length of the name.
    pub(super) name_len: u16,
    /// Size of the entry by RFC 7541 §4.1.
    size: u16,
    /// The value that the owner stores with each entry.
    pub(super) tag: T,
}

/// A dynamic table.
///
/// Both ends of a connection have a copy of each table and change it in the same way with each header block. So no block may be
/// skipped, and none may be decoded twice. `size` is at most `max_size`, and that at most [`MAX_TABLE`], whatever the peer asks
/// for.
#[derive(Debug)]
pub(super) struct DynamicTable<T> {
    bytes: Vec<u8>,
    /// Entries, the oldest first; those before `first` have been evicted.
    entries: Vec<Entry<T>>,
    first: usize,
    size: usize,
    max_size: usize,
}

impl<T: Copy> DynamicTable<T> {
    /// Creates an empty table, which allocates nothing until it is used.
    pub(super) const fn new() -> Self {
        Self {
            bytes: Vec::new(),
            entries: Vec::new(),
            first: 0,
            size: 0,
            max_size: MAX_TABLE,
        }
    }

    pub(super) fn max_size(&self) -> usize {
        self.max_size
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Number of entries.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.first
    }

    /// Returns an entry by its index; 0 is the newest.
    #[inline]
    pub(super) fn get(&self, index: usize) -> Option<&Entry<T>> {
        if index >= self.len() {
            return None;
        }
        self.entries.get(self.entries.len() - 1 - index)
    }

    /// Returns the text of an entry.
    #[inline]
    pub(super) fn text(&self, entry: &Entry<T>) -> &[u8] {
        let start = entry.start as usize;
        &self.bytes[start..start + usize::from(entry.len)]
    }

    /// Returns the index of the newest entry that fits.
    #[inline]
    pub(super) fn position(&self, mut fits: impl FnMut(&Entry<T>) -> bool) -> Option<usize> {
        self.entries[self.first..].iter().rev().position(&mut fits)
    }

    /// Changes the maximum size (RFC 7541 §4.3).
    pub(super) fn set_max_size(&mut self, max_size: usize) {
        debug_assert!(max_size <= MAX_TABLE);
        self.max_size = max_size;
        self.evict(0);
    }

    /// Adds an entry, whose text is `parts`. One that is larger than the table empties it and is not added (RFC 7541 §4.4).
    pub(super) fn add(&mut self, parts: &[&[u8]], (name, value): (usize, usize), tag: T) {
        let size = name + value + OVERHEAD;
        self.evict(size);
        if size > self.max_size {
            return;
        }
        let len = parts.iter().map(|part| part.len()).sum();
        self.make_room(len);
        let start = self.bytes.len() as u32;
        parts
            .iter()
            .for_each(|part| self.bytes.extend_from_slice(part));
        self.size += size;
        // No length is larger than the table.
        self.entries.push(Entry {
            start,
            len: len as u16,
            name_len: name as u16,
            size: size as u16,
            tag,
        });
    }

    /// Evicts the oldest entries until `room` bytes fit (RFC 7541 §4.3, §4.4).
    #[inline]
    fn evict(&mut self, room: usize) {
        while self.size + room > self.max_size
            && let Some(oldest) = self.entries.get(self.first)
        {
            self.size -= usize::from(oldest.size);
            self.first += 1;
        }
        if self.first >= 64 && self.first * 2 >= self.entries.len() {
            self.entries.drain(..self.first);
            self.first = 0;
        }
    }

    /// Makes room for `len` bytes: closes the gap that evicted entries have left, or lets the buffer grow.
    #[inline]
    fn make_room(&mut self, len: usize) {
        if self.bytes.len() + len > self.bytes.capacity() {
            self.close_gap(len);
        }
    }

    fn close_gap(&mut self, len: usize) {
        let oldest = self.entries.get(self.first);
        let gap = oldest.map_or(self.bytes.len(), |oldest| oldest.start as usize);
        // The entries and the new one fit into half of the largest buffer, so a gap is closed for every MAX_TABLE bytes at most.
        if gap * 2 >= self.bytes.len() || self.bytes.len() + len > MAX_BYTES {
            self.bytes.drain(..gap);
            self.entries.drain(..self.first);
            self.first = 0;
            for entry in &mut self.entries {
                entry.start -= gap as u32;
            }
        }
        // Doubles, but never beyond the limit: without a gap the text of a full table is within half of it.
        let needed = self.bytes.len() + len;
        let capacity = needed.next_power_of_two().min(MAX_BYTES.max(needed));
        self.bytes.reserve_exact(capacity - self.bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the table must contain, in the simplest form: the newest first.
    #[derive(Default)]
    struct Model(Vec<Vec<u8>>);

    impl Model {
        fn add(&mut self, text: Vec<u8>, max_size: usize) {
            self.0.insert(0, text);
            self.shrink(max_size);
        }
        fn shrink(&mut self, max_size: usize) {
            let size =
                |entries: &[Vec<u8>]| entries.iter().map(|e| e.len() + OVERHEAD).sum::<usize>();
            while size(&self.0) > max_size {
                self.0.pop();
            }
        }
    }

    #[test]
    fn it_is_a_queue_of_bounded_size_in_bounded_memory() {
        let mut rng = fastrand::Rng::with_seed(1);
        for round in 0..40 {
            let (mut table, mut model) = (DynamicTable::new(), Model::default());
            let longest = [8, 60, 500, 4200][round % 4];
            for step in 0..1500_u32 {
                if rng.u32(..200) == 0 {
                    let max_size = rng.usize(..=MAX_TABLE);
                    table.set_max_size(max_size);
                    model.shrink(max_size);
                }
                let text: Vec<u8> = (0..rng.usize(..longest)).map(|_| rng.u8(..)).collect();
                let name = rng.usize(..=text.len());
                let (a, b) = text.split_at(name);
                table.add(&[a, b], (a.len(), b.len()), step);
                model.add(text, table.max_size());
                assert_eq!(table.len(), model.0.len());
                assert!(table.size() <= table.max_size());
                assert!(table.bytes.capacity() <= MAX_BYTES);
                assert!(table.entries.len() <= 256);
                for (index, text) in model.0.iter().enumerate() {
                    let entry = table.get(index).expect("an entry");
                    assert_eq!(table.text(entry), text);
                    assert_eq!(table.position(|e| e.tag == entry.tag), Some(index));
                }
                assert!(table.get(table.len()).is_none());
            }
        }
    }
}
