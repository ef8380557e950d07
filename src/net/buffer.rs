//! Read buffers that are lent for as long as there is something to read, and given back.
//!
//! Memory is initialised once, when a buffer is made; after that it goes round. An idle connection holds none.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use super::budget::ByteBudget;
use super::pipe::Pipe;

/// A small buffer: holds nearly every head, and a small body with it.
pub(crate) const SMALL: usize = 16 * 1024;
/// A large buffer: for bodies that flow; 64 KiB and a head.
pub(crate) const LARGE: usize = 72 * 1024;
/// A huge buffer: for bodies that come and go as fast as they are moved.
pub(crate) const HUGE: usize = 512 * 1024;
/// The sizes that are kept, ascending.
const CLASSES: [usize; 3] = [SMALL, LARGE, HUGE];
/// First capacity of an output vector.
const OUT: usize = 4 * 1024;
/// An output vector that grew beyond this is not kept.
const OUT_MOST: usize = 64 * 1024;
/// How many spare buffers of each size a worker keeps: as many as are in use at a time, even by thousands of connections,
/// for a new one has to be filled with zeros. Those that were not needed of late go with the next [`Buffers::tend`].
const SPARE: [usize; 3] = [8192, 256, 8];
/// How many huge buffers a worker lends at a time: peers that stop reading must not hold many.
const HUGE_LENT: usize = 32;
/// How many pipes a worker lends at a time: each takes two descriptors.
const PIPES_LENT: usize = 64;
/// Bytes of request bodies that a worker buffers at a time.
const BODIES: usize = 32 * 1024 * 1024;
/// Bytes of finished responses that a worker holds at a time besides those of requests that count under a limit.
const ANSWERS: usize = 32 * 1024 * 1024;
/// How many spare pipes it keeps.
const PIPES_SPARE: usize = 16;

#[derive(Debug)]
struct BufferPool {
    spare: [Pile<Box<[u8]>>; 3],
    huge_lent: usize,
    out: Pile<Vec<u8>>,
    pipes: Pile<Pipe>,
    pipes_lent: usize,
    bodies: ByteBudget,
    answers: ByteBudget,
}

impl Default for BufferPool {
    fn default() -> Self {
        Self {
            spare: Default::default(),
            huge_lent: 0,
            out: Pile::default(),
            pipes: Pile::default(),
            pipes_lent: 0,
            bodies: ByteBudget::new(BODIES),
            answers: ByteBudget::new(ANSWERS),
        }
    }
}

/// Spare things of one kind; the one used last is used next, since the processor still knows its memory.
#[derive(Debug)]
struct Pile<T> {
    spare: Vec<T>,
    /// So many were not needed since the last look.
    unused: usize,
}

impl<T> Default for Pile<T> {
    fn default() -> Self {
        Self {
            spare: Vec::new(),
            unused: 0,
        }
    }
}

impl<T> Pile<T> {
    fn take(&mut self) -> Option<T> {
        let thing = self.spare.pop();
        self.unused = self.unused.min(self.spare.len());
        thing
    }

    fn give(&mut self, thing: T, most: usize) {
        if self.spare.len() < most {
            self.spare.push(thing);
        }
    }

    fn tend(&mut self) {
        self.spare.drain(..self.unused);
        self.unused = self.spare.len();
    }
}

/// One worker's spare buffers. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Buffers(Rc<RefCell<BufferPool>>);

impl Buffers {
    /// No buffers yet; they are made on demand.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes sure that `buffer` has memory of at least `size` bytes (rounded up to a class), keeping its content.
    #[inline]
    pub fn equip(&self, buffer: &mut Buffer, size: usize) {
        if buffer.mem.is_empty() {
            buffer.mem = self.take(size);
        } else if buffer.mem.len() < size {
            self.move_to(buffer, size);
        }
    }

    /// What the worker's buffered request bodies take their bytes from.
    pub fn bodies(&self) -> ByteBudget {
        self.0.borrow().bodies.clone()
    }

    /// What the worker's finished responses take their bytes from.
    pub fn answers(&self) -> ByteBudget {
        self.0.borrow().answers.clone()
    }

    /// The most that a body may ask for now.
    pub fn most(&self) -> usize {
        if self.0.borrow().huge_lent < HUGE_LENT {
            HUGE
        } else {
            LARGE
        }
    }

    /// Moves the content into memory of at least `size` bytes, if what it has now is larger than that and the content fits.
    pub fn shrink(&self, buffer: &mut Buffer, size: usize) {
        if buffer.mem.len() > size && buffer.len() <= size {
            self.move_to(buffer, size);
        }
    }

    fn move_to(&self, buffer: &mut Buffer, size: usize) {
        let mut mem = self.take(size);
        let len = buffer.end - buffer.start;
        mem[..len].copy_from_slice(&buffer.mem[buffer.start..buffer.end]);
        let old = std::mem::replace(&mut buffer.mem, mem);
        buffer.start = 0;
        buffer.end = len;
        self.give(old);
    }

    /// Takes the memory back from a buffer that is empty; one that isn't keeps it.
    #[inline]
    pub fn release(&self, buffer: &mut Buffer) {
        if buffer.is_empty() && !buffer.mem.is_empty() {
            buffer.start = 0;
            buffer.end = 0;
            self.give(std::mem::take(&mut buffer.mem));
        }
    }

    /// An empty vector to gather output in, with whatever capacity it had before.
    pub fn take_out(&self) -> Vec<u8> {
        let spare = self.0.borrow_mut().out.take();
        spare.unwrap_or_else(|| Vec::with_capacity(OUT))
    }

