//! Frames (RFC 9113 §4 and §6): parsing, validation and writing.
//!
//! Everything that can be checked without the state of a stream or of the connection is checked here, with the error code
//! and the level (stream or connection) that the RFC gives for it.

use super::code::ErrorCode;

/// Length of a frame header in bytes (RFC 9113 §4.1).
pub const HEADER_LEN: usize = 9;
/// Initial and smallest value of `SETTINGS_MAX_FRAME_SIZE` (RFC 9113 §6.5.2).
pub const DEFAULT_MAX_FRAME: usize = 1 << 14;
/// Largest value of `SETTINGS_MAX_FRAME_SIZE`.
pub const LARGEST_MAX_FRAME: u32 = (1 << 24) - 1;
/// Largest flow-control window, and the largest stream identifier.
pub const MAX_WINDOW: u32 = 0x7fff_ffff;
/// The client connection preface (RFC 9113 §3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Size of the deprecated priority fields (RFC 9113 §5.3.2).
const PRIORITY_LEN: usize = 5;

/// Frame types.
pub mod kind {
    /// Content of a message.
    pub const DATA: u8 = 0;
    /// Opens a stream, or carries a response or trailers.
    pub const HEADERS: u8 = 1;
    /// Deprecated, and ignored.
    pub const PRIORITY: u8 = 2;
    /// Ends a stream.
    pub const RST_STREAM: u8 = 3;
    /// Settings of the sender, or the acknowledgement of the receiver's.
    pub const SETTINGS: u8 = 4;
    /// Announces a pushed response.
    pub const PUSH_PROMISE: u8 = 5;
    /// Measures the round trip.
    pub const PING: u8 = 6;
    /// Ends a connection.
    pub const GOAWAY: u8 = 7;
    /// Extends a flow-control window.
    pub const WINDOW_UPDATE: u8 = 8;
    /// Continues a header block.
    pub const CONTINUATION: u8 = 9;
}

/// Frame flags.
pub mod flag {
    /// The last frame that the sender sends on the stream.
    pub const END_STREAM: u8 = 0x1;
    /// An acknowledgement (SETTINGS, PING).
    pub const ACK: u8 = 0x1;
    /// The header block ends with this frame.
    pub const END_HEADERS: u8 = 0x4;
    /// The frame is padded.
    pub const PADDED: u8 = 0x8;
    /// The frame has priority fields.
    pub const PRIORITY: u8 = 0x20;
}

/// Settings (RFC 9113 §6.5.2, RFC 8441 §3).
pub mod setting {
    /// Largest dynamic table that the sender's decoder can use.
    pub const HEADER_TABLE_SIZE: u16 = 1;
    /// Whether the sender accepts pushed responses.
    pub const ENABLE_PUSH: u16 = 2;
    /// Maximum number of streams that the receiver may open.
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    /// Initial window of the streams on which the receiver sends.
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    /// Largest payload that the sender accepts.
    pub const MAX_FRAME_SIZE: u16 = 5;
    /// Largest header list that the sender accepts; advisory.
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
    /// Whether the sender accepts extended CONNECT.
    pub const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// A frame that violates RFC 9113.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The connection must be closed with this code (RFC 9113 §5.4.1).
    Connection(ErrorCode),
    /// The stream must be reset with this code, and the payload skipped (RFC 9113 §5.4.2).
    Stream(u32, ErrorCode),
}

const PROTOCOL: FrameError = FrameError::Connection(ErrorCode::PROTOCOL_ERROR);
const SIZE: FrameError = FrameError::Connection(ErrorCode::FRAME_SIZE_ERROR);

/// A frame header (RFC 9113 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Length of the payload in bytes.
    pub len: usize,
    /// Frame type.
    pub kind: u8,
    /// Flags.
    pub flags: u8,
    /// Stream identifier; 0 for the connection.
    pub stream: u32,
}

impl FrameHeader {
    /// Parses a frame header. The reserved bit before the stream identifier is ignored.
    #[inline]
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Self {
        let [a, b, c, kind, flags, id @ ..] = *bytes;
        Self {
            len: u32::from_be_bytes([0, a, b, c]) as usize,
            kind,
            flags,
            stream: u32::from_be_bytes(id) & MAX_WINDOW,
        }
    }

