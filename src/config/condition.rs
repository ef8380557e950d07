//! Conditions on requests, for match rules and flags.

use ipnet::IpNet;

/// The conditions of a match rule or a flag, or one of several alternatives.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conditions {
    /// Conditions that must all hold.
    pub all: Vec<Condition>,
    /// Conditions of which none may hold: `not`. Empty only if `all` isn't.
    pub none: Vec<Condition>,
}

impl From<Vec<Condition>> for Conditions {
    /// Conditions that must all hold.
    fn from(all: Vec<Condition>) -> Self {
        Self {
            all,
            none: Vec::new(),
        }
    }
}

/// A condition: it holds if any of its patterns matches.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// The request attribute to compare.
    pub subject: Subject,
    /// Patterns of which one must match. Never empty.
    pub patterns: Vec<Pattern>,
}

/// The request attribute that a condition compares.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// `header.NAME`: a header field; the name is in lower case.
    Header(String),
    /// `cookie.NAME`: a cookie.
    Cookie(String),
    /// `query.NAME`: a query parameter.
    Query(String),
    /// `path`: the normalised path that routing uses, without the query.
    Path,
    /// `method`: the request method, case-sensitive (RFC 9110 section 9.1).
    Method,
    /// `ip`: the client's address.
    Ip,
}

/// A pattern for the value of a request attribute.
#[derive(Clone, Debug)]
pub enum Pattern {
    /// The same bytes.
    Exact(String),
    /// A glob: `*` matches any run of bytes, `?` exactly one.
    Glob(String),
    /// `/regex/`: an unanchored regular expression, compiled to at most 1 MiB.
    Regex(regex::bytes::Regex),
    /// An address or a network; only for [`Subject::Ip`].
    Net(IpNet),
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) | (Self::Glob(a), Self::Glob(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            (Self::Net(a), Self::Net(b)) => a == b,
            _ => false,
        }
    }
}
