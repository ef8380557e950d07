//! Limits of single clients: requests by address and header, by listener, service and rule, and connections.

use std::time::Duration;

use crate::support::client::{Client, End};
use crate::support::h2_client::H2;
use crate::support::origin::Origin;
use crate::support::proxy::{Builder, Proxy, serve, single};
use crate::support::wire::Message;
use crate::support::{block_on, until};

/// A file whose listener has these keys.
fn with_listener(keys: &str, endpoint: &str, more: &str) -> Proxy {
    let head = "admin = \"127.0.0.1:$ADMIN\"\nworkers = 2\nstate_dir = \"$DIR/state\"\n\
                [listen.web]\nbind = \"127.0.0.1:$PORT\"\n";
    let text = format!("{head}{keys}\n{}", single(endpoint, more));
    Builder::new(&text).start()
}

fn ask(proxy: &Proxy, target: &str, field: &str) -> Message {
    let request = format!("GET {target} HTTP/1.1\r\nhost: test\r\n{field}\r\n");
    proxy.client().ask(&request)
}

fn reason(answer: &Message) -> Option<String> {
    answer.field("x-cutover-reason")
}

/// Waits until this many requests of the service were refused, and says how many its version got.
fn refused(proxy: &Proxy, service: &str, count: f64) -> f64 {
    let labels = [("service", service), ("reason", "client-limit")];
    until("the refusals are counted", || {
        let metrics = proxy.metrics();
        let refused = metrics.sum("cutover_own_answers_total", &labels);
        assert!(refused <= count, "{refused}");
        (refused == count).then(|| metrics.sum("http_requests_total", &[("version", "v1")]))
    })
}

#[test]
fn a_client_above_the_limit_of_a_service_gets_429() {
    let origin = Origin::named("v1");
    let limits = "client_limits = { requests = \"2/m\" }";
    let proxy = serve(&single(&origin.at(), limits));
    // One connection, which a refusal doesn't close.
    let mut client = proxy.client();
    assert_eq!(client.get("/").status(), 200);
    assert_eq!(client.get("/").status(), 200);
    let answer = client.get("/");
    assert_eq!(answer.status(), 429);
    assert_eq!(reason(&answer).as_deref(), Some("client-limit"));
    let wait = answer.field("retry-after").expect("a retry-after");
    let wait: u32 = wait.parse().expect("seconds");
    assert!((1..=30).contains(&wait), "{wait}");
    // The other worker and the other protocol count together with this one.
    assert_eq!(proxy.get("/").status(), 429);
    let over_h2 = block_on(async {
        let client = H2::connect(proxy.port).await;
        client.get("http://test/").await.expect("an answer")
    });
    assert_eq!(over_h2.status, 429);
    assert!(over_h2.headers.contains_key("retry-after"));
    let of_version = refused(&proxy, "app", 3.0);
    assert_eq!((of_version, origin.hits()), (2.0, 2));
    let metrics = proxy.metrics();
    let failures = metrics.sum(
        "cutover_client_failures_total",
        &[("reason", "client-limit")],
    );
    assert_eq!(failures, 3.0);
    let answered = [("service", "app"), ("status", "429")];
    assert_eq!(
        metrics.sum("cutover_service_requests_total", &answered),
        3.0
    );
    assert!(!metrics.has("cutover_upstream_failures_total", &[]));
}

#[test]
fn a_rule_limits_a_login_in_every_spelling_and_nothing_else() {
    let origin = Origin::named("v1");
    let file = single(&origin.at(), "")
        + "[[service.app.match]]\nwhen = { path = \"/login\" }\nclient_limits = { requests = \"1/m\" }\n";
    let proxy = serve(&file);
    assert_eq!(ask(&proxy, "/login", "").text(), "v1");
    assert_eq!(ask(&proxy, "/login", "").status(), 429);
    assert_eq!(ask(&proxy, "/a/../login", "").status(), 429);
    let other = ask(&proxy, "/log%69n", "");
    assert_eq!(other.status(), 400);
    assert_eq!(reason(&other).as_deref(), Some("ambiguous-path"));
    for _ in 0..5 {
        assert_eq!(ask(&proxy, "/", "").text(), "v1");
    }
    let hits = proxy.metrics().sum("cutover_match_hits_total", &[]);
    assert_eq!(hits, 1.0, "only requests that pass");
}

