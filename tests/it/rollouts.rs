//! Rollouts through the real binary: the canary walks its steps, and is taken back when it is worse.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::client::Client;
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, serve};
use crate::support::{pause, until};

/// A version whose share of failing requests can be set, in thousandths.
pub struct Version {
    pub origin: Origin,
    pub failing: Arc<AtomicU32>,
    hits: Arc<AtomicUsize>,
}

impl Version {
    pub fn new(name: &'static str, failing: u32) -> Self {
        Self::slow(name, failing, Duration::ZERO)
    }

    /// Every answer takes this long.
    pub fn slow(name: &'static str, failing: u32, delay: Duration) -> Self {
        let failing = Arc::new(AtomicU32::new(failing));
        let hits = Arc::new(AtomicUsize::new(0));
        let (rate, seen) = (failing.clone(), hits.clone());
        let origin = Origin::each(move |request, conn| {
            if request.target() != "/" {
                return conn.reply(200, "ok");
            }
            // Evenly spread, not random: the test doesn't depend on luck.
            let n = seen.fetch_add(1, Ordering::SeqCst) as u32;
            let rate = rate.load(Ordering::SeqCst);
            pause(delay);
            let fails = (n + 1) * rate / 1000 > n * rate / 1000;
            conn.reply(if fails { 500 } else { 200 }, name)
        });
        Self {
            origin,
            failing,
            hits,
        }
    }

    pub fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }
}

/// Requests at a steady rate from threads of its own.
pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// 500 requests per second.
    pub fn start(port: u16) -> Self {
        Self::of(port, "GET / HTTP/1.1\r\nhost: test\r\n\r\n", 10)
    }

    /// 50 requests per second from each of the clients.
    pub fn of(port: u16, request: &str, clients: usize) -> Self {
        let request = request.to_owned();
        Self::each(port, move |_| request.clone(), clients)
    }

    /// 50 requests per second from each of the clients; `request` makes each of them from its number.
    pub fn each(
        port: u16,
        request: impl Fn(usize) -> String + Clone + Send + 'static,
        clients: usize,
    ) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            sent: Arc::default(),
            failed: Arc::default(),
            threads: Vec::new(),
        };
        for at in 0..clients {
            let (stop, sent, failed) = (load.stop.clone(), load.sent.clone(), load.failed.clone());
            let request = request.clone();
            load.threads.push(std::thread::spawn(move || {
                let mut client = Client::new(port);
                let begun = Instant::now();
                let mut number = 0;
                while !stop.load(Ordering::SeqCst) {
                    number += 1;
                    let due = begun + Duration::from_millis(20) * number;
                    pause(due.saturating_duration_since(Instant::now()));
                    let good = client
                        .try_send(request(at + clients * number as usize))
                        .is_ok()
                        && client
                            .try_answer("GET")
                            .is_ok_and(|answer| answer.status() == 200);
                    sent.fetch_add(1, Ordering::SeqCst);
                    if !good {
                        failed.fetch_add(1, Ordering::SeqCst);
                        if stop.load(Ordering::SeqCst) {
                            return;
                        }
                        client = Client::new(port);
                    }
                }
            }));
        }
        load
    }

    /// Stops, and returns how many requests were sent and how many failed.
    pub fn end(mut self) -> (usize, usize) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().expect("a client");
        }
        (
            self.sent.load(Ordering::SeqCst),
            self.failed.load(Ordering::SeqCst),
        )
    }
}

pub fn service(v1: &Version, v2: &Version, label: &str, rollout: &str) -> String {
    format!(
        "[service.app]\nstable = \"v1\"\nsplit = {{ v2 = \"rollout\" }}\n\
         shield = true\ncheck = \"/ready\"\nhealth.interval = \"200ms\"\noutlier.consecutive_5xx = 1000\n\
         [service.app.versions]\nv1 = [\"{}\"]\n[service.app.versions.v2]\nlabel = \"{label}\"\n\
         endpoints = [\"{}\"]\n[service.app.rollout]\n{rollout}\n",
        v1.origin.at(),
        v2.origin.at()
    )
}

pub fn rollout(proxy: &Proxy) -> Value {
    proxy.status()["services"][0]["rollout"].clone()
}

