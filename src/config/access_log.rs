//! The access log: `[access_log]`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::share::Share;

/// Where, how and which requests are logged: `[access_log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLogSpec {
    /// The output that lines are written to.
    pub to: LogTarget,
    /// The format of a line. Default [`LogFormat::Json`].
    pub format: LogFormat,
    /// Share of the ordinary requests that are logged. Requests that failed, that were sent to another version than stable or
    /// that took at least `slow` are always logged. Default 100 %.
    pub sample: Share,
    /// Duration from which on a request counts as slow, at least 1 ms. Default 1 s.
    pub slow: Duration,
    /// Further fields of a line, without duplicates. Default empty.
    pub fields: Vec<LoggedField>,
}

/// The output of the access log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LogTarget {
    /// A file, which is created with mode 0640 if it is missing. Its directory must exist.
    File(PathBuf),
    /// The process's standard output.
    Stdout,
    /// The process's standard error, which has the process log too.
    Stderr,
}

impl fmt::Display for LogTarget {
    /// Writes the target as in the configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Stdout => f.write_str("stdout"),
            Self::Stderr => f.write_str("stderr"),
        }
    }
}

words! {
    /// The format of a line of the access log.
    #[derive(Default)]
    pub enum LogFormat {
        /// One JSON object.
        #[default]
        Json "json",
        /// `key=value` pairs, as in Heroku's logfmt.
        Logfmt "logfmt",
        /// The NCSA combined log format, as Apache and nginx write it.
        Combined "combined",
    }
}

/// A further field of a line: a part of the request that isn't logged unless it is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedField {
    /// The field as in the configuration, with header names in lower case; the key of the value in a line.
    pub key: String,
    /// The part of the request that is logged.
    pub source: FieldSource,
}

/// The part of a request that a [`LoggedField`] logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldSource {
    /// `header:NAME`: a header field of the request; the name is in lower case.
    Header(String),
    /// `cookie:NAME`: a cookie.
    Cookie(String),
    /// `query:NAME`: a query parameter, as sent.
    Parameter(String),
    /// `query`: the whole query, as sent.
    Query,
}
