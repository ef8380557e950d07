//! W3C trace context and the export of spans: what endpoints get, what a receiver gets, and that traffic never waits for it.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::Request;
use rustix::process::Signal;

use crate::support::h2_client::H2;
use crate::support::h2_origin::H2Origin;
use crate::support::origin::Origin;
use crate::support::otlp::{ReceivedSpan, Receiver};
use crate::support::proxy::{Proxy, before, command, serve, single};
use crate::support::wire::Message;
use crate::support::{block_on, free_port, until};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
const STATE: &str = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE";

/// A `traceparent` of the client.
fn theirs(flags: &str) -> String {
    format!("traceparent: 00-{TRACE}-{PARENT}-{flags}\r\n")
}

fn ask(proxy: &Proxy, path: &str, fields: &str) -> Message {
    let mut client = proxy.client();
    client.ask(&format!(
        "GET {path} HTTP/1.1\r\nhost: test\r\n{fields}\r\n"
    ))
}

/// The parts of the `traceparent` that an endpoint has got: trace, span and flags.
fn sent(message: &Message) -> [String; 3] {
    let value = message.field("traceparent").expect("a traceparent");
    let parts: Vec<_> = value.split('-').collect();
    let [version, trace, span, flags] = &parts[..] else {
        panic!("{value}")
    };
    assert_eq!((*version, trace.len(), span.len()), ("00", 32, 16));
    [*trace, *span, *flags].map(str::to_owned)
}

fn counted(proxy: &Proxy, outcome: &str) -> f64 {
    let labels = [("outcome", outcome)];
    proxy.metrics().sum("cutover_trace_spans_total", &labels)
}

/// A server span and those of its tries.
#[track_caller]
fn tree(spans: &[ReceivedSpan]) -> (&ReceivedSpan, Vec<&ReceivedSpan>) {
    let (servers, tries): (Vec<_>, Vec<_>) = spans.iter().partition(|span| span.kind == 2);
    let [server] = servers[..] else {
        panic!("{spans:#?}")
    };
    for span in &tries {
        assert_eq!((span.kind, &span.trace), (3, &server.trace));
        assert_eq!(span.parent, server.id, "{span:#?}");
        assert!(server.time.0 <= span.time.0 && span.time.0 <= span.time.1);
        assert!(span.time.1 <= server.time.1 + 1_000_000, "{spans:#?}");
    }
    (server, tries)
}

#[test]
fn without_the_table_trace_context_passes_unchanged() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    let malformed = "traceparent: nonsense\r\nTraceState: a=1\r\ntracestate: b=2\r\n";
    ask(&proxy, "/", malformed);
    let last = origin.last();
    assert_eq!(last.field("traceparent").as_deref(), Some("nonsense"));
    assert_eq!(last.all("tracestate"), ["a=1", "b=2"]);
    ask(&proxy, "/", "");
    assert_eq!(origin.last().all("traceparent"), Vec::<String>::new());
}

#[test]
fn a_client_trace_is_continued_by_the_span_of_the_try() {
    let (origin, receiver) = (Origin::named("blue"), Receiver::start());
    let log = "[access_log]\nto = \"$DIR/access.log\"\n";
    let table = receiver.table("sample = \"0%\"\nalways = []");
    let proxy = serve(&format!("{table}{log}{}", single(&origin.at(), "")));
    let fields = format!(
        "{}tracestate: {STATE}\r\nx-request-id: r1\r\n",
        theirs("01")
    );
    let asked = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    ask(&proxy, "/cart?secret=1", &fields);
    let got = origin.last();
    let [trace, span, flags] = sent(&got);
    assert_eq!((trace.as_str(), flags.as_str()), (TRACE, "01"));
    assert_eq!(got.field("tracestate").as_deref(), Some(STATE));
    let spans = receiver.wait(2);
    let (server, tries) = tree(&spans);
    assert_eq!(
        (server.trace.as_str(), server.parent.as_str()),
        (TRACE, PARENT)
    );
    assert_eq!(tries[0].id, span);
    assert_ne!(server.id, span);
    assert!(
        u128::from(server.time.0) + 1_000_000 >= asked.as_nanos(),
        "{server:?}"
    );
    assert_eq!((server.state.as_str(), server.flags), (STATE, 1));
    let (at, client) = (origin.at(), "127.0.0.1");
    for (key, value) in [
        ("http.request.method", "GET"),
        ("url.path", "/cart"),
        ("url.scheme", "http"),
        ("server.address", "test"),
        ("client.address", client),
        ("network.protocol.version", "1.1"),
        ("http.response.status_code", "200"),
        ("cutover.request_id", "r1"),
        ("cutover.service", "app"),
        ("cutover.version", "v1"),
        ("cutover.endpoint", &at),
        ("cutover.chosen", "split"),
        ("cutover.split", "1"),
        ("error.type", ""),
    ] {
        assert_eq!(server.get(key), value, "{key}");
    }
    assert_eq!(tries[0].get("server.port"), at.rsplit(':').next().unwrap());
    assert_eq!(tries[0].get("http.response.status_code"), "200");
    assert!(!format!("{spans:?}").contains("secret"));
    let line = until("a line of the log", || {
        let text = std::fs::read_to_string(proxy.dir().join("access.log")).ok()?;
        text.ends_with('\n').then_some(text)
    });
    assert!(
        line.contains(&format!("\"trace_id\":\"{TRACE}\"")),
        "{line}"
    );
    // The receiver has them before the proxy has its answer.
    until("both are exported", || {
        (counted(&proxy, "exported") == 2.0).then_some(())
    });
    assert_eq!(counted(&proxy, "dropped"), 0.0);
}

