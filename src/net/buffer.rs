//! Pools of buffers and pipes, one per worker.
//!
//! A connection takes memory from the pool when there is something to read and returns it once all of it was consumed, so that
//! an idle connection holds none. Memory is zeroed when it is allocated and never again. Buffers and pipes that a worker has not
//! needed since the last [`Buffers::sweep`] are freed.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use super::budget::ByteBudget;
use super::pipe::Pipe;

/// Bytes in front of the content of a buffer, so that a message head can be put before a body that was received there.
const HEADROOM: usize = 512;
/// Size of a small buffer: fits nearly every head, together with a small body.
pub(crate) const SMALL: usize = 16 * 1024 - HEADROOM;
/// Size of a large buffer, for bodies that are streamed: 64 KiB and a head.
pub(crate) const LARGE: usize = 72 * 1024;
/// Size of a huge buffer, for bodies whose sender and receiver are both fast.
pub(crate) const HUGE: usize = 512 * 1024 - HEADROOM;
/// The pooled sizes, ascending.
const CLASSES: [usize; 3] = [SMALL, LARGE, HUGE];
/// Initial capacity of an output vector.
const OUT: usize = 4 * 1024;
/// An output vector that grew beyond this capacity is not pooled.
const OUT_MOST: usize = 64 * 1024;
/// Most free buffers of each size that are kept. Generous, because a new buffer has to be zeroed and thousands of connections may
/// need theirs again at the same time.
const FREE_MOST: [usize; 3] = [8192, 256, 8];
/// Most huge buffers in use at a time. It bounds the memory that peers which stop reading can occupy.
const HUGE_IN_USE: usize = 32;
/// Most pipes in use at a time: each takes two descriptors.
const PIPES_IN_USE: usize = 64;
/// Most bytes of request bodies that a worker buffers.
const BODIES: usize = 32 * 1024 * 1024;
/// Most bytes of finished responses that a worker holds, except those of requests that count under a limit.
const ANSWERS: usize = 32 * 1024 * 1024;
/// Most free pipes that are kept.
const PIPES_FREE: usize = 16;

#[derive(Debug)]
struct BufferPool {
    memory: [FreeList<Box<[u8]>>; 3],
    huge_in_use: usize,
    out: FreeList<Vec<u8>>,
    pipes: FreeList<Pipe>,
    pipes_in_use: usize,
    bodies: ByteBudget,
    answers: ByteBudget,
}

impl Default for BufferPool {
    fn default() -> Self {
        Self {
            memory: Default::default(),
            huge_in_use: 0,
            out: FreeList::default(),
            pipes: FreeList::default(),
            pipes_in_use: 0,
            bodies: ByteBudget::new(BODIES),
            answers: ByteBudget::new(ANSWERS),
        }
    }
}

/// A stack of free objects. The one that was used last is reused first, because its memory is likely to be in the CPU's cache.
#[derive(Debug)]
struct FreeList<T> {
    free: Vec<T>,
    /// The lowest length since the last `trim`: this many were not needed in that time.
    unused: usize,
}

impl<T> Default for FreeList<T> {
    fn default() -> Self {
        Self {
            free: Vec::new(),
            unused: 0,
        }
    }
}

impl<T> FreeList<T> {
    fn take(&mut self) -> Option<T> {
        let thing = self.free.pop();
        self.unused = self.unused.min(self.free.len());
        thing
    }

    fn give(&mut self, thing: T, most: usize) {
        if self.free.len() < most {
            self.free.push(thing);
        }
    }

    /// Frees the objects that were not needed since the last call, which lie at the bottom of the stack.
    fn trim(&mut self) {
        self.free.drain(..self.unused);
        self.unused = self.free.len();
    }
}

/// One worker's pool of buffers and pipes. Clones share the pool.
///
/// It also counts the huge buffers and the pipes that are in use, and owns the budgets for buffered bodies and finished responses.
/// A [`Buffer`] that has memory must be given back by [`Self::release`], also when its connection fails: the counts would otherwise
/// stay too high.
#[derive(Clone, Debug, Default)]
pub struct Buffers(Rc<RefCell<BufferPool>>);

impl Buffers {
    /// An empty pool. Buffers are allocated on demand.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives `buffer` memory of at least `size` bytes, rounded up to a pooled size. Its content is kept.
    #[inline]
    pub fn equip(&self, buffer: &mut Buffer, size: usize) {
        if buffer.mem.is_empty() {
            buffer.mem = self.take(size);
            buffer.clear();
        } else if buffer.capacity() < size {
            self.move_to(buffer, size);
        }
    }

