//! The output of a sink: a file that may be renamed, or a pipe, terminal or socket that may stall.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags, fstat};
use rustix::io::Errno;

/// Largest write to a pipe that the kernel doesn't mix with the writes of others: `PIPE_BUF` (pipe(7)). The process log, or
/// another process, may write to the same pipe.
const PIPE_BUF: usize = 4096;

/// Time for which a write that failed isn't repeated.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Shortest time between two checks of the name of a file.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Time for which a stalled reader is waited for before the writer checks whether the sink is retired.
const STALL_CHECK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// The result of writing lines.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// Number of lines that were lost.
    pub lost: u64,
    /// The error; `None` also if an earlier error persists.
    pub error: Option<io::Error>,
}

/// An open output.
#[derive(Debug)]
pub enum LogOutput {
    /// A regular file, by its path.
    File(LogFile),
    /// A pipe, terminal, socket or device.
    Stream(OwnedFd),
}

impl LogOutput {
    /// Opens a file for appending, and creates it with mode 0640 if it is missing. The path may also be that of a named
    /// pipe with a reader, or of a device.
    ///
    /// # Errors
    /// Errors of open(2).
    pub fn file(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        let kind = file.metadata()?.file_type();
        if kind.is_fifo() || kind.is_char_device() || kind.is_socket() {
            return Ok(Self::Stream(file.into()));
        }
        Ok(Self::File(LogFile {
            identity: identity(&file)?,
            file,
            path: path.to_owned(),
            checked: Instant::now(),
            torn: Vec::new(),
            retry_at: None,
            failed_to_reopen: false,
        }))
    }

    /// Writes whole lines. A stalled reader is waited for until `gives_up` returns true.
    pub(super) fn write(
        &mut self,
        bytes: &[u8],
        now: Instant,
        gives_up: &dyn Fn() -> bool,
    ) -> Written {
        match self {
            Self::File(file) => file.write(bytes, now),
            Self::Stream(stream) => write_stream(stream, bytes, gives_up),
        }
    }

