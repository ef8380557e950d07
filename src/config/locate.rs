//! Finds the position of a key in a configuration that was parsed already.
//!
//! Checks that need more than the text, such as opening a certificate, run later. They use this to point at the key
//! that named the file.

use toml::de::{DeTable, DeValue};

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

/// Returns the span of the value at `path`, or of its closest ancestor that is in the text, because a value with a default
/// may be absent. Returns `None` if even the first key is absent.
pub(super) fn locate(text: &str, path: &[PathStep]) -> Option<TextSpan> {
    let (root, _) = DeTable::parse_recoverable(text);
    let (first, rest) = path.split_first()?;
    let PathStep::Key(first) = first else {
        return None;
    };
    let (_, mut value) = root.get_ref().get_key_value(first.as_str())?;
    for step in rest {
        let next = match (value.get_ref(), step) {
            (DeValue::Table(table), PathStep::Key(key)) => {
                table.get_key_value(key.as_str()).map(|(_, value)| value)
            }
            (DeValue::Array(items), PathStep::Item(item)) => items.get(*item),
            _ => None,
        };
        match next {
            Some(next) => value = next,
            None => break,
        }
    }
    Some(value.span())
}

/// Returns whether the value at `path` itself is in the text.
pub(super) fn is_written(text: &str, path: &[PathStep]) -> bool {
    // If the last step leads nowhere, `locate` returns the parent's span.
    match path.split_last() {
        None | Some((_, [])) => locate(text, path).is_some(),
        Some((_, parents)) => locate(text, path) != locate(text, parents),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "listen = ':80'\n[service.\"a.b\"]\nsticky.key_file = 'k'\n[[list.c]]\nkey = 'one'\n[[list.c]]\nkey = 'two'\n";

    fn at(path: &[PathStep]) -> Option<&'static str> {
        locate(TEXT, path).map(|span| &TEXT[span])
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
            TEXT,
            &["service", "a.b", "sticky", "key_file"].map(PathStep::from)
        ));
        assert!(!is_written(
            TEXT,
            &["service", "a.b", "sticky", "cookie"].map(PathStep::from)
        ));
        assert!(!is_written(
            TEXT,
            &["listen", "default"].map(PathStep::from)
        ));
        assert!(is_written(TEXT, &["listen".into()]));
        assert!(!is_written(TEXT, &["state_dir".into()]));
    }
}
