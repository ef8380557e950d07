//! The interface of a connection for drivers and streams.

use std::cell::{RefCell, RefMut};
use std::fmt;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::closed::next_id;
use super::stream::interest;
use super::{Config, Core, Ending, FIRST_STREAMS, LAST_ID, Role, SHUTDOWN_PING, StreamError};
use crate::http1::Reject;
use crate::http2::frame::{self, setting};
use crate::http2::{Encoder, ErrorCode, HeadBlock, Indexing};

/// Initial capacity of the output buffer if the driver hasn't lent one.
const OUTPUT: usize = 4 * 1024;

/// A connection as its driver sees it.
///
/// The driver owns it and the transport. Dropping it ends the connection for all streams; dropping streams or senders never ends it
/// abruptly.
#[derive(Debug)]
pub(crate) struct Connection(Rc<RefCell<Core>>);

/// A stream that a client has opened.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// The stream.
    pub(crate) stream: StreamHandle,
    /// The request head. To be given back by [`StreamHandle::recycle`].
    pub(crate) head: Box<HeadBlock>,
    /// Whether the request has ended without content, by its head or by a DATA frame that has arrived.
    pub(crate) ended: bool,
}

impl Connection {
    /// The server's side of a new connection.
    pub(crate) fn server(config: Config, now_ms: u64) -> Self {
        Self(Rc::new(RefCell::new(Core::new(
            Role::Server,
            config,
            now_ms,
        ))))
    }

    /// The client's side of a new connection.
    pub(crate) fn client(config: Config) -> (Self, Sender) {
        let core = Rc::new(RefCell::new(Core::new(Role::Client, config, 0)));
        core.borrow_mut().senders = 1;
        (Self(core.clone()), Sender(core))
    }

    /// The state, for receiving and sending.
    pub(crate) fn core(&self) -> RefMut<'_, Core> {
        self.0.borrow_mut()
    }

    /// Sets the waker of the driver.
    pub(crate) fn set_driver(&self, waker: &Waker) {
        self.core().driver.clone_from(waker);
    }

    /// The next stream that the client has opened.
    pub(crate) fn accept(&self) -> Option<Incoming> {
        let mut core = self.core();
        let (key, head) = core.unaccepted.pop_front()?;
        core.finish_if_idle();
        let stream = &core.streams[key];
        // The body may have arrived together with the head.
        let ended = stream.is_over();
        let id = stream.id;
        Some(Incoming {
            stream: StreamHandle {
                core: self.0.clone(),
                key: key as u32,
                id,
            },
            head,
            ended,
        })
    }
}

impl Core {
    /// The next malformed request whose stream was reset, and why. Its head is to be given back by [`Self::recycle`].
    pub(crate) fn take_malformed(&mut self) -> Option<(Box<HeadBlock>, Reject)> {
        self.malformed.pop_front()
    }

    /// From now on changes wake the driver. Called before it waits.
    pub(crate) fn sleep(&mut self) {
        self.awake = false;
    }

    /// The driver runs: it need not be woken.
    pub(crate) fn awaken(&mut self) {
        self.awake = true;
    }

    /// Whether the peer's preface has arrived.
    pub(crate) fn has_begun(&self) -> bool {
        self.preface_left == 0
    }

    /// Whether the peer has sent or provoked resets.
    pub(crate) fn has_resets(&self) -> bool {
        self.budget.has_resets()
    }

    /// Whether the connection is over; what is in the output buffer should still be written.
    pub(crate) fn is_over(&self) -> bool {
        self.ending == Ending::Over
    }

    /// The error that ended the connection.
    pub(crate) fn error(&self) -> Option<StreamError> {
        self.error
    }

    /// Announces another initial window for streams. `false` if the peer has yet to acknowledge earlier settings.
    pub(crate) fn set_stream_window(&mut self, window: u32) -> bool {
        if self.awaited_settings > 0 {
            return false;
        }
        self.awaited_settings += 1;
        self.announced_window = window;
        frame::put_settings(&mut self.out, &[(setting::INITIAL_WINDOW_SIZE, window)]);
        if window > self.stream_window {
            self.shift_receive_windows(self.stream_window, window);
            self.stream_window = window;
        } else {
            // Until the peer knows of it, it may use the larger one.
            self.awaited_window = Some(window);
        }
        self.notify();
        true
    }

    /// Begins a graceful shutdown. Streams on their way to us are still served (RFC 9113 §6.8).
    pub(crate) fn shut_down(&mut self) {
        if self.ending == Ending::No {
            self.ending = Ending::Announced;
            frame::put_go_away(&mut self.out, LAST_ID, ErrorCode::NO_ERROR, &[]);
            frame::put_ping(&mut self.out, SHUTDOWN_PING, false);
            self.notify();
        }
    }
}

/// One stream. Dropping it resets the stream unless both sides have ended.
///
/// The task that serves the stream owns it; there is one for each stream. The stream's key stays valid for as long as it lives,
/// also after the stream or the connection has failed: calls then return the error.
pub(crate) struct StreamHandle {
    core: Rc<RefCell<Core>>,
    /// Below 2^32, as identifiers are.
    key: u32,
    id: u32,
}

