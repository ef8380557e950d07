//! HTTP/1 messages as the tests see them: a reader that takes one message at a time from a byte stream.

use std::io::{self, Read};

/// A message's head and body, as they were on the wire.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// Start line and fields with the empty line, byte for byte.
    pub head: Vec<u8>,
    /// Content, without chunk framing.
    pub body: Vec<u8>,
    /// Trailer section, byte for byte, without the empty line.
    pub trailers: Vec<u8>,
}

impl Message {
    /// The first line.
    pub fn line(&self) -> String {
        let text = String::from_utf8_lossy(&self.head).into_owned();
        text.split("\r\n").next().unwrap_or("").to_owned()
    }

    /// The status of a response.
    #[track_caller]
    pub fn status(&self) -> u16 {
        let line = self.line();
        let status = line.split(' ').nth(1).and_then(|s| s.parse().ok());
        status.unwrap_or_else(|| panic!("no status in {line:?}"))
    }

    /// The target of a request.
    pub fn target(&self) -> String {
        self.line().split(' ').nth(1).unwrap_or("").to_owned()
    }

    /// All values of a field, any case.
    pub fn all(&self, name: &str) -> Vec<String> {
        fields(&self.head, name)
    }

    /// The only value of a field; `None` if there is none; panics if there are several.
    #[track_caller]
    pub fn field(&self, name: &str) -> Option<String> {
        let mut all = self.all(name);
        assert!(all.len() < 2, "{name} more than once: {all:?}");
        all.pop()
    }

    /// The only value of a trailer field.
    pub fn trailer(&self, name: &str) -> Option<String> {
        let mut section = b"\r\n".to_vec();
        section.extend_from_slice(&self.trailers);
        fields(&section, name).pop()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether the peer says that the connection ends after this message.
    pub fn says_close(&self) -> bool {
        self.all("connection")
            .iter()
            .any(|v| v.to_ascii_lowercase().contains("close"))
    }
}

/// Values of `name` in a head.
fn fields(head: &[u8], name: &str) -> Vec<String> {
    String::from_utf8_lossy(head)
        .split("\r\n")
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .filter(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim().to_owned())
        .collect()
}

/// Bytes read and not yet used.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
}

/// How the bytes of a body are framed.
enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

impl Inbox {
    /// Reads more; false at the end of the stream.
    pub fn fill(&mut self, from: &mut dyn Read) -> io::Result<bool> {
        let mut piece = [0; 16 * 1024];
        let n = from.read(&mut piece)?;
        self.bytes.extend_from_slice(&piece[..n]);
        Ok(n > 0)
    }

    /// What was read and not used.
    pub fn take_rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// Bytes as they come; what was read ahead comes first.
    pub fn read(&mut self, from: &mut dyn Read, into: &mut [u8]) -> io::Result<usize> {
        if self.bytes.is_empty() {
            return from.read(into);
        }
        let n = (&self.bytes[..]).read(into)?;
        self.bytes.drain(..n);
        Ok(n)
    }

    /// Exactly `n` bytes.
    pub fn exact(&mut self, from: &mut dyn Read, n: usize) -> io::Result<Vec<u8>> {
        while self.bytes.len() < n {
            if !self.fill(from)? {
                return Err(cut(format!("{} of {n} bytes", self.bytes.len())));
            }
        }
        Ok(self.bytes.drain(..n).collect())
    }

    /// Up to and with `mark`; `None` if the stream ends before its first byte.
    pub fn through(&mut self, from: &mut dyn Read, mark: &[u8]) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(at) = self.bytes.windows(mark.len()).position(|w| w == mark) {
                return Ok(Some(self.bytes.drain(..at + mark.len()).collect()));
            }
            if !self.fill(from)? {
                return match self.bytes.is_empty() {
                    true => Ok(None),
                    false => Err(cut(format!(
                        "inside a head or line: {:?}",
                        String::from_utf8_lossy(&self.bytes)
                    ))),
                };
            }
        }
    }

    /// The head of the next message; `None` at the end of the stream.
    pub fn head(&mut self, from: &mut dyn Read) -> io::Result<Option<Message>> {
        Ok(self.through(from, b"\r\n\r\n")?.map(|head| Message {
            head,
            ..Message::default()
        }))
    }

    /// The body of a request whose head was read.
    pub fn request_body(&mut self, from: &mut dyn Read, message: &mut Message) -> io::Result<()> {
        let framing = match declared(message) {
            Framing::UntilClose => Framing::Length(0),
            framing => framing,
        };
        self.body(from, message, framing)
    }

    /// The body of a response to a request by `method` whose head was read.
    pub fn response_body(
        &mut self,
        from: &mut dyn Read,
        message: &mut Message,
        method: &str,
    ) -> io::Result<()> {
        let bodiless = method == "HEAD" || matches!(message.status(), 100..=199 | 204 | 304);
        let framing = match bodiless {
            true => Framing::Length(0),
            false => declared(message),
        };
        self.body(from, message, framing)
    }

    fn body(
        &mut self,
        from: &mut dyn Read,
        into: &mut Message,
        framing: Framing,
    ) -> io::Result<()> {
        match framing {
            Framing::Length(n) => into.body = self.exact(from, n as usize)?,
            Framing::UntilClose => {
                while self.fill(from)? {}
                into.body = self.take_rest();
            }
            Framing::Chunked => self.chunks(from, into)?,
        }
        Ok(())
    }

    fn chunks(&mut self, from: &mut dyn Read, into: &mut Message) -> io::Result<()> {
        loop {
            let line = self.line(from)?;
            let size = line.split(';').next().unwrap_or("").trim();
            let size = usize::from_str_radix(size, 16)
                .map_err(|_| io::Error::other(format!("not a chunk size: {line:?}")))?;
            if size == 0 {
                break;
            }
            let chunk = self.exact(from, size + 2)?;
            if !chunk.ends_with(b"\r\n") {
                return Err(io::Error::other("a chunk without its end"));
            }
            into.body.extend_from_slice(&chunk[..size]);
        }
        loop {
            let line = self.line(from)?;
            if line.is_empty() {
                return Ok(());
            }
            into.trailers.extend_from_slice(line.as_bytes());
            into.trailers.extend_from_slice(b"\r\n");
        }
    }

    fn line(&mut self, from: &mut dyn Read) -> io::Result<String> {
        let line = self
            .through(from, b"\r\n")?
            .ok_or_else(|| cut("before a line of chunk framing"))?;
        Ok(String::from_utf8_lossy(&line[..line.len() - 2]).into_owned())
    }
}

fn declared(message: &Message) -> Framing {
    if let Some(coding) = message.field("transfer-encoding") {
        assert_eq!(coding.to_ascii_lowercase(), "chunked");
        return Framing::Chunked;
    }
    match message.field("content-length") {
        Some(n) => Framing::Length(n.parse().expect("a content-length")),
        None => Framing::UntilClose,
    }
}

fn cut(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, what.into())
}
