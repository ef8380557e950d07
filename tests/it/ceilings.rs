//! The ceilings of a version through the real binary: HTTP/2 connections, and retries.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::h2_origin::H2Origin;
use crate::support::origin::Origin;
use crate::support::proxy::{Builder, Proxy, serve, single};
use crate::support::until;

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
