//! What an operator and a Prometheus server see.

use crate::support::client::Client;
use crate::support::origin::Origin;
use crate::support::promtool::promtool;
use crate::support::proxy::{Builder, Proxy, before, serve, single};
use crate::support::until;

/// With traffic of every kind that is counted.
fn busy() -> (Proxy, [Origin; 2]) {
    let (fine, broken) = (Origin::named("v1"), Origin::each(|_, c| c.reply(500, "no")));
    let proxy = serve(&format!(
        "[service.app]\nhosts = [\"app.test\"]\nstable = \"v1\"\nsplit = {{ v2 = \"25%\" }}\n\
         labels = {{ deployment = \"shop\" }}\n\
         [[service.app.match]]\nwhen = {{ header.x-canary = \"1\" }}\nto = \"v2\"\n\
         [service.app.versions]\nv1 = [\"{}\"]\nv2 = [\"{}\"]\n",
        fine.at(),
        broken.at()
    ));
    let mut client = proxy.client();
    for n in 0..100 {
        let method = ["GET", "POST", "BREW"][n % 3];
        client.ask(&format!(
            "{method} / HTTP/1.1\r\nhost: app.test\r\ncontent-length: 0\r\n\r\n"
        ));
    }
    client.ask("GET / HTTP/1.1\r\nhost: app.test\r\nx-canary: 1\r\n\r\n");
    client.get("/");
    (proxy, [fine, broken])
}

#[test]
fn every_metric_has_its_name_and_labels() {
    let (proxy, _origins) = busy();
    let v = |version| [("service", "app"), ("version", version)];
    until("all is counted", || {
        (proxy.metrics().sum("http_requests_total", &[]) == 101.0).then_some(())
    });
    let metrics = proxy.metrics();
    assert_eq!(
        metrics.sum(
            "http_requests_total",
            &[("version", "v1"), ("status", "200")]
        ),
        75.0
    );
    assert_eq!(
        metrics.sum(
            "http_requests_total",
            &[("version", "v2"), ("status", "500")]
        ),
        26.0
    );
    assert_eq!(
        metrics.sum("http_requests_total", &[("method", "POST")]),
        33.0
    );
    assert_eq!(
        metrics.sum("http_requests_total", &[("method", "other")]),
        33.0
    );
    assert_eq!(
        metrics.sum("http_request_duration_seconds_count", &v("v1")),
        75.0
    );
    assert!(metrics.sum("http_request_duration_seconds_sum", &v("v1")) > 0.0);
    let all = [("service", "app"), ("version", "v2"), ("le", "+Inf")];
    assert_eq!(
        metrics.sum("http_request_duration_seconds_bucket", &all),
        26.0
    );
    assert_eq!(metrics.sum("cutover_split_ratio", &v("v1")), 0.75);
    assert_eq!(metrics.sum("cutover_split_ratio", &v("v2")), 0.25);
    assert_eq!(
        metrics.sum("cutover_match_hits_total", &[("service", "app")]),
        1.0
    );
    assert_eq!(
        metrics.sum("cutover_downstream_requests_total", &[("status", "404")]),
        1.0
    );
    assert_eq!(
        metrics.sum(
            "cutover_downstream_requests_total",
            &[("listener", "default")]
        ),
        102.0
    );
    assert_eq!(metrics.sum("cutover_config_generation", &[]), 1.0);
    assert_eq!(
        metrics.sum("cutover_config_last_reload_successful", &[]),
        1.0
    );
    assert!(metrics.sum("cutover_config_last_reload_success_timestamp_seconds", &[]) > 1.7e9);
    assert!(metrics.sum("process_resident_memory_bytes", &[]) > 1e6);
    for name in [
        "http_requests_in_flight",
        "queue_depth",
        "cutover_connections",
        "cutover_upstream_connections",
        "cutover_build_info",
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_start_time_seconds",
    ] {
        assert!(metrics.has(name, &[]), "{name}");
    }
    assert!(metrics.has("http_requests_total", &[("deployment", "shop")]));
    let labels = ["deployment", "method", "service", "status", "version"];
    assert_eq!(metrics.label_names("http_requests_total"), labels);
}

#[test]
fn gauges_come_back_to_rest() {
    let (proxy, _origins) = busy();
    until("nothing in flight and nobody connected", || {
        let metrics = proxy.metrics();
        let rest = [
            "http_requests_in_flight",
            "queue_depth",
            "cutover_connections",
        ]
        .iter()
        .all(|name| metrics.sum(name, &[]) == 0.0);
        rest.then_some(())
    });
}

#[test]
fn promtool_finds_nothing_wrong() {
    let (proxy, _origins) = busy();
    let text = proxy.metrics().text;
    if let Some(said) = promtool(&["check", "metrics"], &text) {
        // `queue_depth` and the like are names that others fixed; promtool has nothing against them.
        assert_eq!(said.trim(), "", "{text}");
    }
}

