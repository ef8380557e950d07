//! Invariants of the HTTP/2 codec, and the h2 crate as oracle. Each function panics where one is broken.

use std::collections::BTreeMap;

use bytes::Bytes;
use cutover::http1::FieldId;
use cutover::http2::code::ErrorCode;
use cutover::http2::frame::{self, Frame, FrameHeader};
use cutover::http2::head::{BlockLimits, HeadBlock, HeadKind};
use cutover::http2::hpack::{Decoder, Encoder, Indexing};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Small enough that short inputs meet them.
pub const LIMITS: BlockLimits = BlockLimits {
    bytes: 2048,
    fields: 24,
};

const REQUEST: HeadKind = HeadKind::Request {
    extended_connect: false,
};
const KINDS: [HeadKind; 4] = [
    REQUEST,
    HeadKind::Request {
        extended_connect: true,
    },
    HeadKind::Response,
    HeadKind::Trailers,
];

/// Takes off a part with its length before it, in one byte.
fn part<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (&len, after) = rest.split_first()?;
    let (part, after) = after.split_at(after.len().min(len.into()));
    *rest = after;
    Some(part)
}

/// The header blocks of one connection, each with its length before it. The first byte says of what kind they are.
pub fn header_blocks(data: &[u8]) {
    let Some((&kind, mut rest)) = data.split_first() else {
        return;
    };
    let kind = KINDS[usize::from(kind) % KINDS.len()];
    let (mut decoder, mut head) = (Decoder::new(), HeadBlock::default());
    let (mut encoder, mut other) = (Encoder::new(), Decoder::new());
    while let Some(block) = part(&mut rest) {
        if let Err(code) = decoder.decode(block, kind, &LIMITS, &mut head) {
            let codes = [ErrorCode::COMPRESSION_ERROR, ErrorCode::ENHANCE_YOUR_CALM];
            assert!(codes.contains(&code), "{code}");
            return;
        }
        check_head(&head);
        if head.malformed.is_none() && head.too_large.is_none() {
            check_pseudo(&head, kind);
            check_again(&head, kind, &mut encoder, &mut other);
        }
    }
}

/// Nothing in a head can be read in two ways, also if the message is malformed.
fn check_head(head: &HeadBlock) {
    // Joined cookies are there twice.
    assert!(head.bytes.len() <= 2 * LIMITS.bytes + 16);
    assert!(head.fields.len() <= LIMITS.fields);
    assert!(head.size <= LIMITS.bytes || head.too_large.is_some());
    for field in &head.fields {
        let (name, value) = (field.name.of(&head.bytes), field.value.of(&head.bytes));
        let line = [name, b": ", value, b"\r\n"].concat();
        assert_eq!(field.line.of(&head.bytes), line);
        let is_token =
            |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(b);
        assert!(!name.is_empty() && name.iter().all(is_token));
        assert!(!value.iter().any(|b| b.is_ascii_control() && *b != b'\t'));
        assert_eq!(value, value.trim_ascii());
        assert_eq!(field.id, FieldId::of(name));
        assert!(head.present.has(field.id));
        assert!(field.hop || !field.id.is_hop_by_hop());
        use FieldId::*;
        assert!(!matches!(
            field.id,
            Connection | KeepAlive | ProxyConnection | TransferEncoding | Upgrade
        ));
    }
    let count = |id| head.fields.iter().filter(|f| f.id == id).count();
    assert!(count(FieldId::Cookie) <= 1);
    assert_eq!(head.hosts as usize, count(FieldId::Host));
}

fn check_pseudo(head: &HeadBlock, kind: HeadKind) {
    let is_response = kind == HeadKind::Response;
    let is_request = matches!(kind, HeadKind::Request { .. });
    assert_eq!(is_response, head.status != 0);
    assert_eq!(is_request, !head.method().is_empty());
    let is_connect = head.method() == b"CONNECT" && head.protocol().is_none();
    match head.path() {
        [] => assert!(!is_request || is_connect),
        b"*" => assert_eq!(head.method(), b"OPTIONS"),
        path => {
            assert!(path.starts_with(b"/") && path.is_ascii());
            assert!(!path.iter().any(|b| b" #\x7f".contains(b) || *b < b' '));
        }
    }
    for pseudo in [head.authority(), head.protocol()].into_iter().flatten() {
        // Whether an authority is valid is decided later.
        assert!(is_request && !pseudo.iter().any(|b| b.is_ascii_control() && *b != b'\t'));
    }
}

