//! Edits of the configuration file by the proxy itself: promotions and changes through the API.
//!
//! An edit does what the commands do: it takes the lock of the file, changes the text in place, checks the result, and replaces the
//! file atomically. The file watcher then takes it up like any other change. All of it blocks.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::config;
use crate::config::edit::{EditError, LockedFile, Replaced};

/// Longest wait for another command that edits the file.
const LOCK: Duration = Duration::from_secs(5);
/// Interval between two tries to take the lock.
const TRY_EVERY: Duration = Duration::from_millis(20);

/// Why the file was not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EditFailure {
    /// The file can't be locked, read or written.
    File(String),
    /// The file has no such service or version.
    Edit(String),
    /// The result would not be valid. Holds the diagnostics.
    Invalid(String),
}

impl fmt::Display for EditFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(why) | Self::Edit(why) => f.write_str(why),
            Self::Invalid(why) => write!(
                f,
                "the edited file would be invalid; it was not changed\n{why}"
            ),
        }
    }
}

impl From<EditError> for EditFailure {
    fn from(error: EditError) -> Self {
        Self::Edit(error.to_string())
    }
}

/// Edits the file, and returns the new text. A text that stays the same isn't written.
///
/// # Errors
/// See [`EditFailure`].
pub(super) fn edit(
    file: &Path,
    change: impl Fn(&str) -> Result<String, EditFailure>,
) -> Result<String, EditFailure> {
    let mut locked = lock(file)?;
    let failed = |what: &str, error: std::io::Error| {
        EditFailure::File(format!(
            "can't {what} {}: {error}; if it comes from a ConfigMap or another read-only source, change it there",
            file.display()
        ))
    };
    let text = locked.read().map_err(|error| failed("read", error))?;
    let edited = change(&text)?;
    config::parse(&edited, &file.display().to_string()).map_err(|errors| {
        let errors: Vec<String> = errors.iter().map(|error| error.rendered(false)).collect();
        EditFailure::Invalid(errors.join("\n"))
    })?;
    if edited != text {
        let replaced = locked
            .replace(&edited)
            .map_err(|error| failed("write", error))?;
        if let Replaced::InPlace(why) = replaced {
            tracing::info!(file = %file.display(), "configuration file overwritten in place: {why}");
        }
    }
    Ok(edited)
}

fn lock(file: &Path) -> Result<LockedFile, EditFailure> {
    let began = Instant::now();
    loop {
        let failed =
            |error| EditFailure::File(format!("can't open and lock {}: {error}", file.display()));
        if let Some(locked) = LockedFile::try_lock(file).map_err(failed)? {
            return Ok(locked);
        }
        if began.elapsed() > LOCK {
            let why = format!(
                "another command has been editing {} for {LOCK:?}",
                file.display()
            );
            return Err(EditFailure::File(why));
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "edits run on a thread of their own"
        )]
        std::thread::sleep(TRY_EVERY);
    }
}
