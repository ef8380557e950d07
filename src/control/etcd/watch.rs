//! Follows all keys under a prefix, through lost connections, compactions and restored backups.
//!
//! A listing gives a revision, and a stream the changes after it. When the stream ends, it is opened again at the last revision
//! that was seen, if nothing indicates that etcd's history is another one: the entry that was changed last must still be exactly
//! as it was. Otherwise the prefix is listed again. etcd itself would wait silently for a revision that a restored backup hasn't
//! reached yet.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{sleep, timeout};

use super::error::{EtcdError, printable};
use super::grpc::{CallError, Channel, Messages};
use super::kv::{Entry, Listing, range_end};
use super::link;
use super::proto::{EVENT_DELETE, Event, WatchCreate, WatchRequest, WatchResponse};
use super::{Etcd, Revision};

/// Number of reports that wait for their reader. When the reader is slow, etcd is told to wait.
const QUEUE: usize = 64;
/// Time limit for the answer to the creation of a watch.
const CREATE_LIMIT: Duration = Duration::from_secs(5);

/// A report about the keys under a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::control) enum WatchNews {
    /// All entries that exist now. Any other key has been deleted.
    Listed {
        listing: Listing,
        /// etcd's history is another one: a backup was restored, or the cluster replaced.
        is_restored: bool,
    },
    /// Changes, in their order.
    Changed {
        events: Vec<WatchEvent>,
        revision: Revision,
    },
    /// The connection is lost: from now on the known entries may be outdated. `Resumed` or `Listed` follows when that ends.
    Lost(EtcdError),
    /// Nothing was missed: changes follow as usual.
    Resumed { revision: Revision },
}

/// A change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::control) enum WatchEvent {
    /// The key was written.
    Put(Entry),
    /// The key was deleted, or its lease has expired.
    Deleted { key: String, revision: Revision },
}

/// A watch of a prefix. Dropping it ends the watch.
///
/// What it reports is complete: after `Listed` come all changes, in their order, or another `Listed` that replaces all that was
/// known. After an interruption, some changes may be reported again. A reader that is slow gets everything later.
pub(in crate::control) struct Watch {
    news: mpsc::Receiver<WatchNews>,
    task: JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch {
    /// Waits for news. Cancellation safe.
    pub(in crate::control) async fn next(&mut self) -> WatchNews {
        match self.news.recv().await {
            Some(news) => news,
            None => std::future::pending().await,
        }
    }
}

impl Etcd {
    /// Lists the keys that begin with `prefix`, and then follows their changes.
    pub(in crate::control) fn watch(&self, prefix: &str) -> Watch {
        let (sender, news) = mpsc::channel(QUEUE);
        let follower = Follower {
            etcd: self.clone(),
            prefix: prefix.to_owned(),
            news: sender,
            is_lost: false,
            cluster: 0,
            last: 0,
            went_back: false,
        };
        Watch {
            news,
            task: spawn_local(follower.run()),
        }
    }
}

/// The position of a watch in etcd's history.
struct Watched {
    /// The last revision whose changes have been passed on.
    revision: Revision,
    /// The entry that was changed last, unless it was deleted since.
    anchor: Option<(String, Revision)>,
}

impl Watched {
    fn see(&mut self, event: &WatchEvent) {
        match event {
            WatchEvent::Put(entry) => self.anchor = Some((entry.key.clone(), entry.mod_revision)),
            WatchEvent::Deleted { key, .. } => {
                self.anchor = self.anchor.take().filter(|(anchor, _)| anchor != key);
            }
        }
    }
}

/// The reason why a stream ended.
enum Interruption {
    /// The changes since the last revision aren't available.
    Compacted,
    Failed(EtcdError),
    /// The receiver of the reports was dropped.
    Unread,
}

impl From<EtcdError> for Interruption {
    fn from(error: EtcdError) -> Self {
        Self::Failed(error)
    }
}

/// The task behind a [`Watch`].
struct Follower {
    etcd: Etcd,
    prefix: String,
    news: mpsc::Sender<WatchNews>,
    is_lost: bool,
    /// The cluster and the revision of the last listing or change.
    cluster: u64,
    last: Revision,
    /// Whether the next listing is of another history, also if its revision is higher by now.
    went_back: bool,
}

impl Follower {
    async fn run(mut self) {
        let mut watched = None;
        let mut failures = 0;
        loop {
            let link = self.etcd.0.link.clone();
            let channel = link.channel().await;
            let was = self.last;
            match self.follow(&channel, &mut watched).await {
                Interruption::Unread => return,
                Interruption::Compacted => {
                    tracing::debug!(
                        prefix = self.prefix,
                        "fleet: revision compacted, listing again"
                    );
                    watched = None;
                    continue;
                }
                Interruption::Failed(error) => {
                    link.note(&error);
                    failures = if self.last > was { 0 } else { failures + 1 };
                    if !self.is_lost {
                        self.is_lost = true;
                        if self.tell(WatchNews::Lost(error)).await.is_err() {
                            return;
                        }
                    }
                }
            }
            sleep(link::pause(failures, fastrand::f64())).await;
        }
    }

