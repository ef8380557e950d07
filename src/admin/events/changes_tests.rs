use super::*;

use std::collections::BTreeMap;

use crate::admin::history::{ChangeCause, ChangeLine};
use crate::admin::rollout::RolloutStatus;
use crate::admin::status::{RedStatus, SplitStatus, VersionStatus};

const ALL: usize = usize::MAX;

fn service(name: &str, rate: f64) -> ServiceStatus {
    let shares = BTreeMap::from([("v1".to_owned(), "100%".to_owned())]);
    let red = RedStatus {
        rate,
        ..RedStatus::default()
    };
    ServiceStatus {
        name: name.to_owned(),
        stable: "v1".to_owned(),
        answer: None,
        split: SplitStatus {
            desired: shares.clone(),
            effective: shares,
        },
        awaiting: Vec::new(),
        rollout: None,
        new_errors: Vec::new(),
        mirror: None,
        flags: Vec::new(),
        warnings: Vec::new(),
        clients: BTreeMap::new(),
        versions: vec![VersionStatus {
            name: "v1".to_owned(),
            label: None,
            share: "100%".to_owned(),
            in_flight: 0,
            red: BTreeMap::from([("10s".to_owned(), red)]),
            goals: BTreeMap::new(),
            endpoints: Vec::new(),
            names: Vec::new(),
        }],
    }
}

fn rolling(state: &str, held_s: f64) -> ServiceStatus {
    ServiceStatus {
        rollout: Some(RolloutStatus {
            version: "v2".to_owned(),
            state: state.to_owned(),
            held_s,
            ..RolloutStatus::default()
        }),
        ..service("shop", 0.0)
    }
}

fn proxy(uptime: u64, connections: u64, generation: u64) -> Value {
    json!({
        "generation": generation, "uptime_s": uptime, "certificates": [],
        "listeners": [{ "name": "http", "connections": connections }],
    })
}

/// The services of an observation, whose figures may always have changed.
fn seen(services: &[ServiceStatus]) -> Vec<SeenService> {
    let seen = services.iter().map(|service| SeenService {
        name: service.name.as_str().into(),
        stamp: StatusStamp {
            state: hash(|to| service_state(service, to)),
            rest: None,
        },
    });
    seen.collect()
}

/// Observes these services, which were seen so. Returns the number of the newest event, and which services were collected.
fn observe_seen(
    told: &mut ToldState,
    (services, seen): (&[ServiceStatus], Vec<SeenService>),
    figures: usize,
) -> (u64, Vec<usize>) {
    let collected = std::cell::RefCell::new(Vec::new());
    let now = Observation {
        proxy: proxy(1, 0, 1),
        services: seen,
        status: &|at| {
            collected.borrow_mut().push(at);
            services[at].clone()
        },
        adopted: Vec::new(),
    };
    let newest = told.observe(now, figures);
    (newest, collected.into_inner())
}

/// Observes these services. Returns the number of the newest event.
fn observe(told: &mut ToldState, services: &[ServiceStatus], figures: usize) -> u64 {
    observe_seen(told, (services, seen(services)), figures).0
}

/// A state that has been told of these services.
fn told(services: &[ServiceStatus]) -> ToldState {
    let mut told = ToldState::new("e".to_owned());
    assert_eq!(
        observe(&mut told, services, ALL),
        0,
        "there are no events yet"
    );
    told
}

/// Kind and data of the events in a text.
fn parsed(text: &[u8]) -> Vec<(String, Value)> {
    let text = std::str::from_utf8(text).unwrap();
    let blocks = text.split("\n\n").filter(|block| !block.is_empty());
    let event = |block: &str| {
        let [id, kind, data] = block
            .splitn(3, '\n')
            .collect::<Vec<_>>()
            .try_into()
            .unwrap();
        assert!(id.starts_with("id: e-"), "{block}");
        let kind = kind.strip_prefix("event: ").unwrap().to_owned();
        let data = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        (kind, data)
    };
    blocks.map(event).collect()
}

fn after(told: &ToldState, number: u64, of: Option<&str>) -> Vec<(String, Value)> {
    match told.after(number, of) {
        NextEvents::Some(text, _) => parsed(&text),
        NextEvents::None(_) => Vec::new(),
        NextEvents::Gone => panic!("gone"),
    }
}

