//! HTTP/2 that breaks the rules: a reset stream or a closed connection, nothing at the origin, and no harm to others.

use std::time::Duration;

use crate::support::client::Client;
use crate::support::frames::{
    self, END_HEADERS, END_STREAM, Outcome, block, frame, get_fields, kind,
};
use crate::support::h2_origin::H2Origin;
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, before, serve, single};
use crate::support::until;

fn open(proxy: &Proxy) -> Client {
    let mut client = proxy.client();
    client.send(frames::preface());
    client
}

/// Refused as malformed: the stream reset or answered 400, or the connection ended with an error.
#[track_caller]
fn refused(what: &str, outcome: Outcome) {
    let fine = matches!(
        outcome,
        Outcome::Reset(_) | Outcome::Goaway(_) | Outcome::Closed | Outcome::Status(400)
    );
    assert!(fine, "{what}: {outcome:?}");
}

#[test]
fn malformed_heads_reach_no_origin() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    let get = get_fields("/");
    let plus = |more: &[(&'static str, &'static str)]| [&get[..], more].concat();
    let cases: Vec<(&str, Vec<(&str, &str)>)> = vec![
        ("upper case", plus(&[("X-Upper", "x")])),
        ("colon in name", plus(&[("a:b", "x")])),
        ("space in name", plus(&[("a b", "x")])),
        ("empty name", plus(&[("", "x")])),
        ("CR in value", plus(&[("x", "a\rb")])),
        ("LF in value", plus(&[("x", "a\nb")])),
        ("NUL in value", plus(&[("x", "a\0b")])),
        ("connection", plus(&[("connection", "close")])),
        ("keep-alive", plus(&[("keep-alive", "5")])),
        ("proxy-connection", plus(&[("proxy-connection", "x")])),
        (
            "transfer-encoding",
            plus(&[("transfer-encoding", "chunked")]),
        ),
        ("upgrade", plus(&[("upgrade", "h2c")])),
        ("te other than trailers", plus(&[("te", "gzip")])),
        ("unknown pseudo", [&[(":evil", "x")], &get[..]].concat()),
        ("late pseudo", [&[("x", "y")], &get[..]].concat()),
        ("duplicate path", plus(&[(":path", "/b")])),
        ("no path", get[..3].to_vec()),
        ("empty path", [&get[..3], &[(":path", "")]].concat()),
        ("no method", get[1..].to_vec()),
        ("no scheme", [&get[..1], &get[2..]].concat()),
        ("status in a request", plus(&[(":status", "200")])),
        ("a length without data", plus(&[("content-length", "5")])),
        ("host unlike authority", plus(&[("host", "other")])),
        ("underscore", plus(&[("a_b", "x")])),
        (
            "userinfo",
            vec![get[0], get[1], (":authority", "u@test"), get[3]],
        ),
        (
            "path without slash",
            [&get[..3], &[(":path", "x")]].concat(),
        ),
        ("NUL in path", [&get[..3], &[(":path", "/%00")]].concat()),
    ];
    for (what, fields) in cases {
        let mut client = open(&proxy);
        client.send(frames::request(1, &fields));
        refused(what, frames::outcome(&mut client, 1));
        assert_eq!(origin.hits(), 0, "{what}");
    }
    let mut client = open(&proxy);
    client.send(frames::request(1, &get));
    assert_eq!(frames::outcome(&mut client, 1), Outcome::Status(200));
}

#[test]
fn data_unlike_the_declared_length_is_never_a_whole_request() {
    for data in ["abcdef", "ab"] {
        let origin = Origin::script(|conn| {
            let Some(mut request) = conn.head()? else {
                return Ok(());
            };
            conn.body(&mut request)
        });
        let proxy = before(&origin.at());
        let mut client = open(&proxy);
        let mut fields = get_fields("/").to_vec();
        fields[0].1 = "POST";
        fields.push(("content-length", "4"));
        client.send(frame(kind::HEADERS, END_HEADERS, 1, &block(&fields)));
        client.send(frame(kind::DATA, END_STREAM, 1, data.as_bytes()));
        refused(data, frames::outcome(&mut client, 1));
        until("let go", || (origin.open() == 0).then_some(()));
        assert!(origin.requests().is_empty());
    }
}

/// Sends until the proxy ends the connection, `most` times at the most; how often it took.
#[track_caller]
fn cut_within(client: &mut Client, most: usize, mut next: impl FnMut(usize) -> Vec<u8>) -> usize {
    client.patience(Duration::from_secs(5));
    for n in 0..most {
        if client.try_send(next(n)).is_err() {
            return n;
        }
    }
    // What was sent may still be on its way: the end must follow without more.
    match frames::outcome(client, u32::MAX) {
        Outcome::Closed | Outcome::Goaway(_) => most,
        other => panic!("still open after {most}: {other:?}"),
    }
}

#[test]
fn a_flood_of_continuations_is_cut() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    for payload in [&b""[..], &[0, 1, b'a', 1, b'b']] {
        let mut client = open(&proxy);
        client.send(frame(kind::HEADERS, 0, 1, &block(&get_fields("/"))));
        cut_within(&mut client, 20_000, |_| {
            frame(kind::CONTINUATION, 0, 1, payload)
        });
    }
    assert_eq!(origin.hits(), 0);
    assert_eq!(proxy.get("/").status(), 200);
}

