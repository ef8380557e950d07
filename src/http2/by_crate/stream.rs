//! One stream of the h2 crate, with the interface of our own.

use std::cell::RefCell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::HeaderMap;

use super::errors::{self, CLOSED};
use super::head::{self, HeadFields, HeadWriter};
use crate::http1::Reject;
use crate::http2::malformed::Malformed;
use crate::http2::{BlockLimits, Config, ErrorCode, HeadBlock, StreamError};
use crate::reason::Reason;

/// Most bytes that one call takes or hands out.
const PIECE: usize = 64 * 1024;

/// The connection of a stream.
pub(super) trait Owner {
    /// Takes over what the crate has to write.
    fn collect_output(&self);
}

/// One stream. Dropping it resets the stream unless both sides have ended.
///
/// The task that serves the stream owns it. The crate knows its state, wakes its task, and keeps what the peer has sent.
pub(crate) struct StreamHandle {
    id: u32,
    /// Boxed, so that what owns a stream is as small as with our own codec.
    state: Box<RefCell<StreamState>>,
}

/// What is sent next.
enum Sending {
    /// The head of a response, or one that is informational.
    Response(SendResponse<Bytes>),
    /// Data or trailers.
    Body(SendStream<Bytes>),
}

/// What is received next.
enum Receiving {
    /// The head of a response.
    Response(ResponseFuture),
    /// Data or trailers.
    Body(RecvStream),
}

struct StreamState {
    /// Of a stream that a client has opened.
    owner: Option<Rc<dyn Owner>>,
    limits: (BlockLimits, BlockLimits),
    sending: Sending,
    send_ended: bool,
    receiving: Receiving,
    /// Data that was taken from the crate, but not by the stream's task.
    data: Bytes,
    /// All data was taken from the crate, and the trailers.
    receive_ended: bool,
    trailers: Option<Box<HeadBlock>>,
    /// The request is an extended CONNECT, after whose head both sides send DATA only (RFC 8441 §5).
    is_tunnel: bool,
    error: Option<StreamError>,
    /// The task that has waited for something last.
    waker: Waker,
}

impl fmt::Debug for StreamHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamHandle({})", self.id)
    }
}

impl StreamHandle {
    /// A stream that a client has opened.
    pub(super) fn accepted(
        body: RecvStream,
        response: SendResponse<Bytes>,
        is_tunnel: bool,
        config: &Config,
        owner: Rc<dyn Owner>,
    ) -> Self {
        let sides = (Sending::Response(response), Receiving::Body(body));
        let stream = Self::new(sides, is_tunnel, config);
        stream.state.borrow_mut().owner = Some(owner);
        stream
    }

    /// A stream that was opened by us, with a head that `ended` it or not.
    pub(super) fn opened(
        response: ResponseFuture,
        body: SendStream<Bytes>,
        (ended, is_tunnel): (bool, bool),
        config: &Config,
    ) -> Self {
        let sides = (Sending::Body(body), Receiving::Response(response));
        let stream = Self::new(sides, is_tunnel, config);
        stream.state.borrow_mut().send_ended = ended;
        stream
    }

    fn new((sending, receiving): (Sending, Receiving), is_tunnel: bool, config: &Config) -> Self {
        let id = match &sending {
            Sending::Response(response) => response.stream_id(),
            Sending::Body(body) => body.stream_id(),
        };
        Self {
            id: id.as_u32(),
            state: Box::new(RefCell::new(StreamState {
                owner: None,
                limits: (config.head, config.trailers),
                sending,
                send_ended: false,
                receiving,
                data: Bytes::new(),
                receive_ended: false,
                trailers: None,
                is_tunnel,
                error: None,
                waker: Waker::noop().clone(),
            })),
        }
    }

