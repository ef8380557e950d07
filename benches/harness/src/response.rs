//! Just enough of HTTP/1 to know when a response is whole and whether it is the one expected.

/// Follows one response through the bytes as they come.
#[derive(Default)]
pub struct Response {
    state: State,
    /// Bytes of body so far; of a chunked one, framing included.
    body: u64,
}

#[derive(Default)]
enum State {
    #[default]
    Head,
    Length(u64),
    /// The last bytes seen: a chunked body ends where they are `\r\n0\r\n\r\n`. The origin's bodies hold no such bytes.
    Chunked([u8; 7]),
}

/// What the bytes so far amount to.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// More must come. At least this much body, if known: those bytes need not be looked at.
    More(u64),
    /// The response ended with the last byte given. Bytes of body.
    Whole(u64),
    /// Not a `200`, not HTTP, or bytes after the end.
    Bad,
}

const LAST_CHUNK: [u8; 7] = *b"\r\n0\r\n\r\n";

impl Response {
    /// Takes what was read. In the head, `buffer` must hold everything since the head began and
    /// is asked again with more until the head is whole; in the body, only what is new.
    pub fn take(&mut self, buffer: &mut Vec<u8>) -> Progress {
        if matches!(self.state, State::Head) {
            let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") else {
                return if buffer.len() > 64 * 1024 {
                    Progress::Bad
                } else {
                    Progress::More(0)
                };
            };
            let Some(state) = framing(&buffer[..end]) else {
                return Progress::Bad;
            };
            self.state = state;
            buffer.drain(..end + 4);
        }
        let progress = self.body(buffer);
        buffer.clear();
        progress
    }

    /// The head isn't whole yet.
    pub fn is_in_head(&self) -> bool {
        matches!(self.state, State::Head)
    }

    /// Counts bytes of a body of known length that were discarded unseen.
    pub fn skip(&mut self, bytes: u64) -> Progress {
        let State::Length(left) = &mut self.state else {
            return Progress::Bad;
        };
        self.body += bytes;
        match left.checked_sub(bytes) {
            Some(0) => Progress::Whole(self.body),
            Some(more) => {
                *left = more;
                Progress::More(more)
            }
            None => Progress::Bad,
        }
    }

    fn body(&mut self, bytes: &[u8]) -> Progress {
        match &mut self.state {
            State::Head => Progress::Bad,
            State::Length(_) => self.skip(bytes.len() as u64),
            State::Chunked(tail) => {
                self.body += bytes.len() as u64;
                let new = bytes.len().min(7);
                tail.rotate_left(new);
                tail[7 - new..].copy_from_slice(&bytes[bytes.len() - new..]);
                if *tail == LAST_CHUNK {
                    Progress::Whole(self.body)
                } else {
                    Progress::More(0)
                }
            }
        }
    }
}

fn framing(head: &[u8]) -> Option<State> {
    let status = head.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    if status != b"200" {
        return None;
    }
    for line in head.split(|b| *b == b'\n').skip(1) {
        let colon = line.iter().position(|b| *b == b':')?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            return Some(State::Length(
                std::str::from_utf8(value).ok()?.parse().ok()?,
            ));
        }
        if name.eq_ignore_ascii_case(b"transfer-encoding") && value == b"chunked" {
            return Some(State::Chunked([0; 7]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn byte_by_byte(all: &[u8]) -> Progress {
        let (mut response, mut buffer) = (Response::default(), Vec::new());
        for (at, byte) in all.iter().enumerate() {
            buffer.push(*byte);
            match response.take(&mut buffer) {
                Progress::More(_) => {}
                end => {
                    assert!(
                        end == Progress::Bad || at + 1 == all.len(),
                        "ended at byte {at}"
                    );
                    return end;
                }
            }
        }
        Progress::More(0)
    }

    #[test]
    fn a_body_of_known_length_ends_with_its_last_byte() {
        let all = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(byte_by_byte(all), Progress::Whole(5));
        let mut at_once = all.to_vec();
        assert_eq!(Response::default().take(&mut at_once), Progress::Whole(5));
    }

    #[test]
    fn a_chunked_body_ends_with_the_empty_chunk() {
        let all =
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        assert_eq!(byte_by_byte(all), Progress::Whole(20));
    }

    #[test]
    fn another_status_or_surplus_bytes_are_bad() {
        assert_eq!(
            byte_by_byte(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"),
            Progress::Bad
        );
        let mut surplus = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab".to_vec();
        assert_eq!(Response::default().take(&mut surplus), Progress::Bad);
    }
}
