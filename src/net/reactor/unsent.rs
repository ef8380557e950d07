//! The bytes of a socket's deferred write that the kernel has not taken yet.

use std::cell::{Cell, RefCell};
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::net::{SendFlags, send};

/// Mostly empty: the bytes of one write, from its call until the kernel has taken all of them or refused the rest.
#[derive(Debug, Default)]
pub(super) struct Unsent {
    bytes: RefCell<Vec<u8>>,
    failure: Cell<Option<Errno>>,
}

impl Unsent {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.borrow().is_empty()
    }

    /// The bytes of another write; those of the last one were sent.
    #[inline]
    pub(super) fn put(&self, bytes: Vec<u8>) {
        self.bytes.replace(bytes);
    }

    /// Takes the bytes, or the memory of those that were sent.
    #[inline]
    pub(super) fn take(&self) -> Vec<u8> {
        self.bytes.take()
    }

    /// Why the kernel will take no more.
    #[inline]
    pub(super) fn failure(&self) -> Option<Errno> {
        self.failure.get()
    }

    /// Number of bytes that the kernel will never take.
    pub(super) fn refused(&self) -> usize {
        match self.failure.get() {
            Some(_) => self.bytes.borrow().len(),
            None => 0,
        }
    }

    /// Passes all bytes to the kernel, or as many as it takes.
    ///
    /// # Errors
    /// Those of `send(2)`, of which EAGAIN says that there is no room. Any other is returned from then on.
    pub(super) fn send_to(&self, socket: BorrowedFd<'_>) -> Result<(), Errno> {
        if let Some(error) = self.failure.get() {
            return Err(error);
        }
        let mut bytes = self.bytes.borrow_mut();
        while !bytes.is_empty() {
            match send(socket, &bytes, SendFlags::NOSIGNAL) {
                Ok(n) if n == bytes.len() => bytes.clear(),
                Ok(n) => drop(bytes.drain(..n)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(Errno::AGAIN),
                Err(error) => {
                    self.failure.set(Some(error));
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}
