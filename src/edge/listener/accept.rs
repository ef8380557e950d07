//! Accepts connections: no spinning when descriptors run out, no connection lost when a listener is taken away.

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
use crate::telemetry::record::Reason;

/// First pause after a failed accept; doubled each time.
const PAUSE: Duration = Duration::from_millis(5);
/// Longest pause: recovery is noticed within it.
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// How often it is looked whether a full house has a place again.
const FULL: Duration = Duration::from_millis(5);
/// So many are accepted in a row before everything else that became ready gets its turn.
const IN_A_ROW: u32 = 8;
/// After so long without a descriptor, those who wait are turned away, one for each pause, instead of left hanging.
const TURN_AWAY: Duration = Duration::from_secs(1);

/// One worker's side of a listener.
#[derive(Debug)]
pub(crate) struct Acceptor {
    worker: usize,
    runtime: RefCell<Arc<ListenerRuntime>>,
    closing: Cell<bool>,
    handed_over: Cell<bool>,
    #[cfg(test)]
    stumbles: Cell<bool>,
    changed: Notify,
}

impl Acceptor {
    /// Open, for this worker.
    pub(crate) fn new(worker: usize, runtime: Arc<ListenerRuntime>) -> Rc<Self> {
        Rc::new(Self {
            worker,
            runtime: RefCell::new(runtime),
            closing: Cell::new(false),
            handed_over: Cell::new(false),
            #[cfg(test)]
            stumbles: Cell::new(false),
            changed: Notify::new(),
        })
    }

    /// New connections are given this from now on.
    pub(crate) fn set(&self, runtime: Arc<ListenerRuntime>) {
        self.runtime.replace(runtime);
    }

    /// What new connections are given.
    pub(crate) fn runtime(&self) -> Arc<ListenerRuntime> {
        self.runtime.borrow().clone()
    }

    /// Accept what waits, then close the socket.
    pub(crate) fn close(&self) {
        self.closing.set(true);
        self.changed.notify_waiters();
    }

    /// Accept no more: another process has the same socket, and whoever waits on it.
    pub(crate) fn hand_over(&self) {
        self.handed_over.set(true);
        self.close();
    }

    /// The next connection ends the loop by a panic.
    #[cfg(test)]
    pub(crate) fn stumble(&self) {
        self.stumbles.set(true);
    }

    async fn closed(&self) {
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

    /// Accepts only what is there already.
    async fn accept_waiting(&self) -> Option<io::Result<RawStream>> {
        tokio::select! {
            biased;
            accepted = self.accept() => Some(accepted),
            () = std::future::ready(()) => None,
        }
    }

    /// Accepts whoever waits, asking the kernel itself (the runtime may not have heard of them yet), and closes the socket.
    fn accept_rest(self, mut see: impl FnMut(RawStream)) -> io::Result<()> {
        match self {
            Self::Tcp(listener) => {
                let listener = listener.into_std()?;
                while let Ok((stream, peer)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    see(RawStream::Tcp(TcpStream::from_std(stream)?, peer));
                }
            }
            Self::Unix(listener) => {
                let listener = listener.into_std()?;
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    see(RawStream::Unix(UnixStream::from_std(stream)?));
                }
            }
        }
        Ok(())
    }
}

