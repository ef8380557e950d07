//! A strict decoder of the chunked transfer coding (RFC 9112 §7.1).
//!
//! The decoder is a state machine over [`BodyPosition`]. It copies nothing: each step tells the caller how many bytes at
//! the start of the input to forward or to drop. Syntax that recipients are known to parse differently is rejected: bare
//! LF, white space around the size, sizes beyond 63 bits, malformed extensions.

use super::decode_step::DecodeStep;
use super::lists::is_token_byte;
use super::number::{MAX_LENGTH, hex_digit};
use super::{Reject, trailers};
use crate::reason::Reason;

/// Bytes of chunk extensions that a body may have beyond its bytes of content.
///
/// RFC 9112 §7.1.1 asks recipients to limit the total length of extensions.
const MAX_EXTENSIONS: usize = 16 * 1024;

const CRLF: &[u8] = b"\r\n";

/// Maximum number of digits of a chunk size, including leading zeros.
const MAX_DIGITS: usize = 64;

/// Maximum number of digits of a chunk size after its leading zeros; more would overflow a u64.
const MAX_SIGNIFICANT: usize = 16;

/// Maximum number of digits of a chunk size that fits a buffer.
const MAX_USUAL_DIGITS: usize = 6;

/// Position of the next byte in a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyPosition {
    /// At the first digit of a chunk size.
    Size,
    /// In the extensions of a chunk with `size` bytes of content.
    Extension { size: u64, part: ExtensionPart },
    /// In the content of a chunk, `left` bytes before its end; never 0.
    Content { left: u64 },
    /// At the CRLF after the content of a chunk.
    ContentEnd,
    /// After the line of the last chunk: at a trailer field, or at the empty line.
    Trailers,
    /// After the end of the body.
    Done,
}

/// Position in the chunk extensions (RFC 9112 §7.1.1):
/// `*( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] )`.
///
/// White space before the first semicolon and at the end of the line is rejected, although the grammar has BWS there:
/// recipients have disagreed about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExtensionPart {
    /// At the semicolon that starts an extension.
    Semicolon,
    /// At white space, or at the first byte of a name.
    BeforeName,
    /// After the first byte of a name.
    Name,
    /// In white space after a name; `=` or `;` must follow.
    AfterName,
    /// At white space, or at the first byte of a value.
    BeforeValue,
    /// After the first byte of a value that is a token.
    Token,
    /// In a value that is a quoted string.
    Quoted,
    /// After a backslash in a quoted string.
    Escaped,
    /// After the closing quote of a quoted string.
    Unquoted,
    /// In white space after a value; `;` must follow.
    AfterValue,
}

impl ExtensionPart {
    /// Returns the position after `byte`; `None` if it isn't allowed here.
    fn after(self, byte: u8) -> Option<Self> {
        // qdtext and quoted-pair (RFC 9110 §5.6.4) allow HTAB, SP, VCHAR and obs-text.
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

    /// Whether the CRLF may follow.
    fn may_end(self) -> bool {
        matches!(self, Self::Name | Self::Token | Self::Unquoted)
    }
}

/// The treatment of bytes by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handling {
    Forward,
    Drop,
}

/// One transition of the state machine.
enum Transition {
    /// More input is needed.
    Wait,
    /// This many bytes (not 0) lead to the next position.
    Over(usize, Handling, BodyPosition),
    /// A trailer section of this many bytes.
    Trailers(usize),
    End,
}

/// Decoder of one chunked body.
#[derive(Clone, Debug)]
pub(super) struct Chunks {
    at: BodyPosition,
    /// The treatment of chunk sizes and of the CRLF after content by the caller.
    framing: Handling,
    /// Bytes of extensions that are still allowed; content adds to it.
    extensions: usize,
}

impl Chunks {
    pub(super) fn new(verbatim: bool) -> Self {
        Self {
            at: BodyPosition::Size,
            framing: if verbatim {
                Handling::Forward
            } else {
                Handling::Drop
            },
            extensions: MAX_EXTENSIONS,
        }
    }

    #[inline]
    pub(super) fn is_done(&self) -> bool {
        self.at == BodyPosition::Done
    }

    /// Implements [`super::BodyDecoder::step`]: combines transitions while their bytes are handled alike.
    pub(super) fn step(&mut self, input: &[u8]) -> Result<DecodeStep, Reject> {
        let mut passed = self.pass_whole_chunks(input);
        let mut run = (passed > 0).then_some(Handling::Forward);
        let last = loop {
            match self.next(&input[passed..]) {
                Ok(Transition::Over(n, handling, at)) if run.is_none_or(|run| run == handling) => {
                    run = Some(handling);
                    passed += n;
                    self.account(n);
                    self.at = at;
                }
                other => break other,
            }
        };
        // Bytes before a transition that is malformed or handled differently are reported first; the next call arrives at
        // the same transition again.
        match run {
            Some(Handling::Forward) => return Ok(DecodeStep::Data(passed)),
            Some(Handling::Drop) => return Ok(DecodeStep::Skip(passed)),
            None => {}
        }
        match last? {
            Transition::Trailers(n) => {
                self.at = BodyPosition::Done;
                Ok(DecodeStep::Trailers(n))
            }
            Transition::End => Ok(DecodeStep::Done),
            Transition::Wait | Transition::Over(..) => Ok(DecodeStep::More),
        }
    }

