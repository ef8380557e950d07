//! Comparing, sharing and dropping generations, small and large.

use std::fmt::Write as _;
use std::time::Duration;

use super::*;
use crate::prefetch::{FEW_ENDPOINTS, FEW_SERVICES};
use crate::telemetry::Telemetry;
use crate::upstream::Registry;
use crate::upstream::resolve::record::Resolutions;

/// A configuration of `services` services with `endpoints` endpoints each, whose ports begin at 1000 + `moved`.
fn many_services(services: usize, endpoints: usize, moved: usize) -> Arc<Spec> {
    let mut text = "listen = \":1\"\n".to_owned();
    for service in 0..services {
        let ports = (0..endpoints).map(|n| 1000 + n + moved);
        let endpoints: Vec<_> = ports.map(|p| format!("\"127.0.0.1:{p}\"")).collect();
        let _ = write!(
            text,
            "[service.s{service}]\nhosts = [\"s{service}.test\"]\nstable = \"v1\"\nversions = {{ v1 = [{}] }}\n",
            endpoints.join(", ")
        );
    }
    Arc::new(crate::config::parse(&text, "test.toml").expect("a valid file"))
}

#[test]
fn endpoints_are_gone_if_the_next_generation_does_not_name_them() {
    let (registry, telemetry) = (Registry::new(), Telemetry::new(1));
    let build = |n, spec| Snapshot::build(n, spec, &registry, &telemetry);
    let gone = |a: &Snapshot, b: &Snapshot| -> Vec<String> {
        let all = a.gone_in(b);
        all.map(|(s, e)| format!("{} {}", s.name, e.name)).collect()
    };
    let first = build(1, many_services(2, 100, 0));
    let second = build(2, many_services(2, 100, 1));
    assert_eq!(
        gone(&first, &second),
        ["s0 127.0.0.1:1000", "s1 127.0.0.1:1000"]
    );
    assert_eq!(
        gone(&second, &first),
        ["s0 127.0.0.1:1100", "s1 127.0.0.1:1100"]
    );
    assert_eq!(gone(&first, &build(3, many_services(2, 101, 0))), [""; 0]);
    let slots = |s: &Snapshot| s.endpoints().map(|(_, e)| e.slot).collect::<Vec<_>>();
    assert!(slots(&second).iter().all(|slot| second.has_slot(*slot)));
    assert!(!second.has_slot(slots(&first)[0]) && !second.has_slot(100_000));
}

#[test]
fn a_large_generation_knows_what_its_requests_need() {
    let build = |services| {
        let spec = many_services(services, 3, 0);
        Snapshot::build(1, spec, &Registry::new(), &Telemetry::new(1))
    };
    assert!(build(FEW_SERVICES).needed_for(ServiceIx(0)).is_none());
    let snapshot = build(FEW_SERVICES + 1);
    for (index, service) in ServiceIx::enumerate(&snapshot.services) {
        let needed = snapshot.needed_for(index).expect("many services");
        let list = &needed.list;
        assert!(list.has(&service.routing) && list.has(&service.timeouts));
        assert!(list.has(&service.slot) && list.has(&service.metrics));
        let version = &service.versions[0];
        assert!(list.has(version) && list.has(&*version.metrics));
        assert!(list.has(&version.load.requests));
        assert!(list.has(&service.policies.wait) && list.has(&service.policies.limits));
        let members = &version.pool.members;
        let has = |member: usize| {
            let endpoint = &*members[member].endpoint;
            let is_there = list.has(&endpoint.slot);
            assert_eq!(list.has(&endpoint.load.active), is_there);
            is_there
        };
        assert!(has(0) && has(1) && !has(2));
        let slots = [0, 1].map(|n: usize| members[n].endpoint.slot);
        assert_eq!(needed.endpoints[..2], slots);
        assert_eq!(needed.endpoints[2..], [usize::MAX; 2]);
        assert_eq!(needed.slot, service.slot);
    }
}

#[test]
fn a_generation_is_large_by_services_or_by_endpoints() {
    for (services, endpoints, is_large) in [
        (FEW_SERVICES, 1, false),
        (FEW_SERVICES + 1, 1, true),
        (1, FEW_ENDPOINTS, false),
        (1, FEW_ENDPOINTS + 1, true),
    ] {
        let spec = many_services(services, endpoints, 0);
        let snapshot = Snapshot::build(1, spec, &Registry::new(), &Telemetry::new(1));
        assert_eq!(snapshot.is_large, is_large, "{services} {endpoints}");
    }
}