    /// Checks what the header alone shows: the length, and whether a frame of its type belongs to a stream or to the
    /// connection. Doing it before the payload has arrived bounds what must be buffered.
    ///
    /// `max_frame` is the `SETTINGS_MAX_FRAME_SIZE` that was announced to the sender.
    ///
    /// # Errors
    /// `FRAME_SIZE_ERROR` or `PROTOCOL_ERROR`, at the level that RFC 9113 §6 gives for the type. PUSH_PROMISE is always an
    /// error: a client can't push, and the proxy accepts none as a client (RFC 9113 §8.4).
    #[inline]
    pub fn check(&self, max_frame: usize) -> Result<(), FrameError> {
        if self.len > max_frame {
            return Err(SIZE);
        }
        let on_stream = self.stream != 0;
        match self.kind {
            kind::DATA | kind::HEADERS | kind::CONTINUATION if on_stream => Ok(()),
            kind::RST_STREAM if on_stream => self.has_len(4),
            kind::WINDOW_UPDATE => self.has_len(4),
            kind::PRIORITY if on_stream && self.len == PRIORITY_LEN => Ok(()),
            // The only frame of a fixed length that can't affect the rest of the connection (RFC 9113 §4.2, §6.3).
            kind::PRIORITY if on_stream => {
                Err(FrameError::Stream(self.stream, ErrorCode::FRAME_SIZE_ERROR))
            }
            kind::PING if !on_stream => self.has_len(8),
            kind::GOAWAY if !on_stream && self.len < 8 => Err(SIZE),
            kind::GOAWAY if !on_stream => Ok(()),
            kind::SETTINGS if !on_stream => {
                let is_ack = self.has(flag::ACK);
                let is_odd = !self.len.is_multiple_of(6) || (is_ack && self.len > 0);
                if is_odd { Err(SIZE) } else { Ok(()) }
            }
            kind::DATA..=kind::CONTINUATION => Err(PROTOCOL),
            _ => Ok(()),
        }
    }

    fn has_len(&self, len: usize) -> Result<(), FrameError> {
        if self.len == len { Ok(()) } else { Err(SIZE) }
    }

    /// Whether the flag is set.
    #[inline]
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Appends the header.
    #[inline]
    pub fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_bytes());
    }

    #[inline]
    fn to_bytes(self) -> [u8; HEADER_LEN] {
        debug_assert!(self.len <= LARGEST_MAX_FRAME as usize);
        let [_, a, b, c] = (self.len as u32).to_be_bytes();
        let [d, e, f, g] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, d, e, f, g]
    }
}

/// The payload of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Content. The whole payload, also its padding, counts against the flow-control windows (RFC 9113 §6.9.1).
    Data {
        /// The content, without padding.
        data: &'a [u8],
        /// Whether it is the last.
        end_stream: bool,
    },
    /// The start of a header block.
    Headers {
        /// The first part of the block.
        fragment: &'a [u8],
        /// Whether the message has neither content nor trailers after it.
        end_stream: bool,
        /// Whether the block is complete.
        end_headers: bool,
        /// The deprecated priority fields make the stream depend on itself: a stream error `PROTOCOL_ERROR`, which can
        /// only be acted on after the block was decoded.
        depends_on_itself: bool,
    },
    /// Another part of a header block.
    Continuation {
        /// The next part of the block.
        fragment: &'a [u8],
        /// Whether the block is complete.
        end_headers: bool,
    },
    /// Deprecated; its receiver ignores it.
    Priority,
    /// The peer ended the stream.
    Reset {
        /// The reason for the reset.
        code: ErrorCode,
    },
    /// Settings of the peer.
    Settings(Settings<'a>),
    /// The peer has applied our settings.
    SettingsAck,
    /// A ping or its answer.
    Ping {
        /// Whether this frame answers a PING of ours.
        ack: bool,
        /// The data that an answer has to repeat.
        data: [u8; 8],
    },
    /// The peer ends the connection.
    GoAway {
        /// Highest stream that may have been processed. Those above it were not.
        last_stream: u32,
        /// The reason for the end.
        code: ErrorCode,
        /// Text of the peer for diagnosis.
        debug: &'a [u8],
    },
    /// A larger window, of the stream or of the connection.
    WindowUpdate {
        /// Bytes to add; never 0.
        increment: u32,
    },
    /// An unknown type, which must be ignored (RFC 9113 §4.1); among them PRIORITY_UPDATE (RFC 9218 §7).
    Unknown,
}

