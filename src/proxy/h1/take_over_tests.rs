use std::future::poll_fn;
use std::task::{Context, Waker};

use http::HeaderMap;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::yield_now;

use super::*;
use crate::http1::Framing;
use crate::net::Buffers;
use crate::net::fixtures::tcp_pair;
use crate::net::pretend_busy;
use crate::proxy::body::{Flow, Upload};
use crate::proxy::wire::{BodyPiece, PumpError};

/// What a client has sent after a head, and the connection to an endpoint, on a worker that has much to do.
struct Relay {
    buffers: Buffers,
    source: H1,
    sink: H1,
    endpoint: TcpStream,
    /// Where the client's bytes were received.
    memory: std::ops::Range<*const u8>,
    client: TcpStream,
}

impl Relay {
    async fn of(received: &[u8], framing: Framing, encoding: Encoding) -> Self {
        let ((near, mut client), (far, endpoint)) = (tcp_pair().await, tcp_pair().await);
        let buffers = Buffers::new();
        client.write_all(received).await.expect("written");
        let mut source = H1::new(near, buffers.clone());
        source.begin_source(framing);
        while source.mem.input.len() < received.len() {
            let filled = poll_fn(|cx| source.poll_fill(cx)).await;
            assert!(filled.expect("bytes") > 0);
        }
        let length = match framing {
            Framing::Length(n) => Some(n),
            _ => None,
        };
        let mut relay = Self {
            sink: H1::new(far, buffers.clone()),
            buffers,
            memory: source.mem.input.bytes().as_ptr_range(),
            source,
            endpoint,
            client,
        };
        relay.begin(encoding, length);
        relay
    }

    fn begin(&mut self, encoding: Encoding, length: Option<u64>) {
        self.sink.out().extend_from_slice(b"head");
        self.sink.begin_sink(encoding, length);
        pretend_busy();
    }

    fn flow(&mut self) -> Poll<Result<(), PumpError>> {
        let cx = &mut Context::from_waker(Waker::noop());
        Flow::default().poll(cx, &mut self.source, &mut self.sink)
    }

    /// Whether the memory of what was received is in use to send it.
    fn is_moved(&self) -> bool {
        let left = self.source.mem.input.bytes().as_ptr();
        self.sink.stream.has_unsent()
            && !self.memory.contains(&left)
            && self.buffers.spare_small() == 0
    }

    async fn got(&mut self, most: usize) -> Vec<u8> {
        yield_now().await;
        let mut got = vec![0; most];
        let n = self.endpoint.read(&mut got).await.expect("bytes");
        got.truncate(n);
        got
    }
}

fn body(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 7) as u8).collect()
}

#[tokio::test]
async fn a_body_is_sent_from_the_memory_that_it_was_received_in() {
    let body = body(WORTHWHILE);
    let framing = Framing::Length(body.len() as u64);
    let mut relay = Relay::of(&body, framing, Encoding::Plain).await;
    let mut flow = Flow::default();
    let cx = &mut Context::from_waker(Waker::noop());
    let sent = flow.poll(cx, &mut relay.source, &mut relay.sink);
    assert!(matches!(sent, Poll::Ready(Ok(()))));
    assert!(relay.is_moved());
    assert_eq!(flow.bytes(), body.len() as u64);
    assert_eq!(relay.source.mem.input.capacity(), 0);
    assert_eq!(relay.sink.written(), 4 + body.len() as u64);
    assert!(!relay.sink.is_flushed());
    assert_eq!(relay.got(20_000).await, [b"head", &body[..]].concat());
    assert!(relay.sink.is_flushed() && relay.source.source_is_done());
    assert_eq!(relay.buffers.spare_small(), 1, "the memory is back");
}

#[tokio::test]
async fn what_follows_a_body_stays_with_its_connection() {
    let body = body(WORTHWHILE);
    let received = [&body[..], b"GET / HTTP/1.1\r\n"].concat();
    let framing = Framing::Length(body.len() as u64);
    let mut relay = Relay::of(&received, framing, Encoding::Plain).await;
    assert!(matches!(relay.flow(), Poll::Ready(Ok(()))));
    assert!(relay.is_moved());
    assert_eq!(relay.source.mem.input.bytes(), b"GET / HTTP/1.1\r\n");
    assert_eq!(relay.got(20_000).await, [b"head", &body[..]].concat());
}

#[tokio::test]
async fn the_end_of_a_chunked_body_is_sent_with_its_chunks() {
    let chunks = [b"1200\r\n", &body(0x1200)[..], b"\r\n"].concat();
    let received = [&chunks[..], b"0\r\n\r\n"].concat();
    let mut relay = Relay::of(&received, Framing::Chunked, Encoding::Chunks).await;
    assert!(relay.source.pass_chunk_framing());
    relay.sink.accept_chunk_framing();
    assert!(matches!(relay.flow(), Poll::Ready(Ok(()))));
    assert!(relay.is_moved());
    assert_eq!(relay.got(20_000).await, [b"head", &received[..]].concat());
}

