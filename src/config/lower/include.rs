//! `include`: checks the patterns. The files that they match are part of the document already.

use crate::config::include::fault;
use crate::config::problems::Problems;
use crate::config::raw::RawTable;
use crate::config::units::quote;

/// Checks the key at the top of the main file.
pub(super) fn check(file: &mut RawTable<'_>, out: &mut Problems) {
    let Some(value) = file.take("include") else {
        return;
    };
    for pattern in value.texts("a path such as \"conf.d/*.toml\"", out) {
        if let Some(expected) = fault(pattern.value) {
            let message = format!("{} can't be included", quote(pattern.value));
            out.error(pattern.span, message).label(expected);
        }
    }
}