    /// The budget for buffered request bodies.
    pub fn bodies(&self) -> ByteBudget {
        self.0.borrow().bodies.clone()
    }

    /// The budget for finished responses.
    pub fn answers(&self) -> ByteBudget {
        self.0.borrow().answers.clone()
    }

    /// The largest buffer that a body may ask for at the moment.
    pub fn most(&self) -> usize {
        if self.0.borrow().huge_in_use < HUGE_IN_USE {
            HUGE
        } else {
            LARGE
        }
    }

    /// Moves the content to a smaller buffer of at least `size` bytes. Does nothing if the content doesn't fit or the buffer isn't
    /// larger than that.
    pub fn shrink(&self, buffer: &mut Buffer, size: usize) {
        if buffer.capacity() > size && buffer.len() <= size {
            self.move_to(buffer, size);
        }
    }

    fn move_to(&self, buffer: &mut Buffer, size: usize) {
        let mut moved = Buffer::default();
        self.equip(&mut moved, size);
        moved.room()[..buffer.len()].copy_from_slice(buffer.bytes());
        moved.filled(buffer.len());
        let old = std::mem::replace(buffer, moved);
        self.give(old.mem);
    }

    /// Returns the memory of `buffer` to the pool if it is empty.
    #[inline]
    pub fn release(&self, buffer: &mut Buffer) {
        if buffer.is_empty() && !buffer.mem.is_empty() {
            self.give(std::mem::take(buffer).mem);
        }
    }

    /// Takes the first `n` bytes of `buffer` together with their memory. Those behind them are moved to other memory.
    pub(crate) fn split_off(&self, buffer: &mut Buffer, n: usize) -> Piece {
        let mut content = std::mem::take(buffer);
        let rest = content.len() - n;
        if rest > 0 {
            self.equip(buffer, rest);
            buffer.room()[..rest].copy_from_slice(&content.bytes()[n..]);
            buffer.filled(rest);
            content.end -= rest;
        }
        Piece {
            content,
            pool: self.clone(),
        }
    }

    /// An empty vector for output.
    pub fn take_out(&self) -> Vec<u8> {
        let free = self.0.borrow_mut().out.take();
        free.unwrap_or_else(|| Vec::with_capacity(OUT))
    }

    /// Returns a vector taken by [`Self::take_out`]. One that has grown large is dropped.
    pub fn give_out(&self, mut out: Vec<u8>) {
        if (OUT..=OUT_MOST).contains(&out.capacity()) {
            out.clear();
            self.0.borrow_mut().out.give(out, FREE_MOST[0]);
        }
    }

    /// Frees buffers and pipes that were not needed since the last call. To be called periodically.
    pub fn sweep(&self) {
        let mut pool = self.0.borrow_mut();
        pool.memory.iter_mut().for_each(FreeList::trim);
        pool.out.trim();
        pool.pipes.trim();
    }

    /// Number of free pipes.
    #[cfg(test)]
    pub fn spare_pipes(&self) -> usize {
        self.0.borrow().pipes.free.len()
    }

    /// An empty pipe. `None` if too many are in use, or if the system can't create one.
    pub fn pipe(&self) -> Option<PooledPipe> {
        let mut pool = self.0.borrow_mut();
        if pool.pipes_in_use >= PIPES_IN_USE {
            return None;
        }
        let pipe = pool.pipes.take().or_else(|| Pipe::new().ok())?;
        pool.pipes_in_use += 1;
        drop(pool);
        Some(PooledPipe {
            pipe: Some(pipe),
            pool: self.clone(),
        })
    }

    /// Number of free small buffers.
    #[cfg(test)]
    pub fn spare_small(&self) -> usize {
        self.0.borrow().memory[0].free.len()
    }

    fn take(&self, size: usize) -> Box<[u8]> {
        // Larger than any pooled size: freed instead of pooled by `give`.
        let Some(class) = CLASSES.iter().position(|&class| size <= class) else {
            return vec![0; HEADROOM + size].into_boxed_slice();
        };
        let mut pool = self.0.borrow_mut();
        pool.huge_in_use += usize::from(CLASSES[class] == HUGE);
        let free = pool.memory[class].take();
        free.unwrap_or_else(|| vec![0; HEADROOM + CLASSES[class]].into_boxed_slice())
    }

