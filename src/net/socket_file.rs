//! The file of a listening Unix socket, and which process has to remove it.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// The file of a listening Unix socket. Dropping it removes the file if this process owns it.
///
/// A process owns the files that it has created. The file of an inherited socket belongs to the other process until a handover
/// is complete ([`Self::claim`]): if this process fails before that, the other one still serves the socket.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
    owned: AtomicBool,
}

impl SocketFile {
    /// The file of a socket that this process has just created at `path`.
    ///
    /// # Errors
    /// The file doesn't exist.
    pub fn created(path: &Path) -> io::Result<Self> {
        Self::at(path, true)
    }

    /// The file of a socket that another process has created at `path` and still owns.
    ///
    /// # Errors
    /// The file doesn't exist.
    pub fn adopted(path: &Path) -> io::Result<Self> {
        Self::at(path, false)
    }

    fn at(path: &Path, owned: bool) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            inode: std::fs::symlink_metadata(path)?.ino(),
            owned: AtomicBool::new(owned),
        })
    }

    /// Takes ownership. The former owner has given it up.
    pub fn claim(&self) {
        self.owned.store(true, Ordering::Relaxed);
    }

    /// Gives up ownership, in favour of another process.
    pub fn leave(&self) {
        self.owned.store(false, Ordering::Relaxed);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another process may have replaced the file by a socket of its own.
        let same = || std::fs::symlink_metadata(&self.path).is_ok_and(|m| m.ino() == self.inode);
        if *self.owned.get_mut() && same() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn socket() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        drop(UnixListener::bind(&path).unwrap());
        (dir, path)
    }

    #[test]
    fn only_the_owner_removes_the_file() {
        let (_dir, path) = socket();
        drop(SocketFile::adopted(&path).unwrap());
        assert!(path.exists());
        let left = SocketFile::created(&path).unwrap();
        left.leave();
        drop(left);
        assert!(path.exists());
        let claimed = SocketFile::adopted(&path).unwrap();
        claimed.claim();
        drop(claimed);
        assert!(!path.exists());
        assert!(SocketFile::adopted(&path).is_err());
    }

    #[test]
    fn a_socket_that_replaced_ours_stays() {
        let (dir, path) = socket();
        let file = SocketFile::created(&path).unwrap();
        // Created before the first is removed, so that it can't get the same inode number.
        let other = dir.path().join("b.sock");
        drop(UnixListener::bind(&other).unwrap());
        std::fs::rename(&other, &path).unwrap();
        drop(file);
        assert!(path.exists());
    }
}
