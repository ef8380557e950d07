//! What the guard of a rollout finds through the real binary, and what it must not find.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::rollouts::{Load, Version, rollout, service, share, state, until_state};
use crate::support::client::Client;
use crate::support::proxy::{Proxy, serve};
use crate::support::{Ended, free_port, pause, until};

#[test]
fn a_canary_that_is_ten_times_slower_is_taken_back_within_ten_seconds() {
    let v1 = Version::slow("v1", 0, Duration::from_millis(3));
    let v2 = Version::slow("v2", 0, Duration::from_millis(30));
    let proxy = serve(&service(&v1, &v2, "1.1.0", "steps = [\"10% for 60s\"]"));
    let load = Load::start(proxy.port);
    until("the first step", || (v2.hits() > 0).then_some(()));
    let began = Instant::now();
    until_state(&proxy, "rolled-back");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    let status = rollout(&proxy);
    let reason = status["reason"].as_str().expect("a reason");
    assert!(reason.starts_with("p99 "), "{status:#}");
    assert_eq!(load.end().1, 0);
}

/// One service by host for each rollout: `/` of `HOST` is answered by the versions.
fn many(pairs: &[(Version, Version)], plan: &str) -> String {
    let mut text = String::new();
    for (n, (v1, v2)) in pairs.iter().enumerate() {
        text += &format!(
            "[service.app{n}]\nhosts = [\"app{n}.test\"]\nstable = \"v1\"\nsplit = {{ v2 = \"rollout\" }}\n\
             outlier.consecutive_5xx = 1000\n[service.app{n}.versions]\nv1 = [\"{}\"]\nv2 = [\"{}\"]\n\
             [service.app{n}.rollout]\n{plan}\n",
            v1.origin.at(),
            v2.origin.at()
        );
    }
    text
}

fn states(proxy: &Proxy) -> Vec<String> {
    let status = proxy.status();
    let services = status["services"].as_array().expect("a list");
    let state = |s: &Value| s["rollout"]["state"].as_str().map(str::to_owned);
    services.iter().filter_map(state).collect()
}

#[test]
fn sixteen_rollouts_of_versions_that_are_alike_pass_in_spite_of_background_errors() {
    let alike = |_| (Version::new("v1", 10), Version::new("v2", 10));
    let pairs: Vec<(Version, Version)> = (0..16).map(alike).collect();
    let plan = "steps = [\"25% for 3s\", \"50% for 3s\", \"100% for 3s\"]\nguard.min_requests = 50";
    let proxy = serve(&many(&pairs, plan));
    let loads: Vec<Load> = (0..16)
        .map(|n| {
            let request = format!("GET / HTTP/1.1\r\nhost: app{n}.test\r\n\r\n");
            Load::of(proxy.port, &request, 2)
        })
        .collect();
    until("all have ended", || {
        let now = states(&proxy);
        let ended = |state: &String| !matches!(&**state, "waiting" | "step" | "held");
        now.iter().all(ended).then_some(())
    });
    assert_eq!(states(&proxy), ["done"; 16]);
    let (sent, failed): (Vec<usize>, Vec<usize>) = loads.into_iter().map(Load::end).unzip();
    let (sent, failed) = (sent.iter().sum::<usize>(), failed.iter().sum::<usize>());
    assert!(
        failed * 200 > sent && failed * 50 < sent,
        "{failed} of {sent}"
    );
}

#[test]
fn blue_is_compared_with_green_in_its_step_and_answers_again_at_once() {
    let (blue, green) = (Version::new("v1", 0), Version::new("v2", 0));
    let plan = "steps = [\"90% for 2s\", \"100% for 60s\"]\nguard.min_requests = 20\n";
    let proxy = serve(&service(&blue, &green, "1.1.0", plan));
    let load = Load::start(proxy.port);
    until("the cut-over", || (share(&proxy) == "100%").then_some(()));
    green
        .failing
        .store(400, std::sync::atomic::Ordering::SeqCst);
    until_state(&proxy, "rolled-back");
    let status = rollout(&proxy);
    let reason = status["reason"].as_str().expect("a reason");
    assert!(
        reason.contains("compared before/after, not side by side"),
        "{status:#}"
    );
    assert_eq!(share(&proxy), "0%");
    let seen = green.hits();
    pause(Duration::from_millis(300));
    assert_eq!(green.hits(), seen, "blue answers all");
    assert_eq!(load.end().1, 0, "the shield answers for green");
}

