//! Finds the boundaries of received frames, about which the h2 crate says nothing.

use crate::http2::frame::{FrameHeader, HEADER_LEN, PREFACE, flag, kind};

/// Follows the frames that a peer sends.
#[derive(Debug)]
pub(super) struct FrameScanner {
    /// Bytes of the peer's preface still to come.
    preface_left: usize,
    /// The frame header that is arriving, and how much of it is there.
    header: [u8; HEADER_LEN],
    header_len: usize,
    /// Bytes of the frame's payload still to come.
    payload_left: usize,
    /// A header block has begun and not ended.
    in_block: bool,
    /// A whole frame has arrived.
    has_frame: bool,
}

impl FrameScanner {
    /// Scans what a client sends.
    pub(super) fn of_client() -> Self {
        Self {
            preface_left: PREFACE.len(),
            ..Self::of_server()
        }
    }

    /// Scans what a server sends.
    pub(super) fn of_server() -> Self {
        Self {
            preface_left: 0,
            header: [0; HEADER_LEN],
            header_len: 0,
            payload_left: 0,
            in_block: false,
            has_frame: false,
        }
    }

    /// Whether the preface has arrived.
    pub(super) fn has_preface(&self) -> bool {
        self.preface_left == 0
    }

    /// Whether the first frame has arrived, which has to be SETTINGS (RFC 9113 §3.4).
    pub(super) fn has_settings(&self) -> bool {
        self.has_frame
    }

    /// Whether a part of a frame or of a header block has arrived.
    pub(super) fn is_mid_frame(&self) -> bool {
        self.preface_left > 0 || self.header_len > 0 || self.in_block
    }

    /// Scans what was received.
    pub(super) fn scan(&mut self, mut bytes: &[u8]) {
        let preface = self.preface_left.min(bytes.len());
        self.preface_left -= preface;
        bytes = &bytes[preface..];
        while !bytes.is_empty() {
            let n = bytes.len();
            if self.header_len < HEADER_LEN {
                let n = n.min(HEADER_LEN - self.header_len);
                self.header[self.header_len..][..n].copy_from_slice(&bytes[..n]);
                self.header_len += n;
                bytes = &bytes[n..];
                if self.header_len < HEADER_LEN {
                    return;
                }
                self.payload_left = FrameHeader::parse(&self.header).len;
            } else {
                let n = n.min(self.payload_left);
                self.payload_left -= n;
                bytes = &bytes[n..];
            }
            if self.payload_left == 0 {
                self.end_frame();
            }
        }
    }

    fn end_frame(&mut self) {
        self.header_len = 0;
        self.has_frame = true;
        let header = FrameHeader::parse(&self.header);
        if matches!(header.kind, kind::HEADERS | kind::CONTINUATION) {
            self.in_block = !header.has(flag::END_HEADERS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http2::frame;

    #[test]
    fn frames_are_followed_in_pieces_of_any_size() {
        let mut sent = PREFACE.to_vec();
        frame::put_settings(&mut sent, &[]);
        let settings = sent.len();
        sent.extend([0, 0, 2, kind::HEADERS, 0, 0, 0, 0, 1, 0x82, 0x86]);
        let end = [0, 0, 1, kind::CONTINUATION, flag::END_HEADERS, 0, 0, 0, 1];
        sent.extend(end);
        sent.push(0x84);
        for size in 1..=sent.len() {
            let (mut scanner, mut seen) = (FrameScanner::of_client(), 0);
            for piece in sent.chunks(size) {
                scanner.scan(piece);
                seen += piece.len();
                assert_eq!(scanner.has_preface(), seen >= PREFACE.len());
                assert_eq!(scanner.has_settings(), seen >= settings);
                // Between the frames of a block it isn't over.
                let is_between = [PREFACE.len(), settings, sent.len()].contains(&seen);
                assert_eq!(scanner.is_mid_frame(), !is_between, "{seen}");
            }
        }
    }
}
