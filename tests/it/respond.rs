//! Answers that the configuration gives: of a service, a version and a rule.

use std::fs;
use std::time::Duration;

use bytes::Bytes;
use http::Request;

use crate::support::client::Client;
use crate::support::h2_client::H2;
use crate::support::origin::Origin;
use crate::support::proxy::{Builder, Proxy, command, serve};
use crate::support::{block_on, until, until_within};

fn ask(proxy: &Proxy, method: &str, target: &str, host: &str) -> crate::support::wire::Message {
    let request = format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\n\r\n");
    proxy.client().ask(&request)
}

/// A request counts when its exchange has ended, which may be after its response was read.
fn until_answered(proxy: &Proxy, service: &str, count: f64) {
    let labels = [("service", service), ("reason", "respond")];
    until("the answers are counted", || {
        let counted = proxy.metrics().sum("cutover_own_answers_total", &labels);
        assert!(counted <= count, "{counted}");
        (counted == count).then_some(())
    });
}

#[test]
fn maintenance_is_one_line_and_leaves_previews_and_rules_reachable() {
    let (blue, green) = (Origin::named("blue"), Origin::named("green"));
    let file = |respond: &str| {
        format!(
            "[service.shop]\nhosts = [\"shop.test\"]\nstable = \"blue\"\n{respond}\n\
             [service.shop.versions.blue]\nendpoints = [\"{}\"]\n\
             [service.shop.versions.green]\nendpoints = [\"{}\"]\npreview = \"green.test\"\n\
             [[service.shop.match]]\nwhen = {{ header.x-team = \"1\" }}\nto = \"green\"\n",
            blue.at(),
            green.at()
        )
    };
    let proxy = serve(&file(""));
    assert_eq!(ask(&proxy, "GET", "/", "shop.test").text(), "blue");
    let line = "respond = { status = 503, body = \"back at noon\", retry_after = \"90s\" }";
    proxy.edit(&file(line));
    let answer = ask(&proxy, "GET", "/", "shop.test");
    assert_eq!(
        (answer.status(), answer.text().as_str()),
        (503, "back at noon")
    );
    for (name, value) in [
        ("retry-after", "90"),
        ("x-cutover-reason", "respond"),
        ("content-type", "text/plain; charset=utf-8"),
    ] {
        assert_eq!(answer.field(name).as_deref(), Some(value), "{name}");
    }
    assert!(answer.field("x-request-id").is_some());
    assert_eq!(ask(&proxy, "GET", "/", "green.test").text(), "green");
    let mut client = proxy.client();
    let tried = client.ask("GET / HTTP/1.1\r\nhost: shop.test\r\nx-team: 1\r\n\r\n");
    assert_eq!(tried.text(), "green");
    until_answered(&proxy, "shop", 1.0);
    let failures = proxy.metrics().sum("cutover_upstream_failures_total", &[]);
    assert_eq!(failures, 0.0);
    assert_eq!(proxy.status()["services"][0]["answer"], "respond with 503");
    let explained = proxy.command(&["explain", "http://shop.test/"]);
    let said = explained.stdout;
    assert!(
        said.contains("answered by the proxy: 503 respond"),
        "{said}"
    );
    proxy.edit(&file(""));
    assert_eq!(ask(&proxy, "GET", "/", "shop.test").text(), "blue");
}

#[test]
fn a_rule_answers_and_guards_its_path_in_every_spelling() {
    let origin = Origin::named("app");
    let proxy = serve(&format!(
        "[service.app]\nversions = {{ v1 = [\"{}\"] }}\n\
         [[service.app.match]]\nwhen = {{ path = \"/admin/*\" }}\nrespond = {{ status = 403 }}\n",
        origin.at()
    ));
    let answer = ask(&proxy, "GET", "/admin/users", "test");
    assert_eq!(
        (answer.status(), answer.text().as_str()),
        (403, "Forbidden\n")
    );
    for (target, status) in [
        ("/", 200),
        ("/admin", 200),
        ("/shop/../admin/x", 403),
        ("/%61dmin/x", 400),
        ("//admin/x", 400),
        ("/x%2f..%2fadmin/x", 400),
        ("/admin%2fx", 400),
        ("/a%20b", 200),
        ("/a%2fb", 200),
    ] {
        let answer = ask(&proxy, "GET", target, "test");
        assert_eq!(answer.status(), status, "{target}");
        if target.contains("..%2f") {
            // `explain` takes no malformed URL.
            continue;
        }
        let url = format!("http://test{target}");
        let said = proxy.command(&["explain", &url, "--json"]);
        let said: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
        let expected = (status != 200).then(|| status.to_string());
        let explained = said["answer"].as_str().map(|a| a[..3].to_owned());
        assert_eq!(explained, expected, "{target} {said}");
    }
    let hits = proxy
        .metrics()
        .sum("cutover_match_hits_total", &[("rule", "0")]);
    assert_eq!(hits, 2.0);
}

