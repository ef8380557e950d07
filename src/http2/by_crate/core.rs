//! A connection as its driver sees it.

use std::cell::{RefCell, RefMut};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client::SendRequest;

use super::engine::{Accepted, Engine};
use super::frame_scanner::FrameScanner;
use super::pipe::Pipe;
use super::stream::{Owner, StreamHandle};
use super::{errors, head};
use crate::http1::Reject;
use crate::http2::{Config, ErrorCode, HeadBlock, StreamError};

/// Most bytes that wait to be written. The crate keeps the rest.
const OUTPUT: usize = 64 * 1024;
/// Malformed requests that are remembered until the driver takes them.
const MALFORMED_REMEMBERED: usize = 64;

/// A connection as its driver sees it. Dropping it ends the connection for all streams.
#[derive(Debug)]
pub(crate) struct Connection(Rc<RefCell<Core>>);

/// A stream that a client has opened.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// The stream.
    pub(crate) stream: StreamHandle,
    /// The request head.
    pub(crate) head: Box<HeadBlock>,
    /// Whether the request has ended without content.
    pub(crate) ended: bool,
}

/// The state of a connection, which its [`Connection`] and a client's senders share. Streams do without: they use the crate.
///
/// The crate's connection is polled in place, with the waker of the driver, after each change: it then reads its input from the
/// pipe and writes its output there.
#[derive(Debug)]
pub(crate) struct Core {
    config: Config,
    engine: Engine,
    pipe: Pipe,
    scanner: FrameScanner,
    /// Wakes the driver.
    driver: Waker,
    out: Vec<u8>,
    /// How much of `out` was written.
    written: usize,
    /// Opens streams, as long as there are senders.
    requests: Option<SendRequest<Bytes>>,
    /// Number of live senders of a client.
    pub(super) senders: usize,
    /// Tasks that wait for the peer's first settings.
    settings_wakers: Vec<Waker>,
    /// Malformed requests whose streams were reset, for the record.
    malformed: VecDeque<(Box<HeadBlock>, Reject)>,
    shuts_down: bool,
    /// The error that ended the connection.
    error: Option<StreamError>,
}

impl Connection {
    /// The server's side of a new connection.
    pub(crate) fn server(config: Config, _now_ms: u64) -> Self {
        let pipe = Pipe::default();
        let engine = Engine::server(&config, pipe.clone());
        let mut core = Core::new(config, engine, pipe, FrameScanner::of_client());
        core.advance();
        Self(Rc::new(RefCell::new(core)))
    }

    /// The client's side of a new connection, whose senders share the state that is returned.
    pub(super) fn new_client(config: Config) -> (Self, Rc<RefCell<Core>>) {
        let pipe = Pipe::default();
        pipe.set_room(OUTPUT);
        let (engine, requests) = match Engine::client(&config, pipe.clone()) {
            Some((engine, requests)) => (engine, Some(requests)),
            None => (Engine::Over, None),
        };
        let mut core = Core::new(config, engine, pipe, FrameScanner::of_server());
        core.requests = requests;
        core.senders = 1;
        if core.requests.is_none() {
            core.end(StreamError::Connection(ErrorCode::INTERNAL_ERROR));
        }
        let core = Rc::new(RefCell::new(core));
        (Self(core.clone()), core)
    }

    /// The state, for receiving and sending.
    pub(crate) fn core(&self) -> RefMut<'_, Core> {
        self.0.borrow_mut()
    }

    /// Sets the waker of the driver.
    pub(crate) fn set_driver(&self, waker: &Waker) {
        let mut core = self.core();
        if !core.driver.will_wake(waker) {
            core.driver.clone_from(waker);
            // The crate keeps the waker that it was polled with last.
            core.advance();
        }
    }

    /// The next stream that the client has opened.
    pub(crate) fn accept(&self) -> Option<Incoming> {
        self.core().accept(&self.0)
    }
}

impl Owner for RefCell<Core> {
    fn collect_output(&self) {
        // Borrowed only while it drops a stream that was never handed out.
        if let Ok(mut core) = self.try_borrow_mut() {
            core.advance();
        }
    }
}

