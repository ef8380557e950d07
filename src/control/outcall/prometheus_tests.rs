//! Queries against scripted servers, and against a real Prometheus where `prometheus` is installed.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::super::fixtures::{Act, ScriptedServer, answer};
use super::*;
use crate::config::rollout::Comparison;

const LONG: Duration = Duration::from_secs(20);

fn query(prometheus: String, query: &str) -> QuerySpec {
    QuerySpec {
        prometheus,
        query: query.into(),
        pass: (Comparison::Less, 0.05),
        every: Duration::from_secs(30),
        fails: 3,
        token_file: None,
    }
}

/// The answer to a query if the server acts like this, with its port replaced.
async fn asked(act: Act, limit: Duration) -> QueryAnswer {
    let server = ScriptedServer::start([act]).await;
    match ask_within(&query(server.url("/secret"), "up"), limit).await {
        QueryAnswer::Unanswered(why) => {
            QueryAnswer::Unanswered(why.replace(&server.port.to_string(), "PORT"))
        }
        answered => answered,
    }
}

fn vector(samples: &str) -> Act {
    let body = format!(
        "{{\"status\":\"success\",\"data\":{{\"resultType\":\"vector\",\"result\":[{samples}]}}}}"
    );
    answer(200, "content-type: application/json\r\n", &body)
}

fn sample(value: &str) -> String {
    format!("{{\"metric\":{{}},\"value\":[1435781451.781,\"{value}\"]}}")
}

#[tokio::test]
async fn one_number_is_compared() {
    let scalar = "{\"status\":\"success\",\"data\":{\"resultType\":\"scalar\",\"result\":[1,\"0.01\"]},\"warnings\":[\"x\"]}";
    for (act, expected) in [
        (vector(&sample("0.01")), QueryAnswer::Pass(0.01)),
        (vector(&sample("0.05")), QueryAnswer::Miss(0.05)),
        (vector(&sample("+Inf")), QueryAnswer::Miss(f64::INFINITY)),
        (
            vector(&sample("-Inf")),
            QueryAnswer::Pass(f64::NEG_INFINITY),
        ),
        (vector(&sample("-1e-3")), QueryAnswer::Pass(-0.001)),
        (answer(200, "", scalar), QueryAnswer::Pass(0.01)),
    ] {
        assert_eq!(asked(act.clone(), LONG).await, expected, "{act:?}");
    }
}

#[tokio::test]
async fn everything_else_is_no_answer() {
    let data = |kind: &str, result: &str| {
        let data = format!("{{\"resultType\":\"{kind}\",\"result\":{result}}}");
        answer(
            200,
            "",
            &format!("{{\"status\":\"success\",\"data\":{data}}}"),
        )
    };
    let failed =
        "{\"status\":\"error\",\"errorType\":\"bad_data\",\"error\":\"parse error:\\nunexpected\"}";
    let two = format!("{},{}", sample("1"), sample("2"));
    for (act, why) in [
        (vector(""), "the query has no result"),
        (vector(&two), "the query has 2 results, not one"),
        (vector(&sample("NaN")), "the query yields NaN"),
        (vector(&sample("much")), "the query yields no number"),
        (
            vector("{\"metric\":{},\"histogram\":[1,{}]}"),
            "the query yields no number",
        ),
        (
            data("matrix", "[]"),
            "the query yields a range, not one number",
        ),
        (
            data("string", "[1,\"0.01\"]"),
            "the query yields a string, not a number",
        ),
        (data("scalar", "[1,0.01]"), "the query yields no number"),
        (data("vector", "{}"), "the query yields no number"),
        (
            answer(200, "", "{\"status\":\"success\"}"),
            "answered 200 without a result",
        ),
        (
            answer(200, "", "<html>"),
            "the answer isn't that of a Prometheus query",
        ),
        (
            answer(400, "", failed),
            "answered 400: parse error:\\nunexpected",
        ),
        (
            answer(200, "", failed),
            "answered 200: parse error:\\nunexpected",
        ),
        (answer(502, "", "<html>"), "answered 502"),
        (
            answer(302, "location: /login\r\n", ""),
            "answered 302 (redirects aren't followed)",
        ),
    ] {
        let expected = format!("127.0.0.1:PORT: {why}");
        let answered = asked(act.clone(), LONG).await;
        assert_eq!(answered, QueryAnswer::Unanswered(expected), "{act:?}");
    }
    let silent = asked(Act::Hang(String::new()), Duration::from_millis(50)).await;
    let expected = "127.0.0.1:PORT: no complete answer within 50ms".to_owned();
    assert_eq!(silent, QueryAnswer::Unanswered(expected));
    let unusable = ask(&query("secret".into(), "up")).await;
    assert!(matches!(unusable, QueryAnswer::Unanswered(why) if !why.contains("secret")));
}

