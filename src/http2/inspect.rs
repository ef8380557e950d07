//! The frame parser of the inspector: finds frames and header blocks in the bytes of one direction of a connection.
//!
//! An [`Inspector`] reads each direction. What it finds is kept in [`Flaws`], where the code that handles the stream looks
//! for it after the h2 crate has delivered the message.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use super::fields::{BlockContent, FieldTable};

/// Length of the client connection preface (RFC 9113 §3.4).
const PREFACE: usize = 24;
/// Length of a frame header (RFC 9113 §4.1).
const HEAD: usize = 9;

/// Frame types (RFC 9113 §6).
pub(crate) mod kind {
    /// `DATA`
    pub(crate) const DATA: u8 = 0;
    /// `HEADERS`
    pub(crate) const HEADERS: u8 = 1;
    /// `RST_STREAM`
    pub(crate) const RST_STREAM: u8 = 3;
    /// `PUSH_PROMISE`
    pub(crate) const PUSH_PROMISE: u8 = 5;
    /// `GOAWAY`
    pub(crate) const GOAWAY: u8 = 7;
    /// `CONTINUATION`
    pub(crate) const CONTINUATION: u8 = 9;
}

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// Which endpoint of the connection sends the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SenderRole {
    /// The client; its bytes start with the preface.
    Client,
    /// The server.
    Server,
}

/// A defect of a message that the h2 crate does not report. Both make it malformed (RFC 9113 §8.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// `:path` contains `#`; RFC 9113 §8.3.1 defines it as path and query only.
    FragmentInPath,
    /// A pseudo-header field in trailers; forbidden by RFC 9113 §8.1 and §8.3.
    PseudoInTrailers,
}

/// The flaws found on the streams of one connection. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Flaws(Rc<RefCell<VecDeque<(u32, Flaw)>>>);

/// Maximum number of remembered flaws.
///
/// A stream that is reset before its flaw is taken leaves it behind, so the oldest are dropped to bound the memory.
const MAX_FLAWS: usize = 1024;

impl Flaws {
    fn note(&self, stream: u32, flaw: Flaw) {
        let mut flaws = self.0.borrow_mut();
        if flaws.len() == MAX_FLAWS {
            flaws.pop_front();
        }
        flaws.push_back((stream, flaw));
    }

    /// Whether no flaw is remembered.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Removes this flaw of a stream, and returns whether there was one.
    pub fn take(&self, stream: u32, flaw: Flaw) -> bool {
        let mut flaws = self.0.borrow_mut();
        let Some(at) = flaws.iter().position(|known| *known == (stream, flaw)) else {
            return false;
        };
        flaws.remove(at);
        true
    }
}

/// A frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Length of the payload in bytes.
    pub len: usize,
    /// Frame type.
    pub kind: u8,
    /// Flags.
    pub flags: u8,
    /// Stream identifier; 0 for the connection.
    pub stream: u32,
    /// Whether this is a HEADERS frame that opens a stream.
    pub opens: bool,
}

impl Frame {
    /// Whether the frame has END_STREAM. Only for DATA and HEADERS.
    pub(crate) fn ends_stream(&self) -> bool {
        self.flags & END_STREAM != 0
    }
}

/// The header blocks can't be decoded any more, so flaws in later ones would go unnoticed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lost;

/// Inspects one direction of a connection.
#[derive(Debug)]
pub(crate) struct Inspector {
    role: SenderRole,
    flaws: Flaws,
    table: FieldTable,
    /// Bytes before the next frame header.
    skip: usize,
    head: [u8; HEAD],
    have: usize,
    newest: u32,
    /// The HEADERS frame whose header block is not complete yet.
    block: Option<Frame>,
    /// The current frame, if its payload belongs to a header block.
    part: Option<Frame>,
    /// The received part of its payload, if it doesn't arrive at once.
    payload: Vec<u8>,
    /// The fragments of the header block so far, if it has several.
    fragments: Vec<u8>,
    lost: bool,
}

impl Inspector {
    /// Creates an inspector for a new connection; it adds what it finds to `flaws`.
    pub(crate) fn new(role: SenderRole, flaws: Flaws) -> Self {
        Self {
            role,
            flaws,
            table: FieldTable::new(),
            skip: match role {
                SenderRole::Client => PREFACE,
                SenderRole::Server => 0,
            },
            head: [0; HEAD],
            have: 0,
            newest: 0,
            block: None,
            part: None,
            payload: Vec::new(),
            fragments: Vec::new(),
            lost: false,
        }
    }

    /// Whether the bytes seen so far end inside a frame or a header block.
    pub(crate) fn is_inside(&self) -> bool {
        self.skip > 0 || self.have > 0 || self.block.is_some()
    }

