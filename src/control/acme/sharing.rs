//! The account and the certificates that the members of a fleet share: `acme.seal_key_file`.
//!
//! One member has the key `orderer` under a lease, and is the only one that places orders. It writes the account and each
//! certificate to etcd, sealed; the others store them like their own. A challenge over HTTP is answered by the account's
//! thumbprint, so that any member can.
//!
//! This is on the thread of the certificates, with a connection of its own.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::sleep;

use super::plan::UnixSeconds;
use super::seal::Seal;
use crate::config::acme::AcmeSpec;
use crate::config::fleet::FleetSpec;
use crate::control::etcd::{
    CasOutcome, Entry, Etcd, EtcdError, LeaseId, Revision, WatchEvent, WatchNews,
};

/// Time after which another member may order when the one that did is silent.
const TTL: Duration = Duration::from_secs(10);
/// Time between two renewals of the lease.
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// How often a member sees a value that no member has written before it replaces that.
const FOREIGN_LOOKS: u32 = 3;
/// Longest name of a process.
const LONGEST_INSTANCE: usize = 128;
/// Pause after a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// An account as the members share it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SharedAccount {
    /// The credentials in the form of the ACME client.
    pub credentials: String,
    /// Thumbprint of the account's key, by which challenges are answered.
    pub thumbprint: String,
}

/// A value that another member has written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SharedItem {
    Account(SharedAccount),
    /// The key and the certificates of a name, as PEM.
    Certificate(String, String),
}

/// A change of the shared keys, as the task that watches them reports it.
#[derive(Debug)]
enum Found {
    Listed(Vec<Entry>),
    Put(Entry),
    Deleted(String),
}

