use super::*;

use std::collections::BTreeMap;

use crate::admin::history::{ChangeCause, ChangeLine};
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

fn seen(services: Vec<ServiceStatus>) -> Observation {
    Observation {
        proxy: proxy(1, 0, 1),
        services,
        adopted: Vec::new(),
    }
}

/// A state that has been told of these services.
fn told(services: Vec<ServiceStatus>) -> ToldState {
    let mut told = ToldState::new("e".to_owned());
    assert_eq!(
        told.observe(seen(services), ALL),
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
    let mut told = told(vec![service("api", 1.0), service("shop", 1.0)]);
    let unchanged = seen(vec![service("api", 1.0), service("shop", 1.0)]);
    assert_eq!(told.observe(unchanged, ALL), 0);
    told.observe(seen(vec![service("api", 1.0), service("shop", 2.0)]), ALL);
    let events = after(&told, 0, None);
    assert_eq!(kinds(&events), ["service"]);
    assert_eq!(events[0].1["name"], "shop");
    assert_eq!(events[0].1["versions"][0]["red"]["10s"]["rate"], 2.0);
    assert!(after(&told, 0, Some("api")).is_empty());
    assert_eq!(after(&told, 0, Some("shop")), events);
}

#[test]
fn a_service_comes_and_goes() {
    let mut told = told(vec![service("api", 0.0)]);
    told.observe(seen(vec![service("api", 0.0), service("shop", 0.0)]), 0);
    assert_eq!(kinds(&after(&told, 0, Some("shop"))), ["service"]);
    told.observe(seen(vec![service("api", 0.0)]), 0);
    let gone = after(&told, 1, None);
    assert_eq!(gone, [("removed".to_owned(), json!({ "name": "shop" }))]);
    assert_eq!(after(&told, 1, Some("shop")), gone);
    assert!(after(&told, 1, Some("api")).is_empty());
    assert!(!told.has("shop") && told.has("api"));
}

#[test]
fn the_course_of_a_rollout_is_told_at_once_and_its_clock_with_the_figures() {
    let mut told = told(vec![rolling("step", 1.0)]);
    told.observe(seen(vec![rolling("step", 2.0)]), 0);
    assert_eq!(told.newest(), 0, "a clock is no news");
    told.observe(seen(vec![rolling("step", 3.0)]), ALL);
    assert_eq!(kinds(&after(&told, 0, None)), ["service"]);
    told.observe(seen(vec![rolling("rolled-back", 3.0)]), 0);
    let events = after(&told, 1, Some("shop"));
    assert_eq!(kinds(&events), ["rollout", "service"]);
    assert_eq!(events[0].1["service"], "shop");
    assert_eq!(events[0].1["rollout"]["state"], "rolled-back");
    told.observe(seen(vec![service("shop", 0.0)]), 0);
    assert_eq!(after(&told, 3, None)[0].1["rollout"], Value::Null);
}

#[test]
fn figures_of_many_services_are_told_in_turn() {
    let names = ["a", "b", "c", "d", "e"];
    let all = |rate: f64| names.map(|name| service(name, rate)).to_vec();
    let mut told = told(all(0.0));
    let one = text(&service("a", 1.0)).len();
    let mut order = Vec::new();
    for round in 1..=5 {
        let seen_before = told.newest();
        told.observe(seen(all(f64::from(round))), 2 * one - 1);
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
    let mut told = told(Vec::new());
    let mut observe = |proxy: Value, figures: usize| {
        let now = Observation {
            proxy,
            ..seen(Vec::new())
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
    let mut told = told(vec![service("api", 0.0), service("shop", 0.0)]);
    let line = ChangeLine {
        service: Some("shop".to_owned()),
        text: "shop: v2 0% -> 5%".to_owned(),
    };
    let entry = HistoryEntry::now(2, ChangeCause::File.into(), "h".to_owned(), vec![line]);
    let now = Observation {
        adopted: vec![entry],
        ..seen(vec![service("api", 0.0), service("shop", 0.0)])
    };
    told.observe(now, 0);
    let events = after(&told, 0, Some("shop"));
    assert_eq!(kinds(&events), ["adopted"]);
    assert_eq!(events[0].1["generation"], 2);
    assert!(after(&told, 0, Some("api")).is_empty());
}

#[test]
fn a_new_stream_is_told_everything() {
    let mut told = told(vec![service("api", 1.0), service("shop", 1.0)]);
    let whole = told.whole(None).unwrap();
    let events = parsed(&whole);
    assert_eq!(kinds(&events), ["status"]);
    let status = &events[0].1;
    assert_eq!(status["generation"], 1);
    assert_eq!(status["services"][1], json!(service("shop", 1.0)));
    let again = told.whole(None).unwrap();
    assert_eq!(whole.as_ptr(), again.as_ptr(), "streams share its memory");
    told.observe(seen(vec![service("api", 1.0), service("shop", 2.0)]), ALL);
    let events = parsed(&told.whole(None).unwrap());
    assert_eq!(events[0].1["services"][1], json!(service("shop", 2.0)));
    let one = parsed(&told.whole(Some("shop")).unwrap());
    assert_eq!(one, [("service".to_owned(), json!(service("shop", 2.0)))]);
    assert_eq!(told.whole(Some("shopp")), None);
}

#[test]
fn ids_belong_to_one_process() {
    let mut told = told(vec![service("api", 0.0)]);
    told.observe(seen(vec![service("api", 1.0)]), ALL);
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
