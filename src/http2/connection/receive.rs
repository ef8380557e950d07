//! Incoming frames.

use super::stream::interest;
use super::{Config, Core, Ending, LAST_ID, Role, SHUTDOWN_PING, StreamError};
use crate::http1::Reject;
use crate::http2::ErrorCode;
use crate::http2::frame::{
    self, DEFAULT_MAX_FRAME, Frame, FrameError, FrameHeader, HEADER_LEN, PREFACE, Settings, flag,
    kind, setting,
};
use crate::reason::Reason;

/// A header block that isn't complete yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenBlock {
    pub(super) stream: u32,
    pub(super) end_stream: bool,
    pub(super) depends_on_itself: bool,
    /// CONTINUATION frames so far.
    pub(super) continuations: usize,
}

/// A DATA frame whose payload is arriving: it is passed on as it comes.
#[derive(Clone, Copy, Debug)]
pub(super) struct DataPayload {
    /// `None` if the stream has been reset.
    pub(super) key: Option<usize>,
    left: usize,
    padding: usize,
    end_stream: bool,
}

impl Config {
    /// Most bytes of a header block, compressed.
    pub(super) fn block_bytes(&self) -> usize {
        2 * self.head.bytes + DEFAULT_MAX_FRAME
    }
}

impl Core {
    /// Handles what was received, and returns how many bytes of it were used. The rest is the start of a frame, of at most 16 KiB
    /// and a header, and has to be passed again together with what follows.
    pub(crate) fn receive(&mut self, input: &[u8], now_ms: u64) -> usize {
        self.budget.now_ms = now_ms;
        let mut rest = input;
        while self.ending != Ending::Over && !rest.is_empty() {
            let Some(used) = self.step(rest) else {
                return input.len() - rest.len();
            };
            rest = &rest[used..];
            // After the frame that exhausts it, whatever it was: no frame is left half handled.
            if self.budget.is_exhausted() {
                self.fail(ErrorCode::ENHANCE_YOUR_CALM);
            }
        }
        input.len()
    }

    /// Whether the peer has sent only a part of a frame or of a header block, as far as that was used.
    pub(crate) fn is_mid_frame(&self) -> bool {
        self.preface_left > 0 || self.skip > 0 || self.payload.is_some() || self.block.is_some()
    }

    /// The transport ended, or failed.
    pub(crate) fn transport_failed(&mut self, kind: std::io::ErrorKind) {
        self.end(StreamError::Io(kind));
    }

    /// Handles the start of `bytes`; `None` if there is not enough of it.
    fn step(&mut self, bytes: &[u8]) -> Option<usize> {
        if self.payload.is_some() {
            return Some(self.content(bytes));
        }
        if self.skip > 0 {
            let n = self.skip.min(bytes.len());
            self.skip -= n;
            return Some(n);
        }
        if self.preface_left > 0 {
            return Some(self.preface(bytes));
        }
        let header = FrameHeader::parse(bytes.first_chunk()?);
        if let Err(error) = self.check(&header) {
            self.skip = header.len;
            self.frame_error(error);
            return Some(HEADER_LEN);
        }
        let after = &bytes[HEADER_LEN..];
        if header.kind == kind::DATA {
            return self.data(&header, after);
        }
        let payload = after.get(..header.len)?;
        match frame::parse(&header, payload) {
            Ok(frame) => self.frame(&header, frame),
            Err(error) => self.frame_error(error),
        }
        Some(HEADER_LEN + header.len)
    }

    fn preface(&mut self, bytes: &[u8]) -> usize {
        let expected = &PREFACE[PREFACE.len() - self.preface_left..];
        let n = expected.len().min(bytes.len());
        if bytes[..n] != expected[..n] {
            self.fail(ErrorCode::PROTOCOL_ERROR);
        }
        self.preface_left -= n;
        n
    }

    /// Checks a frame header, also against what came before.
    fn check(&mut self, header: &FrameHeader) -> Result<(), FrameError> {
        header.check(DEFAULT_MAX_FRAME)?;
        let is_expected = match self.block {
            // No other frame may come between those of a header block (RFC 9113 §6.10).
            Some(block) => header.kind == kind::CONTINUATION && header.stream == block.stream,
            None if self.has_settings => header.kind != kind::CONTINUATION,
            None => header.kind == kind::SETTINGS && !header.has(flag::ACK),
        };
        match is_expected {
            true => Ok(()),
            false => Err(FrameError::Connection(ErrorCode::PROTOCOL_ERROR)),
        }
    }

