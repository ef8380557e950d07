//! Reports changes of the configuration file, of the files that it includes, of the bodies that it names and of certificate files,
//! however they are saved.
//!
//! The kernel reports events on the directories that matter (inotify, see [`hops`]), and [`debounce`] merges the events of one
//! save. In addition the files' metadata is polled twice a second, which finds changes without events: on network file systems,
//! behind bind mounts, or after the event queue overflowed.

mod debounce;
mod hops;

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use debounce::{Change, Debounce, Delays};

use crate::config::include;

const MS: Duration = Duration::from_millis(1);
/// Delays for the configuration. An edit must be adopted within 100 ms, and compiling takes its part of that.
const CONFIG: Delays = Delays {
    quiet: MS.saturating_mul(10),
    burst: MS.saturating_mul(40),
    writer: Duration::from_secs(1),
};
/// Delays for certificates, longer because chain and key are separate files that are written one after the other.
const CERTIFICATES: Delays = Delays {
    quiet: MS.saturating_mul(200),
    burst: MS.saturating_mul(1000),
    writer: Duration::from_secs(1),
};
/// Interval of the poll that complements events.
const POLL: Duration = Duration::from_millis(500);
/// Interval of the poll if no events are available.
const POLL_ALONE: Duration = Duration::from_millis(50);

/// The kind of files that have changed or may have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Changed {
    /// The configuration file, or a file that is part of it.
    Config,
    /// A certificate, key or authority file.
    Certificates,
}

/// Watches one configuration file, the included and body files that are part of it, and any number of certificate files.
///
/// Owned by the control thread. It only says that something may have changed; the reader compares the content. A change may
/// therefore be reported twice, but never be missed: the state of the files is noted before it is reported, and what changes after
/// that is another change.
pub(crate) struct FileWatcher {
    watcher: Option<RecommendedWatcher>,
    events: mpsc::UnboundedReceiver<notify::Result<notify::Event>>,
    directories: BTreeSet<PathBuf>,
    config: Group,
    /// The patterns and files of `include`, in order.
    included: Vec<PathBuf>,
    /// Further files that are read as a part of the configuration.
    parts: BTreeSet<PathBuf>,
    certificates: Group,
    poll: Interval,
}

/// The watched files of one kind. They share a debounce.
struct Group {
    files: Vec<File>,
    debounce: Debounce,
}

/// A file, or a pattern for files of one directory.
struct File {
    path: PathBuf,
    entries: BTreeSet<hops::DirectoryEntry>,
    status: Option<FileIdentity>,
    /// The names that a pattern matches.
    listing: Vec<String>,
}

/// Device, inode, size, mtime and ctime of a file. They differ whenever the content may differ.
#[derive(Clone, Copy, PartialEq, Eq)]
struct FileIdentity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileIdentity {
    /// Whether the file changed so recently that its writer may not be done. A ctime in the future (clock skew) doesn't count.
    fn is_young(&self, now: SystemTime) -> bool {
        let (seconds, nanos) = self.changed;
        let since = Duration::new(seconds.unsigned_abs(), nanos.unsigned_abs() as u32);
        let age = now.duration_since(SystemTime::UNIX_EPOCH + since);
        age.is_ok_and(|age| age < CONFIG.quiet)
    }
}

fn status(path: &Path) -> Option<FileIdentity> {
    let m = std::fs::metadata(path).ok()?;
    Some(FileIdentity {
        device: m.dev(),
        inode: m.ino(),
        size: m.size(),
        modified: (m.mtime(), m.mtime_nsec()),
        changed: (m.ctime(), m.ctime_nsec()),
    })
}

/// Calls `read` on the file at `path` until it reads stable files, and returns that result. The files that it includes count as
/// well.
///
/// A file is stable if it didn't change during the read nor within 10 ms before it. After a second the last result is returned
/// in any case. Debounced events alone don't suffice, because a new writer may start right after the last event.
pub(crate) async fn when_whole<T>(path: &Path, read: impl Fn(&Path) -> T) -> T {
    let end = Instant::now() + CONFIG.writer;
    loop {
        let before = all_status(path);
        let result = read(path);
        let now = SystemTime::now();
        let is_young = |status: &Option<FileIdentity>| status.is_some_and(|s| s.is_young(now));
        let whole = !before.iter().any(is_young) && before == all_status(path);
        if whole || Instant::now() >= end {
            return result;
        }
        tokio::time::sleep(CONFIG.quiet).await;
    }
}

