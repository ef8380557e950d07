//! Rollouts of flags through the real binary: users with a flag are compared with users without it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::rollouts::{Load, journal, restarted, rollout, state, until_state};
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, serve};
use crate::support::{pause, until};

/// An application that fails a share of the requests with the flag, in thousandths, and takes some time for them.
struct Application {
    origin: Origin,
    failing: Arc<AtomicU32>,
    /// Requests with the flag.
    hits: Arc<AtomicUsize>,
}

impl Application {
    fn new(failing: u32, delay: Duration) -> Self {
        let (failing, hits) = (
            Arc::new(AtomicU32::new(failing)),
            Arc::new(AtomicUsize::new(0)),
        );
        let (rate, seen) = (failing.clone(), hits.clone());
        let origin = Origin::each(move |request, conn| {
            if request.all("x-flags") != ["new"] {
                pause(delay / 10);
                return conn.reply(200, "without");
            }
            // Evenly spread, not random: the test doesn't depend on luck.
            let n = seen.fetch_add(1, Ordering::SeqCst) as u32;
            let rate = rate.load(Ordering::SeqCst);
            pause(delay);
            let fails = (n + 1) * rate / 1000 > n * rate / 1000;
            conn.reply(if fails { 500 } else { 200 }, "with")
        });
        Self {
            origin,
            failing,
            hits,
        }
    }

    fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }

    /// A service with two versions, both of which are this application.
    fn service(&self, flag: &str, plan: &str) -> String {
        let at = self.origin.at();
        format!(
            "[service.app]\nstable = \"v1\"\nsplit = {{ v2 = \"50%\" }}\noutlier.consecutive_5xx = 1000\n\
             cohort.by = \"header:x-user\"\n[service.app.versions]\nv1 = [\"{at}\"]\nv2 = [\"{at}\"]\n\
             [service.app.flags.new]\n{flag}\n[service.app.rollout]\n{plan}\n"
        )
    }
}

/// Each request comes from another user.
fn users(port: u16) -> Load {
    let request = |n| format!("GET / HTTP/1.1\r\nhost: test\r\nx-user: {n}\r\n\r\n");
    Load::each(port, request, 10)
}

fn flag(proxy: &Proxy) -> Value {
    proxy.status()["services"][0]["flags"][0].clone()
}

fn share(proxy: &Proxy) -> String {
    flag(proxy)["share"].as_str().expect("a share").to_owned()
}

fn state_and_share(proxy: &Proxy) -> (String, String) {
    (state(proxy), share(proxy))
}

/// The answers of many users, each on a connection of its own, which the kernel spreads over the workers.
fn answers(proxy: &Proxy) -> Vec<String> {
    let ask = |n| {
        let request = format!("GET / HTTP/1.1\r\nhost: test\r\nx-user: {n}\r\n\r\n");
        proxy.client().ask(&request).text()
    };
    (0..64).map(ask).collect()
}

const ROLLOUT: &str = "share = \"rollout\"";

