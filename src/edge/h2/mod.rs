//! One downstream HTTP/2 connection, and its streams: all in one task.

mod head;
mod idle;
mod io;
mod meter;
mod stream_slots;
mod windows;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use tokio::task::coop::unconstrained;

use self::head::{HeadScan, RequestHead};
use self::io::{GatheringStream, Io};
use self::meter::Meter;
use self::stream_slots::{JobSlot, StreamSlots};
use self::windows::ReceiveWindows;
use super::connection::{ConnectionContext, ListenerInfo};
use super::tls::TlsInfo;
use crate::http1::Method;
use crate::http2::{Flaw, Flaws};
use crate::net::{ByteBudget, Outbox, OutgoingPiece, TaskControl, TaskPhase};
use crate::proxy::error::ExchangeError;
use crate::proxy::h1::H1;
use crate::proxy::h2::FrameAllowance;
use crate::proxy::h2_down::{Bulk, H2Down, OfConnection};
use crate::proxy::{self, Ended, Inbound, LocalReply, Peer, Recording, Worker};
use crate::snapshot::Snapshot;
use crate::telemetry::record::Protocol;

/// Most bytes of request bodies that are buffered for all streams together, besides what is in their windows.
const BODIES: usize = 1024 * 1024;
/// Most bytes of finished responses that are held for all streams together, besides those of requests that count under a limit.
const ANSWERS: usize = 2 * 1024 * 1024;
/// Most bytes of one answer that wait inside the connection.
const SEND_BUFFER: usize = 64 * 1024;
/// Resets that the client's own errors may cost before the connection ends; refused streams are among them.
const ERRORS: usize = 500;
/// Streams that were reset before they were accepted, and wait for it. The meter ends a connection that resets too many earlier than this.
const PENDING_RESETS: usize = 1024;
/// How long a connection that is ending waits for the client to take note.
const LINGER: Duration = Duration::from_secs(2);
/// So often connection and streams are polled in turn before other tasks get theirs.
const TURNS: usize = 8;

/// What all streams of one connection need.
pub(super) struct ConnectionState {
    worker: Rc<Worker>,
    listening: Arc<ListenerInfo>,
    peer: Peer,
    tls: Option<TlsInfo>,
    watch: Rc<TaskControl>,
    progress: FrameAllowance,
    meter: Rc<Meter>,
    flaws: Flaws,
    bodies: ByteBudget,
    answers: ByteBudget,
    bulk: Bulk,
    windows: ReceiveWindows,
    outbox: Outbox,
    limit: usize,
    open: Cell<usize>,
    leaving: Cell<bool>,
    /// As many streams are open as may be: others wait.
    full: Cell<bool>,
    /// When it is told so long without streams, it gives up memory; what follows then.
    spare: Cell<Option<Duration>>,
    /// Bytes that the pipe holds because the client's socket is full.
    gathered: Cell<usize>,
    /// What waited for the client when its time was armed last.
    seen_undelivered: Cell<usize>,
    /// When the connection was looked at last: what came then has come then.
    looked_at: Cell<Instant>,
    /// The last authority that was fine, and the length of its host: most connections are for one.
    authority: RefCell<(Vec<u8>, usize)>,
}

