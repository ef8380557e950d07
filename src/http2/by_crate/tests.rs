//! The h2 crate behind the interface of a connection, against itself and against our own codec.

use std::task::{Context, Poll, Waker};

use super::super::connection as own;
use crate::http2::{
    BlockLimits, Config, ErrorCode, HeadBlock, Indexing, RequestKind, StreamError, by_crate,
};

const LENGTH: usize = 300_000;
const WINDOW: u32 = 64 * 1024;

fn config() -> Config {
    let limits = BlockLimits {
        bytes: 64 * 1024,
        fields: 100,
    };
    Config {
        stream_window: WINDOW,
        connection_window: 128 * 1024,
        max_streams: 100,
        extended_connect: true,
        header_list: 128 * 1024,
        head: limits,
        trailers: limits,
    }
}

fn field(head: &HeadBlock, name: &str) -> Option<Vec<u8>> {
    let mut fields = head.iter();
    let found = fields.find(|(known, _)| *known == name.as_bytes());
    found.map(|(_, value)| value.to_vec())
}

/// Moves what one side has to send to the other one.
macro_rules! pass {
    ($from:expr, $to:expr) => {{
        let mut from = $from.core();
        from.awaken();
        let bytes = from.output().to_vec();
        from.wrote(bytes.len());
        assert_eq!($to.core().receive(&bytes, 0), bytes.len());
        bytes.len()
    }};
}

