//! The steps by which a body decoder tells its caller what to do with the next bytes.

/// The kind of the next bytes of a body.
///
/// A count is a number of bytes at the start of the input. The caller consumes them before the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeStep {
    /// More input is needed. A decoder never needs more than [`super::trailers::MAX_BYTES`] at once.
    More,
    /// This many bytes of content; in verbatim mode, content with its chunk framing. Never 0.
    Data(usize),
    /// This many bytes to drop: framing or chunk extensions. Never 0.
    Skip(usize),
    /// A complete, non-empty trailer section of this many bytes: from the line after the last chunk's to the empty line.
    ///
    /// It ends the body. Use [`super::framing::trailers`] to get the fields that may be forwarded.
    Trailers(usize),
    /// The body has ended and all its bytes were consumed.
    Done,
}
