use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::task::Waker;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::{JoinSet, yield_now};
use tokio::time::timeout;

use super::*;
use crate::net::fixtures::tcp_pair;
use crate::net::reactor;

/// A socket of ours and its other end.
fn pair() -> (StreamSocket, UnixStream) {
    let (near, far) = UnixStream::pair().expect("a pair");
    (StreamSocket::new(near).expect("registered"), far)
}

/// Waits until reading has to be tried, for no longer than a few seconds.
async fn readable(socket: &StreamSocket) {
    let waiting = poll_fn(|cx| socket.poll_read_ready(cx));
    timeout(Duration::from_secs(5), waiting)
        .await
        .expect("an event");
}

fn is_readable_now(socket: &StreamSocket) -> bool {
    let cx = &mut Context::from_waker(Waker::noop());
    socket.poll_read_ready(cx).is_ready()
}

/// Lets the thread take all events that the kernel has.
async fn settle() {
    for _ in 0..10 {
        yield_now().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_short_read_waits_for_the_next_bytes() {
    let (near, mut far) = pair();
    assert!(!is_readable_now(&near));
    far.write_all(b"abc").expect("sent");
    readable(&near).await;
    let mut bytes = [0; 8];
    assert!(matches!(near.read_now(&mut bytes), Poll::Ready(Ok(3))));
    assert!(!is_readable_now(&near), "the socket is drained");
    far.write_all(b"d").expect("sent");
    readable(&near).await;
    assert!(matches!(near.read_now(&mut bytes), Poll::Ready(Ok(1))));
}

#[tokio::test]
async fn a_read_that_fills_its_buffer_leaves_the_socket_readable() {
    let (near, mut far) = pair();
    far.write_all(b"abcd").expect("sent");
    readable(&near).await;
    let mut bytes = [0; 2];
    for _ in 0..2 {
        assert!(is_readable_now(&near));
        assert!(matches!(near.read_now(&mut bytes), Poll::Ready(Ok(2))));
    }
    assert!(near.read_now(&mut bytes).is_pending(), "nothing is left");
    assert!(!is_readable_now(&near));
}

#[tokio::test]
async fn the_end_is_found_after_the_last_bytes() {
    let (near, mut far) = pair();
    far.write_all(b"abc").expect("sent");
    drop(far);
    settle().await;
    let mut bytes = [0; 8];
    assert!(matches!(near.read_now(&mut bytes), Poll::Ready(Ok(3))));
    // There is no further event for the end, which has arrived together with the bytes.
    assert!(is_readable_now(&near));
    assert!(matches!(near.read_now(&mut bytes), Poll::Ready(Ok(0))));
    assert!(is_readable_now(&near));
}

#[tokio::test]
async fn a_full_socket_waits_for_room() {
    let (mut near, mut far) = pair();
    let body = vec![7; 4 << 20];
    let writing = async {
        near.write_all(&body).await.expect("written");
        near.shutdown().await.expect("ended");
    };
    let reading = async {
        let mut got = Vec::new();
        far.set_nonblocking(true).expect("the option");
        let mut part = [0; 100_000];
        loop {
            match far.read(&mut part) {
                Ok(0) => return got.len(),
                Ok(n) => got.extend_from_slice(&part[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => yield_now().await,
                Err(e) => panic!("{e}"),
            }
        }
    };
    let both = async { tokio::join!(writing, reading) };
    let ((), got) = timeout(Duration::from_secs(20), both)
        .await
        .expect("in time");
    assert_eq!(got, body.len());
}

#[tokio::test]
async fn a_socket_without_room_wakes_its_writer_when_there_is_some() {
    let (near, mut far) = pair();
    let piece = [7; 1024];
    let mut sent = 0;
    let cx = &mut Context::from_waker(Waker::noop());
    while let Poll::Ready(n) = near.poll_send(cx, &piece, SendFlags::empty()) {
        sent += n.expect("sent");
    }
    let mut got = vec![0; sent];
    far.read_exact(&mut got).expect("all that was sent");
    let writable = poll_fn(|cx| near.poll_write_ready(cx));
    let woken = timeout(Duration::from_secs(5), writable).await;
    woken.expect("an event");
}

/// More than the events that are taken from the kernel at once.
#[tokio::test]
async fn the_events_of_hundreds_of_sockets_are_reported() {
    let mut waiting = JoinSet::new();
    let local = tokio::task::LocalSet::new();
    let mut peers = Vec::new();
    for _ in 0..400 {
        let (mut near, far) = pair();
        peers.push(far);
        let read = async move {
            let mut bytes = [0; 3];
            near.read_exact(&mut bytes).await.map(|_| bytes)
        };
        waiting.spawn_local_on(read, &local);
    }
    let all = local.run_until(async {
        settle().await;
        for peer in &mut peers {
            peer.write_all(b"all").expect("sent");
        }
        let mut seen = 0;
        while let Some(read) = waiting.join_next().await {
            assert_eq!(&read.expect("no panic").expect("bytes"), b"all");
            seen += 1;
        }
        seen
    });
    let seen = timeout(Duration::from_secs(20), all).await;
    assert_eq!(seen.expect("all are woken"), 400);
}

/// Those of a listener, for instance, which has the same open file in every worker and in the next process.
#[tokio::test]
async fn a_socket_that_was_closed_here_but_not_elsewhere_causes_no_events() {
    let (near, mut far) = pair();
    let elsewhere = near.as_fd().try_clone_to_owned().expect("a copy");
    assert_eq!(reactor::take_events(), 1, "it is writable");
    far.write_all(b"x").expect("sent");
    assert_eq!(reactor::take_events(), 1, "it is readable");
    drop(near);
    far.write_all(b"x").expect("sent");
    assert_eq!(reactor::take_events(), 0);
    drop(elsewhere);
}

#[test]
fn a_second_runtime_of_a_thread_gets_events_too() {
    for _ in 0..2 {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (near, mut far) = pair();
            far.write_all(b"x").expect("sent");
            readable(&near).await;
        });
    }
}

#[tokio::test]
async fn a_socket_that_is_always_readable_lets_others_run() {
    let (near, mut far) = pair();
    far.write_all(b"x").expect("sent");
    readable(&near).await;
    let spinning = poll_fn(|cx| {
        while near.poll_read_ready(cx).is_ready() {}
        Poll::Ready(())
    });
    // It would never return otherwise.
    spinning.await;
}

#[tokio::test]
async fn connections_are_opened_over_tcp_and_unix_sockets() {
    let (near, mut far) = tcp_pair().await;
    let near = near.clear().expect("clear text");
    far.write_all(b"x").await.expect("sent");
    readable(near).await;

    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).expect("bound");
    let near = StreamSocket::connect_unix(&path).expect("connected");
    let (mut far, _) = listener.accept().expect("accepted");
    far.write_all(b"x").expect("sent");
    readable(&near).await;
}

#[tokio::test]
async fn a_port_without_a_listener_refuses() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let refused = StreamSocket::connect(address).await.expect_err("refused");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);

    let nowhere = Path::new("/nonexistent/socket");
    let missing = StreamSocket::connect_unix(nowhere).expect_err("no such file");
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
}