#[test]
fn a_version_that_answers_takes_over_when_nothing_else_is_up() {
    let origin = Origin::named("app");
    let proxy = serve(&format!(
        "[service.app]\nstable = \"v1\"\nfallback = \"sorry\"\nretry = {{ tries = 1 }}\n\
         health = {{ path = \"/\", interval = \"50ms\", fall = 1 }}\n\
         [service.app.versions]\nv1 = [\"{}\"]\n\
         sorry = {{ respond = {{ status = 503, body = \"{{}}\", content_type = \"application/json\" }} }}\n",
        origin.at()
    ));
    assert_eq!(proxy.get("/").text(), "app");
    drop(origin);
    let answer = until("the fallback answers", || {
        let answer = proxy.get("/");
        (answer.field("x-cutover-reason").as_deref() == Some("respond")).then_some(answer)
    });
    assert_eq!((answer.status(), answer.text().as_str()), (503, "{}"));
    assert_eq!(
        answer.field("content-type").as_deref(),
        Some("application/json")
    );
}

#[test]
fn responses_without_a_body_have_none() {
    let services: String = [204, 205, 304, 200]
        .map(|status| {
            format!("[service.s{status}]\nhosts = [\"s{status}.test\"]\nrespond = {{ status = {status} }}\n")
        })
        .concat();
    let proxy = serve(&services);
    let mut client = proxy.client();
    for status in [204, 205, 304] {
        for method in ["GET", "HEAD", "POST"] {
            let request =
                format!("{method} / HTTP/1.1\r\nhost: s{status}.test\r\ncontent-length: 0\r\n\r\n");
            client.send(request);
            let answer = client.answer(method);
            assert_eq!((answer.status(), answer.text().len()), (status, 0));
            let length = answer.field("content-length");
            assert!(length.is_none_or(|l| l == "0" && status == 205), "{status}");
            assert_eq!(answer.field("content-type"), None, "{status}");
        }
    }
    client.send("HEAD / HTTP/1.1\r\nhost: s200.test\r\n\r\n");
    let head = client.answer("HEAD");
    assert_eq!(head.field("content-length").as_deref(), Some("3"));
    client.send("GET / HTTP/1.1\r\nhost: s200.test\r\n\r\n");
    assert_eq!(client.answer("GET").text(), "OK\n");
}

#[test]
fn a_body_file_is_sent_and_watched() {
    let builder = Builder::rest(
        "[service.app]\nrespond = { status = 503, body_file = \"$DIR/page.html\" }\n",
    );
    let page = builder.dir().join("page.html");
    let large = "<p>".repeat(100_000);
    fs::write(&page, &large).unwrap();
    let proxy = builder.start();
    let answer = proxy.get("/");
    assert_eq!(answer.text(), large);
    assert_eq!(
        answer.field("content-type").as_deref(),
        Some("text/html; charset=utf-8")
    );
    let generation = proxy.generation();
    fs::write(&page, "<h1>soon</h1>").unwrap();
    until_within(Duration::from_secs(10), "the file is read again", || {
        (proxy.get("/").text() == "<h1>soon</h1>").then_some(())
    });
    assert!(proxy.generation() > generation);
    fs::remove_file(&page).unwrap();
    until("the refusal is told", || {
        let error = proxy.status()["config"]["error"]
            .as_str()
            .map(str::to_owned);
        error.filter(|e| e.contains("page.html") && e.contains("body_file"))
    });
    assert_eq!(proxy.get("/").text(), "<h1>soon</h1>");
}