    fn frame_error(&mut self, error: FrameError) {
        match error {
            FrameError::Connection(code) => self.fail(code),
            FrameError::Stream(id, code) => match self.key(id) {
                Some(key) => self.stream_error(key, code),
                None if self.is_idle(id) => self.fail(code),
                None => self.reset_closed(id, code),
            },
        }
    }

    /// Resets a stream because of an error of the peer.
    fn stream_error(&mut self, key: usize, code: ErrorCode) {
        let error = StreamError::Reset {
            code,
            by_peer: false,
        };
        self.reset(key, code, error);
    }

    /// Resets a stream because the peer's message is malformed (RFC 9113 §8.1.1).
    pub(super) fn malformed(&mut self, key: usize, reject: Reject) {
        let code = ErrorCode::PROTOCOL_ERROR;
        self.reset(key, code, StreamError::Malformed(reject));
    }

    /// Whether no stream of this identifier was ever opened.
    pub(super) fn is_idle(&self, id: u32) -> bool {
        id > self.newest || id.is_multiple_of(2)
    }

    /// A DATA frame, of whose payload only the first byte may be needed.
    fn data(&mut self, header: &FrameHeader, after: &[u8]) -> Option<usize> {
        let (overhead, padding) = match header.has(flag::PADDED) {
            false => (0, 0),
            true if header.len == 0 => {
                self.fail(ErrorCode::FRAME_SIZE_ERROR);
                return Some(HEADER_LEN);
            }
            true => (1, usize::from(*after.first()?)),
        };
        let Some(content) = header.len.checked_sub(overhead + padding) else {
            self.fail(ErrorCode::PROTOCOL_ERROR);
            return Some(HEADER_LEN);
        };
        let end_stream = header.has(flag::END_STREAM);
        if self.role == Role::Server {
            match content > 0 || end_stream {
                true => self.budget.data(),
                false => self.budget.charge(),
            }
        }
        // Padding counts as well (RFC 9113 §6.9.1), and a frame to be dropped has used the window of the connection like any other.
        self.receive_window -= header.len as i64;
        if self.receive_window < 0 {
            self.fail(ErrorCode::FLOW_CONTROL_ERROR);
            return Some(HEADER_LEN);
        }
        self.announce_connection();
        let Some(key) = self.stream_of_data(header, content) else {
            self.skip = header.len;
            self.release_connection(header.len);
            return Some(HEADER_LEN);
        };
        if overhead > 0 {
            self.release(key, overhead + padding);
        }
        self.payload = Some(DataPayload {
            key: Some(key),
            left: content,
            padding,
            end_stream,
        });
        if content == 0 {
            self.content(&[]);
        }
        Some(HEADER_LEN + overhead)
    }

    /// The stream that DATA is for; `None` if it is to be dropped.
    fn stream_of_data(&mut self, header: &FrameHeader, content: usize) -> Option<usize> {
        let id = header.stream;
        let Some(key) = self.key(id) else {
            if self.is_idle(id) {
                self.fail(ErrorCode::PROTOCOL_ERROR);
            } else {
                self.reset_closed(id, ErrorCode::STREAM_CLOSED);
            }
            return None;
        };
        let stream = &mut self.streams[key];
        if stream.receive_ended {
            self.stream_error(key, ErrorCode::STREAM_CLOSED);
            return None;
        }
        if !stream.has_head {
            self.malformed(key, Reject::bad(Reason::BadStatus));
            return None;
        }
        stream.receive_window -= header.len as i64;
        if stream.receive_window < 0 {
            self.stream_error(key, ErrorCode::FLOW_CONTROL_ERROR);
            return None;
        }
        if let Some(left) = &mut stream.content_left {
            let Some(after) = left.checked_sub(content as u64) else {
                self.malformed(key, Reject::bad(Reason::SurplusData));
                return None;
            };
            *left = after;
        }
        Some(key)
    }

