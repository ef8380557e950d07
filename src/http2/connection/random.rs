//! A connection under random frames and random use of its streams. Shared by the property test and the fuzz target.

use std::task::{Context, Poll, Waker};

use super::sent::Sent;
use super::*;
use crate::http2::Indexing;
use crate::http2::frame::FrameHeader;

/// One step of a peer or of our own streams.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A frame with these type, flags, stream and payload.
    Frame(u8, u8, u32, Vec<u8>),
    /// A valid request or response, with or without END_STREAM.
    Head(u32, bool),
    /// Use of the stream at this place among those that are held.
    Send(usize, usize),
    Finish(usize),
    Answer(usize, u16, bool),
    Read(usize),
    Reset(usize),
    Drop(usize),
    /// The transport accepts this many bytes of output.
    Write(usize),
    Stall(bool),
    Open(bool),
    Window(u32),
    ShutDown,
}

/// A stream, and how far our side of it has come.
struct Held {
    stream: StreamHandle,
    has_head: bool,
    has_ended: bool,
}

impl Held {
    fn new(stream: StreamHandle, has_head: bool, has_ended: bool) -> Self {
        Self {
            stream,
            has_head,
            has_ended,
        }
    }
}

/// The stream at this place, counted around.
fn at(held: &mut [Held], n: usize) -> Option<&mut Held> {
    let count = held.len().max(1);
    held.get_mut(n % count)
}

fn check(core: &Core) {
    let open = core.streams.iter().filter(|(_, s)| !s.closed).count();
    assert_eq!((core.open, core.ids.len()), (open, open));
    let granted: usize = core.streams.iter().map(|(_, s)| s.granted).sum();
    assert_eq!(core.granted, granted);
    let queued = core.streams.iter().filter(|(_, s)| s.queued).count();
    assert_eq!(core.blocked.len(), queued);
    for (key, stream) in &core.streams {
        assert!(!stream.closed || (stream.granted == 0 && !stream.queued));
        assert!(stream.closed || core.key(stream.id) == Some(key));
    }
}

fn head(role: Role, encoder: &mut Encoder, stream: u32, end: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let at = frame::start_headers(&mut bytes);
    encoder.begin(&mut bytes);
    let fields: &[(&str, &str)] = match role {
        Role::Server => REQUEST,
        Role::Client => &[(":status", "200")],
    };
    for (name, value) in fields {
        encoder.put(
            &mut bytes,
            name.as_bytes(),
            value.as_bytes(),
            Indexing::Incremental,
        );
    }
    frame::finish_headers(&mut bytes, at, stream, end, 16_384);
    bytes
}

const REQUEST: &[(&str, &str)] = &[
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "a"),
    (":path", "/"),
];

/// Frames of the peer, as they were cut by the transport.
struct Feed {
    input: Vec<u8>,
    piece: usize,
}

impl Feed {
    fn receive(&mut self, connection: &Connection, bytes: &[u8]) {
        for part in bytes.chunks(self.piece) {
            self.input.extend_from_slice(part);
            let used = connection.core().receive(&self.input, 0);
            self.input.drain(..used);
        }
    }
}

/// Writes at most `most` bytes of output.
fn write(connection: &Connection, sent: &mut Sent, most: usize) {
    let mut core = connection.core();
    let n = most.min(core.output().len());
    sent.wrote(&core.output()[..n]);
    core.wrote(n);
}