    async fn tell(&mut self, news: WatchNews) -> Result<(), Interruption> {
        let sent = self.news.send(news).await;
        sent.map_err(|_| Interruption::Unread)
    }

    /// Follows changes until the stream ends.
    async fn follow(&mut self, channel: &Channel, watched: &mut Option<Watched>) -> Interruption {
        match self.try_follow(channel, watched).await {
            Ok(never) => match never {},
            Err(interruption) => interruption,
        }
    }

    async fn try_follow(
        &mut self,
        channel: &Channel,
        watched: &mut Option<Watched>,
    ) -> Result<std::convert::Infallible, Interruption> {
        if let Some(known) = watched {
            match history(&self.etcd, known).await? {
                History::Same => {}
                History::Unknown => *watched = None,
                History::Other => (*watched, self.went_back) = (None, true),
            }
        }
        let is_resuming = watched.is_some();
        let watched = match watched {
            Some(watched) => watched,
            None => watched.insert(self.list().await?),
        };
        let mut stream = create(&self.prefix, channel, watched.revision + 1).await?;
        if is_resuming {
            self.is_lost = false;
            let revision = watched.revision;
            self.tell(WatchNews::Resumed { revision }).await?;
        }
        loop {
            let response = stream.next::<WatchResponse>().await;
            let Some(response) = response.map_err(EtcdError::from)? else {
                let why = "it ended the watch".to_owned();
                return Err(EtcdError::Unknown(why).into());
            };
            check(&response)?;
            let newest = response.events.iter().filter_map(|event| event.kv.as_ref());
            let newest = newest.map(|kv| kv.mod_revision).max();
            // Only with its last fragment is a revision complete. A stream that ends before that is opened again at the one before.
            if !response.fragment {
                // Without events, etcd says now and then how far it is. With some, its own revision may be ahead of them: further
                // ones follow.
                let header = response.header.unwrap_or_default();
                watched.revision = watched.revision.max(newest.unwrap_or(header.revision));
                self.last = self.last.max(watched.revision);
            }
            let events: Vec<_> = response.events.into_iter().filter_map(read_event).collect();
            events.iter().for_each(|event| watched.see(event));
            // The events of a fragment may be reported again, after an interruption before the last one.
            let revision = newest.unwrap_or(watched.revision);
            if !events.is_empty() {
                self.tell(WatchNews::Changed { events, revision }).await?;
            }
        }
    }

