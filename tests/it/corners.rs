//! Corners of HTTP/1 that a proxy meets sooner or later.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::client::End;
use crate::support::origin::Origin;
use crate::support::proxy::{before, serve, single};
use crate::support::until;

#[test]
fn a_body_for_nobody_does_not_disturb_the_next_request() {
    let origin = Origin::named("blue");
    let proxy = serve(&single(&origin.at(), "hosts = [\"app.test\"]"));
    let mut client = proxy.client();
    for body in [
        "content-length: 10\r\n\r\n0123456789",
        "transfer-encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\n\r\n",
    ] {
        let answer = client.ask(&format!("POST / HTTP/1.1\r\nhost: nobody.test\r\n{body}"));
        assert_eq!(answer.status(), 404);
        let answer = client.ask("GET / HTTP/1.1\r\nhost: app.test\r\n\r\n");
        assert_eq!(answer.text(), "blue");
    }
}

#[test]
fn a_large_body_for_nobody_ends_the_connection_but_not_the_answer() {
    let proxy = serve(&single("127.0.0.1:1", "hosts = [\"app.test\"]"));
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nhost: nobody.test\r\ncontent-length: 100000000\r\n\r\n");
    let _may_be_cut = client.try_send(vec![b'x'; 200_000]);
    assert_eq!(client.answer("POST").status(), 404);
}

#[test]
fn who_expects_a_continue_gets_our_own_answer_at_once() {
    let proxy = serve(&single("127.0.0.1:1", "hosts = [\"app.test\"]"));
    for (host, status) in [("nobody.test", 404), ("app.test", 502)] {
        let mut client = proxy.client();
        client.send(format!(
            "POST / HTTP/1.1\r\nhost: {host}\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n"
        ));
        assert_eq!(client.head().unwrap().status(), status);
    }
}

#[test]
fn who_is_refused_instead_of_told_to_go_on_is_told_of_the_end_and_need_not_wait_for_it() {
    let origin = Origin::script(|conn| {
        while let Some(mut request) = conn.head()? {
            match request.target().as_str() {
                "/no" => return conn.reply(403, "no"),
                "/go-on" => conn.write(b"HTTP/1.1 100 Continue\r\n\r\n")?,
                _ => {}
            }
            conn.body(&mut request)?;
            conn.reply(200, "yes")?;
        }
        Ok(())
    });
    let proxy = serve(&single(&origin.at(), "hosts = [\"app.test\"]"));
    let post = |host: &str, path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: {host}\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n"
        )
    };
    for (host, status) in [("nobody.test", 404), ("app.test", 403)] {
        let mut client = proxy.client();
        let answer = client.ask(&post(host, "/no"));
        assert_eq!((answer.status(), answer.says_close()), (status, true));
        let soon = Duration::from_millis(1500);
        assert_eq!(client.end_within(soon), End::Closed, "{host}");
    }
    // Who has sent the body is kept, told to go on or not.
    let mut client = proxy.client();
    client.send(post("app.test", "/go-on"));
    assert_eq!(client.head().expect("a head").status(), 100);
    client.send("01234");
    assert!(!client.answer("POST").says_close());
    let answer = client.ask(&format!("{}01234", post("app.test", "/")));
    assert_eq!((answer.status(), answer.says_close()), (200, false));
}

#[test]
fn a_client_that_leaves_inside_its_head_is_no_answer() {
    let origin = Origin::named("blue");
    let proxy = serve(&format!(
        "[limits]\nheader_timeout = \"300ms\"\n{}",
        single(&origin.at(), "")
    ));
    let half = || {
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nhost: te");
        client
    };
    for leave in [crate::support::client::Client::reset, drop] {
        let client = half();
        until("it is seen", || {
            let open = proxy.metrics().sum("cutover_connections", &[]);
            (open == 1.0).then_some(())
        });
        leave(client);
        until("it is gone", || {
            let open = proxy.metrics().sum("cutover_connections", &[]);
            (open == 0.0).then_some(())
        });
    }
    let answers = || {
        let answers = proxy.metrics();
        answers.sum("cutover_downstream_requests_total", &[])
    };
    assert_eq!(answers(), 0.0);
    assert_eq!(half().head().expect("an answer").status(), 408);
    until("that is one", || (answers() == 1.0).then_some(()));
}

#[test]
fn our_own_answers_to_head_have_no_body() {
    let proxy = serve(&single("127.0.0.1:1", "hosts = [\"app.test\"]"));
    let mut client = proxy.client();
    for _ in 0..3 {
        let answer = client.ask("HEAD / HTTP/1.1\r\nhost: nobody.test\r\n\r\n");
        assert_eq!((answer.status(), answer.text().as_str()), (404, ""));
    }
}

