//! Tests of the timeouts of a connection, with a paused clock.

use std::pin::Pin;
use std::task::Poll;

use http_body_util::Full;
use hyper::body::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, yield_now};

use super::*;

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// A served connection, seen from its client and from its listener.
struct Served {
    /// Returns the time at which the connection ended.
    task: JoinHandle<Instant>,
    client: DuplexStream,
    activity: Arc<Activity>,
    began: Instant,
}

impl Served {
    fn with<B>(answer: impl Fn() -> Response<B> + Send + Sync + 'static) -> Self
    where
        B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
    {
        let (client, server) = duplex(1024);
        let activity = Activity::new();
        let served = connection(server, activity.clone(), move |_| {
            std::future::ready(answer())
        });
        Self {
            task: tokio::spawn(async {
                served.await;
                Instant::now()
            }),
            client,
            activity,
            began: Instant::now(),
        }
    }

    /// A connection whose responses have this many bytes.
    fn plain(len: usize) -> Self {
        Self::with(move || Response::new(Full::new(Bytes::from(vec![b'x'; len]))))
    }

    async fn ask(&mut self) {
        self.client.write_all(GET).await.unwrap();
    }

    /// Seconds from the beginning to the end of the connection.
    async fn ended(self) -> u64 {
        (self.task.await.unwrap() - self.began).as_secs()
    }
}

/// An event stream whose events come through a channel.
struct Events(mpsc::UnboundedReceiver<Bytes>);

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let event = self.0.poll_recv(cx);
        event.map(|event| event.map(|bytes| Ok(Frame::data(bytes))))
    }
}

fn events() -> (Served, mpsc::UnboundedSender<Bytes>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let receiver = std::sync::Mutex::new(Some(receiver));
    let served = Served::with(move || {
        let events = receiver.lock().unwrap().take().expect("one request");
        let response = Response::builder().header("content-type", "text/event-stream");
        response.body(Events(events)).unwrap()
    });
    (served, sender)
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_closed_after_the_write_timeout() {
    let mut served = Served::plain(1 << 20);
    served.ask().await;
    assert_eq!(served.ended().await, WRITE_TIMEOUT.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_slowly_is_closed_at_the_end_of_the_lifetime() {
    let mut served = Served::plain(1 << 20);
    served.ask().await;
    let mut byte = [0; 1];
    while !served.task.is_finished() {
        served.client.read_exact(&mut byte).await.unwrap();
        sleep(Duration::from_secs(1)).await;
    }
    let lived = served.ended().await;
    assert_eq!(lived, (LIFETIME + WRITE_TIMEOUT).as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_kept_connection_finishes_its_last_answer_and_ends() {
    let mut served = Served::plain(3000);
    for _ in 0..12 {
        served.ask().await;
        sleep(HEADER_TIMEOUT / 2).await;
        let mut answer = vec![0; 4096];
        while !answer[..].contains(&b'x') {
            let n = served.client.read(&mut answer).await.unwrap();
            assert!(n > 0, "ended after {:?}", served.began.elapsed());
            answer.truncate(n);
        }
        // The rest of the body.
        let mut rest = vec![0; 3000];
        let mut left = 3000 - answer.iter().filter(|b| **b == b'x').count();
        while left > 0 {
            left -= served.client.read(&mut rest).await.unwrap();
        }
    }
    assert_eq!(served.ended().await, LIFETIME.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_closed_after_the_header_timeout() {
    let served = Served::plain(1);
    assert_eq!(served.ended().await, HEADER_TIMEOUT.as_secs());
}

#[tokio::test(start_paused = true)]
async fn an_event_stream_outlives_the_lifetime_but_not_the_write_timeout() {
    let (mut served, events) = events();
    served.ask().await;
    sleep(3 * LIFETIME).await;
    events.send(Bytes::from_static(b"data: late\n\n")).unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"data: late\n\n\r\n") {
        served.client.read_buf(&mut seen).await.unwrap();
    }
    assert_eq!(
        served.activity.stalled_since(),
        None,
        "the stream waits for events"
    );
    let blocked = Instant::now();
    events.send(Bytes::from(vec![b'x'; 8192])).unwrap();
    let activity = served.activity.clone();
    while activity.stalled_since().is_none() {
        yield_now().await;
    }
    served.ended().await;
    assert_eq!(blocked.elapsed().as_secs(), WRITE_TIMEOUT.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_connection_stalls_while_its_client_is_waited_for() {
    let (sender, receiver) = tokio::sync::watch::channel(false);
    let (mut client, server) = duplex(1024);
    let activity = Activity::new();
    let task = tokio::spawn(connection(server, activity.clone(), move |_| {
        let mut receiver = receiver.clone();
        async move {
            receiver.wait_for(|ready| *ready).await.unwrap();
            Response::new(Full::new(Bytes::from_static(b"ok")))
        }
    }));
    let began = Instant::now();
    sleep(Duration::from_secs(2)).await;
    assert_eq!(activity.stalled_since(), Some(began));
    client.write_all(GET).await.unwrap();
    sleep(Duration::from_secs(3)).await;
    assert_eq!(activity.stalled_since(), None, "the answer is being made");
    sender.send_replace(true);
    sleep(Duration::from_secs(1)).await;
    let since = activity.stalled_since().unwrap();
    assert_eq!((since - began).as_secs(), 5);
    drop(client);
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stalled_stream_of_events_ends_and_others_go_on() {
    let (context, _commands) = crate::admin::tests::context();
    let rounds = tokio::spawn(events::run(context.clone()));
    let follow = || {
        let (client, server) = duplex(1024);
        let context = context.clone();
        let served = connection(server, Activity::new(), move |request| {
            let context = context.clone();
            async move { api::answer(request, ListenerKind::Unix, &context).await }
        });
        (client, tokio::spawn(served))
    };
    let (mut stalled, ended) = follow();
    let (mut other, goes_on) = follow();
    let request = b"GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let began = Instant::now();
    for client in [&mut stalled, &mut other] {
        client.write_all(request).await.unwrap();
    }
    let read = tokio::spawn(async move {
        let mut seen = Vec::new();
        // Heartbeats come after 15 and 30 seconds.
        while seen.windows(14).filter(|w| w == b": nothing new\n").count() < 2 {
            assert!(other.read_buf(&mut seen).await.unwrap() > 0, "it ended");
        }
        (other, Instant::now())
    });
    ended.await.unwrap();
    assert_eq!(began.elapsed().as_secs(), WRITE_TIMEOUT.as_secs());
    let (_other, read) = read.await.unwrap();
    assert_eq!((read - began).as_secs(), 30);
    assert!(!goes_on.is_finished());
    rounds.abort();
}
