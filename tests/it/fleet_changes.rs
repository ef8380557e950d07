//! Changes of a fleet while a rollout runs, as the runbook describes them: a plan that reaches one member after the other, processes
//! that are replaced, and a state that another release has written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::fleet_outages::{all_have, loads, nothing_has_failed, stays, tables};
use crate::fleet_rollouts::{all_in_state, driver, is_asked_for};
use crate::rollouts::{Version, rollout, share, state};
use crate::support::etcd::Etcd;
use crate::support::proxy::{Proxy, serve};
use crate::support::{client, pause, until, until_within};

const KEY: &str = "/cutover/test/state/app";

/// Three members in the first step of a plan.
fn fleet(etcd: &Etcd, versions: (&Version, &Version), steps: &str) -> Vec<Proxy> {
    let start = |member| serve(&tables(&etcd.ports(), member, versions, "", steps));
    let fleet: Vec<_> = (0..3).map(start).collect();
    all_have(&fleet, "10%");
    fleet
}

fn reason(proxy: &Proxy) -> String {
    rollout(proxy)["reason"].as_str().unwrap_or("").to_owned()
}

#[test]
fn a_plan_that_reaches_one_member_after_the_other_gives_nobody_more_than_it_says() {
    let Some(etcd) = Etcd::start() else { return };
    let (v1, v2) = (Version::new("v1", 0), Version::new("v2", 0));
    let versions = (&v1, &v2);
    let mut fleet = fleet(&etcd, versions, "\"10% for 300s\"");
    let loads = loads(&fleet);
    let drives = driver(&fleet);
    fleet.rotate_left(drives);
    let change = |at: usize| {
        let text = fleet[at].text().replace("10% for 300s", "5% for 300s");
        std::fs::write(fleet[at].file(), text).expect("an edit");
    };
    // Not the driver first: that member alone has another plan, and keeps to stable.
    change(1);
    until("stable only", || (share(&fleet[1]) == "0%").then_some(()));
    assert!(reason(&fleet[1]).starts_with("stable only: this member's plan is"));
    assert_eq!((&*share(&fleet[0]), &*share(&fleet[2])), ("10%", "10%"));
    // With the driver's file the new plan begins, for the members that have it.
    change(0);
    until("the new plan", || {
        let shares = [0, 1, 2].map(|at| share(&fleet[at]));
        (shares == ["5%", "5%", "0%"]).then_some(())
    });
    assert!(reason(&fleet[2]).starts_with("stable only: this member's plan is"));
    let disagreements = fleet[0].metrics().sum("cutover_fleet_disagreements", &[]);
    assert_eq!(disagreements, 1.0);
    change(2);
    all_have(&fleet, "5%");
    until("they agree", || {
        (fleet[0].metrics().sum("cutover_fleet_disagreements", &[]) == 0.0).then_some(())
    });
    nothing_has_failed(loads);
}

#[test]
fn members_that_are_replaced_one_after_the_other_keep_the_share_and_the_clock() {
    if !is_asked_for() {
        return;
    }
    let Some(etcd) = Etcd::start() else { return };
    let (v1, v2) = (Version::new("v1", 0), Version::new("v2", 0));
    let steps = "\"10% for 20s\", \"20% for 300s\"";
    let mut fleet = fleet(&etcd, (&v1, &v2), steps);
    let began = Instant::now();
    // Connections of their own: a kept one may be closed by a process that ends while a request is on its way.
    let ports: Vec<u16> = fleet.iter().map(|proxy| proxy.port).collect();
    let has_ended = Arc::new(AtomicBool::new(false));
    let ended = has_ended.clone();
    let load = std::thread::spawn(move || {
        let mut requests = 0;
        while !ended.load(Ordering::SeqCst) {
            for port in &ports {
                let answer = client::get(*port, "/");
                assert_eq!(answer.status(), 200, "after {requests} requests");
                requests += 1;
            }
            pause(Duration::from_millis(20));
        }
        requests
    });
    for at in 0..fleet.len() {
        let next = fleet[at].successor().expect("a takeover");
        fleet[at].ended();
        fleet[at] = next;
        stays(&fleet, "10%", Duration::from_secs(1));
    }
    // A driver whose process is gone may be replaced only after 12 s.
    until_within(Duration::from_secs(60), "the next step", || {
        let shares: Vec<_> = fleet.iter().map(share).collect();
        assert!(
            shares
                .iter()
                .all(|share| ["10%", "20%"].contains(&&**share)),
            "{shares:?}"
        );
        pause(Duration::from_millis(100));
        shares.iter().all(|share| share == "20%").then_some(())
    });
    let held = began.elapsed();
    eprintln!("a step of 20 s took {held:?} while three members were replaced");
    assert!(held > Duration::from_secs(15), "{held:?}");
    has_ended.store(true, Ordering::SeqCst);
    assert!(load.join().expect("no request fails") > 500);
}