#[test]
fn an_old_client_may_ask_to_be_kept() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    let mut client = proxy.client();
    for _ in 0..2 {
        let answer = client.ask("GET / HTTP/1.0\r\nhost: test\r\nconnection: keep-alive\r\n\r\n");
        assert_eq!(answer.text(), "blue");
        assert_eq!(answer.field("connection").as_deref(), Some("keep-alive"));
    }
    let answer = client.ask("GET / HTTP/1.0\r\nhost: test\r\n\r\n");
    assert_eq!(answer.text(), "blue");
    assert_eq!(client.end_within(Duration::from_secs(5)), End::Closed);
    let mut client = proxy.client();
    let answer = client.ask("GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    assert!(answer.says_close());
    assert_eq!(client.end_within(Duration::from_secs(5)), End::Closed);
}

#[test]
fn an_origin_that_wants_to_close_closes_only_its_own_connection() {
    let origin = Origin::raw("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok");
    let proxy = before(&origin.at());
    let mut client = proxy.client();
    for n in 1..=3 {
        let answer = client.get("/");
        assert_eq!(answer.text(), "ok");
        assert!(!answer.says_close());
        assert_eq!(origin.connections(), n);
    }
}

#[test]
fn an_origin_of_http_1_0_is_understood() {
    let origin = Origin::script(|conn| {
        conn.request()?;
        conn.write(b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nold")
    });
    let proxy = before(&origin.at());
    let mut client = proxy.client();
    for _ in 0..3 {
        let answer = client.get("/");
        assert_eq!(
            (answer.line().as_str(), answer.text().as_str()),
            ("HTTP/1.1 200 OK", "old")
        );
    }
}

#[test]
fn a_huge_response_head_is_502() {
    let origin = Origin::raw(format!(
        "HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n",
        "v".repeat(2_000_000)
    ));
    let proxy = before(&origin.at());
    assert_eq!(proxy.get("/").status(), 502);
}

#[test]
fn a_large_response_head_within_reason_is_passed_on() {
    let value = "v".repeat(12_000);
    let origin = Origin::raw(format!(
        "HTTP/1.1 200 OK\r\nx: {value}\r\ncontent-length: 2\r\n\r\nok"
    ));
    let proxy = before(&origin.at());
    let answer = proxy.get("/");
    assert_eq!(answer.field("x"), Some(value));
}

#[test]
fn endless_extensions_and_trailers_are_refused() {
    let origin = Origin::script(|conn| {
        let Some(mut request) = conn.head()? else {
            return Ok(());
        };
        conn.body(&mut request)?;
        conn.reply(200, "whole")
    });
    let proxy = before(&origin.at());
    let much = "e".repeat(20_000);
    let fields: String = (0..2000).map(|n| format!("x-{n}: {n}{n}{n}\r\n")).collect();
    for body in [
        format!("1;{much}\r\nx\r\n0\r\n\r\n"),
        format!("1\r\nx\r\n0\r\nx: {much}\r\n\r\n"),
        format!("1\r\nx\r\n0\r\n{fields}\r\n"),
    ] {
        let mut client = proxy.client();
        let _may_be_cut = client.try_send(format!(
            "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n{body}"
        ));
        assert!(matches!(client.answer("POST").status(), 400 | 431));
    }
    assert!(origin.requests().is_empty());
}

#[test]
fn pipelined_uploads_keep_their_bodies_apart() {
    let origin = Origin::echo();
    let proxy = before(&origin.at());
    let mut client = proxy.client();
    let mut all = String::new();
    for n in 0..10 {
        all += &match n % 2 {
            0 => format!("POST /{n} HTTP/1.1\r\nhost: test\r\ncontent-length: 1\r\n\r\n{n}"),
            _ => format!(
                "POST /{n} HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{n}\r\n0\r\n\r\n"
            ),
        };
    }
    client.send(all);
    for n in 0..10 {
        let answer = client.answer("POST");
        assert!(answer.text().starts_with(&format!("POST /{n} ")));
        assert!(answer.text().ends_with(&format!("\r\n\r\n{n}")));
    }
}

#[test]
fn a_flood_of_pipelined_requests_is_held_back() {
    let origin = Origin::script(|conn| {
        conn.head()?;
        conn.peer_closes(crate::support::PATIENCE).map(drop)
    });
    let proxy = before(&origin.at());
    let start = proxy.resident();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    until("the first is there", || (origin.hits() == 1).then_some(()));
    client.patience_to_write(Duration::from_millis(300));
    let many = "GET / HTTP/1.1\r\nhost: test\r\n\r\n".repeat(1000);
    let mut sent = 0;
    while sent < 64 * 1024 * 1024 && client.try_send(&many).is_ok() {
        sent += many.len();
    }
    assert!(sent < 32 * 1024 * 1024, "{sent} bytes were taken");
    assert!(proxy.resident() - start < 8 * 1024 * 1024);
    assert_eq!(origin.hits(), 1);
}

#[test]
fn a_flood_of_interim_answers_ends() {
    let origin = Origin::script(|conn| {
        conn.request()?;
        let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(100);
        // Ends when the proxy has had enough; else the final answer comes after a hundred thousand.
        for _ in 0..1000 {
            conn.write(hints.as_bytes())?;
        }
        conn.reply(200, "at last")
    });
    let proxy = before(&origin.at());
    let start = proxy.resident();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    client.answer("GET");
    assert!(proxy.resident() - start < 8 * 1024 * 1024);
}

#[test]
fn a_client_that_sends_half_a_head_and_leaves_harms_nobody() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    for n in 0..50 {
        let mut client = proxy.client();
        client.send(&"GET / HTTP/1.1\r\nhost: test\r\n\r"[..n % 28]);
        match n % 2 {
            0 => client.reset(),
            _ => drop(client),
        }
    }
    assert_eq!(proxy.get("/").text(), "blue");
    until("nobody is connected", || {
        (proxy.metrics().sum("cutover_connections", &[]) == 0.0).then_some(())
    });
    assert_eq!(origin.hits(), 1);
}

