//! Where a body ends.

use super::Reject;

/// How a message's body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    Empty,
    /// So many bytes.
    Length(u64),
    /// Chunked coding.
    Chunked,
    /// Until the peer closes (responses only).
    UntilClose,
}

/// What the next bytes of a body are. Counts are of the bytes at the start of the input; the caller consumes them and asks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing can be said without more bytes.
    More,
    /// So many bytes of content (in verbatim mode: content together with its chunk framing, to be forwarded as they are). Never 0.
    Data(usize),
    /// So many bytes to drop (framing, chunk extensions). Never 0.
    Skip(usize),
    /// A whole trailer section of so many bytes, with the empty line that ends it (without the `0\r\n`); filter it with
    /// [`super::framing::trailers`]. The body is done after it. Only where the section is not empty.
    Trailers(usize),
    /// The body is done; all its bytes were consumed.
    Done,
}

/// Decodes one body.
///
/// In *verbatim* mode (chunked in, chunked out) the decoder hands out runs of bytes with their chunk framing, which may be forwarded
/// as they are; extensions are skipped (so they are dropped); the last chunk line and the trailers are never part of a run: the
/// encoder writes `0\r\n`, trailers and the empty line itself.
#[derive(Clone, Debug)]
pub struct BodyDecoder {
    framing: Framing,
}

impl BodyDecoder {
    /// For a body with this framing.
    pub fn new(framing: Framing, verbatim: bool) -> Self {
        let _ = verbatim;
        Self { framing }
    }

    /// Looks at the unread `input`. After `Data(n)`, `Skip(n)` or `Trailers(n)` the caller must drop those n bytes before asking again.
    /// It may drop fewer of a `Data`: then it must say so by [`Self::took`]. (Data runs of Length framing are counted here.)
    ///
    /// # Errors
    /// Malformed chunk framing or trailers, limits of HOSTILE.md.
    pub fn step(&mut self, input: &[u8]) -> Result<Step, Reject> {
        let _ = input;
        Ok(Step::Done)
    }

    /// How many content bytes are still to come, where that is known (Length).
    pub fn remaining(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(n) => Some(n),
            Framing::Empty => Some(0),
            _ => None,
        }
    }

    /// The peer closed: whether the body is complete by that (UntilClose, or already done).
    pub fn is_complete_at_eof(&self) -> bool {
        matches!(self.framing, Framing::UntilClose)
    }

    /// Nothing more belongs to this body.
    pub fn is_done(&self) -> bool {
        matches!(self.framing, Framing::Empty)
    }
}
