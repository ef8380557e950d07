use tokio::runtime::{Builder, LocalOptions};

use super::super::fixtures::{AT_ONCE, Act, ScriptedServer, answer};
use super::*;

const QUICK: DeliveryPolicy = DeliveryPolicy {
    limit: Duration::from_secs(20),
    retries: 2,
    backoff: AT_ONCE,
    ..POLICY
};

/// Runs a test on a local runtime, like that of the control thread.
fn local(test: impl Future<Output = ()>) {
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_all().build_local(LocalOptions::default());
    runtime.unwrap().block_on(test);
}

fn slack(server: &ScriptedServer) -> Notify {
    Notify {
        url: server.url("/secret"),
        format: NotifyFormat::Slack,
    }
}

/// Waits until this many requests have arrived, and returns their bodies.
async fn bodies(server: &ScriptedServer, count: usize) -> Vec<String> {
    let arrived = async {
        while server.requests().len() < count {
            sleep(Duration::from_millis(1)).await;
        }
    };
    let late = timeout(Duration::from_secs(30), arrived).await;
    let requests = server.requests();
    assert!(late.is_ok(), "{requests:?}");
    let body = |request: &String| request.split_once("\r\n\r\n").unwrap().1.to_owned();
    requests.iter().map(body).collect()
}

#[test]
fn slack_gets_json_and_others_a_line_of_text() {
    local(async {
        let server = ScriptedServer::start([answer(200, "", "ok")]).await;
        let plain = ScriptedServer::start([answer(200, "", "")]).await;
        let receivers = [
            slack(&server),
            Notify {
                url: plain.url("/n"),
                format: NotifyFormat::Plain,
            },
        ];
        let state = json!({ "version": "v2", "state": "rolled-back" });
        Notifier::new(QUICK).send(&receivers, "shop: v2 <!channel> & x1.5 > 1", &state);
        let body: Value = serde_json::from_str(&bodies(&server, 1).await[0]).unwrap();
        assert_eq!(body["text"], "shop: v2 &lt;!channel&gt; &amp; x1.5 &gt; 1");
        assert_eq!(body["rollout"], state);
        assert_eq!(bodies(&plain, 1).await[0], "shop: v2 <!channel> & x1.5 > 1");
        let (json, text) = (server.requests().remove(0), plain.requests().remove(0));
        assert!(
            json.contains("content-type: application/json\r\n"),
            "{json}"
        );
        assert!(
            text.contains("content-type: text/plain; charset=utf-8\r\n"),
            "{text}"
        );
    });
}

#[test]
fn what_may_pass_is_tried_again_and_in_order() {
    local(async {
        for failure in [
            answer(500, "", ""),
            answer(429, "", ""),
            Act::Answer(String::new()),
        ] {
            let acts = [failure.clone(), failure, answer(200, "", "")];
            let server = ScriptedServer::start(acts).await;
            let receivers = [Notify {
                format: NotifyFormat::Plain,
                ..slack(&server)
            }];
            let notifier = Notifier::new(QUICK);
            notifier.send(&receivers, "first", &Value::Null);
            notifier.send(&receivers, "second", &Value::Null);
            assert_eq!(
                bodies(&server, 4).await,
                ["first", "first", "first", "second"]
            );
        }
    });
}

#[test]
fn what_can_not_pass_is_given_up() {
    local(async {
        let plain = |server: &ScriptedServer| Notify {
            format: NotifyFormat::Plain,
            ..slack(server)
        };
        let gone = ScriptedServer::start([answer(404, "", "")]).await;
        let notifier = Notifier::new(QUICK);
        for text in ["a", "b"] {
            notifier.send(&[plain(&gone)], text, &Value::Null);
        }
        assert_eq!(bodies(&gone, 2).await, ["a", "b"]);
        let down = ScriptedServer::start([answer(503, "", "")]).await;
        for text in ["a", "b"] {
            notifier.send(&[plain(&down)], text, &Value::Null);
        }
        assert_eq!(bodies(&down, 6).await, ["a", "a", "a", "b", "b", "b"]);
    });
}

#[test]
fn a_receiver_that_hangs_delays_nobody_and_its_queue_is_bounded() {
    local(async {
        let stuck = ScriptedServer::start([Act::Hang(String::new())]).await;
        let well = ScriptedServer::start([answer(200, "", "")]).await;
        let notifier = Notifier::new(DeliveryPolicy { queue: 3, ..QUICK });
        let stuck_receiver = [slack(&stuck)];
        notifier.send(&stuck_receiver, "in flight", &Value::Null);
        bodies(&stuck, 1).await;
        for _ in 0..10 {
            notifier.send(&stuck_receiver, "queued or dropped", &Value::Null);
        }
        notifier.send(&[slack(&stuck), slack(&well)], "x", &Value::Null);
        bodies(&well, 1).await;
        let queues = notifier.queues.borrow();
        assert_eq!(queues[0].1.capacity(), 0);
        assert_eq!(stuck.requests().len(), 1);
    });
}

#[test]
fn an_idle_receiver_is_forgotten_and_found_again() {
    local(async {
        let server = ScriptedServer::start([answer(200, "", "")]).await;
        let notifier = Notifier::new(DeliveryPolicy {
            idle: Duration::from_millis(1),
            ..QUICK
        });
        for count in 1..=3 {
            notifier.send(&[slack(&server)], "x", &Value::Null);
            bodies(&server, count).await;
            let queue = notifier.queues.borrow()[0].1.clone();
            queue.closed().await;
        }
        notifier.send(&[], "", &Value::Null);
        assert!(notifier.queues.borrow().is_empty());
    });
}

#[test]
fn a_receiver_says_when_to_come_back() {
    let after = |text: &'static str| {
        let value = HeaderValue::from_static(text);
        retry_after(&HeaderMap::from_iter([(header::RETRY_AFTER, value)])).as_secs()
    };
    assert_eq!((after("30"), after("3600"), after("-1")), (30, 60, 0));
    assert_eq!(after("Wed, 21 Oct 2015 07:28:00 GMT"), 0);
    assert_eq!(retry_after(&HeaderMap::new()), Duration::ZERO);
}

#[test]
fn nothing_secret_is_shown() {
    let notifier = Notifier::default();
    assert_eq!(format!("{notifier:?}"), "Notifier { .. }");
    let receiver = |url: &str| Notify {
        url: url.into(),
        format: NotifyFormat::Plain,
    };
    let named = receiver("https://hooks.example.com/secret");
    assert_eq!(peer(&named), "hooks.example.com:443");
    assert!(!peer(&receiver("secret")).contains("secret"));
}
