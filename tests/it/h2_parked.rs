//! HTTP/2 clients that read a response late, or never: it has arrived completely, and its stream keeps little. Records and counters
//! are those of any other request.

use std::fs;

use serde_json::Value;

use crate::support::client::Client;
use crate::support::frames::{self, frame, get_fields, kind};
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, serve, single};
use crate::support::until;

/// A connection whose streams have no window.
fn windowless(proxy: &Proxy) -> Client {
    let mut client = proxy.client();
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    client.send(frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]));
    client
}

/// Sends requests and waits for the head of each response.
fn ask(client: &mut Client, requests: &[Vec<u8>]) {
    client.send(requests.concat());
    let mut heads = 0;
    while heads < requests.len() {
        let frame = frames::next(client).expect("a frame");
        heads += usize::from(frame.kind == kind::HEADERS);
        assert!(!matches!(frame.kind, kind::RST_STREAM | kind::GOAWAY));
    }
}

fn window(stream: u32, bytes: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())
}

/// What a stream gets until END_STREAM, or so many bytes.
fn data(client: &mut Client, stream: u32, most: usize) -> usize {
    let mut got = 0;
    loop {
        let frame = frames::next(client).expect("a frame");
        if frame.stream == stream {
            assert_eq!(frame.kind, kind::DATA);
            got += frame.payload.len();
            if frame.flags & 1 != 0 || got >= most {
                return got;
            }
        }
    }
}

fn in_flight(proxy: &Proxy) -> f64 {
    let labels = [("service", "app"), ("version", "v1")];
    proxy.metrics().sum("http_requests_in_flight", &labels)
}

#[test]
fn a_response_that_is_read_late_is_recorded_like_any_other() {
    let origin = Origin::each(|_, conn| conn.reply(200, &"x".repeat(500)));
    let log =
        "[access_log]\nto = \"$DIR/access.log\"\nfields = [\"header:user-agent\", \"query\"]\n";
    let rest = "timeouts.idle = \"300ms\"";
    let proxy = serve(&format!("{log}{}", single(&origin.at(), rest)));
    let request = |stream: u32, path: &str| {
        let id = path.trim_end_matches("?a=1");
        let more = [("user-agent", "u"), ("x-request-id", id)];
        let fields: Vec<_> = get_fields(path).into_iter().chain(more).collect();
        frames::request(stream, &fields)
    };
    let requests = [
        request(1, "/all?a=1"),
        request(3, "/none"),
        request(5, "/some"),
        request(7, "/silent"),
    ];
    let mut client = windowless(&proxy);
    ask(&mut client, &requests);
    assert_eq!(in_flight(&proxy), 4.0);
    // The responses occupy no connection to the origin.
    let connections = origin.connections();
    ask(&mut client, &[request(9, "/later")]);
    assert_eq!(origin.connections(), connections);
    client.send(window(9, 1_000));
    assert_eq!(data(&mut client, 9, 500), 500);
    client.send(window(1, 1_000));
    assert_eq!(data(&mut client, 1, 500), 500);
    client.send(window(5, 100));
    assert_eq!(data(&mut client, 5, 100), 100);
    client.send(frame(kind::RST_STREAM, 0, 3, &8_u32.to_be_bytes()));
    // The others end by the idle timeout, as the client reads nothing more.
    let mut reset = Vec::new();
    while reset.len() < 2 {
        let frame = frames::next(&mut client).expect("a frame");
        if frame.kind == kind::RST_STREAM {
            reset.push(frame.stream);
        }
    }
    reset.sort_unstable();
    assert_eq!(reset, [5, 7]);
    until("no request is in flight", || {
        (in_flight(&proxy) == 0.0).then_some(())
    });
    let log = proxy.dir().join("access.log");
    let text = until("all are logged", || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        (text.lines().count() == 5 && text.ends_with('\n')).then_some(text)
    });
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();
    let line = |path: &str| {
        let found = lines.iter().find(|line| line["path"] == path);
        found.unwrap_or_else(|| panic!("{path} in {text}")).clone()
    };
    for path in ["/all", "/none", "/some", "/silent"] {
        let line = line(path);
        let expected = serde_json::json!([
            "HTTP/2.0",
            "GET",
            "test",
            200,
            "app",
            "v1",
            origin.at(),
            "split",
            "u"
        ]);
        let keys = [
            "protocol",
            "method",
            "host",
            "status",
            "service",
            "version",
            "endpoint",
            "chosen",
            "header:user-agent",
        ];
        let found: Vec<_> = keys.iter().map(|key| line[key].clone()).collect();
        assert_eq!(Value::from(found), expected, "{line}");
        assert_eq!(line["id"], path);
        let (first, total) = (&line["first_byte_ms"], &line["total_ms"]);
        assert!(first.as_f64().unwrap() <= total.as_f64().unwrap(), "{line}");
    }
    let end = |path: &str| {
        let line = line(path);
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        (line["bytes_sent"].as_u64(), text("origin"), text("reason"))
    };
    let gone = |bytes| (Some(bytes), "client".to_owned(), "client-gone".to_owned());
    assert_eq!(end("/all"), (Some(500), String::new(), String::new()));
    assert_eq!(line("/all")["query"], "a=1");
    assert_eq!(end("/none"), gone(0));
    assert_eq!(end("/some"), gone(100));
    assert_eq!(end("/silent"), gone(0));
    let silent = |key: &str| line("/silent")[key].as_f64().unwrap();
    assert!(silent("total_ms") >= 300.0 && silent("first_byte_ms") < 250.0);
}

/// Each of them counts with its own bytes, not with the buffer that they came in.
#[test]
fn small_unread_responses_hold_no_slot_of_their_version() {
    let origin = Origin::each(|_, conn| conn.reply(200, "sixteen bytes ..."));
    let limits = "[service.app.limits]\nconnections = 64\nrequests = 16";
    let proxy = serve(&format!(
        "limits.streams = 400\n{}",
        single(&origin.at(), limits)
    ));
    let mut client = windowless(&proxy);
    for first in (0..400_u32).step_by(10) {
        let id = |n| 2 * (first + n) + 1;
        let requests: Vec<_> = (0..10)
            .map(|n| frames::request(id(n), &get_fields("/")))
            .collect();
        ask(&mut client, &requests);
    }
    assert_eq!(in_flight(&proxy), 400.0);
    drop(client);
    until("no request is in flight", || {
        (in_flight(&proxy) == 0.0).then_some(())
    });
}
