//! When something breaks: upstream, client, or time.

use std::time::Duration;

use crate::support::client::End;
use crate::support::frames::{self, Outcome};
use crate::support::origin::Origin;
use crate::support::proxy::{before, serve, single};
use crate::support::wire::Message;
use crate::support::{free_port, until};

const GET: &str = "GET / HTTP/1.1\r\nhost: test\r\n\r\n";

/// An answer of our own: short, plain, with its reason.
#[track_caller]
fn assert_own(answer: &Message, status: u16, reason: &str) {
    assert_eq!(answer.status(), status);
    assert_eq!(answer.field("x-cutover-reason").as_deref(), Some(reason));
    let kind = answer.field("content-type").unwrap_or_default();
    assert!(kind.starts_with("text/plain"), "{kind}");
    assert!(answer.body.len() < 200);
}

#[test]
fn no_route_is_404_on_a_connection_that_goes_on() {
    let origin = Origin::named("blue");
    let proxy = serve(&single(&origin.at(), "hosts = [\"app.test\"]"));
    let mut client = proxy.client();
    assert_own(&client.get("/"), 404, "no-route");
    let answer = client.ask("GET / HTTP/1.1\r\nhost: app.test\r\n\r\n");
    assert_eq!(answer.text(), "blue");
    assert_own(&client.get("/"), 404, "no-route");
}

#[test]
fn a_name_that_leads_nowhere_is_503() {
    let proxy = serve(&single("nowhere.invalid:80", "timeouts.connect = \"5s\""));
    let answer = proxy.get("/");
    assert_eq!(answer.status(), 503);
    assert!(answer.field("x-cutover-reason").is_some());
}

#[test]
fn nobody_listening_is_502() {
    let nobody = format!("127.0.0.1:{}", free_port());
    let proxy = serve(&single(&nobody, "retry.tries = 1"));
    let mut client = proxy.client();
    for _ in 0..2 {
        let answer = client.get("/");
        assert_eq!(answer.status(), 502);
        assert!(answer.field("x-cutover-reason").is_some());
    }
    let counted = [("service", "app"), ("version", "v1"), ("status", "502")];
    until("counted", || {
        (proxy.metrics().sum("http_requests_total", &counted) == 2.0).then_some(())
    });
}

#[test]
fn an_origin_that_never_answers_is_504_and_let_go() {
    let origin = Origin::script(|conn| {
        conn.request()?;
        conn.peer_closes(crate::support::PATIENCE).map(drop)
    });
    let proxy = serve(&single(
        &origin.at(),
        "timeouts.first_byte = \"200ms\"\nretry.tries = 1",
    ));
    let mut client = proxy.client();
    assert_own(&client.get("/"), 504, "first-byte-timeout");
    until("the origin is let go", || {
        (origin.open() == 0).then_some(())
    });
    assert_eq!(origin.hits(), 1);
}

#[test]
fn a_whole_exchange_may_have_a_limit() {
    let origin = Origin::script(|conn| {
        conn.request()?;
        conn.peer_closes(crate::support::PATIENCE).map(drop)
    });
    let proxy = serve(&single(&origin.at(), "timeouts.total = \"200ms\""));
    assert_own(&proxy.get("/"), 504, "total-timeout");
    until("the origin is let go", || {
        (origin.open() == 0).then_some(())
    });
}

#[test]
fn the_limit_of_an_exchange_spares_a_response_that_moves() {
    let origin = Origin::each(|_, conn| {
        conn.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
        for _ in 0..6 {
            conn.wait(Duration::from_millis(100))?;
            conn.write(b"1\r\nx\r\n")?;
        }
        conn.write(b"0\r\n\r\n")
    });
    let more = "timeouts.total = \"300ms\"\ntimeouts.idle = \"5s\"";
    let proxy = serve(&single(&origin.at(), more));
    assert_eq!(proxy.get("/").text(), "xxxxxx");
}

#[test]
fn a_response_that_stands_still_is_cut() {
    let origin = Origin::script(|conn| {
        conn.request()?;
        conn.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")?;
        conn.peer_closes(crate::support::PATIENCE).map(drop)
    });
    let proxy = serve(&single(&origin.at(), "timeouts.idle = \"200ms\""));
    let mut client = proxy.client();
    client.send(GET);
    assert!(client.try_answer("GET").is_err());
    until("the origin is let go", || {
        (origin.open() == 0).then_some(())
    });
}

#[test]
fn a_response_that_is_cut_upstream_is_cut_downstream() {
    for (head, chunked) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", false),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\nhalf",
            true,
        ),
    ] {
        for by_reset in [false, true] {
            let origin = Origin::script(move |conn| {
                conn.request()?;
                conn.write(head.as_bytes())?;
                match by_reset {
                    true => conn.reset(),
                    false => Ok(()),
                }
            });
            let proxy = before(&origin.at());
            let mut client = proxy.client();
            client.send(GET);
            let seen = client.rest();
            let seen = String::from_utf8_lossy(&seen);
            // A reset may overtake what was sent before it: then there was no response to cut.
            let early = by_reset && seen.starts_with("HTTP/1.1 502");
            let half = seen.starts_with("HTTP/1.1 200") && (by_reset || seen.contains("half"));
            assert!(half || early, "{seen:?}");
            assert!(!(chunked && seen.ends_with("0\r\n\r\n")), "{seen}");
            drop(origin);
        }
    }
}

