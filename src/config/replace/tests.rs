use super::*;

/// A file with the text `old`, in a directory of its own.
fn old() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cutover.toml");
    fs::write(&path, "old").unwrap();
    (directory, path)
}

fn locked(path: &Path) -> LockedFile {
    let locked = LockedFile::try_lock(path).unwrap();
    locked.expect("nobody else holds it")
}

#[test]
fn the_text_is_new_and_the_mode_is_not() {
    let (directory, path) = old();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let before = fs::metadata(&path).unwrap();
    assert_eq!(locked(&path).replace("new").unwrap(), Replaced::Renamed);
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
    locked(&link).replace("new").unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(real.join("a.toml")).unwrap(), "new");
}

#[test]
fn a_missing_file_is_not_created() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("none.toml");
    assert!(LockedFile::try_lock(&path).is_err());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn one_holder_at_a_time_by_whatever_path() {
    let (directory, path) = old();
    let link = directory.path().join("link");
    std::os::unix::fs::symlink("cutover.toml", &link).unwrap();
    let held = locked(&path);
    assert!(LockedFile::try_lock(&link).unwrap().is_none());
    drop(held);
    assert!(LockedFile::try_lock(&link).unwrap().is_some());
}

#[test]
fn the_lock_goes_with_the_path_when_the_file_is_replaced() {
    let (_directory, path) = old();
    let early = File::open(&path).unwrap();
    let mut held = locked(&path);
    for text in ["new", "newer"] {
        held.replace(text).unwrap();
        assert!(LockedFile::try_lock(&path).unwrap().is_none(), "{text}");
    }
    // A process that opened the file before the edit can lock the old inode, which the path has left.
    early.try_lock().unwrap();
    assert!(LockedFile::try_lock(&path).unwrap().is_none());
    drop(held);
    assert_eq!(locked(&path).read().unwrap(), "newer");
}

#[test]
fn a_file_that_cannot_be_renamed_over_is_overwritten() {
    let why = |step, errno: Errno| {
        let source = errno.into();
        in_place(&ReplaceError { step, source })
    };
    assert_eq!(
        why(ReplaceStep::Rename, Errno::BUSY),
        Some(InPlace::MountPoint)
    );
    assert_eq!(
        why(ReplaceStep::Rename, Errno::XDEV),
        Some(InPlace::MountPoint)
    );
    assert_eq!(
        why(ReplaceStep::Rename, Errno::PERM),
        Some(InPlace::Directory)
    );
    assert_eq!(why(ReplaceStep::Chown, Errno::PERM), Some(InPlace::Owner));
    for errno in [Errno::ACCESS, Errno::PERM, Errno::ROFS] {
        assert_eq!(why(ReplaceStep::Create, errno), Some(InPlace::Directory));
    }
    // Overwriting the file doesn't help if the disk is full.
    assert_eq!(why(ReplaceStep::Write, Errno::NOSPC), None);
    assert_eq!(why(ReplaceStep::Create, Errno::NOSPC), None);
}

#[test]
fn an_overwritten_file_keeps_its_inode_and_has_no_rest_of_the_old_text() {
    let (_directory, path) = old();
    let before = fs::metadata(&path).unwrap();
    for text in ["longer than before", "short"] {
        overwrite(&path, text).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
    assert_eq!(fs::metadata(&path).unwrap().ino(), before.ino());
}
