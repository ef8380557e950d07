//! One downstream HTTP/2 connection and its streams, all in one task.
//!
//! [`Connection`](crate::http2::Connection) does framing, header compression and flow control; [`Driver`] moves bytes between it and the transport,
//! and polls the streams. [`stream_slots`] keeps track of which streams were woken. [`windows`] sizes receive windows, [`idle`]
//! sets the deadlines of a connection without open streams, [`state`] is what a connection and its streams share, [`head`]
//! validates a request head and converts it for the data path, and [`parked`] is a stream whose client is slow to read its response.

mod head;
mod idle;
mod parked;
mod state;
mod stream_slots;
mod windows;

use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::task::coop::unconstrained;

use self::head::{RequestHead, complete_handshake, rejected};
use self::parked::{ParkedResponse, ParkedStream};
use self::state::{ConnectionState, LINGER, OpenStream};
use self::stream_slots::{Jobs, StreamSlots};
use super::connection_context::ConnectionContext;
use super::tls::TlsInfo;
use crate::http2::{HeadBlock, Incoming, PackedHead};
use crate::net::{FramedStream, TaskControl, TaskPhase};
use crate::proxy::h1::H1;
use crate::proxy::h2_down::H2Down;
use crate::proxy::{self, Ended, LocalReply, Recording, RequestSnapshots, Worker};

/// Number of times that connection and streams are polled in turn before other tasks get to run.
const TURNS: usize = 8;
/// Streams that are started before other tasks get to run. Each begins its request at once, so a client that opens all streams
/// that it may with one packet would otherwise stall the worker for as long as that takes.
const STARTS: usize = 48;

/// Serves a connection that speaks HTTP/2 until it is closed. `wire` holds the bytes that were read to detect the protocol.
///
/// Not an `async fn`, which would hold its arguments besides what is built of them for as long as the connection lasts.
pub(super) fn serve(
    worker: Rc<Worker>,
    conn: ConnectionContext<'_>,
    mut wire: H1,
) -> impl Future<Output = ()> + use<> {
    let limits = worker.snapshot().spec.limits.clone();
    let shared = Rc::new(ConnectionState::new(worker, &conn, &limits));
    let early = std::mem::take(&mut wire.mem.input);
    let buffers = shared.worker.buffers.clone();
    let mut transport = FramedStream::new(wire.into_stream(), buffers, early);
    // The preface has to arrive within the time of a request head.
    shared.control.enter(TaskPhase::Head);
    shared.control.arm(limits.header_timeout);
    shared.receive(&mut transport);
    let slots = StreamSlots::new(shared.limit, |jobs| Box::pin(serve_streams(jobs)));
    shared.connection.set_driver(&slots.waker);
    // Tokio's budget would make sockets look pending in the middle of a round, and the round would then be flushed in pieces.
    // The driver yields by itself, after TURNS rounds.
    unconstrained(Driver {
        shared,
        transport,
        slots,
        started: 0,
        ends: false,
        is_over: false,
    })
}

/// Drives a connection and its streams, until the connection is over and all of its streams have ended.
///
/// The future of the connection's task, which owns the transport and, in `slots`, the futures of all streams. Everything else is in
/// `shared`, of which each stream has an `Rc`. No borrow of the core may be held while streams are polled.
struct Driver {
    shared: Rc<ConnectionState>,
    transport: FramedStream,
    slots: StreamSlots<Job>,
    /// Streams started since the task was polled.
    started: usize,
    /// Whether the connection is over, and the client gets time to read our last frames.
    ends: bool,
    /// Whether the transport is closed. Streams may still have to end.
    is_over: bool,
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<()> {
        let driver = self.get_mut();
        if !driver.is_over {
            ready!(driver.poll_lent(task));
            driver.is_over = true;
            // Fails the bodies and responses of streams that are still open. Each stream finds that out when it is polled
            // next, and ends with a request record of its own.
            let closed = io::ErrorKind::BrokenPipe;
            driver.shared.connection.core().transport_failed(closed);
            driver.transport.detach();
        }
        driver.poll_rest(task)
    }
}

impl Driver {
    /// Polls streams until all have ended.
    fn poll_rest(&mut self, task: &mut Context<'_>) -> Poll<()> {
        self.slots.unpark(task.waker());
        for _ in 0..TURNS {
            self.slots.poll();
            if self.slots.are_idle() {
                return Poll::Ready(());
            }
            if !self.slots.take_wake() && self.slots.try_park() {
                return Poll::Pending;
            }
        }
        task.waker().wake_by_ref();
        Poll::Pending
    }