    /// Resets a closed stream because of a frame for it.
    fn reset_closed(&mut self, id: u32, code: ErrorCode) {
        if !self.may_have_crossed(id) {
            self.put_reset(id, code);
        }
    }

    /// HEADERS on a closed stream. A client that goes on with a stream that it has ended, or opens one below others, has lost track
    /// of the connection, which ends. An endpoint is only told that nobody reads the stream.
    pub(super) fn head_after_end(&mut self, id: u32) {
        match self.role {
            Role::Server if self.may_have_crossed(id) => {}
            Role::Server => self.fail(self.closed.error_of_head(id)),
            Role::Client => self.reset_closed(id, ErrorCode::STREAM_CLOSED),
        }
    }

    /// Whether the peer may have sent a frame for this closed stream before it knew of our reset or GOAWAY.
    fn may_have_crossed(&self, id: u32) -> bool {
        matches!(self.ending, Ending::Final(last) if id > last) || self.closed.was_reset(id)
    }

    /// Content of the current DATA frame; returns how much of `bytes` belongs to it.
    fn content(&mut self, bytes: &[u8]) -> usize {
        let Some(payload) = &mut self.payload else {
            return 0;
        };
        let n = payload.left.min(bytes.len());
        payload.left -= n;
        let DataPayload {
            key,
            left,
            padding,
            end_stream,
        } = *payload;
        match key {
            Some(key) if n > 0 => {
                let stream = &mut self.streams[key];
                stream.data.extend_from_slice(&bytes[..n]);
                stream.unreleased += n;
                stream.wake(interest::RECEIVE);
            }
            Some(_) => {}
            None => self.release_connection(n),
        }
        if left == 0 {
            self.payload = None;
            self.skip = padding;
            if let Some(key) = key.filter(|_| end_stream) {
                self.receive_ended(key);
            }
        }
        n
    }

    /// END_STREAM was received.
    pub(super) fn receive_ended(&mut self, key: usize) {
        let stream = &mut self.streams[key];
        if stream.content_left.is_some_and(|left| left > 0) {
            return self.malformed(key, Reject::bad(Reason::BadContentLength));
        }
        stream.receive_ended = true;
        stream.wake(interest::RECEIVE);
        if stream.send_ended {
            self.close(key);
        }
    }

    /// Handles any frame but DATA.
    fn frame(&mut self, header: &FrameHeader, frame: Frame<'_>) {
        let is_work = matches!(
            frame,
            Frame::Headers { .. } | Frame::Reset { .. } | Frame::GoAway { .. }
        );
        if self.role == Role::Server && !is_work {
            self.budget.charge();
        }
        let id = header.stream;
        match frame {
            Frame::Headers {
                fragment,
                end_stream,
                end_headers,
                depends_on_itself,
            } => {
                let block = OpenBlock {
                    stream: id,
                    end_stream,
                    depends_on_itself,
                    continuations: 0,
                };
                match end_headers {
                    true => self.block(block, fragment),
                    false => {
                        self.fragments.extend_from_slice(fragment);
                        self.block = Some(block);
                    }
                }
            }
            Frame::Continuation {
                fragment,
                end_headers,
            } => self.continuation(fragment, end_headers),
            Frame::Reset { code } => self.peer_reset(id, code),
            Frame::Settings(settings) => self.settings(settings),
            Frame::SettingsAck => self.settings_acknowledged(),
            Frame::Ping { ack: true, data } => {
                if data == SHUTDOWN_PING && self.ending == Ending::Announced {
                    self.put_last_goaway();
                }
            }
            Frame::Ping { ack: false, data } => {
                frame::put_ping(&mut self.out, data, true);
                self.notify();
            }
            Frame::GoAway {
                last_stream, code, ..
            } => self.peer_goes_away(last_stream, code),
            Frame::WindowUpdate { increment } => self.enlarge_window(id, increment),
            Frame::Data { .. } | Frame::Priority | Frame::Unknown => {}
        }
    }