#[test]
fn every_limit_has_to_be_passed() {
    let origin = Origin::named("v1");
    let keys = "client_limits = { requests = \"3/m\", by = \"header:X-Key\" }";
    let proxy = with_listener(keys, &origin.at(), "client_limits = { requests = \"5/m\" }");
    let status = |key: &str| ask(&proxy, "/", &format!("x-key: {key}\r\n")).status();
    let a: Vec<u16> = (0..4).map(|_| status("a")).collect();
    assert_eq!(a, [200, 200, 200, 429], "the listener's, by key");
    let b: Vec<u16> = (0..3).map(|_| status("b")).collect();
    assert_eq!(b, [200, 200, 429], "the service's, by address");
}

#[test]
fn clients_behind_a_trusted_proxy_are_told_apart() {
    let origin = Origin::named("v1");
    let keys = "trusted_proxies = [\"127.0.0.0/8\"]\n\
                client_limits = { requests = \"1/m\", connections = 1 }";
    let proxy = with_listener(keys, &origin.at(), "");
    // The proxy's own connections aren't limited.
    let _other = proxy.client();
    for n in 1..=20 {
        let field = format!("x-forwarded-for: 192.0.2.{n}\r\n");
        assert_eq!(ask(&proxy, "/", &field).status(), 200, "{n}");
        assert_eq!(ask(&proxy, "/", &field).status(), 429, "{n}");
    }
}

#[test]
fn what_clients_have_used_survives_a_reload_that_keeps_the_limit() {
    let origin = Origin::named("v1");
    let file = |more: &str, rate: &str| {
        let limit = format!("{more}\nclient_limits = {{ requests = \"{rate}\" }}");
        single(&origin.at(), &limit)
            + &format!(
                "[[service.app.match]]\nwhen = {{ path = \"/login\" }}\nclient_limits = {{ requests = \"{rate}\", burst = 1 }}\n"
            )
    };
    let proxy = serve(&file("", "2/m"));
    assert_eq!(proxy.get("/login").status(), 200);
    assert_eq!(proxy.get("/").status(), 200);
    assert_eq!(proxy.get("/").status(), 429);
    proxy.edit(&file("shield = true", "2/m"));
    assert_eq!(proxy.get("/").status(), 429, "the service changed");
    assert_eq!(proxy.get("/login").status(), 429);
    proxy.edit(&file("shield = true", "3/m"));
    assert_eq!(proxy.get("/").status(), 200, "the limit changed");
    assert_eq!(proxy.get("/login").status(), 200);
}

#[test]
fn a_new_limit_of_a_listener_holds_on_open_connections() {
    let origin = Origin::named("v1");
    let proxy = with_listener("", &origin.at(), "");
    let mut client = proxy.client();
    assert_eq!(client.get("/").status(), 200);
    let text = std::fs::read_to_string(proxy.file()).expect("the file");
    let limited = text.replace(
        "[service.app]",
        "client_limits = { requests = \"1/m\" }\n[service.app]",
    );
    let before = proxy.generation();
    std::fs::write(proxy.file(), limited).expect("write the configuration");
    until("the edit is adopted", || {
        (proxy.generation() > before).then_some(())
    });
    assert_eq!(client.get("/").status(), 200);
    assert_eq!(client.get("/").status(), 429);
    refused(&proxy, "", 1.0);
}

#[test]
fn an_address_has_no_more_connections_than_it_may_have() {
    let origin = Origin::named("v1");
    let proxy = with_listener("client_limits = { connections = 2 }", &origin.at(), "");
    let mut first = proxy.client();
    let mut second = proxy.client();
    assert_eq!(first.get("/").status(), 200);
    assert_eq!(second.get("/").status(), 200);
    let mut third = proxy.client();
    assert_eq!(third.end_within(Duration::from_secs(5)), End::Closed);
    let labels = [("reason", "client-connections")];
    until("it is counted", || {
        let failures = proxy
            .metrics()
            .sum("cutover_client_failures_total", &labels);
        (failures == 1.0).then_some(())
    });
    assert_eq!(first.get("/").status(), 200, "the others go on");
    drop(second);
    // The place is free once the proxy has seen the end of the connection.
    until("there is a place again", || {
        let mut next = Client::new(proxy.port);
        let sent = next.try_send("GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        let answer = sent.and_then(|()| next.try_answer("GET"));
        answer.is_ok_and(|a| a.status() == 200).then_some(())
    });
}
