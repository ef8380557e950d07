//! `hedge`: a second try beside a first one that takes long.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;

use crate::support::h2_client::H2;
use crate::support::h2_origin::H2Origin;
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, serve};
use crate::support::{PATIENCE, block_on, pause, until};

/// Longer than a test waits for a hedged response.
const LONG: Duration = Duration::from_secs(30);

/// In turn, without ejection, and with these keys of the service.
fn file(endpoints: &[String], more: &str) -> String {
    let all: Vec<_> = endpoints.iter().map(|e| format!("\"{e}\"")).collect();
    format!(
        "[service.app]\nbalance = \"round_robin\"\nretry.budget = \"100%\"\n{more}\n\
         [service.app.outlier]\nconsecutive_5xx = 0\nconsecutive_gateway = 0\n\
         [service.app.versions]\nv1 = [{}]\n",
        all.join(", ")
    )
}

fn hedges(proxy: &Proxy) -> f64 {
    let labels = [("service", "app"), ("reason", "hedge")];
    proxy.metrics().sum("cutover_retries_total", &labels)
}

fn wins(proxy: &Proxy) -> f64 {
    proxy.metrics().sum("cutover_hedge_wins_total", &[])
}

/// An origin that answers no request, and how many of its connections the proxy has closed while it waited.
fn hanging() -> (Origin, Arc<AtomicUsize>) {
    let closed = Arc::new(AtomicUsize::new(0));
    let count = closed.clone();
    let origin = Origin::each(move |_, conn| {
        if conn.peer_closes(LONG)? {
            count.fetch_add(1, Ordering::SeqCst);
        }
        Err(std::io::Error::other("the request is over"))
    });
    (origin, closed)
}

#[test]
fn a_slow_endpoint_is_hedged_by_the_other_and_its_try_is_cancelled() {
    let ((slow, closed), quick) = (hanging(), Origin::named("quick"));
    let log = "hedge = \"30ms\"\n[access_log]\nto = \"$DIR/access.log\"\n";
    let (head, tail) = log.split_once('\n').expect("two parts");
    let proxy = serve(&format!("{}{tail}", file(&[slow.at(), quick.at()], head)));
    let mut client = proxy.client();
    let began = Instant::now();
    for _ in 0..10 {
        let answer = client.get("/");
        assert_eq!((answer.status(), answer.text().as_str()), (200, "quick"));
    }
    assert!(began.elapsed() < LONG / 2);
    let asked = slow.hits();
    assert!(asked >= 4, "{asked}");
    until("every cancelled try is closed", || {
        (closed.load(Ordering::SeqCst) == asked && slow.open() == 0).then_some(())
    });
    assert_eq!((hedges(&proxy), wins(&proxy)), (asked as f64, asked as f64));
    // Nothing is charged for it: neither as an attempt nor as a failure.
    let metrics = proxy.metrics();
    assert_eq!(
        metrics.sum("http_requests_total", &[("status", "200")]),
        10.0
    );
    assert_eq!(metrics.sum("http_requests_total", &[]), 10.0);
    assert_eq!(metrics.sum("cutover_upstream_failures_total", &[]), 0.0);
    assert_eq!(metrics.sum("http_requests_in_flight", &[]), 0.0);
    let lines = until("the log has all lines", || {
        let text = std::fs::read_to_string(proxy.dir().join("access.log")).ok()?;
        (text.lines().count() == 10).then_some(text)
    });
    let hedged = lines.lines().filter_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let tries = line["tries"].as_array()?.clone();
        Some((line, tries))
    });
    let mut count = 0;
    for (line, tries) in hedged {
        count += 1;
        assert_eq!(line["endpoint"], quick.at());
        assert_eq!(tries[0]["endpoint"], slow.at());
        assert_eq!(tries[0]["reason"], "hedged");
        assert_eq!(tries[0]["origin"], "proxy");
        assert_eq!(tries[1]["endpoint"], quick.at());
        assert_eq!(tries[1]["status"], 200);
    }
    assert_eq!(count, asked);
}