    fn give(&self, mem: Box<[u8]>) {
        let size = mem.len() - HEADROOM;
        if let Some(class) = CLASSES.iter().position(|&class| size == class) {
            let mut pool = self.0.borrow_mut();
            pool.huge_in_use -= usize::from(size == HUGE);
            pool.memory[class].give(mem, FREE_MOST[class]);
        }
    }
}

/// Bytes with memory of their own, which returns to the pool when this is dropped.
#[derive(Debug)]
pub struct Piece {
    content: Buffer,
    pool: Buffers,
}

impl Deref for Piece {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        self.content.bytes()
    }
}

impl Piece {
    /// Drops the first `n` bytes.
    pub(crate) fn consume(&mut self, n: usize) {
        self.content.consume(n);
    }

    /// Puts `bytes` before the others. `false` if there is no room for them.
    #[inline]
    pub(crate) fn prepend(&mut self, bytes: &[u8]) -> bool {
        let Buffer { mem, start, .. } = &mut self.content;
        let Some(at) = start.checked_sub(bytes.len()) else {
            return false;
        };
        mem[at..*start].copy_from_slice(bytes);
        *start = at;
        true
    }

    /// Puts `bytes` behind the others. `false` if there is no room for them.
    #[inline]
    pub(crate) fn append(&mut self, bytes: &[u8]) -> bool {
        let Buffer { mem, end, .. } = &mut self.content;
        let Some(room) = mem[*end..].get_mut(..bytes.len()) else {
            return false;
        };
        room.copy_from_slice(bytes);
        *end += bytes.len();
        true
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.content.clear();
        self.pool.release(&mut self.content);
    }
}

/// A pipe of the pool. Dropping it returns it, or closes it if there are bytes in it.
#[derive(Debug)]
pub struct PooledPipe {
    pipe: Option<Pipe>,
    pool: Buffers,
}

impl Deref for PooledPipe {
    type Target = Pipe;
    fn deref(&self) -> &Pipe {
        // Only `drop` takes the pipe, after which there are no more borrows.
        self.pipe.as_ref().expect("taken only on drop")
    }
}

impl DerefMut for PooledPipe {
    fn deref_mut(&mut self) -> &mut Pipe {
        // Only `drop` takes the pipe, after which there are no more borrows.
        self.pipe.as_mut().expect("taken only on drop")
    }
}

impl Drop for PooledPipe {
    fn drop(&mut self) {
        let mut pool = self.pool.0.borrow_mut();
        pool.pipes_in_use -= 1;
        if let Some(pipe) = self.pipe.take()
            && pipe.held() == 0
        {
            pool.pipes.give(pipe, PIPES_FREE);
        }
    }
}

/// A read buffer. The bytes that were read and not consumed yet are `mem[start..end]`, behind [`HEADROOM`].
///
/// It has no memory until [`Buffers::equip`] gives it some. Its owner calls [`Buffers::release`] whenever it is empty, and clears
/// and releases it before it is dropped.
#[derive(Debug, Default)]
pub struct Buffer {
    mem: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// The bytes that were not consumed yet.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.mem[self.start..self.end]
    }

    /// Number of bytes that were not consumed yet.
    #[inline]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Most bytes that fit in.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.mem.len().saturating_sub(HEADROOM)
    }

    /// Where the content begins.
    #[inline]
    fn front(&self) -> usize {
        HEADROOM.min(self.mem.len())
    }

    /// Consumes the first `n` bytes.
    #[inline]
    pub fn consume(&mut self, n: usize) {
        debug_assert!(n <= self.len());
        self.start += n;
        if self.start == self.end {
            self.clear();
        }
    }

    /// The free memory behind the content. The content is moved to the front first if it reaches the end.
    #[inline]
    pub fn room(&mut self) -> &mut [u8] {
        if self.end == self.mem.len() && self.start > self.front() {
            self.compact();
        }
        &mut self.mem[self.end..]
    }

    /// Moves the content to the front.
    pub fn compact(&mut self) {
        let front = self.front();
        self.mem.copy_within(self.start..self.end, front);
        self.end -= self.start - front;
        self.start = front;
    }

    /// Adds the first `n` bytes of [`Self::room`] to the content.
    #[inline]
    pub fn filled(&mut self, n: usize) {
        debug_assert!(self.end + n <= self.mem.len());
        self.end += n;
    }

    /// Drops the content. The memory is kept.
    #[inline]
    pub fn clear(&mut self) {
        self.start = self.front();
        self.end = self.start;
    }
}

#[cfg(test)]
#[path = "buffer_tests.rs"]
mod tests;
