//! The rollout of one service: its machine, its guard, and its effective share.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::counting::{Counting, Judging};
use super::queries::Queries;
use super::shared_side::SharedSide;
use super::sides::Sides;
use crate::config::rollout::{RolloutSpec, RolloutSubject};
use crate::config::spec::{ServiceSpec, Share};
use crate::rollout::guard::{Guard, GuardState};
use crate::rollout::machine::{Effect, Facts, Machine, OperatorCommand, Outcome};
use crate::rollout::plan::fingerprint;
use crate::rollout::state::{RolloutState, SubjectKind, SubjectName};
use crate::rollout::store::{Evidence, JournalEntry, StoreError, Stored};
use crate::snapshot::{RolloutShare, Service};

/// Interval at which evidence and the clock of a step are stored while nothing else changes.
pub(super) const KEEP_EVERY: Duration = Duration::from_secs(5);

/// The rollouts of one service.
///
/// `machine` decides; `stored` is what the disk has, and `in_force` what the published snapshot has. Invariants: the share in force
/// rises only to a share that is stored, or in a fleet granted, and at most one change is on its way to the store. While one is,
/// further changes wait, because each names the revision that it is based on.
#[derive(Debug)]
pub(super) struct ServiceRollout {
    pub plan: RolloutSpec,
    /// The rollout, while a version or flag follows one and the store can be read.
    pub machine: Option<Machine>,
    pub guard: Guard,
    pub counting: Counting,
    pub queries: Queries,
    /// The subject that follows the rollout, and its name.
    rolling: Option<(SubjectKind, String)>,
    /// The largest share that a version may have.
    pub max_share: Option<Share>,
    sides: Sides,
    /// The stored state.
    pub stored: Stored,
    /// The state of a member, if a fleet shares the rollout.
    pub shared: Option<Box<SharedSide>>,
    /// The state of a rollout that was ended by an edit, until the store has it.
    left: Option<RolloutState>,
    /// The notes of the change that is on its way to the store, if one is.
    pub submitted: Option<Vec<String>>,
    /// Whether the last change was refused since the last tick. It is made again at the next one.
    pub retries_at_tick: bool,
    /// Notes about events since the last change that was submitted.
    pub notes: Vec<String>,
    /// Why the store can't be read or written.
    pub store_error: Option<StoreError>,
    /// The share in force.
    pub in_force: RolloutShare,
    kept_at: Option<Instant>,
}

/// The form in which evidence is kept.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    guard: GuardState,
    step: usize,
    held_ms: u64,
}

/// The facts about the service that its machine needs in a second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surroundings {
    pub gate_open: bool,
    /// Whether stable has a usable endpoint.
    pub stable_usable: bool,
    /// Whether the service answers its requests itself.
    pub answers: bool,
    pub elapsed: Duration,
    pub now: Instant,
    pub now_s: u64,
}

impl ServiceRollout {
    pub(super) fn new(spec: &ServiceSpec, plan: &RolloutSpec) -> Self {
        Self {
            plan: plan.clone(),
            machine: None,
            guard: Guard::new(&plan.guard),
            counting: Counting::default(),
            queries: Queries::new(&plan.queries),
            rolling: None,
            max_share: None,
            sides: Sides::of(spec),
            stored: Stored::default(),
            shared: None,
            left: None,
            submitted: None,
            retries_at_tick: false,
            notes: Vec::new(),
            store_error: None,
            in_force: RolloutShare::default(),
            kept_at: None,
        }
    }

    /// Takes the stored state of the service, when the process starts.
    pub(super) fn restore(
        &mut self,
        stored: Result<Stored, StoreError>,
        evidence: Option<Evidence>,
    ) {
        match stored {
            Ok(stored) => self.stored = stored,
            Err(error) => {
                self.store_error = Some(error);
                return;
            }
        }
        let state = &mut self.stored.state;
        let Some(evidence) = evidence.filter(|e| e.plan == state.plan && e.epoch == state.epoch)
        else {
            return;
        };
        let Ok(kept) = serde_json::from_value::<Kept>(evidence.data) else {
            return;
        };
        // Without it the evidence starts from zero, which takes time and is never wrong.
        if let Ok(guard) = Guard::resume(&self.plan.guard, kept.guard) {
            self.guard = guard;
        }
        if kept.step == state.step {
            state.held_ms = state.held_ms.max(kept.held_ms);
        }
    }

