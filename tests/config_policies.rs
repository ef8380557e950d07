//! What protects a service: what the file says, what `[defaults]` say, and what holds where neither says anything.

use std::time::Duration;

use cutover::config;
use cutover::config::policy::{HealthPolicy, Policies, Probe, RetryOn, Sticky};
use cutover::config::spec::{Balance, CohortKey, ServiceSpec};
use cutover::index::VersionIx;
use cutover::telemetry::names;

#[path = "support/configuration.rs"]
mod configuration;

use configuration::{parsed, shop};

const SECOND: Duration = Duration::from_secs(1);

/// A service with two versions and these lines, after these defaults.
#[track_caller]
fn service(defaults: &str, lines: &str) -> ServiceSpec {
    parsed(&shop(defaults, lines)).services.remove(0)
}

#[track_caller]
fn policies(defaults: &str, lines: &str) -> Policies {
    service(defaults, lines).policies
}

#[test]
fn a_file_that_says_nothing_gets_the_defaults() {
    assert_eq!(policies("", ""), Policies::default());
}

#[test]
fn forms_of_checks() {
    let probe = |check: &str| policies("", &format!("check = '{check}'")).health;
    let with = |probe| Some(HealthPolicy::new(probe));
    assert_eq!(
        probe("/ready?deep=1"),
        with(Probe::Http("/ready?deep=1".into()))
    );
    assert_eq!(probe("tcp"), with(Probe::Tcp));
    assert_eq!(probe("grpc"), with(Probe::Grpc(String::new())));
    assert_eq!(
        probe("grpc:shop.v1.Cart"),
        with(Probe::Grpc("shop.v1.Cart".into()))
    );
    let long =
        "[service.shop.health]\npath = 'tcp'\ninterval = '5s'\ntimeout = '2s'\nrise = 1\nfall = 10";
    let expected = HealthPolicy {
        probe: Probe::Tcp,
        interval: 5 * SECOND,
        timeout: 2 * SECOND,
        rise: 1,
        fall: 10,
    };
    assert_eq!(policies("", long).health, Some(expected));
}

#[test]
fn a_service_checks_what_it_says_as_often_as_the_defaults_say() {
    let defaults = "defaults.health = { interval = '7s', fall = 9 }";
    assert_eq!(policies(defaults, "").health, None);
    let health = policies(defaults, "check = '/up'\nhealth.fall = 4")
        .health
        .unwrap();
    assert_eq!(health.probe, Probe::Http("/up".into()));
    assert_eq!(
        (health.interval, health.fall, health.rise),
        (7 * SECOND, 4, 2)
    );
}

#[test]
fn defaults_turn_checks_on_and_a_service_turns_them_off() {
    let defaults = "defaults.health.path = '/ready'";
    let probe = |lines| policies(defaults, lines).health.map(|h| h.probe);
    assert_eq!(probe(""), Some(Probe::Http("/ready".into())));
    assert_eq!(probe("health.rise = 1"), Some(Probe::Http("/ready".into())));
    assert_eq!(probe("check = 'tcp'"), Some(Probe::Tcp));
    assert_eq!(
        probe("health.path = 'grpc'"),
        Some(Probe::Grpc(String::new()))
    );
    assert_eq!(probe("check = false"), None);
}

#[test]
fn a_service_overrides_single_keys_of_outlier() {
    let defaults = "[defaults.outlier]\nconsecutive_5xx = 0\nconsecutive_gateway = 7\nsuccess_rate_stdev = 3\n\
                    interval = '1s'\neject = '2s'\neject_max = '20s'\nmax_ejected = '33.3%'\npanic = '0%'";
    let outlier = policies(
        defaults,
        "outlier = { success_rate_stdev = 2.5, eject = '3s' }",
    )
    .outlier;
    assert_eq!(
        (outlier.consecutive_5xx, outlier.consecutive_gateway),
        (0, 7)
    );
    assert_eq!(outlier.success_rate_stdev, 2.5);
    assert_eq!(
        (outlier.interval, outlier.eject, outlier.eject_max),
        (SECOND, 3 * SECOND, 20 * SECOND)
    );
    assert_eq!((outlier.max_ejected, outlier.panic), (333, 0));
}

#[test]
fn a_service_overrides_single_keys_of_limits_and_drain() {
    let defaults = "defaults.limits = { connections = 20_000, pending = 1, retries = 9, requests_per_connection = 100 }\n\
                    defaults.drain = { requests = '1s', streams = '2s' }";
    let found = policies(
        defaults,
        "limits = { pending = 0, requests = 5 }\ndrain.streams = '0s'",
    );
    let limits = found.limits;
    assert_eq!(
        (limits.connections, limits.pending, limits.requests),
        (20_000, 0, 5)
    );
    assert_eq!((limits.retries, limits.requests_per_connection), (9, 100));
    assert_eq!(
        (found.drain.requests, found.drain.streams),
        (SECOND, Duration::ZERO)
    );
}

