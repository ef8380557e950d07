use super::*;

use std::sync::Arc;

use crate::config;
use crate::http1::Method;
use crate::telemetry::{Telemetry, WorkerId};
use crate::upstream::Registry;

const SECOND: Duration = Duration::from_secs(1);

struct Run {
    telemetry: Arc<Telemetry>,
    snapshot: Snapshot,
    windows: StatusWindows,
    rollouts: RolloutsByService,
    store: SeriesStore,
    now: Instant,
}

fn snapshot(services: &[&str], telemetry: &Telemetry) -> Snapshot {
    let service = |name: &&str| {
        format!(
            "[service.{name}]\npaths = [\"/{name}\"]\nstable = \"v1\"\n[service.{name}.versions]\n\
             v1 = [\"10.0.0.1:80\"]\nv2 = [\"10.0.0.2:80\"]\n"
        )
    };
    let text: String = services.iter().map(service).collect();
    let spec = config::parse(&format!("listen = \":8080\"\n{text}"), "test.toml").expect("valid");
    Snapshot::build(1, Arc::new(spec), &Registry::new(), telemetry)
}

impl Run {
    fn new() -> Self {
        let telemetry = Telemetry::new(1);
        Self {
            snapshot: snapshot(&["shop"], &telemetry),
            telemetry,
            windows: StatusWindows::default(),
            rollouts: RolloutsByService::default(),
            store: SeriesStore::default(),
            now: Instant::now(),
        }
    }

    /// Lets time pass, with `each` requests to `v1` of `shop` in each second.
    fn seconds(&mut self, seconds: usize, each: usize, status: u16) {
        let version = self.telemetry.version("shop", "v1");
        let service = self.telemetry.service("shop");
        for _ in 0..seconds {
            let took = Duration::from_millis(3);
            (0..each).for_each(|_| {
                let shard = version.shard(WorkerId(0));
                shard.request(Method::Get, status, took);
                // The second of two tries succeeds.
                service.shard(WorkerId(0)).request(200, None, 2 * took);
            });
            self.windows.tick(self.now, &self.telemetry);
            self.store
                .tick(self.now, &self.snapshot, &self.windows, &self.rollouts);
            self.now += SECOND;
        }
    }

    fn shop(&self) -> ServiceSeries {
        self.store
            .of(&self.snapshot, "shop")
            .expect("it is configured")
    }
}

#[test]
fn a_point_is_taken_every_five_seconds() {
    let mut run = Run::new();
    run.seconds(1, 0, 200);
    run.seconds(10, 10, 200);
    run.seconds(5, 20, 500);
    run.seconds(5, 0, 200);
    let shop = run.shop();
    assert_eq!((shop.step_s, shop.until.is_some()), (5, true));
    let v1 = &shop.versions["v1"];
    assert_eq!(v1.rate, [0.0, 10.0, 10.0, 20.0, 0.0].map(Some));
    let errors = [None, Some(0.0), Some(0.0), Some(1.0), None];
    assert_eq!(v1.error_ratio, errors);
    assert!(
        v1.p50_ms[1].is_some_and(|ms| (1.0..=4.0).contains(&ms)),
        "{v1:?}"
    );
    assert!(v1.p99_ms[1] >= v1.p50_ms[1] && v1.p99_ms[4].is_none());
    assert_eq!(shop.versions["v2"].rate, [Some(0.0); 5]);
    let clients = &shop.clients;
    assert_eq!(clients.rate, v1.rate);
    assert_eq!(
        clients.error_ratio,
        errors.map(|ratio| ratio.map(|_| 0.0)),
        "clients saw no error"
    );
    assert!(clients.p50_ms[1] > v1.p99_ms[1] && clients.p99_ms[4].is_none());
    assert!(shop.evidence.is_empty());
    assert_eq!(run.store.of(&run.snapshot, "shopp"), None);
}

#[test]
fn evidence_is_kept_by_rule_and_beside_the_traffic() {
    let mut run = Run::new();
    run.seconds(6, 1, 200);
    let status = RolloutStatus {
        evidence: BTreeMap::from([("errors".to_owned(), 0.5), ("p99".to_owned(), -0.25)]),
        total_evidence: 0.75,
        ..RolloutStatus::default()
    };
    run.rollouts.insert("shop".to_owned(), status);
    run.seconds(5, 1, 200);
    run.rollouts.clear();
    run.seconds(5, 1, 200);
    let shop = run.shop();
    let line = |value| vec![None, None, Some(value), None];
    let expected = [("errors", 0.5), ("p99", -0.25), ("total", 0.75)];
    let expected = expected.map(|(rule, value)| (rule.to_owned(), line(value)));
    assert_eq!(shop.evidence, BTreeMap::from(expected));
    assert_eq!(shop.versions["v1"].rate.len(), 4);
    // The values are dropped after 15 minutes.
    run.seconds(15 * 60, 0, 200);
    assert!(run.shop().evidence.is_empty());
}

#[test]
fn memory_is_bounded_and_what_leaves_is_forgotten() {
    let mut run = Run::new();
    run.seconds(20 * 60, 1, 200);
    let shop = run.shop();
    assert_eq!(shop.versions["v1"].rate, [Some(1.0); POINTS]);
    assert_eq!(shop.clients.rate, [Some(1.0); POINTS]);
    let stored =
        |run: &Run, version: &str| run.store.services["shop"].versions[version].points.len();
    assert_eq!((stored(&run, "v1"), stored(&run, "v2")), (POINTS, 0));
    run.snapshot = snapshot(&["api"], &run.telemetry);
    run.seconds(5, 1, 200);
    assert!(run.store.services.keys().eq(["api"]));
    // A new service has no past.
    let api = run
        .store
        .of(&run.snapshot, "api")
        .expect("it is configured");
    for rate in [&api.versions["v1"].rate, &api.clients.rate] {
        assert_eq!(
            (rate.len(), rate[POINTS - 2], rate[POINTS - 1]),
            (POINTS, None, Some(0.0))
        );
    }
}