pub fn state(proxy: &Proxy) -> String {
    rollout(proxy)["state"]
        .as_str()
        .unwrap_or("none")
        .to_owned()
}

pub fn share(proxy: &Proxy) -> String {
    proxy.status()["services"][0]["split"]["effective"]["v2"]
        .as_str()
        .expect("a share")
        .to_owned()
}

#[track_caller]
pub fn until_state(proxy: &Proxy, wanted: &str) {
    until(wanted, || (state(proxy) == wanted).then_some(()));
}

/// A process with the same file and state after this one was killed.
pub fn restarted(proxy: &mut Proxy) -> Proxy {
    proxy.signal(Signal::KILL);
    proxy.ended();
    proxy.successor().expect("it serves again")
}

pub fn journal(proxy: &Proxy) -> PathBuf {
    proxy.dir().join("state/rollouts/app.journal")
}

#[test]
fn a_good_canary_walks_its_steps_and_promote_makes_it_stable() {
    let (v1, v2) = (Version::new("v1", 0), Version::new("v2", 0));
    let plan = "steps = [\"10% for 2s\", \"50% for 2s\", \"100% for 2s\"]\nguard.min_requests = 20";
    let proxy = serve(&service(&v1, &v2, "1.1.0", plan));
    let load = Load::start(proxy.port);
    let mut walked = vec![share(&proxy)];
    until("done", || {
        let now = share(&proxy);
        if walked.last() != Some(&now) {
            walked.push(now);
        }
        (state(&proxy) == "done").then_some(())
    });
    walked.retain(|share| share != "0%");
    assert_eq!(walked, ["10%", "50%", "100%"]);
    let status = rollout(&proxy);
    assert_eq!(status["step"], 3);
    assert_eq!(status["verdict"]["outcome"], "pass");
    assert_eq!(status["label"], "1.1.0");
    assert_eq!(
        proxy
            .metrics()
            .sum("cutover_rollout_state", &[("state", "done")]),
        1.0
    );
    let promoted = proxy.local(&["promote", "app"]);
    assert_eq!(promoted.code, 0, "{}", promoted.stderr);
    until("stable is v2", || {
        (proxy.status()["services"][0]["stable"] == "v2").then_some(())
    });
    let text = proxy.text();
    assert!(
        text.contains("stable = \"v2\"") && !text.contains("v2 = \"rollout\""),
        "{text}"
    );
    // The history is stored behind the change that it is about.
    let promoted = until("the history says who promoted", || {
        let answer = proxy.ask_admin("/api/v1/history");
        let history: Value = serde_json::from_slice(&answer.body).expect("JSON");
        let mut entries = history["entries"].as_array().expect("a list").iter();
        let is_promotion = |entry: &&Value| {
            let who = entry["who"].as_str().unwrap_or("");
            who.contains('@') && who.ends_with(" (promote)")
        };
        entries.find(is_promotion).cloned()
    });
    assert_eq!(promoted["by"], "rollout");
    let (sent, failed) = load.end();
    assert!(sent > 1000);
    assert_eq!(failed, 0);
}

