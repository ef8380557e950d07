//! The downstream side of a try that runs beside another one: there is no client to read from or to write to.
//!
//! Whatever such a try sends to an endpoint is in memory, its informational responses are dropped, and the client's connection
//! is watched by the task that runs both tries.

use std::task::{Context, Poll};

use http::HeaderMap;

use super::headers::{Fields, Outgoing};
use super::wire::{BodyPiece, Downstream, Gone, NoConnection, Recipient, Sink, Source, WireError};
use crate::net::ByteBudget;

/// A downstream without a client. Its budget is that of the client's connection.
pub(super) struct Detached(pub(super) ByteBudget);

impl Source for Detached {
    fn poll_piece(&mut self, _cx: &mut Context<'_>) -> Poll<Result<BodyPiece, WireError>> {
        Poll::Ready(Ok(BodyPiece::End))
    }
    fn data(&self) -> &[u8] {
        &[]
    }
    fn consume(&mut self, _n: usize) {}
    fn take_trailers(&mut self) -> HeaderMap {
        HeaderMap::new()
    }
    fn remaining(&self) -> Option<u64> {
        Some(0)
    }
}

impl Sink for Detached {
    fn poll_write(&mut self, _cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, WireError>> {
        Poll::Ready(Ok(data.len()))
    }
    fn poll_finish(
        &mut self,
        _cx: &mut Context<'_>,
        _trailers: Option<&HeaderMap>,
    ) -> Poll<Result<(), WireError>> {
        Poll::Ready(Ok(()))
    }
    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        Poll::Ready(Ok(()))
    }
}

impl Recipient for Detached {
    fn poll_gone(&mut self, _cx: &mut Context<'_>) -> Poll<Gone> {
        Poll::Pending
    }
}

impl Downstream for Detached {
    type Connection = NoConnection;
    fn detach(&mut self) -> Option<NoConnection> {
        None
    }
    fn open_tunnel(&mut self) {}
    fn send_response<F: Fields>(&mut self, _response: &Outgoing<'_, F>) -> Result<(), WireError> {
        Ok(())
    }
    fn send_informational<F: Fields>(
        &mut self,
        _status: u16,
        _fields: &F,
    ) -> Result<(), WireError> {
        Ok(())
    }
    /// As if it hadn't: the client of the first try doesn't lend its place in the line to a second connection.
    fn has_completed_a_response(&self) -> bool {
        false
    }
    fn body_budget(&self) -> ByteBudget {
        self.0.clone()
    }
    fn answer_budget(&self) -> ByteBudget {
        self.0.clone()
    }
}
