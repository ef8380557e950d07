//! The client's side of an exchange over HTTP/1.
//!
//! Writes response heads and decides how a body is framed for this client and whether the
//! connection is kept alive.

use std::task::{Context, Poll};

use super::h1::{Encoding, H1, OverH1};
use super::headers::{self, ContentLength, Fields, LazyField, Outgoing};
use super::wire::{Downstream, Gone, Recipient, Sink, WireError};
use crate::http1::{self, FieldId, Framing, HttpVersion};
use crate::net::ByteBudget;
use crate::net::buffer::{LARGE, SMALL};
use crate::net::date;

/// An HTTP/1 connection from a client. Reused for all requests of the connection.
#[derive(Debug)]
pub(crate) struct H1Down {
    /// The connection.
    pub wire: H1,
    version: HttpVersion,
    keep_alive: bool,
    /// Whether the head of the final response has been queued.
    answered: bool,
    /// Whether the end of the connection is the end of the response body.
    close_delimited: bool,
    /// Whether the client may be waiting for a 100 before it sends its body.
    awaits_continue: bool,
}

impl H1Down {
    /// Wraps an accepted connection.
    pub(crate) fn new(wire: H1) -> Self {
        Self {
            wire,
            version: HttpVersion::H11,
            keep_alive: true,
            answered: false,
            close_delimited: false,
            awaits_continue: false,
        }
    }

    /// Starts an exchange, with the properties of the request that affect its response.
    pub(crate) fn begin(&mut self, version: HttpVersion, keep_alive: bool, framing: Framing) {
        self.version = version;
        self.keep_alive = keep_alive;
        self.answered = false;
        self.close_delimited = false;
        self.awaits_continue = false;
        self.wire.begin_source(framing);
    }

    /// Records that the request has `Expect: 100-continue`.
    pub(crate) fn awaits_continue(&mut self) {
        self.awaits_continue = true;
    }

    /// Whether the connection may carry another request.
    pub(crate) fn keeps_alive(&self) -> bool {
        self.keep_alive
    }

    /// Closes a connection whose response is incomplete. The framing of the body tells the client
    /// that, unless the body is delimited by the close: then a TCP reset has to.
    pub(crate) fn abort(mut self) {
        if self.close_delimited {
            // With a linger time of 0, close() sends RST instead of FIN.
            let _ = socket2::SockRef::from(&self.wire.stream().descriptor())
                .set_linger(Some(std::time::Duration::ZERO));
        }
    }

    /// Whether the client can tell from the framing that a response is incomplete.
    pub(crate) fn is_self_delimiting(&self) -> bool {
        self.answered && !self.close_delimited
    }

    fn put_connection(&mut self) {
        let line: &[u8] = match (self.keep_alive, self.version) {
            (false, _) => b"connection: close\r\n",
            (true, HttpVersion::H10) => b"connection: keep-alive\r\n",
            (true, HttpVersion::H11) => return,
        };
        self.wire.out().extend_from_slice(line);
    }

    /// Writes the field that announces the end of the body, if that isn't `content-length`, and sets the encoder accordingly.
    fn put_framing(&mut self, framing: Framing) {
        let length = match framing {
            Framing::Empty => Some(0),
            Framing::Length(n) => Some(n),
            Framing::Chunked | Framing::UntilClose => None,
        };
        let encoding = match framing {
            Framing::Empty | Framing::Length(_) => Encoding::Plain,
            Framing::Chunked | Framing::UntilClose if self.version == HttpVersion::H11 => {
                self.wire
                    .out()
                    .extend_from_slice(b"transfer-encoding: chunked\r\n");
                Encoding::Chunks
            }
            // HTTP/1.0 has no chunks: the body ends when the connection does (RFC 9112 §6.3).
            Framing::Chunked | Framing::UntilClose => {
                self.keep_alive = false;
                self.close_delimited = true;
                Encoding::Plain
            }
        };
        self.wire.begin_sink(encoding, length);
    }
}

/// The `content-length` of a response to a client of HTTP/1.
fn announced_length<F>(response: &Outgoing<'_, F>) -> ContentLength {
    ContentLength::new(match response.framing {
        // A response to HEAD or a 304 may state the length of the body that a GET would get, a 1xx or 204 must not (RFC 9110
        // §8.6).
        Framing::Empty if response.status >= 200 && response.status != 204 => {
            response.declared_length
        }
        Framing::Length(n) => Some(n),
        Framing::Empty | Framing::Chunked | Framing::UntilClose => None,
    })
}

