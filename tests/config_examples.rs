//! Every file under `config/` is what it says it is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cutover::config::spec::{Balance, Bind, Share};
use cutover::config::{self, Spec};

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
}

#[test]
fn canary() {
    let spec = load("canary.toml");
    let shop = &spec.services[0];
    assert_eq!(shop.split, [(1, Share(5_000))]);
    assert_eq!(shop.rules.len(), 4);
    assert_eq!(shop.cohort.as_ref().unwrap().by.len(), 3);
    assert_eq!(shop.versions[0].endpoints[1].weight, 2);
}

#[test]
fn front_door() {
    let spec = load("front-door.toml");
    assert!(spec.listeners[0].redirect_https);
    assert_eq!(spec.listeners[1].certs.len(), 2);
    assert_eq!(spec.limits.body_bytes, Some(10 << 20));
    let total = |name: &str| {
        let service = spec.services.iter().find(|s| s.name == name).unwrap();
        service.timeouts.total
    };
    assert_eq!(total("shop"), Some(Duration::from_secs(60)));
    assert_eq!(total("assets"), None);
}

#[test]
fn sidecar() {
    let spec = load("sidecar.toml");
    assert_eq!(spec.workers, Some(1));
    assert_eq!(spec.services[0].split, [(1, Share(0))]);
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
    assert_eq!(shop.cohort.as_ref().unwrap().salt, shop.name);
    let (https, bare_listener) = (&spec.listeners[1], &bare.listeners[0]);
    assert_eq!((https.h1, https.h2), (bare_listener.h1, bare_listener.h2));
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
