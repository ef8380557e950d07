//! Failures that a canary has and stable doesn't have.

use crate::support::origin::Origin;
use crate::support::proxy::serve;
use crate::support::until;

#[test]
fn what_a_canary_alone_fails_is_listed_with_request_ids() {
    let stable = Origin::each(
        |request, conn| match request.target().starts_with("/both") {
            true => conn.reply(503, "both"),
            false => conn.reply(200, "stable"),
        },
    );
    let canary = Origin::each(|_, conn| conn.reply(503, "broken"));
    let proxy = serve(&format!(
        "[service.app]\nstable = \"v1\"\nretry = {{ on = [] }}\n\
         [service.app.outlier]\nconsecutive_5xx = 0\nconsecutive_gateway = 0\n\
         [service.app.versions]\nv1 = [\"{}\"]\nv2 = [\"{}\"]\n\
         [[service.app.match]]\nwhen = {{ header.x-canary = \"1\" }}\nto = \"v2\"\n",
        stable.at(),
        canary.at()
    ));
    let mut client = proxy.client();
    let mut ask = |path: &str, canary: u8, id: &str| {
        client.ask(&format!(
            "GET {path} HTTP/1.1\r\nhost: a\r\nx-canary: {canary}\r\nx-request-id: {id}\r\n\r\n"
        ))
    };
    assert_eq!(ask("/both", 0, "s-1").status(), 503);
    assert_eq!(ask("/both", 1, "c-0").status(), 503);
    assert_eq!(ask("/orders/7", 0, "s-2").status(), 200);
    assert!(proxy.status()["services"][0].get("new_errors").is_none());
    for n in 1..=7 {
        let path = format!("/orders/{n}?secret=1");
        assert_eq!(ask(&path, 1, &format!("c-{n}")).status(), 503);
    }
    let group = until("all are grouped", || {
        let status = proxy.status();
        let group = status["services"][0]["new_errors"].get(0)?.clone();
        (group["count"] == 7).then_some(group)
    });
    assert_eq!(group["version"], "v2");
    assert_eq!(group["path"], "/orders/{id}");
    assert_eq!(group["status"], 503);
    assert_eq!(group["reason"], "upstream-status");
    // Two workers may each have kept some.
    let samples = group["samples"].as_array().expect("a list");
    assert_eq!(samples.len(), 5);
    let text = proxy.command(&["status", "app"]).stdout;
    assert!(
        text.contains("app: failures that v1 doesn't have:"),
        "{text}"
    );
    assert!(
        text.contains("v2: 503 upstream-status at /orders/{id}, 7 times, such as c-"),
        "{text}"
    );
    assert!(!text.contains("/both"), "{text}");
}