#[test]
fn hosts_paths_and_methods_add_no_series() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    let mut client = proxy.client();
    client.ask("BREW / HTTP/1.1\r\nhost: test\r\n\r\n");
    until("counted", || {
        (proxy.metrics().sum("http_requests_total", &[]) == 1.0).then_some(())
    });
    let before = proxy.metrics().series();
    for n in 0..2000 {
        client.ask(&format!("M{n} /{n} HTTP/1.1\r\nhost: h{n}.test\r\n\r\n"));
    }
    assert_eq!(proxy.metrics().series(), before);
    // A request is counted just after its answer has been sent.
    until("all are counted", || {
        let labels = [("method", "other")];
        (proxy.metrics().sum("http_requests_total", &labels) == 2001.0).then_some(())
    });
}

#[test]
fn health_and_readiness_are_told() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    assert_eq!(proxy.ask_admin("/healthz").status(), 200);
    assert_eq!(proxy.ask_admin("/readyz").status(), 200);
    assert_eq!(proxy.ask_admin("/nothing").status(), 404);
    let metrics = proxy.ask_admin("/metrics");
    let kind = metrics.field("content-type").unwrap();
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
}

#[test]
fn status_and_config_say_what_runs() {
    let (proxy, _origins) = busy();
    let status = proxy.status();
    assert_eq!(status["generation"], 1);
    assert_eq!(status["config"]["ok"], true);
    let service = &status["services"][0];
    assert_eq!(service["name"], "app");
    assert_eq!(service["stable"], "v1");
    assert_eq!(service["split"]["effective"]["v2"], "25%");
    assert_eq!(
        service["versions"][0]["endpoints"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let config = proxy.ask_admin("/api/v1/config");
    assert_eq!(config.status(), 200);
    assert!(config.text().contains("app.test"));
}

#[test]
fn no_listener_for_traffic_serves_admin() {
    let proxy = serve(&single("127.0.0.1:1", "hosts = [\"app.test\"]"));
    for path in [
        "/metrics",
        "/healthz",
        "/readyz",
        "/api/v1/status",
        "/api/v1/config",
    ] {
        assert_eq!(proxy.get(path).status(), 404, "{path}");
    }
}

#[test]
fn admin_is_not_for_foreigners() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    let status = |request: &str| Client::new(proxy.admin).ask(request).status();
    let own = format!("127.0.0.1:{}", proxy.admin);
    assert_eq!(
        status(&format!(
            "GET /api/v1/status HTTP/1.1\r\nhost: {own}\r\n\r\n"
        )),
        200
    );
    for fields in [
        "host: evil.test".to_owned(),
        format!("host: {own}\r\norigin: http://evil.test"),
        format!("host: {own}\r\norigin: null"),
    ] {
        let refused = status(&format!("GET /api/v1/status HTTP/1.1\r\n{fields}\r\n\r\n"));
        assert!(matches!(refused, 400 | 403 | 421), "{fields}: {refused}");
    }
    let write = status(&format!(
        "POST /api/v1/reload HTTP/1.1\r\nhost: {own}\r\ncontent-length: 0\r\n\r\n"
    ));
    assert!(matches!(write, 401 | 403), "{write}");
}

#[test]
fn writes_over_tcp_need_the_token() {
    use std::os::unix::fs::PermissionsExt;
    let origin = Origin::named("blue");
    let builder = Builder::new(&format!(
        "listen = \"127.0.0.1:$PORT\"\nworkers = 1\nstate_dir = \"$DIR/state\"\n\
         admin = {{ listen = [\"127.0.0.1:$ADMIN\"], token_file = \"$DIR/token\" }}\n{}",
        single(&origin.at(), "")
    ));
    let token = builder.dir().join("token");
    std::fs::write(&token, "a-token-of-sufficient-length-0123456789\n").unwrap();
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    let proxy = builder.start();
    let reload = |auth: &str| {
        let host = format!("127.0.0.1:{}", proxy.admin);
        let request = format!(
            "POST /api/v1/reload HTTP/1.1\r\nhost: {host}\r\n{auth}content-length: 0\r\n\r\n"
        );
        Client::new(proxy.admin).ask(&request).status()
    };
    assert!(matches!(reload(""), 401 | 403));
    assert!(matches!(
        reload("authorization: Bearer wrong\r\n"),
        401 | 403
    ));
    let right = reload("authorization: Bearer a-token-of-sufficient-length-0123456789\r\n");
    assert!(matches!(right, 200..=204), "{right}");
}

#[test]
fn rates_and_quantiles_are_in_the_status() {
    let (proxy, _origins) = busy();
    let red = until("the windows have the traffic", || {
        let red = proxy.status()["services"][0]["versions"][0]["red"]["10s"].clone();
        (red["rate"].as_f64()? > 0.0).then_some(red)
    });
    assert_eq!(red["error_ratio"], 0.0);
    assert!(red["p99_ms"].as_f64().unwrap() >= red["p50_ms"].as_f64().unwrap());
    let bad = &proxy.status()["services"][0]["versions"][1]["red"]["10s"];
    assert_eq!(bad["error_ratio"], 1.0);
}
