//! What goes through, byte for byte, and what doesn't.

use crate::support::origin::Origin;
use crate::support::proxy::{Builder, before, serve, single};
use crate::support::tls::Authority;

#[test]
fn paths_and_queries_reach_the_origin_byte_for_byte() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    let mut client = proxy.client();
    for target in [
        "/",
        "/a%2Fb",
        "/a%2fb",
        "//double//slash",
        "/%41%7e~",
        "/a;b=c,d:e@f!$&'()*+",
        "/?",
        "/?a=b&a=%20+&%zz",
        "/x?../..",
        "/x?a=/../b",
        "/...",
        "/.hidden",
        "/a..b",
        "/%C3%A9",
        "/a%5Cb",
    ] {
        assert_eq!(client.get(target).status(), 200, "{target}");
        assert_eq!(origin.last().target(), target);
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn dot_segments_are_removed_however_they_are_written() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    for (target, arrives) in [
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/%2e%2E/b?q=..", "/b?q=.."),
        ("/a/.%2e/b", "/b"),
        ("/../../x", "/x"),
        ("/a/b/..", "/a/"),
        ("/a/.", "/a/"),
        ("/..", "/"),
        ("/a//../b", "/a/b"),
    ] {
        assert_eq!(proxy.get(target).status(), 200, "{target}");
        assert_eq!(origin.last().target(), arrives, "{target}");
    }
}

#[test]
fn absolute_form_names_the_host() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    let request = "GET http://other.test/x?y HTTP/1.1\r\nhost: test\r\n\r\n";
    assert_eq!(proxy.client().ask(request).status(), 200);
    assert_eq!(origin.last().target(), "/x?y");
    assert_eq!(origin.last().field("host").as_deref(), Some("other.test"));
}

#[test]
fn hop_by_hop_fields_end_here_and_all_else_goes_on() {
    let origin = Origin::raw(
        "HTTP/1.1 200 Fine By Me\r\nConnection: x-drop\r\nx-drop: 1\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Authenticate: Basic\r\nX-Keep: a\r\nx-keep: b\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
         content-length: 0\r\n\r\n",
    );
    let proxy = before(&origin.at());
    let answer = proxy.client().ask(
        "GET / HTTP/1.1\r\nhost: test\r\nConnection: x-gone, keep-alive\r\nx-gone: 1\r\nKeep-Alive: 5\r\n\
         Proxy-Connection: x\r\nTE: trailers\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n\
         Proxy-Authorization: Basic x\r\nX-Stay: 1\r\nx-stay: 2\r\nAccept: */*\r\n\r\n",
    );
    assert_eq!(answer.status(), 200);
    for gone in ["x-drop", "keep-alive", "proxy-authenticate"] {
        assert_eq!(answer.field(gone), None, "{gone}");
    }
    assert_eq!(answer.all("x-keep"), ["a", "b"]);
    assert_eq!(answer.all("set-cookie"), ["a=1", "b=2"]);
    let seen = origin.last();
    for gone in [
        "x-gone",
        "keep-alive",
        "proxy-connection",
        "upgrade",
        "http2-settings",
        "proxy-authorization",
    ] {
        assert_eq!(seen.field(gone), None, "{gone}");
    }
    assert!(!seen.all("connection").iter().any(|v| v.contains("x-gone")));
    assert_eq!(seen.all("x-stay"), ["1", "2"]);
    assert_eq!(seen.field("accept").as_deref(), Some("*/*"));
    assert_eq!(seen.field("host").as_deref(), Some("test"));
}

#[test]
fn connection_cannot_remove_what_the_proxy_adds() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    let answer = proxy
        .client()
        .ask("GET / HTTP/1.1\r\nhost: test\r\nconnection: x-forwarded-for, x-request-id\r\n\r\n");
    assert_eq!(answer.status(), 200, "{answer:?}");
    let seen = origin.last();
    assert_eq!(seen.field("x-forwarded-for").as_deref(), Some("127.0.0.1"));
    assert_eq!(seen.field("host").as_deref(), Some("test"));
    assert!(seen.field("x-request-id").is_some());
}