#[test]
fn the_first_try_may_still_win_and_then_the_second_is_cancelled() {
    let answers = Arc::new(AtomicBool::new(false));
    let (asked, closed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let origin = || {
        let (answers, asked, closed) = (answers.clone(), asked.clone(), closed.clone());
        Origin::each(move |_, conn| {
            if asked.fetch_add(1, Ordering::SeqCst) > 0 {
                closed.fetch_add(usize::from(conn.peer_closes(LONG)?), Ordering::SeqCst);
                return Err(std::io::Error::other("the request is over"));
            }
            until("the second try is out", || {
                answers.load(Ordering::SeqCst).then_some(())
            });
            conn.reply(200, "first")
        })
    };
    let (a, b) = (origin(), origin());
    let proxy = serve(&file(&[a.at(), b.at()], "hedge = \"20ms\""));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    until("both have the request", || {
        (a.hits() == 1 && b.hits() == 1).then_some(())
    });
    answers.store(true, Ordering::SeqCst);
    assert_eq!(client.answer("GET").text(), "first");
    until("the other try is closed", || {
        (closed.load(Ordering::SeqCst) == 1).then_some(())
    });
    assert_eq!((hedges(&proxy), wins(&proxy)), (1.0, 0.0));
    assert_eq!(proxy.metrics().sum("http_requests_total", &[]), 1.0);
}

#[test]
fn only_requests_that_may_be_sent_twice_are_hedged() {
    let slow = || {
        Origin::each(|request, conn| {
            pause(Duration::from_millis(150));
            conn.reply(200, &String::from_utf8_lossy(&request.body))
        })
    };
    let (a, b) = (slow(), slow());
    let proxy = serve(&file(&[a.at(), b.at()], "hedge = \"10ms\""));
    let mut client = proxy.client();
    let body = "content-length: 4\r\n\r\nbody";
    let post = format!("POST / HTTP/1.1\r\nhost: test\r\n{body}");
    assert_eq!(client.ask(&post).text(), "body");
    let chunked =
        "PUT / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n";
    assert_eq!(client.ask(chunked).text(), "body");
    let upgrade = "GET / HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: other\r\n\r\n";
    assert_eq!(client.ask(upgrade).status(), 200);
    assert_eq!((a.hits() + b.hits(), hedges(&proxy)), (3, 0.0));
    // A short body is in memory.
    let put = format!("PUT / HTTP/1.1\r\nhost: test\r\n{body}");
    assert_eq!(client.ask(&put).text(), "body");
    until("both have it", || (a.hits() + b.hits() == 5).then_some(()));
    assert_eq!(hedges(&proxy), 1.0);
}

#[test]
fn a_put_is_sent_whole_by_the_second_try() {
    let ((slow, _), quick) = (hanging(), Origin::echo());
    let proxy = serve(&file(&[slow.at(), quick.at()], "hedge = \"20ms\""));
    let mut client = proxy.client();
    let body = "x".repeat(20_000);
    for _ in 0..4 {
        let head = format!(
            "PUT /p HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let answer = client.ask(&format!("{head}{body}"));
        assert!(answer.text().starts_with("PUT /p HTTP/1.1\r\n"));
        assert!(answer.text().ends_with(&format!("\r\n\r\n{body}")));
    }
    assert!(wins(&proxy) >= 1.0);
}

#[test]
fn the_budget_and_a_lack_of_endpoints_forbid_it() {
    let slow = || {
        Origin::each(|_, conn| {
            pause(Duration::from_millis(60));
            conn.reply(200, "")
        })
    };
    let (a, b) = (slow(), slow());
    let text = file(&[a.at(), b.at()], "hedge = \"5ms\"");
    let proxy = serve(&text.replace("\"100%\"", "\"10%\""));
    let mut client = proxy.client();
    for _ in 0..40 {
        assert_eq!(client.get("/").status(), 200);
    }
    // A reserve of ten tokens over the workers, and four that were earned.
    let spent = hedges(&proxy);
    assert!((1.0..=14.0).contains(&spent), "{spent}");

    let alone = serve(&file(&[a.at()], "hedge = \"5ms\""));
    assert_eq!(alone.get("/").status(), 200);
    assert_eq!(hedges(&alone), 0.0);

    let full = serve(&file(
        &[a.at(), b.at()],
        "hedge = \"5ms\"\nlimits.requests = 1",
    ));
    assert_eq!(full.get("/").status(), 200);
    assert_eq!(hedges(&full), 0.0);
}

#[test]
fn a_response_that_is_retried_does_not_win() {
    let good = Origin::each(|_, conn| {
        pause(Duration::from_millis(500));
        conn.reply(200, "good")
    });
    let fails = || {
        Origin::each(|_, conn| {
            pause(Duration::from_millis(200));
            conn.reply(503, "bad")
        })
    };
    let (bad, worse) = (fails(), fails());
    let proxy = serve(&file(&[good.at(), bad.at()], "hedge = \"20ms\""));
    let mut client = proxy.client();
    for n in 0..4 {
        if n == 2 {
            // Each hedged request takes both endpoints in turn: after one that isn't hedged, the others begin at the other one.
            client.ask("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\n\r\n");
        }
        assert_eq!(client.get("/").text(), "good");
    }
    assert_eq!(good.hits() + bad.hits(), 9);
    assert_eq!(hedges(&proxy), 4.0);
    let charged = [("status", "503")];
    let charged = proxy.metrics().sum("http_requests_total", &charged);
    assert_eq!(charged, bad.hits() as f64);

    // Both fail: the client gets a response and not one of the proxy's own.
    let proxy = serve(&file(&[bad.at(), worse.at()], "hedge = \"20ms\""));
    assert_eq!(proxy.get("/").text(), "bad");
}

#[test]
fn a_second_try_takes_over_when_the_first_fails() {
    let good = Origin::each(|_, conn| {
        pause(Duration::from_millis(150));
        conn.reply(200, "good")
    });
    let breaks = Origin::each(|_, conn| {
        pause(Duration::from_millis(60));
        conn.reset()?;
        Err(std::io::Error::other("reset"))
    });
    let proxy = serve(&file(&[breaks.at(), good.at()], "hedge = \"20ms\""));
    let mut client = proxy.client();
    for _ in 0..4 {
        assert_eq!(client.get("/").text(), "good");
    }
    assert_eq!(good.hits(), 4, "no further try");
    let failures = breaks.hits() as f64;
    let labels = [("reason", "upstream-reset")];
    let charged = || {
        proxy
            .metrics()
            .sum("cutover_upstream_failures_total", &labels)
    };
    assert!(failures >= 2.0);
    assert_eq!(charged(), failures);
}

#[test]
fn a_client_that_leaves_cancels_both() {
    let ((a, a_closed), (b, b_closed)) = (hanging(), hanging());
    let proxy = serve(&file(&[a.at(), b.at()], "hedge = \"20ms\""));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    until("both have the request", || {
        (a.hits() == 1 && b.hits() == 1).then_some(())
    });
    client.reset();
    until("both are closed", || {
        let closed = a_closed.load(Ordering::SeqCst) + b_closed.load(Ordering::SeqCst);
        (closed == 2).then_some(())
    });
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("http_requests_total", &[]), 0.0);
    assert_eq!(metrics.sum("http_requests_in_flight", &[]), 0.0);
}

#[test]
fn streams_are_hedged_on_both_sides() {
    let (slow, quick) = (H2Origin::script(|x| x.never()), H2Origin::named("quick"));
    let proxy = serve(&file(&[slow.h2c(), quick.h2c()], "hedge = \"30ms\""));
    block_on(async {
        let client = H2::connect(proxy.port).await;
        let url = format!("http://127.0.0.1:{}/", proxy.port);
        for _ in 0..6 {
            let answer = client.get(&url).await.expect("a response");
            assert_eq!((answer.status, &answer.body[..]), (200, &b"quick"[..]));
        }
        let put = Request::put(&url).header("content-length", "4").body(());
        let put = put.expect("a request");
        let answer = client.ask(put, Bytes::from_static(b"body")).await;
        assert_eq!(answer.expect("a response").status, 200);
    });
    let asked = slow.heads().len();
    assert!(asked >= 3, "{asked}");
    until("each of the streams is reset", || {
        (slow.resets() == asked && slow.active() == 0).then_some(())
    });
    assert_eq!(wins(&proxy), asked as f64);
}

#[test]
fn a_quantile_hedges_once_enough_requests_are_known() {
    let stalls = Arc::new(AtomicBool::new(false));
    let origin = |name: &'static str, stalls: Option<Arc<AtomicBool>>| {
        Origin::each(move |_, conn| {
            if stalls.as_ref().is_some_and(|s| s.load(Ordering::SeqCst)) {
                conn.peer_closes(LONG)?;
                return Err(std::io::Error::other("over"));
            }
            conn.reply(200, name)
        })
    };
    let (a, b) = (origin("a", Some(stalls.clone())), origin("b", None));
    let keys = "hedge = \"p95\"\ntimeouts.first_byte = \"1s\"";
    let proxy = serve(&file(&[a.at(), b.at()], keys));
    let mut client = proxy.client();
    for _ in 0..120 {
        assert_eq!(client.get("/").status(), 200);
    }
    stalls.store(true, Ordering::SeqCst);
    // The quantile is taken once a second. Until then requests time out, and the retry answers.
    until("a second try answers", || {
        assert_eq!(client.get("/").text(), "b");
        (wins(&proxy) > 0.0).then_some(())
    });
    let (began, before) = (Instant::now(), wins(&proxy));
    for _ in 0..6 {
        assert_eq!(client.get("/").text(), "b");
    }
    assert!(began.elapsed() < PATIENCE / 2);
    assert!(wins(&proxy) >= before + 2.0);
}