    /// Waits for the head of a response, informational or final.
    pub(crate) fn poll_response(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Box<HeadBlock>, StreamError>> {
        self.state.borrow_mut().poll_response(cx)
    }

    /// Waits for data and puts it into the empty vector `into`. `false` at the end of the data, before any trailers.
    pub(crate) fn poll_data(
        &self,
        cx: &mut Context<'_>,
        into: &mut Vec<u8>,
    ) -> Poll<Result<bool, StreamError>> {
        debug_assert!(into.is_empty());
        let state = &mut *self.state.borrow_mut();
        state.waker.clone_from(cx.waker());
        loop {
            if into.len() + state.data.len() > PIECE && !into.is_empty() {
                return Poll::Ready(Ok(true));
            }
            into.extend_from_slice(&std::mem::take(&mut state.data));
            match state.poll_piece(cx) {
                Poll::Ready(Ok(true)) => {}
                _ if !into.is_empty() => return Poll::Ready(Ok(true)),
                other => return other,
            }
        }
    }

    /// The trailers, if there are any and the data has ended.
    pub(crate) fn take_trailers(&self) -> Option<Box<HeadBlock>> {
        self.state.borrow_mut().trailers.take()
    }

    /// Whether the message has ended and all of its data was taken.
    pub(crate) fn has_received_all(&self) -> bool {
        let state = &mut *self.state.borrow_mut();
        state.look_ahead();
        state.receive_ended && state.data.is_empty()
    }

    /// Whether nothing more can be taken, no trailers either.
    pub(crate) fn is_over(&self) -> bool {
        self.has_received_all() && self.state.borrow().trailers.is_none()
    }

    /// Gives `bytes` of taken data back to the peer's windows.
    pub(crate) fn release(&self, bytes: usize) {
        if let Receiving::Body(body) = &mut self.state.borrow_mut().receiving {
            // Fails only for more than was received.
            let _ = body.flow_control().release_capacity(bytes);
        }
    }

    /// Does nothing: the memory is the crate's.
    pub(crate) fn release_data_memory(&self) {}

    /// Frees a head.
    pub(crate) fn recycle(&self, head: Box<HeadBlock>) {
        drop(head);
    }

    /// Sends a response head, informational if `status` is below 200, or trailers.
    ///
    /// # Errors
    /// The stream has failed.
    pub(crate) fn send_head(
        &self,
        ended: bool,
        write: impl FnOnce(&mut HeadWriter<'_>),
    ) -> Result<(), StreamError> {
        let fields = HeadFields::written(write);
        self.state.borrow_mut().send_head(ended, fields)
    }

    /// Sends some of `data`, as much as windows and the crate's buffer for the stream permit.
    pub(crate) fn poll_send(
        &self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<Result<usize, StreamError>> {
        self.state.borrow_mut().poll_send(cx, data)
    }

    /// Ends our side.
    ///
    /// # Errors
    /// The stream has failed.
    pub(crate) fn finish(&self) -> Result<(), StreamError> {
        self.state.borrow_mut().finish()
    }

    /// Resets the stream, unless it is closed.
    pub(crate) fn reset(&self, code: ErrorCode) {
        let error = StreamError::Reset {
            code,
            by_peer: false,
        };
        self.state.borrow_mut().reset(code, error);
    }

    /// Waits until the stream has failed.
    pub(crate) fn poll_failed(&self, cx: &mut Context<'_>) -> Poll<StreamError> {
        let state = &mut *self.state.borrow_mut();
        state.waker.clone_from(cx.waker());
        state.poll_failed(cx)
    }

    /// Why the stream has failed, if it has.
    pub(crate) fn error(&self) -> Option<StreamError> {
        let state = &mut *self.state.borrow_mut();
        // The receiving side knows more of an error than the sending side.
        state.look_ahead();
        state.failure()
    }
}

impl Drop for StreamHandle {
    /// The crate resets a stream that hasn't ended. The end of the last stream makes a server look at what is left to write.
    fn drop(&mut self) {
        if let Some(owner) = self.state.get_mut().owner.take() {
            owner.collect_output();
        }
    }
}

impl StreamState {
    fn fail<T>(&mut self, error: StreamError) -> Result<T, StreamError> {
        Err(*self.error.get_or_insert(error))
    }

    fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Result<Box<HeadBlock>, StreamError>> {
        self.waker.clone_from(cx.waker());
        let Receiving::Response(future) = &mut self.receiving else {
            return Poll::Pending;
        };
        let limits = &self.limits.0;
        // Asked first, because the future of the response skips the informational ones.
        let (block, body) = match future.poll_informational(cx) {
            Poll::Ready(Some(Ok(head))) => (head::of_response(&head, false, limits), None),
            Poll::Ready(Some(Err(error))) => return Poll::Ready(self.fail_response(&error)),
            Poll::Ready(None) | Poll::Pending => match ready!(Pin::new(future).poll(cx)) {
                Ok(response) => {
                    let ended = response.body().is_end_stream();
                    let block = head::of_response(&response, ended, limits);
                    (block, Some(response.into_body()))
                }
                Err(error) => return Poll::Ready(self.fail_response(&error)),
            },
        };
        if let Some(body) = body {
            self.receiving = Receiving::Body(body);
            // Any other response to CONNECT is an ordinary one (RFC 9110 §9.3.6).
            self.is_tunnel &= (200..300).contains(&block.status);
        }
        let defect = block.malformed.map(Malformed::reject);
        if let Some(reject) = defect.or(block.too_large) {
            self.reset(ErrorCode::PROTOCOL_ERROR, StreamError::Malformed(reject));
            return Poll::Ready(Err(StreamError::Malformed(reject)));
        }
        Poll::Ready(Ok(block))
    }

    fn fail_response<T>(&mut self, error: &h2::Error) -> Result<T, StreamError> {
        self.fail(errors::of_stream(error, Reason::BadFieldName))
    }

    /// Takes the next piece of data from the crate; `false` at the end, after the trailers were taken.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, StreamError>> {
        if self.receive_ended {
            return Poll::Ready(Ok(false));
        }
        let Receiving::Body(body) = &mut self.receiving else {
            return Poll::Pending;
        };
        // What has arrived before an error is still there.
        loop {
            match ready!(body.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    self.data = data;
                    return Poll::Ready(Ok(true));
                }
                Some(Err(error)) => return Poll::Ready(self.fail_body(&error)),
                None => break,
            }
        }
        match ready!(body.poll_trailers(cx)) {
            Ok(trailers) => Poll::Ready(self.end_receiving(trailers.as_ref())),
            Err(error) => Poll::Ready(self.fail_body(&error)),
        }
    }

    fn fail_body<T>(&mut self, error: &h2::Error) -> Result<T, StreamError> {
        self.fail(errors::of_stream(error, Reason::BadContentLength))
    }

    fn end_receiving(&mut self, trailers: Option<&HeaderMap>) -> Result<bool, StreamError> {
        if let Some(map) = trailers {
            let block = head::of_trailers(map, &self.limits.1);
            let unexpected = self.is_tunnel.then_some(Reject::bad(Reason::BadTrailers));
            if let Some(reject) = block.malformed.map(Malformed::reject).or(unexpected) {
                let error = StreamError::Malformed(reject);
                self.reset(ErrorCode::PROTOCOL_ERROR, error);
                return Err(error);
            }
            self.trailers = Some(block);
        }
        self.receive_ended = true;
        Ok(false)
    }

    /// Finds out whether the message has ended. Wakes the same task as before, should more arrive later.
    fn look_ahead(&mut self) {
        if self.data.is_empty() {
            let waker = self.waker.clone();
            let _ = self.poll_piece(&mut Context::from_waker(&waker));
        }
    }

    fn send_head(&mut self, ended: bool, fields: HeadFields) -> Result<(), StreamError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        match self.put_head(ended, fields) {
            Some(()) => Ok(()),
            None => Err(self.failure().unwrap_or(CLOSED)),
        }
    }

