//! Requests on one connection as frames of all kinds: we and the h2 crate receive the same.

use std::collections::BTreeMap;

use bytes::Bytes;
use cutover::http2::frame::{self, FrameHeader, flag, kind};
use cutover::http2::hpack::{Encoder, Indexing};
use cutover::http2::{Request, requests};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::{LocalSet, spawn_local};

/// Streams and bytes of content on a connection: as much as both accept before their first SETTINGS are acknowledged.
const STREAMS: u32 = 40;
const CONTENT: usize = 60_000;

/// A client that follows the protocol, unless it has sent a frame of random bytes.
struct Client<'a> {
    rest: &'a [u8],
    wire: Vec<u8>,
    encoder: Encoder,
    newest: u32,
    /// Streams whose requests haven't ended.
    open: Vec<u32>,
    /// Streams that were reset.
    reset: Vec<u32>,
    content_left: usize,
    is_valid: bool,
}

impl Client<'_> {
    fn byte(&mut self) -> u8 {
        self.rest.split_off_first().copied().unwrap_or(0)
    }

    fn put(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let len = payload.len();
        FrameHeader {
            len,
            kind,
            flags,
            stream,
        }
        .put(&mut self.wire);
        self.wire.extend_from_slice(payload);
    }

    /// A header block, whole or continued, with or without padding and priority.
    fn put_block(&mut self, stream: u32, end: u8, fields: &[(&[u8], Vec<u8>)]) {
        let mut block = Vec::new();
        self.encoder.begin(&mut block);
        for (name, value) in fields {
            let how = [Indexing::Incremental, Indexing::Without, Indexing::Never];
            let how = how[usize::from(self.byte() % 3)];
            self.encoder.put(&mut block, name, value, how);
        }
        let how = self.byte();
        let cut = match how & 1 {
            0 => block.len(),
            _ => usize::from(self.byte()) % (block.len() + 1),
        };
        let (first, rest) = block.split_at(cut);
        let (mut payload, mut flags) = (Vec::new(), end);
        let padding = usize::from(how >> 4);
        if how & 2 != 0 {
            flags |= flag::PADDED;
            payload.push(padding as u8);
        }
        if how & 4 != 0 {
            flags |= flag::PRIORITY;
            payload.extend([0, 0, 0, 0, how]);
        }
        payload.extend_from_slice(first);
        if how & 2 != 0 {
            payload.extend(vec![0; padding]);
        }
        if how & 1 == 0 {
            return self.put(kind::HEADERS, flags | flag::END_HEADERS, stream, &payload);
        }
        self.put(kind::HEADERS, flags, stream, &payload);
        let (second, third) = rest.split_at(rest.len() / 2);
        self.put(kind::CONTINUATION, 0, stream, second);
        self.put(kind::CONTINUATION, flag::END_HEADERS, stream, third);
    }

    fn field(&mut self) -> Vec<u8> {
        let len = usize::from(self.byte());
        vec![b'a' + self.byte() % 26; len]
    }

    fn step(&mut self) {
        let what = self.byte();
        let at = usize::from(what >> 4);
        let stream = self.open.get(at % self.open.len().max(1)).copied();
        match (what & 15, stream) {
            (0..=3, _) if self.newest / 2 < STREAMS => {
                self.newest += 2;
                let stream = self.newest - 1;
                let ends = self.byte() & 1;
                let (path, value) = (self.field(), self.field());
                let fields = [
                    (&b":method"[..], b"POST".to_vec()),
                    (b":scheme", b"http".to_vec()),
                    (b":authority", b"test".to_vec()),
                    (b":path", [b"/", &path[..]].concat()),
                    (b"x-a", value),
                ];
                self.put_block(stream, ends, &fields);
                if ends == 0 {
                    self.open.push(stream);
                }
            }
            (4..=7, Some(stream)) => {
                let ends = u8::from(at > 11);
                let (len, padding) = (usize::from(self.byte()) << (what & 3), self.byte());
                // The h2 crate takes more than 100 empty frames for an attack.
                let len = if ends == 0 { len.max(1) } else { len };
                let is_padded = padding & 1 == 1;
                let padding = usize::from(padding / 2);
                let Some(left) = self.content_left.checked_sub(len + padding + 1) else {
                    return;
                };
                self.content_left = left;
                let content = vec![what; len];
                let payload = match is_padded {
                    false => content,
                    true => [&[padding as u8], &content[..], &vec![0; padding]].concat(),
                };
                let flags = ends | (flag::PADDED * u8::from(is_padded));
                self.put(kind::DATA, flags, stream, &payload);
                self.open.retain(|open| ends == 0 || *open != stream);
            }
            (8, Some(stream)) => {
                let value = self.field();
                self.put_block(stream, flag::END_STREAM, &[(b"x-sum", value)]);
                self.open.retain(|open| *open != stream);
            }
            (9, Some(stream)) => {
                self.put(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8]);
                self.open.retain(|open| *open != stream);
                self.reset.push(stream);
            }
            (10, _) => self.put(kind::PING, 0, 0, &[what; 8]),
            (11, Some(stream)) => self.put(kind::PRIORITY, 0, stream, &[0, 0, 0, 0, 9]),
            (12, _) => self.put(0x50 | what % 16, what, 0, &[what; 5]),
            (13, stream) => {
                let stream = stream.filter(|_| at % 2 == 0).unwrap_or(0);
                self.put(kind::WINDOW_UPDATE, 0, stream, &[0, 0, 1, what]);
            }
            (14, _) => {
                let value = (u32::from(self.byte()) << 8).to_be_bytes();
                let setting = [0, [1, 4][at % 2], value[0], value[1], value[2], value[3]];
                self.put(kind::SETTINGS, 0, 0, &setting);
            }
            (15, _) if at == 15 => {
                self.is_valid = false;
                let (kind, flags, stream) = (self.byte() % 12, self.byte(), self.byte() % 64);
                let payload = self.field();
                self.put(kind, flags, stream.into(), &payload);
            }
            _ => {}
        }
    }
}