    /// Polls streams and connection with memory for what they send.
    fn poll_lent(&mut self, task: &mut Context<'_>) -> Poll<()> {
        let buffers = self.transport.buffers();
        let mut core = self.shared.connection.core();
        core.lend_output(|| buffers.take_out());
        drop(core);
        let polled = self.poll_all(task);
        let buffers = self.transport.buffers();
        if let Some(out) = self.shared.connection.core().reclaim_output() {
            buffers.give_out(out);
        }
        polled
    }

    /// Polls streams and connection in turn until neither has anything to do. Ready when the connection is over.
    fn poll_all(&mut self, task: &mut Context<'_>) -> Poll<()> {
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
        let shared = &self.shared.clone();
        shared.polled_at.set(Instant::now());
        shared.connection.core().awaken();
        if self.drive(shared, cx).is_ready() {
            return Poll::Ready(());
        }
        let written = match self.poll_write(cx) {
            Poll::Ready(Err(_)) => return Poll::Ready(()),
            written => written.is_ready(),
        };
        shared.update_delivery_deadline();
        shared.connection.core().sleep();
        // Closed only after the last frame is written, or else the client may never see it.
        match self.ends && written {
            true => self.transport.poll_close(cx).map(drop),
            false => Poll::Pending,
        }
    }

    /// Writes all output with as few calls as the socket permits.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut core = self.shared.connection.core();
        let was_congested = core.is_congested();
        while !core.output().is_empty() {
            let written = self.transport.poll_write(cx, core.output());
            core.set_stalled(written.is_pending());
            core.wrote(ready!(written)?);
            if was_congested && !core.is_congested() {
                // Nothing was read meanwhile, so that nothing else leads to that.
                cx.waker().wake_by_ref();
            }
        }
        self.transport.poll_flush(cx)
    }

    /// Reads, accepts streams, adjusts windows and closes the connection when it is time to. Ready when the connection is over.
    fn drive(&mut self, shared: &Rc<ConnectionState>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.accept(shared);
            let is_done = self.ends || shared.connection.core().is_over();
            if is_done || self.started >= STARTS || shared.connection.core().is_congested() {
                break;
            }
            match self.transport.poll_read(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(n)) if n > 0 => shared.receive(&mut self.transport),
                // The client has closed the connection, or it has failed.
                Poll::Ready(_) => return Poll::Ready(()),
            }
        }
        let (open, bulk) = (shared.open.get(), shared.streams.bulk.get());
        shared
            .windows
            .fit(open, bulk, &mut shared.connection.core());
        shared.update_head_deadline();
        let expired = self.poll_deadline(cx);
        if shared.control.is_shut() || (expired && shared.closing.get()) {
            return Poll::Ready(());
        }
        if !shared.connection.core().has_begun() && expired {
            return Poll::Ready(());
        }
        self.begin_close(expired);
        Poll::Pending
    }

    /// Starts the streams that the client has opened, while there is room. A stream that the client has reset counts until its
    /// work has ended: the protocol lets the client open another one at once, but an application must never see more of them
    /// than the limit.
    fn accept(&mut self, shared: &Rc<ConnectionState>) {
        record_malformed(shared);
        while shared.has_room() && self.started < STARTS {
            let Some(incoming) = shared.connection.accept() else {
                break;
            };
            self.started += 1;
            self.slots.start(Job {
                open: shared.clone().enter(),
                incoming,
            });
        }
        shared.full.set(!shared.has_room());
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
        self.shared.connection.core().release_memory();
        self.shared.control.arm(rest);
        false
    }

    /// Begins to close the connection if there is a reason to. An abrupt close may overtake a graceful one, never the reverse.
    fn begin_close(&mut self, expired: bool) {
        let shared = &*self.shared;
        if shared.connection.core().is_over() {
            if !self.ends {
                // After an error, or after the last stream of a graceful shutdown. The client gets time to read our last frames.
                self.ends = true;
                shared.closing.set(true);
                shared.arm(LINGER);
            }
        } else if (expired || shared.control.is_closing()) && !shared.closing.replace(true) {
            // Sends GOAWAY with the highest stream id and a PING, and the real last stream id once the PING is acknowledged, so
            // that requests already on their way are served (RFC 9113 §6.8).
            let is_idle = shared.open.get() == 0 && shared.undelivered() == 0;
            shared.connection.core().shut_down();
            // With streams open or responses unread, `enter_idle` arms the deadline when those are done.
            if is_idle {
                shared.arm(LINGER);
            }
        }
    }
}

/// Records the requests that the connection has reset because their heads are malformed.
fn record_malformed(shared: &ConnectionState) {
    while let Some((head, reject)) = shared.take_malformed() {
        let snapshots = RequestSnapshots::of(&shared.worker);
        proxy::record_rejected(&shared.inbound(&snapshots), &rejected(&head), reject);
        shared.connection.core().recycle(head);
    }
}

/// A stream that was accepted.
struct Job {
    open: OpenStream,
    incoming: Incoming,
}

