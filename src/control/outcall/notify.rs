//! Notifications of changes in a rollout, sent in the background.
//!
//! Each receiver has a queue and a task of its own, so that one that is down delays no other, and messages arrive in order.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use super::backoff::Backoff;
use super::client::{self, OutcallRequest};
use super::retry_after::{LONGEST_PAUSE, retry_after};
use super::url::OutcallUrl;
use crate::config::rollout::{Notify, NotifyFormat};
use crate::telemetry::LogLimit;

/// The limits of the delivery of messages.
#[derive(Clone, Copy, Debug)]
struct DeliveryPolicy {
    /// Largest number of messages that wait for one receiver.
    queue: usize,
    /// Time limit of one attempt.
    limit: Duration,
    /// Largest number of attempts after the first.
    retries: u32,
    backoff: Backoff,
    /// Time without a message after which a receiver's task ends.
    idle: Duration,
}

const POLICY: DeliveryPolicy = DeliveryPolicy {
    queue: 64,
    limit: Duration::from_secs(10),
    retries: 5,
    backoff: Backoff {
        first: Duration::from_secs(1),
        factor: 4,
        most: LONGEST_PAUSE,
    },
    idle: Duration::from_secs(300),
};

/// Time between two log lines of one kind.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// Kinds of log lines: slots of the [`LogLimit`].
const DROPPED: usize = 0;
const FAILED: usize = 1;

/// Sends notifications. Belongs to the control thread.
pub(crate) struct Notifier {
    policy: DeliveryPolicy,
    /// One queue for each receiver that had a message lately.
    queues: RefCell<Vec<(Notify, mpsc::Sender<Bytes>)>>,
    log: Rc<LogLimit>,
}

impl fmt::Debug for Notifier {
    /// Leaves the receivers out, because their URLs are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notifier").finish_non_exhaustive()
    }
}

impl Default for Notifier {
    fn default() -> Self {
        Self::new(POLICY)
    }
}

impl Notifier {
    fn new(policy: DeliveryPolicy) -> Self {
        Self {
            policy,
            queues: RefCell::default(),
            log: Rc::new(LogLimit::new(2, LOG_EVERY, Instant::now())),
        }
    }

    /// Queues a message for each receiver and returns at once. `text` is one line for people, `state` the rollout's state.
    ///
    /// Five more attempts follow a connection error, a timeout, a 429 or a 5xx. A message that finds 64 others in its queue is
    /// dropped with a warning. Messages that are queued when the process ends are lost.
    ///
    /// # Panics
    /// Outside of a local runtime.
    pub(crate) fn send(&self, receivers: &[Notify], text: &str, state: &Value) {
        let mut queues = self.queues.borrow_mut();
        queues.retain(|(_, queue)| !queue.is_closed());
        for receiver in receivers {
            let message = message(receiver.format, text, state);
            let known = queues.iter().position(|(known, _)| known == receiver);
            let at = known.unwrap_or_else(|| {
                queues.push((receiver.clone(), self.start(receiver)));
                queues.len() - 1
            });
            // The queue can't be closed: closed ones were removed above, and no task runs in between.
            if queues[at].1.try_send(message).is_err() {
                self.warn_dropped(receiver);
            }
        }
    }

    fn start(&self, receiver: &Notify) -> mpsc::Sender<Bytes> {
        let (sender, messages) = mpsc::channel(self.policy.queue);
        let delivery = Delivery {
            receiver: receiver.clone(),
            policy: self.policy,
            log: self.log.clone(),
        };
        spawn_local(delivery.run(messages));
        sender
    }

    fn warn_dropped(&self, receiver: &Notify) {
        if let Some(omitted) = self.log.check(DROPPED, Instant::now()) {
            let queue = self.policy.queue;
            tracing::warn!(receiver = %peer(receiver), queue, omitted, "notification dropped: its queue is full");
        }
    }
}

/// The receiver as `host:port`, for logs.
fn peer(receiver: &Notify) -> String {
    OutcallUrl::parse(&receiver.url).map_or_else(str::to_owned, |url| url.to_string())
}

/// The body of a message.
fn message(format: NotifyFormat, text: &str, state: &Value) -> Bytes {
    match format {
        NotifyFormat::Plain => Bytes::from(text.to_owned()),
        NotifyFormat::Slack => {
            let message = json!({ "text": escape(text), "rollout": state });
            Bytes::from(message.to_string())
        }
    }
}

/// Escapes the three characters with a meaning in Slack's format, so that a label can't mention a channel.
fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;")
}

/// The task of one receiver.
struct Delivery {
    receiver: Notify,
    policy: DeliveryPolicy,
    log: Rc<LogLimit>,
}

impl Delivery {
    /// Delivers messages until there is none for a while, or until the notifier is gone.
    async fn run(self, mut messages: mpsc::Receiver<Bytes>) {
        loop {
            match timeout(self.policy.idle, messages.recv()).await {
                Ok(Some(message)) => self.deliver(message).await,
                Ok(None) => return,
                // `recv` returns the messages that were queued before the queue was closed, and then `None`.
                Err(_) => messages.close(),
            }
        }
    }

    async fn deliver(&self, message: Bytes) {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let failure = match self.attempt(&message).await {
                Ok(()) => return,
                Err(failure) => failure,
            };
            match failure.pause {
                Some(least) if attempts <= self.policy.retries => {
                    sleep(self.policy.backoff.after(attempts).max(least)).await;
                }
                _ => return self.warn_failed(&failure.why, attempts),
            }
        }
    }

    fn warn_failed(&self, why: &str, attempts: u32) {
        if let Some(omitted) = self.log.check(FAILED, Instant::now()) {
            tracing::warn!(
                reason = why,
                attempts,
                omitted,
                "notification not delivered"
            );
        }
    }

    async fn attempt(&self, message: &Bytes) -> Result<(), DeliveryFailure> {
        let url = OutcallUrl::parse(&self.receiver.url).map_err(|why| DeliveryFailure {
            why: why.to_owned(),
            pause: None,
        })?;
        let content_type = HeaderValue::from_static(match self.receiver.format {
            NotifyFormat::Slack => "application/json",
            NotifyFormat::Plain => "text/plain; charset=utf-8",
        });
        let peer = url.to_string();
        let request = OutcallRequest {
            method: Method::POST,
            url,
            headers: HeaderMap::from_iter([(header::CONTENT_TYPE, content_type)]),
            body: message.clone(),
            limit: self.policy.limit,
        };
        let response = client::send(request).await.map_err(|e| DeliveryFailure {
            why: e.to_string(),
            pause: e.is_transient().then_some(Duration::ZERO),
        })?;
        match response.status {
            200..=299 => Ok(()),
            status => Err(DeliveryFailure {
                why: format!("{peer}: answered {status}"),
                pause: (status == 429 || status >= 500).then(|| retry_after(&response.headers)),
            }),
        }
    }
}

/// Why an attempt failed.
struct DeliveryFailure {
    why: String,
    /// Shortest pause before the next attempt; `None` if further attempts can't help.
    pause: Option<Duration>,
}

#[cfg(test)]
#[path = "notify_tests.rs"]
mod tests;
