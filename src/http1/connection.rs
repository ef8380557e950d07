//! The `Connection` field: persistence and upgrade, and the fields that it makes hop-by-hop (RFC 9110 §7.6.1).

use super::head::Field;
use super::lists::elements;
use super::{FieldId, Reject};
use crate::reason::Reason;

/// Maximum number of fields that `Connection` may name.
///
/// Each name costs a pass over the fields of the head, so the limit bounds the work; no legitimate head comes near it.
const MAX_NAMED: usize = 64;

/// The options of all `Connection` lines of a head.
#[derive(Debug, Default)]
pub(super) struct ConnectionOptions {
    pub close: bool,
    pub keep_alive: bool,
    pub upgrade: bool,
    /// Whether there are names of fields among them that [`Self::mark`] has to look for.
    named: bool,
}

impl ConnectionOptions {
    /// Adds a `Connection` line.
    #[inline]
    pub(super) fn see(&mut self, value: &[u8]) {
        // The most common value, without splitting it.
        if value.eq_ignore_ascii_case(b"keep-alive") {
            self.keep_alive = true;
            return;
        }
        for option in elements(value) {
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else {
                // Fields that are hop-by-hop anyway need no marking. `Transfer-Encoding` does, because naming it is an
                // error.
                let id = FieldId::of(option);
                let ends_here = id.is_hop_by_hop() && id != FieldId::TransferEncoding;
                self.named |= !ends_here && !option.is_empty();
            }
        }
    }

    /// Whether the connection persists after this message (RFC 9112 §9.3); `http11` is false for HTTP/1.0.
    #[inline]
    pub(super) fn persists(&self, http11: bool) -> bool {
        !self.close && (http11 || self.keep_alive)
    }

    /// Marks the fields that `Connection` names as hop-by-hop, so that they are not forwarded.
    ///
    /// `Host`, `Content-Length` and `Transfer-Encoding` must not be removed this way: the next recipient would see a
    /// different host or body. With `strict`, used for requests, naming one of them is an error; otherwise the name is
    /// ignored.
    ///
    /// # Errors
    /// 400 `connection-names-framing` (only if `strict`), or `connection-names-many`.
    #[inline]
    pub(super) fn mark(
        &self,
        buf: &[u8],
        fields: &mut [Field],
        strict: bool,
    ) -> Result<(), Reject> {
        if self.named {
            mark_named(buf, fields, strict)
        } else {
            Ok(())
        }
    }
}

#[cold]
fn mark_named(buf: &[u8], fields: &mut [Field], strict: bool) -> Result<(), Reject> {
    let mut names = 0;
    for i in 0..fields.len() {
        if fields[i].id != FieldId::Connection {
            continue;
        }
        for option in elements(fields[i].value.of(buf)) {
            let id = FieldId::of(option);
            if option.is_empty() {
                continue;
            }
            if matches!(
                id,
                FieldId::Host | FieldId::ContentLength | FieldId::TransferEncoding
            ) || option.eq_ignore_ascii_case(b"authority")
            {
                if strict {
                    return Err(Reject::bad(Reason::ConnectionNamesFraming));
                }
                continue;
            }
            names += 1;
            if names > MAX_NAMED {
                return Err(Reject::bad(Reason::ConnectionNamesMany));
            }
            for field in fields.iter_mut() {
                field.hop |= field.id == id && field.name.of(buf).eq_ignore_ascii_case(option);
            }
        }
    }
    Ok(())
}
