//! A client's connection that also keeps the parts that a copy of its request needs: the request's body, and those parts of the
//! response that are compared.
//!
//! It wraps the connection for the length of one request that is copied; no other request passes through it. A body that is kept
//! has to be copied and can't be spliced. All others move as without this wrapper.

use std::task::{Context, Poll, ready};

use http::HeaderMap;

use super::answer::ComparedAnswer;
use crate::config::mirror::MirrorSpec;
use crate::http1::Framing;
use crate::net::buffer::PooledPipe;
use crate::net::{ByteBudget, StreamSocket};
use crate::proxy::headers::{Fields, Outgoing};
use crate::proxy::wire::{
    BodyPiece, Downstream, Gone, PumpError, Recipient, Sink, Source, WireError,
};

/// A connection whose request is copied.
pub(crate) struct MirrorTee<'d, D> {
    down: &'d mut D,
    spec: &'d MirrorSpec,
    body: RequestBody,
    answer: Option<ComparedAnswer>,
}

/// The body of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RequestBody {
    /// The part of the body that has been forwarded.
    Arriving(Vec<u8>),
    /// The whole body.
    Whole(Vec<u8>),
    /// The body exceeds the cap.
    TooLarge,
}

impl<'d, D: Downstream> MirrorTee<'d, D> {
    /// Wraps the connection for a request with this framing.
    pub(super) fn new(down: &'d mut D, spec: &'d MirrorSpec, framing: Framing) -> Self {
        let body = match framing.has_body() {
            true => RequestBody::Arriving(Vec::new()),
            false => RequestBody::Whole(Vec::new()),
        };
        Self {
            down,
            spec,
            body,
            answer: None,
        }
    }

    /// The parts that were kept. The response is `None` if none was sent.
    pub(super) fn finish(self) -> (RequestBody, Option<ComparedAnswer>) {
        (self.body, self.answer)
    }

    fn keep(&mut self, n: usize) {
        if let RequestBody::Arriving(kept) = &mut self.body {
            if kept.len() + n > self.spec.body_bytes {
                self.body = RequestBody::TooLarge;
            } else {
                kept.extend_from_slice(&self.down.data()[..n]);
            }
        }
    }

    /// Whether the bytes of the response are kept.
    fn takes_answer(&self) -> bool {
        self.answer.as_ref().is_some_and(ComparedAnswer::takes_body)
    }
}

impl<D: Downstream> Source for MirrorTee<'_, D> {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<BodyPiece, WireError>> {
        let piece = ready!(self.down.poll_piece(cx))?;
        if let (BodyPiece::End | BodyPiece::Trailers, RequestBody::Arriving(kept)) =
            (piece, &mut self.body)
        {
            self.body = RequestBody::Whole(std::mem::take(kept));
        }
        Poll::Ready(Ok(piece))
    }
    fn data(&self) -> &[u8] {
        self.down.data()
    }
    fn consume(&mut self, n: usize) {
        self.keep(n);
        self.down.consume(n);
    }
    fn take_trailers(&mut self) -> HeaderMap {
        self.down.take_trailers()
    }
    fn remaining(&self) -> Option<u64> {
        self.down.remaining()
    }
    fn has_arrived(&self) -> bool {
        self.down.has_arrived()
    }
    fn buffered(&self) -> usize {
        self.down.buffered()
    }
    fn stall(&mut self) {
        self.down.stall();
    }
    fn has_nothing_to_read(&self) -> bool {
        self.down.has_nothing_to_read()
    }
    /// Only tunnels are passed like this, and no tunnel is copied.
    fn pass(&mut self, to: &StreamSocket) -> Result<Option<usize>, PumpError> {
        self.down.pass(to)
    }
    fn poll_news(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.down.poll_news(cx)
    }
    fn release_input(&mut self) {
        self.down.release_input();
    }
    fn pipe(&self) -> Option<PooledPipe> {
        self.down.pipe()
    }
}

impl<D: Downstream> Sink for MirrorTee<'_, D> {
    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, WireError>> {
        let n = ready!(self.down.poll_write(cx, data))?;
        if let Some(answer) = &mut self.answer {
            answer.push(&data[..n], self.spec.body_bytes);
        }
        Poll::Ready(Ok(n))
    }
    fn poll_finish(
        &mut self,
        cx: &mut Context<'_>,
        trailers: Option<&HeaderMap>,
    ) -> Poll<Result<(), WireError>> {
        self.down.poll_finish(cx, trailers)
    }
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        self.down.poll_flush(cx)
    }
    /// `false`: chunk framing would be kept with the body.
    fn wants_chunks(&self) -> bool {
        !self.takes_answer() && self.down.wants_chunks()
    }
    fn accept_chunk_framing(&mut self) {
        self.down.accept_chunk_framing();
    }
    fn splice_sink(&self) -> Option<(&StreamSocket, u64)> {
        match self.takes_answer() {
            true => None,
            false => self.down.splice_sink(),
        }
    }
    fn poll_clear(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        self.down.poll_clear(cx)
    }
    fn release_output(&mut self) {
        self.down.release_output();
    }
    fn spliced_to(&mut self, n: usize) {
        self.down.spliced_to(n);
    }
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        self.down.poll_shutdown(cx)
    }
}

impl<D: Downstream> Recipient for MirrorTee<'_, D> {
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Gone> {
        self.down.poll_gone(cx)
    }
}

impl<D: Downstream> Downstream for MirrorTee<'_, D> {
    const SWITCHED: u16 = D::SWITCHED;
    type Connection = D::Connection;
    fn detach(&mut self) -> Option<D::Connection> {
        self.down.detach()
    }
    fn open_tunnel(&mut self) {
        self.down.open_tunnel();
    }
    fn send_response<F: Fields>(&mut self, response: &Outgoing<'_, F>) -> Result<(), WireError> {
        let value = |name: &str| joined(&response.fields, name);
        let mut answer = ComparedAnswer::of_head(self.spec, response.status, value);
        if let Framing::Length(n) = response.framing
            && n > self.spec.body_bytes as u64
        {
            // Given up before the first byte, so that the body can be spliced.
            answer.give_up_body();
        }
        self.answer = Some(answer);
        self.down.send_response(response)
    }
    fn send_informational<F: Fields>(&mut self, status: u16, fields: &F) -> Result<(), WireError> {
        self.down.send_informational(status, fields)
    }
    fn poll_taken_back(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.down.poll_taken_back(cx)
    }
    fn has_completed_a_response(&self) -> bool {
        self.down.has_completed_a_response()
    }
    fn body_budget(&self) -> ByteBudget {
        self.down.body_budget()
    }
    fn answer_budget(&self) -> ByteBudget {
        self.down.answer_budget()
    }
    fn close_after(&mut self) {
        self.down.close_after();
    }
}

/// The values of a field, joined by commas; `None` if it is absent.
fn joined(fields: &impl Fields, name: &str) -> Option<String> {
    let mut found: Option<String> = None;
    fields.any(name, &mut |value| {
        let text = found.get_or_insert_default();
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(&String::from_utf8_lossy(value));
        false
    });
    found
}
