//! Finds a service and a version in the text of a configuration, and inserts entries beside others.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::EditError;
use crate::config::suggest::suggest;

/// Byte ranges and the texts that replace them.
pub(super) type Changes = Vec<(Range<usize>, String)>;

/// Applies a change to the text of one service.
///
/// # Errors
/// The text isn't TOML, the service or the version isn't in it, or `change` fails.
pub(super) fn edited(
    text: &str,
    service: &str,
    version: &str,
    change: impl Fn(&ServiceEntry<'_>) -> Result<Changes, EditError>,
) -> Result<String, EditError> {
    apply(text, service, |entry| {
        entry.check_version(version)?;
        change(&entry.of(version))
    })
}

/// Applies a change to a flag in the text of its service.
///
/// # Errors
/// The text isn't TOML, the service or the flag isn't in it, or `change` fails.
pub(super) fn edited_flag(
    text: &str,
    service: &str,
    flag: &str,
    change: impl Fn(&ServiceEntry<'_>) -> Result<Changes, EditError>,
) -> Result<String, EditError> {
    apply(text, service, |entry| {
        entry.check_flag(flag)?;
        change(&entry.of(flag))
    })
}

fn apply(
    text: &str,
    service: &str,
    change: impl Fn(&ServiceEntry<'_>) -> Result<Changes, EditError>,
) -> Result<String, EditError> {
    let root = DeTable::parse(text).map_err(|e| EditError::Syntax(e.message().to_owned()))?;
    let service = ServiceEntry::find(text, root.get_ref(), service)?;
    let mut changes = change(&service)?;
    // Applied from the end, so that the earlier ranges stay valid.
    changes.sort_by_key(|(span, _)| std::cmp::Reverse(span.start));
    let mut text = text.to_owned();
    for (span, new) in changes {
        text.replace_range(span, &new);
    }
    Ok(text)
}

/// A service in the text, and the version or flag in it that is edited.
pub(super) struct ServiceEntry<'t> {
    pub(super) text: &'t str,
    pub(super) name: &'t str,
    /// Name of the version or flag to change.
    pub(super) target: &'t str,
    pub(super) table: Entries<'t>,
}

/// A table, and whether it is an inline table, in which entries are separated by commas.
#[derive(Clone, Copy)]
pub(super) struct Entries<'t> {
    pub(super) table: &'t DeTable<'t>,
    pub(super) inline: bool,
}

impl<'t> Entries<'t> {
    /// The span of a key and its value.
    pub(super) fn get(self, name: &str) -> Option<(Range<usize>, &'t Spanned<DeValue<'t>>)> {
        self.table
            .iter()
            .find(|(key, _)| key.get_ref() == name)
            .map(|(key, value)| (key.span(), value))
    }

    /// The table at a key.
    pub(super) fn enter(self, text: &str, name: &str) -> Option<Self> {
        let (_, value) = self.get(name)?;
        let DeValue::Table(table) = value.get_ref() else {
            return None;
        };
        let inline = self.inline || text[value.span().start..].starts_with('{');
        Some(Self { table, inline })
    }
}

impl<'t> ServiceEntry<'t> {
    fn find(text: &'t str, root: &'t DeTable<'t>, name: &'t str) -> Result<Self, EditError> {
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
        Ok(Self {
            text,
            name,
            target: "",
            table,
        })
    }

    /// The same service, with this version or flag to change.
    fn of<'n>(&'n self, target: &'n str) -> ServiceEntry<'n> {
        ServiceEntry { target, ..*self }
    }

    /// The names in one of the service's tables.
    fn known(&self, table: &str) -> Vec<&str> {
        let table = self.table.enter(self.text, table);
        table.map(names).unwrap_or_default()
    }

    fn check_version(&self, version: &str) -> Result<(), EditError> {
        let known = self.known("versions");
        if known.contains(&version) {
            return Ok(());
        }
        let help = suggest(version, &known, "the versions are");
        let (name, version) = (self.name.to_owned(), version.to_owned());
        Err(EditError::NoVersion(name, version, help))
    }

    fn check_flag(&self, flag: &str) -> Result<(), EditError> {
        let known = self.known("flags");
        if known.contains(&flag) {
            return Ok(());
        }
        let help = match known.is_empty() {
            true => format!(
                "it has none; add `[service.{}.flags.NAME]` to the file",
                self.name
            ),
            false => suggest(flag, &known, "the flags are"),
        };
        let (name, flag) = (self.name.to_owned(), flag.to_owned());
        Err(EditError::NoFlag(name, flag, help))
    }

    /// Returns the span of the value of `stable`, if it is written, and the name of the stable version.
    pub(super) fn stable(&self) -> Result<(Option<Range<usize>>, &str), EditError> {
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

    /// Inserts an entry after the one with this key and value, with the same indentation and dotted prefix.
    pub(super) fn after(
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
    pub(super) fn line_after(
        &self,
        offset: usize,
        prefix: &str,
        entry: &str,
    ) -> (Range<usize>, String) {
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
pub(super) fn key(name: &str) -> String {
    let bare = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if !name.is_empty() && name.bytes().all(bare) {
        name.to_owned()
    } else {
        string(name)
    }
}

/// Writes a basic TOML string. Names of versions contain no control characters, so only quotes and backslashes are
/// escaped.
pub(super) fn string(name: &str) -> String {
    format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
}