#[test]
fn a_session_that_is_bound_to_an_endpoint_stays_there() {
    let slow = |name: &'static str| {
        Origin::each(move |_, conn| {
            pause(Duration::from_millis(100));
            conn.reply(200, name)
        })
    };
    let (a, b) = (slow("a"), slow("b"));
    let keys = "hedge = \"10ms\"\nsticky = { to = \"endpoint\" }";
    let proxy = serve(&file(&[a.at(), b.at()], keys));
    let mut client = proxy.client();
    let first = client.get("/");
    let cookie = first.field("set-cookie").expect("a cookie");
    let cookie = cookie.split(';').next().expect("its value");
    let before = hedges(&proxy);
    assert_eq!(before, 1.0, "the first request has no session yet");
    for _ in 0..4 {
        let request = format!("GET / HTTP/1.1\r\nhost: test\r\ncookie: {cookie}\r\n\r\n");
        assert_eq!(client.ask(&request).text(), first.text());
    }
    assert_eq!(hedges(&proxy), before);
}

#[test]
fn edits_of_the_second_try_name_its_endpoint() {
    let ((slow, _), quick) = (hanging(), Origin::echo());
    let edits = "hedge = \"20ms\"\nrewrite = { prefix = \"/v2\" }\n\
                 headers.request.set = { x-endpoint = \"{endpoint}\", x-id = \"{request_id}\" }";
    let proxy = serve(&file(&[slow.at(), quick.at()], edits));
    let mut client = proxy.client();
    for _ in 0..4 {
        let seen = client.get("/x").text();
        assert!(seen.starts_with("GET /v2/x HTTP/1.1\r\n"), "{seen}");
        assert!(
            seen.contains(&format!("x-endpoint: {}\r\n", quick.at())),
            "{seen}"
        );
        assert!(seen.contains("\r\nx-id: "), "{seen}");
    }
    assert!(wins(&proxy) >= 1.0);
}

