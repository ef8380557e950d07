use super::*;
use crate::index::{EndpointIx, RuleIx, VersionIx};
use crate::telemetry::record::{Chosen, Origin};
use crate::telemetry::trace::context::TraceContext;
use crate::telemetry::trace::otlp::AttributeValue;

const CLIENT: TraceContext = TraceContext {
    trace_id: 0xabc,
    parent_id: 0xdef,
    flags: 1,
};

fn record() -> RequestRecord<'static> {
    let mut record = RequestRecord::new(b"id-1", "http", [127, 0, 0, 1].into(), Protocol::Http11);
    record.method = Method::Get;
    record.method_text = b"GET";
    record.host = "shop.example.com";
    record.path = b"/cart";
    record.service = "shop";
    record.chosen = Some(Chosen::Split);
    record.status = 200;
    record.times.total = Duration::from_millis(50);
    record
}

fn attempt(version: &'static str, took: u64) -> TryRecord<'static> {
    TryRecord {
        version: (version, VersionIx(1)),
        endpoint: Some(("10.0.0.1:8080", EndpointIx(0))),
        status: Some(200),
        took: Duration::from_millis(took),
        ..TryRecord::default()
    }
}

fn facts(started: Instant) -> SpanFacts<'static> {
    SpanFacts {
        started,
        ended_unix_nanos: 1_000_000_000_000,
        scheme: "https",
        trace_state: "a=1".to_owned(),
        split: Some(0.05),
        cohort: None,
        canary: true,
    }
}

fn value(span: &OtlpSpan, key: &str) -> Option<AttributeValue> {
    let mut found = span.attributes.iter().filter(|a| a.key == key);
    let first = found.next().and_then(|a| a.value.clone()?.value);
    assert!(found.next().is_none(), "{key} twice");
    first
}

fn text(span: &OtlpSpan, key: &str) -> String {
    match value(span, key) {
        Some(AttributeValue::Text(text)) => text,
        other => panic!("{key}: {other:?}"),
    }
}

#[test]
fn a_request_has_a_server_span_and_a_client_span_for_each_try() {
    let started = Instant::now();
    let mut record = record();
    let mut trace = RequestTrace::begin(Some(CLIENT), false, || 5);
    record.begin_try(TryRecord {
        status: Some(502),
        failure: Some(Failure {
            origin: Origin::Upstream,
            reason: Reason::ConnectRefused,
        }),
        ..attempt("v2", 10)
    });
    trace.begin_try(11, started);
    record.begin_try(attempt("v1", 30));
    trace.begin_try(12, started + Duration::from_millis(20));
    let spans = spans(&record, &trace, &facts(started));
    let [server, first, second] = &spans[..] else {
        panic!("{} spans", spans.len())
    };
    assert!(spans.iter().all(|s| s.trace_id == 0xabc_u128.to_be_bytes()));
    assert!(spans.iter().all(|s| s.trace_state == "a=1" && s.flags == 1));
    assert_eq!(server.parent_span_id, 0xdef_u64.to_be_bytes());
    assert_eq!(server.kind, i32::from(SpanKind::Server));
    assert_eq!(server.name, "GET shop");
    assert_eq!(server.end_time_unix_nano, 1_000_000_000_000);
    assert_eq!(server.start_time_unix_nano, 999_950_000_000);
    assert_eq!(server.status, None);
    assert_eq!(text(server, "cutover.version"), "v1");
    assert_eq!(text(server, "cutover.chosen"), "split");
    assert_eq!(text(server, "url.path"), "/cart");
    assert_eq!(
        value(server, "cutover.split"),
        Some(AttributeValue::Fraction(0.05))
    );
    assert_eq!(value(server, "cutover.rule"), None);
    for (span, id, name) in [(first, 11_u64, "GET shop/v2"), (second, 12, "GET shop/v1")] {
        assert_eq!(span.span_id, id.to_be_bytes());
        assert_eq!(span.parent_span_id, server.span_id);
        assert_eq!(span.kind, i32::from(SpanKind::Client));
        assert_eq!(span.name, name);
        assert_eq!(text(span, "server.address"), "10.0.0.1");
        assert_eq!(
            value(span, "server.port"),
            Some(AttributeValue::Whole(8080))
        );
    }
    assert_eq!(first.status.as_ref().map(|s| s.code), Some(ERROR));
    assert_eq!(text(first, "error.type"), Reason::ConnectRefused.as_str());
    assert_eq!(value(first, "http.response.status_code"), None, "none came");
    assert_eq!(value(first, "http.request.resend_count"), None);
    assert_eq!(second.status, None);
    assert_eq!(
        value(second, "http.request.resend_count"),
        Some(AttributeValue::Whole(1))
    );
    assert_eq!(second.start_time_unix_nano, 999_970_000_000);
    assert_eq!(second.end_time_unix_nano, 1_000_000_000_000);
}

