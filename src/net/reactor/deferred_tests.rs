use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::yield_now;
use tokio::time::timeout;

use super::{AT_MOST, WORTHWHILE};
use crate::net::buffer::Piece;
use crate::net::fixtures::piece;
use crate::net::reactor::pretend_busy;
use crate::net::{Buffers, DEFERRED_MOST, StreamSocket};

/// A socket of ours and its other end, which doesn't block.
fn pair() -> (StreamSocket, UnixStream) {
    let (near, far) = UnixStream::pair().expect("a pair");
    far.set_nonblocking(true).expect("the option");
    (StreamSocket::new(near).expect("registered"), far)
}

/// The same, on a thread whose reactor runs.
async fn driven_pair() -> (StreamSocket, UnixStream) {
    let pair = pair();
    yield_now().await;
    pair
}

/// What has arrived.
fn arrived(far: &mut UnixStream) -> Vec<u8> {
    let (mut all, mut part) = (Vec::new(), [0; 65_536]);
    loop {
        match far.read(&mut part) {
            Ok(0) => return all,
            Ok(n) => all.extend_from_slice(&part[..n]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return all,
            Err(e) => panic!("{e}"),
        }
    }
}

/// The next `most` bytes, or those that arrive within a few seconds.
async fn received(far: &mut UnixStream, most: usize) -> Vec<u8> {
    let mut got = Vec::new();
    let receiving = async {
        while got.len() < most {
            got.extend(arrived(far));
            // The reactor hears of the room, and sends.
            yield_now().await;
        }
    };
    let _ = timeout(Duration::from_secs(5), receiving).await;
    got
}

/// Defers a write of `data`.
fn write(near: &StreamSocket, data: &[u8]) {
    pretend_busy();
    assert_eq!(near.send_now(data).expect("written"), data.len());
}

/// Defers a write of `before` and `piece`.
fn write_piece(near: &StreamSocket, before: &mut Vec<u8>, piece: Piece) {
    pretend_busy();
    assert!(near.can_defer(before.len() + piece.len()));
    near.defer_with(before, piece);
}

/// Writes until the socket is full, and then a bit more: returns what is to arrive, of which the last bytes are unsent.
async fn overfill(near: &StreamSocket) -> Vec<u8> {
    let mut all = Vec::new();
    for n in 0.. {
        let piece = [n as u8; DEFERRED_MOST];
        write(near, &piece);
        all.extend_from_slice(&piece);
        yield_now().await;
        if near.has_unsent() {
            break;
        }
    }
    all
}

#[tokio::test]
async fn small_writes_are_sent_once_the_tasks_that_are_ready_have_run() {
    let (near, mut far) = driven_pair().await;
    write(&near, b"abc");
    assert!(near.has_unsent());
    assert_eq!(arrived(&mut far), b"");
    yield_now().await;
    assert_eq!(arrived(&mut far), b"abc");
    assert!(!near.has_unsent());
    let mut all = b"def".to_vec();
    pretend_busy();
    assert!(near.defer_all(&mut all));
    assert!(all.is_empty());
    yield_now().await;
    assert_eq!(arrived(&mut far), b"def");
}

#[tokio::test]
async fn a_worker_with_little_to_do_sends_at_once() {
    let mut pairs = Vec::new();
    for _ in 0..WORTHWHILE {
        pairs.push(driven_pair().await);
    }
    for number in [WORTHWHILE - 1, WORTHWHILE] {
        for (_, far) in &mut pairs[..number] {
            far.write_all(b"x").expect("sent");
        }
        let (near, far) = &mut pairs[0];
        assert_eq!(near.read(&mut [0; 8]).await.expect("an event"), 1);
        assert_eq!(near.send_now(b"y").expect("written"), 1);
        assert_eq!(near.has_unsent(), number == WORTHWHILE);
        yield_now().await;
        assert_eq!(arrived(far), b"y");
    }
}

#[tokio::test]
async fn a_second_write_is_deferred_with_the_first_while_there_is_room() {
    let (near, mut far) = driven_pair().await;
    write(&near, b"a");
    write(&near, b"b");
    let mut all = b"c".to_vec();
    assert!(near.defer_all(&mut all));
    assert_eq!((arrived(&mut far), all), (vec![], vec![]));
    yield_now().await;
    assert_eq!(arrived(&mut far), b"abc");
    write(&near, b"d");
    let large = [7; DEFERRED_MOST];
    write(&near, &large);
    assert_eq!(arrived(&mut far), [b"d", &large[..]].concat());
}

#[tokio::test]
async fn a_piece_is_sent_between_what_is_written_before_it_and_after_it() {
    let (near, mut far) = driven_pair().await;
    let buffers = Buffers::new();
    let mut before = b"ab".to_vec();
    write_piece(&near, &mut before, piece(&buffers, b"cde"));
    assert_eq!(before, b"");
    write(&near, b"f");
    write(&near, b"g");
    assert_eq!(arrived(&mut far), b"");
    yield_now().await;
    assert_eq!(arrived(&mut far), b"abcdefg");
    assert_eq!(buffers.spare_small(), 1, "its memory has returned");
    write_piece(&near, &mut Vec::new(), piece(&buffers, b"xyz"));
    assert!(near.has_unsent());
    yield_now().await;
    assert_eq!(arrived(&mut far), b"xyz");
    pretend_busy();
    assert!(!near.can_defer(DEFERRED_MOST + 1));
    write(&near, b"h");
    assert!(!near.can_defer(1), "nothing is put behind another write");
}

#[tokio::test]
async fn a_refused_write_counts_its_piece_and_returns_the_memory_at_the_end() {
    let (near, far) = driven_pair().await;
    let buffers = Buffers::new();
    write_piece(&near, &mut b"ab".to_vec(), piece(&buffers, b"cde"));
    write(&near, b"f");
    drop(far);
    yield_now().await;
    assert_eq!((near.refused(), buffers.spare_small()), (6, 0));
    drop(near);
    assert_eq!(buffers.spare_small(), 1);
}

#[tokio::test]
async fn a_large_write_follows_what_was_deferred() {
    let (mut near, mut far) = driven_pair().await;
    let ((other, mut elsewhere), large) = (pair(), vec![7; DEFERRED_MOST + 1]);
    write(&near, b"c");
    write(&other, b"d");
    near.write_all(&large).await.expect("written");
    assert_eq!(arrived(&mut far), [b"c", &large[..]].concat());
    assert_eq!(arrived(&mut elsewhere), b"d", "it waits for no large write");
}

#[tokio::test]
async fn so_many_writes_are_deferred_and_no_more() {
    let mut pairs: Vec<_> = (0..AT_MOST).map(|_| pair()).collect();
    yield_now().await;
    let (last, others) = pairs.split_last_mut().expect("a pair");
    for (near, far) in &mut *others {
        write(near, b"x");
        assert_eq!(arrived(far), b"");
    }
    write(&last.0, b"x");
    for (_, far) in &mut pairs {
        assert_eq!(arrived(far), b"x");
    }
}

#[tokio::test]
async fn what_the_kernel_does_not_take_is_sent_when_there_is_room() {
    let (near, mut far) = driven_pair().await;
    let all = overfill(&near).await;
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(near.poll_write_ready(cx).is_pending(), "it is full");
    assert_eq!(near.send_now(b"more").expect("no failure"), 0);
    assert!(received(&mut far, all.len()).await == all);
    assert!(!near.has_unsent());
}

#[tokio::test]
async fn the_end_of_our_side_follows_what_was_deferred() {
    let (mut near, mut far) = driven_pair().await;
    let all = overfill(&near).await;
    let ending = async { near.shutdown().await.expect("ended") };
    let ((), got) = tokio::join!(ending, received(&mut far, all.len()));
    assert!(got == all);
}

#[tokio::test]
async fn a_socket_that_is_dropped_sends_the_rest() {
    let (near, mut far) = driven_pair().await;
    write(&near, b"abc");
    drop(near);
    assert_eq!(arrived(&mut far), b"abc");
    // Another socket gets the index of the dropped one.
    let (near, mut far) = driven_pair().await;
    write(&near, b"def");
    yield_now().await;
    assert_eq!(arrived(&mut far), b"def");
}

#[tokio::test]
async fn a_refused_write_fails_the_next_write_and_read() {
    let (mut near, far) = driven_pair().await;
    write(&near, b"abc");
    assert_eq!(near.refused(), 0);
    drop(far);
    yield_now().await;
    assert_eq!(near.refused(), 3);
    assert!(near.has_unsent());
    pretend_busy();
    assert_eq!(
        near.send_now(b"d").expect_err("refused").kind(),
        io::ErrorKind::BrokenPipe
    );
    assert!(near.shutdown().await.is_err());
    // The end of the peer's side comes first.
    assert_eq!(near.read(&mut [0; 8]).await.expect("the end"), 0);
}

/// A firewall's refusal, for instance, is no event of the peer, which may say nothing for long.
#[tokio::test]
async fn a_refusal_wakes_a_task_that_waits_for_the_peer() {
    let (near, far) = UnixStream::pair().expect("a pair");
    let ours = near.try_clone().expect("a copy");
    let mut near = StreamSocket::new(near).expect("registered");
    let waiting = tokio::task::LocalSet::new();
    let read = async move {
        write(&near, b"abc");
        near.read(&mut [0; 8]).await
    };
    let refused = waiting.run_until(async move {
        yield_now().await;
        ours.shutdown(std::net::Shutdown::Write).expect("shut");
        read.await
    });
    let refused = timeout(Duration::from_secs(5), refused).await;
    let error = refused.expect("woken").expect_err("refused");
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    drop(far);
}

#[test]
fn without_a_reactor_that_runs_nothing_is_deferred() {
    for _ in 0..2 {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().expect("a runtime");
        let (near, mut far) = runtime.block_on(async {
            let (near, mut far) = pair();
            write(&near, b"a");
            assert_eq!(arrived(&mut far), b"a", "it hasn't run yet");
            yield_now().await;
            write(&near, b"b");
            assert_eq!(arrived(&mut far), b"");
            yield_now().await;
            assert_eq!(arrived(&mut far), b"b");
            (near, far)
        });
        drop(runtime);
        write(&near, b"c");
        assert_eq!(arrived(&mut far), b"c");
    }
}

#[tokio::test]
async fn all_that_is_written_arrives_in_order() {
    let (near, mut far) = driven_pair().await;
    let (mut random, buffers) = (fastrand::Rng::with_seed(7), Buffers::new());
    let (mut all, mut got) = (Vec::new(), Vec::new());
    for n in 0..3000_u32 {
        let piece = vec![n as u8; random.usize(..DEFERRED_MOST * 2)];
        pretend_busy();
        let cx = &mut Context::from_waker(Waker::noop());
        let flags = rustix::net::SendFlags::empty();
        let parts = [
            io::IoSlice::new(&piece[..piece.len() / 2]),
            io::IoSlice::new(&piece[piece.len() / 2..]),
        ];
        if random.bool() && piece.len() > 1 && near.can_defer(piece.len()) {
            let (before, moved) = piece.split_at(random.usize(..piece.len()));
            near.defer_with(&mut before.to_vec(), self::piece(&buffers, moved));
            all.extend_from_slice(&piece);
            continue;
        }
        let written = match random.u8(..3) {
            0 => near.poll_send(cx, &piece, flags),
            1 => near.poll_send_gathered(cx, &parts),
            _ => Poll::Ready(near.send_now(&piece)),
        };
        if let Poll::Ready(written) = written {
            all.extend_from_slice(&piece[..written.expect("written")]);
        }
        if random.bool() {
            got.extend(arrived(&mut far));
        }
        if random.bool() {
            yield_now().await;
        }
    }
    got.extend(received(&mut far, all.len() - got.len()).await);
    assert!(got == all);
}
