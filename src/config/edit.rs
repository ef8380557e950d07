//! Edits the text of a configuration in place.
//!
//! An edit replaces the bytes of single values or inserts one entry. Comments, order, alignment and line ends stay as they
//! are, because the document is never serialised. The parser's spans say which bytes to replace.

use std::fmt;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::spec::Share;
use super::suggest::suggest;
use super::units::quote;

pub use super::replace::{InPlace, LockedFile, Replaced};

/// Why a text can't be edited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EditError {
    /// The text isn't TOML. Holds the parser's message.
    Syntax(String),
    /// There is no such service. Holds its name and a suggestion.
    NoService(String, String),
    /// The service has no such version. Holds the names of the service and the version, and a suggestion.
    NoVersion(String, String, String),
    /// The version is the stable one, which gets what the split leaves. Holds the names of the service and the version.
    IsStable(String, String),
    /// The service has no `stable`, or a key has the wrong type. Holds the name of the service.
    Malformed(String),
}

impl fmt::Display for EditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(message) => write!(f, "the file is not valid TOML: {message}"),
            Self::NoService(name, help) => write!(f, "no service {}: {help}", quote(name)),
            Self::NoVersion(service, name, help) => {
                write!(
                    f,
                    "service `{service}` has no version {}: {help}",
                    quote(name)
                )
            }
            Self::IsStable(service, name) => write!(
                f,
                "`{name}` is the stable version of `{service}` and gets what the split leaves: shift another version"
            ),
            Self::Malformed(service) => write!(
                f,
                "service `{service}` is incomplete: run `cutover check` to see what is missing"
            ),
        }
    }
}

impl std::error::Error for EditError {}

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

/// Makes a version stable and returns the new text. If the version has an entry in the split, that entry is changed to the
/// previous stable version with 0 %.
///
/// # Errors
/// See [`EditError`].
pub fn set_stable(text: &str, service: &str, version: &str) -> Result<String, EditError> {
    edited(text, service, version, |entry| entry.promote())
}

/// Byte ranges and the texts that replace them.
type Changes = Vec<(Range<usize>, String)>;

fn edited(
    text: &str,
    service: &str,
    version: &str,
    change: impl Fn(&ServiceEntry<'_>) -> Result<Changes, EditError>,
) -> Result<String, EditError> {
    let root = DeTable::parse(text).map_err(|e| EditError::Syntax(e.message().to_owned()))?;
    let service = ServiceEntry::find(text, root.get_ref(), service, version)?;
    let mut changes = change(&service)?;
    // Apply from the end, so that the ranges before stay valid.
    changes.sort_by_key(|(span, _)| std::cmp::Reverse(span.start));
    let mut text = text.to_owned();
    for (span, new) in changes {
        text.replace_range(span, &new);
    }
    Ok(text)
}

/// A service in the text, and the version to change.
struct ServiceEntry<'t> {
    text: &'t str,
    name: &'t str,
    version: &'t str,
    table: Entries<'t>,
}

/// A table, and whether it is an inline table, in which entries are separated by commas.
#[derive(Clone, Copy)]
struct Entries<'t> {
    table: &'t DeTable<'t>,
    inline: bool,
}

impl<'t> Entries<'t> {
    fn get(self, name: &str) -> Option<(Range<usize>, &'t Spanned<DeValue<'t>>)> {
        self.table
            .iter()
            .find(|(key, _)| key.get_ref() == name)
            .map(|(key, value)| (key.span(), value))
    }

    fn enter(self, text: &str, name: &str) -> Option<Self> {
        let (_, value) = self.get(name)?;
        let DeValue::Table(table) = value.get_ref() else {
            return None;
        };
        let inline = self.inline || text[value.span().start..].starts_with('{');
        Some(Self { table, inline })
    }
}

impl<'t> ServiceEntry<'t> {
    fn find(
        text: &'t str,
        root: &'t DeTable<'t>,
        name: &'t str,
        version: &'t str,
    ) -> Result<Self, EditError> {
        let root = Entries {
            table: root,
            inline: false,
        };
        let services = root.enter(text, "service");
        let Some(table) = services.and_then(|s| s.enter(text, name)) else {
            let known = services.map(names).unwrap_or_default();
            return Err(EditError::NoService(
                name.to_owned(),
                suggest(name, &known, "the services are"),
            ));
        };
        let known = table.enter(text, "versions").map(names).unwrap_or_default();
        if !known.contains(&version) {
            return Err(EditError::NoVersion(
                name.to_owned(),
                version.to_owned(),
                suggest(version, &known, "the versions are"),
            ));
        }
        Ok(Self {
            text,
            name,
            version,
            table,
        })
    }

