//! One HTTP/2 connection, as server or client, without I/O (RFC 9113).
//!
//! A driver owns the transport: it passes what was read to [`Core::receive`] and writes [`Core::output`]. Streams are used
//! through a [`StreamHandle`] each, by tasks of the same thread; what they send is encoded straight into the output buffer, and
//! the driver is woken once to write it. [`receive`] handles incoming frames, [`heads`] header blocks, [`output`] what is sent
//! and flow control towards the peer, [`handle`] is the interface for streams, and [`budget`] limits frames without work.
//!
//! What RFC 9113 calls a stream error resets that stream only; other errors end the connection with GOAWAY.

mod budget;
mod closed;
#[cfg(test)]
mod error_tests;
#[cfg(fuzzing)]
mod fuzzed;
mod handle;
mod heads;
#[cfg(test)]
mod oracle_tests;
mod output;
#[cfg(any(test, fuzzing))]
mod random;
#[cfg(test)]
mod random_tests;
mod receive;
#[cfg(any(test, fuzzing))]
mod sent;
mod stream;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tunnel_tests;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::task::Waker;

use slab::Slab;

use self::budget::FloodBudget;
use self::closed::ClosedStreams;
use self::receive::{DataPayload, OpenBlock};
use self::stream::Stream;
use super::frame::{self, PREFACE, setting};
use super::{BlockLimits, Decoder, Encoder, ErrorCode, HeadBlock};
use crate::http1::Reject;

#[cfg(fuzzing)]
pub use self::fuzzed::{Request, fuzz, requests};
pub(crate) use self::handle::{
    Connection, HeadWriter, Incoming, RequestKind, Sender, StreamHandle,
};
pub(crate) use self::stream::StreamError;

/// Window of a connection and initial window of its streams before any SETTINGS (RFC 9113 §6.9.2).
const DEFAULT_WINDOW: u32 = 65_535;
/// Unused head blocks that are kept for later streams, and the most bytes of each.
const SPARE_HEADS: usize = 64;
const SPARE_HEAD_BYTES: usize = 4 * 1024;
/// Malformed requests that are remembered until the driver takes them.
const MALFORMED_REMEMBERED: usize = 64;
/// Streams that a client may open before the server's limit is known (RFC 9113 §6.5.2 recommends that the limit is no smaller).
const FIRST_STREAMS: usize = 100;
/// Identifies the PING of a graceful shutdown.
const SHUTDOWN_PING: [u8; 8] = *b"shutdown";
/// The highest stream identifier.
const LAST_ID: u32 = 0x7fff_ffff;

/// Which side of the connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Accepts streams.
    Server,
    /// Opens streams.
    Client,
}

/// Settings and limits of our side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    /// Initial receive window of a stream.
    pub(crate) stream_window: u32,
    /// Receive window of the connection.
    pub(crate) connection_window: u32,
    /// Most concurrent streams that the peer may open.
    pub(crate) max_streams: u32,
    /// Whether a server accepts extended CONNECT, and announces it (RFC 8441 §3).
    pub(crate) extended_connect: bool,
    /// SETTINGS_MAX_HEADER_LIST_SIZE.
    pub(crate) header_list: u32,
    /// Limits on heads.
    pub(crate) head: BlockLimits,
    /// Limits on trailers.
    pub(crate) trailers: BlockLimits,
}

/// How far the end of a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// The end has not begun: new streams are accepted.
    No,
    /// The first GOAWAY of a graceful shutdown was sent: streams on their way are still accepted (RFC 9113 §6.8).
    Announced,
    /// The last GOAWAY was sent, with this identifier; or, by a client, none is opened any more.
    Final(u32),
    /// The connection has failed or was closed. Streams have been told.
    Over,
}

