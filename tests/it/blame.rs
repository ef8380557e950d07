//! Whose fault a failure was: what the log says of it, what is counted, and who is charged.

use bytes::Bytes;
use http::Request;

use crate::support::client::Client;
use crate::support::h2_client::H2;
use crate::support::origin::{Conn, Origin};
use crate::support::proxy::{Builder, Proxy, serve, single};
use crate::support::tls::Authority;
use crate::support::{block_on, free_port, until};

/// A proxy that logs at debug.
fn at_debug(endpoint: &str, more: &str) -> Proxy {
    Builder::rest(&single(endpoint, more))
        .env("CUTOVER_LOG", "debug")
        .start()
}

/// The line that says why the request with this id failed.
fn why(proxy: &Proxy, id: &str) -> String {
    let wanted = format!("id={id} ");
    until("the reason is logged", || {
        let log = proxy.log();
        let mut lines = log.lines().filter(|l| l.contains(&wanted));
        lines
            .find(|l| l.contains("request failed"))
            .map(str::to_owned)
    })
}

/// Sends one GET with this id to a proxy before `endpoint`; what the log says of it.
fn failure(endpoint: &str, id: &str) -> String {
    let proxy = at_debug(endpoint, "retry.tries = 1");
    let mut client = proxy.client();
    client.send(format!(
        "GET / HTTP/1.1\r\nhost: test\r\nx-request-id: {id}\r\n\r\n"
    ));
    // Whole, cut or refused: what matters is what the log says.
    let _ = client.try_answer("GET");
    why(&proxy, id)
}

#[test]
fn each_failure_of_an_upstream_is_told_apart_by_its_line() {
    let nobody = format!("127.0.0.1:{}", free_port());
    let scripted = |script: fn(&mut Conn) -> std::io::Result<()>| Origin::script(script);
    let resets = scripted(|conn| {
        conn.request()?;
        conn.reset()
    });
    let truncates = scripted(|conn| {
        conn.request()?;
        conn.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
    });
    let malformed = scripted(|conn| {
        conn.request()?;
        conn.write(b"HTTP/1.1 two hundred\r\n\r\n")
    });
    for (endpoint, id, reason) in [
        (nobody, "refused-1", "connect-refused"),
        (resets.at(), "reset-1", "upstream-reset"),
        (truncates.at(), "truncated-1", "upstream-truncated"),
        (malformed.at(), "malformed-1", "upstream-malformed"),
    ] {
        let line = failure(&endpoint, id);
        assert!(
            line.contains(&format!("reason={reason}")) && line.contains("origin=upstream"),
            "{line}"
        );
        let endpoint = format!("endpoint={endpoint}");
        assert!(
            line.contains(&endpoint) && line.contains("cause="),
            "{line}"
        );
        assert!(
            line.contains("service=app") && line.contains("version=v1"),
            "{line}"
        );
    }
}

#[test]
fn a_certificate_for_another_name_is_named_in_the_line() {
    let authority = Authority::new();
    let identity = authority.issue(&["elsewhere.test"]);
    let origin = Origin::tls("secure", &identity, &["http/1.1"]);
    let builder = Builder::rest(&single(
        &format!("https://{}", origin.at()),
        "retry.tries = 1",
    ));
    let roots = builder.dir().join("ca.pem");
    authority.save(&roots);
    let proxy = builder
        .env("SSL_CERT_FILE", roots)
        .env("CUTOVER_LOG", "debug")
        .start();
    let get = "GET / HTTP/1.1\r\nhost: test\r\nx-request-id: tls-1\r\n\r\n";
    assert_eq!(proxy.client().ask(get).status(), 502);
    let line = why(&proxy, "tls-1");
    assert!(line.contains("reason=upstream-tls"), "{line}");
    assert!(line.contains("not valid for name"), "{line}");
}

#[test]
fn a_client_that_leaves_is_the_client_and_charged_to_nobody() {
    let origin = Origin::script(|conn| {
        conn.request()?;
        conn.peer_closes(crate::support::PATIENCE).map(drop)
    });
    let proxy = at_debug(&origin.at(), "outlier.consecutive_gateway = 1");
    for n in 0..5 {
        let mut client = proxy.client();
        client.send(format!(
            "GET / HTTP/1.1\r\nhost: test\r\nx-request-id: gone-{n}\r\n\r\n"
        ));
        until("the origin has it", || (origin.hits() > n).then_some(()));
        client.reset();
        let line = why(&proxy, &format!("gone-{n}"));
        assert!(
            line.contains("origin=client") && line.contains("reason=client-gone"),
            "{line}"
        );
    }
    let metrics = proxy.metrics();
    let sum = |name: &str, labels: &[(&str, &str)]| metrics.sum(name, labels);
    assert_eq!(sum("http_requests_total", &[]), 0.0);
    assert_eq!(sum("cutover_ejections_total", &[]), 0.0);
    assert_eq!(sum("cutover_upstream_failures_total", &[]), 0.0);
    assert_eq!(sum("cutover_retries_total", &[]), 0.0);
    let gone = [("reason", "client-gone")];
    assert_eq!(sum("cutover_client_failures_total", &gone), 5.0);
    let left = [("service", "app"), ("status", "499")];
    assert_eq!(sum("cutover_service_requests_total", &left), 5.0);
}

