//! The h2 crate at the other end: what it encodes is decoded, and what is encoded it decodes.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::tests::random_fields;
use super::{Decoder, Encoder, Indexing};
use crate::http2::frame::{self, Frame, FrameHeader};
use crate::http2::head::{BlockLimits, HeadBlock, HeadKind};

const LIMITS: BlockLimits = BlockLimits {
    bytes: 64 * 1024,
    fields: 256,
};
const REQUEST: HeadKind = HeadKind::Request {
    extended_connect: false,
};
const HEADS: usize = 300;

type Fields = Vec<(String, String)>;

/// Fields that the h2 crate takes, in the order in which a header map returns them.
fn sorted(mut fields: Fields) -> Fields {
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    fields
}

fn of_head(head: &HeadBlock) -> Fields {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("ASCII");
    sorted(head.iter().map(|(n, v)| (text(n), text(v))).collect())
}

fn of_map(map: &http::HeaderMap) -> Fields {
    let text = |value: &http::HeaderValue| value.to_str().expect("ASCII").to_owned();
    sorted(map.iter().map(|(n, v)| (n.to_string(), text(v))).collect())
}

fn put_into(map: &mut http::HeaderMap, fields: &Fields, rng: &mut fastrand::Rng) {
    for (name, value) in fields {
        let mut value = http::HeaderValue::from_str(value).expect("a value");
        value.set_sensitive(rng.u32(..5) == 0);
        map.append(
            http::HeaderName::from_bytes(name.as_bytes()).expect("a name"),
            value,
        );
    }
}

/// A few paths again and again, and others.
fn random_path(rng: &mut fastrand::Rng) -> String {
    match rng.u32(..4) {
        0 => "/".to_owned(),
        1 => "/index.html".to_owned(),
        2 => "/api/v1/products?page=2".to_owned(),
        _ => format!("/{}", rng.u64(..)),
    }
}

/// Reads frames until `count` header blocks have arrived, and returns these.
async fn blocks(stream: &mut DuplexStream, is_client: bool, count: usize) -> Vec<Vec<u8>> {
    let (mut input, mut blocks) = (Vec::new(), Vec::new());
    let mut at = if is_client { frame::PREFACE.len() } else { 0 };
    let mut block = Vec::new();
    while blocks.len() < count {
        let read = stream.read_buf(&mut input);
        let read = tokio::time::timeout(Duration::from_secs(10), read).await;
        assert!(read.expect("in time").expect("no error") > 0);
        while let Some((header, rest)) = input.get(at..).and_then(|i| i.split_first_chunk()) {
            let header = FrameHeader::parse(header);
            header
                .check(frame::DEFAULT_MAX_FRAME)
                .expect("a valid frame");
            let Some(payload) = rest.get(..header.len) else {
                break;
            };
            let is_complete = match frame::parse(&header, payload).expect("a valid frame") {
                Frame::Headers {
                    fragment,
                    end_headers,
                    ..
                }
                | Frame::Continuation {
                    fragment,
                    end_headers,
                } => {
                    block.extend_from_slice(fragment);
                    end_headers
                }
                _ => false,
            };
            if is_complete {
                blocks.push(std::mem::take(&mut block));
            }
            at += frame::HEADER_LEN + header.len;
        }
    }
    blocks
}

/// Appends a head and gives each field a representation.
fn put_head(
    encoder: &mut Encoder,
    out: &mut Vec<u8>,
    stream: u32,
    (pseudo, fields): (&[(&str, &str)], &Fields),
    rng: &mut fastrand::Rng,
) {
    let at = frame::start_headers(out);
    encoder.begin(out);
    let pseudo = pseudo.iter().copied();
    let fields = fields.iter().map(|(n, v)| (n.as_str(), v.as_str()));
    for (name, value) in pseudo.chain(fields) {
        use Indexing::*;
        let indexing = [Incremental, Incremental, Without, Never][rng.usize(..4)];
        encoder.put(out, name.as_bytes(), value.as_bytes(), indexing);
    }
    // Tiny frames, so that blocks have several.
    frame::finish_headers(out, at, stream, true, rng.usize(20..2000));
}

#[tokio::test]
async fn requests_of_the_h2_crate_are_decoded() {
    let mut rng = fastrand::Rng::with_seed(11);
    let (mut ours, theirs) = tokio::io::duplex(1 << 20);
    let mut builder = h2::client::Builder::new();
    builder.initial_max_send_streams(HEADS + 1);
    let (mut client, connection) = builder
        .handshake::<_, Bytes>(theirs)
        .await
        .expect("a handshake");
    let driver = tokio::spawn(connection);
    let (mut sent, mut responses) = (Vec::new(), Vec::new());
    for _ in 0..HEADS {
        let (path, fields) = (random_path(&mut rng), random_fields(&mut rng));
        let uri = format!("https://a.example{path}");
        let mut request = http::Request::new(());
        *request.uri_mut() = uri.parse().expect("a target");
        put_into(request.headers_mut(), &fields, &mut rng);
        responses.push(client.send_request(request, true).expect("sent"));
        sent.push((path, sorted(fields)));
    }
    let (mut decoder, mut head) = (Decoder::new(), HeadBlock::default());
    for (block, (path, fields)) in blocks(&mut ours, true, HEADS).await.iter().zip(sent) {
        let decoded = decoder.decode(block, REQUEST, &LIMITS, &mut head);
        assert_eq!((decoded, head.malformed), (Ok(()), None));
        assert_eq!((head.method(), head.scheme()), (&b"GET"[..], &b"https"[..]));
        assert_eq!(head.path(), path.as_bytes());
        assert_eq!(head.authority(), Some(&b"a.example"[..]));
        assert_eq!(of_head(&head), fields);
    }
    driver.abort();
}

