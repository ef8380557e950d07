//! The defects that make a message malformed (RFC 9113 §8.1.1).

use crate::http1::Reject;
use crate::reason::Reason;

/// Why a message is malformed. That is a stream error: other streams of the connection are not affected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Malformed {
    /// A field name with an upper-case letter (§8.2.1).
    UppercaseName,
    /// A field name that is empty or isn't a token (§8.2.1).
    BadName,
    /// A value with CR, LF, NUL or another control character (§8.2.1).
    BadValue,
    /// A value that starts or ends with white space (§8.2.1).
    PaddedValue,
    /// A field that is specific to a connection, such as `connection` or `transfer-encoding` (§8.2.2).
    ConnectionField,
    /// `te` with anything but `trailers` (§8.2.2).
    BadTe,
    /// An undefined pseudo-header field, or one of a response in a request, or the reverse (§8.3).
    UnknownPseudo,
    /// A repeated pseudo-header field (§8.3).
    DuplicatePseudo,
    /// A pseudo-header field after a regular one (§8.3).
    LatePseudo,
    /// A pseudo-header field in trailers (§8.1).
    PseudoInTrailers,
    /// A required pseudo-header field is missing (§8.3.1, §8.3.2).
    MissingPseudo,
    /// CONNECT with `:scheme` or `:path` but without `:protocol` (§8.5).
    ConnectTarget,
    /// `:protocol` with another method than CONNECT (RFC 8441 §4).
    ProtocolWithoutConnect,
    /// `:method` is not a token.
    BadMethod,
    /// `:scheme` is neither `http` nor `https`.
    BadScheme,
    /// `:path` is empty (§8.3.1).
    EmptyPath,
    /// `:path` is not in origin-form or has forbidden characters.
    BadPath,
    /// `:path` has a fragment; §8.3.1 defines it as path and query only.
    FragmentInPath,
    /// `content-length` is not a number.
    BadContentLength,
    /// A second `content-length`; in responses only if it differs.
    DuplicateContentLength,
    /// `:status` is not a number of three digits, or is 101 (§8.3.2, §8.6).
    BadStatus,
}

impl Malformed {
    /// Returns the rejection: 400 with a reason for logs and metrics.
    pub const fn reject(self) -> Reject {
        Reject::bad(match self {
            Self::UppercaseName | Self::BadName | Self::ConnectionField => Reason::BadFieldName,
            Self::BadValue | Self::PaddedValue | Self::BadTe => Reason::BadFieldValue,
            Self::UnknownPseudo
            | Self::DuplicatePseudo
            | Self::LatePseudo
            | Self::MissingPseudo
            | Self::ConnectTarget
            | Self::ProtocolWithoutConnect => Reason::BadRequestLine,
            Self::PseudoInTrailers => Reason::PseudoInTrailers,
            Self::BadMethod => Reason::BadMethod,
            Self::BadScheme => Reason::BadScheme,
            Self::EmptyPath | Self::BadPath => Reason::BadTarget,
            Self::FragmentInPath => Reason::FragmentInTarget,
            Self::BadContentLength => Reason::BadContentLength,
            Self::DuplicateContentLength => Reason::DuplicateContentLength,
            Self::BadStatus => Reason::BadStatus,
        })
    }

    /// Whether a request with this defect is answered with [`Self::reject`] rather than reset.
    ///
    /// RFC 9113 §8.1.1 permits a response to a malformed request. It is sent where the defect is in a value that HTTP/1
    /// would carry in the same way, so that both protocols get the same response.
    pub const fn is_answered(self) -> bool {
        matches!(
            self,
            Self::BadScheme
                | Self::BadPath
                | Self::FragmentInPath
                | Self::BadContentLength
                | Self::DuplicateContentLength
        )
    }
}