#[test]
fn superseded_snapshots_are_dropped_once_they_are_unused() {
    let (registry, telemetry) = (Registry::new(), Telemetry::new(1));
    let build = |n| Snapshot::build(n, many_services(1, 1, n as usize), &registry, &telemetry);
    let live = Live::new(build(1), 1, ConfigSource::default());
    let in_use = live.current();
    live.publish(Arc::new(build(2)));
    live.publish(Arc::new(build(3)));
    assert_eq!((live.superseded(), registry.living().len()), (2, 3));
    live.drop_unused();
    assert_eq!((live.superseded(), registry.living().len()), (1, 2));
    drop(in_use);
    assert_eq!(
        registry.living().len(),
        2,
        "it is not dropped by the thread that used it"
    );
    live.drop_unused();
    assert_eq!((live.superseded(), registry.living().len()), (0, 1));
}

#[test]
fn reading_and_building_a_thousand_services_is_not_quadratic() {
    let began = std::time::Instant::now();
    let (registry, telemetry) = (Registry::new(), Telemetry::new(2));
    let build = |n, spec| Snapshot::build(n, spec, &registry, &telemetry);
    let first = build(1, many_services(1000, 10, 0));
    let second = build(2, many_services(1000, 10, 10));
    assert_eq!(first.gone_in(&second).count(), 10_000);
    assert_eq!(
        second.table.find("s999.test", b"/").map(|f| f.service),
        Some(ServiceIx(999))
    );
    drop(first);
    // Debug builds on busy machines take a second or two; quadratic ones a minute.
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn a_divided_limit_is_rounded_up_and_none_stays_none() {
    let (registry, telemetry, keys) = (Registry::new(), Telemetry::new(1), Keys::new());
    let mut spec = (*many_services(2, 1, 0)).clone();
    spec.services[0].policies.limits.requests = 10;
    spec.services[1].policies.limits.requests = 0;
    let spec = Arc::new(spec);
    let with = |running: &Snapshot, limit_members| {
        let inputs = Inputs {
            generation: running.generation + 1,
            spec: &spec,
            previous: Previous::Generation(running),
            rollouts: &|_| RolloutShare::default(),
            resolutions: &Resolutions::new(),
            passes: &|_, _| true,
            limit_members,
            keys: &keys,
            access_log: None,
            traces: None,
            now_s: 0,
        };
        Snapshot::compile(&inputs, &registry, &telemetry)
    };
    let mut running = Snapshot::build(1, spec.clone(), &registry, &telemetry);
    for (members, part) in [(1, 10), (3, 4), (10, 1), (1000, 1), (0, 10)] {
        let next = with(&running, members);
        let limits = [0, 1].map(|n| next.services[n].policies.limits.requests);
        assert_eq!(limits, [part, 0], "{members} members");
        // The one without a limit isn't compiled again.
        assert!(Arc::ptr_eq(&running.services[1], &next.services[1]));
        running = next;
    }
}

#[test]
fn a_change_of_one_service_compiles_no_other() {
    let (registry, telemetry) = (Registry::new(), Telemetry::new(1));
    let keys = Keys::new();
    let after = |running: &Snapshot, spec: &Arc<Spec>| {
        let inputs = Inputs {
            generation: running.generation + 1,
            spec,
            previous: Previous::Generation(running),
            rollouts: &|_| RolloutShare::default(),
            resolutions: &Resolutions::new(),
            passes: &|_, _| true,
            limit_members: 1,
            keys: &keys,
            access_log: None,
            traces: None,
            now_s: 0,
        };
        Snapshot::compile(&inputs, &registry, &telemetry)
    };
    let mut spec = (*many_services(1000, 2, 0)).clone();
    let first = Snapshot::build(1, Arc::new(spec.clone()), &registry, &telemetry);
    spec.services[500].timeouts.idle += Duration::from_secs(1);
    let second = after(&first, &Arc::new(spec.clone()));
    let differ = |a: &Snapshot, b: &Snapshot| -> Vec<usize> {
        let pairs = a.services.iter().zip(&b.services).enumerate();
        pairs
            .filter(|(_, (a, b))| !Arc::ptr_eq(a, b))
            .map(|(n, _)| n)
            .collect()
    };
    assert_eq!(differ(&first, &second), [500]);
    // Services are matched by name: removing one shifts the indices of the others, but compiles none.
    spec.services.remove(0);
    let third = after(&second, &Arc::new(spec));
    assert!(
        third
            .services
            .iter()
            .zip(&second.services[1..])
            .all(|(a, b)| Arc::ptr_eq(a, b))
    );
    assert_eq!(
        third.table.find("s999.test", b"/").map(|f| f.service),
        Some(ServiceIx(998))
    );
}
