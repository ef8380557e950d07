use std::sync::Arc;

use super::*;
use crate::config;
use crate::snapshot::fixtures::compiled;
use crate::snapshot::{Keys, Previous};
use crate::telemetry::Telemetry;
use crate::upstream::Registry;

fn snapshot(generation: u64, text: &str) -> Snapshot {
    let spec = config::parse(text, "test.toml").unwrap();
    Snapshot::build(
        generation,
        Arc::new(spec),
        &Registry::new(),
        &Telemetry::new(1),
    )
}

const HEAD: &str = "listen = \":80\"\n";

fn shop(keys: &str, versions: &str) -> String {
    format!("{HEAD}[service.shop]\nstable = \"v1\"\n{keys}\n[service.shop.versions]\n{versions}\n")
}

/// The logged lines, each as the fields that are set, as `name=value`.
fn logged(old: &str, new: &str) -> Vec<String> {
    changes(&snapshot(1, old), &snapshot(2, new))
        .iter()
        .map(fields)
        .collect()
}

fn fields(change: &Change) -> String {
    let change = change.clone();
    let all = [
        ("service", change.service),
        ("version", change.version),
        ("listener", change.listener),
        ("change", change.change.map(str::to_owned)),
        ("stable_before", change.stable_before),
        ("stable", change.stable),
        ("share_before", change.share_before),
        ("share", change.share),
        ("effective_before", change.effective_before),
        ("effective", change.effective),
        ("endpoints_added", change.endpoints_added),
        ("endpoints_removed", change.endpoints_removed),
        ("keys", change.keys),
    ];
    let set = all
        .iter()
        .filter_map(|(n, v)| Some(format!("{n}={}", v.as_ref()?)));
    set.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_shift_is_logged_by_version_and_share() {
    let versions = "v1 = [\"a:1\"]\nv2 = [\"b:1\"]";
    let (old, new) = (
        shop("split = { v2 = \"5%\" }", versions),
        shop("split = { v2 = \"25%\" }", versions),
    );
    assert_eq!(
        logged(&old, &new),
        [
            "service=shop version=v1 share_before=95% share=75%",
            "service=shop version=v2 share_before=5% share=25%",
        ]
    );
    assert_eq!(logged(&old, &(old.clone() + "# a comment\n")), [""; 0]);
}

#[test]
fn endpoints_keys_services_and_listeners_are_logged() {
    let old = shop(
        "hosts = [\"a.test\"]",
        "v1 = [\"a:1\", \"a:2\"]\nv3 = [\"c:1\"]",
    );
    let new = format!(
        "{}[service.api]\nhosts = [\"api.test\"]\nversions.v1 = [\"d:1\"]\n[limits]\nheaders = 50\n",
        shop(
            "hosts = [\"b.test\"]",
            "v1 = [\"a:2\", \"a:3 weight=2\"]\nv2 = [\"b:1\"]"
        )
        .replace(HEAD, "[listen.web]\nbind = \":81\"\n")
    );
    assert_eq!(
        logged(&old, &new),
        [
            "keys=limits",
            "listener=web change=added",
            "listener=default change=removed",
            "service=shop keys=hosts",
            "service=shop version=v1 endpoints_added=http://a:3 weight=2 endpoints_removed=http://a:1",
            "service=shop version=v2 change=added endpoints_added=http://b:1",
            "service=shop version=v3 change=removed",
            "service=api change=added",
            "service=api version=v1 change=added share_before=0% share=100% endpoints_added=http://d:1",
        ]
        .map(|line| line.replace("http://", &scheme()))
    );
    assert!(logged(&new, &old).contains(&"service=api change=removed".to_owned()));
}

/// The scheme with which endpoints are shown.
fn scheme() -> String {
    let spec = config::parse(&shop("", "v1 = [\"a:1\"]"), "test.toml").unwrap();
    let shown = view::endpoint(&spec.services[0].versions[0].endpoints[0]);
    shown.strip_suffix("a:1").expect("the address").to_owned()
}

#[test]
fn a_share_that_the_gate_holds_back_is_logged_when_it_takes_effect() {
    let text = |stable: &str| {
        format!(
            "{HEAD}[service.shop]\nstable = \"{stable}\"\ncheck = \"/\"\nversions.v1 = [\"a:1\"]\nversions.v2 = [\"b:1\"]\n"
        )
    };
    let old = snapshot(1, &text("v1"));
    let spec = Arc::new(config::parse(&text("v2"), "test.toml").expect("a valid file"));
    let previous = Previous::Generation(&old);
    let held = compiled(&spec, previous, false, (&Keys::new(), 0));
    let lines: Vec<_> = changes(&old, &held).iter().map(fields).collect();
    assert_eq!(
        lines,
        [
            "service=shop stable_before=v1 stable=v2",
            "service=shop version=v1 share_before=100% share=0%",
            "service=shop version=v2 share_before=0% share=100%",
        ]
    );
    let open = snapshot(3, &text("v2"));
    let lines: Vec<_> = changes(&held, &open).iter().map(fields).collect();
    assert_eq!(
        lines,
        [
            "service=shop version=v1 effective_before=100% effective=0%",
            "service=shop version=v2 effective_before=0% effective=100%",
        ]
    );
}

#[test]
fn changes_are_described_in_one_line_each() {
    let words = |old: &str, new: &str| -> Vec<String> {
        let changes = changes(&snapshot(1, old), &snapshot(2, new));
        changes.iter().map(Change::words).collect()
    };
    let versions = "v1 = [\"a:1\"]\nv2 = [\"b:1\", \"b:2\"]";
    let before = shop("split = { v2 = \"5%\" }", versions);
    let after = before
        .replace("5%", "25%")
        .replace("b:1\", \"b:2", "b:2\", \"b:3\", \"b:4")
        .replace("listen = \":80\"", "listen.other.bind = \":80\"")
        .replace("stable = \"v1\"\n", "stable = \"v1\"\nshield = true\n");
    let expected = [
        "listener other added",
        "listener default removed",
        "shop: shield changed",
        "shop: v1 95% -> 75%",
        "shop: v2 5% -> 25%, +b:3, +b:4, -b:1",
    ];
    assert_eq!(words(&before, &after), expected);
    let swapped = shop("", versions).replace("stable = \"v1\"", "stable = \"v2\"");
    let expected = [
        "shop: stable v1 -> v2",
        "shop: v1 100% -> 0%",
        "shop: v2 0% -> 100%",
    ];
    assert_eq!(words(&shop("", versions), &swapped), expected);
    let fewer = shop("", "v1 = [\"a:1\"]");
    assert_eq!(words(&shop("", versions), &fewer), ["shop: v2 removed"]);
    let none = format!("{HEAD}[service.api]\nversions = {{ a = [\"c:1\"] }}\n");
    let all = words(&fewer, &none);
    assert_eq!(all[0], "api: added");
    assert_eq!(all[1], "api: a added 0% -> 100%, +c:1");
    assert_eq!(all[2], "shop: removed");
}
