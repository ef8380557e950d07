//! One request in each format.

use super::super::{combined, json, logfmt};
use super::*;
use crate::http1::Method;
use crate::index::{EndpointIx, RuleIx, VersionIx};
use crate::telemetry::record::{Chosen, Failure, Origin, Protocol, Reason};
use std::time::{Instant, SystemTime};

/// Values by key.
#[derive(Default)]
struct Head(Vec<(&'static str, Option<&'static [u8]>)>, bool);

impl LoggedHead for Head {
    fn query(&self) -> Option<&[u8]> {
        self.1.then_some(b"a=1&b=%22")
    }
    fn header(&self, name: &str, see: &mut dyn FnMut(&[u8])) {
        match name {
            "referer" => see(b"https://a.example/x?token=1"),
            "user-agent" => see(b"curl/8 \"x\"\x01"),
            _ => {}
        }
    }
    fn each_field(&self, see: &mut dyn FnMut(&str, Option<&[u8]>)) {
        self.0.iter().for_each(|(key, value)| see(key, *value));
    }
}

fn plain<'a>() -> RequestRecord<'a> {
    let mut record = RequestRecord::new(b"id-1", "http", [192, 0, 2, 7].into(), Protocol::Http11);
    record.method = Method::Get;
    record.method_text = b"GET";
    record.host = "shop.example.com";
    record.path = b"/cart";
    record.service = "shop";
    record.chosen = Some(Chosen::Split);
    record.status = 200;
    record.bytes_sent = 1024;
    record.times.first_byte = Some(Duration::from_micros(1500));
    record.times.total = Duration::from_micros(12_345_678);
    record.begin_try(TryRecord {
        version: ("v1", VersionIx(0)),
        endpoint: Some(("10.0.0.1:80", EndpointIx(0))),
        status: Some(200),
        ..TryRecord::default()
    });
    record
}

/// A canary failed, and stable answered.
fn shielded<'a>() -> RequestRecord<'a> {
    let mut record = plain();
    let mut next = RequestRecord::new(record.id, "http", record.peer, Protocol::Http2);
    next.peer = "2001:db8::1".parse().unwrap();
    next.client = record.client;
    next.method_text = b"PO\"ST";
    next.path = b"/a b\xff\n";
    next.service = "shop";
    next.chosen = Some(Chosen::Rule);
    next.rule = Some(RuleIx(0));
    next.status = 503;
    next.shielded = true;
    next.local_reply = Some(Reason::ConnectRefused);
    let failure = Failure {
        origin: Origin::Upstream,
        reason: Reason::ConnectRefused,
    };
    next.failure = Some(failure);
    next.begin_try(TryRecord {
        version: ("v2", VersionIx(1)),
        endpoint: Some(("10.0.0.2:80", EndpointIx(0))),
        status: Some(502),
        failure: Some(failure),
        took: Duration::from_millis(1),
        ..TryRecord::default()
    });
    std::mem::swap(&mut record, &mut next);
    record.begin_try(next.last_try().unwrap().clone());
    record
}