/// A small body, one that the sink frames in chunks itself, and one that is longer than announced.
#[tokio::test]
async fn other_bodies_are_copied() {
    let small = body(WORTHWHILE - 1);
    let framing = Framing::Length(small.len() as u64);
    let mut relay = Relay::of(&small, framing, Encoding::Plain).await;
    assert!(matches!(relay.flow(), Poll::Ready(Ok(()))));
    assert!(!relay.is_moved());
    assert_eq!(relay.got(20_000).await, [b"head", &small[..]].concat());

    let framed = [b"1200\r\n", &body(0x1200)[..], b"\r\n0\r\n\r\n"].concat();
    let mut relay = Relay::of(&framed, Framing::Chunked, Encoding::Chunks).await;
    assert!(matches!(relay.flow(), Poll::Ready(Ok(()))));
    assert!(!relay.is_moved());
    assert_eq!(relay.got(20_000).await, [b"head", &framed[..]].concat());

    let long = body(WORTHWHILE);
    let framing = Framing::Length(long.len() as u64);
    let mut relay = Relay::of(&long, framing, Encoding::Plain).await;
    relay
        .sink
        .begin_sink(Encoding::Plain, Some(long.len() as u64 - 1));
    let refused = relay.flow();
    let Poll::Ready(Err(PumpError::Sink(WireError::Bad(_)))) = refused else {
        panic!("{refused:?}");
    };
    assert!(!relay.sink.stream.has_unsent());
}

#[tokio::test]
async fn a_body_that_goes_on_beyond_the_announced_length_is_refused() {
    let body = body(WORTHWHILE);
    let mut relay = Relay::of(&body, Framing::UntilClose, Encoding::Plain).await;
    relay
        .sink
        .begin_sink(Encoding::Plain, Some(WORTHWHILE as u64));
    assert!(relay.flow().is_pending());
    assert!(relay.is_moved());
    relay.client.write_all(b"x").await.expect("written");
    poll_fn(|cx| relay.source.poll_news(cx)).await;
    let refused = relay.flow();
    let Poll::Ready(Err(PumpError::Sink(WireError::Bad(_)))) = refused else {
        panic!("{refused:?}");
    };
}

/// Much memory, or memory that holds much else, isn't given away.
#[tokio::test]
async fn a_piece_is_copied_out_of_a_large_buffer_or_one_with_much_behind_it() {
    let all = body(WORTHWHILE + 65);
    let framing = Framing::Length(WORTHWHILE as u64);
    let mut relay = Relay::of(&all, framing, Encoding::Plain).await;
    assert!(matches!(relay.flow(), Poll::Ready(Ok(()))));
    assert!(!relay.is_moved());
    assert_eq!(relay.source.mem.input.bytes(), &all[WORTHWHILE..]);

    let all = body(WORTHWHILE);
    let mut relay = Relay::of(&all, framing, Encoding::Plain).await;
    let buffers = relay.buffers.clone();
    buffers.equip(&mut relay.source.mem.input, crate::net::buffer::LARGE);
    assert!(matches!(relay.flow(), Poll::Ready(Ok(()))));
    assert_eq!(relay.source.mem.input.capacity(), crate::net::buffer::LARGE);
}

#[tokio::test]
async fn a_body_that_is_kept_for_another_try_can_be_sent_again() {
    let body = body(WORTHWHILE);
    let length = body.len() as u64;
    let mut relay = Relay::of(&body, Framing::Length(length), Encoding::Plain).await;
    let cx = &mut Context::from_waker(Waker::noop());
    let mut upload = Upload::new(None, 64 * 1024);
    for _ in 0..2 {
        let sent = upload.poll(cx, &mut relay.source, &mut relay.sink);
        assert!(matches!(sent, Poll::Ready(Ok(()))));
        assert_eq!(relay.got(20_000).await, [b"head", &body[..]].concat());
        assert_eq!(upload.received(), length);
        upload.rewind();
        relay.begin(Encoding::Plain, Some(length));
    }
}

/// HTTP/2 and TLS have buffers of their own.
#[tokio::test]
async fn a_source_without_memory_to_give_is_copied() {
    struct Fixed(Vec<u8>);
    impl Source for Fixed {
        fn poll_piece(&mut self, _: &mut Context<'_>) -> Poll<Result<BodyPiece, WireError>> {
            Poll::Ready(Ok(match self.0.len() {
                0 => BodyPiece::End,
                n => BodyPiece::Data(n),
            }))
        }
        fn data(&self) -> &[u8] {
            &self.0
        }
        fn consume(&mut self, n: usize) {
            self.0.drain(..n);
        }
        fn take_trailers(&mut self) -> HeaderMap {
            HeaderMap::new()
        }
        fn remaining(&self) -> Option<u64> {
            None
        }
    }
    let body = body(WORTHWHILE);
    let framing = Framing::Length(body.len() as u64);
    let mut relay = Relay::of(b"", framing, Encoding::Plain).await;
    let cx = &mut Context::from_waker(Waker::noop());
    let mut source = Fixed(body.clone());
    let sent = Flow::default().poll(cx, &mut source, &mut relay.sink);
    assert!(matches!(sent, Poll::Ready(Ok(()))));
    assert_eq!(relay.got(20_000).await, [b"head", &body[..]].concat());
}
