//! Finds the position of a key in a configuration that was parsed already.
//!
//! Checks that need more than the text, such as opening a certificate, run later. They use this to point at the key
//! that named the file.

use toml::de::{DeTable, DeValue};

use super::bundle::FilePart;
use super::problems::TextSpan;

/// One step of the path from the root of the document to a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathStep {
    /// A key of a table.
    Key(String),
    /// An index into a list, from 0.
    Item(usize),
}

impl From<&str> for PathStep {
    fn from(key: &str) -> Self {
        Self::Key(key.to_owned())
    }
}

impl From<usize> for PathStep {
    fn from(item: usize) -> Self {
        Self::Item(item)
    }
}

/// Returns the span of the value at `path`, or of its closest ancestor that is in a file, because a value with a default
/// may be absent. Returns `None` if even the first key is absent.
pub(super) fn locate(parts: &[FilePart<'_>], path: &[PathStep]) -> Option<TextSpan> {
    let mut best: Option<(usize, TextSpan)> = None;
    for part in parts {
        let Some((depth, span)) = locate_in(part.text, path) else {
            continue;
        };
        // A service is defined in one file, but the table `service` may be in several.
        if best.as_ref().is_none_or(|(known, _)| *known < depth) {
            best = Some((depth, span.start + part.start..span.end + part.start));
        }
    }
    best.map(|(_, span)| span)
}

/// Returns how many steps of `path` lead to a value in this file, and the span of the last one.
fn locate_in(text: &str, path: &[PathStep]) -> Option<(usize, TextSpan)> {
    let (root, _) = DeTable::parse_recoverable(text);
    let (first, rest) = path.split_first()?;
    let PathStep::Key(first) = first else {
        return None;
    };
    let (_, mut value) = root.get_ref().get_key_value(first.as_str())?;
    let mut depth = 1;
    for step in rest {
        let next = match (value.get_ref(), step) {
            (DeValue::Table(table), PathStep::Key(key)) => {
                table.get_key_value(key.as_str()).map(|(_, value)| value)
            }
            (DeValue::Array(items), PathStep::Item(item)) => items.get(*item),
            _ => None,
        };
        match next {
            Some(next) => (value, depth) = (next, depth + 1),
            None => break,
        }
    }
    Some((depth, value.span()))
}

/// Returns whether the value at `path` itself is in a file.
pub(super) fn is_written(parts: &[FilePart<'_>], path: &[PathStep]) -> bool {
    parts
        .iter()
        .filter_map(|part| locate_in(part.text, path))
        .any(|(depth, _)| depth == path.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "listen = ':80'\n[service.\"a.b\"]\nsticky.key_file = 'k'\n[[list.c]]\nkey = 'one'\n[[list.c]]\nkey = 'two'\n";

    fn at(path: &[PathStep]) -> Option<&'static str> {
        locate(&[FilePart::single(TEXT)], path).map(|span| &TEXT[span])
    }

    #[test]
    fn values_are_found_and_missing_ones_as_far_as_they_go() {
        let sticky = ["service", "a.b", "sticky", "key_file"].map(PathStep::from);
        assert_eq!(at(&sticky), Some("'k'"));
        let key = ["list".into(), "c".into(), 1.into(), "key".into()];
        assert_eq!(at(&key), Some("'two'"));
        let bind = ["listen", "default", "bind"].map(PathStep::from);
        assert_eq!(at(&bind), Some("':80'"));
        assert_eq!(at(&["admin".into()]), None);
    }

    #[test]
    fn what_is_written_is_told_from_what_is_not() {
        assert!(is_written(
            &[FilePart::single(TEXT)],
            &["service", "a.b", "sticky", "key_file"].map(PathStep::from)
        ));
        assert!(!is_written(
            &[FilePart::single(TEXT)],
            &["service", "a.b", "sticky", "cookie"].map(PathStep::from)
        ));
        assert!(!is_written(
            &[FilePart::single(TEXT)],
            &["listen", "default"].map(PathStep::from)
        ));
        assert!(is_written(&[FilePart::single(TEXT)], &["listen".into()]));
        assert!(!is_written(
            &[FilePart::single(TEXT)],
            &["state_dir".into()]
        ));
    }
}
