//! Extended CONNECT as a client: whether the server accepts it, and what may follow (RFC 8441).

use std::task::{Context, Poll, Waker};

use super::tests::{block, config, frame, put, verdict};
use super::*;
use crate::http2::frame::{flag, kind};

const CONNECT: [(&str, &str); 5] = [
    (":method", "CONNECT"),
    (":protocol", "websocket"),
    (":scheme", "http"),
    (":authority", "test"),
    (":path", "/"),
];

/// Settings with this value of `SETTINGS_ENABLE_CONNECT_PROTOCOL`.
fn announced(value: u8) -> Vec<u8> {
    frame(kind::SETTINGS, 0, 0, &[0, 8, 0, 0, 0, value])
}

#[test]
fn a_client_waits_for_the_settings_and_holds_the_server_to_them() {
    let cx = Context::from_waker(Waker::noop());
    for (settings, allows) in [
        (frame(kind::SETTINGS, 0, 0, &[]), false),
        (announced(0), false),
        (announced(1), true),
    ] {
        let (connection, sender) = Connection::client(config());
        assert!(sender.poll_allows_connect(&cx).is_pending());
        connection.core().receive(&settings, 0);
        assert_eq!(sender.poll_allows_connect(&cx), Poll::Ready(Ok(allows)));
        assert_eq!(sender.allows_connect(), allows);
        let n = connection.core().output().len();
        connection.core().wrote(n);
        connection.core().receive(&announced(0), 0);
        let taken_back = allows.then_some(ErrorCode::PROTOCOL_ERROR);
        assert_eq!(verdict(&connection).1, taken_back);
        assert_eq!(
            sender.poll_allows_connect(&cx).map(|r| r.is_err()),
            Poll::Ready(allows)
        );
    }
}

#[test]
fn a_tunnel_has_no_length_and_no_trailers() {
    let cx = Context::from_waker(Waker::noop());
    for (status, resets) in [
        ("200", vec![(1, ErrorCode::PROTOCOL_ERROR)]),
        // An ordinary response has both.
        ("403", vec![]),
    ] {
        let (connection, sender) = Connection::client(config());
        connection.core().receive(&announced(1), 0);
        let write = |head: &mut HeadWriter<'_>| put(head, &CONNECT);
        let stream = sender
            .send_request(false, RequestKind::Tunnel, write)
            .unwrap();
        let n = connection.core().output().len();
        connection.core().wrote(n);
        let fields = [(":status", status), ("content-length", "4")];
        let bytes = [
            frame(kind::HEADERS, flag::END_HEADERS, 1, &block(&fields)),
            frame(kind::DATA, 0, 1, b"four"),
        ];
        connection.core().receive(&bytes.concat(), 0);
        assert!(matches!(stream.poll_response(&cx), Poll::Ready(Ok(_))));
        let mut data = Vec::new();
        assert_eq!(stream.poll_data(&cx, &mut data), Poll::Ready(Ok(true)));
        assert_eq!(data, b"four");
        let end = flag::END_HEADERS | flag::END_STREAM;
        let trailers = frame(kind::HEADERS, end, 1, &block(&[("x", "y")]));
        connection.core().receive(&trailers, 0);
        assert_eq!(verdict(&connection), (resets, None), "{status}");
    }
}

#[test]
fn more_than_a_declared_length_is_fine_in_a_tunnel() {
    let (connection, sender) = Connection::client(config());
    connection.core().receive(&announced(1), 0);
    let write = |head: &mut HeadWriter<'_>| put(head, &CONNECT);
    let _stream = sender
        .send_request(false, RequestKind::Tunnel, write)
        .unwrap();
    let fields = [(":status", "200"), ("content-length", "1")];
    let bytes = [
        frame(kind::HEADERS, flag::END_HEADERS, 1, &block(&fields)),
        frame(kind::DATA, flag::END_STREAM, 1, b"more"),
    ];
    let n = connection.core().output().len();
    connection.core().wrote(n);
    connection.core().receive(&bytes.concat(), 0);
    assert_eq!(verdict(&connection), (vec![], None));
}