    /// Follows the configuration: begins, continues or ends the rollout. `known`: the store has a record of earlier rollouts.
    pub(super) fn adopt(
        &mut self,
        spec: &ServiceSpec,
        plan: &RolloutSpec,
        known: bool,
        now_s: u64,
    ) -> Vec<Effect> {
        if self.plan.guard != plan.guard {
            // With the same rules only `min_requests` or the like has changed, and the evidence stays valid.
            let resumed = Guard::resume(&plan.guard, self.guard.state().clone());
            self.guard = resumed.unwrap_or_else(|_| Guard::new(&plan.guard));
        }
        if self.plan.queries != plan.queries {
            self.queries = Queries::new(&plan.queries);
        }
        self.plan = plan.clone();
        self.sides = Sides::of(spec);
        self.guard.set_names(self.sides.names());
        let subject = spec.rolling.map(|subject| name_of(spec, subject));
        self.rolling = subject.map(|subject| (subject.kind, subject.name.to_owned()));
        self.max_share = { spec.rolling_version() }.and_then(|v| spec.versions[v].max_share);
        let print = fingerprint(spec);
        if self.shared.is_some() {
            return self.adopt_shared(print.as_deref().zip(subject), known, now_s);
        }
        let Some((print, subject)) = print.zip(subject) else {
            return self.leave(now_s);
        };
        if matches!(self.store_error, Some(StoreError::Corrupt(_))) {
            return Vec::new();
        }
        let current = match &self.machine {
            Some(machine) => machine.state().clone(),
            None => self.last_state().clone(),
        };
        if self
            .machine
            .as_ref()
            .is_some_and(|m| m.state().plan == print)
        {
            return Vec::new();
        }
        let names = (print.as_str(), subject);
        let known = known || self.stored.revision > 0;
        let (machine, effects) = Machine::new(current, names, plan.unknown, known, now_s);
        (self.machine, self.left) = (Some(machine), None);
        effects
    }

    /// Ends the rollout, because nothing follows it any more: the share was edited, or the version or flag was promoted. That is
    /// stored, also if the edit was made while no process ran: a later rollout by the same plan begins with its first step.
    pub(super) fn leave(&mut self, now_s: u64) -> Vec<Effect> {
        self.in_force = RolloutShare::default();
        if self.shared.is_some() {
            return self.adopt_shared(None, false, now_s);
        }
        let state = match self.machine.take() {
            Some(machine) => machine.state().clone(),
            None if self.last_state().plan.is_empty() => return Vec::new(),
            None => self.stored.state.clone(),
        };
        let how = match (state.kind, state.has_ended()) {
            (SubjectKind::Version, true) => "the split no longer names the rollout",
            (SubjectKind::Version, false) => "ended by an edit of the split",
            (SubjectKind::Flag, true) => "its share no longer names the rollout",
            (SubjectKind::Flag, false) => "ended by an edit of its share",
        };
        let note = Effect::Note(format!("{}: {how}", state.subject()));
        self.left = Some(RolloutState {
            plan: String::new(),
            share: 0,
            since_s: now_s,
            ..state
        });
        vec![note]
    }

    /// The state of the rollout, or of the last one.
    fn last_state(&self) -> &RolloutState {
        let left = self.left.as_ref();
        self.state().or(left).unwrap_or(&self.stored.state)
    }

    /// Whether something is still to be stored.
    pub(super) fn is_unsaved(&self) -> bool {
        let is_copying = self.shared.as_ref().is_some_and(|side| side.is_copying);
        self.submitted.is_some() || self.left.is_some() || is_copying
    }

    /// The state of the rollout.
    pub(super) fn state(&self) -> Option<&RolloutState> {
        self.machine.as_ref().map(Machine::state)
    }

    /// The version or flag that follows the rollout, according to the configuration.
    pub(super) fn rolling(&self) -> Option<(SubjectKind, &str)> {
        self.rolling.as_ref().map(|(kind, name)| (*kind, &**name))
    }

    /// The guard whose evidence decides: the fleet's on the member that drives, else this process's own.
    pub(super) fn deciding_guard(&self) -> &Guard {
        let fleet = { self.shared.as_ref() }.and_then(|side| side.deciding_guard());
        fleet.unwrap_or(&self.guard)
    }

