//! The protocol against frames of other releases: recorded ones of format 1, and made-up ones of a later format.

use std::path::PathBuf;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use super::*;

/// Frames of cutover before the format had a number, recorded from its processes.
const HELLO_1: &str = r#"{"protocol":1}"#;
const OFFER_1: &str = r#"{"protocol":1,"pid":27504,"generation":1,"draining":[["shop","v2","127.0.0.1:2"]],"sockets":[{"purpose":"listener","name":"web","bind":"127.0.0.1:18099"},{"purpose":"listener","name":"local","bind":"unix:/tmp/run/in.sock"},{"purpose":"admin","name":"","bind":"unix:/tmp/run/admin.sock"},{"purpose":"control","name":"","bind":"unix:/tmp/run/state/control-9c2f1fd1449902f6.sock"},{"purpose":"handover","name":"","bind":"unix:/tmp/run/state/handover-9c2f1fd1449902f6.sock"}]}"#;
const SERVING_1: &str = r#"{"unwanted":["127.0.0.1:18098"]}"#;
const RELEASED_1: &str = "{}";

/// An offer that a later release may send.
const OFFER_99: &str = r#"{"protocol":1,"format":99,"pid":7,"rollouts":[{"step":2}],"sockets":[{"purpose":"quic","port":443},{"purpose":"listener","name":"web","bind":":80","backlog":1}],"services":[{"name":"shop","stable":"v1","shares":{"v1":100000},"flags":{"a":1}}]}"#;

struct Wire {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Wire {
    fn new() -> (Self, UnixListener) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("handover.sock");
        let listener = UnixListener::bind(&path).unwrap();
        (Self { _dir: dir, path }, listener)
    }
}

async fn send(stream: &mut UnixStream, json: &str) {
    let frame = [&(json.len() as u32).to_be_bytes(), json.as_bytes()].concat();
    stream.write_all(&frame).await.unwrap();
}

/// The next frame; `None` at the end of the connection.
async fn receive(stream: &mut UnixStream) -> Option<Value> {
    let length = stream.read_u32().await.ok()?;
    let mut json = vec![0; length as usize];
    stream.read_exact(&mut json).await.unwrap();
    Some(serde_json::from_slice(&json).unwrap())
}

fn descriptors(count: usize) -> Vec<OwnedFd> {
    let socket = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().into();
    (0..count).map(|_| socket()).collect()
}

/// A predecessor that sends this offer and these answers, then closes the connection. Returns the frames that it received.
async fn predecessor(
    listener: UnixListener,
    offer: &str,
    sockets: usize,
    answers: &[&str],
) -> Vec<Value> {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut heard = vec![receive(&mut stream).await.unwrap()];
    send(&mut stream, offer).await;
    wire::send_descriptors(&stream, &descriptors(sockets))
        .await
        .unwrap();
    for answer in answers {
        heard.extend(receive(&mut stream).await);
        send(&mut stream, answer).await;
    }
    heard
}

#[tokio::test]
async fn a_predecessor_of_format_1_is_replaced_without_a_claim() {
    let (wire, listener) = Wire::new();
    let successor = async {
        let (old, inherited) = ask(&wire.path).await.unwrap().expect("it runs");
        assert_eq!((old.pid, old.generation, old.services.len()), (27504, 1, 0));
        assert_eq!(
            old.draining,
            [["shop", "v2", "127.0.0.1:2"].map(str::to_owned)]
        );
        assert_eq!(inherited.ports().len(), 5);
        old.confirm(vec![":80".into()]).await.unwrap()
    };
    let old = predecessor(listener, OFFER_1, 5, &[RELEASED_1]);
    let (confirmed, heard) = tokio::join!(successor, old);
    assert_eq!(confirmed, Confirmed::Released(None));
    assert_eq!(
        heard[0]["protocol"], 1,
        "the only field of a hello that it knows"
    );
    assert_eq!(heard[1]["unwanted"], serde_json::json!([":80"]));
}

#[tokio::test]
async fn a_connection_that_closes_without_a_frame_means_that_the_predecessor_exited() {
    let two = OFFER_1.replacen("{", "{\"format\":2,", 1);
    let steps: [(&str, &[&str]); 3] = [(OFFER_1, &[]), (&two, &[]), (&two, &[RELEASED_1])];
    for (offer, answers) in steps {
        let (wire, listener) = Wire::new();
        let successor = async {
            let (old, _) = ask(&wire.path).await.unwrap().expect("it runs");
            old.confirm(Vec::new()).await.unwrap()
        };
        let (confirmed, _) = tokio::join!(successor, predecessor(listener, offer, 5, answers));
        assert_eq!(confirmed, Confirmed::Ended, "{offer} {answers:?}");
    }
}

#[tokio::test]
async fn a_predecessor_may_refuse_at_either_step() {
    let two = OFFER_1.replacen("{", "{\"format\":2,", 1);
    let refusal = r#"{"refused":"no answer within 10s"}"#;
    for answers in [&[refusal][..], &[RELEASED_1, refusal][..]] {
        let (wire, listener) = Wire::new();
        let successor = async {
            let (old, _) = ask(&wire.path).await.unwrap().expect("it runs");
            old.confirm(Vec::new()).await.unwrap_err().to_string()
        };
        let (why, _) = tokio::join!(successor, predecessor(listener, &two, 5, answers));
        assert_eq!(why, "no answer within 10s");
    }
}

