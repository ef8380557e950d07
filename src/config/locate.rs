//! Where the value of a key stands in a text that was read already.

use toml::de::{DeTable, DeValue};

use super::problems::TextSpan;

/// One step of the way to a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathStep {
    /// The key of a table.
    Key(String),
    /// The item of a list, from 0.
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

/// The place of the value that `path` leads to, or of what it leads to as far as that goes: a value that has a default may
/// not be written. `None`: not even its first key is there.
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

/// Whether the whole of `path` is written.
pub(super) fn is_written(text: &str, path: &[PathStep]) -> bool {
    // One step less leads elsewhere, unless the last one led nowhere.
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
