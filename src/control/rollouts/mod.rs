//! Drives the rollouts of all services, on the control thread.
//!
//! Once a second every rollout reads its counters ([`counting`]), judges them, and lets its machine advance ([`service`]). Effects
//! are carried out here: changes go to the store, calls to the outside run as tasks and report back, and shares go to the
//! publisher. A share that falls takes effect at once, one that rises when the store has it.

mod calls;
mod counting;
mod driving;
mod errors;
mod fleet;
mod fleet_guard;
mod news;
mod queries;
mod service;
mod shared;
mod shared_side;
pub(crate) mod shares;
mod sides;
mod view;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;

use super::outcall::notify::Notifier;
use super::publisher::Publisher;
use crate::admin::ControlCommand;
use crate::admin::history::History;
use crate::admin::rollout::{RolloutRefused, RolloutStatus, RolloutsByService};
use crate::config::Spec;
use crate::config::rollout::RolloutSubject;
use crate::index::VersionIx;
use crate::net::clock::wall_s;
use crate::rollout::events::{Effect, OperatorCommand, Outcome};
use crate::rollout::plan::fingerprint;
use crate::rollout::state::SubjectKind;
use crate::rollout::store::{FileStore, RolloutStore as _, StoreError, StoreEvent};
use crate::snapshot::{Service, Snapshot};
use crate::telemetry::Telemetry;
use crate::telemetry::registry::Rollback;
use fleet::SharingFleet;
pub(super) use news::RolloutNews;
use news::{CallEnded, CallResult};
use service::{ServiceRollout, Surroundings};
use shares::SharesInForce;

/// The rollouts of all services.
///
/// Owned by the control thread's loop, and called for each event and each second. Apart from reading the store for a new service,
/// nothing here waits for the disk or the network: the store, the fleet and calls have queues or tasks, whose results come back as
/// news. `services` has an entry for each service with a plan, and for those whose last state is still to be stored.
#[derive(Debug)]
pub(super) struct Rollouts {
    /// `None` if the state directory can't be used. Then every rollout has a share of 0.
    store: Option<FileStore>,
    /// Why the store can't be used.
    unusable: Option<StoreError>,
    /// Whether the store knows of earlier rollouts.
    known: bool,
    services: BTreeMap<String, ServiceRollout>,
    /// The state of the fleet that shares the rollouts.
    fleet: Option<SharingFleet>,
    calls: mpsc::UnboundedSender<CallEnded>,
    ended: mpsc::UnboundedReceiver<CallEnded>,
    notifier: Notifier,
    last: Instant,
    telemetry: Arc<Telemetry>,
    /// Path of the configuration file, for `promote`.
    file: PathBuf,
    /// Channel to the control thread, for `promote` of a service that the fleet shares.
    control: mpsc::Sender<ControlCommand>,
    history: Arc<History>,
}

impl Rollouts {
    /// Opens the store in the state directory. Blocks; for starting up.
    pub(super) fn open(
        state_dir: &Path,
        file: &Path,
        telemetry: Arc<Telemetry>,
        history: Arc<History>,
        control: mpsc::Sender<ControlCommand>,
    ) -> Self {
        let (calls, ended) = mpsc::unbounded_channel();
        let (store, unusable, known) = match FileStore::open(state_dir) {
            Ok(opened) => (Some(opened.store), None, opened.known),
            Err(error) => {
                let why = format!("{}: {error}", state_dir.join("rollouts").display());
                (None, Some(StoreError::Io(why)), false)
            }
        };
        Self {
            store,
            unusable,
            known,
            services: BTreeMap::new(),
            fleet: None,
            calls,
            ended,
            notifier: Notifier::default(),
            last: Instant::now(),
            telemetry,
            file: file.to_owned(),
            control,
            history,
        }
    }

