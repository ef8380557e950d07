//! A stream whose response has arrived completely, while its client is slow to read it.
//!
//! Clients may leave many streams like that. Everything that only the exchange needed has been freed: what is left is the rest of
//! the response, the head and the facts of the request's record, which is put together again when the stream ends.

use std::pin::Pin;
use std::task::{Context, Poll};

use super::head::RequestHead;
use super::state::OpenStream;
use super::stream_slots::Work;
use crate::http2::PackedHead;
use crate::net::OwnedTaskControl;
use crate::proxy::error::ExchangeError;
use crate::proxy::h2_down::H2Rest;
use crate::proxy::id::RequestId;
use crate::proxy::observe::ParkedRecord;
use crate::proxy::{RequestSnapshots, SharedSnapshot, Undelivered};

/// A response that waits for its client, and the record of its request.
pub(super) struct ParkedResponse {
    pub(super) rest: Undelivered,
    /// `None` once the request has been recorded.
    pub(super) record: Option<ParkedRecord>,
    pub(super) id: RequestId,
    /// No body followed the request's head.
    pub(super) ended: bool,
    pub(super) snapshot: SharedSnapshot,
}

/// The stream of such a response. Dropping it records the request.
pub(super) struct ParkedStream {
    pub(super) response: ParkedResponse,
    /// `None` once the stream has ended.
    pub(super) down: Option<H2Rest>,
    pub(super) head: PackedHead,
    pub(super) control: OwnedTaskControl,
    // Dropped last: the connection may then be idle.
    pub(super) open: OpenStream,
}

/// Sends the rest of a response, as the client reads it.
pub(super) fn deliver(stream: ParkedStream) -> Work {
    Box::pin(Delivery(Some(stream)))
}

/// The future of a stream, which is `None` once it has ended. Not an `async fn`, which would be larger.
struct Delivery(Option<ParkedStream>);

impl Future for Delivery {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<()> {
        // Taken, so that a panic drops it while it unwinds and is counted.
        let Some(mut stream) = self.0.take() else {
            return Poll::Ready(());
        };
        match stream.poll(task) {
            Poll::Ready(result) => {
                stream.end(result);
                Poll::Ready(())
            }
            Poll::Pending => {
                self.0 = Some(stream);
                Poll::Pending
            }
        }
    }
}

impl ParkedStream {
    fn poll(&mut self, task: &mut Context<'_>) -> Poll<Result<(), ExchangeError>> {
        let response = &mut self.response;
        // Both are there until `end`.
        let (Some(record), Some(down)) = (&response.record, &mut self.down) else {
            return Poll::Ready(Ok(()));
        };
        let silence = record.silence(&response.snapshot, &self.control);
        response.rest.poll(silence, task, &mut down.sender)
    }

    fn end(&mut self, result: Result<(), ExchangeError>) {
        let is_whole = result.is_ok();
        self.record(Some(result));
        match self.down.take() {
            Some(_) if is_whole => self.open.0.streams.has_completed.set(true),
            Some(down) => down.abort(),
            None => {}
        }
    }

    /// Records the request, unless that was done. `result` is `None` if the stream is dropped before its end.
    fn record(&mut self, result: Option<Result<(), ExchangeError>>) {
        let Some(record) = self.response.record.take() else {
            return;
        };
        let shared = &*self.open.0;
        let snapshots = &RequestSnapshots::only(self.response.snapshot.clone());
        let rules = (
            &snapshots.first().spec.limits,
            shared.listener.merge_slashes,
        );
        // The same head was valid when the request began.
        let known = |authority: &[u8]| shared.known_host_len(authority);
        let block = self.head.unpack();
        let head = RequestHead::new(&block, self.response.ended, rules, known).ok();
        let request = head
            .as_ref()
            .map(|head| head.request_with(shared, self.response.id));
        let mut recording = record.resume(&shared.inbound(snapshots), request.as_ref());
        self.response.rest.record(&mut recording, result);
    }
}

impl Drop for ParkedStream {
    fn drop(&mut self) {
        self.record(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is allocated for each, besides the head and the rest of the response. The stream of the connection and the control come
    /// to that.
    #[test]
    fn a_parked_stream_is_small() {
        let size = size_of::<Delivery>();
        assert!(size <= 320, "{size}");
    }
}