#[tokio::test]
async fn the_h2_crate_decodes_requests_and_its_responses_are_decoded() {
    let mut rng = fastrand::Rng::with_seed(12);
    let (mut ours, theirs) = tokio::io::duplex(1 << 22);
    let mut out = frame::PREFACE.to_vec();
    frame::put_settings(&mut out, &[]);
    let (mut encoder, mut sent, mut answers) = (Encoder::new(), Vec::new(), Vec::new());
    for stream in 0..HEADS as u32 {
        let (path, fields) = (random_path(&mut rng), random_fields(&mut rng));
        let pseudo = [
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "a.example"),
            (":path", &path),
        ];
        put_head(
            &mut encoder,
            &mut out,
            stream * 2 + 1,
            (&pseudo, &fields),
            &mut rng,
        );
        sent.push((path, sorted(fields)));
        answers.push((rng.u16(200..600), random_fields(&mut rng)));
    }
    ours.write_all(&out).await.expect("written");
    let responses = answers.clone();
    let server = tokio::spawn(async move {
        let mut rng = fastrand::Rng::with_seed(13);
        let mut server = h2::server::handshake(theirs).await.expect("a handshake");
        let mut sent = sent.into_iter().zip(responses);
        while let Some(request) = server.accept().await {
            let (request, mut respond) = request.expect("a request");
            let ((path, fields), (status, answer)) = sent.next().expect("one more");
            assert_eq!(
                request.uri().path_and_query().map(|p| p.as_str()),
                Some(&*path)
            );
            assert_eq!(
                request.uri().authority().map(|a| a.as_str()),
                Some("a.example")
            );
            assert_eq!(of_map(request.headers()), fields);
            let mut response: http::Response<()> = http::Response::default();
            *response.status_mut() = http::StatusCode::from_u16(status).expect("a status");
            put_into(response.headers_mut(), &answer, &mut rng);
            let stream: h2::SendStream<Bytes> =
                respond.send_response(response, true).expect("sent");
            drop(stream);
        }
    });
    let (mut decoder, mut head) = (Decoder::new(), HeadBlock::default());
    let blocks = blocks(&mut ours, false, HEADS);
    let arrived = tokio::time::timeout(Duration::from_secs(20), blocks).await;
    let arrived = match arrived {
        Ok(arrived) => arrived,
        Err(_) => panic!("the server: {:?}", server.await),
    };
    // The h2 crate may add a `date` or nothing; it answers in the order of the requests.
    for (block, (status, fields)) in arrived.iter().zip(answers) {
        let decoded = decoder.decode(block, HeadKind::Response, &LIMITS, &mut head);
        assert_eq!(
            (decoded, head.malformed, head.status),
            (Ok(()), None, status)
        );
        assert_eq!(of_head(&head), sorted(fields));
    }
    drop(ours);
    server.await.expect("no panic");
}

#[tokio::test]
async fn the_h2_crate_decodes_responses() {
    let mut rng = fastrand::Rng::with_seed(14);
    let (mut ours, theirs) = tokio::io::duplex(1 << 22);
    let (mut client, connection) = h2::client::Builder::new()
        .initial_max_send_streams(HEADS + 1)
        .handshake::<_, Bytes>(theirs)
        .await
        .expect("a handshake");
    let driver = tokio::spawn(connection);
    let mut responses = Vec::new();
    for _ in 0..HEADS {
        let request = http::Request::get("https://a.example/")
            .body(())
            .expect("a request");
        responses.push(client.send_request(request, true).expect("sent").0);
    }
    blocks(&mut ours, true, HEADS).await;
    let (mut out, mut encoder, mut sent) = (Vec::new(), Encoder::new(), Vec::new());
    frame::put_settings(&mut out, &[]);
    frame::put_settings_ack(&mut out);
    for stream in 0..HEADS as u32 {
        let (status, fields) = (rng.u16(200..600).to_string(), random_fields(&mut rng));
        let pseudo = [(":status", &*status)];
        put_head(
            &mut encoder,
            &mut out,
            stream * 2 + 1,
            (&pseudo, &fields),
            &mut rng,
        );
        sent.push((status, sorted(fields)));
    }
    ours.write_all(&out).await.expect("written");
    for (response, (status, fields)) in responses.into_iter().zip(sent) {
        let response = tokio::time::timeout(Duration::from_secs(10), response).await;
        let response = response.expect("in time").expect("a response");
        assert_eq!(response.status().as_str(), status);
        assert_eq!(of_map(response.headers()), fields);
    }
    driver.abort();
}
