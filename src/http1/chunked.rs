//! The chunked coding (RFC 9112 §7.1), strictly: what recipients are known to read differently is refused.

use super::framing::Step;
use super::lists::is_token_byte;
use super::number::hex_digit;
use super::{Reject, trailers};

/// Bytes of chunk extensions that are borne beyond the bytes of content.
const MAX_EXTENSIONS: usize = 16 * 1024;

/// Blanks that are borne between `;` and a name.
const MAX_BLANK: usize = 64;

/// Where in a chunked body the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// At the first digit of a chunk's size.
    Size,
    /// In an extension of a chunk of so many bytes; `named` once its first byte was seen.
    Extension { size: u64, named: bool },
    /// In the content of a chunk, so many bytes before its end. Never 0.
    Content { left: u64 },
    /// At the CRLF after content.
    ContentEnd,
    /// After the last chunk's line.
    Trailers,
    /// After all.
    Done,
}

/// What is to become of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Keep,
    Drop,
}

/// One move through the input.
enum Move {
    /// Not without more bytes.
    Wait,
    /// Over so many bytes (not 0) to the next place.
    Over(usize, Fate, At),
    /// A trailer section of so many bytes.
    Trailers(usize),
    End,
}

/// A chunked body being decoded.
#[derive(Clone, Debug)]
pub(super) struct Chunks {
    at: At,
    /// What becomes of framing.
    framing: Fate,
    /// How many bytes of extensions will still be borne; content pays for more.
    extensions: usize,
}

impl Chunks {
    pub fn new(verbatim: bool) -> Self {
        Self {
            at: At::Size,
            framing: if verbatim { Fate::Keep } else { Fate::Drop },
            extensions: MAX_EXTENSIONS,
        }
    }

    #[inline]
    pub fn is_done(&self) -> bool {
        self.at == At::Done
    }

    /// As [`super::BodyDecoder::step`]: makes moves for as long as the bytes share one fate.
    pub fn step(&mut self, input: &[u8]) -> Result<Step, Reject> {
        let mut passed = 0;
        let mut run = None;
        let last = loop {
            match self.next(&input[passed..]) {
                Ok(Move::Over(n, fate, at)) if run.is_none_or(|run| run == fate) => {
                    run = Some(fate);
                    passed += n;
                    self.account(n);
                    self.at = at;
                }
                other => break other,
            }
        };
        // What came before a malformed place, or one with another fate, goes first; the next call meets that place again.
        match run {
            Some(Fate::Keep) => return Ok(Step::Data(passed)),
            Some(Fate::Drop) => return Ok(Step::Skip(passed)),
            None => {}
        }
        match last? {
            Move::Trailers(n) => {
                self.at = At::Done;
                Ok(Step::Trailers(n))
            }
            Move::End => Ok(Step::Done),
            Move::Wait | Move::Over(..) => Ok(Step::More),
        }
    }

    /// Content pays for extensions: legitimate ones (signatures of chunks) are small beside it.
    #[inline]
    fn account(&mut self, n: usize) {
        match self.at {
            At::Content { .. } => {
                self.extensions = self.extensions.saturating_add(n).min(MAX_EXTENSIONS);
            }
            At::Extension { .. } => self.extensions = self.extensions.saturating_sub(n),
            _ => {}
        }
    }

    #[inline]
    fn next(&self, input: &[u8]) -> Result<Move, Reject> {
        match self.at {
            At::Done => Ok(Move::End),
            _ if input.is_empty() => Ok(Move::Wait),
            At::Content { left } => {
                let n = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
                Ok(Move::Over(n, Fate::Keep, content(left - n as u64)))
            }
            At::ContentEnd => match input {
                [b'\r', b'\n', ..] => Ok(Move::Over(2, self.framing, At::Size)),
                [b'\r'] => Ok(Move::Wait),
                _ => Err(Reject::bad("bad-chunk-end")),
            },
            At::Size => self.size(input),
            At::Extension { size, named } => self.extension(input, size, named),
            At::Trailers => self.trailers(input),
        }
    }

    #[inline]
    fn size(&self, input: &[u8]) -> Result<Move, Reject> {
        const BAD: Reject = Reject::bad("bad-chunk-size");
        let mut size = 0u64;
        let mut digits = 0;
        while let Some(digit) = input.get(digits).copied().and_then(hex_digit) {
            if digits == 16 {
                return Err(BAD);
            }
            size = size << 4 | u64::from(digit);
            digits += 1;
        }
        match input[digits..] {
            [] | [b'\r'] if digits > 0 => Ok(Move::Wait),
            [b'\r', b'\n', ..] if digits > 0 => Ok(if size == 0 {
                Move::Over(digits + 2, Fate::Drop, At::Trailers)
            } else {
                Move::Over(digits + 2, self.framing, content(size))
            }),
            // The digits and what follows have different fates where framing is kept.
            [b';', ..] if digits > 0 => {
                let fate = if size == 0 { Fate::Drop } else { self.framing };
                Ok(Move::Over(
                    digits,
                    fate,
                    At::Extension { size, named: false },
                ))
            }
            _ => Err(BAD),
        }
    }

    /// `;name` and all that follows up to the line's end. Its grammar is not checked beyond what separates one reading from another:
    /// a name must follow, and no control may stand in it, least of all a bare CR or LF.
    fn extension(&self, input: &[u8], size: u64, named: bool) -> Result<Move, Reject> {
        const BAD: Reject = Reject::bad("bad-chunk-extension");
        if !named {
            let blank = input[1..]
                .iter()
                .take_while(|b| matches!(b, b' ' | b'\t'))
                .count();
            return match input.get(1 + blank) {
                _ if blank > MAX_BLANK => Err(BAD),
                Some(&b) if is_token_byte(b) => {
                    self.drop_extension(2 + blank, At::Extension { size, named: true })
                }
                None => Ok(Move::Wait),
                _ => Err(BAD),
            };
        }
        let ends = |b: &u8| (*b < b' ' && *b != b'\t') || *b == 0x7f;
        match input.iter().position(ends) {
            None => self.drop_extension(input.len(), self.at),
            Some(0) => match input {
                [b'\r', b'\n', ..] if size == 0 => Ok(Move::Over(2, Fate::Drop, At::Trailers)),
                [b'\r', b'\n', ..] => Ok(Move::Over(2, self.framing, content(size))),
                [b'\r'] => Ok(Move::Wait),
                _ => Err(BAD),
            },
            Some(n) => self.drop_extension(n, self.at),
        }
    }

    fn drop_extension(&self, n: usize, at: At) -> Result<Move, Reject> {
        if n > self.extensions {
            return Err(Reject::bad("chunk-extensions-too-large"));
        }
        Ok(Move::Over(n, Fate::Drop, at))
    }

    fn trailers(&self, input: &[u8]) -> Result<Move, Reject> {
        match input {
            [b'\r', b'\n', ..] => Ok(Move::Over(2, Fate::Drop, At::Done)),
            [b'\r'] => Ok(Move::Wait),
            _ => Ok(trailers::section(input)?.map_or(Move::Wait, Move::Trailers)),
        }
    }
}

#[inline]
fn content(left: u64) -> At {
    if left == 0 {
        At::ContentEnd
    } else {
        At::Content { left }
    }
}
