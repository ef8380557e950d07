//! What Traefik does by weighted services and middlewares.

use super::{FrontDoor, ask, field};
use crate::support::origin::Origin;
use crate::support::until;

#[test]
fn a_weighted_canary_has_its_share_and_keeps_its_users() {
    let [v1, v2] = ["v1", "v2"].map(Origin::named);
    let proxy = FrontDoor::new("traefik-weighted.toml")
        .before([("10.0.1.10:8080", &v1), ("10.0.2.10:8080", &v2)])
        .open();
    let staff = || {
        let lines = "x-user-email: ann@example.com\r\n";
        ask(&proxy, "GET", "shop.example.com/", lines).text()
    };
    until("the canary passes its check", || {
        (staff() == "v2").then_some(())
    });
    for _ in 0..10 {
        assert_eq!(staff(), "v2");
    }
    let mut users = Vec::new();
    for _ in 0..200 {
        let answer = ask(&proxy, "GET", "shop.example.com/", "");
        let cookie = field(&answer, "set-cookie");
        let pair = cookie.split(';').next().expect("a pair").to_owned();
        assert!(pair.starts_with("shop_version="), "{pair}");
        users.push((pair, answer.text()));
    }
    let canaries = users.iter().filter(|(_, version)| version == "v2").count();
    assert!((18..=22).contains(&canaries), "{canaries} of 200");
    for (pair, version) in users {
        let answer = ask(
            &proxy,
            "GET",
            "shop.example.com/",
            &format!("cookie: {pair}\r\n"),
        );
        assert_eq!(answer.text(), version);
    }
}

#[test]
fn an_api_has_cors_security_headers_and_an_admin_area() {
    let origin = Origin::raw(
        "HTTP/1.1 200 OK\r\nserver: app/1.0\r\nvary: accept\r\ncontent-length: 2\r\n\r\n{}",
    );
    let proxy = FrontDoor::new("traefik-middlewares.toml")
        .before([("10.0.1.10:8080", &origin)])
        .open();
    let plain = ask(
        &proxy,
        "GET",
        "api.example.com/v1/users?id=1",
        "x-env: forged\r\n",
    );
    assert_eq!(plain.status(), 200);
    assert_eq!(origin.last().target(), "/users?id=1");
    assert_eq!(field(&origin.last(), "x-env"), "prod");
    assert_eq!(field(&origin.last(), "x-forwarded-prefix"), "/v1");
    assert_eq!(field(&plain, "x-content-type-options"), "nosniff");
    assert_eq!(field(&plain, "x-frame-options"), "DENY");
    assert_eq!(plain.all("vary"), ["accept", "Origin"]);
    assert_eq!(plain.field("server"), None);
    assert_eq!(plain.field("access-control-allow-origin"), None);

    let allowed = "origin: https://app.example.com\r\n";
    let cross = ask(&proxy, "GET", "api.example.com/v1/users", allowed);
    assert_eq!(
        field(&cross, "access-control-allow-origin"),
        "https://app.example.com"
    );
    assert_eq!(field(&cross, "x-frame-options"), "DENY");
    let stranger = "origin: https://evil.example.org\r\n";
    let refused = ask(&proxy, "GET", "api.example.com/v1/users", stranger);
    assert_eq!(refused.field("access-control-allow-origin"), None);

    let before = origin.hits();
    let preflight = ask(
        &proxy,
        "OPTIONS",
        "api.example.com/v1/users",
        &format!("{allowed}access-control-request-method: PUT\r\n"),
    );
    assert_eq!(preflight.status(), 204);
    for (name, value) in [
        ("access-control-allow-origin", "https://app.example.com"),
        ("access-control-allow-methods", "GET, POST, PUT, DELETE"),
        (
            "access-control-allow-headers",
            "authorization, content-type",
        ),
        ("access-control-max-age", "600"),
        ("vary", "Origin"),
    ] {
        assert_eq!(field(&preflight, name), value, "{name}");
    }
    assert_eq!(
        ask(&proxy, "GET", "api.example.com/v1/admin/keys", "").status(),
        403
    );
    assert_eq!(
        ask(&proxy, "GET", "api.example.com/v2/users", "").status(),
        404
    );
    assert_eq!(origin.hits(), before);
}
