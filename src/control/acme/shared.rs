//! Certificates that all members of a fleet share: how one member takes, writes and orders them.

use std::time::Duration;

use instant_acme::{Account, AccountCredentials};
use tokio::time::{sleep, timeout};

use super::plan::{AcmeEvent, OrderFailure};
use super::seal::Seal;
use super::sharing::{SharedAccount, SharedItem, Sharing};
use super::store::described;
use super::{Certificates, LONGEST_WAIT, STORE_EVERY, now};

/// Time that a new account waits before its first order, so that all members can answer its challenges.
const SPREAD: Duration = Duration::from_secs(1);
/// Pause after a value could not be written to etcd.
const AGAIN: Duration = Duration::from_secs(5);

impl Certificates<'_> {
    /// Begins to share the certificates with the fleet, if the configuration says so. Waits for a key file that can be used.
    pub(super) async fn join(&mut self) {
        let Some((file, fleet)) = self.spec.seal_key_file.clone().zip(self.fleet.clone()) else {
            return;
        };
        loop {
            match Seal::read(&file) {
                Ok(seal) => {
                    let instance = &self.shared.instance;
                    self.sharing = Some(Sharing::new(&self.spec, &fleet, seal, instance));
                    return;
                }
                Err(why) => {
                    tracing::error!(reason = why, "no certificates can be obtained");
                    self.fail_all(&why);
                }
            }
            sleep(STORE_EVERY).await;
        }
    }

    fn fail_all(&self, why: &str) {
        for name in &self.spec.names {
            self.note_error(name, why);
        }
        self.tell();
    }

    /// Whether this process places orders: alone, or for a fleet.
    pub(super) fn may_order(&self) -> bool {
        self.sharing.as_ref().is_none_or(Sharing::may_order)
    }

    /// Waits this long, or until an event that concerns the certificates occurs.
    pub(super) async fn wait(&mut self, time: Duration, is_all_shared: bool) {
        let time = time.min(LONGEST_WAIT);
        match &mut self.sharing {
            None => sleep(time).await,
            Some(sharing) => {
                let time = if is_all_shared { time } else { time.min(AGAIN) };
                // Both outcomes are fine.
                let _ = timeout(time, sharing.changed()).await;
            }
        }
    }

    /// Takes the values that other members have written. If this member places orders, it writes those that others don't have.
    /// Returns whether all were written.
    pub(super) async fn share(&mut self) -> bool {
        let Some(sharing) = &mut self.sharing else {
            return true;
        };
        let items = sharing.take_items();
        if let Some(key) = sharing.foreign() {
            let why = format!(
                "etcd has {key}, which isn't sealed by `acme.seal_key_file`. Give all members the same file; if the key was \
                 changed, delete what is sealed by the former one"
            );
            self.fail_all(&why);
            self.is_apart = true;
        } else if std::mem::take(&mut self.is_apart) {
            // The lock is not poisoned; see `Acme::errors`.
            self.shared.errors.lock().expect("errors lock").clear();
            self.tell();
        }
        for item in items {
            match item {
                SharedItem::Account(account) => self.take_account(&account),
                SharedItem::Certificate(name, pem) => self.take_certificate(&name, &pem),
            }
        }
        self.write_certificates().await
    }

    fn take_account(&mut self, account: &SharedAccount) {
        if serde_json::from_str::<AccountCredentials>(&account.credentials).is_err() {
            tracing::error!("fleet: ignoring the shared account, which can't be read");
            return;
        }
        self.shared.answers.set_thumbprint(&account.thumbprint);
        let stored = self.store.account();
        if stored.is_ok_and(|stored| stored.as_ref() == Some(&account.credentials)) {
            return;
        }
        self.account = None;
        if let Err(error) = self.store.save_account(&account.credentials) {
            tracing::error!(%error, "fleet: the shared account can't be stored");
        }
    }

    /// Stores a certificate, unless the stored one is valid for longer.
    fn take_certificate(&mut self, name: &str, pem: &str) {
        let Some(found) = described(pem.as_bytes()) else {
            tracing::error!(
                name,
                "fleet: ignoring a shared certificate, which can't be read"
            );
            return;
        };
        let expiry = found.validity.end;
        if let Some(sharing) = &mut self.sharing {
            sharing.note_expiry(name, expiry);
        }
        if !self.spec.names.iter().any(|known| known == name) {
            return;
        }
        let own = self.store.certificate(name);
        if own.is_some_and(|own| own.validity.end >= expiry) {
            return;
        }
        if let Err(error) = self.store.save_pem(name, pem) {
            self.note_error(name, &format!("{}: {error}", self.spec.store.display()));
            self.tell();
            return;
        }
        let event = AcmeEvent::Stored(found.validity);
        self.plan.on(name, event, now(), fastrand::f64());
        // The lock is not poisoned; see `Acme::errors`.
        self.shared.errors.lock().expect("errors lock").remove(name);
        let expires = crate::certificates::date(expiry);
        tracing::info!(name, %expires, "certificate obtained by another member of the fleet");
        self.tell();
    }

    /// Writes the certificates that are valid for longer here than in etcd.
    async fn write_certificates(&mut self) -> bool {
        if !self.may_order() {
            return true;
        }
        let Some(sharing) = &mut self.sharing else {
            return true;
        };
        let mut is_all_written = true;
        for name in &self.spec.names {
            let Some(own) = self.store.certificate(name) else {
                continue;
            };
            let expiry = own.validity.end;
            if { sharing.expiry(name) }.is_some_and(|there| there >= expiry) {
                continue;
            }
            let Some(pem) = self.store.pem(name) else {
                continue;
            };
            match sharing.write_certificate(name, &pem).await {
                Ok(()) => sharing.note_expiry(name, expiry),
                Err(error) => {
                    tracing::warn!(name, error, "fleet: the certificate is not shared yet");
                    is_all_written = false;
                }
            }
        }
        is_all_written
    }

    /// Makes sure, before an order, that all members can answer challenges of the account.
    pub(super) async fn share_account(
        &mut self,
        account: &Account,
    ) -> Result<(), (String, OrderFailure)> {
        let Some(sharing) = self.sharing.as_mut().filter(|s| !s.has_account()) else {
            return Ok(());
        };
        let failed = |why: String| {
            let why = format!("the account can't be shared with the fleet: {why}");
            (why, OrderFailure::default())
        };
        let credentials = self.store.account().map_err(|e| failed(e.to_string()))?;
        let shared = SharedAccount {
            credentials: credentials.unwrap_or_default(),
            thumbprint: account.key_thumbprint().to_owned(),
        };
        sharing.write_account(&shared).await.map_err(failed)?;
        sleep(SPREAD).await;
        Ok(())
    }
}