#[test]
fn a_state_of_another_release_is_ignored_and_named_and_the_share_stays() {
    let Some(etcd) = Etcd::start() else { return };
    let (v1, v2) = (Version::new("v1", 0), Version::new("v2", 0));
    let fleet = fleet(&etcd, (&v1, &v2), "\"10% for 300s\"");
    let value = etcd.value(KEY);
    let newer = value.trim().replacen("\"format\":1", "\"format\":9", 1);
    assert_ne!(newer, value);
    etcd.ctl(&["put", KEY, &newer]);
    for proxy in &fleet {
        until("it is named", || {
            let log = proxy.log();
            (log.contains("ignoring the shared state") && log.contains("unknown format 9"))
                .then_some(())
        });
    }
    stays(&fleet, "10%", Duration::from_secs(2));
    assert!(
        etcd.value(KEY).contains("\"format\":9"),
        "nobody writes over it"
    );
    // An abort takes effect here, and on the others once the state can be read.
    assert_eq!(fleet[1].local(&["abort", "app"]).code, 0);
    until("no share here", || (share(&fleet[1]) == "0%").then_some(()));
    assert_eq!(state(&fleet[1]), "aborted");
    etcd.ctl(&["put", KEY, value.trim()]);
    all_in_state(&fleet, "aborted");
    all_have(&fleet, "0%");
}

#[test]
fn values_that_no_member_writes_are_named_and_raise_no_share() {
    if !is_asked_for() {
        return;
    }
    let Some(etcd) = Etcd::start() else { return };
    let (v1, v2) = (Version::new("v1", 0), Version::new("v2", 0));
    let mut fleet = fleet(&etcd, (&v1, &v2), "\"10% for 300s\"");
    let loads = loads(&fleet);
    let drives = driver(&fleet);
    fleet.rotate_left(drives);
    let large = "9".repeat(70_000);
    let hostile = [
        "",
        "[]",
        "\u{1b}[2J",
        r#"{"format":9,"share":100000}"#,
        r#"{"errors":[5,6,9,0],"guard":1,"epoch":1}"#,
        &large,
    ];
    // Which member has written it, and how much of the key the log shows.
    let keys = [
        (0, "evidence/app/000000000000001/000001/evil.1"),
        (1, "members/e v i l"),
        (1, "members/evil"),
        (1, "driver/app"),
        (2, "state/app"),
    ];
    for (reader, key) in keys {
        let whole = format!("/cutover/test/{key}");
        let before = etcd.value(&whole);
        for value in hostile {
            etcd.ctl(&["put", &whole, value]);
            for proxy in &fleet {
                assert_eq!(share(proxy), "10%", "{key}: {value:.40}");
            }
        }
        let named = |line: &str| line.contains("ignoring") && line.contains(key);
        until(&format!("{key} is named"), || {
            fleet[reader].log().lines().any(named).then_some(())
        });
        // Members and counts come back by themselves.
        match before.trim() {
            value if key.starts_with("state") => etcd.ctl(&["put", &whole, value]),
            _ => etcd.ctl(&["del", &whole]),
        };
    }
    nothing_has_failed(loads);
    // What the driver's guard has learnt is read by the next one.
    let key = "/cutover/test/guard/app";
    stays(&fleet, "10%", Duration::from_secs(3));
    let mut first = fleet.remove(driver(&fleet));
    etcd.ctl(&["put", key, hostile[4]]);
    first.signal(Signal::TERM);
    first.ended();
    let next = driver(&fleet);
    until("the guard's key is named", || {
        let log = fleet[next].log();
        log.lines()
            .any(|line| line.contains("ignoring") && line.contains("guard/app"))
            .then_some(())
    });
    stays(&fleet, "10%", Duration::from_secs(1));
    for proxy in &fleet {
        assert!(!proxy.log().contains('\u{1b}'), "a terminal would obey it");
    }
}

#[test]
fn a_driver_s_key_that_would_never_expire_is_replaced() {
    let Some(etcd) = Etcd::start() else { return };
    let (v1, v2) = (Version::new("v1", 0), Version::new("v2", 0));
    let steps = "\"10% for 300s\"";
    let proxy = serve(&tables(&etcd.ports(), 0, (&v1, &v2), "", steps));
    let key = "/cutover/test/driver/app";
    let is_own = || etcd.value(key).starts_with("m0.").then_some(());
    until("it drives", is_own);
    // As a member writes it, but without a lease.
    etcd.ctl(&["put", key, "m9.00ff00ff00ff00ff 7"]);
    until("it drives again", is_own);
    let kept = etcd.ctl(&["get", key, "-w", "json"]);
    assert!(kept.contains("\"lease\""), "{kept}");
    let named = |line: &str| line.contains("ignoring") && line.contains("driver/app");
    assert!(proxy.log().lines().any(named), "{}", proxy.log());
    until("the rollout goes on", || {
        (rollout(&proxy)["fleet"]["is_driver"] == true).then_some(())
    });
}