const FORGED: &str = "GET / HTTP/1.1\r\nhost: shop.test:81\r\nforwarded: for=1.2.3.4\r\n\
    x-forwarded-for: 1.2.3.4\r\nx-forwarded-proto: https\r\nx-forwarded-host: evil.test\r\n\r\n";

#[test]
fn forwarding_fields_of_a_stranger_are_replaced() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    proxy.client().ask(FORGED);
    let seen = origin.last();
    assert_eq!(seen.field("x-forwarded-for").as_deref(), Some("127.0.0.1"));
    assert_eq!(seen.field("x-forwarded-proto").as_deref(), Some("http"));
    assert_eq!(
        seen.field("x-forwarded-host").as_deref(),
        Some("shop.test:81")
    );
    assert_eq!(seen.field("forwarded"), None);
}

#[test]
fn forwarding_fields_of_a_trusted_proxy_are_believed() {
    let origin = Origin::named("blue");
    let proxy = Builder::new(&format!(
        "admin = \"127.0.0.1:$ADMIN\"\nworkers = 1\nstate_dir = \"$DIR/state\"\n\
         [listen.front]\nbind = \"127.0.0.1:$PORT\"\ntrusted_proxies = [\"127.0.0.0/8\"]\n{}",
        single(&origin.at(), "")
    ))
    .start();
    proxy.client().ask(FORGED);
    let seen = origin.last();
    let forwarded_for = seen.field("x-forwarded-for").expect("x-forwarded-for");
    assert_eq!(forwarded_for, "1.2.3.4, 127.0.0.1");
    assert_eq!(seen.field("x-forwarded-proto").as_deref(), Some("https"));
    assert_eq!(seen.field("x-forwarded-host").as_deref(), Some("evil.test"));
}

#[test]
fn every_request_has_an_id_of_its_own() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    let mut client = proxy.client();
    for _ in 0..20 {
        client.get("/");
    }
    let mut ids: Vec<_> = origin
        .requests()
        .iter()
        .map(|r| r.field("x-request-id").expect("an id"))
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 20);
    assert!(ids.iter().all(|id| id.len() >= 16));
}

#[test]
fn an_answer_to_http_1_0_is_not_chunked_and_ends_with_the_connection() {
    let origin = Origin::raw(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    );
    let proxy = before(&origin.at());
    let mut client = proxy.client();
    client.send("GET / HTTP/1.0\r\nhost: test\r\n\r\n");
    let answer = client.answer("GET");
    assert_eq!(answer.field("transfer-encoding"), None);
    assert_eq!(answer.text(), "abcde");
    assert!(origin.last().line().ends_with("HTTP/1.1"));
}

#[test]
fn an_answer_until_close_keeps_the_client_connected() {
    let origin = Origin::script(|conn| {
        conn.request()?;
        conn.write(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")
    });
    let proxy = before(&origin.at());
    let mut client = proxy.client();
    for _ in 0..3 {
        assert_eq!(client.get("/").text(), "until the end");
    }
}

#[test]
fn answers_without_a_body_are_framed_right() {
    for (method, answer) in [
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"),
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        ),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\ncontent-length: 1000\r\n\r\n",
        ),
    ] {
        let origin = Origin::raw(answer);
        let proxy = before(&origin.at());
        let mut client = proxy.client();
        for _ in 0..2 {
            let got = client.ask(&format!("{method} / HTTP/1.1\r\nhost: test\r\n\r\n"));
            assert_eq!(got.status().to_string(), answer[9..12]);
            if got.status() == 204 {
                assert_eq!(got.field("content-length"), None);
            } else {
                let declared = answer.contains("content-length").then(|| "1000".to_owned());
                assert_eq!(got.field("content-length"), declared, "{answer}");
            }
        }
        assert_eq!(origin.connections(), 1, "{answer}");
    }
}