#[test]
fn a_client_that_stalls_after_the_answer_began_is_charged_to_nobody() {
    let origin = Origin::script(|conn| {
        conn.head()?;
        conn.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")?;
        conn.peer_closes(crate::support::PATIENCE).map(drop)
    });
    let proxy = serve(&single(
        &origin.at(),
        "timeouts.idle = \"300ms\"\noutlier.consecutive_gateway = 1",
    ));
    for _ in 0..3 {
        let mut client = proxy.client();
        client.send("POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab");
        client.through(b"half");
        client.rest();
    }
    let metrics = proxy.metrics();
    let broken = [("status", "504")];
    assert_eq!(metrics.sum("http_requests_total", &broken), 0.0);
    assert_eq!(metrics.sum("cutover_ejections_total", &[]), 0.0);
    let stalled = [("reason", "body-timeout")];
    assert_eq!(metrics.sum("cutover_client_failures_total", &stalled), 3.0);
}

#[test]
fn a_limit_is_the_proxys_and_spills_from_a_canary_to_stable() {
    let (stable, canary) = (
        Origin::named("stable"),
        Origin::script(|conn| {
            conn.request()?;
            conn.peer_closes(crate::support::PATIENCE).map(drop)
        }),
    );
    let proxy = serve(&format!(
        "[service.app]\nstable = \"v1\"\nsplit = {{ v2 = \"50%\" }}\nlimits.requests = 1\n\
         [service.app.versions]\nv1 = [\"{}\"]\nv2 = [\"{}\"]\n",
        stable.at(),
        canary.at()
    ));
    // One request fills the canary.
    let mut held: Vec<Client> = Vec::new();
    until("the canary has a request", || {
        let mut client = proxy.client();
        client.send("GET /held HTTP/1.1\r\nhost: test\r\n\r\n");
        client.patience(std::time::Duration::from_millis(50));
        match client.try_answer("GET") {
            Ok(_) => None,
            Err(_) => {
                held.push(client);
                Some(())
            }
        }
    });
    let mut client = proxy.client();
    for _ in 0..20 {
        assert_eq!(client.get("/").text(), "stable");
    }
    let metrics = proxy.metrics();
    let canary = [("service", "app"), ("version", "v2")];
    let spilled = metrics.sum("cutover_shielded_total", &canary);
    assert!((9.0..=11.0).contains(&spilled), "{spilled}");
    assert_eq!(
        metrics.sum("cutover_limit_rejections_total", &canary),
        spilled
    );
    assert_eq!(metrics.sum("http_requests_total", &canary), 0.0);
    assert_eq!(metrics.sum("cutover_upstream_failures_total", &canary), 0.0);
    assert_eq!(metrics.sum("cutover_retries_total", &[]), 0.0);
}

#[test]
fn a_canary_that_is_not_there_goes_to_stable_and_is_charged() {
    let stable = Origin::named("stable");
    let nobody = free_port();
    let proxy = serve(&format!(
        "[service.app]\nstable = \"v1\"\nsplit = {{ v2 = \"50%\" }}\noutlier.consecutive_gateway = 0\n\
         outlier.consecutive_5xx = 0\n\
         [service.app.versions]\nv1 = [\"{}\"]\nv2 = [\"127.0.0.1:{nobody}\"]\n",
        stable.at()
    ));
    let mut client = proxy.client();
    let post = "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 2\r\n\r\nok";
    for n in 0..40 {
        let answer = match n % 2 {
            0 => client.get("/"),
            _ => client.ask(post),
        };
        assert_eq!((answer.status(), answer.text().as_str()), (200, "stable"));
    }
    let metrics = proxy.metrics();
    let canary = [("service", "app"), ("version", "v2")];
    assert_eq!(metrics.sum("cutover_shielded_total", &canary), 20.0);
    let refused = [&canary[..], &[("reason", "connect-refused")]].concat();
    assert_eq!(
        metrics.sum("cutover_upstream_failures_total", &refused),
        20.0
    );
    assert_eq!(metrics.sum("http_requests_total", &canary), 20.0);
}

