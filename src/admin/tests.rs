//! Tests of the API with a real configuration, mostly without sockets.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::explain::{Explanation, explain};
use super::guard::ListenerKind;
use super::request::DescribedRequest;
use super::status::ProxyStatus;
use super::{Context, ControlCommand, ProcessPhase, Readiness, api};
use crate::config;
use crate::snapshot::{ConfigSource, Live, Snapshot};
use crate::telemetry::windows::StatusWindows;
use crate::telemetry::{Telemetry, WorkerId};
use crate::upstream::Registry;

pub(super) const TCP: ListenerKind = ListenerKind::Tcp {
    local: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
    exposed: false,
};

pub(super) const FILE: &str = r#"
listen = "127.0.0.1:8080"
workers = 2

[admin]
listen = "127.0.0.1:9900"
token_file = "$TOKEN"

[service.shop]
hosts  = ["shop.example.com"]
stable = "v1"
split  = { v2 = "5%" }
[service.shop.versions.v1]
label     = "1.0.0"
endpoints = ["10.0.1.10:8080", "10.0.1.11:8080 weight=2"]
[service.shop.versions.v2]
endpoints = ["10.0.2.10:8080"]
preview   = ["v2.shop.example.com"]
[[service.shop.match]]
when = { header.x-canary = "never" }
to   = "v1"
[[service.shop.match]]
when = { header.x-canary = "always", path = ["/api/*", "/cart"] }
to   = "v2"

[service.users]
hosts  = ["*.example.com"]
paths  = ["/v1/*"]
stable = "a"
split  = { b = "50%" }
[service.users.cohort]
by   = ["cookie:uid", "ip"]
salt = "users"
[service.users.versions]
a = ["10.0.3.10:8080"]
b = ["10.0.4.10:8080"]
"#;

pub(super) fn snapshot(text: &str, telemetry: &Telemetry) -> Snapshot {
    let spec = config::parse(text, "test.toml").unwrap_or_else(|errors| {
        let errors: Vec<_> = errors.iter().map(|e| e.rendered(false)).collect();
        panic!("{}", errors.join("\n"))
    });
    Snapshot::build(3, Arc::new(spec), &Registry::new(), telemetry)
}

pub(super) fn context() -> (Arc<Context>, mpsc::Receiver<ControlCommand>) {
    context_of(FILE)
}

fn context_of(text: &str) -> (Arc<Context>, mpsc::Receiver<ControlCommand>) {
    let telemetry = Telemetry::new(2);
    let snapshot = snapshot(text, &telemetry);
    let (publisher, commands) = mpsc::channel(1);
    let source = ConfigSource {
        path: PathBuf::from("test.toml"),
        hash: "00112233445566ff".into(),
        ..ConfigSource::default()
    };
    let context = Arc::new(Context {
        rollouts: Mutex::default(),
        live: Live::new(snapshot, 2, source),
        telemetry,
        windows: Mutex::new(StatusWindows::default()),
        series: Mutex::default(),
        started: Instant::now(),
        bound: Mutex::new(vec![("default".into(), ([127, 0, 0, 1], 4242).into())]),
        readiness: Arc::new(Readiness::default()),
        publisher,
        history: Arc::default(),
        names: Arc::default(),
        fleet: Arc::default(),
        events: super::events::EventHub::default(),
    });
    (context, commands)
}

async fn send(
    context: &Arc<Context>,
    method: Method,
    path: &str,
    listener: ListenerKind,
) -> (u16, String) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "127.0.0.1:9900")
        .body(http_body_util::Empty::<bytes::Bytes>::new())
        .unwrap();
    let answer = api::answer(request, listener, context).await;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn get(context: &Arc<Context>, path: &str) -> (u16, String) {
    send(context, Method::GET, path, TCP).await
}

