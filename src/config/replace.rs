//! Locks a configuration file for an edit and replaces its text, atomically if possible.
//!
//! The lock is a `flock` on the file's own inode rather than on a lock file beside it. So it also works between
//! containers that share the file by a bind mount, and for users who can't write to the directory. A replacement is a
//! rename, after which the path leads to a new inode. The new file is therefore locked before the rename, and a process
//! that gets a lock checks that the path still leads to the file it has locked.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// An exclusive lock on an existing file. Dropping it releases the lock.
#[derive(Debug)]
pub struct LockedFile {
    path: PathBuf,
    file: File,
}

/// How a file's text was replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// By a rename: readers see either the old or the new text, never a part of it.
    Renamed,
    /// By overwriting the file, because a rename isn't possible. Readers may have seen a part of the new text.
    InPlace(InPlace),
}

/// Why a file was overwritten instead of being replaced by a rename.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InPlace {
    /// The file itself is a mount point, as with a bind mount into a container.
    MountPoint,
    /// The file belongs to another user, and this process may not create a file for that user.
    Owner,
    /// No file can be created in its directory, or none there may be renamed over.
    Directory,
}

impl fmt::Display for InPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MountPoint => "it is a mount point, which a rename can't replace",
            Self::Owner => "it belongs to another user, and a new file would belong to this one",
            Self::Directory => "no file can be created in its directory",
        })
    }
}

impl LockedFile {
    /// Locks the file without waiting. Returns `None` if another process holds the lock.
    ///
    /// # Errors
    /// Fails if the file can't be opened for reading, or its file system doesn't support locks.
    pub fn try_lock(path: impl Into<PathBuf>) -> io::Result<Option<Self>> {
        let path = path.into();
        loop {
            let file = open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // If the file was replaced between `open` and `try_lock`, the lock is on an inode that the path has left, and
            // excludes nobody. Try again with the new one.
            if identity(&fs::metadata(&path)?) == identity(&file.metadata()?) {
                return Ok(Some(Self { path, file }));
            }
        }
    }

    /// Reads the current text.
    ///
    /// # Errors
    /// Fails if the file can't be read or isn't UTF-8.
    pub fn read(&self) -> io::Result<String> {
        fs::read_to_string(&self.path)
    }

    /// Replaces the text and keeps the lock, the mode and the owner. If the path is a symbolic link, its target is replaced.
    ///
    /// # Errors
    /// Fails if neither the directory nor the file is writable, or the disk is full. The old text is still there then.
    pub fn replace(&mut self, text: &str) -> io::Result<Replaced> {
        let target = fs::canonicalize(&self.path)?;
        match rename_over(&target, text) {
            Ok(file) => {
                self.file = file;
                Ok(Replaced::Renamed)
            }
            Err(error) => {
                let why = in_place(&error).ok_or(error.source)?;
                overwrite(&target, text)?;
                Ok(Replaced::InPlace(why))
            }
        }
    }
}

/// Opens the file for writing if possible: on NFS, an exclusive lock requires a writable descriptor (flock(2)).
fn open(path: &Path) -> io::Result<File> {
    let both = OpenOptions::new().read(true).write(true).open(path);
    both.or_else(|_| File::open(path))
}

fn identity(about: &fs::Metadata) -> (u64, u64) {
    (about.dev(), about.ino())
}