/// The hasher of stream identifiers, which are distinct numbers already.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {}
    fn write_u32(&mut self, id: u32) {
        self.0 = u64::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// The state of a connection, which its [`Connection`], the handles of its streams and a client's [`Sender`]s share. They borrow it
/// only within a call, during which wakers may be called. A stream is in `streams` until its handle is dropped, and in `ids` until
/// it is closed.
#[derive(Debug)]
pub(crate) struct Core {
    role: Role,
    config: Config,
    /// Wakes the driver.
    driver: Waker,
    /// The driver was woken, or is running, and will look at everything.
    awake: bool,
    budget: FloodBudget,

    decoder: Decoder,
    encoder: Encoder,
    /// Bytes of the peer's preface still to come.
    preface_left: usize,
    /// The peer's SETTINGS, which have to be its first frame, have arrived.
    has_settings: bool,
    /// The header block that is continued by the next frame, and its fragments.
    block: Option<OpenBlock>,
    fragments: Vec<u8>,
    /// The DATA frame whose payload is arriving.
    payload: Option<DataPayload>,
    /// Bytes to skip before the next frame header.
    skip: usize,

    streams: Slab<Stream>,
    ids: HashMap<u32, u32, BuildHasherDefault<IdHasher>>,
    /// The highest identifier of a stream that the client has opened.
    newest: u32,
    /// Streams that were not accepted yet.
    unaccepted: VecDeque<(usize, Box<HeadBlock>)>,
    /// Malformed requests whose streams were reset, for the record.
    malformed: VecDeque<(Box<HeadBlock>, Reject)>,
    /// Streams that the protocol counts as open.
    open: usize,
    closed: ClosedStreams,
    #[expect(clippy::vec_box, reason = "each is handed out in its box")]
    spare_heads: Vec<Box<HeadBlock>>,
    /// Number of live [`Sender`]s of a client.
    senders: usize,
    ending: Ending,
    /// The error that ended the connection.
    error: Option<StreamError>,

    receive_window: i64,
    unannounced: usize,
    /// The receive window of new streams, and what it becomes once the peer has acknowledged our last settings: until then the
    /// peer may still use the larger one.
    stream_window: u32,
    awaited_window: Option<u32>,
    /// The last SETTINGS_INITIAL_WINDOW_SIZE.
    announced_window: u32,
    awaited_settings: usize,

    peer_window: u32,
    peer_frame: usize,
    peer_streams: Option<u32>,
    /// The peer, a server, accepts extended CONNECT (RFC 8441 §3).
    peer_connect: bool,
    /// Tasks that wait for the peer's first settings.
    settings_wakers: Vec<Waker>,
    send_window: i64,

    out: Vec<u8>,
    /// How much of `out` was written.
    written: usize,
    /// Position in the stream of all output of the first byte of `out`.
    out_start: u64,
    /// The transport takes no more output at the moment.
    is_stalled: bool,
    /// The sum of the streams' grants.
    granted: usize,
    /// Streams that wait for room or for the connection's window, in order.
    blocked: VecDeque<usize>,
}

impl Core {
    fn new(role: Role, config: Config, now_ms: u64) -> Self {
        let mut core = Self {
            role,
            config,
            driver: Waker::noop().clone(),
            awake: true,
            budget: FloodBudget::new(now_ms),
            decoder: Decoder::new(),
            encoder: Encoder::new(),
            preface_left: match role {
                Role::Server => PREFACE.len(),
                Role::Client => 0,
            },
            has_settings: false,
            block: None,
            fragments: Vec::new(),
            payload: None,
            skip: 0,
            streams: Slab::new(),
            ids: HashMap::default(),
            newest: 0,
            unaccepted: VecDeque::new(),
            malformed: VecDeque::new(),
            open: 0,
            closed: ClosedStreams::default(),
            spare_heads: Vec::new(),
            senders: 0,
            ending: Ending::No,
            error: None,
            receive_window: DEFAULT_WINDOW.max(config.connection_window).into(),
            unannounced: 0,
            stream_window: DEFAULT_WINDOW.max(config.stream_window),
            awaited_window: (config.stream_window < DEFAULT_WINDOW).then_some(config.stream_window),
            announced_window: config.stream_window,
            awaited_settings: 1,
            peer_window: DEFAULT_WINDOW,
            peer_frame: frame::DEFAULT_MAX_FRAME,
            peer_streams: None,
            peer_connect: false,
            settings_wakers: Vec::new(),
            send_window: DEFAULT_WINDOW.into(),
            out: Vec::new(),
            written: 0,
            out_start: 0,
            is_stalled: false,
            granted: 0,
            blocked: VecDeque::new(),
        };
        core.put_preface();
        core
    }

    /// Our preface: SETTINGS, and the window of the connection (RFC 9113 §3.4).
    fn put_preface(&mut self) {
        let config = self.config;
        let (out, window) = (
            &mut self.out,
            (setting::INITIAL_WINDOW_SIZE, config.stream_window),
        );
        let list = (setting::MAX_HEADER_LIST_SIZE, config.header_list);
        match self.role {
            Role::Server => {
                let streams = (setting::MAX_CONCURRENT_STREAMS, config.max_streams);
                let connect = (setting::ENABLE_CONNECT_PROTOCOL, 1);
                let settings = [streams, window, list, connect];
                let announced = 3 + usize::from(config.extended_connect);
                frame::put_settings(out, &settings[..announced]);
            }
            Role::Client => {
                out.extend_from_slice(PREFACE);
                frame::put_settings(out, &[(setting::ENABLE_PUSH, 0), window, list]);
            }
        }
        if let Some(more) = config.connection_window.checked_sub(DEFAULT_WINDOW)
            && more > 0
        {
            frame::put_window_update(out, 0, more);
        }
    }

    /// Wakes the driver, unless it will run anyway.
    fn notify(&mut self) {
        if !self.awake {
            self.awake = true;
            self.driver.wake_by_ref();
        }
    }

    fn key(&self, id: u32) -> Option<usize> {
        self.ids.get(&id).map(|key| *key as usize)
    }

    fn add(&mut self, id: u32) -> usize {
        let stream = Stream::new(id, self.stream_window, self.peer_window);
        let key = self.streams.insert(stream);
        // There are never as many streams as that: both sides have limits.
        self.ids.insert(id, key as u32);
        self.open += 1;
        key
    }

    /// Both sides have ended, or the stream was reset: it no longer counts as open.
    fn close(&mut self, key: usize) {
        let stream = &mut self.streams[key];
        if !stream.closed {
            stream.closed = true;
            self.ids.remove(&stream.id);
            self.open -= 1;
            self.release_grant(key);
            if let Some(payload) = &mut self.payload
                && payload.key == Some(key)
            {
                payload.key = None;
            }
            self.finish_if_idle();
        }
    }

    /// Forgets a closed stream. Its unread data no longer occupies the window.
    fn remove(&mut self, key: usize) {
        let stream = self.streams.remove(key);
        debug_assert!(stream.closed && !stream.queued);
        let heads = stream.heads.into_iter().chain(stream.trailers);
        heads.for_each(|head| self.recycle(head));
        if stream.unreleased > 0 {
            self.release_connection(stream.unreleased);
        }
        self.finish_if_idle();
    }

    /// Ends a stream with RST_STREAM.
    fn reset(&mut self, key: usize, code: ErrorCode, error: StreamError) {
        let stream = &mut self.streams[key];
        if stream.closed {
            return;
        }
        stream.error = Some(error);
        stream.wake_all();
        let id = stream.id;
        self.put_reset(id, code);
        self.close(key);
    }

    /// Queues RST_STREAM for a stream that may be unknown.
    fn put_reset(&mut self, id: u32, code: ErrorCode) {
        if self.role == Role::Server {
            if code == ErrorCode::REFUSED_STREAM {
                self.budget.refused();
            } else if budget::is_provoked(code) {
                self.budget.provoked(id);
            }
        }
        self.closed.add_reset(id);
        frame::put_reset(&mut self.out, id, code);
        self.notify();
    }

    /// A block to decode a head into.
    fn spare_head(&mut self) -> Box<HeadBlock> {
        self.spare_heads.pop().unwrap_or_default()
    }

    /// Keeps the memory of a head for later streams.
    pub(crate) fn recycle(&mut self, head: Box<HeadBlock>) {
        if self.spare_heads.len() < SPARE_HEADS && head.bytes.capacity() <= SPARE_HEAD_BYTES {
            self.spare_heads.push(head);
        }
    }

    /// Frees memory that only streams need, if there are none.
    pub(crate) fn release_memory(&mut self) {
        if self.streams.is_empty() {
            self.streams = Slab::new();
            self.ids = HashMap::default();
            self.unaccepted = VecDeque::new();
            self.blocked = VecDeque::new();
            self.spare_heads = Vec::new();
            self.malformed = VecDeque::new();
            self.closed.shrink();
        }
    }

    /// Ends the connection because of an error.
    fn fail(&mut self, code: ErrorCode) {
        if self.ending != Ending::Over {
            // The last stream of the peer; a server opens none.
            let last = match self.role {
                Role::Server => self.newest,
                Role::Client => 0,
            };
            frame::put_go_away(&mut self.out, last, code, &[]);
            self.end(StreamError::Connection(code));
        }
    }

    /// Tells all streams that the connection is over.
    fn end(&mut self, error: StreamError) {
        if self.ending == Ending::Over {
            return;
        }
        self.ending = Ending::Over;
        self.error = Some(error);
        self.payload = None;
        self.wake_settings();
        for (key, head) in std::mem::take(&mut self.unaccepted) {
            self.recycle(head);
            self.streams[key].error = Some(error);
            self.close(key);
            self.remove(key);
        }
        let keys: Vec<_> = self.streams.iter().map(|(key, _)| key).collect();
        for key in keys {
            let stream = &mut self.streams[key];
            if !stream.closed {
                stream.error = Some(error);
                stream.wake_all();
                self.close(key);
            }
        }
        self.notify();
    }

    /// Wakes the tasks that wait for the peer's settings.
    fn wake_settings(&mut self) {
        std::mem::take(&mut self.settings_wakers)
            .into_iter()
            .for_each(Waker::wake);
    }

    /// A connection that accepts or opens no more streams is over when its last one has ended.
    fn finish_if_idle(&mut self) {
        let Ending::Final(_) = self.ending else {
            return;
        };
        if self.open == 0 && self.unaccepted.is_empty() {
            self.end(StreamError::Io(io::ErrorKind::NotConnected));
        }
    }

    /// The last GOAWAY of a graceful shutdown.
    fn put_last_goaway(&mut self) {
        frame::put_go_away(&mut self.out, self.newest, ErrorCode::NO_ERROR, &[]);
        self.ending = Ending::Final(self.newest);
        self.finish_if_idle();
        self.notify();
    }

    /// Returns released bytes to the peer once they are half of a window (RFC 9113 §6.9).
    fn release(&mut self, key: usize, bytes: usize) {
        self.streams[key].unannounced += bytes;
        self.announce(key);
        self.release_connection(bytes);
    }

    /// Announces what was released of a stream's window, if it is at least half of one.
    fn announce(&mut self, key: usize) {
        // At least a byte, since an increment of 0 is an error.
        let half = (self.announced_window as usize / 2).max(1);
        let stream = &mut self.streams[key];
        if stream.unannounced >= half && !stream.receive_ended && !stream.closed {
            let more = std::mem::take(&mut stream.unannounced);
            stream.receive_window += more as i64;
            frame::put_window_update(&mut self.out, stream.id, more as u32);
            self.notify();
        }
    }

    fn release_connection(&mut self, bytes: usize) {
        self.unannounced += bytes;
        self.announce_connection();
    }

    /// Announces what was released of the connection's window, if it is at least half of what the peer has left.
    ///
    /// Half of the whole window would be too much: data of streams that wait may occupy more than the other half, and the peer
    /// could send nothing on the streams that these wait for.
    fn announce_connection(&mut self) {
        let is_due = self.unannounced as i64 * 2 >= self.receive_window;
        if self.unannounced > 0 && is_due && self.ending != Ending::Over {
            let more = std::mem::take(&mut self.unannounced);
            self.receive_window += more as i64;
            frame::put_window_update(&mut self.out, 0, more as u32);
            self.notify();
        }
    }

    /// Changes the receive window of all streams by a difference.
    fn shift_receive_windows(&mut self, from: u32, to: u32) {
        let by = i64::from(to) - i64::from(from);
        for (_, stream) in &mut self.streams {
            stream.receive_window += by;
        }
    }
}