#[test]
fn a_length_on_204_is_dropped() {
    let origin = Origin::raw("HTTP/1.1 204 No Content\r\ncontent-length: 0\r\nx-kept: 1\r\n\r\n");
    let proxy = before(&origin.at());
    let answer = proxy.get("/");
    assert_eq!(answer.field("content-length"), None);
    assert_eq!(answer.field("x-kept").as_deref(), Some("1"));
}

#[test]
fn every_method_is_passed_on() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    let mut client = proxy.client();
    for method in [
        "GET", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "M-SEARCH", "get",
    ] {
        let body = "content-length: 2\r\n\r\nhi";
        let answer = client.ask(&format!("{method} / HTTP/1.1\r\nhost: test\r\n{body}"));
        assert_eq!(answer.status(), 200, "{method}");
        let seen = origin.last();
        assert_eq!(seen.line(), format!("{method} / HTTP/1.1"));
        assert_eq!(seen.text(), "hi");
    }
}

#[test]
fn a_client_that_half_closes_and_waits_gets_its_answer() {
    let origin = Origin::script(|conn| {
        while conn.request()?.is_some() {
            conn.wait(Duration::from_millis(100))?;
            conn.reply(200, "late")?;
        }
        Ok(())
    });
    let proxy = before(&origin.at());
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: app.test\r\n\r\n");
    client.finish();
    let answer = client.answer("GET");
    assert_eq!((answer.status(), answer.text().as_str()), (200, "late"));
    assert_eq!(client.end_within(Duration::from_secs(5)), End::Closed);
}

#[test]
fn a_body_that_turns_out_bad_is_told_that_the_connection_ends() {
    let origin = Origin::echo();
    let proxy = before(&origin.at());
    let answer = proxy.client().ask(
        "POST / HTTP/1.1\r\nhost: app.test\r\ntransfer-encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
    );
    assert_eq!((answer.status(), answer.says_close()), (400, true));
}

#[test]
fn a_client_that_takes_no_early_hints_is_given_up() {
    let hint = format!(
        "HTTP/1.1 103 Early Hints\r\nlink: <{}>\r\n\r\n",
        "x".repeat(30_000)
    );
    let gone = Arc::new(AtomicBool::new(false));
    let seen = gone.clone();
    let origin = Origin::script(move |conn| {
        conn.request()?;
        while conn.write(hint.as_bytes()).is_ok() {}
        seen.store(true, Ordering::SeqCst);
        Ok(())
    });
    let proxy = serve(&format!(
        "[limits]\nbody_timeout = \"1s\"\n{}",
        single(&origin.at(), "timeouts.first_byte = \"1s\"")
    ));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    until("the origin is left", || {
        gone.load(Ordering::SeqCst).then_some(())
    });
}