fn kinds(events: &[(String, Value)]) -> Vec<&str> {
    events.iter().map(|(kind, _)| &**kind).collect()
}

#[test]
fn only_what_has_changed_is_told() {
    let mut told = told(&[service("api", 1.0), service("shop", 1.0)]);
    let unchanged = [service("api", 1.0), service("shop", 1.0)];
    assert_eq!(observe(&mut told, &unchanged, ALL), 0);
    observe(&mut told, &[service("api", 1.0), service("shop", 2.0)], ALL);
    let events = after(&told, 0, None);
    assert_eq!(kinds(&events), ["service"]);
    assert_eq!(events[0].1["name"], "shop");
    assert_eq!(events[0].1["versions"][0]["red"]["10s"]["rate"], 2.0);
    assert!(after(&told, 0, Some("api")).is_empty());
    assert_eq!(after(&told, 0, Some("shop")), events);
}

#[test]
fn a_service_comes_and_goes() {
    let mut told = told(&[service("api", 0.0)]);
    observe(&mut told, &[service("api", 0.0), service("shop", 0.0)], 0);
    assert_eq!(kinds(&after(&told, 0, Some("shop"))), ["service"]);
    observe(&mut told, &[service("api", 0.0)], 0);
    let gone = after(&told, 1, None);
    assert_eq!(gone, [("removed".to_owned(), json!({ "name": "shop" }))]);
    assert_eq!(after(&told, 1, Some("shop")), gone);
    assert!(after(&told, 1, Some("api")).is_empty());
    assert!(!told.has("shop") && told.has("api"));
}

#[test]
fn the_course_of_a_rollout_is_told_at_once_and_its_clock_with_the_figures() {
    let mut told = told(&[rolling("step", 1.0)]);
    observe(&mut told, &[rolling("step", 2.0)], 0);
    assert_eq!(told.newest(), 0, "a clock is no news");
    observe(&mut told, &[rolling("step", 3.0)], ALL);
    assert_eq!(kinds(&after(&told, 0, None)), ["service"]);
    observe(&mut told, &[rolling("rolled-back", 3.0)], 0);
    let events = after(&told, 1, Some("shop"));
    assert_eq!(kinds(&events), ["rollout", "service"]);
    assert_eq!(events[0].1["service"], "shop");
    assert_eq!(events[0].1["rollout"]["state"], "rolled-back");
    observe(&mut told, &[service("shop", 0.0)], 0);
    assert_eq!(after(&told, 3, None)[0].1["rollout"], Value::Null);
}

#[test]
fn figures_of_many_services_are_told_in_turn() {
    let names = ["a", "b", "c", "d", "e"];
    let all = |rate: f64| names.map(|name| service(name, rate)).to_vec();
    let mut told = told(&all(0.0));
    let one = text(&service("a", 1.0)).len();
    let mut order = Vec::new();
    for round in 1..=5 {
        let seen_before = told.newest();
        observe(&mut told, &all(f64::from(round)), 2 * one - 1);
        let events = after(&told, seen_before, None);
        order.extend(
            events
                .iter()
                .map(|(_, data)| data["name"].as_str().unwrap().to_owned()),
        );
    }
    assert_eq!(order.concat(), "abcdeabcde");
}

#[test]
fn the_proxy_is_told_without_the_passing_of_time() {
    let mut told = told(&[]);
    let mut observe = |proxy: Value, figures: usize| {
        let now = Observation {
            proxy,
            services: Vec::new(),
            status: &|_| unreachable!("there is no service"),
            adopted: Vec::new(),
        };
        told.observe(now, figures)
    };
    assert_eq!(observe(proxy(2, 0, 1), ALL), 0);
    assert_eq!(observe(proxy(2, 7, 1), 0), 0, "connections are figures");
    assert_eq!(observe(proxy(3, 7, 1), ALL), 1);
    assert_eq!(observe(proxy(3, 7, 2), 0), 2);
    assert_eq!(kinds(&after(&told, 0, None)), ["proxy"]);
}

