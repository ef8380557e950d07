//! Explanations where endpoints are down, drained or ejected.

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

/// The explanation of a request with the header `x-to`, where these endpoints have these flags.
fn explanation(panic: &str, to: &str, state: &[(&str, u32)]) -> Explanation {
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
    let request = DescribedRequest::new("http://any/", None, &[format!("x-to: {to}")], None);
    explain(&snapshot, &request.expect("a request"))
}

fn says(explanation: &Explanation, what: &str) {
    let why = explanation.why.join("\n");
    assert!(why.contains(what), "no {what:?} in\n{why}");
}

const ALL_OF_V1: [(&str, u32); 3] = [
    ("a:1", flag::DOWN),
    ("a:2", flag::DRAINING),
    ("a:3", flag::EJECTED),
];

#[test]
fn limits_of_clients_are_told() {
    let text = r#"
[listen.http]
bind = "127.0.0.1:8080"
client_limits = { requests = "100/s" }
[service.shop]
versions = { v1 = ["a:1"] }
client_limits = { requests = "20/s", burst = 40, by = "header:X-Key" }
[[service.shop.match]]
when = { path = "/login" }
client_limits = { requests = "5/m" }
"#;
    let spec = config::parse(text, "test.toml").expect("a valid file");
    let snapshot = Snapshot::build(1, Arc::new(spec), &Registry::new(), &Telemetry::new(1));
    let request = |url| DescribedRequest::new(url, None, &[], None).expect("a request");
    let login = explain(&snapshot, &request("http://any/login"));
    says(
        &login,
        "listener http limits each client to 100/s by ip, 100 at once",
    );
    says(
        &login,
        "service shop limits each client to 20/s by header:x-key, 40 at once",
    );
    says(
        &login,
        "rule 1 (path = \"/login\") matches and limits each client to 5/m by ip, 5 at once",
    );
    assert_eq!(login.version.as_deref(), Some("v1"), "the split goes on");
    let other = explain(&snapshot, &request("http://any/"));
    assert!(!other.why.join("").contains("rule 1"), "{:?}", other.why);
}

#[test]
fn each_endpoint_has_its_state() {
    let explanation = explanation("0%", "", &ALL_OF_V1);
    let stands: Vec<_> = explanation.candidates[0]
        .endpoints
        .iter()
        .map(|e| e.state(std::time::SystemTime::now()))
        .collect();
    assert_eq!(stands[..2], ["down", "draining"]);
    assert!(stands[2].starts_with("ejected "), "{stands:?}");
    assert_eq!(
        explanation.candidates[1].endpoints[0].state(std::time::SystemTime::now()),
        "up"
    );
    let some = self::explanation("0%", "", &[("a:1", flag::DOWN)]);
    says(&some, "v1 has 3 endpoints, 2 of them usable now");
    assert_eq!(some.candidates[0].instead, None);
    let few = self::explanation("50%", "", &[("a:1", flag::DOWN), ("a:2", flag::DOWN)]);
    says(
        &few,
        "too few are usable (panic threshold): v1 uses 3 of them",
    );
}

#[test]
fn the_version_that_takes_over_is_named() {
    let of = |explanation: &Explanation| {
        (
            explanation.version.clone(),
            explanation.candidates[0].instead.clone(),
        )
    };
    let both = |name: &str| (Some(name.to_owned()), Some(name.to_owned()));
    let b = ("b:1", flag::UNPROVEN);
    let stable = explanation("0%", "v2", &[b]);
    assert_eq!(of(&stable), both("v1"));
    says(
        &stable,
        "v2 has one endpoint, b:1, which is not usable: unproven",
    );
    says(&stable, "v2 has no usable endpoint: v1, stable, takes over");
    assert_eq!(stable.candidates[1].endpoints.len(), 3);
    let mut down = ALL_OF_V1.to_vec();
    down.push(b);
    let canary = explanation("0%", "v2", &down);
    assert_eq!(of(&canary), both("v3"));
    says(&canary, "v3, the canary with the largest share, takes over");
    down.push(("c:1", flag::DOWN));
    let fallback = explanation("0%", "v2", &down);
    assert_eq!(of(&fallback), both("old"));
    says(&fallback, "old, the fallback, takes over");
    // The exact split: one of the three versions with a share is usable.
    let dealt = explanation("0%", "", &ALL_OF_V1);
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
fn without_a_version_to_take_over_the_request_is_answered_or_tried_in_panic() {
    let mut down = ALL_OF_V1.to_vec();
    down.extend(["b:1", "c:1", "d:1"].map(|name| (name, flag::DOWN)));
    let none = explanation("0%", "v2", &down);
    assert_eq!(none.answer.as_deref(), Some("503 no-endpoint"));
    says(
        &none,
        "no other version has one: the request is answered with 503",
    );
    let panic = explanation("50%", "v2", &down);
    assert_eq!((panic.answer, panic.version.as_deref()), (None, Some("v2")));
    assert!(
        panic
            .why
            .iter()
            .any(|w| w.ends_with("panic mode tries 1 of its endpoints"))
    );
    let strict = explanation("0%", "only-v2", &[("b:1", flag::DOWN)]);
    assert_eq!(strict.answer.as_deref(), Some("503 no-endpoint"));
    assert_eq!(strict.candidates.len(), 1);
    says(&strict, "no other version may take over");
}
