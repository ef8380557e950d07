//! The exposition as Prometheus' own tool reads it, and that nobody from outside can make it grow.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime};

use cutover::config::spec::{Balance, CohortKey, HostPattern, ServiceSpec, Timeouts, VersionSpec};
use cutover::http1::Method;
use cutover::index::{EndpointIx, RuleIx, ServiceIx, VersionIx};
use cutover::routing::sticky::Session;
use cutover::routing::{self, RouteTable, Split, SplitState};
use cutover::telemetry::record::{Limit, RetryReason};
use cutover::telemetry::render::{Scrape, ScrapeService, ScrapeVersion, render};
use cutover::telemetry::{Telemetry, WorkerId};

#[path = "support/promtool.rs"]
mod promtool;

use promtool::promtool;

struct Get<'a>(&'a str);

impl routing::RequestView for Get<'_> {
    fn method(&self) -> &[u8] {
        b"GET"
    }
    fn host(&self) -> &str {
        self.0
    }
    fn path(&self) -> &[u8] {
        b"/"
    }
    fn query(&self) -> Option<&[u8]> {
        None
    }
    fn any_field(&self, _: &str, _: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        false
    }
    fn client(&self) -> IpAddr {
        Ipv4Addr::LOCALHOST.into()
    }
    fn certificate(&self) -> Option<&routing::ClientCertificate> {
        None
    }
}

/// Every version is usable, and no request has a session.
struct Healthy(SplitState);

impl routing::DecisionInput for Healthy {
    fn session(&mut self, _: &impl routing::RequestView) -> Option<Session> {
        None
    }
    fn follow(&mut self, _: &Session) -> Option<VersionIx> {
        None
    }
    fn is_on(&mut self, _: &Session, _: VersionIx) -> bool {
        false
    }
    fn endpoint(&mut self, _: &Session, _: VersionIx) -> Option<EndpointIx> {
        None
    }
    fn is_usable(&mut self, _: VersionIx) -> bool {
        true
    }
    fn next(&mut self, split: &Split) -> VersionIx {
        split.next(&mut self.0)
    }
}

fn shop() -> ServiceSpec {
    ServiceSpec {
        policies: Default::default(),
        hash_by: vec![CohortKey::Ip],
        name: "shop".into(),
        hosts: vec![HostPattern::Suffix(".example.com".into())],
        paths: Vec::new(),
        stable: VersionIx(0),
        split: Vec::new(),
        rolling: None,
        rollout: None,
        goals: Vec::new(),
        cohort: None,
        rules: Vec::new(),
        flags: Vec::new(),
        mirror: None,
        body_bytes: None,
        actions: Default::default(),
        balance: Balance::default(),
        timeouts: Timeouts {
            connect: Duration::from_secs(1),
            first_byte: Duration::from_secs(1),
            total: None,
            idle: Duration::from_secs(1),
        },
        labels: Vec::new(),
        versions: vec![VersionSpec {
            slow_start: None,
            name: "v1".into(),
            label: None,
            endpoints: Vec::new(),
            max_share: None,
            tls: None,
            proxy_protocol: None,
            preview: Vec::new(),
            actions: Default::default(),
        }],
    }
}

fn scrape() -> Scrape {
    Scrape {
        services: vec![ScrapeService {
            rollout: None,
            name: "shop".into(),
            labels: vec![("deployment".into(), "quoted \"shop\" \\ line\nbreak".into())],
            versions: vec![ScrapeVersion {
                name: "v1".into(),
                desired_ratio: 0.5,
                ratio: 1.0,
                endpoints: vec![("h2c://10.0.0.1:9000".into(), true)],
                awaited: false,
            }],
        }],
        listeners: vec!["http".into()],
        generation: 3,
        last_reload_successful: true,
        last_reload_success: Some(SystemTime::now()),
        certificates: Vec::new(),
        upstream_certificates: Vec::new(),
        names: Vec::new(),
        fleet: None,
    }
}

fn busy() -> std::sync::Arc<Telemetry> {
    let telemetry = Telemetry::new(2);
    let metrics = telemetry.version("shop", "v1");
    for worker in 0..=2 {
        let shard = metrics.shard(WorkerId(worker));
        for status in [200, 301, 404, 503] {
            shard.request(
                Method::Get,
                status,
                Duration::from_micros(u64::from(status)),
            );
        }
        shard.grpc(14);
        shard.retry(RetryReason::ALL[worker]);
        shard.limit_rejected(Limit::ALL[worker]);
        shard.shielded();
        shard.hedge_won();
        shard.connections(1);
    }
    telemetry.listener("http")[0].request(200);
    telemetry.rules("shop", 1).hit(WorkerId(0), RuleIx(0));
    telemetry
}

#[test]
fn promtool_finds_nothing_wrong() {
    let text = render(&busy(), &scrape());
    if let Some(said) = promtool(&["check", "metrics"], &text) {
        assert_eq!(said, "", "{text}");
    }
}

fn series(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned()))
        .collect()
}

#[test]
fn ten_thousand_random_hosts_add_no_series() {
    let (telemetry, shop) = (busy(), shop());
    let (table, service) = (
        RouteTable::new(std::slice::from_ref(&shop)),
        routing::ServiceRouting::new(&shop),
    );
    let before = series(&render(&telemetry, &scrape()));
    let (mut state, mut served) = (Healthy(SplitState::default()), 0);
    for n in 0..10_000 {
        let host = format!(
            "h{:x}.example.{}",
            fastrand::u64(..),
            if n % 2 == 0 { "com" } else { "net" }
        );
        let Some(found) = table.find(&host, b"/") else {
            telemetry.listener("http")[0].request(200);
            continue;
        };
        let decision = routing::decision(&service, None, &Get(&host), &mut state, &mut ());
        let routing::Decision::Forward(routing::Choice { version, .. }) = decision else {
            panic!("{decision:?}");
        };
        let (service, version) = (&shop.name, &shop.versions[version].name);
        assert_eq!(found.service, ServiceIx(0));
        telemetry
            .version(service, version)
            .shard(WorkerId(0))
            .request(Method::Get, 200, Duration::ZERO);
        served += 1;
    }
    assert_eq!(served, 5_000);
    assert_eq!(series(&render(&telemetry, &scrape())), before);
}
