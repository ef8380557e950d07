//! The stable gate: effective shares for a desired split, the split before, and the versions that pass their checks.

use std::sync::Arc;

use super::*;
use crate::config::policy::{HealthPolicy, Probe};
use crate::routing::Split;
use crate::snapshot::{Inputs, Keys, Previous};
use crate::telemetry::Telemetry;
use crate::upstream::Registry;
use crate::upstream::endpoint::flag;

fn service(stable: &str, split: &[(&str, u32)]) -> spec::ServiceSpec {
    let names = ["blue", "green", "red"];
    let at = |name: &str| VersionIx(names.iter().position(|n| *n == name).unwrap());
    let mut service = crate::routing::fake::service("shop", &names);
    service.stable = at(stable);
    service.split = split
        .iter()
        .map(|(v, percent)| (at(v), Share(percent * 1000)))
        .collect();
    service.policies.health = Some(HealthPolicy::new(Probe::Tcp));
    service
}

/// The state before: a stable version, and the shares of canaries in percent.
fn in_force((stable, canaries): (&str, &[(&str, u32)])) -> ServiceState {
    let rest = 100 - canaries.iter().map(|(_, s)| s).sum::<u32>();
    let shares = canaries.iter().copied().chain([(stable, rest)]);
    ServiceState {
        name: "shop".to_owned(),
        stable: stable.to_owned(),
        shares: shares.map(|(v, s)| (v.to_owned(), s * 1000)).collect(),
        ..ServiceState::default()
    }
}

/// The effective shares of blue, green and red in percent, and the versions that are awaited.
fn gate(
    desired: &spec::ServiceSpec,
    before: (&str, &[(&str, u32)]),
    passing: &[&str],
) -> ([u32; 3], Vec<String>) {
    let held = in_force(before);
    let name = |v: VersionIx| desired.versions[v].name.clone();
    let open = EffectiveSplit::desired(desired, RolloutShare::default(), &Resolutions::new());
    let effective = gated(desired, open, Some(&held), |v| {
        passing.contains(&name(v).as_str())
    });
    let names: Vec<&str> = desired.versions.iter().map(|v| &*v.name).collect();
    let split = Split::new(&names, effective.stable, &effective.split);
    let awaited = effective.awaited.into_iter().map(name).collect();
    (
        [0, 1, 2].map(|v| split.share(VersionIx(v)).0 / 1000),
        awaited,
    )
}

#[test]
fn a_new_stable_waits_for_its_first_pass() {
    let green = service("green", &[]);
    let waits = vec!["green".to_owned()];
    assert_eq!(gate(&green, ("blue", &[]), &["blue"]), ([100, 0, 0], waits));
    assert_eq!(
        gate(&green, ("blue", &[]), &["green"]),
        ([0, 100, 0], vec![])
    );
}

#[test]
fn while_stable_is_awaited_shares_may_fall_but_not_rise() {
    let before: (&str, &[(&str, u32)]) = ("blue", &[("green", 10), ("red", 20)]);
    let waits = || vec!["green".to_owned()];
    let gate = |split: &[(&str, u32)]| gate(&service("green", split), before, &["blue", "red"]);
    assert_eq!(gate(&[("red", 90)]), ([70, 10, 20], waits()));
    assert_eq!(gate(&[("red", 5)]), ([85, 10, 5], waits()));
    assert_eq!(gate(&[("blue", 50)]), ([90, 10, 0], waits()));
}

#[test]
fn a_canary_waits_only_when_its_share_rises_from_zero() {
    let desired = service("blue", &[("green", 10), ("red", 20)]);
    let gate = |before, passing: &[&str]| gate(&desired, ("blue", before), passing);
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        gate(&[], &["blue"]),
        ([100, 0, 0], names(&["green", "red"]))
    );
    assert_eq!(gate(&[], &["red"]), ([80, 0, 20], names(&["green"])));
    assert_eq!(gate(&[("green", 1)], &["red"]), ([70, 10, 20], vec![]));
}

