//! The framing of message bodies (RFC 9112 §6): a decoder that finds the end of a body in the bytes of a connection.

use super::Reject;
use super::chunked::Chunks;

pub use super::decode_step::DecodeStep;
pub use super::number::chunk_head;
pub use super::trailers::{Trailer, trailers};

/// How the end of a body is determined (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    Empty,
    /// This many bytes, by `Content-Length`.
    Length(u64),
    /// Chunked transfer coding.
    Chunked,
    /// Until the peer closes the connection; responses only.
    UntilClose,
}

impl Framing {
    /// Whether a body follows the head.
    #[inline]
    pub fn has_body(self) -> bool {
        !matches!(self, Self::Empty | Self::Length(0))
    }
}

/// Decoder of one body.
///
/// In *verbatim* mode, for a chunked body that is forwarded chunked, `Data` is a run of bytes with its chunk framing that
/// can be forwarded as it is. Chunk extensions are reported as `Skip`. The last chunk and the trailers are never part of a
/// run: the encoder writes `0\r\n`, the trailers that may be forwarded, and the empty line itself.
#[derive(Clone, Debug)]
pub struct BodyDecoder {
    state: DecoderState,
}

#[derive(Clone, Debug)]
enum DecoderState {
    Done,
    Length(u64),
    UntilClose,
    Chunked(Chunks),
}

impl BodyDecoder {
    /// Creates the decoder of a body with this framing; `verbatim` only affects [`Framing::Chunked`].
    pub fn new(framing: Framing, verbatim: bool) -> Self {
        let state = match framing {
            Framing::Empty | Framing::Length(0) => DecoderState::Done,
            Framing::Length(n) => DecoderState::Length(n),
            Framing::Chunked => DecoderState::Chunked(Chunks::new(verbatim)),
            Framing::UntilClose => DecoderState::UntilClose,
        };
        Self { state }
    }

    /// Decodes the start of `input`, the bytes that have not been consumed.
    ///
    /// After `Data(n)`, `Skip(n)` or `Trailers(n)` the decoder counts those bytes as consumed: the caller must remove all
    /// of them from the input before the next step, even if it forwards a run in parts.
    ///
    /// # Errors
    /// 400 for malformed chunk framing or trailers or too many bytes of chunk extensions, 431 for a trailer section that is
    /// too large. Content before the malformed bytes is returned first.
    #[inline]
    pub fn step(&mut self, input: &[u8]) -> Result<DecodeStep, Reject> {
        match &mut self.state {
            DecoderState::Done => Ok(DecodeStep::Done),
            DecoderState::Chunked(chunks) => chunks.step(input),
            _ if input.is_empty() => Ok(DecodeStep::More),
            DecoderState::UntilClose => Ok(DecodeStep::Data(input.len())),
            DecoderState::Length(left) => {
                let n = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
                *left -= n as u64;
                if *left == 0 {
                    self.state = DecoderState::Done;
                }
                Ok(DecodeStep::Data(n))
            }
        }
    }

    /// Counts `n` bytes of content as consumed that did not pass through [`Self::step`], because they were spliced.
    ///
    /// Only for [`Framing::Length`] and [`Framing::UntilClose`].
    pub fn skip(&mut self, n: u64) {
        if let DecoderState::Length(left) = &mut self.state {
            *left -= n;
            if *left == 0 {
                self.state = DecoderState::Done;
            }
        }
    }

    /// Returns the number of remaining bytes if all of them are content: `Some(Some(n))` for [`Framing::Length`],
    /// `Some(None)` for [`Framing::UntilClose`], otherwise `None`.
    pub fn is_plain(&self) -> Option<Option<u64>> {
        match &self.state {
            DecoderState::Length(left) => Some(Some(*left)),
            DecoderState::UntilClose => Some(None),
            DecoderState::Done | DecoderState::Chunked(_) => None,
        }
    }

    /// Returns the number of remaining bytes of content, if known.
    pub fn remaining(&self) -> Option<u64> {
        match &self.state {
            DecoderState::Done => Some(0),
            DecoderState::Length(left) => Some(*left),
            DecoderState::UntilClose => None,
            DecoderState::Chunked(chunks) => chunks.is_done().then_some(0),
        }
    }

    /// Whether the body is complete if the peer closes the connection now (RFC 9112 §8).
    pub fn is_complete_at_eof(&self) -> bool {
        matches!(self.state, DecoderState::UntilClose) || self.is_done()
    }