    /// Returns the span of the value of `stable`, if it is written, and the name of the stable version.
    fn stable(&self) -> Result<(Option<Range<usize>>, &str), EditError> {
        if let Some((_, value)) = self.table.get("stable") {
            return match value.get_ref() {
                DeValue::String(name) => Ok((Some(value.span()), name)),
                _ => Err(EditError::Malformed(self.name.to_owned())),
            };
        }
        match self
            .table
            .enter(self.text, "versions")
            .map(names)
            .as_deref()
        {
            Some([only]) => Ok((None, only)),
            _ => Err(EditError::Malformed(self.name.to_owned())),
        }
    }

    /// Sets the share of the version: in its entry, in a new entry of `split`, or in a new `split` after `stable`.
    fn share(&self, share: &str) -> Result<Changes, EditError> {
        let (_, stable) = self.stable()?;
        if stable == self.version {
            return Err(EditError::IsStable(self.name.to_owned(), stable.to_owned()));
        }
        let malformed = || EditError::Malformed(self.name.to_owned());
        let entry = format!("{} = \"{share}\"", key(self.version));
        let Some((split_key, value)) = self.table.get("split") else {
            let (at, stable) = self.table.get("stable").ok_or_else(malformed)?;
            let entry = format!("split = {{ {entry} }}");
            return Ok(vec![self.after(
                self.table.inline,
                &at,
                &stable.span(),
                &entry,
            )]);
        };
        let split = self.table.enter(self.text, "split").ok_or_else(malformed)?;
        if let Some((_, value)) = split.get(self.version) {
            return Ok(vec![(value.span(), format!("\"{share}\""))]);
        }
        let last = split
            .table
            .iter()
            .map(|(key, value)| (key.span(), value.span()))
            .max_by_key(|(_, value)| value.end);
        Ok(vec![match last {
            Some((key, value)) => self.after(split.inline, &key, &value, &entry),
            None if self.text[value.span().start..].starts_with('{') => {
                (value.span(), format!("{{ {entry} }}"))
            }
            None => {
                let (at, line) = self.line_after(split_key.end, "", &entry);
                (at, line)
            }
        }])
    }

    /// Makes the version stable, in exchange with the current one.
    fn promote(&self) -> Result<Changes, EditError> {
        let (stable, name) = self.stable()?;
        let Some(stable) = stable else {
            return Ok(Vec::new()); // The only version is stable already.
        };
        let mut changes = vec![(stable, string(self.version))];
        let split = self.table.enter(self.text, "split");
        if name != self.version
            && let Some((at, share)) = split.and_then(|s| s.get(self.version))
        {
            changes.push((at, key(name)));
            changes.push((share.span(), "\"0%\"".to_owned()));
        }
        Ok(changes)
    }

    /// Inserts an entry after the one with this key and value, with the same indentation and dotted prefix.
    fn after(
        &self,
        inline: bool,
        at: &Range<usize>,
        value: &Range<usize>,
        entry: &str,
    ) -> (Range<usize>, String) {
        let before = &self.text[..at.start];
        if inline {
            let start = before.rfind(['{', ',', '\n']).map_or(0, |n| n + 1);
            let dotted = before[start..].trim_start();
            return (value.end..value.end, format!(", {dotted}{entry}"));
        }
        let start = before.rfind('\n').map_or(0, |n| n + 1);
        self.line_after(value.end, &before[start..], entry)
    }

    /// Inserts a line after the line of `offset`, with the line end that this one has.
    fn line_after(&self, offset: usize, prefix: &str, entry: &str) -> (Range<usize>, String) {
        let end = self.text[offset..]
            .find('\n')
            .map_or(self.text.len(), |n| offset + n);
        let carriage = self.text[..end].ends_with('\r');
        let (at, newline) = if carriage {
            (end - 1, "\r\n")
        } else {
            (end, "\n")
        };
        (at..at, format!("{newline}{prefix}{entry}"))
    }
}

fn names(entries: Entries<'_>) -> Vec<&str> {
    entries
        .table
        .keys()
        .map(|key| key.get_ref().as_ref())
        .collect()
}

/// Writes a TOML key, in quotes if it isn't a bare key.
fn key(name: &str) -> String {
    let bare = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if !name.is_empty() && name.bytes().all(bare) {
        name.to_owned()
    } else {
        string(name)
    }
}

/// Writes a basic TOML string. Names of versions contain no control characters, so only quotes and backslashes are
/// escaped.
fn string(name: &str) -> String {
    format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests;
