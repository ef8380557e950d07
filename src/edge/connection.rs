//! One downstream connection: detects its protocol, and serves it if that is HTTP/1.
//!
//! The HTTP/1 loop alternates between two states. A parked connection waits for a request and holds no buffers. Once bytes have
//! arrived and the worker's admission queue gives the connection its turn, it serves requests as long as they follow each other
//! closely. The future for that is boxed and exists only in the second state, which keeps idle connections small.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::admission::ConnectionPermit;
use super::connection_context::ConnectionContext;
use super::connection_gauge::ConnectionGauge;
use super::listener_info::ListenerInfo;
use super::request::{self, Parsed, Scratch};
use super::tls::TlsInfo;
use crate::http1::{Framing, HeadLimits, HttpVersion, RequestHead};
use crate::net::{OwnedTaskControl, Stream, TaskPhase};
use crate::proxy::admission_queue::Ticket;
use crate::proxy::h1::H1;
use crate::proxy::h1_down::H1Down;
use crate::proxy::wire::Downstream;
use crate::proxy::{
    self, Ended, Inbound, LocalReply, Peer, Recording, RejectedHead, RequestSnapshots, Worker,
};
use crate::telemetry::record::Protocol;

/// The client's connection preface (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Most bytes of an unread request body that are read and discarded to keep the connection open.
const DISCARD_MAX: usize = 64 * 1024;
/// How long a connection waits for its next request before it is parked.
const BURST_PAUSE: Duration = Duration::from_millis(50);
/// How long a connection that is closing waits for the client to read the last response and to close its side.
const LINGER: Duration = Duration::from_secs(2);

/// A connection after accept and TLS handshake.
///
/// Made by the accept loop, consumed by [`serve`]. It owns everything that ends with the connection: dropping it closes the socket,
/// gives the permit back and removes the task's control.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub stream: Stream,
    /// The peer's address; `None` over a Unix socket.
    pub peer: Option<SocketAddr>,
    pub listener: Arc<ListenerInfo>,
    /// Result of the handshake; `None` for clear text.
    pub tls: Option<TlsInfo>,
    pub permit: ConnectionPermit,
    pub control: OwnedTaskControl,
}

/// The next state of the connection after a request.
enum AfterRequest {
    KeepAlive,
    Close,
    /// The response is incomplete: the connection is reset, so that the client can't take it for complete.
    Abort,
}

/// Result of waiting for bytes from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filled {
    Data,
    /// The client has closed or reset the connection.
    Closed,
    TimedOut,
    /// Bytes have arrived, but the admission queue doesn't admit the connection right away.
    Queued,
}

/// Serves a connection until it is closed, and drops `held` then.
///
/// Not an `async fn`: an async function stores its arguments a second time when it moves them. Everything that the loop needs is
/// built before the future, so that an idle connection holds one copy.
pub(crate) fn serve<T>(
    worker: Rc<Worker>,
    accepted: Accepted,
    held: T,
) -> impl Future<Output = ()> {
    let Accepted {
        stream,
        peer,
        listener,
        tls,
        permit,
        control,
    } = accepted;
    let peer = Peer::new(
        peer,
        tls.is_some(),
        tls.as_ref().and_then(|tls| tls.certificate.clone()),
        listener.metrics.clone(),
        &listener.trusted,
    )
    .over(tls.as_ref().and_then(|tls| tls.version))
    .connected_to(match worker.snapshot().announces_clients {
        true => stream.local_address(),
        false => None,
    });
    let mut down = H1Down::new(H1::new(stream, worker.buffers.clone()));
    async move {
        // Mentioned here so that the future owns both: they are dropped when it is, which is the end of the connection.
        let _held = (&held, &permit);
        let _gauge = ConnectionGauge::enter(&listener.metrics[worker.id.0]);
        let conn = ConnectionContext {
            worker: &worker,
            control: &control,
            listener: &listener,
            peer: &peer,
            tls: tls.as_ref(),
        };
        let protocol = match &tls {
            Some(tls) if tls.alpn_h2 => FirstBytes::Http2,
            None if listener.h2 => detect_protocol(&conn, &mut down).await,
            _ => FirstBytes::Http1,
        };
        match protocol {
            // Boxed, so that HTTP/1 connections don't pay for its size.
            FirstBytes::Http2 => Box::pin(super::h2::serve(worker.clone(), conn, down.wire)).await,
            FirstBytes::Http1 if listener.h1 => {
                match conn.serve_h1(&mut down).await {
                    AfterRequest::Abort => down.abort(),
                    // A client that doesn't read gets some time for the rest.
                    _ if down.wire.stream().has_unsent() => Box::pin(conn.linger(&mut down)).await,
                    _ => {}
                }
            }
            FirstBytes::IncompletePreface if listener.h1 => {
                Box::pin(conn.refuse_preface(&mut down)).await;
            }
            FirstBytes::Http1 | FirstBytes::IncompletePreface | FirstBytes::Closed => {}
        }
    }
}