/// Any bytes as what a client sends. Returns how many requests both have received whole.
pub fn agree(data: &[u8]) -> usize {
    let mut client = Client {
        rest: data,
        wire: frame::PREFACE.to_vec(),
        encoder: Encoder::new(),
        newest: 0,
        open: Vec::new(),
        reset: Vec::new(),
        content_left: CONTENT,
        is_valid: true,
    };
    let piece = [1, 9, 1_000, usize::MAX][usize::from(client.byte() % 4)];
    frame::put_settings(&mut client.wire, &[]);
    while !client.rest.is_empty() {
        client.step();
    }
    let ours: BTreeMap<u32, Request> = requests(&client.wire, piece).into_iter().collect();
    let theirs = requests_of_h2(client.wire.clone());
    for (stream, request) in &theirs {
        if let Some(ours) = ours.get(stream) {
            assert_eq!(ours, request, "stream {stream}");
        }
    }
    if client.is_valid {
        for stream in (1..=client.newest.max(1) - 1).step_by(2) {
            if client.reset.contains(&stream) || client.open.contains(&stream) {
                continue;
            }
            assert!(ours.contains_key(&stream), "we miss stream {stream}");
            assert!(theirs.contains_key(&stream), "h2 misses stream {stream}");
        }
    }
    theirs.keys().filter(|id| ours.contains_key(id)).count()
}

fn requests_of_h2(mut wire: Vec<u8>) -> BTreeMap<u32, Request> {
    let mut answer = Vec::new();
    frame::put_ping(&mut wire, *b"all read", false);
    frame::put_ping(&mut answer, *b"all read", true);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime needs no resources");
    LocalSet::new().block_on(&runtime, async {
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
            let mut reading = Vec::new();
            let mut builder = h2::server::Builder::new();
            builder.max_header_list_size(1 << 20);
            // It reads everything before it accepts a stream, and would take resets and small frames for an attack.
            builder.max_pending_accept_reset_streams(STREAMS as usize);
            builder.data_frame_budget(256 * CONTENT);
            let Ok(mut server) = builder.handshake::<_, Bytes>(server).await else {
                return BTreeMap::new();
            };
            while let Some(Ok((request, respond))) = server.accept().await {
                let stream = respond.stream_id().as_u32();
                reading.push((stream, spawn_local(received(request)), respond));
            }
            let mut requests = BTreeMap::new();
            for (stream, request, _respond) in reading {
                if let Ok(Some(request)) = request.await {
                    requests.insert(stream, request);
                }
            }
            requests
        };
        tokio::join!(write, read).1
    })
}

/// The request, if it arrives whole.
async fn received(request: http::Request<h2::RecvStream>) -> Option<Request> {
    let (head, mut body) = request.into_parts();
    let mut content = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.ok()?;
        body.flow_control().release_capacity(piece.len()).ok()?;
        content.extend_from_slice(&piece);
    }
    let trailers = body.trailers().await.ok()?.unwrap_or_default();
    let owned = |fields: &http::HeaderMap| {
        let owned = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
            (name.as_str().into(), value.as_bytes().to_vec())
        };
        fields.iter().map(owned).collect()
    };
    Some(Request {
        method: head.method.as_str().into(),
        path: head.uri.path_and_query()?.as_str().into(),
        fields: owned(&head.headers),
        content,
        trailers: owned(&trailers),
    })
}