/// Accepts on `socket` until the door is closed and nobody waits any more. `serve` is spawned for each connection, which can be
/// drained and shed by its watch from the moment that it was accepted.
pub(crate) async fn run<F, S>(
    door: Rc<Acceptor>,
    socket: Socket,
    gate: Arc<Admission>,
    watches: TaskControls,
    serve: S,
) where
    S: Fn(Accepted) -> F + Clone + 'static,
    F: Future<Output = ()> + 'static,
{
    let listening = match ListenSocket::new(socket) {
        Ok(listening) => listening,
        Err(error) => {
            let runtime = door.runtime();
            tracing::error!(
                listener = runtime.spec.name,
                address = %runtime.place,
                %error,
                "the listener's socket can't be used"
            );
            return;
        }
    };
    let mut trouble = Trouble::new();
    let mut in_a_row = 0;
    loop {
        let accepted = tokio::select! {
            biased;
            () = door.closed() => break,
            accepted = listening.accept() => accepted,
        };
        match accepted {
            Ok(raw) => {
                trouble.over();
                #[cfg(test)]
                assert!(!door.stumbles.get(), "on purpose: accept loop");
                let place = entry(&gate, &door).await;
                welcome(
                    raw,
                    door.runtime(),
                    door.worker,
                    place,
                    &gate,
                    &watches,
                    serve.clone(),
                );
                in_a_row += 1;
                if in_a_row == IN_A_ROW {
                    in_a_row = 0;
                    tokio::task::yield_now().await;
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                gate.press();
                let pause = trouble.pause(&door.runtime().spec.name, &error);
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = door.closed() => break,
                }
                trouble.turn_away(&listening).await;
            }
        }
    }
    if door.handed_over.get() {
        return;
    }
    // Closing a socket resets the connections that wait on it.
    let runtime = door.runtime();
    let rest = listening.accept_rest(|raw| {
        let place = gate.enter();
        welcome(
            raw,
            runtime.clone(),
            door.worker,
            place,
            &gate,
            &watches,
            serve.clone(),
        );
    });
    if let Err(error) = rest {
        tracing::warn!(
            listener = runtime.spec.name,
            %error,
            "some of the listener's last connections were lost"
        );
    }
}

/// A place for a client that was accepted already. If the house is full it waits inside, while a connection that does
/// nothing is shed for it, unless the listener is about to close.
async fn entry(gate: &Arc<Admission>, door: &Acceptor) -> ConnectionPermit {
    loop {
        if let Some(place) = gate.try_enter() {
            return place;
        }
        tokio::select! {
            () = room(gate) => {}
            () = door.closed() => return gate.enter(),
        }
    }
}

/// Waits until the process may take another connection.
async fn room(gate: &Admission) {
    while gate.is_full() {
        gate.warn_full();
        gate.press();
        tokio::time::sleep(FULL).await;
    }
}

/// Errors of the connection that was to be accepted, not of accepting.
fn is_of_one_connection(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(
        code,
        Some(Errno::CONNABORTED | Errno::CONNRESET | Errno::INTR | Errno::PROTO | Errno::PERM)
    )
}

/// Accepting fails, mostly for want of descriptors.
struct Trouble {
    since: Option<Instant>,
    pause: Duration,
    /// Held so that there is a descriptor by which to turn somebody away.
    reserve: Option<File>,
}

impl Trouble {
    fn new() -> Self {
        Self {
            since: None,
            pause: PAUSE,
            reserve: File::open("/dev/null").ok(),
        }
    }

    fn over(&mut self) {
        if let Some(since) = self.since.take() {
            tracing::info!(
                after_ms = since.elapsed().as_millis(),
                "connections are accepted again"
            );
            self.pause = PAUSE;
        }
    }

