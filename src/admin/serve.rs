//! Serves the admin API: the accept loop and the connection budget of each listener, and the timeouts of a connection.
//!
//! Each listener has its own budget and queue, so that many TCP clients cannot block commands on the control socket. The
//! queue starts one response per listener and runtime turn, which leaves the control thread time for its other work. A full
//! listener closes the connection whose client has stalled longest to make room for a new one.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response, StatusCode};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet, yield_now};
use tokio::time::{Instant, sleep};

use super::activity::{Activity, Observed, WRITE_TIMEOUT};
use super::guard::ListenerKind;
use super::listen::{self, AdminListener, AdminStream};
use super::reply::error;
use super::{Context, api, events, logs};

/// Maximum number of connections of one listener.
const CONNECTIONS: usize = 256;

/// Maximum number of connections of one listener that stream events or the log. The rest of [`CONNECTIONS`] is for other requests.
const STREAMS: usize = 192;

/// Time for which a connection must have waited for its client to be the first that a full listener closes.
const STALLED: Duration = Duration::from_secs(1);

/// How long a full listener waits for a connection to end or stall before it closes the oldest one.
const ROOM_WAIT: Duration = Duration::from_millis(100);

/// Time limit for a request head, and for the idle time between two requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Time limit for a connection other than an event stream. A response in progress then has [`WRITE_TIMEOUT`] to finish.
const LIFETIME: Duration = Duration::from_secs(60);

/// Pause after a failed accept. Without it the loop would spin while the process has no file descriptors left (EMFILE).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Time between two looks whether all clients have been answered after a handover.
const ANSWER_CHECK: Duration = Duration::from_millis(5);

/// Minimum time between two warnings about a full listener.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// Held until every client of the listeners has its answer after [`super::Readiness::hand_over`].
pub(crate) type Unanswered = mpsc::Sender<Infallible>;

/// Serves the API on these listeners until the future is dropped, which closes all connections. New connections are
/// accepted until [`super::Readiness::hand_over`]. `unanswered` is dropped when all that were accepted have been answered.
///
/// # Panics
/// If an accept loop panics.
pub(crate) async fn serve(
    listeners: Vec<AdminListener>,
    context: Arc<Context>,
    unanswered: Unanswered,
) {
    let mut loops = JoinSet::new();
    for listener in listeners {
        loops.spawn(accept_loop(listener, context.clone(), unanswered.clone()));
    }
    drop(unanswered);
    loops.spawn(events::run(context));
    while let Some(ended) = loops.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            // The listener is dead. Pass the panic on, so that the control thread fails visibly.
            std::panic::resume_unwind(error.into_panic());
        }
    }
    std::future::pending().await
}

