//! The chunked coding (RFC 9112 §7.1), strictly: what recipients are known to read differently is refused.

use super::framing::DecodeStep;
use super::lists::is_token_byte;
use super::number::{MAX_LENGTH, hex_digit};
use super::{Reject, trailers};

/// Bytes of chunk extensions that are borne beyond the bytes of content.
const MAX_EXTENSIONS: usize = 16 * 1024;

/// Most digits of a chunk's size, leading zeros included.
const MAX_DIGITS: usize = 64;

/// Most digits of a chunk's size after its leading zeros.
const MAX_SIGNIFICANT: usize = 16;

/// Where in a chunked body the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyPosition {
    /// At the first digit of a chunk's size.
    Size,
    /// In the extensions of a chunk of this many bytes.
    Extension { size: u64, part: ExtensionPart },
    /// In the content of a chunk, so many bytes before its end. Never 0.
    Content { left: u64 },
    /// At the CRLF after content.
    ContentEnd,
    /// After the last chunk's line.
    Trailers,
    /// After all.
    Done,
}

/// Which part of a chunk extension comes next (RFC 9112 §7.1.1):
/// `*( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] )`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExtensionPart {
    /// The semicolon that begins one.
    Semicolon,
    /// White space, or a name's first byte.
    BeforeName,
    /// More of a name.
    Name,
    /// White space after a name: `=` or `;` must follow.
    AfterName,
    /// White space, or a value's first byte.
    BeforeValue,
    /// More of a value that is a token.
    Token,
    /// More of a value that is a quoted string.
    Quoted,
    /// The byte after a backslash in a quoted string.
    Escaped,
    /// What follows a quoted string.
    Unquoted,
    /// White space after a value: `;` must follow.
    AfterValue,
}

impl ExtensionPart {
    /// The part after this one when `byte` comes; `None` where it may not come.
    fn after(self, byte: u8) -> Option<Self> {
        let is_text = matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
        Some(match (self, byte) {
            (Self::Quoted, b'"') => Self::Unquoted,
            (Self::Quoted, b'\\') => Self::Escaped,
            (Self::Quoted | Self::Escaped, _) if is_text => Self::Quoted,
            (Self::Quoted | Self::Escaped, _) => return None,
            (Self::BeforeName | Self::BeforeValue, b' ' | b'\t') => self,
            (Self::BeforeValue, b'"') => Self::Quoted,
            (Self::BeforeName | Self::Name, _) if is_token_byte(byte) => Self::Name,
            (Self::BeforeValue | Self::Token, _) if is_token_byte(byte) => Self::Token,
            (Self::BeforeName | Self::BeforeValue, _) => return None,
            (_, b';') => Self::BeforeName,
            (Self::Name | Self::AfterName, b'=') => Self::BeforeValue,
            (Self::Name | Self::AfterName, b' ' | b'\t') => Self::AfterName,
            (Self::Token | Self::Unquoted | Self::AfterValue, b' ' | b'\t') => Self::AfterValue,
            _ => return None,
        })
    }

    /// Whether the line may end here.
    fn may_end(self) -> bool {
        matches!(self, Self::Name | Self::Token | Self::Unquoted)
    }
}

/// What is to become of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Keep,
    Drop,
}

/// One move through the input.
enum DecoderMove {
    /// Not without more bytes.
    Wait,
    /// Over so many bytes (not 0) to the next place.
    Over(usize, Fate, BodyPosition),
    /// A trailer section of so many bytes.
    Trailers(usize),
    End,
}

/// A chunked body being decoded.
#[derive(Clone, Debug)]
pub(super) struct Chunks {
    at: BodyPosition,
    /// What becomes of framing.
    framing: Fate,
    /// How many bytes of extensions will still be borne; content pays for more.
    extensions: usize,
}

impl Chunks {
    pub(super) fn new(verbatim: bool) -> Self {
        Self {
            at: BodyPosition::Size,
            framing: if verbatim { Fate::Keep } else { Fate::Drop },
            extensions: MAX_EXTENSIONS,
        }
    }

    #[inline]
    pub(super) fn is_done(&self) -> bool {
        self.at == BodyPosition::Done
    }