/// Serves a connection that speaks HTTP/2; `wire` holds what was read of it.
pub(super) async fn serve(worker: Rc<Worker>, conn: ConnectionContext<'_>, mut wire: H1) {
    let limits = worker.snapshot().spec.limits.clone();
    let progress = FrameAllowance::default();
    let meter = Meter::new(worker.watches.clone(), progress.clone());
    let shared = Rc::new(ConnectionState {
        watch: conn.watch.clone(),
        listening: conn.listening.clone(),
        peer: conn.peer.clone(),
        tls: conn.tls.cloned(),
        progress,
        meter: meter.clone(),
        flaws: Flaws::default(),
        bodies: worker.buffers.bodies().part(BODIES),
        answers: worker.buffers.answers().part(ANSWERS),
        bulk: Bulk::default(),
        windows: ReceiveWindows::new(limits.streams),
        outbox: Outbox::default(),
        limit: limits.streams as usize,
        open: Cell::new(0),
        leaving: Cell::new(false),
        full: Cell::new(false),
        spare: Cell::new(None),
        gathered: Cell::new(0),
        seen_undelivered: Cell::new(0),
        looked_at: Cell::new(Instant::now()),
        authority: RefCell::default(),
        worker,
    });
    let early = Bytes::copy_from_slice(wire.mem.input.bytes());
    wire.mem.input.clear();
    let buffers = shared.worker.buffers.clone();
    let (io, pipe) = Io::new(
        early,
        wire.into_stream(),
        buffers,
        meter.clone(),
        shared.flaws.clone(),
    );
    let mut handshake = pin!(
        Builder::new()
            .initial_connection_window_size(shared.windows.connection)
            .initial_window_size(shared.windows.stream)
            .max_send_buffer_size(SEND_BUFFER)
            .max_concurrent_streams(limits.streams)
            // The crate refuses without a word to us what is larger than this; what is only larger than the limit is refused, and
            // counted, by us.
            .max_header_list_size(u32::try_from(2 * limits.header_bytes).unwrap_or(u32::MAX))
            .max_local_error_reset_streams(Some(ERRORS))
            .max_pending_accept_reset_streams(PENDING_RESETS)
            .handshake::<_, OutgoingPiece>(io)
    );
    shared.watch.enter(TaskPhase::Head);
    shared.watch.arm(limits.header_timeout);
    let connection = poll_fn(|cx| {
        pipe.borrow_mut().look_again();
        match handshake.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(result.ok()),
            Poll::Pending if is_broken(pipe.borrow_mut().poll_flush(cx)) => Poll::Ready(None),
            Poll::Pending if shared.watch.expired(cx) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    if let Some(connection) = connection {
        shared.rest();
        let seats = StreamSlots::new(shared.limit, |desk| Box::pin(serve_streams(desk)));
        let driver = Driver {
            shared: &shared,
            meter: &meter,
            pipe,
            connection,
            seats,
        };
        // It does no more at a time than what connection and streams have at hand, and all of that at once.
        unconstrained(driver.run()).await;
    }
}

fn is_broken(flushed: Poll<std::io::Result<()>>) -> bool {
    matches!(flushed, Poll::Ready(Err(_)))
}

/// Moves a connection and its streams on.
struct Driver<'a> {
    shared: &'a Rc<ConnectionState>,
    meter: &'a Meter,
    pipe: Rc<RefCell<GatheringStream>>,
    connection: Connection<Io, OutgoingPiece>,
    seats: StreamSlots<Job>,
}

impl Driver<'_> {
    async fn run(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
        let Self {
            connection,
            pipe,
            mut seats,
            ..
        } = self;
        drop((connection, pipe));
        // The streams that were open learn of it, each on its own.
        poll_fn(|cx| {
            seats.wake_up(cx.waker());
            for _ in 0..TURNS {
                seats.poll();
                if seats.are_free() {
                    return Poll::Ready(());
                }
                if !seats.take_wake() && seats.try_park() {
                    return Poll::Pending;
                }
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    /// Ready when the connection is over.
    fn poll(&mut self, task: &mut Context<'_>) -> Poll<()> {
        self.seats.wake_up(task.waker());
        for _ in 0..TURNS {
            self.seats.poll();
            if self.seats.take_wake() || (self.shared.full.get() && self.shared.has_room()) {
                let waker = self.seats.waker.clone();
                let cx = &mut Context::from_waker(&waker);
                self.pipe.borrow_mut().look_again();
                self.shared.looked_at.set(Instant::now());
                if self.drive(cx).is_ready() || is_broken(self.pipe.borrow_mut().poll_flush(cx)) {
                    return Poll::Ready(());
                }
                self.shared.gathered.set(self.pipe.borrow().waiting());
                self.shared.heed_delivery();
            }
            if self.seats.try_park() {
                return Poll::Pending;
            }
        }
        task.waker().wake_by_ref();
        Poll::Pending
    }

    /// Moves the connection on. Ready when it is over.
    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (shared, meter) = (self.shared, self.meter);
        loop {
            match poll_accept(shared, &mut self.connection, cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    self.seats.take(Job {
                        open: shared.clone().enter(),
                        request,
                        respond,
                    });
                    continue;
                }
                Poll::Ready(None | Some(Err(_))) => return Poll::Ready(()),
                Poll::Pending => {}
            }
            let (open, bulk) = (shared.open.get(), shared.bulk.get());
            if shared.windows.fit(open, bulk, &mut self.connection) {
                continue;
            }
            shared.heed(meter);
            let mut expired = shared.watch.expired(cx);
            if expired && let Some(rest) = shared.spare.take() {
                self.seats.clear();
                shared.watch.arm(rest);
                expired = false;
            }
            if shared.watch.is_shut() || (expired && shared.leaving.get()) {
                return Poll::Ready(());
            }
            if meter.is_over() && !meter.cut.replace(true) {
                shared.leaving.set(true);
                self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                shared.arm(LINGER);
            } else if meter.ended.get() && !shared.leaving.replace(true) {
                // A connection error: the last word is out, and the client gets a moment to read it.
                shared.arm(LINGER);
            } else if (expired || shared.watch.is_closing()) && !shared.leaving.replace(true) {
                self.connection.graceful_shutdown();
                if shared.open.get() == 0 && shared.undelivered() == 0 {
                    shared.arm(LINGER);
                }
            } else {
                return Poll::Pending;
            }
        }
    }
}

type Incoming = (http::Request<RecvStream>, SendResponse<OutgoingPiece>);

/// The next stream, while there is room: a stream that the client took back counts until its work has ended, so that no application
/// ever sees more of them than the limit.
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

impl ConnectionState {
    fn has_room(&self) -> bool {
        self.open.get() < self.limit
    }

    /// What the record of a request on this connection begins with.
    fn inbound<'a>(&'a self, snapshot: &'a Snapshot) -> Inbound<'a> {
        Inbound {
            worker: &self.worker,
            snapshot,
            peer: &self.peer,
            listener: &self.listening.name,
            protocol: Protocol::Http2,
            started: self.looked_at.get(),
        }
    }

    /// A stream begins.
    fn enter(self: Rc<Self>) -> OpenStream {
        if self.open.replace(self.open.get() + 1) == 0 {
            // What its streams do, their own watches say: the connection goes on as long as any of them.
            self.watch.enter(TaskPhase::Stream);
            self.spare.set(None);
            self.watch.disarm();
        }
        OpenStream(self)
    }

    /// How much of this authority is the host, if it was found fine for the connection before.
    fn knows(&self, authority: &[u8]) -> Option<usize> {
        let known = self.authority.borrow();
        (!authority.is_empty() && known.0 == authority).then_some(known.1)
    }

    fn learn(&self, (authority, host): (&[u8], Option<usize>)) {
        if let Some(host) = host {
            let mut known = self.authority.borrow_mut();
            known.0.clear();
            known.0.extend_from_slice(authority);
            known.1 = host;
        }
    }
}

/// A stream that is open.
struct OpenStream(Rc<ConnectionState>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.listening.metrics[self.0.worker.id].panicked();
        }
        let left = self.0.open.get() - 1;
        self.0.open.set(left);
        if left == 0 && !self.0.watch.is_shut() {
            self.0.rest();
        }
    }
}

