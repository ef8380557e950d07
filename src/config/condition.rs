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

/// Declares the request attributes that a condition can compare, a line for each: its key in the file, behind which a name
/// follows where the attribute has one, and what it is.
macro_rules! subjects {
    ($($variant:ident $(($name:ident))? $key:literal: $doc:literal;)+) => {
        /// The request attribute that a condition compares.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub enum Subject {
            $(#[doc = concat!("`", $key, "`: ", $doc, ".")] $variant $((subjects!(@name $name)))?,)+
        }

        impl Subject {
            /// Every key of a condition.
            pub(crate) const KEYS: &'static [(&'static str, SubjectKey)] = &[$(($key, subjects!(@key $variant $($name)?)),)+];
        }

        /// Writes the subject as in the configuration: `header.x-canary`, `path`.
        impl std::fmt::Display for Subject {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self {
                    $(Self::$variant $(($name))? => {
                        f.write_str($key)?;
                        $(write!(f, ".{}", $name)?;)?
                        Ok(())
                    })+
                }
            }
        }
    };
    (@name $name:ident) => { String };
    (@key $variant:ident $name:ident) => { SubjectKey::Named(Subject::$variant) };
    (@key $variant:ident) => { SubjectKey::Plain(Subject::$variant) };
}

subjects! {
    Header(name) "header": "a header field; the name is in lower case";
    Cookie(name) "cookie": "a cookie";
    Query(name) "query": "a query parameter";
    Path "path": "the normalised path that routing uses, without the query";
    Method "method": "the request method, case-sensitive (RFC 9110 section 9.1)";
    Ip "ip": "the client's address";
    ClientSubject "tls.client.subject": "the subject of the client's certificate, as in RFC 4514";
    ClientSan "tls.client.san": "a subject alternative name of the client's certificate, with its type: `DNS:shop.test`";
    ClientFingerprint "tls.client.fingerprint": "the SHA-256 of the client's certificate, in lower-case hex";
}

/// The attribute that the key of a condition stands for.
#[derive(Debug)]
pub(crate) enum SubjectKey {
    /// An attribute with a name, which follows the key.
    Named(fn(String) -> Subject),
    /// An attribute without a name.
    Plain(Subject),
}

/// A pattern for the value of a request attribute.
#[derive(Clone, Debug)]
pub enum Pattern {
    /// The same bytes as this text.
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