#[test]
fn an_adopted_generation_concerns_the_services_that_it_changes() {
    let mut told = told(&[service("api", 0.0), service("shop", 0.0)]);
    let line = ChangeLine {
        service: Some("shop".to_owned()),
        text: "shop: v2 0% -> 5%".to_owned(),
    };
    let entry = HistoryEntry::now(2, ChangeCause::File.into(), "h".to_owned(), vec![line]);
    let services = [service("api", 0.0), service("shop", 0.0)];
    let now = Observation {
        proxy: proxy(1, 0, 1),
        services: seen(&services),
        status: &|at| services[at].clone(),
        adopted: vec![entry],
    };
    told.observe(now, 0);
    let events = after(&told, 0, Some("shop"));
    assert_eq!(kinds(&events), ["adopted"]);
    assert_eq!(events[0].1["generation"], 2);
    assert!(after(&told, 0, Some("api")).is_empty());
}

#[test]
fn a_new_stream_is_told_everything() {
    let mut told = told(&[service("api", 1.0), service("shop", 1.0)]);
    let whole = told.whole(None).unwrap();
    let events = parsed(&whole);
    assert_eq!(kinds(&events), ["status"]);
    let status = &events[0].1;
    assert_eq!(status["generation"], 1);
    assert_eq!(status["services"][1], json!(service("shop", 1.0)));
    let again = told.whole(None).unwrap();
    assert_eq!(whole.as_ptr(), again.as_ptr(), "streams share its memory");
    observe(&mut told, &[service("api", 1.0), service("shop", 2.0)], ALL);
    let events = parsed(&told.whole(None).unwrap());
    assert_eq!(events[0].1["services"][1], json!(service("shop", 2.0)));
    let one = parsed(&told.whole(Some("shop")).unwrap());
    assert_eq!(one, [("service".to_owned(), json!(service("shop", 2.0)))]);
    assert_eq!(told.whole(Some("shopp")), None);
}

#[test]
fn ids_belong_to_one_process() {
    let mut told = told(&[service("api", 0.0)]);
    observe(&mut told, &[service("api", 1.0)], ALL);
    assert_eq!(told.number("e-1"), Some(1));
    assert_eq!(told.number("e-0"), Some(0));
    for foreign in ["e-2", "f-1", "e-x", "e", "", "e-1-1"] {
        assert_eq!(told.number(foreign), None, "{foreign}");
    }
    let reset = parsed(&told.reset(false));
    assert_eq!(
        reset,
        [("reset".to_owned(), json!({ "reason": "restarted" }))]
    );
}

#[test]
fn only_services_that_may_have_changed_are_collected() {
    let mut services = [
        service("api", 0.0),
        service("shop", 0.0),
        service("users", 0.0),
    ];
    let steady = |services: &[ServiceStatus]| {
        let mut all = seen(services);
        all.iter_mut().for_each(|one| one.stamp.rest = Some(1));
        all
    };
    let mut told = ToldState::new("e".to_owned());
    let mut observe = |services: &[ServiceStatus], seen, figures| {
        observe_seen(&mut told, (services, seen), figures)
    };
    assert_eq!(observe(&services, steady(&services), ALL).1, [0, 1, 2]);
    assert_eq!(observe(&services, steady(&services), ALL), (0, vec![]));
    // Something of one has changed, or something of another may have.
    let mut now = steady(&services);
    now[0].stamp.rest = None;
    now[2].stamp.rest = Some(2);
    services[0] = service("api", 1.0);
    assert_eq!(
        observe(&services, now.clone(), 0),
        (0, vec![]),
        "these are figures"
    );
    assert_eq!(observe(&services, now.clone(), ALL), (1, vec![0, 2]));
    assert_eq!(observe(&services, now, ALL), (1, vec![0]));
    // A new generation may have changed all of them.
    let mut now = steady(&services);
    now.iter_mut().for_each(|one| one.stamp.state += 1);
    services[1].stable = "v2".to_owned();
    assert_eq!(observe(&services, now.clone(), 0), (2, vec![0, 1, 2]));
    assert_eq!(observe(&services, now.clone(), ALL), (2, vec![0, 2]));
    assert_eq!(observe(&services, now, ALL), (2, vec![]));
    // One that leaves moves the others.
    let left = [services[0].clone(), services[2].clone()];
    let mut now = steady(&left);
    now.iter_mut().for_each(|one| one.stamp.state += 1);
    assert_eq!(observe(&left, now, ALL), (3, vec![]));
    assert_eq!(kinds(&after(&told, 2, None)), ["removed"]);
}
