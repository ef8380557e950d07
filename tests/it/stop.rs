//! The end: what is in flight is finished, what isn't is not begun.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request};
use rustix::process::Signal;

use crate::support::client::End;
use crate::support::h2_client::{H2, send, whole};
use crate::support::h2_origin::H2Origin;
use crate::support::origin::Origin;
use crate::support::proxy::{before, serve, single};
use crate::support::{PATIENCE, block_on, until};

const GET: &str = "GET / HTTP/1.1\r\nhost: test\r\n\r\n";

/// Half of its answer at once, the other half a while later.
fn slow() -> Origin {
    Origin::each(|_, conn| {
        conn.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nsl")?;
        conn.wait(Duration::from_millis(500))?;
        conn.write(b"ow")
    })
}

#[test]
fn what_is_in_flight_is_finished() {
    for signal in [Signal::TERM, Signal::INT] {
        let origin = slow();
        let mut proxy = before(&origin.at());
        let (mut first, mut second) = (proxy.client(), proxy.client());
        assert_eq!(second.get("/").text(), "slow");
        first.send(GET);
        until("it is there", || (origin.hits() == 2).then_some(()));
        proxy.signal(signal);
        assert_eq!(first.answer("GET").text(), "slow");
        assert_eq!(first.end_within(PATIENCE), End::Closed);
        assert_eq!(second.end_within(PATIENCE), End::Closed);
        assert_eq!(proxy.ended().code(), Some(0));
    }
}

#[test]
fn an_idle_proxy_ends_at_once() {
    let origin = Origin::named("blue");
    let mut proxy = before(&origin.at());
    let mut idle = proxy.client();
    idle.get("/");
    let start = Instant::now();
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.ended().code(), Some(0));
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn readiness_fails_first_and_listeners_go_on_for_the_delay() {
    let origin = Origin::named("blue");
    let file = format!(
        "[shutdown]\ndelay = \"700ms\"\n{}",
        single(&origin.at(), "")
    );
    let mut proxy = serve(&file);
    let mut kept = proxy.client();
    assert!(!kept.get("/").says_close());
    proxy.signal(Signal::TERM);
    until("not ready", || {
        (proxy.ask_admin("/readyz").status() == 503).then_some(())
    });
    assert_eq!(proxy.get("/").text(), "blue");
    until("listeners are closed", || {
        std::net::TcpStream::connect(("127.0.0.1", proxy.port)).err()
    });
    let answer = kept.get("/");
    assert_eq!(answer.text(), "blue");
    assert!(answer.says_close(), "the end is announced");
    assert_eq!(proxy.ended().code(), Some(0));
}

#[test]
fn the_deadline_ends_what_does_not_end() {
    let origin = Origin::script(|conn| {
        conn.request()?;
        conn.peer_closes(PATIENCE).map(drop)
    });
    let file = format!(
        "[shutdown]\ndeadline = \"300ms\"\n{}",
        single(&origin.at(), "")
    );
    let mut proxy = serve(&file);
    let mut client = proxy.client();
    client.send(GET);
    until("it is there", || (origin.hits() == 1).then_some(()));
    let start = Instant::now();
    proxy.signal(Signal::TERM);
    let status = proxy.ended();
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(status.code(), Some(0));
}

#[test]
fn http2_gets_goaway_and_its_streams_finish() {
    let origin = H2Origin::script(|x| x.echo(HeaderMap::new()));
    let mut proxy = before(&origin.h2c());
    block_on(async {
        let client = H2::connect(proxy.port).await;
        let request = Request::post("http://app.test/").body(()).unwrap();
        let (answer, mut stream) = client.open(request, false).await.unwrap();
        send(&mut stream, Bytes::from_static(b"one"), false)
            .await
            .unwrap();
        let answer = answer.await.unwrap();
        proxy.signal(Signal::TERM);
        // New streams are refused once GOAWAY is there; the open one goes on.
        let deadline = Instant::now() + PATIENCE;
        while client.get("http://app.test/").await.is_ok() {
            assert!(Instant::now() < deadline, "no GOAWAY");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        send(&mut stream, Bytes::from_static(b"two"), true)
            .await
            .unwrap();
        assert_eq!(whole(answer).await.unwrap().body, b"onetwo");
    });
    assert_eq!(proxy.ended().code(), Some(0));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let origin = Origin::script(|conn| {
        conn.request()?;
        conn.peer_closes(PATIENCE).map(drop)
    });
    let mut proxy = before(&origin.at());
    let mut client = proxy.client();
    client.send(GET);
    until("it is there", || (origin.hits() == 1).then_some(()));
    proxy.signal(Signal::TERM);
    until("not ready", || {
        (proxy.ask_admin("/readyz").status() == 503).then_some(())
    });
    assert!(proxy.runs());
    proxy.signal(Signal::TERM);
    let start = Instant::now();
    proxy.ended();
    assert!(start.elapsed() < Duration::from_secs(5));
}
