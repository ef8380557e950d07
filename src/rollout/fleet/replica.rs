//! One member's knowledge of a shared rollout, and the share that it allows.

use std::time::{Duration, Instant};

use super::document::{FleetDocument, latest};
use crate::config::spec::Share;
use crate::rollout::events::OperatorCommand;
use crate::rollout::guard::FailVerdict;
use crate::rollout::state::RolloutState;

/// A member that has read nothing for this long no longer raises a share, because others may have made a decision since.
pub const CONTACT: Duration = Duration::from_secs(10);

/// A decision of this member that the fleet must hear of.
#[derive(Clone, Debug, PartialEq)]
pub enum Intent {
    /// The guard of this member has failed the canary: a veto.
    Veto(FailVerdict),
    /// A command, and the operator who gave it.
    Command(OperatorCommand, String),
}

/// An intent and the attempt that it belongs to.
#[derive(Clone, Debug, PartialEq)]
pub struct PendingIntent {
    /// Fingerprint of the plan.
    pub plan: String,
    /// Number of the attempt.
    pub epoch: u64,
    /// The decision.
    pub intent: Intent,
}

/// One member's knowledge of a shared rollout.
///
/// A pure value. Revisions only grow, until the store is found to be another one. The share that it allows is never above the
/// newest document's, and rises only while the store answers, so a member that is cut off can't go further than the fleet has
/// decided.
#[derive(Clone, Debug)]
pub struct Replica {
    member: String,
    fleet: String,
    /// Revision of the newest document; 0 if there is none.
    revision: i64,
    driver: String,
    term: u64,
    /// The newest state of the document, or the state on disk before the first document was read.
    state: RolloutState,
    /// Whether the newest document has this state. If not, it is remembered, and grants no more than the share in force.
    is_shared: bool,
    /// Time at which the last question was asked that has been answered.
    contact: Option<Instant>,
    /// Time at which this member began to look for the store.
    since: Instant,
    /// The term in which this process has taken over; 0 if it hasn't.
    claimed: u64,
    /// The attempt that this member's configuration has left.
    left: Option<u64>,
    /// Decisions that the fleet has to be told. Each is dropped once a document has it, or no longer allows it.
    intents: Vec<PendingIntent>,
}

impl Replica {
    /// The knowledge of a member of a fleet that begins with a state from its disk.
    pub fn new((fleet, member): (&str, &str), remembered: RolloutState, now: Instant) -> Self {
        let belongs = remembered.fleet.as_deref() == Some(fleet);
        let has_left = belongs && remembered.plan.is_empty() && remembered.epoch > 0;
        Self {
            member: member.to_owned(),
            fleet: fleet.to_owned(),
            revision: 0,
            driver: String::new(),
            term: 0,
            left: has_left.then_some(remembered.epoch),
            state: match belongs {
                true => remembered,
                // Numbers of attempts from outside the fleet mean nothing in it. The latches of plans that must not begin again do.
                false => RolloutState {
                    fleet: Some(fleet.to_owned()),
                    latches: remembered.latches,
                    ..RolloutState::default()
                },
            },
            is_shared: false,
            contact: None,
            since: now,
            claimed: 0,
            intents: Vec::new(),
        }
    }

    /// The name of this member.
    pub fn member(&self) -> &str {
        &self.member
    }

    /// Revision of the newest document; 0 without one.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The member that drives the rollout; empty before a document was read.
    pub fn driver(&self) -> &str {
        &self.driver
    }

    /// The term of the driver.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// The newest state.
    pub fn state(&self) -> &RolloutState {
        &self.state
    }

    /// Whether the store has to be told of the end of a rollout that it has lost, or has never had.
    pub fn remembers_an_end(&self) -> bool {
        self.revision > 0 && !self.is_shared && self.state.was_taken_back()
    }

    /// Whether the newest document has the state.
    pub fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Records that a question was answered that was asked at `sent`. The time of the answer doesn't count: a process that was
    /// stopped may read it long after.
    pub fn heard(&mut self, sent: Instant) {
        self.contact = self.contact.max(Some(sent));
    }