    /// Opens the file again if its name leads to another file or none, or if that is `asked` for.
    pub(super) fn refresh(&mut self, now: Instant, asked: bool) {
        match self {
            Self::File(file) => file.refresh(now, asked),
            Self::Stream(_) => {}
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        // Opening a named pipe without a reader would block. Regular files ignore the flag.
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(path)
}

/// Device and inode.
type Identity = (u64, u64);

fn identity(file: &File) -> io::Result<Identity> {
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

/// A file of lines.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
    identity: Identity,
    /// Time at which its name was last checked.
    checked: Instant,
    /// The rest of a line of which the disk took only the beginning. It is written before anything else.
    torn: Vec<u8>,
    /// Time before which nothing is written, after an error.
    retry_at: Option<Instant>,
    failed_to_reopen: bool,
}

impl LogFile {
    fn write(&mut self, bytes: &[u8], now: Instant) -> Written {
        if self.retry_at.is_some_and(|at| now < at) {
            return Written {
                lost: newlines(bytes),
                error: None,
            };
        }
        self.retry_at = None;
        let mut torn = std::mem::take(&mut self.torn);
        if let Err((written, error)) = write_all(&self.file, &torn) {
            torn.drain(..written);
            self.torn = torn;
            return self.failed(newlines(bytes), error, now);
        }
        let Err((written, error)) = write_all(&self.file, bytes) else {
            return Written::default();
        };
        let (before, rest) = bytes.split_at(written);
        let mut lost = newlines(rest);
        // The beginning of a line is in the file. Its rest is kept and written first once there is room again, or else the next
        // line would continue it. So this line isn't lost.
        if before.last().is_some_and(|last| *last != b'\n') {
            let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
            self.torn = rest[..end].into();
            lost -= 1;
        }
        self.failed(lost, error, now)
    }

    fn failed(&mut self, lost: u64, error: io::Error, now: Instant) -> Written {
        self.retry_at = Some(now + RETRY_AFTER);
        Written {
            lost,
            error: Some(error),
        }
    }

    fn refresh(&mut self, now: Instant, asked: bool) {
        if !asked && now.duration_since(self.checked) < CHECK_EVERY {
            return;
        }
        self.checked = now;
        let there = self.path.metadata();
        let same = there.is_ok_and(|m| (m.dev(), m.ino()) == self.identity);
        if same && !asked {
            return;
        }
        let opened = open(&self.path).and_then(|file| Ok((identity(&file)?, file)));
        match opened {
            Ok((identity, file)) => {
                // The rest of a torn line belongs to the previous file. If it can't take it now, it never will.
                let torn = std::mem::take(&mut self.torn);
                let _ = write_all(&self.file, &torn);
                self.file = file;
                self.identity = identity;
                self.retry_at = None;
                self.failed_to_reopen = false;
                tracing::info!(path = %self.path.display(), "access log reopened");
            }
            // The previous file is still open, even if it was renamed.
            Err(error) if !std::mem::replace(&mut self.failed_to_reopen, true) => {
                let path = self.path.display();
                tracing::warn!(%path, %error, "access log can't be reopened, keeping the previous file");
            }
            Err(_) => {}
        }
    }
}

/// Writes all bytes.
///
/// # Errors
/// The number of bytes that were written, and the error that stopped the writing.
fn write_all(out: impl AsFd, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut at = 0;
    while at < bytes.len() {
        match rustix::io::write(&out, &bytes[at..]) {
            Ok(0) => return Err((at, io::ErrorKind::WriteZero.into())),
            Ok(n) => at += n,
            Err(Errno::INTR) => {}
            Err(error) => return Err((at, error.into())),
        }
    }
    Ok(())
}

/// Writes lines in pieces that the kernel doesn't mix with the writes of others. poll(2) comes before each write, so that a
/// stalled reader doesn't block the thread even if the descriptor is in blocking mode.
fn write_stream(out: &OwnedFd, bytes: &[u8], gives_up: &dyn Fn() -> bool) -> Written {
    let is_file = fstat(out).is_ok_and(|s| FileType::from_raw_mode(s.st_mode).is_file());
    let most = if is_file { usize::MAX } else { PIPE_BUF };
    let mut rest = bytes;
    while !rest.is_empty() {
        let piece = piece(rest, most);
        match write_piece(out, piece, most, gives_up) {
            Ok(()) => rest = &rest[piece.len()..],
            Err(error) => {
                return Written {
                    lost: newlines(rest),
                    error,
                };
            }
        }
    }
    Written::default()
}

/// The first lines that fit into `most` bytes, at least one.
fn piece(lines: &[u8], most: usize) -> &[u8] {
    if lines.len() <= most {
        return lines;
    }
    let end = memchr::memrchr(b'\n', &lines[..most])
        .or_else(|| memchr::memchr(b'\n', lines))
        .map_or(lines.len(), |at| at + 1);
    &lines[..end]
}

/// # Errors
/// The error; `None` if the piece was given up.
fn write_piece(
    out: &OwnedFd,
    mut piece: &[u8],
    most: usize,
    gives_up: &dyn Fn() -> bool,
) -> Result<(), Option<io::Error>> {
    while !piece.is_empty() {
        let mut ready = [PollFd::new(out, PollFlags::OUT)];
        match poll(&mut ready, Some(&STALL_CHECK)) {
            Ok(0) if gives_up() => return Err(None),
            Ok(0) | Err(Errno::INTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(Some(error.into())),
        }
        // A pipe that is ready has room for `PIPE_BUF` bytes, so a longer line is written bit by bit.
        match rustix::io::write(out, &piece[..piece.len().min(most)]) {
            Ok(0) => return Err(Some(io::ErrorKind::WriteZero.into())),
            Ok(n) => piece = &piece[n..],
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(Some(error.into())),
        }
    }
    Ok(())
}

fn newlines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

#[cfg(test)]
#[path = "output_tests.rs"]
mod tests;
