//! Notices that the configuration or a certificate changed, however it was saved.
//!
//! The kernel tells (inotify on the directories that matter, see [`hops`]), [`debounce`] joins the events of one save,
//! and a poll of the files' status twice a second finds what no event told: network file systems, bind mounts, lost events.

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

use debounce::{Debounce, Patience, Sight};

const MS: Duration = Duration::from_millis(1);
/// For the configuration: adopted within 100 ms of the save, so most of that must not be spent here.
const CONFIG: Patience = Patience {
    quiet: MS.saturating_mul(10),
    burst: MS.saturating_mul(40),
    writer: Duration::from_secs(1),
};
/// For certificates: chain and key are two files that belong together and are written one after the other.
const CERTIFICATES: Patience = Patience {
    quiet: MS.saturating_mul(200),
    burst: MS.saturating_mul(1000),
    writer: Duration::from_secs(1),
};
/// How often the files' status is looked at, besides events.
const POLL: Duration = Duration::from_millis(500);
/// The same where the kernel gives no events at all.
const POLL_ALONE: Duration = Duration::from_millis(50);

/// What changed (or may have).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Changed {
    /// The configuration file.
    Config,
    /// A certificate, key or authority file.
    Certificates,
}

/// Watches one configuration file and any number of certificate files.
pub(crate) struct FileWatcher {
    watcher: Option<RecommendedWatcher>,
    events: mpsc::UnboundedReceiver<notify::Result<notify::Event>>,
    directories: BTreeSet<PathBuf>,
    config: Group,
    certificates: Group,
    poll: Interval,
}

/// Files of one kind.
struct Group {
    files: Vec<File>,
    debounce: Debounce,
}

struct File {
    path: PathBuf,
    entries: BTreeSet<hops::DirectoryEntry>,
    status: Option<FileIdentity>,
}

/// Device, inode, size, modification and change time: different whenever the content may be.
#[derive(Clone, Copy, PartialEq, Eq)]
struct FileIdentity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileIdentity {
    /// Whether the file changed so lately that its writer may not be done. A time in the future says nothing.
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

/// What `read` makes of the file at `path` when nobody writes to it: it is read again while it changes under the
/// reader or did so within the last 10 ms, for a second at most. Events can't tell this: a writer may begin right after the last of them.
pub(crate) async fn when_whole<T>(path: &Path, read: impl Fn(&Path) -> T) -> T {
    let end = Instant::now() + CONFIG.writer;
    loop {
        let before = status(path);
        let result = read(path);
        let whole =
            before == status(path) && !before.is_some_and(|s| s.is_young(SystemTime::now()));
        if whole || Instant::now() >= end {
            return result;
        }
        tokio::time::sleep(CONFIG.quiet).await;
    }
}

impl File {
    fn new(path: PathBuf) -> Self {
        Self {
            entries: hops::entries(&path),
            status: status(&path),
            path,
        }
    }
}

impl Group {
    fn new(patience: Patience) -> Self {
        Self {
            files: Vec::new(),
            debounce: Debounce::new(patience),
        }
    }

    fn concerns(&self, path: &Path) -> bool {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return false;
        };
        self.files
            .iter()
            .any(|f| f.entries.iter().any(|(d, n)| d == dir && n == name))
    }

    /// Looks at every file again; whether the status of one of them is another than it was.
    fn look(&mut self) -> bool {
        let mut changed = false;
        for file in &mut self.files {
            let now = status(&file.path);
            changed |= now != file.status;
            file.status = now;
            file.entries = hops::entries(&file.path);
        }
        changed
    }
}

impl FileWatcher {
    /// Watches the configuration file at `config`; it need not exist. Must be made on a runtime.
    pub(crate) fn new(config: &Path) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let watcher = notify::recommended_watcher(move |event| {
            // The receiver is gone only when the process is about to end.
            let _ = sender.send(event);
        });
        let watcher = watcher
            .inspect_err(|error| {
                tracing::warn!(
                    %error, interval = ?POLL_ALONE,
                    "no file events from the kernel, polling the files instead; \
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
            certificates: Group::new(CERTIFICATES),
            poll,
        };
        watch.config.files.push(File::new(config.to_owned()));
        watch.follow();
        watch
    }

    /// From now on watches these certificate files besides the configuration.
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

    /// Waits until something changed and has settled. Nothing is lost when the future is dropped.
    pub(crate) async fn changed(&mut self) -> Changed {
        loop {
            let due = [self.config.debounce.due(), self.certificates.debounce.due()];
            let due = due.into_iter().flatten().min();
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    if let Some(changed) = self.settled(Instant::now()) {
                        return changed;
                    }
                }
                Some(event) = self.events.recv() => self.saw(event),
                _ = self.poll.tick() => self.look(),
            }
        }
    }

    fn settled(&mut self, now: Instant) -> Option<Changed> {
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
        self.follow();
        Some(changed)
    }

    fn saw(&mut self, event: notify::Result<notify::Event>) {
        let now = Instant::now();
        let event = match event {
            Ok(event) if !event.need_rescan() => event,
            // Events were lost: everything may have changed.
            _ => {
                self.config.debounce.saw(now, Sight::Settled);
                self.certificates.debounce.saw(now, Sight::Settled);
                return;
            }
        };
        let Some(sight) = sight(event.kind) else {
            return;
        };
        for path in &event.paths {
            if matches!(event.kind, EventKind::Remove(_)) && self.directories.remove(path) {
                // A watched directory itself is gone, and its watch with it: watch what stands there next.
                self.config.debounce.saw(now, sight);
                self.certificates.debounce.saw(now, sight);
            }
            for group in [&mut self.config, &mut self.certificates] {
                if group.concerns(path) {
                    group.debounce.saw(now, sight);
                }
            }
        }
    }

    /// The poll: what no event told.
    fn look(&mut self) {
        let now = Instant::now();
        let mut lost = false;
        for group in [&mut self.config, &mut self.certificates] {
            if !group.debounce.pending() && group.look() {
                group.debounce.saw(now, Sight::Settled);
                lost = true;
            }
        }
        if lost {
            // The watches may have died with a directory that was replaced: set them all anew.
            for directory in std::mem::take(&mut self.directories) {
                if let Some(watcher) = &mut self.watcher {
                    let _ = watcher.unwatch(&directory);
                }
            }
        }
        self.follow();
    }

    /// Watches exactly the directories that matter now.
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
            // Fails when the directory does not exist any more: then there is nothing to undo.
            let _ = watcher.unwatch(gone);
        }
        self.directories.retain(|d| wanted.contains(d));
        for new in wanted {
            // A directory that cannot be watched (not there, no permission) is left to the poll, which tries again.
            if !self.directories.contains(&new)
                && watcher.watch(&new, RecursiveMode::NonRecursive).is_ok()
            {
                self.directories.insert(new);
            }
        }
    }
}

/// What an event means for a file; `None` for those that change nothing.
fn sight(kind: EventKind) -> Option<Sight> {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Sight::Settled),
        EventKind::Access(_) => None,
        // Only inotify tells when the writer is done; elsewhere silence must do.
        EventKind::Modify(ModifyKind::Data(_)) if cfg!(target_os = "linux") => Some(Sight::Writing),
        _ => Some(Sight::Settled),
    }
}

#[cfg(test)]
mod tests;
