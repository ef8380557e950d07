//! Random frames and random use of streams: nothing panics, and the counts of a connection stay right.

use std::task::{Context, Poll, Waker};

use proptest::prelude::*;

use super::*;
use crate::http2::Indexing;
use crate::http2::frame::FrameHeader;

/// One step of a peer or of our own streams.
#[derive(Clone, Debug)]
enum Step {
    /// A frame with these type, flags, stream and payload.
    Frame(u8, u8, u32, Vec<u8>),
    /// A valid request or response, with or without END_STREAM.
    Head(u32, bool),
    /// Use of the stream at this place among those that are held.
    Send(usize, usize),
    Finish(usize),
    Answer(usize, bool),
    Read(usize),
    Reset(usize),
    Drop(usize),
    /// The transport accepts this many bytes of output.
    Write(usize),
    Stall(bool),
    Open,
    Window(u32),
    ShutDown,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let stream = prop_oneof![Just(0_u32), (0..12_u32).prop_map(|n| 2 * n + 1), 0..30_u32];
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..20),
        (0..12_u8).prop_map(|n| vec![0, 0, 0, n]),
        (0..3_000_usize).prop_map(|n| vec![1; n]),
        Just(vec![0, 0, 0, 0, 0, 0, 0, 0]),
        (0..8_u8, any::<u16>()).prop_map(|(id, n)| [&[0, id, 0, 0][..], &n.to_be_bytes()].concat()),
    ];
    let flags = prop_oneof![Just(0_u8), Just(1), Just(4), Just(5), any::<u8>()];
    let step = prop_oneof![
        6 => (0..11_u8, flags, stream, payload).prop_map(|(k, f, s, p)| Step::Frame(k, f, s, p)),
        6 => ((0..12_u32).prop_map(|n| 2 * n + 1), any::<bool>()).prop_map(|(s, e)| Step::Head(s, e)),
        4 => (0..8_usize, 0..40_000_usize).prop_map(|(s, n)| Step::Send(s, n)),
        2 => (0..8_usize).prop_map(Step::Finish),
        4 => (0..8_usize, any::<bool>()).prop_map(|(s, e)| Step::Answer(s, e)),
        4 => (0..8_usize).prop_map(Step::Read),
        1 => (0..8_usize).prop_map(Step::Reset),
        2 => (0..8_usize).prop_map(Step::Drop),
        4 => (0..100_000_usize).prop_map(Step::Write),
        2 => any::<bool>().prop_map(Step::Stall),
        4 => Just(Step::Open),
        1 => (1..100_000_u32).prop_map(Step::Window),
        1 => Just(Step::ShutDown),
    ];
    prop::collection::vec(step, 0..60)
}

fn check(core: &Core) {
    let open = core.streams.iter().filter(|(_, s)| !s.closed).count();
    assert_eq!((core.open, core.ids.len()), (open, open));
    let granted: usize = core.streams.iter().map(|(_, s)| s.granted).sum();
    assert_eq!(core.granted, granted);
    let queued = core.streams.iter().filter(|(_, s)| s.queued).count();
    assert_eq!(core.blocked.len(), queued);
    for (key, stream) in &core.streams {
        assert!(!stream.closed || (stream.granted == 0 && !stream.queued));
        assert!(stream.closed || core.key(stream.id) == Some(key));
    }
    // Whole frames of legal lengths, apart from what was written of the first.
    if core.written == 0 && core.out_start == 0 {
        let mut rest = match core.role {
            Role::Server => &core.out[..],
            Role::Client => &core.out[PREFACE.len()..],
        };
        while !rest.is_empty() {
            let header = FrameHeader::parse(rest.first_chunk().expect("a header"));
            assert!(header.len <= 16_384, "{header:?}");
            rest = &rest[9 + header.len..];
        }
    }
}

fn head(role: Role, encoder: &mut Encoder, stream: u32, end: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let at = frame::start_headers(&mut bytes);
    encoder.begin(&mut bytes);
    let fields: &[(&str, &str)] = match role {
        Role::Server => &[
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/"),
        ],
        Role::Client => &[(":status", "200")],
    };
    for (name, value) in fields {
        encoder.put(
            &mut bytes,
            name.as_bytes(),
            value.as_bytes(),
            Indexing::Incremental,
        );
    }
    frame::finish_headers(&mut bytes, at, stream, end, 16_384);
    bytes
}

