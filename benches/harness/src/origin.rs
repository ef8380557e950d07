//! The origin: one thread on epoll, answers made before the first request, keep-alive. It has to
//! be light, for it shares a core with the load generator.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::sockopt;

use crate::download::{Download, Transfer};
use crate::h2_origin::{H2, PREFACE};
use crate::{Result, cpu};

/// Sizes of the bodies by path.
pub const BODIES: [(&str, usize); 3] = [("/1k", 1 << 10), ("/64k", 1 << 16), ("/1m", 1 << 20)];
/// What slow readers ask for.
const DOWNLOAD: (&str, usize) = ("/8m", 8 << 20);
/// The kernel's buffer for it; its own would take 4 MiB for each of them.
const DOWNLOAD_BUFFER: usize = 128 * 1024;

/// Followed by a number: an answer of 1 KiB whose head is that of no other number, up to [`UNLIKE_ANSWERS`].
pub const UNLIKE: &str = "/unlike/";
/// The number of different answers of this kind.
pub const UNLIKE_ANSWERS: usize = 512;

/// Chunks of 1 KiB that `/chunked` answers.
pub const CHUNKS: usize = 8;
/// The answer to a POST: bytes of body.
pub const POST_ANSWER: usize = 2;

/// Where an upgrade is granted.
const TUNNEL: &[u8] = b"/ws";

/// From here on an event is of a listener, below of a connection.
const LISTENER: u64 = 1 << 32;

/// Every answer, whole, head and body in one piece, but for the download.
struct Answers {
    download_head: Vec<u8>,
    download: Download,
    bodies: Vec<(&'static [u8], Vec<u8>)>,
    /// By their number, from 0.
    unlike: Vec<Vec<u8>>,
    chunked: Vec<u8>,
    post: Vec<u8>,
    tunnel: Vec<u8>,
    unknown: Vec<u8>,
}

impl Answers {
    fn new() -> Result<Self> {
        let head = |framing: &str| {
            format!(
                "HTTP/1.1 200 OK\r\nserver: origin\r\ncontent-type: text/plain\r\n{framing}\r\n\r\n"
            )
            .into_bytes()
        };
        let sized_with = |fields: &str, size: usize| {
            let mut answer = head(&format!("{fields}content-length: {size}"));
            answer.resize(answer.len() + size, b'x');
            answer
        };
        let sized = |size| sized_with("", size);
        let mut chunked = head("transfer-encoding: chunked");
        for _ in 0..CHUNKS {
            chunked.extend_from_slice(b"400\r\n");
            chunked.resize(chunked.len() + 1024, b'x');
            chunked.extend_from_slice(b"\r\n");
        }
        chunked.extend_from_slice(b"0\r\n\r\n");
        Ok(Self {
            download_head: head(&format!("content-length: {}", DOWNLOAD.1)),
            download: Download::new(DOWNLOAD.1)?,
            bodies: BODIES
                .iter()
                .map(|(path, size)| (path.as_bytes(), sized(*size)))
                .collect(),
            unlike: (0..=UNLIKE_ANSWERS)
                .map(|n| sized_with(&format!("etag: \"{n:032x}\"\r\n"), 1024))
                .collect(),
            chunked,
            post: sized(POST_ANSWER),
            tunnel:
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
                    .to_vec(),
            unknown: b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec(),
        })
    }

    fn to(&self, method: &[u8], path: &[u8]) -> &[u8] {
        if method == b"POST" {
            return &self.post;
        }
        if path == TUNNEL {
            return &self.tunnel;
        }
        if path == DOWNLOAD.0.as_bytes() {
            return &self.download_head;
        }
        if let Some(number) = path.strip_prefix(UNLIKE.as_bytes()) {
            let number = std::str::from_utf8(number)
                .ok()
                .and_then(|n| n.parse().ok());
            let answer = number.and_then(|n: usize| self.unlike.get(n));
            return answer.unwrap_or(&self.unknown);
        }
        if path == b"/chunked" {
            return &self.chunked;
        }
        self.bodies
            .iter()
            .find(|(known, _)| path.ends_with(known))
            .map_or(&self.unknown, |(_, answer)| answer)
    }
}

struct Connection<'a> {
    socket: TcpStream,
    /// Unanswered bytes of a request head, or the tail of a chunked body.
    input: Vec<u8>,
    body: Body,
    /// The answer to the request whose body is still coming.
    pending: &'a [u8],
    /// What couldn't be written yet.
    output: &'a [u8],
    /// The download that follows.
    transfer: Option<Transfer<'a>>,
    /// It speaks HTTP/2.
    h2: Option<Box<H2>>,
    asked_out: bool,
}

