//! What a connection answers, frame by frame.

use std::task::{Context, Poll, Waker};

use super::*;
use crate::http2::Indexing;
use crate::http2::frame::{HEADER_LEN, flag, kind};

pub(super) fn config() -> Config {
    let limits = BlockLimits {
        bytes: 32 * 1024,
        fields: 100,
    };
    Config {
        stream_window: 16 * 1024,
        connection_window: 2 * 1024 * 1024,
        max_streams: 128,
        extended_connect: false,
        header_list: 64 * 1024,
        head: limits,
        trailers: limits,
    }
}

pub(super) fn put(head: &mut HeadWriter<'_>, fields: &[(&str, &str)]) {
    for (name, value) in fields {
        head.put(name.as_bytes(), value.as_bytes(), Indexing::Incremental);
    }
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header block of literals.
pub(super) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.extend([0, name.len() as u8]);
        block.extend(name.as_bytes());
        block.push(value.len() as u8);
        block.extend(value.as_bytes());
    }
    block
}

pub(super) const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":authority", "test"),
    (":path", "/"),
];

pub(super) fn get(stream: u32) -> Vec<u8> {
    let flags = flag::END_HEADERS | flag::END_STREAM;
    frame(kind::HEADERS, flags, stream, &block(&GET))
}

/// A request whose body follows.
pub(super) fn post(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    let fields = [&[(":method", "POST")], &GET[1..], more].concat();
    frame(kind::HEADERS, flag::END_HEADERS, stream, &block(&fields))
}

/// A server that has received preface and SETTINGS.
pub(super) fn server(config: Config) -> Connection {
    let connection = Connection::server(config, 0);
    {
        let mut core = connection.core();
        let hello = [
            &PREFACE[..],
            &frame(kind::SETTINGS, 0, 0, &[]),
            &frame(kind::SETTINGS, flag::ACK, 0, &[]),
        ]
        .concat();
        assert_eq!(core.receive(&hello, 0), hello.len());
        let n = core.output().len();
        core.wrote(n);
    }
    connection
}

/// The frames in the output: type, flags, stream and payload.
fn sent(connection: &Connection) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let mut core = connection.core();
    let (mut frames, mut rest) = (Vec::new(), core.output());
    while let Some((head, after)) = rest.split_first_chunk::<HEADER_LEN>() {
        let header = frame::FrameHeader::parse(head);
        let (payload, after) = after.split_at(header.len);
        frames.push((header.kind, header.flags, header.stream, payload.to_vec()));
        rest = after;
    }
    let n = core.output().len();
    core.wrote(n);
    frames
}

/// What a server's output says: resets by stream and code, and the code of GOAWAY.
pub(super) fn verdict(connection: &Connection) -> (Vec<(u32, ErrorCode)>, Option<ErrorCode>) {
    let code = |payload: &[u8]| {
        let bytes = payload.last_chunk::<4>().unwrap();
        ErrorCode(u32::from_be_bytes(*bytes))
    };
    let (mut resets, mut goaway) = (Vec::new(), None);
    for (kind, _, stream, payload) in sent(connection) {
        match kind {
            kind::RST_STREAM => resets.push((stream, code(&payload))),
            kind::GOAWAY => goaway = Some(code(&payload)),
            _ => {}
        }
    }
    (resets, goaway)
}

#[test]
fn frames_for_a_stream_that_we_have_reset_are_ignored() {
    let connection = server(config());
    connection.core().receive(&post(1, &[]), 0);
    drop(connection.accept());
    assert_eq!(verdict(&connection).0, [(1, ErrorCode::CANCEL)]);
    let late = [
        frame(kind::DATA, 0, 1, &[7; 10_000]),
        frame(kind::HEADERS, 5, 1, &block(&[("x", "y")])),
        frame(kind::RST_STREAM, 0, 1, &[0; 4]),
        frame(kind::DATA, flag::END_STREAM, 1, b"x"),
    ]
    .concat();
    connection.core().receive(&late, 0);
    assert_eq!(verdict(&connection), (vec![], None));
}

#[test]
fn streams_beyond_the_limit_are_refused() {
    let connection = server(Config {
        max_streams: 2,
        ..config()
    });
    connection
        .core()
        .receive(&[get(1), get(3), get(5)].concat(), 0);
    assert_eq!(verdict(&connection).0, [(5, ErrorCode::REFUSED_STREAM)]);
    let first = connection.accept().unwrap();
    first
        .stream
        .send_head(true, |head| head.status(204))
        .unwrap();
    connection.core().receive(&get(7), 0);
    assert_eq!(verdict(&connection), (vec![], None), "one has ended");
}