/// The future of a slot: serves streams, one after another.
async fn serve_streams(jobs: Rc<Jobs<Job>>) {
    loop {
        let Job { open, incoming } = jobs.next().await;
        let Incoming {
            stream,
            mut head,
            ended,
        } = incoming;
        let shared = &*open.0;
        let control = shared.worker.controls.register(shared.listener.id);
        let length = match head.protocol() {
            None => head.content_length,
            Some(_) => None,
        };
        let mut down = H2Down::new(stream, ended, length, shared.streams.clone());
        if let Some(failure) = down.failure()
            && shared.connection.core().has_resets()
        {
            // The stream was reset before it was served, by the client or because its body is malformed: no work is begun, as in
            // a rapid reset attack.
            let snapshots = RequestSnapshots::of(&shared.worker);
            let id = shared.worker.request_id(None);
            let mut recording = Recording::begin(&shared.inbound(&snapshots), id.ours());
            recording.fail(failure, false);
            continue;
        }
        complete_handshake(&mut head, || shared.worker.with_rng(|rng| rng.u128(..)));
        match answer(shared, &control, (&head, ended), &mut down).await {
            Answered::Whole => complete(shared, down),
            Answered::Cut => down.abort(),
            Answered::Parked(response) => {
                jobs.leave(parked::deliver(ParkedStream {
                    response: *response,
                    down: Some(down.into_rest()),
                    head: PackedHead::new(&head),
                    control,
                    open,
                }));
                // Not kept for later streams, since the connection may have many that wait.
                drop(head);
                continue;
            }
        }
        shared.connection.core().recycle(head);
    }
}

/// Ends a stream whose response is complete. Dropping it resets it with NO_ERROR if the request's body was not read to its end
/// (RFC 9113 §8.1).
fn complete(shared: &ConnectionState, down: H2Down) {
    shared.streams.has_completed.set(true);
    drop(down);
}

/// What has become of a request.
enum Answered {
    /// It has a complete response.
    Whole,
    /// Its response is missing or incomplete.
    Cut,
    /// Its response is complete, and the client has yet to read the rest of it.
    Parked(Box<ParkedResponse>),
}

impl From<Ended> for Answered {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Whole | Ended::Tunnel => Self::Whole,
            // `answer` takes the rest of a response itself.
            Ended::Cut | Ended::Undelivered(_) => Self::Cut,
        }
    }
}

async fn answer(
    shared: &ConnectionState,
    control: &TaskControl,
    (block, ended): (&HeadBlock, bool),
    down: &mut H2Down,
) -> Answered {
    let snapshots = RequestSnapshots::of(&shared.worker);
    let (inbound, snapshot) = (shared.inbound(&snapshots), snapshots.first());
    let limits = &snapshot.spec.limits;
    let rules = (limits, shared.listener.merge_slashes);
    let head = match RequestHead::new(block, ended, rules, |a| shared.known_host_len(a)) {
        Ok(head) => head,
        Err(reject) => {
            let answer = LocalReply::refuse(reject);
            let rejected = rejected(block);
            let ended = proxy::refuse_head(&inbound, control, &rejected, down, answer).await;
            return ended.into();
        }
    };
    let request = head.request(shared);
    let mut recording = Recording::of_request(&inbound, &request);
    if let Some(text) = shared.listener.challenge_answer(&request) {
        let ended = proxy::answer_challenge(control, snapshot, &mut recording, down, &text).await;
        return ended.into();
    }
    // Checked once for each authority: the certificate of a connection doesn't change (RFC 9110 §7.4).
    if shared.known_host_len(head.authority().0).is_none() {
        let misdirected = |tls: &TlsInfo| tls.misdirected(head.host());
        if shared.tls.as_ref().is_some_and(misdirected) {
            let answer = LocalReply::MISDIRECTED;
            let ended = proxy::refuse(control, snapshot, &mut recording, down, answer).await;
            return ended.into();
        }
        shared.remember_authority(head.authority());
    }
    if shared.listener.redirect_https {
        let ended = proxy::redirect_https(control, snapshot, &request, &mut recording, down).await;
        return ended.into();
    }
    match proxy::handle(&inbound, control, &request, &mut recording, down).await {
        Ended::Undelivered(rest) => match recording.park() {
            Some(record) => Answered::Parked(Box::new(ParkedResponse {
                rest: *rest,
                record: Some(record),
                id: request.id,
                ended,
                snapshot: snapshots.into_first(),
            })),
            None => Answered::Cut,
        },
        ended => ended.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, F: Future>(_: impl Fn(A) -> F) -> usize {
        size_of::<F>()
    }

    /// Many streams may wait for their clients at the same time.
    #[test]
    fn a_stream_is_small() {
        let size = size_of_future(serve_streams);
        assert!(size <= 4224, "{size}");
    }
}
