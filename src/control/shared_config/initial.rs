//! Writes the tables of a fleet for the first time: `cutover fleet init`.

use std::path::Path;
use std::time::SystemTime;

use super::age::TablesAge;
use super::document::SharedDocument;
use super::timeline::Timeline;
use crate::config::fleet::FleetSpec;
use crate::control::etcd::{CasOutcome, Etcd, EtcdError};

/// The key that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Initialised {
    /// Name of the key.
    pub key: String,
    /// Revision of the key.
    pub revision: i64,
}

/// The reason why nothing was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum InitError {
    /// The fleet has tables already. Contains their author.
    Exists(String),
    /// The tables are larger than a value in etcd may be. Contains the message.
    TooLarge(String),
    /// etcd doesn't answer, or refuses the change.
    Etcd(String),
}

impl From<EtcdError> for InitError {
    fn from(error: EtcdError) -> Self {
        Self::Etcd(error.to_string())
    }
}

/// Writes the tables of a fleet. Must run on a local runtime. `replaces`: overwrites existing tables.
///
/// They begin a [timeline](Timeline), so that members take them although etcd may have been restored. The file at `main` may be that
/// of a member, whose state directory names a later timeline than etcd does.
///
/// # Errors
/// See [`InitError`].
pub(crate) async fn init(
    main: &Path,
    fleet: &FleetSpec,
    tables: String,
    by: String,
    replaces: bool,
) -> Result<Initialised, InitError> {
    let etcd = Etcd::new(fleet);
    let key = fleet.config_key();
    let known = etcd.get(&key).await?;
    let author = |value: &[u8]| SharedDocument::read(value).map(|document| document.by);
    if let Some(entry) = &known
        && !replaces
    {
        let by = author(&entry.value).unwrap_or_default();
        return Err(InitError::Exists(by));
    }
    let replaced = known.as_ref().and_then(|entry| {
        let document = SharedDocument::read(&entry.value).ok()?;
        document.timeline
    });
    // A command may block.
    let remembered = TablesAge::read(main, fleet).timeline();
    let document = SharedDocument {
        text: tables,
        by,
        timeline: Some(Timeline::begin(replaced.max(remembered), SystemTime::now())),
    };
    let value = document.to_value().map_err(InitError::TooLarge)?;
    let expected = known.map(|entry| entry.mod_revision);
    match etcd.cas(&key, expected, value, None).await? {
        CasOutcome::Done(revision) => Ok(Initialised { key, revision }),
        CasOutcome::Conflict(found) => {
            let by = found.and_then(|entry| author(&entry.value).ok());
            Err(InitError::Exists(by.unwrap_or_default()))
        }
    }
}
