//! The `Connection` field: what it asks of the connection, and which fields it takes with it.

use super::head::Field;
use super::lists::elements;
use super::{FieldId, Reject};

/// So many fields may be named; a head that names more is after something else.
const MAX_NAMED: usize = 64;

/// The options of all `Connection` fields of a head.
#[derive(Debug, Default)]
pub(super) struct ConnectionOptions {
    pub close: bool,
    pub keep_alive: bool,
    pub upgrade: bool,
    /// Names of fields are among them.
    named: bool,
}

impl ConnectionOptions {
    /// One `Connection` line.
    #[inline]
    pub(super) fn see(&mut self, value: &[u8]) {
        // What nearly every head says, without taking it apart.
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
                // What ends here anyway need not be looked for, except where naming it is an offence.
                let id = FieldId::of(option);
                let ends_here = id.is_hop_by_hop() && id != FieldId::TransferEncoding;
                self.named |= !ends_here && !option.is_empty();
            }
        }
    }

    /// Whether the connection may live on, for a message of HTTP/1.1 (else 1.0).
    #[inline]
    pub(super) fn persists(&self, http11: bool) -> bool {
        !self.close && (http11 || self.keep_alive)
    }

    /// Marks the fields that were named, so that they end here.
    ///
    /// # Errors
    /// 400 when it names what framing or routing need (with `guard`; else such names count for nothing), or very many.
    #[inline]
    pub(super) fn mark(&self, buf: &[u8], fields: &mut [Field], guard: bool) -> Result<(), Reject> {
        if self.named {
            mark_named(buf, fields, guard)
        } else {
            Ok(())
        }
    }
}

#[cold]
fn mark_named(buf: &[u8], fields: &mut [Field], guard: bool) -> Result<(), Reject> {
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
                if guard {
                    return Err(Reject::bad("connection-names-framing"));
                }
                continue;
            }
            names += 1;
            if names > MAX_NAMED {
                return Err(Reject::bad("connection-names-many"));
            }
            for field in fields.iter_mut() {
                field.hop |= field.id == id && field.name.of(buf).eq_ignore_ascii_case(option);
            }
        }
    }
    Ok(())
}