enum Body {
    None,
    /// Whatever comes goes back.
    Echo,
    Length(u64),
    Chunked,
}

/// The address of number `n`, from 0: all of them on the loopback interface, the first one 127.0.0.1.
pub fn address(n: usize) -> Ipv4Addr {
    match n {
        0 => Ipv4Addr::LOCALHOST,
        n => Ipv4Addr::from(
            Ipv4Addr::LOCALHOST.to_bits() + 256 * (n / 250 + 1) as u32 + n as u32 % 250,
        ),
    }
}

/// Serves on so many addresses, from 127.0.0.1, until the process is ended. Prints the port once it listens.
pub fn serve(port: u16, core: Option<usize>, addresses: usize) -> Result<()> {
    if let Some(core) = core {
        cpu::pin(core)?;
    }
    let mut listeners = vec![listen((address(0), port).into())?];
    let port = listeners[0].local_addr()?.port();
    for n in 1..addresses {
        listeners.push(listen((address(n), port).into())?);
    }
    println!("{port}");
    let answers = Answers::new()?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (at, listener) in listeners.iter().enumerate() {
        let data = EventData::new_u64(LISTENER + at as u64);
        epoll::add(&poll, listener, data, EventFlags::IN)?;
    }
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut free = Vec::new();
    let mut events = Vec::with_capacity(256);
    let mut scratch = vec![0; 256 * 1024];
    loop {
        match epoll::wait(&poll, spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        for event in events.drain(..) {
            let at = event.data.u64();
            if let Some(listener) = at.checked_sub(LISTENER) {
                let listener = &listeners[usize::try_from(listener)?];
                accept(listener, &poll, &mut connections, &mut free)?;
                continue;
            }
            let at = usize::try_from(at)?;
            if let Some(connection) = &mut connections[at]
                && !connection.turn(&answers, &mut scratch, &poll, at)
            {
                connections[at] = None;
                free.push(at);
            }
        }
    }
}

/// A listener whose backlog holds all connections of a case.
pub(crate) fn listen(at: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(at).map_err(|e| format!("can't listen at {at}: {e}"))?;
    // The standard library's 128 places overflow when thousands of slow clients come at once: the proxy would be blamed for it.
    rustix::net::listen(&listener, 4096)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn accept(
    listener: &TcpListener,
    poll: &impl std::os::fd::AsFd,
    connections: &mut Vec<Option<Connection>>,
    free: &mut Vec<usize>,
) -> Result<()> {
    loop {
        let socket = match listener.accept() {
            Ok((socket, _)) => socket,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(e) if e.kind() == ErrorKind::ConnectionAborted => continue,
            Err(e) => return Err(e.into()),
        };
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        let at = free.pop().unwrap_or_else(|| {
            connections.push(None);
            connections.len() - 1
        });
        epoll::add(poll, &socket, EventData::new_u64(at as u64), EventFlags::IN)?;
        connections[at] = Some(Connection {
            socket,
            input: Vec::new(),
            body: Body::None,
            pending: &[],
            output: &[],
            transfer: None,
            h2: None,
            asked_out: false,
        });
    }
}

impl<'a> Connection<'a> {
    /// Does what can be done now; false when the connection is over.
    fn turn(
        &mut self,
        answers: &'a Answers,
        scratch: &mut [u8],
        poll: &impl std::os::fd::AsFd,
        at: usize,
    ) -> bool {
        if !self.flush() {
            return false;
        }
        // While an answer waits for room, nothing more is read: the client has to take it first.
        if !self.has_output() {
            let n = match self.socket.read(scratch) {
                Ok(0) => return false,
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => 0,
                Err(_) => return false,
            };
            if n > 0 && !(self.take(&scratch[..n], answers) && self.flush()) {
                return false;
            }
        }
        let wants_out = self.has_output();
        if wants_out != self.asked_out {
            self.asked_out = wants_out;
            let flags = if wants_out {
                EventFlags::OUT
            } else {
                EventFlags::IN
            };
            return epoll::modify(poll, &self.socket, EventData::new_u64(at as u64), flags).is_ok();
        }
        true
    }

    fn has_output(&self) -> bool {
        !self.output.is_empty()
            || self.transfer.is_some()
            || self.h2.as_ref().is_some_and(|h2| !h2.output.is_empty())
    }

    fn flush(&mut self) -> bool {
        if let Some(h2) = &mut self.h2 {
            while !h2.output.is_empty() {
                match self.socket.write(&h2.output) {
                    Ok(n) => drop(h2.output.drain(..n)),
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    Err(_) => return false,
                }
            }
        }
        while !self.output.is_empty() {
            match self.socket.write(self.output) {
                Ok(n) => self.output = &self.output[n..],
                Err(e) if e.kind() == ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
        match self.transfer.as_mut().map(|t| t.send(&self.socket)) {
            Some(Ok(true)) => self.transfer = None,
            Some(Err(_)) => return false,
            Some(Ok(false)) | None => {}
        }
        true
    }

    /// Takes bytes of one request (the proxies don't pipeline); false when they make no sense.
    fn take(&mut self, new: &[u8], answers: &'a Answers) -> bool {
        if let Some(h2) = &mut self.h2 {
            return h2.take(new);
        }
        match self.body {
            Body::None => {
                self.input.extend_from_slice(new);
                if self.input.starts_with(&PREFACE[..6]) {
                    return self.h2.insert(Box::new(H2::new())).take(&self.input);
                }
                self.head(answers)
            }
            Body::Length(left) => self.counted(left, new.len() as u64),
            // Small messages always find room; who sends more than is read is none of the bench's.
            Body::Echo => self.socket.write_all(new).is_ok(),
            Body::Chunked => {
                self.input.extend_from_slice(new);
                self.chunked()
            }
        }
    }

    fn head(&mut self, answers: &'a Answers) -> bool {
        let Some(end) = self.input.windows(4).position(|w| w == b"\r\n\r\n") else {
            return self.input.len() < 64 * 1024;
        };
        let mut lines = self.input[..end].split(|b| *b == b'\n');
        let mut words = lines.next().unwrap_or_default().split(|b| *b == b' ');
        let (Some(method), Some(path)) = (words.next(), words.next()) else {
            return false;
        };
        self.pending = answers.to(method, path);
        if method == b"GET" && path == DOWNLOAD.0.as_bytes() {
            self.transfer = Some(Transfer::of(&answers.download));
            // Best effort: without it only the figures are worse.
            let _ = sockopt::set_socket_send_buffer_size(&self.socket, DOWNLOAD_BUFFER);
        }
        let (mut length, mut chunked) = (0, false);
        if method == b"POST" {
            for line in lines {
                let colon = line.iter().position(|b| *b == b':').unwrap_or(line.len());
                let name = &line[..colon];
                if name.eq_ignore_ascii_case(b"content-length") {
                    let value = std::str::from_utf8(line[colon + 1..].trim_ascii());
                    length = value.ok().and_then(|v| v.parse().ok()).unwrap_or(0);
                }
                chunked |= name.eq_ignore_ascii_case(b"transfer-encoding");
            }
        }
        if path == TUNNEL {
            self.answer();
            self.body = Body::Echo;
            return true;
        }
        let have = self.input.len() - end - 4;
        if chunked {
            self.body = Body::Chunked;
            self.input.drain(..end + 4);
            return self.chunked();
        }
        self.input.clear();
        self.counted(length, have as u64)
    }

    fn counted(&mut self, left: u64, have: u64) -> bool {
        match left.checked_sub(have) {
            Some(0) => self.answer(),
            Some(more) => self.body = Body::Length(more),
            None => return false,
        }
        true
    }

    fn chunked(&mut self) -> bool {
        if self.input.ends_with(b"0\r\n\r\n") {
            self.answer();
        } else {
            let surplus = self.input.len().saturating_sub(5);
            self.input.drain(..surplus);
        }
        true
    }

    fn answer(&mut self) {
        self.body = Body::None;
        self.input.clear();
        self.output = std::mem::take(&mut self.pending);
    }
}