/// The loser's time until it was cancelled is the least that its endpoint would have needed.
#[test]
fn a_cancelled_try_does_not_make_its_endpoint_look_quick() {
    let ((slow, _), quick) = (hanging(), Origin::named("quick"));
    let text = file(&[slow.at(), quick.at()], "hedge = \"50ms\"");
    let proxy = serve(&text.replace("round_robin", "peak_ewma"));
    let mut client = proxy.client();
    for _ in 0..60 {
        assert_eq!(client.get("/").text(), "quick");
    }
    // Once on each of the workers that the connection may be on, and again where its estimate has been forgotten in between.
    let asked = slow.hits();
    assert!((1..=4).contains(&asked), "{asked}");
    assert_eq!(hedges(&proxy), asked as f64);
}

/// The second try takes a kept connection that its endpoint closes without a word: it opens another one.
#[test]
fn a_second_try_survives_a_kept_connection_that_is_stale() {
    let stalls = Arc::new(AtomicBool::new(false));
    let stall = stalls.clone();
    let slow = Origin::each(move |_, conn| {
        if stall.load(Ordering::SeqCst) {
            conn.peer_closes(LONG)?;
            return Err(std::io::Error::other("the request is over"));
        }
        conn.reply(200, "slow")
    });
    // Answers the first request of a connection, and closes it at the second.
    let quick = Origin::script(|conn| {
        if conn.request()?.is_some() {
            conn.reply(200, "quick")?;
            conn.request()?;
        }
        Ok(())
    });
    let proxy = serve(&file(&[slow.at(), quick.at()], "hedge = \"30ms\""));
    let mut client = proxy.client();
    // In turn: the next one begins at the slow endpoint, and the quick one has a kept connection.
    while client.get("/").text() != "quick" {}
    stalls.store(true, Ordering::SeqCst);
    let connections = quick.connections();
    assert_eq!(client.get("/").text(), "quick");
    assert_eq!((hedges(&proxy), wins(&proxy)), (1.0, 1.0));
    assert!(quick.connections() > connections);
    let failures = [("service", "app")];
    let charged = proxy
        .metrics()
        .sum("cutover_upstream_failures_total", &failures);
    assert_eq!(charged, 0.0, "a stale connection is no failure");
}

