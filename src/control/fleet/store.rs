//! The connection of the rollouts to their fleet.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::sleep;

use super::news::{Driver, FleetNews, Found, Written, counts};
use crate::control::etcd::{CasOutcome, Etcd, EtcdError, LeaseId, Revision, WatchEvent, WatchNews};
use crate::rollout::fleet::document::FleetDocument;
use crate::rollout::fleet::evidence::StepCounts;

/// Time between two reads, with up to half as much more.
const READ_EVERY: Duration = Duration::from_secs(2);

/// A member's connection to the shared rollouts of its fleet. Dropping it ends its tasks.
///
/// Owned by the rollouts. Calls return at once, and what they find out is reported; calls of the same kind may overtake each other,
/// so the receiver of a report compares revisions. Documents are changed by compare-and-swap only.
#[derive(Debug)]
pub(in crate::control) struct FleetStore {
    pub fleet: String,
    pub member: String,
    /// The name of this process.
    pub source: String,
    etcd: Etcd,
    /// The beginning of the fleet's keys.
    prefix: String,
    reports: mpsc::UnboundedSender<FleetNews>,
    news: mpsc::UnboundedReceiver<FleetNews>,
    tasks: [JoinHandle<()>; 3],
}

impl Drop for FleetStore {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl FleetStore {
    /// Begins to follow the rollouts of a fleet. `instance` distinguishes processes of one member.
    pub(in crate::control) fn new(
        etcd: Etcd,
        (fleet, prefix): (&str, String),
        (member, instance): (&str, &str),
    ) -> Self {
        let (report, news) = mpsc::unbounded_channel();
        let tasks = [
            spawn_local(read_always(etcd.clone(), prefix.clone(), report.clone())),
            spawn_local(follow_documents(
                etcd.clone(),
                prefix.clone(),
                report.clone(),
            )),
            spawn_local(follow_drivers(etcd.clone(), prefix.clone(), report.clone())),
        ];
        Self {
            fleet: fleet.to_owned(),
            member: member.to_owned(),
            source: format!("{member}.{instance}"),
            etcd,
            prefix,
            reports: report,
            news,
            tasks,
        }
    }

    /// Waits for a report. Cancellation safe.
    pub(in crate::control) async fn news(&mut self) -> Option<FleetNews> {
        self.news.recv().await
    }

    /// Runs a call that may report something.
    fn call(&self, work: impl Future<Output = Option<FleetNews>> + 'static) {
        let report = self.reports.clone();
        spawn_local(async move {
            if let Some(news) = work.await {
                // Fails only once the link is dropped.
                let _ = report.send(news);
            }
        });
    }

    fn driver_key(&self, service: &str) -> String {
        format!("{}driver/{service}", self.prefix)
    }

    /// The prefix of the keys of the counts in a step. The keys sort by attempt and step.
    fn evidence_keys(&self, service: &str, of: (u64, usize)) -> String {
        format!(
            "{}evidence/{service}/{:015}/{:06}/",
            self.prefix, of.0, of.1
        )
    }

    /// Changes a document that has this revision; 0 if there must be none.
    pub(in crate::control) fn write(&self, service: &str, revision: i64, document: FleetDocument) {
        let (etcd, service) = (self.etcd.clone(), service.to_owned());
        let key = format!("{}state/{service}", self.prefix);
        let sent = Instant::now();
        self.call(async move {
            let expected = (revision > 0).then_some(revision);
            let result = match document.write() {
                Ok(value) => match etcd.cas(&key, expected, value, None).await {
                    Ok(CasOutcome::Done(revision)) => Written::Done(revision, Box::new(document)),
                    Ok(CasOutcome::Conflict(found)) => {
                        Written::Conflict(found.and_then(|entry| match Found::read(&entry) {
                            Found::Document(revision, document) => Some((revision, document)),
                            Found::Unreadable(..) => None,
                        }))
                    }
                    Err(error) => Written::Failed(error.to_string()),
                },
                Err(error) => Written::Failed(format!("the shared state is refused: {error}")),
            };
            Some(FleetNews::Written(service, sent, result))
        });
    }

    /// Asks for the driver's role, which nobody had a moment ago. `replaced` is the revision of a value of its key that is nobody's.
    pub(in crate::control) fn campaign(
        &self,
        service: &str,
        lease: LeaseId,
        replaced: Option<Revision>,
    ) {
        let (etcd, key, service) = (
            self.etcd.clone(),
            self.driver_key(service),
            service.to_owned(),
        );
        let own = Driver {
            source: self.source.clone(),
            term: 0,
            replaceable: None,
        };
        self.call(async move {
            let won = etcd.cas(&key, replaced, own.to_value(), Some(lease)).await;
            // The watch reports the winner as well, later.
            let is_won = matches!(won, Ok(CasOutcome::Done(_)));
            is_won.then_some(FleetNews::Driver(service, Some(own)))
        });
    }

    /// Tells the other members the term in which this process drives.
    pub(in crate::control) fn announce(&self, service: &str, term: u64, lease: LeaseId) {
        let (etcd, key) = (self.etcd.clone(), self.driver_key(service));
        let own = Driver {
            source: self.source.clone(),
            term,
            replaceable: None,
        };
        self.call(async move {
            // Repeated until the key is seen to have it.
            let _ = etcd.put(&key, own.to_value(), Some(lease)).await;
            None
        });
    }

    /// Gives the driver's role up.
    pub(in crate::control) fn resign(&self, service: &str) {
        let (etcd, key) = (self.etcd.clone(), self.driver_key(service));
        self.call(async move {
            if let Err(error) = etcd.delete(&key).await {
                tracing::debug!(%error, "fleet: the driver's role expires");
            }
            None
        });
    }