#[test]
fn the_receiver_gets_further_fields_that_are_shown_nowhere() {
    let (origin, receiver) = (Origin::named("blue"), Receiver::start());
    let text = |secret: &str| {
        let fields =
            format!("headers = {{ authorization = \"Bearer {secret}\", X-Tenant = \"t1\" }}");
        let table = receiver.table(&format!("sample = \"100%\"\n{fields}"));
        format!("{table}{}", single(&origin.at(), ""))
    };
    let proxy = serve(&text("s3cret-1"));
    ask(&proxy, "/", "");
    receiver.wait(2);
    let request = receiver.requests().pop().expect("a request");
    assert_eq!(request.all("authorization"), ["Bearer s3cret-1"]);
    assert_eq!(request.all("x-tenant"), ["t1"]);
    assert_eq!(request.all("content-type"), ["application/x-protobuf"]);
    // A new value is used without a restart.
    proxy.edit(&text("s3cret-2"));
    ask(&proxy, "/", "");
    until("the new value is sent", || {
        let request = receiver.requests().pop()?;
        (request.all("authorization") == ["Bearer s3cret-2"]).then_some(())
    });
    // One that can't be used is shown neither.
    let broken = proxy.whole(&text("s3cret-3").replace("\"Bearer s3cret-3\"", "s3cret-3"));
    std::fs::write(proxy.file(), broken).expect("write");
    let refused = until("it is refused", || {
        proxy.status()["config"]["error"]
            .as_str()
            .map(str::to_owned)
    });
    assert!(
        refused.contains("headers = { authorization = ********"),
        "{refused}"
    );
    let checked = command(&["check", "cutover.toml"], proxy.dir());
    assert_eq!(checked.code, 1);
    let config = proxy.ask_admin("/api/v1/config").text();
    let parsed: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    assert_eq!(parsed["trace"]["headers"]["authorization"], "***");
    let metrics = proxy.ask_admin("/metrics").text();
    let history = proxy.ask_admin("/api/v1/history").text();
    let status = proxy.ask_admin("/api/v1/status").text();
    for shown in [
        config,
        metrics,
        history,
        status,
        proxy.log(),
        checked.stderr,
        refused,
    ] {
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}

#[test]
fn a_malformed_context_is_replaced_and_its_state_dropped() {
    let (origin, receiver) = (Origin::named("blue"), Receiver::start());
    let table = receiver.table("sample = \"100%\"");
    let proxy = serve(&format!("{table}{}", single(&origin.at(), "")));
    let upper = theirs("01").to_uppercase();
    let twice = format!("{0}{0}", theirs("01"));
    let zero = theirs("01").replace(TRACE, &"0".repeat(32));
    let cases = ["", "traceparent: x\r\n", &upper, &twice, &zero];
    for fields in cases {
        ask(&proxy, "/", &format!("{fields}tracestate: a=1\r\n"));
        let got = origin.last();
        let [trace, _, flags] = sent(&got);
        assert!(trace != TRACE && trace != TRACE.to_uppercase(), "{fields}");
        assert_eq!(flags, "01", "{fields}");
        assert_eq!(got.all("tracestate"), Vec::<String>::new(), "{fields}");
    }
    let spans = receiver.wait(2 * cases.len());
    let servers = spans.iter().filter(|span| span.kind == 2);
    assert!(
        servers
            .clone()
            .all(|s| s.parent.is_empty() && s.state.is_empty())
    );
    let mut traces: Vec<_> = servers.map(|span| &span.trace).collect();
    traces.sort();
    traces.dedup();
    assert_eq!(traces.len(), cases.len(), "each has a trace of its own");
}

#[test]
fn a_retry_is_a_second_client_span() {
    let receiver = Receiver::start();
    let bad = Origin::each(|_, conn| conn.reply(503, "theirs"));
    let good = Origin::named("good");
    let file = format!(
        "{}[service.app]\nbalance = \"round_robin\"\nretry.budget = \"100%\"\n[service.app.outlier]\nconsecutive_5xx = 0\n\
         consecutive_gateway = 0\n[service.app.versions]\nv1 = [\"{}\", \"{}\"]\n",
        receiver.table("sample = \"0%\"\nalways = [\"5xx\"]"),
        bad.at(),
        good.at()
    );
    let proxy = serve(&file);
    let mut client = proxy.client();
    until("a request is retried", || {
        assert_eq!(client.get("/").status(), 200);
        (bad.hits() > 0).then_some(())
    });
    let spans = receiver.wait(3);
    let (server, tries) = tree(&spans);
    assert!(!server.failed && server.get("http.response.status_code") == "200");
    let seen = tries.iter().map(|t| {
        let status = t.get("http.response.status_code");
        (status, t.get("http.request.resend_count"), t.failed)
    });
    assert_eq!(
        seen.collect::<Vec<_>>(),
        [("503", "", true), ("200", "1", false)]
    );
    let ids = [sent(&bad.last()), sent(&good.last())];
    assert_eq!(ids.each_ref().map(|[trace, ..]| trace), [&server.trace; 2]);
    assert_eq!(
        ids.each_ref().map(|[_, span, _]| span),
        [&tries[0].id, &tries[1].id]
    );
    // It was exported because of the 503: its trace isn't sampled, which the endpoints were told.
    assert_eq!(ids.map(|[.., flags]| flags), ["00", "00"]);
}

#[test]
fn a_hedged_try_has_its_own_span() {
    let receiver = Receiver::start();
    let slow = Origin::each(|_, conn| {
        conn.peer_closes(Duration::from_secs(30))?;
        Err(io::Error::other("over"))
    });
    let quick = Origin::named("quick");
    let file = format!(
        "{}[service.app]\nbalance = \"round_robin\"\nretry.budget = \"100%\"\nhedge = \"20ms\"\n\
         [service.app.versions]\nv1 = [\"{}\", \"{}\"]\n",
        receiver.table("sample = \"0%\""),
        slow.at(),
        quick.at()
    );
    let proxy = serve(&file);
    until("a request is hedged", || {
        assert_eq!(ask(&proxy, "/", &theirs("00")).text(), "quick");
        (slow.hits() > 0).then_some(())
    });
    assert_eq!(receiver.spans(), [], "its client didn't sample it");
    let before = slow.hits();
    until("a sampled request is hedged", || {
        assert_eq!(ask(&proxy, "/", &theirs("01")).text(), "quick");
        (slow.hits() > before).then_some(())
    });
    let spans = until("the spans of the hedged request", || {
        let spans = receiver.spans();
        let resent = |s: &&ReceivedSpan| s.get("http.request.resend_count") == "1";
        let parent = spans.iter().find(resent)?.parent.clone();
        let of_it = |s: &ReceivedSpan| s.id == parent || s.parent == parent;
        Some(spans.into_iter().filter(of_it).collect::<Vec<_>>())
    });
    let (_, tries) = tree(&spans);
    assert_eq!(tries.len(), 2, "{spans:#?}");
    assert_eq!(
        [&tries[0].id, &tries[1].id],
        [&sent(&slow.last())[1], &sent(&quick.last())[1]]
    );
    assert_eq!(
        (tries[0].get("cutover.reason"), tries[0].failed),
        ("hedged", false)
    );
}

#[test]
fn canaries_and_failures_are_always_exported() {
    let receiver = Receiver::start();
    let (stable, canary) = (Origin::named("stable"), Origin::named("canary"));
    let file = format!(
        "{}[listen.http]\nbind = \"127.0.0.1:$PORT2\"\n[service.app]\nstable = \"v1\"\n[service.app.versions]\nv1 = [\"{}\"]\nv2 = [\"{}\"]\n\
         [[service.app.match]]\nwhen = {{ header.x-canary = \"yes\" }}\nto = \"v2\"\n\
         [service.down]\npaths = [\"/down/*\"]\nversions = {{ v1 = [\"127.0.0.1:{}\"] }}\n",
        receiver.table("sample = \"0%\""),
        stable.at(),
        canary.at(),
        free_port()
    )
    .replace("[listen.http]\nbind = \"127.0.0.1:$PORT2\"\n", "");
    let proxy = serve(&file);
    assert_eq!(ask(&proxy, "/", "").text(), "stable");
    assert_eq!(ask(&proxy, "/", "x-canary: yes\r\n").text(), "canary");
    assert_eq!(ask(&proxy, "/down/1", "").status(), 502);
    let spans = until("the spans of both", || {
        let spans = receiver.spans();
        let servers = spans.iter().filter(|s| s.kind == 2).count();
        (servers >= 2).then_some(spans)
    });
    let by_path = |path: &str| {
        let mut servers = spans.iter().filter(|s| s.kind == 2);
        servers.find(|s| s.get("url.path") == path)
    };
    let canary = by_path("/").expect("the canary's");
    assert_eq!(
        (canary.get("cutover.version"), canary.get("cutover.rule")),
        ("v2", "0")
    );
    assert_eq!(
        (canary.get("cutover.canary"), canary.get("cutover.split")),
        ("true", "0")
    );
    let down = by_path("/down/1").expect("the failure's");
    assert!(down.failed);
    assert_eq!(down.get("error.type"), "connect-refused");
    assert_eq!(down.get("cutover.origin"), "upstream");
    // The request to stable was neither.
    assert_eq!(
        spans.iter().filter(|s| s.kind == 2).count(),
        2,
        "{spans:#?}"
    );
    let mut tries = spans.iter().filter(|s| s.kind == 3 && s.parent == down.id);
    assert!(tries.all(|s| s.failed && s.get("http.response.status_code").is_empty()));
}

#[test]
fn a_request_that_reaches_no_service_has_a_span() {
    let (origin, receiver) = (Origin::named("blue"), Receiver::start());
    let file = format!(
        "{}[service.app]\nhosts = [\"app.test\"]\nversions = {{ v1 = [\"{}\"] }}\n",
        receiver.table("sample = \"100%\""),
        origin.at()
    );
    let proxy = serve(&file);
    assert_eq!(ask(&proxy, "/x", "").status(), 404);
    let mut client = proxy.client();
    client.send("NONSENSE\r\n\r\n");
    client.rest();
    let spans = receiver.wait(2);
    let seen = spans
        .iter()
        .map(|s| (s.get("http.response.status_code"), s.name.as_str()));
    let mut seen: Vec<_> = seen.collect();
    // Two workers export theirs in any order.
    seen.sort_unstable();
    assert_eq!(seen, [("400", "HTTP"), ("404", "GET")]);
    assert!(spans.iter().all(|s| s.kind == 2 && !s.failed));
}

#[test]
fn http2_on_both_sides_carries_the_context() {
    let receiver = Receiver::start();
    let origin = H2Origin::named("blue");
    let table = receiver.table("sample = \"0%\"");
    let proxy = serve(&format!("{table}{}", single(&origin.h2c(), "")));
    let port = proxy.port;
    block_on(async {
        let client = H2::connect(port).await;
        for _ in 0..2 {
            let request = Request::get("http://test/")
                .header("traceparent", format!("00-{TRACE}-{PARENT}-01"))
                .header("tracestate", STATE);
            let answer = client
                .ask(request.body(()).unwrap(), Default::default())
                .await;
            assert_eq!(answer.unwrap().status, 200);
        }
    });
    let heads = origin.heads();
    let spans = receiver.wait(4);
    for head in &heads {
        let value = head.headers()["traceparent"].to_str().unwrap();
        let (span, _) = value
            .strip_prefix(&format!("00-{TRACE}-"))
            .unwrap()
            .split_at(16);
        let span = spans
            .iter()
            .find(|s| s.id == span)
            .expect("the span of the try");
        assert_eq!(span.kind, 3);
        assert_eq!(head.headers()["tracestate"], STATE);
    }
    assert_eq!(heads.len(), 2);
    let server = spans.iter().find(|s| s.kind == 2).unwrap();
    assert_eq!(server.get("network.protocol.version"), "2");
}

#[test]
fn edits_of_the_operator_win() {
    let (origin, receiver) = (Origin::named("blue"), Receiver::start());
    let edits = "headers.request = { set = { traceparent = \"mine\" }, remove = [\"tracestate\"] }";
    let table = receiver.table("");
    let proxy = serve(&format!("{table}{}", single(&origin.at(), edits)));
    ask(&proxy, "/", &format!("{}tracestate: a=1\r\n", theirs("01")));
    let got = origin.last();
    assert_eq!(got.field("traceparent").as_deref(), Some("mine"));
    assert_eq!(got.field("tracestate"), None);
    receiver.wait(2);
}

#[test]
fn a_receiver_that_hangs_or_refuses_costs_spans_and_no_time() {
    let origin = Origin::named("blue");
    let hanging = Receiver::each(|_, conn| {
        conn.peer_closes(Duration::from_secs(60))?;
        Err(io::Error::other("over"))
    });
    let table = hanging.table("sample = \"100%\"");
    let mut proxy = serve(&format!("{table}{}", single(&origin.at(), "")));
    let mut client = proxy.client();
    // More spans than the queue has room for.
    until("spans are dropped", || {
        for _ in 0..200 {
            assert_eq!(client.get("/").text(), "blue");
        }
        (counted(&proxy, "dropped") > 0.0).then_some(())
    });
    assert_eq!(counted(&proxy, "exported"), 0.0);
    // A reload changes the receiver; the next one refuses.
    let refusing = Receiver::each(|_, conn| conn.reply(400, "no"));
    let table = refusing.table("sample = \"100%\"");
    proxy.edit(&format!("{table}{}", single(&origin.at(), "")));
    until("the new receiver is asked", || {
        assert_eq!(client.get("/").text(), "blue");
        (!refusing.requests().is_empty()).then_some(())
    });
    until("the log says so", || {
        proxy.log().contains("spans dropped").then_some(())
    });
    proxy.signal(Signal::TERM);
    assert!(proxy.ended().success());
}

#[test]
fn a_busy_receiver_gets_them_later_and_a_partial_success_is_counted() {
    let origin = Origin::named("blue");
    let receiver = Receiver::each(|_, conn| match conn.number {
        0 => conn.write(b"HTTP/1.1 503 Busy\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n"),
        // partial_success { rejected_spans: 1, error_message: "no" }
        _ => conn.reply(200, "\x0a\x06\x08\x01\x12\x02no"),
    });
    let table = receiver.table("sample = \"100%\"");
    let proxy = serve(&format!("{table}{}", single(&origin.at(), "")));
    ask(&proxy, "/", "");
    until("one is rejected", || {
        (counted(&proxy, "rejected") == 1.0).then_some(())
    });
    assert_eq!(
        (counted(&proxy, "exported"), counted(&proxy, "dropped")),
        (1.0, 0.0)
    );
    let requests = receiver.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].body, requests[1].body, "the same spans again");
    assert!(
        proxy.log().contains("receiver rejected spans"),
        "{}",
        proxy.log()
    );
}