#[test]
fn rapid_resets_are_cut_and_cancelled_upstream() {
    let origin = H2Origin::script(|x| x.never());
    let proxy = before(&origin.h2c());
    let mut client = open(&proxy);
    cut_within(&mut client, 600, |n| {
        let stream = 2 * n as u32 + 1;
        let mut both = frames::request(stream, &get_fields("/"));
        both.extend(frame(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8]));
        both
    });
    until("all is cancelled", || (origin.active() == 0).then_some(()));
    assert!(
        origin.most_active() <= 128,
        "{} at once",
        origin.most_active()
    );
}

fn reset(stream: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8])
}

#[test]
fn streams_that_are_cancelled_as_soon_as_begun_cost_the_origin_nothing() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    let mut client = open(&proxy);
    let cancelled = (0..100).map(|n| 2 * n + 1);
    let both = cancelled.flat_map(|n| [frames::request(n, &get_fields("/")), reset(n)].concat());
    client.send(both.collect::<Vec<u8>>());
    client.send(frames::request(201, &get_fields("/")));
    assert_eq!(frames::outcome(&mut client, 201), Outcome::Status(200));
    assert_eq!(origin.hits(), 1);
}

#[test]
fn a_client_that_cancels_all_it_has_begun_is_not_cut() {
    let origin = H2Origin::script(|x| x.never());
    let proxy = before(&origin.h2c());
    let mut client = open(&proxy);
    for round in 0..3 {
        let streams = || (0..120).map(|n| 2 * (120 * round + n) + 1);
        for stream in streams() {
            client.send(frames::request(stream, &get_fields("/")));
        }
        until("all are with the origin", || {
            (origin.active() == 120).then_some(())
        });
        client.send(streams().flat_map(reset).collect::<Vec<u8>>());
        until("all are cancelled", || (origin.active() == 0).then_some(()));
    }
    client.send(frame(kind::PING, 0, 0, &[7; 8]));
    loop {
        let frame = frames::next(&mut client).expect("the connection goes on");
        assert_ne!(frame.kind, kind::GOAWAY);
        if frame.kind == kind::PING {
            break;
        }
    }
}

#[cfg(not(feature = "h2-crate"))]
#[test]
fn resets_that_a_client_provokes_count_as_its_own() {
    let origin = H2Origin::script(|x| x.never());
    let proxy = before(&origin.h2c());
    let mut client = open(&proxy);
    cut_within(&mut client, 600, |n| {
        let stream = 2 * n as u32 + 1;
        let mut both = frames::request(stream, &get_fields("/"));
        both.extend(match n % 2 {
            0 => reset(stream),
            // More than a window may hold: the proxy has to reset the stream.
            _ => frame(kind::WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff]),
        });
        both
    });
    until("all is cancelled", || (origin.active() == 0).then_some(()));
    assert!(
        origin.most_active() <= 128,
        "{} at once",
        origin.most_active()
    );
}

#[test]
fn floods_of_small_frames_are_cut() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    let floods: [(&str, Vec<u8>); 4] = [
        ("settings", frame(kind::SETTINGS, 0, 0, &[])),
        ("ping", frame(kind::PING, 0, 0, &[0; 8])),
        ("priority", frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 0, 16])),
        (
            "window of a stream",
            frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        ),
    ];
    for (what, bytes) in floods {
        let start = proxy.resident();
        let mut client = open(&proxy);
        let batch = bytes.repeat(100);
        client.patience(Duration::from_millis(500));
        // Cut, or taken without growth: a hundred thousand of them are no reason to die.
        for _ in 0..1000 {
            if client.try_send(&batch).is_err() {
                break;
            }
        }
        let grown = proxy.resident().saturating_sub(start);
        assert!(grown < 16 * 1024 * 1024, "{what}: {grown} bytes more");
        assert_eq!(proxy.get("/").status(), 200, "{what}");
    }
}

#[test]
fn a_head_that_unpacks_to_too_much_is_refused() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    let mut client = open(&proxy);
    let mut payload = block(&get_fields("/"));
    // One long field into the dynamic table, then named again and again: small on the wire, large in memory.
    payload.push(0x40);
    let literal = block(&[("bomb", &"b".repeat(3000))]);
    payload.extend(&literal[1..]);
    payload.extend([0xbe; 4000]);
    client.send(frame(kind::HEADERS, END_STREAM | END_HEADERS, 1, &payload));
    let outcome = frames::outcome(&mut client, 1);
    let fine = matches!(
        outcome,
        Outcome::Status(431) | Outcome::Reset(_) | Outcome::Goaway(_) | Outcome::Closed
    );
    assert!(fine, "{outcome:?}");
    assert_eq!(origin.hits(), 0);
}