#[test]
fn many_requests_use_one_connection_upstream() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    let mut client = proxy.client();
    for _ in 0..200 {
        client.get("/");
    }
    assert_eq!((origin.connections(), origin.hits()), (1, 200));
}

#[test]
fn endpoints_are_used_by_weight() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let proxy = serve(&format!(
        "[service.app]\nstable = \"v1\"\nbalance = \"round_robin\"\n[service.app.versions]\n\
         v1 = [\"{} weight=3\", \"http://{}\"]\n",
        a.at(),
        b.at()
    ));
    let mut client = proxy.client();
    for _ in 0..400 {
        assert_eq!(client.get("/").status(), 200);
    }
    assert_eq!((a.hits(), b.hits()), (300, 100));
}

#[test]
fn the_less_busy_endpoint_is_asked() {
    let stuck = Origin::script(|conn| {
        while let Some(request) = conn.request()? {
            match request.target().as_str() {
                "/stuck" => drop(conn.peer_closes(crate::support::PATIENCE)?),
                _ => conn.reply(200, "a")?,
            }
        }
        Ok(())
    });
    let free = Origin::named("b");
    let proxy = serve(&format!(
        "[service.app]\nstable = \"v1\"\n[service.app.versions]\nv1 = [\"{}\", \"{}\"]\n",
        stuck.at(),
        free.at()
    ));
    let mut waiting = Vec::new();
    while !stuck.requests().iter().any(|r| r.target() == "/stuck") {
        let mut client = proxy.client();
        client.send("GET /stuck HTTP/1.1\r\nhost: test\r\n\r\n");
        // `free` answers at once; `stuck` never.
        client.patience(std::time::Duration::from_millis(100));
        let _answered = client.try_answer("GET");
        waiting.push(client);
    }
    let mut client = proxy.client();
    for _ in 0..50 {
        assert_eq!(client.get("/").text(), "b");
    }
}

#[test]
fn upstreams_may_be_unix_sockets_or_https() {
    let authority = Authority::new();
    let identity = authority.issue(&["127.0.0.1"]);
    let h1 = Origin::tls("h1", &identity, &["http/1.1"]);
    let plain = Origin::tls("plain", &identity, &[]);
    let (a, b) = (h1.at(), plain.at());
    let builder = Builder::rest(&format!(
        r#"
[service.unix]
hosts = ["unix.test"]
stable = "v"
versions.v = ["unix:$DIR/origin.sock"]
[service.h1]
hosts = ["h1.test"]
stable = "v"
versions.v = ["https://{a}"]
[service.plain]
hosts = ["plain.test"]
stable = "v"
versions.v = ["https://{b}"]
"#
    ));
    Origin::unix(&builder.dir().join("origin.sock"), "unix");
    let roots = builder.dir().join("ca.pem");
    authority.save(&roots);
    let proxy = builder.env("SSL_CERT_FILE", roots).start();
    let mut client = proxy.client();
    for name in ["unix", "h1", "plain", "unix", "h1"] {
        let request = format!("GET / HTTP/1.1\r\nhost: {name}.test\r\n\r\n");
        assert_eq!(client.ask(&request).text(), name);
    }
}

#[test]
fn an_https_upstream_that_nobody_vouches_for_is_refused() {
    let identity = Authority::new().issue(&["127.0.0.1"]);
    let origin = Origin::tls("evil", &identity, &[]);
    let builder = Builder::rest(&single(&format!("https://{}", origin.at()), ""));
    let roots = builder.dir().join("ca.pem");
    Authority::new().save(&roots);
    let proxy = builder.env("SSL_CERT_FILE", roots).start();
    let answer = proxy.get("/");
    assert_eq!(answer.status(), 502);
    assert!(answer.field("x-cutover-reason").is_some());
}
