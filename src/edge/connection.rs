//! One downstream connection: which protocol it speaks, and the HTTP/1 loop from request to request.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::admission::ConnectionPermit;
use super::counted::CountedConnection;
use super::request::{Parsed, Scratch};
use super::tls::TlsInfo;
use crate::http1::{Framing, HeadLimits, HttpVersion, Method, RequestHead};
use crate::net::{OwnedTaskControl, Stream, TaskControl, TaskPhase};
use crate::proxy::admission_queue::Ticket;
use crate::proxy::h1::H1;
use crate::proxy::h1_down::H1Down;
use crate::proxy::via::Via;
use crate::proxy::wire::Downstream;
use crate::proxy::{self, Ended, Inbound, LocalReply, Peer, Recording, Worker};
use crate::snapshot::Snapshot;
use crate::telemetry::ListenerShard;
use crate::telemetry::record::Protocol;

/// How an HTTP/2 connection begins (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// So much of an unread body is read and dropped so that the connection, or at least the answer, survives.
const DRAIN: usize = 64 * 1024;
/// A connection whose next request comes within this keeps what the requests need beside their buffers.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a closing connection waits for the client to take the last answer.
const LINGER: Duration = Duration::from_secs(2);

/// A listener as its connections see it: fixed at the time they were accepted.
#[derive(Debug)]
pub(crate) struct ListenerInfo {
    /// The server's own number of it, for drains.
    pub id: usize,
    /// `[listen.NAME]`.
    pub name: String,
    /// HTTP/1.1 offered.
    pub h1: bool,
    /// HTTP/2 offered.
    pub h2: bool,
    /// Answers every request with a redirect to https.
    pub redirect_https: bool,
    /// Peers that are believed in what they say about the client.
    pub trusted: Vec<IpNet>,
    /// Repeated slashes in a path become one.
    pub merge_slashes: bool,
    /// What requests are given in `Via`.
    pub via: Option<Via>,
    /// Its counters: one shard a worker.
    pub metrics: Arc<[ListenerShard]>,
}

/// A connection that was accepted, its TLS handshake done.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// The bytes.
    pub stream: Stream,
    /// Who; `None` for a Unix socket.
    pub peer: Option<SocketAddr>,
    /// By which listener.
    pub listening: Arc<ListenerInfo>,
    /// What was agreed in the handshake.
    pub tls: Option<TlsInfo>,
    /// Its place among those that may be open.
    pub place: ConnectionPermit,
    /// Its deadline, and what others want of it, since it was accepted.
    pub watched: OwnedTaskControl,
}

/// What stays the same for all requests of one connection.
pub(super) struct ConnectionContext<'a> {
    pub worker: &'a Worker,
    pub watch: &'a Rc<TaskControl>,
    pub listening: &'a Arc<ListenerInfo>,
    pub peer: &'a Peer,
    pub tls: Option<&'a TlsInfo>,
}

/// What follows a request.
enum AfterRequest {
    /// Another one.
    Again,
    /// The connection is at its end.
    Over,
    /// The answer is not whole.
    Abort,
}

/// What came of waiting for bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filled {
    /// There are some.
    Some,
    /// The client has closed or reset the connection.
    Over,
    /// The time is over.
    Late,
    /// There are some, and others are first.
    Crowd,
}