async fn accept_loop(listener: AdminListener, context: Arc<Context>, unanswered: Unanswered) {
    let mut connections = Connections::new();
    let exposed = listener.is_exposed();
    loop {
        let accepted = tokio::select! {
            biased;
            () = context.readiness.handed_over() => {
                listener.leave();
                break;
            }
            accepted = listen::accept(&listener) => accepted,
        };
        let raw = match accepted {
            Ok(raw) => {
                tracing::trace!("admin connection accepted");
                raw
            }
            Err(error) => {
                tracing::warn!(%error, "accepting an admin connection failed");
                sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        // After a handover, this connection must not wait for room: the client can't reach it through the successor. It is
        // served even above the budget.
        tokio::select! {
            biased;
            () = context.readiness.handed_over() => {}
            () = connections.make_room() => {}
        }
        let activity = Activity::new();
        let task = match raw {
            AdminStream::Tcp(stream, local) => {
                let kind = ListenerKind::Tcp { local, exposed };
                connections.spawn(stream, kind, &activity, &context)
            }
            AdminStream::Unix(stream) => {
                connections.spawn(stream, ListenerKind::Unix, &activity, &context)
            }
        };
        connections.open.push((task, activity));
    }
    connections.answer_all().await;
    drop(unanswered);
    while connections.tasks.join_next().await.is_some() {}
}

/// The open connections of one listener. Dropping it ends them.
///
/// Owned by the accept loop, which alone adds and removes entries. `open` may name tasks that have ended until the next connection
/// needs room.
#[derive(Debug)]
struct Connections {
    tasks: JoinSet<()>,
    /// Ordered by the time of accepting.
    open: Vec<(AbortHandle, Arc<Activity>)>,
    queue: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    warned: Option<Instant>,
}

/// Waits for the caller's turn to start a response, in the order of arrival.
async fn wait_turn(queue: &Semaphore) {
    let permit = queue.acquire().await;
    // Let every other ready task run before this response is made. The permit is held meanwhile, so that the next one in the
    // queue also starts only after a full turn of the runtime.
    yield_now().await;
    drop(permit);
}

/// The permits for streams of one listener, and the permit that a connection holds from its first stream to its end.
#[derive(Clone, Debug)]
struct StreamPermits {
    all: Arc<Semaphore>,
    held: Arc<OnceLock<OwnedSemaphorePermit>>,
}

impl StreamPermits {
    /// Takes a permit unless the connection has one. Returns whether it has one now.
    fn hold(&self) -> bool {
        if self.held.get().is_some() {
            return true;
        }
        let permit = self.all.clone().try_acquire_owned();
        // A connection makes one response at a time, so that nothing has been set meanwhile.
        permit.is_ok_and(|permit| self.held.set(permit).is_ok())
    }
}

impl Connections {
    fn new() -> Self {
        Self {
            tasks: JoinSet::new(),
            open: Vec::new(),
            queue: Arc::new(Semaphore::new(1)),
            streams: Arc::new(Semaphore::new(STREAMS)),
            warned: None,
        }
    }

    fn spawn(
        &mut self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        kind: ListenerKind,
        activity: &Arc<Activity>,
        context: &Arc<Context>,
    ) -> AbortHandle {
        let (context, queue) = (context.clone(), self.queue.clone());
        let permits = StreamPermits {
            all: self.streams.clone(),
            held: Arc::default(),
        };
        let serving = connection(stream, activity.clone(), move |request| {
            let (context, queue) = (context.clone(), queue.clone());
            let permits = permits.clone();
            async move {
                wait_turn(&queue).await;
                let answer = api::answer(request, kind, &context).await;
                match !is_event_stream(&answer) || permits.hold() {
                    true => answer,
                    false => error(
                        StatusCode::SERVICE_UNAVAILABLE,
                        "too many streams are open on this listener already",
                    ),
                }
            }
        });
        self.tasks.spawn(serving)
    }

    /// Waits until there is room for one more connection, and closes one if necessary.
    async fn make_room(&mut self) {
        let mut waited = false;
        loop {
            while self.tasks.try_join_next().is_some() {}
            self.open.retain(|(task, _)| !task.is_finished());
            if self.open.len() < CONNECTIONS {
                return;
            }
            if let Some(at) = self.to_close(waited) {
                let (task, _) = self.open.remove(at);
                task.abort();
                self.warn();
                return;
            }
            tokio::select! {
                _ = self.tasks.join_next() => {}
                () = sleep(ROOM_WAIT) => waited = true,
            }
        }
    }

    /// The index of the connection to close for a new one: the one that has stalled longest, or else, if `any`, the oldest.
    /// Event streams that wait for events are kept.
    fn to_close(&self, any: bool) -> Option<usize> {
        let open = || self.open.iter().map(|(_, activity)| activity).enumerate();
        let stalled = open().filter_map(|(at, a)| Some((a.stalled_since()?, at)));
        let longest = stalled
            .min()
            .filter(|(since, _)| since.elapsed() >= STALLED);
        let oldest = || open().find(|(_, a)| any && !a.is_streaming());
        longest
            .map(|(_, at)| at)
            .or_else(|| oldest().map(|(at, _)| at))
    }

    /// Waits until no client waits for an answer.
    async fn answer_all(&self) {
        let owes = |(task, activity): &(AbortHandle, Arc<Activity>)| {
            !task.is_finished() && activity.owes_answer()
        };
        while self.open.iter().any(owes) {
            sleep(ANSWER_CHECK).await;
        }
    }

    fn warn(&mut self) {
        if self.warned.is_none_or(|at| at.elapsed() >= WARN_INTERVAL) {
            self.warned = Some(Instant::now());
            tracing::warn!(
                connections = CONNECTIONS,
                "admin listener full: closing stalled connections to make room"
            );
        }
    }
}

/// Serves one connection with the handler `answer`, within the timeouts.
async fn connection<S, A, F, B>(stream: S, activity: Arc<Activity>, answer: A)
where
    S: AsyncRead + AsyncWrite + Unpin,
    A: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<B>>,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + 'static,
{
    let service = service_fn(|request| {
        let (activity, answer) = (&activity, &answer);
        async move {
            let answering = activity.begin_response();
            let response = answer(request).await;
            if is_event_stream(&response) {
                activity.mark_streaming();
            }
            drop(answering);
            Ok::<_, Infallible>(response)
        }
    });
    let mut served = pin!(
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(64 * 1024)
            .serve_connection(
                TokioIo::new(Observed::new(stream, activity.clone())),
                service
            )
    );
    let mut ended = tokio::select! {
        ended = &mut served => Some(ended),
        () = sleep(LIFETIME) => None,
    };
    if ended.is_none() && !activity.is_streaming() {
        served.as_mut().graceful_shutdown();
        ended = tokio::select! {
            ended = &mut served => Some(ended),
            () = sleep(WRITE_TIMEOUT) => None,
        };
        if ended.is_none() && !activity.is_streaming() {
            tracing::debug!("admin connection closed at the end of its lifetime");
            return;
        }
    }
    let ended = match ended {
        Some(ended) => ended,
        // An event stream ends only with its client, the write timeout or the process.
        None => served.await,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "admin connection failed");
    }
}

fn is_event_stream<B>(response: &Response<B>) -> bool {
    let kind = response.headers().get(CONTENT_TYPE);
    kind.is_some_and(|kind| kind == events::CONTENT_TYPE || kind == logs::CONTENT_TYPE)
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