/// Parses a payload. `header` has passed [`FrameHeader::check`], and `payload` has its length.
///
/// # Errors
/// The error that RFC 9113 §6 gives for the type.
#[inline]
pub fn parse<'a>(header: &FrameHeader, payload: &'a [u8]) -> Result<Frame<'a>, FrameError> {
    debug_assert_eq!(header.len, payload.len());
    match header.kind {
        kind::DATA => Ok(Frame::Data {
            data: unpadded(header, payload)?,
            end_stream: header.has(flag::END_STREAM),
        }),
        kind::HEADERS => headers(header, payload),
        kind::CONTINUATION => Ok(Frame::Continuation {
            fragment: payload,
            end_headers: header.has(flag::END_HEADERS),
        }),
        kind::WINDOW_UPDATE => match number(payload)? & MAX_WINDOW {
            0 if header.stream == 0 => Err(PROTOCOL),
            0 => Err(FrameError::Stream(header.stream, ErrorCode::PROTOCOL_ERROR)),
            increment => Ok(Frame::WindowUpdate { increment }),
        },
        kind::SETTINGS if header.has(flag::ACK) => Ok(Frame::SettingsAck),
        kind::SETTINGS => Settings::new(payload).map(Frame::Settings),
        kind::RST_STREAM => Ok(Frame::Reset {
            code: ErrorCode(number(payload)?),
        }),
        kind::PRIORITY if number(payload)? & MAX_WINDOW == header.stream => {
            Err(FrameError::Stream(header.stream, ErrorCode::PROTOCOL_ERROR))
        }
        kind::PRIORITY => Ok(Frame::Priority),
        kind::PING => Ok(Frame::Ping {
            ack: header.has(flag::ACK),
            data: *payload.first_chunk().ok_or(SIZE)?,
        }),
        kind::GOAWAY => Ok(Frame::GoAway {
            last_stream: number(payload)? & MAX_WINDOW,
            code: ErrorCode(number(payload.get(4..).ok_or(SIZE)?)?),
            debug: payload.get(8..).ok_or(SIZE)?,
        }),
        kind::PUSH_PROMISE => Err(PROTOCOL),
        _ => Ok(Frame::Unknown),
    }
}

#[inline]
fn headers<'a>(header: &FrameHeader, payload: &'a [u8]) -> Result<Frame<'a>, FrameError> {
    let mut fragment = unpadded(header, payload)?;
    let mut depends_on_itself = false;
    if header.has(flag::PRIORITY) {
        // Too short for its flags is a frame size error (RFC 9113 §4.2); a header block makes it one of the connection.
        let (priority, rest) = fragment.split_first_chunk::<PRIORITY_LEN>().ok_or(SIZE)?;
        depends_on_itself = number(priority)? & MAX_WINDOW == header.stream;
        fragment = rest;
    }
    Ok(Frame::Headers {
        fragment,
        end_stream: header.has(flag::END_STREAM),
        end_headers: header.has(flag::END_HEADERS),
        depends_on_itself,
    })
}

/// Removes the padding (RFC 9113 §6.1). Padding that doesn't fit the payload is a connection error.
#[inline]
fn unpadded<'a>(header: &FrameHeader, payload: &'a [u8]) -> Result<&'a [u8], FrameError> {
    if !header.has(flag::PADDED) {
        return Ok(payload);
    }
    let (&padding, rest) = payload.split_first().ok_or(SIZE)?;
    let len = rest.len().checked_sub(padding.into()).ok_or(PROTOCOL)?;
    Ok(&rest[..len])
}

/// Reads a number of four bytes.
#[inline]
fn number(payload: &[u8]) -> Result<u32, FrameError> {
    payload
        .first_chunk()
        .map(|bytes| u32::from_be_bytes(*bytes))
        .ok_or(SIZE)
}

/// The settings in a SETTINGS frame, validated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings<'a>(&'a [[u8; 6]]);

impl<'a> Settings<'a> {
    /// Validates the values (RFC 9113 §6.5.2, RFC 8441 §3).
    fn new(payload: &'a [u8]) -> Result<Self, FrameError> {
        let settings = Self(payload.as_chunks().0);
        for (id, value) in settings.iter() {
            match id {
                setting::ENABLE_PUSH | setting::ENABLE_CONNECT_PROTOCOL if value > 1 => {
                    return Err(PROTOCOL);
                }
                setting::INITIAL_WINDOW_SIZE if value > MAX_WINDOW => {
                    return Err(FrameError::Connection(ErrorCode::FLOW_CONTROL_ERROR));
                }
                setting::MAX_FRAME_SIZE
                    if !(DEFAULT_MAX_FRAME as u32..=LARGEST_MAX_FRAME).contains(&value) =>
                {
                    return Err(PROTOCOL);
                }
                _ => {}
            }
        }
        Ok(settings)
    }

    /// Identifiers and values in the order of the frame, in which they must be applied (RFC 9113 §6.5.3). Unknown ones are
    /// among them and must be ignored.
    #[inline]
    pub fn iter(self) -> impl Iterator<Item = (u16, u32)> + 'a {
        self.0
            .iter()
            .map(|&[a, b, value @ ..]| (u16::from_be_bytes([a, b]), u32::from_be_bytes(value)))
    }
}

