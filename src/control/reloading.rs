//! Reloads of a running proxy, and the steps that follow an adopted configuration.

use std::os::fd::AsFd;

use super::events::Control;
use super::publisher::reload::ReloadOutcome;
use super::systemd;

impl Control {
    /// Reloads the configuration and the certificates on request, and reports the reload to the service manager.
    pub(super) async fn reload_all(&mut self) -> ReloadOutcome {
        systemd::reloading();
        let outcome = self.reload_file().await;
        self.publisher.renew();
        systemd::ready(&self.status());
        outcome
    }

    /// Reloads the file. If tables of the fleet were refused before, they are tried again together with it.
    pub(super) async fn reload_file(&mut self) -> ReloadOutcome {
        match self.adopt_refused_tables().await {
            Some(generation) => ReloadOutcome::Adopted(generation),
            None => self.reload().await,
        }
    }

    /// Stores duplicates of the listening sockets with the service manager (`FDSTORE=1`), which passes them to the next process
    /// after a restart.
    pub(super) fn store(&mut self) {
        let held = self.publisher.listeners().held();
        let mut stored = true;
        for (label, socket) in held {
            stored &= systemd::store(&label.name, socket.as_fd());
        }
        self.stored = stored;
    }

    /// Reads the file and the files that it includes, and publishes the result if it is valid and has changed.
    pub(super) async fn reload(&mut self) -> ReloadOutcome {
        let before = self.publisher.listeners().addresses();
        let (rollouts, membership) = (&mut self.rollouts, &mut self.membership);
        let adopt = |spec: &_| rollouts.follow(spec, membership);
        let outcome = self.publisher.reload(adopt).await;
        self.show_rollouts();
        if matches!(outcome, ReloadOutcome::Adopted(_)) {
            let now = self.publisher.listeners().addresses();
            if now != before {
                before.iter().for_each(|(name, _)| systemd::forget(name));
                self.store();
            }
            self.file_watcher
                .set_certificates(self.publisher.certificate_files());
            self.file_watcher
                .set_parts(self.publisher.live().current().spec.body_files());
            let spec = self.publisher.live().current().spec.clone();
            self.acme.adopt(spec.acme.as_ref(), spec.fleet.as_ref());
            self.membership.adopt(&spec, self.publisher.keys());
            self.shared
                .follow(spec.fleet.as_ref(), self.membership.etcd());
            *self.context.bound.lock().expect("bound lock") =
                self.publisher.listeners().tcp_addresses();
            // New versions get their baseline now instead of at the next tick.
            self.sample();
        }
        systemd::status(&self.status());
        outcome
    }
}