#[test]
fn a_stable_version_that_left_the_file_holds_nothing_back() {
    let green = service("green", &[]);
    assert_eq!(gate(&green, ("gone", &[]), &[]), ([0, 100, 0], vec![]));
}

#[test]
fn nothing_waits_at_the_start_or_without_checks() {
    let mut green = service("green", &[("red", 10)]);
    let desired = EffectiveSplit::desired(&green, RolloutShare::default(), &Resolutions::new());
    let open = gated(&green, desired, None, |_| false);
    assert_eq!((open.stable, open.awaited), (VersionIx(1), vec![]));
    green.policies.health = None;
    assert_eq!(gate(&green, ("blue", &[]), &[]), ([0, 90, 10], vec![]));
}

#[test]
fn users_keep_their_version_while_a_new_stable_is_awaited() {
    // `blue` sorts before `green`, so that green's users lie at the upper end as long as the split names both.
    let before: (&str, &[(&str, u32)]) = ("red", &[("blue", 0), ("green", 10)]);
    let desired = service("blue", &[("green", 10)]);
    let open = EffectiveSplit::desired(&desired, RolloutShare::default(), &Resolutions::new());
    let effective = gated(&desired, open, Some(&in_force(before)), |_| false);
    assert_eq!(
        (effective.stable, &effective.awaited[..]),
        (VersionIx(2), &[VersionIx(0)][..])
    );
    let names = ["blue", "green", "red"];
    let was = Split::new(
        &names,
        VersionIx(2),
        &[(VersionIx(0), Share(0)), (VersionIx(1), Share(10_000))],
    );
    let is = Split::new(&names, effective.stable, &effective.split);
    assert_eq!(crate::routing::users_moved(&was, &is, Some), Share(0));
}

#[test]
fn a_snapshot_is_held_back_and_opens_when_an_endpoint_passes() {
    let (registry, telemetry) = (Registry::new(), Telemetry::new(1));
    let spec = |stable: &str| {
        let text = format!(
            "listen = \":1\"\n[service.shop]\nstable = \"{stable}\"\n[service.shop.versions]\n\
             blue = [\"127.0.0.1:1\"]\ngreen = [\"127.0.0.1:2\"]\n"
        );
        let mut spec = crate::config::parse(&text, "test.toml").expect("a valid file");
        spec.services[0].policies.health = Some(HealthPolicy::new(Probe::Tcp));
        Arc::new(spec)
    };
    let passes = |service: &spec::ServiceSpec, version: &spec::VersionSpec| {
        let found = registry.find(&service.name, &version.name, &version.endpoints[0]);
        found.is_some_and(|endpoint| endpoint.passes_checks())
    };
    let after = |running: &Snapshot| {
        let inputs = Inputs {
            generation: running.generation + 1,
            spec: &spec("green"),
            previous: Previous::Generation(running),
            rollouts: &|_| RolloutShare::default(),
            resolutions: &Resolutions::new(),
            passes: &passes,
            limit_members: 1,
            keys: &Keys::new(),
            access_log: None,
            traces: None,
            now_s: 0,
        };
        Snapshot::compile(&inputs, &registry, &telemetry)
    };
    let first = Snapshot::build(1, spec("blue"), &registry, &telemetry);
    let green = &first.services[0].versions[1].pool.members[0].endpoint.state;
    green.raise(flag::UNPROVEN);
    let second = after(&first);
    assert!(second.is_held_back() && !second.can_open());
    assert_eq!(
        [
            second.share(ServiceIx(0), VersionIx(0)).0,
            second.share(ServiceIx(0), VersionIx(1)).0
        ],
        [Share::WHOLE, 0]
    );
    assert!(second.awaited()[0].starts_with("service shop: green becomes stable once"));
    green.lower(flag::UNPROVEN);
    assert!(second.can_open());
    let third = after(&second);
    assert!(!third.is_held_back());
    assert_eq!(third.share(ServiceIx(0), VersionIx(1)).0, Share::WHOLE);
}
