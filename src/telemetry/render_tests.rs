use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::*;
use crate::http1::Method;
use crate::index::RuleIx;
use crate::telemetry::WorkerId;
use crate::telemetry::record::{
    EjectionOutcome, EjectionReason, Limit, Reason, RetryReason, RollbackReason,
};
use crate::telemetry::registry::{Ejection, Rollback};

fn scrape(services: &[(&str, &[&str])]) -> Scrape {
    let version = |name: &&str| ScrapeVersion {
        name: (*name).to_owned(),
        ratio: 0.25,
        desired_ratio: 0.5,
        endpoints: vec![("10.0.0.1:80".into(), true), ("10.0.0.2:80".into(), false)],
        awaited: true,
    };
    let service = |(name, versions): &(&str, &[&str])| ScrapeService {
        rollout: Some(ScrapeRollout {
            step: 2,
            states: vec![("step", true), ("held", false)],
            evidence: vec![("errors x1.5".to_owned(), 0.5)],
            fleet: Some(ScrapeShared {
                is_driver: true,
                term: 3,
                takes_part: true,
                lag_s: 1.5,
            }),
        }),
        name: (*name).to_owned(),
        labels: Vec::new(),
        versions: versions.iter().map(version).collect(),
    };
    Scrape {
        services: services.iter().map(service).collect(),
        listeners: vec!["http".into()],
        generation: 7,
        last_reload_successful: true,
        last_reload_success: Some(UNIX_EPOCH + Duration::from_secs(1_700_000_000)),
        certificates: vec![
            certificate(&["a.test", "b.test"], 2_000_000_000, true),
            certificate(&["b.test"], 1_900_000_000, false),
        ],
        upstream_certificates: vec![ScrapeUpstreamCertificate {
            service: "shop".into(),
            version: "v1".into(),
            expiry: Some(1_900_000_000),
            last_reload_successful: false,
        }],
        names: vec![("app.internal".into(), 3, false)],
        fleet: Some(ScrapeFleet {
            is_connected: true,
            members: 3,
            disagreements: 2,
            config: Some((false, 41)),
        }),
    }
}

fn certificate(names: &[&str], expiry: i64, last_reload_successful: bool) -> ScrapeCertificate {
    ScrapeCertificate {
        listener: "https".into(),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        expiry,
        last_reload_successful,
    }
}

/// Telemetry with something in every family.
fn busy() -> std::sync::Arc<Telemetry> {
    let telemetry = Telemetry::new(2);
    for version in ["v1", "v2"] {
        let metrics = telemetry.version("shop", version);
        for worker in 0..2 {
            let shard = metrics.shard(WorkerId(worker));
            shard.request(Method::Get, 200, Duration::from_millis(3));
            shard.request(Method::Other, 503, Duration::from_secs(70));
            shard.grpc(14);
            shard.retry(RetryReason::Reset);
            shard.limit_rejected(Limit::Requests);
            shard.shielded();
            shard.hedge_won();
            shard.failed(Reason::ConnectRefused);
            shard.in_flight(1);
        }
    }
    let shop = telemetry.service("shop");
    shop.shard(WorkerId(0)).request(200, None, Duration::ZERO);
    telemetry
        .service("shop")
        .shard(WorkerId(0))
        .own_answer(Reason::NoEndpoint);
    let listener = telemetry.listener("http");
    listener[0].client_failed(Reason::HeaderTimeout);
    listener[0].request(404);
    listener[0].uncertified();
    listener[1].connections(1);
    telemetry.rules("shop", 2).hit(WorkerId(1), RuleIx(1));
    telemetry.ejection(
        Ejection {
            service: "shop".into(),
            version: "v1".into(),
            endpoint: "10.0.0.1:80".into(),
            reason: EjectionReason::Consecutive5xx,
            outcome: EjectionOutcome::Enforced,
        },
        false,
    );
    telemetry
        .goal("shop", "v2", "purchase")
        .request(WorkerId(1), true);
    telemetry
        .flag("shop", "new-checkout")
        .request(WorkerId(1), FlagState::On);
    telemetry.mirror("shop");
    telemetry.rolled_back(Rollback {
        service: "shop".into(),
        subject: "v2".into(),
        is_flag: false,
        reason: RollbackReason::Errors,
    });
    telemetry
}