#[test]
fn own_answers_say_when_and_which_request() {
    let origin = Origin::named("blue");
    let proxy = serve(&single(&origin.at(), "hosts = [\"app.test\"]"));
    let mut client = proxy.client();
    let answer = client.ask("GET / HTTP/1.1\r\nhost: test\r\nx-request-id: mine-1\r\n\r\n");
    assert_eq!(answer.status(), 404);
    assert_eq!(answer.field("x-request-id").as_deref(), Some("mine-1"));
    assert!(answer.field("date").is_some_and(|d| d.ends_with(" GMT")));
    let refused = proxy
        .client()
        .ask("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n");
    assert_eq!(refused.field("x-request-id").map(|id| id.len()), Some(32));
    // An answer is counted just after its client has got it.
    for reason in ["no-route", "duplicate-host"] {
        let own = [("service", ""), ("reason", reason)];
        until(reason, || {
            let counted = proxy.metrics().sum("cutover_own_answers_total", &own);
            assert!(counted <= 1.0, "{reason}: {counted}");
            (counted == 1.0).then_some(())
        });
    }
}

#[test]
fn a_grpc_call_gets_a_grpc_answer() {
    let nobody = format!("h2c://127.0.0.1:{}", free_port());
    let proxy = serve(&single(&nobody, "retry.tries = 1"));
    block_on(async {
        let client = H2::connect(proxy.port).await;
        let call = Request::post("http://app.test/test.Echo/Unary")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .expect("a request");
        let answer = client.ask(call, Bytes::new()).await.expect("an answer");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.headers["grpc-status"], "14");
        assert_eq!(answer.headers["content-type"], "application/grpc");
        assert!(answer.headers.contains_key("grpc-message"));
        assert_eq!(answer.headers["x-cutover-reason"], "connect-refused");
    });
    let told = [("service", "app"), ("status", "502")];
    until("counted as what it means", || {
        (proxy.metrics().sum("cutover_service_requests_total", &told) == 1.0).then_some(())
    });
}

#[test]
fn informational_responses_are_bounded() {
    let origin = Origin::script(|conn| {
        conn.request()?;
        for _ in 0..40 {
            conn.write(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")?;
        }
        conn.reply(200, "late")
    });
    let proxy = serve(&single(&origin.at(), "retry.tries = 1"));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    let mut passed = 0;
    let last = loop {
        match client.head().expect("a head").status() {
            103 => passed += 1,
            status => break status,
        }
    };
    assert_eq!((passed, last), (32, 502));
}

#[test]
fn informational_responses_do_not_restart_the_wait_for_the_final_one() {
    let origin = Origin::script(|conn| {
        conn.request()?;
        for _ in 0..20 {
            conn.write(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")?;
            conn.wait(std::time::Duration::from_millis(100))?;
        }
        conn.reply(200, "late")
    });
    let proxy = serve(&single(
        &origin.at(),
        "retry.tries = 1\ntimeouts.first_byte = \"500ms\"",
    ));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    let last = loop {
        match client.head().expect("a head").status() {
            103 => {}
            status => break status,
        }
    };
    assert_eq!(last, 504);
}

#[test]
fn a_request_that_may_have_been_processed_is_not_sent_again_beyond_its_tries() {
    // Each connection answers one request, takes another and ends without a word.
    let origin = Origin::script(|conn| {
        conn.request()?;
        conn.reply(200, "ok")?;
        conn.request().map(drop)
    });
    let proxy = serve(&single(&origin.at(), "retry.tries = 1"));
    let mut client = proxy.client();
    assert_eq!(client.get("/").text(), "ok");
    let delete = client.ask("DELETE /thing HTTP/1.1\r\nhost: test\r\n\r\n");
    assert_eq!(delete.status(), 502);
    let deletes = origin.requests();
    let sent = deletes.iter().filter(|r| r.head.starts_with(b"DELETE"));
    assert_eq!(sent.count(), 1);
}

#[test]
fn warnings_of_one_service_and_reason_are_one_line() {
    let nobody = format!("127.0.0.1:{}", free_port());
    let proxy = serve(&single(&nobody, "retry.tries = 1"));
    let mut client = proxy.client();
    for _ in 0..50 {
        assert_eq!(client.get("/").status(), 502);
    }
    let warned = |log: &str| log.matches("requests fail").count();
    until("the warning is written", || {
        (warned(&proxy.log()) > 0).then_some(())
    });
    assert_eq!(warned(&proxy.log()), 1);
    assert!(proxy.log().contains("reason=connect-refused"));
}
