//! Locks the files of a configuration for an edit, and replaces those that the edit changes.
//!
//! The lock is on the main file, also for an edit that changes only an included one.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::bundle::{self, FilePart};
use super::include;
use super::load;
use super::replace::{self, InPlace, LockedFile, Replaced};

/// The files of a configuration, locked. Dropping it releases the lock.
#[derive(Debug)]
pub struct LockedFiles {
    main: LockedFile,
    path: PathBuf,
}

/// A file that can't be read or written.
#[derive(Debug)]
pub struct FileError {
    /// Path of the file.
    pub file: PathBuf,
    /// The error of reading or writing the file.
    pub source: io::Error,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.source)
    }
}

/// A file that an edit has written or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenFile {
    /// The file.
    pub file: PathBuf,
    /// Why it was overwritten instead of replaced; `None` if it was replaced.
    pub in_place: Option<InPlace>,
}

/// A change of a file by an edit: of an included one, or of the main one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileChange<'t> {
    part: FilePart<'t>,
    /// The text before; `None` for a file that doesn't exist.
    before: Option<&'t str>,
}

impl LockedFiles {
    /// Locks the files without waiting. Returns `None` if another process holds the lock.
    ///
    /// # Errors
    /// See [`LockedFile::try_lock`].
    pub fn try_lock(main: impl Into<PathBuf>) -> io::Result<Option<Self>> {
        let path = main.into();
        let main = LockedFile::try_lock(&path)?;
        Ok(main.map(|main| Self { main, path }))
    }

    /// Reads the current text of all files.
    ///
    /// # Errors
    /// A file can't be read.
    pub fn read(&self) -> Result<String, FileError> {
        let main = self.main.read().map_err(|e| self.error(e))?;
        load::with_included(&self.path, main)
            .map_err(|failure| self.error(io::Error::other(failure.summary())))
    }

    /// Writes the files whose text differs in `after`, and removes those that are no longer in it. If one can't be written,
    /// those before it get their old text back.
    ///
    /// # Errors
    /// The file that can't be written.
    pub fn replace(&mut self, before: &str, after: &str) -> Result<Vec<WrittenFile>, FileError> {
        let (old, new) = (bundle::parts(before), bundle::parts(after));
        if let Some(part) = shared_change(&old, &new) {
            let message = "the members of the fleet share it: only a running proxy changes it";
            return Err(FileError {
                file: PathBuf::from(part),
                source: io::Error::new(io::ErrorKind::Unsupported, message),
            });
        }
        let mut changes = changes(&old, &new);
        // An undo of the `include` in a main file leaves the included files where they are.
        changes.retain(|change| change.before.is_some() || !self.holds(&change.part));
        let mut written: Vec<WrittenFile> = Vec::new();
        for (done, change) in changes.iter().enumerate() {
            match self.write(change) {
                Ok(file) => written.push(file),
                Err(error) => {
                    for change in changes[..done].iter().rev() {
                        // The error that is reported is the first one.
                        let _ = self.put_back(change);
                    }
                    return Err(error);
                }
            }
        }
        written.extend(self.remove_others(&old, &new)?);
        Ok(written)
    }

    /// Whether the file of a part exists and has its text.
    fn holds(&self, part: &FilePart<'_>) -> bool {
        fs::read_to_string(part.file(&self.path)).is_ok_and(|text| text == part.text)
    }

    fn write(&mut self, change: &FileChange<'_>) -> Result<WrittenFile, FileError> {
        let file = change.part.file(&self.path);
        let text = change.part.text;
        let replaced = match (change.part.path, change.before) {
            (None, _) => self.main.replace(text),
            (Some(_), Some(_)) => replace_included(&file, text),
            (Some(path), None) => create(&self.path, path, text).map(|()| Replaced::Renamed),
        };
        match replaced {
            Ok(Replaced::Renamed) => Ok(WrittenFile {
                file,
                in_place: None,
            }),
            Ok(Replaced::InPlace(why)) => Ok(WrittenFile {
                file,
                in_place: Some(why),
            }),
            Err(source) => Err(FileError { file, source }),
        }
    }

    fn put_back(&mut self, change: &FileChange<'_>) -> io::Result<()> {
        let file = change.part.file(&self.path);
        match (change.part.path, change.before) {
            (None, Some(before)) => self.main.replace(before).map(drop),
            (_, Some(before)) => replace_included(&file, before).map(drop),
            (_, None) => fs::remove_file(file),
        }
    }

