//! What nginx does by `server`, `location`, `limit_req` and `error_page`.

use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};
use tokio_tungstenite::tungstenite;

use super::{FrontDoor, ask, ask_tls, field};
use crate::support::client::Client;
use crate::support::origin::Origin;
use crate::support::proxy::Proxy;
use crate::support::tls::Authority;
use crate::support::until;
use crate::support::wire::Message;
use crate::upgrade::echoing;

const NAMES: [&str; 2] = ["example.com", "www.example.com"];

fn app(authority: &Authority, origin: &Origin) -> Proxy {
    FrontDoor::new("nginx-app.toml")
        .before([("10.0.1.10:3000", origin)])
        .certified("example", authority, &NAMES)
        .open()
}

#[test]
fn an_app_behind_tls_is_reached_at_its_apex_only() {
    let authority = Authority::new();
    let origin = Origin::raw(
        "HTTP/1.1 200 OK\r\nx-powered-by: PHP\r\nx-frame-options: ALLOWALL\r\ncontent-length: 3\r\n\r\napp",
    );
    let proxy = app(&authority, &origin);
    let answer = ask(&proxy, "GET", "www.example.com/a?b=1", "");
    assert_eq!(answer.status(), 308);
    assert_eq!(field(&answer, "location"), "https://www.example.com/a?b=1");
    let answer = ask_tls(&proxy, &authority, "www.example.com/a?b=1", "");
    assert_eq!(answer.status(), 301);
    assert_eq!(field(&answer, "location"), "https://example.com/a?b=1");
    assert_eq!(origin.hits(), 0);

    let answer = ask_tls(&proxy, &authority, "example.com/a?b=1", "");
    assert_eq!(answer.text(), "app");
    for (name, value) in [
        (
            "strict-transport-security",
            "max-age=63072000; includeSubDomains",
        ),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "SAMEORIGIN"),
        ("referrer-policy", "strict-origin-when-cross-origin"),
    ] {
        assert_eq!(field(&answer, name), value, "{name}");
    }
    assert_eq!(answer.field("x-powered-by"), None);
    let seen = origin.last();
    for (name, value) in [
        ("host", "example.com"),
        ("x-real-ip", "127.0.0.1"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "https"),
    ] {
        assert_eq!(field(&seen, name), value, "{name}");
    }
    assert_eq!(
        ask_tls(
            &proxy,
            &authority,
            "example.com/",
            "content-length: 20971521\r\n"
        )
        .status(),
        413
    );
    assert_eq!(origin.hits(), 1);
}

#[test]
fn an_app_behind_tls_has_websockets() {
    let authority = Authority::new();
    let origin = echoing();
    let proxy = app(&authority, &origin);
    let stream = authority.connect(proxy.port2, "example.com", &["http/1.1"]);
    let opened = tungstenite::client("wss://example.com/chat", stream.expect("a handshake"));
    let (mut socket, answer) = opened.expect("a tunnel");
    assert_eq!(answer.status(), 101);
    socket.send("hello".into()).expect("sent");
    let echo = socket.read().expect("an echo");
    assert_eq!(echo.to_text().expect("text"), "hello");
}

#[test]
fn paths_lead_to_their_applications() {
    let origins = ["web", "web", "api", "assets"].map(Origin::named);
    let [one, two, api, assets] = &origins;
    let proxy = FrontDoor::new("nginx-paths.toml")
        .before([
            ("10.0.1.10:3000", one),
            ("10.0.1.11:3000", two),
            ("10.0.2.10:4000", api),
            ("10.0.3.10:8080", assets),
        ])
        .open();
    for (path, body) in [
        ("/", "web"),
        ("/apis", "web"),
        ("/api/users?id=1", "api"),
        ("/api", "api"),
        ("/assets/app.js", "assets"),
        ("/uploads/1", "web"),
    ] {
        let answer = ask(&proxy, "GET", &format!("example.com{path}"), "");
        assert_eq!(
            (answer.status(), answer.text().as_str()),
            (200, body),
            "{path}"
        );
        let cached = (body == "assets").then(|| "public, max-age=31536000, immutable".to_owned());
        assert_eq!(answer.field("cache-control"), cached, "{path}");
    }
    let targets: Vec<String> = api.requests().iter().map(Message::target).collect();
    assert_eq!(targets, ["/users?id=1", "/"]);
    assert_eq!(assets.last().target(), "/assets/app.js");
    let moved = ask(&proxy, "GET", "example.com/old-news", "");
    assert_eq!(moved.status(), 301);
    assert_eq!(field(&moved, "location"), "/news");

    let body = "x".repeat(3 << 20);
    for (path, status) in [("/form", 413), ("/api/form", 413), ("/uploads/1", 200)] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: example.com\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let mut client = proxy.client();
        client.send(head);
        // A refusal may close the connection before it has taken the body.
        let _refused = client.try_send(&body);
        assert_eq!(client.answer("POST").status(), status, "{path}");
    }
    let over = ask(
        &proxy,
        "POST",
        "example.com/uploads/1",
        "content-length: 1073741825\r\n",
    );
    assert_eq!(over.status(), 413);
}

