//! The files of the configuration, as `/api/v1/status` shows them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::load::ConfigFile;
use crate::snapshot::ConfigSource;

/// The configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Config {
    /// Absolute path.
    pub path: String,
    /// The file and those that it includes, in this order.
    #[serde(default)]
    pub files: Vec<FileStatus>,
    /// xxh3 hash of the running text, 16 hex digits.
    pub hash: String,
    /// Whether the current file is the one that runs.
    pub ok: bool,
    /// Why the current file was refused, if it was.
    pub error: Option<String>,
    /// xxh3 hash of the refused text.
    pub refused_hash: Option<String>,
    /// When the running generation was published, RFC 3339.
    pub published: Option<String>,
    /// The texts adopted last, the newest at the end.
    #[serde(default)]
    pub recent: Vec<Adopted>,
}

/// A file of the running configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileStatus {
    /// Absolute path.
    pub path: String,
    /// Names of the services that it defines.
    pub services: Vec<String>,
}

/// An adopted text of the configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Adopted {
    /// xxh3 hash of the text, 16 hex digits.
    pub hash: String,
    /// The generation that was compiled from it.
    pub generation: u64,
}

impl Config {
    pub(super) fn of(source: ConfigSource) -> Self {
        // Clients may have another working directory.
        let absolute = |path: PathBuf| {
            let path = std::path::absolute(&path).unwrap_or(path);
            path.display().to_string()
        };
        let file = |file: &ConfigFile| FileStatus {
            path: absolute(file.path.clone()),
            services: file.services.clone(),
        };
        Self {
            path: absolute(source.path),
            files: source.files.iter().map(file).collect(),
            hash: source.hash,
            ok: source.error.is_none(),
            error: source.error,
            refused_hash: source.refused_hash,
            published: source
                .published
                .map(|time| humantime::format_rfc3339_millis(time).to_string()),
            recent: source
                .recent
                .into_iter()
                .map(|(hash, generation)| Adopted { hash, generation })
                .collect(),
        }
    }
}
