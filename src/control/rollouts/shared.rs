//! The rollout of one service as a member of a fleet sees it.
//!
//! The machine of a member has the shared state, and changes it in two ways only. The driver's machine processes the seconds. The
//! machine of any member processes vetoes of its own guard and commands of operators, which lower the share here at once and are
//! written as intents: if another change came first, they are applied again to its state.

use std::time::{Duration, Instant};

use super::fleet_guard::part_of_member;
use super::service::{KEEP_EVERY, ServiceRollout, Surroundings};
use super::shared_side::{OwnPlan, SharedSide};
use crate::config::spec::Share;
use crate::control::fleet::Written;
use crate::rollout::events::OperatorCommand;
use crate::rollout::fleet::document::FleetDocument;
use crate::rollout::fleet::evidence::StepCounts;
use crate::rollout::fleet::replica::{Intent, Replica};
use crate::rollout::guard::FailVerdict;
use crate::rollout::machine::{Effect, Machine};
use crate::rollout::state::{RolloutPhase, SubjectName};
use crate::rollout::store::{JournalEntry, StoreError, Stored};

impl ServiceRollout {
    /// Makes the fleet share this rollout. The state read from the disk is a ceiling until the shared state is known.
    pub(super) fn share(&mut self, fleet: (&str, &str), source: &str, now: Instant) {
        let file = std::mem::take(&mut self.stored);
        let replica = Replica::new(fleet, file.state.clone(), now);
        self.stored = Stored {
            revision: file.revision,
            state: replica.state().clone(),
        };
        self.shared = Some(Box::new(SharedSide {
            replica,
            source: source.to_owned(),
            own: None,
            file,
            is_copying: false,
            counts: StepCounts::default(),
            counts_of: (0, 0),
            reported: None,
            reported_counts: StepCounts::default(),
            members: 1,
            guard: None,
            is_guard_known: false,
            on_its_way: None,
            is_overtaken: false,
            claims: false,
            is_lost: false,
            kept: None,
            written: None,
        }));
    }

    /// Whether this process drives the rollout: alone, or for a fleet.
    pub(super) fn drives(&self) -> bool {
        self.shared
            .as_ref()
            .is_none_or(|side| side.replica.is_driver())
    }

    /// Records that a promotion has begun here: other members of the fleet write their own configuration files.
    pub(super) fn share_promotion(&mut self) {
        if self.shared.is_some()
            && self.drives()
            && let Some(machine) = &mut self.machine
        {
            machine.share_promotion();
        }
    }

