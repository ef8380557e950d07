//! The state of a process, serialized and read by its successor.

use std::sync::Arc;

use super::*;
use crate::config::Spec;
use crate::index::ServiceIx;
use crate::routing::sticky::SealingKey;
use crate::snapshot::fixtures::compiled;
use crate::snapshot::{Keys, Previous};

fn spec(stable: &str, split: &str) -> Arc<Spec> {
    let text = format!(
        "listen = \":1\"\n[service.shop]\nstable = \"{stable}\"\nsplit = {{ {split} }}\ncheck = \"/ready\"\n\
         finish_sessions = \"30m\"\n[service.shop.sticky]\nto = \"version\"\n[service.shop.versions]\n\
         blue = [\"127.0.0.1:2\"]\ngreen = [\"127.0.0.1:3\"]\nred = [\"127.0.0.1:4\"]\n"
    );
    Arc::new(crate::config::parse(&text, "test.toml").expect("a valid file"))
}

fn keys() -> Keys {
    let key = SealingKey::new(&[7; 32]).expect("a key");
    Keys::from([(None, Arc::new(key))])
}

/// The first generation of a process without a predecessor.
fn process(stable: &str, split: &str) -> Snapshot {
    compiled(
        &spec(stable, split),
        Previous::Nothing,
        false,
        (&keys(), 1000),
    )
}

/// The generation after `running`, while no version passes its checks.
fn reloaded(running: &Snapshot, stable: &str, split: &str) -> Snapshot {
    let previous = Previous::Generation(running);
    compiled(&spec(stable, split), previous, false, (&keys(), 1000))
}

/// The first generation of a successor, before any check.
fn successor(state: &[ServiceState], stable: &str, split: &str) -> Snapshot {
    let previous = Previous::Process(state);
    compiled(&spec(stable, split), previous, false, (&keys(), 2000))
}

/// Serializes and parses the state, as the handover does.
fn passed_on(snapshot: &Snapshot) -> Vec<ServiceState> {
    let json = serde_json::to_string(&snapshot.state()).expect("JSON");
    serde_json::from_str(&json).expect(&json)
}

fn shares(snapshot: &Snapshot) -> [u32; 3] {
    [0, 1, 2].map(|v| snapshot.share(ServiceIx(0), VersionIx(v)).0 / 1000)
}

#[test]
fn a_successor_keeps_the_split_that_was_in_effect_and_waits_for_the_same_version() {
    let first = process("blue", "red = \"10%\"");
    assert_eq!(shares(&first), [90, 0, 10]);
    let gated = reloaded(&first, "green", "red = \"25%\"");
    assert_eq!(shares(&gated), [90, 0, 10]);
    let state = passed_on(&gated);
    assert_eq!(state[0].awaiting, ["green"]);
    let next = successor(&state, "green", "red = \"25%\"");
    assert_eq!(shares(&next), [90, 0, 10]);
    assert_eq!(next.services[0].awaited, [VersionIx(1)]);
    // Without an edit nothing waits, though no check has passed in the new process yet.
    let first = successor(&passed_on(&first), "blue", "red = \"10%\"");
    assert_eq!(shares(&first), [90, 0, 10]);
    assert!(!first.is_held_back());
}

#[test]
fn a_canary_that_waited_still_waits_and_one_with_a_share_keeps_it() {
    let first = process("blue", "");
    let gated = reloaded(&first, "blue", "green = \"5%\"");
    let next = successor(&passed_on(&gated), "blue", "green = \"5%\"");
    assert_eq!((shares(&next), next.is_held_back()), ([100, 0, 0], true));
    let open = process("blue", "green = \"5%\"");
    let next = successor(&passed_on(&open), "blue", "green = \"50%\"");
    assert_eq!((shares(&next), next.is_held_back()), ([50, 50, 0], false));
}

#[test]
fn missing_state_is_treated_as_a_first_start() {
    for state in ["[]", r#"[{"name":"other","stable":"x"}]"#] {
        let state: Vec<ServiceState> = serde_json::from_str(state).expect(state);
        let next = successor(&state, "green", "");
        assert_eq!(shares(&next), [0, 100, 0], "{state:?}");
    }
    // A field of a later release, and of the fields known here only the name.
    let sparse = r#"[{"name":"shop","rollout":{"step":3}}]"#;
    let state: Vec<ServiceState> = serde_json::from_str(sparse).expect(sparse);
    let next = successor(&state, "green", "");
    assert_eq!(
        shares(&next),
        [0, 100, 0],
        "its stable version is not in the file"
    );
}

#[test]
fn the_past_of_sessions_is_continued() {
    let mut first = process("blue", "");
    let service = Arc::get_mut(&mut first.services[0]).expect("the only one");
    let sessions = service.sessions.as_mut().expect("sessions");
    sessions.void(VersionIx(2), 1500);
    let state = passed_on(&first);
    let previous = Previous::Process(&state);
    let next = compiled(&spec("green", ""), previous, true, (&keys(), 2000));
    let pasts = next.services[0]
        .sessions
        .as_ref()
        .expect("sessions")
        .pasts();
    let actual: Vec<_> = pasts.iter().map(|p| (p.left_s, p.voided_s)).collect();
    // Blue lost its share now, green got one, red has had none since the first process began, and its sessions are void.
    let expected = [(Some(2000), None), (None, None), (Some(1000), Some(1500))];
    assert_eq!(actual, expected);
}
