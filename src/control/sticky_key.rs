//! The keys that seal sticky cookies.
//!
//! A key comes from the operator's `sticky.key_file`, or it is the proxy's own in the state directory, created at the first start
//! that needs one. Proxies that serve the same users must share a key file, because each accepts only cookies sealed by its key.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::rand;

use crate::config::secret::{self, MOST};
use crate::config::{Spec, paths};
use crate::routing::sticky::{KEY_LEN, SealingKey};
use crate::snapshot::Keys;

/// File name of the own key in the state directory.
const NAME: &str = "sticky.key";

/// Reads the key in `key_file`. Every byte of the file counts, a trailing newline too.
///
/// # Errors
/// The file can't be read, others may read or change it, or it has fewer than [`KEY_LEN`] or more than [`MOST`] bytes. The message
/// says what to do.
pub(crate) fn read(key_file: &Path) -> Result<SealingKey, String> {
    let bytes = secret::read(key_file, "sticky key", "forge sessions")?;
    let len = bytes.len();
    SealingKey::new(&bytes)
        .filter(|_| len as u64 <= MOST)
        .ok_or_else(|| {
            let size = if len < KEY_LEN {
                format!("only {len} bytes")
            } else {
                format!("more than {MOST} bytes")
            };
            format!(
                "sticky key {}: it has {size}, expected {KEY_LEN} to {MOST} random ones. Make one with \
                 `(umask 077; head -c 32 /dev/urandom > {})`",
                key_file.display(),
                key_file.display()
            )
        })
}

/// Path of the own key.
pub(crate) fn own_path(state_dir: &Path) -> PathBuf {
    state_dir.join(NAME)
}

/// Reads the own key in `state_dir`, or creates it. If the directory can't be used, the key lasts for this process only, because
/// the proxy can start without a stored key.
///
/// # Errors
/// The stored key can't be used, as in [`read`].
pub(crate) fn own(state_dir: &Path) -> Result<Own, String> {
    let path = own_path(state_dir);
    match path.try_exists() {
        Ok(true) => read(&path).map(Own::Kept),
        Ok(false) => match make(state_dir, &path) {
            Ok(()) => read(&path).map(Own::Kept),
            Err(e) => Ok(Own::ephemeral(&path, &e)),
        },
        Err(e) => Ok(Own::ephemeral(&path, &e)),
    }
}

/// Loads the keys of all services with sticky sessions. Key files are read again every time; the own key is taken from `known` if
/// it is there, so that it stays the same while the process runs.
///
/// # Errors
/// A key can't be used. The message says what to do.
pub(crate) fn keys(spec: &Spec, known: &Keys) -> Result<Keys, String> {
    let mut keys = Keys::new();
    let sticky = spec
        .services
        .iter()
        .filter_map(|s| s.policies.sticky.as_ref());
    for file in sticky.map(|s| &s.key_file) {
        let key = match (file, known.get(file)) {
            (None, Some(own)) => own.clone(),
            (Some(path), _) => Arc::new(read(path)?),
            (None, None) => Arc::new(own_key(spec)?),
        };
        keys.insert(file.clone(), key);
    }
    Ok(keys)
}

fn own_key(spec: &Spec) -> Result<SealingKey, String> {
    Ok(match own(&paths::state_dir(spec.state_dir.as_deref()))? {
        Own::Kept(key) => key,
        Own::Ephemeral(key, warning) => {
            tracing::warn!("{warning}");
            key
        }
    })
}

/// The own key, and whether it is stored.
#[derive(Debug)]
pub(crate) enum Own {
    /// Stored in the state directory.
    Kept(SealingKey),
    /// Not stored, so sessions end with the process. The text is a warning for the log.
    Ephemeral(SealingKey, String),
}

impl Own {
    fn ephemeral(path: &Path, why: &io::Error) -> Self {
        let warning = format!(
            "cannot store the key for sticky sessions in {}: {why}. Sessions end when the proxy does; \
             set `state_dir` to a directory that the proxy may write to, or `sticky.key_file` to a key file",
            path.display()
        );
        // `SealingKey::new` refuses only keys shorter than `KEY_LEN`.
        let key = SealingKey::new(&random()).expect("the key is long enough");
        Self::Ephemeral(key, warning)
    }
}

fn random() -> [u8; KEY_LEN] {
    let mut bytes = [0; KEY_LEN];
    // Fails only if the system has no source of randomness; TLS could not work then either.
    rand::fill(&mut bytes).expect("system randomness is available");
    bytes
}

