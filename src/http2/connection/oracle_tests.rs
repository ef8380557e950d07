//! Both sides against the h2 crate.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::task::{LocalSet, spawn_local};

use super::tests::{config, put};
use super::*;

/// Moves bytes between a connection and a pipe.
struct Pump {
    connection: Rc<Connection>,
    io: DuplexStream,
    input: Vec<u8>,
    /// Number of bytes that are read at once.
    piece: usize,
}

impl Pump {
    fn poll(&mut self, cx: &mut Context<'_>, accept: &mut dyn FnMut(Incoming)) -> Poll<()> {
        self.connection.set_driver(cx.waker());
        self.connection.core().awaken();
        loop {
            while let Some(incoming) = self.connection.accept() {
                accept(incoming);
            }
            let mut space = vec![0; self.piece];
            let mut buf = ReadBuf::new(&mut space);
            match Pin::new(&mut self.io).poll_read(cx, &mut buf) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                    self.input.extend_from_slice(buf.filled());
                    let used = self.connection.core().receive(&self.input, 0);
                    self.input.drain(..used);
                }
                Poll::Ready(_) => {
                    let ended = io::ErrorKind::BrokenPipe;
                    self.connection.core().transport_failed(ended);
                    return Poll::Ready(());
                }
            }
        }
        let mut core = self.connection.core();
        while !core.output().is_empty() {
            match Pin::new(&mut self.io).poll_write(cx, core.output()) {
                Poll::Ready(Ok(n)) => core.wrote(n),
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        core.sleep();
        match core.is_over() && core.output().is_empty() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

/// Reads a whole message: its content, and the names and values of its trailers.
async fn read(stream: &StreamHandle) -> Result<(Vec<u8>, Vec<u8>), StreamError> {
    let (mut all, mut piece) = (Vec::new(), Vec::new());
    while poll_fn(|cx| stream.poll_data(cx, &mut piece)).await? {
        all.extend_from_slice(&piece);
        stream.release(piece.len());
        piece.clear();
    }
    let trailers = stream.take_trailers().map(|head| head.bytes.clone());
    Ok((all, trailers.unwrap_or_default()))
}

async fn write(stream: &StreamHandle, mut data: &[u8]) -> Result<(), StreamError> {
    while !data.is_empty() {
        let n = poll_fn(|cx| stream.poll_send(cx, data)).await?;
        data = &data[n..];
    }
    Ok(())
}

const TRAILERS: [(&str, &str); 1] = [("x-sum", "7")];

/// Answers with what the request had: content and trailers.
async fn echo(incoming: Incoming) -> Result<(), StreamError> {
    let Incoming { stream, head, .. } = incoming;
    assert_eq!(head.method(), b"POST");
    let (content, trailers) = read(&stream).await?;
    stream.recycle(head);
    stream.send_head(false, |head| {
        head.status(200);
        put(head, &[("x-what", "echo")]);
    })?;
    write(&stream, &content).await?;
    assert_eq!(trailers, b"x-sum: 7\r\n");
    stream.send_head(true, |head| put(head, &TRAILERS))
}

/// The sizes of bodies that are exchanged.
const SIZES: [usize; 6] = [0, 1, 1_000, 16_384, 70_000, 1_000_000];

fn content(size: usize) -> Vec<u8> {
    (0..size).map(|n| (n / 7) as u8).collect()
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let limit = std::time::Duration::from_secs(30);
    let local = LocalSet::new();
    let done = local.block_on(&runtime, async { tokio::time::timeout(limit, test).await });
    done.expect("the test takes too long");
}

async fn body_of(mut body: h2::RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut all = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        all.extend_from_slice(&piece);
    }
    (all, body.trailers().await.unwrap())
}

fn trailer_map() -> HeaderMap {
    HeaderMap::from_iter([("x-sum".parse().unwrap(), "7".parse().unwrap())])
}

#[test]
fn a_server_serves_clients_of_the_h2_crate() {
    for (piece, pipe) in [(7, 1 << 16), (64 * 1024, 1 << 20), (16_384, 300)] {
        run(async move {
            let (ours, theirs) = duplex(pipe);
            let connection = Rc::new(Connection::server(config(), 0));
            let mut pump = Pump {
                connection,
                io: ours,
                input: Vec::new(),
                piece,
            };
            let server = spawn_local(async move {
                let mut accept = |incoming| {
                    spawn_local(async move { echo(incoming).await.unwrap() });
                };
                poll_fn(|cx| pump.poll(cx, &mut accept)).await;
            });
            let (sender, driver) = h2::client::handshake(theirs).await.unwrap();
            spawn_local(async move { driver.await.unwrap() });
            let mut calls = Vec::new();
            for size in SIZES.into_iter().chain(SIZES) {
                let mut sender = sender.clone().ready().await.unwrap();
                calls.push(spawn_local(async move {
                    let request = Request::post("http://test/").body(()).unwrap();
                    let (answer, mut stream) = sender.send_request(request, false).unwrap();
                    stream.send_data(content(size).into(), false).unwrap();
                    stream.send_trailers(trailer_map()).unwrap();
                    let answer = answer.await.unwrap();
                    assert_eq!(answer.headers()["x-what"], "echo");
                    let (all, trailers) = body_of(answer.into_body()).await;
                    assert!(all == content(size), "{size}");
                    assert_eq!(trailers, Some(trailer_map()));
                }));
            }
            for call in calls {
                call.await.unwrap();
            }
            drop(sender);
            server.await.unwrap();
        });
    }
}

#[test]
fn a_client_uses_servers_of_the_h2_crate() {
    for piece in [7, 64 * 1024] {
        run(async move {
            let (ours, theirs) = duplex(1 << 16);
            spawn_local(async move {
                let mut server = h2::server::handshake(theirs).await.unwrap();
                while let Some(accepted) = server.accept().await {
                    let (request, mut respond) = accepted.unwrap();
                    spawn_local(async move {
                        let (all, trailers) = body_of(request.into_body()).await;
                        let head = Response::builder().header("x-what", "echo");
                        let head = head.body(()).unwrap();
                        let mut stream = respond.send_response(head, false).unwrap();
                        stream.send_data(Bytes::from(all), false).unwrap();
                        stream.send_trailers(trailers.unwrap()).unwrap();
                    });
                }
            });
            let (connection, sender) = Connection::client(config());
            let mut pump = Pump {
                connection: Rc::new(connection),
                io: ours,
                input: Vec::new(),
                piece,
            };
            let client = spawn_local(async move { poll_fn(|cx| pump.poll(cx, &mut |_| {})).await });
            let mut calls = Vec::new();
            for size in SIZES.into_iter().chain(SIZES) {
                let sender = sender.clone();
                calls.push(spawn_local(async move {
                    let head = [
                        (":method", "POST"),
                        (":scheme", "http"),
                        (":authority", "test"),
                        (":path", "/"),
                    ];
                    let stream =
                        sender.send_request(false, RequestKind::Ordinary, |h| put(h, &head));
                    let stream = stream.unwrap();
                    write(&stream, &content(size)).await.unwrap();
                    stream.send_head(true, |head| put(head, &TRAILERS)).unwrap();
                    let head = poll_fn(|cx| stream.poll_response(cx)).await.unwrap();
                    assert_eq!(head.status, 200);
                    let (all, trailers) = read(&stream).await.unwrap();
                    assert!(all == content(size), "{size}");
                    assert_eq!(trailers, b"x-sum: 7\r\n");
                }));
            }
            for call in calls {
                call.await.unwrap();
            }
            drop(sender);
            client.await.unwrap();
        });
    }
}