/// What was decoded comes back when it is encoded and decoded again.
fn check_again(head: &HeadBlock, kind: HeadKind, encoder: &mut Encoder, decoder: &mut Decoder) {
    let mut block = Vec::new();
    encoder.begin(&mut block);
    let pseudo = [
        (&b":method"[..], Some(head.method())),
        (b":scheme", Some(head.scheme())),
        (b":path", Some(head.path())),
        (b":authority", head.authority()),
        (b":protocol", head.protocol()),
    ];
    for (name, value) in pseudo {
        if let Some(value) = value.filter(|v| !v.is_empty() || name == b":authority") {
            encoder.put(
                &mut block,
                name,
                value,
                Indexing::of(FieldId::Other, name, false),
            );
        }
    }
    if head.status != 0 {
        encoder.put_status(&mut block, head.status);
    }
    for field in &head.fields {
        let (name, value) = (field.name.of(&head.bytes), field.value.of(&head.bytes));
        let indexing = Indexing::of(field.id, name, field.sensitive);
        encoder.put(&mut block, name, value, indexing);
    }
    let mut again = HeadBlock::default();
    assert_eq!(decoder.decode(&block, kind, &LIMITS, &mut again), Ok(()));
    assert_eq!((again.malformed, again.too_large), (None, None));
    assert_eq!(again.method(), head.method());
    assert_eq!(again.scheme(), head.scheme());
    assert_eq!(again.path(), head.path());
    assert_eq!(again.authority(), head.authority());
    assert_eq!(again.protocol(), head.protocol());
    assert_eq!(again.status, head.status);
    assert!(again.iter().eq(head.iter()));
    assert_eq!(again.content_length, head.content_length);
    // Only what was received so is never indexed, and what always is.
    for (a, b) in again.fields.iter().zip(&head.fields) {
        assert!(a.sensitive || !b.sensitive);
    }
}

/// Fields, a head after the other, with changes of the table's size: what is encoded is decoded.
pub fn encoded_fields(data: &[u8]) {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
    let (mut head, mut block) = (HeadBlock::default(), Vec::new());
    let mut rest = data;
    while let Some((&count, after)) = rest.split_first() {
        rest = after;
        if count & 0x80 != 0 {
            encoder.set_max_size(u32::from(count & 0x7f) * 40);
            continue;
        }
        block.clear();
        encoder.begin(&mut block);
        let mut sent = Vec::new();
        for _ in 0..count % 16 {
            let (Some(name), Some(value)) = (part(&mut rest), part(&mut rest)) else {
                break;
            };
            use Indexing::*;
            let how = [Incremental, Incremental, Without, Never][value.len() % 4];
            let name: Vec<u8> = match name {
                [] => b"x".to_vec(),
                name => name.iter().map(|b| b'a' + b % 26).collect(),
            };
            let value: Vec<u8> = value.iter().map(|b| b'!' + b % 94).collect();
            // Framing fields have rules of their own.
            if !FieldId::of(&name).is_forbidden_in_trailers() {
                encoder.put(&mut block, &name.to_ascii_uppercase(), &value, how);
                sent.push((name, value, how == Never));
            }
        }
        let limits = BlockLimits {
            bytes: 1 << 16,
            fields: 64,
        };
        let decoded = decoder.decode(&block, HeadKind::Trailers, &limits, &mut head);
        assert_eq!((decoded, head.malformed), (Ok(()), None));
        let got = head.fields.iter().map(|f| {
            let (name, value) = (f.name.of(&head.bytes), f.value.of(&head.bytes));
            (name.to_vec(), value.to_vec(), f.sensitive)
        });
        assert_eq!(got.collect::<Vec<_>>(), sent);
    }
}

/// Any bytes as frames: nothing panics, and a frame that is written again is the same.
pub fn frames(data: &[u8]) {
    let mut rest = data;
    while let Some((bytes, after)) = rest.split_first_chunk() {
        let header = FrameHeader::parse(bytes);
        if header.check(frame::DEFAULT_MAX_FRAME).is_err() {
            return;
        }
        let Some((payload, after)) = after.split_at_checked(header.len) else {
            return;
        };
        rest = after;
        if let Ok(frame) = frame::parse(&header, payload) {
            check_frame(&header, frame);
        }
    }
}

fn check_frame(header: &FrameHeader, frame: Frame<'_>) {
    let mut out = Vec::new();
    match frame {
        Frame::Data { data, end_stream } => {
            frame::put_data_header(&mut out, header.stream, data.len(), end_stream);
            out.extend_from_slice(data);
        }
        Frame::Headers {
            fragment,
            end_stream,
            end_headers: true,
            depends_on_itself: false,
        } => {
            let at = frame::start_headers(&mut out);
            out.extend_from_slice(fragment);
            frame::finish_headers(
                &mut out,
                at,
                header.stream,
                end_stream,
                frame::DEFAULT_MAX_FRAME,
            );
        }
        Frame::Reset { code } => frame::put_reset(&mut out, header.stream, code),
        Frame::Settings(settings) => {
            frame::put_settings(&mut out, &settings.iter().collect::<Vec<_>>());
        }
        Frame::SettingsAck => frame::put_settings_ack(&mut out),
        Frame::Ping { ack, data } => frame::put_ping(&mut out, data, ack),
        Frame::GoAway {
            last_stream,
            code,
            debug,
        } => frame::put_go_away(&mut out, last_stream, code, debug),
        Frame::WindowUpdate { increment } => {
            assert!((1..=frame::MAX_WINDOW).contains(&increment));
            frame::put_window_update(&mut out, header.stream, increment);
        }
        Frame::Headers { .. } | Frame::Continuation { .. } | Frame::Priority | Frame::Unknown => {
            return;
        }
    }
    let (bytes, payload) = out.split_first_chunk().expect("a header");
    let again = FrameHeader::parse(bytes);
    assert_eq!((again.kind, again.stream), (header.kind, header.stream));
    assert_eq!(again.check(frame::DEFAULT_MAX_FRAME), Ok(()));
    assert_eq!(frame::parse(&again, payload), Ok(frame));
}

