//! Edits of a version: its endpoints and its label.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeArray, DeValue};

use super::entry::{Changes, Entries, ServiceEntry, string};
use super::error::EditError;

/// The list of endpoints of a version, in the text.
struct EndpointList<'t> {
    text: &'t str,
    /// Range of the list, from bracket to bracket.
    span: Range<usize>,
    items: Vec<ListedEndpoint<'t>>,
}

struct ListedEndpoint<'t> {
    span: Range<usize>,
    value: &'t str,
}

impl ServiceEntry<'_> {
    /// Replaces the endpoints of the version.
    pub(super) fn endpoints(&self, wanted: &[String]) -> Result<Changes, EditError> {
        let malformed = || EditError::Malformed(self.name.to_owned());
        let version = self.version_value().ok_or_else(malformed)?;
        let list = match version.get_ref() {
            DeValue::Table(_) => {
                let (_, value) = self
                    .version_table()
                    .and_then(|table| table.get("endpoints"))
                    .ok_or_else(malformed)?;
                value
            }
            _ => version,
        };
        let DeValue::Array(items) = list.get_ref() else {
            return Err(malformed());
        };
        let list = EndpointList::new(self.text, list.span(), items).ok_or_else(malformed)?;
        Ok(list.changes(wanted))
    }

    /// Sets the label of the version.
    pub(super) fn label(&self, label: &str) -> Result<Changes, EditError> {
        let malformed = || EditError::Malformed(self.name.to_owned());
        let version = self.version_value().ok_or_else(malformed)?;
        let entry = format!("label = {}", string(label));
        let Some(table) = self.version_table() else {
            // `v1 = ["…"]` becomes `v1 = { endpoints = ["…"], label = "…" }`. Line breaks inside the list stay valid.
            let span = version.span();
            return Ok(vec![
                (span.start..span.start, "{ endpoints = ".to_owned()),
                (span.end..span.end, format!(", {entry} }}")),
            ]);
        };
        if let Some((_, value)) = table.get("label") {
            return Ok(vec![(value.span(), string(label))]);
        }
        let (at, endpoints) = table.get("endpoints").ok_or_else(malformed)?;
        Ok(vec![self.after(
            table.inline,
            &at,
            &endpoints.span(),
            &entry,
        )])
    }

    fn version_value(&self) -> Option<&Spanned<DeValue<'_>>> {
        let versions = self.table.enter(self.text, "versions")?;
        versions.get(self.target).map(|(_, value)| value)
    }

    /// The table of the version; `None` if it is a list of endpoints.
    fn version_table(&self) -> Option<Entries<'_>> {
        let versions = self.table.enter(self.text, "versions")?;
        versions.enter(self.text, self.target)
    }
}

impl<'t> EndpointList<'t> {
    /// Finds the items of a list; `None` if one of them is not a string.
    fn new(text: &'t str, span: Range<usize>, items: &'t DeArray<'t>) -> Option<Self> {
        let item = |item: &'t Spanned<DeValue<'t>>| match item.get_ref() {
            DeValue::String(value) => Some(ListedEndpoint {
                span: item.span(),
                value,
            }),
            _ => None,
        };
        let items = items.iter().map(item).collect::<Option<_>>()?;
        Some(Self { text, span, items })
    }

    fn changes(&self, wanted: &[String]) -> Changes {
        let is_wanted = |item: &&ListedEndpoint<'_>| wanted.iter().any(|w| w == item.value);
        let is_listed = |value: &&String| self.items.iter().any(|i| i.value == **value);
        let removed: Vec<_> = self.items.iter().filter(|i| !is_wanted(i)).collect();
        let added: Vec<&String> = wanted.iter().filter(|w| !is_listed(w)).collect();
        let replaced = removed.len().min(added.len());
        // New endpoints take the places of removed ones, whose lines keep their comments.
        let mut changes: Changes = removed
            .iter()
            .zip(&added)
            .map(|(old, new)| (old.span.clone(), string(new)))
            .collect();
        let (removed, added) = (&removed[replaced..], &added[replaced..]);
        if removed.is_empty() && added.is_empty() {
            return changes;
        }
        let by_lines = self.has_lines_of_their_own();
        let Some(last) = self.items.last().filter(|_| by_lines) else {
            // Nothing inside a list without line breaks can be a comment.
            return vec![(self.span.clone(), self.on_one_line(wanted))];
        };
        changes.extend(
            removed
                .iter()
                .map(|item| (self.line_of(item), String::new())),
        );
        if !added.is_empty() {
            changes.extend(self.appended(last, added));
        }
        changes
    }

    /// Whether each item is alone on its line, followed by a comma if it isn't the last one.
    fn has_lines_of_their_own(&self) -> bool {
        let alone = |item: &ListedEndpoint<'_>| {
            let line = &self.text[self.line_start(item)..self.line_end(item)];
            let value = &self.text[item.span.clone()];
            let rest = line.trim_start().strip_prefix(value);
            let rest = rest.map(|rest| rest.trim_start().trim_start_matches(',').trim());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('#'))
        };
        let separated = |pair: &[ListedEndpoint<'_>]| self.comma(&pair[0]).is_some();
        self.items.iter().all(alone) && self.items.windows(2).all(separated)
    }

    fn on_one_line(&self, wanted: &[String]) -> String {
        let items: Vec<String> = wanted.iter().map(|w| string(w)).collect();
        format!("[{}]", items.join(", "))
    }

    /// New lines after the last item, with its indentation.
    fn appended(&self, last: &ListedEndpoint<'_>, added: &[&String]) -> Changes {
        let start = self.line_start(last);
        let indent = &self.text[start..last.span.start];
        let end = self.line_end(last);
        let newline = match self.text[end..].starts_with("\r\n") {
            true => "\r\n",
            false => "\n",
        };
        let items: Vec<String> = added
            .iter()
            .map(|value| format!("{newline}{indent}{}", string(value)))
            .collect();
        let lines = items.join(",");
        match self.comma(last) {
            Some(_) => vec![(end..end, lines + ",")],
            None => vec![
                (last.span.end..last.span.end, ",".to_owned()),
                (end..end, lines),
            ],
        }
    }

    /// The line of an item with its line break.
    fn line_of(&self, item: &ListedEndpoint<'_>) -> Range<usize> {
        let end = self.line_end(item);
        let newline = self.text[end..].find('\n').map_or(0, |n| n + 1);
        self.line_start(item)..end + newline
    }

    fn line_start(&self, item: &ListedEndpoint<'_>) -> usize {
        self.text[..item.span.start]
            .rfind('\n')
            .map_or(0, |n| n + 1)
    }

    /// The end of the line of an item, before its line break.
    fn line_end(&self, item: &ListedEndpoint<'_>) -> usize {
        let rest = &self.text[item.span.end..];
        let line = rest.split('\n').next().unwrap_or(rest);
        item.span.end + line.trim_end_matches('\r').len()
    }

    /// The position of the comma after an item, if it is on the same line.
    fn comma(&self, item: &ListedEndpoint<'_>) -> Option<usize> {
        let rest = &self.text[item.span.end..];
        let blank = rest.len() - rest.trim_start_matches([' ', '\t']).len();
        rest[blank..]
            .starts_with(',')
            .then_some(item.span.end + blank)
    }
}
