//! `Content-Length` and `Transfer-Encoding`: what a head says about its body's end.

use super::Reject;
use super::lists::{elements, is_token};
use super::number::decimal;

/// What the framing fields seen so far amount to.
#[derive(Debug, Default)]
pub(super) struct Lengths {
    /// `Content-Length`.
    pub length: Option<u64>,
    codings: u32,
    chunked: u32,
    chunked_is_last: bool,
    unknown: bool,
}

impl Lengths {
    /// A request's `Content-Length`: one, and one number.
    pub(super) fn only_length(&mut self, value: &[u8]) -> Result<(), Reject> {
        if self.length.is_some() {
            return Err(Reject::bad("duplicate-content-length"));
        }
        self.length = Some(decimal(value).ok_or(Reject::bad("bad-content-length"))?);
        Ok(())
    }

    /// A response's `Content-Length`: a repeated equal one is let pass. Says whether this is the first.
    pub(super) fn equal_length(&mut self, value: &[u8]) -> Result<bool, Reject> {
        let value = decimal(value).ok_or(Reject::bad("bad-content-length"))?;
        match self.length.replace(value) {
            None => Ok(true),
            Some(before) if before == value => Ok(false),
            Some(_) => Err(Reject::bad("duplicate-content-length")),
        }
    }

    /// One `Transfer-Encoding` line.
    pub(super) fn coding(&mut self, value: &[u8]) -> Result<(), Reject> {
        for coding in elements(value) {
            // Parameters and empty elements are allowed by the grammar, and read differently by different recipients.
            if !is_token(coding) {
                return Err(Reject::bad("bad-transfer-encoding"));
            }
            self.codings += 1;
            self.chunked_is_last = coding.eq_ignore_ascii_case(b"chunked");
            self.chunked += u32::from(self.chunked_is_last);
            self.unknown |= !is_registered(coding);
        }
        Ok(())
    }

    /// Whether there was a `Transfer-Encoding`.
    pub(super) fn has_coding(&self) -> bool {
        self.codings > 0
    }

    /// Whether the transfer coding is exactly `chunked`; only to be asked where there is one.
    ///
    /// # Errors
    /// 501 for a coding that nobody registered, and for registered ones below a final `chunked`, which we can't undo; else 400.
    pub(super) fn check_coding(&self) -> Result<(), Reject> {
        if self.codings == 1 && self.chunked == 1 {
            Ok(())
        } else if self.unknown || (self.chunked == 1 && self.chunked_is_last) {
            Err(Reject {
                status: 501,
                reason: "unknown-transfer-encoding",
            })
        } else {
            Err(Reject::bad("bad-transfer-encoding"))
        }
    }
}

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