impl fmt::Debug for StreamHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamHandle({})", self.id)
    }
}

impl StreamHandle {
    fn key(&self) -> usize {
        self.key as usize
    }

    /// The identifier of the stream.
    #[cfg(fuzzing)]
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// Waits for the head of a response, informational or final.
    pub(crate) fn poll_response(
        &self,
        cx: &Context<'_>,
    ) -> Poll<Result<Box<HeadBlock>, StreamError>> {
        let stream = &mut self.core.borrow_mut().streams[self.key()];
        if let Some(head) = stream.heads.pop_front() {
            return Poll::Ready(Ok(head));
        }
        if let Some(error) = stream.error {
            return Poll::Ready(Err(error));
        }
        stream.register(cx, interest::RECEIVE);
        Poll::Pending
    }

    /// Waits for data and swaps it with the empty vector `into`. `false` at the end of the data, before any trailers.
    pub(crate) fn poll_data(
        &self,
        cx: &Context<'_>,
        into: &mut Vec<u8>,
    ) -> Poll<Result<bool, StreamError>> {
        debug_assert!(into.is_empty());
        let stream = &mut self.core.borrow_mut().streams[self.key()];
        if !stream.data.is_empty() {
            std::mem::swap(&mut stream.data, into);
            return Poll::Ready(Ok(true));
        }
        if stream.receive_ended {
            return Poll::Ready(Ok(false));
        }
        if let Some(error) = stream.error {
            return Poll::Ready(Err(error));
        }
        stream.register(cx, interest::RECEIVE);
        Poll::Pending
    }

    /// The trailers, if there are any and the data has ended.
    pub(crate) fn take_trailers(&self) -> Option<Box<HeadBlock>> {
        self.core.borrow_mut().streams[self.key()].trailers.take()
    }

    /// Whether the message has ended and all of its data was taken.
    pub(crate) fn has_received_all(&self) -> bool {
        let stream = &self.core.borrow().streams[self.key()];
        stream.receive_ended && stream.data.is_empty()
    }

    /// Whether nothing more can be taken, no trailers either.
    pub(crate) fn is_over(&self) -> bool {
        self.core.borrow().streams[self.key()].is_over()
    }

    /// Gives `bytes` of taken data back to the peer's windows.
    pub(crate) fn release(&self, bytes: usize) {
        let mut core = self.core.borrow_mut();
        let stream = &mut core.streams[self.key()];
        stream.unreleased -= bytes;
        core.release(self.key(), bytes);
    }

    /// Frees the memory for data, if there is none.
    pub(crate) fn release_data_memory(&self) {
        let stream = &mut self.core.borrow_mut().streams[self.key()];
        if stream.data.is_empty() {
            stream.data = Vec::new();
        }
    }

    /// Keeps the memory of a head for later streams.
    pub(crate) fn recycle(&self, head: Box<HeadBlock>) {
        self.core.borrow_mut().recycle(head);
    }

    /// Sends a response head, informational if `status` is below 200.
    ///
    /// # Errors
    /// The stream has failed.
    pub(crate) fn send_head(
        &self,
        ended: bool,
        write: impl FnOnce(&mut HeadWriter<'_>),
    ) -> Result<(), StreamError> {
        let mut core = self.core.borrow_mut();
        if let Some(error) = core.streams[self.key()].error {
            return Err(error);
        }
        core.put_head(self.id, ended, write);
        if ended {
            core.send_ended(self.key());
        }
        Ok(())
    }

    /// Sends some of `data`, as much as windows and output buffer permit.
    pub(crate) fn poll_send(
        &self,
        cx: &Context<'_>,
        data: &[u8],
    ) -> Poll<Result<usize, StreamError>> {
        self.core.borrow_mut().poll_send(cx, self.key(), data)
    }

    /// Ends our side.
    ///
    /// # Errors
    /// The stream has failed.
    pub(crate) fn finish(&self) -> Result<(), StreamError> {
        self.core.borrow_mut().finish(self.key())
    }

    /// Resets the stream, unless it is closed.
    pub(crate) fn reset(&self, code: ErrorCode) {
        let error = StreamError::Reset {
            code,
            by_peer: false,
        };
        self.core.borrow_mut().reset(self.key(), code, error);
    }

    /// Waits until the stream has failed.
    pub(crate) fn poll_failed(&self, cx: &Context<'_>) -> Poll<StreamError> {
        let stream = &mut self.core.borrow_mut().streams[self.key()];
        if let Some(error) = stream.error {
            return Poll::Ready(error);
        }
        stream.register(cx, interest::RESET);
        Poll::Pending
    }

    /// Why the stream has failed, if it has.
    pub(crate) fn error(&self) -> Option<StreamError> {
        self.core.borrow().streams[self.key()].error
    }
}

impl Drop for StreamHandle {
    fn drop(&mut self) {
        let mut core = self.core.borrow_mut();
        let stream = &core.streams[self.key()];
        if !stream.closed {
            // A server may answer without reading the whole request (RFC 9113 §8.1).
            let code = match core.role == Role::Server && stream.send_ended {
                true => ErrorCode::NO_ERROR,
                false => ErrorCode::CANCEL,
            };
            let error = StreamError::Reset {
                code,
                by_peer: false,
            };
            core.reset(self.key(), code, error);
        }
        // Gives back what data that nobody has taken occupied of the connection's window.
        core.remove(self.key());
    }
}

/// Encodes the fields of one head, pseudo-header fields first.
pub(crate) struct HeadWriter<'a> {
    encoder: &'a mut Encoder,
    out: &'a mut Vec<u8>,
}