    fn peer_reset(&mut self, id: u32, code: ErrorCode) {
        if self.role == Role::Server {
            self.budget.reset(id);
        }
        match self.key(id) {
            Some(key) => {
                let stream = &mut self.streams[key];
                stream.error = Some(StreamError::Reset {
                    code,
                    by_peer: true,
                });
                stream.wake_all();
                self.close(key);
            }
            None if self.is_idle(id) => self.fail(ErrorCode::PROTOCOL_ERROR),
            None => {}
        }
    }

    fn enlarge_window(&mut self, id: u32, increment: u32) {
        if id == 0 {
            if let Err(code) = self.window_update(None, increment) {
                self.fail(code);
            }
            return;
        }
        match self.key(id) {
            Some(key) => {
                if let Err(code) = self.window_update(Some(key), increment) {
                    self.stream_error(key, code);
                }
            }
            None if self.is_idle(id) => self.fail(ErrorCode::PROTOCOL_ERROR),
            None => {}
        }
    }

    fn settings(&mut self, settings: Settings<'_>) {
        let is_first = !std::mem::replace(&mut self.has_settings, true);
        // In their order, and before the acknowledgement (RFC 9113 §6.5.3).
        for (id, value) in settings.iter() {
            match id {
                setting::HEADER_TABLE_SIZE => self.encoder.set_max_size(value),
                setting::ENABLE_PUSH if value == 1 && self.role == Role::Client => {
                    return self.fail(ErrorCode::PROTOCOL_ERROR);
                }
                setting::MAX_CONCURRENT_STREAMS => self.peer_streams = Some(value),
                // Must not be taken back (RFC 8441 §3).
                setting::ENABLE_CONNECT_PROTOCOL if value == 0 && self.peer_connect => {
                    return self.fail(ErrorCode::PROTOCOL_ERROR);
                }
                setting::ENABLE_CONNECT_PROTOCOL => {
                    self.peer_connect = value == 1 && self.role == Role::Client;
                }
                setting::INITIAL_WINDOW_SIZE => {
                    let by = i64::from(value) - i64::from(self.peer_window);
                    self.peer_window = value;
                    if !self.shift_send_windows(by) {
                        return self.fail(ErrorCode::FLOW_CONTROL_ERROR);
                    }
                }
                setting::MAX_FRAME_SIZE => self.peer_frame = value as usize,
                _ => {}
            }
        }
        // Without this setting there is no limit (RFC 9113 §6.5.2).
        if is_first {
            self.peer_streams.get_or_insert(u32::MAX);
            self.wake_settings();
        }
        frame::put_settings_ack(&mut self.out);
        self.notify();
    }

    /// Changes the send window of all streams; `false` if one exceeds its maximum.
    fn shift_send_windows(&mut self, by: i64) -> bool {
        let mut is_valid = true;
        for (_, stream) in &mut self.streams {
            stream.send_window += by;
            is_valid &= stream.send_window <= i64::from(frame::MAX_WINDOW);
            if by > 0 && stream.send_window > 0 && !stream.queued {
                stream.wake(interest::SEND);
            }
        }
        is_valid
    }

    fn settings_acknowledged(&mut self) {
        self.awaited_settings = self.awaited_settings.saturating_sub(1);
        if self.awaited_settings == 0
            && let Some(window) = self.awaited_window.take()
        {
            self.shift_receive_windows(self.stream_window, window);
            self.stream_window = window;
            // What was too little of the larger window may be more than the smaller one, and keep the peer from sending.
            let keys: Vec<_> = self.streams.iter().map(|(key, _)| key).collect();
            keys.into_iter().for_each(|key| self.announce(key));
        }
        self.notify();
    }

    /// GOAWAY of the peer: a client opens no more streams, and those above `last` were not processed.
    fn peer_goes_away(&mut self, last: u32, code: ErrorCode) {
        if self.role == Role::Server {
            return;
        }
        let unprocessed: Vec<_> = self
            .streams
            .iter()
            .filter(|(_, stream)| stream.id > last && !stream.closed)
            .map(|(key, _)| key)
            .collect();
        for key in unprocessed {
            let stream = &mut self.streams[key];
            stream.error = Some(StreamError::Unprocessed(code));
            stream.wake_all();
            self.close(key);
        }
        if self.ending == Ending::No {
            self.ending = Ending::Final(LAST_ID);
        }
        self.finish_if_idle();
    }
}
