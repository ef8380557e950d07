//! `rewrite` and `redirect`: the path and host that endpoints get, and where clients are sent.

use bytes::Bytes;
use http::Request;

use crate::support::block_on;
use crate::support::h2_client::H2;
use crate::support::h2_origin::H2Origin;
use crate::support::origin::Origin;
use crate::support::proxy::{Builder, Proxy, serve};
use crate::support::wire::Message;

fn ask(proxy: &Proxy, host: &str, target: &str) -> Message {
    let request = format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n");
    proxy.client().ask(&request)
}

/// A service for each rewrite, all before the same origin.
fn rewriting(at: &str, rewrites: &[(&str, &str)]) -> String {
    rewrites
        .iter()
        .map(|(host, rewrite)| {
            format!(
                "[service.{host}]\nhosts = [\"{host}.test\"]\nversions = {{ v1 = [\"{at}\"] }}\nrewrite = {{ {rewrite} }}\n"
            )
        })
        .collect()
}

const REWRITES: [(&str, &str); 4] = [
    ("strip", "strip_prefix = \"/shop\""),
    ("add", "prefix = \"/v2\", host = \"app.internal:8080\""),
    ("swap", "strip_prefix = \"/v1\", prefix = \"/v2\""),
    (
        "regex",
        "regex = \"^/old/([^/]+)/(.*)$\", to = \"/new/$2/$1\"",
    ),
];

#[test]
fn endpoints_get_the_new_path_and_host() {
    let (one, two) = (Origin::named("one"), H2Origin::named("two"));
    for at in [one.at(), two.h2c()] {
        let proxy = serve(&rewriting(&at, &REWRITES));
        for (host, target, path) in [
            ("strip", "/shop/a?x=/shop/b", "/a?x=/shop/b"),
            ("strip", "/shop", "/"),
            ("strip", "/shop?q", "/?q"),
            ("strip", "/shopping", "/shopping"),
            ("strip", "/x/../shop/a", "/a"),
            ("strip", "/shop/a%2fb", "/a%2fb"),
            ("add", "/a", "/v2/a"),
            ("swap", "/v1/a", "/v2/a"),
            ("regex", "/old/a/b/c", "/new/b/c/a"),
        ] {
            let host = format!("{host}.test");
            let answer = ask(&proxy, &host, target);
            assert_eq!(answer.status(), 200, "{host}{target}");
            let sent = match at.starts_with("h2c") {
                false => one.last().target(),
                true => {
                    let heads = two.heads();
                    let last = heads.last().unwrap();
                    last.uri().path_and_query().unwrap().to_string()
                }
            };
            assert_eq!(sent, path, "{host}{target}");
        }
        ask(&proxy, "add.test", "/");
        let (authority, forwarded) = match at.starts_with("h2c") {
            false => (
                one.last().field("host"),
                one.last().field("x-forwarded-host"),
            ),
            true => {
                let heads = two.heads();
                let last = heads.last().unwrap();
                let forwarded = last.headers()["x-forwarded-host"].to_str().unwrap();
                (
                    last.uri().authority().map(ToString::to_string),
                    Some(forwarded.to_owned()),
                )
            }
        };
        assert_eq!(authority.as_deref(), Some("app.internal:8080"));
        assert_eq!(forwarded.as_deref(), Some("add.test"));
    }
}

#[test]
fn the_prefix_that_was_taken_off_is_forwarded() {
    let origin = Origin::named("app");
    let rewrites = [
        ("strip", "strip_prefix = \"/shop\""),
        (
            "own",
            "strip_prefix = \"/shop\" }\nheaders.request = { set = { x-forwarded-prefix = \"/mine\" }",
        ),
    ];
    let file = rewriting(&origin.at(), &rewrites);
    let prefix = |proxy: &Proxy, host: &str, target: &str| {
        let request = format!(
            "GET {target} HTTP/1.1\r\nhost: {host}.test\r\nX-Forwarded-Prefix: /outer\r\n\r\n"
        );
        proxy.client().ask(&request);
        origin.last().field("x-forwarded-prefix")
    };
    let proxy = serve(&file);
    assert_eq!(prefix(&proxy, "strip", "/shop/a").as_deref(), Some("/shop"));
    assert_eq!(prefix(&proxy, "strip", "/a"), None);
    assert_eq!(prefix(&proxy, "own", "/shop/a").as_deref(), Some("/mine"));
    let trusting = Builder::new(&format!(
        "admin = \"127.0.0.1:$ADMIN\"\nworkers = 1\nstate_dir = \"$DIR/state\"\n\
         [listen.front]\nbind = \"127.0.0.1:$PORT\"\ntrusted_proxies = [\"127.0.0.0/8\"]\n{file}"
    ))
    .start();
    assert_eq!(
        prefix(&trusting, "strip", "/shop/a").as_deref(),
        Some("/outer/shop")
    );
    assert_eq!(prefix(&trusting, "strip", "/a").as_deref(), Some("/outer"));
}

