//! The state machine of one name, on an injected clock.

use super::*;
use crate::upstream::resolve::record::Family;

const MINUTE: Duration = Duration::from_secs(60);

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn found(ips: &[&str]) -> Vec<ResolvedAddress> {
    let one = |ip: &&str| ResolvedAddress {
        priority: 0,
        ip: ip.parse().unwrap(),
        port: None,
        weight: 0,
        host: "app".to_owned(),
    };
    ips.iter().map(one).collect()
}

fn answer(ips: &[&str], ttl: u64) -> Result<LookupAnswer, LookupFailure> {
    Ok(LookupAnswer {
        addresses: found(ips),
        ttl: seconds(ttl),
        failed: Vec::new(),
        failure: None,
    })
}

/// An answer about IPv4 while the question about IPv6 failed.
fn partial(ips: &[&str]) -> Result<LookupAnswer, LookupFailure> {
    let mut answer = answer(ips, 60)?;
    answer.failed.push(("app".to_owned(), Family::V6));
    answer.failure = Some(LookupFailure::Timeout);
    Ok(answer)
}

fn ips(state: &NameState) -> Vec<String> {
    state.addresses().iter().map(|a| a.ip.to_string()).collect()
}

#[test]
fn the_order_of_answers_makes_no_difference() {
    let (mut state, now) = (NameState::default(), Instant::now());
    assert!(!state.is_known());
    let (change, _) = state.on_result(answer(&["10.0.0.2", "10.0.0.1", "10.0.0.2"], 60), now, 0.0);
    let added = found(&["10.0.0.1", "10.0.0.2"]);
    assert_eq!(
        change,
        NameChange::Set {
            added,
            removed: Vec::new()
        }
    );
    let (change, _) = state.on_result(answer(&["10.0.0.1", "10.0.0.2"], 60), now, 0.0);
    assert_eq!(change, NameChange::None);
    let (change, _) = state.on_result(answer(&["10.0.0.3", "10.0.0.1"], 60), now, 0.0);
    let (added, removed) = (found(&["10.0.0.3"]), found(&["10.0.0.2"]));
    assert_eq!(change, NameChange::Set { added, removed });
    assert_eq!(ips(&state), ["10.0.0.1", "10.0.0.3"]);
}

#[test]
fn the_ttl_has_a_floor_and_a_ceiling_and_names_spread() {
    let (mut state, now) = (NameState::default(), Instant::now());
    let mut pause = |ttl, chance| state.on_result(answer(&["10.0.0.1"], ttl), now, chance).1;
    assert_eq!(pause(0, 0.0), seconds(1));
    assert_eq!(pause(30, 0.0), seconds(30));
    assert_eq!(pause(86_400, 0.0), seconds(300));
    assert_eq!(pause(30, 1.0), seconds(33));
}

#[test]
fn the_last_good_set_stays_whatever_fails() {
    let (mut state, now) = (NameState::default(), Instant::now());
    state.on_result(answer(&["10.0.0.1"], 60), now, 0.0);
    let failures = [
        LookupFailure::Timeout,
        LookupFailure::Server("SERVFAIL".to_owned()),
        LookupFailure::NoRecord,
        LookupFailure::NoSuchName,
        LookupFailure::Unreachable("refused".to_owned()),
    ];
    for (n, failure) in failures.iter().cycle().take(200).enumerate() {
        let at = now + MINUTE * n as u32;
        let (change, pause) = state.on_result(Err(failure.clone()), at, 0.0);
        assert_eq!(change, NameChange::None);
        assert_eq!(
            pause,
            seconds([1, 2, 4, 8, 16].get(n).copied().unwrap_or(30))
        );
        assert_eq!(state.failure(), Some((failure, now)), "since the first");
    }
    assert_eq!(ips(&state), ["10.0.0.1"]);
    state.on_result(answer(&["10.0.0.1"], 60), now, 0.0);
    assert_eq!(state.failure(), None);
}

#[test]
fn only_five_minutes_of_nxdomain_empty_a_set() {
    let (mut state, now) = (NameState::default(), Instant::now());
    state.on_result(answer(&["10.0.0.1"], 60), now, 0.0);
    let missing = |state: &mut NameState, at: Duration| {
        state
            .on_result(Err(LookupFailure::NoSuchName), now + at, 0.0)
            .0
    };
    assert_eq!(missing(&mut state, seconds(0)), NameChange::None);
    assert_eq!(missing(&mut state, seconds(299)), NameChange::None);
    // Another answer starts the time again.
    state.on_result(Err(LookupFailure::Timeout), now + seconds(299), 0.0);
    assert_eq!(missing(&mut state, seconds(300)), NameChange::None);
    assert_eq!(missing(&mut state, seconds(599)), NameChange::None);
    let removed = found(&["10.0.0.1"]);
    assert_eq!(
        missing(&mut state, seconds(600)),
        NameChange::Emptied { removed }
    );
    assert_eq!(missing(&mut state, seconds(630)), NameChange::None, "once");
    assert!(!state.has_addresses() && state.is_known());
    let (change, _) = state.on_result(answer(&["10.0.0.1"], 60), now + seconds(640), 0.0);
    assert!(matches!(change, NameChange::Set { .. }));
}

#[test]
fn what_is_known_of_a_part_that_fails_stays() {
    let (mut state, now) = (NameState::default(), Instant::now());
    state.on_result(answer(&["10.0.0.1", "fd00::1"], 60), now, 0.0);
    let (_, pause) = state.on_result(partial(&["10.0.0.2"]), now, 0.0);
    assert_eq!(ips(&state), ["10.0.0.2", "fd00::1"]);
    assert_eq!(pause, seconds(1), "it is asked again soon");
    assert!(state.failure().is_some());
    state.on_result(answer(&["10.0.0.2"], 60), now, 0.0);
    assert_eq!(ips(&state), ["10.0.0.2"]);
}

#[test]
fn an_answer_without_any_address_changes_nothing() {
    let (mut state, now) = (NameState::default(), Instant::now());
    state.on_result(answer(&["10.0.0.1"], 60), now, 0.0);
    assert_eq!(state.on_result(partial(&[]), now, 0.0).0, NameChange::None);
    assert_eq!(
        state.on_result(answer(&[], 60), now, 0.0).0,
        NameChange::None
    );
    assert_eq!(ips(&state), ["10.0.0.1"]);
}

#[test]
fn an_inherited_set_is_used_until_an_answer_replaces_it() {
    let mut state = NameState::inherited(found(&["10.0.0.1"]).into());
    let now = Instant::now();
    assert!(state.is_known() && state.refreshed().is_none());
    state.on_result(Err(LookupFailure::Timeout), now, 0.0);
    assert_eq!(ips(&state), ["10.0.0.1"]);
    state.on_result(answer(&["10.0.0.2"], 60), now, 0.0);
    assert_eq!(ips(&state), ["10.0.0.2"]);
}
