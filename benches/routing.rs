//! What routing and counting cost a request: `cargo bench --bench routing`.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use cutover::config::spec::{
    CohortKey, CohortSpec, Condition, HostPattern, PathPattern, Pattern, RuleSpec, Share, Subject,
};
use cutover::http1::Method;
use cutover::index::{RuleIx, VersionIx};
use cutover::routing::{ClientCertificate, Matcher, RequestView, RouteTable, Split, SplitState};
use cutover::telemetry::render::{Scrape, render};
use cutover::telemetry::{Telemetry, WorkerId};

#[path = "instructions/service.rs"]
mod sample;
use sample::service;

/// A request as a browser sends it.
struct Browser;

const FIELDS: [(&str, &[u8]); 6] = [
    ("user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0)"),
    ("accept", b"text/html,application/xhtml+xml"),
    ("accept-language", b"en-US,en;q=0.5"),
    ("accept-encoding", b"gzip, deflate, br"),
    ("cookie", b"theme=dark; session=6b8f0d2c; uid=user-4711"),
    ("x-user-email", b"alice@example.org"),
];

impl RequestView for Browser {
    fn method(&self) -> &[u8] {
        b"GET"
    }
    fn host(&self) -> &str {
        "shop.example.com"
    }
    fn path(&self) -> &[u8] {
        b"/api/products/42"
    }
    fn query(&self) -> Option<&[u8]> {
        Some(b"page=2&sort=price")
    }
    fn any_field(&self, name: &str, see: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        FIELDS.iter().any(|(n, value)| *n == name && see(value))
    }
    fn client(&self) -> IpAddr {
        Ipv4Addr::LOCALHOST.into()
    }
    fn certificate(&self) -> Option<&ClientCertificate> {
        None
    }
}

fn find(c: &mut Criterion) {
    let mut group = c.benchmark_group("find");
    for routes in [1, 100, 10_000] {
        let services: Vec<_> = (0..routes)
            .map(|n| {
                let host = HostPattern::Exact(format!("s{n}.example.com"));
                service(vec![host], vec![PathPattern::Prefix("/api".into())])
            })
            .collect();
        let table = RouteTable::new(&services);
        let host = format!("s{}.example.com", routes / 2);
        group.bench_function(BenchmarkId::new("host", routes), |b| {
            b.iter(|| table.find(black_box(&host), black_box(b"/api/products/42")));
        });
    }
    for routes in [1, 100, 10_000] {
        let path = |n| PathPattern::Prefix(format!("/api/p{n}"));
        let wildcard = HostPattern::Suffix(".example.com".into());
        let table = RouteTable::new(&[service(vec![wildcard], (0..routes).map(path).collect())]);
        let path = format!("/api/p{}/x/y", routes / 2);
        group.bench_function(BenchmarkId::new("wildcard, path", routes), |b| {
            b.iter(|| table.find(black_box("shop.example.com"), black_box(path.as_bytes())));
        });
    }
    group.finish();
}

fn rules(c: &mut Criterion) {
    let rule = |subject, pattern| RuleSpec {
        when: vec![
            vec![Condition {
                subject,
                patterns: vec![pattern],
            }]
            .into(),
        ],
        to: Some(VersionIx(0)),
        ..RuleSpec::default()
    };
    let matcher = Matcher::new(&[
        rule(
            Subject::Header("x-canary".into()),
            Pattern::Exact("always".into()),
        ),
        rule(Subject::Cookie("beta".into()), Pattern::Exact("1".into())),
        rule(
            Subject::Query("version".into()),
            Pattern::Exact("v2".into()),
        ),
        rule(
            Subject::Header("x-user-email".into()),
            Pattern::Glob("*@example.com".into()),
        ),
        rule(
            Subject::Ip,
            Pattern::Net("10.0.0.0/8".parse().expect("a network")),
        ),
    ]);
    c.bench_function("match/five rules, none holds", |b| {
        b.iter(|| matcher.find(black_box(&Browser)));
    });
}

fn split(c: &mut Criterion) {
    for versions in [2, 4] {
        let canaries: Vec<_> = (1..versions)
            .map(|v| (VersionIx(v), Share(5_000)))
            .collect();
        let split = Split::new(
            &["v1", "v2", "v3", "v4"][..versions],
            VersionIx(0),
            &canaries,
        );
        let mut state = SplitState::default();
        c.bench_function(&format!("split/next of {versions}"), |b| {
            b.iter(|| split.next(black_box(&mut state)));
        });
    }
    let cohort = cutover::routing::Cohort::new(&CohortSpec {
        by: vec![CohortKey::Cookie("uid".into()), CohortKey::Ip],
        salt: "shop".into(),
    });
    let split = Split::new(&["v1", "v2"], VersionIx(0), &[(VersionIx(1), Share(5_000))]);
    c.bench_function("split/cohort by cookie", |b| {
        b.iter(|| {
            cohort
                .place(black_box(&Browser))
                .map(|(_, place)| split.at(place))
        });
    });
}

fn record(c: &mut Criterion) {
    let telemetry = Telemetry::new(1);
    let metrics = telemetry.version("shop", "v1");
    let rules = telemetry.rules("shop", 3);
    c.bench_function("record/request", |b| {
        b.iter(|| {
            let shard = metrics.shard(WorkerId(0));
            shard.in_flight(1);
            rules.hit(WorkerId(0), RuleIx(1));
            shard.request(
                black_box(Method::Get),
                black_box(200),
                black_box(Duration::from_micros(740)),
            );
            shard.in_flight(-1);
        });
    });
    for n in 0..100 {
        let shard = telemetry.version("shop", &format!("v{n}"));
        shard
            .shard(WorkerId(0))
            .request(Method::Get, 200, Duration::from_millis(1));
    }
    c.bench_function("render/100 versions", |b| {
        b.iter(|| render(&telemetry, &Scrape::default()));
    });
}

criterion_group!(all, find, rules, split, record);
criterion_main!(all);
