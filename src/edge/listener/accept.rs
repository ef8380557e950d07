//! The accept loop of one worker on one socket.
//!
//! It keeps the process below its connection ceiling, backs off when accepting fails instead of spinning, and serves the
//! clients that are still in the backlog when a listener is closed. Each connection is registered with the worker's
//! [`TaskControls`] from the moment it is accepted, so that it can be drained or shed even in its TLS handshake.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Notify;

use super::{ListenerRuntime, Socket};
use crate::edge::admission::{Admission, ConnectionPermit};
use crate::edge::connection::Accepted;
use crate::edge::tls::{self, TlsInfo};
use crate::net::{OwnedTaskControl, Stream, TaskControls, TaskPhase};
use crate::telemetry::WorkerId;
use crate::telemetry::record::Reason;

/// Pause after the first failed accept. It doubles with each further failure.
const PAUSE: Duration = Duration::from_millis(5);
/// Longest pause, and so the longest time until recovery is noticed.
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// How often a connection that waits for a permit checks whether there is one.
const PERMIT_POLL: Duration = Duration::from_millis(5);
/// Connections accepted in a row before other tasks that became ready get to run.
const IN_A_ROW: u32 = 8;
/// When accepting has failed for this long, one waiting client is rejected after each pause instead of left hanging.
const REJECT_AFTER: Duration = Duration::from_secs(1);

/// One worker's handle of a listener. Shared by the accept loops of the listener's sockets on that worker.
#[derive(Debug)]
pub(crate) struct Acceptor {
    worker: WorkerId,
    runtime: RefCell<Arc<ListenerRuntime>>,
    closing: Cell<bool>,
    handed_over: Cell<bool>,
    changed: Notify,
}

impl Acceptor {
    /// An open listener of this worker.
    pub(crate) fn new(worker: WorkerId, runtime: Arc<ListenerRuntime>) -> Rc<Self> {
        Rc::new(Self {
            worker,
            runtime: RefCell::new(runtime),
            closing: Cell::new(false),
            handed_over: Cell::new(false),
            changed: Notify::new(),
        })
    }

    /// Replaces the settings for connections accepted from now on.
    pub(crate) fn set(&self, runtime: Arc<ListenerRuntime>) {
        self.runtime.replace(runtime);
    }

    /// The settings for new connections.
    pub(crate) fn runtime(&self) -> Arc<ListenerRuntime> {
        self.runtime.borrow().clone()
    }

    /// Makes the accept loops accept what is in the backlog and then close their sockets.
    pub(crate) fn close(&self) {
        self.closing.set(true);
        self.changed.notify_waiters();
    }

    /// Makes the accept loops stop at once. Another process has the same sockets and accepts what is in their backlogs.
    pub(crate) fn hand_over(&self) {
        self.handed_over.set(true);
        self.close();
    }

    async fn closed(&self) {
        // `close` runs on the same thread and sets the flag first. No notification can be lost between check and wait.
        while !self.closing.get() {
            self.changed.notified().await;
        }
    }
}

enum ListenSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

enum RawStream {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl ListenSocket {
    /// Registers the socket with this thread's runtime.
    fn new(socket: Socket) -> io::Result<Self> {
        Ok(match socket {
            Socket::Tcp(listener) => Self::Tcp(TcpListener::from_std(listener)?),
            Socket::Unix(listener) => Self::Unix(UnixListener::from_std(listener)?),
        })
    }

    async fn accept(&self) -> io::Result<RawStream> {
        match self {
            Self::Tcp(l) => l
                .accept()
                .await
                .map(|(stream, peer)| RawStream::Tcp(stream, peer)),
            Self::Unix(l) => l.accept().await.map(|(stream, _)| RawStream::Unix(stream)),
        }
    }

    /// Accepts a connection only if one is known to be waiting.
    async fn try_accept(&self) -> Option<io::Result<RawStream>> {
        tokio::select! {
            biased;
            accepted = self.accept() => Some(accepted),
            () = std::future::ready(()) => None,
        }
    }

    /// Accepts everything in the backlog and closes the socket. It asks the kernel directly, because the reactor may not have
    /// reported the latest connections yet.
    fn accept_rest(self, mut accepted: impl FnMut(RawStream)) -> io::Result<()> {
        match self {
            Self::Tcp(listener) => {
                let listener = listener.into_std()?;
                while let Ok((stream, peer)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    accepted(RawStream::Tcp(TcpStream::from_std(stream)?, peer));
                }
            }
            Self::Unix(listener) => {
                let listener = listener.into_std()?;
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    accepted(RawStream::Unix(UnixStream::from_std(stream)?));
                }
            }
        }
        Ok(())
    }
}

