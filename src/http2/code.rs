//! Error codes (RFC 9113 §7).

use std::fmt;

/// Why a stream or a connection ends: the code in `RST_STREAM` and `GOAWAY`.
///
/// Any number is valid; unknown ones have no special meaning (RFC 9113 §7).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub u32);

/// Declares the codes, and the names that [`fmt::Debug`] prints.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        impl ErrorCode {
            $($(#[$doc])* pub const $name: Self = Self($code);)*

            /// Returns the name in RFC 9113 §7; `None` for an unknown code.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($code => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    /// Graceful shutdown, or nothing more to say.
    NO_ERROR = 0x0,
    /// The peer broke a rule that has no code of its own.
    PROTOCOL_ERROR = 0x1,
    /// The endpoint that sends this code has failed.
    INTERNAL_ERROR = 0x2,
    /// The peer exceeded a flow-control window.
    FLOW_CONTROL_ERROR = 0x3,
    /// The peer did not acknowledge SETTINGS in time.
    SETTINGS_TIMEOUT = 0x4,
    /// A frame for a stream that was half-closed or closed.
    STREAM_CLOSED = 0x5,
    /// A frame of a wrong size.
    FRAME_SIZE_ERROR = 0x6,
    /// The stream was refused before any work was done.
    REFUSED_STREAM = 0x7,
    /// The stream is not needed any more.
    CANCEL = 0x8,
    /// A header block could not be decoded.
    COMPRESSION_ERROR = 0x9,
    /// The connection of a CONNECT request failed.
    CONNECT_ERROR = 0xa,
    /// The peer causes excessive load.
    ENHANCE_YOUR_CALM = 0xb,
    /// The transport is not secure enough.
    INADEQUATE_SECURITY = 0xc,
    /// The request needs HTTP/1.1.
    HTTP_1_1_REQUIRED = 0xd,
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "ErrorCode({:#x})", self.0),
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_h2_crate() {
        for code in 0..=13 {
            let theirs = format!("{:?}", h2::Reason::from(code));
            assert_eq!(format!("{:?}", ErrorCode(code)), theirs);
        }
        assert_eq!(ErrorCode(14).to_string(), "ErrorCode(0xe)");
    }
}