/// One member's part in sharing the account and the certificates.
///
/// Owned by the thread of the certificates, with tasks on its runtime. Right and knowledge go together: this member orders only
/// once it has read all keys and could open each of them, or else it would replace what others share.
#[derive(Debug)]
pub(super) struct Sharing {
    etcd: Etcd,
    /// The beginning of the keys in etcd.
    prefix: String,
    seal: Seal,
    news: mpsc::UnboundedReceiver<Found>,
    queue: VecDeque<Found>,
    /// Whether this member has the right to place orders.
    is_orderer: watch::Receiver<bool>,
    /// Whether this member may ask for that right.
    may_ask: watch::Sender<bool>,
    /// Whether all keys have been read once.
    is_listed: bool,
    /// Keys whose values aren't sealed by this member's key file.
    foreign: BTreeSet<String>,
    has_account: bool,
    /// Expiry of the certificates in etcd, by name.
    expiries: BTreeMap<String, UnixSeconds>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Sharing {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Sharing {
    /// Begins to share. `instance` names this process.
    pub(super) fn new(acme: &AcmeSpec, fleet: &FleetSpec, seal: Seal, instance: &str) -> Self {
        let etcd = Etcd::new(fleet);
        // Each authority has a directory of its own, and so keys of its own.
        let authority = acme.store.file_name().unwrap_or_default();
        let prefix = format!("{}acme/{}/", fleet.prefix(), authority.to_string_lossy());
        let (report, news) = mpsc::unbounded_channel();
        let (elected, is_orderer) = watch::channel(false);
        let (may_ask, allowed) = watch::channel(false);
        let election = Election {
            etcd: etcd.clone(),
            key: format!("{prefix}orderer"),
            value: instance.as_bytes().to_vec(),
            allowed,
            elected,
            foreign: Cell::new((0, 0)),
        };
        let tasks = [
            spawn_local(follow(etcd.clone(), prefix.clone(), report)),
            spawn_local(Rc::new(election).keep()),
        ];
        Self {
            etcd,
            prefix,
            seal,
            news,
            queue: VecDeque::new(),
            is_orderer,
            may_ask,
            is_listed: false,
            foreign: BTreeSet::new(),
            has_account: false,
            expiries: BTreeMap::new(),
            tasks,
        }
    }

    /// Waits for news, or until the right to order is gained or lost. Cancellation safe.
    pub(super) async fn changed(&mut self) {
        tokio::select! {
            found = self.news.recv() => match found {
                Some(found) => self.queue.push_back(found),
                // The reporting task ends when this value is dropped.
                None => std::future::pending().await,
            },
            changed = self.is_orderer.changed() => if changed.is_err() {
                std::future::pending().await
            },
        }
    }

    /// Whether this member places orders.
    pub(super) fn may_order(&self) -> bool {
        self.is_listed && self.foreign.is_empty() && *self.is_orderer.borrow()
    }

    /// The key whose value can't be opened, if there is one.
    pub(super) fn foreign(&self) -> Option<&str> {
        self.foreign.first().map(String::as_str)
    }

    /// Whether etcd has the account.
    pub(super) fn has_account(&self) -> bool {
        self.has_account
    }

    /// Expiry of the certificate that etcd has for a name; `None` if it has none.
    pub(super) fn expiry(&self, name: &str) -> Option<UnixSeconds> {
        self.expiries.get(name).copied()
    }

    /// Notes the expiry of the certificate that etcd has for a name.
    pub(super) fn note_expiry(&mut self, name: &str, expiry: UnixSeconds) {
        self.expiries.insert(name.to_owned(), expiry);
    }

    /// Takes the values that were written since the last call, by this member or another one.
    pub(super) fn take_items(&mut self) -> Vec<SharedItem> {
        while let Ok(found) = self.news.try_recv() {
            self.queue.push_back(found);
        }
        let mut items = Vec::new();
        while let Some(found) = self.queue.pop_front() {
            match found {
                Found::Listed(entries) => {
                    self.is_listed = true;
                    self.foreign.clear();
                    self.expiries.clear();
                    self.has_account = false;
                    items.extend(entries.iter().filter_map(|entry| self.open(entry)));
                }
                Found::Put(entry) => items.extend(self.open(&entry)),
                Found::Deleted(key) => {
                    self.foreign.remove(&key);
                    match self.name_of(&key) {
                        Some(SharedKey::Account) => self.has_account = false,
                        Some(SharedKey::Certificate(name)) => {
                            self.expiries.remove(name);
                        }
                        None => {}
                    }
                }
            }
        }
        let may_ask = self.is_listed && self.foreign.is_empty();
        self.may_ask.send_if_modified(|known| {
            let is_new = *known != may_ask;
            *known = may_ask;
            is_new
        });
        items
    }

    /// Opens a value. One that isn't sealed by this member's key file is named in the log.
    fn open(&mut self, entry: &Entry) -> Option<SharedItem> {
        let kind = self.name_of(&entry.key)?;
        let opened = self.seal.open(&entry.key, &entry.value);
        let item = opened.and_then(|text| match kind {
            SharedKey::Account => {
                let account = serde_json::from_str::<SharedAccount>(&text).ok()?;
                // The thumbprint is part of the answers to challenges.
                let is_print = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
                let is_account = account.thumbprint.bytes().all(is_print);
                is_account.then_some(SharedItem::Account(account))
            }
            SharedKey::Certificate(name) => Some(SharedItem::Certificate(name.to_owned(), text)),
        });
        match &item {
            Some(found) => {
                self.has_account |= matches!(found, SharedItem::Account(_));
                self.foreign.remove(&entry.key);
            }
            None => {
                tracing::error!(
                    key = entry.key,
                    "fleet: ignoring a value that isn't sealed by acme.seal_key_file"
                );
                self.foreign.insert(entry.key.clone());
            }
        }
        item
    }

    fn name_of<'k>(&self, key: &'k str) -> Option<SharedKey<'k>> {
        let rest = key.strip_prefix(&self.prefix)?;
        match rest.strip_prefix("cert/") {
            Some(name) => Some(SharedKey::Certificate(name)),
            None => (rest == "account").then_some(SharedKey::Account),
        }
    }

    /// Writes the account.
    ///
    /// # Errors
    /// The account could not be written. The message says why.
    pub(super) async fn write_account(&mut self, account: &SharedAccount) -> Result<(), String> {
        let key = format!("{}account", self.prefix);
        let text = serde_json::to_string(account).map_err(|e| e.to_string())?;
        let value = self.seal.close(&key, &text).ok_or("it can't be sealed")?;
        match self.etcd.cas(&key, None, value, None).await {
            Ok(CasOutcome::Done(_)) => self.has_account = true,
            // The watch reports it.
            Ok(CasOutcome::Conflict(_)) => return Err("another one was just shared".to_owned()),
            Err(error) => return Err(error.to_string()),
        }
        Ok(())
    }

    /// Writes a certificate with its key.
    ///
    /// # Errors
    /// The certificate could not be written. The message says why.
    pub(super) async fn write_certificate(&self, name: &str, pem: &str) -> Result<(), String> {
        let key = format!("{}cert/{name}", self.prefix);
        let value = self.seal.close(&key, pem).ok_or("it can't be sealed")?;
        let written = self.etcd.put(&key, value, None).await;
        written.map(drop).map_err(|e| e.to_string())
    }
}

/// The content of a key, as its name tells.
enum SharedKey<'k> {
    Account,
    Certificate(&'k str),
}

