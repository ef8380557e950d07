//! Converts a parsed HTTP/1 head to the [`Request`] that the data path uses: normalises host and path, and determines the client's
//! address and the request id.

use std::borrow::Cow;
use std::net::IpAddr;

use ipnet::IpNet;

use super::connection_context::ConnectionContext;
use crate::http1::{FieldId, Method, Reject, RequestHead, authority, path};
use crate::net::buffer::SMALL;
use crate::net::{Buffer, Buffers};
use crate::proxy::headers::{Fields, H1Fields, Request, RequestId};
use crate::proxy::peer::ForwardedFor;
use crate::proxy::{Peer, RejectedHead};

/// The bytes of a head. The parsed request refers to them, while the connection's read buffer is already in use for the body.
#[derive(Debug)]
pub(super) struct Scratch<'a> {
    bytes: HeadBytes,
    buffers: &'a Buffers,
}

#[derive(Debug)]
enum HeadBytes {
    /// The read buffer itself, which held nothing else.
    Taken(Buffer),
    /// A copy in a vector of the worker's pool.
    Copied(Vec<u8>),
}

impl<'a> Scratch<'a> {
    /// Takes the bytes of `head` out of the read buffer that it was parsed from.
    pub(super) fn take(buffers: &'a Buffers, input: &mut Buffer, head: &RequestHead) -> Self {
        // A tunnel lasts long and needs little of its head, so it keeps the smaller copy.
        let is_alone = input.len() == head.len && input.capacity() <= SMALL;
        let bytes = if is_alone && head.upgrade.is_none() {
            HeadBytes::Taken(std::mem::take(input))
        } else {
            let mut copy = buffers.take_out();
            copy.extend_from_slice(&input.bytes()[..head.len]);
            input.consume(head.len);
            HeadBytes::Copied(copy)
        };
        Self { bytes, buffers }
    }

    fn bytes(&self) -> &[u8] {
        match &self.bytes {
            HeadBytes::Taken(buffer) => buffer.bytes(),
            HeadBytes::Copied(copy) => copy,
        }
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        match &mut self.bytes {
            HeadBytes::Taken(buffer) => {
                buffer.clear();
                self.buffers.release(buffer);
            }
            HeadBytes::Copied(copy) => self.buffers.give_out(std::mem::take(copy)),
        }
    }
}

/// A head with its derived values: normalised host and target, client and request id.
pub(super) struct Parsed<'a> {
    conn: &'a ConnectionContext<'a>,
    head: &'a RequestHead,
    bytes: &'a [u8],
    host: Cow<'a, str>,
    target: RequestTarget<'a>,
    client: IpAddr,
    id: RequestId,
}

impl<'a> Parsed<'a> {
    /// Derives the values of a head.
    ///
    /// # Errors
    /// The path is malformed or ambiguous: [`path::normal`].
    pub(super) fn new(
        conn: &'a ConnectionContext<'a>,
        head: &'a RequestHead,
        scratch: &'a Scratch<'_>,
    ) -> Result<Self, Reject> {
        let bytes = scratch.bytes();
        let fields = H1Fields {
            head: bytes,
            fields: &head.fields,
        };
        let typed = match head.path_and_query.of(bytes) {
            // OPTIONS of an authority without a path asks about the server as a whole (RFC 9112 §3.2.4).
            b"" if head.method == Method::Options => b"*",
            typed => typed,
        };
        let target = RequestTarget::new(typed, conn.listener.merge_slashes)?;
        Ok(Self {
            host: head.host(bytes),
            target,
            client: client_of(conn.peer, &conn.listener.trusted, &fields),
            id: conn.worker.request_id(fields.first(FieldId::XRequestId)),
            conn,
            head,
            bytes,
        })
    }

    pub(super) fn request(&self) -> Request<'_, H1Fields<'_>> {
        let Self { head, bytes, .. } = *self;
        Request {
            fields: H1Fields {
                head: bytes,
                fields: &head.fields,
            },
            method: head.method,
            method_text: head.method_span.of(bytes),
            authority: head.authority.of(bytes),
            host: &self.host,
            target: &self.target.path_and_query,
            path_len: self.target.path_len,
            typed_path: &self.target.typed_path,
            framing: head.framing,
            ends_with_head: !head.framing.has_body(),
            expect_continue: head.expect_continue,
            upgrade: head.upgrade.map(|span| span.of(bytes)),
            te_trailers: head.te_trailers,
            via: self
                .conn
                .listener
                .via
                .as_ref()
                .map(|via| via.http1(head.version)),
            peer: self.conn.peer,
            client: self.client,
            id: self.id,
        }
    }
}

