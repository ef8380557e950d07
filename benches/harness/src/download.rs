//! The large body of the origin, sent from a file in memory without copying it.
//!
//! A crowd that asks for it at once would otherwise keep the origin busy with copying what nobody reads, and good requests would
//! wait for the origin, whatever the proxy does.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, memfd_create, sendfile};
use rustix::io::Errno;

use crate::Result;

/// The body, in a file of memory.
pub struct Download {
    file: OwnedFd,
    len: u64,
}

impl Download {
    /// A body of this many bytes.
    pub fn new(len: usize) -> Result<Self> {
        let mut file = std::fs::File::from(memfd_create("download", MemfdFlags::CLOEXEC)?);
        file.write_all(&vec![b'x'; len])?;
        Ok(Self {
            file: file.into(),
            len: len as u64,
        })
    }
}

/// One transfer of the body.
pub struct Transfer<'a> {
    download: &'a Download,
    sent: u64,
}

impl<'a> Transfer<'a> {
    /// Starts with the first byte.
    pub fn of(download: &'a Download) -> Self {
        Self { download, sent: 0 }
    }

    /// Sends what the socket takes. Whether all of it is sent.
    pub fn send(&mut self, socket: &TcpStream) -> std::io::Result<bool> {
        while self.sent < self.download.len {
            let left = usize::try_from(self.download.len - self.sent).unwrap_or(usize::MAX);
            match sendfile(socket, &self.download.file, Some(&mut self.sent), left) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }
}