impl HeadWriter<'_> {
    /// `:status`
    pub(crate) fn status(&mut self, status: u16) {
        self.encoder.put_status(self.out, status);
    }

    /// A field, whose name may have upper case.
    pub(crate) fn put(&mut self, name: &[u8], value: &[u8], indexing: Indexing) {
        self.encoder.put(self.out, name, value, indexing);
    }
}

impl Core {
    fn put_head(&mut self, id: u32, ended: bool, write: impl FnOnce(&mut HeadWriter<'_>)) {
        // The driver lends memory only while it runs itself.
        if self.out.capacity() == 0 {
            self.out.reserve(OUTPUT);
        }
        let at = frame::start_headers(&mut self.out);
        self.encoder.begin(&mut self.out);
        write(&mut HeadWriter {
            encoder: &mut self.encoder,
            out: &mut self.out,
        });
        frame::finish_headers(&mut self.out, at, id, ended, self.peer_frame);
        self.notify();
    }

    /// How many streams a client may have open at a time.
    pub(crate) fn most_streams(&self) -> usize {
        self.peer_streams
            .map_or(FIRST_STREAMS, |most| most as usize)
    }
}

/// The kind of a request, which determines the content of its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestKind {
    /// The response has the content that its head describes.
    Ordinary,
    /// HEAD: the response has no content.
    Head,
    /// Extended CONNECT: after a 2xx both sides send DATA of no declared length.
    Tunnel,
}

/// Opens streams on a client's connection. When the last one is dropped, the connection ends after its streams.
pub(crate) struct Sender(Rc<RefCell<Core>>);

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}

impl Sender {
    /// Whether a stream can be opened, apart from the peer's limit.
    pub(crate) fn can_open(&self) -> bool {
        let core = self.0.borrow();
        core.ending == Ending::No && core.newest < LAST_ID - 2
    }

    /// Frees memory that only streams need, if there are none.
    pub(crate) fn release_memory(&self) {
        self.0.borrow_mut().release_memory();
    }

    /// The peer's limit on concurrent streams.
    pub(crate) fn most_streams(&self) -> usize {
        self.0.borrow().most_streams()
    }

    /// Waits for the peer's settings. Ready with whether it accepts extended CONNECT (RFC 8441 §3).
    ///
    /// # Errors
    /// The connection has ended.
    pub(crate) fn poll_allows_connect(&self, cx: &Context<'_>) -> Poll<Result<bool, StreamError>> {
        let mut core = self.0.borrow_mut();
        if let Some(error) = core.error {
            return Poll::Ready(Err(error));
        }
        if core.has_settings {
            return Poll::Ready(Ok(core.peer_connect));
        }
        if !core
            .settings_wakers
            .iter()
            .any(|known| known.will_wake(cx.waker()))
        {
            core.settings_wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Whether the peer has announced that it accepts extended CONNECT.
    pub(crate) fn allows_connect(&self) -> bool {
        self.0.borrow().peer_connect
    }

    /// Sends a request head on a new stream.
    ///
    /// # Errors
    /// The connection accepts no more streams. Nothing was sent.
    pub(crate) fn send_request(
        &self,
        ended: bool,
        kind: RequestKind,
        write: impl FnOnce(&mut HeadWriter<'_>),
    ) -> Result<StreamHandle, StreamError> {
        if !self.can_open() {
            let error = self.0.borrow().error;
            return Err(error.unwrap_or(StreamError::Unprocessed(ErrorCode::NO_ERROR)));
        }
        let mut core = self.0.borrow_mut();
        let id = next_id(core.newest);
        core.newest = id;
        let key = core.add(id);
        let stream = &mut core.streams[key];
        stream.is_head_request = kind == RequestKind::Head;
        stream.is_tunnel = kind == RequestKind::Tunnel;
        core.put_head(id, ended, write);
        if ended {
            core.send_ended(key);
        }
        Ok(StreamHandle {
            core: self.0.clone(),
            key: key as u32,
            id,
        })
    }
}

impl Clone for Sender {
    fn clone(&self) -> Self {
        self.0.borrow_mut().senders += 1;
        Self(self.0.clone())
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let mut core = self.0.borrow_mut();
        core.senders -= 1;
        if core.senders == 0 && core.ending == Ending::No {
            frame::put_go_away(&mut core.out, 0, ErrorCode::NO_ERROR, &[]);
            core.ending = Ending::Final(LAST_ID);
            core.finish_if_idle();
            core.notify();
        }
    }
}

impl Drop for Connection {
    /// The driver is gone: streams learn that.
    fn drop(&mut self) {
        self.core().end(StreamError::Io(io::ErrorKind::BrokenPipe));
    }
}
