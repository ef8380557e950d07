//! Header blocks: requests, responses and trailers.

use super::receive::OpenBlock;
use super::stream::interest;
use super::{Core, Ending, MALFORMED_REMEMBERED, Role};
use crate::http1::Reject;
use crate::http2::{BlockLimits, ErrorCode, HeadBlock, HeadKind};
use crate::reason::Reason;

/// Most CONTINUATION frames of a header block, also empty ones.
const CONTINUATIONS: usize = 100;
/// Streams that a client may have reset before they were accepted.
const UNACCEPTED_RESETS: usize = 1024;
/// Informational responses that may wait to be taken.
const INFORMATIONAL: usize = 32;

impl Core {
    pub(super) fn continuation(&mut self, fragment: &[u8], is_last: bool) {
        let Some(mut block) = self.block else {
            return;
        };
        block.continuations += 1;
        if block.continuations > CONTINUATIONS
            || self.fragments.len() + fragment.len() > self.config.block_bytes()
        {
            return self.fail(ErrorCode::ENHANCE_YOUR_CALM);
        }
        self.fragments.extend_from_slice(fragment);
        self.block = Some(block);
        if is_last {
            self.block = None;
            let fragments = std::mem::take(&mut self.fragments);
            self.block(block, &fragments);
        }
    }

    /// A complete header block. It is always decoded, since later ones depend on it.
    pub(super) fn block(&mut self, block: OpenBlock, bytes: &[u8]) {
        let id = block.stream;
        match self.key(id) {
            Some(key) => match self.streams[key].has_head {
                true => self.trailers(key, block, bytes),
                false => self.response(key, block, bytes),
            },
            None if self.role == Role::Server && id % 2 == 1 && id > self.newest => {
                self.request(block, bytes);
            }
            None if self.is_idle(id) => self.fail(ErrorCode::PROTOCOL_ERROR),
            None => {
                if let Some(head) = self.decode(bytes, HeadKind::Trailers, self.config.trailers) {
                    self.recycle(head);
                    self.head_after_end(id);
                }
            }
        }
    }

    /// Decodes a block. `None` if the connection has failed.
    fn decode(
        &mut self,
        bytes: &[u8],
        kind: HeadKind,
        limits: BlockLimits,
    ) -> Option<Box<HeadBlock>> {
        let mut head = self.spare_head();
        match self.decoder.decode(bytes, kind, &limits, &mut head) {
            Ok(()) => Some(head),
            Err(code) => {
                self.fail(code);
                None
            }
        }
    }

    fn request(&mut self, block: OpenBlock, bytes: &[u8]) {
        let id = block.stream;
        self.closed.opened(self.newest, id);
        self.newest = id;
        let kind = HeadKind::Request {
            extended_connect: self.config.extended_connect,
        };
        let Some(mut head) = self.decode(bytes, kind, self.config.head) else {
            return;
        };
        head.end_stream = block.end_stream;
        self.budget.open(id);
        // The peer knows from our GOAWAY that it has to send the request elsewhere.
        if let Ending::Final(_) = self.ending {
            return self.recycle(head);
        }
        if let Some(reject) = Self::reset_for(&head, block) {
            self.put_reset(id, ErrorCode::PROTOCOL_ERROR);
            if self.malformed.len() < MALFORMED_REMEMBERED {
                return self.malformed.push_back((head, reject));
            }
            return self.recycle(head);
        }
        if self.open >= self.config.max_streams as usize {
            self.put_reset(id, ErrorCode::REFUSED_STREAM);
            return self.recycle(head);
        }
        if self.unaccepted.len() >= self.config.max_streams as usize + UNACCEPTED_RESETS {
            return self.fail(ErrorCode::ENHANCE_YOUR_CALM);
        }
        let key = self.add(id);
        let stream = &mut self.streams[key];
        stream.has_head = true;
        stream.is_tunnel = head.protocol().is_some();
        // The content of CONNECT is that of the tunnel, which no field describes (RFC 9110 §9.3.6).
        stream.content_left = head.content_length.filter(|_| !stream.is_tunnel);
        stream.receive_ended = block.end_stream;
        self.unaccepted.push_back((key, head));
        self.notify();
    }

    /// Why a request's stream is reset: its head is malformed, and not in a way that is answered.
    fn reset_for(head: &HeadBlock, block: OpenBlock) -> Option<Reject> {
        match head.malformed {
            Some(malformed) if !malformed.is_answered() => return Some(malformed.reject()),
            _ => {}
        }
        if block.depends_on_itself {
            return Some(Reject::bad(Reason::BadRequestLine));
        }
        let has_length = head.content_length.is_some_and(|length| length > 0);
        (block.end_stream && has_length).then(|| Reject::bad(Reason::BadContentLength))
    }

    fn response(&mut self, key: usize, block: OpenBlock, bytes: &[u8]) {
        let Some(head) = self.decode(bytes, HeadKind::Response, self.config.head) else {
            return;
        };
        let is_informational = (100..200).contains(&head.status);
        let stream = &mut self.streams[key];
        let reject = match head.malformed {
            Some(malformed) => Some(malformed.reject()),
            None if is_informational && block.end_stream => Some(Reject::bad(Reason::BadStatus)),
            None if stream.heads.len() >= INFORMATIONAL => {
                Some(Reject::bad(Reason::TooManyInformational))
            }
            None => head.too_large,
        };
        if let Some(reject) = reject {
            self.recycle(head);
            return self.malformed(key, reject);
        }
        if !is_informational {
            stream.has_head = true;
            // Any other response to CONNECT is an ordinary one (RFC 9110 §9.3.6).
            stream.is_tunnel &= (200..300).contains(&head.status);
            // In a response to HEAD and in a 304 it is the length of another message (RFC 9110 §8.6).
            let has_content = !stream.is_head_request && !stream.is_tunnel;
            if has_content && !matches!(head.status, 204 | 304) {
                stream.content_left = head.content_length;
            }
        }
        stream.heads.push_back(head);
        stream.wake(interest::RECEIVE);
        if block.end_stream {
            self.receive_ended(key);
        }
    }

    fn trailers(&mut self, key: usize, block: OpenBlock, bytes: &[u8]) {
        let Some(head) = self.decode(bytes, HeadKind::Trailers, self.config.trailers) else {
            return;
        };
        let stream = &mut self.streams[key];
        if stream.receive_ended {
            self.recycle(head);
            let closed = ErrorCode::STREAM_CLOSED;
            let error = super::StreamError::Reset {
                code: closed,
                by_peer: false,
            };
            return self.reset(key, closed, error);
        }
        let reject = match head.malformed {
            Some(malformed) => Some(malformed.reject()),
            // Trailers end the message (RFC 9113 §8.1), and a tunnel has none (§8.5).
            None if !block.end_stream || stream.is_tunnel => Some(Reject::bad(Reason::BadTrailers)),
            None => None,
        };
        if let Some(reject) = reject {
            self.recycle(head);
            return self.malformed(key, reject);
        }
        stream.trailers = Some(head);
        self.receive_ended(key);
    }
}
