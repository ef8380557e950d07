//! The system's files about names. They are read again when they change.

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use super::hosts::HostsFile;
use super::resolv_conf::ResolvConf;

/// Interval at which the files are checked for changes.
pub(crate) const EVERY: Duration = Duration::from_secs(1);

/// `/etc/hosts` and `/etc/resolv.conf`.
#[derive(Debug)]
pub(super) struct SystemFiles {
    hosts: RefCell<ParsedFile<HostsFile>>,
    resolv_conf: RefCell<ParsedFile<ResolvConf>>,
}

/// A file, and the content that it had when it was last read.
#[derive(Debug)]
struct ParsedFile<T> {
    path: PathBuf,
    /// When the file was last looked at.
    looked: Option<Instant>,
    /// Modification time and length of the file; `None` if it could not be read.
    seen: Option<(SystemTime, u64)>,
    parse: fn(&str) -> T,
    content: Rc<T>,
}

impl<T> ParsedFile<T> {
    fn new(path: PathBuf, parse: fn(&str) -> T) -> Self {
        Self {
            path,
            looked: None,
            seen: None,
            parse,
            content: Rc::new(parse("")),
        }
    }

    /// The parsed content of the file; the default if it can't be read.
    fn content(&mut self, now: Instant) -> Rc<T> {
        let is_due = |looked: Instant| now.saturating_duration_since(looked) >= EVERY;
        if self.looked.is_none_or(is_due) {
            self.looked = Some(now);
            self.look();
        }
        self.content.clone()
    }

    fn look(&mut self) {
        let seen = fs::metadata(&self.path).ok();
        let seen = seen.and_then(|file| Some((file.modified().ok()?, file.len())));
        if seen != self.seen {
            self.seen = seen;
            let bytes = fs::read(&self.path).unwrap_or_default();
            self.content = Rc::new((self.parse)(&String::from_utf8_lossy(&bytes)));
        }
    }
}

impl SystemFiles {
    /// The files at these paths.
    pub(super) fn new(hosts: PathBuf, resolv_conf: PathBuf) -> Self {
        Self {
            hosts: RefCell::new(ParsedFile::new(hosts, HostsFile::parse)),
            resolv_conf: RefCell::new(ParsedFile::new(resolv_conf, ResolvConf::parse)),
        }
    }

    pub(super) fn hosts(&self) -> Rc<HostsFile> {
        self.hosts.borrow_mut().content(Instant::now())
    }

    pub(super) fn resolv_conf(&self) -> Rc<ResolvConf> {
        self.resolv_conf.borrow_mut().content(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_again_when_it_has_changed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hosts");
        let mut file = ParsedFile::new(path.clone(), str::len);
        let start = Instant::now();
        assert_eq!(*file.content(start), 0, "there is none yet");
        fs::write(&path, "12345").unwrap();
        assert_eq!(*file.content(start), 0, "looked at a moment ago");
        assert_eq!(*file.content(start + EVERY), 5);
        fs::remove_file(&path).unwrap();
        assert_eq!(*file.content(start + 2 * EVERY), 0);
    }
}
