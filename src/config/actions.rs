//! What the proxy does with requests itself, beside forwarding them: answers of its own.
//!
//! The same keys can be written for a service, a version and a match rule. Like [`spec`](super::spec), these types hold validated
//! values only.

use std::path::PathBuf;
use std::sync::Arc;

/// The actions of a service, a version or a rule.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Actions {
    /// How the requests are answered instead of being forwarded. Default `None`: they are forwarded.
    pub answer: Option<Answer>,
}

/// An answer that the proxy gives instead of forwarding a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// A fixed response: `respond`.
    Respond(Arc<Respond>),
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

impl Respond {
    /// Whether responses with this status have no body (RFC 9110 sections 6.4.1 and 15.3.6).
    pub fn is_bodiless(status: u16) -> bool {
        matches!(status, 204 | 205 | 304)
    }
}

impl Answer {
    /// The status of the answer.
    pub fn status(&self) -> u16 {
        match self {
            Self::Respond(respond) => respond.status,
        }
    }

    /// The key that asks for it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Respond(_) => "respond",
        }
    }

    /// The file that its body is read from.
    pub fn body_file(&self) -> Option<&PathBuf> {
        match self {
            Self::Respond(respond) => respond.body_file.as_ref(),
        }
    }
}