    /// How long to pause. Says what is wrong when it begins.
    fn pause(&mut self, listener: &str, error: &io::Error) -> Duration {
        if self.since.is_none() {
            self.since = Some(Instant::now());
            tracing::error!(
                listener,
                %error,
                "connections can't be accepted; if descriptors ran out, lower limits.connections or raise LimitNOFILE"
            );
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        pause
    }

    /// After long trouble: closes one connection that waits, so that its client can go elsewhere.
    async fn turn_away(&mut self, listening: &ListenSocket) {
        if self.since.is_some_and(|since| since.elapsed() >= TURN_AWAY)
            && self.reserve.take().is_some()
        {
            drop(listening.accept_waiting().await);
        }
        if self.reserve.is_none() {
            self.reserve = File::open("/dev/null").ok();
        }
    }
}

/// A task for the connection.
fn welcome<F, S>(
    raw: RawStream,
    runtime: Arc<ListenerRuntime>,
    worker: usize,
    place: ConnectionPermit,
    gate: &Arc<Admission>,
    watches: &TaskControls,
    serve: S,
) where
    S: Fn(Accepted) -> F + 'static,
    F: Future<Output = ()> + 'static,
{
    let watched = watches.watch(runtime.id());
    // Clear text needs no second future around the request loop's, which idle connections would pay for.
    let Some(table) = runtime.tls.clone() else {
        let (stream, peer) = match raw {
            RawStream::Tcp(stream, peer) => (Stream::Tcp(stream), Some(canonical(peer))),
            RawStream::Unix(stream) => (Stream::Unix(stream), None),
        };
        tokio::task::spawn_local(serve(Accepted {
            stream,
            peer,
            listening: runtime.listening.clone(),
            tls: None,
            place,
            watched,
        }));
        return;
    };
    watched.enter(TaskPhase::Handshake);
    watched.arm(gate.handshake_timeout());
    tokio::task::spawn_local(async move {
        let Some((stream, peer, tls)) =
            Box::pin(secure(raw, &runtime, worker, table, &watched)).await
        else {
            return;
        };
        watched.enter(TaskPhase::Idle);
        let accepted = Accepted {
            stream,
            peer,
            listening: runtime.listening.clone(),
            tls: Some(tls),
            place,
            watched,
        };
        drop(runtime);
        serve(accepted).await;
    });
}

/// The handshake, within the time of its watch.
async fn secure(
    raw: RawStream,
    runtime: &ListenerRuntime,
    worker: usize,
    table: Arc<tls::CertificateTable>,
    watched: &OwnedTaskControl,
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
        Poll::Pending if watched.expired(cx) => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    });
    let listener = &runtime.spec.name;
    let metrics = &runtime.listening.metrics[worker];
    match done.await {
        Some(Ok(secured)) => return Some(secured),
        Some(Err(error)) => {
            metrics.client_failed(Reason::TlsHandshake);
            tracing::debug!(listener, %error, "TLS handshake failed");
        }
        None if watched.is_shut() => {
            tracing::debug!(listener, "TLS handshake cut to make room, or by a drain");
        }
        None => {
            metrics.client_failed(Reason::TlsTimeout);
            tracing::debug!(listener, "TLS handshake timed out");
        }
    }
    None
}

/// IPv4 as IPv4, also through a socket for both families.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_begin_anew_after_a_success() {
        let mut trouble = Trouble::new();
        let error = io::Error::from_raw_os_error(Errno::MFILE.raw_os_error());
        assert!(!is_of_one_connection(&error));
        let pauses: Vec<u128> = (0..7)
            .map(|_| trouble.pause("a", &error).as_millis())
            .collect();
        assert_eq!(pauses, [5, 10, 20, 40, 80, 100, 100]);
        trouble.over();
        assert_eq!(trouble.pause("a", &error), PAUSE);
    }

    #[tokio::test]
    async fn who_waits_in_vain_is_turned_away_after_a_second_not_before() {
        use tokio::io::AsyncReadExt;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let listening = ListenSocket::Tcp(listener);
        let mut trouble = Trouble::new();
        trouble.since = Some(Instant::now());
        trouble.turn_away(&listening).await;
        let mut byte = [0];
        let left = tokio::time::timeout(Duration::from_millis(50), client.read(&mut byte)).await;
        assert!(left.is_err(), "turned away too early");
        trouble.since = Instant::now().checked_sub(TURN_AWAY);
        // The runtime hears of the waiting client in its own time.
        let gone = async {
            loop {
                trouble.turn_away(&listening).await;
                tokio::select! {
                    end = client.read(&mut byte) => return end,
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
        };
        let end = tokio::time::timeout(Duration::from_secs(5), gone)
            .await
            .expect("turned away");
        assert_eq!(end.unwrap(), 0);
        assert!(trouble.reserve.is_some(), "the reserve is taken again");
    }
}