/// Serves a connection until it ends; `held` is let go then.
///
/// What it begins with is made before the future, so that an idle connection holds one copy of it.
pub(crate) fn serve<T>(
    worker: Rc<Worker>,
    accepted: Accepted,
    held: T,
) -> impl Future<Output = ()> {
    let Accepted {
        stream,
        peer,
        listening,
        tls,
        place,
        watched,
    } = accepted;
    let peer = Peer::new(
        peer,
        tls.is_some(),
        tls.as_ref().and_then(|tls| tls.certificate.clone()),
        listening.metrics.clone(),
        &listening.trusted,
    );
    let mut down = H1Down::new(H1::new(stream, worker.buffers.clone()));
    async move {
        let _held = (&held, &place);
        let _counted = CountedConnection::enter(&listening.metrics[worker.id]);
        let conn = ConnectionContext {
            worker: &worker,
            watch: &watched,
            listening: &listening,
            peer: &peer,
            tls: tls.as_ref(),
        };
        let opening = match &tls {
            Some(tls) if tls.alpn_h2 => FirstBytes::Http2,
            None if listening.h2 => opening(&conn, &mut down).await,
            _ => FirstBytes::Http1,
        };
        match opening {
            // Boxed: a parked HTTP/1 connection pays nothing for it.
            FirstBytes::Http2 => Box::pin(super::h2::serve(worker.clone(), conn, down.wire)).await,
            FirstBytes::Http1 if listening.h1 => {
                if let AfterRequest::Abort = conn.serve_h1(&mut down).await {
                    down.abort();
                }
            }
            FirstBytes::Late if listening.h1 => {
                let snapshot = worker.snapshot();
                let inbound = conn.inbound(&snapshot, HttpVersion::H11);
                Box::pin(conn.refuse(inbound, &mut down, LocalReply::HEADER_TIMEOUT)).await;
            }
            FirstBytes::Http1 | FirstBytes::Late | FirstBytes::Over => {}
        }
    }
}

/// What the first bytes of a connection say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FirstBytes {
    /// HTTP/2, agreed on by ALPN or begun by prior knowledge.
    Http2,
    /// Anything else: the HTTP/1 parser answers it.
    Http1,
    /// A part of the HTTP/2 preface came, and not the rest of it in time.
    Late,
    /// It ended, was silent for too long, or was shut.
    Over,
}

/// Reads until it is clear whether the client speaks HTTP/2 by prior knowledge (RFC 9113 §3.3).
async fn opening(conn: &ConnectionContext<'_>, down: &mut H1Down) -> FirstBytes {
    conn.watch
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
        if n > 0 && conn.watch.phase() != TaskPhase::Head {
            // From its first byte on a head has the time of a head, not that of a silence.
            conn.watch.enter(TaskPhase::Head);
            conn.watch
                .arm(conn.worker.snapshot().spec.limits.header_timeout);
        }
        match conn.filled(down).await {
            Filled::Some => {}
            Filled::Late if conn.watch.phase() == TaskPhase::Head && !conn.watch.is_shut() => {
                return FirstBytes::Late;
            }
            Filled::Late | Filled::Over | Filled::Crowd => return FirstBytes::Over,
        }
    }
}