/// The tests of a client of one codec with a server of another one.
macro_rules! between {
    ($name:ident, $client:ident, $server:ident) => {
        mod $name {
            use super::*;

            type Client = $client::Connection;
            type Server = $server::Connection;

            fn pair() -> (Client, $client::Sender, Server) {
                let (client, sender) = Client::client(config());
                let pair = (client, sender, Server::server(config(), 0));
                pass_all(&pair.0, &pair.2);
                pair
            }

            fn pass_all(client: &Client, server: &Server) {
                while pass!(client, server) + pass!(server, client) > 0 {}
            }

            fn ask(
                sender: &$client::Sender,
                ended: bool,
                more: &[(&str, &str)],
            ) -> $client::StreamHandle {
                let tunnel = more.iter().any(|(name, _)| *name == ":protocol");
                let (method, kind) = match tunnel {
                    true => ("CONNECT", RequestKind::Tunnel),
                    false => ("POST", RequestKind::Ordinary),
                };
                let sent = sender.send_request(ended, kind, |head| {
                    head.put(b":method", method.as_bytes(), Indexing::Incremental);
                    head.put(b":scheme", b"https", Indexing::Incremental);
                    head.put(b":authority", b"a.example", Indexing::Incremental);
                    head.put(b":path", b"/a?b", Indexing::Without);
                    for (name, value) in more {
                        head.put(name.as_bytes(), value.as_bytes(), Indexing::Never);
                    }
                });
                sent.expect("a stream")
            }

            #[test]
            fn heads_bodies_and_trailers_arrive_under_flow_control() {
                let cx = &mut Context::from_waker(Waker::noop());
                let (client, sender, server) = pair();
                let up = ask(&sender, false, &[("Cookie", "a=b"), ("cookie", "c=d")]);
                pass_all(&client, &server);
                let incoming = server.accept().expect("a request");
                let (head, down) = (incoming.head, incoming.stream);
                assert_eq!((head.method(), head.path()), (&b"POST"[..], &b"/a?b"[..]));
                assert_eq!(field(&head, "cookie").as_deref(), Some(&b"a=b; c=d"[..]));
                down.send_head(false, |head| head.status(103))
                    .expect("sent");
                down.send_head(false, |head| head.status(200))
                    .expect("sent");
                pass_all(&client, &server);
                for status in [103, 200] {
                    let Poll::Ready(Ok(head)) = up.poll_response(cx) else {
                        panic!("no head");
                    };
                    assert_eq!(head.status, status);
                }
                let body: Vec<u8> = (0..LENGTH).map(|n| n as u8).collect();
                let (mut sent, mut echoed, mut got) = (0, 0, Vec::new());
                let (mut held, mut piece) = (Vec::new(), Vec::new());
                while let Poll::Ready(n) = up.poll_send(cx, &body[sent..]) {
                    sent += n.expect("sent");
                    pass_all(&client, &server);
                }
                assert_eq!(sent, WINDOW as usize, "as much as the window takes");
                while got.len() < LENGTH {
                    if let Poll::Ready(n) = up.poll_send(cx, &body[sent..]) {
                        sent += n.expect("sent");
                    }
                    pass_all(&client, &server);
                    while down.poll_data(cx, &mut piece) == Poll::Ready(Ok(true)) {
                        down.release(piece.len());
                        held.append(&mut piece);
                    }
                    if let Poll::Ready(n) = down.poll_send(cx, &held[echoed..]) {
                        echoed += n.expect("sent");
                    }
                    pass_all(&client, &server);
                    while up.poll_data(cx, &mut piece) == Poll::Ready(Ok(true)) {
                        up.release(piece.len());
                        got.append(&mut piece);
                    }
                }
                assert!(got == body);
                up.finish().expect("ended");
                let put = |head: &mut $server::HeadWriter<'_>| {
                    head.put(b"x-sum", b"7", Indexing::Without)
                };
                down.send_head(true, put).expect("sent");
                pass_all(&client, &server);
                assert_eq!(down.poll_data(cx, &mut piece), Poll::Ready(Ok(false)));
                assert!(down.has_received_all() && down.is_over());
                assert_eq!(up.poll_data(cx, &mut piece), Poll::Ready(Ok(false)));
                let trailers = up.take_trailers().expect("trailers");
                assert_eq!(field(&trailers, "x-sum").as_deref(), Some(&b"7"[..]));
                drop((sender, up, down));
                pass_all(&client, &server);
                assert!(client.core().is_over());
            }

            #[test]
            fn resets_have_their_code_and_their_origin() {
                let cx = &mut Context::from_waker(Waker::noop());
                let (client, sender, server) = pair();
                let up = ask(&sender, true, &[]);
                pass_all(&client, &server);
                let down = server.accept().expect("a request");
                assert!(down.ended);
                assert!(down.stream.poll_failed(cx).is_pending());
                down.stream.reset(ErrorCode::REFUSED_STREAM);
                pass_all(&client, &server);
                let code = ErrorCode::REFUSED_STREAM;
                let refused = |by_peer| StreamError::Reset { code, by_peer };
                let answer = up.poll_response(cx).map(Result::err);
                assert_eq!(answer, Poll::Ready(Some(refused(true))));
                assert_eq!(down.stream.error(), Some(refused(false)));
                // Dropping a stream resets it.
                let up = ask(&sender, false, &[]);
                pass_all(&client, &server);
                let down = server.accept().expect("a request").stream;
                drop(up);
                pass_all(&client, &server);
                let Some(StreamError::Reset { code, .. }) = down.error() else {
                    panic!("not reset");
                };
                assert_eq!(code, ErrorCode::CANCEL);
            }

            #[test]
            fn a_shutdown_serves_what_is_open() {
                let cx = &mut Context::from_waker(Waker::noop());
                let (client, sender, server) = pair();
                let up = ask(&sender, true, &[]);
                pass_all(&client, &server);
                let down = server.accept().expect("a request").stream;
                server.core().shut_down();
                pass_all(&client, &server);
                assert!(!sender.can_open());
                down.send_head(true, |head| head.status(204)).expect("sent");
                drop(down);
                pass_all(&client, &server);
                let head = up
                    .poll_response(cx)
                    .map(|head| head.map(|head| head.status));
                assert_eq!(head, Poll::Ready(Ok(204)));
                drop(up);
                pass_all(&client, &server);
                assert!(server.core().is_over() && client.core().is_over());
            }

            #[test]
            fn an_extended_connect_carries_data_both_ways() {
                let cx = &mut Context::from_waker(Waker::noop());
                let (client, sender, server) = pair();
                assert_eq!(sender.poll_allows_connect(cx), Poll::Ready(Ok(true)));
                let up = ask(&sender, false, &[(":protocol", "websocket")]);
                pass_all(&client, &server);
                let incoming = server.accept().expect("a request");
                assert_eq!(incoming.head.protocol(), Some(&b"websocket"[..]));
                let down = incoming.stream;
                down.send_head(false, |head| head.status(200))
                    .expect("sent");
                assert_eq!(up.poll_send(cx, b"up"), Poll::Ready(Ok(2)));
                assert_eq!(down.poll_send(cx, b"down"), Poll::Ready(Ok(4)));
                pass_all(&client, &server);
                assert!(up.poll_response(cx).is_ready());
                let (mut from_client, mut from_server) = (Vec::new(), Vec::new());
                assert!(down.poll_data(cx, &mut from_client).is_ready());
                assert!(up.poll_data(cx, &mut from_server).is_ready());
                assert_eq!(
                    (&from_client[..], &from_server[..]),
                    (&b"up"[..], &b"down"[..])
                );
            }

            #[test]
            fn the_end_of_the_transport_is_an_error_of_all_streams() {
                let cx = &mut Context::from_waker(Waker::noop());
                let (client, sender, server) = pair();
                let up = ask(&sender, true, &[]);
                pass_all(&client, &server);
                let down = server.accept().expect("a request").stream;
                let kind = std::io::ErrorKind::ConnectionReset;
                client.core().transport_failed(kind);
                server.core().transport_failed(kind);
                let answer = up.poll_response(cx).map(Result::err);
                assert_eq!(answer, Poll::Ready(Some(StreamError::Io(kind))));
                assert_eq!(down.error(), Some(StreamError::Io(kind)));
                assert!(!sender.can_open());
            }
        }
    };
}

between!(crate_and_crate, by_crate, by_crate);
between!(crate_and_own, by_crate, own);
between!(own_and_crate, own, by_crate);