    /// The share in force.
    pub(super) fn in_force(&self) -> RolloutShare {
        self.in_force
    }

    /// Processes a second: counts, judges, and advances the machine.
    pub(super) fn second(&mut self, service: &Service, around: &Surroundings) -> Vec<Effect> {
        let judged = self.in_force.share.0 > 0 && self.state().is_some_and(|s| !s.has_ended());
        let judging = Judging {
            is_judged: judged,
            is_alone: self.in_force.share.0 == Share::WHOLE,
            is_shared: self.shared.is_some(),
        };
        let guard = (&mut self.guard, &self.plan.guard);
        let counting = &mut self.counting;
        let counts = counting.second(service, self.sides, guard, judging);
        self.retry();
        match &counts {
            Some(counts) => self.second_shared(around, counts),
            None => self.tick(around),
        }
    }

    /// Lets the machine process the second.
    pub(super) fn tick(&mut self, around: &Surroundings) -> Vec<Effect> {
        let Some(machine) = &mut self.machine else {
            return Vec::new();
        };
        let shared = self.shared.as_ref();
        let guard = { shared.and_then(|side| side.deciding_guard()) }.unwrap_or(&self.guard);
        let verdict = guard.verdict();
        // Users reach neither version, so nothing is learnt about the canary.
        let answered =
            { around.answers }.then(|| "the service answers its requests itself".to_owned());
        let obstacle = answered.or_else(|| self.queries.obstacle().map(str::to_owned));
        let held = guard.held_because();
        let names = self.sides.names();
        let obstacle = obstacle.or_else(|| held.map(|reason| reason.words(names)));
        let requests = guard.counts().step_canary.requests;
        let store_error = self.store_error.as_ref().map(ToString::to_string);
        let facts = Facts {
            plan: &self.plan,
            max_share: self.max_share,
            in_force: self.in_force.share,
            gate_open: around.gate_open,
            stable_usable: around.stable_usable,
            verdict: verdict.as_ref(),
            obstacle: obstacle.as_deref(),
            leaning: guard.leaning(),
            enough_requests: requests >= self.plan.guard.min_requests,
            requests,
            proven: guard.proven(),
            store_error: store_error.as_deref(),
        };
        machine.tick(&facts, around.elapsed, around.now_s)
    }

    /// Passes an outcome to the machine.
    pub(super) fn outcome(&mut self, outcome: Outcome, now_s: u64) -> Vec<Effect> {
        match &mut self.machine {
            Some(machine) => machine.outcome(outcome, &self.plan, now_s),
            None => Vec::new(),
        }
    }

    /// Carries out a command.
    pub(super) fn command(
        &mut self,
        command: OperatorCommand,
        by: &str,
        now_s: u64,
    ) -> Result<Vec<Effect>, String> {
        match &mut self.machine {
            Some(machine) => machine.command(command, by, &self.plan, now_s),
            None => Err(match &self.store_error {
                Some(error) => error.to_string(),
                None => "nothing follows a rollout; write `split = { VERSION = \"rollout\" }`, or `share = \"rollout\"` for a flag"
                    .to_owned(),
            }),
        }
    }

    /// Carries out an effect that concerns the guard or the journal. Returns whether that was all.
    pub(super) fn apply(&mut self, effect: &Effect) -> bool {
        match effect {
            Effect::BeginStep => self.guard.begin_step(),
            Effect::ResetGuard => {
                self.guard = self.guard.clone().restarted();
                self.counting.restart();
                self.queries.restart();
            }
            Effect::Note(text) => {
                self.notes.push(text.clone());
                return false;
            }
            _ => return false,
        }
        true
    }

    /// The change to submit to the store, if there is one and none is on its way: the revision that it is based on, and the entry.
    pub(super) fn change(&mut self, now_s: u64) -> Option<(u64, JournalEntry)> {
        let is_damaged = matches!(self.store_error, Some(StoreError::Corrupt(_)));
        let waits = self.submitted.is_some() || self.retries_at_tick;
        if waits || is_damaged || self.shared.is_some() {
            return None;
        }
        let state = self.last_state();
        // After an error the store is tried until it works, since the rollout holds as long as it doesn't.
        let is_due = !self.notes.is_empty() || self.store_error.is_some();
        if !is_due && !state.differs_from(&self.stored.state) {
            return None;
        }
        let state = state.clone();
        let notes = std::mem::take(&mut self.notes);
        self.submitted = Some(notes.clone());
        let evidence = self.guard.evidence().into_iter();
        let entry = JournalEntry {
            at_s: now_s,
            notes,
            evidence: evidence
                .map(|e| (e.name, e.log_e / std::f64::consts::LN_10))
                .collect(),
            state,
        };
        Some((self.stored.revision, entry))
    }

