//! The steps, each with what it works on.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use cutover::config::spec::{
    Balance, CohortKey, CohortSpec, Condition, EndpointAddress, EndpointSpec, HostPattern,
    PathPattern, Pattern, RuleSpec, Scheme, Share, Subject,
};
use cutover::http1::{Framing, HeadCache, Method, RequestHead, ResponseHead};
use cutover::index::{RuleIx, VersionIx};
use cutover::proxy::Peer;
use cutover::proxy::headers::{H1Fields, Request, RequestId};
use cutover::routing::{self, Matcher, RouteTable, Split, SplitState};
use cutover::telemetry::{Telemetry, WorkerId};
use cutover::upstream::pool::Member;
use cutover::upstream::{Pool, PoolView, Registry};

use super::heads::{BROWSER, LIMITS, PLAIN, RESPONSE};
use super::service::service;

/// One step.
pub struct Step {
    /// What `--step` and the budgets call it.
    pub name: &'static str,
    /// What it works on.
    pub what: &'static str,
    /// Prepares it: what comes back does it once.
    pub make: fn() -> Box<dyn FnMut()>,
}

/// All of them, in the order of a request.
pub fn all() -> Vec<Step> {
    let step = |name, what, make| Step { name, what, make };
    vec![
        step(
            "parse_request",
            "a request's head of 4 fields",
            parse_request,
        ),
        step(
            "parse_browser",
            "a browser's request head of 14 fields",
            parse_browser,
        ),
        step(
            "repeat_request",
            "a browser's request head that repeats",
            repeat_request,
        ),
        step("find_host", "1,000 services, a host each", find_host),
        step("find_path", "a wildcard host with 10,000 paths", find_path),
        step(
            "match_rules",
            "5 rules (header, cookie, query, glob, address), none holds",
            match_rules,
        ),
        step(
            "match_few",
            "10 rules that ask for a value of one header, none holds",
            match_few,
        ),
        step(
            "match_many",
            "1,000 rules that ask for a value of one header, none holds",
            match_many,
        ),
        step("split", "the exact split over 2 versions", split),
        step("cohort", "a cookie's place in the split", cohort),
        step("pick", "least requests of 10 endpoints", pick_few),
        step("pick_many", "least requests of 1,000 endpoints", pick_many),
        step("serialise", "a browser's head for the upstream", serialise),
        step(
            "parse_response",
            "an answer's head of 5 fields",
            parse_response,
        ),
        step(
            "repeat_response",
            "an answer's head that repeats",
            repeat_response,
        ),
        step("record", "in flight, rule, status, duration", record),
    ]
}

fn parse_request() -> Box<dyn FnMut()> {
    let mut head = RequestHead::new();
    Box::new(move || {
        let _ = black_box(head.parse(black_box(PLAIN), &LIMITS));
    })
}

fn parse_browser() -> Box<dyn FnMut()> {
    let mut head = RequestHead::new();
    Box::new(move || {
        let _ = black_box(head.parse(black_box(BROWSER), &LIMITS));
    })
}

fn parse_response() -> Box<dyn FnMut()> {
    let mut head = ResponseHead::new();
    Box::new(move || {
        let _ = black_box(head.parse(black_box(RESPONSE), Method::Get, &LIMITS));
    })
}

fn repeat_request() -> Box<dyn FnMut()> {
    let mut head = RequestHead::new();
    let mut cache = HeadCache::default();
    Box::new(move || {
        let _ = black_box(head.parse_cached(black_box(BROWSER), &LIMITS, &mut cache));
    })
}

fn repeat_response() -> Box<dyn FnMut()> {
    let mut head = ResponseHead::new();
    let mut cache = HeadCache::default();
    Box::new(move || {
        let _ = black_box(head.parse_cached(black_box(RESPONSE), Method::Get, &LIMITS, &mut cache));
    })
}

fn find_host() -> Box<dyn FnMut()> {
    let host = |n: usize| HostPattern::Exact(format!("s{n}.example.com"));
    let services: Vec<_> = (0..1000)
        .map(|n| service(vec![host(n)], Vec::new()))
        .collect();
    let table = RouteTable::new(&services);
    Box::new(move || {
        black_box(table.find(
            black_box("s500.example.com"),
            black_box(b"/api/products/42"),
        ));
    })
}

fn find_path() -> Box<dyn FnMut()> {
    let path = |n| PathPattern::Prefix(format!("/api/p{n}"));
    let wildcard = HostPattern::Suffix(".example.com".into());
    let table = RouteTable::new(&[service(vec![wildcard], (0..10_000).map(path).collect())]);
    Box::new(move || {
        black_box(table.find(black_box("shop.example.com"), black_box(b"/api/p5000/x/y")));
    })
}