/// The status of a main file and of those that it includes.
fn all_status(main: &Path) -> Vec<Option<FileIdentity>> {
    let included = include::watched(main);
    let files = included.iter().map(PathBuf::as_path);
    [main].into_iter().chain(files).map(status).collect()
}

impl File {
    fn new(path: PathBuf) -> Self {
        Self {
            entries: hops::entries(&path),
            status: status(&path),
            listing: include::listing(&path),
            path,
        }
    }
}

impl Group {
    fn new(delays: Delays) -> Self {
        Self {
            files: Vec::new(),
            debounce: Debounce::new(delays),
        }
    }

    fn concerns(&self, path: &Path) -> bool {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return false;
        };
        let matches = |entry: &std::ffi::OsStr| match (entry.to_str(), name.to_str()) {
            // The last entry of a pattern is the pattern itself, which is the name of no file.
            (Some(entry), Some(name)) => include::matches(entry, name),
            _ => entry == name,
        };
        self.files
            .iter()
            .any(|f| f.entries.iter().any(|(d, n)| d == dir && matches(n)))
    }

    /// Reads the status of every file again. Returns whether one of them has changed.
    fn look(&mut self) -> bool {
        let mut changed = false;
        for file in &mut self.files {
            let now = status(&file.path);
            let listing = include::listing(&file.path);
            changed |= now != file.status || listing != file.listing;
            (file.status, file.listing) = (now, listing);
            file.entries = hops::entries(&file.path);
        }
        changed
    }
}

