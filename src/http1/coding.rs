//! `Content-Length` and `Transfer-Encoding`: the fields that determine the length of a body (RFC 9112 §6).

use super::Reject;
use super::lists::{elements, is_token};
use super::number::decimal;
use crate::reason::Reason;

/// The framing fields of a head, as collected so far.
#[derive(Debug, Default)]
pub(super) struct Lengths {
    /// Value of `Content-Length`.
    pub length: Option<u64>,
    codings: u32,
    chunked: u32,
    chunked_is_last: bool,
    unknown: bool,
}

impl Lengths {
    /// Adds a request's `Content-Length`; more than one line, or a list, is rejected.
    ///
    /// RFC 9110 §8.6 lets a recipient reject repeated equal values or replace them by one. In requests, where a difference
    /// between two recipients is a way to smuggle a second request, they are rejected.
    ///
    /// # Errors
    /// 400 `duplicate-content-length` or `bad-content-length`.
    pub(super) fn only_length(&mut self, value: &[u8]) -> Result<(), Reject> {
        if self.length.is_some() {
            return Err(Reject::bad(Reason::DuplicateContentLength));
        }
        self.length = Some(decimal(value).ok_or(Reject::bad(Reason::BadContentLength))?);
        Ok(())
    }

    /// Adds a response's `Content-Length`; repeated lines must be equal. Returns whether this is the first.
    ///
    /// RFC 9110 §8.6 lets a recipient replace repeated equal values by one: the caller drops all but the first.
    ///
    /// # Errors
    /// 400 `duplicate-content-length` for different values, `bad-content-length`.
    pub(super) fn equal_length(&mut self, value: &[u8]) -> Result<bool, Reject> {
        let value = decimal(value).ok_or(Reject::bad(Reason::BadContentLength))?;
        match self.length.replace(value) {
            None => Ok(true),
            Some(before) if before == value => Ok(false),
            Some(_) => Err(Reject::bad(Reason::DuplicateContentLength)),
        }
    }

    /// Adds a `Transfer-Encoding` line (RFC 9112 §6.1).
    ///
    /// # Errors
    /// 400 `bad-transfer-encoding` for an element that isn't a plain token.
    pub(super) fn coding(&mut self, value: &[u8]) -> Result<(), Reject> {
        for coding in elements(value) {
            // The grammar allows parameters and empty elements (RFC 9110 §5.6.1, §10.1.4), but recipients differ about
            // what they mean for framing.
            if !is_token(coding) {
                return Err(Reject::bad(Reason::BadTransferEncoding));
            }
            self.codings += 1;
            self.chunked_is_last = coding.eq_ignore_ascii_case(b"chunked");
            self.chunked += u32::from(self.chunked_is_last);
            self.unknown |= !is_registered(coding);
        }
        Ok(())
    }

    /// Whether the head has a `Transfer-Encoding`.
    pub(super) fn has_coding(&self) -> bool {
        self.codings > 0
    }

    /// Checks that the transfer coding is exactly `chunked`. Call it only if [`Self::has_coding`].
    ///
    /// # Errors
    /// 501 for an unregistered coding, and for other codings below a final `chunked`, which the proxy doesn't decode (RFC
    /// 9112 §6.1). Otherwise 400, because the length of the body can't be determined (RFC 9112 §6.3 (4)).
    pub(super) fn check_coding(&self) -> Result<(), Reject> {
        if self.codings == 1 && self.chunked == 1 {
            Ok(())
        } else if self.unknown || (self.chunked == 1 && self.chunked_is_last) {
            Err(Reject {
                status: 501,
                reason: Reason::UnknownTransferEncoding,
            })
        } else {
            Err(Reject::bad(Reason::BadTransferEncoding))
        }
    }
}

/// Whether the coding is in the IANA registry of transfer codings (RFC 9112 §7), or is the obsolete `identity`.
fn is_registered(coding: &[u8]) -> bool {
    const KNOWN: [&[u8]; 7] = [
        b"chunked",
        b"gzip",
        b"x-gzip",
        b"deflate",
        b"compress",
        b"x-compress",
        b"identity",
    ];
    KNOWN.iter().any(|known| coding.eq_ignore_ascii_case(known))
}