    /// As [`super::BodyDecoder::step`]: makes moves for as long as the bytes share one fate.
    pub(super) fn step(&mut self, input: &[u8]) -> Result<DecodeStep, Reject> {
        let mut passed = 0;
        let mut run = None;
        let last = loop {
            match self.next(&input[passed..]) {
                Ok(DecoderMove::Over(n, fate, at)) if run.is_none_or(|run| run == fate) => {
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
            Some(Fate::Keep) => return Ok(DecodeStep::Data(passed)),
            Some(Fate::Drop) => return Ok(DecodeStep::Skip(passed)),
            None => {}
        }
        match last? {
            DecoderMove::Trailers(n) => {
                self.at = BodyPosition::Done;
                Ok(DecodeStep::Trailers(n))
            }
            DecoderMove::End => Ok(DecodeStep::Done),
            DecoderMove::Wait | DecoderMove::Over(..) => Ok(DecodeStep::More),
        }
    }

    /// Content pays for extensions: legitimate ones (signatures of chunks) are small beside it.
    #[inline]
    fn account(&mut self, n: usize) {
        match self.at {
            BodyPosition::Content { .. } => {
                self.extensions = self.extensions.saturating_add(n).min(MAX_EXTENSIONS);
            }
            BodyPosition::Extension { .. } => self.extensions = self.extensions.saturating_sub(n),
            _ => {}
        }
    }

    #[inline]
    fn next(&self, input: &[u8]) -> Result<DecoderMove, Reject> {
        match self.at {
            BodyPosition::Done => Ok(DecoderMove::End),
            _ if input.is_empty() => Ok(DecoderMove::Wait),
            BodyPosition::Content { left } => {
                let n = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
                Ok(DecoderMove::Over(n, Fate::Keep, content(left - n as u64)))
            }
            BodyPosition::ContentEnd => match input {
                [b'\r', b'\n', ..] => Ok(DecoderMove::Over(2, self.framing, BodyPosition::Size)),
                [b'\r'] => Ok(DecoderMove::Wait),
                _ => Err(Reject::bad("bad-chunk-end")),
            },
            BodyPosition::Size => self.size(input),
            BodyPosition::Extension { size, part } => self.extension(input, size, part),
            BodyPosition::Trailers => self.trailers(input),
        }
    }

    #[inline]
    fn size(&self, input: &[u8]) -> Result<DecoderMove, Reject> {
        const BAD: Reject = Reject::bad("bad-chunk-size");
        let mut size = 0u64;
        let mut zeros = 0;
        while input.get(zeros) == Some(&b'0') && zeros < MAX_DIGITS {
            zeros += 1;
        }
        let mut digits = zeros;
        while let Some(digit) = input.get(digits).copied().and_then(hex_digit) {
            if digits - zeros == MAX_SIGNIFICANT || digits == MAX_DIGITS {
                return Err(BAD);
            }
            size = size << 4 | u64::from(digit);
            digits += 1;
        }
        if size > MAX_LENGTH {
            return Err(BAD);
        }
        match input[digits..] {
            [] | [b'\r'] if digits > 0 => Ok(DecoderMove::Wait),
            // Recipients may count digits: only those that matter are passed on, and looked at once more.
            [b'\r' | b';', ..] if zeros > 0 && size > 0 => {
                Ok(DecoderMove::Over(zeros, Fate::Drop, BodyPosition::Size))
            }
            [b'\r', b'\n', ..] if digits > 0 => Ok(if size == 0 {
                DecoderMove::Over(digits + 2, Fate::Drop, BodyPosition::Trailers)
            } else {
                DecoderMove::Over(digits + 2, self.framing, content(size))
            }),
            // The digits and what follows have different fates where framing is kept.
            [b';', ..] if digits > 0 => {
                let fate = if size == 0 { Fate::Drop } else { self.framing };
                let part = ExtensionPart::Semicolon;
                Ok(DecoderMove::Over(
                    digits,
                    fate,
                    BodyPosition::Extension { size, part },
                ))
            }
            _ => Err(BAD),
        }
    }

    /// As much as is there of a chunk's extensions, or their line's end. What precedes a malformed byte is taken first, so that
    /// it doesn't matter how the bytes came.
    #[cold]
    fn extension(
        &self,
        input: &[u8],
        size: u64,
        mut part: ExtensionPart,
    ) -> Result<DecoderMove, Reject> {
        const BAD: Reject = Reject::bad("bad-chunk-extension");
        let mut len = 0;
        while let Some(next) = input.get(len).and_then(|&byte| part.after(byte)) {
            part = next;
            len += 1;
        }
        if len > self.extensions {
            return Err(Reject::bad("chunk-extensions-too-large"));
        }
        if len > 0 {
            return Ok(DecoderMove::Over(
                len,
                Fate::Drop,
                BodyPosition::Extension { size, part },
            ));
        }
        match input {
            _ if !part.may_end() => Err(BAD),
            [b'\r', b'\n', ..] if size == 0 => {
                Ok(DecoderMove::Over(2, Fate::Drop, BodyPosition::Trailers))
            }
            [b'\r', b'\n', ..] => Ok(DecoderMove::Over(2, self.framing, content(size))),
            [b'\r'] => Ok(DecoderMove::Wait),
            _ => Err(BAD),
        }
    }

    fn trailers(&self, input: &[u8]) -> Result<DecoderMove, Reject> {
        match input {
            [b'\r', b'\n', ..] => Ok(DecoderMove::Over(2, Fate::Drop, BodyPosition::Done)),
            [b'\r'] => Ok(DecoderMove::Wait),
            _ => Ok(trailers::section(input)?.map_or(DecoderMove::Wait, DecoderMove::Trailers)),
        }
    }
}

#[inline]
fn content(left: u64) -> BodyPosition {
    if left == 0 {
        BodyPosition::ContentEnd
    } else {
        BodyPosition::Content { left }
    }
}
