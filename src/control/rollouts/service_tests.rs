//! What a rollout submits to the store, and what it does with the answers.

use super::*;
use crate::config::rollout::UnknownPast;
use crate::config::{self, Spec};
use crate::rollout::state::RolloutPhase;

fn spec(split: &str, label: &str) -> Spec {
    let text = format!(
        "listen = \":8080\"\n[service.shop]\nstable = \"v1\"\nsplit = {{ v2 = \"{split}\" }}\n\
         [service.shop.rollout]\nsteps = [\"10% for 1m\", \"50% for 1m\"]\n\
         [service.shop.versions]\nv1 = [\"127.0.0.1:1\"]\n[service.shop.versions.v2]\nlabel = \"{label}\"\n\
         endpoints = [\"127.0.0.1:2\"]\n"
    );
    config::parse(&text, "test.toml").unwrap()
}

fn rollout() -> ServiceRollout {
    let spec = spec("rollout", "1.1.0");
    let service = &spec.services[0];
    ServiceRollout::new(service, service.rollout.as_ref().unwrap())
}

/// Adopts a configuration, and returns what was noted.
fn adopt(rollout: &mut ServiceRollout, spec: &Spec) -> Vec<Effect> {
    let service = &spec.services[0];
    let effects = rollout.adopt(service, service.rollout.as_ref().unwrap(), true, 1);
    for effect in &effects {
        rollout.apply(effect);
    }
    effects
}

/// The rollout in its first step, which the store has.
fn in_first_step() -> ServiceRollout {
    let mut rollout = rollout();
    adopt(&mut rollout, &spec("rollout", "1.1.0"));
    let print = rollout.state().unwrap().plan.clone();
    let state = RolloutState::in_first_step(print);
    rollout.reload(Stored { revision: 3, state });
    adopt(&mut rollout, &spec("rollout", "1.1.0"));
    rollout.enforce(None, Instant::now());
    assert_eq!(rollout.in_force().share, Share(10_000));
    assert!(rollout.change(1).is_none());
    rollout
}

fn accept(rollout: &mut ServiceRollout, (revision, entry): (u64, JournalEntry)) {
    rollout.stored(Ok(Stored {
        revision: revision + 1,
        state: entry.state,
    }));
}

fn refuse(rollout: &mut ServiceRollout) {
    rollout.stored(Err(StoreError::Io("disk full".to_owned())));
}

#[test]
fn a_refused_change_is_made_again_with_its_notes_once_per_tick() {
    let mut rollout = rollout();
    adopt(&mut rollout, &spec("rollout", "1.1.0"));
    let first = rollout.change(1).unwrap().1;
    assert_eq!(first.notes, ["rollout of v2 began"]);
    rollout.apply(&Effect::Note("later".to_owned()));
    refuse(&mut rollout);
    assert!(rollout.change(1).is_none(), "not before the next tick");
    rollout.retry();
    let again = rollout.change(1).unwrap();
    assert_eq!(again.1.notes, ["rollout of v2 began", "later"]);
    accept(&mut rollout, again);
    assert!(rollout.store_error.is_none());
    assert!(rollout.change(1).is_none());
}

#[test]
fn a_store_that_failed_is_tried_although_nothing_differs() {
    let mut rollout = in_first_step();
    refuse(&mut rollout);
    rollout.retry();
    assert!(rollout.change(1).is_some());
}

#[test]
fn an_edit_of_the_split_ends_the_rollout_while_a_change_is_on_its_way() {
    let mut rollout = in_first_step();
    rollout.apply(&Effect::Note("on its way".to_owned()));
    let on_its_way = rollout.change(1).unwrap();
    let effects = adopt(&mut rollout, &spec("5%", "1.1.0"));
    let ended = Effect::Note("v2: ended by an edit of the split".to_owned());
    assert_eq!(effects, [ended]);
    accept(&mut rollout, on_its_way);
    let end = rollout.change(1).unwrap();
    assert_eq!((end.1.state.plan.as_str(), end.1.state.share), ("", 0));
    assert!(rollout.is_unsaved());
    accept(&mut rollout, end);
    assert!(!rollout.is_unsaved());
    adopt(&mut rollout, &spec("rollout", "1.1.0"));
    rollout.enforce(None, Instant::now());
    let state = rollout.state().unwrap();
    assert_eq!((state.phase, state.step), (RolloutPhase::Waiting, 0));
    assert_eq!(rollout.in_force().share, Share(0));
}

#[test]
fn an_edit_that_was_made_while_no_process_ran_ends_the_rollout_too() {
    let stored = in_first_step().stored;
    let mut next = rollout();
    next.restore(Ok(stored), None);
    adopt(&mut next, &spec("5%", "1.1.0"));
    let end = next.change(1).unwrap();
    assert!(end.1.state.plan.is_empty());
}

