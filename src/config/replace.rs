//! A file's text replaced in one step: a reader sees the old or the new one, never a part.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Replaces the text of an existing file, keeping its mode and owner. A link stays, what it leads to is replaced.
///
/// # Errors
/// The file isn't there, its directory can't be written, its owner can't be kept, or the disk is full; then nothing
/// has changed.
pub fn replace_file(path: impl AsRef<Path>, text: &str) -> io::Result<()> {
    let target = fs::canonicalize(path)?;
    let about = fs::metadata(&target)?;
    let directory = target.parent().unwrap_or(Path::new("/"));
    let (temporary, file) = create_beside(&target, directory)?;
    let written = fill(file, text, &about).and_then(|()| fs::rename(&temporary, &target));
    if let Err(error) = written {
        // What failed matters; that the rest could not be cleared away doesn't.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    File::open(directory)?.sync_all()
}

/// A new file that only we may read, in the same directory because a rename doesn't cross file systems.
fn create_beside(target: &Path, directory: &Path) -> io::Result<(PathBuf, File)> {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    loop {
        let temporary = directory.join(format!(".{name}.{:08x}.tmp", fastrand::u32(..)));
        let file = OpenOptions::new()
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
fn fill(mut file: File, text: &str, about: &fs::Metadata) -> io::Result<()> {
    let ours = file.metadata()?;
    if (ours.uid(), ours.gid()) != (about.uid(), about.gid()) {
        std::os::unix::fs::fchown(&file, Some(about.uid()), Some(about.gid()))?;
    }
    // After the owner, whose change would take the special bits away again.
    file.set_permissions(fs::Permissions::from_mode(about.mode() & 0o7777))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_new_and_the_mode_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cutover.toml");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let before = fs::metadata(&path).unwrap();
        replace_file(&path, "new").unwrap();
        let after = fs::metadata(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(after.mode(), before.mode());
        assert_eq!((after.uid(), after.gid()), (before.uid(), before.gid()));
        assert_ne!(after.ino(), before.ino(), "a new file was renamed over it");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_stays_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let (real, link) = (directory.path().join("real"), directory.path().join("link"));
        fs::create_dir(&real).unwrap();
        fs::write(real.join("a.toml"), "old").unwrap();
        std::os::unix::fs::symlink("real/a.toml", &link).unwrap();
        replace_file(&link, "new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(real.join("a.toml")).unwrap(), "new");
    }

    #[test]
    fn what_is_not_there_is_not_made() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("none.toml");
        assert!(replace_file(&path, "new").is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
