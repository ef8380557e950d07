//! Every file under `config/` is what it says it is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cutover::config::policy::{DrainPolicy, Limits, Outlier, Policies, Probe, Retry, Sticky};
use cutover::config::rollout::RolloutSubject;
use cutover::config::spec::{Balance, Bind, CohortKey, ServiceSpec, Share};
use cutover::config::{self, Spec};
use cutover::index::VersionIx;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("config")
        .join(name)
}

fn load(name: &str) -> Spec {
    let loaded = config::load(example(name)).unwrap_or_else(|failure| panic!("{failure}"));
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings[0]);
    Spec::clone(&loaded.spec)
}

#[test]
fn blue_green() {
    let spec = load("blue-green.toml");
    assert_eq!(spec.listeners[0].bind, Bind::Any(8080));
    let shop = &spec.services[0];
    assert_eq!(shop.versions[shop.stable].name, "blue");
    assert!(shop.split.is_empty());
    let policies = &shop.policies;
    assert_eq!(policies.fallback, Some(shop.stable));
    assert_eq!(policies.finish_sessions, Some(Duration::from_secs(1800)));
    assert_eq!(policies.sticky, Some(Sticky::new(false)));
    let probe = &policies.health.as_ref().unwrap().probe;
    assert_eq!(*probe, Probe::Http("/ready".into()));
}

#[test]
fn canary() {
    let spec = load("canary.toml");
    let shop = &spec.services[0];
    assert_eq!(shop.split, [(VersionIx(1), Share(5_000))]);
    assert_eq!(shop.rules.len(), 4);
    assert_eq!(shop.cohort.as_ref().unwrap().by.len(), 3);
    assert_eq!(shop.versions[0].endpoints[1].weight, 2);
    assert_eq!(shop.versions[1].slow_start, Some(Duration::from_secs(30)));
    assert!(shop.policies.shield);
    assert_eq!(shop.policies.sticky, Some(Sticky::new(true)));
    assert!(shop.policies.health.is_some());
}

#[test]
fn rollout() {
    let spec = load("rollout.toml");
    let shop = &spec.services[0];
    assert_eq!(shop.rolling, Some(RolloutSubject::Version(VersionIx(1))));
    let plan = shop.rollout.as_ref().expect("a plan");
    assert_eq!((plan.steps.len(), plan.smoke.len()), (5, 1));
    assert_eq!(plan.guard.goals, [("purchase".to_owned(), 0.9)]);
    assert_eq!(shop.goals.len(), 1);
}

#[test]
fn front_door() {
    let spec = load("front-door.toml");
    assert!(spec.listeners[0].redirect_https);
    assert_eq!(spec.listeners[1].certs.len(), 2);
    assert_eq!(spec.limits.body_bytes, Some(10 << 20));
    let service =
        |name: &str| -> &ServiceSpec { spec.services.iter().find(|s| s.name == name).unwrap() };
    let total = |name: &str| service(name).timeouts.total;
    assert_eq!(total("shop"), Some(Duration::from_secs(60)));
    assert_eq!(total("assets"), None);
    let probe = |name: &str| service(name).policies.health.clone().unwrap().probe;
    assert_eq!(probe("shop"), Probe::Http("/ready".into()));
    assert_eq!(probe("assets"), Probe::Tcp);
    assert_eq!(probe("api"), Probe::Grpc(String::new()));
    assert_eq!(service("shop").policies.limits, Limits::default());
    assert_eq!(service("api").policies.limits.requests, 4096);
}

#[test]
fn resilience() {
    let spec = load("resilience.toml");
    let shop = &spec.services[0];
    assert_eq!(shop.balance, Balance::PeakEwma);
    let policies = &shop.policies;
    assert_eq!(policies.fallback, Some(VersionIx(1)));
    assert_eq!(policies.outlier, Outlier::default());
    assert_eq!(
        (policies.limits.pending, policies.limits.retries),
        (200, 50)
    );
    assert_eq!(policies.retry.per_try, Some(Duration::from_secs(2)));
    assert!(policies.retry.on.timeout);
    assert_ne!(policies.retry, Retry::default());
    assert_ne!(policies.drain, DrainPolicy::default());
}

#[test]
fn sidecar() {
    let spec = load("sidecar.toml");
    assert_eq!(spec.workers, Some(1));
    assert_eq!(spec.services[0].split, [(VersionIx(1), Share(0))]);
}

/// The reference says every default as it is: a file without these keys gives the same.
#[test]
fn reference() {
    let spec = load("reference.toml");
    let bare = config::parse(
        "listen = ':80'\n[service.shop]\nversions = { v1 = ['a:1'] }",
        "bare.toml",
    )
    .unwrap();
    let mut limits = spec.limits.clone();
    (limits.body_bytes, limits.connections) = (None, None);
    assert_eq!(limits, bare.limits);
    assert_eq!(spec.shutdown, bare.shutdown);
    assert_eq!(spec.workers, bare.workers);
    let (shop, bare_shop) = (&spec.services[0], &bare.services[0]);
    assert_eq!(shop.timeouts, bare_shop.timeouts);
    assert_eq!(shop.balance, Balance::LeastRequest);
    assert_eq!(shop.balance, bare_shop.balance);
    // What the reference turns on to show it, with its defaults.
    let mut policies = shop.policies.clone();
    assert_eq!(
        policies.health.take().map(|h| h.interval),
        Some(Duration::from_secs(2))
    );
    let mut sticky = policies.sticky.take().unwrap();
    sticky.key_file = None;
    assert_eq!(sticky, Sticky::new(true));
    (policies.fallback, policies.finish_sessions) = (None, None);
    policies.hedge = None;
    let wait = policies.wait.take().expect("a wait");
    assert_eq!(wait.pending, 10_000);
    assert_eq!(policies, Policies::default());
    assert_eq!(policies, bare_shop.policies);
    let fixed = &spec.services[1];
    assert_eq!(
        (fixed.hash_by.len(), fixed.hash_by.last()),
        (4, Some(&CohortKey::Ip))
    );
    let health = fixed.policies.health.as_ref().unwrap();
    assert_eq!((health.interval, health.fall), (Duration::from_secs(5), 3));
    assert_eq!(shop.cohort.as_ref().unwrap().salt, shop.name);
    let (https, bare_listener) = (&spec.listeners[1], &bare.listeners[0]);
    assert_eq!((https.h1, https.h2), (bare_listener.h1, bare_listener.h2));
}

/// As they stand, with addresses and paths that don't exist here; `tests/it/front_doors` drives them.
#[test]
fn migration() {
    let directory = std::fs::read_dir(example("migration")).unwrap();
    for file in directory.map(|entry| entry.unwrap().path()) {
        let text = std::fs::read_to_string(&file).unwrap();
        let name = file.display().to_string();
        let (_, warnings) = config::parse_with_warnings(&text, &name)
            .unwrap_or_else(|errors| panic!("{}", errors[0]));
        assert!(warnings.is_empty(), "{}", warnings[0]);
    }
}

#[test]
fn every_example_has_a_test() {
    let tested = include_str!("config_examples.rs");
    let directory = std::fs::read_dir(example("")).unwrap();
    for name in directory.map(|entry| entry.unwrap().file_name().into_string().unwrap()) {
        if name.ends_with(".toml") {
            assert!(tested.contains(&format!("load(\"{name}\")")), "{name}");
        }
    }
}
