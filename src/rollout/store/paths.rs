//! Files of a store: their names, and how they are opened and replaced.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Longest name of a service that is written out in a file name, in bytes.
const LONGEST_NAME: usize = 100;
/// Extension of a file that is going to replace another one.
const NEW: &str = "new";

/// The file of a service. Bytes of its name other than letters, digits, `-` and `_` are percent-encoded; a long name is hashed.
pub(super) fn path(directory: &Path, service: &str, kind: &str) -> PathBuf {
    let mut name = String::new();
    for byte in service.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
            _ => name += &format!("%{byte:02x}"),
        }
    }
    if name.len() > LONGEST_NAME {
        name = format!("%{:016x}", xxhash_rust::xxh3::xxh3_64(service.as_bytes()));
    }
    directory.join(format!("{name}.{kind}"))
}

/// Options for a file that only its owner may read.
pub(super) fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

/// Replaces a file atomically: after a crash it has the old contents or the new ones.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = replacement(path);
    let replaced = write(&new, bytes).and_then(|()| fs::rename(&new, path));
    if replaced.is_err() {
        // The file may not exist. Otherwise it is removed at the next start.
        let _ = fs::remove_file(&new);
    }
    replaced?;
    path.parent().map_or(Ok(()), sync_directory)
}

/// The path at which the new contents of a file are prepared. Two processes share the directory during a takeover, and a service
/// has files of two kinds, so that each of them has a name of its own.
pub(super) fn replacement(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.{NEW}", std::process::id()));
    PathBuf::from(name)
}

/// Removes replacements that processes left behind which were killed. A living process whose replacement is removed reports an
/// error and keeps the file as it was.
pub(super) fn remove_leftovers(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == NEW) {
            // The process that owns it may just have renamed it.
            let _ = fs::remove_file(path);
        }
    }
    Ok(())
}

pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = options().create(true).truncate(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded_without_collisions() {
        let name = |service: &str| path(Path::new("/d"), service, "journal");
        assert_eq!(name("shop-1_a"), Path::new("/d/shop-1_a.journal"));
        assert_eq!(
            name("../e vil/ü"),
            Path::new("/d/%2e%2e%2fe%20vil%2f%c3%bc.journal")
        );
        assert_eq!(name("%2e"), Path::new("/d/%252e.journal"));
        let (long, longer) = ("x".repeat(101), "x".repeat(102));
        assert_ne!(name(&long), name(&longer));
        assert!(name(&longer).as_os_str().len() < 40);
    }

    #[test]
    fn a_file_that_cannot_be_replaced_stays_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("shop.evidence");
        replace(&file, b"old").unwrap();
        // In the way of the new contents.
        fs::create_dir(replacement(&file)).unwrap();
        assert!(replace(&file, b"new").is_err());
        assert_eq!(fs::read(&file).unwrap(), b"old");
        fs::remove_dir(replacement(&file)).unwrap();
        replace(&file, b"new").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        // In the way of the file itself.
        let other = directory.path().join("api.evidence");
        fs::create_dir(&other).unwrap();
        assert!(replace(&other, b"new").is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_killed_processes_left_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        for name in [
            "shop.journal",
            "shop.journal.17.new",
            "shop.evidence.4711.new",
        ] {
            fs::write(directory.path().join(name), "x").unwrap();
        }
        remove_leftovers(directory.path()).unwrap();
        let left: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(left.len(), 1);
        assert!(directory.path().join("shop.journal").exists());
    }
}
