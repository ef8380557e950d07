//! One malformed message among the 128 streams of a connection costs that stream only, downstream and upstream.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::support::client::Client;
use crate::support::frames::{
    self, END_HEADERS, END_STREAM, Frame, block, frame, get_fields, kind,
};
use crate::support::origin::{Conn, Origin};
use crate::support::proxy::{serve, single};

/// Streams of a round, and the place of the malformed one among them.
const STREAMS: usize = 128;
const BAD: usize = 64;

type Fields = Vec<(&'static str, &'static str)>;

/// Kinds of messages, each as the frames of one stream.
type Kinds = Vec<(&'static str, Frames)>;
type Frames = Box<dyn Fn(u32) -> Vec<u8> + Send + Sync>;

/// How a stream ended.
#[derive(Debug, Default, PartialEq, Eq)]
struct End {
    /// The status, as far as it is 200 or another one of the static table.
    status: u16,
    whole: bool,
    reset: Option<u32>,
}

/// Reads until all of these streams have ended.
#[track_caller]
fn ends(client: &mut Client, streams: &[u32], what: &str) -> BTreeMap<u32, End> {
    let mut ends = BTreeMap::new();
    let mut open = streams.len();
    while open > 0 {
        let (head, frame) = next(client).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_ne!(frame.kind, kind::GOAWAY, "{what}: {:?}", frame.payload);
        if !streams.contains(&frame.stream) {
            continue;
        }
        let end: &mut End = ends.entry(frame.stream).or_default();
        match frame.kind {
            kind::HEADERS if end.status == 0 => end.status = frames::status(&frame.payload),
            kind::RST_STREAM => {
                end.reset = frame.payload[..].try_into().ok().map(u32::from_be_bytes);
                open -= usize::from(!end.whole);
            }
            _ => {}
        }
        if matches!(frame.kind, kind::DATA | kind::HEADERS) && head & END_STREAM != 0 {
            end.whole = true;
            open -= 1;
        }
    }
    ends
}

/// The flags of the next frame, and the frame.
fn next(client: &mut Client) -> io::Result<(u8, frames::Frame)> {
    let head = client.try_exact(9)?;
    let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let frame = frames::Frame {
        kind: head[3],
        flags: head[4],
        stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
        payload: client.try_exact(len as usize)?,
    };
    Ok((head[4], frame))
}

/// A request whose body follows, with more fields.
fn post(stream: u32, more: &Fields) -> Vec<u8> {
    let mut fields = get_fields("/").to_vec();
    fields[0].1 = "POST";
    fields.extend(more);
    frame(kind::HEADERS, END_HEADERS, stream, &block(&fields))
}

/// Kinds of malformed requests, as the frames of one stream.
fn requests() -> Kinds {
    let get = get_fields("/");
    let plus = |more: Fields| [&get[..], &more].concat();
    let heads: Vec<(&'static str, Fields)> = vec![
        ("upper case", plus(vec![("X-Upper", "x")])),
        ("colon in name", plus(vec![("a:b", "x")])),
        ("space in name", plus(vec![("a b", "x")])),
        ("empty name", plus(vec![("", "x")])),
        ("non-ASCII name", plus(vec![("ä", "x")])),
        ("CR in value", plus(vec![("x", "a\rb")])),
        ("LF in value", plus(vec![("x", "a\nb")])),
        ("NUL in value", plus(vec![("x", "a\0b")])),
        ("space before value", plus(vec![("x", " a")])),
        ("tab after value", plus(vec![("x", "a\t")])),
        ("connection", plus(vec![("connection", "close")])),
        ("keep-alive", plus(vec![("keep-alive", "5")])),
        ("proxy-connection", plus(vec![("proxy-connection", "x")])),
        (
            "transfer-encoding",
            plus(vec![("transfer-encoding", "chunked")]),
        ),
        ("upgrade", plus(vec![("upgrade", "h2c")])),
        ("te other than trailers", plus(vec![("te", "gzip")])),
        ("unknown pseudo", [&[(":evil", "x")], &get[..]].concat()),
        ("late pseudo", [&[("x", "y")], &get[..]].concat()),
        ("duplicate path", plus(vec![(":path", "/b")])),
        ("duplicate method", [&[get[0]], &get[..]].concat()),
        ("no path", get[..3].to_vec()),
        ("empty path", [&get[..3], &[(":path", "")]].concat()),
        (
            "path with a fragment",
            [&get[..3], &[(":path", "/a#b")]].concat(),
        ),
        (
            "path without slash",
            [&get[..3], &[(":path", "x")]].concat(),
        ),
        ("non-ASCII path", [&get[..3], &[(":path", "/ä")]].concat()),
        ("no method", get[1..].to_vec()),
        ("bad method", [&[(":method", "G T")], &get[1..]].concat()),
        ("no scheme", [&get[..1], &get[2..]].concat()),
        ("status in a request", plus(vec![(":status", "200")])),
        ("a length without data", plus(vec![("content-length", "5")])),
        (
            "a length that is no number",
            plus(vec![("content-length", "+0")]),
        ),
        ("host unlike authority", plus(vec![("host", "other")])),
    ];
    let mut all = Kinds::new();
    for (what, fields) in heads {
        all.push((
            what,
            Box::new(move |stream| frames::request(stream, &fields)),
        ));
    }
    let data = |flags, stream, payload: &[u8]| frame(kind::DATA, flags, stream, payload);
    let length = || vec![("content-length", "4")];
    let flags = END_HEADERS | END_STREAM;
    all.push((
        "more than the length",
        Box::new(move |s| [post(s, &length()), data(END_STREAM, s, b"abcde")].concat()),
    ));
    all.push((
        "less than the length",
        Box::new(move |s| [post(s, &length()), data(END_STREAM, s, b"abc")].concat()),
    ));
    all.push((
        "a pseudo-header field in trailers",
        Box::new(move |s| {
            let trailers = frame(kind::HEADERS, flags, s, &block(&[(":path", "/")]));
            [post(s, &vec![]), trailers].concat()
        }),
    ));
    all.push((
        "trailers that end nothing",
        Box::new(move |s| {
            let trailers = frame(kind::HEADERS, END_HEADERS, s, &block(&[("x", "y")]));
            [post(s, &vec![]), trailers].concat()
        }),
    ));
    all
}

#[test]
fn a_malformed_request_costs_its_own_stream_only() {
    let proxy = serve("[service.app]\nrespond = { status = 200, body = \"fine\" }\n");
    let kinds = requests();
    assert!(kinds.len() >= 30);
    let mut client = proxy.client();
    client.send(frames::preface());
    let mut stream = 1;
    for (what, malformed) in &kinds {
        let streams: Vec<u32> = (0..STREAMS as u32).map(|n| stream + 2 * n).collect();
        stream += 2 * STREAMS as u32;
        let bad = streams[BAD];
        let mut bytes = Vec::new();
        for &id in &streams {
            bytes.extend(match id == bad {
                true => malformed(id),
                false => frames::request(id, &get_fields("/")),
            });
        }
        client.send(bytes);
        let mut ends = ends(&mut client, &streams, what);
        let bad = ends.remove(&bad).expect("an end of the malformed one");
        assert!(bad.reset == Some(1) || bad.status == 400, "{what}: {bad:?}");
        let is_fine = |end: &End| end.status == 200 && end.whole && end.reset.is_none();
        assert!(ends.values().all(is_fine), "{what}: {ends:?}");
    }
    // Whether they were answered or reset, before or after they were begun.
    let counted = proxy.metrics().sum("cutover_client_failures_total", &[]);
    assert_eq!(counted, kinds.len() as f64, "each is counted once");
}

/// Kinds of malformed responses, as the frames of one stream.
fn responses() -> Kinds {
    let ok = (":status", "200");
    let heads: Vec<(&'static str, Fields)> = vec![
        ("no status", vec![("x", "y")]),
        ("duplicate status", vec![ok, ok]),
        ("late status", vec![("x", "y"), ok]),
        ("a status of two digits", vec![(":status", "20")]),
        ("a status of four digits", vec![(":status", "2000")]),
        ("a status that is no number", vec![(":status", "2x0")]),
        ("101", vec![(":status", "101")]),
        ("an informational end", vec![(":status", "103")]),
        ("upper case", vec![ok, ("X-Upper", "x")]),
        ("colon in name", vec![ok, ("a:b", "x")]),
        ("space in name", vec![ok, ("a b", "x")]),
        ("empty name", vec![ok, ("", "x")]),
        ("CR in value", vec![ok, ("x", "a\rb")]),
        ("LF in value", vec![ok, ("x", "a\nb")]),
        ("NUL in value", vec![ok, ("x", "a\0b")]),
        ("space before value", vec![ok, ("x", " a")]),
        ("space after value", vec![ok, ("x", "a ")]),
        ("connection", vec![ok, ("connection", "close")]),
        ("keep-alive", vec![ok, ("keep-alive", "5")]),
        ("proxy-connection", vec![ok, ("proxy-connection", "x")]),
        (
            "transfer-encoding",
            vec![ok, ("transfer-encoding", "chunked")],
        ),
        ("upgrade", vec![ok, ("upgrade", "h2c")]),
        ("unknown pseudo", vec![ok, (":evil", "x")]),
        ("a pseudo of requests", vec![ok, (":path", "/")]),
        ("a length without data", vec![ok, ("content-length", "5")]),
        (
            "a length that is no number",
            vec![ok, ("content-length", "x")],
        ),
        (
            "two lengths",
            vec![ok, ("content-length", "0"), ("content-length", "1")],
        ),
    ];
    let mut all = Kinds::new();
    let last = END_HEADERS | END_STREAM;
    for (what, fields) in heads {
        let answer = move |s| frame(kind::HEADERS, last, s, &block(&fields));
        all.push((what, Box::new(answer)));
    }
    let head = |s, more: &[(&'static str, &'static str)]| {
        let fields = [&[(":status", "200")], more].concat();
        frame(kind::HEADERS, END_HEADERS, s, &block(&fields))
    };
    let data = |flags, s, payload: &[u8]| frame(kind::DATA, flags, s, payload);
    all.push((
        "more than the length",
        Box::new(move |s| {
            [
                head(s, &[("content-length", "3")]),
                data(END_STREAM, s, b"four"),
            ]
            .concat()
        }),
    ));
    all.push((
        "less than the length",
        Box::new(move |s| {
            [
                head(s, &[("content-length", "5")]),
                data(END_STREAM, s, b"four"),
            ]
            .concat()
        }),
    ));
    all.push((
        "a pseudo-header field in trailers",
        Box::new(move |s| {
            let trailers = frame(kind::HEADERS, last, s, &block(&[(":status", "200")]));
            [head(s, &[]), data(0, s, b"body"), trailers].concat()
        }),
    ));
    all.push((
        "trailers that end nothing",
        Box::new(move |s| {
            let trailers = frame(kind::HEADERS, END_HEADERS, s, &block(&[("x", "y")]));
            [head(s, &[]), data(0, s, b"body"), trailers].concat()
        }),
    ));
    all.push(("data before a head", Box::new(move |s| data(0, s, b"body"))));
    all.push((
        "a window of nothing",
        Box::new(move |s| frame(kind::WINDOW_UPDATE, 0, s, &[0; 4])),
    ));
    all
}

/// Answers requests by exact frames: in each round the one at [`BAD`] with the next kind of malformed response.
fn by_frames(conn: &mut Conn, answers: &Kinds) -> io::Result<()> {
    frames::accept(conn)?;
    loop {
        let Frame {
            kind,
            stream,
            payload,
            ..
        } = frames::received(conn)?;
        match kind {
            kind::HEADERS => {
                // The first request only opens the connection.
                let place = (stream as usize / 2).checked_sub(1);
                let round = place.filter(|n| n % STREAMS == BAD).map(|n| n / STREAMS);
                conn.write(&match round.and_then(|round| answers.get(round)) {
                    Some((_, malformed)) => malformed(stream),
                    None => frame(
                        kind::HEADERS,
                        END_HEADERS | END_STREAM,
                        stream,
                        &block(&[(":status", "200"), ("x-fine", "yes")]),
                    ),
                })?;
            }
            kind::GOAWAY => assert_eq!(payload[4..8], [0; 4], "no connection error"),
            _ => {}
        }
    }
}

#[test]
fn a_malformed_response_costs_its_own_stream_only() {
    let answers = Arc::new(responses());
    assert!(answers.len() >= 30);
    let scripted = answers.clone();
    let origin = Origin::script(move |conn| by_frames(conn, &scripted));
    let more = "retry.tries = 1\noutlier.consecutive_gateway = 0\n";
    let proxy = serve(&single(&format!("h2c://{}", origin.at()), more));
    let mut client = proxy.client();
    client.send(frames::preface());
    client.send(frames::request(1, &get_fields("/")));
    ends(&mut client, &[1], "the first request");
    let mut stream = 3;
    for (what, _) in answers.iter() {
        let streams: Vec<u32> = (0..STREAMS as u32).map(|n| stream + 2 * n).collect();
        stream += 2 * STREAMS as u32;
        let requests = streams
            .iter()
            .map(|id| frames::request(*id, &get_fields("/")));
        client.send(requests.collect::<Vec<_>>().concat());
        let ends = ends(&mut client, &streams, what);
        let is_fine = |end: &&End| end.status == 200 && end.whole && end.reset.is_none();
        let fine = ends.values().filter(is_fine).count();
        assert_eq!(fine, STREAMS - 1, "{what}: {ends:?}");
    }
    assert_eq!(origin.connections(), 1, "the connection stays");
    let failures = proxy.metrics();
    let counted = failures.sum("cutover_upstream_failures_total", &[("service", "app")]);
    assert_eq!(counted, answers.len() as f64, "each is counted once");
    let blamed = failures.sum("cutover_client_failures_total", &[]);
    assert_eq!(blamed, 0.0, "the client isn't blamed");
}
