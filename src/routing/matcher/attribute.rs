//! What the kinds of conditions have in common, and the one list of them.
//!
//! Each kind is a type in a file of its own that implements [`Attribute`]. [`with_attribute!`] maps a [`Subject`] of the
//! configuration to that type by a `match`, so that everything behind it is compiled for each kind and nothing is called
//! through a pointer. A new kind needs its file, its `mod` line in the parent and its arm here.

use super::super::{RequestView, glob};
use crate::config::spec::{Condition, Pattern, Subject};

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

/// Evaluates an expression with the [`Attribute`] of a `&Subject`.
#[rustfmt::skip] // One line a kind.
macro_rules! with_attribute {
    ($subject:expr, |$attribute:ident| $body:expr) => {
        match $subject {
            Subject::Cookie(name) => { let $attribute = super::cookie::Cookie(name); $body }
            Subject::Header(name) => { let $attribute = super::header::Header(name); $body }
            Subject::Ip => { let $attribute = super::ip::Ip; $body }
            Subject::Method => { let $attribute = super::method::Method; $body }
            Subject::Path => { let $attribute = super::path::Path; $body }
            Subject::Query(name) => { let $attribute = super::query::Query(name); $body }
        }
    };
}
pub(super) use with_attribute;

/// [`Attribute::LOOKUP_COST`] of this subject.
pub(super) fn lookup_cost(subject: &Subject) -> usize {
    fn of<A: Attribute>(_: &A) -> usize {
        A::LOOKUP_COST
    }
    with_attribute!(subject, |attribute| of(&attribute))
}

/// [`Attribute::exact_value`] of this subject.
pub(super) fn exact_value(subject: &Subject, pattern: &Pattern) -> Option<Box<[u8]>> {
    with_attribute!(subject, |attribute| attribute.exact_value(pattern))
}

/// Whether any of the condition's patterns matches any of the request's values.
pub(super) fn holds(condition: &Condition, request: &impl RequestView) -> bool {
    with_attribute!(&condition.subject, |attribute| {
        attribute.any_value(request, |value| {
            let mut patterns = condition.patterns.iter();
            patterns.any(|pattern| attribute.matches(pattern, value))
        })
    })
}