    /// Inspects the next bytes; calls `on_frame` with each frame header.
    ///
    /// Memory is bounded because the h2 crate ends a connection with an oversized frame or header block before it reads
    /// more from it.
    ///
    /// # Errors
    /// If a header block arrives after one that could not be decoded. The h2 crate fails on the malformed block itself, so
    /// this only happens if the two disagree; the connection must be closed.
    pub(crate) fn see(
        &mut self,
        mut bytes: &[u8],
        mut on_frame: impl FnMut(Frame),
    ) -> Result<(), Lost> {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let (payload, rest) = bytes.split_at(self.skip.min(bytes.len()));
                self.skip -= payload.len();
                bytes = rest;
                if let Some(part) = self.part {
                    self.gather(part, payload)?;
                }
                continue;
            }
            let Some(head) = self.header(&mut bytes) else {
                return Ok(());
            };
            let frame = self.frame(head);
            on_frame(frame);
            // An empty payload is complete at once; the branch above would never see it.
            if frame.len == 0
                && let Some(part) = self.part
            {
                self.gather(part, &[])?;
            }
        }
        Ok(())
    }

    /// Takes the next frame header off `bytes`. `None` if only a part of it has arrived, which is kept.
    #[inline]
    fn header(&mut self, bytes: &mut &[u8]) -> Option<[u8; HEAD]> {
        if self.have == 0
            && let Some((head, rest)) = bytes.split_first_chunk()
        {
            *bytes = rest;
            return Some(*head);
        }
        let (part, rest) = bytes.split_at((HEAD - self.have).min(bytes.len()));
        self.head[self.have..][..part.len()].copy_from_slice(part);
        self.have += part.len();
        *bytes = rest;
        if self.have < HEAD {
            return None;
        }
        self.have = 0;
        Some(self.head)
    }

    /// Parses the complete frame header (RFC 9113 §4.1).
    fn frame(&mut self, head: [u8; HEAD]) -> Frame {
        let [a, b, c, kind, flags, id @ ..] = head;
        // The highest bit is reserved and must be ignored.
        let stream = u32::from_be_bytes(id) & 0x7fff_ffff;
        let mut frame = Frame {
            len: u32::from_be_bytes([0, a, b, c]) as usize,
            kind,
            flags,
            stream,
            opens: false,
        };
        self.skip = frame.len;
        match kind {
            kind::HEADERS => {
                // New streams have greater identifiers than all before (RFC 9113 §5.1.1).
                frame.opens = stream > self.newest;
                self.newest = self.newest.max(stream);
                self.block = Some(frame);
                self.part = Some(frame);
            }
            kind::CONTINUATION if self.block.is_some() => self.part = Some(frame),
            // The proxy disables push, so this is a connection error, and its header block isn't decoded.
            kind::PUSH_PROMISE => self.lost = true,
            _ => {}
        }
        frame
    }

    /// Collects the next bytes of a payload that belongs to a header block.
    fn gather(&mut self, part: Frame, bytes: &[u8]) -> Result<(), Lost> {
        if self.skip > 0 || !self.payload.is_empty() {
            self.payload.extend_from_slice(bytes);
            if self.skip > 0 {
                return Ok(());
            }
            let payload = std::mem::take(&mut self.payload);
            self.part = None;
            return self.fragment(part, &payload);
        }
        self.part = None;
        self.fragment(part, bytes)
    }

    /// Handles the complete payload of a frame that belongs to a header block (RFC 9113 §4.3).
    fn fragment(&mut self, part: Frame, payload: &[u8]) -> Result<(), Lost> {
        let Some(bytes) = without_padding(part, payload) else {
            self.lost = true;
            return Ok(());
        };
        let ends = part.flags & END_HEADERS != 0;
        if !ends || !self.fragments.is_empty() {
            self.fragments.extend_from_slice(bytes);
        }
        let Some(head) = self.block.filter(|_| ends) else {
            return Ok(());
        };
        self.block = None;
        if self.lost {
            return Err(Lost);
        }
        let seen = if self.fragments.is_empty() {
            self.table.read(bytes)
        } else {
            let whole = std::mem::take(&mut self.fragments);
            self.table.read(&whole)
        };
        match seen {
            Some(seen) => self.record(head, seen),
            // The h2 crate finds the same error and reports it to the peer.
            None => self.lost = true,
        }
        Ok(())
    }

    /// Records the flaws of a complete header block.
    fn record(&self, head: Frame, seen: BlockContent) {
        let is_trailers = match self.role {
            SenderRole::Client => !head.opens,
            // This includes the head of a response without a body, whose pseudo-header field is then recorded as a flaw.
            // That does no harm: it has no trailers, so nobody takes the flaw.
            SenderRole::Server => head.ends_stream(),
        };
        if is_trailers && seen.pseudo {
            self.flaws.note(head.stream, Flaw::PseudoInTrailers);
        }
        if head.opens && seen.fragment {
            self.flaws.note(head.stream, Flaw::FragmentInPath);
        }
    }
}