/// One stream's work.
struct Job {
    open: OpenStream,
    request: http::Request<RecvStream>,
    respond: SendResponse<OutgoingPiece>,
}

/// Takes streams, one after the other, from their heads to their ends.
async fn serve_streams(desk: Rc<JobSlot<Job>>) {
    loop {
        let Job {
            open,
            request,
            respond,
        } = desk.next().await;
        let shared = &*open.0;
        let watch = shared.worker.watches.watch(shared.listening.id);
        let (parts, body) = request.into_parts();
        let ended = body.is_end_stream();
        let mut seen = HeadScan::of(&parts.headers);
        let stream = body.stream_id().as_u32();
        seen.fragment = shared.flaws.take(stream, Flaw::FragmentInPath);
        let of_all = OfConnection {
            outbox: shared.outbox.clone(),
            progress: shared.progress.clone(),
            flaws: shared.flaws.clone(),
            bodies: shared.bodies.clone(),
            answers: shared.answers.clone(),
            bulk: shared.bulk.clone(),
        };
        let mut down = H2Down::new(body, ended, respond, seen.length, of_all);
        if shared.meter.has_resets() && down.is_taken_back() {
            // Nothing is begun for a stream that the client has cancelled already.
            let snapshot = shared.worker.snapshot();
            let id = shared.worker.request_id(None);
            let mut recording = Recording::begin(shared.inbound(&snapshot), id.ours());
            recording.fail(ExchangeError::ClientGone(None), false);
            continue;
        }
        match answer(shared, &watch, (&parts, seen, ended), &mut down).await {
            // What is unread of the request's body is refused without an error (RFC 9113 §8.1): that is what dropping does.
            Ended::Whole | Ended::Tunnel => drop(down),
            Ended::Cut => down.abort(),
        }
    }
}

async fn answer(
    shared: &ConnectionState,
    watch: &TaskControl,
    (parts, seen, ended): (&http::request::Parts, HeadScan<'_>, bool),
    down: &mut H2Down,
) -> Ended {
    let snapshot = shared.worker.snapshot();
    let inbound = shared.inbound(&snapshot);
    let limits = &snapshot.spec.limits;
    let rules = (limits, shared.listening.merge_slashes);
    let head = match RequestHead::new(parts, &seen, ended, rules, |a| shared.knows(a)) {
        Ok(head) => head,
        Err(reject) => {
            let method = Method::from_bytes(parts.method.as_str().as_bytes());
            let answer = LocalReply::refuse(reject);
            return proxy::refuse_head(inbound, watch, method, down, answer).await;
        }
    };
    let request = head.request(shared);
    let mut recording = Recording::of_request(inbound, &request);
    if shared.knows(head.authority().0).is_none() {
        let misdirected = |tls: &TlsInfo| tls.misdirected(head.host());
        if shared.tls.as_ref().is_some_and(misdirected) {
            let answer = LocalReply::MISDIRECTED;
            return proxy::refuse(watch, &snapshot, &mut recording, down, answer).await;
        }
        shared.learn(head.authority());
    }
    if shared.listening.redirect_https {
        return proxy::redirect_https(watch, &snapshot, &request, &mut recording, down).await;
    }
    proxy::handle(inbound, watch, &request, &mut recording, down).await
}
