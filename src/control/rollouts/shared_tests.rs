//! Five members of a fleet over random schedules of kills, partitions, stops and late joins, with a store that answers late.

use std::collections::VecDeque;

use std::time::Duration;

use super::*;
use crate::config::{self, Spec};
use crate::control::fleet::Driver;
use crate::control::rollouts::shared_side::Election;
use crate::rollout::fleet::evidence::BothSides;
use crate::rollout::fleet::replica::CONTACT;
use crate::rollout::guard::{EventTally, GuardKind, Pairs, SecondCounts, SideCounts};
use crate::rollout::plan::fingerprint;
use crate::rollout::state::RolloutState;
use crate::rollout::store::Evidence;

const MEMBERS: usize = 5;
/// How old the knowledge may be that raises a share: [`CONTACT`], and the time that an answer takes.
const CONTACT_AND_DELAY: Duration = CONTACT.saturating_add(Duration::from_secs(2));
const TICK: Duration = Duration::from_millis(500);
/// A lease of the driver that isn't renewed ends after this time.
const LEASE: Duration = Duration::from_secs(10);
/// Steps of the plan: share and hold.
const STEPS: [(u32, u64); 3] = [(10_000, 5), (50_000, 5), (100_000, 5)];

fn spec(steps: &str) -> Spec {
    let text = format!(
        "listen = \":8080\"\n[service.shop]\nstable = \"v1\"\nsplit = {{ v2 = \"rollout\" }}\n\
         [service.shop.rollout]\nsteps = [{steps}]\nguard.on_silence = \"pass\"\n\
         [service.shop.versions]\nv1 = [\"127.0.0.1:1\"]\nv2 = [\"127.0.0.1:2\"]\n"
    );
    config::parse(&text, "test.toml").unwrap()
}

/// A message on its way to a member.
enum News {
    /// A read or a change that was watched; a read says when it was sent.
    Document(Option<Instant>, Option<(i64, Box<FleetDocument>)>),
    Written(Instant, Written),
}

/// The content of the store.
#[derive(Default)]
struct Store {
    revision: i64,
    document: Option<(i64, Box<FleetDocument>)>,
    driver: Option<(Driver, Instant)>,
    /// Each share that was granted, and since when.
    granted: Vec<(Instant, u32, usize)>,
}

struct Member {
    /// `None` while its process doesn't run.
    rollout: Option<ServiceRollout>,
    source: String,
    started: usize,
    disk: Stored,
    is_cut_off: bool,
    is_stopped: bool,
    inbox: VecDeque<(Instant, News)>,
    in_force: u32,
    since: Instant,
}

struct Fleet {
    spec: Spec,
    store: Store,
    members: Vec<Member>,
    /// What each member counts in a tick.
    counts: StepCounts,
    now: Instant,
    random: fastrand::Rng,
}