    /// Whether the body has ended.
    #[inline]
    pub fn is_done(&self) -> bool {
        match &self.state {
            DecoderState::Done => true,
            DecoderState::Chunked(chunks) => chunks.is_done(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes `wire` in pieces of `piece` bytes.
    fn decode(wire: &[u8], piece: usize, verbatim: bool) -> Result<Out, (Vec<u8>, Reject)> {
        let mut decoder = BodyDecoder::new(Framing::Chunked, verbatim);
        let mut out = Out::default();
        let (mut at, mut seen) = (0, 0);
        loop {
            let step = match decoder.step(&wire[at..seen]) {
                Ok(step) => step,
                Err(reject) => return Err((out.content, reject)),
            };
            match step {
                DecodeStep::More if seen == wire.len() => {
                    out.complete = false;
                    return Ok(out);
                }
                DecodeStep::More => seen = wire.len().min(seen + piece),
                DecodeStep::Data(n) => {
                    assert!(n > 0 && at + n <= seen);
                    out.content.extend_from_slice(&wire[at..at + n]);
                    at += n;
                }
                DecodeStep::Skip(n) => {
                    assert!(n > 0 && at + n <= seen);
                    at += n;
                }
                DecodeStep::Trailers(n) => {
                    out.trailers = wire[at..at + n].to_vec();
                    at += n;
                }
                DecodeStep::Done => {
                    assert!(decoder.is_done());
                    out.complete = true;
                    out.rest = wire.len() - at;
                    return Ok(out);
                }
            }
        }
    }

    #[derive(Debug, Default, PartialEq)]
    struct Out {
        content: Vec<u8>,
        trailers: Vec<u8>,
        complete: bool,
        rest: usize,
    }

    #[test]
    fn chunked_bodies_decode_to_their_content_however_they_come() {
        for (wire, content, trailers) in [
            ("0\r\n\r\n", "", ""),
            ("5\r\nhello\r\n0\r\n\r\n", "hello", ""),
            (
                "5\r\nhello\r\n1\r\n \r\n05\r\nworld\r\n000\r\n\r\n",
                "hello world",
                "",
            ),
            ("A\r\n0123456789\r\n0\r\n\r\n", "0123456789", ""),
            ("a;x\r\n0123456789\r\n0;y=\"z;\"\r\n\r\n", "0123456789", ""),
            ("1; x=1;y\r\na\r\n1;z\r\nb\r\n0\r\n\r\n", "ab", ""),
            ("1;x = 1 ;\ty\r\na\r\n0\r\n\r\n", "a", ""),
            (
                "1;x=\"\";y=\"\\\"\\\\ \t\u{e9}\"\r\na\r\n0\r\n\r\n",
                "a",
                "",
            ),
            (
                "00000000000000001\r\na\r\n00000000000000000\r\n\r\n",
                "a",
                "",
            ),
            ("00000000000000001;x\r\na\r\n00;x\r\n\r\n", "a", ""),
            (
                "1\r\na\r\n0\r\nx: y\r\nz:\r\n\r\n",
                "a",
                "x: y\r\nz:\r\n\r\n",
            ),
            ("0000000000000001\r\na\r\n0\r\n\r\n", "a", ""),
        ] {
            for verbatim in [false, true] {
                for piece in 1..=wire.len() + 3 {
                    let wire = format!("{wire}GET");
                    let out = decode(wire.as_bytes(), piece, verbatim).unwrap();
                    assert!(out.complete && out.rest == 3, "{wire:?} {piece}");
                    assert_eq!(out.trailers, trailers.as_bytes());
                    let plain = if verbatim {
                        let again = [&out.content[..], b"0\r\n\r\n"].concat();
                        let again = decode(&again, piece, false).unwrap();
                        assert!(again.complete);
                        assert!(!out.content.contains(&b';'));
                        again.content
                    } else {
                        out.content
                    };
                    assert_eq!(plain, content.as_bytes(), "{wire:?} {piece} {verbatim}");
                }
            }
        }
    }

    #[test]
    fn malformed_chunks_are_refused_however_they_come() {
        const GOOD: &str = "5\r\nhello\r\n";
        let zeros = format!("{}5\r\nhello\r\n", "0".repeat(64));
        let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(17000));
        let many = "1;xxxxxxxxxxxxxxxxxxxx\r\na\r\n".repeat(1000);
        let trailers = format!("0\r\nx: {}\r\n\r\n", "x".repeat(17000));
        let fields = format!("0\r\n{}\r\n", "x: y\r\n".repeat(65));
        for (wire, reason) in [
            ("\r\n", "bad-chunk-size"),
            (";x\r\n", "bad-chunk-size"),
            ("g\r\n", "bad-chunk-size"),
            ("+5\r\nhello\r\n", "bad-chunk-size"),
            ("-5\r\nhello\r\n", "bad-chunk-size"),
            ("0x5\r\nhello\r\n", "bad-chunk-size"),
            (" 5\r\nhello\r\n", "bad-chunk-size"),
            ("5 \r\nhello\r\n", "bad-chunk-size"),
            ("5 ;x\r\nhello\r\n", "bad-chunk-size"),
            ("5\t\r\nhello\r\n", "bad-chunk-size"),
            ("5_0\r\nhello\r\n", "bad-chunk-size"),
            ("5\nhello\r\n", "bad-chunk-size"),
            ("5\r\r\nhello\r\n", "bad-chunk-size"),
            ("5\rhello\r\n", "bad-chunk-size"),
            (&zeros, "bad-chunk-size"),
            ("8000000000000000\r\nhello\r\n", "bad-chunk-size"),
            ("10000000000000005\r\nhello\r\n", "bad-chunk-size"),
            ("5,5\r\nhello\r\n", "bad-chunk-size"),
            ("5.0\r\nhello\r\n", "bad-chunk-size"),
            ("5\0\r\nhello\r\n", "bad-chunk-size"),
            ("5;\r\nhello\r\n", "bad-chunk-extension"),
            ("5; \r\nhello\r\n", "bad-chunk-extension"),
            ("5;;\r\nhello\r\n", "bad-chunk-extension"),
            ("5;=x\r\nhello\r\n", "bad-chunk-extension"),
            ("5;x=\r\nhello\r\n", "bad-chunk-extension"),
            ("5;x \r\nhello\r\n", "bad-chunk-extension"),
            ("5;x y\r\nhello\r\n", "bad-chunk-extension"),
            ("5;x=y z\r\nhello\r\n", "bad-chunk-extension"),
            ("5;x=y \r\nhello\r\n", "bad-chunk-extension"),
            ("5;x==y\r\nhello\r\n", "bad-chunk-extension"),
            ("5;x=y=z\r\nhello\r\n", "bad-chunk-extension"),
            ("5;x=(y)\r\nhello\r\n", "bad-chunk-extension"),
            ("5;x,y\r\nhello\r\n", "bad-chunk-extension"),
            ("5;x;\r\nhello\r\n", "bad-chunk-extension"),
            ("5;x=\"y\r\nhello\r\n", "bad-chunk-extension"),
            ("5;x=\"y\\\"\r\nhello\r\n", "bad-chunk-extension"),
            ("5;x=\"y\"z\r\nhello\r\n", "bad-chunk-extension"),
            ("5;x=\"\x01\"\r\nhello\r\n", "bad-chunk-extension"),
            ("5;x=\"\x7f\"\r\nhello\r\n", "bad-chunk-extension"),
            ("5;\u{e9}\r\nhello\r\n", "bad-chunk-extension"),
            ("5;x=\u{e9}\r\nhello\r\n", "bad-chunk-extension"),
            ("5;x\nhello\r\n", "bad-chunk-extension"),
            ("5;x\rhello\r\n", "bad-chunk-extension"),
            ("5;x\0\r\nhello\r\n", "bad-chunk-extension"),
            ("5;\nhello\r\n", "bad-chunk-extension"),
            ("5\r\nhello0\r\n\r\n", "bad-chunk-end"),
            ("5\r\nhello\n0\r\n\r\n", "bad-chunk-end"),
            ("5\r\nhello\r0\r\n\r\n", "bad-chunk-end"),
            ("5\r\nhello \r\n0\r\n\r\n", "bad-chunk-end"),
            ("0\r\n\n", "bare-lf"),
            ("0\r\nx: y\n\r\n", "bare-lf"),
            ("0\r\nx: y\r\n\n", "bare-lf"),
            ("0\r\nx : y\r\n\r\n", "bad-trailers"),
            ("0\r\n x: y\r\n\r\n", "bad-trailers"),
            ("0\r\nx: y\r\n z\r\n\r\n", "bad-trailers"),
            ("0\r\nx: \0\r\n\r\n", "bad-trailers"),
            ("0\r\nGET / HTTP/1.1\r\n\r\n", "bad-trailers"),
            (&long, "chunk-extensions-too-large"),
            (&many, "chunk-extensions-too-large"),
            (&trailers, "trailers-too-large"),
            (&fields, "trailers-too-large"),
        ] {
            let shown = &wire[..wire.len().min(60)];
            for verbatim in [false, true] {
                for piece in [1, 2, 3, 7, wire.len(), GOOD.len() + wire.len()] {
                    let (content, reject) = decode(wire.as_bytes(), piece, verbatim).unwrap_err();
                    // Behind a chunk whose line is the same as that of most.
                    let later = format!("{GOOD}{wire}");
                    let (mut both, same) = decode(later.as_bytes(), piece, verbatim).unwrap_err();
                    let good = if verbatim { GOOD } else { "hello" };
                    assert_eq!(same, reject, "{shown:?} {piece}");
                    let behind = both.split_off(good.len());
                    assert_eq!((both, behind), (good.into(), content.clone()), "{shown:?}");
                    assert_eq!(reject.reason.as_str(), reason, "{shown:?} {piece}");
                    assert_eq!(
                        reject.status,
                        if reason == "trailers-too-large" {
                            431
                        } else {
                            400
                        }
                    );
                    let head = if verbatim { "5\r\nhello" } else { "hello" };
                    let whole = reason == "bad-chunk-end";
                    assert_eq!(content == head.as_bytes(), whole, "{shown:?}");
                }
            }
        }
    }

    #[test]
    fn lengths_and_closes() {
        let mut body = BodyDecoder::new(Framing::Length(5), false);
        assert_eq!(body.step(b""), Ok(DecodeStep::More));
        assert_eq!(body.step(b"hel"), Ok(DecodeStep::Data(3)));
        assert_eq!(body.remaining(), Some(2));
        assert!(!body.is_complete_at_eof());
        assert_eq!(body.step(b"loGET"), Ok(DecodeStep::Data(2)));
        assert!(body.is_done() && body.is_complete_at_eof());
        assert_eq!(body.step(b"GET"), Ok(DecodeStep::Done));

        let mut body = BodyDecoder::new(Framing::UntilClose, false);
        assert_eq!(body.step(b"hello"), Ok(DecodeStep::Data(5)));
        assert_eq!(body.step(b""), Ok(DecodeStep::More));
        assert_eq!(body.remaining(), None);
        assert!(body.is_complete_at_eof() && !body.is_done());

        for framing in [Framing::Empty, Framing::Length(0)] {
            let mut body = BodyDecoder::new(framing, false);
            assert!(body.is_done() && !framing.has_body());
            assert_eq!(body.step(b"GET"), Ok(DecodeStep::Done));
        }
        let mut huge = BodyDecoder::new(Framing::Length(u64::MAX), true);
        assert_eq!(huge.step(b"x"), Ok(DecodeStep::Data(1)));
        assert_eq!(huge.remaining(), Some(u64::MAX - 1));
    }

    #[test]
    fn a_chunked_body_is_incomplete_until_its_end() {
        let wire = b"5\r\nhello\r\n0\r\nx: y\r\n\r\n";
        for end in 0..wire.len() {
            let out = decode(&wire[..end], 4, false).unwrap();
            assert!(!out.complete, "{end}");
        }
    }

    #[test]
    fn verbatim_runs_are_long() {
        let wire = b"5\r\nhello\r\n5\r\nworld\r\n1\r\n!\r\n0\r\n\r\n";
        let mut body = BodyDecoder::new(Framing::Chunked, true);
        let run = wire.len() - 5;
        assert_eq!(body.step(wire), Ok(DecodeStep::Data(run)));
        assert_eq!(body.step(&wire[run..]), Ok(DecodeStep::Skip(5)));
        assert_eq!(body.step(b""), Ok(DecodeStep::Done));
    }

    #[test]
    fn extensions_are_paid_for_by_content() {
        let chunk = format!("400;sig={}\r\n{}\r\n", "x".repeat(64), "y".repeat(1024));
        let wire = format!("{}0\r\n\r\n", chunk.repeat(1000));
        let out = decode(wire.as_bytes(), 4000, false).unwrap();
        assert!(out.complete);
        assert_eq!(out.content.len(), 1024 * 1000);
        // Nearly all at once, and as much again as the chunks between allow.
        let alike = format!("400\r\n{}\r\n", "y".repeat(1024)).repeat(4);
        let with = |bytes| format!("1;{}\r\na\r\n", "x".repeat(bytes));
        for (more, fits) in [(4000, true), (4700, false)] {
            let wire = format!("{}{alike}{}0\r\n\r\n", with(16_000), with(more));
            for (piece, verbatim) in [(1, false), (1, true), (with(16_000).len(), true)] {
                let out = decode(wire.as_bytes(), piece, verbatim);
                assert_eq!(out.is_ok(), fits, "{more} {piece} {verbatim}");
            }
        }
    }
}
