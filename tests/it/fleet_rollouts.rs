//! Rollouts that the members of a fleet share, on a real etcd where it is installed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::rollouts::{Load, Version, rollout, service, share, state, until_state};
use crate::support::etcd::Etcd;
use crate::support::proxy::{Proxy, serve};
use crate::support::{pause, until, until_within};

/// The tables of a member.
fn tables(etcd: &Etcd, member: usize, (v1, v2): (&Version, &Version), plan: &str) -> String {
    let url = etcd.url();
    let service = service(v1, v2, "1.1.0", plan);
    format!("[fleet]\netcd = \"{url}\"\nname = \"test\"\nmember = \"m{member}\"\n{service}")
}

/// Starts `members` members and waits until all take part in the rollout.
fn fleet(etcd: &Etcd, members: usize, versions: (&Version, &Version), plan: &str) -> Vec<Proxy> {
    let start = |member| serve(&tables(etcd, member, versions, plan));
    let fleet: Vec<Proxy> = (0..members).map(start).collect();
    until("all know the driver", || {
        let knows = |proxy: &Proxy| rollout(proxy)["fleet"]["driver"].is_string();
        fleet.iter().all(knows).then_some(())
    });
    fleet
}

/// Whether tests are asked for that take half a minute or longer.
pub fn is_asked_for() -> bool {
    let is_asked_for = std::env::var_os("CUTOVER_ETCD").is_some();
    if !is_asked_for {
        eprintln!("skipped: takes half a minute; tests/peers/etcd.sh runs it");
    }
    is_asked_for
}

/// The position of the member that drives, once there is one.
pub fn driver(fleet: &[Proxy]) -> usize {
    until_within(Duration::from_secs(30), "a driver", || {
        { fleet.iter() }.position(|proxy| rollout(proxy)["fleet"]["is_driver"] == true)
    })
}

pub fn all_in_state(fleet: &[Proxy], wanted: &str) {
    until_within(Duration::from_secs(30), wanted, || {
        fleet
            .iter()
            .all(|proxy| state(proxy) == wanted)
            .then_some(())
    });
}

/// When each member's canary lost its share, and how many requests the canary had got by when.
fn ends_and_requests(fleet: &[Proxy], canary: &Version) -> (Vec<Instant>, Vec<(Instant, usize)>) {
    let (has_ended, began) = (AtomicBool::new(false), Instant::now());
    std::thread::scope(|scope| {
        let served = scope.spawn(|| {
            let mut served = Vec::new();
            // The limit counts if another thread has failed.
            while !has_ended.load(Ordering::SeqCst) && began.elapsed() < Duration::from_secs(60) {
                served.push((Instant::now(), canary.hits()));
                pause(Duration::from_millis(10));
            }
            served
        });
        let end = |proxy| {
            move || {
                until_within(Duration::from_secs(40), "a verdict", || {
                    pause(Duration::from_millis(30));
                    (share(proxy) == "0%").then(Instant::now)
                })
            }
        };
        let ends: Vec<_> = fleet.iter().map(|proxy| scope.spawn(end(proxy))).collect();
        let ends = { ends.into_iter() }.map(|end| end.join().expect("an end"));
        let ends = ends.collect();
        has_ended.store(true, Ordering::SeqCst);
        (ends, served.join().expect("a count"))
    })
}