/// The browser's request as the steps after parsing see it.
fn with_browser(mut step: impl FnMut(&Request<'_, H1Fields<'_>>) + 'static) -> Box<dyn FnMut()> {
    let mut head = RequestHead::new();
    let parsed = head.parse(BROWSER, &LIMITS);
    assert!(matches!(parsed, Ok(Some(_))), "the head is whole and good");
    let at = Some(([192, 0, 2, 7], 40_000).into());
    let peer = Peer::new(at, true, None, Arc::new([]), &[]);
    let target = head.target.of(BROWSER);
    let id = RequestId::of(None, &mut fastrand::Rng::with_seed(7));
    Box::new(move || {
        let request = Request {
            fields: H1Fields {
                head: BROWSER,
                fields: &head.fields,
            },
            method: Method::Get,
            method_text: b"GET",
            authority: b"shop.example.com",
            host: "shop.example.com",
            target,
            path_len: target.len(),
            typed_path: target,
            framing: Framing::Empty,
            ends_with_head: true,
            expect_continue: false,
            upgrade: None,
            te_trailers: false,
            via: Some("1.1 cutover"),
            peer: &peer,
            client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
            id,
        };
        step(black_box(&request));
    })
}

fn match_rules() -> Box<dyn FnMut()> {
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
    let exact = |text: &str| Pattern::Exact(text.into());
    let net = "10.0.0.0/8".parse().expect("a network");
    let matcher = Matcher::new(&[
        rule(Subject::Header("x-canary".into()), exact("always")),
        rule(Subject::Cookie("beta".into()), exact("1")),
        rule(Subject::Query("version".into()), exact("v2")),
        rule(
            Subject::Header("referer".into()),
            Pattern::Glob("*@example.com".into()),
        ),
        rule(Subject::Ip, Pattern::Net(net)),
    ]);
    with_browser(move |request| {
        black_box(matcher.find(request));
    })
}

fn match_values(rules: usize) -> Box<dyn FnMut()> {
    let rule = |n| RuleSpec {
        when: vec![
            vec![Condition {
                subject: Subject::Header("sec-fetch-site".into()),
                patterns: vec![Pattern::Exact(format!("sample-{n:04}"))],
            }]
            .into(),
        ],
        to: Some(VersionIx(0)),
        ..RuleSpec::default()
    };
    let matcher = Matcher::new(&(0..rules).map(rule).collect::<Vec<_>>());
    with_browser(move |request| {
        black_box(matcher.find(request));
    })
}

fn match_few() -> Box<dyn FnMut()> {
    match_values(10)
}

fn match_many() -> Box<dyn FnMut()> {
    match_values(1000)
}

fn split() -> Box<dyn FnMut()> {
    let split = Split::new(&["v1", "v2"], VersionIx(0), &[(VersionIx(1), Share(5_000))]);
    let mut state = SplitState::default();
    Box::new(move || {
        black_box(split.next(black_box(&mut state)));
    })
}

fn cohort() -> Box<dyn FnMut()> {
    let cohort = routing::Cohort::new(&CohortSpec {
        by: vec![CohortKey::Cookie("uid".into()), CohortKey::Ip],
        salt: "shop".into(),
    });
    let split = Split::new(&["v1", "v2"], VersionIx(0), &[(VersionIx(1), Share(5_000))]);
    with_browser(move |request| {
        black_box(cohort.place(request).map(|(_, place)| split.at(place)));
    })
}

fn pick(endpoints: u16) -> Box<dyn FnMut()> {
    let metrics = Telemetry::new(1).version("shop", "v1");
    let registry = Registry::new();
    let member = |n: u16| {
        let spec = EndpointSpec {
            scheme: Scheme::Http,
            address: EndpointAddress::Ip(([127, 0, 0, 1], 1000 + n).into()),
            weight: 1,
        };
        Member {
            endpoint: registry.endpoint("shop", "v1", &spec, &metrics),
            weight: 1,
            tier: 0,
        }
    };
    let members = (0..endpoints).map(member).collect();
    let pool = Pool::of(members, Balance::LeastRequest, 500, registry.epoch());
    let (mut rng, mut view) = (fastrand::Rng::with_seed(7), PoolView::default());
    Box::new(move || {
        black_box(pool.pick(&mut rng, &mut view, black_box(&[]), None));
    })
}

fn pick_few() -> Box<dyn FnMut()> {
    pick(10)
}

fn pick_many() -> Box<dyn FnMut()> {
    pick(1000)
}

fn serialise() -> Box<dyn FnMut()> {
    let mut out = Vec::with_capacity(4096);
    with_browser(move |request| {
        out.clear();
        request.put_h1(&mut out, b"10.0.0.1:8080", None);
        black_box(&out);
    })
}

fn record() -> Box<dyn FnMut()> {
    let telemetry = Telemetry::new(1);
    let metrics = telemetry.version("shop", "v1");
    let rules = telemetry.rules("shop", 3);
    Box::new(move || {
        let shard = metrics.shard(WorkerId(0));
        shard.in_flight(1);
        rules.hit(WorkerId(0), RuleIx(1));
        shard.request(
            black_box(Method::Get),
            black_box(200),
            black_box(Duration::from_micros(740)),
        );
        shard.in_flight(-1);
    })
}