    /// Lists the prefix, and reports the entries.
    async fn list(&mut self) -> Result<Watched, Interruption> {
        let listing = self.etcd.list(&self.prefix).await?;
        let newest = listing.entries.iter().max_by_key(|e| e.mod_revision);
        let watched = Watched {
            revision: listing.revision,
            anchor: newest.map(|entry| (entry.key.clone(), entry.mod_revision)),
        };
        let is_other = self.cluster != 0 && self.cluster != listing.cluster;
        let went_back = std::mem::take(&mut self.went_back);
        let is_restored = is_other || went_back || listing.revision < self.last;
        (self.cluster, self.last) = (listing.cluster, listing.revision);
        self.is_lost = false;
        let listed = WatchNews::Listed {
            listing,
            is_restored,
        };
        self.tell(listed).await?;
        Ok(watched)
    }
}

/// Opens the stream, and waits until etcd has confirmed the watch.
async fn create(
    prefix: &str,
    channel: &Channel,
    start_revision: Revision,
) -> Result<WatchStream, Interruption> {
    let request = WatchRequest {
        create: Some(WatchCreate {
            key: Bytes::copy_from_slice(prefix.as_bytes()),
            range_end: range_end(prefix),
            start_revision,
            progress_notify: true,
            fragment: true,
        }),
    };
    let opened = async {
        // The request stays open: its end would be that of the watch.
        let (sent, messages) = channel.stream("Watch/Watch", &request, false).await?;
        let mut stream = WatchStream {
            _request: sent,
            messages,
        };
        let first = stream.next::<WatchResponse>().await?;
        Ok::<_, EtcdError>((stream, first.unwrap_or_default()))
    };
    let opened = match timeout(CREATE_LIMIT, opened).await {
        Ok(opened) => opened,
        Err(_) => {
            let why = format!("no watch within {CREATE_LIMIT:?}");
            return Err(EtcdError::Unknown(why).into());
        }
    };
    let (stream, first) = opened?;
    check(&first)?;
    match first.created {
        true => Ok(stream),
        false => Err(EtcdError::Unknown("no watch was created".to_owned()).into()),
    }
}

/// The stream of a watch.
struct WatchStream {
    _request: h2::SendStream<Bytes>,
    messages: Messages,
}

impl WatchStream {
    async fn next<R: prost::Message + Default>(&mut self) -> Result<Option<R>, CallError> {
        self.messages.next().await
    }
}

/// Whether etcd's history is the one that was followed.
enum History {
    Same,
    Unknown,
    Other,
}

/// Compares the entry that was changed last with what it was. Within a history its revision doesn't fall, not even if it is deleted
/// and written again.
async fn history(etcd: &Etcd, watched: &Watched) -> Result<History, EtcdError> {
    let Some((key, revision)) = &watched.anchor else {
        return Ok(History::Unknown);
    };
    let found = etcd.get(key).await?.map(|entry| entry.mod_revision);
    Ok(match found {
        Some(found) if found == *revision => History::Same,
        Some(found) if found < *revision => History::Other,
        Some(_) | None => History::Unknown,
    })
}

/// Fails if etcd has ended the watch. The stream stays open after that.
fn check(response: &WatchResponse) -> Result<(), Interruption> {
    if !response.canceled {
        return Ok(());
    }
    if response.compact_revision > 0 {
        return Err(Interruption::Compacted);
    }
    let why = &response.cancel_reason;
    let error = if why.contains("permission denied") || why.contains("PermissionDenied") {
        EtcdError::Denied
    } else if why.contains("no leader") {
        EtcdError::NoLeader
    } else if why.contains("user name is empty") {
        EtcdError::Auth("it asks for a user".to_owned())
    } else {
        EtcdError::Unknown(format!("it ended the watch: {}", printable(why)))
    };
    Err(error.into())
}

fn read_event(event: Event) -> Option<WatchEvent> {
    let entry = Entry::read(event.kv?)?;
    Some(match event.kind {
        EVENT_DELETE => WatchEvent::Deleted {
            key: entry.key,
            revision: entry.mod_revision,
        },
        _ => WatchEvent::Put(entry),
    })
}