#[test]
fn a_bad_canary_is_taken_back_within_seconds_and_stays_latched() {
    let (v1, v2) = (Version::new("v1", 0), Version::new("v2", 200));
    let plan = "steps = [\"10% for 60s\", \"100% for 60s\"]";
    let mut proxy = serve(&service(&v1, &v2, "1.1.0", plan));
    let load = Load::start(proxy.port);
    until("the first step", || (v2.hits() > 0).then_some(()));
    let began = Instant::now();
    until_state(&proxy, "rolled-back");
    let took = began.elapsed();
    assert!(took < Duration::from_millis(4500), "{took:?}");
    let status = rollout(&proxy);
    assert!(
        status["counted"]["canary_requests"].as_u64().unwrap() <= 200,
        "{status:#}"
    );
    assert!(
        status["reason"].as_str().unwrap().starts_with("errors "),
        "{status:#}"
    );
    assert_eq!(
        (&status["latched"], &status["share"]),
        (&true.into(), &"0%".into())
    );
    let hits = v2.hits();
    let (_, failed) = load.end();
    assert_eq!(failed, 0, "the shield answers for the canary");
    assert_eq!(
        proxy
            .metrics()
            .sum("cutover_rollbacks_total", &[("reason", "errors")]),
        1.0
    );
    // Over an unrelated edit, a kill and a takeover.
    proxy.edit(&service(
        &v1,
        &v2,
        "1.1.0",
        &format!("{plan}\nunknown = \"start\""),
    ));
    assert_eq!(state(&proxy), "rolled-back");
    let mut proxy = restarted(&mut proxy);
    assert_eq!(state(&proxy), "rolled-back");
    let next = proxy.successor().expect("a takeover");
    proxy.ended();
    assert_eq!(
        (state(&next).as_str(), share(&next).as_str()),
        ("rolled-back", "0%")
    );
    pause(Duration::from_millis(1200));
    assert_eq!(v2.hits(), hits, "no request has reached it since");
    // A new label starts anew.
    v2.failing.store(0, Ordering::SeqCst);
    next.edit(&service(&v1, &v2, "1.1.1", plan));
    until_state(&next, "step");
    assert_eq!(rollout(&next)["label"], "1.1.1");
}

#[test]
fn a_killed_process_resumes_at_its_share_and_never_above_the_plan() {
    let (v1, v2) = (Version::new("v1", 0), Version::new("v2", 0));
    let plan =
        "steps = [\"10% for 3s\", \"20% for 3s\", \"40% until approved\"]\nguard.min_requests = 0";
    let mut proxy = serve(&service(&v1, &v2, "1.1.0", plan));
    // Not the effective share: right after a start the canary's check may not have passed yet, and stable answers.
    let percent = |proxy: &Proxy| -> u32 {
        let share = rollout(proxy)["share"]
            .as_str()
            .expect("a share")
            .to_owned();
        share.trim_end_matches('%').parse().expect("a number")
    };
    let step_share = |step: u64| [0, 10, 20, 40][step as usize];
    let mut rng = fastrand::Rng::with_seed(7);
    let mut before = 0;
    for _ in 0..12 {
        pause(Duration::from_millis(rng.u64(0..1500)));
        let at = percent(&proxy);
        assert!(at >= before, "the share does not fall: {before} {at}");
        proxy = restarted(&mut proxy);
        let (now, step) = (percent(&proxy), rollout(&proxy)["step"].as_u64().unwrap());
        assert!(now >= at, "resumed at {now} after {at}");
        assert!(now <= step_share(step), "{now} in step {step}");
        before = now;
    }
    until_state(&proxy, "awaiting-approval");
    until("the last share", || (percent(&proxy) == 40).then_some(()));
    let entries = std::fs::read_to_string(journal(&proxy)).expect("the journal");
    let numbers: Vec<u64> = entries
        .lines()
        .map(|l| l.split(' ').nth(1).unwrap().parse().unwrap())
        .collect();
    let expected: Vec<u64> = (1..=numbers.len() as u64).collect();
    assert_eq!(numbers, expected, "no entry is lost or doubled");
    for step in ["step 1 of 3", "step 2 of 3", "step 3 of 3"] {
        assert_eq!(entries.matches(&format!("v2: {step}")).count(), 1, "{step}");
    }
}

#[test]
fn operators_pause_resume_approve_abort_and_retry() {
    let (v1, v2) = (Version::new("v1", 0), Version::new("v2", 0));
    let plan = "steps = [\"10% until approved\", \"50% for 1h\"]";
    let proxy = serve(&service(&v1, &v2, "1.1.0", plan));
    until_state(&proxy, "awaiting-approval");
    let refused = proxy.local(&["resume", "app"]);
    assert_eq!(refused.code, 1);
    assert!(
        refused.stderr.contains("the rollout is awaiting-approval"),
        "{}",
        refused.stderr
    );
    assert_eq!(proxy.local(&["pause", "app"]).code, 0);
    assert_eq!(
        (state(&proxy).as_str(), share(&proxy).as_str()),
        ("paused", "10%")
    );
    assert_eq!(proxy.local(&["resume", "app"]).code, 0);
    until_state(&proxy, "awaiting-approval");
    let approved = proxy.local(&["approve", "app"]);
    assert!(
        approved.stdout.starts_with("app: v2 (1.1.0) "),
        "{}",
        approved.stdout
    );
    until("the second step", || (share(&proxy) == "50%").then_some(()));
    assert_eq!(proxy.local(&["abort", "app"]).code, 0);
    assert_eq!(
        (state(&proxy).as_str(), share(&proxy).as_str()),
        ("aborted", "0%")
    );
    let shown = proxy.local(&["status", "app"]);
    assert!(
        shown.stdout.contains("app rollout: v2 (1.1.0) aborted"),
        "{}",
        shown.stdout
    );
    assert_eq!(proxy.local(&["retry", "app"]).code, 0);
    until_state(&proxy, "awaiting-approval");
    assert_eq!(proxy.local(&["abort", "other"]).code, 1);
}