    /// Allows a change that was refused to be submitted again.
    pub(super) fn retry(&mut self) {
        self.retries_at_tick = false;
    }

    /// Takes the result of a change.
    pub(super) fn stored(&mut self, result: Result<Stored, StoreError>) {
        let mut notes = self.submitted.take().unwrap_or_default();
        match result {
            Ok(stored) => {
                self.store_error = None;
                if self.left.as_ref() == Some(&stored.state) {
                    self.left = None;
                }
                self.stored = stored;
            }
            Err(error) => {
                self.store_error = Some(error);
                self.retries_at_tick = true;
                notes.append(&mut self.notes);
                self.notes = notes;
            }
        }
    }

    /// Continues from the stored state, after a conflict. The owner adopts the configuration again, which makes a machine from it.
    pub(super) fn reload(&mut self, stored: Stored) {
        let belongs = self
            .state()
            .is_some_and(|s| s.plan == stored.state.plan && s.epoch == stored.state.epoch);
        if !belongs {
            self.guard = self.guard.clone().restarted();
        }
        self.stored = stored;
        self.store_error = None;
        // Decisions based on the state before have not happened.
        (self.submitted, self.machine, self.left) = (None, None, None);
        self.notes.clear();
    }

    /// The evidence to store, if it is due.
    pub(super) fn evidence(&mut self, now: Instant) -> Option<Evidence> {
        let due = self
            .kept_at
            .is_none_or(|at| now.saturating_duration_since(at) >= KEEP_EVERY);
        let is_own = due && self.shared.is_none();
        let state = self.state().filter(|_| is_own)?;
        let kept = Kept {
            guard: self.guard.state().clone(),
            step: state.step,
            held_ms: state.held_ms,
        };
        let evidence = Evidence {
            plan: state.plan.clone(),
            epoch: state.epoch,
            data: serde_json::to_value(kept).ok()?,
        };
        self.kept_at = Some(now);
        Some(evidence)
    }

    /// Adjusts the share in force to the state: it falls at once, and rises only to the stored share. Returns whether it has
    /// changed.
    ///
    /// In a fleet the shared state grants it, and it is 0 after `lost_after` without the fleet's store.
    pub(super) fn enforce(&mut self, lost_after: Option<Duration>, now: Instant) -> bool {
        let before = self.in_force;
        if let Some(kept) = self.shared.as_ref().and_then(|side| side.kept(now)) {
            // The share never rises: only the fleet's state could grant that.
            self.in_force = kept.in_force;
            return self.in_force != before;
        }
        let Some(state) = self.machine.as_ref().map(Machine::state) else {
            self.in_force = RolloutShare::default();
            return self.in_force != before;
        };
        if let Some(side) = &self.shared {
            let most = self.max_share.unwrap_or(Share(Share::WHOLE));
            self.in_force = RolloutShare {
                share: side.share(state, (most, before.share), lost_after, now),
                voided_s: state.voided_s,
            };
            return self.in_force != before;
        }
        let wanted = state
            .share()
            .min(self.max_share.unwrap_or(Share(Share::WHOLE)));
        let stored = &self.stored.state;
        let is_stored = stored.plan == state.plan && stored.epoch == state.epoch;
        let allowed = if is_stored { stored.share() } else { Share(0) };
        self.in_force = RolloutShare {
            share: wanted.min(allowed.max(before.share)),
            voided_s: state.voided_s,
        };
        self.in_force != before
    }
}

/// The subject of a rollout, by name.
fn name_of(spec: &ServiceSpec, subject: RolloutSubject) -> SubjectName<'_> {
    match subject {
        RolloutSubject::Version(version) => {
            let version = &spec.versions[version];
            SubjectName::version(&version.name, version.label.as_deref())
        }
        RolloutSubject::Flag(flag) => SubjectName::flag(&spec.flags[flag].name),
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