/// Reports the present keys, and every change of them.
async fn follow(etcd: Etcd, prefix: String, report: mpsc::UnboundedSender<Found>) {
    let mut watch = etcd.watch(&prefix);
    loop {
        let found = match watch.next().await {
            WatchNews::Listed { listing, .. } => vec![Found::Listed(listing.entries)],
            WatchNews::Changed { events, .. } => { events.into_iter() }
                .map(|event| match event {
                    WatchEvent::Put(entry) => Found::Put(entry),
                    WatchEvent::Deleted { key, .. } => Found::Deleted(key),
                })
                .collect(),
            WatchNews::Lost(_) | WatchNews::Resumed { .. } => Vec::new(),
        };
        for found in found {
            if report.send(found).is_err() {
                return;
            }
        }
    }
}

/// Competes for the right to order.
struct Election {
    etcd: Etcd,
    key: String,
    value: Vec<u8>,
    allowed: watch::Receiver<bool>,
    elected: watch::Sender<bool>,
    /// The revision of the last value of the key that no member has written, and how often it was seen.
    foreign: Cell<(Revision, u32)>,
}

impl Election {
    /// Competes for the right, and holds it as long as possible. Never returns.
    async fn keep(self: Rc<Self>) {
        loop {
            let mut allowed = self.allowed.clone();
            if allowed.wait_for(|allowed| *allowed).await.is_err() {
                return;
            }
            match self.etcd.grant(TTL).await {
                Ok(lease) => {
                    if let Err(error) = self.hold(lease).await {
                        tracing::debug!(%error, "fleet: not ordering certificates for now");
                    }
                    self.elected.send_replace(false);
                    // Other members needn't wait until the lease expires. If etcd can't be reached, it expires.
                    let _ = self.etcd.revoke(lease).await;
                }
                Err(error) => tracing::debug!(%error, "fleet: no lease"),
            }
            sleep(PAUSE).await;
        }
    }

    /// Takes the key and keeps it. Returns once this member should not order, or does not have the key any more.
    async fn hold(&self, lease: LeaseId) -> Result<(), EtcdError> {
        while *self.allowed.borrow() {
            let is_own = self.take(lease).await?;
            if !is_own && *self.elected.borrow() {
                return Ok(());
            }
            if is_own && !*self.elected.borrow() {
                tracing::info!("fleet: this member orders the certificates");
                self.elected.send_replace(true);
            }
            let mut allowed = self.allowed.clone();
            tokio::select! {
                () = sleep(RENEW_EVERY) => {}
                _ = allowed.wait_for(|allowed| !*allowed) => {}
            }
            self.etcd.keep_alive(lease).await?;
        }
        Ok(())
    }

    /// Makes the key this process's, under this lease, unless it is another one's. Returns whether it is.
    async fn take(&self, lease: LeaseId) -> Result<bool, EtcdError> {
        let cas = |expected| {
            self.etcd
                .cas(&self.key, expected, self.value.clone(), Some(lease))
        };
        match cas(None).await? {
            CasOutcome::Done(_) => Ok(true),
            CasOutcome::Conflict(Some(found)) if found.value == self.value => {
                if found.lease == Some(lease) {
                    return Ok(true);
                }
                // Of a lease before: it belongs to a former configuration of this process.
                let taken = cas(Some(found.mod_revision)).await?;
                Ok(matches!(taken, CasOutcome::Done(_)))
            }
            CasOutcome::Conflict(Some(found)) if is_foreign(&found) => {
                let revision = found.mod_revision;
                let (known, times) = self.foreign.get();
                let times = if known == revision { times + 1 } else { 1 };
                self.foreign.set((revision, times));
                if times == 1 {
                    tracing::warn!(
                        key = self.key,
                        "fleet: ignoring a value that no member has written, a member is elected to order certificates"
                    );
                }
                // The member that orders looks at its key as often, and keeps its role.
                if times < FOREIGN_LOOKS && !*self.elected.borrow() {
                    return Ok(false);
                }
                let taken = cas(Some(revision)).await?;
                Ok(matches!(taken, CasOutcome::Done(_)))
            }
            CasOutcome::Conflict(_) => Ok(false),
        }
    }
}

/// Whether no member has written this value of the orderer's key. Members do it under their lease: without one it would never expire.
fn is_foreign(entry: &Entry) -> bool {
    let is_name = (1..=LONGEST_INSTANCE).contains(&entry.value.len())
        && entry.value.iter().all(u8::is_ascii_graphic);
    entry.lease.is_none() || !is_name
}
