//! Reads the configuration file for the publisher, and logs its warnings.

use std::path::Path;

use crate::admin::plan::restart_keys;
use crate::config::{self, Diagnostic, Spec};

/// Reads and parses the file. The error contains the rendered diagnostics, and the hash of the text if it could be read.
///
/// A panic is caught: a file that hits a bug in the parser must not bring down a running proxy.
pub(super) fn read(file: &Path) -> Result<config::Loaded, (String, Option<String>)> {
    let load = || {
        tracing::trace!(file = %file.display(), "reading the configuration");
        config::load(file)
    };
    match std::panic::catch_unwind(load) {
        Ok(Ok(loaded)) => Ok(loaded),
        Ok(Err(failure)) => Err((failure.rendered(false), failure.hash().map(str::to_owned))),
        Err(_) => Err((
            format!(
                "{}: cutover panicked while reading this file, which is a bug: see the log, and please report it with the file",
                file.display()
            ),
            None,
        )),
    }
}

/// Renders diagnostics, without colour.
pub(super) fn rendered(errors: &[Diagnostic]) -> String {
    let errors: Vec<String> = errors.iter().map(|e| e.rendered(false)).collect();
    errors.join("\n")
}

/// Logs the warnings of a configuration.
pub(super) fn warn(loaded: &config::Loaded) {
    for warning in &loaded.warnings {
        tracing::warn!(
            detail = warning.rendered(false),
            "the configuration has a warning"
        );
    }
}

/// Warns of changed keys that only a restart applies.
pub(super) fn warn_of_restart(old: &Spec, new: &Spec) {
    for key in restart_keys(old, new) {
        tracing::warn!(
            key,
            "this key takes effect after a restart; all other changes take effect now"
        );
    }
}