/// The protocol that the first bytes of a connection indicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FirstBytes {
    /// HTTP/2, by ALPN or by prior knowledge.
    Http2,
    /// Anything else. If it is not HTTP at all, the HTTP/1 parser rejects it.
    Http1,
    /// Only a part of the HTTP/2 preface arrived in time.
    IncompletePreface,
    /// The connection was closed by the client, idle for too long, or shut.
    Closed,
}

/// Reads until it is clear whether the client speaks HTTP/2 by prior knowledge (RFC 9113 §3.3).
async fn detect_protocol(conn: &ConnectionContext<'_>, down: &mut H1Down) -> FirstBytes {
    conn.control
        .arm(conn.worker.snapshot().spec.limits.keepalive_timeout);
    loop {
        let seen = down.wire.mem.input.bytes();
        let n = seen.len().min(PREFACE.len());
        if seen[..n] != PREFACE[..n] {
            return FirstBytes::Http1;
        }
        if n == PREFACE.len() {
            return FirstBytes::Http2;
        }
        if n > 0 && conn.control.phase() != TaskPhase::Head {
            // From its first byte on a head is subject to the header timeout instead of the keepalive timeout.
            conn.control.enter(TaskPhase::Head);
            conn.control
                .arm(conn.worker.snapshot().spec.limits.header_timeout);
        }
        match conn.filled(down).await {
            Filled::Data => {}
            Filled::TimedOut
                if conn.control.phase() == TaskPhase::Head && !conn.control.is_shut() =>
            {
                return FirstBytes::IncompletePreface;
            }
            Filled::TimedOut | Filled::Closed | Filled::Queued => return FirstBytes::Closed,
        }
    }
}

