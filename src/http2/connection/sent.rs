//! Checks what a connection sends, as its peer would: framing, header blocks, the states of streams and flow control.

use std::collections::{HashMap, HashSet};

use super::Role;
use crate::http2::frame::{self, Frame, FrameHeader, PREFACE};
use crate::http2::{BlockLimits, Decoder, HeadBlock, HeadKind};

/// Limits that nothing which is sent here exceeds.
const LIMITS: BlockLimits = BlockLimits {
    bytes: 1 << 16,
    fields: 100,
};

/// The frames that were sent so far.
#[derive(Debug)]
pub(super) struct Sent {
    role: Role,
    /// Bytes that don't form a whole frame yet.
    rest: Vec<u8>,
    preface_left: usize,
    decoder: Decoder,
    head: Box<HeadBlock>,
    /// The header block that is continued by the next frame.
    block: Option<(u32, Vec<u8>)>,
    /// Streams with a final response, or with a request.
    begun: HashSet<u32>,
    /// Streams after END_STREAM or RST_STREAM.
    ended: HashSet<u32>,
    /// Bytes of DATA on each stream, and in all under 0.
    data: HashMap<u32, u64>,
    /// Window that the peer has added to each stream, and to the connection under 0.
    credit: HashMap<u32, u64>,
    /// The largest initial window that the peer has ever announced: an upper bound, since it is unknown when the
    /// connection has learned of a change.
    initial_window: u32,
}

impl Sent {
    pub(super) fn new(role: Role) -> Self {
        Self {
            role,
            rest: Vec::new(),
            preface_left: match role {
                Role::Server => 0,
                Role::Client => PREFACE.len(),
            },
            decoder: Decoder::new(),
            head: Box::default(),
            block: None,
            begun: HashSet::new(),
            ended: HashSet::new(),
            data: HashMap::new(),
            credit: HashMap::new(),
            initial_window: super::DEFAULT_WINDOW,
        }
    }

    /// The peer has sent this frame. Whether it was valid doesn't matter for an upper bound.
    pub(super) fn peer_sent(&mut self, header: &FrameHeader, payload: &[u8]) {
        match frame::parse(header, payload) {
            Ok(Frame::WindowUpdate { increment }) => {
                *self.credit.entry(header.stream).or_default() += u64::from(increment);
            }
            Ok(Frame::Settings(settings)) => {
                let windows = settings
                    .iter()
                    .filter(|(id, _)| *id == frame::setting::INITIAL_WINDOW_SIZE);
                let largest = windows.map(|(_, window)| window).max();
                self.initial_window = self.initial_window.max(largest.unwrap_or(0));
            }
            _ => {}
        }
    }

    /// Counts the frames in bytes that were written.
    pub(super) fn wrote(&mut self, mut bytes: &[u8]) {
        if self.preface_left > 0 {
            let at = PREFACE.len() - self.preface_left;
            let n = self.preface_left.min(bytes.len());
            assert_eq!(bytes[..n], PREFACE[at..at + n]);
            self.preface_left -= n;
            bytes = &bytes[n..];
        }
        self.rest.extend_from_slice(bytes);
        let mut used = 0;
        let all = std::mem::take(&mut self.rest);
        while let Some(first) = all[used..].first_chunk() {
            let header = FrameHeader::parse(first);
            let Some(payload) = all[used..].get(frame::HEADER_LEN..frame::HEADER_LEN + header.len)
            else {
                break;
            };
            assert_eq!(header.check(frame::DEFAULT_MAX_FRAME), Ok(()), "{header:?}");
            let frame = frame::parse(&header, payload).expect("only valid frames are sent");
            self.frame(header.stream, frame);
            used += frame::HEADER_LEN + header.len;
        }
        self.rest.extend_from_slice(&all[used..]);
    }

    fn frame(&mut self, stream: u32, frame: Frame<'_>) {
        assert!(self.block.is_none() || matches!(frame, Frame::Continuation { .. }));
        match frame {
            Frame::Data { data, end_stream } => {
                assert!(self.begun.contains(&stream) && !self.ended.contains(&stream));
                for (id, initial) in [(stream, self.initial_window), (0, super::DEFAULT_WINDOW)] {
                    let sent = self.data.entry(id).or_default();
                    *sent += data.len() as u64;
                    let credit = self.credit.get(&id).copied().unwrap_or(0);
                    assert!(*sent <= u64::from(initial) + credit, "window of {id}");
                }
                if end_stream {
                    self.ended.insert(stream);
                }
            }
            Frame::Headers {
                fragment,
                end_stream,
                end_headers,
                ..
            } => {
                assert!(!self.ended.contains(&stream), "HEADERS after the end");
                if end_stream {
                    self.ended.insert(stream);
                }
                match end_headers {
                    true => self.head(stream, fragment),
                    false => self.block = Some((stream, fragment.to_vec())),
                }
            }
            Frame::Continuation {
                fragment,
                end_headers,
            } => {
                let (of, mut block) = self.block.take().expect("HEADERS came before");
                assert_eq!(of, stream);
                block.extend_from_slice(fragment);
                match end_headers {
                    true => self.head(stream, &block),
                    false => self.block = Some((stream, block)),
                }
            }
            Frame::Reset { .. } => {
                self.ended.insert(stream);
            }
            Frame::WindowUpdate { increment } => assert!(increment > 0),
            Frame::Settings(_)
            | Frame::SettingsAck
            | Frame::Ping { .. }
            | Frame::GoAway { .. }
            | Frame::Priority
            | Frame::Unknown => {}
        }
    }

    fn head(&mut self, stream: u32, block: &[u8]) {
        let kind = match (self.begun.contains(&stream), self.role) {
            (true, _) => HeadKind::Trailers,
            (false, Role::Server) => HeadKind::Response,
            (false, Role::Client) => HeadKind::Request {
                extended_connect: false,
            },
        };
        let decoded = self.decoder.decode(block, kind, &LIMITS, &mut self.head);
        assert_eq!(decoded, Ok(()));
        assert_eq!((self.head.malformed, self.head.too_large), (None, None));
        if !(100..200).contains(&self.head.status) {
            self.begun.insert(stream);
        }
    }
}