    /// Takes such a vector back. One that grew large is dropped.
    pub fn give_out(&self, mut out: Vec<u8>) {
        if (OUT..=OUT_MOST).contains(&out.capacity()) {
            out.clear();
            self.0.borrow_mut().out.give(out, SPARE[0]);
        }
    }

    /// From time to time: drops what was not needed since the last call.
    pub fn tend(&self) {
        let mut shelf = self.0.borrow_mut();
        shelf.spare.iter_mut().for_each(Pile::tend);
        shelf.out.tend();
        shelf.pipes.tend();
    }

    /// Pipes that lie idle.
    #[cfg(test)]
    pub fn spare_pipes(&self) -> usize {
        self.0.borrow().pipes.spare.len()
    }

    /// A pipe, unless too many are lent or the system has none.
    pub fn pipe(&self) -> Option<LentPipe> {
        let mut shelf = self.0.borrow_mut();
        if shelf.pipes_lent >= PIPES_LENT {
            return None;
        }
        let pipe = shelf.pipes.take().or_else(|| Pipe::new().ok())?;
        shelf.pipes_lent += 1;
        drop(shelf);
        Some(LentPipe {
            pipe: Some(pipe),
            home: self.clone(),
        })
    }

    fn take(&self, size: usize) -> Box<[u8]> {
        let Some(class) = CLASSES.iter().position(|&class| size <= class) else {
            return vec![0; size].into_boxed_slice();
        };
        let mut shelf = self.0.borrow_mut();
        shelf.huge_lent += usize::from(CLASSES[class] == HUGE);
        let spare = shelf.spare[class].take();
        spare.unwrap_or_else(|| vec![0; CLASSES[class]].into_boxed_slice())
    }

    fn give(&self, mem: Box<[u8]>) {
        if let Some(class) = CLASSES.iter().position(|&class| mem.len() == class) {
            let mut shelf = self.0.borrow_mut();
            shelf.huge_lent -= usize::from(mem.len() == HUGE);
            shelf.spare[class].give(mem, SPARE[class]);
        }
    }
}

/// A pipe that goes back when it is dropped; with bytes in it, it is closed.
#[derive(Debug)]
pub struct LentPipe {
    pipe: Option<Pipe>,
    home: Buffers,
}

impl Deref for LentPipe {
    type Target = Pipe;
    fn deref(&self) -> &Pipe {
        self.pipe.as_ref().expect("there until it is dropped")
    }
}

impl DerefMut for LentPipe {
    fn deref_mut(&mut self) -> &mut Pipe {
        self.pipe.as_mut().expect("there until it is dropped")
    }
}

impl Drop for LentPipe {
    fn drop(&mut self) {
        let mut shelf = self.home.0.borrow_mut();
        shelf.pipes_lent -= 1;
        if let Some(pipe) = self.pipe.take()
            && pipe.held() == 0
        {
            shelf.pipes.give(pipe, PIPES_SPARE);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(buffers: &Buffers, size: usize, text: &[u8]) -> Buffer {
        let mut buffer = Buffer::default();
        buffers.equip(&mut buffer, size);
        buffer.room()[..text.len()].copy_from_slice(text);
        buffer.filled(text.len());
        buffer
    }

    #[test]
    fn content_moves_along_whatever_the_size() {
        let buffers = Buffers::new();
        let mut buffer = holding(&buffers, 1, b"abcdef");
        buffer.consume(2);
        for (size, capacity) in [(SMALL + 1, LARGE), (LARGE + 1, HUGE), (HUGE + 1, HUGE + 1)] {
            buffers.equip(&mut buffer, size);
            assert_eq!(
                (buffer.bytes(), buffer.capacity()),
                (&b"cdef"[..], capacity)
            );
        }
        buffers.shrink(&mut buffer, LARGE);
        assert_eq!((buffer.bytes(), buffer.capacity()), (&b"cdef"[..], LARGE));
        let full = vec![b'x'; LARGE + 1];
        let mut full = holding(&buffers, HUGE, &full);
        buffers.shrink(&mut full, LARGE);
        assert_eq!(full.capacity(), HUGE, "what doesn't fit stays where it is");
    }

    #[test]
    fn huge_buffers_are_few() {
        let buffers = Buffers::new();
        let mut lent: Vec<_> = (0..HUGE_LENT)
            .map(|_| holding(&buffers, HUGE, b""))
            .collect();
        assert_eq!(buffers.most(), LARGE);
        buffers.release(&mut lent[0]);
        assert_eq!(buffers.most(), HUGE);
    }

    #[test]
    fn what_thousands_need_at_a_time_is_there_for_the_next_thousands() {
        let buffers = Buffers::new();
        let spare = || buffers.0.borrow().spare[0].spare.len();
        for _ in 0..2 {
            let lend = |_| holding(&buffers, SMALL, b"");
            let mut lent: Vec<_> = (0..8_000).map(lend).collect();
            assert_eq!(spare(), 0);
            lent.iter_mut().for_each(|b| buffers.release(b));
            assert_eq!(spare(), 8_000);
            buffers.tend();
        }
        buffers.tend();
        assert_eq!(spare(), 0, "nobody needed any");
    }

    #[test]
    fn spare_memory_that_nobody_needs_goes() {
        let buffers = Buffers::new();
        let mut lent = [(); 3].map(|()| holding(&buffers, SMALL, b""));
        lent.iter_mut().for_each(|b| buffers.release(b));
        let spare = || buffers.0.borrow().spare[0].spare.len();
        buffers.tend();
        assert_eq!(spare(), 3, "all three were needed since the beginning");
        let mut one = holding(&buffers, SMALL, b"");
        buffers.release(&mut one);
        buffers.tend();
        assert_eq!(spare(), 1);
    }
}
