//! A configuration file held for one edit, and its text replaced.
//!
//! The lock is a `flock` on the file's own inode, so it also holds between containers that share the file by a bind
//! mount, and between users who may only read the directory. A replacement is a rename, which gives the path another
//! inode: the new one is locked before it is renamed, and a process that gets a lock checks that the path still leads to it.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// An existing file that no other [`LockedFile`] holds. Dropping it releases the file.
#[derive(Debug)]
pub struct LockedFile {
    path: PathBuf,
    file: File,
}

/// How a text was replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// By a rename: a reader sees the old text or the new one, never a part.
    Renamed,
    /// The file was overwritten, because a rename isn't possible.
    InPlace(InPlace),
}

/// Why a file is overwritten instead of renamed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InPlace {
    /// The file itself is a mount point.
    MountPoint,
    /// It belongs to another user, to whom a new file can't be given.
    Owner,
    /// No file can be made in its directory.
    Directory,
}

impl fmt::Display for InPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MountPoint => "it is a mount point, which can't be renamed over",
            Self::Owner => "it belongs to another user, and a new file would belong to this one",
            Self::Directory => "no file can be created in its directory",
        })
    }
}

impl LockedFile {
    /// Locks the file. `None`: somebody else holds it now.
    ///
    /// # Errors
    /// It can't be opened for reading, or its file system has no locks.
    pub fn try_lock(path: impl Into<PathBuf>) -> io::Result<Option<Self>> {
        let path = path.into();
        loop {
            let file = open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // Renamed over between the open and the lock: that lock guards nothing.
            if identity(&fs::metadata(&path)?) == identity(&file.metadata()?) {
                return Ok(Some(Self { path, file }));
            }
        }
    }

    /// The text as it is now.
    ///
    /// # Errors
    /// It can't be read or isn't UTF-8.
    pub fn read(&self) -> io::Result<String> {
        fs::read_to_string(&self.path)
    }

    /// Replaces the text, keeping mode and owner, and goes on holding the file. A symbolic link stays, what it leads to
    /// is replaced.
    ///
    /// # Errors
    /// Neither the directory nor the file can be written, or the disk is full; then nothing has changed.
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

/// Opens for writing where that is allowed: over NFS an exclusive lock needs it.
fn open(path: &Path) -> io::Result<File> {
    let both = OpenOptions::new().read(true).write(true).open(path);
    both.or_else(|_| File::open(path))
}

fn identity(about: &fs::Metadata) -> (u64, u64) {
    (about.dev(), about.ino())
}

/// What of a replacement by rename failed.
#[derive(Debug)]
struct Failed {
    step: ReplaceStep,
    source: io::Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReplaceStep {
    Create,
    Own,
    Write,
    Rename,
}

impl ReplaceStep {
    fn failed(self) -> impl Fn(io::Error) -> Failed {
        move |source| Failed { step: self, source }
    }
}

/// Why the file can be overwritten where a rename failed; `None` where that would not help.
fn in_place(failed: &Failed) -> Option<InPlace> {
    let errno = Errno::from_io_error(&failed.source)?;
    match (failed.step, errno) {
        (ReplaceStep::Create, Errno::ACCESS | Errno::PERM | Errno::ROFS) => {
            Some(InPlace::Directory)
        }
        // In a sticky directory, or one that is append-only, files can be made but not renamed over.
        (ReplaceStep::Rename, Errno::ACCESS | Errno::PERM) => Some(InPlace::Directory),
        (ReplaceStep::Own, Errno::PERM) => Some(InPlace::Owner),
        (ReplaceStep::Rename, Errno::BUSY | Errno::XDEV) => Some(InPlace::MountPoint),
        _ => None,
    }
}

/// Writes a new file beside `target` and renames it over; returns the new file, locked.
fn rename_over(target: &Path, text: &str) -> Result<File, Failed> {
    let about = fs::metadata(target).map_err(ReplaceStep::Create.failed())?;
    let directory = target.parent().unwrap_or(Path::new("/"));
    let (temporary, mut file) =
        create_beside(target, directory).map_err(ReplaceStep::Create.failed())?;
    let written = fill(&mut file, text, &about)
        .and_then(|()| fs::rename(&temporary, target).map_err(ReplaceStep::Rename.failed()));
    if let Err(error) = written {
        // What failed matters; that the rest could not be cleared away doesn't.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    // The rename is done. If its directory can't be synced (no permission to read it), the edit still stands.
    if let Ok(directory) = File::open(directory) {
        let _ = directory.sync_all();
    }
    Ok(file)
}

/// A new file that only we may read, in the same directory because a rename doesn't cross file systems.
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

/// Everything that must be true before the rename.
fn fill(file: &mut File, text: &str, about: &fs::Metadata) -> Result<(), Failed> {
    let write = ReplaceStep::Write.failed();
    let ours = file.metadata().map_err(&write)?;
    if (ours.uid(), ours.gid()) != (about.uid(), about.gid()) {
        let owned = std::os::unix::fs::fchown(&*file, Some(about.uid()), Some(about.gid()));
        owned.map_err(ReplaceStep::Own.failed())?;
    }
    // After the owner, whose change would take the special bits away again.
    let mode = fs::Permissions::from_mode(about.mode() & 0o7777);
    file.set_permissions(mode).map_err(&write)?;
    file.write_all(text.as_bytes()).map_err(&write)?;
    file.sync_all().map_err(&write)?;
    // Nobody else has this file yet, so the lock is there for the taking. The path must never lead to an unlocked file
    // while its edit isn't done.
    file.lock().map_err(&write)
}

/// Overwrites the file without truncating it first, and puts the old text back if that fails halfway.
fn overwrite(target: &Path, text: &str) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(target)?;
    let old = fs::read(target)?;
    let written = put(&file, text.as_bytes());
    if written.is_err() {
        // The old text had its blocks already, so a full disk doesn't keep it from coming back.
        let _ = put(&file, &old);
    }
    written
}

fn put(file: &File, bytes: &[u8]) -> io::Result<()> {
    file.write_all_at(bytes, 0)?;
    file.set_len(bytes.len() as u64)?;
    file.sync_all()
}

#[cfg(test)]
mod tests;