/// The known parts of a head that [`Parsed::new`] rejects.
pub(super) fn rejected<'a>(head: &RequestHead, scratch: &'a Scratch<'_>) -> RejectedHead<'a> {
    let bytes = scratch.bytes();
    RejectedHead {
        method: head.method,
        method_text: head.method_span.of(bytes),
        host: authority::host(head.authority.of(bytes)),
        path: path_of(head.path_and_query.of(bytes)),
    }
}

/// The part of a target before the query.
pub(super) fn path_of(path_and_query: &[u8]) -> &[u8] {
    &path_and_query[..path::len(path_and_query)]
}

/// The client's address: that of the peer, or the one that trusted proxies report in `X-Forwarded-For`.
pub(super) fn client_of(peer: &Peer, trusted: &[IpNet], fields: &impl Fields) -> IpAddr {
    if !peer.trusted {
        return peer.ip;
    }
    let mut list = ForwardedFor::new(trusted);
    fields.any("x-forwarded-for", &mut |line| {
        list.line(line);
        false
    });
    list.client().unwrap_or(peer.ip)
}

/// A request target as used for routing and sent upstream.
#[derive(Debug)]
pub(super) struct RequestTarget<'a> {
    /// The path without dot segments (RFC 3986 §5.2.4), and the query as sent by the client.
    pub path_and_query: Cow<'a, [u8]>,
    /// Length of the path in `path_and_query`, in bytes.
    pub path_len: usize,
    /// The path as sent by the client, apart from slashes that were merged.
    pub typed_path: Cow<'a, [u8]>,
}

impl<'a> RequestTarget<'a> {
    /// Normalises a path and query as sent by the client. `merge_slashes` merges repeated slashes before that.
    ///
    /// # Errors
    /// The path is malformed or ambiguous; see [`path::normal`].
    pub(super) fn new(path_and_query: &'a [u8], merge_slashes: bool) -> Result<Self, Reject> {
        let (typed, query) = path_and_query.split_at(path::len(path_and_query));
        let typed_path = match merge_slashes {
            true => path::merge_slashes(typed),
            false => Cow::Borrowed(typed),
        };
        let normal = path::normal(&typed_path)?;
        let path_len = normal.len();
        let path_and_query = match normal {
            // The path is unchanged: nothing was removed, and it isn't the `/` that stands for an empty path.
            Cow::Borrowed(_) if path_len == typed.len() => Cow::Borrowed(path_and_query),
            normal => {
                let mut target = normal.into_owned();
                target.extend_from_slice(query);
                Cow::Owned(target)
            }
        };
        Ok(Self {
            path_and_query,
            path_len,
            typed_path,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::HeadLimits;

    #[test]
    fn the_bytes_of_a_head_leave_the_read_buffer() {
        let limits = HeadLimits {
            bytes: 4096,
            fields: 10,
            target: 1000,
            underscores: true,
        };
        let get = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let upgrade =
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        for (head, behind, size, is_taken) in [
            (get, "", SMALL, true),
            (get, "GET", SMALL, false),
            (get, "", SMALL + 1, false),
            (upgrade, "", SMALL, false),
        ] {
            let (buffers, mut input) = (Buffers::new(), Buffer::default());
            buffers.equip(&mut input, size);
            let sent = [head, behind].concat();
            input.room()[..sent.len()].copy_from_slice(sent.as_bytes());
            input.filled(sent.len());
            let mut parsed = RequestHead::new();
            let len = parsed.parse(input.bytes(), &limits);
            assert_eq!(len, Ok(Some(head.len())));
            let scratch = Scratch::take(&buffers, &mut input, &parsed);
            assert_eq!(scratch.bytes(), head.as_bytes());
            assert_eq!(input.bytes(), behind.as_bytes());
            assert_eq!(input.capacity() == 0, is_taken, "{sent}");
        }
    }

    #[test]
    fn a_target_is_copied_only_where_its_path_changes() {
        let plain = RequestTarget::new(b"/a//b?x=/../y", false).expect("fine");
        assert!(matches!(
            plain.path_and_query,
            Cow::Borrowed(b"/a//b?x=/../y")
        ));
        assert_eq!(plain.path_len, 5);
        for (typed, merge, sent, len, path) in [
            ("/a/../b?q", false, "/b?q", 2, "/a/../b"),
            ("?q", false, "/?q", 1, ""),
            ("//a?x=//y", true, "/a?x=//y", 2, "/a"),
            ("/a//../b", true, "/b", 2, "/a/../b"),
            ("/a/b?x=//y", true, "/a/b?x=//y", 4, "/a/b"),
        ] {
            let target = RequestTarget::new(typed.as_bytes(), merge).expect("fine");
            assert_eq!(*target.path_and_query, *sent.as_bytes(), "{typed}");
            assert_eq!(target.path_len, len, "{typed}");
            assert_eq!(*target.typed_path, *path.as_bytes(), "{typed}");
        }
    }
}