    /// Follows the configuration, and returns the shares that are in force under it. Reads the store for services that it hasn't
    /// read yet, which blocks.
    pub(super) fn adopt(&mut self, spec: &Spec) -> SharesInForce {
        let now_s = wall_s();
        self.adopt_fleet(spec.fleet.as_ref());
        let planned = |name: &str| {
            spec.services
                .iter()
                .any(|s| s.name == name && s.rollout.is_some())
        };
        let left: Vec<String> = { self.services.keys() }
            .filter(|name| !planned(name))
            .cloned()
            .collect();
        for name in left {
            let effects = { self.services.get_mut(&name) }.map(|rollout| rollout.leave(now_s));
            self.carry_out(&name, effects.unwrap_or_default(), None);
        }
        self.services
            .retain(|name, rollout| planned(name) || rollout.is_unsaved());
        for service in &spec.services {
            let Some(plan) = &service.rollout else {
                continue;
            };
            if !self.services.contains_key(&service.name) {
                let read = self.read(&service.name, ServiceRollout::new(service, plan));
                self.services.insert(service.name.clone(), read);
            }
            let known = self.known;
            // Inserted above.
            if let Some(rollout) = self.services.get_mut(&service.name) {
                let effects = rollout.adopt(service, plan, known, now_s);
                self.carry_out(&service.name, effects, None);
            }
        }
        self.submit(now_s);
        self.shares(spec)
    }

    /// Reads the stored state of a service.
    fn read(&self, name: &str, mut rollout: ServiceRollout) -> ServiceRollout {
        let Some(store) = &self.store else {
            rollout.store_error = self.unusable.clone();
            if let Some(error) = &self.unusable {
                tracing::error!(service = name, cause = %error, "rollouts can't be stored: stable only");
            }
            return rollout;
        };
        let stored = store.load(name);
        if let Err(error) = &stored {
            tracing::error!(service = name, cause = %error, "the rollout's journal can't be read: stable only");
        }
        rollout.restore(stored, store.read_evidence(name));
        if let Some(fleet) = &self.fleet {
            fleet.share(name, &mut rollout);
        }
        rollout
    }

    /// The shares that are in force.
    fn shares(&mut self, spec: &Spec) -> SharesInForce {
        let mut shares = SharesInForce::default();
        let (now, lost_after) = (Instant::now(), self.lost_after());
        for service in &spec.services {
            if let Some(rollout) = self.services.get_mut(&service.name)
                && let Some(plan) = fingerprint(service)
            {
                rollout.enforce(lost_after, now);
                shares.set(&service.name, &plan, rollout.in_force());
            }
        }
        shares
    }

    /// Waits for news of the store or of a call. Cancellation safe.
    pub(super) async fn news(&mut self) -> RolloutNews {
        let stored = async {
            match &mut self.store {
                Some(store) => store.watch().await,
                None => None,
            }
        };
        let shared = async {
            match &mut self.fleet {
                Some(fleet) => fleet.news().await,
                None => None,
            }
        };
        tokio::select! {
            Some(event) = stored => RolloutNews::Stored(Box::new(event)),
            Some(news) = shared => RolloutNews::Fleet(news),
            // `self` holds a sender, so the channel is never closed.
            Some(ended) = self.ended.recv() => RolloutNews::Ended(ended),
        }
    }

    /// Handles an event that concerns the rollouts.
    pub(super) async fn on_news(&mut self, news: RolloutNews, publisher: &mut Publisher) {
        let snapshot = publisher.live().current();
        match news {
            RolloutNews::Stored(event) => self.on_stored(*event, &snapshot),
            RolloutNews::Ended(ended) => self.on_ended(ended, &snapshot),
            RolloutNews::Fleet(news) => self.on_fleet(news, Some(&snapshot)),
        }
        self.settle(publisher).await;
    }

    fn on_stored(&mut self, event: StoreEvent, snapshot: &Snapshot) {
        let Some(rollout) = self.services.get_mut(&event.service) else {
            return;
        };
        if rollout.shared.is_some() {
            let again = || self.store.as_ref()?.load(&event.service).ok();
            return rollout.copied(event.result, again);
        }
        if event.result == Err(StoreError::Conflict) {
            // Another process had the rollout in between, as in a takeover that failed. The state that it stored counts.
            let stored = self.store.as_ref().map(|store| store.load(&event.service));
            if let Some(Ok(stored)) = stored {
                tracing::warn!(
                    service = event.service,
                    "another process has changed the rollout: continuing from its state"
                );
                rollout.reload(stored);
                let mut services = snapshot.spec.services.iter();
                if let Some(spec) = services.find(|s| s.name == event.service)
                    && let Some(plan) = &spec.rollout
                {
                    let effects = rollout.adopt(spec, plan, self.known, wall_s());
                    self.carry_out(&event.service, effects, Some(snapshot));
                }
                return;
            }
        }
        if let Err(error) = &event.result
            && rollout.store_error.is_none()
        {
            tracing::error!(service = event.service, cause = %error, "the rollout's state can't be stored: it holds");
        }
        rollout.stored(event.result);
    }