fn whole_seconds(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

#[test]
fn errors_spread_thin_over_five_members_take_the_canary_back_on_all() {
    let Some(etcd) = Etcd::start() else { return };
    // Each member sees a failure in five seconds: one of 27 requests, which come from the five in turn.
    let (v1, v2) = (Version::new("v1", 0), Version::new("v2", 37));
    let plan = "steps = [\"10% for 60s\"]\nguard.p99 = []\n";
    let fleet = fleet(&etcd, 5, (&v1, &v2), plan);
    let loads: Vec<Load> = { fleet.iter() }
        .map(|proxy| Load::of(proxy.port, "GET / HTTP/1.1\r\nhost: test\r\n\r\n", 1))
        .collect();
    until("the canary's share", || {
        { fleet.iter() }
            .all(|proxy| share(proxy) == "10%")
            .then_some(())
    });
    let (ends, served) = ends_and_requests(&fleet, &v2);
    let (first, last) = (ends.iter().min(), ends.iter().max());
    let (first, last) = first.copied().zip(last.copied()).expect("five members");
    let counts = rollout(&fleet[driver(&fleet)]);
    let judged = whole_seconds(&counts["counted"]["canary_requests"]) as usize;
    let (complete, _) = { served.iter() }
        .find(|(_, hits)| *hits >= judged)
        .expect("what was judged was served");
    let (spread, delay) = (last - first, last.saturating_duration_since(*complete));
    eprintln!(
        "rolled back on all {delay:?} after the last request that was judged, {spread:?} apart"
    );
    // By itself it is 200 ms and 3 s. Beside other tests it may take longer.
    let most = if is_asked_for() { 1 } else { 5 };
    assert!(spread < most * Duration::from_millis(200), "{spread:?}");
    assert!(delay < most * Duration::from_secs(3), "{delay:?}");
    all_in_state(&fleet, "rolled-back");
    assert_eq!(counts["fleet"]["counting"], 5, "{counts:#}");
    let all = whole_seconds(&counts["counted"]["canary_requests"]);
    let own = v2.hits() as f64 / 5.0;
    assert!(all > 2.0 * own, "{all} requests, {own} of each member");
    fleet
        .iter()
        .for_each(|proxy| assert_eq!(share(proxy), "0%"));
    eprintln!("{counts:#}");
    loads
        .into_iter()
        .for_each(|load| assert_eq!(load.end().1, 0));
}

#[test]
fn members_walk_the_steps_together_and_obey_commands_given_to_any() {
    let Some(etcd) = Etcd::start() else { return };
    let (v1, v2) = (Version::new("v1", 0), Version::new("v2", 0));
    let plan = "steps = [\"10% for 1s\", \"20% until approved\", \"30% for 60s\"]\nguard.on_silence = \"pass\"\n";
    let fleet = fleet(&etcd, 3, (&v1, &v2), plan);
    all_in_state(&fleet, "awaiting-approval");
    let shares = || fleet.iter().map(share).collect::<Vec<_>>();
    until("the second step", || (shares() == ["20%"; 3]).then_some(()));
    let other = (driver(&fleet) + 1) % 3;
    let approved = fleet[other].local(&["approve", "app"]);
    assert_eq!(approved.code, 0, "{approved:?}");
    until("the third step", || (shares() == ["30%"; 3]).then_some(()));
    fleet[other].local(&["pause", "app"]);
    all_in_state(&fleet, "paused");
    fleet[other].local(&["resume", "app"]);
    all_in_state(&fleet, "step");
    fleet[other].local(&["abort", "app"]);
    all_in_state(&fleet, "aborted");
    until("no share", || (shares() == ["0%"; 3]).then_some(()));
    let latched = fleet.iter().all(|proxy| rollout(proxy)["latched"] == true);
    assert!(latched);
    // A member that comes later is told.
    let late = serve(&tables(&etcd, 3, (&v1, &v2), plan));
    assert_eq!(
        (state(&late).as_str(), share(&late).as_str()),
        ("aborted", "0%")
    );
    late.local(&["retry", "app"]);
    all_in_state(&fleet, "awaiting-approval");
}

#[test]
fn a_member_with_another_plan_keeps_to_stable_and_says_so() {
    let Some(etcd) = Etcd::start() else { return };
    let (v1, v2) = (Version::new("v1", 0), Version::new("v2", 0));
    let plan = "steps = [\"10% for 60s\"]\n";
    let first = fleet(&etcd, 1, (&v1, &v2), plan);
    all_in_state(&first, "step");
    let other = serve(&tables(&etcd, 1, (&v1, &v2), "steps = [\"50% for 60s\"]\n"));
    let reason = until("the reason", || {
        rollout(&other)["reason"].as_str().map(str::to_owned)
    });
    assert!(
        reason.starts_with("stable only: this member's plan is "),
        "{reason}"
    );
    assert_eq!(
        (share(&other).as_str(), share(&first[0]).as_str()),
        ("0%", "10%")
    );
    let own = other.file();
    let text = std::fs::read_to_string(&own).expect("its file");
    std::fs::write(&own, text.replace("50% for", "10% for")).expect("an edit");
    until_state(&other, "step");
    until("its share", || (share(&other) == "10%").then_some(()));
}

#[test]
fn a_driver_that_is_killed_or_stopped_is_replaced_and_nothing_is_raised() {
    if !is_asked_for() {
        return;
    }
    let Some(etcd) = Etcd::start() else { return };
    let (v1, v2) = (Version::new("v1", 0), Version::new("v2", 0));
    let plan = "steps = [\"10% for 8s\", \"20% for 60s\"]\nguard.on_silence = \"pass\"\n";
    let mut fleet = fleet(&etcd, 5, (&v1, &v2), plan);
    all_in_state(&fleet, "step");
    let began = Instant::now();
    let mut killed = fleet.remove(driver(&fleet));
    killed.signal(Signal::KILL);
    killed.ended();
    let second = driver(&fleet);
    eprintln!("a driver killed was replaced after {:?}", began.elapsed());
    until_within(Duration::from_secs(30), "the second step", || {
        fleet
            .iter()
            .all(|proxy| share(proxy) == "20%")
            .then_some(())
    });
    let held = began.elapsed();
    assert!(held > Duration::from_secs(8), "the step took {held:?}");
    let stopped = fleet.remove(second);
    stopped.signal(Signal::STOP);
    let began = Instant::now();
    let third = driver(&fleet);
    eprintln!("a driver stopped was replaced after {:?}", began.elapsed());
    fleet[third].local(&["abort", "app"]);
    all_in_state(&fleet, "aborted");
    stopped.signal(Signal::CONT);
    until_state(&stopped, "aborted");
    assert_eq!(share(&stopped), "0%");
    assert_eq!(rollout(&stopped)["fleet"]["is_driver"], false);
}

#[test]
fn without_etcd_the_share_stays_the_clock_stands_and_both_go_on_later() {
    if !is_asked_for() {
        return;
    }
    let Some(mut etcd) = Etcd::start() else {
        return;
    };
    let (v1, v2) = (Version::new("v1", 0), Version::new("v2", 0));
    let plan = "steps = [\"10% for 10s\", \"20% for 60s\"]\nguard.on_silence = \"pass\"\n";
    let fleet = fleet(&etcd, 3, (&v1, &v2), plan);
    all_in_state(&fleet, "step");
    let loads: Vec<Load> = { fleet.iter() }
        .map(|proxy| Load::of(proxy.port, "GET / HTTP/1.1\r\nhost: test\r\n\r\n", 1))
        .collect();
    etcd.kill();
    let lost = Instant::now();
    while lost.elapsed() < Duration::from_secs(22) {
        for proxy in &fleet {
            assert_eq!(share(proxy), "10%");
        }
        pause(Duration::from_millis(200));
    }
    let alone = |proxy: &Proxy| {
        let status = rollout(proxy);
        let warnings = status["warnings"].to_string();
        let refused = proxy.local(&["promote", "app"]);
        assert_eq!(refused.code, 1, "{refused:?}");
        warnings.contains("has not answered for")
    };
    assert!(fleet.iter().all(alone), "{:#}", rollout(&fleet[0]));
    // An abort needs nobody's leave, and reaches the others once etcd answers.
    fleet[0].local(&["abort", "app"]);
    until("no share", || (share(&fleet[0]) == "0%").then_some(()));
    assert_eq!(share(&fleet[1]), "10%");
    etcd.run();
    all_in_state(&fleet, "aborted");
    loads
        .into_iter()
        .for_each(|load| assert_eq!(load.end().1, 0));
}

#[test]
fn joining_a_fleet_keeps_what_a_running_canary_has_reached() {
    let Some(etcd) = Etcd::start() else { return };
    let (v1, v2) = (Version::new("v1", 0), Version::new("v2", 0));
    let plan = "steps = [\"10% for 1s\", \"25% for 60s\"]\nguard.on_silence = \"pass\"\n";
    let proxy = serve(&service(&v1, &v2, "1.1.0", plan));
    until("the second step", || (share(&proxy) == "25%").then_some(()));
    let tables = tables(&etcd, 0, (&v1, &v2), plan);
    let joined = proxy.whole(&tables.replace("[fleet]\n", "[fleet]\njoin_wait = \"20s\"\n"));
    std::fs::write(proxy.file(), joined).expect("an edit");
    until_within(Duration::from_secs(10), "it drives", || {
        assert_eq!(share(&proxy), "25%");
        (rollout(&proxy)["fleet"]["is_driver"] == true).then_some(())
    });
    assert_eq!(
        (state(&proxy).as_str(), share(&proxy).as_str()),
        ("step", "25%")
    );
    assert_eq!(rollout(&proxy)["step"], 2);
}