    /// `None` if the crate can't send the head, or the stream has failed.
    fn put_head(&mut self, ended: bool, fields: HeadFields) -> Option<()> {
        let is_informational = fields.is_informational();
        match &mut self.sending {
            Sending::Response(response) if is_informational => {
                let head = fields.into_response()?;
                response.send_informational(head).ok()
            }
            Sending::Response(response) => {
                let body = response
                    .send_response(fields.into_response()?, ended)
                    .ok()?;
                self.sending = Sending::Body(body);
                self.send_ended = ended;
                Some(())
            }
            Sending::Body(body) => {
                self.send_ended = true;
                body.send_trailers(fields.into_trailers()).ok()
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, StreamError>> {
        self.waker.clone_from(cx.waker());
        if let Some(error) = self.error {
            return Poll::Ready(Err(error));
        }
        let wanted = data.len().min(PIECE);
        let body = match &mut self.sending {
            Sending::Body(body) if !self.send_ended => body,
            _ => return Poll::Ready(Err(CLOSED)),
        };
        if wanted == 0 {
            return Poll::Ready(Ok(0));
        }
        body.reserve_capacity(wanted);
        let mut capacity = body.capacity();
        if capacity == 0 {
            capacity = match ready!(body.poll_capacity(cx)) {
                Some(Ok(capacity)) => capacity,
                // The stream has failed.
                Some(Err(_)) | None => return Poll::Ready(Err(self.failure().unwrap_or(CLOSED))),
            };
        }
        let n = wanted.min(capacity);
        match body.send_data(Bytes::copy_from_slice(&data[..n]), false) {
            Ok(()) => Poll::Ready(Ok(n)),
            Err(_) => Poll::Ready(Err(self.failure().unwrap_or(CLOSED))),
        }
    }

    fn finish(&mut self) -> Result<(), StreamError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        if self.send_ended {
            return Ok(());
        }
        let Sending::Body(body) = &mut self.sending else {
            return Err(CLOSED);
        };
        self.send_ended = true;
        match body.send_data(Bytes::new(), true) {
            Ok(()) => Ok(()),
            Err(_) => Err(self.failure().unwrap_or(CLOSED)),
        }
    }

    fn reset(&mut self, code: ErrorCode, error: StreamError) {
        if self.error.is_some() || (self.send_ended && self.receive_ended) {
            return;
        }
        self.error = Some(error);
        match &mut self.sending {
            Sending::Response(response) => response.send_reset(code.0.into()),
            Sending::Body(body) => body.send_reset(code.0.into()),
        }
    }

    fn poll_failed(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        if let Some(error) = self.error {
            return Poll::Ready(error);
        }
        let polled = match &mut self.sending {
            Sending::Response(response) => response.poll_reset(cx),
            Sending::Body(body) => body.poll_reset(cx),
        };
        // Not remembered: the receiving side may learn more, such as that the request can be sent elsewhere.
        Poll::Ready(match ready!(polled) {
            Ok(code) => errors::reset(code),
            Err(error) => errors::of_connection(&error),
        })
    }

    /// The error of the stream, if it has failed.
    fn failure(&mut self) -> Option<StreamError> {
        let waker = self.waker.clone();
        match self.poll_failed(&mut Context::from_waker(&waker)) {
            Poll::Ready(error) => Some(error),
            Poll::Pending => None,
        }
    }
}