#[test]
fn promote_and_abort_during_a_verdict_end_it_once() {
    let (v1, v2) = (Version::new("v1", 0), Version::new("v2", 200));
    let proxy = serve(&service(&v1, &v2, "1.1.0", "steps = [\"10% for 60s\"]"));
    let load = Load::start(proxy.port);
    until_state(&proxy, "rolled-back");
    for verb in ["promote", "abort", "pause"] {
        let refused = proxy.local(&[verb, "app"]);
        assert_eq!(refused.code, 1, "{verb}: {refused:?}");
        assert!(
            refused.stderr.contains("the rollout is rolled-back"),
            "{refused:?}"
        );
    }
    assert_eq!(proxy.metrics().sum("cutover_rollbacks_total", &[]), 1.0);
    load.end();
}

#[test]
fn a_rollback_names_the_failures_that_stable_does_not_have() {
    let (v1, v2) = (Version::new("v1", 0), Version::new("v2", 200));
    let proxy = serve(&service(&v1, &v2, "1.1.0", "steps = [\"10% for 60s\"]"));
    let load = Load::start(proxy.port);
    until_state(&proxy, "rolled-back");
    load.end();
    let notice = "failures that v1 doesn't have: v2: 500 upstream-status at /, ";
    until("the notice", || proxy.log().contains(notice).then_some(()));
    let journals = proxy.dir().join("state/rollouts");
    until("the journal's entry", || {
        let files = std::fs::read_dir(&journals).ok()?.flatten();
        let texts = files.filter_map(|file| std::fs::read_to_string(file.path()).ok());
        texts.collect::<String>().contains(notice).then_some(())
    });
}

/// A Prometheus that scrapes the proxy. `None` if there is no `prometheus` on the path.
fn prometheus(proxy: &Proxy, port: u16) -> Option<Ended> {
    let config = proxy.dir().join("prometheus.yml");
    let text = format!(
        "global: {{ scrape_interval: 1s }}\nscrape_configs: [{{ job_name: cutover, static_configs: [{{ targets: ['127.0.0.1:{}'] }}] }}]\n",
        proxy.admin
    );
    std::fs::write(&config, text).expect("its configuration");
    let child = Command::new("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            proxy.dir().join("prometheus").display()
        ))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    child.ok().map(Ended)
}

#[test]
fn a_real_prometheus_that_is_killed_holds_the_step_until_it_answers_again() {
    let port = free_port();
    let (v1, v2) = (Version::new("v1", 0), Version::new("v2", 0));
    let plan = format!(
        "steps = [\"10% for 1h\"]\n[[service.app.rollout.query]]\nprometheus = \"http://127.0.0.1:{port}\"\n\
         query = 'sum(http_requests_total{{version=\"v2\",status=\"500\"}}) or vector(0)'\npass = \"< 1\"\nevery = \"1s\"\nfails = 2"
    );
    let proxy = serve(&service(&v1, &v2, "1.1.0", &plan));
    let Some(first) = prometheus(&proxy, port) else {
        eprintln!("skipped: no prometheus on the path");
        return;
    };
    let load = Load::start(proxy.port);
    let why = || rollout(&proxy)["reason"].as_str().unwrap_or("").to_owned();
    until("its answers", || {
        (state(&proxy) == "step" && v2.hits() > 20).then_some(())
    });
    drop(first);
    until("held", || {
        (state(&proxy) == "held" && why().starts_with("no answer to a query: ")).then_some(())
    });
    assert_eq!(share(&proxy), "10%");
    let second = prometheus(&proxy, port);
    until_state(&proxy, "step");
    assert_eq!(load.end().1, 0);
    drop(second);
    // A failure that only the query counts: the guard needs more than one.
    v2.failing.store(1000, std::sync::atomic::Ordering::SeqCst);
    let _third = prometheus(&proxy, port);
    let mut client = Client::new(proxy.port);
    for _ in 0..10 {
        client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
        client.answer("GET");
    }
    until_state(&proxy, "rolled-back");
    assert!(
        why().starts_with("query `sum(http_requests_total"),
        "{}",
        why()
    );
}