impl Core {
    fn new(config: Config, engine: Engine, pipe: Pipe, scanner: FrameScanner) -> Self {
        Self {
            config,
            engine,
            pipe,
            scanner,
            driver: Waker::noop().clone(),
            out: Vec::new(),
            written: 0,
            requests: None,
            senders: 0,
            settings_wakers: Vec::new(),
            malformed: VecDeque::new(),
            shuts_down: false,
            error: None,
        }
    }

    /// Polls the crate's connection.
    fn advance(&mut self) {
        if self.is_over() {
            return;
        }
        let driver = self.prepare();
        let cx = &mut Context::from_waker(&driver);
        let polled = self.engine.poll(cx, self.shuts_down);
        self.pipe.take_output(&mut self.out);
        if let Poll::Ready(ended) = polled {
            self.ended(ended);
        }
    }

    /// Makes room for output. Returns the waker to poll with.
    fn prepare(&mut self) -> Waker {
        let room = OUTPUT.saturating_sub(self.output().len());
        self.pipe.set_room(room);
        self.driver.clone()
    }

    /// The crate's connection is over.
    fn ended(&mut self, result: Result<(), h2::Error>) {
        self.end(match result {
            Ok(()) => StreamError::Io(io::ErrorKind::NotConnected),
            Err(error) => errors::of_connection(&error),
        });
    }

    /// Ends the connection. Dropping the crate's tells its streams.
    fn end(&mut self, error: StreamError) {
        self.error.get_or_insert(error);
        self.engine = Engine::Over;
        self.requests = None;
        self.wake_settings();
        self.driver.wake_by_ref();
    }

    fn accept(&mut self, shared: &Rc<RefCell<Self>>) -> Option<Incoming> {
        while !self.is_over() {
            let driver = self.prepare();
            let polled = self.engine.poll_accept(&mut Context::from_waker(&driver));
            self.pipe.take_output(&mut self.out);
            match polled {
                Poll::Ready(Some(Ok(accepted))) => {
                    if let Some(incoming) = self.admit(accepted, shared) {
                        return Some(incoming);
                    }
                }
                Poll::Ready(Some(Err(error))) => self.ended(Err(error)),
                Poll::Ready(None) => self.ended(Ok(())),
                Poll::Pending => return None,
            }
        }
        None
    }

    /// A request's stream, unless its head is malformed in a way that isn't answered.
    fn admit(
        &mut self,
        (request, response): Accepted,
        shared: &Rc<RefCell<Self>>,
    ) -> Option<Incoming> {
        let flags = (self.config.extended_connect, request.body().is_end_stream());
        let head = head::of_request(&request, flags, &self.config.head);
        let stream = StreamHandle::accepted(
            request.into_body(),
            response,
            head.protocol().is_some(),
            &self.config,
            shared.clone(),
        );
        let defect = head.malformed.filter(|defect| !defect.is_answered());
        if let Some(defect) = defect {
            stream.reset(ErrorCode::PROTOCOL_ERROR);
            if self.malformed.len() < MALFORMED_REMEMBERED {
                self.malformed.push_back((head, defect.reject()));
            }
            return None;
        }
        let ended = stream.is_over();
        Some(Incoming {
            stream,
            head,
            ended,
        })
    }

    /// Handles what was received, all of it.
    pub(crate) fn receive(&mut self, input: &[u8], _now_ms: u64) -> usize {
        if !self.is_over() {
            self.scanner.scan(input);
            self.pipe.receive(input);
            self.advance();
            if self.scanner.has_settings() {
                self.wake_settings();
            }
        }
        input.len()
    }

    /// Wakes the tasks that wait for the peer's settings.
    fn wake_settings(&mut self) {
        std::mem::take(&mut self.settings_wakers)
            .into_iter()
            .for_each(Waker::wake);
    }

    /// Whether the peer has sent only a part of a frame or of a header block.
    pub(crate) fn is_mid_frame(&self) -> bool {
        self.scanner.is_mid_frame()
    }

    /// The transport ended, or failed.
    pub(crate) fn transport_failed(&mut self, kind: io::ErrorKind) {
        if !self.is_over() {
            self.pipe.fail(kind);
            self.advance();
            self.end(StreamError::Io(kind));
        }
    }

    /// Bytes that wait to be written.
    pub(crate) fn output(&self) -> &[u8] {
        &self.out[self.written..]
    }

