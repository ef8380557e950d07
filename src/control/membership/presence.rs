//! Keeps the key of this member, under a lease.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::document::MemberDocument;
use crate::admin::fleet::FleetView;
use crate::control::etcd::{Etcd, EtcdError, LeaseId};

/// Time after which a silent member counts as gone.
const TTL: Duration = Duration::from_secs(10);
/// Time between two renewals of the lease: two may fail.
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// Pause after a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// The key of this member.
#[derive(Debug)]
pub(super) struct Presence {
    etcd: Etcd,
    key: String,
    lease: Cell<Option<LeaseId>>,
    /// Notified when the key is gone although no member revoked the lease.
    missing: Notify,
}

impl Presence {
    pub(super) fn new(etcd: Etcd, key: String) -> Self {
        Self {
            etcd,
            key,
            lease: Cell::new(None),
            missing: Notify::new(),
        }
    }

    /// Keeps the key. Returns when the sender of documents has been dropped.
    pub(super) async fn keep(
        self: Rc<Self>,
        mut documents: watch::Receiver<MemberDocument>,
        view: Arc<FleetView>,
    ) {
        loop {
            let Err(error) = self.stay(&mut documents, &view).await else {
                return;
            };
            if error == EtcdError::LeaseGone {
                // The lease wasn't renewed in time. Another one is granted at once.
                self.lease.set(None);
                continue;
            }
            let text = error.to_string();
            view.update(|state| state.fault = Some(text));
            sleep(PAUSE).await;
        }
    }

    /// Joins, and renews the lease.
    async fn stay(
        &self,
        documents: &mut watch::Receiver<MemberDocument>,
        view: &FleetView,
    ) -> Result<(), EtcdError> {
        let lease = match self.lease.get() {
            Some(lease) => {
                self.etcd.keep_alive(lease).await?;
                lease
            }
            None => self.etcd.grant(TTL).await?,
        };
        self.lease.set(Some(lease));
        loop {
            let value = documents.borrow_and_update().to_value();
            self.etcd.put(&self.key, value, Some(lease)).await?;
            view.update(|state| state.fault = None);
            loop {
                tokio::select! {
                    changed = documents.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return Ok(()),
                    },
                    () = self.missing.notified() => break,
                    () = sleep(RENEW_EVERY) => {
                        self.etcd.keep_alive(lease).await?;
                    }
                }
            }
        }
    }

    /// The lease of this member's keys, once it has joined.
    pub(super) fn lease(&self) -> Option<LeaseId> {
        self.lease.get()
    }

    /// Records that the key is missing.
    pub(super) fn is_missing(&self) {
        if self.lease.get().is_some() {
            self.missing.notify_waiters();
        }
    }

    /// Deletes the key, with its lease.
    pub(super) async fn end(&self) {
        if let Some(lease) = self.lease.take()
            && self.etcd.is_connected()
            && let Err(error) = self.etcd.revoke(lease).await
        {
            tracing::debug!(%error, "fleet: the lease isn't revoked, and expires");
        }
    }
}
