//! Rules of RFC 9110 and RFC 9112 for what a proxy adds, drops and answers itself.

use bytes::Bytes;
use http::Request;

use crate::support::block_on;
use crate::support::h2_client::H2;
use crate::support::h2_origin::H2Origin;
use crate::support::origin::Origin;
use crate::support::proxy::{Builder, Proxy, before, single};

fn post(chunks: &str) -> String {
    format!("POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n{chunks}")
}

/// Answers every chunked request with its own bytes. It keeps its connections: a POST that meets
/// one that is being closed may not be sent again, and is a 502.
fn says_what_it_saw() -> Origin {
    Origin::script(|conn| {
        while let Some(seen) = conn.through(b"\r\n0\r\n\r\n")? {
            conn.reply(200, &String::from_utf8_lossy(&seen))?;
        }
        Ok(())
    })
}

/// The lines of a head that announce a length.
fn length_lines(head: &[u8]) -> String {
    let head = String::from_utf8_lossy(head).into_owned();
    let is_length = |line: &&str| line.to_ascii_lowercase().starts_with("content-length");
    head.split("\r\n")
        .filter(is_length)
        .collect::<Vec<_>>()
        .join("|")
}

#[test]
fn a_length_is_passed_on_once_and_in_digits_alone() {
    // Answers with the lines that the request asks for, and says which it has got.
    let origin = Origin::script(|conn| {
        while let Some(seen) = conn.through(b"\r\n\r\nhi")? {
            let text = String::from_utf8_lossy(&seen).into_owned();
            let asked = text.split("x-answer: ").nth(1).unwrap_or_default();
            let lines = asked.split("\r\n").next().unwrap_or_default();
            let lines = lines.replace('|', "\r\n");
            let got = length_lines(&seen).replace(':', "=");
            let head = format!("HTTP/1.1 200 OK\r\n{lines}\r\nx-got: {got}\r\n\r\nhi");
            conn.write(head.as_bytes())?;
        }
        Ok(())
    });
    let proxy = before(&origin.at());
    let mut client = proxy.client();
    for (sent, passed) in [
        ("content-length: 2", "content-length: 2"),
        ("Content-Length:2", "Content-Length:2"),
        ("Content-Length: \t2 ", "Content-Length: \t2 "),
        ("Content-Length: 02", "content-length: 2"),
    ] {
        client.send(format!(
            "POST / HTTP/1.1\r\nhost: test\r\n{sent}\r\nx-answer: {sent}\r\n\r\nhi"
        ));
        let head = client.through(b"\r\n\r\nhi");
        assert_eq!(length_lines(&head), passed, "to the client");
        let got = format!("x-got: {}\r\n", passed.replace(':', "="));
        let head = String::from_utf8_lossy(&head).into_owned();
        assert!(head.contains(&got), "to the endpoint: {head}");
    }
    let twice = "content-length: 2|Content-Length: 2";
    client.send(format!(
        "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 2\r\nx-answer: {twice}\r\n\r\nhi"
    ));
    let head = client.through(b"\r\n\r\nhi");
    assert_eq!(length_lines(&head), "content-length: 2");
}

#[test]
fn chunk_extensions_that_are_well_formed_are_dropped() {
    let origin = says_what_it_saw();
    let proxy = before(&origin.at());
    for extension in [
        ";a",
        ";a=b",
        "; a = b ; c",
        ";a=\"q;\\\" =\"",
        ";sig=\"\\\\\";x",
        ";a=\"\u{e9}\"",
        ";a=\"\"",
    ] {
        let request = post(&format!("5{extension}\r\nhello\r\n0{extension}\r\n\r\n"));
        let answer = proxy.client().ask(&request);
        assert_eq!(answer.status(), 200, "{extension:?}");
        assert!(
            answer.text().ends_with("\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
            "{extension:?}"
        );
    }
}

#[test]
fn malformed_chunk_extensions_are_refused() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    for extension in [
        ";a=",
        ";a b",
        ";a=b c",
        ";a==b",
        ";a=b=c",
        ";a;",
        ";a=\"b",
        ";a=\"b\"c",
        ";a=\"b\\",
        ";a,b",
        ";\u{e9}",
        ";a=\u{e9}",
        ";a=(b)",
        ";a ",
        ";a=b ",
        ";a=\"b\x01\"",
        ";=b",
    ] {
        let mut client = proxy.client();
        let _may_be_cut = client.try_send(post(&format!("5{extension}\r\nhello\r\n0\r\n\r\n")));
        assert_eq!(client.answer("POST").status(), 400, "{extension:?}");
    }
    assert!(origin.requests().is_empty());
}