    /// Removes the files of `old` that the main file still includes although `new` has none of that name.
    fn remove_others(
        &self,
        old: &[FilePart<'_>],
        new: &[FilePart<'_>],
    ) -> Result<Vec<WrittenFile>, FileError> {
        // Malformed patterns match no file.
        let included = include::files(&self.path, new[0].text).unwrap_or_default();
        let is_left = |part: &&FilePart<'_>| {
            let is_new = new.iter().any(|other| other.path == part.path);
            !is_new && included.iter().any(|path| part.path == Some(path))
        };
        let mut removed = Vec::new();
        for part in old.iter().filter(is_left) {
            let file = part.file(&self.path);
            match fs::remove_file(&file) {
                Ok(()) => removed.push(WrittenFile {
                    file,
                    in_place: None,
                }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(FileError { file, source }),
            }
        }
        Ok(removed)
    }

    fn error(&self, source: io::Error) -> FileError {
        FileError {
            file: self.path.clone(),
            source,
        }
    }
}

/// Creates an included file, only below the directory of the main file: the text may come from a proxy that is less trusted than
/// this process.
fn create(main: &Path, path: &str, text: &str) -> io::Result<()> {
    let is_below = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    if !Path::new(path).components().all(is_below) {
        let message = "it is not below the directory of the main file, and is not created there";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    let file = main.parent().unwrap_or(Path::new("")).join(path);
    replace::create(&file, text, main)
}

fn replace_included(file: &Path, text: &str) -> io::Result<Replaced> {
    match LockedFile::try_lock(file)? {
        Some(mut locked) => locked.replace(text),
        None => Err(io::Error::new(
            io::ErrorKind::WouldBlock,
            "another program has locked it",
        )),
    }
}

/// The path of the shared tables, if they differ.
fn shared_change<'t>(old: &[FilePart<'t>], new: &[FilePart<'t>]) -> Option<&'t str> {
    let find = |parts: &[FilePart<'t>]| {
        let part = parts.iter().find(|part| part.is_shared());
        part.map(|part| (part.path, part.text))
    };
    let (old, new) = (find(old), find(new));
    (old != new).then(|| new.or(old)?.0)?
}

/// The files to write: the included ones first, because a main file that includes a new file must find it.
fn changes<'t>(old: &[FilePart<'t>], new: &[FilePart<'t>]) -> Vec<FileChange<'t>> {
    let (main, included) = (&new[..1], &new[1..]);
    let change = |part: &FilePart<'t>| {
        let before = old.iter().find(|before| before.path == part.path);
        let before = before.map(|before| before.text);
        (before != Some(part.text)).then_some(FileChange {
            part: *part,
            before,
        })
    };
    included.iter().chain(main).filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIN: &str = "include = ['conf.d/*.toml']\n";

    fn text(main: &str, parts: &[(&str, &str)]) -> String {
        let mut text = main.to_owned();
        for (path, part) in parts {
            bundle::append(&mut text, path, part);
        }
        text
    }

    fn directory(files: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("conf.d")).unwrap();
        let main = root.path().join("cutover.toml");
        fs::write(&main, MAIN).unwrap();
        for (path, part) in files {
            fs::write(root.path().join(path), part).unwrap();
        }
        (root, main)
    }

    #[test]
    fn only_changed_files_are_written() {
        let (root, main) = directory(&[("conf.d/a.toml", "a"), ("conf.d/b.toml", "b")]);
        let mut locked = LockedFiles::try_lock(&main).unwrap().unwrap();
        let before = locked.read().unwrap();
        assert_eq!(
            before,
            text(MAIN, &[("conf.d/a.toml", "a"), ("conf.d/b.toml", "b")])
        );
        let after = text(MAIN, &[("conf.d/a.toml", "a"), ("conf.d/b.toml", "new")]);
        let written = locked.replace(&before, &after).unwrap();
        let files: Vec<_> = written.into_iter().map(|w| w.file).collect();
        assert_eq!(files, [root.path().join("conf.d/b.toml")]);
        assert_eq!(locked.read().unwrap(), after);
        assert!(LockedFiles::try_lock(&main).unwrap().is_none());
    }

    #[test]
    fn files_come_and_go_with_the_text() {
        let (root, main) = directory(&[("conf.d/a.toml", "a")]);
        let mut locked = LockedFiles::try_lock(&main).unwrap().unwrap();
        let before = locked.read().unwrap();
        let after = text(MAIN, &[("conf.d/b.toml", "b")]);
        // Not part of the text before, and so not removed.
        fs::write(root.path().join("conf.d/new.toml"), "").unwrap();
        locked.replace(&before, &after).unwrap();
        fs::remove_file(root.path().join("conf.d/new.toml")).unwrap();
        assert!(!root.path().join("conf.d/a.toml").exists());
        assert_eq!(locked.read().unwrap(), after);
        // A main file that no longer includes them leaves them alone.
        locked.replace(&after, "x = 1\n").unwrap();
        assert!(root.path().join("conf.d/b.toml").exists());
        assert_eq!(locked.read().unwrap(), "x = 1\n");
        // One that includes them again takes them as they are, if they are what it wants.
        locked.replace("x = 1\n", &after).unwrap();
        assert_eq!(locked.read().unwrap(), after);
        locked.replace(&after, "x = 1\n").unwrap();
        let other = text(MAIN, &[("conf.d/b.toml", "other")]);
        assert!(locked.replace("x = 1\n", &other).is_err());
        assert_eq!(locked.read().unwrap(), "x = 1\n");
    }

    #[test]
    fn no_file_is_created_elsewhere() {
        let (root, main) = directory(&[]);
        let mut locked = LockedFiles::try_lock(&main).unwrap().unwrap();
        let outside = root.path().join("outside.toml").display().to_string();
        for path in ["../outside.toml", &outside, "conf.d/../../outside.toml"] {
            let error = locked
                .replace(MAIN, &text(MAIN, &[(path, "")]))
                .unwrap_err();
            assert_eq!(error.source.kind(), io::ErrorKind::PermissionDenied);
        }
        assert!(!Path::new(&outside).exists());
    }

    #[test]
    fn a_failure_puts_back_what_was_written() {
        let (root, main) = directory(&[("conf.d/a.toml", "a")]);
        let mut locked = LockedFiles::try_lock(&main).unwrap().unwrap();
        let before = locked.read().unwrap();
        let after = text(MAIN, &[("conf.d/a.toml", "new"), ("nowhere/b.toml", "b")]);
        let error = locked.replace(&before, &after).unwrap_err();
        assert_eq!(error.file, root.path().join("nowhere/b.toml"));
        assert_eq!(locked.read().unwrap(), before);
    }
}