#[test]
fn a_bad_flag_is_taken_back_within_seconds_and_stays_latched() {
    let app = Application::new(200, Duration::ZERO);
    let plan = "steps = [\"10% for 60s\", \"100% for 60s\"]";
    let mut proxy = serve(&app.service(ROLLOUT, plan));
    let load = users(proxy.port);
    until_state(&proxy, "rolled-back");
    load.end();
    let status = rollout(&proxy);
    assert_eq!(
        (&status["flag"], &status["version"]),
        (&"new".into(), &Value::Null)
    );
    let reason = status["reason"].as_str().expect("a reason");
    assert!(
        reason.starts_with("errors ") && reason.contains(": users with the flag failed "),
        "{status:#}"
    );
    assert_eq!(status["counted"]["stable_failures"], 0, "{status:#}");
    assert_eq!(status["latched"], true);
    assert_eq!(share(&proxy), "0%");
    assert!(!answers(&proxy).contains(&"with".to_owned()));
    let labels = [("service", "app"), ("flag", "new"), ("reason", "errors")];
    let count = |name: &str| proxy.metrics().sum(name, &labels);
    assert_eq!(count("cutover_rollbacks_total"), 1.0);
    let shown = proxy.local(&["status"]).stdout;
    assert!(
        shown.contains("app rollout: flag new rolled-back"),
        "{shown}"
    );
    assert!(shown.contains("0% (rollout)"), "{shown}");
    let history = proxy.local(&["history", "app"]).stdout;
    assert!(
        history.contains("flag new in effect 10% -> 0%"),
        "{history}"
    );

    // Over an unrelated edit, a kill and a takeover.
    let hits = app.hits();
    proxy.edit(&app.service(ROLLOUT, &format!("{plan}\nunknown = \"start\"")));
    assert_eq!(state_and_share(&proxy), ("rolled-back".into(), "0%".into()));
    let mut proxy = restarted(&mut proxy);
    assert_eq!(state_and_share(&proxy), ("rolled-back".into(), "0%".into()));
    let next = proxy.successor().expect("a takeover");
    proxy.ended();
    answers(&next);
    assert_eq!(app.hits(), hits, "no user has had it since");
    // Another table of the flag begins another rollout.
    app.failing.store(0, Ordering::SeqCst);
    let testers = format!("{ROLLOUT}\nwhen = {{ header.x-staff = \"yes\" }}");
    next.edit(&app.service(&testers, plan));
    until_state(&next, "step");
    until("users have it", || {
        answers(&next).contains(&"with".to_owned()).then_some(())
    });
}

#[test]
fn a_flag_that_makes_answers_ten_times_slower_is_taken_back() {
    let app = Application::new(0, Duration::from_millis(30));
    let proxy = serve(&app.service(ROLLOUT, "steps = [\"20% for 60s\"]"));
    let load = users(proxy.port);
    until_state(&proxy, "rolled-back");
    assert_eq!(load.end().1, 0);
    let status = rollout(&proxy);
    let reason = status["reason"].as_str().expect("a reason");
    assert!(
        reason.starts_with("p99 ") && reason.contains("of the flag's requests"),
        "{status:#}"
    );
}

#[test]
fn a_good_flag_walks_its_steps_and_promote_gives_it_to_everyone() {
    let app = Application::new(0, Duration::ZERO);
    let plan = "steps = [\"10% for 2s\", \"60% for 2s\", \"100% for 1s\"]\nguard.min_requests = 20\nsmoke = [\"GET /health 200\"]";
    let proxy = serve(&app.service(ROLLOUT, plan));
    let load = users(proxy.port);
    until("10%", || (share(&proxy) == "10%").then_some(()));
    until("60%", || (share(&proxy) == "60%").then_some(()));
    until_state(&proxy, "done");
    assert_eq!(load.end().1, 0);
    assert_eq!(state_and_share(&proxy), ("done".into(), "100%".into()));
    assert!(
        proxy.text().contains(ROLLOUT),
        "nothing is promoted by itself"
    );
    assert!(answers(&proxy).iter().all(|answer| answer == "with"));
    let smoke = app
        .origin
        .requests()
        .into_iter()
        .find(|r| r.target() == "/health");
    assert_eq!(smoke.expect("a smoke request").all("x-flags"), ["new"]);

    let promoted = proxy.local(&["promote", "app"]);
    assert_eq!(promoted.code, 0, "{}", promoted.stderr);
    until("the file says so", || {
        (state_and_share(&proxy) == ("none".into(), "100%".into())).then_some(())
    });
    assert!(
        proxy
            .text()
            .contains("[service.app.flags.new]\nshare = \"100%\"\n"),
        "{}",
        proxy.text()
    );
    assert!(answers(&proxy).iter().all(|answer| answer == "with"));
}