impl Fleet {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        let member = |_| Member {
            rollout: None,
            source: String::new(),
            started: 0,
            disk: Stored::default(),
            is_cut_off: false,
            is_stopped: false,
            inbox: VecDeque::new(),
            in_force: 0,
            since: now,
        };
        Self {
            spec: spec("\"10% for 5s\", \"50% for 5s\", \"100% for 5s\""),
            store: Store::default(),
            members: (0..MEMBERS).map(member).collect(),
            counts: StepCounts::default(),
            now,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    fn start(&mut self, at: usize) {
        let now = self.now;
        let service = &self.spec.services[0];
        let plan = service.rollout.as_ref().unwrap();
        let member = &mut self.members[at];
        let mut rollout = ServiceRollout::new(service, plan);
        rollout.restore(Ok(member.disk.clone()), None::<Evidence>);
        member.started += 1;
        member.source = format!("m{at}/{}", member.started);
        rollout.share(("front", &format!("m{at}")), &member.source, now);
        rollout.adopt(service, plan, true, 0);
        member.rollout = Some(rollout);
        member.inbox.clear();
        (member.is_stopped, member.in_force, member.since) = (false, 0, now);
    }

    fn kill(&mut self, at: usize) {
        self.members[at].rollout = None;
        self.members[at].in_force = 0;
    }

    /// A random fault, or the end of one.
    fn disturb(&mut self) {
        let at = self.random.usize(..MEMBERS);
        match self.random.u32(..10) {
            0..2 => self.kill(at),
            2..5 if self.members[at].rollout.is_none() => self.start(at),
            5..7 => self.members[at].is_cut_off = true,
            7 => self.members[at].is_cut_off = false,
            8 => self.members[at].is_stopped = true,
            _ => self.members[at].is_stopped = false,
        }
    }

    fn heal(&mut self) {
        for at in 0..MEMBERS {
            (self.members[at].is_cut_off, self.members[at].is_stopped) = (false, false);
            if self.members[at].rollout.is_none() {
                self.start(at);
            }
        }
    }

    fn send(&mut self, to: usize, news: News) {
        let late = Duration::from_millis(self.random.u64(..1500));
        self.members[to].inbox.push_back((self.now + late, news));
    }

    /// Lets time pass, and checks what must always hold.
    fn tick(&mut self) {
        self.now += TICK;
        for at in 0..MEMBERS {
            let member = &self.members[at];
            if member.rollout.is_none() || member.is_stopped {
                continue;
            }
            self.member(at);
            self.check(at);
        }
    }

    fn member(&mut self, at: usize) {
        let now = self.now;
        let is_reachable = !self.members[at].is_cut_off;
        if is_reachable && self.random.u32(..6) == 0 {
            let read = News::Document(Some(now), self.store.document.clone());
            self.send(at, read);
        }
        let mut rollout = self.members[at].rollout.take().unwrap();
        let mut effects = Vec::new();
        // Without ordering: a read may be answered after a change that came later.
        let (due, later) = { std::mem::take(&mut self.members[at].inbox) }
            .into_iter()
            .partition::<VecDeque<_>, _>(|(due, _)| *due <= now);
        self.members[at].inbox = later;
        for (_, news) in due {
            effects.extend(match news {
                News::Document(sent, document) => {
                    if let (Some(sent), Some(side)) = (sent, &mut rollout.shared) {
                        side.replica.heard(sent);
                    }
                    let seen = document.and_then(|(r, d)| rollout.see(r, &d, 0));
                    seen.unwrap_or_default()
                }
                News::Written(sent, result) => rollout.written(result, sent, 0),
            });
        }
        if now - self.members[at].since >= Duration::from_secs(5) {
            rollout.begin_alone();
        }
        if is_reachable {
            effects.extend(self.elect(at, &mut rollout));
        }
        if rollout.needs_guard() {
            rollout.take_guard(None);
        }
        rollout.count(&self.counts, 1);
        rollout.retry();
        let around = Surroundings {
            gate_open: true,
            stable_usable: true,
            answers: false,
            elapsed: TICK,
            now,
            now_s: 0,
        };
        effects.extend(rollout.decide(&around));
        apply(&mut rollout, &effects);
        self.write(at, &mut rollout);
        rollout.enforce(None, now);
        if let Some((revision, entry)) = rollout.copy(0) {
            let disk = Stored {
                revision: revision + 1,
                state: entry.state,
            };
            self.members[at].disk = disk.clone();
            rollout.copied(Ok(disk), || None);
        }
        self.members[at].rollout = Some(rollout);
    }

    fn elect(&mut self, at: usize, rollout: &mut ServiceRollout) -> Vec<Effect> {
        let now = self.now;
        let source = self.members[at].source.clone();
        let current = self.store.driver.take_if(|(_, until)| *until < now);
        drop(current);
        if let Some((driver, until)) = &mut self.store.driver
            && driver.source == source
        {
            *until = now + LEASE;
            let side = rollout.shared.as_ref().unwrap();
            if side.replica.is_driver() {
                driver.term = side.replica.term();
            }
        }
        let driver = self.store.driver.as_ref().map(|(driver, _)| driver.clone());
        match rollout.election(driver.as_ref(), now) {
            Election::Nothing | Election::Resign => Vec::new(),
            Election::Campaign => {
                let driver = Driver {
                    source,
                    term: 0,
                    replaceable: None,
                };
                self.store.driver = Some((driver, now + LEASE));
                Vec::new()
            }
            Election::Claim => rollout.claim(now, 0),
        }
    }

    /// Lets a member make a change, whose outcome it may not hear of.
    fn write(&mut self, at: usize, rollout: &mut ServiceRollout) {
        let now = self.now;
        let Some((expected, document)) = rollout.shared_change(now) else {
            return;
        };
        // The store reads what it is sent.
        let document = FleetDocument::read(&document.write().unwrap()).unwrap();
        let is_cut_off = self.members[at].is_cut_off || self.random.u32(..20) == 0;
        let arrives = !is_cut_off || self.random.u32(..10) == 0;
        let current = self
            .store
            .document
            .as_ref()
            .map_or(0, |(revision, _)| *revision);
        let found = self.store.document.clone();
        let mut result = Written::Conflict(found);
        if arrives && expected == current {
            self.store.revision += 1;
            let revision = self.store.revision;
            let state = &document.state;
            self.store.granted.push((now, state.share, state.step));
            let document = Box::new(document);
            self.store.document = Some((revision, document.clone()));
            result = Written::Done(revision, document.clone());
            for other in 0..MEMBERS {
                if !self.members[other].is_cut_off {
                    let news = News::Document(None, Some((revision, document.clone())));
                    self.send(other, news);
                }
            }
        }
        if is_cut_off {
            result = Written::Failed("timeout".to_owned());
        }
        self.send(at, News::Written(now, result));
    }

    /// Checks that a share rises only to one that the store has granted within the last seconds.
    fn check(&mut self, at: usize) {
        let member = &mut self.members[at];
        let rollout = member.rollout.as_ref().unwrap();
        let share = rollout.in_force().share.0;
        let before = std::mem::replace(&mut member.in_force, share);
        if share <= before {
            return;
        }
        if before == 0 && share <= member.disk.state.share {
            // The rollout began without the store.
            let most = self.store.granted.iter().map(|granted| granted.1).max();
            assert!(
                Some(share) <= most,
                "m{at} begins with {share}, granted {most:?}"
            );
            return;
        }
        let since = self.now.checked_sub(CONTACT_AND_DELAY).unwrap();
        let granted = &self.store.granted;
        let most = (0..granted.len())
            .filter(|i| granted.get(i + 1).is_none_or(|next| next.0 >= since))
            .map(|i| granted[i].1)
            .max();
        assert!(Some(share) <= most, "m{at} gives {share}, granted {most:?}");
    }

    /// Checks that no step was shorter than its hold.
    fn check_holds(&self) {
        let mut begun: Vec<(Instant, usize)> = Vec::new();
        for (at, _, step) in &self.store.granted {
            if begun.last().is_none_or(|(_, last)| last != step) {
                if let Some((since, last)) = begun.last()
                    && *last > 0
                    && *step == last + 1
                {
                    let hold = Duration::from_secs(STEPS[last - 1].1) - TICK;
                    assert!(*at - *since >= hold, "step {last} held {:?}", *at - *since);
                }
                begun.push((*at, *step));
            }
        }
    }

    fn state(&self) -> &RolloutState {
        &self.store.document.as_ref().unwrap().1.state
    }

    fn shares(&self) -> Vec<u32> {
        self.members.iter().map(|member| member.in_force).collect()
    }
}

fn apply(rollout: &mut ServiceRollout, effects: &[Effect]) {
    for effect in effects {
        rollout.apply(effect);
    }
}

fn failing() -> FailVerdict {
    FailVerdict {
        guard: "errors x1.5".to_owned(),
        kind: GuardKind::Errors,
        log_e: 5.0,
        reason: "the canary failed 9 of 10 requests".to_owned(),
    }
}

#[test]
fn a_fleet_walks_its_plan_together() {
    let mut fleet = Fleet::new(1);
    (0..MEMBERS).for_each(|at| fleet.start(at));
    (0..200).for_each(|_| fleet.tick());
    fleet.check_holds();
    assert_eq!(fleet.state().phase, RolloutPhase::Done);
    assert_eq!(fleet.shares(), [100_000; MEMBERS]);
    let steps: Vec<u32> = fleet
        .store
        .granted
        .iter()
        .map(|(_, share, _)| *share)
        .collect();
    assert!(steps.is_sorted(), "{steps:?}");
    assert!(
        fleet.store.granted.len() < 20,
        "the document was written too often"
    );
}

#[test]
fn the_clock_of_a_step_stands_without_the_store() {
    let mut fleet = Fleet::new(1);
    fleet.spec = spec("\"10% for 10m\"");
    fleet.start(0);
    let run = |fleet: &mut Fleet, seconds: u64| {
        let until = fleet.now + Duration::from_secs(seconds);
        while fleet.now < until {
            fleet.tick();
        }
        let rollout = fleet.members[0].rollout.as_ref().unwrap();
        assert!(rollout.shared.as_ref().unwrap().replica.is_driver());
        rollout.state().unwrap().held_ms
    };
    let begun = run(&mut fleet, 30);
    assert!(begun > 20_000, "{begun}");
    fleet.members[0].is_cut_off = true;
    let lost = run(&mut fleet, CONTACT_AND_DELAY.as_secs());
    assert_eq!(run(&mut fleet, 60), lost);
    fleet.members[0].is_cut_off = false;
    let found = run(&mut fleet, 30);
    assert!(found > lost + 20_000, "{found}");
    // One that was stopped doesn't know yet that nothing can be written.
    (fleet.members[0].is_stopped, fleet.members[0].is_cut_off) = (true, true);
    assert_eq!(run(&mut fleet, CONTACT_AND_DELAY.as_secs()), found);
    fleet.members[0].is_stopped = false;
    assert_eq!(run(&mut fleet, 60), found);
}

#[test]
fn a_rollout_that_waits_because_stable_fails_begins_once_stable_has_recovered() {
    let stable = |failures| EventTally::new(100, failures);
    let counts = |failures| StepCounts {
        errors: BothSides::new(EventTally::default(), stable(failures)),
        ..StepCounts::default()
    };
    let mut fleet = Fleet::new(1);
    fleet.counts = counts(20);
    fleet.start(0);
    // The fleet's guard begins with what the member's own has learnt before.
    let rollout = fleet.members[0].rollout.as_mut().unwrap();
    for _ in 0..60 {
        rollout.guard.before(&SecondCounts {
            errors: SideCounts {
                canary: EventTally::default(),
                stable: stable(20),
                stable_endpoints: &[],
            },
            latency: &[],
            goals: &[],
            canary_rate: 0.0,
            canary_endpoints: 1,
            pairs: Pairs::default(),
            alone: false,
        });
    }
    (0..60).for_each(|_| fleet.tick());
    assert_eq!(fleet.state().phase, RolloutPhase::Waiting);
    fleet.counts = counts(0);
    (0..200).for_each(|_| fleet.tick());
    assert!(fleet.state().step > 0, "{:?}", fleet.state());
}

#[test]
fn a_hundred_schedules_of_faults_raise_no_share_and_lose_no_latch() {
    for seed in 0..100 {
        let mut fleet = Fleet::new(seed);
        fleet.random.shuffle(&mut fleet.members);
        for at in 0..MEMBERS {
            if fleet.random.u32(..3) > 0 {
                fleet.start(at);
            }
        }
        let veto_at = fleet.random.u32(20..300);
        let mut has_veto = false;
        for tick in 0..300 {
            if fleet.random.u32(..8) == 0 {
                fleet.disturb();
            }
            if seed % 2 == 0 && tick >= veto_at && !has_veto {
                let at = fleet.random.usize(..MEMBERS);
                let member = &mut fleet.members[at];
                if let Some(rollout) = member.rollout.as_mut().filter(|_| !member.is_stopped) {
                    let effects = rollout.veto(failing(), 0);
                    has_veto = !effects.is_empty();
                    apply(rollout, &effects);
                    // The state is on the disk before the process can be killed.
                    if let Some((revision, entry)) = rollout.copy(0) {
                        member.disk = Stored {
                            revision: revision + 1,
                            state: entry.state,
                        };
                        let disk = member.disk.clone();
                        rollout.copied(Ok(disk), || None);
                    }
                }
            }
            fleet.tick();
        }
        fleet.heal();
        (0..240).for_each(|_| fleet.tick());
        fleet.check_holds();
        let (phase, shares) = (fleet.state().phase, fleet.shares());
        match has_veto {
            true => {
                assert_eq!(phase, RolloutPhase::RolledBack, "schedule {seed}");
                assert_eq!(shares, [0; MEMBERS], "schedule {seed}");
                assert_eq!(fleet.state().latches.len(), 1);
            }
            false => {
                assert_eq!(phase, RolloutPhase::Done, "schedule {seed}");
                assert_eq!(shares, [100_000; MEMBERS], "schedule {seed}");
            }
        }
    }
}

#[path = "shared_abort_tests.rs"]
mod aborts;