/// Returns the field block fragment in the payload of a HEADERS or CONTINUATION frame (RFC 9113 §6.2, §6.10).
///
/// Returns `None` if the padding is longer than the payload.
fn without_padding(part: Frame, mut payload: &[u8]) -> Option<&[u8]> {
    if part.kind != kind::HEADERS {
        return Some(payload);
    }
    if part.flags & PADDED != 0 {
        let (&padding, rest) = payload.split_first()?;
        payload = rest.get(..rest.len().checked_sub(padding.into())?)?;
    }
    if part.flags & PRIORITY != 0 {
        payload = payload.get(5..)?;
    }
    Some(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, payload.len() as u8, kind, flags];
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    /// A literal field without indexing.
    fn field(name: &str, value: &str) -> Vec<u8> {
        let mut block = vec![0, name.len() as u8];
        block.extend(name.as_bytes());
        block.push(value.len() as u8);
        block.extend(value.as_bytes());
        block
    }

    /// Reads `bytes` in pieces; the flaws, and how many frames there were.
    fn inspected(role: SenderRole, bytes: &[u8], piece: usize) -> (Vec<(u32, Flaw)>, usize) {
        let flaws = Flaws::default();
        let mut inspector = Inspector::new(role, flaws.clone());
        let mut frames = 0;
        let preface = match role {
            SenderRole::Client => &[b'x'; PREFACE][..],
            SenderRole::Server => &[],
        };
        for part in [preface, bytes].concat().chunks(piece) {
            inspector.see(part, |_| frames += 1).expect("followed");
        }
        assert!(!inspector.is_inside());
        let found = flaws.0.borrow().iter().copied().collect();
        (found, frames)
    }

    const WHOLE: u8 = END_HEADERS;
    const LAST: u8 = END_HEADERS | END_STREAM;

    #[test]
    fn flaws_are_found_however_the_bytes_are_cut() {
        let path = field(":path", "/a#b");
        let trailers = [field("x", "y"), field(":path", "/")].concat();
        let (early, late) = trailers.split_at(4);
        let padded = [&[2][..], &[0; 5], &path, &[0; 2]].concat();
        let bytes = [
            frame(kind::HEADERS, WHOLE, 1, &path),
            frame(kind::DATA, 0, 1, b"data"),
            frame(kind::HEADERS, END_STREAM, 1, early),
            frame(kind::CONTINUATION, 0, 1, &[]),
            frame(kind::CONTINUATION, END_HEADERS, 1, late),
            frame(kind::HEADERS, LAST | PADDED | PRIORITY, 3, &padded),
            frame(kind::HEADERS, WHOLE, 5, &field(":path", "/")),
            frame(kind::HEADERS, LAST, 5, &field("x", "#")),
        ]
        .concat();
        for piece in [1, 2, 3, 7, 10, 64, 1000] {
            let (flaws, frames) = inspected(SenderRole::Client, &bytes, piece);
            assert_eq!(frames, 8, "{piece}");
            let want = [
                (1, Flaw::FragmentInPath),
                (1, Flaw::PseudoInTrailers),
                (3, Flaw::FragmentInPath),
            ];
            assert_eq!(flaws, want, "{piece}");
        }
    }

    #[test]
    fn of_a_server_the_trailers_are_looked_at() {
        let status = field(":status", "200");
        let bytes = [
            frame(kind::HEADERS, WHOLE, 1, &status),
            frame(kind::HEADERS, LAST, 1, &field("x", "y")),
            frame(kind::HEADERS, WHOLE, 3, &status),
            frame(kind::HEADERS, LAST, 3, &status),
        ]
        .concat();
        let (flaws, frames) = inspected(SenderRole::Server, &bytes, 5);
        assert_eq!((flaws, frames), (vec![(3, Flaw::PseudoInTrailers)], 4));
    }

    #[test]
    fn a_connection_that_cannot_be_followed_is_lost_at_the_next_block() {
        let flaws = Flaws::default();
        let mut inspector = Inspector::new(SenderRole::Server, flaws);
        let bad = frame(kind::HEADERS, WHOLE, 1, &[0x80]);
        assert!(inspector.see(&bad, |_| {}).is_ok());
        assert!(
            inspector
                .see(&frame(kind::DATA, 0, 1, b"x"), |_| {})
                .is_ok()
        );
        let next = frame(kind::HEADERS, WHOLE, 3, &field("x", "y"));
        assert!(inspector.see(&next, |_| {}).is_err());
    }

    #[test]
    fn a_flaw_is_told_once_and_the_oldest_are_forgotten() {
        let flaws = Flaws::default();
        for stream in 0..=MAX_FLAWS as u32 {
            flaws.note(stream, Flaw::PseudoInTrailers);
        }
        assert!(!flaws.take(0, Flaw::PseudoInTrailers));
        assert!(!flaws.take(1, Flaw::FragmentInPath));
        assert!(flaws.take(1, Flaw::PseudoInTrailers));
        assert!(!flaws.take(1, Flaw::PseudoInTrailers));
    }
}
