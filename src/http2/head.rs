//! Decoded header blocks: the fields of a request, a response or trailers (RFC 9113 §8).
//!
//! The HPACK decoder writes each field as an HTTP/1 line into one buffer and calls [`HeadBlock::accept`], which checks it
//! and adds it to the table of fields that the HTTP/1 parser fills for its heads as well. Nothing is copied twice, and no
//! map is built.

mod packed;

use super::line::{Class, LineTraits, Pseudo};
use super::malformed::Malformed;
use crate::http1::fields::KnownFields;
use crate::http1::lists::is_token;
use crate::http1::{Field, FieldId, Method, Reject, Span, number, target};
use crate::reason::Reason;

pub(crate) use packed::PackedHead;

/// The kind of message part that a header block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadKind {
    /// A request.
    Request {
        /// Whether `:protocol` is permitted, because `SETTINGS_ENABLE_CONNECT_PROTOCOL` was sent (RFC 8441 §3).
        extended_connect: bool,
    },
    /// A response.
    Response,
    /// The trailers of a request or response.
    Trailers,
}

/// Limits on a header block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockLimits {
    /// Maximum size as in RFC 9113 §6.5.2: the bytes of names and values, and 32 for each field.
    pub bytes: usize,
    /// Maximum number of fields, without pseudo-header fields.
    pub fields: usize,
}

/// Memory that a reused block keeps at most; one that has become larger is freed.
const MAX_KEPT: usize = 64 * 1024;

/// A decoded header block.
///
/// Decoding clears it and reuses its memory.
#[derive(Debug, Default)]
pub struct HeadBlock {
    /// The lines of all fields, `name: value CRLF`; every span refers to it. Lines that [`Self::fields`] doesn't name are
    /// those of pseudo-header fields, or malformed, and must not be forwarded.
    pub bytes: Vec<u8>,
    /// The fields, without pseudo-header fields, in the order received. Several `cookie` fields are joined to one (RFC 9113
    /// §8.2.3).
    pub fields: Vec<Field>,
    /// Classes of the fields.
    pub present: KnownFields,
    /// `:status`; 0 if there is none.
    pub status: u16,
    /// Value of `content-length`.
    pub content_length: Option<u64>,
    /// Whether `te: trailers` is present.
    pub te_trailers: bool,
    /// Whether the block ends its message. A message without content may also be ended by a DATA frame.
    pub end_stream: bool,
    /// Whether the name of a field without a class has `_`.
    pub has_underscore: bool,
    /// Number of `host` fields.
    pub hosts: u32,
    /// The first defect found, if the message is malformed.
    pub malformed: Option<Malformed>,
    /// The status and reason if the block is beyond the limits: 431. Its fields are then incomplete.
    pub too_large: Option<Reject>,
    /// Size as in RFC 9113 §6.5.2, including fields that were dropped.
    pub size: usize,
    pseudo: [Span; Pseudo::COUNT],
    /// Bits of the pseudo-header fields that occurred.
    seen: u8,
    /// `cookie` fields that do not follow each other.
    scattered_cookies: bool,
}

impl HeadBlock {
    /// `:method`; empty if absent.
    pub fn method(&self) -> &[u8] {
        self.pseudo(Pseudo::Method).unwrap_or_default()
    }

    /// `:scheme`; empty if absent.
    pub fn scheme(&self) -> &[u8] {
        self.pseudo(Pseudo::Scheme).unwrap_or_default()
    }

    /// `:path`; empty if absent.
    pub fn path(&self) -> &[u8] {
        self.pseudo(Pseudo::Path).unwrap_or_default()
    }

    /// `:authority`.
    pub fn authority(&self) -> Option<&[u8]> {
        self.pseudo(Pseudo::Authority)
    }

    /// `:protocol` (RFC 8441 §4).
    pub fn protocol(&self) -> Option<&[u8]> {
        self.pseudo(Pseudo::Protocol)
    }

    fn pseudo(&self, pseudo: Pseudo) -> Option<&[u8]> {
        (self.seen & pseudo.bit() != 0).then(|| self.pseudo[pseudo as usize].of(&self.bytes))
    }

    /// Returns the value of the first field with this class.
    pub fn field(&self, id: FieldId) -> Option<&[u8]> {
        if !self.present.has(id) {
            return None;
        }
        let field = self.fields.iter().find(|f| f.id == id)?;
        Some(field.value.of(&self.bytes))
    }

