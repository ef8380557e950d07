use serde_json::json;

use super::super::fixtures::{Act, ScriptedServer, answer};
use super::*;

const QUICK: Backoff = Backoff {
    first: Duration::from_millis(1),
    factor: 1,
    most: Duration::from_millis(1),
};

/// Calls a hook of a server that acts like this, with two retries. Returns the result and the number of attempts that arrived.
async fn called(acts: &[Act]) -> (Result<(), String>, usize) {
    let server = ScriptedServer::start(acts.to_vec()).await;
    let hook = HookSpec {
        url: server.url("/secret"),
        timeout: Duration::from_millis(500),
        retries: 2,
    };
    let result = call_with(&hook, &json!({ "version": "v2" }), QUICK).await;
    let port = server.port.to_string();
    let result = result.map_err(|why| why.replace(&port, "PORT"));
    (result, server.requests().len())
}

#[tokio::test]
async fn the_state_is_posted_as_json() {
    let server = ScriptedServer::start([answer(204, "", "")]).await;
    let hook = HookSpec {
        url: server.url("/load-test?t=1"),
        timeout: Duration::from_secs(20),
        retries: 0,
    };
    let state = json!({ "version": "v2", "step": 1 });
    call(&hook, &state).await.unwrap();
    let request = &server.requests()[0];
    assert!(
        request.starts_with("POST /load-test?t=1 HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(
        request.contains("content-type: application/json\r\n"),
        "{request}"
    );
    assert!(
        request.ends_with("\r\n\r\n{\"version\":\"v2\",\"step\":1}"),
        "{request}"
    );
}

#[tokio::test]
async fn what_may_pass_is_tried_again() {
    let ok = answer(200, "", "");
    for failure in [
        answer(503, "", ""),
        Act::Hang(String::new()),
        Act::Answer(String::new()),
    ] {
        let (result, attempts) = called(&[failure.clone(), failure.clone(), ok.clone()]).await;
        assert_eq!((result, attempts), (Ok(()), 3), "{failure:?}");
    }
    let (result, attempts) = called(&[answer(503, "", "")]).await;
    let why = "127.0.0.1:PORT: answered 503, in 3 attempts";
    assert_eq!((result, attempts), (Err(why.into()), 3));
    let (result, _) = called(&[Act::Hang(String::new())]).await;
    let why = "127.0.0.1:PORT: no complete answer within 500ms, in 3 attempts";
    assert_eq!(result, Err(why.into()));
}

#[tokio::test]
async fn an_objection_is_final() {
    for (status, why) in [
        (400, "127.0.0.1:PORT: answered 400"),
        (429, "127.0.0.1:PORT: answered 429"),
        (
            302,
            "127.0.0.1:PORT: answered 302 (redirects aren't followed)",
        ),
    ] {
        let (result, attempts) = called(&[answer(status, "", "")]).await;
        assert_eq!((result, attempts), (Err(why.into()), 1));
    }
    let (result, attempts) = called(&[Act::Flood(2 << 20)]).await;
    assert_eq!(attempts, 1, "{result:?}");
}

#[tokio::test]
async fn an_unusable_url_is_refused_without_being_quoted() {
    let hook = HookSpec {
        url: "ftp://secret".into(),
        timeout: Duration::from_secs(1),
        retries: 2,
    };
    let error = call(&hook, &json!({})).await.unwrap_err();
    assert!(!error.contains("secret"), "{error}");
}
