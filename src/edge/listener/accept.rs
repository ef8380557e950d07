//! The accept loop of one worker on one socket.
//!
//! It keeps the process below its connection ceiling, backs off when accepting fails instead of spinning, and serves the
//! clients that are still in the backlog when a listener is closed. Each connection is registered with the worker's
//! [`TaskControls`] from the moment it is accepted, so that it can be drained or shed even in its TLS handshake.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tokio::sync::Notify;

use super::handshake::Handshake;
use super::listen_socket::{ListenSocket, RawStream};
use super::{ListenerRuntime, Socket};
use crate::edge::admission::{Admission, ConnectionPermit};
use crate::edge::connection::Accepted;
use crate::net::{Stream, TaskControls, TaskPhase};
use crate::telemetry::WorkerId;

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
///
/// `closing` and `handed_over` are never taken back: a listener that is opened again gets another acceptor.
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

/// Accepts connections on `socket` until the acceptor is closed and the backlog is empty, or until it is handed over.
///
/// `begin` is called for each connection when it is accepted. The function that it returns serves the connection in a task of its
/// own, after the TLS handshake if the listener has certificates.
pub(crate) async fn run<B, S, F>(
    acceptor: Rc<Acceptor>,
    socket: Socket,
    admission: Arc<Admission>,
    controls: TaskControls,
    begin: B,
) where
    B: Fn() -> S,
    S: FnOnce(Accepted) -> F + 'static,
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
        begin,
    };
    accept_loop.accept_until_closed(&socket).await;
    if !accept_loop.acceptor.handed_over.get() {
        accept_loop.accept_backlog(socket);
    }
}

/// Turns accepted sockets into connections that are served.
struct AcceptLoop<B> {
    acceptor: Rc<Acceptor>,
    admission: Arc<Admission>,
    controls: TaskControls,
    begin: B,
}

impl<B, S, F> AcceptLoop<B>
where
    B: Fn() -> S,
    S: FnOnce(Accepted) -> F + 'static,
    F: Future<Output = ()> + 'static,
{
    async fn accept_until_closed(&self, socket: &ListenSocket) {
        let acceptor = &*self.acceptor;
        let mut failures = AcceptFailures::new();
        let mut in_a_row = 0;
        loop {
            // Biased: once the acceptor is closed no connection is accepted here, even if clients keep connecting.
            let accepted = tokio::select! {
                biased;
                () = acceptor.closed() => return,
                accepted = socket.accept() => accepted,
            };
            match accepted {
                Ok(raw) => {
                    failures.clear();
                    tracing::trace!(address = %acceptor.runtime().address, "connection accepted");
                    let runtime = acceptor.runtime();
                    // A connection that is refused is closed before it takes a permit. Behind a proxy that announces its clients,
                    // the client isn't known yet.
                    let client = match runtime.spec.proxy_protocol {
                        true => Ok(None),
                        false => runtime.count_client(acceptor.worker, raw.peer),
                    };
                    if let Ok(client) = client {
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
        let serve = (self.begin)();
        // A connection that needs no handshake is served without a second future around `serve`: idle connections would pay for
        // its size.
        if runtime.tls.is_none() && !runtime.spec.proxy_protocol {
            let peer = raw.peer;
            tokio::task::spawn_local(serve(Accepted {
                stream: Stream::Clear(raw.socket),
                peer,
                listener: runtime.info.clone(),
                tls: None,
                permit,
                control,
            }));
            return;
        }
        control.enter(TaskPhase::Handshake);
        let handshake = Handshake {
            runtime,
            worker: self.acceptor.worker,
            admission: self.admission.clone(),
        };
        tokio::task::spawn_local(async move {
            let Some(done) = Box::pin(handshake.perform(raw, &control)).await else {
                return;
            };
            control.enter(TaskPhase::Idle);
            let permit = match done.client {
                Some(client) => permit.with(Some(client)),
                None => permit,
            };
            let accepted = Accepted {
                stream: done.stream,
                peer: done.peer,
                listener: handshake.runtime.info.clone(),
                tls: done.tls,
                permit,
                control,
            };
            drop(handshake);
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

/// Whether an error is about the connection that was to be accepted (`accept(2)` passes them on), not about the socket.
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

    /// Records that a connection was accepted.
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
            drop(socket.try_accept());
        }
        if self.reserve.is_none() {
            self.reserve = File::open("/dev/null").ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

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
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let socket = ListenSocket::new(Socket::Tcp(listener)).unwrap();
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
