//! One stream of events.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::ring::NextEvents;
use super::{EventHub, tell};
use crate::admin::Context;
use crate::admin::query::decoded;
use crate::admin::reply::{AdminResponse, error, stream};
use crate::admin::stream::{Pieces, StreamBody};

/// Media type of the stream.
pub(in crate::admin) const CONTENT_TYPE: &str = "text/event-stream";

/// Time without events after which a comment is sent.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The field by which a client says which event it has seen last. The HTML standard defines it.
const LAST_EVENT_ID: &str = "last-event-id";

/// Answers a request for events.
pub(in crate::admin) fn follow(
    query: &str,
    headers: &HeaderMap,
    context: &Arc<Context>,
) -> AdminResponse {
    let Parameters { service, since } = match parameters(query) {
        Ok(parameters) => parameters,
        Err(message) => return error(StatusCode::BAD_REQUEST, &message),
    };
    // A browser that reconnects repeats the address, with the event that it has seen since.
    let seen = headers
        .get(LAST_EVENT_ID)
        .map(|id| id.to_str().unwrap_or_default().to_owned());
    match EventStream::begin(context, service.as_deref(), seen.or(since).as_deref()) {
        Ok(events) => stream(CONTENT_TYPE, StreamBody::new(events)),
        Err(unknown) => error(StatusCode::NOT_FOUND, &unknown.to_string()),
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Parameters {
    service: Option<String>,
    since: Option<String>,
}

/// Parses the parameters `service=NAME` and `since=ID`.
fn parameters(query: &str) -> Result<Parameters, String> {
    let mut parameters = Parameters::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("service", name)) => parameters.service = Some(decoded(name)?),
            Some(("since", id)) => parameters.since = Some(decoded(id)?),
            _ => {
                return Err(format!(
                    "unknown parameter {pair:?}: expected service=NAME or since=ID"
                ));
            }
        }
    }
    Ok(parameters)
}

/// There is no service with this name.
#[derive(Debug)]
struct UnknownService(String);

impl fmt::Display for UnknownService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no service {:?}", self.0)
    }
}

/// An open stream. It counts among the hub's streams until it is dropped.
struct EventStream {
    context: Arc<Context>,
    newest: watch::Receiver<u64>,
    service: Option<Arc<str>>,
    /// The number of the last event that was sent.
    sent: u64,
    /// The piece that is sent first.
    first: Option<Bytes>,
}

impl EventStream {
    /// Begins a stream after the event with the id `seen`, or with everything that is known.
    fn begin(
        context: &Arc<Context>,
        service: Option<&str>,
        seen: Option<&str>,
    ) -> Result<Self, UnknownService> {
        let hub = &context.events;
        let is_first = hub.streams.fetch_add(1, Ordering::Relaxed) == 0;
        let mut stream = Self {
            context: context.clone(),
            newest: hub.newest.subscribe(),
            service: service.map(Arc::from),
            sent: 0,
            first: None,
        };
        // The status reported last may be old, and a new service may not have been reported yet.
        let is_untold = service.is_some_and(|name| {
            let snapshot = context.live.current();
            snapshot.services.iter().any(|s| *s.name == *name) && !hub.state().told.has(name)
        });
        if is_first || is_untold || hub.state().told.is_new() {
            tell(context, is_first);
            hub.hurry.notify_one();
        }
        stream.go_on_after(seen)?;
        Ok(stream)
    }

    /// Continues after the event with the id `seen` if the events after it are kept, and else from the beginning.
    fn go_on_after(&mut self, seen: Option<&str>) -> Result<(), UnknownService> {
        let context = self.context.clone();
        let mut state = context.events.state();
        let service = self.service.as_deref();
        let whole = state.told.whole(service);
        let whole = whole.ok_or_else(|| UnknownService(service.unwrap_or_default().to_owned()))?;
        let number = seen.map(|id| state.told.number(id));
        if let Some(Some(number)) = number
            && state.told.after(number, service) != NextEvents::Gone
        {
            self.sent = number;
            return Ok(());
        }
        self.sent = state.told.newest();
        let mut first = BytesMut::new();
        if let Some(number) = number {
            first.extend_from_slice(&state.told.reset(number.is_some()));
        }
        first.extend_from_slice(&whole);
        self.first = Some(match seen {
            Some(_) => first.freeze(),
            // Streams that begin share the memory of this event.
            None => whole,
        });
        Ok(())
    }
}

impl Pieces for EventStream {
    async fn next(mut self) -> Option<(Bytes, Self)> {
        if let Some(first) = self.first.take() {
            return Some((first, self));
        }
        let heartbeat = Instant::now() + HEARTBEAT;
        loop {
            // Marked before the ring is read, so that no event between both is missed.
            self.newest.mark_unchanged();
            let (next, is_known) = {
                let state = self.context.events.state();
                let service = self.service.as_deref();
                let next = state.told.after(self.sent, service);
                (next, service.is_none_or(|service| state.told.has(service)))
            };
            match next {
                NextEvents::Some(events, sent) => {
                    self.sent = sent;
                    return Some((events, self));
                }
                // The client reads too slowly. It reconnects, and gets the whole status.
                NextEvents::Gone => return None,
                // `removed` was sent before.
                NextEvents::None(_) if !is_known => return None,
                NextEvents::None(newest) => self.sent = newest,
            }
            tokio::select! {
                biased;
                // When the client reconnects, it reaches the successor.
                () = self.context.readiness.handed_over() => return None,
                changed = self.newest.changed() => changed.ok()?,
                () = sleep_until(heartbeat) => {
                    return Some((Bytes::from_static(b": nothing new\n\n"), self));
                }
            }
        }
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        let hub: &EventHub = &self.context.events;
        hub.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