impl ConnectionContext<'_> {
    async fn filled(&self, down: &mut H1Down) -> Filled {
        self.filled_if(down, || true).await
    }

    async fn filled_if(&self, down: &mut H1Down, is_open: impl Fn() -> bool) -> Filled {
        poll_fn(|cx| {
            let mut crowd = false;
            let polled = down.wire.poll_fill_in_turn(cx, |_| {
                crowd = !is_open();
                if crowd {
                    Poll::Pending
                } else {
                    Poll::Ready(())
                }
            });
            match polled {
                Poll::Ready(Ok(1..)) => Poll::Ready(Filled::Some),
                Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(Filled::Over),
                Poll::Pending if crowd => Poll::Ready(Filled::Crowd),
                Poll::Pending if self.watch.expired(cx) => Poll::Ready(Filled::Late),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// What the record of a request that was read now begins with.
    fn inbound<'s>(&'s self, snapshot: &'s Snapshot, version: HttpVersion) -> Inbound<'s> {
        Inbound {
            worker: self.worker,
            snapshot,
            peer: self.peer,
            listener: &self.listening.name,
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
                return AfterRequest::Over;
            }
            // Boxed, so that a parked connection doesn't hold a request's memory: whichever connection has work next gets it.
            match Box::pin(self.work(down)).await {
                AfterRequest::Again => {}
                end => return end,
            }
        }
    }

    /// Requests, as long as one follows the other without a pause.
    async fn work(&self, down: &mut H1Down) -> AfterRequest {
        loop {
            match self.turn(down).await {
                AfterRequest::Again => {}
                end => return end,
            }
            self.watch.enter(TaskPhase::Idle);
            if !down.wire.mem.input.is_empty() {
                continue;
            }
            down.wire.release();
            let patience = self.worker.snapshot().spec.limits.keepalive_timeout;
            self.watch.arm(patience.min(PAUSE));
            // The next request's first bytes, but not its turn, are waited for here.
            let is_open = || self.worker.admission.is_open();
            match self.filled_if(down, is_open).await {
                Filled::Some => {}
                Filled::Over => return AfterRequest::Over,
                Filled::Late if self.watch.is_shut() || patience <= PAUSE => {
                    return AfterRequest::Over;
                }
                // It may take a while: without the memory of a request.
                Filled::Late | Filled::Crowd => return AfterRequest::Again,
            }
        }
    }

    /// One request, from its head to what is left of its body.
    async fn turn(&self, down: &mut H1Down) -> AfterRequest {
        let mut head = self.worker.take_request_head();
        let read = self.read_head(down, &mut head).await;
        // A head may have taken a while: the request is served by what is in force now.
        let snapshot = self.worker.snapshot();
        let inbound = self.inbound(&snapshot, head.version);
        match read {
            Ok(true) => {}
            Ok(false) => return AfterRequest::Over,
            Err(answer) => {
                self.refuse(inbound, down, answer).await;
                return AfterRequest::Over;
            }
        }
        let ended = self.one_request(inbound, down, &head).await;
        self.worker.give_request_head(head);
        match ended {
            Ended::Whole if down.keeps_alive() && self.drain_body(down).await => {
                AfterRequest::Again
            }
            Ended::Whole => {
                self.take_leave(down).await;
                AfterRequest::Over
            }
            Ended::Cut => {
                // What came of the answer is the client's: half of it says more than a connection that ends without a word.
                if down.is_self_delimiting() && !self.watch.is_shut() {
                    self.take_leave(down).await;
                }
                AfterRequest::Abort
            }
            Ended::Tunnel => AfterRequest::Over,
        }
    }

    /// Between requests: parked until bytes come and it is their turn. `false`: the connection is over.
    async fn await_request(&self, down: &mut H1Down) -> bool {
        self.watch
            .arm(self.worker.snapshot().spec.limits.keepalive_timeout);
        let mut ticket = Ticket::default();
        poll_fn(|cx| {
            let turn = |cx: &mut Context<'_>| self.worker.admission.poll_turn(cx, &mut ticket);
            match down.wire.poll_fill_in_turn(cx, turn) {
                Poll::Ready(filled) => Poll::Ready(filled.is_ok_and(|n| n > 0)),
                // The client has done its part: its request waits for us, so it is neither late nor idle.
                Poll::Pending if ticket.waits() && !self.watch.is_shut() => {
                    self.watch.ensure(TaskPhase::Request);
                    Poll::Pending
                }
                Poll::Pending if self.watch.expired(cx) => Poll::Ready(false),
                Poll::Pending => {
                    self.watch.ensure(TaskPhase::Idle);
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Reads a whole head. `Ok(false)`: the client left before it was whole.
    async fn read_head(
        &self,
        down: &mut H1Down,
        head: &mut RequestHead,
    ) -> Result<bool, LocalReply> {
        let snapshot = self.worker.snapshot();
        let limits = &snapshot.spec.limits;
        // A head that began while its protocol was unclear has been given a part of its time already.
        let spent = match self.watch.phase() {
            TaskPhase::Head => Duration::from_millis(self.watch.age_ms()),
            _ => Duration::ZERO,
        };
        self.watch.ensure(TaskPhase::Head);
        self.watch.arm(limits.header_timeout.saturating_sub(spent));
        let limits = HeadLimits {
            bytes: limits.header_bytes,
            fields: limits.headers,
            target: limits.target_bytes,
            underscores: limits.underscores,
        };
        loop {
            if head
                .parse(down.wire.mem.input.bytes(), &limits)
                .map_err(LocalReply::refuse)?
                .is_some()
            {
                return Ok(true);
            }
            match self.filled(down).await {
                Filled::Some => {}
                Filled::Late if !self.watch.is_shut() => return Err(LocalReply::HEADER_TIMEOUT),
                Filled::Late | Filled::Over | Filled::Crowd => return Ok(false),
            }
        }
    }

    async fn one_request(
        &self,
        inbound: Inbound<'_>,
        down: &mut H1Down,
        head: &RequestHead,
    ) -> Ended {
        let scratch = Scratch::of(
            &self.worker.buffers,
            &down.wire.mem.input.bytes()[..head.len],
        );
        down.wire.mem.input.consume(head.len);
        let keep_alive = head.keep_alive && !self.watch.is_closing();
        down.begin(head.version, keep_alive, head.framing);
        if head.expect_continue {
            down.awaits_continue();
        }
        let (watch, snapshot) = (self.watch, inbound.snapshot);
        let parsed = match Parsed::new(self, head, &scratch) {
            Ok(parsed) => parsed,
            Err(reject) => {
                down.close_after();
                let answer = LocalReply::refuse(reject);
                return proxy::refuse_head(inbound, watch, head.method, down, answer).await;
            }
        };
        let request = parsed.request();
        let mut recording = Recording::of_request(inbound, &request);
        let misdirected = |tls: &&TlsInfo| tls.misdirected(request.host);
        if self.tls.as_ref().is_some_and(misdirected) {
            let answer = LocalReply::MISDIRECTED;
            return proxy::refuse(watch, snapshot, &mut recording, down, answer).await;
        }
        if self.listening.redirect_https {
            return proxy::redirect_https(watch, snapshot, &request, &mut recording, down).await;
        }
        proxy::handle(inbound, watch, &request, &mut recording, down).await
    }

    /// Answers a head that can't be used; the connection ends.
    async fn refuse(&self, inbound: Inbound<'_>, down: &mut H1Down, answer: LocalReply) {
        down.begin(HttpVersion::H11, false, Framing::Empty);
        let refused = proxy::refuse_head(inbound, self.watch, Method::Other, down, answer);
        if refused.await == Ended::Whole {
            self.take_leave(down).await;
        }
    }

    /// Reads what is left of a request's body. `false`: it is too much, or broken, and the connection has to end.
    async fn drain_body(&self, down: &mut H1Down) -> bool {
        use crate::proxy::wire::{BodyPiece, Source};
        if down.wire.source_is_done() {
            return true;
        }
        self.watch.arm(LINGER);
        let mut left = DRAIN;
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
                    Poll::Pending if self.watch.expired(cx) => return Poll::Ready(false),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    /// Ends our side, then reads for a while what the client still sends: a close with unread bytes would be a reset, and the reset may
    /// overtake the answer.
    async fn take_leave(&self, down: &mut H1Down) {
        use crate::proxy::wire::Sink;
        self.watch.arm(LINGER);
        let mut left = 4 * DRAIN;
        let mut shut = false;
        poll_fn(|cx| {
            if !shut {
                match down.poll_shutdown(cx) {
                    Poll::Ready(Ok(())) => shut = true,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending if self.watch.expired(cx) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
            loop {
                left = left.saturating_sub(down.wire.mem.input.len());
                down.wire.mem.input.clear();
                match down.wire.poll_fill(cx) {
                    Poll::Ready(Ok(n)) if n > 0 && left > 0 => {}
                    Poll::Pending if !self.watch.expired(cx) => return Poll::Pending,
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