#[test]
fn a_cut_response_counts_as_a_failure() {
    let origin = Origin::script(|conn| {
        conn.request()?;
        conn.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
    });
    let proxy = before(&origin.at());
    let mut client = proxy.client();
    client.send(GET);
    client.rest();
    until("counted as 502", || {
        (proxy
            .metrics()
            .sum("http_requests_total", &[("status", "502")])
            == 1.0)
            .then_some(())
    });
}

#[test]
fn a_connection_that_breaks_before_an_answer_is_502() {
    for by_reset in [false, true] {
        let origin = Origin::script(move |conn| {
            conn.request()?;
            match by_reset {
                true => conn.reset(),
                false => Ok(()),
            }
        });
        let proxy = before(&origin.at());
        let post = "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 2\r\n\r\nhi";
        let mut client = proxy.client();
        for n in 1..=3 {
            let answer = client.ask(post);
            assert_eq!(answer.status(), 502);
            // A POST that may have been processed is never sent twice.
            assert_eq!(origin.hits(), n);
        }
    }
}

/// Serves one request a connection and closes it at once, without saying so.
fn closes_behind_our_back() -> Origin {
    Origin::script(|conn| {
        let Some(request) = conn.request()? else {
            return Ok(());
        };
        conn.reply(200, &request.text())
    })
}

#[test]
fn a_stale_connection_costs_nobody_a_request() {
    let origin = closes_behind_our_back();
    let proxy = before(&origin.at());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = proxy.client();
                for _ in 0..100 {
                    assert_eq!(client.get("/").status(), 200);
                }
            });
        }
    });
    assert_eq!(origin.hits(), 400, "nothing was answered twice");
}

#[test]
fn a_post_does_not_take_a_connection_that_is_known_to_be_dead() {
    let origin = closes_behind_our_back();
    let proxy = before(&origin.at());
    let mut client = proxy.client();
    for n in 1..=50 {
        let post = "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 4\r\n\r\nbody";
        let answer = client.ask(post);
        assert_eq!((answer.status(), answer.text().as_str()), (200, "body"));
        // Sent while the close is on its way it may have been processed: only what is known to be dead is tested here.
        until("the origin closed", || (origin.open() == 0).then_some(()));
        assert_eq!(origin.hits(), n);
    }
}

#[test]
fn a_get_on_a_connection_that_is_reset_while_idle_goes_out_again() {
    // The first request on a connection is answered; the second finds it reset before a byte of an answer.
    let origin = Origin::script(|conn| {
        conn.request()?;
        conn.reply(200, "fine")?;
        conn.head()?;
        conn.reset()
    });
    let proxy = before(&origin.at());
    let mut client = proxy.client();
    for _ in 0..6 {
        let answer = client.get("/");
        assert_eq!((answer.status(), answer.text().as_str()), (200, "fine"));
    }
    let retries = proxy
        .metrics()
        .sum("cutover_retries_total", &[("service", "app")]);
    assert!(retries >= 1.0);
}

#[test]
fn what_the_client_gives_up_is_cancelled_upstream() {
    let origin = Origin::script(|conn| {
        conn.request()?;
        conn.peer_closes(crate::support::PATIENCE).map(drop)
    });
    let proxy = before(&origin.at());
    let mut by_close = proxy.client();
    by_close.send(GET);
    let mut by_reset = proxy.client();
    by_reset.send(GET);
    until("both are there", || (origin.hits() == 2).then_some(()));
    by_reset.reset();
    drop(by_close);
    until("both are cancelled", || (origin.open() == 0).then_some(()));
    until("nothing in flight", || {
        (proxy.metrics().sum("http_requests_in_flight", &[]) == 0.0).then_some(())
    });
}

#[test]
fn a_client_that_leaves_inside_its_upload_never_completes_it() {
    let origin = Origin::script(|conn| {
        let Some(mut head) = conn.head()? else {
            return Ok(());
        };
        conn.body(&mut head)
    });
    let proxy = before(&origin.at());
    // Of a stated length, enough to be sent on; of a length that nobody states, anything.
    let half = format!("content-length: 100000\r\n\r\n{}", "x".repeat(70_000));
    for body in [
        half.as_str(),
        "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let mut client = proxy.client();
        client.send(format!("POST / HTTP/1.1\r\nhost: test\r\n{body}"));
        let seen = origin.hits();
        until("the head is there", || {
            (origin.hits() > seen || seen > 0).then_some(())
        });
        client.reset();
    }
    until("both are cancelled", || (origin.open() == 0).then_some(()));
    assert!(origin.requests().is_empty(), "no upload was completed");
}

