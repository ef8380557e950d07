//! Errors of streams and of the connection, however the bytes are cut.

use super::tests::{GET, block, config, frame, get, post, server, verdict};
use super::*;
use crate::http2::frame::{flag, kind};

/// What a server does about these bytes, which open stream 1 and perhaps others, all accepted at once.
fn server_verdict(bytes: &[u8]) -> (Vec<(u32, ErrorCode)>, Option<ErrorCode>) {
    verdict_by(config(), bytes)
}

fn verdict_by(config: Config, bytes: &[u8]) -> (Vec<(u32, ErrorCode)>, Option<ErrorCode>) {
    let mut verdicts = Vec::new();
    for piece in [bytes.len(), 1, 5] {
        let connection = server(config);
        let (mut input, mut streams) = (Vec::new(), Vec::new());
        for part in bytes.chunks(piece) {
            input.extend_from_slice(part);
            let used = connection.core().receive(&input, 0);
            input.drain(..used);
            streams.extend(std::iter::from_fn(|| connection.accept()));
        }
        verdicts.push(verdict(&connection));
    }
    assert!(
        verdicts.windows(2).all(|two| two[0] == two[1]),
        "{verdicts:?}"
    );
    verdicts.swap_remove(0)
}

#[test]
fn errors_of_a_stream_reset_only_that_stream() {
    use ErrorCode as Code;
    let data = |flags, payload: &[u8]| frame(kind::DATA, flags, 1, payload);
    let end = flag::END_STREAM;
    let trailers = |flags, fields: &[(&str, &str)]| {
        frame(kind::HEADERS, flags | flag::END_HEADERS, 1, &block(fields))
    };
    let cases: Vec<(&str, Vec<u8>, ErrorCode)> = vec![
        (
            "upper case",
            post(1, &[("X-Upper", "x")]),
            Code::PROTOCOL_ERROR,
        ),
        (
            "a length without data",
            frame(
                kind::HEADERS,
                flag::END_HEADERS | end,
                1,
                &block(&[&GET[..], &[("content-length", "3")]].concat()),
            ),
            Code::PROTOCOL_ERROR,
        ),
        (
            "more than the length",
            [post(1, &[("content-length", "3")]), data(0, b"four")].concat(),
            Code::PROTOCOL_ERROR,
        ),
        (
            "less than the length",
            [post(1, &[("content-length", "5")]), data(end, b"four")].concat(),
            Code::PROTOCOL_ERROR,
        ),
        (
            "less than the length before trailers",
            [
                post(1, &[("content-length", "5")]),
                trailers(end, &[("x", "y")]),
            ]
            .concat(),
            Code::PROTOCOL_ERROR,
        ),
        (
            "data after the end",
            [post(1, &[]), data(end, b""), data(0, b"x")].concat(),
            Code::STREAM_CLOSED,
        ),
        (
            "a head after the end",
            [get(1), trailers(end, &[("x", "y")])].concat(),
            Code::STREAM_CLOSED,
        ),
        (
            "trailers that don't end the stream",
            [post(1, &[]), trailers(0, &[("x", "y")])].concat(),
            Code::PROTOCOL_ERROR,
        ),
        (
            "a pseudo-header field in trailers",
            [post(1, &[]), trailers(end, &[(":path", "/")])].concat(),
            Code::PROTOCOL_ERROR,
        ),
        (
            "a window beyond its maximum",
            [
                get(1),
                frame(kind::WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff]),
            ]
            .concat(),
            Code::FLOW_CONTROL_ERROR,
        ),
        (
            "an update of nothing",
            [get(1), frame(kind::WINDOW_UPDATE, 0, 1, &[0; 4])].concat(),
            Code::PROTOCOL_ERROR,
        ),
        (
            "more than the window",
            [post(1, &[]), data(0, &[7; 16_384]), data(0, b"x")].concat(),
            Code::FLOW_CONTROL_ERROR,
        ),
        (
            "a priority of four bytes",
            [get(1), frame(kind::PRIORITY, 0, 1, &[0; 4])].concat(),
            Code::FRAME_SIZE_ERROR,
        ),
        (
            "a priority of four bytes for a closed stream",
            [
                get(1),
                frame(kind::RST_STREAM, 0, 1, &[0; 4]),
                frame(kind::PRIORITY, 0, 1, &[0; 4]),
            ]
            .concat(),
            Code::FRAME_SIZE_ERROR,
        ),
    ];
    for (what, bytes, code) in cases {
        let after = [&bytes[..], &get(3)].concat();
        assert_eq!(server_verdict(&after), (vec![(1, code)], None), "{what}");
    }
}