/// The step of a replacement by rename that failed, and why.
#[derive(Debug)]
struct ReplaceError {
    step: ReplaceStep,
    source: io::Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReplaceStep {
    Create,
    Chown,
    Write,
    Rename,
}

impl ReplaceStep {
    fn failed(self) -> impl Fn(io::Error) -> ReplaceError {
        move |source| ReplaceError { step: self, source }
    }
}

/// Returns why the file should be overwritten instead, or `None` if that wouldn't help: a full disk, for example.
fn in_place(failed: &ReplaceError) -> Option<InPlace> {
    let errno = Errno::from_io_error(&failed.source)?;
    match (failed.step, errno) {
        (ReplaceStep::Create, Errno::ACCESS | Errno::PERM | Errno::ROFS) => {
            Some(InPlace::Directory)
        }
        // In a sticky or append-only directory, files can be created but not renamed over.
        (ReplaceStep::Rename, Errno::ACCESS | Errno::PERM) => Some(InPlace::Directory),
        (ReplaceStep::Chown, Errno::PERM) => Some(InPlace::Owner),
        // The kernel reports EBUSY for a mount point, and some overlay file systems EXDEV.
        (ReplaceStep::Rename, Errno::BUSY | Errno::XDEV) => Some(InPlace::MountPoint),
        _ => None,
    }
}

/// Writes a new file beside `target` and renames it over `target`. Returns the new file, locked.
fn rename_over(target: &Path, text: &str) -> Result<File, ReplaceError> {
    let about = fs::metadata(target).map_err(ReplaceStep::Create.failed())?;
    let directory = target.parent().unwrap_or(Path::new("/"));
    let (temporary, mut file) =
        create_beside(target, directory).map_err(ReplaceStep::Create.failed())?;
    let written = prepare(&mut file, text, &about)
        .and_then(|()| fs::rename(&temporary, target).map_err(ReplaceStep::Rename.failed()));
    if let Err(error) = written {
        // Report the first error, whether or not the temporary file can be removed.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    // Make the rename durable. If the directory can't be synced (no permission to read it), the edit is done nevertheless.
    if let Ok(directory) = File::open(directory) {
        let _ = directory.sync_all();
    }
    Ok(file)
}

/// Creates a file with this text, and with the mode and, if possible, the owner of the file at `like`.
///
/// # Errors
/// The file exists, or can't be written.
pub(super) fn create(path: &Path, text: &str, like: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let about = fs::metadata(like)?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    let (temporary, file) = create_beside(path, directory)?;
    let written = || -> io::Result<()> {
        // Only root may give a file away; it is of use with this process' owner too.
        let _ = std::os::unix::fs::fchown(&file, Some(about.uid()), Some(about.gid()));
        file.set_permissions(fs::Permissions::from_mode(about.mode() & 0o7777))?;
        write_from_start(&file, text.as_bytes())?;
        fs::rename(&temporary, path)
    };
    written().inspect_err(|_| {
        // Report the first error, whether or not the temporary file can be removed.
        let _ = fs::remove_file(&temporary);
    })
}

/// Creates or replaces a file that only this user can read. Readers see either the old or the new text.
///
/// # Errors
/// The file can't be written.
pub fn private(path: &Path, text: &str) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let (temporary, file) = create_beside(path, directory)?;
    let written = write_from_start(&file, text.as_bytes());
    written
        .and_then(|()| fs::rename(&temporary, path))
        .inspect_err(|_| {
            // Report the first error, whether or not the temporary file can be removed.
            let _ = fs::remove_file(&temporary);
        })
}

/// Creates a temporary file that only this user can read. It is in the same directory, because a rename can't cross file
/// systems.
fn create_beside(target: &Path, directory: &Path) -> io::Result<(PathBuf, File)> {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    loop {
        let temporary = directory.join(format!(".{name}.{:08x}.tmp", fastrand::u32(..)));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary);
        match file {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            file => return file.map(|file| (temporary, file)),
        }
    }
}

/// Gives the new file owner, mode, text and lock, all before the rename makes it visible.
fn prepare(file: &mut File, text: &str, about: &fs::Metadata) -> Result<(), ReplaceError> {
    let write = ReplaceStep::Write.failed();
    let ours = file.metadata().map_err(&write)?;
    if (ours.uid(), ours.gid()) != (about.uid(), about.gid()) {
        let owned = std::os::unix::fs::fchown(&*file, Some(about.uid()), Some(about.gid()));
        owned.map_err(ReplaceStep::Chown.failed())?;
    }
    // After fchown, which clears the set-user-ID and set-group-ID bits.
    let mode = fs::Permissions::from_mode(about.mode() & 0o7777);
    file.set_permissions(mode).map_err(&write)?;
    file.write_all(text.as_bytes()).map_err(&write)?;
    file.sync_all().map_err(&write)?;
    // This can't block, since no other process knows the file yet. It comes before the rename, so that the path never leads
    // to an unlocked file during an edit.
    file.lock().map_err(&write)
}

/// Overwrites the file without truncating it first, and restores the old text if that fails halfway.
fn overwrite(target: &Path, text: &str) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(target)?;
    let old = fs::read(target)?;
    let written = write_from_start(&file, text.as_bytes());
    if written.is_err() {
        // The blocks of the old text are still allocated, so this succeeds on a full disk as well.
        let _ = write_from_start(&file, &old);
    }
    written
}

fn write_from_start(file: &File, bytes: &[u8]) -> io::Result<()> {
    file.write_all_at(bytes, 0)?;
    file.set_len(bytes.len() as u64)?;
    file.sync_all()
}

#[cfg(test)]
mod tests;
