//! One downstream HTTP/2 connection and its streams, all in one task.
//!
//! The h2 crate does framing, HPACK and flow control; [`Driver`] polls it and the streams in turn. [`stream_slots`] keeps track
//! of which streams were woken. [`io`] gathers writes and lets [`meter`] see all bytes, which bounds the frames that cost us
//! work and the client nothing. [`windows`] sizes receive windows, [`idle`] sets the deadlines of a connection without open
//! streams, [`state`] is what a connection and its streams share, and [`head`] validates a request head and converts it for
//! the data path.

mod head;
mod idle;
mod io;
mod meter;
mod state;
mod stream_slots;
mod windows;

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use tokio::task::coop::unconstrained;

use self::head::{HeadScan, RequestHead, rejected};
use self::io::{GatheringStream, Io};
use self::state::{ConnectionState, LINGER, OpenStream};
use self::stream_slots::{JobSlot, StreamSlots};
use super::connection_context::ConnectionContext;
use super::tls::TlsInfo;
use crate::config::spec::ProxyLimits;
use crate::http2::Flaw;
use crate::net::{OutgoingPiece, TaskControl, TaskPhase};
use crate::proxy::error::ExchangeError;
use crate::proxy::h1::H1;
use crate::proxy::h2_down::H2Down;
use crate::proxy::{self, Ended, LocalReply, Recording, RequestSnapshots, Worker};

/// Most bytes of one response that wait inside the h2 crate.
const SEND_BUFFER: usize = 64 * 1024;
/// Stream resets that the client's own errors may cause before the connection is closed. Refused streams count as well.
const ERRORS: usize = 500;
/// Streams that the client reset before they were accepted. The meter closes a connection that resets streams rapidly long
/// before it reaches this number.
const PENDING_RESETS: usize = 1024;
/// How often connection and streams are polled in turn before other tasks get to run.
const TURNS: usize = 8;
/// Streams that are started before other tasks get to run. Each begins its request at once, so a client that opens all streams
/// that it may with one packet would otherwise stall the worker for as long as that takes.
const STARTS: usize = 48;

/// Serves a connection that speaks HTTP/2 until it is closed. `wire` holds the bytes that were read to detect the protocol.
pub(super) async fn serve(worker: Rc<Worker>, conn: ConnectionContext<'_>, mut wire: H1) {
    let limits = worker.snapshot().spec.limits.clone();
    let shared = Rc::new(ConnectionState::new(worker, &conn, limits.streams));
    let early = Bytes::copy_from_slice(wire.mem.input.bytes());
    wire.mem.input.clear();
    let (io, transport) = Io::new(
        early,
        wire.into_stream(),
        shared.worker.buffers.clone(),
        shared.meter.clone(),
        shared.streams.flaws.clone(),
    );
    let Some(connection) = handshake(&shared, &limits, io, &transport).await else {
        return;
    };
    shared.enter_idle();
    let driver = Driver {
        shared: &shared,
        transport,
        connection,
        slots: StreamSlots::new(shared.limit, |jobs| Box::pin(serve_streams(jobs))),
        started: 0,
    };
    // Tokio's budget would make sockets look pending in the middle of a round, and the round would then be flushed in pieces.
    // The driver yields by itself, after TURNS rounds.
    unconstrained(driver.run()).await;
}