/// Takes all steps, with input in pieces of this many bytes.
///
/// # Panics
/// An invariant of the connection doesn't hold, or what it has sent is invalid.
pub(super) fn run(role: Role, steps: impl IntoIterator<Item = Step>, piece: usize) {
    let limits = BlockLimits {
        bytes: 4_096,
        fields: 20,
    };
    let config = Config {
        stream_window: 8_192,
        connection_window: 100_000,
        max_streams: 4,
        extended_connect: false,
        header_list: 8_192,
        head: limits,
        trailers: limits,
    };
    let (connection, sender) = match role {
        Role::Server => (Connection::server(config, 0), None),
        Role::Client => {
            let (connection, sender) = Connection::client(config);
            (connection, Some(sender))
        }
    };
    let mut feed = Feed {
        input: Vec::new(),
        piece,
    };
    let mut sent = Sent::new(role);
    if role == Role::Server {
        feed.receive(&connection, PREFACE);
    }
    feed.receive(&connection, &[0, 0, 0, 4, 0, 0, 0, 0, 0]);
    let mut encoder = Encoder::new();
    let mut held: Vec<Held> = Vec::new();
    let cx = Context::from_waker(Waker::noop());
    for step in steps {
        match step {
            Step::Frame(kind, flags, stream, payload) => {
                let mut bytes = Vec::new();
                let header = FrameHeader {
                    len: payload.len(),
                    kind,
                    flags,
                    stream,
                };
                sent.peer_sent(&header, &payload);
                header.put(&mut bytes);
                bytes.extend(payload);
                feed.receive(&connection, &bytes);
            }
            Step::Head(stream, end) => {
                let bytes = head(role, &mut encoder, stream, end);
                feed.receive(&connection, &bytes);
            }
            Step::Send(n, len) => {
                if let Some(held) = at(&mut held, n).filter(|held| held.has_head && !held.has_ended)
                {
                    let polled = held.stream.poll_send(&cx, &vec![7; len.max(1)]);
                    if let Poll::Ready(Ok(taken)) = polled {
                        assert!((1..=len.max(1)).contains(&taken));
                    }
                }
            }
            Step::Finish(n) => {
                if let Some(held) = at(&mut held, n).filter(|held| held.has_head && !held.has_ended)
                {
                    held.has_ended = held.stream.finish().is_ok();
                }
            }
            Step::Answer(n, number, end) => {
                if let Some(held) = at(&mut held, n).filter(|held| !held.has_ended) {
                    send_head(held, number, end);
                }
            }
            Step::Read(n) => {
                let mut data = Vec::new();
                if let Some(Held { stream, .. }) = at(&mut held, n) {
                    if let Poll::Ready(Ok(head)) = stream.poll_response(&cx) {
                        stream.recycle(head);
                    }
                    if let Poll::Ready(Ok(true)) = stream.poll_data(&cx, &mut data) {
                        stream.release(data.len());
                    }
                }
            }
            Step::Reset(n) => {
                let _ = at(&mut held, n).map(|held| held.stream.reset(ErrorCode::CANCEL));
            }
            Step::Drop(n) if !held.is_empty() => drop(held.swap_remove(n % held.len())),
            Step::Write(n) => write(&connection, &mut sent, n),
            Step::Stall(is_stalled) => connection.core().set_stalled(is_stalled),
            Step::Open(end) => match &sender {
                Some(sender) => {
                    let opened = sender.send_request(end, RequestKind::Ordinary, |head| {
                        for (name, value) in REQUEST {
                            head.put(name.as_bytes(), value.as_bytes(), Indexing::Incremental);
                        }
                    });
                    held.extend(opened.map(|stream| Held::new(stream, true, end)));
                }
                None => {
                    let accepted = connection.accept();
                    held.extend(accepted.map(|i| Held::new(i.stream, false, false)));
                }
            },
            Step::Window(window) => {
                let _ = connection.core().set_stream_window(window);
            }
            Step::ShutDown if role == Role::Server => connection.core().shut_down(),
            Step::Drop(_) | Step::ShutDown => {}
        }
        check(&connection.core());
    }
    drop(held);
    drop(sender);
    check(&connection.core());
    write(&connection, &mut sent, usize::MAX);
    connection
        .core()
        .transport_failed(io::ErrorKind::BrokenPipe);
    assert!(connection.core().streams.is_empty());
}

/// The next head of our side: informational, final, or trailers. `number` chooses its field.
fn send_head(held: &mut Held, number: u16, end: bool) {
    let is_informational = !held.has_head && number.is_multiple_of(4);
    let ends = !is_informational && (end || held.has_head);
    let written = held.stream.send_head(ends, |head| {
        match (held.has_head, is_informational) {
            (true, _) => {}
            (false, true) => head.status(103),
            (false, false) => head.status(200 + number % 4),
        }
        let name = [b'x', b'-', b'a' + (number / 4 % 16) as u8];
        let value = [b'v'; 700];
        let how = [
            Indexing::Incremental,
            Indexing::Incremental,
            Indexing::Without,
            Indexing::Never,
        ];
        head.put(
            &name,
            &value[..usize::from(number) % value.len()],
            how[usize::from(number / 64) % 4],
        );
    });
    if written.is_ok() {
        held.has_head |= !is_informational;
        held.has_ended |= ends;
    }
}

/// Any bytes as steps on a connection, of which the first one says what kind.
pub(super) fn fuzz(data: &[u8]) {
    let mut bytes = Bytes(data);
    let first = bytes.byte();
    let role = match first & 1 {
        0 => Role::Server,
        _ => Role::Client,
    };
    let piece = [1, 7, 100, usize::MAX][usize::from(first / 2 % 4)];
    run(role, std::iter::from_fn(|| bytes.step()), piece);
}

/// Reads steps from bytes.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        match self.0.split_off_first() {
            Some(byte) => *byte,
            None => 0,
        }
    }

    fn number(&mut self) -> usize {
        usize::from(u16::from_be_bytes([self.byte(), self.byte()]))
    }

    fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// A stream that may exist, or any other one.
    fn stream(&mut self) -> u32 {
        match self.byte() {
            n @ 0..200 => u32::from(n % 32),
            n => u32::from(n) << 23,
        }
    }

    fn payload(&mut self) -> Vec<u8> {
        let len = match self.byte() {
            n @ 0..224 => usize::from(n),
            // Longer than any input needs to be, and than a frame may be.
            n => return vec![n; usize::from(n - 223) * 1_024],
        };
        let (payload, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        payload.to_vec()
    }

    fn step(&mut self) -> Option<Step> {
        let kind = *self.0.split_off_first()?;
        let n = usize::from(kind / 16);
        Some(match kind % 16 {
            0 | 1 => Step::Frame(self.byte(), self.byte(), self.stream(), self.payload()),
            2 => Step::Frame(kind / 16, self.byte(), self.stream(), self.payload()),
            3 | 4 => Step::Head(self.stream(), self.flag()),
            5 => Step::Send(n, self.number()),
            6 => Step::Finish(n),
            7 => Step::Answer(n, self.number() as u16, self.flag()),
            8 => Step::Read(n),
            9 => Step::Reset(n),
            10 => Step::Drop(n),
            11 => Step::Write(self.number()),
            12 => Step::Stall(n % 2 == 0),
            13 => Step::Open(n % 4 == 0),
            14 => Step::Window(self.number() as u32 + 1),
            _ => match n {
                0 => Step::ShutDown,
                _ => Step::Write(usize::MAX),
            },
        })
    }
}
