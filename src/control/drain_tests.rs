use std::sync::Arc;

use super::*;
use crate::config;
use crate::index::{EndpointIx, VersionIx};
use crate::telemetry::Telemetry;
use crate::upstream::Registry;

/// A service `shop` with two endpoints of v1 and one each of v2 and v3, and with more keys.
fn shop(keys: &str) -> Snapshot {
    let file = format!(
        "listen = \"127.0.0.1:80\"\n[service.shop]\n{keys}\nversions.v1 = [\"a:1\", \"a:2\"]\n\
         versions.v2 = [\"b:1\"]\nversions.v3 = [\"c:1\"]\n"
    );
    let spec = config::parse(&file, "test.toml").unwrap();
    Snapshot::build(1, Arc::new(spec), &Registry::new(), &Telemetry::new(1))
}

fn version(name: &str) -> DrainRequest {
    DrainRequest {
        version: Some(name.to_owned()),
        ..DrainRequest::default()
    }
}

fn endpoint(name: &str) -> DrainRequest {
    DrainRequest {
        endpoint: Some(name.to_owned()),
        ..DrainRequest::default()
    }
}

fn forced(request: DrainRequest) -> DrainRequest {
    DrainRequest {
        force: true,
        ..request
    }
}

fn flags(
    snapshot: &Snapshot,
    version: VersionIx,
    member: EndpointIx,
) -> &crate::upstream::endpoint::EndpointState {
    &snapshot.services[0].versions[version].pool.members[member]
        .endpoint
        .state
}

fn refused(snapshot: &Snapshot, request: &DrainRequest) -> String {
    match drain(snapshot, "shop", request) {
        Err(DrainRefused::Last(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_last_version_that_answers_is_drained_by_force_only() {
    let shop = shop("stable = \"v1\"");
    let why = refused(&shop, &version("v1"));
    assert!(
        why.contains("draining v1 would leave nothing of shop"),
        "{why}"
    );
    assert!(why.contains("not the fallback: v2, v3)"), "{why}");
    assert_eq!(
        flags(&shop, VersionIx(0), EndpointIx(0)).flags(),
        0,
        "nothing has changed"
    );
    assert!(drain(&shop, "shop", &forced(version("v1"))).is_ok());
    assert_eq!(
        flags(&shop, VersionIx(0), EndpointIx(1)).flags(),
        flag::DRAINING
    );
    // Repeated, as by a waiting command: nothing answers already, so the drain makes no difference.
    assert!(drain(&shop, "shop", &version("v1")).is_ok());
}

#[test]
fn a_service_without_a_version_is_drained_by_force_only() {
    let shop = shop("stable = \"v1\"\nsplit = { v2 = \"50%\" }");
    assert!(refused(&shop, &DrainRequest::default()).contains("every version of shop"));
    assert!(drain(&shop, "shop", &forced(DrainRequest::default())).is_ok());
    let undo = DrainRequest {
        undo: true,
        ..DrainRequest::default()
    };
    let undone = drain(&shop, "shop", &undo).unwrap();
    assert_eq!((undone.endpoints.len(), undone.draining), (4, false));
    assert_eq!(flags(&shop, VersionIx(2), EndpointIx(0)).flags(), 0);
}

#[test]
fn stable_may_be_drained_where_another_version_takes_over() {
    let canary = shop("stable = \"v1\"\nsplit = { v2 = \"1%\" }");
    assert!(drain(&canary, "shop", &version("v1")).is_ok());
    assert!(
        refused(&canary, &version("v2")).contains("v2"),
        "v2 is the last one now"
    );
    let fallback = shop("stable = \"v1\"\nfallback = \"v3\"");
    flags(&fallback, VersionIx(2), EndpointIx(0)).raise(flag::DOWN);
    assert!(
        refused(&fallback, &version("v1")).contains("v1"),
        "the fallback is down"
    );
    flags(&fallback, VersionIx(2), EndpointIx(0)).lower(flag::DOWN);
    assert!(drain(&fallback, "shop", &version("v1")).is_ok());
}

#[test]
fn an_idle_version_is_drained_at_any_time() {
    let shop = shop("stable = \"v1\"");
    assert!(drain(&shop, "shop", &version("v2")).is_ok());
}

#[test]
fn the_last_endpoint_counts_as_the_version_does() {
    let shop = shop("stable = \"v1\"");
    assert!(drain(&shop, "shop", &endpoint("a:1")).is_ok());
    assert!(refused(&shop, &endpoint("a:2")).contains("endpoint a:2"));
    let down = self::shop("stable = \"v1\"");
    flags(&down, VersionIx(0), EndpointIx(1)).raise(flag::DOWN);
    assert!(refused(&down, &endpoint("a:1")).contains("endpoint a:1"));
    assert!(
        drain(&down, "shop", &endpoint("a:2")).is_ok(),
        "it answers nothing"
    );
}

#[test]
fn in_panic_the_last_undrained_endpoint_counts() {
    let shop = shop("stable = \"v1\"");
    flags(&shop, VersionIx(0), EndpointIx(0)).raise(flag::DOWN);
    flags(&shop, VersionIx(0), EndpointIx(1)).raise(flag::DOWN);
    assert!(drain(&shop, "shop", &endpoint("a:1")).is_ok());
    assert!(refused(&shop, &endpoint("a:2")).contains("a:2"));
}

#[test]
fn unknown_names_are_refused() {
    let shop = shop("stable = \"v1\"");
    for request in [version("v9"), endpoint("x:1")] {
        let refused = drain(&shop, "shop", &request).unwrap_err();
        assert!(matches!(refused, DrainRefused::Unknown(_)), "{refused:?}");
    }
    let refused = drain(&shop, "nope", &DrainRequest::default()).unwrap_err();
    assert_eq!(
        refused,
        DrainRefused::Unknown("there is no service `nope`".into())
    );
}