#[test]
fn leading_zeros_of_a_chunk_size_are_skipped() {
    let raw = says_what_it_saw();
    let proxy = before(&raw.at());
    for zeros in [1, 16, 63] {
        let zeros = "0".repeat(zeros);
        let request = post(&format!("{zeros}5\r\nhello\r\n{zeros}0\r\n\r\n"));
        let answer = proxy.client().ask(&request);
        assert_eq!(answer.status(), 200, "{zeros}");
        assert!(
            answer.text().ends_with("\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
            "{zeros}"
        );
    }
    for size in [
        "0".repeat(64) + "5",
        "8000000000000001".into(),
        "00010000000000000000".into(),
    ] {
        let mut client = proxy.client();
        let _may_be_cut = client.try_send(post(&format!("{size}\r\nhello\r\n0\r\n\r\n")));
        assert_eq!(client.answer("POST").status(), 400, "{size}");
    }
}

#[test]
fn a_response_without_a_date_gets_one() {
    const DATED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    let origin = Origin::each(|request, conn| match request.target().as_str() {
        "/dated" => conn.write(
            format!("HTTP/1.1 200 OK\r\ndate: {DATED}\r\ncontent-length: 0\r\n\r\n").as_bytes(),
        ),
        "/named" => conn.write(
            format!(
                "HTTP/1.1 200 OK\r\ndate: {DATED}\r\nconnection: date\r\ncontent-length: 0\r\n\r\n"
            )
            .as_bytes(),
        ),
        _ => conn.reply(200, "ok"),
    });
    let proxy = before(&origin.at());
    let is_now = |date: &str| {
        let date = httpdate::parse_http_date(date).expect("an HTTP date");
        let age = std::time::SystemTime::now().duration_since(date);
        assert!(age.is_ok_and(|age| age.as_secs() < 30), "{date:?}");
    };
    is_now(&proxy.get("/").field("date").expect("a date"));
    is_now(&proxy.get("/named").field("date").expect("a date"));
    assert_eq!(proxy.get("/dated").field("date").as_deref(), Some(DATED));
    // An answer of the proxy itself.
    is_now(&proxy.get("/%00").field("date").expect("a date"));
    block_on(async {
        let client = H2::connect(proxy.port).await;
        for (path, dated) in [("/", false), ("/dated", true)] {
            let answer = client
                .get(&format!("http://test{path}"))
                .await
                .expect("an answer");
            let dates: Vec<_> = answer.headers.get_all("date").iter().collect();
            assert_eq!(dates.len(), 1, "{path}");
            match dated {
                true => assert_eq!(dates[0], DATED),
                false => is_now(dates[0].to_str().expect("text")),
            }
        }
    });
}

fn naming(via: &str, origin: &Origin) -> Proxy {
    Builder::new(&format!(
        "admin = \"127.0.0.1:$ADMIN\"\nworkers = 1\nstate_dir = \"$DIR/state\"\n\
         [listen.front]\nbind = \"127.0.0.1:$PORT\"\n{via}\n{}",
        single(&origin.at(), "")
    ))
    .start()
}

#[test]
fn a_request_names_the_proxy_in_via() {
    let origin = Origin::named("blue");
    for (keys, name) in [
        ("", Some("cutover")),
        ("via = \"edge-1\"", Some("edge-1")),
        ("via = false", None),
    ] {
        let proxy = naming(keys, &origin);
        let via = || origin.last().field("via");
        let answer = proxy.get("/");
        assert_eq!(answer.field("via"), None);
        assert_eq!(via(), name.map(|n| format!("1.1 {n}")));
        proxy.client().ask("GET / HTTP/1.0\r\nhost: test\r\n\r\n");
        assert_eq!(via(), name.map(|n| format!("1.0 {n}")));
        block_on(async {
            let client = H2::connect(proxy.port).await;
            client.get("http://test/").await.expect("an answer");
        });
        assert_eq!(via(), name.map(|n| format!("2.0 {n}")));
        let two = "GET / HTTP/1.1\r\nhost: test\r\nvia: 1.0 a\r\nvia: 1.1 b (x), 1.1 c\r\n\r\n";
        proxy.client().ask(two);
        match name {
            Some(n) => assert_eq!(via(), Some(format!("1.0 a, 1.1 b (x), 1.1 c, 1.1 {n}"))),
            None => assert_eq!(origin.last().all("via"), ["1.0 a", "1.1 b (x), 1.1 c"]),
        }
    }
}

#[test]
fn via_and_max_forwards_go_to_http2_origins_too() {
    let origin = H2Origin::named("h2");
    let proxy = before(&origin.h2c());
    let request = "OPTIONS /x HTTP/1.1\r\nhost: test\r\nvia: 1.0 a\r\nmax-forwards: 7\r\n\r\n";
    assert_eq!(proxy.client().ask(request).status(), 200);
    let heads = origin.heads();
    let head = heads.last().expect("a request");
    assert_eq!(head.headers()["via"], "1.0 a, 1.1 cutover");
    assert_eq!(head.headers()["max-forwards"], "6");
}

#[test]
fn max_forwards_ends_here_or_counts_down() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    let ask = |method: &str, hops: &str| {
        let request = format!("{method} /x HTTP/1.1\r\nhost: test\r\nmax-forwards: {hops}\r\n\r\n");
        proxy.client().ask(&request).status()
    };
    assert_eq!(ask("OPTIONS", "0"), 200);
    assert_eq!(ask("TRACE", "0"), 405);
    assert_eq!(ask("OPTIONS", "000"), 200);
    assert_eq!(origin.hits(), 0);
    block_on(async {
        let client = H2::connect(proxy.port).await;
        for (method, status) in [("OPTIONS", 200), ("TRACE", 405)] {
            let request = Request::builder().method(method).uri("http://test/x");
            let request = request
                .header("max-forwards", "0")
                .body(())
                .expect("a request");
            let answer = client.ask(request, Bytes::new()).await.expect("an answer");
            assert_eq!(answer.status, status, "{method}");
        }
    });
    assert_eq!(origin.hits(), 0);
    for (method, hops, sent) in [
        ("OPTIONS", "1", "0"),
        ("TRACE", "10", "9"),
        ("GET", "0", "0"),
        ("OPTIONS", "many", "many"),
    ] {
        assert_eq!(ask(method, hops), 200, "{method} {hops}");
        assert_eq!(
            origin.last().field("max-forwards").as_deref(),
            Some(sent),
            "{method} {hops}"
        );
    }
}

