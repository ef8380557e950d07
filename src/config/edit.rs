//! Edits the text of a configuration in place.
//!
//! An edit replaces the bytes of single values or inserts one entry. Comments, order, alignment and line ends stay as they
//! are, because the document is never serialised. The parser's spans say which bytes to replace.

mod entry;
mod error;
mod flag;
mod shares;
mod version;

use super::spec::Share;
use entry::{edited, edited_flag};

pub use super::replace::{InPlace, LockedFile, Replaced};
pub use error::EditError;

/// Sets shares in the `split` of a service and returns the new text.
///
/// A share of 0 % is written as such, not removed. The sum of the shares isn't checked: [`parse`](super::parse) the result.
///
/// # Errors
/// See [`EditError`].
pub fn shift<V: AsRef<str>>(
    text: &str,
    service: &str,
    shares: &[(V, Share)],
) -> Result<String, EditError> {
    let mut text = text.to_owned();
    for (version, share) in shares {
        let (version, share) = (version.as_ref(), share.to_string());
        text = edited(&text, service, version, |entry| entry.share(&share))?;
    }
    Ok(text)
}

/// Puts a version under the rollout plan of its service: `split = { v2 = "rollout" }`. Returns the new text.
///
/// # Errors
/// See [`EditError`].
pub(crate) fn start_rollout(text: &str, service: &str, version: &str) -> Result<String, EditError> {
    edited(text, service, version, |entry| entry.share("rollout"))
}

/// Makes a version stable and returns the new text. If the version has an entry in the split, that entry is changed to the
/// previous stable version with 0 %.
///
/// # Errors
/// See [`EditError`].
pub fn set_stable(text: &str, service: &str, version: &str) -> Result<String, EditError> {
    edited(text, service, version, |entry| entry.promote())
}

/// Replaces the endpoints of a version and returns the new text. Endpoints that stay keep their lines and comments.
///
/// # Errors
/// See [`EditError`].
pub(crate) fn set_endpoints(
    text: &str,
    service: &str,
    version: &str,
    endpoints: &[String],
) -> Result<String, EditError> {
    edited(text, service, version, |entry| entry.endpoints(endpoints))
}

/// Sets the label of a version and returns the new text. A version that is a list of endpoints becomes a table.
///
/// # Errors
/// See [`EditError`].
pub(crate) fn set_label(
    text: &str,
    service: &str,
    version: &str,
    label: &str,
) -> Result<String, EditError> {
    edited(text, service, version, |entry| entry.label(label))
}

/// Sets the share of a flag, `5%` or `rollout`, and returns the new text.
///
/// # Errors
/// See [`EditError`].
pub(crate) fn set_flag(
    text: &str,
    service: &str,
    flag: &str,
    share: &str,
) -> Result<String, EditError> {
    edited_flag(text, service, flag, |entry| entry.flag_share(share))
}

#[cfg(test)]
mod flag_tests;
#[cfg(test)]
mod tests;
