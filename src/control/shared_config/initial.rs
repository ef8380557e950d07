//! Writes the tables of a fleet for the first time: `cutover fleet init`.

use super::document::SharedDocument;
use crate::config::fleet::FleetSpec;
use crate::control::etcd::{CasOutcome, Etcd, EtcdError};

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Initialised {
    /// The key.
    pub key: String,
    /// Its revision.
    pub revision: i64,
}

/// Why nothing was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum InitError {
    /// The fleet has tables already. Holds who wrote them.
    Exists(String),
    /// They are larger than a value in etcd may be. Holds the words for it.
    TooLarge(String),
    /// etcd doesn't answer, or refuses.
    Etcd(String),
}

impl From<EtcdError> for InitError {
    fn from(error: EtcdError) -> Self {
        Self::Etcd(error.to_string())
    }
}

/// Writes the tables of a fleet. Must run on a local runtime. `replaces`: also if there are tables already.
///
/// # Errors
/// See [`InitError`].
pub(crate) async fn init(
    fleet: &FleetSpec,
    tables: String,
    by: String,
    replaces: bool,
) -> Result<Initialised, InitError> {
    let value = SharedDocument { text: tables, by }.to_value();
    let value = value.map_err(InitError::TooLarge)?;
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
    let expected = known.map(|entry| entry.mod_revision);
    match etcd.cas(&key, expected, value, None).await? {
        CasOutcome::Done(revision) => Ok(Initialised { key, revision }),
        CasOutcome::Conflict(found) => {
            let by = found.and_then(|entry| author(&entry.value).ok());
            Err(InitError::Exists(by.unwrap_or_default()))
        }
    }
}
