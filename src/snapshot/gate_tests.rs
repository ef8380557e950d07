//! The gate by table: what the file wants, what was, who passes.

use std::sync::Arc;

use super::*;
use crate::config::policy::{HealthPolicy, Probe};
use crate::telemetry::Telemetry;
use crate::upstream::Registry;

fn service(stable: &str, split: &[(&str, u32)]) -> spec::ServiceSpec {
    let names = ["blue", "green", "red"];
    let at = |name: &str| names.iter().position(|n| *n == name).unwrap();
    let mut service = crate::routing::fake::service("shop", &names);
    service.stable = at(stable);
    service.split = split
        .iter()
        .map(|(v, percent)| (at(v), Share(percent * 1000)))
        .collect();
    service.policies.health = Some(HealthPolicy::new(Probe::Tcp));
    service
}

/// Effective shares of blue, green, red in percent, and who is waited for.
fn gate(
    desired: &spec::ServiceSpec,
    before: (&str, &[(&str, u32)]),
    passing: &[&str],
) -> ([u32; 3], Vec<String>) {
    let share = |name: &str| {
        let canaries: u32 = before.1.iter().map(|(_, s)| s).sum();
        let canary = before.1.iter().find(|(v, _)| *v == name);
        let percent = match canary {
            Some((_, percent)) => *percent,
            None if name == before.0 => 100 - canaries,
            None => 0,
        };
        Share(percent * 1000)
    };
    let held = Before {
        stable: before.0,
        share: &share,
        named: &|name| before.1.iter().any(|(v, _)| *v == name),
    };
    let name = |v: usize| desired.versions[v].name.clone();
    let effective = of(desired, Some(held), |v| passing.contains(&name(v).as_str()));
    let names: Vec<&str> = desired.versions.iter().map(|v| &*v.name).collect();
    let split = Split::new(&names, effective.stable, &effective.split);
    let awaited = effective.awaited.into_iter().map(name).collect();
    ([0, 1, 2].map(|v| split.share(v).0 / 1000), awaited)
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
fn a_canary_waits_only_when_it_rises_from_nothing() {
    let wish = service("blue", &[("green", 10), ("red", 20)]);
    let gate = |before, passing: &[&str]| gate(&wish, ("blue", before), passing);
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        gate(&[], &["blue"]),
        ([100, 0, 0], names(&["green", "red"]))
    );
    assert_eq!(gate(&[], &["red"]), ([80, 0, 20], names(&["green"])));
    assert_eq!(gate(&[("green", 1)], &["red"]), ([70, 10, 20], vec![]));
}

#[test]
fn what_left_the_file_is_not_waited_for() {
    let green = service("green", &[]);
    assert_eq!(gate(&green, ("gone", &[]), &[]), ([0, 100, 0], vec![]));
}

#[test]
fn nothing_waits_at_the_start_or_without_checks() {
    let mut green = service("green", &[("red", 10)]);
    let open = of(&green, None, |_| false);
    assert_eq!((open.stable, open.awaited), (1, vec![]));
    green.policies.health = None;
    assert_eq!(gate(&green, ("blue", &[]), &[]), ([0, 90, 10], vec![]));
}

#[test]
fn nobody_moves_while_a_new_stable_is_awaited() {
    // `blue` sorts before `green`, so that green's users lie at the upper end as long as the split names both.
    let before: (&str, &[(&str, u32)]) = ("red", &[("blue", 0), ("green", 10)]);
    let wish = service("blue", &[("green", 10)]);
    let share = |name: &str| {
        Share(
            before
                .1
                .iter()
                .find(|(v, _)| *v == name)
                .map_or(90, |(_, s)| *s)
                * 1000,
        )
    };
    let held = Before {
        stable: before.0,
        share: &share,
        named: &|name| before.1.iter().any(|(v, _)| *v == name),
    };
    let effective = of(&wish, Some(held), |_| false);
    assert_eq!((effective.stable, &effective.awaited[..]), (2, &[0][..]));
    let names = ["blue", "green", "red"];
    let was = Split::new(&names, 2, &[(0, Share(0)), (1, Share(10_000))]);
    let is = Split::new(&names, effective.stable, &effective.split);
    assert_eq!(crate::routing::users_moved(&was, &is, Some), Share(0));
}

#[test]
fn a_snapshot_is_held_back_and_opens_when_an_endpoint_passes() {
    let (registry, telemetry) = (Registry::new(), Telemetry::new(1));
    let build = |generation, stable: &str| {
        let text = format!(
            "listen = \":1\"\n[service.shop]\nstable = \"{stable}\"\n[service.shop.versions]\n\
             blue = [\"127.0.0.1:1\"]\ngreen = [\"127.0.0.1:2\"]\n"
        );
        let mut spec = crate::config::parse(&text, "test.toml").expect("a valid file");
        spec.services[0].policies.health = Some(HealthPolicy::new(Probe::Tcp));
        Snapshot::build(generation, Arc::new(spec), &registry, &telemetry)
    };
    let first = build(1, "blue");
    let green = &first.services[0].versions[1].pool.members[0].endpoint.state;
    green.raise(flag::UNPROVEN);
    let mut second = build(2, "green");
    assert!(second.hold_back(&first) && !second.can_open());
    assert_eq!(
        [second.share(0, 0).0, second.share(0, 1).0],
        [Share::WHOLE, 0]
    );
    assert!(second.awaited()[0].starts_with("service shop: green becomes stable once"));
    green.lower(flag::UNPROVEN);
    assert!(second.can_open());
    let mut third = build(3, "green");
    assert!(!third.hold_back(&second) && !third.is_held_back());
    assert_eq!(third.share(0, 1).0, Share::WHOLE);
}