fn put_status(out: &mut Vec<u8>, status: u16) {
    if status == 200 {
        // Most responses have this status line, which is copied in one piece.
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    let digits = [
        b'0' + (status / 100 % 10) as u8,
        b'0' + (status / 10 % 10) as u8,
        b'0' + (status % 10) as u8,
    ];
    out.extend_from_slice(&digits);
    out.push(b' ');
    out.extend_from_slice(http1::status::reason(status).as_bytes());
    out.extend_from_slice(b"\r\n");
}

impl Recipient for H1Down {
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Gone> {
        loop {
            if self.wire.is_eof() {
                return Poll::Ready(Gone::HalfClosed);
            }
            // Pipelined requests fill the buffer. Further bytes stay in the socket, at the price
            // that a close behind them goes unnoticed until the response is written.
            if self.wire.mem.input.len() >= LARGE {
                return Poll::Pending;
            }
            self.wire.expect(SMALL);
            match self.wire.poll_fill(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Gone::Left),
            }
        }
    }
}

impl Downstream for H1Down {
    type Connection = H1;

    fn close_after(&mut self) {
        self.keep_alive = false;
    }

    fn open_tunnel(&mut self) {
        self.keep_alive = false;
        self.wire.open_tunnel();
    }

    fn detach(&mut self) -> Option<H1> {
        Some(self.wire.detach())
    }

    fn send_response<F: Fields>(&mut self, response: &Outgoing<'_, F>) -> Result<(), WireError> {
        self.answered = true;
        if self.awaits_continue && !self.wire.source_is_done() {
            // The client got a final response instead of a 100. It may send the body or skip it,
            // and the next bytes could be either the body or a new request (RFC 9110 §10.1.1).
            self.keep_alive = false;
        }
        let out = self.wire.out();
        put_status(out, response.status);
        let length = announced_length(response);
        let is_framing = |id, field: LazyField<'_>| match id {
            FieldId::ContentLength => !length.takes(field.value()),
            _ => id == FieldId::TransferEncoding,
        };
        match response.edits {
            None => response.fields.put_lines(out, is_framing),
            Some(edits) => {
                let drop =
                    |id, field: LazyField<'_>| edits.drops(field.name()) || is_framing(id, field);
                response.fields.put_lines(out, drop);
            }
        }
        length.put(out);
        response.each_added(|name, value| headers::put_line(out, name, value));
        if response.lacks_date() {
            out.extend_from_slice(&date::line());
        }
        if let Some(protocol) = response.upgrade {
            out.extend_from_slice(b"connection: upgrade\r\n");
            headers::put_line(out, b"upgrade", protocol);
            self.wire.begin_sink(Encoding::Plain, None);
        } else {
            self.put_framing(response.framing);
            if self.wire.wants_chunks() {
                let out = self.wire.out();
                let put = |names: &[u8]| headers::put_line(out, b"trailer", names);
                response.fields.each_announcement(put);
            }
            self.put_connection();
        }
        self.wire.out().extend_from_slice(b"\r\n");
        Ok(())
    }

    fn send_informational<F: Fields>(&mut self, status: u16, fields: &F) -> Result<(), WireError> {
        self.awaits_continue &= status != 100;
        if self.version == HttpVersion::H11 {
            put_status(self.wire.out(), status);
            fields.put_lines(self.wire.out(), |id, _| id == FieldId::ContentLength);
            self.wire.out().extend_from_slice(b"\r\n");
        }
        Ok(())
    }

    /// One request at a time: anything written before this request's response was the response to a former request.
    fn has_completed_a_response(&self) -> bool {
        self.wire.written() > 0
    }

    /// The worker's budget alone. HTTP/1 has one request at a time, whose own limit bounds the body.
    fn body_budget(&self) -> ByteBudget {
        self.wire.mem.bodies()
    }

    /// The worker's budget alone, as for request bodies.
    fn answer_budget(&self) -> ByteBudget {
        self.wire.mem.answers()
    }
}

impl OverH1 for H1Down {
    #[inline]
    fn h1(&self) -> &H1 {
        &self.wire
    }
    #[inline]
    fn h1_mut(&mut self) -> &mut H1 {
        &mut self.wire
    }
}
