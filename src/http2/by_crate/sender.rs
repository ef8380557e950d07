//! Opens streams on a client's connection.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::core::{Connection, Core};
use super::errors;
use super::head::{HeadFields, HeadWriter};
use super::stream::StreamHandle;
use crate::http1::Reject;
use crate::http2::{Config, ErrorCode, RequestKind, StreamError};
use crate::reason::Reason;

/// Opens streams on a client's connection. When the last one is dropped, the connection ends after its streams.
pub(crate) struct Sender(Rc<RefCell<Core>>);

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}

impl Connection {
    /// The client's side of a new connection.
    pub(crate) fn client(config: Config) -> (Self, Sender) {
        let (connection, core) = Self::new_client(config);
        (connection, Sender(core))
    }
}

impl Sender {
    /// Whether a stream can be opened, apart from the peer's limit.
    pub(crate) fn can_open(&self) -> bool {
        let requests = self.0.borrow().requests();
        requests.is_some_and(|mut requests| {
            let cx = &mut Context::from_waker(Waker::noop());
            // It waits for nothing, since no clone of it has sent a request.
            matches!(requests.poll_ready(cx), Poll::Ready(Ok(())))
        })
    }

    /// Does nothing: the memory is the crate's.
    pub(crate) fn release_memory(&self) {}

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
        let settings = core.poll_settings(cx);
        settings.map(|received| received.map(|()| core.allows_connect()))
    }

    /// Whether the peer has announced that it accepts extended CONNECT.
    pub(crate) fn allows_connect(&self) -> bool {
        self.0.borrow().allows_connect()
    }

    /// Sends a request head on a new stream.
    ///
    /// # Errors
    /// The connection accepts no more streams, or the http crate can't express the request. Nothing was sent.
    pub(crate) fn send_request(
        &self,
        ended: bool,
        kind: RequestKind,
        write: impl FnOnce(&mut HeadWriter<'_>),
    ) -> Result<StreamHandle, StreamError> {
        let core = self.0.borrow();
        let Some(mut requests) = core.requests() else {
            let unsent = StreamError::Unprocessed(ErrorCode::NO_ERROR);
            return Err(core.error().unwrap_or(unsent));
        };
        let config = *core.config();
        // Sending wakes the driver.
        drop(core);
        let inexpressible = Reason::BadTarget;
        let request = HeadFields::written(write)
            .into_request()
            .ok_or(StreamError::Malformed(Reject::bad(inexpressible)))?;
        let (response, body) = requests
            .send_request(request, ended)
            .map_err(|error| errors::of_stream(&error, inexpressible))?;
        Ok(StreamHandle::opened(
            response,
            body,
            (ended, kind == RequestKind::Tunnel),
            &config,
        ))
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
        if core.senders == 0 {
            core.close_sending();
        }
    }
}