/// Exchanges prefaces and SETTINGS (RFC 9113 §3.4) within the time that a request head may take. `None` if that fails.
async fn handshake(
    shared: &ConnectionState,
    limits: &ProxyLimits,
    io: Io,
    transport: &RefCell<GatheringStream>,
) -> Option<Connection<Io, OutgoingPiece>> {
    let mut handshake = pin!(
        Builder::new()
            .initial_connection_window_size(shared.windows.connection)
            .initial_window_size(shared.windows.stream)
            .max_send_buffer_size(SEND_BUFFER)
            .max_concurrent_streams(limits.streams)
            // The h2 crate rejects a larger list without reporting it. With twice the limit, a list that is only somewhat too
            // large still reaches us and is answered by 431 and counted.
            .max_header_list_size(u32::try_from(2 * limits.header_bytes).unwrap_or(u32::MAX))
            .max_local_error_reset_streams(Some(ERRORS))
            .max_pending_accept_reset_streams(PENDING_RESETS)
            .handshake::<_, OutgoingPiece>(io)
    );
    shared.control.enter(TaskPhase::Head);
    shared.control.arm(limits.header_timeout);
    poll_fn(|cx| {
        transport.borrow_mut().retry_read();
        match handshake.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(result.ok()),
            Poll::Pending if has_failed(transport.borrow_mut().poll_flush(cx)) => Poll::Ready(None),
            Poll::Pending if shared.control.expired(cx) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

fn has_failed(flushed: Poll<std::io::Result<()>>) -> bool {
    matches!(flushed, Poll::Ready(Err(_)))
}

/// Drives a connection and its streams.
struct Driver<'a> {
    shared: &'a Rc<ConnectionState>,
    transport: Rc<RefCell<GatheringStream>>,
    connection: Connection<Io, OutgoingPiece>,
    slots: StreamSlots<Job>,
    /// Streams started since the task was polled.
    started: usize,
}

impl Driver<'_> {
    /// Runs until the connection is over and all of its streams have ended.
    async fn run(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
        let Self {
            connection,
            transport,
            mut slots,
            ..
        } = self;
        // Dropping the connection fails the bodies and responses of streams that are still open. Each stream finds that out when
        // it is polled next, and ends with a request record of its own.
        drop((connection, transport));
        poll_fn(|cx| {
            slots.unpark(cx.waker());
            for _ in 0..TURNS {
                slots.poll();
                if slots.are_idle() {
                    return Poll::Ready(());
                }
                if !slots.take_wake() && slots.try_park() {
                    return Poll::Pending;
                }
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    /// Polls streams and connection in turn until neither has anything to do. Ready when the connection is over.
    fn poll(&mut self, task: &mut Context<'_>) -> Poll<()> {
        self.slots.unpark(task.waker());
        self.started = 0;
        for _ in 0..TURNS {
            // Streams first: what they send wakes the connection, which then writes all of it at once.
            self.slots.poll();
            // A full connection is not polled for new streams, so that nothing wakes it when a stream ends and makes room.
            let has_room_again = self.shared.full.get() && self.shared.has_room();
            if (self.slots.take_wake() || has_room_again) && self.poll_connection().is_ready() {
                return Poll::Ready(());
            }
            if self.started >= STARTS {
                // The connection may hold further streams, for which nothing else would wake it. The runtime polls for I/O
                // before it polls this task again.
                self.slots.waker.wake_by_ref();
                return pin!(tokio::task::yield_now()).poll(task);
            }
            // Refused if anything was woken since: it is handled in the next round.
            if self.slots.try_park() {
                return Poll::Pending;
            }
        }
        // The task is not parked, so that the wakers of its slots don't wake it.
        task.waker().wake_by_ref();
        Poll::Pending
    }

    /// Polls the connection with its own waker, and writes what it produced. Ready when the connection is over.
    fn poll_connection(&mut self) -> Poll<()> {
        let waker = self.slots.waker.clone();
        let cx = &mut Context::from_waker(&waker);
        self.transport.borrow_mut().retry_read();
        self.shared.polled_at.set(Instant::now());
        if self.drive(cx).is_ready() || has_failed(self.transport.borrow_mut().poll_flush(cx)) {
            return Poll::Ready(());
        }
        self.shared.unsent.set(self.transport.borrow().unsent());
        self.shared.update_delivery_deadline();
        Poll::Pending
    }

    /// Accepts streams, adjusts windows and closes the connection when it is time to. Ready when the connection is over.
    ///
    /// Only [`poll_accept`] makes the h2 crate read and write. So each step that queues a frame leads to another round.
    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let shared = self.shared;
        loop {
            let accepted = match self.started < STARTS {
                true => poll_accept(shared, &mut self.connection, cx),
                false => Poll::Pending,
            };
            match accepted {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    self.started += 1;
                    self.slots.start(Job {
                        open: shared.clone().enter(),
                        request,
                        respond,
                    });
                    continue;
                }
                Poll::Ready(None | Some(Err(_))) => return Poll::Ready(()),
                Poll::Pending => {}
            }
            let (open, bulk) = (shared.open.get(), shared.streams.bulk.get());
            if shared.windows.fit(open, bulk, &mut self.connection) {
                continue;
            }
            shared.update_head_deadline();
            let expired = self.poll_deadline(cx);
            if shared.control.is_shut() || (expired && shared.closing.get()) {
                return Poll::Ready(());
            }
            if !self.begin_close(expired) {
                return Poll::Pending;
            }
        }
    }

    /// Whether the connection's deadline has passed. The first deadline of an idle connection only releases the memory of its
    /// former streams; the rest of the idle time follows.
    fn poll_deadline(&mut self, cx: &Context<'_>) -> bool {
        if !self.shared.control.expired(cx) {
            return false;
        }
        let Some(rest) = self.shared.idle_after_release.take() else {
            return true;
        };
        self.slots.clear();
        self.shared.control.arm(rest);
        false
    }

    /// Begins to close the connection if there is a reason to. An abrupt close may overtake a graceful one, never the reverse.
    /// Returns whether anything was begun, so that the connection has to be polled again.
    fn begin_close(&mut self, expired: bool) -> bool {
        let (shared, meter) = (self.shared, &*self.shared.meter);
        if meter.is_exhausted() && !meter.goaway_sent.replace(true) {
            // Also while a graceful close is under way: an abusive client gets no more service.
            shared.closing.set(true);
            self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            shared.arm(LINGER);
        } else if meter.write_closed.get() && !shared.closing.replace(true) {
            // A connection error: the h2 crate has sent its GOAWAY and closed our side. The client gets time to read it.
            shared.arm(LINGER);
        } else if (expired || shared.control.is_closing()) && !shared.closing.replace(true) {
            // The crate sends GOAWAY with the highest stream id and a PING, and the real last stream id once the PING is
            // acknowledged, so that requests already on their way are served (RFC 9113 §6.8).
            self.connection.graceful_shutdown();
            // With streams open or responses unread, `enter_idle` arms the deadline when those are done.
            if shared.open.get() == 0 && shared.undelivered() == 0 {
                shared.arm(LINGER);
            }
        } else {
            return false;
        }
        true
    }
}

type Incoming = (http::Request<RecvStream>, SendResponse<OutgoingPiece>);

/// Accepts the next stream while there is room. A stream that the client has reset counts until its work has ended: the h2
/// crate lets the client open another one at once, but an application must never see more of them than the limit.
fn poll_accept(
    shared: &ConnectionState,
    connection: &mut Connection<Io, OutgoingPiece>,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Incoming, h2::Error>>> {
    shared.full.set(!shared.has_room());
    if shared.has_room() {
        return connection.poll_accept(cx);
    }
    connection
        .poll_closed(cx)
        .map(|result| result.err().map(Err))
}

/// A stream that was accepted.
struct Job {
    open: OpenStream,
    request: http::Request<RecvStream>,
    respond: SendResponse<OutgoingPiece>,
}

/// The future of a slot: serves streams, one after another.
async fn serve_streams(jobs: Rc<JobSlot<Job>>) {
    loop {
        let Job {
            open,
            request,
            respond,
        } = jobs.next().await;
        let shared = &*open.0;
        let control = shared.worker.controls.register(shared.listener.id);
        let (parts, body) = request.into_parts();
        let ended = body.is_end_stream();
        let mut scan = HeadScan::of(&parts.headers);
        let flaws = &shared.streams.flaws;
        // The h2 crate takes a lock to tell the id, and flaws are rare.
        scan.fragment =
            !flaws.is_empty() && flaws.take(body.stream_id().as_u32(), Flaw::FragmentInPath);
        let mut down = H2Down::new(body, ended, respond, scan.length, shared.streams.clone());
        if shared.meter.has_resets() && down.is_taken_back() {
            // The client has reset the stream before it was served: no work is begun, as in a rapid reset attack.
            let snapshots = RequestSnapshots::of(&shared.worker);
            let id = shared.worker.request_id(None);
            let mut recording = Recording::begin(&shared.inbound(&snapshots), id.ours());
            recording.fail(ExchangeError::ClientGone(None), false);
            continue;
        }
        match answer(shared, &control, (&parts, scan, ended), &mut down).await {
            // Dropping a complete response resets the stream with NO_ERROR if the request's body was not read to its end
            // (RFC 9113 §8.1).
            Ended::Whole | Ended::Tunnel => {
                shared.streams.has_completed.set(true);
                drop(down);
            }
            Ended::Cut => down.abort(),
        }
    }
}

async fn answer(
    shared: &ConnectionState,
    control: &TaskControl,
    (parts, scan, ended): (&http::request::Parts, HeadScan<'_>, bool),
    down: &mut H2Down,
) -> Ended {
    let snapshots = RequestSnapshots::of(&shared.worker);
    let (inbound, snapshot) = (shared.inbound(&snapshots), snapshots.first());
    let limits = &snapshot.spec.limits;
    let rules = (limits, shared.listener.merge_slashes);
    let head = match RequestHead::new(parts, &scan, ended, rules, |a| shared.known_host_len(a)) {
        Ok(head) => head,
        Err(reject) => {
            let answer = LocalReply::refuse(reject);
            let rejected = rejected(parts);
            return proxy::refuse_head(&inbound, control, &rejected, down, answer).await;
        }
    };
    let request = head.request(shared);
    let mut recording = Recording::of_request(&inbound, &request);
    if let Some(text) = shared.listener.challenge_answer(&request) {
        return proxy::answer_challenge(control, snapshot, &mut recording, down, &text).await;
    }
    // Checked once for each authority: the certificate of a connection doesn't change (RFC 9110 §7.4).
    if shared.known_host_len(head.authority().0).is_none() {
        let misdirected = |tls: &TlsInfo| tls.misdirected(head.host());
        if shared.tls.as_ref().is_some_and(misdirected) {
            let answer = LocalReply::MISDIRECTED;
            return proxy::refuse(control, snapshot, &mut recording, down, answer).await;
        }
        shared.remember_authority(head.authority());
    }
    if shared.listener.redirect_https {
        return proxy::redirect_https(control, snapshot, &request, &mut recording, down).await;
    }
    proxy::handle(&inbound, control, &request, &mut recording, down).await
}
