//! The ceilings of a version through the real binary: HTTP/2 connections, and retries.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::h2_origin::H2Origin;
use crate::support::origin::Origin;
use crate::support::proxy::{Builder, Proxy, serve, single};
use crate::support::until;
use crate::support::wire::Message;

/// With one worker, so that connections are not shared out by chance.
fn alone(rest: &str) -> Proxy {
    let head = "listen = \"127.0.0.1:$PORT\"\nadmin = \"127.0.0.1:$ADMIN\"\nworkers = 1\n\
                state_dir = \"$DIR/state\"\n";
    Builder::new(&format!("{head}{rest}")).start()
}

fn pair(one: &str, other: &str, more: &str) -> String {
    format!(
        "[service.app]\nstable = \"v1\"\nbalance = \"round_robin\"\n{more}\n\
         [service.app.versions]\nv1 = [\"{one}\", \"{other}\"]\n"
    )
}

fn of(proxy: &Proxy, gauge: &str) -> f64 {
    proxy.metrics().sum(gauge, &[("version", "v1")])
}

#[test]
fn an_idle_http2_connection_gives_way_where_another_is_waited_for() {
    let (one, other) = (H2Origin::named("one"), H2Origin::named("other"));
    let more = "limits.connections = 1";
    let proxy = alone(&pair(&one.h2c(), &other.h2c(), more));
    let mut client = proxy.client();
    for _ in 0..6 {
        assert_eq!(client.get("/").status(), 200);
        assert!(of(&proxy, "cutover_upstream_connections") <= 1.0);
    }
    assert!(one.connections() > 0 && other.connections() > 0);
}

#[test]
fn a_busy_http2_connection_counts_against_the_ceiling() {
    let (one, other) = (
        H2Origin::script(|x| x.never()),
        H2Origin::script(|x| x.never()),
    );
    let more = "limits.connections = 1\nretry.tries = 1";
    let proxy = alone(&pair(&one.h2c(), &other.h2c(), more));
    let active = || one.active() + other.active();
    let mut first = proxy.client();
    first.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    until("the first holds the connection", || {
        (active() == 1).then_some(())
    });
    let mut second = proxy.client();
    second.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    until("the second waits", || {
        (of(&proxy, "queue_depth") == 1.0).then_some(())
    });
    assert_eq!(
        (active(), of(&proxy, "cutover_upstream_connections")),
        (1, 1.0)
    );
    first.reset();
    until("the second has its turn", || {
        (of(&proxy, "queue_depth") == 0.0 && active() == 1).then_some(())
    });
}

#[test]
fn a_ceiling_of_connections_that_stays_full_is_told_over_http2_too() {
    let (one, other) = (
        H2Origin::script(|x| x.never()),
        H2Origin::script(|x| x.never()),
    );
    let more = "limits.connections = 1\nretry.tries = 1\ntimeouts.first_byte = \"1s\"";
    let proxy = alone(&pair(&one.h2c(), &other.h2c(), more));
    let busy = "HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut first = proxy.client();
    // Its body is still to come, so that its time for the answer hasn't begun.
    first.send(format!("POST / {busy}"));
    until("it holds the connection", || {
        (one.active() + other.active() == 1).then_some(())
    });
    let answer = proxy.client().get("/");
    assert_eq!(answer.status(), 503);
    let reason = answer.field("x-cutover-reason");
    assert_eq!(reason.as_deref(), Some("limit-connections"));
    let rejected = [("version", "v1"), ("limit", "connections")];
    assert_eq!(
        proxy
            .metrics()
            .sum("cutover_limit_rejections_total", &rejected),
        1.0
    );
}

#[test]
fn requests_that_wait_for_a_stream_count_under_pending_and_are_the_proxys_to_refuse() {
    let origin = H2Origin::narrow(1, |x| x.never());
    let more = "limits.connections = 1\nlimits.pending = 3\nretry.tries = 1\n\
                timeouts.first_byte = \"1s\"";
    let proxy = alone(&single(&origin.h2c(), more));
    let mut first = proxy.client();
    // Its body is still to come, so that its time for the answer hasn't begun.
    first.send("POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n");
    until("it holds the only stream", || {
        (origin.active() == 1).then_some(())
    });
    let mut waiting = [(); 3].map(|()| proxy.client());
    for client in &mut waiting {
        client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    }
    until("three wait for a stream", || {
        (of(&proxy, "queue_depth") == 3.0).then_some(())
    });
    let told = |answer: &Message| (answer.status(), answer.field("x-cutover-reason"));
    let reason = |reason: &str| (503, Some(reason.to_owned()));
    let began = Instant::now();
    assert_eq!(told(&proxy.client().get("/")), reason("limit-pending"));
    assert!(began.elapsed() < Duration::from_millis(900), "not at once");
    for client in &mut waiting {
        assert_eq!(told(&client.answer("GET")), reason("limit-streams"));
    }
    assert_eq!(origin.heads().len(), 1, "nothing of theirs was sent");
    let metrics = proxy.metrics();
    let rejected = |limit| {
        let labels = [("version", "v1"), ("limit", limit)];
        metrics.sum("cutover_limit_rejections_total", &labels)
    };
    assert_eq!(["pending", "streams"].map(rejected), [1.0, 3.0]);
}

#[test]
fn requests_that_wait_until_a_connection_is_open_are_not_refused() {
    let origin = H2Origin::named("v1");
    let proxy = alone(&single(
        &origin.h2c(),
        "limits.pending = 1\nretry.tries = 1",
    ));
    let mut clients: Vec<_> = (0..12).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    }
    for client in &mut clients {
        assert_eq!(client.answer("GET").status(), 200);
    }
}

#[test]
fn a_retry_of_a_retry_takes_one_place_only() {
    let asked = AtomicUsize::new(0);
    let origin = Origin::each(move |_, conn| {
        if asked.fetch_add(1, Ordering::SeqCst) < 2 {
            conn.reply(503, "not yet")
        } else {
            conn.reply(200, "now")
        }
    });
    let more = "retry.budget = \"100%\"\nretry.tries = 3\nlimits.retries = 1\n\
                outlier.consecutive_5xx = 0\noutlier.consecutive_gateway = 0";
    let proxy = serve(&single(&origin.at(), more));
    assert_eq!(proxy.client().get("/").text(), "now");
    assert_eq!(origin.hits(), 3);
}