    /// Writes the counts of this process in a step.
    pub(in crate::control) fn report(&self, service: &str, of: (u64, usize), counts: &StepCounts) {
        let key = format!("{}{}", self.evidence_keys(service, of), self.source);
        let (etcd, value) = (self.etcd.clone(), counts.write());
        self.call(async move {
            // A later report has these counts as well.
            let _ = etcd.put(&key, value, None).await;
            None
        });
    }

    /// Asks for the counts of all processes in a step.
    pub(in crate::control) fn read_evidence(&self, service: &str, of: (u64, usize)) {
        let (etcd, prefix) = (self.etcd.clone(), self.evidence_keys(service, of));
        let service = service.to_owned();
        self.call(async move {
            let listing = etcd.list(&prefix).await.ok()?;
            let counts = counts(&listing.entries, &prefix);
            Some(FleetNews::Evidence(service, of, counts))
        });
    }

    /// Deletes the counts of all steps before this one.
    pub(in crate::control) fn clear_evidence(&self, service: &str, of: (u64, usize)) {
        let from = format!("{}evidence/{service}/", self.prefix);
        let (etcd, end) = (self.etcd.clone(), self.evidence_keys(service, of));
        self.call(async move {
            if let Err(error) = etcd.delete_range(&from, &end).await {
                tracing::debug!(%error, "fleet: counts of earlier steps remain");
            }
            None
        });
    }

    /// Keeps the state of the driver's guard for the next driver.
    pub(in crate::control) fn keep_guard(&self, service: &str, kept: Vec<u8>) {
        let key = format!("{}guard/{service}", self.prefix);
        let etcd = self.etcd.clone();
        self.call(async move {
            if let Err(error) = etcd.put(&key, kept, None).await {
                tracing::debug!(%error, "fleet: the evidence is not kept for another driver");
            }
            None
        });
    }

    /// Asks for the guard's state that the previous driver has kept.
    pub(in crate::control) fn read_guard(&self, service: &str) {
        let key = format!("{}guard/{service}", self.prefix);
        let (etcd, service) = (self.etcd.clone(), service.to_owned());
        self.call(async move {
            let kept = etcd.get(&key).await;
            let kept = kept.ok().flatten().map(|entry| entry.value.to_vec());
            Some(FleetNews::Guard(service, kept))
        });
    }
}

/// Reads documents and drivers repeatedly. Never returns.
async fn read_always(etcd: Etcd, prefix: String, report: mpsc::UnboundedSender<FleetNews>) {
    loop {
        if let Ok(news) = read(&etcd, &prefix).await
            && report.send(news).is_err()
        {
            return;
        }
        sleep(READ_EVERY.mul_f64(1.0 + fastrand::f64() / 2.0)).await;
    }
}

async fn read(etcd: &Etcd, prefix: &str) -> Result<FleetNews, EtcdError> {
    let sent = Instant::now();
    let states = format!("{prefix}state/");
    let documents = etcd.list(&states).await?;
    let documents = documents.entries.iter().filter_map(|entry| {
        let service = entry.key.strip_prefix(&states)?;
        Some((service.to_owned(), Found::read(entry)))
    });
    let documents = documents.collect();
    let keys = format!("{prefix}driver/");
    let drivers = etcd.list(&keys).await?;
    let drivers = drivers.entries.iter().filter_map(|entry| {
        let service = entry.key.strip_prefix(&keys)?;
        Some((service.to_owned(), Driver::read(entry)))
    });
    Ok(FleetNews::Read {
        sent,
        documents,
        drivers: drivers.collect(),
    })
}

async fn follow_documents(etcd: Etcd, prefix: String, report: mpsc::UnboundedSender<FleetNews>) {
    let states = format!("{prefix}state/");
    let mut watch = etcd.watch(&states);
    loop {
        let entries = match watch.next().await {
            WatchNews::Listed {
                listing,
                is_restored,
            } => {
                if is_restored && report.send(FleetNews::Restored).is_err() {
                    return;
                }
                listing.entries
            }
            WatchNews::Changed { events, .. } => { events.into_iter() }
                .filter_map(|event| match event {
                    WatchEvent::Put(entry) => Some(entry),
                    // The next read reports it.
                    WatchEvent::Deleted { .. } => None,
                })
                .collect(),
            WatchNews::Lost(_) | WatchNews::Resumed { .. } => continue,
        };
        for entry in entries {
            if let Some(service) = entry.key.strip_prefix(&states) {
                let news = FleetNews::Document(service.to_owned(), Found::read(&entry));
                if report.send(news).is_err() {
                    return;
                }
            }
        }
    }
}

async fn follow_drivers(etcd: Etcd, prefix: String, report: mpsc::UnboundedSender<FleetNews>) {
    let keys = format!("{prefix}driver/");
    let mut watch = etcd.watch(&keys);
    loop {
        let WatchNews::Changed { events, .. } = watch.next().await else {
            // The drivers are read every few seconds anyway.
            continue;
        };
        for event in events {
            let (key, driver) = match &event {
                WatchEvent::Put(entry) => (&entry.key, Some(Driver::read(entry))),
                WatchEvent::Deleted { key, .. } => (key, None),
            };
            if let Some(service) = key.strip_prefix(&keys)
                && report
                    .send(FleetNews::Driver(service.to_owned(), driver))
                    .is_err()
            {
                return;
            }
        }
    }
}
