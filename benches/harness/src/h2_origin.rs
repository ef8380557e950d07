//! The origin's HTTP/2, just enough of it: heads are not decoded. What ends with its head gets 1 KiB, what has a body is
//! taken for a gRPC call and gets a message and the status 0.

/// What every connection begins with.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const HEAD: usize = 9;
/// Frame types.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
/// Flags.
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// `:status: 200`, `content-type: text/plain`, `content-length: 1024`, by the static table and without Huffman.
const PLAIN: &[u8] = b"\x88\x0f\x10\x0atext/plain\x0f\x0d\x041024";
const BODY: [u8; 1024] = [b'x'; 1024];
/// `:status: 200`, `content-type: application/grpc`
const GRPC: &[u8] = b"\x88\x0f\x10\x10application/grpc";
/// `grpc-status: 0`
const GRPC_END: &[u8] = b"\x00\x0bgrpc-status\x010";
/// A message of 100 bytes.
const GRPC_MESSAGE: [u8; 105] = {
    let mut message = [b'x'; 105];
    message[0] = 0;
    message[1] = 0;
    message[2] = 0;
    message[3] = 0;
    message[4] = 100;
    message
};
/// So much of what was taken is told at a time.
const TOLD: u32 = 32 * 1024;

/// One connection.
pub struct H2 {
    input: Vec<u8>,
    /// What is to be written.
    pub output: Vec<u8>,
    greeted: bool,
    /// What the other side takes as yet.
    window: i64,
    /// What it was not told yet that was taken.
    untold: u32,
    /// Streams whose answers wait for the window, and whether they are calls.
    waiting: Vec<(u32, bool)>,
}

impl H2 {
    /// Begins with the settings.
    pub fn new() -> Self {
        let mut h2 = Self {
            input: Vec::new(),
            output: Vec::new(),
            greeted: false,
            window: 65_535,
            untold: 0,
            waiting: Vec::new(),
        };
        // MAX_CONCURRENT_STREAMS 1000.
        h2.frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 3, 0xe8]);
        h2
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = (payload.len() as u32).to_be_bytes();
        self.output.extend_from_slice(&length[1..]);
        self.output.extend_from_slice(&[kind, flags]);
        self.output.extend_from_slice(&stream.to_be_bytes());
        self.output.extend_from_slice(payload);
    }

    /// Takes what came; false when it makes no sense.
    pub fn take(&mut self, new: &[u8]) -> bool {
        self.input.extend_from_slice(new);
        if !self.greeted {
            if self.input.len() < PREFACE.len() {
                return PREFACE.starts_with(&self.input);
            }
            if !self.input.starts_with(PREFACE) {
                return false;
            }
            self.input.drain(..PREFACE.len());
            self.greeted = true;
        }
        let input = std::mem::take(&mut self.input);
        let mut at = 0;
        while let Some(head) = input.get(at..at + HEAD) {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
            let Some(payload) = input.get(at + HEAD..at + HEAD + length) else {
                break;
            };
            if !self.one(head[3], head[4], stream, payload) {
                return false;
            }
            at += HEAD + length;
        }
        self.input = input;
        self.input.drain(..at);
        true
    }

    fn one(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        match kind {
            HEADERS if flags & END_HEADERS == 0 => return false,
            HEADERS if flags & END_STREAM != 0 => self.answer(stream, false),
            DATA => {
                self.untold += payload.len() as u32;
                if self.untold >= TOLD {
                    let untold = std::mem::take(&mut self.untold).to_be_bytes();
                    self.frame(WINDOW_UPDATE, 0, 0, &untold);
                }
                if flags & END_STREAM != 0 {
                    self.answer(stream, true);
                }
            }
            SETTINGS if flags & ACK == 0 => self.frame(SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => self.frame(PING, ACK, 0, payload),
            WINDOW_UPDATE if stream == 0 => {
                let Ok(more) = <[u8; 4]>::try_from(payload) else {
                    return false;
                };
                self.window += i64::from(u32::from_be_bytes(more));
                for (stream, call) in std::mem::take(&mut self.waiting) {
                    self.answer(stream, call);
                }
            }
            _ => {}
        }
        true
    }

    fn answer(&mut self, stream: u32, call: bool) {
        let body: &[u8] = if call { &GRPC_MESSAGE } else { &BODY };
        if self.window < body.len() as i64 {
            self.waiting.push((stream, call));
            return;
        }
        self.window -= body.len() as i64;
        if call {
            self.frame(HEADERS, END_HEADERS, stream, GRPC);
            self.frame(DATA, 0, stream, body);
            self.frame(HEADERS, END_HEADERS | END_STREAM, stream, GRPC_END);
        } else {
            self.frame(HEADERS, END_HEADERS, stream, PLAIN);
            self.frame(DATA, END_STREAM, stream, body);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_wait_for_the_window_and_come_whole() {
        let mut h2 = H2::new();
        assert!(h2.take(&PREFACE[..5]) && h2.take(&PREFACE[5..]));
        h2.output.clear();
        let get = |stream: u8| {
            [
                0,
                0,
                1,
                HEADERS,
                END_HEADERS | END_STREAM,
                0,
                0,
                0,
                stream,
                0x82,
            ]
        };
        assert!(h2.take(&get(1)[..4]) && h2.output.is_empty());
        assert!(h2.take(&get(1)[4..]));
        let one = h2.output.len();
        assert_eq!(one, HEAD + PLAIN.len() + HEAD + 1024);
        for _ in 0..100 {
            assert!(h2.take(&get(3)));
        }
        assert_eq!(h2.output.len(), 63 * one, "65,535 bytes hold 63 answers");
        assert!(h2.take(&[0, 0, 4, WINDOW_UPDATE, 0, 0, 0, 0, 0, 0, 1, 0, 0]));
        assert_eq!(h2.output.len(), 101 * one);
        assert!(!H2::new().take(b"GET / HTTP/1.1\r\n\r\n"));
    }
}