/// Every family once, HELP and TYPE before its series, no series twice; series with their values.
fn checked(text: &str) -> HashMap<String, f64> {
    let (mut series, mut families) = (HashMap::new(), HashSet::new());
    let mut current = "";
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            current = help.split(' ').next().unwrap();
            assert!(families.insert(current), "{current} twice");
            let family = names::ALL
                .iter()
                .find(|f| f.name == current)
                .expect(current);
            assert_eq!(help, format!("{current} {}", family.help));
            let kind = format!("{:?}", family.kind).to_lowercase();
            assert_eq!(
                lines.next(),
                Some(format!("# TYPE {current} {kind}").as_str())
            );
            continue;
        }
        let (key, value) = line.rsplit_once(' ').expect(line);
        let name = key.split('{').next().unwrap();
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|s| name.strip_suffix(s));
        assert!(
            name == current || base == Some(current),
            "{line} under {current}"
        );
        let before = series.insert(key.to_owned(), value.parse().expect(line));
        assert_eq!(before, None, "{key} twice");
    }
    series
}

#[test]
fn every_family_is_shown_in_good_form() {
    let text = render(&busy(), &scrape(&[("shop", &["v1", "v2"])]));
    let series = checked(&text);
    for family in names::ALL {
        assert!(
            text.contains(&format!("# TYPE {} ", family.name)),
            "{}",
            family.name
        );
    }
    for (key, value) in [
        (
            r#"http_requests_total{service="shop",version="v1",status="200",method="GET"}"#,
            2.0,
        ),
        (
            r#"http_requests_total{service="shop",version="v2",status="503",method="other"}"#,
            2.0,
        ),
        (
            r#"http_request_duration_seconds_bucket{service="shop",version="v1",le="0.0025"}"#,
            0.0,
        ),
        (
            r#"http_request_duration_seconds_bucket{service="shop",version="v1",le="0.005"}"#,
            2.0,
        ),
        (
            r#"http_request_duration_seconds_bucket{service="shop",version="v1",le="60"}"#,
            2.0,
        ),
        (
            r#"http_request_duration_seconds_bucket{service="shop",version="v1",le="+Inf"}"#,
            4.0,
        ),
        (
            r#"http_request_duration_seconds_sum{service="shop",version="v1"}"#,
            140.006,
        ),
        (
            r#"http_request_duration_seconds_count{service="shop",version="v1"}"#,
            4.0,
        ),
        (
            r#"http_requests_in_flight{service="shop",version="v1"}"#,
            2.0,
        ),
        (r#"queue_depth{service="shop",version="v1"}"#, 0.0),
        (
            r#"grpc_requests_total{service="shop",version="v1",grpc_status="14"}"#,
            2.0,
        ),
        (
            r#"cutover_retries_total{service="shop",version="v1",reason="reset"}"#,
            2.0,
        ),
        (
            r#"cutover_limit_rejections_total{service="shop",version="v1",limit="requests"}"#,
            2.0,
        ),
        (
            r#"cutover_shielded_total{service="shop",version="v2"}"#,
            2.0,
        ),
        (
            r#"cutover_downstream_requests_total{listener="http",status="404"}"#,
            1.0,
        ),
        (r#"cutover_connections{listener="http"}"#, 1.0),
        (r#"cutover_match_hits_total{service="shop",rule="0"}"#, 0.0),
        (r#"cutover_match_hits_total{service="shop",rule="1"}"#, 1.0),
        (r#"cutover_split_ratio{service="shop",version="v2"}"#, 0.25),
        (
            r#"cutover_endpoint_up{service="shop",version="v1",endpoint="10.0.0.1:80"}"#,
            1.0,
        ),
        (
            r#"cutover_endpoint_up{service="shop",version="v1",endpoint="10.0.0.2:80"}"#,
            0.0,
        ),
        ("cutover_fleet_connected", 1.0),
        ("cutover_fleet_members", 3.0),
        ("cutover_fleet_disagreements", 2.0),
        ("cutover_fleet_config_adopted", 0.0),
        ("cutover_fleet_config_revision", 41.0),
        ("cutover_fleet_drives{service=\"shop\"}", 1.0),
        ("cutover_fleet_term{service=\"shop\"}", 3.0),
        ("cutover_fleet_takes_part{service=\"shop\"}", 1.0),
        ("cutover_fleet_lag_seconds{service=\"shop\"}", 1.5),
        ("cutover_config_generation", 7.0),
        ("cutover_config_last_reload_successful", 1.0),
        (
            "cutover_config_last_reload_success_timestamp_seconds",
            1_700_000_000.0,
        ),
    ] {
        assert_eq!(series.get(key), Some(&value), "{key}\n{text}");
    }
}

#[test]
fn two_scrapes_of_the_same_state_are_the_same() {
    let (telemetry, scrape) = (busy(), scrape(&[("shop", &["v1", "v2"])]));
    let traffic = |text: String| -> Vec<String> {
        let ours = text.lines().filter(|l| !l.contains("process_"));
        ours.map(str::to_owned).collect()
    };
    assert_eq!(
        traffic(render(&telemetry, &scrape)),
        traffic(render(&telemetry, &scrape))
    );
}

#[test]
fn of_a_removed_version_counters_stay_and_gauges_go_when_they_are_zero() {
    let telemetry = busy();
    let series = checked(&render(&telemetry, &scrape(&[("shop", &["v1"])])));
    let shows = |series: &HashMap<String, f64>, family: &str| {
        let mut keys = series.keys();
        keys.any(|k| k.starts_with(family) && k.contains(r#"version="v2""#))
    };
    assert!(
        shows(&series, "http_requests_total") && shows(&series, "http_request_duration_seconds")
    );
    assert!(!shows(&series, "cutover_split_ratio") && !shows(&series, "cutover_endpoint_up"));
    // Two requests still run on it, nobody waits for it.
    assert!(shows(&series, "http_requests_in_flight") && !shows(&series, "queue_depth"));
    (0..2).for_each(|worker| {
        telemetry
            .version("shop", "v2")
            .shard(WorkerId(worker))
            .in_flight(-1)
    });
    let series = checked(&render(&telemetry, &Scrape::default()));
    assert!(!shows(&series, "http_requests_in_flight"));
    assert!(shows(&series, "http_requests_total"));
}

#[test]
fn constant_labels_stand_on_every_series_of_the_service_and_outlive_it() {
    let telemetry = busy();
    let mut scrape = scrape(&[("shop", &["v1", "v2"])]);
    scrape.services[0].labels = vec![
        ("team".into(), "a\"b\\\\\"c\nd".into()),
        ("version".into(), "no".into()),
    ];
    let first = render(&telemetry, &scrape);
    for line in first.lines().filter(|l| l.contains("service=")) {
        assert!(
            line.contains(r#"{team="a\"b\\\\\"c\nd",service="shop""#),
            "{line}"
        );
    }
    assert!(!first.contains(r#"version="no""#));
    let keys = |text: &str| -> HashSet<String> {
        let all = checked(text).into_keys();
        all.filter(|k| k.starts_with("http_request") && !k.contains("in_flight"))
            .collect()
    };
    assert_eq!(keys(&first), keys(&render(&telemetry, &Scrape::default())));
}

#[test]
fn the_tls_files_of_a_version_have_an_expiry_and_a_state() {
    let series = checked(&render(&busy(), &scrape(&[("shop", &["v1"])])));
    let of = |name: &str| {
        series[&format!("cutover_upstream_certificate_{name}{{service=\"shop\",version=\"v1\"}}")]
    };
    assert_eq!(of("expiry_timestamp_seconds"), 1.9e9);
    assert_eq!(of("last_reload_successful"), 0.0);
}

#[test]
fn a_name_expires_with_the_first_of_its_certificates() {
    let series = checked(&render(&busy(), &scrape(&[("shop", &["v1"])])));
    let expiry = |name: &str| {
        series[&format!(
            "cutover_certificate_expiry_timestamp_seconds{{listener=\"https\",name=\"{name}\"}}"
        )]
    };
    assert_eq!(expiry("a.test"), 2e9);
    assert_eq!(expiry("b.test"), 1.9e9);
    // One of them is not what its files hold now.
    assert_eq!(
        series["cutover_certificate_last_reload_successful{listener=\"https\"}"],
        0.0
    );
}