#[test]
fn a_service_overrides_single_keys_of_retry() {
    let defaults = "[defaults.retry]\ntries = 10\non = ['503', 'timeout', '500']\nmethods = 'all'\nbudget = '12.5%'\n\
                    per_try = '2s'\nbody_bytes = '1KiB'";
    let retry = policies(defaults, "retry.tries = 1").retry;
    assert_eq!(
        (retry.tries, retry.all_methods, retry.budget),
        (1, true, 125)
    );
    assert_eq!((retry.per_try, retry.body_bytes), (Some(2 * SECOND), 1024));
    let expected = RetryOn {
        connect: false,
        reset: false,
        timeout: true,
        statuses: vec![500, 503],
    };
    assert_eq!(retry.on, expected);
    let retry = policies(
        defaults,
        "retry = { on = [], per_try = 'none', methods = 'idempotent' }",
    )
    .retry;
    let never = RetryOn {
        timeout: false,
        statuses: Vec::new(),
        ..expected
    };
    assert_eq!(retry.on, never);
    assert_eq!((retry.per_try, retry.all_methods), (None, false));
    let on = policies("", "retry.on = ['connect', 'reset', '502', '503', '504']")
        .retry
        .on;
    assert_eq!(on, Policies::default().retry.on);
}

#[test]
fn sessions_that_stay() {
    let sticky = |lines| policies("", lines).sticky;
    assert_eq!(sticky("sticky = {}"), Some(Sticky::new(true)));
    let all = "[service.shop.sticky]\ncookie = 'sid'\nto = 'version'\nidle = '5m'\nmax_life = '1h'\nkey_file = '/k'";
    let expected = Sticky {
        cookie: "sid".into(),
        to_endpoint: false,
        idle: 300 * SECOND,
        max_life: 3600 * SECOND,
        key_file: Some("/k".into()),
    };
    assert_eq!(sticky(all), Some(expected.clone()));
    let defaults =
        "defaults.sticky = { cookie = 'sid', to = 'version', idle = '5m', max_life = '1h' }";
    let found = policies(defaults, "sticky.key_file = '/k'").sticky;
    assert_eq!(found, Some(expected));
    assert_eq!(policies(defaults, "").sticky.unwrap().cookie, "sid");
    assert_eq!(policies(defaults, "sticky = false").sticky, None);
}

#[test]
fn finishing_sessions_needs_no_word_about_cookies() {
    let found = policies("", "finish_sessions = '30m'");
    assert_eq!(found.finish_sessions, Some(1800 * SECOND));
    assert_eq!(found.sticky, Some(Sticky::new(false)));
    let found = policies("", "finish_sessions = '30m'\nsticky = { to = 'endpoint' }");
    assert_eq!(found.sticky, Some(Sticky::new(true)));
    let found = policies("defaults.sticky.cookie = 'sid'", "finish_sessions = '30m'");
    assert_eq!(found.sticky.unwrap().cookie, "sid");
}

#[test]
fn the_rest_of_a_service() {
    let found = policies("", "shield = true\nfallback = 'v2'");
    assert!(found.shield);
    assert_eq!(found.fallback, Some(VersionIx(1)));
    let slow =
        "listen = ':80'\nservice.s.versions.v1 = { endpoints = ['a:1'], slow_start = '30s' }\n";
    let service = &parsed(slow).services[0];
    assert_eq!(service.versions[0].slow_start, Some(30 * SECOND));
}

#[test]
fn ways_to_balance() {
    let ways = [
        ("least_request", Balance::LeastRequest),
        ("round_robin", Balance::RoundRobin),
        ("peak_ewma", Balance::PeakEwma),
        ("hash", Balance::Hash),
        ("random", Balance::Random),
    ];
    for (word, balance) in ways {
        let service = service("", &format!("balance = '{word}'"));
        assert_eq!(service.balance, balance);
        assert_eq!(service.hash_by, [CohortKey::Ip]);
    }
    let keys = |by: &str| service("", &format!("balance = 'hash'\nhash_by = {by}")).hash_by;
    assert_eq!(keys("'query:q'"), [CohortKey::Query("q".into())]);
    assert_eq!(
        keys("['cookie:uid', 'header:X', 'ip']"),
        [
            CohortKey::Cookie("uid".into()),
            CohortKey::Header("x".into()),
            CohortKey::Ip
        ]
    );
}

/// Labels that telemetry would have to drop are refused.
#[test]
fn labels_of_our_own_metrics_are_refused() {
    for label in names::RESERVED_LABELS {
        let text = shop("", &format!("labels = {{ {label} = 'x' }}"));
        let errors = config::parse(&text, "f").expect_err("refused");
        let messages: Vec<&str> = errors.iter().map(config::Diagnostic::message).collect();
        assert_eq!(
            messages,
            [format!("`{label}` can't be the name of a label")]
        );
    }
}