/// Accepts connections on `socket` until the acceptor is closed and the backlog is empty, or until it is handed over. Each
/// connection is served by `serve` in a task of its own, after its TLS handshake if the listener has certificates.
pub(crate) async fn run<F, S>(
    acceptor: Rc<Acceptor>,
    socket: Socket,
    admission: Arc<Admission>,
    controls: TaskControls,
    serve: S,
) where
    S: Fn(Accepted) -> F + Clone + 'static,
    F: Future<Output = ()> + 'static,
{
    let socket = match ListenSocket::new(socket) {
        Ok(socket) => socket,
        Err(error) => {
            let runtime = acceptor.runtime();
            tracing::error!(
                listener = runtime.spec.name,
                address = %runtime.address,
                %error,
                "can't register the listening socket with the runtime"
            );
            return;
        }
    };
    let accept_loop = AcceptLoop {
        acceptor,
        admission,
        controls,
        serve,
    };
    accept_loop.accept_until_closed(&socket).await;
    if !accept_loop.acceptor.handed_over.get() {
        accept_loop.accept_backlog(socket);
    }
}

/// What turns an accepted socket into a connection that is served.
struct AcceptLoop<S> {
    acceptor: Rc<Acceptor>,
    admission: Arc<Admission>,
    controls: TaskControls,
    serve: S,
}

impl<F, S> AcceptLoop<S>
where
    S: Fn(Accepted) -> F + Clone + 'static,
    F: Future<Output = ()> + 'static,
{
    async fn accept_until_closed(&self, socket: &ListenSocket) {
        let acceptor = &*self.acceptor;
        let mut failures = AcceptFailures::new();
        let mut in_a_row = 0;
        loop {
            // Biased: after `close` no connection is accepted here, even if clients keep connecting.
            let accepted = tokio::select! {
                biased;
                () = acceptor.closed() => return,
                accepted = socket.accept() => accepted,
            };
            match accepted {
                Ok(raw) => {
                    failures.clear();
                    tracing::trace!(address = %acceptor.runtime().address, "connection accepted");
                    // One that is refused is closed before it takes a permit.
                    let peer = match &raw {
                        RawStream::Tcp(_, peer) => Some(*peer),
                        RawStream::Unix(_) => None,
                    };
                    if let Ok(client) = acceptor.runtime().count_client(acceptor.worker, peer) {
                        let permit = self.permit().await;
                        self.spawn(raw, permit.with(client));
                    }
                    // A burst of new connections must not starve those that are being served.
                    in_a_row += 1;
                    if in_a_row == IN_A_ROW {
                        in_a_row = 0;
                        tokio::task::yield_now().await;
                    }
                }
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) => {
                    // Most likely there are no descriptors left: shedding a connection frees some.
                    self.admission.request_shedding();
                    let pause = failures.next_pause(&acceptor.runtime().spec.name, &error);
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = acceptor.closed() => return,
                    }
                    failures.reject_one(socket).await;
                }
            }
        }
    }

    /// Serves the clients that are in the backlog already, whether or not there are permits left, and closes the socket. If it
    /// were closed with them in the backlog, the kernel would reset their connections.
    fn accept_backlog(&self, socket: ListenSocket) {
        let rest = socket.accept_rest(|raw| self.spawn(raw, self.admission.acquire()));
        if let Err(error) = rest {
            tracing::warn!(
                listener = self.acceptor.runtime().spec.name,
                %error,
                "connections in the backlog of a closed listener were lost"
            );
        }
    }

    /// Waits for a permit for a connection that was accepted. At the ceiling a connection is shed for it. If the listener is
    /// closed in the meantime it gets its permit at once: the listener has to end.
    ///
    /// The loop waits with the connection in hand, so that further clients stay in the kernel's backlog.
    async fn permit(&self) -> ConnectionPermit {
        loop {
            if let Some(permit) = self.admission.try_acquire() {
                return permit;
            }
            tokio::select! {
                () = below_ceiling(&self.admission) => {}
                () = self.acceptor.closed() => return self.admission.acquire(),
            }
        }
    }

    /// Spawns the task of a connection.
    fn spawn(&self, raw: RawStream, permit: ConnectionPermit) {
        let runtime = self.acceptor.runtime();
        let control = self.controls.register(runtime.id());
        // A clear-text connection is served without a second future around `serve`: idle connections would pay for its size.
        let Some(table) = runtime.tls.clone() else {
            let (stream, peer) = match raw {
                RawStream::Tcp(stream, peer) => (Stream::Tcp(stream), Some(canonical(peer))),
                RawStream::Unix(stream) => (Stream::Unix(stream), None),
            };
            tokio::task::spawn_local((self.serve)(Accepted {
                stream,
                peer,
                listener: runtime.info.clone(),
                tls: None,
                permit,
                control,
            }));
            return;
        };
        control.enter(TaskPhase::Handshake);
        control.arm(self.admission.handshake_timeout());
        let (worker, serve) = (self.acceptor.worker, self.serve.clone());
        tokio::task::spawn_local(async move {
            let Some((stream, peer, tls)) =
                Box::pin(secure(raw, &runtime, worker, table, &control)).await
            else {
                return;
            };
            control.enter(TaskPhase::Idle);
            let accepted = Accepted {
                stream,
                peer,
                listener: runtime.info.clone(),
                tls: Some(tls),
                permit,
                control,
            };
            drop(runtime);
            serve(accepted).await;
        });
    }
}

async fn below_ceiling(admission: &Admission) {
    while admission.is_full() {
        admission.warn_full();
        admission.request_shedding();
        tokio::time::sleep(PERMIT_POLL).await;
    }
}

