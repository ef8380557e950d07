//! Read buffers that are lent for as long as there is something to read, and given back.
//!
//! Memory is initialised once, when a buffer is made; after that it goes round. An idle connection holds none.

use std::cell::RefCell;
use std::rc::Rc;

/// A small buffer: holds nearly every head and small body.
pub const SMALL: usize = 8 * 1024;
/// A large buffer: for bodies that flow.
pub const LARGE: usize = 64 * 1024;
/// First capacity of an output vector.
const OUT: usize = 4 * 1024;
/// How many spare buffers of each size a worker keeps.
const SPARE: usize = 256;

#[derive(Debug, Default)]
struct Shelf {
    small: Vec<Box<[u8]>>,
    large: Vec<Box<[u8]>>,
    out: Vec<Vec<u8>>,
}

/// One worker's spare buffers. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Buffers(Rc<RefCell<Shelf>>);

impl Buffers {
    /// No buffers yet; they are made on demand.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes sure that `buffer` has memory of at least `size` bytes (rounded up to a class), keeping its content.
    pub fn equip(&self, buffer: &mut Buffer, size: usize) {
        if buffer.mem.len() >= size {
            return;
        }
        let mut mem = self.take(size);
        let len = buffer.end - buffer.start;
        mem[..len].copy_from_slice(&buffer.mem[buffer.start..buffer.end]);
        let old = std::mem::replace(&mut buffer.mem, mem);
        buffer.start = 0;
        buffer.end = len;
        self.give(old);
    }

    /// Takes the memory back from a buffer that is empty; one that isn't keeps it.
    pub fn release(&self, buffer: &mut Buffer) {
        if buffer.is_empty() {
            buffer.start = 0;
            buffer.end = 0;
            self.give(std::mem::take(&mut buffer.mem));
        }
    }

    /// An empty vector to gather output in, with whatever capacity it had before.
    pub fn take_out(&self) -> Vec<u8> {
        self.0
            .borrow_mut()
            .out
            .pop()
            .unwrap_or_else(|| Vec::with_capacity(OUT))
    }

    /// Takes such a vector back. One that grew beyond [`LARGE`] is dropped.
    pub fn give_out(&self, mut out: Vec<u8>) {
        let mut shelf = self.0.borrow_mut();
        if out.capacity() >= OUT && out.capacity() <= LARGE && shelf.out.len() < SPARE {
            out.clear();
            shelf.out.push(out);
        }
    }

    fn take(&self, size: usize) -> Box<[u8]> {
        let mut shelf = self.0.borrow_mut();
        let spare = match size {
            0..=SMALL => shelf.small.pop(),
            _ if size <= LARGE => shelf.large.pop(),
            _ => None,
        };
        let class = match size {
            0..=SMALL => SMALL,
            _ if size <= LARGE => LARGE,
            n => n,
        };
        spare.unwrap_or_else(|| vec![0; class].into_boxed_slice())
    }

    fn give(&self, mem: Box<[u8]>) {
        let mut shelf = self.0.borrow_mut();
        let place = match mem.len() {
            SMALL => &mut shelf.small,
            LARGE => &mut shelf.large,
            _ => return,
        };
        if place.len() < SPARE {
            place.push(mem);
        }
    }
}

/// Bytes read and not yet used: `mem[start..end]`.
#[derive(Debug, Default)]
pub struct Buffer {
    mem: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// The unread bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.mem[self.start..self.end]
    }

    /// Number of unread bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Nothing unread.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// How many bytes the memory holds.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.mem.len()
    }

    /// Drops the first `n` unread bytes.
    #[inline]
    pub fn consume(&mut self, n: usize) {
        debug_assert!(n <= self.len());
        self.start += n;
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Room to read into; moves unread bytes to the front when the rear is used up.
    #[inline]
    pub fn room(&mut self) -> &mut [u8] {
        if self.end == self.mem.len() && self.start > 0 {
            self.compact();
        }
        &mut self.mem[self.end..]
    }

    /// Moves unread bytes to the front.
    pub fn compact(&mut self) {
        self.mem.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
    }

    /// `n` bytes of [`Self::room`] were filled.
    #[inline]
    pub fn filled(&mut self, n: usize) {
        debug_assert!(self.end + n <= self.mem.len());
        self.end += n;
    }

    /// Forgets everything unread.
    pub fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
    }
}