#[test]
fn a_failed_request_says_why() {
    let mut record = record();
    record.status = 503;
    record.local_reply = Some(Reason::NoEndpoint);
    record.rule = Some(RuleIx(3));
    record.failure = Some(Failure {
        origin: Origin::Upstream,
        reason: Reason::NoEndpoint,
    });
    let trace = RequestTrace::begin(None, true, || 5);
    let spans = spans(&record, &trace, &facts(Instant::now()));
    let [server] = &spans[..] else {
        panic!("{} spans", spans.len())
    };
    assert_eq!(server.parent_span_id, Vec::<u8>::new());
    assert_eq!(server.status.as_ref().map(|s| s.code), Some(ERROR));
    for key in ["error.type", "cutover.reason"] {
        assert_eq!(text(server, key), Reason::NoEndpoint.as_str());
    }
    assert_eq!(
        value(server, "cutover.rule"),
        Some(AttributeValue::Whole(3))
    );
    assert_eq!(
        value(server, "cutover.local"),
        Some(AttributeValue::Flag(true))
    );
}

#[test]
fn a_try_that_was_repeated_elsewhere_ends_when_the_next_begins() {
    let started = Instant::now();
    let mut record = record();
    let mut trace = RequestTrace::begin(None, true, || 5);
    record.begin_try(TryRecord {
        status: None,
        ..attempt("v1", 0)
    });
    trace.begin_try(11, started);
    record.begin_try(attempt("v1", 30));
    trace.begin_try(12, started + Duration::from_millis(7));
    let spans = spans(&record, &trace, &facts(started));
    let took = |span: &OtlpSpan| span.end_time_unix_nano - span.start_time_unix_nano;
    assert_eq!((took(&spans[1]), took(&spans[2])), (7_000_000, 30_000_000));
}

#[test]
fn a_cancelled_try_is_no_error_and_an_unknown_method_has_no_name() {
    let mut record = record();
    (record.method, record.method_text) = (Method::Other, b"BREW");
    let mut trace = RequestTrace::begin(None, true, || 5);
    record.begin_try(TryRecord {
        status: None,
        failure: Some(Failure {
            origin: Origin::Proxy,
            reason: Reason::Hedged,
        }),
        ..attempt("v1", 10)
    });
    let now = Instant::now();
    trace.begin_try(11, now);
    let spans = spans(&record, &trace, &facts(now));
    assert_eq!(spans[1].status, None);
    assert_eq!(text(&spans[1], "cutover.reason"), "hedged");
    assert_eq!(spans[0].name, "HTTP shop");
    assert_eq!(text(&spans[0], "http.request.method"), "_OTHER");
    assert_eq!(text(&spans[0], "http.request.method_original"), "BREW");
}

#[test]
fn addresses_of_endpoints() {
    for (name, host, port) in [
        ("10.0.0.1:80", "10.0.0.1", Some(80)),
        ("[::1]:80", "::1", Some(80)),
        ("h2c://shop.internal:9000", "shop.internal", Some(9000)),
        ("unix:/run/app.sock", "/run/app.sock", None),
    ] {
        assert_eq!(address(name), (host, port), "{name}");
    }
}