#[test]
fn the_last_spans_are_exported_at_a_stop() {
    let (origin, receiver) = (Origin::named("blue"), Receiver::start());
    let table = receiver.table("sample = \"100%\"");
    let mut proxy = serve(&format!("{table}{}", single(&origin.at(), "")));
    for _ in 0..10 {
        ask(&proxy, "/", "");
    }
    proxy.signal(Signal::TERM);
    assert!(proxy.ended().success());
    assert_eq!(receiver.spans().len(), 20);
}

#[test]
fn the_configuration_that_is_shown_has_no_credentials() {
    let origin = Origin::named("blue");
    let table = "[trace]\notlp = \"http://user:hunter2@127.0.0.1:9/tenant\"\n";
    let proxy = serve(&format!("{table}{}", single(&origin.at(), "")));
    let shown = proxy.ask_admin("/api/v1/config").text();
    assert!(shown.contains("http://127.0.0.1:9"), "{shown}");
    assert!(
        !shown.contains("hunter2") && !shown.contains("tenant"),
        "{shown}"
    );
}

/// With `CUTOVER_OTLP_PEER`, a real receiver: see `tests/peers/otlp.sh`.
#[test]
fn a_real_receiver_takes_the_spans() {
    let Ok(url) = std::env::var("CUTOVER_OTLP_PEER") else {
        eprintln!("skipped: no receiver, see tests/peers/otlp.sh");
        return;
    };
    let origin = Origin::named("blue");
    let table = format!("[trace]\notlp = \"{url}\"\nsample = \"100%\"\n");
    let proxy = serve(&format!("{table}{}", single(&origin.at(), "")));
    for _ in 0..20 {
        assert_eq!(ask(&proxy, "/cart", &theirs("01")).text(), "blue");
    }
    until("all spans are taken", || {
        (counted(&proxy, "exported") == 40.0).then_some(())
    });
    assert_eq!(
        (counted(&proxy, "rejected"), counted(&proxy, "dropped")),
        (0.0, 0.0)
    );
}