    /// Passes over the usual chunks at the start of `input` that have arrived as a whole, if their framing is forwarded.
    /// Returns their length. The result is the same as by transitions, which take several times as long.
    #[inline]
    fn pass_whole_chunks(&mut self, input: &[u8]) -> usize {
        let mut passed = 0;
        if self.at == BodyPosition::Size && self.framing == Handling::Forward {
            while let Some((len, size)) = whole_chunk(&input[passed..]) {
                // Most bodies are sent in chunks of one size: those that follow with the same line need no parsing.
                let line = &input[passed..passed + len - size - CRLF.len()];
                let is_alike = |next: &[u8]| {
                    next.len() >= len && next.starts_with(line) && next[..len].ends_with(CRLF)
                };
                let mut alike = 1;
                while is_alike(&input[passed + alike * len..]) {
                    alike += 1;
                }
                passed += alike * len;
                let content = alike * size;
                self.extensions = self.extensions.saturating_add(content).min(MAX_EXTENSIONS);
            }
        }
        passed
    }

    /// Updates the allowance for extensions. Content adds to it: legitimate extensions, such as chunk signatures, are small
    /// in proportion to the content.
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
    fn next(&self, input: &[u8]) -> Result<Transition, Reject> {
        match self.at {
            BodyPosition::Done => Ok(Transition::End),
            _ if input.is_empty() => Ok(Transition::Wait),
            BodyPosition::Content { left } => {
                let n = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
                Ok(Transition::Over(
                    n,
                    Handling::Forward,
                    content(left - n as u64),
                ))
            }
            BodyPosition::ContentEnd => match input {
                [b'\r', b'\n', ..] => Ok(Transition::Over(2, self.framing, BodyPosition::Size)),
                [b'\r'] => Ok(Transition::Wait),
                _ => Err(Reject::bad(Reason::BadChunkEnd)),
            },
            BodyPosition::Size => self.size(input),
            BodyPosition::Extension { size, part } => self.extension(input, size, part),
            BodyPosition::Trailers => self.trailers(input),
        }
    }

    #[inline]
    fn size(&self, input: &[u8]) -> Result<Transition, Reject> {
        const BAD: Reject = Reject::bad(Reason::BadChunkSize);
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
            [] | [b'\r'] if digits > 0 => Ok(Transition::Wait),
            // A recipient may limit the number of digits, so leading zeros are dropped. The position stays, and the next
            // transition parses the remaining digits again.
            [b'\r' | b';', ..] if zeros > 0 && size > 0 => {
                Ok(Transition::Over(zeros, Handling::Drop, BodyPosition::Size))
            }
            [b'\r', b'\n', ..] if digits > 0 => Ok(if size == 0 {
                Transition::Over(digits + 2, Handling::Drop, BodyPosition::Trailers)
            } else {
                Transition::Over(digits + 2, self.framing, content(size))
            }),
            // Extensions concern one connection only (RFC 9112 §7.1.1) and are always dropped. The size is dropped only
            // without verbatim mode, and for the last chunk, whose line the encoder writes itself.
            [b';', ..] if digits > 0 => {
                let handling = if size == 0 {
                    Handling::Drop
                } else {
                    self.framing
                };
                let part = ExtensionPart::Semicolon;
                Ok(Transition::Over(
                    digits,
                    handling,
                    BodyPosition::Extension { size, part },
                ))
            }
            _ => Err(BAD),
        }
    }

    /// Consumes the extensions in `input`, or the CRLF that ends them.
    ///
    /// Bytes before a malformed one are consumed first, so the result does not depend on how the input was split.
    #[cold]
    fn extension(
        &self,
        input: &[u8],
        size: u64,
        mut part: ExtensionPart,
    ) -> Result<Transition, Reject> {
        const BAD: Reject = Reject::bad(Reason::BadChunkExtension);
        let mut len = 0;
        while let Some(next) = input.get(len).and_then(|&byte| part.after(byte)) {
            part = next;
            len += 1;
        }
        if len > self.extensions {
            return Err(Reject::bad(Reason::ChunkExtensionsTooLarge));
        }
        if len > 0 {
            return Ok(Transition::Over(
                len,
                Handling::Drop,
                BodyPosition::Extension { size, part },
            ));
        }
        match input {
            _ if !part.may_end() => Err(BAD),
            [b'\r', b'\n', ..] if size == 0 => {
                Ok(Transition::Over(2, Handling::Drop, BodyPosition::Trailers))
            }
            [b'\r', b'\n', ..] => Ok(Transition::Over(2, self.framing, content(size))),
            [b'\r'] => Ok(Transition::Wait),
            _ => Err(BAD),
        }
    }

    fn trailers(&self, input: &[u8]) -> Result<Transition, Reject> {
        match input {
            [b'\r', b'\n', ..] => Ok(Transition::Over(2, Handling::Drop, BodyPosition::Done)),
            [b'\r'] => Ok(Transition::Wait),
            _ => Ok(trailers::section(input)?.map_or(Transition::Wait, Transition::Trailers)),
        }
    }
}

/// The length of the chunk at the start of `input`, and that of its content. `None` if it hasn't arrived as a whole, is the
/// last one, or has extensions, leading zeros or a flaw.
#[inline]
fn whole_chunk(input: &[u8]) -> Option<(usize, usize)> {
    if input.first() == Some(&b'0') {
        return None;
    }
    let (mut size, mut digits) = (0, 0);
    while let Some(digit) = input.get(digits).copied().and_then(hex_digit) {
        size = size << 4 | usize::from(digit);
        digits += 1;
        if digits > MAX_USUAL_DIGITS {
            return None;
        }
    }
    let [b'\r', b'\n', rest @ ..] = &input[digits..] else {
        return None;
    };
    let is_whole = size > 0 && rest.get(size..)?.starts_with(b"\r\n");
    is_whole.then_some((digits + 2 + size + 2, size))
}

#[inline]
fn content(left: u64) -> BodyPosition {
    if left == 0 {
        BodyPosition::ContentEnd
    } else {
        BodyPosition::Content { left }
    }
}