#[test]
fn clients_have_limits_for_logins_keys_and_everything() {
    let [shop, api] = ["shop", "api"].map(Origin::named);
    let proxy = FrontDoor::new("nginx-login-limit.toml")
        .before([("10.0.1.10:8080", &shop), ("10.0.2.10:8080", &api)])
        .open();
    let statuses = |count: usize, method: &str, url: &str, lines: &str| -> Vec<u16> {
        (0..count)
            .map(|_| ask(&proxy, method, url, lines).status())
            .collect()
    };
    let posted = statuses(6, "POST", "shop.example.com/login", "content-length: 0\r\n");
    assert_eq!(posted, [200, 200, 200, 200, 200, 429]);
    assert_eq!(shop.hits(), 5);
    let refused = ask(
        &proxy,
        "POST",
        "shop.example.com/login",
        "content-length: 0\r\n",
    );
    let wait: u32 = field(&refused, "retry-after").parse().expect("seconds");
    assert!((1..=12).contains(&wait), "{wait}");
    assert_eq!(statuses(10, "GET", "shop.example.com/login", ""), [200; 10]);

    let key = |key: &str| format!("x-api-key: {key}\r\n");
    let one = until("a key is at its limit", || {
        let answer = ask(&proxy, "GET", "api.example.com/", &key("one"));
        (answer.status() == 429).then_some(answer)
    });
    assert_eq!(field(&one, "x-cutover-reason"), "client-limit");
    assert!(api.hits() >= 20, "{}", api.hits());
    assert_eq!(
        statuses(20, "GET", "api.example.com/", &key("two")),
        [200; 20]
    );

    let mut kept: Vec<Client> = Vec::new();
    until("an address has as many connections as it may", || {
        let mut client = proxy.client();
        let asked = client.try_send("GET /x HTTP/1.1\r\nhost: shop.example.com\r\n\r\n");
        let answer = asked.and_then(|()| client.try_answer("GET"));
        kept.push(client);
        answer.is_err().then_some(())
    });
    // Some of the connections before may still be about to close.
    assert!((2..=51).contains(&kept.len()), "{}", kept.len());
    until("the refusal is counted", || {
        let labels = [("reason", "client-connections")];
        let refused = proxy
            .metrics()
            .sum("cutover_client_failures_total", &labels);
        (refused >= 1.0).then_some(())
    });
}

/// `GET` from this address of loopback.
fn ask_from(source: &str, proxy: &Proxy, host: &str) -> Message {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let source: SocketAddr = format!("{source}:0").parse().expect("an address");
    socket.bind(&source.into()).expect("an address of loopback");
    let to = SocketAddr::from(([127, 0, 0, 1], proxy.port));
    socket.connect(&to.into()).expect("connect");
    let mut client = Client::over(std::net::TcpStream::from(socket));
    client.ask(&format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"))
}

#[test]
fn maintenance_has_a_page_and_lets_the_office_in() {
    let origin = Origin::named("app");
    let door = FrontDoor::new("nginx-maintenance.toml")
        .before([("10.0.1.10:8080", &origin)])
        .with("192.0.2.0/24", "127.0.9.0/24");
    let page = "<h1>Back soon</h1>";
    std::fs::write(door.builder.dir().join("maintenance.html"), page).expect("write the page");
    let proxy = door.open();
    let answer = ask(&proxy, "GET", "shop.example.com/basket", "");
    assert_eq!((answer.status(), answer.text().as_str()), (503, page));
    assert_eq!(field(&answer, "retry-after"), "3600");
    assert_eq!(field(&answer, "content-type"), "text/html; charset=utf-8");
    assert_eq!(origin.hits(), 0);
    assert_eq!(
        ask_from("127.0.9.7", &proxy, "shop.example.com").text(),
        "app"
    );

    let text = proxy.text();
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with("respond"))
        .collect();
    let before = proxy.generation();
    std::fs::write(proxy.file(), lines.join("\n")).expect("write the configuration");
    until("the edit is adopted", || {
        (proxy.generation() > before).then_some(())
    });
    assert_eq!(
        ask(&proxy, "GET", "shop.example.com/basket", "").text(),
        "app"
    );
}
