//! Who takes a request whose version is not well.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::config;
use crate::telemetry::Telemetry;
use crate::upstream::Registry;
use crate::upstream::endpoint::flag;

const FILE: &str = r#"
listen = "127.0.0.1:8080"
[service.shop]
stable   = "v1"
split    = { v2 = "5%", v3 = "10%" }
fallback = "old"
outlier  = { panic = "$PANIC" }
[service.shop.health]
path = "/"
[service.shop.versions]
v1  = ["a:1", "a:2", "a:3"]
v2  = ["b:1"]
v3  = ["c:1"]
old = ["d:1"]
[[service.shop.match]]
when = { header.x-to = "v2" }
to   = "v2"
[[service.shop.match]]
when   = { header.x-to = "only-v2" }
to     = "v2"
strict = true
"#;

/// The explanation of a request with `x-to`, where these endpoints have these flags.
fn told(panic: &str, to: &str, state: &[(&str, u32)]) -> Explanation {
    let text = FILE.replace("$PANIC", panic);
    let spec = config::parse(&text, "test.toml").expect("a valid file");
    let snapshot = Snapshot::build(1, Arc::new(spec), &Registry::new(), &Telemetry::new(1));
    let versions = &snapshot.services[0].versions;
    for member in versions.iter().flat_map(|v| &v.pool.members) {
        for (_, flags) in state
            .iter()
            .filter(|(name, _)| *name == &*member.endpoint.name)
        {
            member.endpoint.state.raise(*flags);
            if flags & flag::EJECTED != 0 {
                let until = Instant::now() + Duration::from_secs(3000);
                member.endpoint.state.set_ejected_until(Some(until));
            }
        }
    }
    let asked = DescribedRequest::new("http://any/", None, &[format!("x-to: {to}")], None);
    explain(&snapshot, &asked.expect("a request"))
}

fn says(told: &Explanation, what: &str) {
    let why = told.why.join("\n");
    assert!(why.contains(what), "no {what:?} in\n{why}");
}

const ALL_OF_V1: [(&str, u32); 3] = [
    ("a:1", flag::DOWN),
    ("a:2", flag::DRAINING),
    ("a:3", flag::EJECTED),
];

#[test]
fn each_endpoint_says_how_it_stands() {
    let told = told("0%", "", &ALL_OF_V1);
    let stands: Vec<_> = told.candidates[0]
        .endpoints
        .iter()
        .map(|e| e.standing(std::time::SystemTime::now()))
        .collect();
    assert_eq!(stands[..2], ["down", "draining"]);
    assert!(stands[2].starts_with("ejected "), "{stands:?}");
    assert_eq!(
        told.candidates[1].endpoints[0].standing(std::time::SystemTime::now()),
        "up"
    );
    let some = self::told("0%", "", &[("a:1", flag::DOWN)]);
    says(&some, "v1 has 3 endpoints, 2 of them usable now");
    assert_eq!(some.candidates[0].instead, None);
    let few = self::told("50%", "", &[("a:1", flag::DOWN), ("a:2", flag::DOWN)]);
    says(&few, "so few of them are well that v1 uses 3 of them");
}

#[test]
fn who_takes_over_is_named() {
    let of = |told: &Explanation| (told.version.clone(), told.candidates[0].instead.clone());
    let both = |name: &str| (Some(name.to_owned()), Some(name.to_owned()));
    let b = ("b:1", flag::UNPROVEN);
    let stable = told("0%", "v2", &[b]);
    assert_eq!(of(&stable), both("v1"));
    says(
        &stable,
        "v2 has one endpoint, b:1, and cannot use it: unproven",
    );
    says(&stable, "v2 has no usable endpoint: v1, stable, takes over");
    assert_eq!(stable.candidates[1].endpoints.len(), 3);
    let mut down = ALL_OF_V1.to_vec();
    down.push(b);
    let canary = told("0%", "v2", &down);
    assert_eq!(of(&canary), both("v3"));
    says(&canary, "v3, the canary with the largest share, takes over");
    down.push(("c:1", flag::DOWN));
    let fallback = told("0%", "v2", &down);
    assert_eq!(of(&fallback), both("old"));
    says(&fallback, "old, the fallback, takes over");
    // The split: of three that have a share one is well.
    let dealt = told("0%", "", &ALL_OF_V1);
    let instead: Vec<_> = dealt
        .candidates
        .iter()
        .map(|c| c.instead.as_deref())
        .collect();
    assert_eq!(
        (dealt.version, &instead[..]),
        (None, &[Some("v3"), None, None][..])
    );
}

#[test]
fn nobody_takes_over_where_nobody_is_well_or_may() {
    let mut down = ALL_OF_V1.to_vec();
    down.extend(["b:1", "c:1", "d:1"].map(|name| (name, flag::DOWN)));
    let none = told("0%", "v2", &down);
    assert_eq!(none.answer.as_deref(), Some("503 no-endpoint"));
    says(
        &none,
        "no other version is well: such a request is answered 503",
    );
    let panic = told("50%", "v2", &down);
    assert_eq!((panic.answer, panic.version.as_deref()), (None, Some("v2")));
    assert!(
        panic
            .why
            .iter()
            .any(|w| w.ends_with("1 of its endpoints are tried all the same"))
    );
    let strict = told("0%", "only-v2", &[("b:1", flag::DOWN)]);
    assert_eq!(strict.answer.as_deref(), Some("503 no-endpoint"));
    assert_eq!(strict.candidates.len(), 1);
    says(&strict, "no other version may take over here");
}