    /// The first `n` bytes of [`Self::output`] were written.
    pub(crate) fn wrote(&mut self, n: usize) {
        self.written += n;
        if self.written > self.out.len() / 2 {
            self.out.drain(..self.written);
            self.written = 0;
        }
        if self.pipe.is_blocked() {
            self.advance();
        }
    }

    /// Does nothing: the crate writes into memory of its own.
    pub(crate) fn lend_output(&mut self, _take: impl FnOnce() -> Vec<u8>) {}

    /// Nothing was lent.
    pub(crate) fn reclaim_output(&mut self) -> Option<Vec<u8>> {
        None
    }

    /// Whether nothing more is to be read, because the crate has not read all of it.
    pub(crate) fn is_congested(&self) -> bool {
        !self.is_over() && self.pipe.has_input()
    }

    /// Does nothing: how much output may wait is always the same.
    pub(crate) fn set_stalled(&mut self, _is_stalled: bool) {}

    /// The next malformed request whose stream was reset, and why.
    pub(crate) fn take_malformed(&mut self) -> Option<(Box<HeadBlock>, Reject)> {
        self.malformed.pop_front()
    }

    /// The driver is going to wait. The crate wakes it.
    pub(crate) fn sleep(&mut self) {}

    /// The driver runs: it finds what streams have sent since.
    pub(crate) fn awaken(&mut self) {
        self.advance();
    }

    /// Whether the peer's preface has arrived.
    pub(crate) fn has_begun(&self) -> bool {
        self.scanner.has_preface()
    }

    /// Whether the peer has sent or provoked resets, which isn't known.
    pub(crate) fn has_resets(&self) -> bool {
        true
    }

    /// Whether the connection is over; what is in the output buffer should still be written.
    pub(crate) fn is_over(&self) -> bool {
        self.error.is_some()
    }

    /// The error that ended the connection.
    pub(crate) fn error(&self) -> Option<StreamError> {
        self.error
    }

    /// Announces another initial window for streams. `false` if the peer has yet to acknowledge earlier settings.
    pub(crate) fn set_stream_window(&mut self, window: u32) -> bool {
        let is_announced = self.engine.set_stream_window(window);
        if is_announced {
            self.advance();
        }
        is_announced
    }

    /// Begins a graceful shutdown. Streams on their way to us are still served (RFC 9113 §6.8).
    pub(crate) fn shut_down(&mut self) {
        if !std::mem::replace(&mut self.shuts_down, true) {
            self.engine.shut_down();
            self.advance();
        }
    }

    /// Frees a head.
    pub(crate) fn recycle(&mut self, head: Box<HeadBlock>) {
        drop(head);
    }

    /// Does nothing: the memory is the crate's.
    pub(crate) fn release_memory(&mut self) {}

    /// How many streams a client may have open at a time.
    pub(crate) fn most_streams(&self) -> usize {
        self.requests
            .as_ref()
            .map_or(0, SendRequest::current_max_send_streams)
    }

    /// The side of the crate that opens streams; `None` once the connection is over or has no senders.
    pub(super) fn requests(&self) -> Option<SendRequest<Bytes>> {
        self.requests.clone()
    }

    /// Whether the peer has announced that it accepts extended CONNECT.
    pub(super) fn allows_connect(&self) -> bool {
        self.requests
            .as_ref()
            .is_some_and(SendRequest::is_extended_connect_protocol_enabled)
    }

    /// Waits for the peer's settings.
    pub(super) fn poll_settings(&mut self, cx: &Context<'_>) -> Poll<Result<(), StreamError>> {
        if let Some(error) = self.error {
            return Poll::Ready(Err(error));
        }
        if self.scanner.has_settings() {
            return Poll::Ready(Ok(()));
        }
        let is_known = |known: &Waker| known.will_wake(cx.waker());
        if !self.settings_wakers.iter().any(is_known) {
            self.settings_wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// The limits and settings of our side.
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// The last sender is gone: the connection ends after its streams.
    pub(super) fn close_sending(&mut self) {
        self.requests = None;
    }
}

impl Drop for Connection {
    /// The driver is gone: streams learn that.
    fn drop(&mut self) {
        self.core().transport_failed(io::ErrorKind::BrokenPipe);
    }
}
