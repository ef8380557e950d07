//! `wait`: requests that wait while no endpoint is usable.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::client::Client;
use crate::support::h2_client::H2;
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, serve, single};
use crate::support::wire::Message;
use crate::support::{block_on, free_port, pause, until};

/// Answers each connection once and closes it, so that nothing is kept of an origin that goes away.
fn once_at(port: u16, name: &'static str, takes: Duration) -> Origin {
    Origin::script_at(port, move |conn| {
        let Some(request) = conn.request()? else {
            return Ok(());
        };
        pause(takes);
        let body = format!("{name} {}", request.body.len());
        conn.write(
            format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            )
            .as_bytes(),
        )
    })
}

fn at(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

fn waiting(proxy: &Proxy, count: f64) {
    until("so many requests wait", || {
        (proxy.metrics().sum("queue_depth", &[]) == count).then_some(())
    });
}

/// Sends a request on a connection of its own and returns the connection.
fn sent(proxy: &Proxy, request: &str) -> Client {
    let mut client = proxy.client();
    client.patience(Duration::from_secs(60));
    client.send(request);
    client
}

const GET: &str = "GET / HTTP/1.1\r\nhost: test\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\nhello";

fn reason(answer: &Message) -> Option<String> {
    answer.field("x-cutover-reason")
}

#[test]
fn requests_of_every_method_wait_for_a_refusing_endpoint_to_come_back() {
    let port = free_port();
    let proxy = serve(&single(&at(port), "wait = \"60s\""));
    let mut clients: Vec<_> = (0..10).map(|_| sent(&proxy, GET)).collect();
    clients.extend((0..10).map(|_| sent(&proxy, POST)));
    let over_h2 = thread::spawn({
        let port = proxy.port;
        move || block_on(async { H2::connect(port).await.get("http://test/").await })
    });
    waiting(&proxy, 21.0);
    let _origin = once_at(port, "v1", Duration::ZERO);
    for (n, client) in clients.iter_mut().enumerate() {
        let answer = client.answer("GET");
        let expected = if n < 10 { "v1 0" } else { "v1 5" };
        assert_eq!((answer.status(), answer.text().as_str()), (200, expected));
    }
    let answer = over_h2.join().expect("a thread").expect("an answer");
    assert_eq!(answer.status, 200);
    waiting(&proxy, 0.0);
    let of_service = [("service", "app"), ("status", "200")];
    until("they are counted", || {
        let served = { proxy.metrics() }.sum("cutover_service_requests_total", &of_service);
        (served == 21.0).then_some(())
    });
}

#[test]
fn requests_wait_while_checks_fail_and_go_on_when_they_pass() {
    let up = Arc::new(AtomicBool::new(false));
    let origin = Origin::each({
        let up = up.clone();
        move |request, conn| match (request.target().as_str(), up.load(Ordering::SeqCst)) {
            ("/ready", false) => conn.reply(503, "not yet"),
            _ => conn.reply(200, "v1"),
        }
    });
    let more = "wait = \"60s\"\nhealth = { path = \"/ready\", interval = \"50ms\", timeout = \"50ms\", rise = 1 }";
    let proxy = serve(&single(&origin.at(), more));
    let mut clients: Vec<_> = (0..5).map(|_| sent(&proxy, GET)).collect();
    waiting(&proxy, 5.0);
    let asked = |request: &Message| request.target() == "/";
    assert!(
        !origin.requests().iter().any(asked),
        "none is tried in panic"
    );
    up.store(true, Ordering::SeqCst);
    for client in &mut clients {
        assert_eq!(client.answer("GET").text(), "v1");
    }
}

#[test]
fn a_wait_that_is_in_vain_ends() {
    let port = free_port();
    let proxy = serve(&single(&at(port), "wait = \"300ms\""));
    let answer = proxy.get("/");
    assert_eq!(answer.status(), 502);
    assert_eq!(reason(&answer).as_deref(), Some("connect-refused"));
    let limited = "wait = \"60s\"\ntimeouts.total = \"300ms\"";
    proxy.edit(&single(&at(port), limited));
    assert_eq!(proxy.get("/").status(), 502, "timeouts.total ends it too");
    waiting(&proxy, 0.0);
}

#[test]
fn a_request_above_wait_pending_fails_at_once() {
    let port = free_port();
    let proxy = serve(&single(&at(port), "wait = \"60s\"\nwait_pending = 1"));
    let first = sent(&proxy, GET);
    // Requests that wait for a connection count in `queue_depth` too: only after the refusal it is one that is held.
    until("it is refused", || {
        let labels = [("reason", "connect-refused")];
        let failed = { proxy.metrics() }.sum("cutover_upstream_failures_total", &labels);
        (failed >= 1.0).then_some(())
    });
    waiting(&proxy, 1.0);
    let answer = proxy.get("/");
    assert_eq!(answer.status(), 503);
    assert_eq!(reason(&answer).as_deref(), Some("limit-wait-pending"));
    let labels = [("limit", "wait_pending")];
    until("it is counted", || {
        let refused = { proxy.metrics() }.sum("cutover_limit_rejections_total", &labels);
        (refused == 1.0).then_some(())
    });
    first.reset();
    waiting(&proxy, 0.0);
    let _second = sent(&proxy, GET);
    waiting(&proxy, 1.0);
}

#[test]
fn an_edit_of_the_file_moves_waiting_requests_to_the_new_version() {
    let blue = free_port();
    let green = Origin::named("green");
    let file = |stable: &str| {
        format!(
            "[service.app]\nstable = \"{stable}\"\nwait = \"60s\"\n[service.app.versions]\n\
             blue = [\"{}\"]\ngreen = [\"{}\"]\n",
            at(blue),
            green.at()
        )
    };
    let proxy = serve(&file("blue"));
    let mut clients = [sent(&proxy, GET), sent(&proxy, POST)];
    waiting(&proxy, 2.0);
    proxy.edit(&file("green"));
    for client in &mut clients {
        assert_eq!(client.answer("GET").text(), "green");
    }
}

#[test]
fn waiting_requests_are_released_at_the_pace_of_the_limit() {
    let port = free_port();
    let more = "wait = \"60s\"\nlimits.requests = 3";
    let proxy = serve(&single(&at(port), more));
    let mut clients: Vec<_> = (0..30).map(|_| sent(&proxy, GET)).collect();
    waiting(&proxy, 30.0);
    let (active, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let _origin = Origin::script_at(port, {
        let most = most.clone();
        move |conn| {
            if conn.request()?.is_none() {
                return Ok(());
            }
            most.fetch_max(1 + active.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
            pause(Duration::from_millis(20));
            active.fetch_sub(1, Ordering::SeqCst);
            conn.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        }
    });
    for client in &mut clients {
        assert_eq!(client.answer("GET").status(), 200);
    }
    assert!(most.load(Ordering::SeqCst) <= 3);
}

/// The service that can only run once: the old process ends, and the new one starts later at the same address.
#[test]
fn a_recreate_deployment_under_load_loses_no_request() {
    let port = free_port();
    let old = once_at(port, "old", Duration::ZERO);
    let proxy = serve(&single(&at(port), "wait = \"60s\""));
    let (stop, mut new) = (AtomicBool::new(false), None);
    let (served, by_new) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..8 {
            let (proxy, stop, served, by_new) = (&proxy, &stop, &served, &by_new);
            scope.spawn(move || {
                let mut client = proxy.client();
                client.patience(Duration::from_secs(60));
                while !stop.load(Ordering::SeqCst) {
                    // The old process ends abruptly: only idempotent requests survive that.
                    client.send(GET);
                    let answer = client.answer("GET");
                    assert_eq!(answer.status(), 200, "{:?}", reason(&answer));
                    served.fetch_add(1, Ordering::SeqCst);
                    let is_new = answer.text().starts_with("new");
                    by_new.fetch_add(usize::from(is_new), Ordering::SeqCst);
                }
            });
        }
        until("the old process serves", || {
            (served.load(Ordering::SeqCst) > 100).then_some(())
        });
        drop(old);
        waiting(&proxy, 8.0);
        // New clients come during the gap of two seconds, each with a request of its own.
        let late: Vec<_> = (0..100)
            .map(|_| {
                pause(Duration::from_millis(20));
                sent(&proxy, GET)
            })
            .collect();
        // It outlives the clients.
        new = Some(once_at(port, "new", Duration::ZERO));
        for mut client in late {
            let answer = client.answer("GET");
            assert_eq!(answer.status(), 200, "{:?}", reason(&answer));
            assert!(answer.text().starts_with("new"));
        }
        until("the new process serves", || {
            (by_new.load(Ordering::SeqCst) > 100).then_some(())
        });
        stop.store(true, Ordering::SeqCst);
    });
    drop(new);
}
