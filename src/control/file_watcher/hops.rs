//! The directory entries that decide which file a path leads to: the file itself and every symbolic link on the way.
//!
//! Kubernetes mounts a ConfigMap as `cutover.toml -> ..data/cutover.toml` and `..data -> ..2026_11_21/`, and updates it by
//! replacing the link `..data`. Neither the file nor its directory changes, so the directory of each link must be watched too.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// Limit of symbolic links in one path, the same as in the Linux kernel (`MAXSYMLINKS`).
const MOST_LINKS: usize = 40;

/// A directory and the name of an entry in it. The path of the directory contains no symbolic links.
pub(super) type DirectoryEntry = (PathBuf, OsString);

/// The entries that decide which file `path` leads to. If the path doesn't exist, the last one is the entry that is missing.
pub(super) fn entries(path: &Path) -> BTreeSet<DirectoryEntry> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut left: VecDeque<OsString> = parts(&absolute);
    let mut at = PathBuf::from("/");
    let mut found = BTreeSet::new();
    let mut links = 0;
    // Walks the path as the kernel does, and keeps the entries that a change of the target can go through. `at` never contains a
    // link, so `..` is the parent that the kernel would take as well.
    while let Some(name) = left.pop_front() {
        if name == ".." {
            at.pop();
            continue;
        }
        let here = at.join(&name);
        match std::fs::read_link(&here) {
            Ok(target) if links < MOST_LINKS => {
                links += 1;
                found.insert((at.clone(), name));
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                for part in parts(&target).into_iter().rev() {
                    left.push_front(part);
                }
            }
            _ if left.is_empty() || !here.exists() => {
                found.insert((at.clone(), name));
                break;
            }
            _ => at = here,
        }
    }
    found
}

fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|c| match c {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn entry(dir: &Path, name: &str) -> DirectoryEntry {
        (dir.to_owned(), name.into())
    }

    #[test]
    fn a_plain_file_is_one_entry() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::write(root.join("a.toml"), "x").unwrap();
        assert_eq!(
            entries(&root.join("a.toml")),
            BTreeSet::from([entry(&root, "a.toml")])
        );
    }

    #[test]
    fn a_missing_file_is_watched_where_it_would_be() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        assert_eq!(
            entries(&root.join("sub/a.toml")),
            BTreeSet::from([entry(&root, "sub")])
        );
    }

    #[test]
    fn every_link_of_a_config_map_is_watched() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("..1")).unwrap();
        std::fs::write(root.join("..1/a.toml"), "x").unwrap();
        symlink("..1", root.join("..data")).unwrap();
        symlink("..data/a.toml", root.join("a.toml")).unwrap();
        assert_eq!(
            entries(&root.join("a.toml")),
            BTreeSet::from([
                entry(&root, "a.toml"),
                entry(&root, "..data"),
                entry(&root.join("..1"), "a.toml"),
            ])
        );
    }

    #[test]
    fn a_cycle_of_links_ends() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        symlink("b", root.join("a")).unwrap();
        symlink("a", root.join("b")).unwrap();
        assert!(entries(&root.join("a")).contains(&entry(&root, "b")));
    }
}