    fn on_ended(&mut self, ended: CallEnded, snapshot: &Snapshot) {
        let Some(rollout) = self.services.get_mut(&ended.service) else {
            return;
        };
        if rollout
            .state()
            .is_none_or(|state| state.epoch != ended.epoch)
        {
            return;
        }
        if !rollout.drives() {
            // The result of the driver's own call decides.
            if let CallResult::Outcome(Outcome::PromoteFailed(why)) = &ended.result {
                tracing::warn!(
                    service = ended.service,
                    cause = why,
                    "not promoted on this member"
                );
            }
            return;
        }
        let now_s = wall_s();
        let effects = match ended.result {
            CallResult::Outcome(outcome) => rollout.outcome(outcome, now_s),
            CallResult::Query(at, answer) => match rollout.queries.answer(at, answer) {
                Some(why) => rollout.outcome(Outcome::QueryFailed(why), now_s),
                None => Vec::new(),
            },
        };
        self.carry_out(&ended.service, effects, Some(snapshot));
    }

    /// Advances all rollouts by the time since the last call, which is about a second.
    pub(super) async fn second(&mut self, publisher: &mut Publisher) {
        let now = Instant::now();
        let elapsed = now.saturating_duration_since(std::mem::replace(&mut self.last, now));
        let snapshot = publisher.live().current();
        // Each rollout is looked up again after every step, because carrying out an effect borrows all of them.
        let names: Vec<String> = self.services.keys().cloned().collect();
        for name in names {
            let Some((spec, service)) = calls::find(&snapshot, &name) else {
                continue;
            };
            let gate_open = match spec.rolling {
                Some(RolloutSubject::Version(version)) => is_open(service, version),
                // Users get a flag on any version.
                Some(RolloutSubject::Flag(_)) => true,
                None => false,
            };
            let stable = spec.stable;
            // Only a stable that can take the traffic back makes it safe to go on.
            let usable = service.versions[stable].pool.counts().usable > 0;
            let around = Surroundings {
                gate_open,
                stable_usable: usable || service.routing.version_answers(stable),
                answers: service.routing.answers,
                elapsed,
                now,
                now_s: wall_s(),
            };
            let Some(rollout) = self.services.get_mut(&name) else {
                continue;
            };
            let effects = rollout.second(service, &around);
            let evidence = rollout.evidence(now);
            self.carry_out(&name, effects, Some(&snapshot));
            self.second_of_fleet(&name, now, &snapshot);
            if let (Some(store), Some(evidence)) = (&self.store, evidence) {
                store.push_evidence(&name, evidence);
            }
            self.ask_queries(&name, now);
        }
        self.settle(publisher).await;
    }

    /// Carries out a command of an operator.
    ///
    /// # Errors
    /// There is no such service, or the state of its rollout doesn't allow the command.
    pub(super) async fn command(
        &mut self,
        service: &str,
        (command, by): (OperatorCommand, &str),
        publisher: &mut Publisher,
    ) -> Result<RolloutStatus, RolloutRefused> {
        let snapshot = publisher.live().current();
        if !snapshot.services.iter().any(|s| *s.name == *service) {
            return Err(RolloutRefused::Unknown(format!(
                "there is no service `{service}`"
            )));
        }
        let Some(rollout) = self.services.get_mut(service) else {
            let why = format!(
                "service {service} has no plan: write `[service.{service}.rollout]` with `steps`"
            );
            return Err(RolloutRefused::Conflict(why));
        };
        let done = match rollout.shared.is_some() {
            true => rollout.command_shared(command, by, Instant::now(), wall_s()),
            false => rollout.command(command, by, wall_s()),
        };
        let effects = done.map_err(RolloutRefused::Conflict)?;
        self.carry_out(service, effects, Some(&snapshot));
        self.settle(publisher).await;
        let status = self.services.get(service).and_then(view::status);
        status.ok_or_else(|| RolloutRefused::Conflict("the rollout has ended".to_owned()))
    }