#[test]
fn testers_and_unknown_users_are_no_evidence_and_both_versions_are() {
    let app = Application::new(0, Duration::ZERO);
    let testers = format!("{ROLLOUT}\nwhen = {{ header.x-staff = \"yes\" }}");
    let proxy = serve(&app.service(&testers, "steps = [\"50% until approved\"]"));
    until("users have it", || (share(&proxy) == "50%").then_some(()));
    let mut client = proxy.client();
    let mut ask = |fields: &str| {
        let request = format!("GET / HTTP/1.1\r\nhost: test\r\n{fields}\r\n");
        client.ask(&request).text()
    };
    // The guard reads its counters once per second, and knows nothing of what happened before its first look at them.
    until("the guard counts", || {
        ask("x-user: first\r\n");
        let counted = rollout(&proxy)["counted"].clone();
        (counted["canary_requests"] != 0 || counted["stable_requests"] != 0).then_some(())
    });
    // What the guard has counted of the users with the flag and of those without, once it has read all counters.
    let counted = || {
        pause(Duration::from_millis(2200));
        let counted = rollout(&proxy)["counted"].clone();
        ["canary_requests", "stable_requests"].map(|what| counted[what].as_u64().expect("a number"))
    };
    let [with, without] = counted();
    let mut told = (0, 0);
    for n in 0..100 {
        assert_eq!(ask(&format!("x-user: {n}\r\nx-staff: yes\r\n")), "with");
        assert_eq!(ask(""), "without", "nothing is known of the user");
        match ask(&format!("x-user: {n}\r\n")).as_str() {
            "with" => told.0 += 1,
            _ => told.1 += 1,
        }
    }
    let [with_now, without_now] = counted();
    assert_eq!((with_now - with, without_now - without), told);
    assert!(told.0 >= 30 && told.1 >= 30, "{told:?}");
}

#[test]
fn operators_and_edits_change_the_course_of_a_flag() {
    let app = Application::new(0, Duration::ZERO);
    let plan = "steps = [\"25% until approved\", \"50% for 1h\"]";
    let mut proxy = serve(&app.service(ROLLOUT, plan));
    until_state(&proxy, "awaiting-approval");
    for (command, expected) in [("pause", "paused"), ("resume", "awaiting-approval")] {
        assert_eq!(proxy.local(&[command, "app"]).code, 0);
        until_state(&proxy, expected);
    }
    let approved = proxy.local(&["approve", "app"]).stdout;
    assert!(approved.starts_with("app: flag new "), "{approved}");
    until("50%", || (share(&proxy) == "50%").then_some(()));
    let few = answers(&proxy);
    // It continues after a kill, and in a takeover.
    let mut proxy = restarted(&mut proxy);
    assert_eq!(state_and_share(&proxy), ("step".into(), "50%".into()));
    let next = proxy.successor().expect("a takeover");
    proxy.ended();
    assert_eq!(answers(&next), few, "users keep the flag");

    // The command returns when every worker has it.
    assert_eq!(next.local(&["abort", "app"]).code, 0);
    assert!(!answers(&next).contains(&"with".to_owned()));
    assert_eq!(state_and_share(&next), ("aborted".into(), "0%".into()));
    let refused = next.local(&["promote", "app"]);
    assert!(
        refused.stderr.contains("no user has the flag"),
        "{}",
        refused.stderr
    );
    assert_eq!(next.local(&["retry", "app"]).code, 0);
    until("25%", || (share(&next) == "25%").then_some(()));

    let by_hand = next.local(&["flag", "app", "new=5%"]);
    assert_eq!(by_hand.code, 0, "{}", by_hand.stderr);
    assert_eq!(state_and_share(&next), ("none".into(), "5%".into()));
    let entries = std::fs::read_to_string(journal(&next)).expect("the journal");
    assert!(
        entries.contains("flag new: ended by an edit of its share"),
        "{entries}"
    );
    let again = next.local(&["flag", "app", "new=rollout"]);
    assert!(
        again.stdout.starts_with("app: new rollout: live"),
        "{}{}",
        again.stdout,
        again.stderr
    );
    until("25%", || (share(&next) == "25%").then_some(()));
    let deployed = next.local(&["deploy", "app", "v2=127.0.0.1:1"]);
    assert!(
        deployed
            .stderr
            .contains("flag `new` of `app` is under a rollout"),
        "{}",
        deployed.stderr
    );
}