#[test]
fn a_graceful_shutdown_serves_what_is_on_its_way() {
    let connection = server(config());
    connection.core().receive(&get(1), 0);
    let first = connection.accept().unwrap();
    connection.core().shut_down();
    let goaways = |frames: &[(u8, u8, u32, Vec<u8>)]| -> Vec<u32> {
        let last = |payload: &[u8]| u32::from_be_bytes(*payload.first_chunk().unwrap());
        let goaways = frames.iter().filter(|frame| frame.0 == kind::GOAWAY);
        goaways.map(|frame| last(&frame.3)).collect()
    };
    let frames = sent(&connection);
    assert_eq!(goaways(&frames), [LAST_ID]);
    let ping = frames.iter().find(|frame| frame.0 == kind::PING).unwrap();
    connection.core().receive(&get(3), 0);
    let second = connection.accept().expect("it was on its way");
    let pong = frame(kind::PING, flag::ACK, 0, &ping.3);
    connection.core().receive(&pong, 0);
    assert_eq!(goaways(&sent(&connection)), [3]);
    connection.core().receive(&get(5), 0);
    assert!(connection.accept().is_none());
    for stream in [first, second] {
        assert!(!connection.core().is_over());
        stream
            .stream
            .send_head(true, |head| head.status(204))
            .unwrap();
    }
    assert!(connection.core().is_over());
}

#[test]
fn small_pieces_share_a_frame_and_its_end() {
    let connection = server(config());
    connection.core().receive(&get(1), 0);
    let stream = connection.accept().unwrap().stream;
    let cx = Context::from_waker(Waker::noop());
    stream.send_head(false, |head| head.status(200)).unwrap();
    for piece in [&b"a"[..], b"bc", b"d"] {
        assert!(stream.poll_send(&cx, piece).is_ready());
    }
    stream.finish().unwrap();
    let data: Vec<_> = sent(&connection)
        .into_iter()
        .filter(|frame| frame.0 == kind::DATA)
        .collect();
    assert_eq!(data, [(kind::DATA, flag::END_STREAM, 1, b"abcd".to_vec())]);
}

#[test]
fn output_is_bounded_and_streams_take_turns() {
    let connection = server(config());
    let window = frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0x7f, 0, 0]);
    connection
        .core()
        .receive(&[window, get(1), get(3)].concat(), 0);
    let streams: Vec<_> = std::iter::from_fn(|| connection.accept()).collect();
    let cx = Context::from_waker(Waker::noop());
    let mut taken = [0, 0];
    let data = [7; 64 * 1024];
    for stream in &streams {
        stream
            .stream
            .send_head(false, |head| head.status(200))
            .unwrap();
    }
    for _ in 0..20 {
        for (incoming, taken) in streams.iter().zip(&mut taken) {
            while let Poll::Ready(n) = incoming.stream.poll_send(&cx, &data[..16_000]) {
                *taken += n.unwrap();
            }
        }
        let mut core = connection.core();
        assert!(core.output().len() < 80 * 1024, "{}", core.output().len());
        let n = core.output().len().min(30_000);
        core.wrote(n);
    }
    // Each has a window of 64 KiB.
    assert_eq!(taken, [65_535, 65_535]);
}

/// A client with two requests under way, whose preface was written.
fn two_requests() -> (Connection, Sender, [StreamHandle; 2]) {
    let (connection, sender) = Connection::client(config());
    let preface = connection.core().output().len();
    connection.core().wrote(preface);
    let ask = || {
        sender
            .send_request(true, RequestKind::Ordinary, |head| put(head, &GET))
            .unwrap()
    };
    let streams = [ask(), ask()];
    (connection, sender, streams)
}

#[test]
fn a_client_learns_which_requests_were_not_processed() {
    let (connection, sender, [first, second]) = two_requests();
    let goaway = frame(kind::GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]);
    let status = block(&[(":status", "204")]);
    let bytes = [
        frame(kind::SETTINGS, 0, 0, &[]),
        goaway,
        frame(kind::HEADERS, 5, 1, &status),
    ]
    .concat();
    connection.core().receive(&bytes, 0);
    let cx = Context::from_waker(Waker::noop());
    let unprocessed = StreamError::Unprocessed(ErrorCode::NO_ERROR);
    match second.poll_response(&cx) {
        Poll::Ready(Err(error)) => assert_eq!(error, unprocessed),
        other => panic!("{other:?}"),
    }
    assert!(!sender.can_open());
    assert!(matches!(first.poll_response(&cx), Poll::Ready(Ok(head)) if head.status == 204));
    assert!(connection.core().is_over());
}

#[test]
fn a_malformed_response_costs_one_stream() {
    let (connection, _sender, [first, second]) = two_requests();
    let bytes = [
        frame(kind::SETTINGS, 0, 0, &[]),
        frame(
            kind::HEADERS,
            5,
            1,
            &block(&[(":status", "200"), ("Upper", "x")]),
        ),
        frame(kind::HEADERS, 5, 3, &block(&[(":status", "200")])),
    ]
    .concat();
    connection.core().receive(&bytes, 0);
    let cx = Context::from_waker(Waker::noop());
    let malformed = first.poll_response(&cx);
    assert!(matches!(
        malformed,
        Poll::Ready(Err(StreamError::Malformed(_)))
    ));
    assert!(matches!(second.poll_response(&cx), Poll::Ready(Ok(_))));
    assert_eq!(
        verdict(&connection),
        (vec![(1, ErrorCode::PROTOCOL_ERROR)], None)
    );
}