impl FileWatcher {
    /// Watches the configuration file at `config`, which need not exist.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub(crate) fn new(config: &Path) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let watcher = notify::recommended_watcher(move |event| {
            // The receiver is dropped only when the process is about to exit.
            let _ = sender.send(event);
        });
        let watcher = watcher
            .inspect_err(|error| {
                tracing::warn!(
                    %error, interval = ?POLL_ALONE,
                    "file events are not available, polling instead; \
                     raising fs.inotify.max_user_instances may help"
                );
            })
            .ok();
        let every = if watcher.is_some() { POLL } else { POLL_ALONE };
        let mut poll = tokio::time::interval_at(Instant::now() + every, every);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = Self {
            watcher,
            events,
            directories: BTreeSet::new(),
            config: Group::new(CONFIG),
            included: include::watched(config),
            parts: BTreeSet::new(),
            certificates: Group::new(CERTIFICATES),
            poll,
        };
        watch.config.files.push(File::new(config.to_owned()));
        watch.watch_config();
        watch
    }

    /// Watches the configuration file, which is the first one, and everything that is part of it.
    fn watch_config(&mut self) {
        // A file that stays keeps its status, so that a change since it was read isn't missed.
        // The main file stays the first one.
        let mut known = self.config.files.split_off(1);
        for path in self.included.iter().chain(&self.parts) {
            let file = match known.iter().position(|file| file.path == *path) {
                Some(at) => known.swap_remove(at),
                None => File::new(path.clone()),
            };
            self.config.files.push(file);
        }
        self.follow();
    }

    /// Replaces the set of files that are read as a part of the configuration, such as bodies.
    pub(crate) fn set_parts(&mut self, files: impl IntoIterator<Item = PathBuf>) {
        let paths: BTreeSet<PathBuf> = files.into_iter().collect();
        if paths != self.parts {
            self.parts = paths;
            self.watch_config();
        }
    }

    /// Replaces the set of certificate files to watch.
    pub(crate) fn set_certificates(&mut self, files: impl IntoIterator<Item = PathBuf>) {
        let paths: BTreeSet<PathBuf> = files.into_iter().collect();
        if paths
            .iter()
            .eq(self.certificates.files.iter().map(|f| &f.path))
        {
            return;
        }
        self.certificates.files = paths.into_iter().map(File::new).collect();
        self.follow();
    }

    /// Waits until a file has changed and its save is complete. Cancellation safe.
    pub(crate) async fn changed(&mut self) -> Changed {
        loop {
            let due = [self.config.debounce.due(), self.certificates.debounce.due()];
            let due = due.into_iter().flatten().min();
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    if let Some(changed) = self.take_due(Instant::now()) {
                        return changed;
                    }
                }
                Some(event) = self.events.recv() => self.on_event(event),
                _ = self.poll.tick() => self.poll_files(),
            }
        }
    }

    /// Takes a change whose debounce is due. Metadata and watches are refreshed, so that the poll doesn't report it again.
    fn take_due(&mut self, now: Instant) -> Option<Changed> {
        let due = |group: &Group| group.debounce.due().is_some_and(|due| due <= now);
        let (group, changed) = if due(&self.config) {
            (&mut self.config, Changed::Config)
        } else if due(&self.certificates) {
            (&mut self.certificates, Changed::Certificates)
        } else {
            return None;
        };
        group.debounce.done();
        group.look();
        if changed == Changed::Config {
            // The included files are listed also for a file that will be refused: one of them may be what repairs it.
            let included = include::watched(&self.config.files[0].path);
            if included != self.included {
                self.included = included;
                self.watch_config();
            }
        }
        self.follow();
        Some(changed)
    }

    fn on_event(&mut self, event: notify::Result<notify::Event>) {
        let now = Instant::now();
        let event = match event {
            Ok(event) if !event.need_rescan() => event,
            // The event queue overflowed or the watcher failed: anything may have changed.
            _ => {
                self.config.debounce.record(now, Change::Settled);
                self.certificates.debounce.record(now, Change::Settled);
                return;
            }
        };
        let Some(change) = change(event.kind) else {
            return;
        };
        for path in &event.paths {
            if matches!(event.kind, EventKind::Remove(_)) && self.directories.remove(path) {
                // A watched directory was removed, and the kernel dropped its watch. Removing it here makes `follow` watch the
                // directory that replaces it.
                self.config.debounce.record(now, change);
                self.certificates.debounce.record(now, change);
            }
            for group in [&mut self.config, &mut self.certificates] {
                if group.concerns(path) {
                    group.debounce.record(now, change);
                }
            }
        }
    }

    /// Polls for changes that no event reported.
    fn poll_files(&mut self) {
        let now = Instant::now();
        let mut lost = false;
        for group in [&mut self.config, &mut self.certificates] {
            if !group.debounce.pending() && group.look() {
                group.debounce.record(now, Change::Settled);
                lost = true;
            }
        }
        if lost {
            // An event is missing, perhaps because the watched directory was replaced: renew all watches.
            for directory in std::mem::take(&mut self.directories) {
                if let Some(watcher) = &mut self.watcher {
                    let _ = watcher.unwatch(&directory);
                }
            }
        }
        self.follow();
    }

    /// Watches exactly the directories whose entries decide which files are read.
    fn follow(&mut self) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        let wanted: BTreeSet<PathBuf> = [&self.config, &self.certificates]
            .into_iter()
            .flat_map(|g| &g.files)
            .flat_map(|f| f.entries.iter().map(|(dir, _)| dir.clone()))
            .collect();
        for gone in self.directories.difference(&wanted) {
            // Fails if the directory doesn't exist any more, and then there is nothing to undo.
            let _ = watcher.unwatch(gone);
        }
        self.directories.retain(|d| wanted.contains(d));
        for new in wanted {
            // A directory that can't be watched (missing, no permission) is left to the poll, which tries again every time.
            if !self.directories.contains(&new)
                && watcher.watch(&new, RecursiveMode::NonRecursive).is_ok()
            {
                self.directories.insert(new);
            }
        }
    }
}

/// The meaning of an event for a file; `None` if it doesn't change the file.
fn change(kind: EventKind) -> Option<Change> {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Change::Settled),
        EventKind::Access(_) => None,
        // inotify reports when a writer closes the file. Elsewhere the only sign is that no more events come.
        EventKind::Modify(ModifyKind::Data(_)) if cfg!(target_os = "linux") => {
            Some(Change::Writing)
        }
        _ => Some(Change::Settled),
    }
}

#[cfg(test)]
mod tests;
