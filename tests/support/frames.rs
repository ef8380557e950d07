//! HTTP/2 by exact frames: what a client that breaks the rules sends.

use std::io::{self, ErrorKind};

use super::client::Client;
use super::origin::Conn;

/// Frame types of RFC 9113.
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// `END_STREAM` (DATA, HEADERS) and `ACK` (SETTINGS, PING).
pub const END_STREAM: u8 = 1;
/// `END_HEADERS`
pub const END_HEADERS: u8 = 4;

/// A frame.
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// What became of a stream or of its connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A response with this status, as far as our decoder knows it.
    Status(u16),
    /// `RST_STREAM` with this code.
    Reset(u32),
    /// `GOAWAY` with this code.
    Goaway(u32),
    /// The connection ended without a word.
    Closed,
    /// Nothing came in time.
    Silence,
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("a payload below 16 MiB");
    let mut bytes = len.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header block of literals, without index and without Huffman code: any byte may stand in it.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        string(&mut block, name.as_bytes());
        string(&mut block, value.as_bytes());
    }
    block
}

fn string(into: &mut Vec<u8>, text: &[u8]) {
    match text.len() {
        n @ 0..127 => into.push(n as u8),
        n => {
            into.push(127);
            let mut rest = n - 127;
            while rest >= 128 {
                into.push((rest % 128 + 128) as u8);
                rest /= 128;
            }
            into.push(rest as u8);
        }
    }
    into.extend(text);
}

/// A whole request without a body.
pub fn request(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(
        kind::HEADERS,
        END_STREAM | END_HEADERS,
        stream,
        &block(fields),
    )
}

/// The pseudo-headers of `GET path`.
pub fn get_fields(path: &str) -> [(&str, &str); 4] {
    [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "test"),
        (":path", path),
    ]
}

/// The start of a connection: preface and empty settings.
pub fn preface() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(kind::SETTINGS, 0, 0, &[]));
    bytes
}

/// The next frame that a client gets.
pub fn next(client: &mut Client) -> io::Result<Frame> {
    read(|n| client.try_exact(n))
}

/// The next frame that an origin gets.
pub fn received(conn: &mut Conn) -> io::Result<Frame> {
    read(|n| conn.exact(n))
}

/// Begins a connection as an origin: takes the preface and sends empty settings.
pub fn accept(conn: &mut Conn) -> io::Result<()> {
    conn.exact(preface().len() - 9)?;
    conn.write(&frame(kind::SETTINGS, 0, 0, &[]))
}

fn read(mut exact: impl FnMut(usize) -> io::Result<Vec<u8>>) -> io::Result<Frame> {
    let head = exact(9)?;
    let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
    Ok(Frame {
        kind: head[3],
        flags: head[4],
        stream,
        payload: exact(len as usize)?,
    })
}

/// Reads until something is said about `stream` or the connection.
pub fn outcome(client: &mut Client, stream: u32) -> Outcome {
    loop {
        let frame = match next(client) {
            Ok(frame) => frame,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Outcome::Silence;
            }
            Err(_) => return Outcome::Closed,
        };
        let code = |at: usize| {
            let bytes = frame.payload[at..at + 4].try_into().expect("four bytes");
            u32::from_be_bytes(bytes)
        };
        match frame.kind {
            kind::GOAWAY if code(4) != 0 => return Outcome::Goaway(code(4)),
            kind::RST_STREAM if frame.stream == stream => return Outcome::Reset(code(0)),
            kind::HEADERS if frame.stream == stream => {
                return Outcome::Status(status(&frame.payload));
            }
            _ => {}
        }
    }
}

/// The status at the start of a block as common encoders write it; 0 if it is written in another way.
pub fn status(block: &[u8]) -> u16 {
    const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    // A change of the table's size may come first.
    let block = match block.first() {
        Some(b) if b & 0xe0 == 0x20 => &block[1..],
        _ => block,
    };
    match block {
        [b @ 0x88..=0x8e, ..] => INDEXED[usize::from(b - 0x88)],
        // A literal for the name at 8 to 14, to be indexed, not to be, or never to be.
        [name, 3, a, b, c, ..] if matches!(name & 0x0f, 8..=14) => {
            let digit = |d: &u8| u16::from(d.wrapping_sub(b'0'));
            digit(a) * 100 + digit(b) * 10 + digit(c)
        }
        [name, 0x82, a, b, ..] if matches!(name & 0x0f, 8..=14) => huffman_digits([*a, *b, 0]),
        [name, 0x83, a, b, c, ..] if matches!(name & 0x0f, 8..=14) => huffman_digits([*a, *b, *c]),
        _ => 0,
    }
}

/// Three digits in HPACK's Huffman code: `0`, `1`, `2` take five bits, the others six.
fn huffman_digits([a, b, c]: [u8; 3]) -> u16 {
    let mut bits = u32::from_be_bytes([a, b, c, 0]);
    let mut number = 0;
    for _ in 0..3 {
        let (digit, used) = match bits >> 27 {
            short @ 0..=2 => (short, 5),
            _ => ((bits >> 26).wrapping_sub(0x19) + 3, 6),
        };
        number = number * 10 + digit as u16;
        bits <<= used;
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read_in_all_usual_codes() {
        assert_eq!(status(&[0x88]), 200);
        assert_eq!(status(&[0x20, 0x8d]), 404);
        assert_eq!(status(b"\x48\x03431"), 431);
        // "302" as RFC 7541 C.6.1 shows it.
        assert_eq!(status(&[0x48, 0x82, 0x64, 0x02]), 302);
        // 011010 011001 00001, padded with ones.
        assert_eq!(status(&[0x08, 0x83, 0x69, 0x90, 0xff]), 431);
    }

    #[test]
    fn long_strings_have_their_length_in_several_bytes() {
        let block = block(&[("a", &"x".repeat(300))]);
        assert_eq!(block[..5], [0, 1, b'a', 127, 173]);
        assert_eq!(block[5], 1);
        assert_eq!(block.len(), 6 + 300);
    }
}