/// Writes a line: without places, by places that don't know its own yet, and by those that do. Each looks the same.
fn keyed(
    format: fn(&mut Vec<u8>, &mut KnownPlaces, &LogLine<'_>),
    record: &RequestRecord<'_>,
    head: &Head,
    cause: Option<&dyn Display>,
) -> String {
    let mut places = KnownPlaces::default();
    let mut write = |service_id| {
        let format = |out: &mut Vec<u8>, line: &LogLine<'_>| format(out, &mut places, line);
        written_of(service_id, format, record, head, cause)
    };
    let text = write(None);
    for service_id in [1, 1, 2, 1] {
        assert_eq!(write(Some(service_id)), text);
    }
    text
}

fn written(
    format: fn(&mut Vec<u8>, &LogLine<'_>),
    record: &RequestRecord<'_>,
    head: &Head,
    cause: Option<&dyn Display>,
) -> String {
    written_of(None, format, record, head, cause)
}

fn written_of(
    service_id: Option<u64>,
    format: impl FnOnce(&mut Vec<u8>, &LogLine<'_>),
    record: &RequestRecord<'_>,
    head: &Head,
    cause: Option<&dyn Display>,
) -> String {
    let mut time = Timestamp::default();
    let now = Instant::now();
    time.synchronise(
        now,
        SystemTime::UNIX_EPOCH + Duration::from_millis(1_769_860_800_042),
    );
    time.set(now);
    let line = LogLine {
        record,
        time: &time,
        service_id,
        canary: record.tries().any(|t| t.version.0 != "v1"),
        cause,
        head,
    };
    let mut out = b"before\n".to_vec();
    format(&mut out, &line);
    let text = String::from_utf8(out).expect("UTF-8");
    let line = text.strip_prefix("before\n").unwrap();
    let line = line.strip_suffix('\n').expect("one newline at the end");
    assert!(line.bytes().all(|b| (b' '..=b'~').contains(&b)), "{line}");
    line.to_owned()
}

#[test]
fn a_line_names_its_own_place_and_no_remembered_one() {
    let mut places = KnownPlaces::default();
    // More places than are remembered, so that they displace each other.
    for _ in 0..2 {
        for at in 0..1000 {
            let (service, version, endpoint) = (at / 100, at / 10 % 10, at % 10);
            let names = [
                format!("v{version}"),
                format!("{service}-{version}-{endpoint}:80"),
            ];
            let mut record = plain();
            let attempt = record.last_try_mut().unwrap();
            attempt.version = (&names[0], VersionIx(version));
            attempt.endpoint = Some((&names[1], EndpointIx(endpoint)));
            for status in [200, 404] {
                record.status = status;
                let format =
                    |out: &mut Vec<u8>, line: &LogLine<'_>| json::write(out, &mut places, line);
                let text = written_of(
                    Some(service as u64),
                    format,
                    &record,
                    &Head::default(),
                    None,
                );
                let place = format!(
                    "\"status\":{status},\"service\":\"shop\",\"version\":\"{}\",\"endpoint\":\"{}\"",
                    names[0], names[1]
                );
                assert!(text.contains(&place), "{text}");
            }
        }
    }
}

#[test]
fn json_has_what_is_known_and_nothing_else() {
    assert_eq!(
        keyed(json::write, &plain(), &Head::default(), None),
        "{\"time\":\"2026-01-31T12:00:00.042Z\",\"id\":\"id-1\",\"listener\":\"http\",\"client\":\"192.0.2.7\",\
         \"protocol\":\"HTTP/1.1\",\"method\":\"GET\",\"host\":\"shop.example.com\",\"path\":\"/cart\",\"status\":200,\
         \"service\":\"shop\",\"version\":\"v1\",\"endpoint\":\"10.0.0.1:80\",\"chosen\":\"split\",\
         \"bytes_received\":0,\"bytes_sent\":1024,\"first_byte_ms\":1.500,\"total_ms\":12345.678}"
    );
}

#[test]
fn json_lists_the_tries_of_a_request_that_needed_several() {
    let fields = vec![
        ("header:x", Some(&b"\"\\\x00"[..])),
        ("cookie:none", None),
        ("query:a\"", Some(&b""[..])),
    ];
    let text = keyed(
        json::write,
        &shielded(),
        &Head(fields, false),
        Some(&"a \"cause\""),
    );
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    let expected = serde_json::json!({
        "time": "2026-01-31T12:00:00.042Z", "id": "id-1", "listener": "http", "client": "192.0.2.7",
        "peer": "2001:db8::1", "protocol": "HTTP/2.0", "method": "PO\"ST", "path": "/a b\u{ff}\n",
        "status": 503, "service": "shop", "version": "v1", "endpoint": "10.0.0.1:80", "chosen": "rule", "rule": 0,
        "reason": "connect-refused", "origin": "upstream", "cause": "a \"cause\"", "local": true,
        "bytes_received": 0, "bytes_sent": 0, "total_ms": 0.0, "canary": true, "shielded": true,
        "tries": [
            {"version": "v2", "endpoint": "10.0.0.2:80", "status": 502, "reason": "connect-refused",
             "origin": "upstream", "total_ms": 1.0},
            {"version": "v1", "endpoint": "10.0.0.1:80", "status": 200, "total_ms": 0.0},
        ],
        "header:x": "\"\\\u{0}", "query:a\"": "",
    });
    assert_eq!(line, expected, "{text}");
}

#[test]
fn logfmt_quotes_what_is_no_plain_word() {
    assert_eq!(
        keyed(logfmt::write, &plain(), &Head::default(), None),
        "time=2026-01-31T12:00:00.042Z id=id-1 listener=http client=192.0.2.7 protocol=HTTP/1.1 method=GET \
         host=shop.example.com path=/cart status=200 service=shop version=v1 endpoint=10.0.0.1:80 chosen=split \
         bytes_received=0 bytes_sent=1024 first_byte_ms=1.500 total_ms=12345.678"
    );
    let fields = vec![("header:x", Some(&b""[..])), ("query:a b", Some(&b"1"[..]))];
    assert_eq!(
        keyed(
            logfmt::write,
            &shielded(),
            &Head(fields, false),
            Some(&"a \"cause\"")
        ),
        "time=2026-01-31T12:00:00.042Z id=id-1 listener=http client=192.0.2.7 peer=2001:db8::1 protocol=HTTP/2.0 \
         method=\"PO\\\"ST\" path=\"/a b\\xff\\x0a\" status=503 service=shop version=v1 endpoint=10.0.0.1:80 chosen=rule \
         rule=0 reason=connect-refused origin=upstream cause=\"a \\\"cause\\\"\" local=true bytes_received=0 bytes_sent=0 \
         total_ms=0.000 canary=true shielded=true tries=\"v2/10.0.0.2:80/connect-refused,v1/10.0.0.1:80/200\" \
         header:x=\"\" \"query:a b\"=1"
    );
}

#[test]
fn combined_is_what_log_analysers_read() {
    assert_eq!(
        written(combined::write, &plain(), &Head::default(), None),
        "192.0.2.7 - - [31/Jan/2026:12:00:00 +0000] \"GET /cart HTTP/1.1\" 200 1024 \"https://a.example/x\" \
         \"curl/8 \\\"x\\\"\\x01\""
    );
    let fields = vec![
        ("query", Some(&b"a=1&b=%22"[..])),
        ("header:referer", None),
        ("cookie:uid", Some(&b"7"[..])),
        ("header:none", None),
    ];
    assert_eq!(
        written(combined::write, &shielded(), &Head(fields, true), None),
        "192.0.2.7 - - [31/Jan/2026:12:00:00 +0000] \"PO\\\"ST /a b\\xff\\x0a?a=1&b=%22 HTTP/2.0\" 503 0 \
         \"https://a.example/x?token=1\" \"curl/8 \\\"x\\\"\\x01\" \"7\" \"-\""
    );
    let refused = RequestRecord::new(b"", "http", [127, 0, 0, 1].into(), Protocol::Http11);
    let line = written(combined::write, &refused, &Head::default(), None);
    assert!(line.contains("] \"-\" 499 0 "), "{line}");
}

#[test]
fn failures_are_seen_in_status_record_and_tries() {
    assert!(!has_failed(&plain()));
    let mut record = plain();
    record.status = 404;
    assert!(has_failed(&record));
    assert!(has_failed(&shielded()));
    let mut record = shielded();
    record.status = 200;
    record.failure = None;
    assert!(has_failed(&record), "a try has failed");
}

#[test]
fn addresses_are_written_as_the_standard_library_does() {
    let written = |address: IpAddr| {
        let mut out = Vec::new();
        put_address(&mut out, address);
        String::from_utf8(out).expect("text")
    };
    for octet in 0..=255 {
        for octets in [
            [octet, 0, 255, 9],
            [1, octet, 10, octet],
            [99, 100, 1, octet],
        ] {
            let address = IpAddr::from(octets);
            assert_eq!(written(address), address.to_string());
        }
    }
    let six: IpAddr = "2001:db8::7".parse().expect("an address");
    assert_eq!(written(six), "2001:db8::7");
}
