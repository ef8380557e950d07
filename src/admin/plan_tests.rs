use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::*;
use crate::config;
use crate::snapshot::Snapshot;
use crate::telemetry::Telemetry;
use crate::upstream::Registry;

const FILE: &str = "listen = \":80\"\n[service.shop]\nstable = \"v1\"\nsplit = { v2 = \"5%\" }\n\
                    cohort.by = [\"cookie:uid\"]\nversions = { v1 = [\"a:1\"], v2 = [\"b:1\"] }\n";

fn snapshot(text: &str) -> Snapshot {
    let spec = config::parse(text, "t.toml").unwrap_or_else(|e| panic!("{}", e[0]));
    Snapshot::build(1, Arc::new(spec), &Registry::new(), &Telemetry::new(1))
}

fn changed(service: Option<&str>) -> ChangeLine {
    ChangeLine {
        service: service.map(str::to_owned),
        text: "a change".to_owned(),
    }
}

/// The plan of a change of `shop`.
fn planned(old: &str, new: &str) -> ServicePlan {
    let preview = Preview {
        changes: vec![changed(Some("shop"))],
        running: Arc::new(snapshot(old)),
        next: snapshot(new),
    };
    let mut report = plan(preview, false, Vec::new(), |_| ServiceTraffic::default());
    assert_eq!(report.services.len(), 1);
    report.services.remove(0)
}

fn moved(plan: &ServicePlan) -> Vec<(&str, &str, &str)> {
    let moves = plan.moves.iter().flatten();
    moves.map(|m| (&*m.from, &*m.to, &*m.users)).collect()
}

#[test]
fn users_move_as_the_shares_say() {
    let raised = planned(FILE, &FILE.replace("5%", "25%"));
    assert_eq!(moved(&raised), [("v1", "v2", "20%")]);
    let lowered = planned(FILE, &FILE.replace("5%", "0%"));
    assert_eq!(moved(&lowered), [("v2", "v1", "5%")]);
    let swapped = FILE
        .replace("stable = \"v1\"", "stable = \"v2\"")
        .replace("{ v2 = \"5%\" }", "{ v1 = \"0%\" }");
    assert_eq!(moved(&planned(FILE, &swapped)), [("v1", "v2", "95%")]);
    let other = FILE.replace("\"a:1\"", "\"a:2\"");
    assert_eq!(planned(FILE, &other).moves, Some(Vec::new()));
}

#[test]
fn without_a_cohort_nobody_can_be_said_to_move() {
    let none = FILE.replace("cohort.by = [\"cookie:uid\"]\n", "");
    assert_eq!(planned(&none, &none.replace("5%", "25%")).moves, None);
    let salted = FILE.replace("cohort.by", "cohort.salt = \"new\"\ncohort.by");
    let plan = planned(FILE, &salted);
    assert_eq!(plan.moves, None);
    assert!(plan.warnings[0].contains("`cohort` changes"), "{plan:?}");
}

#[test]
fn capacity_is_a_warning_of_the_service() {
    let larger = FILE
        .replace("v1 = [\"a:1\"]", "v1 = [\"10.0.0.1:1\", \"10.0.0.1:2\"]")
        .replace("\"b:1\"", "\"10.0.0.2:1\"");
    assert!(
        planned(&larger, &larger.replace("5%", "50%"))
            .warnings
            .is_empty()
    );
    let plan = planned(&larger, &larger.replace("5%", "60%"));
    assert!(plan.warnings[0].starts_with("v2 gets 60%"), "{plan:?}");
}

#[test]
fn work_in_flight_is_counted_and_so_is_what_leaves() {
    let text = FILE.replace("v1 = [\"a:1\"]", "v1 = [\"a:1\", \"a:2\"]");
    let running = snapshot(&text);
    let members = &running.services[0].versions[0].pool.members;
    for member in members {
        member.endpoint.load.active.fetch_add(1, Ordering::Relaxed);
    }
    let preview = Preview {
        changes: vec![changed(Some("shop"))],
        next: snapshot(FILE),
        running: Arc::new(running),
    };
    let report = plan(preview, false, Vec::new(), |_| ServiceTraffic::default());
    let expected = OpenWork {
        version: "v1".to_owned(),
        requests: 2,
        streams: 0,
        leaving: 1,
    };
    assert_eq!(report.services[0].open, [expected]);
}

#[test]
fn changes_are_grouped_and_keys_that_need_a_restart_are_named() {
    let new = format!("workers = 3\n{FILE}");
    let preview = Preview {
        changes: vec![changed(None), changed(Some("shop")), changed(Some("shop"))],
        running: Arc::new(snapshot(FILE)),
        next: snapshot(&new),
    };
    let report = plan(preview, false, vec!["careful".to_owned()], |_| {
        ServiceTraffic::default()
    });
    assert_eq!(report.changes.len(), 1);
    assert_eq!(report.services[0].changes.len(), 2);
    assert_eq!(report.restart, ["workers"]);
    assert_eq!(report.warnings, ["careful"]);
    assert!(!report.is_empty());
    let gone = "listen = \":80\"\n[service.api]\nversions = { a = [\"c:1\"] }\n";
    let gone = planned(FILE, gone);
    assert_eq!((gone.moves, gone.awaits), (None, Vec::new()));
}

#[test]
fn users_gain_and_lose_flags_as_the_shares_say() {
    let with = |flags: &str| format!("{FILE}[service.shop.flags]\n{flags}");
    let moves = |old: &str, new: &str| -> Vec<(String, bool, String)> {
        let flags = planned(&with(old), &with(new)).flags.into_iter();
        flags.map(|m| (m.flag, m.gain, m.users)).collect()
    };
    let (few, many) = ("a.share = \"5%\"\n", "a.share = \"25%\"\n");
    let moved = |flag: &str, gain, users: &str| (flag.to_owned(), gain, users.to_owned());
    assert_eq!(moves(few, many), [moved("a", true, "20%")]);
    assert_eq!(moves(many, few), [moved("a", false, "20%")]);
    assert_eq!(
        moves(few, "b.share = \"1%\"\n"),
        [moved("b", true, "1%"), moved("a", false, "5%")]
    );
    assert_eq!(moves(few, few), []);
}