/// Frames of the peer, as they were cut by the transport.
struct Feed {
    input: Vec<u8>,
    piece: usize,
}

impl Feed {
    fn receive(&mut self, connection: &Connection, bytes: &[u8]) {
        for part in bytes.chunks(self.piece) {
            self.input.extend_from_slice(part);
            let used = connection.core().receive(&self.input, 0);
            self.input.drain(..used);
        }
    }
}

fn run(role: Role, steps: Vec<Step>, piece: usize) {
    let limits = BlockLimits {
        bytes: 4_096,
        fields: 20,
    };
    let config = Config {
        stream_window: 8_192,
        connection_window: 100_000,
        max_streams: 4,
        extended_connect: false,
        header_list: 8_192,
        head: limits,
        trailers: limits,
    };
    let (connection, sender) = match role {
        Role::Server => (Connection::server(config, 0), None),
        Role::Client => {
            let (connection, sender) = Connection::client(config);
            (connection, Some(sender))
        }
    };
    let mut feed = Feed {
        input: Vec::new(),
        piece,
    };
    if role == Role::Server {
        feed.receive(&connection, PREFACE);
    }
    feed.receive(&connection, &[0, 0, 0, 4, 0, 0, 0, 0, 0]);
    let mut encoder = Encoder::new();
    let mut held: Vec<StreamHandle> = Vec::new();
    let cx = Context::from_waker(Waker::noop());
    for step in steps {
        let at = |n: usize| held.get(n % held.len().max(1));
        match step {
            Step::Frame(kind, flags, stream, payload) => {
                let mut bytes = Vec::new();
                let header = FrameHeader {
                    len: payload.len(),
                    kind,
                    flags,
                    stream,
                };
                header.put(&mut bytes);
                bytes.extend(payload);
                feed.receive(&connection, &bytes);
            }
            Step::Head(stream, end) => {
                let bytes = head(role, &mut encoder, stream, end);
                feed.receive(&connection, &bytes);
            }
            Step::Send(n, len) => {
                let polled = at(n).map(|s| s.poll_send(&cx, &vec![7; len.max(1)]));
                if let Some(Poll::Ready(Ok(taken))) = polled {
                    assert!((1..=len.max(1)).contains(&taken));
                }
            }
            Step::Finish(n) => {
                let _ = at(n).map(StreamHandle::finish);
            }
            Step::Answer(n, end) if role == Role::Server => {
                let _ = at(n).map(|s| s.send_head(end, |head| head.status(200)));
            }
            Step::Read(n) => {
                let mut data = Vec::new();
                if let Some(stream) = at(n) {
                    let _ = stream.poll_response(&cx);
                    if let Poll::Ready(Ok(true)) = stream.poll_data(&cx, &mut data) {
                        stream.release(data.len());
                    }
                }
            }
            Step::Reset(n) => {
                let _ = at(n).map(|s| s.reset(ErrorCode::CANCEL));
            }
            Step::Drop(n) if !held.is_empty() => drop(held.swap_remove(n % held.len())),
            Step::Write(n) => {
                let mut core = connection.core();
                let n = n.min(core.output().len());
                core.wrote(n);
            }
            Step::Stall(is_stalled) => connection.core().set_stalled(is_stalled),
            Step::Open => match &sender {
                Some(sender) => {
                    held.extend(sender.send_request(false, RequestKind::Ordinary, |_| {}))
                }
                None => held.extend(connection.accept().map(|incoming| incoming.stream)),
            },
            Step::Window(window) => {
                let _ = connection.core().set_stream_window(window);
            }
            Step::ShutDown if role == Role::Server => connection.core().shut_down(),
            Step::Answer(..) | Step::Drop(_) | Step::ShutDown => {}
        }
        check(&connection.core());
    }
    drop(held);
    drop(sender);
    check(&connection.core());
    connection
        .core()
        .transport_failed(io::ErrorKind::BrokenPipe);
    assert!(connection.core().streams.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_connection_stays_consistent_whatever_comes(
        steps in steps(),
        is_server in any::<bool>(),
        piece in prop_oneof![Just(1_usize), 2..100_usize, Just(100_000)],
    ) {
        let role = if is_server { Role::Server } else { Role::Client };
        run(role, steps, piece);
    }
}