/// Whether the error is that of the connection that was to be accepted (`accept(2)` passes them on), not of the socket.
fn concerns_one_connection(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(
        code,
        Some(Errno::CONNABORTED | Errno::CONNRESET | Errno::INTR | Errno::PROTO | Errno::PERM)
    )
}

/// A series of failures to accept, mostly for want of descriptors.
struct AcceptFailures {
    since: Option<Instant>,
    pause: Duration,
    /// A descriptor kept in reserve. Once closed, it is the one with which a client can be accepted and rejected.
    reserve: Option<File>,
}

impl AcceptFailures {
    fn new() -> Self {
        Self {
            since: None,
            pause: PAUSE,
            reserve: File::open("/dev/null").ok(),
        }
    }

    /// A connection was accepted.
    fn clear(&mut self) {
        if let Some(since) = self.since.take() {
            tracing::info!(
                after_ms = since.elapsed().as_millis(),
                "accepting connections again"
            );
            self.pause = PAUSE;
        }
    }

    /// The pause before the next attempt. Logs the first failure of a series.
    fn next_pause(&mut self, listener: &str, error: &io::Error) -> Duration {
        if self.since.is_none() {
            self.since = Some(Instant::now());
            tracing::error!(
                listener,
                %error,
                "can't accept connections; if the process is out of file descriptors, lower limits.connections or raise LimitNOFILE"
            );
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        pause
    }

    /// Once a series has lasted for [`REJECT_AFTER`]: accepts one waiting client and closes its connection, so that it can try
    /// another server.
    async fn reject_one(&mut self, socket: &ListenSocket) {
        if self
            .since
            .is_some_and(|since| since.elapsed() >= REJECT_AFTER)
            && self.reserve.take().is_some()
        {
            drop(socket.try_accept().await);
        }
        if self.reserve.is_none() {
            self.reserve = File::open("/dev/null").ok();
        }
    }
}

/// Performs the TLS handshake within the deadline of `control`. `None` if it failed, which is counted and logged.
async fn secure(
    raw: RawStream,
    runtime: &ListenerRuntime,
    worker: WorkerId,
    table: Arc<tls::CertificateTable>,
    control: &OwnedTaskControl,
) -> Option<(Stream, Option<SocketAddr>, TlsInfo)> {
    let mut handshake = pin!(async {
        Ok::<_, io::Error>(match raw {
            RawStream::Tcp(stream, peer) => {
                let (stream, tls) = table.handshake(stream).await?;
                let peer = Some(canonical(peer));
                (Stream::ServerTls(Box::new(stream)), peer, tls)
            }
            RawStream::Unix(stream) => {
                let (stream, tls) = table.handshake(stream).await?;
                (Stream::ServerTlsUnix(Box::new(stream)), None, tls)
            }
        })
    });
    let done = poll_fn(|cx| match handshake.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending if control.expired(cx) => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    });
    let listener = &runtime.spec.name;
    let metrics = &runtime.info.metrics[worker.0];
    match done.await {
        Some(Ok(secured)) => return Some(secured),
        Some(Err(error)) => {
            metrics.client_failed(Reason::TlsHandshake);
            tracing::debug!(listener, %error, "TLS handshake failed");
        }
        None if control.is_shut() => {
            tracing::debug!(listener, "TLS handshake cut by shedding or by a drain");
        }
        None => {
            metrics.client_failed(Reason::TlsTimeout);
            tracing::debug!(listener, "TLS handshake timed out");
        }
    }
    None
}

/// Converts IPv4-mapped IPv6 addresses, as a dual-stack socket reports them, to IPv4.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_restart_after_a_success() {
        let mut failures = AcceptFailures::new();
        let error = io::Error::from_raw_os_error(Errno::MFILE.raw_os_error());
        assert!(!concerns_one_connection(&error));
        let pauses: Vec<u128> = (0..7)
            .map(|_| failures.next_pause("a", &error).as_millis())
            .collect();
        assert_eq!(pauses, [5, 10, 20, 40, 80, 100, 100]);
        failures.clear();
        assert_eq!(failures.next_pause("a", &error), PAUSE);
    }

    #[tokio::test]
    async fn a_waiting_client_is_rejected_after_a_second_not_before() {
        use tokio::io::AsyncReadExt;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let socket = ListenSocket::Tcp(listener);
        let mut failures = AcceptFailures::new();
        failures.since = Some(Instant::now());
        failures.reject_one(&socket).await;
        let mut byte = [0];
        let left = tokio::time::timeout(Duration::from_millis(50), client.read(&mut byte)).await;
        assert!(left.is_err(), "rejected too early");
        failures.since = Instant::now().checked_sub(REJECT_AFTER);
        // The reactor reports the waiting client some time later.
        let gone = async {
            loop {
                failures.reject_one(&socket).await;
                tokio::select! {
                    end = client.read(&mut byte) => return end,
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
        };
        let end = tokio::time::timeout(Duration::from_secs(5), gone)
            .await
            .expect("rejected");
        assert_eq!(end.unwrap(), 0);
        assert!(failures.reserve.is_some(), "the reserve is opened again");
    }
}