#[test]
fn an_edit_of_the_split_ends_it_and_shift_can_start_it() {
    let (v1, v2) = (Version::new("v1", 0), Version::new("v2", 0));
    let plan = "steps = [\"10% until approved\"]";
    let proxy = serve(&service(&v1, &v2, "1.1.0", plan));
    until_state(&proxy, "awaiting-approval");
    let shifted = proxy.local(&["shift", "app", "v2=5%"]);
    assert_eq!(shifted.code, 0, "{}", shifted.stderr);
    assert_eq!(
        (state(&proxy).as_str(), share(&proxy).as_str()),
        ("none", "5%")
    );
    let entries = std::fs::read_to_string(journal(&proxy)).expect("the journal");
    assert!(
        entries.contains("ended by an edit of the split"),
        "{entries}"
    );
}

#[test]
fn an_edit_of_the_split_while_no_process_runs_ends_it_too() {
    let (v1, v2) = (Version::new("v1", 0), Version::new("v2", 0));
    let plan = "steps = [\"10% for 1s\", \"50% until approved\"]\nguard.min_requests = 0";
    let text = service(&v1, &v2, "1.1.0", plan);
    let mut proxy = serve(&text);
    until("50%", || (share(&proxy) == "50%").then_some(()));
    proxy.signal(Signal::KILL);
    proxy.ended();
    let by_hand = text.replace("v2 = \"rollout\"", "v2 = \"0%\"");
    std::fs::write(proxy.file(), proxy.whole(&by_hand)).expect("an edit");
    let next = proxy.successor().expect("it serves");
    until("the end is in the journal", || {
        let entries = std::fs::read_to_string(journal(&next)).ok()?;
        let ended = entries.contains("v2: ended by an edit of the split");
        ended.then_some(())
    });
    next.edit(&text);
    assert_ne!(share(&next), "50%", "it begins with its first step");
    until("50%", || (share(&next) == "50%").then_some(()));
}

#[test]
fn a_state_that_cannot_be_written_holds_the_step_until_it_can() {
    let (v1, v2) = (Version::new("v1", 0), Version::new("v2", 0));
    let plan = "steps = [\"10% until approved\", \"50% until approved\"]";
    let proxy = serve(&service(&v1, &v2, "1.1.0", plan));
    // The share rises once the state is stored, which may be after it is shown.
    until("10%", || (share(&proxy) == "10%").then_some(()));
    // In the way of the journal of the next change.
    let aside = proxy.dir().join("aside");
    std::fs::rename(journal(&proxy), &aside).expect("move it away");
    std::fs::create_dir(journal(&proxy)).expect("a directory");
    assert_eq!(proxy.local(&["approve", "app"]).code, 0);
    until("held", || {
        let status = rollout(&proxy);
        let why = status["reason"].as_str().unwrap_or("").to_owned();
        let held = status["state"] == "held" && why.starts_with("the state can't be written: ");
        held.then_some(())
    });
    assert_eq!(share(&proxy), "10%");
    // Both at once: a retry that finds nothing there would begin a journal of its own.
    let exchange = rustix::fs::RenameFlags::EXCHANGE;
    let (place, here) = (journal(&proxy), rustix::fs::CWD);
    rustix::fs::renameat_with(here, &aside, here, &place, exchange).expect("back");
    until("50%", || (share(&proxy) == "50%").then_some(()));
    let entries = std::fs::read_to_string(journal(&proxy)).expect("the journal");
    assert_eq!(entries.matches("step 1 approved by").count(), 1);
}

