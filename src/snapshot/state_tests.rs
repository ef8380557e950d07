//! What a process passes on, read back by its successor.

use std::sync::Arc;

use super::*;
use crate::config::Spec;
use crate::routing::sticky::SealingKey;
use crate::telemetry::Telemetry;
use crate::upstream::Registry;
use crate::upstream::endpoint::flag;

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

/// A process of its own: endpoints begin unproven.
fn process(stable: &str, split: &str) -> Snapshot {
    let mut snapshot =
        Snapshot::build(1, spec(stable, split), &Registry::new(), &Telemetry::new(1));
    for (_, endpoint) in snapshot.endpoints() {
        endpoint.state.raise(flag::UNPROVEN);
    }
    snapshot.begin_sessions(None, &keys(), 1000);
    snapshot
}

/// Through the wire.
fn passed_on(snapshot: &Snapshot) -> Vec<ServiceState> {
    let json = serde_json::to_string(&snapshot.state()).expect("JSON");
    serde_json::from_str(&json).expect(&json)
}

fn shares(snapshot: &Snapshot) -> [u32; 3] {
    [0, 1, 2].map(|v| snapshot.share(0, v).0 / 1000)
}

#[test]
fn a_successor_keeps_the_split_that_was_in_effect_and_waits_for_the_same_version() {
    let mut first = process("blue", "red = \"10%\"");
    assert_eq!(shares(&first), [90, 0, 10]);
    let mut gated = process("green", "red = \"25%\"");
    gated.hold_back(&first);
    assert_eq!(shares(&gated), [90, 0, 10]);
    let state = passed_on(&gated);
    assert_eq!(state[0].awaiting, ["green"]);
    let mut next = process("green", "red = \"25%\"");
    next.continue_from(&state, &keys(), 2000);
    assert_eq!(shares(&next), [90, 0, 10]);
    assert_eq!(next.services[0].awaited, [1]);
    // Without an edit there is nothing to wait for, though no check has passed in the new process yet.
    first.continue_from(&passed_on(&first), &keys(), 2000);
    assert_eq!(shares(&first), [90, 0, 10]);
    assert!(!first.is_held_back());
}

#[test]
fn a_canary_that_rose_from_nothing_goes_on_waiting_and_one_that_has_a_share_keeps_it() {
    let first = process("blue", "");
    let mut gated = process("blue", "green = \"5%\"");
    gated.hold_back(&first);
    let mut next = process("blue", "green = \"5%\"");
    next.continue_from(&passed_on(&gated), &keys(), 2000);
    assert_eq!((shares(&next), next.is_held_back()), ([100, 0, 0], true));
    let open = process("blue", "green = \"5%\"");
    let mut next = process("blue", "green = \"50%\"");
    next.continue_from(&passed_on(&open), &keys(), 2000);
    assert_eq!((shares(&next), next.is_held_back()), ([50, 50, 0], false));
}

#[test]
fn what_is_not_told_is_as_in_a_first_start() {
    for state in ["[]", r#"[{"name":"other","stable":"x"}]"#] {
        let state: Vec<ServiceState> = serde_json::from_str(state).expect(state);
        let mut next = process("green", "");
        next.continue_from(&state, &keys(), 2000);
        assert_eq!(shares(&next), [0, 100, 0], "{state:?}");
    }
    // A field of a later program, and none of those that this one knows but the name.
    let sparse = r#"[{"name":"shop","rollout":{"step":3}}]"#;
    let state: Vec<ServiceState> = serde_json::from_str(sparse).expect(sparse);
    let mut next = process("green", "");
    next.continue_from(&state, &keys(), 2000);
    assert_eq!(
        shares(&next),
        [0, 100, 0],
        "its stable version is not in the file"
    );
}

#[test]
fn the_past_of_sessions_goes_on() {
    let mut first = process("blue", "");
    let session = first.services[0].sessions.as_mut().expect("sessions");
    session.void(2, 1500);
    let mut next = process("green", "");
    for (_, endpoint) in next.endpoints() {
        endpoint.state.lower(flag::UNPROVEN);
    }
    next.continue_from(&passed_on(&first), &keys(), 2000);
    let pasts = next.services[0]
        .sessions
        .as_ref()
        .expect("sessions")
        .pasts();
    let told: Vec<_> = pasts.iter().map(|p| (p.left_s, p.voided_s)).collect();
    // Blue lost its share now, green got one, red has had none since the first process began, and its sessions are void.
    let expected = [(Some(2000), None), (None, None), (Some(1000), Some(1500))];
    assert_eq!(told, expected);
}