fn error(body: &str) -> String {
    let body: Value = serde_json::from_str(body).unwrap();
    body["error"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn readiness_follows_the_life_of_the_process() {
    let (context, _commands) = context();
    assert_eq!(get(&context, "/healthz").await.0, 200);
    let (status, body) = get(&context, "/readyz").await;
    assert_eq!((status, error(&body).contains("starting")), (503, true));
    context.readiness.set(ProcessPhase::Ready);
    assert_eq!(get(&context, "/readyz").await.0, 200);
    context.readiness.set(ProcessPhase::Stopping);
    let (status, body) = get(&context, "/readyz").await;
    assert_eq!((status, error(&body).contains("stopping")), (503, true));
    assert_eq!(get(&context, "/healthz").await.0, 200);
}

#[tokio::test]
async fn errors_are_json() {
    let (context, _commands) = context();
    let (status, body) = get(&context, "/api/v1/nothing").await;
    assert_eq!(status, 404);
    assert!(error(&body).contains("/api/v1/nothing"));
    let (status, body) = send(&context, Method::DELETE, "/api/v1/status", TCP).await;
    assert_eq!((status, error(&body).contains("GET")), (405, true));
    let (status, _) = send(&context, Method::GET, "/api/v1/reload", TCP).await;
    assert_eq!(status, 405);
}

#[tokio::test]
async fn a_foreign_host_is_refused() {
    let (context, _commands) = context();
    let foreign = Request::get("/api/v1/status").header("host", "evil.example");
    let answer = api::answer(
        foreign
            .body(http_body_util::Empty::<bytes::Bytes>::new())
            .unwrap(),
        TCP,
        &context,
    )
    .await;
    assert_eq!(answer.status().as_u16(), 403);
}

#[tokio::test]
async fn status_says_what_runs() {
    let (context, _commands) = context();
    context.live.adopt(WorkerId(0), 3);
    let shop = context.telemetry.version("shop", "v2");
    shop.shard(WorkerId(1)).in_flight(7);
    let (status, body) = get(&context, "/api/v1/status").await;
    assert_eq!(status, 200);
    let read: ProxyStatus = serde_json::from_str(&body).unwrap();
    assert_eq!((read.generation, read.adopted), (3, 0));
    assert_eq!(read.pid, std::process::id());
    assert_eq!(read.config.hash, "00112233445566ff");
    assert!(read.config.ok);
    assert!(read.config.path.starts_with('/'), "{}", read.config.path);
    assert_eq!(read.listeners[0].address, "127.0.0.1:4242");
    let shop = &read.services[0];
    assert_eq!((&*shop.name, &*shop.stable), ("shop", "v1"));
    assert_eq!(shop.split.desired["v2"], "5%");
    assert_eq!(shop.split.effective["v1"], "95%");
    assert_eq!(shop.versions[0].label.as_deref(), Some("1.0.0"));
    assert_eq!(shop.versions[0].endpoints[1].weight, 2);
    assert_eq!(shop.versions[1].share, "5%");
    assert_eq!(shop.versions[1].in_flight, 7);
    assert_eq!(shop.versions[1].red["10s"].rate, 0.0);
    assert_eq!(shop.versions[1].red["1m"].p99_ms, None);
    assert!(shop.warnings.is_empty(), "{:?}", shop.warnings);
    context
        .live
        .note_source(|s| s.error = Some("test.toml:1:1: no".into()));
    let read = ProxyStatus::of(&context);
    assert_eq!((read.config.ok, read.config.error.is_some()), (false, true));
}

#[tokio::test]
async fn a_share_above_the_weights_is_a_warning_in_the_status() {
    let (context, _commands) = context_of(&FILE.replace("v2 = \"5%\"", "v2 = \"50%\""));
    let shop = &ProxyStatus::of(&context).services[0];
    assert!(
        shop.warnings[0].starts_with("v2 gets 50%"),
        "{:?}",
        shop.warnings
    );
}

#[tokio::test]
async fn the_configuration_is_shown_without_secrets() {
    let (context, _commands) = context();
    let (_, body) = get(&context, "/api/v1/config").await;
    let read: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(read["admin"]["token_file"], "$TOKEN");
    assert_eq!(read["listen"]["default"]["bind"], "127.0.0.1:8080");
    let shop = &read["service"]["shop"];
    assert_eq!(shop["split"]["v2"], "5%");
    assert_eq!(shop["match"][1]["when"]["path"][0], "/api/*");
    assert_eq!(
        shop["versions"]["v1"]["endpoints"][1],
        "10.0.1.11:8080 weight=2"
    );
    assert_eq!(read["service"]["users"]["cohort"]["by"][0], "cookie:uid");
    assert_eq!(read["service"]["users"]["hosts"][0], "*.example.com");
    assert_eq!(read["limits"]["header_timeout"], "10s");
}

#[test]
fn what_protects_requests_is_shown_as_the_file_says_it() {
    let file = r#"
        listen = "127.0.0.1:8080"
        [service.shop]
        stable = "blue"
        check = "grpc:shop.Cart"
        balance = "hash"
        hash_by = ["cookie:uid", "ip"]
        finish_sessions = "30m"
        fallback = "green"
        shield = true
        outlier = { max_ejected = "33.3%", success_rate_stdev = 2.5 }
        limits = { requests = 7 }
        retry = { on = ["timeout", "503"], methods = "all", per_try = "2s" }
        drain = { streams = "1h" }
        versions.blue = { endpoints = ["a:1"], slow_start = "30s" }
        versions.green = ["a:2"]
        [service.plain]
        paths = ["/plain"]
        versions.v1 = ["a:3"]
    "#;
    let spec = config::parse(file, "test.toml").unwrap();
    let shown = super::view::config(&spec);
    let (shop, plain) = (&shown["service"]["shop"], &shown["service"]["plain"]);
    assert_eq!(shop["health"]["path"], "grpc:shop.Cart");
    assert_eq!(shop["health"]["interval"], "2s");
    assert_eq!(shop["hash_by"], json!(["cookie:uid", "ip"]));
    assert_eq!(shop["finish_sessions"], "30m");
    assert_eq!(shop["sticky"]["to"], "version");
    assert_eq!(shop["fallback"], "green");
    assert_eq!(shop["shield"], true);
    assert_eq!(shop["outlier"]["max_ejected"], "33.3%");
    assert_eq!(shop["outlier"]["success_rate_stdev"], 2.5);
    assert_eq!(shop["limits"]["requests"], 7);
    assert_eq!(shop["retry"]["on"], json!(["timeout", "503"]));
    assert_eq!(shop["retry"]["methods"], "all");
    assert_eq!(shop["drain"]["streams"], "1h");
    assert_eq!(shop["versions"]["blue"]["slow_start"], "30s");
    for off in ["health", "sticky", "finish_sessions", "fallback", "hash_by"] {
        assert!(plain[off].is_null(), "{off}");
    }
    assert_eq!(plain["retry"]["on"][2], "502");
    assert_eq!(plain["retry"]["budget"], "20%");
}

#[tokio::test]
async fn metrics_carry_the_shares() {
    let (context, _commands) = context();
    let (status, body) = get(&context, "/metrics").await;
    assert_eq!(status, 200);
    let line = "cutover_split_ratio{service=\"shop\",version=\"v2\"} 0.05";
    assert!(body.contains(line), "{body}");
}

#[tokio::test]
async fn a_reload_is_the_publishers_to_answer() {
    let (context, mut commands) = context();
    let publisher = tokio::spawn(async move {
        let outcomes = [Ok(4), Err("test.toml:1:1: no".to_owned())];
        for outcome in outcomes {
            let Some(ControlCommand::Reload { answer }) = commands.recv().await else {
                panic!("no command");
            };
            answer.send(outcome).unwrap();
        }
    });
    let reload = |listener| send(&context, Method::POST, "/api/v1/reload", listener);
    // Over TCP the token is checked first, and its file does not exist.
    assert_eq!(reload(TCP).await.0, 403);
    let (status, body) = reload(ListenerKind::Unix).await;
    assert_eq!((status, body.contains("\"generation\": 4")), (200, true));
    let (status, body) = reload(ListenerKind::Unix).await;
    assert_eq!((status, error(&body)), (422, "test.toml:1:1: no".into()));
    publisher.await.unwrap();
    assert_eq!(reload(ListenerKind::Unix).await.0, 503);
}

#[tokio::test]
async fn explain_takes_an_encoded_request() {
    let (context, _commands) = context();
    let query = "url=http%3A%2F%2Fshop.example.com%2Fcart&header=X-Canary:+always&ip=10.9.9.9";
    let (status, body) = get(&context, &format!("/api/v1/explain?{query}")).await;
    assert_eq!(status, 200, "{body}");
    let explanation: Explanation = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (explanation.version.as_deref(), explanation.rule),
        (Some("v2"), Some(1))
    );
    for (query, what) in [
        ("", "url is missing"),
        ("url=%zz", "percent-encoded"),
        ("url=/&ip=me", "IP address"),
        ("url=/&colour=blue", "colour"),
        ("url=/%2500", "nul-in-path"),
        ("url=/&header=x", "name: value"),
    ] {
        let (status, body) = get(&context, &format!("/api/v1/explain?{query}")).await;
        assert_eq!(status, 400, "{query}");
        assert!(error(&body).contains(what), "{query}: {body}");
    }
}

fn explanation(url: &str, headers: &[&str]) -> Explanation {
    let headers: Vec<_> = headers.iter().map(|h| (*h).to_owned()).collect();
    let request = DescribedRequest::new(url, None, &headers, None).unwrap();
    explain(&snapshot(FILE, &Telemetry::new(1)), &request)
}

#[test]
fn a_rule_is_named_with_its_conditions() {
    let explanation = explanation("shop.example.com/api/x", &["x-canary: always"]);
    assert_eq!(explanation.service.as_deref(), Some("shop"));
    assert_eq!(explanation.route.as_deref(), Some("shop.example.com/*"));
    assert_eq!(
        (explanation.version.as_deref(), explanation.rule),
        (Some("v2"), Some(1))
    );
    assert_eq!(
        explanation.candidates[0].endpoints[0].address,
        "10.0.2.10:8080"
    );
    let why = explanation.why.join("\n");
    assert!(
        why.contains("exact host shop.example.com and any path /*"),
        "{why}"
    );
    assert!(why.contains("rule 2 ("), "{why}");
    assert!(why.contains("header.x-canary = \"always\""), "{why}");
    assert!(why.contains("path = \"/api/*\" or \"/cart\""), "{why}");
}

#[test]
fn the_exact_split_leaves_the_version_open() {
    let explanation = explanation("http://shop.example.com/", &[]);
    assert_eq!(explanation.version, None);
    let shares: Vec<_> = explanation.candidates.iter().map(|c| &*c.share).collect();
    assert_eq!(shares, ["95%", "5%"]);
    assert_eq!(explanation.answer, None);
    assert!(
        explanation
            .why
            .iter()
            .any(|w| w.contains("none of the 2 rules"))
    );
}

#[test]
fn a_user_keeps_the_same_cohort_point() {
    let url = "http://a.example.com/v1/users";
    let [first, again] = [(); 2].map(|()| explanation(url, &["cookie: uid=4711"]));
    assert_eq!(first, again);
    let cohort = first.cohort.unwrap();
    assert_eq!(cohort.key, "cookie:uid");
    assert!((0.0..1.0).contains(&cohort.point));
    assert_eq!(first.route.as_deref(), Some("*.example.com/v1/*"));
    assert_eq!(explanation(url, &[]).cohort.unwrap().key, "ip");
    // Users of both versions exist.
    let versions: std::collections::BTreeSet<_> = (0..64)
        .filter_map(|n| explanation(url, &[&format!("cookie: uid={n}")]).version)
        .collect();
    assert_eq!(versions.len(), 2);
}

#[test]
fn early_ends_are_explained() {
    let nowhere = explanation("http://other.test/", &[]);
    assert_eq!(nowhere.answer.as_deref(), Some("404 no-route"));
    let hidden = explanation("http://a.example.com/v1%2fusers", &[]);
    assert_eq!(hidden.answer.as_deref(), Some("400 ambiguous-path"));
    let preview = explanation("http://v2.shop.example.com/", &[]);
    assert_eq!(preview.version.as_deref(), Some("v2"));
    assert!(preview.why.iter().any(|w| w.contains("preview host")));
    let secure = explanation("https://shop.example.com/", &[]);
    assert!(secure.why[0].contains("no listener accepts https"));
}

#[test]
fn the_port_says_which_listener() {
    let explanation = |url: &str| explanation(url, &[]).why[0].clone();
    assert!(explanation("http://shop.example.com:8080/").contains("(127.0.0.1:8080)"));
    assert!(explanation("/").starts_with("listener default"));
}

#[test]
fn only_requests_are_explained() {
    let wrong = |url: &str| DescribedRequest::new(url, None, &[], None).unwrap_err();
    assert!(wrong("ftp://a/").contains("ftp"));
    assert!(wrong("http://us er@a/").contains("not a host"));
    assert!(wrong("http://a/%00").contains("nul-in-path"));
    let named = DescribedRequest::new("http://a/x?y#z", None, &["Host: B:1".into()], None);
    assert_eq!(
        named,
        DescribedRequest::new("http://b:1/x?y", None, &["host: B:1".into()], None)
    );
}

#[tokio::test]
async fn who_was_accepted_before_a_handover_is_answered_after_it() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let (context, _commands) = context();
    let bind = config::spec::Bind::Tcp(([127, 0, 0, 1], 0).into());
    let listener = super::bind(&bind).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (unanswered, mut answers) = mpsc::channel(1);
    tokio::spawn(super::serve(vec![listener], context.clone(), unanswered));
    // Kept alive after its answer, and nothing is owed to it.
    let mut idle = tokio::net::TcpStream::connect(address).await.unwrap();
    idle.write_all(REQUEST).await.unwrap();
    idle.read_exact(&mut [0; 12]).await.unwrap();
    // Accepted, since connections are accepted in order.
    let mut late = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut later = tokio::net::TcpStream::connect(address).await.unwrap();
    later.write_all(REQUEST).await.unwrap();
    later.read_exact(&mut [0; 12]).await.unwrap();
    context.readiness.hand_over();
    let soon = Duration::from_millis(50);
    let pending = tokio::time::timeout(soon, answers.recv()).await;
    assert!(pending.is_err(), "a client hasn't asked yet");
    late.write_all(REQUEST).await.unwrap();
    let mut answer = [0; 12];
    late.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    let patience = Duration::from_secs(5);
    let all = tokio::time::timeout(patience, answers.recv()).await;
    assert_eq!(all.expect("all are answered"), None);
}

#[tokio::test]
async fn the_api_is_served_over_both_kinds_of_listener() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (context, _commands) = context();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let tcp = config::spec::Bind::Tcp(([127, 0, 0, 1], 0).into());
    let tcp = super::bind(&tcp).await.unwrap();
    let unix = config::spec::Bind::Unix(path.clone());
    let unix = super::bind(&unix).await.unwrap();
    let address = tcp.local_addr().unwrap();
    let (unanswered, _answers) = mpsc::channel(1);
    let server = tokio::spawn(super::serve(vec![tcp, unix], context, unanswered));
    let request = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let mut answer = String::new();
    let mut tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    tcp.write_all(request).await.unwrap();
    tcp.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer.clear();
    let mut unix = tokio::net::UnixStream::connect(&path).await.unwrap();
    unix.write_all(request).await.unwrap();
    unix.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("ok\n"), "{answer}");
    // A stopped server removes its socket.
    server.abort();
    let stopped = async {
        while path.exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), stopped)
        .await
        .unwrap();
}