#[test]
fn after_a_conflict_it_continues_and_can_store_again() {
    let mut rollout = in_first_step();
    rollout.apply(&Effect::Note("refused".to_owned()));
    rollout.change(1).unwrap();
    let mut state = rollout.state().unwrap().clone();
    (state.step, state.share) = (2, 50_000);
    rollout.reload(Stored { revision: 9, state });
    adopt(&mut rollout, &spec("rollout", "1.1.0"));
    rollout.enforce(None, Instant::now());
    assert_eq!(rollout.in_force().share, Share(50_000));
    rollout.apply(&Effect::Note("next".to_owned()));
    let (revision, entry) = rollout.change(1).unwrap();
    assert_eq!((revision, &*entry.notes), (9, &["next".to_owned()][..]));
}

#[test]
fn a_service_with_a_journal_has_a_past() {
    let hold = |known: bool, revision| {
        let mut rollout = rollout();
        let state = RolloutState::default();
        rollout.restore(Ok(Stored { revision, state }), None);
        let spec = spec("rollout", "1.1.0");
        let service = &spec.services[0];
        let mut plan = service.rollout.clone().unwrap();
        plan.unknown = UnknownPast::Hold;
        rollout.adopt(service, &plan, known, 1);
        rollout.state().unwrap().phase
    };
    assert_eq!(hold(false, 0), RolloutPhase::Paused);
    assert_eq!(hold(false, 4), RolloutPhase::Waiting);
    assert_eq!(hold(true, 0), RolloutPhase::Waiting);
}

/// The same service with a flag that has this share and these conditions.
fn flag_spec(share: &str, when: &str) -> Spec {
    let text = format!(
        "listen = \":8080\"\n[service.shop]\nstable = \"v1\"\nversions = {{ v1 = [\"127.0.0.1:1\"] }}\n\
         cohort.by = \"ip\"\n[service.shop.rollout]\nsteps = [\"10% for 1m\", \"50% for 1m\"]\n\
         [service.shop.flags.new]\nshare = \"{share}\"\n{when}\n"
    );
    config::parse(&text, "test.toml").unwrap()
}

#[test]
fn a_flag_walks_the_plan_and_an_edit_of_its_share_ends_it() {
    let mut rollout = rollout();
    let begun = adopt(&mut rollout, &flag_spec("rollout", ""));
    assert!(begun.contains(&Effect::Note("rollout of flag new began".to_owned())));
    let entry = rollout.change(1).unwrap();
    assert_eq!(
        (entry.1.state.kind, &*entry.1.state.name),
        (SubjectKind::Flag, "new")
    );
    accept(&mut rollout, entry);
    assert!(adopt(&mut rollout, &flag_spec("rollout", "")).is_empty());
    // Other conditions are another rollout.
    let when = "when = { path = \"/a\", not.ip = \"10.0.0.0/8\" }";
    assert_eq!(adopt(&mut rollout, &flag_spec("rollout", when)), begun);
    let other = when.replace("/a", "/b");
    assert_eq!(adopt(&mut rollout, &flag_spec("rollout", &other)), begun);
    assert!(adopt(&mut rollout, &flag_spec("rollout", &other)).is_empty());
    let ended = adopt(&mut rollout, &flag_spec("5%", &other));
    let note = "flag new: ended by an edit of its share".to_owned();
    assert_eq!(ended, [Effect::Note(note)]);
}

#[test]
fn a_version_and_a_flag_of_one_name_are_different_rollouts() {
    let named = |kind: &str| {
        let entry = match kind {
            "flag" => "flags = { x = { share = \"rollout\" } }\ncohort.by = \"ip\"",
            _ => "split = { x = \"rollout\" }",
        };
        let text = format!(
            "listen = \":8080\"\n[service.shop]\nstable = \"v1\"\n{entry}\n\
             versions = {{ v1 = [\"127.0.0.1:1\"], x = [\"127.0.0.1:2\"] }}\n\
             rollout.steps = [\"10% for 1m\"]\n"
        );
        fingerprint(&config::parse(&text, "test.toml").unwrap().services[0])
    };
    assert!(named("flag").is_some() && named("flag") != named("version"));
}

#[test]
fn a_state_of_an_earlier_release_is_a_versions() {
    let state: RolloutState = serde_json::from_str("{\"version\":\"v2\",\"step\":2}").unwrap();
    assert_eq!(
        (state.kind, &*state.name, state.step),
        (SubjectKind::Version, "v2", 2)
    );
}
