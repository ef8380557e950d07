//! Actions of the proxy on requests, beside picking a version: answers of its own, edits of heads.
//!
//! The same keys can be written for a service, a version and a match rule. Like [`spec`](super::spec), these types hold validated
//! values only.

use std::path::PathBuf;
use std::sync::Arc;

use super::template::Template;

/// The actions of a service, a version or a rule.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Actions {
    /// How the requests are answered instead of being forwarded. Default `None`: they are forwarded.
    pub answer: Option<Answer>,
    /// Edits of header fields. Those of a service include `[defaults.headers]`.
    pub headers: HeaderEdits,
    /// How the target of a request is changed before it is forwarded. Always `None` for a version.
    pub rewrite: Option<Rewrite>,
}

/// An answer that the proxy gives instead of forwarding a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// A fixed response: `respond`.
    Respond(Arc<Respond>),
    /// A redirect: `redirect`.
    Redirect(Arc<Redirect>),
}

/// A fixed response: `respond = { status = 503, … }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Respond {
    /// The status: 200 to 299, 304, or 400 to 599.
    pub status: u16,
    /// The body, at most [`LARGEST_BODY`]. Always `None` for 204, 205 and 304, which have none. Default `None`: the reason
    /// phrase of the status.
    pub body: Option<Vec<u8>>,
    /// The file that the body was read from, if it isn't written in the configuration.
    pub body_file: Option<PathBuf>,
    /// The value of `content-type`. Default: by the extension of the file, else plain text.
    pub content_type: String,
    /// The value of `retry-after` in seconds. Default `None`: no such field.
    pub retry_after: Option<u64>,
}

/// The maximum size of a body in bytes. The body is kept in memory.
pub const LARGEST_BODY: u64 = 1 << 20;

/// A redirect: `redirect = { to = "https://www.example.com{path}{query}", … }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The value of `location`: an absolute URL, or a path.
    pub to: Template,
    /// The status: 301, 302, 303, 307 or 308. Default 308.
    pub status: u16,
}

/// Edits of the header fields of requests and responses: `headers`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Edits of requests, before they are forwarded.
    pub request: FieldEdits,
    /// Edits of responses, those of the proxy itself included.
    pub response: FieldEdits,
}

/// Edits of the fields of a head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldEdits {
    /// Lower-case names of fields that are dropped: those in `remove`, and those in `set`. No name twice.
    pub drop: Vec<String>,
    /// Fields that are added after that, in order: lower-case names and values.
    pub put: Vec<(String, Template)>,
}

impl HeaderEdits {
    /// These edits, followed by those of an inner table. The inner ones win where both are about the same field.
    pub fn then(&self, inner: &Self) -> Self {
        Self {
            request: self.request.then(&inner.request),
            response: self.response.then(&inner.response),
        }
    }

    /// Whether there are no edits.
    pub fn is_empty(&self) -> bool {
        self.request.is_empty() && self.response.is_empty()
    }
}

impl FieldEdits {
    fn then(&self, inner: &Self) -> Self {
        let mut drop = self.drop.clone();
        drop.extend(inner.drop.iter().cloned());
        drop.sort();
        drop.dedup();
        let kept = { self.put.iter() }.filter(|(name, _)| !inner.drop.contains(name));
        Self {
            drop,
            put: kept.chain(&inner.put).cloned().collect(),
        }
    }

    /// Whether there are no edits.
    pub fn is_empty(&self) -> bool {
        self.drop.is_empty() && self.put.is_empty()
    }
}

/// How the target of a request is changed: `rewrite`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rewrite {
    /// How the path is changed. Default `None`: not at all.
    pub path: Option<PathRewrite>,
    /// The host that endpoints get instead of the client's, with a port if it has one. Default `None`: the client's.
    pub host: Option<String>,
}

/// How a path is changed.
#[derive(Clone, Debug)]
pub enum PathRewrite {
    /// `strip_prefix` and `prefix`: the first is taken off if the path has it, in whole segments; then the other is put before
    /// the path. Neither ends in a slash; at least one isn't empty.
    Prefix {
        /// The prefix that is taken off.
        strip: String,
        /// The prefix that is put before the rest.
        add: String,
    },
    /// `regex` and `to`: the first match is replaced, where `$1` stands for a group.
    Regex {
        /// The expression, compiled to at most 1 MiB.
        regex: regex::bytes::Regex,
        /// The text that replaces what the expression matches.
        to: String,
    },
}

impl PartialEq for PathRewrite {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Prefix { strip, add }, Self::Prefix { strip: s, add: a }) => {
                strip == s && add == a
            }
            (Self::Regex { regex, to }, Self::Regex { regex: r, to: t }) => {
                regex.as_str() == r.as_str() && to == t
            }
            _ => false,
        }
    }
}

impl Respond {
    /// Whether responses with this status have no body (RFC 9110 sections 6.4.1 and 15.3.6).
    #[inline]
    pub fn is_bodiless(status: u16) -> bool {
        matches!(status, 204 | 205 | 304)
    }
}

impl Answer {
    /// The status of the answer.
    #[inline]
    pub fn status(&self) -> u16 {
        match self {
            Self::Respond(respond) => respond.status,
            Self::Redirect(redirect) => redirect.status,
        }
    }

    /// The key that asks for it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Respond(_) => "respond",
            Self::Redirect(_) => "redirect",
        }
    }

    /// The file that the body of the answer is read from.
    pub fn body_file(&self) -> Option<&PathBuf> {
        match self {
            Self::Respond(respond) => respond.body_file.as_ref(),
            Self::Redirect(_) => None,
        }
    }
}
