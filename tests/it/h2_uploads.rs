//! What the proxy takes of request bodies before an origin takes any is bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use http::Request;
use tokio::sync::Semaphore;

use crate::support::h2_client::{H2, whole};
use crate::support::h2_origin::{Exchange, H2Origin};
use crate::support::proxy::{Proxy, serve, single};

const UPLOADS: usize = 100;
const SIZE: usize = 64 * 1024;

/// Sends a body as the window allows, and counts what was sent.
async fn send_counted(stream: &mut SendStream<Bytes>, sent: &AtomicUsize) {
    let mut rest = Bytes::from(vec![b'x'; SIZE]);
    while !rest.is_empty() {
        stream.reserve_capacity(rest.len());
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
        let room = room.expect("open").expect("no error");
        let piece = rest.split_to(room.min(rest.len()));
        sent.fetch_add(piece.len(), Ordering::SeqCst);
        let last = rest.is_empty();
        stream.send_data(piece, last).expect("open");
    }
}

async fn upload(client: H2, port: u16, sent: Arc<AtomicUsize>) -> Vec<u8> {
    let request = Request::post(format!("http://test:{port}/"))
        .header("content-length", SIZE)
        .body(())
        .expect("a request");
    let (answer, mut stream) = client.open(request, false).await.expect("a stream");
    send_counted(&mut stream, &sent).await;
    let answer = whole(answer.await.expect("a head")).await.expect("whole");
    assert_eq!(answer.status, 200);
    answer.body
}

/// What was sent when for a while no more was.
async fn at_rest(sent: &AtomicUsize) -> usize {
    let mut before = usize::MAX;
    loop {
        let now = sent.load(Ordering::SeqCst);
        if now == before {
            return now;
        }
        before = now;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// An origin that takes one request at a time, and none before `begin` has permits; it answers with the length of the body.
fn origin(begin: Arc<Semaphore>) -> (H2Origin, Proxy) {
    let origin = H2Origin::narrow(1, move |x: Exchange| {
        let begin = begin.clone();
        async move {
            let permit = begin.acquire().await.expect("not closed");
            permit.forget();
            x.answer_with(|body| Bytes::from(body.len().to_string()))
                .await
        }
    });
    let limits = "limits.connections = 1\nlimits.pending = 1000";
    let proxy = serve(&single(&origin.h2c(), limits));
    (origin, proxy)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_buffered_of_a_connections_bodies_is_bounded_and_all_arrive() {
    let begin = Arc::new(Semaphore::new(0));
    let (_origin, proxy) = origin(begin.clone());
    let client = H2::connect(proxy.port).await;
    // The proxy knows how many streams the origin takes once it has been answered over the connection.
    begin.add_permits(1);
    upload(client.clone(), proxy.port, Arc::default()).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let uploads: Vec<_> = (0..UPLOADS)
        .map(|_| tokio::spawn(upload(client.clone(), proxy.port, sent.clone())))
        .collect();
    let taken = at_rest(&sent).await;
    // The connection's window, its buffered bodies, and what is on its way to the origin.
    assert!(taken <= 5 * 1024 * 1024, "{taken} bytes");
    begin.add_permits(UPLOADS);
    for upload in uploads {
        assert_eq!(upload.await.expect("no panic"), SIZE.to_string().as_bytes());
    }
}