#[tokio::test]
async fn unknown_fields_are_ignored_and_missing_ones_have_defaults() {
    let (wire, listener) = Wire::new();
    let last = r#"{"draining":[["a","b","c"]],"rollouts":[]}"#;
    let successor = async {
        let (old, mut inherited) = ask(&wire.path).await.unwrap().expect("it runs");
        assert_eq!((old.generation, old.draining.len()), (0, 0));
        assert_eq!(old.services[0].stable, "v1");
        let web = crate::config::spec::Bind::Any(80);
        assert!(
            inherited
                .one(crate::edge::inherit::Purpose::Admin, &web)
                .is_none()
        );
        assert_eq!(
            inherited.ports().len(),
            2,
            "a socket with an unknown purpose is kept until startup ends, and closed then"
        );
        old.confirm(Vec::new()).await.unwrap()
    };
    let answers = [r#"{"claims":2}"#, last];
    let later = predecessor(listener, OFFER_99, 2, &answers);
    let (confirmed, heard) = tokio::join!(successor, later);
    let draining = vec![["a", "b", "c"].map(str::to_owned)];
    assert_eq!(confirmed, Confirmed::Released(Some(draining)));
    assert_eq!(heard.len(), 3, "hello, serving, claimed: {heard:?}");
}

/// The predecessor's side. The test plays its control thread.
struct Running {
    wire: Wire,
    requests: mpsc::Receiver<HandoverRequest>,
    serving: tokio::task::JoinHandle<()>,
}

impl Running {
    fn new() -> Self {
        let (wire, listener) = Wire::new();
        let (sender, requests) = mpsc::channel(1);
        Self {
            wire,
            requests,
            serving: tokio::spawn(serve(listener, sender)),
        }
    }

    /// Connects a successor that sends this hello. Returns its stream, the offer, and the receiver that completes when the takeover
    /// is decided.
    async fn offered(&mut self, hello: &str) -> (UnixStream, Value, oneshot::Receiver<()>) {
        let mut stream = UnixStream::connect(&self.wire.path).await.unwrap();
        send(&mut stream, hello).await;
        let Some(HandoverRequest::State(reply)) = self.requests.recv().await else {
            panic!("no request for the state");
        };
        let (undecided, decided) = oneshot::channel();
        let label = Label {
            purpose: crate::edge::inherit::Purpose::Listener,
            name: "web".into(),
            bind: Some(":80".into()),
        };
        let service = ServiceState {
            name: "shop".into(),
            ..ServiceState::default()
        };
        let state = HandoverState {
            generation: 3,
            draining: Vec::new(),
            services: vec![service],
            tickets: Vec::new(),
            names: Vec::new(),
            sockets: descriptors(1)
                .into_iter()
                .map(|fd| (label.clone(), fd))
                .collect(),
            undecided,
        };
        reply.send(state).unwrap();
        let offer = receive(&mut stream).await.expect("an offer");
        assert_eq!(
            wire::receive_descriptors(&stream, 1).await.unwrap().len(),
            1
        );
        (stream, offer, decided)
    }

    async fn release(&mut self) -> Release {
        match self.requests.recv().await {
            Some(HandoverRequest::Release(release)) => release,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_successor_of_format_1_gets_its_release_after_accepting_has_stopped() {
    let mut running = Running::new();
    let (mut stream, offer, _decided) = running.offered(HELLO_1).await;
    // Format 1 reads these fields and no others.
    for field in ["protocol", "pid", "generation", "draining", "sockets"] {
        assert!(!offer[field].is_null(), "{offer}");
    }
    assert_eq!(offer["services"], serde_json::json!([]));
    send(&mut stream, SERVING_1).await;
    let release = running.release().await;
    assert_eq!(release.unwanted, ["127.0.0.1:18098"]);
    release.done.send(Vec::new()).unwrap();
    let released = receive(&mut stream).await.expect("a release");
    assert!(released["refused"].is_null(), "{released}");
    running.serving.await.unwrap();
}

#[tokio::test]
async fn accepting_stops_only_after_the_claim() {
    let mut running = Running::new();
    let hello = r#"{"protocol":1,"format":2,"extra":true}"#;
    let (mut stream, offer, decided) = running.offered(hello).await;
    assert_eq!(offer["services"][0]["name"], "shop");
    send(&mut stream, SERVING_1).await;
    assert_eq!(receive(&mut stream).await, Some(serde_json::json!({})));
    // The successor dies here: nothing is released, and the next one is served.
    drop(stream);
    decided.await.unwrap_err();
    assert!(running.requests.try_recv().is_err());
    let (mut stream, _, _decided) = running.offered(hello).await;
    send(&mut stream, SERVING_1).await;
    receive(&mut stream).await.expect("a release");
    send(&mut stream, "{}").await;
    let drained = ["shop", "v1", "a"].map(str::to_owned);
    running.release().await.done.send(vec![drained]).unwrap();
    let last = receive(&mut stream).await.expect("a second release");
    assert_eq!(last["draining"], serde_json::json!([["shop", "v1", "a"]]));
    running.serving.await.unwrap();
}

#[tokio::test]
async fn a_refusal_has_a_reason_and_is_not_sent_to_format_1() {
    for (hello, told) in [(r#"{"protocol":1,"format":2}"#, true), (HELLO_1, false)] {
        let mut running = Running::new();
        let (mut stream, _, decided) = running.offered(hello).await;
        send(&mut stream, "nonsense").await;
        let word = receive(&mut stream).await;
        assert_eq!(word.is_some_and(|w| w["refused"].is_string()), told);
        decided.await.unwrap_err();
        running.serving.abort();
    }
}
