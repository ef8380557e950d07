//! The interface that all kinds of conditions implement.

use super::super::RequestView;
use crate::config::glob;
use crate::config::spec::Pattern;

/// A request attribute that a condition can compare.
///
/// A value is a byte string in whatever form the attribute chooses; only its own [`matches`](Self::matches) and
/// [`exact_value`](Self::exact_value) interpret it. The defaults are for text.
pub(super) trait Attribute {
    /// Approximate cost of finding the values in a request, in instructions. Only the ratios matter.
    const LOOKUP_COST: usize;

    /// Calls `see` with each value until it returns `true`; returns whether it did. An absent attribute has no value.
    fn any_value(&self, request: &impl RequestView, see: impl FnMut(&[u8]) -> bool) -> bool;

    /// The value that `pattern` matches, if it matches exactly one.
    fn exact_value(&self, pattern: &Pattern) -> Option<Box<[u8]>> {
        match pattern {
            Pattern::Exact(text) => Some(text.as_bytes().into()),
            _ => None,
        }
    }

    /// Whether `pattern` matches `value`.
    fn matches(&self, pattern: &Pattern, value: &[u8]) -> bool {
        match pattern {
            Pattern::Exact(text) => text.as_bytes() == value,
            Pattern::Glob(glob) => glob::matches(glob.as_bytes(), value),
            Pattern::Regex(regex) => regex.is_match(value),
            Pattern::Net(_) => false,
        }
    }
}
