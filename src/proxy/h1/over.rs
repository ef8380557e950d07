//! Implements [`Source`] and [`Sink`] for every wrapper of an [`H1`], by delegation.

use std::task::{Context, Poll};

use http::HeaderMap;

use super::H1;
use crate::net::StreamSocket;
use crate::net::buffer::{Piece, PooledPipe};
use crate::proxy::wire::{BodyPiece, PumpError, Sink, Source, WireError};

/// A wrapper of an HTTP/1 connection, with the state that only one side needs.
pub trait OverH1 {
    /// The wrapped connection.
    fn h1(&self) -> &H1;
    /// The wrapped connection.
    fn h1_mut(&mut self) -> &mut H1;
}

impl<T: OverH1> Source for T {
    #[inline]
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<BodyPiece, WireError>> {
        self.h1_mut().poll_piece(cx)
    }
    #[inline]
    fn data(&self) -> &[u8] {
        self.h1().data()
    }
    #[inline]
    fn consume(&mut self, n: usize) {
        self.h1_mut().consume(n);
    }
    #[inline]
    fn take_piece(&mut self) -> Option<Piece> {
        self.h1_mut().take_piece()
    }
    fn take_trailers(&mut self) -> HeaderMap {
        self.h1_mut().take_trailers()
    }
    fn remaining(&self) -> Option<u64> {
        self.h1().remaining()
    }
    fn buffered(&self) -> usize {
        self.h1().buffered()
    }
    fn stall(&mut self) {
        self.h1_mut().stall();
    }
    #[inline]
    fn has_nothing_to_read(&self) -> bool {
        self.h1().has_nothing_to_read()
    }
    #[inline]
    fn pass(&mut self, to: &StreamSocket) -> Result<Option<usize>, PumpError> {
        self.h1_mut().pass(to)
    }
    #[inline]
    fn poll_news(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.h1_mut().poll_news(cx)
    }
    fn release_input(&mut self) {
        self.h1_mut().release_input();
    }
    fn pass_chunk_framing(&mut self) -> bool {
        self.h1_mut().pass_chunk_framing()
    }
    #[inline]
    fn splice_source(&self) -> Option<(&StreamSocket, u64)> {
        self.h1().splice_source()
    }
    fn spliced_from(&mut self, n: usize) {
        self.h1_mut().spliced_from(n);
    }
    fn splice_is_slow(&mut self) {
        self.h1_mut().splice_is_slow();
    }
    fn pipe(&self) -> Option<PooledPipe> {
        self.h1().pipe()
    }
}

impl<T: OverH1> Sink for T {
    #[inline]
    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, WireError>> {
        self.h1_mut().poll_write(cx, data)
    }
    #[inline]
    fn take_over(&mut self, len: usize, source: &mut impl Source) -> bool {
        self.h1_mut().take_over(len, source)
    }
    #[inline]
    fn poll_finish(
        &mut self,
        cx: &mut Context<'_>,
        trailers: Option<&HeaderMap>,
    ) -> Poll<Result<(), WireError>> {
        self.h1_mut().poll_finish(cx, trailers)
    }
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        self.h1_mut().poll_flush(cx)
    }
    fn wants_chunks(&self) -> bool {
        self.h1().wants_chunks()
    }
    fn accept_chunk_framing(&mut self) {
        self.h1_mut().accept_chunk_framing();
    }
    fn splice_sink(&self) -> Option<(&StreamSocket, u64)> {
        self.h1().splice_sink()
    }
    fn poll_clear(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        self.h1_mut().poll_clear(cx)
    }
    fn release_output(&mut self) {
        self.h1_mut().release_output();
    }
    fn spliced_to(&mut self, n: usize) {
        self.h1_mut().spliced_to(n);
    }
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        self.h1_mut().poll_shutdown(cx)
    }
}