#[test]
fn options_of_a_whole_server_goes_up_as_an_asterisk() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    for (target, sent) in [
        ("http://test", "*"),
        ("http://test:80", "*"),
        ("http://test/", "/"),
        ("http://test?x", "/?x"),
        ("*", "*"),
    ] {
        let request = format!("OPTIONS {target} HTTP/1.1\r\nhost: test\r\n\r\n");
        assert_eq!(proxy.client().ask(&request).status(), 200, "{target}");
        assert_eq!(origin.last().target(), sent, "{target}");
    }
    proxy
        .client()
        .ask("GET http://test HTTP/1.1\r\nhost: test\r\n\r\n");
    assert_eq!(origin.last().target(), "/");
}

#[test]
fn a_response_announces_its_trailers_where_they_pass() {
    let origin = Origin::raw(
        "HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-sum: 1\r\n\r\n",
    );
    let proxy = before(&origin.at());
    let answer = proxy.get("/");
    assert_eq!(answer.field("trailer").as_deref(), Some("x-sum"));
    assert_eq!(answer.trailer("x-sum").as_deref(), Some("1"));
    let old = proxy.client().ask("GET / HTTP/1.0\r\nhost: test\r\n\r\n");
    assert_eq!((old.text().as_str(), old.field("trailer")), ("a", None));
    block_on(async {
        let client = H2::connect(proxy.port).await;
        let answer = client.get("http://test/").await.expect("an answer");
        assert_eq!(answer.headers["trailer"], "x-sum");
        assert_eq!(answer.trailers["x-sum"], "1");
    });
}