#[test]
fn smoke_requests_and_hooks_come_before_the_first_user_and_receivers_are_told() {
    let (v1, v2) = (Version::new("v1", 0), Version::new("v2", 0));
    let allowed = Arc::new(AtomicBool::new(false));
    let open = allowed.clone();
    let outside = Origin::each(move |request, conn| match request.target().as_str() {
        "/hook?token=secret" if !open.load(Ordering::SeqCst) => conn.reply(409, "not yet"),
        _ => conn.reply(200, "ok"),
    });
    let plan = format!(
        "steps = [\"10% for 1h\"]\nsmoke = [\"GET /health 200\"]\nhooks.before_step = \"http://{0}/hook?token=secret\"\n\
         notify = \"http://{0}/slack?token=secret\"",
        outside.at()
    );
    let proxy = serve(&service(&v1, &v2, "1.1.0", &plan));
    let load = Load::start(proxy.port);
    until("the hook is asked", || {
        outside
            .requests()
            .iter()
            .any(|r| r.target().starts_with("/hook"))
            .then_some(())
    });
    until("the reason", || {
        let status = rollout(&proxy);
        let why = status["reason"].as_str().unwrap_or("").to_owned();
        (status["state"] == "waiting" && why.contains("answered 409")).then_some(())
    });
    assert_eq!(v2.hits(), 0);
    let smoked = v2.origin.requests();
    assert!(smoked.iter().any(|request| request.target() == "/health"));
    allowed.store(true, Ordering::SeqCst);
    until_state(&proxy, "step");
    until("a notification", || {
        let requests = outside.requests();
        let told = requests.iter().filter(|r| r.target().starts_with("/slack"));
        told.map(|r| serde_json::from_slice::<Value>(&r.body).expect("JSON"))
            .find(|json| {
                json["text"] == "app: v2: step 1 of 1: 10%" && json["rollout"]["step"] == 1
            })
    });
    assert!(!proxy.log().contains("secret"), "{}", proxy.log());
    let config = proxy.ask_admin("/api/v1/config").text();
    assert!(!config.contains("secret"), "{config}");
    load.end();
}

#[test]
fn a_smoke_request_that_fails_ends_it_before_the_first_user() {
    let (v1, v2) = (Version::new("v1", 0), Version::new("v2", 1000));
    let plan = "steps = [\"10% for 1h\"]\nsmoke = [\"GET / 200\"]";
    let proxy = serve(&service(&v1, &v2, "1.1.0", plan));
    until("rolled back", || {
        (state(&proxy) == "rolled-back").then_some(())
    });
    let reason = rollout(&proxy)["reason"].as_str().unwrap().to_owned();
    assert!(reason.starts_with("smoke: GET / on 127.0.0.1:"), "{reason}");
    assert!(reason.ends_with("expected 200, got 500"), "{reason}");
    assert_eq!(v2.hits(), 3, "three attempts");
}

#[test]
fn a_query_without_an_answer_holds_and_one_that_misses_ends_it() {
    let (v1, v2) = (Version::new("v1", 0), Version::new("v2", 0));
    let value = Arc::new(AtomicU32::new(0));
    let (seen, alive) = (value.clone(), Arc::new(AtomicBool::new(true)));
    let up = alive.clone();
    let prometheus = Origin::each(move |request, conn| {
        assert_eq!(request.target(), "/api/v1/query");
        if !up.load(Ordering::SeqCst) {
            return conn.reply(503, "no");
        }
        let value = seen.load(Ordering::SeqCst);
        conn.reply(
            200,
            &format!("{{\"status\":\"success\",\"data\":{{\"resultType\":\"scalar\",\"result\":[1,\"{value}\"]}}}}"),
        )
    });
    let plan = format!(
        "steps = [\"10% for 1h\"]\n[[service.app.rollout.query]]\nprometheus = \"http://{}\"\nquery = \"failed\"\n\
         pass = \"< 5\"\nevery = \"1s\"\nfails = 2",
        prometheus.at()
    );
    let proxy = serve(&service(&v1, &v2, "1.1.0", &plan));
    until_state(&proxy, "step");
    alive.store(false, Ordering::SeqCst);
    until("held", || {
        let status = rollout(&proxy);
        let why = status["reason"].as_str().unwrap_or("").to_owned();
        (status["state"] == "held" && why.starts_with("no answer to a query: ")).then_some(())
    });
    alive.store(true, Ordering::SeqCst);
    until_state(&proxy, "step");
    value.store(7, Ordering::SeqCst);
    until_state(&proxy, "rolled-back");
    let reason = rollout(&proxy)["reason"].as_str().unwrap().to_owned();
    assert_eq!(reason, "query `failed` is 7, expected < 5 (2 in a row)");
}

