use super::*;

use http::Request;
use http_body_util::{BodyExt, Empty};
use tokio::time::{sleep, timeout};

use crate::admin::history::{ChangeCause, ChangeLine, HistoryEntry};
use crate::admin::reply::AdminBody;
use crate::admin::tests::{FILE, TCP, context, snapshot};
use crate::admin::{api, events};

async fn open(context: &Arc<Context>, path: &str) -> AdminBody {
    let request = Request::get(path).header("host", "127.0.0.1:9900");
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let answer = api::answer(request, TCP, context).await;
    assert_eq!(answer.status(), 200);
    answer.into_body()
}

/// The next piece of a stream; `None` at its end.
async fn piece(body: &mut AdminBody) -> Option<String> {
    let frame = body.frame().await?.unwrap();
    let bytes = frame.into_data().unwrap();
    Some(String::from_utf8(bytes.to_vec()).unwrap())
}

/// The configuration without a service.
fn publish_without(context: &Context, service: &str) {
    let at = FILE.find(&format!("[service.{service}]")).unwrap();
    let next = snapshot(&FILE[..at], &context.telemetry);
    context.live.publish(Arc::new(next));
}

#[tokio::test(start_paused = true)]
async fn the_first_stream_of_a_service_is_told_of_it_and_of_its_end() {
    let (context, _commands) = context();
    let rounds = tokio::spawn(events::run(context.clone()));
    let mut body = open(&context, "/api/v1/events?service=users").await;
    let first = piece(&mut body).await.unwrap();
    assert!(
        first.contains("event: service\ndata: {\"name\":\"users\""),
        "{first}"
    );
    publish_without(&context, "users");
    context.events.hurry();
    let last = piece(&mut body).await.unwrap();
    assert!(
        last.ends_with("event: removed\ndata: {\"name\":\"users\"}\n\n"),
        "{last}"
    );
    assert_eq!(piece(&mut body).await, None);
    rounds.abort();
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_has_a_comment_every_15_seconds() {
    let (context, _commands) = context();
    let rounds = tokio::spawn(events::run(context.clone()));
    let mut body = open(&context, "/api/v1/events?service=shop").await;
    piece(&mut body).await.unwrap();
    // News of another service don't put it off.
    let others = tokio::spawn({
        let context = context.clone();
        async move {
            loop {
                sleep(Duration::from_secs(4)).await;
                let line = ChangeLine {
                    service: Some("users".to_owned()),
                    text: "users: b 50% -> 60%".to_owned(),
                };
                let by = ChangeCause::File.into();
                let entry = HistoryEntry::now(9, by, String::new(), vec![line]);
                context.history.add(entry, None);
                context.events.hurry();
            }
        }
    });
    let told = *context.events.newest.borrow();
    for _ in 0..3 {
        let began = Instant::now();
        let comment = timeout(Duration::from_secs(60), piece(&mut body)).await;
        let comment = comment.expect("a comment in time").unwrap();
        assert!(
            comment.starts_with(':') && comment.ends_with("\n\n"),
            "{comment}"
        );
        assert_eq!(began.elapsed().as_secs(), 15);
    }
    assert!(*context.events.newest.borrow() >= told + 10);
    others.abort();
    rounds.abort();
}

#[tokio::test(start_paused = true)]
async fn a_handover_ends_streams() {
    let (context, _commands) = context();
    let mut body = open(&context, "/api/v1/events").await;
    assert!(piece(&mut body).await.unwrap().contains("event: status\n"));
    let ended = tokio::spawn(async move { piece(&mut body).await });
    context.readiness.hand_over();
    let ended = timeout(Duration::from_secs(1), ended).await;
    assert_eq!(ended.expect("it ends at once").unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_computed_while_nobody_listens() {
    let (context, _commands) = context();
    let rounds = tokio::spawn(events::run(context.clone()));
    let body = open(&context, "/api/v1/events").await;
    sleep(Duration::from_secs(5)).await;
    drop(body);
    publish_without(&context, "users");
    context.events.hurry();
    sleep(Duration::from_secs(5)).await;
    let newest = || *context.events.newest.borrow();
    let told = newest();
    let mut body = open(&context, "/api/v1/events").await;
    assert!(newest() > told, "the next stream had it told");
    assert!(!piece(&mut body).await.unwrap().contains("\"users\""));
    rounds.abort();
}