fn put_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[&[u8]]) {
    let len = payload.iter().map(|part| part.len()).sum();
    FrameHeader {
        len,
        kind,
        flags,
        stream,
    }
    .put(out);
    payload.iter().for_each(|part| out.extend_from_slice(part));
}

/// Appends a SETTINGS frame with these identifiers and values.
pub fn put_settings(out: &mut Vec<u8>, values: &[(u16, u32)]) {
    put_frame(out, kind::SETTINGS, 0, 0, &[]);
    let at = out.len();
    for (id, value) in values {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
    set_len(out, at - HEADER_LEN);
}

/// Appends the acknowledgement of SETTINGS.
pub fn put_settings_ack(out: &mut Vec<u8>) {
    put_frame(out, kind::SETTINGS, flag::ACK, 0, &[]);
}

/// Appends a PING, or the answer to one.
pub fn put_ping(out: &mut Vec<u8>, data: [u8; 8], ack: bool) {
    let flags = if ack { flag::ACK } else { 0 };
    put_frame(out, kind::PING, flags, 0, &[&data]);
}

/// Appends a GOAWAY; `last_stream` is the last stream that was or may be processed.
pub fn put_go_away(out: &mut Vec<u8>, last_stream: u32, code: ErrorCode, debug: &[u8]) {
    let (last_stream, code) = (last_stream.to_be_bytes(), code.0.to_be_bytes());
    put_frame(out, kind::GOAWAY, 0, 0, &[&last_stream, &code, debug]);
}

/// Appends a WINDOW_UPDATE for a stream, or for the connection if `stream` is 0. `increment` is 1 to [`MAX_WINDOW`].
pub fn put_window_update(out: &mut Vec<u8>, stream: u32, increment: u32) {
    debug_assert!((1..=MAX_WINDOW).contains(&increment));
    put_frame(
        out,
        kind::WINDOW_UPDATE,
        0,
        stream,
        &[&increment.to_be_bytes()],
    );
}

/// Appends a RST_STREAM.
pub fn put_reset(out: &mut Vec<u8>, stream: u32, code: ErrorCode) {
    put_frame(out, kind::RST_STREAM, 0, stream, &[&code.0.to_be_bytes()]);
}

/// Appends the header of a DATA frame; `len` bytes of content must follow it.
#[inline]
pub fn put_data_header(out: &mut Vec<u8>, stream: u32, len: usize, end_stream: bool) {
    FrameHeader {
        len,
        kind: kind::DATA,
        flags: if end_stream { flag::END_STREAM } else { 0 },
        stream,
    }
    .put(out);
}

/// Begins a HEADERS frame: leaves room for its header, and returns where it starts, for [`finish_headers`]. The header
/// block must be appended in between.
#[inline]
pub fn start_headers(out: &mut Vec<u8>) -> usize {
    let at = out.len();
    out.extend_from_slice(&[0; HEADER_LEN]);
    at
}

/// Completes the HEADERS frame that starts at `at`. A block that is larger than `max_frame`, the peer's
/// `SETTINGS_MAX_FRAME_SIZE`, is split into CONTINUATION frames (RFC 9113 §4.3).
#[inline]
pub fn finish_headers(
    out: &mut Vec<u8>,
    at: usize,
    stream: u32,
    end_stream: bool,
    max_frame: usize,
) {
    let len = out.len() - at - HEADER_LEN;
    let end = if end_stream { flag::END_STREAM } else { 0 };
    let mut header = FrameHeader {
        len,
        kind: kind::HEADERS,
        flags: end | flag::END_HEADERS,
        stream,
    };
    if len > max_frame {
        header.flags = end;
        header.len = max_frame;
        split(out, at + HEADER_LEN + max_frame, stream, max_frame);
    }
    out[at..at + HEADER_LEN].copy_from_slice(&header.to_bytes());
}

/// Inserts the headers of CONTINUATION frames into the block that continues at `at`.
#[cold]
fn split(out: &mut Vec<u8>, at: usize, stream: u32, max_frame: usize) {
    let rest = out.split_off(at);
    let mut parts = rest.chunks(max_frame).peekable();
    while let Some(part) = parts.next() {
        let is_last = parts.peek().is_none();
        let flags = if is_last { flag::END_HEADERS } else { 0 };
        put_frame(out, kind::CONTINUATION, flags, stream, &[part]);
    }
}

/// Sets the length of the last frame in `out`, which starts at `at`.
fn set_len(out: &mut [u8], at: usize) {
    let [_, a, b, c] = ((out.len() - at - HEADER_LEN) as u32).to_be_bytes();
    out[at..at + 3].copy_from_slice(&[a, b, c]);
}

#[cfg(test)]
mod tests;