#[test]
fn a_bad_response_is_502_and_its_connection_is_not_used_again() {
    for bad in [
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\na",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nbad name: x\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nspace : x\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nfolded: x\r\n y\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nnul: a\0b\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 20 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/3.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        "nonsense\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ] {
        let origin = Origin::raw(bad);
        let proxy = before(&origin.at());
        let answer = proxy.get("/");
        assert_eq!(answer.status(), 502, "{bad:?}");
        assert!(answer.field("x-cutover-reason").is_some());
        until(bad, || (origin.open() == 0).then_some(()));
    }
}

#[test]
fn bad_chunks_of_a_response_cut_it() {
    for bad in [
        "zz\r\nabc\r\n",
        "-3\r\nabc\r\n",
        "0x3\r\nabc\r\n",
        "3\r\nabcd\r\n",
        "fffffffffffffffff\r\n",
    ] {
        let origin = Origin::raw(format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{bad}0\r\n\r\n"
        ));
        let proxy = before(&origin.at());
        let mut client = proxy.client();
        client.send(GET);
        let seen = client.rest();
        let seen = String::from_utf8_lossy(&seen);
        let refused = seen.starts_with("HTTP/1.1 502");
        assert!(refused || !seen.ends_with("0\r\n\r\n"), "{bad:?}: {seen}");
        until(bad, || (origin.open() == 0).then_some(()));
    }
}

#[test]
fn surplus_after_a_response_reaches_nobody() {
    let origin = Origin::raw(
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfineHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
    );
    let proxy = before(&origin.at());
    let mut client = proxy.client();
    for _ in 0..3 {
        assert_eq!(client.get("/").text(), "fine");
    }
    assert_eq!(origin.connections(), 3);
    assert_eq!(client.end_within(Duration::from_millis(20)), End::Open);
}

#[test]
fn a_reader_that_stands_still_is_let_go() {
    let origin = Origin::script(|conn| {
        conn.request()?;
        conn.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")?;
        let piece = vec![b'x'; 1024 * 1024];
        for _ in 0..1000 {
            conn.write(&piece)?;
        }
        Ok(())
    });
    let proxy = serve(&single(&origin.at(), "timeouts.idle = \"300ms\""));
    let mut client = proxy.client();
    client.send(GET);
    until("it is there", || (origin.hits() == 1).then_some(()));
    until("the origin is let go", || {
        (origin.open() == 0).then_some(())
    });
    // It was never charged to the version: the client was at fault.
    assert_eq!(
        proxy
            .metrics()
            .sum("http_requests_total", &[("status", "502")]),
        0.0
    );
}

#[test]
fn idle_connections_to_an_origin_are_closed_after_a_while() {
    let origin = Origin::named("blue");
    let proxy = serve(&single(&origin.at(), "timeouts.idle = \"300ms\""));
    let mut client = proxy.client();
    assert_eq!(client.get("/").text(), "blue");
    assert_eq!(origin.open(), 1);
    until("it is closed", || (origin.open() == 0).then_some(()));
    assert_eq!(client.get("/").text(), "blue");
    until("counted out", || {
        let open = proxy.metrics().sum("cutover_upstream_connections", &[]);
        (open <= 1.0).then_some(())
    });
}

#[test]
fn a_connection_that_is_not_accepted_in_time_is_504() {
    // A full backlog: the kernel answers no further SYN.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let address = listener.local_addr().unwrap();
    let fillers: Vec<_> = (0..4)
        .map(|_| std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100)))
        .collect();
    assert!(
        fillers.iter().any(Result::is_err),
        "the backlog is not full"
    );
    let more = "timeouts.connect = \"200ms\"";
    let proxy = serve(&single(&address.to_string(), more));
    assert_own(&proxy.get("/"), 504, "connect-timeout");
}

#[test]
fn a_stream_that_the_client_leaves_between_events_is_cancelled_upstream() {
    let origin = Origin::script(|conn| {
        conn.request()?;
        conn.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n")?;
        conn.peer_closes(crate::support::PATIENCE).map(drop)
    });
    let proxy = before(&origin.at());
    let mut by_close = proxy.client();
    by_close.send(GET);
    by_close.through(b"data: 1\n\n");
    let mut over_h2 = proxy.client();
    over_h2.send(frames::preface());
    over_h2.send(frames::request(1, &frames::get_fields("/")));
    assert_eq!(frames::outcome(&mut over_h2, 1), Outcome::Status(200));
    assert_eq!(origin.open(), 2);
    drop(by_close);
    until("the first is cancelled", || {
        (origin.open() == 1).then_some(())
    });
    over_h2.send(frames::frame(frames::kind::RST_STREAM, 0, 1, &[0, 0, 0, 8]));
    until("the second is cancelled", || {
        (origin.open() == 0).then_some(())
    });
    until("nothing in flight", || {
        (proxy.metrics().sum("http_requests_in_flight", &[]) == 0.0).then_some(())
    });
}
