//! Writes the tables of a fleet for the first time: `cutover fleet init`.

use super::document::SharedDocument;
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