/// A request as somebody read it.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    method: String,
    target: String,
    authority: Option<String>,
    fields: BTreeMap<String, Vec<Vec<u8>>>,
}

/// Header blocks of requests, each with its length before it: where both we and the h2 crate accept one, both have read
/// the same, and none that it accepts is undecodable for us. Returns how many both have accepted.
pub fn agree_with_h2(data: &[u8]) -> usize {
    let mut wire = frame::PREFACE.to_vec();
    frame::put_settings(&mut wire, &[]);
    let (mut decoder, mut head) = (Decoder::new(), HeadBlock::default());
    let (mut ours, mut undecodable) = (BTreeMap::new(), u32::MAX);
    let (mut rest, mut stream) = (data, 1);
    while let Some(block) = part(&mut rest) {
        let at = frame::start_headers(&mut wire);
        wire.extend_from_slice(block);
        frame::finish_headers(&mut wire, at, stream, true, frame::DEFAULT_MAX_FRAME);
        match decoder.decode(block, REQUEST, &LIMITS, &mut head) {
            Err(ErrorCode::COMPRESSION_ERROR) => undecodable = undecodable.min(stream),
            Err(_) => break,
            Ok(()) if undecodable == u32::MAX => {
                if head.malformed.is_none() && head.too_large.is_none() {
                    ours.insert(stream, our_request(&head));
                }
            }
            Ok(()) => {}
        }
        stream += 2;
    }
    let mut both = 0;
    for (stream, theirs) in requests_of_h2(wire) {
        assert!(stream < undecodable, "stream {stream}");
        if let Some(ours) = ours.get(&stream) {
            assert_eq!(*ours, theirs);
            both += 1;
        }
    }
    both
}

fn our_request(head: &HeadBlock) -> Seen {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut fields: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for (name, value) in head.iter() {
        fields.entry(text(name)).or_default().push(value.to_vec());
    }
    Seen {
        method: text(head.method()),
        target: text(head.path()),
        authority: head.authority().map(text),
        fields,
    }
}

fn requests_of_h2(mut wire: Vec<u8>) -> Vec<(u32, Seen)> {
    let mut answer = Vec::new();
    frame::put_ping(&mut wire, *b"all read", false);
    frame::put_ping(&mut answer, *b"all read", true);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime needs no resources");
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        // The h2 crate hands out no request once the connection has ended, so the end waits for the answer to a ping.
        let write = async {
            client.write_all(&wire).await.ok();
            let mut out = Vec::new();
            let is_answered = |out: &[u8]| out.windows(answer.len()).any(|w| w == answer);
            while !is_answered(&out) && client.read_buf(&mut out).await.is_ok_and(|n| n > 0) {}
            client.shutdown().await.ok();
            client.read_to_end(&mut out).await.ok();
        };
        let read = async {
            let mut requests = Vec::new();
            let mut builder = h2::server::Builder::new();
            builder.max_header_list_size(1 << 20);
            let Ok(mut server) = builder.handshake::<_, Bytes>(server).await else {
                return requests;
            };
            while let Some(Ok((request, respond))) = server.accept().await {
                let stream = respond.stream_id().as_u32();
                requests.push((stream, their_request(request)));
            }
            requests
        };
        tokio::join!(write, read).1
    })
}

fn their_request(request: http::Request<h2::RecvStream>) -> Seen {
    let uri = request.uri();
    let mut fields: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for (name, value) in request.headers() {
        let values = fields.entry(name.to_string()).or_default();
        values.push(value.as_bytes().to_vec());
    }
    // We join what the client has split.
    if let Some(crumbs) = fields.get_mut("cookie") {
        crumbs.retain(|crumb| !crumb.is_empty());
        *crumbs = vec![crumbs.join(&b"; "[..])];
    }
    Seen {
        method: request.method().to_string(),
        target: uri
            .path_and_query()
            .map_or(String::new(), |p| p.as_str().to_owned()),
        authority: uri.authority().map(|a| a.as_str().to_owned()),
        fields,
    }
}
