//! HTTP/1 by exact bytes.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::time::Duration;

use super::wire::{Inbox, Message};
use super::{Duplex, PATIENCE, reset_on_close};

/// One connection.
pub struct Client {
    io: Box<dyn Duplex>,
    inbox: Inbox,
    socket: Option<TcpStream>,
}

/// How a connection ended, or that it didn't.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// Closed or reset without another byte.
    Closed,
    /// Still open.
    Open,
    /// There was more.
    Bytes(Vec<u8>),
}

/// A socket to a port on loopback that gives up after [`PATIENCE`].
#[track_caller]
pub fn dial(port: u16) -> TcpStream {
    let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connect");
    socket.set_nodelay(true).expect("TCP_NODELAY");
    socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
    socket.set_write_timeout(Some(PATIENCE)).expect("timeout");
    socket
}

/// `GET path` on a connection of its own, for host `test`.
#[track_caller]
pub fn get(port: u16, path: &str) -> Message {
    Client::new(port).get(path)
}

impl Client {
    /// A connection in clear text.
    #[track_caller]
    pub fn new(port: u16) -> Self {
        let socket = dial(port);
        let second = socket.try_clone().expect("a second handle");
        Self {
            socket: Some(second),
            ..Self::over(socket)
        }
    }

    /// Over any stream.
    pub fn over(io: impl Duplex + 'static) -> Self {
        Self {
            io: Box::new(io),
            inbox: Inbox::default(),
            socket: None,
        }
    }

    /// Writes these bytes.
    ///
    /// # Panics
    /// When the peer doesn't take them.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the proxy takes the bytes");
    }

    /// Writes these bytes, as many as the peer takes.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.io.write_all(bytes.as_ref())?;
        self.io.flush()
    }

    /// `GET path`, and its answer.
    #[track_caller]
    pub fn get(&mut self, path: &str) -> Message {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n"))
    }

    /// Sends a request and reads its final answer.
    #[track_caller]
    pub fn ask(&mut self, request: &str) -> Message {
        self.send(request);
        let method = request.split(' ').next().expect("a method");
        self.answer(method)
    }

    /// Reads the final response to a request by `method`; interim ones are dropped.
    #[track_caller]
    pub fn answer(&mut self, method: &str) -> Message {
        match self.try_answer(method) {
            Ok(answer) => answer,
            Err(e) => panic!("no whole response: {e}"),
        }
    }

    /// As [`Self::answer`]; an end of the connection inside it is an error.
    pub fn try_answer(&mut self, method: &str) -> io::Result<Message> {
        loop {
            let mut message = self.head()?;
            if matches!(message.status(), 100..=199) && message.status() != 101 {
                continue;
            }
            self.inbox
                .response_body(&mut self.io, &mut message, method)?;
            return Ok(message);
        }
    }

    /// The next head, interim or final.
    pub fn head(&mut self) -> io::Result<Message> {
        self.inbox
            .head(&mut self.io)?
            .ok_or_else(|| io::Error::new(ErrorKind::UnexpectedEof, "closed before a response"))
    }

    /// Exactly `n` bytes.
    #[track_caller]
    pub fn exact(&mut self, n: usize) -> Vec<u8> {
        let bytes = self.try_exact(n);
        bytes.unwrap_or_else(|e| panic!("not {n} bytes: {e}"))
    }

    /// Exactly `n` bytes, or why not.
    pub fn try_exact(&mut self, n: usize) -> io::Result<Vec<u8>> {
        self.inbox.exact(&mut self.io, n)
    }

    /// Up to and with `mark`.
    #[track_caller]
    pub fn through(&mut self, mark: &[u8]) -> Vec<u8> {
        let bytes = self.inbox.through(&mut self.io, mark);
        bytes.expect("bytes").expect("not the end of the stream")
    }

    /// Bytes as they come; empty at the end. What was read ahead comes first.
    pub fn piece(&mut self) -> io::Result<Vec<u8>> {
        let rest = self.inbox.take_rest();
        if !rest.is_empty() || !self.inbox.fill(&mut self.io)? {
            return Ok(rest);
        }
        Ok(self.inbox.take_rest())
    }

    /// Everything until the end of the stream; a reset ends it too.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.inbox.fill(&mut self.io).unwrap_or(false) {}
        self.inbox.take_rest()
    }

    /// Whether the connection is closed: waits for the close up to `time`.
    pub fn end_within(&mut self, time: Duration) -> End {
        let rest = self.inbox.take_rest();
        if !rest.is_empty() {
            return End::Bytes(rest);
        }
        self.patience(time);
        let mut piece = [0; 1024];
        let end = match self.io.read(&mut piece) {
            Ok(0) => End::Closed,
            Ok(n) => End::Bytes(piece[..n].to_vec()),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => End::Open,
            Err(_) => End::Closed,
        };
        self.patience(PATIENCE);
        end
    }

    /// As [`Self::end_within`], whatever bytes come before the end.
    pub fn rest_within(&mut self, time: Duration) -> End {
        let start = std::time::Instant::now();
        loop {
            match self.end_within(
                time.saturating_sub(start.elapsed())
                    .max(Duration::from_millis(1)),
            ) {
                End::Bytes(_) => {}
                end => return end,
            }
        }
    }

    /// Says that nothing more will be sent.
    pub fn finish(&self) {
        let socket = self.socket.as_ref().expect("a TCP connection");
        socket.shutdown(Shutdown::Write).expect("half close");
    }

    /// Ends the connection by a reset.
    pub fn reset(mut self) {
        let socket = self.socket.take().expect("a TCP connection");
        reset_on_close(&socket).expect("linger");
    }

    /// How long a write may take.
    pub fn patience_to_write(&self, time: Duration) {
        let socket = self.socket.as_ref().expect("a TCP connection");
        socket.set_write_timeout(Some(time)).expect("timeout");
    }

    /// How long a read may take.
    pub fn patience(&self, time: Duration) {
        if let Some(socket) = &self.socket {
            socket.set_read_timeout(Some(time)).expect("timeout");
        }
    }
}