#[test]
fn windows_are_given_back_as_data_is_consumed() {
    let connection = server(config());
    connection.core().receive(&post(1, &[]), 0);
    let stream = connection.accept().unwrap().stream;
    connection
        .core()
        .receive(&frame(kind::DATA, 0, 1, &[7; 10_000]), 0);
    let cx = Context::from_waker(Waker::noop());
    let mut data = Vec::new();
    assert!(stream.poll_data(&cx, &mut data).is_ready());
    stream.release(1_000);
    assert!(sent(&connection).is_empty(), "too little for a frame");
    stream.release(9_000);
    let update = (kind::WINDOW_UPDATE, 0, 1, 10_000_u32.to_be_bytes().to_vec());
    assert_eq!(sent(&connection), [update]);
    // A larger window is valid at once, a smaller one when the client has acknowledged it.
    assert!(connection.core().set_stream_window(1 << 18));
    let again = connection.core().set_stream_window(1 << 14);
    assert!(!again, "not yet acknowledged");
    let large = frame(kind::DATA, 0, 1, &[7; 16_000]).repeat(6);
    connection.core().receive(&large, 0);
    assert_eq!(verdict(&connection), (vec![], None));
    // What was consumed is less than half of the large window, and more than the small one, which leaves the client nothing.
    let acknowledgement = frame(kind::SETTINGS, flag::ACK, 0, &[]);
    connection.core().receive(&acknowledgement, 0);
    stream.release(96_000);
    assert!(sent(&connection).is_empty());
    assert!(connection.core().set_stream_window(1 << 14));
    connection.core().receive(&acknowledgement, 0);
    let update = (kind::WINDOW_UPDATE, 0, 1, 96_000_u32.to_be_bytes().to_vec());
    assert_eq!(sent(&connection).last(), Some(&update));
}

#[test]
fn heads_of_any_kind_are_decoded_in_order() {
    // The dynamic table has to stay right after malformed heads and heads of refused streams.
    let connection = server(Config {
        max_streams: 1,
        ..config()
    });
    let mut encoder = Encoder::new();
    let mut bytes = Vec::new();
    for stream in [1, 3, 5] {
        let at = frame::start_headers(&mut bytes);
        encoder.begin(&mut bytes);
        for (name, value) in GET {
            encoder.put(
                &mut bytes,
                name.as_bytes(),
                value.as_bytes(),
                Indexing::Incremental,
            );
        }
        encoder.put(&mut bytes, b"x-kept", b"value", Indexing::Incremental);
        if stream == 1 {
            encoder.put(&mut bytes, b"te", b"gzip", Indexing::Incremental);
        }
        frame::finish_headers(&mut bytes, at, stream, true, 16_384);
    }
    connection.core().receive(&bytes, 0);
    let resets = vec![
        (1, ErrorCode::PROTOCOL_ERROR),
        (5, ErrorCode::REFUSED_STREAM),
    ];
    assert_eq!(verdict(&connection), (resets, None));
    let head = connection.accept().unwrap().head;
    assert!(head.bytes.ends_with(b"x-kept: value\r\n"));
}

#[test]
fn a_peer_that_reads_no_answers_is_not_read_from() {
    // A client has no budget for the frames of its server.
    let (connection, _sender) = Connection::client(config());
    let mut core = connection.core();
    core.receive(&frame(kind::SETTINGS, 0, 0, &[]), 0);
    let pings = frame(kind::PING, 0, 0, &[7; 8]).repeat(4_000);
    let batches = (0..1_000).take_while(|_| {
        core.receive(&pings, 0);
        !core.is_congested()
    });
    let batches = batches.count();
    assert!((1..100).contains(&batches), "{batches}");
    assert!(core.output().len() < 1024 * 1024);
}

#[test]
fn a_stream_that_waits_does_not_keep_the_window_from_others() {
    let connection = server(Config {
        stream_window: 70_000,
        connection_window: 100_000,
        ..config()
    });
    let data = |stream| frame(kind::DATA, 0, stream, &[7; 10_000]);
    let bytes = [
        post(1, &[]),
        post(3, &[]),
        data(3).repeat(3),
        data(1).repeat(3),
    ];
    connection.core().receive(&bytes.concat(), 0);
    let _waits = connection.accept().unwrap();
    let reads = connection.accept().unwrap().stream;
    reads.release(15_000);
    let update = |bytes: u32| (kind::WINDOW_UPDATE, 0, 0, bytes.to_be_bytes().to_vec());
    assert!(sent(&connection).is_empty(), "40,000 are left");
    reads.release(5_000);
    assert_eq!(sent(&connection), [update(20_000)]);
    // The rest of the window is used up without anything being consumed.
    reads.release(10_000);
    assert!(sent(&connection).is_empty(), "60,000 are left");
    connection.core().receive(&data(1).repeat(4), 0);
    assert_eq!(sent(&connection), [update(10_000)]);
}