#[test]
fn no_rewrite_leads_to_a_path_that_can_be_read_in_two_ways() {
    let origin = Origin::named("app");
    let mut rewrites = REWRITES.to_vec();
    rewrites.push(("loose", "regex = \"^/a(.*)$\", to = \"/$1\""));
    let proxy = serve(&rewriting(&origin.at(), &rewrites));
    for (host, target) in [
        ("strip", "/shop//admin"),
        ("strip", "/sh%6fp/admin"),
        ("strip", "//shop/admin"),
        ("strip", "/shop%2fadmin"),
        ("loose", "/a/admin"),
        ("loose", "/a../admin"),
        ("loose", "/a%2e%2e/admin"),
    ] {
        let host = format!("{host}.test");
        let answer = ask(&proxy, &host, target);
        let reason = answer.field("x-cutover-reason").unwrap_or_default();
        assert_eq!(
            (answer.status(), reason.as_str()),
            (400, "ambiguous-path"),
            "{target}"
        );
        let said = proxy.command(&["explain", &format!("http://{host}{target}")]);
        assert!(
            said.stdout.contains("400 ambiguous-path"),
            "{}",
            said.stdout
        );
    }
    assert_eq!(origin.hits(), 0);
}

#[test]
fn a_rule_rewrites_before_its_service() {
    let origin = Origin::named("app");
    let proxy = serve(&format!(
        "[service.app]\nversions = {{ v1 = [\"{}\"] }}\nrewrite = {{ prefix = \"/service\" }}\n\
         [[service.app.match]]\nwhen = {{ path = \"/old/*\" }}\nrewrite = {{ strip_prefix = \"/old\" }}\n\
         [[service.app.match]]\nwhen = {{ path = \"/plain\" }}\nto = \"v1\"\n",
        origin.at()
    ));
    for (target, sent) in [
        ("/a", "/service/a"),
        ("/old/a", "/a"),
        ("/plain", "/service/plain"),
    ] {
        ask(&proxy, "test", target);
        assert_eq!(origin.last().target(), sent);
    }
    let said = proxy.command(&["explain", "http://test/old/a"]);
    assert!(
        said.stdout.contains("the path becomes /a"),
        "{}",
        said.stdout
    );
}

#[test]
fn clients_are_redirected_with_their_path_and_query() {
    let origin = Origin::named("app");
    let proxy = serve(&format!(
        "[service.www]\nhosts = [\"example.test\"]\nredirect = {{ to = \"https://www.example.test{{path}}{{query}}\" }}\n\
         [service.port]\nhosts = [\"port.test\"]\nredirect = {{ to = \"{{scheme}}://{{host}}:8443{{path}}{{query}}\", status = 307 }}\n\
         [service.app]\nhosts = [\"app.test\"]\nversions = {{ v1 = [\"{}\"] }}\n\
         [[service.app.match]]\nwhen = {{ path = \"/old/*\" }}\nrewrite = {{ strip_prefix = \"/old\", prefix = \"/new\" }}\n\
         redirect = {{ to = \"{{scheme}}://app.test{{path}}{{query}}\", status = 301 }}\n\
         [[service.app.match]]\nwhen = {{ path = \"/here\" }}\nredirect = {{ to = \"/there{{query}}\", status = 303 }}\n",
        origin.at()
    ));
    for (host, target, status, location) in [
        (
            "example.test",
            "/a%20b?x=1&y=%2f",
            308,
            "https://www.example.test/a%20b?x=1&y=%2f",
        ),
        ("example.test", "/", 308, "https://www.example.test/"),
        (
            "example.test",
            "//evil.test/x",
            308,
            "https://www.example.test//evil.test/x",
        ),
        ("PORT.test:80", "/x?", 307, "http://port.test:8443/x?"),
        ("app.test", "/old/x?y", 301, "http://app.test/new/x?y"),
        ("app.test", "/here?z", 303, "/there?z"),
    ] {
        let answer = ask(&proxy, host, target);
        assert_eq!(answer.status(), status, "{host}{target}");
        assert_eq!(answer.field("location").as_deref(), Some(location));
        assert_eq!(
            answer.field("x-cutover-reason").as_deref(),
            Some("redirect")
        );
    }
    assert_eq!(ask(&proxy, "app.test", "/%6fld/x").status(), 400);
    assert_eq!(ask(&proxy, "app.test", "/else").text(), "app");
    let said = proxy.command(&["explain", "http://app.test/old/x?y"]);
    assert!(
        said.stdout.contains("location: http://app.test/new/x?y"),
        "{}",
        said.stdout
    );
    block_on(async {
        let client = H2::connect(proxy.port).await;
        let request = Request::get("http://example.test/x").body(()).unwrap();
        let answer = client.ask(request, Bytes::new()).await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (308, &b"moved\n"[..]));
        assert_eq!(answer.headers["location"], "https://www.example.test/x");
    });
    let mut old = proxy.client();
    old.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(old.answer("GET").status(), 404);
}
