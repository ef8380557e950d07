//! What an operator can see: why an endpoint is down, what a reload changed, what was started.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::Value;

use crate::support::origin::Origin;
use crate::support::proxy::{Builder, Proxy, serve};
use crate::support::until;

fn endpoint(proxy: &Proxy) -> Value {
    proxy.status()["services"][0]["versions"][0]["endpoints"][0].clone()
}

#[test]
fn the_status_says_why_an_endpoint_is_down_and_since_when() {
    let ready = Arc::new(AtomicU16::new(200));
    let answer = ready.clone();
    let origin = Origin::each(move |_, conn| conn.reply(answer.load(Ordering::Relaxed), "x"));
    let proxy = serve(&format!(
        "[service.app]\nstable = \"v1\"\nhealth = {{ path = \"/ready\", interval = \"20ms\", rise = 1, fall = 1 }}\n\
         [service.app.versions]\nv1 = [\"{}\"]\n",
        origin.at()
    ));
    let up = endpoint(&proxy);
    assert_eq!((&up["health"], &up["reason"]), (&"up".into(), &Value::Null));
    ready.store(503, Ordering::Relaxed);
    let down = until("it is down", || {
        let seen = endpoint(&proxy);
        (seen["health"] == "down").then_some(seen)
    });
    assert_eq!(down["reason"], "answered 503");
    let since = |seen: &Value| {
        let text = seen["since"].as_str().expect("a time");
        humantime::parse_rfc3339(text).expect("RFC 3339")
    };
    assert!(since(&down) > since(&up), "{up} {down}");
    let shown = proxy.command(&["status"]).stdout;
    assert!(shown.contains("down for "), "{shown}");
    assert!(shown.contains("(answered 503)"), "{shown}");
    ready.store(200, Ordering::Relaxed);
    let again = until("it is up again", || {
        let seen = endpoint(&proxy);
        (seen["health"] == "up").then_some(seen)
    });
    assert_eq!(again["reason"], Value::Null);
    assert!(since(&again) > since(&down));
}

/// A canary configuration with this split, and as many endpoints of v2.
fn file(split: &str, canaries: usize) -> String {
    let canaries: Vec<_> = (1..=canaries)
        .map(|n| format!("\"127.0.0.1:{n}\""))
        .collect();
    format!(
        "[service.app]\nstable = \"v1\"\nsplit = {{ v2 = \"{split}\" }}\n\
         [service.app.versions]\nv1 = [\"127.0.0.1:9\"]\nv2 = [{}]\n",
        canaries.join(", ")
    )
}

#[test]
fn the_log_says_what_was_started_and_what_a_reload_changed() {
    let proxy = Builder::rest(&file("5%", 1)).start();
    let line = |what: &str| {
        let log = proxy.log();
        let found = log.lines().find(|line| line.contains(what));
        found.map(str::to_owned)
    };
    let started = until("a start line", || line("cutover started"));
    for part in [
        format!("version={}", env!("CARGO_PKG_VERSION")),
        format!("config={}", proxy.file().display()),
        format!("pid={}", proxy.pid()),
        "workers=2".to_owned(),
        format!("default=127.0.0.1:{}", proxy.port),
    ] {
        assert!(started.contains(&part), "{part} in {started}");
    }
    proxy.edit(&file("25%", 2));
    let changed = until("the audit", || line("version=v2 share_before"));
    for part in [
        "configuration adopted",
        "generation=2",
        "service=app",
        "share_before=5% share=25%",
        "endpoints_added=http://127.0.0.1:2",
    ] {
        let bare = part.replace("http://", "");
        assert!(
            changed.contains(part) || changed.contains(&bare),
            "{part} in {changed}"
        );
    }
}

#[test]
fn fields_of_a_json_log_are_fields() {
    let proxy = Builder::rest(&file("5%", 1))
        .env("CUTOVER_LOG_FORMAT", "json")
        .start();
    proxy.edit(&file("25%", 1));
    let found = until("the audit", || {
        let log = proxy.log();
        let lines = log
            .lines()
            .filter_map(|l| serde_json::from_str::<Value>(l).ok());
        let of_v2 = |line: &Value| line["version"] == "v2" || line["fields"]["version"] == "v2";
        lines.into_iter().find(of_v2)
    });
    let fields = match &found["fields"] {
        Value::Null => &found,
        fields => fields,
    };
    assert_eq!(fields["message"], "configuration adopted");
    assert_eq!(fields["generation"], 2);
    assert_eq!(fields["service"], "app");
    assert_eq!(
        (&fields["share_before"], &fields["share"]),
        (&"5%".into(), &"25%".into())
    );
}