    /// Names and values of the fields.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let parts = |f: &Field| (f.name.of(&self.bytes), f.value.of(&self.bytes));
        self.fields.iter().map(parts)
    }

    /// Replaces all fields of a name, in lower case and without a class, by one with this value.
    pub(crate) fn set(&mut self, name: &[u8], value: &[u8]) {
        let Self { bytes, fields, .. } = self;
        fields.retain(|field| field.name.of(bytes) != name);
        let start = bytes.len();
        for part in [name, b": ", value, b"\r\n"] {
            bytes.extend_from_slice(part);
        }
        let (end, value_at) = (bytes.len(), start + name.len() + 2);
        fields.push(Field {
            id: FieldId::Other,
            name: Span::new(start, start + name.len()),
            value: Span::new(value_at, end - 2),
            line: Span::new(start, end),
            hop: false,
            sensitive: false,
        });
    }

    /// Makes the block empty, and keeps its memory.
    pub fn clear(&mut self) {
        let (mut bytes, mut fields) = (
            std::mem::take(&mut self.bytes),
            std::mem::take(&mut self.fields),
        );
        if bytes.capacity() > MAX_KEPT {
            bytes = Vec::new();
        }
        bytes.clear();
        fields.clear();
        *self = Self {
            bytes,
            fields,
            ..Self::default()
        };
    }

    /// Adds the field whose line is the end of [`Self::bytes`], from `start` on.
    #[inline]
    pub(super) fn accept(
        &mut self,
        start: usize,
        name_len: usize,
        traits: LineTraits,
        sensitive: bool,
        (kind, limits): (HeadKind, &BlockLimits),
    ) {
        let end = self.bytes.len();
        // The separators of a line are four bytes.
        self.size += end - start - 4 + 32;
        if self.size > limits.bytes || self.too_large.is_some() {
            return self.drop_from(start, Reason::HeadTooLarge);
        }
        if let Some(defect) = traits.bad_name.or(traits.bad_value) {
            // The line stays out of the table, so that it can't be forwarded.
            return self.note(match (defect, kind) {
                (Malformed::UnknownPseudo, HeadKind::Trailers) => Malformed::PseudoInTrailers,
                _ => defect,
            });
        }
        let value = Span::new(start + name_len + 2, end - 2);
        match traits.class {
            Class::Pseudo(pseudo) => self.accept_pseudo(pseudo, value, kind),
            Class::Field(id) => {
                if self.fields.len() >= limits.fields {
                    return self.drop_from(start, Reason::TooManyFields);
                }
                self.present.add(id);
                self.has_underscore |= traits.has_underscore;
                let field = Field {
                    id,
                    name: Span::new(start, start + name_len),
                    value,
                    line: Span::new(start, end),
                    hop: id.is_hop_by_hop(),
                    sensitive,
                };
                if id == FieldId::Other {
                    self.fields.push(field);
                } else {
                    self.accept_known(field, kind);
                }
            }
        }
    }

    #[cold]
    fn drop_from(&mut self, start: usize, reason: Reason) {
        self.bytes.truncate(start);
        self.too_large.get_or_insert(Reject {
            status: 431,
            reason,
        });
    }

    /// Records a defect; the first one counts.
    #[cold]
    fn note(&mut self, defect: Malformed) {
        self.malformed.get_or_insert(defect);
    }

    #[inline]
    fn accept_pseudo(&mut self, pseudo: Pseudo, value: Span, kind: HeadKind) {
        let is_defined = match kind {
            HeadKind::Request { extended_connect } => match pseudo {
                Pseudo::Status => false,
                Pseudo::Protocol => extended_connect,
                _ => true,
            },
            HeadKind::Response => pseudo == Pseudo::Status,
            HeadKind::Trailers => return self.note(Malformed::PseudoInTrailers),
        };
        if !is_defined {
            return self.note(Malformed::UnknownPseudo);
        }
        if self.seen & pseudo.bit() != 0 {
            return self.note(Malformed::DuplicatePseudo);
        }
        if !self.fields.is_empty() {
            return self.note(Malformed::LatePseudo);
        }
        self.seen |= pseudo.bit();
        self.pseudo[pseudo as usize] = value;
    }

    /// Adds a field that has a class.
    fn accept_known(&mut self, mut field: Field, kind: HeadKind) {
        let value = field.value.of(&self.bytes);
        match field.id {
            FieldId::Connection
            | FieldId::KeepAlive
            | FieldId::ProxyConnection
            | FieldId::TransferEncoding
            | FieldId::Upgrade => return self.note(Malformed::ConnectionField),
            FieldId::Te if value.eq_ignore_ascii_case(b"trailers") => self.te_trailers = true,
            FieldId::Te => return self.note(Malformed::BadTe),
            FieldId::Host => self.hosts += 1,
            // In trailers it says nothing about the content, and is not forwarded.
            FieldId::ContentLength if kind != HeadKind::Trailers => {
                match (number::decimal(value), self.content_length) {
                    (None, _) => return self.note(Malformed::BadContentLength),
                    (length, None) => self.content_length = length,
                    // RFC 9110 §8.6 lets a recipient replace repeated equal values by one.
                    (length, before) if length == before && kind == HeadKind::Response => {
                        field.hop = true;
                    }
                    _ => return self.note(Malformed::DuplicateContentLength),
                }
            }
            FieldId::Cookie => return self.accept_cookie(field),
            _ => {}
        }
        self.fields.push(field);
    }

    /// Adds a `cookie` field. One that follows another is appended to its line at once.
    fn accept_cookie(&mut self, field: Field) {
        match self.fields.last_mut() {
            Some(last) if last.id == FieldId::Cookie && last.line.end == field.line.start => {
                // `a CRLF cookie: b CRLF` becomes `a; b CRLF`. An empty crumb adds nothing, because a value must not end
                // with a space.
                let crumb = field.value.start as usize..self.bytes.len();
                let mut at = last.value.end as usize;
                if !last.value.is_empty() && !field.value.is_empty() {
                    self.bytes[at..at + 2].copy_from_slice(b"; ");
                    at += 2;
                }
                self.bytes.copy_within(crumb.clone(), at);
                self.bytes.truncate(at + crumb.len());
                last.value.end = self.bytes.len() as u32 - 2;
                last.line.end = self.bytes.len() as u32;
                last.sensitive |= field.sensitive;
            }
            _ => {
                self.scattered_cookies |= self.fields.iter().any(|f| f.id == FieldId::Cookie);
                self.fields.push(field);
            }
        }
    }

    /// Joins `cookie` fields between which there are others.
    #[cold]
    fn join_cookies(&mut self) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(b"cookie: ");
        let value = self.bytes.len();
        let mut sensitive = false;
        let crumbs = self.fields.iter().filter(|f| f.id == FieldId::Cookie);
        for crumb in crumbs {
            if self.bytes.len() > value && !crumb.value.is_empty() {
                self.bytes.extend_from_slice(b"; ");
            }
            self.bytes
                .extend_from_within(crumb.value.start as usize..crumb.value.end as usize);
            sensitive |= crumb.sensitive;
        }
        self.bytes.extend_from_slice(b"\r\n");
        self.fields.retain(|f| f.id != FieldId::Cookie);
        let end = self.bytes.len();
        self.fields.push(Field {
            id: FieldId::Cookie,
            name: Span::new(start, value - 2),
            value: Span::new(value, end - 2),
            line: Span::new(start, end),
            hop: false,
            sensitive,
        });
    }

    /// Checks what can only be checked once all fields are there.
    #[inline]
    pub(super) fn finish(&mut self, kind: HeadKind) {
        if self.scattered_cookies {
            self.join_cookies();
        }
        if self.malformed.is_some() || self.too_large.is_some() {
            return;
        }
        let checked = match kind {
            HeadKind::Request { .. } => self.check_request(),
            HeadKind::Response => self.check_response(),
            HeadKind::Trailers => Ok(()),
        };
        self.malformed = checked.err();
    }

    /// Checks the pseudo-header fields of a request (RFC 9113 §8.3.1 and §8.5, RFC 8441 §4).
    #[inline]
    fn check_request(&self) -> Result<(), Malformed> {
        const TARGET: u8 = Pseudo::Scheme.bit() | Pseudo::Path.bit();
        if self.seen & Pseudo::Method.bit() == 0 {
            return Err(Malformed::MissingPseudo);
        }
        let name = self.method();
        let method = Method::from_bytes(name);
        if method == Method::Other && !is_token(name) {
            return Err(Malformed::BadMethod);
        }
        let has_protocol = self.seen & Pseudo::Protocol.bit() != 0;
        if method == Method::Connect {
            if !has_protocol && self.seen & TARGET != 0 {
                return Err(Malformed::ConnectTarget);
            }
            if self.seen & Pseudo::Authority.bit() == 0 {
                return Err(Malformed::MissingPseudo);
            }
            if !has_protocol {
                return Ok(());
            }
        } else if has_protocol {
            return Err(Malformed::ProtocolWithoutConnect);
        }
        if self.seen & TARGET != TARGET {
            return Err(Malformed::MissingPseudo);
        }
        let scheme = self.scheme();
        if scheme != b"https" && scheme != b"http" {
            return Err(Malformed::BadScheme);
        }
        match self.path() {
            [] => Err(Malformed::EmptyPath),
            path @ [b'/', ..] => target::check_characters(path).map_err(of_path),
            b"*" if method == Method::Options => Ok(()),
            path if memchr::memchr(b'#', path).is_some() => Err(Malformed::FragmentInPath),
            _ => Err(Malformed::BadPath),
        }
    }

    #[inline]
    fn check_response(&mut self) -> Result<(), Malformed> {
        match self.pseudo(Pseudo::Status) {
            None => Err(Malformed::MissingPseudo),
            Some(b"101") => Err(Malformed::BadStatus),
            Some(&[a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9']) => {
                let digit = |byte: u8| u16::from(byte - b'0');
                self.status = digit(a) * 100 + digit(b) * 10 + digit(c);
                Ok(())
            }
            Some(_) => Err(Malformed::BadStatus),
        }
    }
}

#[cold]
fn of_path(reject: Reject) -> Malformed {
    match reject.reason {
        Reason::FragmentInTarget => Malformed::FragmentInPath,
        _ => Malformed::BadPath,
    }
}

#[cfg(test)]
mod malformed_tests;
#[cfg(test)]
mod tests;