    /// Follows the configuration.
    pub(super) fn adopt_shared(
        &mut self,
        own: Option<(&str, SubjectName<'_>)>,
        known: bool,
        now_s: u64,
    ) -> Vec<Effect> {
        let Some(side) = &mut self.shared else {
            return Vec::new();
        };
        let own = own.map(|(print, subject)| OwnPlan {
            print: print.to_owned(),
            kind: subject.kind,
            name: subject.name.to_owned(),
            label: subject.label.map(str::to_owned),
            unknown: self.plan.unknown,
            known,
        });
        if side.own == own {
            return Vec::new();
        }
        let before = std::mem::replace(&mut side.own, own);
        let has_left = before.is_some_and(|own| own.print == side.replica.state().plan);
        if has_left && side.own.is_none() {
            side.replica.leave();
            (side.guard, side.claims) = (None, false);
        }
        self.synchronize(now_s)
    }

    /// Gives the share of the state on disk, because the store has not answered in time.
    pub(super) fn begin_alone(&mut self) {
        let Some(side) = &self.shared else { return };
        if side.replica.revision() == 0
            && let Some(machine) = &self.machine
        {
            let most = self.max_share.unwrap_or(machine.state().share());
            self.in_force.share = machine.state().share().min(most);
        }
    }

    /// Takes a shared document. Returns `None` if it isn't newer than the known one.
    pub(super) fn see(
        &mut self,
        revision: i64,
        document: &FleetDocument,
        now_s: u64,
    ) -> Option<Vec<Effect>> {
        let side = self.shared.as_mut()?;
        if !side.replica.see(revision, document) {
            return None;
        }
        // The change on its way will be refused, and bring an even newer document, or it is newer than this one.
        side.is_overtaken = side.on_its_way.is_some();
        match side.is_overtaken {
            true => Some(Vec::new()),
            false => Some(self.synchronize(now_s)),
        }
    }

    /// Adjusts the machine to the shared state and to the decisions of this member since.
    fn synchronize(&mut self, now_s: u64) -> Vec<Effect> {
        let Some(side) = &mut self.shared else {
            return Vec::new();
        };
        side.claims = false;
        if !side.replica.is_driver() {
            side.guard = None;
        }
        let state = side.replica.state().clone();
        let Some(own) = side.own.as_ref().filter(|own| own.print == state.plan) else {
            self.machine = None;
            return Vec::new();
        };
        let mut effects = match &mut self.machine {
            Some(machine) => machine.follow(state),
            None => {
                let names = SharedSide::names(own);
                let machine = Machine::new(state, names, own.unknown, own.known, now_s).0;
                self.machine = Some(machine);
                vec![Effect::ResetGuard]
            }
        };
        let intents = side.replica.intents();
        let Some(machine) = &mut self.machine else {
            return effects;
        };
        for intent in intents {
            let again = match intent {
                Intent::Veto(verdict) => machine.veto(&verdict, &self.plan, now_s),
                // A command that the newer state doesn't allow has been overtaken.
                Intent::Command(command, by) => machine
                    .command(command, &by, &self.plan, now_s)
                    .unwrap_or_default(),
            };
            for effect in again {
                match effect {
                    Effect::Note(text) => self.notes.push(text),
                    Effect::ResetGuard | Effect::BeginStep => effects.push(effect),
                    // These were carried out when the decision was made.
                    Effect::Ended(_) | Effect::RunHook(_) => {}
                    Effect::RunSmoke | Effect::Promote(_) => {}
                }
            }
        }
        if !machine.state().differs_from(side.replica.state()) {
            side.replica.told(usize::MAX);
        }
        effects
    }

    /// Processes a second of a shared rollout.
    pub(super) fn second_shared(
        &mut self,
        around: &Surroundings,
        counts: &StepCounts,
    ) -> Vec<Effect> {
        let endpoints = self.counting.canary_endpoints();
        self.count(counts, endpoints);
        self.decide(around)
    }

    /// Adds up the counts of this member in the step, and judges the sum of all members if it drives.
    pub(super) fn count(&mut self, counts: &StepCounts, endpoints: usize) {
        let Some((side, machine)) = self.shared.as_mut().zip(self.machine.as_ref()) else {
            return;
        };
        self.guard.spend(part_of_member(side.members));
        let state = machine.state();
        let of = (state.epoch, state.step);
        if side.counts_of != of {
            (side.counts, side.counts_of) = (StepCounts::default(), of);
            (side.reported, side.reported_counts) = (None, StepCounts::default());
        } else if state.step > 0 && state.share > 0 && self.in_force.share == state.share() {
            side.counts.add(counts);
        }
        if let Some(guard) = &mut side.guard
            && side.replica.is_driver()
            && side.is_guard_known
        {
            guard.begin(of);
            guard.take(&side.source, &side.counts);
            if state.share > 0 && !state.has_ended() {
                guard.second(endpoints, self.in_force.share.0 == Share::WHOLE);
            } else if state.share == 0 {
                guard.learn(counts);
            }
        }
    }

    /// Processes the second. The driver's machine does so in full; another member's only processes the verdict of its own guard.
    pub(super) fn decide(&mut self, around: &Surroundings) -> Vec<Effect> {
        let Some(side) = &self.shared else {
            return Vec::new();
        };
        let verdict = self.guard.verdict();
        let is_in_touch = side.replica.alone(around.now).is_none();
        if let Some(verdict) = verdict
            && !self.state().is_none_or(|state| state.has_ended())
        {
            return self.veto(verdict, around.now_s);
        }
        match side.replica.is_driver() && side.is_guard_known && is_in_touch {
            true => self.tick(around),
            // Without a driver, or out of touch, the clock of the step stands.
            false => Vec::new(),
        }
    }

    pub(super) fn veto(&mut self, verdict: FailVerdict, now_s: u64) -> Vec<Effect> {
        let Some((side, machine)) = self.shared.as_mut().zip(self.machine.as_mut()) else {
            return Vec::new();
        };
        let of = (machine.state().plan.clone(), machine.state().epoch);
        let effects = machine.veto(&verdict, &self.plan, now_s);
        if !effects.is_empty() {
            side.replica.intend(of, Intent::Veto(verdict));
        }
        effects
    }

    /// Carries out a command of an operator on the shared rollout.
    pub(super) fn command_shared(
        &mut self,
        command: OperatorCommand,
        by: &str,
        now: Instant,
        now_s: u64,
    ) -> Result<Vec<Effect>, String> {
        let Some((side, machine)) = self.shared.as_mut().zip(self.machine.as_mut()) else {
            return Err(self.why_apart().unwrap_or_default());
        };
        let lowers = matches!(command, OperatorCommand::Abort | OperatorCommand::Pause);
        if !lowers && let Some(silence) = side.replica.alone(now) {
            return Err(format!(
                "the fleet's store has not answered for {} s; only `pause` and `abort` are possible",
                silence.as_secs()
            ));
        }
        // Read before the command, which may begin another attempt.
        let of = (machine.state().plan.clone(), machine.state().epoch);
        let effects = machine.command(command, by, &self.plan, now_s)?;
        // A command that lowers the share must reach the fleet even if its state isn't known at present.
        if lowers || side.replica.revision() > 0 {
            let intent = Intent::Command(command, by.to_owned());
            side.replica.intend(of, intent);
        }
        Ok(effects)
    }

    /// The reason to show while the fleet's store doesn't answer.
    pub(super) fn silence(&self) -> Option<String> {
        let side = self.shared.as_ref()?;
        let seconds = side.replica.alone(Instant::now())?.as_secs();
        let result = match side.is_lost {
            true => "no share, as `fleet.on_lost` says",
            false => "the share doesn't rise",
        };
        Some(format!(
            "the fleet's store has not answered for {seconds} s: {result}"
        ))
    }

    /// Logs that `on_lost` takes the share away, or gives it back.
    pub(super) fn log_loss(&mut self, service: &str, lost_after: Option<Duration>, now: Instant) {
        let has_share = { self.machine.as_ref() }.is_some_and(|m| m.state().share > 0);
        let Some(side) = &mut self.shared else { return };
        let is_lost = has_share && side.takes_away(lost_after, now);
        match (side.is_lost, is_lost) {
            (false, true) => tracing::warn!(
                service,
                silence_s = side.replica.silence(now).as_secs(),
                "fleet: etcd does not answer, no share as fleet.on_lost says"
            ),
            (true, false) => {
                tracing::info!(
                    service,
                    "fleet: etcd answers, or the rollout has ended: fleet.on_lost no longer applies"
                );
            }
            (true, true) | (false, false) => {}
        }
        side.is_lost = is_lost;
    }

    /// The reason why this member takes no part in the shared rollout.
    pub(super) fn why_apart(&self) -> Option<String> {
        let side = self.shared.as_ref()?;
        let Some(own) = &side.own else {
            return Some("nothing follows a rollout in this member's configuration".to_owned());
        };
        let plan = &side.replica.state().plan;
        if side.kept(Instant::now()).is_some() {
            return Some("the fleet's rollout is not known yet: the share stays".to_owned());
        }
        if side.replica.revision() == 0 {
            return Some("stable only: the fleet's rollout is not known yet".to_owned());
        }
        (own.print != *plan).then(|| {
            format!(
                "stable only: this member's plan is {}, the fleet's is {plan}",
                own.print
            )
        })
    }

    /// The change of the shared document to submit, if there is one and none is on its way, with the revision that it is based on.
    pub(super) fn shared_change(&mut self, now: Instant) -> Option<(i64, FleetDocument)> {
        if self.submitted.is_some() || self.retries_at_tick {
            return None;
        }
        let side = self.shared.as_mut()?;
        let machine = self.machine.as_ref()?;
        let (state, replica) = (machine.state(), &side.replica);
        let drives = side.claims || replica.is_driver();
        if !side.claims && replica.revision() == 0 {
            // Only a driver creates the document.
            return None;
        }
        if !drives && !replica.has_intents() && !replica.remembers_an_end() {
            return None;
        }
        let clock_moved = replica.is_driver()
            && state.phase == RolloutPhase::Step
            && state.held_ms > replica.state().held_ms
            && { side.written }.is_none_or(|at| now.saturating_duration_since(at) >= KEEP_EVERY);
        let is_due = side.claims
            || clock_moved
            || !replica.is_shared()
            || !self.notes.is_empty()
            || self.store_error.is_some()
            || state.differs_from(replica.state());
        if !is_due {
            return None;
        }
        let driver = match side.claims {
            true => (replica.member(), replica.next_term()),
            false => (replica.driver(), replica.term()),
        };
        let notes = std::mem::take(&mut self.notes);
        let guard = side
            .guard
            .as_ref()
            .map_or(&self.guard, |fleet| &fleet.guard);
        let evidence = guard.evidence().into_iter();
        let evidence = evidence.map(|e| (e.name, e.log_e / std::f64::consts::LN_10));
        let member = replica.member();
        let document =
            FleetDocument::new(driver, member, &notes, evidence.collect(), state.clone());
        let revision = replica.revision();
        self.submitted = Some(notes);
        side.on_its_way = Some(side.replica.untold());
        Some((revision, document))
    }

    /// Takes the result of a change that was submitted at `sent`.
    pub(super) fn written(&mut self, result: Written, sent: Instant, now_s: u64) -> Vec<Effect> {
        let notes = self.submitted.take().unwrap_or_default();
        let Some(side) = &mut self.shared else {
            return Vec::new();
        };
        let told = side.on_its_way.take().unwrap_or(0);
        let is_overtaken = std::mem::take(&mut side.is_overtaken);
        match result {
            Written::Done(revision, document) => {
                self.store_error = None;
                side.replica.heard(sent);
                let is_newest = revision >= side.replica.revision();
                side.replica.wrote(revision, &document);
                side.replica.told(told);
                (side.written, side.claims) = (Some(sent), false);
                match is_newest {
                    true => Vec::new(),
                    false => self.synchronize(now_s),
                }
            }
            Written::Conflict(found) => {
                self.store_error = None;
                side.replica.heard(sent);
                match found {
                    Some((revision, document)) => {
                        side.replica.see(revision, &document);
                    }
                    None => side.replica.forget_revision(),
                }
                self.synchronize(now_s)
            }
            Written::Failed(why) => {
                self.store_error = Some(StoreError::Io(why));
                self.retries_at_tick = true;
                // Without this the next change would be based on the newer document, and yet undo the decisions of others in it.
                if is_overtaken {
                    return self.synchronize(now_s);
                }
                let later = std::mem::replace(&mut self.notes, notes);
                self.notes.extend(later);
                Vec::new()
            }
        }
    }

    /// The entry that this member writes to its disk, if it differs from the stored one.
    ///
    /// It never has a share beyond the one that the fleet has granted, such as that of a step which the driver has not been able to
    /// write yet: a start without the store gives the share on disk.
    pub(super) fn copy(&mut self, now_s: u64) -> Option<(u64, JournalEntry)> {
        let side = self.shared.as_mut().filter(|side| !side.is_copying)?;
        let granted = side.replica.state();
        let own = self.machine.as_ref().map(Machine::state);
        let own = own.filter(|own| own.share() <= granted.share());
        let mut state = own.unwrap_or(granted).clone();
        if side.replica.has_left() {
            (state.plan, state.share) = (String::new(), 0);
        }
        if !state.differs_from(&side.file.state) {
            return None;
        }
        side.is_copying = true;
        let entry = JournalEntry {
            at_s: now_s,
            state,
            ..JournalEntry::default()
        };
        Some((side.file.revision, entry))
    }

    /// Takes the result of writing the copy.
    pub(super) fn copied(
        &mut self,
        result: Result<Stored, StoreError>,
        reload: impl FnOnce() -> Option<Stored>,
    ) {
        let Some(side) = &mut self.shared else { return };
        side.is_copying = false;
        match result {
            Ok(stored) => side.file = stored,
            // Another process wrote in between, as in a takeover.
            Err(StoreError::Conflict) => side.file = reload().unwrap_or_default(),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
#[path = "shared_tests.rs"]
mod tests;