    /// The status of all rollouts.
    pub(super) fn status(&self) -> RolloutsByService {
        let one = |(name, rollout): (&String, &ServiceRollout)| {
            Some((name.clone(), view::status(rollout)?))
        };
        self.services.iter().filter_map(one).collect()
    }

    /// Submits changes to the store, and publishes shares that have changed.
    async fn settle(&mut self, publisher: &mut Publisher) {
        self.submit(wall_s());
        let (now, lost_after) = (Instant::now(), self.lost_after());
        let mut changed = false;
        for (name, rollout) in &mut self.services {
            changed |= rollout.enforce(lost_after, now);
            rollout.log_loss(name, lost_after, now);
        }
        if changed {
            let spec = publisher.live().current().spec.clone();
            let shares = self.shares(&spec);
            publisher.set_rollouts(shares);
            publisher.publish_rollouts().await;
        }
    }

    fn submit(&mut self, now_s: u64) {
        let Some(store) = &self.store else {
            return;
        };
        for (name, rollout) in &mut self.services {
            if let Some(fleet) = &self.fleet {
                fleet.submit(name, rollout);
            }
            let own = rollout.change(now_s);
            if let Some((revision, entry)) = own.or_else(|| rollout.copy(now_s)) {
                store.cas(name, revision, entry);
            }
        }
    }

    fn carry_out(&mut self, name: &str, effects: Vec<Effect>, snapshot: Option<&Snapshot>) {
        for effect in effects {
            let Some(rollout) = self.services.get_mut(name) else {
                return;
            };
            if rollout.apply(&effect) {
                continue;
            }
            match effect {
                Effect::RunSmoke => {
                    if let Some(snapshot) = snapshot {
                        self.run_smoke(name, snapshot);
                    }
                }
                Effect::RunHook(hook) => self.run_hook(name, hook),
                Effect::Promote(by) => {
                    rollout.share_promotion();
                    if let Some(snapshot) = snapshot {
                        self.promote(name, by, snapshot);
                    }
                }
                Effect::Ended(reason) => {
                    let Some(state) = rollout.state() else {
                        continue;
                    };
                    let (subject, is_flag) = (state.name.clone(), state.kind == SubjectKind::Flag);
                    // Failures are grouped by version, and versions serve users with and without a flag.
                    let note = snapshot.filter(|_| !is_flag);
                    let note = note.and_then(|s| errors::notice(s, name, &subject));
                    self.telemetry.rolled_back(Rollback {
                        service: name.to_owned(),
                        subject,
                        is_flag,
                        reason,
                    });
                    if let Some(note) = note {
                        // `apply` adds it to the journal; the other steps follow here.
                        rollout.apply(&Effect::Note(note.clone()));
                        self.tell(name, &note);
                    }
                }
                Effect::Note(text) => self.tell(name, &text),
                // `apply` has handled these.
                Effect::BeginStep | Effect::ResetGuard => {}
            }
        }
    }

    /// Logs a message about the rollout of a service, and sends it to the service's `notify`.
    fn tell(&self, name: &str, text: &str) {
        tracing::info!(service = name, "rollout: {text}");
        let Some(rollout) = self.services.get(name) else {
            return;
        };
        if rollout.plan.notify.is_empty() {
            return;
        }
        let state = serde_json::to_value(view::status(rollout)).unwrap_or_default();
        let text = format!("{name}: {text}");
        self.notifier.send(&rollout.plan.notify, &text, &state);
    }
}

/// Whether a version passes its checks, or has none.
fn is_open(service: &Service, version: VersionIx) -> bool {
    let mut members = service.versions[version].pool.members.iter();
    service.policies.health.is_none() || members.any(|member| member.endpoint.passes_checks())
}
