//! Typed access to the parsed TOML document, with the span and the dotted path of every value.
//!
//! A [`RawTable`] records which keys were requested. [`RawTable::finish`] reports all others as unknown, so the keys that a
//! table accepts, and that its suggestions name, are exactly those that the code reads.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::keys;
use super::problems::{Problem, Problems, TextSpan};
use super::units::quote;

/// A table whose keys are being read. Call [`RawTable::finish`] at the end to report unknown keys.
///
/// `known` collects the keys that were asked for, also those that are absent. What remains is unknown, and is compared with them
/// for a suggestion: so each key must be taken whether or not it has an effect in its place.
pub(super) struct RawTable<'t> {
    source: &'t str,
    /// Dotted path, as in a table header; empty for the file itself.
    pub(super) path: String,
    /// Span of the key or header that names the table.
    pub(super) at: TextSpan,
    entries: &'t DeTable<'t>,
    known: Vec<&'static str>,
}

/// The value of a key, or an item of a list.
#[derive(Clone)]
pub(super) struct RawValue<'t> {
    source: &'t str,
    /// Dotted path of the key.
    pub(super) path: String,
    /// Span of the key; for an item of a list, of the item.
    pub(super) key: TextSpan,
    /// Span of the value.
    pub(super) span: TextSpan,
    pub(super) node: &'t DeValue<'t>,
}

/// A string value.
#[derive(Clone, Debug)]
pub(super) struct RawString<'t> {
    pub(super) value: &'t str,
    /// Span of the string, including its quotes.
    pub(super) span: TextSpan,
    /// Whether the string is written without escapes and on one line, so that offsets in `value` map to the source.
    plain: bool,
}

impl<'t> RawTable<'t> {
    /// Creates the table for the top of the file.
    pub(super) fn root(source: &'t str, entries: &'t DeTable<'t>) -> Self {
        Self {
            source,
            path: String::new(),
            at: 0..0,
            entries,
            known: Vec::new(),
        }
    }

    /// Returns the value of a key, if present, and records the key as known.
    pub(super) fn take(&mut self, key: &'static str) -> Option<RawValue<'t>> {
        self.known.push(key);
        let entries: &'t DeTable<'t> = self.entries;
        let (name, value) = entries.get_key_value(key)?;
        Some(RawValue::of(self.source, &self.path, name, value))
    }

    /// Like [`RawTable::take`], but reports an absent key as an error with this help.
    pub(super) fn need(
        &mut self,
        key: &'static str,
        out: &mut Problems,
        help: &str,
    ) -> Option<RawValue<'t>> {
        let value = self.take(key);
        if value.is_none() {
            out.error(self.at.clone(), format!("`{}` has no `{key}`", self.path))
                .label(format!("expected `{key}` in here"))
                .help(help)
                .missing(&self.path, key);
        }
        value
    }

    /// Returns all keys and values of a table whose keys are names chosen by the user. Such a table needs no
    /// [`RawTable::finish`].
    pub(super) fn named(&self) -> impl Iterator<Item = (&'t str, RawValue<'t>)> + use<'t> {
        let (entries, source, path): (&'t DeTable<'t>, _, _) =
            (self.entries, self.source, self.path.clone());
        entries.iter().map(move |(key, value)| {
            let name: &'t str = key.get_ref();
            (name, RawValue::of(source, &path, key, value))
        })
    }

    /// Reports unknown keys and returns the known keys that were probably meant by them.
    pub(super) fn finish(self, out: &mut Problems) -> Vec<&'static str> {
        let mut meant = Vec::new();
        for (name, value) in self.named() {
            if self.known.contains(&name) {
                continue;
            }
            let unknown = keys::unknown(&self.path, name, &self.known);
            if let Some(key) = unknown.meant {
                out.forget_missing(&self.path, key);
                meant.push(key);
            }
            out.error(value.key, unknown.message)
                .label(unknown.label)
                .help(unknown.help);
        }
        meant
    }

    /// Returns whether the key is present, without recording it as known.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }
}

/// Appends a key to a dotted path, in quotes where TOML requires them.
fn join(path: &str, name: &str) -> String {
    let bare = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let name = if bare {
        name.to_owned()
    } else {
        let quoted = quote(name);
        format!("\"{}\"", quoted.trim_matches('`'))
    };
    match path {
        "" => name,
        path => format!("{path}.{name}"),
    }
}

impl<'t> RawValue<'t> {
    /// Creates the value of `key` in the table at `path`.
    fn of(
        source: &'t str,
        path: &str,
        key: &'t Spanned<DeString<'t>>,
        value: &'t Spanned<DeValue<'t>>,
    ) -> Self {
        Self {
            source,
            path: join(path, key.get_ref()),
            key: key.span(),
            span: value.span(),
            node: value.get_ref(),
        }
    }