#[test]
fn errors_of_the_connection_end_it_with_their_code() {
    use ErrorCode as Code;
    let head = |flags| frame(kind::HEADERS, flags, 1, &block(&GET));
    let cases: Vec<(&str, Vec<u8>, ErrorCode)> = vec![
        (
            "data on an idle stream",
            frame(kind::DATA, 0, 5, b"x"),
            Code::PROTOCOL_ERROR,
        ),
        (
            "a reset of an idle stream",
            frame(kind::RST_STREAM, 0, 5, &[0; 4]),
            Code::PROTOCOL_ERROR,
        ),
        (
            "a window of an idle stream",
            frame(kind::WINDOW_UPDATE, 0, 5, &[0, 0, 0, 1]),
            Code::PROTOCOL_ERROR,
        ),
        ("an even stream", get(2), Code::PROTOCOL_ERROR),
        ("stream 0", get(0), Code::PROTOCOL_ERROR),
        (
            "a stream below others",
            [get(5), get(3)].concat(),
            Code::PROTOCOL_ERROR,
        ),
        (
            "a head on a stream that the client has reset",
            [get(1), frame(kind::RST_STREAM, 0, 1, &[0; 4]), get(1)].concat(),
            Code::STREAM_CLOSED,
        ),
        (
            "a ping inside a header block",
            [head(0), frame(kind::PING, 0, 0, &[0; 8])].concat(),
            Code::PROTOCOL_ERROR,
        ),
        (
            "a continuation of another stream",
            [head(0), frame(kind::CONTINUATION, 4, 3, &[])].concat(),
            Code::PROTOCOL_ERROR,
        ),
        (
            "a continuation of nothing",
            frame(kind::CONTINUATION, 4, 1, &[]),
            Code::PROTOCOL_ERROR,
        ),
        (
            "a broken block",
            frame(kind::HEADERS, 5, 1, &[0xff; 20]),
            Code::COMPRESSION_ERROR,
        ),
        (
            "a large frame",
            frame(kind::DATA, 0, 1, &[0; 16_385]),
            Code::FRAME_SIZE_ERROR,
        ),
        (
            "padding beyond the frame",
            [post(1, &[]), frame(kind::DATA, flag::PADDED, 1, &[3, 0])].concat(),
            Code::PROTOCOL_ERROR,
        ),
        (
            "a window beyond its maximum",
            frame(kind::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
            Code::FLOW_CONTROL_ERROR,
        ),
        (
            "an initial window beyond the maximum",
            frame(kind::SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0]),
            Code::FLOW_CONTROL_ERROR,
        ),
        (
            "endless continuations",
            [head(0), frame(kind::CONTINUATION, 0, 1, &[]).repeat(101)].concat(),
            Code::ENHANCE_YOUR_CALM,
        ),
        (
            "a flood of pings",
            frame(kind::PING, 0, 0, &[0; 8]).repeat(1_001),
            Code::ENHANCE_YOUR_CALM,
        ),
        (
            "a flood of empty data",
            [post(1, &[]), frame(kind::DATA, 0, 1, &[]).repeat(1_100)].concat(),
            Code::ENHANCE_YOUR_CALM,
        ),
        (
            "a push",
            frame(kind::PUSH_PROMISE, 4, 1, &[0, 0, 0, 2]),
            Code::PROTOCOL_ERROR,
        ),
    ];
    for (what, bytes, code) in cases {
        let (_, goaway) = server_verdict(&[&bytes[..], &get(7)].concat());
        assert_eq!(goaway, Some(code), "{what}");
    }
    let connection = Connection::server(config(), 0);
    connection.core().receive(b"GET / HTTP/1.1\r\n", 0);
    assert!(connection.core().is_over());
    let connection = Connection::server(config(), 0);
    let hello = [&PREFACE[..], &frame(kind::PING, 0, 0, &[0; 8])].concat();
    connection.core().receive(&hello, 0);
    assert_eq!(
        verdict(&connection).1,
        Some(Code::PROTOCOL_ERROR),
        "no SETTINGS"
    );
}

#[test]
fn a_tunnel_is_understood_where_it_was_announced_and_carries_data_only() {
    let connect = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":authority", "test"),
        (":path", "/"),
    ];
    let announced = Config {
        extended_connect: true,
        ..config()
    };
    for (config, settings) in [(config(), 3), (announced, 4)] {
        let connection = Connection::server(config, 0);
        let core = connection.core();
        assert_eq!(core.output()[2], 6 * settings, "the length of SETTINGS");
        let last = &core.output()[9 + 6 * 3..][..6];
        let is_announced = last == [0, setting::ENABLE_CONNECT_PROTOCOL as u8, 0, 0, 0, 1];
        assert_eq!(is_announced, config.extended_connect);
    }
    let open = |more: &[(&str, &str)]| {
        let fields = [&connect[..], more].concat();
        frame(kind::HEADERS, flag::END_HEADERS, 1, &block(&fields))
    };
    let refused = (vec![(1, ErrorCode::PROTOCOL_ERROR)], None);
    let fine = (vec![], None);
    assert_eq!(verdict_by(config(), &open(&[])), refused);
    // Whatever a length says, it is not that of the tunnel.
    for more in [&[][..], &[("content-length", "3")]] {
        let data = [
            open(more),
            frame(kind::DATA, 0, 1, b"four"),
            frame(kind::DATA, flag::END_STREAM, 1, b"more"),
        ];
        assert_eq!(verdict_by(announced, &data.concat()), fine);
    }
    let flags = flag::END_HEADERS | flag::END_STREAM;
    let trailers = frame(kind::HEADERS, flags, 1, &block(&[("x", "y")]));
    let ended = [open(&[]), trailers].concat();
    assert_eq!(verdict_by(announced, &ended), refused);
}
