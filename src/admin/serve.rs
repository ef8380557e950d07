//! Serves the API: the accept loop of each admin listener with its connection budget, and the timeouts of a connection.
//!
//! Every listener has a budget and a queue of its own, so that no crowd of TCP clients can keep commands away from the
//! control socket, or the control thread from its other work: a listener begins one answer for each turn of the runtime.
//! A full listener closes the connection that its client has held up longest to make room for a new one.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet, yield_now};
use tokio::time::{Instant, sleep};

use super::activity::{Activity, Observed, WRITE_TIMEOUT};
use super::guard::ListenerKind;
use super::listen::{AdminListener, AdminStream, next};
use super::{Context, api};

/// Most connections of one listener.
const CONNECTIONS: usize = 256;

/// A connection on which nothing has moved for this long is closed first when its listener is full.
const STALLED: Duration = Duration::from_secs(1);

/// Longest wait for a connection to end or to stall before a full listener closes the oldest one.
const ROOM_WAIT: Duration = Duration::from_millis(100);

/// Longest time for a request's head, and for silence between two requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest life of a connection that is no event stream. What is being answered then has [`WRITE_TIMEOUT`] to end.
const LIFETIME: Duration = Duration::from_secs(60);

/// A pause after a failed accept (no descriptors left): long enough not to spin, short enough not to be noticed.
const PAUSE: Duration = Duration::from_millis(100);

/// How often a full listener is logged.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Serves the API on these listeners until the future is dropped; accepts until [`super::Readiness::hand_over`].
/// Connections are tasks of the current runtime.
pub(crate) async fn serve(listeners: Vec<AdminListener>, context: Arc<Context>) {
    let mut loops = JoinSet::new();
    for listener in listeners {
        loops.spawn(accept(listener, context.clone()));
    }
    while let Some(ended) = loops.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            // Nobody accepts there any more: that must not go unnoticed.
            std::panic::resume_unwind(error.into_panic());
        }
    }
    std::future::pending().await
}

async fn accept(listener: AdminListener, context: Arc<Context>) {
    let mut connections = Connections::new();
    let exposed = listener.is_exposed();
    loop {
        let accepted = tokio::select! {
            biased;
            () = context.readiness.handed_over() => {
                listener.leave();
                break;
            }
            accepted = next(&listener) => accepted,
        };
        let raw = match accepted {
            Ok(raw) => raw,
            Err(error) => {
                tracing::warn!(%error, "an admin connection could not be accepted");
                sleep(PAUSE).await;
                continue;
            }
        };
        // What was accepted before a handover is served by this process, over the budget if need be.
        tokio::select! {
            biased;
            () = context.readiness.handed_over() => {}
            () = connections.make_room() => {}
        }
        let activity = Activity::new();
        let task = match raw {
            AdminStream::Tcp(stream, ours) => {
                let door = ListenerKind::Tcp { ours, exposed };
                connections.spawn(stream, door, &activity, &context)
            }
            AdminStream::Unix(stream) => {
                connections.spawn(stream, ListenerKind::Unix, &activity, &context)
            }
        };
        connections.open.push((task, activity));
    }
    while connections.tasks.join_next().await.is_some() {}
}

/// The open connections of one listener. Dropping it ends them.
#[derive(Debug)]
struct Connections {
    tasks: JoinSet<()>,
    /// In the order in which they were accepted.
    open: Vec<(AbortHandle, Arc<Activity>)>,
    queue: Arc<Semaphore>,
    warned: Option<Instant>,
}

/// Waits for the caller's turn to begin an answer, first come, first served.
async fn turn(queue: &Semaphore) {
    let permit = queue.acquire().await;
    // All that is ready meanwhile goes first, and the next in the queue begins after that as well.
    yield_now().await;
    drop(permit);
}

impl Connections {
    fn new() -> Self {
        Self {
            tasks: JoinSet::new(),
            open: Vec::new(),
            queue: Arc::new(Semaphore::new(1)),
            warned: None,
        }
    }

    fn spawn(
        &mut self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        door: ListenerKind,
        activity: &Arc<Activity>,
        context: &Arc<Context>,
    ) -> AbortHandle {
        let (activity, context) = (activity.clone(), context.clone());
        let queue = self.queue.clone();
        self.tasks
            .spawn(connection(stream, activity, move |request| {
                let (context, queue) = (context.clone(), queue.clone());
                async move {
                    turn(&queue).await;
                    api::answer(request, door, &context).await
                }
            }))
    }

    /// Returns when there is room for one more connection.
    async fn make_room(&mut self) {
        let mut waited = false;
        loop {
            while self.tasks.try_join_next().is_some() {}
            self.open.retain(|(task, _)| !task.is_finished());
            if self.open.len() < CONNECTIONS {
                return;
            }
            if let Some(at) = self.dispensable(waited) {
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

    /// The connection that is closed for a new one: the one that has stalled longest, or else, if `any`, the oldest.
    /// Event streams that wait for events stay.
    fn dispensable(&self, any: bool) -> Option<usize> {
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

    fn warn(&mut self) {
        if self.warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            self.warned = Some(Instant::now());
            tracing::warn!(
                connections = CONNECTIONS,
                "admin listener full: closing stalled connections to make room"
            );
        }
    }
}

/// Serves one connection by `answer`, within the timeouts.
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
            let answering = activity.answer();
            let response = answer(request).await;
            if is_event_stream(&response) {
                activity.stream();
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
            tracing::debug!("an admin connection was closed at the end of its lifetime");
            return;
        }
    }
    let ended = match ended {
        Some(ended) => ended,
        // An event stream: only the client, the write timeout or the end of the process ends it.
        None => served.await,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an admin connection broke");
    }
}

fn is_event_stream<B>(response: &Response<B>) -> bool {
    let kind = response.headers().get(CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