    /// The time since the store was last heard of.
    pub fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.contact.unwrap_or(self.since))
    }

    /// The time since the store was last heard of, if it is too long.
    pub fn alone(&self, now: Instant) -> Option<Duration> {
        let silence = self.silence(now);
        (self.contact.is_none() || silence >= CONTACT).then_some(silence)
    }

    /// Takes a document. Returns whether it is newer than the known one.
    pub fn see(&mut self, revision: i64, document: &FleetDocument) -> bool {
        if revision <= self.revision {
            return false;
        }
        self.revision = revision;
        self.driver.clone_from(&document.driver);
        self.term = document.term;
        let remembered = std::mem::take(&mut self.state);
        self.state = latest(&remembered, &document.state).clone();
        self.is_shared = self.state == document.state;
        // The state on disk names the fleet that it belongs to.
        self.state.fleet = Some(self.fleet.clone());
        true
    }

    /// Records that the store has no document, or one that may be older than the known one: it was emptied or restored. The state
    /// is kept.
    pub fn forget_revision(&mut self) {
        (self.revision, self.is_shared) = (0, false);
        self.driver.clear();
    }

    /// Whether this process drives the rollout. Another process of the same member doesn't: it has claimed another term.
    pub fn is_driver(&self) -> bool {
        self.claimed > 0 && self.claimed == self.term && self.driver == self.member
    }

    /// The term with which this member takes over.
    pub fn next_term(&self) -> u64 {
        self.term.max(self.claimed) + 1
    }

    /// Records that the store has taken a document of this member with this revision.
    pub fn wrote(&mut self, revision: i64, document: &FleetDocument) {
        if document.driver == self.member
            && document.term > self.claimed
            && document.writer == self.member
        {
            self.claimed = document.term;
        }
        self.see(revision, document);
    }

    /// Records that the configuration of this member no longer follows the plan.
    pub fn leave(&mut self) {
        if !self.state.plan.is_empty() {
            self.left = Some(self.state.epoch);
        }
        self.claimed = 0;
        self.intents.clear();
    }

    /// Whether this member has left the attempt that the document is about. It takes part again once another member drives it; if
    /// it has to drive, it begins another attempt.
    pub fn has_left(&self) -> bool {
        self.left == Some(self.state.epoch)
    }

    /// Takes part in the attempt after all, because another member drives it.
    pub fn rejoin(&mut self) {
        self.left = None;
    }

    /// Records a decision about an attempt: its plan and number. The store may not have the attempt yet.
    pub fn intend(&mut self, (plan, epoch): (String, u64), intent: Intent) {
        let pending = PendingIntent {
            plan,
            epoch,
            intent,
        };
        if !self.intents.contains(&pending) {
            self.intents.push(pending);
        }
    }

    /// Decisions that the newest document doesn't have, and that belong to its attempt. Decisions about earlier attempts are
    /// dropped.
    pub fn intents(&mut self) -> Vec<Intent> {
        let state = &self.state;
        let belongs = |i: &PendingIntent| i.plan == state.plan && i.epoch == state.epoch;
        self.intents.retain(|i| belongs(i) || i.epoch > state.epoch);
        let now = self.intents.iter().filter(|i| belongs(i));
        now.map(|i| i.intent.clone()).collect()
    }

    /// Whether there are decisions to tell.
    pub fn has_intents(&self) -> bool {
        !self.intents.is_empty()
    }

    /// Drops the first decisions, because the store has them.
    pub fn told(&mut self, count: usize) {
        self.intents.drain(..count.min(self.intents.len()));
    }

    /// Number of decisions to tell.
    pub fn untold(&self) -> usize {
        self.intents.len()
    }

    /// The share that this member may give, if it wants `own` and gives `before`.
    ///
    /// Never more than the newest document grants to the same attempt. It rises only while the store answers, and falls always.
    pub fn allowed(&self, own: &RolloutState, wanted: Share, before: Share, now: Instant) -> Share {
        let granted = &self.state;
        // An attempt that this member has only just begun has the share of the one that it was made of.
        let belongs = granted.plan == own.plan && granted.epoch <= own.epoch;
        if !belongs || self.has_left() {
            return Share(0);
        }
        let allowed = wanted.min(granted.share());
        match self.is_shared && self.alone(now).is_none() {
            true => allowed,
            false => allowed.min(before),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::state::{Latch, RolloutPhase};

    const PLAN: &str = "8f0e4c1d2b3a4950";

    fn state(epoch: u64, share: u32) -> RolloutState {
        RolloutState {
            plan: PLAN.to_owned(),
            phase: RolloutPhase::Step,
            step: 1,
            share,
            epoch,
            ..RolloutState::default()
        }
    }

    fn document(driver: &str, term: u64, state: RolloutState) -> FleetDocument {
        FleetDocument::new((driver, term), driver, &[], Vec::new(), state)
    }

    fn replica(now: Instant) -> Replica {
        let mut replica = Replica::new(("front", "a"), RolloutState::default(), now);
        replica.heard(now);
        assert!(replica.see(5, &document("b", 1, state(1, 10_000))));
        replica
    }

    #[test]
    fn a_share_rises_only_while_the_store_answers_and_falls_always() {
        let start = Instant::now();
        let mut replica = replica(start);
        let most = Share(Share::WHOLE);
        let allowed = |replica: &Replica, before, seconds| {
            let at = start + Duration::from_secs(seconds);
            replica
                .allowed(&state(1, 10_000), most, Share(before), at)
                .0
        };
        assert_eq!(allowed(&replica, 0, 9), 10_000);
        assert_eq!(allowed(&replica, 0, 10), 0, "nothing was heard for 10 s");
        assert_eq!(allowed(&replica, 5000, 60), 5000);
        replica.see(6, &document("b", 1, state(1, 2000)));
        assert_eq!(allowed(&replica, 5000, 60), 2000);
        replica.heard(start + Duration::from_secs(55));
        replica.see(7, &document("b", 1, state(1, 50_000)));
        assert_eq!(allowed(&replica, 2000, 60), 50_000);
        assert_eq!(
            replica
                .allowed(&state(1, 0), Share(3000), Share(0), start)
                .0,
            3000
        );
    }

    #[test]
    fn an_older_document_changes_nothing() {
        let mut replica = replica(Instant::now());
        assert!(!replica.see(5, &document("c", 9, state(2, 50_000))));
        assert_eq!((replica.driver(), replica.state().epoch), ("b", 1));
        replica.forget_revision();
        assert!(
            replica.see(2, &document("c", 9, state(2, 50_000))),
            "another store"
        );
    }

    #[test]
    fn another_plan_or_attempt_grants_nothing() {
        let now = Instant::now();
        let replica = replica(now);
        let whole = Share(Share::WHOLE);
        let allowed = |own: &RolloutState| replica.allowed(own, whole, Share(0), now);
        let other = RolloutState {
            plan: "0000000000000000".to_owned(),
            ..state(1, 10_000)
        };
        assert_eq!(allowed(&other), Share(0));
        assert_eq!(allowed(&state(0, 10_000)), Share(0));
        assert_eq!(allowed(&state(2, 10_000)), Share(10_000));
    }

    #[test]
    fn only_the_process_that_claimed_the_term_drives() {
        let mut replica = replica(Instant::now());
        let claim = document("a", replica.next_term(), state(1, 10_000));
        // A former process of this member had claimed it.
        replica.see(6, &claim);
        assert!(!replica.is_driver());
        let claim = document("a", replica.next_term(), state(1, 10_000));
        assert_eq!(claim.term, 3);
        replica.wrote(7, &claim);
        assert!(replica.is_driver());
        replica.see(8, &document("b", 4, state(1, 10_000)));
        assert!(!replica.is_driver());
    }

    #[test]
    fn a_remembered_state_is_a_ceiling_and_one_of_another_fleet_is_none() {
        let now = Instant::now();
        let remembered = |fleet: &str| RolloutState {
            fleet: Some(fleet.to_owned()),
            latches: vec![Latch::default()],
            ..state(9, 10_000)
        };
        let mut replica = Replica::new(("front", "a"), remembered("front"), now);
        replica.heard(now);
        replica.see(3, &document("b", 1, state(1, 50_000)));
        let whole = Share(Share::WHOLE);
        let allowed = |before| {
            replica
                .allowed(&state(9, 10_000), whole, Share(before), now)
                .0
        };
        assert_eq!(
            (allowed(0), allowed(4000), allowed(50_000)),
            (0, 4000, 10_000)
        );
        let other = Replica::new(("front", "a"), remembered("back"), now);
        assert_eq!((other.state().epoch, other.state().latches.len()), (0, 1));
    }

    #[test]
    fn who_left_an_attempt_gives_nothing_of_it() {
        let now = Instant::now();
        let mut replica = replica(now);
        let allowed =
            |replica: &Replica| replica.allowed(&state(1, 10_000), Share(10_000), Share(0), now);
        replica.leave();
        assert_eq!(allowed(&replica), Share(0));
        replica.rejoin();
        assert_eq!(allowed(&replica), Share(10_000));
    }

    #[test]
    fn a_decision_belongs_to_its_attempt() {
        let mut replica = replica(Instant::now());
        let pause = Intent::Command(OperatorCommand::Pause, "me".to_owned());
        replica.intend((PLAN.to_owned(), 1), pause.clone());
        replica.intend((PLAN.to_owned(), 1), pause.clone());
        assert_eq!(replica.intents(), std::slice::from_ref(&pause));
        replica.see(6, &document("b", 1, state(1, 20_000)));
        assert_eq!(replica.intents(), [pause]);
        replica.see(7, &document("b", 1, state(2, 0)));
        assert!(replica.intents().is_empty() && !replica.has_intents());
    }
}