/// Creates a key at `path` atomically: writes it to a temporary file, which is then hard-linked. Unlike a rename, a link fails if
/// the name exists, so if several processes start at once they all use the key of the first one.
fn make(state_dir: &Path, path: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state_dir)?;
    let temporary = temporary_path(state_dir);
    let written = write(&temporary).and_then(|()| match fs::hard_link(&temporary, path) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(e),
        // Makes the new directory entry durable, see fsync(2).
        _ => File::open(state_dir)?.sync_all(),
    });
    // Best effort: a leftover has a random name and is never read.
    let _ = fs::remove_file(&temporary);
    written
}

/// A random name, so that processes and threads don't write to the same file.
fn temporary_path(state_dir: &Path) -> PathBuf {
    state_dir.join(format!(".{NAME}.{:016x}", fastrand::u64(..)))
}

fn write(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(&random())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;
    use crate::routing::sticky::version_id;

    fn file(bytes: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    /// Keys are compared by what they do.
    fn print(key: &SealingKey) -> u64 {
        version_id(key, "shop", "blue")
    }

    fn kept(own: Own) -> u64 {
        match own {
            Own::Kept(key) => print(&key),
            Own::Ephemeral(_, why) => panic!("{why}"),
        }
    }

    #[test]
    fn a_file_is_taken_byte_by_byte() {
        let (_dir, path) = file(&[9; 40], 0o640);
        let key = read(&path).unwrap();
        assert_eq!(print(&key), print(&SealingKey::new(&[9; 40]).unwrap()));
    }

    #[test]
    fn a_file_that_is_short_long_missing_or_open_to_all_is_refused_with_the_remedy() {
        for (bytes, mode, says) in [
            (&[9; 31][..], 0o600, "only 31 bytes"),
            (&[], 0o600, "head -c 32 /dev/urandom"),
            (&[9; 5000], 0o600, "more than 4096 bytes"),
            (&[9; 32], 0o644, "chmod o-rw"),
            (&[9; 32], 0o602, "(mode 0602)"),
        ] {
            let (_dir, path) = file(bytes, mode);
            let error = read(&path).unwrap_err();
            assert!(error.contains(says), "{error}");
            assert!(error.contains(path.to_str().unwrap()), "{error}");
        }
        let error = read(Path::new("/no/such/key")).unwrap_err();
        assert!(
            error.contains("/no/such/key") && error.contains("No such file"),
            "{error}"
        );
    }

    #[test]
    fn the_own_key_is_created_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("deep/state");
        let first = kept(own(&state).unwrap());
        assert_eq!(kept(own(&state).unwrap()), first);
        let about = fs::metadata(state.join(NAME)).unwrap();
        assert_eq!((about.mode() & 0o7777, about.len()), (0o600, 32));
        assert_eq!(fs::metadata(&state).unwrap().mode() & 0o7777, 0o700);
        assert_eq!(
            fs::read_dir(&state).unwrap().count(),
            1,
            "a temporary file was left"
        );
        let other = kept(own(&dir.path().join("other")).unwrap());
        assert_ne!(other, first);
    }

    #[test]
    fn concurrent_starts_use_the_same_key() {
        let dir = tempfile::tempdir().unwrap();
        let prints: Vec<u64> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| kept(own(dir.path()).unwrap())))
                .collect();
            starts.into_iter().map(|s| s.join().unwrap()).collect()
        });
        assert!(prints.iter().all(|p| *p == prints[0]), "{prints:?}");
    }

    #[test]
    fn without_a_directory_there_is_a_key_for_this_process_and_a_warning() {
        let (_dir, path) = file(b"no directory", 0o600);
        let ephemeral = || match own(&path.join("state")).unwrap() {
            Own::Ephemeral(key, why) => (print(&key), why),
            Own::Kept(_) => panic!("kept where nothing can be"),
        };
        let (first, why) = ephemeral();
        assert!(why.contains("Sessions end when the proxy does"), "{why}");
        assert_ne!(ephemeral().0, first);
    }

    #[test]
    fn an_own_key_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        kept(own(dir.path()).unwrap());
        let path = dir.path().join(NAME);
        fs::set_permissions(&path, Permissions::from_mode(0o604)).unwrap();
        assert!(own(dir.path()).unwrap_err().contains("chmod o-rw"));
    }
}