#[test]
fn a_plan_knows_services_without_versions_and_their_body_files() {
    let text = "[service.app]\nrespond = { status = 503, body_file = \"$DIR/page.html\" }\n";
    let builder = Builder::rest(text);
    fs::write(builder.dir().join("page.html"), "one").expect("a page");
    let proxy = builder.start();
    let plan = |text: &str| {
        let file = proxy.dir().join("next.toml");
        fs::write(&file, proxy.whole(text)).expect("a file");
        let running = proxy.file();
        let paths = [&file, &running].map(|path| path.to_str().expect("UTF-8"));
        command(&["plan", paths[0], "-c", paths[1]], proxy.dir())
    };
    let same = plan(&format!("{text}# the same\n"));
    assert_eq!(same.code, 0, "{same:?}");
    let other = plan(&text.replace("503", "410"));
    assert_eq!(other.code, 2, "{other:?}");
    assert_eq!(proxy.status()["services"][0]["name"], "app");
}

#[test]
fn check_refuses_a_body_file_that_is_too_large_or_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let large = dir.path().join("large.html");
    fs::write(&large, vec![b'x'; (1 << 20) + 1]).unwrap();
    let file = dir.path().join("cutover.toml");
    for (path, why) in [
        (large.as_path(), "is larger than 1 MiB"),
        (dir.path(), "is not a regular file"),
        (&dir.path().join("none"), "can't be read"),
    ] {
        let text = format!(
            "listen = \":80\"\n[service.a]\nversions = {{ v = [\"a:1\"] }}\n[[service.a.match]]\n\
             when = {{ path = \"/\" }}\nrespond = {{ status = 404, body_file = \"{}\" }}\n",
            path.display()
        );
        fs::write(&file, text).unwrap();
        let checked = command(&["check", file.to_str().unwrap()], dir.path());
        let said = checked.stderr;
        assert_eq!(checked.code, 1, "{said}");
        assert!(said.contains(why) && said.contains(":6:"), "{said}");
    }
}

#[test]
fn http2_and_grpc_are_answered_in_their_own_way() {
    let proxy = serve(
        "[service.app]\nrespond = { status = 503, body = \"<h1>soon</h1>\", content_type = \"text/html\" }\n",
    );
    block_on(async {
        let client = H2::connect(proxy.port).await;
        let plain = Request::get("http://test/").body(()).unwrap();
        let answer = client.ask(plain, Bytes::new()).await.unwrap();
        assert_eq!(
            (answer.status, &answer.body[..]),
            (503, &b"<h1>soon</h1>"[..])
        );
        let call = Request::post("http://test/x.Y/Z")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let answer = client.ask(call, Bytes::from_static(&[0; 5])).await.unwrap();
        assert_eq!((answer.status, answer.body.len()), (200, 0));
        assert_eq!(answer.headers["grpc-status"], "14");
        assert_eq!(answer.headers["grpc-message"], "Service Unavailable");
    });
    let counted = proxy.metrics().sum(
        "cutover_service_requests_total",
        &[("service", "app"), ("status", "503")],
    );
    assert_eq!(counted, 2.0);
}

#[test]
fn a_request_body_is_not_taken_for_the_next_request() {
    let proxy = serve("[service.app]\nrespond = { status = 403 }\n");
    let mut client = Client::new(proxy.port);
    let body = "GET /inside HTTP/1.1\r\nhost: test\r\n\r\n";
    for _ in 0..2 {
        let request = format!(
            "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        assert_eq!(client.ask(&request).status(), 403);
    }
    until_answered(&proxy, "app", 2.0);
}

#[test]
fn a_rollout_holds_while_its_service_answers() {
    let (v1, v2) = (Origin::named("v1"), Origin::named("v2"));
    let file = |respond: &str| {
        format!(
            "[service.shop]\nstable = \"v1\"\nsplit = {{ v2 = \"rollout\" }}\n{respond}\n\
             rollout = {{ steps = [\"50% for 1h\"] }}\n\
             [service.shop.versions]\nv1 = [\"{}\"]\nv2 = [\"{}\"]\n",
            v1.at(),
            v2.at()
        )
    };
    let proxy = serve(&file(""));
    let until_state = |wanted: &str| {
        until(wanted, || {
            let rollout = proxy.status()["services"][0]["rollout"].clone();
            (rollout["state"] == wanted).then_some(rollout)
        })
    };
    until_state("step");
    proxy.edit(&file("respond = { status = 503 }"));
    let held = until_state("held");
    let why = held["reason"].as_str().unwrap();
    assert_eq!(why, "the service answers its requests itself");
    assert_eq!(held["share"], "50%");
    proxy.edit(&file(""));
    until_state("step");
}
