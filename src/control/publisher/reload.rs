//! Reloads: the file is read again, and published if it is valid and has changed.

use std::time::{Instant, SystemTime};

use super::{NAMES, Publisher, warn_of_identities};
use crate::config::{Loaded, Spec};
use crate::control::access_log::OpenLog;
use crate::control::config_file::{read, rendered, warn, warn_of_restart};
use crate::control::preflight::{identity_errors, log_error, plan_errors, token_error};
use crate::control::rollouts::shares::SharesInForce;
use crate::control::traces::OpenTraces;
use crate::control::upstream_identities::{IdentityReading, UpstreamIdentities};
use crate::control::{audit, file_watcher, history, sticky_key};
use crate::edge::inherit::Inherited;
use crate::edge::listener::Plan;
use crate::edge::worker::WorkerCommand;
use crate::snapshot::Keys;

/// The result of a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReloadOutcome {
    /// This generation runs on every worker.
    Adopted(u64),
    /// The file has the text of the running configuration, which has this generation.
    Unchanged(u64),
    /// The file was refused and the running generation stays in use. Contains the rendered diagnostics.
    Refused(String),
}

/// The files and sockets that a reload has opened before it changes anything that runs.
struct Checked {
    plan: Plan,
    log: OpenLog,
    traces: OpenTraces,
    keys: Keys,
    identities: IdentityReading,
}

impl Publisher {
    /// Reads the file and publishes it if it is valid and has changed. Returns once every worker has adopted it, or after
    /// [`super::ADOPTION`].
    ///
    /// `rollouts` returns the shares that rollouts have under a specification, just before it is compiled.
    pub(crate) async fn reload(
        &mut self,
        rollouts: impl FnOnce(&Spec) -> SharesInForce,
    ) -> ReloadOutcome {
        let began = Instant::now();
        let loaded = match file_watcher::when_whole(&self.file, read).await {
            Ok(loaded) => loaded,
            Err((error, hash)) => return self.refuse(error, hash.as_deref()),
        };
        let source = self.live.source();
        let running = self.live.current();
        // The specification may differ for the same text, where it contains the content of other files.
        if loaded.hash == source.hash && loaded.spec == running.spec {
            if source.error.is_some() {
                self.clear_refusal(running.generation);
            }
            return ReloadOutcome::Unchanged(running.generation);
        }
        let checked = match self.check(&loaded) {
            Ok(checked) => checked,
            Err(error) => return self.refuse(error, Some(&loaded.hash)),
        };
        let Checked {
            plan,
            log,
            traces,
            keys,
            identities,
        } = checked;
        // From here on nothing can fail: the generation is published.
        warn(&loaded);
        warn_of_restart(&running.spec, &loaded.spec);
        // All that `compile` reads is replaced first. Nothing runs in between: workers still have the previous generation, and this
        // thread doesn't return to its loop.
        self.rollouts = rollouts(&loaded.spec);
        self.keys = keys;
        warn_of_identities(&identities.warnings);
        self.identities = identities.identities;
        self.log.replace(log);
        self.traces = traces;
        self.discovery.adopt(&loaded.spec);
        self.discovery.first_round(NAMES).await;
        let next = self.compile(&running, &loaded.spec);
        let generation = next.generation;
        self.admission.adopt(&loaded.spec.limits);
        self.publish(next);
        let updates = self.listeners.adopt(plan);
        for (worker, updates) in self.workers.workers().iter().zip(updates) {
            // Snapshot before listeners: a request that arrives on a new listener must find the new routes.
            worker.tell(WorkerCommand::Adopt);
            worker.tell(WorkerCommand::Listeners(updates));
        }
        let files = loaded.files(&self.file).into();
        self.live
            .note_source(|s| s.adopt(loaded.hash.clone(), files, generation));
        self.note_certificates();
        self.wait_until_adopted(generation).await;
        let now = self.live.current();
        let changes = audit::changes(&running, &now);
        audit::log(generation, &changes);
        let lines = history::lines_of(&changes, (&running, &now));
        let text = (&*loaded.hash, Some(loaded.text.into()));
        self.history.record(generation, lines, text, None);
        tracing::info!(
            generation,
            took_ms = began.elapsed().as_millis(),
            after_refusal = source.error.is_some(),
            "configuration adopted by every worker"
        );
        ReloadOutcome::Adopted(generation)
    }

    /// Opens the files that a valid configuration names. Changes nothing that runs.
    ///
    /// # Errors
    /// The rendered diagnostics of files that can't be used.
    fn check(&self, loaded: &Loaded) -> Result<Checked, String> {
        let mut none = Inherited::default();
        let plan = self
            .listeners
            .plan(&loaded.spec, &self.telemetry, &mut none);
        let plan = plan.map_err(|errors| rendered(&plan_errors(loaded, &self.file, &errors)))?;
        if let Some(error) = token_error(loaded, &self.file) {
            return Err(error.rendered(false));
        }
        let log = self.log.next(&loaded.spec, self.telemetry.access_log());
        let log = log.map_err(|problem| log_error(loaded, &self.file, &problem).rendered(false))?;
        let keys = sticky_key::keys(&loaded.spec, &self.keys)?;
        let traces = self.traces.next(&loaded.spec, &self.telemetry.spans);
        let traces =
            traces.map_err(|e| format!("no thread can be started to export spans: {e}"))?;
        let former = &self.identities;
        let identities = UpstreamIdentities::read(&loaded.spec, former, SystemTime::now());
        let identities =
            identities.map_err(|faults| rendered(&identity_errors(loaded, &self.file, &faults)))?;
        Ok(Checked {
            plan,
            log,
            traces,
            keys,
            identities,
        })
    }

    fn refuse(&self, error: String, hash: Option<&str>) -> ReloadOutcome {
        let generation = self.live.current().generation;
        let known = self.live.source();
        // One save may be read several times, and a bad file may stay for hours: an error is logged only when it is new.
        if known.error.as_ref() != Some(&error) {
            tracing::error!(
                generation,
                detail = error,
                "configuration refused, the running generation stays in use"
            );
        }
        self.live.note_source(|s| {
            s.refused += 1;
            s.refused_hash = hash.map(str::to_owned);
            s.error = Some(error.clone());
        });
        ReloadOutcome::Refused(error)
    }

    fn clear_refusal(&self, generation: u64) {
        self.live.note_source(|s| {
            s.error = None;
            s.refused_hash = None;
        });
        tracing::info!(generation, "the file again holds the running configuration");
    }
}
