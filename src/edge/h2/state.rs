//! State shared by a connection and its streams.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::windows::ReceiveWindows;
use crate::config::spec::ProxyLimits;
use crate::edge::connection_context::ConnectionContext;
use crate::edge::listener_info::ListenerInfo;
use crate::edge::tls::TlsInfo;
use crate::http1::{Reject, trailers};
use crate::http2::{BlockLimits, Config, Connection, HeadBlock};
use crate::net::{FramedStream, TaskControl, TaskPhase};
use crate::proxy::h2_down::{Bulk, OfConnection};
use crate::proxy::{Inbound, Peer, RequestSnapshots, Worker};
use crate::telemetry::record::Protocol;

/// Most bytes of request bodies that are buffered for all streams together, besides the receive windows.
const BODIES: usize = 1024 * 1024;
/// Most bytes of finished responses that are held for all streams together, except those of requests that count under a limit.
const ANSWERS: usize = 2 * 1024 * 1024;
/// Time for which a closing connection waits for the client to read our last frames and to close its side.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// State shared by all streams of one connection.
///
/// It belongs to one worker, and lives until the driver and the last stream have dropped it. Only a connection without streams has
/// a deadline of its own: `open` decides who is responsible, the connection's control or those of the streams.
pub(super) struct ConnectionState {
    pub(super) worker: Rc<Worker>,
    pub(super) listener: Arc<ListenerInfo>,
    pub(super) peer: Peer,
    pub(super) tls: Option<TlsInfo>,
    pub(super) control: Rc<TaskControl>,
    pub(super) connection: Connection,
    /// Whether a part of a frame waits for the rest.
    pub(super) mid_frame: Cell<bool>,
    /// The state that the streams of the connection use.
    pub(super) streams: Rc<OfConnection>,
    pub(super) windows: ReceiveWindows,
    pub(super) limit: usize,
    pub(super) open: Cell<usize>,
    /// Whether the connection is closing: a GOAWAY was sent.
    pub(super) closing: Cell<bool>,
    /// Whether as many streams are open as allowed; the next one is not accepted yet.
    pub(super) full: Cell<bool>,
    /// Set while an idle connection keeps the memory of its former streams: how long it may stay idle after releasing it.
    pub(super) idle_after_release: Cell<Option<Duration>>,
    /// [`Self::undelivered`] when the delivery deadline was armed last.
    pub(super) undelivered_when_armed: Cell<usize>,
    /// Time at which the connection was polled last: the arrival time of the requests that this poll finds.
    pub(super) polled_at: Cell<Instant>,
    /// The last authority that was accepted, and the length of its host: most connections carry requests for one only.
    authority: RefCell<(Vec<u8>, usize)>,
}

impl ConnectionState {
    pub(super) fn new(
        worker: Rc<Worker>,
        conn: &ConnectionContext<'_>,
        limits: &ProxyLimits,
    ) -> Self {
        let streams = limits.streams;
        let windows = ReceiveWindows::new(streams);
        let config = Config {
            stream_window: windows.stream,
            connection_window: windows.connection,
            max_streams: streams,
            extended_connect: true,
            header_list: u32::try_from(2 * limits.header_bytes).unwrap_or(u32::MAX),
            head: BlockLimits {
                bytes: limits.header_bytes,
                fields: limits.headers,
            },
            // Trailers have a limit of their own, which is measured as over HTTP/1.
            trailers: BlockLimits {
                bytes: 4 * trailers::MAX_BYTES,
                fields: 4 * trailers::MAX_FIELDS,
            },
        };
        Self {
            control: conn.control.clone(),
            listener: conn.listener.clone(),
            peer: conn.peer.clone(),
            tls: conn.tls.cloned(),
            connection: Connection::server(config, worker.controls.now_ms()),
            mid_frame: Cell::new(true),
            streams: Rc::new(OfConnection {
                bodies: worker.buffers.bodies().part(BODIES),
                answers: worker.buffers.answers().part(ANSWERS),
                bulk: Bulk::default(),
                has_completed: Cell::new(false),
            }),
            windows,
            limit: streams as usize,
            open: Cell::new(0),
            closing: Cell::new(false),
            full: Cell::new(false),
            idle_after_release: Cell::new(None),
            undelivered_when_armed: Cell::new(0),
            polled_at: Cell::new(Instant::now()),
            authority: RefCell::default(),
            worker,
        }
    }

    /// Handles the bytes that `transport` has read.
    pub(super) fn receive(&self, transport: &mut FramedStream) {
        let mut core = self.connection.core();
        let now_ms = self.worker.controls.now_ms();
        transport.receive(|bytes| core.receive(bytes, now_ms));
        self.mid_frame
            .set(transport.has_unused() || core.is_mid_frame());
    }

    /// The next malformed request that the connection has reset, and why.
    #[inline]
    pub(super) fn take_malformed(&self) -> Option<(Box<HeadBlock>, Reject)> {
        self.connection.core().take_malformed()
    }

    pub(super) fn has_room(&self) -> bool {
        self.open.get() < self.limit
    }

    /// The request record's initial values for a request on this connection.
    pub(super) fn inbound<'a>(&'a self, snapshots: &'a RequestSnapshots) -> Inbound<'a> {
        Inbound {
            worker: &self.worker,
            snapshot: snapshots.first(),
            snapshots,
            peer: &self.peer,
            listener: &self.listener.name,
            protocol: Protocol::Http2,
            started: self.polled_at.get(),
        }
    }

    /// Counts a stream as open until the result is dropped.
    pub(super) fn enter(self: Rc<Self>) -> OpenStream {
        if self.open.replace(self.open.get() + 1) == 0 {
            // Each stream has a control and a deadline of its own. The connection needs none while any stream is open.
            self.control.enter(TaskPhase::Stream);
            self.idle_after_release.set(None);
            self.control.disarm();
        }
        OpenStream(self)
    }

    /// The length of the host in this authority, if the connection has accepted the same authority before.
    pub(super) fn known_host_len(&self, authority: &[u8]) -> Option<usize> {
        let known = self.authority.borrow();
        (!authority.is_empty() && known.0 == authority).then_some(known.1)
    }

    pub(super) fn remember_authority(&self, (authority, host): (&[u8], Option<usize>)) {
        if let Some(host) = host {
            let mut known = self.authority.borrow_mut();
            known.0.clear();
            known.0.extend_from_slice(authority);
            known.1 = host;
        }
    }
}

/// Counts a stream as open.
pub(super) struct OpenStream(pub(super) Rc<ConnectionState>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.listener.metrics[self.0.worker.id.0].panicked();
        }
        let left = self.0.open.get() - 1;
        self.0.open.set(left);
        if left == 0 && !self.0.control.is_shut() {
            self.0.enter_idle();
        }
    }
}
