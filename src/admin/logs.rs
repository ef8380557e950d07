//! `GET /api/v1/logs`: follows the access log as a stream of JSON lines, whether or not one is configured.
//!
//! Beside the lines of requests there are two other objects: `{"dropped":N}` after lines that were lost because the reader
//! was too slow, and `{"handed_over":true}` when another process has taken over, which serves new requests from then on. An empty
//! line keeps the connection alive.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::Context;
use super::query::{decoded, switch};
use super::stream::Pieces;
use crate::telemetry::access_log::followers::{FollowFilter, Subscription};

/// Media type of the stream.
pub(crate) const CONTENT_TYPE: &str = "application/x-ndjson";

/// Time without lines after which an empty line is sent.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Parses the parameters `service=NAME` and the switches `failed` and `canary`.
///
/// # Errors
/// A message that names the invalid parameter.
pub(super) fn filter(query: &str) -> Result<FollowFilter, String> {
    let mut filter = FollowFilter::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match name {
            "service" => filter.service = Some(decoded(value)?),
            "failed" => filter.failed = switch(name, value)?,
            "canary" => filter.canary = switch(name, value)?,
            _ => {
                return Err(format!(
                    "unknown parameter {name:?}: expected service, failed or canary"
                ));
            }
        }
    }
    Ok(filter)
}

/// A follower of the log. The stream ends when the process does.
pub(super) struct LogFollower {
    subscription: Subscription,
    context: Arc<Context>,
    knows_of_handover: bool,
}

impl LogFollower {
    /// Follows the log.
    pub(super) fn new(subscription: Subscription, context: Arc<Context>) -> Self {
        Self {
            subscription,
            context,
            knows_of_handover: false,
        }
    }

    /// Puts the number of lost lines before the next chunk.
    fn with_lost(&self, chunk: Bytes) -> Bytes {
        match self.subscription.take_lost() {
            0 => chunk,
            lost => {
                let mut all = BytesMut::from(&chunk[..]);
                all.extend_from_slice(format!("{{\"dropped\":{lost}}}\n").as_bytes());
                all.freeze()
            }
        }
    }
}

impl Pieces for LogFollower {
    async fn next(mut self) -> Option<(Bytes, Self)> {
        let piece = tokio::select! {
            biased;
            () = self.context.readiness.handed_over(), if !self.knows_of_handover => {
                self.knows_of_handover = true;
                Bytes::from_static(b"{\"handed_over\":true}\n")
            }
            chunk = self.subscription.next() => self.with_lost(chunk?),
            () = tokio::time::sleep(KEEPALIVE) => Bytes::from_static(b"\n"),
        };
        Some((piece, self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_a_filter() {
        let wanted = FollowFilter {
            service: Some("a b".into()),
            failed: true,
            canary: false,
        };
        assert_eq!(filter("service=a%20b&failed&canary=false"), Ok(wanted));
        assert_eq!(filter(""), Ok(FollowFilter::default()));
        for wrong in ["failed=maybe", "host=x", "service=%"] {
            assert!(filter(wrong).is_err(), "{wrong}");
        }
    }
}