    /// Names the type, for "found …".
    fn found(&self) -> &'static str {
        match self.node {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        }
    }

    /// Reports that the value has the wrong type.
    pub(super) fn mistyped<'p>(&self, expected: &str, out: &'p mut Problems) -> &'p mut Problem {
        out.error(
            self.span.clone(),
            format!("`{}` must be {expected}", self.path),
        )
        .label(format!("expected {expected}, found {}", self.found()))
    }

    /// Returns the integer, if the value is one that fits.
    pub(super) fn as_integer(&self) -> Option<i64> {
        let DeValue::Integer(number) = self.node else {
            return None;
        };
        i64::from_str_radix(number.as_str(), number.radix()).ok()
    }

    /// Returns whether this is a list of tables that is written as `[[…]]` headers.
    fn is_list_of_headers(&self) -> bool {
        let DeValue::Array(items) = self.node else {
            return false;
        };
        // The parser gives such a list the span of its first header.
        items.iter().next().is_some_and(|first| {
            first.span() == self.span && matches!(first.get_ref(), DeValue::Table(_))
        })
    }

    /// Reads a string. `expected` completes "must be …", such as `a string such as "blue"`.
    pub(super) fn text(&self, expected: &str, out: &mut Problems) -> Option<RawString<'t>> {
        let text = self.as_text();
        if text.is_none() {
            self.mistyped(expected, out);
        }
        text
    }

    /// Returns the string, if the value is one.
    pub(super) fn as_text(&self) -> Option<RawString<'t>> {
        let DeValue::String(value) = self.node else {
            return None;
        };
        let value: &'t str = value;
        let inside = self.span.start + 1..self.span.end.saturating_sub(1);
        Some(RawString {
            value,
            span: self.span.clone(),
            plain: self.source.get(inside) == Some(value),
        })
    }

    /// Reads a table. `expected` completes "must be …".
    pub(super) fn table(&self, expected: &str, out: &mut Problems) -> Option<RawTable<'t>> {
        let table = self.as_table();
        if table.is_none() {
            let problem = self.mistyped(expected, out);
            if self.is_list_of_headers() {
                let header = &self.path;
                problem.help(format!(
                    "write one bracket on each side, once: `[{header}]`"
                ));
            }
        }
        table
    }

    /// Reads a list of tables, which is usually written as `[[…]]` headers. A single table is an error, but is still returned
    /// so that its content is checked as well.
    pub(super) fn tables(&self, out: &mut Problems) -> Vec<RawValue<'t>> {
        if let Some(items) = self.as_list() {
            return items;
        }
        let problem = self.mistyped("a list of tables", out);
        if self.as_table().is_none() {
            return Vec::new();
        }
        let header = &self.path;
        problem.help(match self.source[self.span.start..].starts_with('{') {
            true => {
                format!("put it in brackets: `[{{ … }}]`, or write `[[{header}]]` above its keys")
            }
            false => format!("write two brackets on each side: `[[{header}]]`"),
        });
        vec![self.clone()]
    }

    /// Returns the table, if the value is one.
    pub(super) fn as_table(&self) -> Option<RawTable<'t>> {
        let DeValue::Table(entries) = self.node else {
            return None;
        };
        Some(RawTable {
            source: self.source,
            path: self.path.clone(),
            at: self.key.clone(),
            entries,
            known: Vec::new(),
        })
    }

    /// Returns the items, if the value is a list.
    pub(super) fn as_list(&self) -> Option<Vec<RawValue<'t>>> {
        let DeValue::Array(items) = self.node else {
            return None;
        };
        let items = items.iter().map(|item| RawValue {
            source: self.source,
            path: self.path.clone(),
            key: item.span(),
            span: item.span(),
            node: item.get_ref(),
        });
        Some(items.collect())
    }

    /// Reads a string or a non-empty list of strings without duplicates. `expected` describes one of them.
    pub(super) fn texts(&self, expected: &str, out: &mut Problems) -> Vec<RawString<'t>> {
        let items = match (self.as_text(), self.as_list()) {
            (Some(text), _) => return vec![text],
            (_, Some(items)) => items,
            _ => {
                self.mistyped(&format!("{expected}, or a list of these"), out);
                return Vec::new();
            }
        };
        if items.is_empty() {
            self.empty(out);
        }
        let mut texts: Vec<RawString<'t>> = Vec::new();
        let mut spans: HashMap<&str, TextSpan> = HashMap::new();
        for item in items {
            let Some(text) = item.text(expected, out) else {
                continue;
            };
            match spans.entry(text.value) {
                Entry::Occupied(first) => {
                    let message =
                        format!("{} is listed twice in `{}`", quote(text.value), self.path);
                    out.error(text.span, message)
                        .label("again here")
                        .also(first.get().clone(), "first here");
                }
                Entry::Vacant(entry) => {
                    entry.insert(text.span.clone());
                    texts.push(text);
                }
            }
        }
        texts
    }

    /// Reports that a list or table is empty.
    pub(super) fn empty(&self, out: &mut Problems) {
        out.error(self.span.clone(), format!("`{}` is empty", self.path))
            .label("expected at least one entry")
            .absence();
    }
}

impl<'t> RawString<'t> {
    /// Returns a word that is a slice of `value` as a string of its own.
    pub(super) fn word(&self, word: &'t str) -> Self {
        Self {
            value: word,
            span: self.part_of(word),
            plain: false,
        }
    }
}

impl RawString<'_> {
    /// Returns the span of a part of the string, or of all of it if it contains escapes.
    pub(super) fn part(&self, part: TextSpan) -> TextSpan {
        if self.plain {
            self.span.start + 1 + part.start..self.span.start + 1 + part.end
        } else {
            self.span.clone()
        }
    }

    /// Returns the span of the first character for which `is_bad` holds.
    pub(super) fn span_of_char(&self, is_bad: impl Fn(char) -> bool) -> Option<TextSpan> {
        let (at, found) = self.value.char_indices().find(|(_, c)| is_bad(*c))?;
        Some(self.part(at..at + found.len_utf8()))
    }

    /// Returns the span of a word that is a slice of `value`.
    pub(super) fn part_of(&self, word: &str) -> TextSpan {
        // The offset follows from the addresses; of a word from elsewhere it is out of range.
        let base = self.value.as_ptr() as usize;
        let start = (word.as_ptr() as usize).wrapping_sub(base);
        if start <= self.value.len() && start + word.len() <= self.value.len() {
            self.part(start..start + word.len())
        } else {
            self.span.clone()
        }
    }
}