#[test]
fn an_endpoint_that_a_reload_removes_may_still_answer_either_try() {
    let release = Arc::new(AtomicBool::new(false));
    let waits = |name: &'static str| {
        let release = release.clone();
        Origin::each(move |_, conn| {
            until("it may answer", || {
                release.load(Ordering::SeqCst).then_some(())
            });
            conn.reply(200, name)
        })
    };
    for removed in [0, 1] {
        release.store(false, Ordering::SeqCst);
        let origins = [waits("a"), waits("b")];
        let (hanging, _closed) = hanging();
        let both = [origins[0].at(), origins[1].at()];
        let proxy = serve(&file(&both, "hedge = \"20ms\""));
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
        until("both have the request", || {
            (origins[0].hits() == 1 && origins[1].hits() == 1).then_some(())
        });
        let mut left = both.clone();
        left[removed] = hanging.at();
        proxy.edit(&file(&left, "hedge = \"20ms\""));
        release.store(true, Ordering::SeqCst);
        let answer = client.answer("GET");
        assert_eq!(answer.status(), 200, "{}", answer.text());
        assert_eq!(hedges(&proxy), 1.0);
        until("nothing is in flight", || {
            let metrics = proxy.metrics();
            (metrics.sum("http_requests_in_flight", &[]) == 0.0).then_some(())
        });
        let metrics = proxy.metrics();
        assert_eq!(metrics.sum("http_requests_total", &[]), 1.0);
        assert_eq!(metrics.sum("cutover_upstream_failures_total", &[]), 0.0);
    }
}

/// Second tries would count one event twice.
#[test]
fn the_guard_of_a_rollout_counts_first_tries_only() {
    let pair = || {
        let slow = Origin::each(|_, conn| {
            pause(Duration::from_millis(60));
            conn.reply(200, "slow")
        });
        (slow, Origin::named("quick"))
    };
    let (stable, canary) = (pair(), pair());
    let proxy = serve(&format!(
        "[service.app]\nstable = \"v1\"\nsplit = {{ v2 = \"rollout\" }}\nbalance = \"round_robin\"\nhedge = \"15ms\"\n\
         retry.budget = \"100%\"\n[service.app.versions]\nv1 = [\"{}\", \"{}\"]\nv2 = [\"{}\", \"{}\"]\n\
         [service.app.rollout]\nsteps = [\"50% until approved\"]\n",
        stable.0.at(),
        stable.1.at(),
        canary.0.at(),
        canary.1.at()
    ));
    let counted = || {
        let counted = proxy.status()["services"][0]["rollout"]["counted"].clone();
        let of = |side: &str| counted[side].as_u64().unwrap_or(0);
        of("canary_requests") + of("stable_requests")
    };
    let mut client = proxy.client();
    let share = || proxy.status()["services"][0]["split"]["effective"]["v2"] == "50%";
    until("the step", || share().then_some(()));
    until("the guard counts", || {
        client.get("/");
        (counted() > 0).then_some(())
    });
    // The guard reads the counters once per second.
    let settled = || {
        pause(Duration::from_millis(2200));
        counted()
    };
    let (before, hedged) = (settled(), hedges(&proxy));
    for _ in 0..40 {
        assert_eq!(client.get("/").status(), 200);
    }
    assert!(hedges(&proxy) >= hedged + 10.0, "{}", hedges(&proxy));
    assert_eq!(settled() - before, 40);
}