#[test]
fn no_more_streams_than_announced_reach_the_origin() {
    let origin = H2Origin::script(|x| x.never());
    let proxy = before(&origin.h2c());
    let mut client = open(&proxy);
    for n in 0..300 {
        if client
            .try_send(frames::request(2 * n + 1, &get_fields("/")))
            .is_err()
        {
            break;
        }
    }
    until("some are there", || (origin.active() > 0).then_some(()));
    client.patience(Duration::from_millis(300));
    frames::outcome(&mut client, 599);
    assert!(
        origin.most_active() <= 128,
        "{} at once",
        origin.most_active()
    );
    drop(client);
    until("all is cancelled", || (origin.active() == 0).then_some(()));
    assert!(origin.resets() > 0);
}

#[test]
fn broken_frames_end_the_connection() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    for (what, bytes) in [
        ("data on stream 0", frame(kind::DATA, 0, 0, b"x")),
        ("headers on stream 0", frames::request(0, &get_fields("/"))),
        ("an even stream", frames::request(2, &get_fields("/"))),
        ("a ping of seven bytes", frame(kind::PING, 0, 0, &[0; 7])),
        (
            "settings of five bytes",
            frame(kind::SETTINGS, 0, 0, &[0; 5]),
        ),
        (
            "a continuation out of the blue",
            frame(kind::CONTINUATION, END_HEADERS, 1, &[]),
        ),
        (
            "a window of nothing",
            frame(kind::WINDOW_UPDATE, 0, 0, &[0; 4]),
        ),
        (
            "a broken header block",
            frame(kind::HEADERS, END_STREAM | END_HEADERS, 1, &[0xff; 20]),
        ),
        (
            "a huge frame",
            [&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1][..], &[0; 20_000]].concat(),
        ),
    ] {
        let mut client = open(&proxy);
        client.send(bytes);
        let outcome = frames::outcome(&mut client, u32::MAX);
        assert!(
            matches!(outcome, Outcome::Goaway(_) | Outcome::Closed),
            "{what}: {outcome:?}"
        );
    }
    let mut client = proxy.client();
    client.send("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n");
    client.rest();
    assert_eq!(origin.hits(), 0);
    assert_eq!(proxy.get("/").status(), 200);
}

#[test]
fn sizes_have_limits() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    let names: Vec<String> = (0..101).map(|n| format!("x{n}")).collect();
    let many: Vec<_> = names.iter().map(|n| (n.as_str(), "y")).collect();
    let long = format!("/{}", "p".repeat(9000));
    for (what, fields, status) in [
        ("fields", [&get_fields("/")[..], &many].concat(), 431),
        ("path", get_fields(&long).to_vec(), 414),
    ] {
        let mut client = open(&proxy);
        client.send(frames::request(1, &fields));
        let outcome = frames::outcome(&mut client, 1);
        assert!(
            outcome == Outcome::Status(status) || matches!(outcome, Outcome::Reset(_)),
            "{what}: {outcome:?}"
        );
    }
    assert_eq!(origin.hits(), 0);
}

#[test]
fn no_tunnel_but_websocket_is_offered() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    let connect = [(":method", "CONNECT"), (":authority", "test")];
    let target = [(":scheme", "http"), (":path", "/")];
    let udp = [&connect[..], &target, &[(":protocol", "connect-udp")]].concat();
    let pathless = [&connect[..], &target[..1], &[(":protocol", "websocket")]].concat();
    let get = [&get_fields("/")[..], &[(":protocol", "websocket")]].concat();
    let twice = [&connect[..], &target, &[(":protocol", "websocket"); 2]].concat();
    for (fields, expected) in [
        (&connect[..], Outcome::Status(405)),
        (&udp, Outcome::Status(501)),
        (&pathless, Outcome::Reset(1)),
        (&get, Outcome::Reset(1)),
        (&twice, Outcome::Reset(1)),
    ] {
        let mut client = open(&proxy);
        client.send(frames::request(1, fields));
        assert_eq!(frames::outcome(&mut client, 1), expected, "{fields:?}");
        client.send(frames::request(3, &get_fields("/")));
        assert_eq!(frames::outcome(&mut client, 3), Outcome::Status(200));
    }
    assert_eq!(origin.hits(), 5);
}

#[test]
fn a_window_that_stays_shut_is_not_waited_for_for_ever() {
    let origin = Origin::script(|conn| {
        conn.request()?;
        conn.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n")?;
        for _ in 0..1000 {
            conn.write(&[b'x'; 100_000])?;
        }
        Ok(())
    });
    let proxy = serve(&single(&origin.at(), "timeouts.idle = \"300ms\""));
    let mut client = open(&proxy);
    client.send(frames::request(1, &get_fields("/")));
    until("it is there", || (origin.hits() == 1).then_some(()));
    until("the origin is let go", || {
        (origin.open() == 0).then_some(())
    });
}

#[test]
fn early_hints_come_before_the_answer() {
    let origin = Origin::raw(
        "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    );
    let proxy = before(&origin.at());
    let mut client = open(&proxy);
    client.send(frames::request(1, &get_fields("/")));
    assert_eq!(frames::outcome(&mut client, 1), Outcome::Status(103));
    assert_eq!(frames::outcome(&mut client, 1), Outcome::Status(200));
}