#[test]
fn a_damaged_journal_means_stable_only() {
    let (v1, v2) = (Version::new("v1", 0), Version::new("v2", 0));
    let mut proxy = serve(&service(
        &v1,
        &v2,
        "1.1.0",
        "steps = [\"10% until approved\"]",
    ));
    until_state(&proxy, "awaiting-approval");
    until("two entries", || {
        let entries = std::fs::read_to_string(journal(&proxy)).ok()?;
        (entries.lines().count() >= 2).then_some(())
    });
    proxy.signal(Signal::KILL);
    proxy.ended();
    let mut bytes = std::fs::read(journal(&proxy)).expect("the journal");
    bytes[30] ^= 1;
    std::fs::write(journal(&proxy), bytes).expect("damage it");
    let proxy = proxy.successor().expect("it serves");
    assert_eq!(share(&proxy), "0%");
    let status = rollout(&proxy);
    assert_eq!(status["state"], "held");
    let reason = status["reason"].as_str().unwrap().to_owned();
    assert!(
        reason.starts_with("stable only: the journal is damaged: "),
        "{reason}"
    );
    assert!(
        proxy
            .log()
            .contains("the rollout's journal can't be read: stable only")
    );
    assert_eq!(proxy.get("/").status(), 200);
}

#[test]
fn a_takeover_in_the_middle_of_a_step_keeps_its_share_and_evidence() {
    let (v1, v2) = (Version::new("v1", 0), Version::new("v2", 0));
    let plan = "steps = [\"10% for 1h\"]";
    let mut proxy = serve(&service(&v1, &v2, "1.1.0", plan));
    let load = Load::start(proxy.port);
    until("some evidence is stored", || {
        let stored = std::fs::read_to_string(proxy.dir().join("state/rollouts/app.evidence"));
        let held = rollout(&proxy)["held_s"].as_f64().unwrap();
        (stored.is_ok() && held >= 6.0).then_some(())
    });
    let next = proxy.successor().expect("a takeover");
    assert_eq!(share(&next), "10%");
    assert!(rollout(&next)["held_s"].as_f64().unwrap() > 0.0);
    proxy.ended();
    pause(Duration::from_millis(1500));
    assert_eq!(
        (state(&next).as_str(), share(&next).as_str()),
        ("step", "10%")
    );
    let (_, failed) = load.end();
    // A kept connection of the load may end with the old process; its requests don't fail otherwise.
    assert!(failed <= 10, "{failed}");
}

#[test]
fn goals_are_counted_by_version_without_a_plan() {
    let origin = Origin::each(|request, conn| {
        let status = if request.target().starts_with("/pay") {
            201
        } else {
            200
        };
        conn.reply(status, "ok")
    });
    let proxy = serve(&format!(
        "[service.app]\ngoals = {{ purchase = \"GET /pay 2xx\", view = \"GET /items/* 200\", never = \"POST /pay 2xx\" }}\n\
         [service.app.versions]\nv1 = [\"{}\"]\n",
        origin.at()
    ));
    for path in ["/pay", "/pay?x=1", "/items/7", "/items", "/payment", "/"] {
        proxy.get(path);
    }
    let count = |goal| {
        proxy
            .metrics()
            .sum("cutover_goals_total", &[("version", "v1"), ("goal", goal)])
    };
    until("purchases", || (count("purchase") == 2.0).then_some(()));
    assert_eq!((count("view"), count("never")), (2.0, 0.0));
}
