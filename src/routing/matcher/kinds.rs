//! The one list of the kinds of conditions.
//!
//! Each kind is a type in a file of its own that implements [`Attribute`]. [`with_attribute!`] maps a [`Subject`] of the
//! configuration to that type by a `match`, so that everything behind it is compiled for each kind and nothing is called
//! through a pointer. A new kind needs its line in [`crate::config::condition`], its file, its `mod` line in the parent and
//! its arm here.

use super::super::RequestView;
use super::attribute::Attribute;
use crate::config::spec::{Condition, Pattern, Subject};

/// Evaluates an expression with the [`Attribute`] of a `&Subject`.
#[rustfmt::skip] // One line a kind.
macro_rules! with_attribute {
    ($subject:expr, |$attribute:ident| $body:expr) => {
        match $subject {
            Subject::ClientFingerprint => { let $attribute = super::client_fingerprint::ClientFingerprint; $body }
            Subject::ClientSan => { let $attribute = super::client_san::ClientSan; $body }
            Subject::ClientSubject => { let $attribute = super::client_subject::ClientSubject; $body }
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
