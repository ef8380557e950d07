//! A walk over the text as typed: every value knows its place and its dotted path; a table remembers which keys it was
//! asked for, so that what nobody asked for is found, and what is suggested exists.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::keys;
use super::problems::{Problem, Problems, TextSpan};
use super::units::quote;

/// A table being read. End it with [`RawTable::finish`].
pub(super) struct RawTable<'t> {
    source: &'t str,
    /// Dotted, as a person would write it; empty for the file itself.
    pub(super) path: String,
    /// Where it is named.
    pub(super) at: TextSpan,
    entries: &'t DeTable<'t>,
    known: Vec<&'static str>,
}

/// A key's value.
#[derive(Clone)]
pub(super) struct RawValue<'t> {
    source: &'t str,
    /// Dotted path of the key.
    pub(super) path: String,
    /// Where the key is.
    pub(super) key: TextSpan,
    /// Where the value is.
    pub(super) span: TextSpan,
    pub(super) node: &'t DeValue<'t>,
}

/// A string value.
#[derive(Clone, Debug)]
pub(super) struct RawString<'t> {
    pub(super) value: &'t str,
    /// With its quotes.
    pub(super) span: TextSpan,
    /// Typed without escapes, so that bytes of `value` are bytes of the source.
    plain: bool,
}

impl<'t> RawTable<'t> {
    /// The file itself.
    pub(super) fn root(source: &'t str, entries: &'t DeTable<'t>) -> Self {
        Self {
            source,
            path: String::new(),
            at: 0..0,
            entries,
            known: Vec::new(),
        }
    }

    /// The value of a key, if it is there. From now on the key is known.
    pub(super) fn take(&mut self, key: &'static str) -> Option<RawValue<'t>> {
        self.known.push(key);
        let entries: &'t DeTable<'t> = self.entries;
        let (name, value) = entries.get_key_value(key)?;
        Some(RawValue::of(self.source, &self.path, name, value))
    }

    /// Like [`RawTable::take`]; that it isn't there is an error with this help.
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

    /// All keys, where they are names that the user gives. They need no [`RawTable::finish`].
    pub(super) fn named(&self) -> impl Iterator<Item = (&'t str, RawValue<'t>)> + use<'t> {
        let (entries, source, path): (&'t DeTable<'t>, _, _) =
            (self.entries, self.source, self.path.clone());
        entries.iter().map(move |(key, value)| {
            let name: &'t str = key.get_ref();
            (name, RawValue::of(source, &path, key, value))
        })
    }

    /// Says which keys are unknown. What comes back are the keys that were probably meant by them.
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

    /// Whether the key is there. Asking doesn't make it known.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }
}

/// A dotted path, with quotes where TOML needs them.
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

/// The known word that is near to what was typed.
pub(super) fn nearest<'k>(typed: &str, known: &[&'k str]) -> Option<&'k str> {
    let near = known
        .iter()
        .map(|k| (strsim::damerau_levenshtein(typed, k), *k))
        .filter(|(distance, k)| distance * 3 <= k.len().max(typed.len()))
        .min();
    near.filter(|_| typed.len() <= 80).map(|(_, name)| name)
}

/// "did you mean …?" when something is near, else all there are.
pub(super) fn suggest(typed: &str, known: &[&str], all: &str) -> String {
    match nearest(typed, known) {
        Some(name) => format!("did you mean `{name}`?"),
        None if known.is_empty() => format!("{all} none"),
        None => format!("{all} `{}`", known.join("`, `")),
    }
}

impl<'t> RawValue<'t> {
    /// What stands beside `key` in the table at `path`.
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

    /// What it is, for "found …".
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

    /// Says that it is of a wrong type.
    pub(super) fn mistyped<'p>(&self, expected: &str, out: &'p mut Problems) -> &'p mut Problem {
        out.error(
            self.span.clone(),
            format!("`{}` must be {expected}", self.path),
        )
        .label(format!("expected {expected}, found {}", self.found()))
    }

    /// The whole number, if it is one.
    pub(super) fn as_integer(&self) -> Option<i64> {
        let DeValue::Integer(number) = self.node else {
            return None;
        };
        i64::from_str_radix(number.as_str(), number.radix()).ok()
    }

    /// Written under headers in double brackets, as a list of tables is.
    fn is_list_of_headers(&self) -> bool {
        let DeValue::Array(items) = self.node else {
            return false;
        };
        // The list has the place of its first header.
        items.iter().next().is_some_and(|first| {
            first.span() == self.span && matches!(first.get_ref(), DeValue::Table(_))
        })
    }

    /// A string. `expected` completes "must be …", e.g. `a string such as "blue"`.
    pub(super) fn text(&self, expected: &str, out: &mut Problems) -> Option<RawString<'t>> {
        let text = self.as_text();
        if text.is_none() {
            self.mistyped(expected, out);
        }
        text
    }

    /// The string, if it is one.
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

    /// A table.
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

    /// The tables of a list that is written as `[[…]]`. One that is written as `[…]` is an error, and read as the only one.
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

    /// The table, if it is one.
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

    /// The items, if it is a list.
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

    /// A string or a list of strings, without doubles. `expected` is of one.
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
        let mut places: HashMap<&str, TextSpan> = HashMap::new();
        for item in items {
            let Some(text) = item.text(expected, out) else {
                continue;
            };
            match places.entry(text.value) {
                Entry::Occupied(first) => {
                    let message = format!("{} stands twice in `{}`", quote(text.value), self.path);
                    out.error(text.span, message)
                        .label("again here")
                        .also(first.get().clone(), "first here");
                }
                Entry::Vacant(place) => {
                    place.insert(text.span.clone());
                    texts.push(text);
                }
            }
        }
        texts
    }

    /// Says that a list has nothing in it.
    pub(super) fn empty(&self, out: &mut Problems) {
        out.error(self.span.clone(), format!("`{}` is empty", self.path))
            .label("expected at least one entry")
            .absence();
    }
}

impl RawString<'_> {
    /// The place of a part of it; of all of it where escapes make that hard.
    pub(super) fn part(&self, part: TextSpan) -> TextSpan {
        if self.plain {
            self.span.start + 1 + part.start..self.span.start + 1 + part.end
        } else {
            self.span.clone()
        }
    }

    /// The place of a word that was split off it.
    pub(super) fn part_of(&self, word: &str) -> TextSpan {
        let base = self.value.as_ptr() as usize;
        let start = (word.as_ptr() as usize).wrapping_sub(base);
        if start <= self.value.len() && start + word.len() <= self.value.len() {
            self.part(start..start + word.len())
        } else {
            self.span.clone()
        }
    }
}