impl ConnectionContext<'_> {
    async fn filled(&self, down: &mut H1Down) -> Filled {
        self.filled_if(down, || true).await
    }

    /// Waits for bytes, and reads them unless `is_open` says that the worker admits no more requests at the moment.
    async fn filled_if(&self, down: &mut H1Down, is_open: impl Fn() -> bool) -> Filled {
        poll_fn(|cx| {
            let mut queued = false;
            let polled = down.wire.poll_fill_in_turn(cx, |_| {
                queued = !is_open();
                if queued {
                    Poll::Pending
                } else {
                    Poll::Ready(())
                }
            });
            match polled {
                Poll::Ready(Ok(1..)) => Poll::Ready(Filled::Data),
                Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(Filled::Closed),
                Poll::Pending if queued => Poll::Ready(Filled::Queued),
                Poll::Pending if self.control.expired(cx) => Poll::Ready(Filled::TimedOut),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// The request record's initial values for a request that begins now.
    fn inbound<'s>(&'s self, snapshots: &'s RequestSnapshots, version: HttpVersion) -> Inbound<'s> {
        Inbound {
            worker: self.worker,
            snapshot: snapshots.first(),
            snapshots,
            peer: self.peer,
            listener: &self.listener.name,
            protocol: match version {
                HttpVersion::H10 => Protocol::Http10,
                HttpVersion::H11 => Protocol::Http11,
            },
            started: Instant::now(),
        }
    }

    async fn serve_h1(&self, down: &mut H1Down) -> AfterRequest {
        loop {
            if down.wire.mem.input.is_empty() && !self.await_request(down).await {
                return AfterRequest::Close;
            }
            // Boxed, so that a parked connection doesn't hold the memory that serving a request takes.
            match Box::pin(self.serve_burst(down)).await {
                AfterRequest::KeepAlive => {}
                end => return end,
            }
        }
    }

    /// Serves requests as long as each follows the last one within [`BURST_PAUSE`].
    async fn serve_burst(&self, down: &mut H1Down) -> AfterRequest {
        loop {
            match self.serve_one(down).await {
                AfterRequest::KeepAlive => {}
                end => return end,
            }
            self.control.enter(TaskPhase::Idle);
            if !down.wire.mem.input.is_empty() {
                continue;
            }
            down.wire.release();
            let keepalive = self.worker.snapshot().spec.limits.keepalive_timeout;
            self.control.arm(keepalive.min(BURST_PAUSE));
            // Only bytes are waited for here. A connection that has to queue for admission is parked first.
            let is_open = || self.worker.admission.is_open();
            match self.filled_if(down, is_open).await {
                Filled::Data => {}
                Filled::Closed => return AfterRequest::Close,
                Filled::TimedOut if self.control.is_shut() || keepalive <= BURST_PAUSE => {
                    return AfterRequest::Close;
                }
                Filled::TimedOut | Filled::Queued => return AfterRequest::KeepAlive,
            }
        }
    }

    /// Serves one request, and prepares the connection for what follows.
    async fn serve_one(&self, down: &mut H1Down) -> AfterRequest {
        let mut head = self.worker.take_request_head();
        let read = self.read_head(down, &mut head).await;
        // Taken after the head was read, which may take long: the request is served by the latest configuration.
        let snapshots = RequestSnapshots::of(self.worker);
        let inbound = self.inbound(&snapshots, head.version);
        match read {
            Ok(true) => {}
            Ok(false) => return AfterRequest::Close,
            Err(answer) => {
                self.refuse(&inbound, down, answer).await;
                return AfterRequest::Close;
            }
        }
        let ended = self.one_request(&inbound, down, &head).await;
        self.worker.give_request_head(head);
        match ended {
            Ended::Whole if down.keeps_alive() && self.drain_body(down).await => {
                AfterRequest::KeepAlive
            }
            Ended::Whole => {
                self.linger(down).await;
                AfterRequest::Close
            }
            // Nothing is left undelivered over HTTP/1: the connection has no other request to serve meanwhile.
            Ended::Cut | Ended::Undelivered(_) => {
                // A chunked or length-delimited response shows by itself that it is incomplete. The client gets the part that was
                // sent before the connection is reset.
                if down.is_self_delimiting() && !self.control.is_shut() {
                    self.linger(down).await;
                }
                AfterRequest::Abort
            }
            Ended::Tunnel => AfterRequest::Close,
        }
    }

    /// Waits, parked, until bytes have arrived and the admission queue gives the connection its turn. `false` if it is over.
    async fn await_request(&self, down: &mut H1Down) -> bool {
        self.control
            .arm(self.worker.snapshot().spec.limits.keepalive_timeout);
        let mut ticket = Ticket::default();
        poll_fn(|cx| {
            let turn = |cx: &mut Context<'_>| self.worker.admission.poll_turn(cx, &mut ticket);
            match down.wire.poll_fill_in_turn(cx, turn) {
                Poll::Ready(filled) => Poll::Ready(filled.is_ok_and(|n| n > 0)),
                // The client has sent a request and waits for us: the connection is neither timed out nor shed as idle.
                Poll::Pending if ticket.waits() && !self.control.is_shut() => {
                    self.control.ensure(TaskPhase::Request);
                    Poll::Pending
                }
                Poll::Pending if self.control.expired(cx) => Poll::Ready(false),
                Poll::Pending => {
                    self.control.ensure(TaskPhase::Idle);
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Reads a complete head. `Ok(false)` if the connection is over before.
    ///
    /// # Errors
    /// The reply to a head that is malformed, too large or too slow.
    async fn read_head(
        &self,
        down: &mut H1Down,
        head: &mut RequestHead,
    ) -> Result<bool, LocalReply> {
        let snapshot = self.worker.snapshot();
        let limits = &snapshot.spec.limits;
        // Protocol detection may have received the head's first bytes and used up part of the header timeout.
        let spent = match self.control.phase() {
            TaskPhase::Head => Duration::from_millis(self.control.age_ms()),
            _ => Duration::ZERO,
        };
        self.control.ensure(TaskPhase::Head);
        self.control
            .arm(limits.header_timeout.saturating_sub(spent));
        let limits = HeadLimits {
            bytes: limits.header_bytes,
            fields: limits.headers,
            target: limits.target_bytes,
            underscores: limits.underscores,
        };
        loop {
            let received = down.wire.mem.input.bytes();
            let cache = &self.worker.request_cache;
            let parsed = head.parse_cached(received, &limits, &mut cache.borrow_mut());
            if parsed.map_err(LocalReply::refuse)?.is_some() {
                return Ok(true);
            }
            match self.filled(down).await {
                Filled::Data => {}
                Filled::TimedOut if !self.control.is_shut() => {
                    return Err(LocalReply::HEADER_TIMEOUT);
                }
                Filled::TimedOut | Filled::Closed | Filled::Queued => return Ok(false),
            }
        }
    }

    async fn one_request(
        &self,
        inbound: &Inbound<'_>,
        down: &mut H1Down,
        head: &RequestHead,
    ) -> Ended {
        let scratch = Scratch::take(&self.worker.buffers, &mut down.wire.mem.input, head);
        let keep_alive = head.keep_alive && !self.control.is_closing();
        down.begin(head.version, keep_alive, head.framing);
        if head.expect_continue {
            down.awaits_continue();
        }
        let (control, snapshot) = (self.control, inbound.snapshot);
        let parsed = match Parsed::new(self, head, &scratch) {
            Ok(parsed) => parsed,
            Err(reject) => {
                down.close_after();
                let answer = LocalReply::refuse(reject);
                let rejected = request::rejected(head, &scratch);
                return proxy::refuse_head(inbound, control, &rejected, down, answer).await;
            }
        };
        let request = parsed.request();
        let mut recording = Recording::of_request(inbound, &request);
        // Before the redirect to https: the authority asks over clear text, and before the first order has succeeded there is no
        // certificate to redirect to (RFC 8555 section 8.3).
        if let Some(text) = self.listener.challenge_answer(&request) {
            return proxy::answer_challenge(control, snapshot, &mut recording, down, &text).await;
        }
        let misdirected = |tls: &&TlsInfo| tls.misdirected(request.host);
        if self.tls.as_ref().is_some_and(misdirected) {
            let answer = LocalReply::MISDIRECTED;
            return proxy::refuse(control, snapshot, &mut recording, down, answer).await;
        }
        if self.listener.redirect_https {
            return proxy::redirect_https(control, snapshot, &request, &mut recording, down).await;
        }
        proxy::handle(inbound, control, &request, &mut recording, down).await
    }

    /// Answers a preface that was not completed in time, and closes the connection.
    async fn refuse_preface(&self, down: &mut H1Down) {
        let snapshots = RequestSnapshots::of(self.worker);
        let inbound = self.inbound(&snapshots, HttpVersion::H11);
        self.refuse(&inbound, down, LocalReply::HEADER_TIMEOUT)
            .await;
    }

    /// Answers a head that can't be served, and closes the connection.
    async fn refuse(&self, inbound: &Inbound<'_>, down: &mut H1Down, answer: LocalReply) {
        down.begin(HttpVersion::H11, false, Framing::Empty);
        let head = &RejectedHead::UNREADABLE;
        let refused = proxy::refuse_head(inbound, self.control, head, down, answer);
        if matches!(refused.await, Ended::Whole) {
            self.linger(down).await;
        }
    }

    /// Discards the rest of the request's body, so that the next request can be read. `false` if it is malformed, too long or too
    /// slow; the connection has to be closed then.
    async fn drain_body(&self, down: &mut H1Down) -> bool {
        use crate::proxy::wire::{BodyPiece, Source};
        if down.wire.source_is_done() {
            return true;
        }
        self.control.arm(LINGER);
        let mut left = DISCARD_MAX;
        poll_fn(|cx| {
            loop {
                match down.poll_piece(cx) {
                    Poll::Ready(Ok(BodyPiece::Data(n))) if n <= left => {
                        left -= n;
                        down.consume(n);
                    }
                    Poll::Ready(Ok(BodyPiece::Data(_)) | Err(_)) => return Poll::Ready(false),
                    Poll::Ready(Ok(BodyPiece::Trailers | BodyPiece::End)) => {
                        return Poll::Ready(true);
                    }
                    Poll::Pending if self.control.expired(cx) => return Poll::Ready(false),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    /// Lingering close (RFC 9112 §9.6): ends our side, then reads and discards what the client still sends.
    ///
    /// If the socket were closed with bytes unread, or if more arrived later, the kernel would answer with a reset. A client that
    /// receives it may drop the part of the response that it has not read yet.
    async fn linger(&self, down: &mut H1Down) {
        use crate::proxy::wire::Sink;
        self.control.arm(LINGER);
        let mut left = 4 * DISCARD_MAX;
        let mut shut = false;
        poll_fn(|cx| {
            if !shut {
                match down.poll_shutdown(cx) {
                    Poll::Ready(Ok(())) => shut = true,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending if self.control.expired(cx) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
            loop {
                left = left.saturating_sub(down.wire.mem.input.len());
                down.wire.mem.input.clear();
                // Ends on the client's FIN, on an error, at the deadline, or when the client doesn't stop sending.
                match down.wire.poll_fill(cx) {
                    Poll::Ready(Ok(n)) if n > 0 && left > 0 => {}
                    Poll::Pending if !self.control.expired(cx) => return Poll::Pending,
                    _ => return Poll::Ready(()),
                }
            }
        })
        .await;
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