#[tokio::test]
async fn the_query_is_posted_as_a_form_below_the_base() {
    let server = ScriptedServer::start([vector(&sample("0"))]).await;
    let asked = query(server.url("/prom/"), "rate(x{a=\"b\"}[1m]) + 1");
    assert_eq!(ask(&asked).await, QueryAnswer::Pass(0.0));
    let request = &server.requests()[0];
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("POST /prom/api/v1/query HTTP/1.1\r\n"),
        "{head}"
    );
    assert!(
        head.contains("content-type: application/x-www-form-urlencoded"),
        "{head}"
    );
    assert!(!head.contains("authorization"), "{head}");
    assert_eq!(
        body,
        "query=rate%28x%7Ba%3D%22b%22%7D%5B1m%5D%29+%2B+1&timeout=10000ms"
    );
}

#[tokio::test]
async fn the_token_is_read_from_its_file_each_time() {
    let server = ScriptedServer::start([vector(&sample("0"))]).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    let write = |text: &[u8], mode| {
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
    };
    let mut asked = query(server.url("").replacen("127", "user:pass@127", 1), "up");
    asked.token_file = Some(file.clone());
    for token in ["first", "second"] {
        write(format!("  {token}\n").as_bytes(), 0o600);
        assert_eq!(ask(&asked).await, QueryAnswer::Pass(0.0));
        let request = server.requests().pop().unwrap();
        let line = format!("\r\nauthorization: Bearer {token}\r\n");
        assert!(request.contains(&line), "{request}");
        assert!(!request.contains("Basic"), "{request}");
    }
    let big = [b'x'; 5000];
    for (text, mode, why) in [
        (&b"secret"[..], 0o604, "accessible to every user"),
        (b" \n", 0o600, "the file is empty"),
        (b"secret\nsecret", 0o600, "more than one line"),
        (&big, 0o600, "more than 4096 bytes"),
    ] {
        write(text, mode);
        let QueryAnswer::Unanswered(said) = ask(&asked).await else {
            panic!("{why}");
        };
        assert!(said.contains(why) && !said.contains("secret"), "{said}");
    }
    asked.token_file = Some(PathBuf::from("/nowhere/token"));
    assert!(matches!(ask(&asked).await, QueryAnswer::Unanswered(_)));
    assert_eq!(
        server.requests().len(),
        2,
        "nothing was sent without a token"
    );
}

/// A Prometheus server that scrapes nothing. It ends with the test.
struct RealPrometheus {
    child: Child,
    url: String,
    _dir: tempfile::TempDir,
}

impl Drop for RealPrometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl RealPrometheus {
    /// `None` if there is no `prometheus` on the path.
    async fn start() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("prometheus.yml");
        std::fs::write(&config, "scrape_configs: []\n").unwrap();
        // Free at this moment; if another process takes it, Prometheus ends and the test says so.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                dir.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut server = Self {
            child,
            url: format!("http://{address}"),
            _dir: dir,
        };
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while let QueryAnswer::Unanswered(why) = ask(&query(server.url.clone(), "vector(0)")).await
        {
            assert!(tokio::time::Instant::now() < deadline, "{why}");
            assert_eq!(server.child.try_wait().unwrap(), None, "it has ended");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Some(server)
    }
}

#[tokio::test]
async fn a_real_prometheus_answers() {
    let Some(mut server) = RealPrometheus::start().await else {
        eprintln!("skipped: no prometheus on the path");
        return;
    };
    let two = "label_replace(vector(1), \"a\", \"b\", \"\", \"\") or vector(2)";
    for (text, expected) in [
        ("vector(0.01)", Ok(QueryAnswer::Pass(0.01))),
        ("scalar(vector(0.01))", Ok(QueryAnswer::Pass(0.01))),
        ("1 / 4", Ok(QueryAnswer::Miss(0.25))),
        ("vector(1) / 0", Ok(QueryAnswer::Miss(f64::INFINITY))),
        ("vector(0) / 0", Err("the query yields NaN")),
        (
            "orders_failed_total{version=\"v2\"}",
            Err("the query has no result"),
        ),
        (two, Err("the query has 2 results, not one")),
        ("up[1m]", Err("the query yields a range, not one number")),
        ("\"text\"", Err("the query yields a string, not a number")),
        ("sum(", Err("answered 400: invalid parameter")),
    ] {
        match (ask(&query(server.url.clone(), text)).await, expected) {
            (QueryAnswer::Unanswered(why), Err(part)) => {
                assert!(why.contains(part), "{text}: {why}")
            }
            (answered, expected) => assert_eq!(Ok(answered), expected, "{text}"),
        }
    }
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    let killed = ask(&query(server.url.clone(), "vector(0)")).await;
    assert!(
        matches!(&killed, QueryAnswer::Unanswered(why) if why.contains("no connection")),
        "{killed:?}"
    );
}
