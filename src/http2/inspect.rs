//! Frames and header blocks of one direction of a connection, found in the bytes as they arrive.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use super::fields::{BlockContent, FieldTable};

/// The length of the client's preface.
const PREFACE: usize = 24;
/// The length of a frame's head.
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

/// Who sends the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SenderRole {
    /// A client: its bytes begin with the preface.
    Client,
    /// A server.
    Server,
}

/// What a message says that the h2 crate doesn't tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// `:path` contains `#`.
    FragmentInPath,
    /// A pseudo-header field stands among the trailers.
    PseudoInTrailers,
}

/// The flaws of one connection's streams. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Flaws(Rc<RefCell<VecDeque<(u32, Flaw)>>>);

/// Most flaws that are remembered. Streams that are reset before anybody asks leave theirs behind, so the oldest give way.
const MOST_FLAWS: usize = 1024;

impl Flaws {
    fn note(&self, stream: u32, flaw: Flaw) {
        let mut flaws = self.0.borrow_mut();
        if flaws.len() == MOST_FLAWS {
            flaws.pop_front();
        }
        flaws.push_back((stream, flaw));
    }

    /// Whether a stream has this flaw; asked once.
    pub fn take(&self, stream: u32, flaw: Flaw) -> bool {
        let mut flaws = self.0.borrow_mut();
        let Some(at) = flaws.iter().position(|known| *known == (stream, flaw)) else {
            return false;
        };
        flaws.remove(at);
        true
    }
}

/// A frame's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Bytes of its payload.
    pub len: usize,
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream; 0 for the connection.
    pub stream: u32,
    /// HEADERS of a stream that is new.
    pub opens: bool,
}

impl Frame {
    /// The last frame of its stream.
    pub(crate) fn ends_stream(&self) -> bool {
        self.flags & END_STREAM != 0
    }
}

/// The header blocks can't be followed any more: nothing can be said about those to come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lost;

/// Reads one direction of a connection.
#[derive(Debug)]
pub(crate) struct Inspector {
    role: SenderRole,
    flaws: Flaws,
    table: FieldTable,
    /// Bytes up to the next frame's head.
    skip: usize,
    head: [u8; HEAD],
    have: usize,
    newest: u32,
    /// The HEADERS frame whose block is not complete.
    block: Option<Frame>,
    /// The frame whose payload belongs to the block.
    part: Option<Frame>,
    /// What has arrived of that payload, where it doesn't arrive at once.
    payload: Vec<u8>,
    /// The block's fragments so far, where it has several.
    fragments: Vec<u8>,
    lost: bool,
}

impl Inspector {
    /// Of a connection that begins.
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

    /// Whether the bytes ended inside a frame or a header block.
    pub(crate) fn is_inside(&self) -> bool {
        self.skip > 0 || self.have > 0 || self.block.is_some()
    }

    /// The next bytes; `on_frame` is called for every frame's head.
    ///
    /// How much is kept is bounded by the h2 crate: it ends the connection over a frame or a header block that is too large before it
    /// reads on.
    ///
    /// # Errors
    /// A block was malformed, and the connection goes on all the same.
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
            let n = (HEAD - self.have).min(bytes.len());
            self.head[self.have..self.have + n].copy_from_slice(&bytes[..n]);
            self.have += n;
            bytes = &bytes[n..];
            if self.have == HEAD {
                self.have = 0;
                let frame = self.frame();
                on_frame(frame);
                if frame.len == 0
                    && let Some(part) = self.part
                {
                    self.gather(part, &[])?;
                }
            }
        }
        Ok(())
    }

    /// The frame whose head is complete.
    fn frame(&mut self) -> Frame {
        let [a, b, c, kind, flags, id @ ..] = self.head;
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
                frame.opens = stream > self.newest;
                self.newest = self.newest.max(stream);
                self.block = Some(frame);
                self.part = Some(frame);
            }
            kind::CONTINUATION if self.block.is_some() => self.part = Some(frame),
            // Never allowed: its block isn't followed.
            kind::PUSH_PROMISE => self.lost = true,
            _ => {}
        }
        frame
    }

    /// Takes the next bytes of a payload that belongs to a header block.
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

    /// A frame's whole payload.
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
            Some(seen) => self.judge(head, seen),
            // The h2 crate finds the same, and says so to the peer.
            None => self.lost = true,
        }
        Ok(())
    }

    fn judge(&self, head: Frame, seen: BlockContent) {
        let is_trailers = match self.role {
            SenderRole::Client => !head.opens,
            // So may be the head of a response without a body; nobody asks about its trailers.
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

/// The fragment of a header block in a frame's payload (RFC 9113 §6.2).
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
        for stream in 0..=MOST_FLAWS as u32 {
            flaws.note(stream, Flaw::PseudoInTrailers);
        }
        assert!(!flaws.take(0, Flaw::PseudoInTrailers));
        assert!(!flaws.take(1, Flaw::FragmentInPath));
        assert!(flaws.take(1, Flaw::PseudoInTrailers));
        assert!(!flaws.take(1, Flaw::PseudoInTrailers));
    }
}
