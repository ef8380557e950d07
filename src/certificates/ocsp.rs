//! OCSP responses (RFC 6960) that a server passes on in its handshakes, for clients that ask for one (stapling, RFC 6066
//! section 8).
//!
//! The signature isn't checked: that is up to clients. The checks here keep a server from sending a response that no client
//! accepts.

use std::path::{Path, PathBuf};

use x509_parser::prelude::{ASN1Time, FromDer};

use super::error::{CertError, CertificateKey};
use super::read::date;

/// DER tags.
const SEQUENCE: u8 = 0x30;
const ENUMERATED: u8 = 0x0a;
const OCTETS: u8 = 0x04;
const INTEGER: u8 = 0x02;
const TIME: u8 = 0x18;
/// `[0]`, constructed.
const CONTEXT_0: u8 = 0xa0;
/// `certStatus` `good`: `[0]`, primitive, empty.
const GOOD: u8 = 0x80;

/// A response that says that a certificate is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OcspResponse {
    /// The file, as it is sent.
    pub der: Vec<u8>,
    /// Time from which on clients refuse it, in seconds since the epoch. `None`: the response doesn't name one.
    pub next_update: Option<i64>,
}

/// The file for the response beside a certificate: its name with `.ocsp` at the end, as HAProxy has it.
pub(crate) fn ocsp_path(cert: &Path) -> PathBuf {
    let mut name = cert.as_os_str().to_owned();
    name.push(".ocsp");
    PathBuf::from(name)
}

impl OcspResponse {
    /// Parses the response for the certificate with this serial number.
    ///
    /// # Errors
    /// It is malformed, says that the certificate isn't good, is about another one, or isn't valid at `now`.
    pub(crate) fn new(
        path: &Path,
        der: Vec<u8>,
        serial: &[u8],
        now: i64,
    ) -> Result<Self, CertError> {
        let shown = path.display();
        let error = |what: String| {
            CertError::new(
                CertificateKey::Cert,
                format!("OCSP response {shown} {what}"),
                "Fetch another one, or remove the file; handshakes go without it",
            )
        };
        let status = status(&der);
        if let Some(status) = status.filter(|status| *status != 0) {
            return Err(error(format!("holds the error status {status}")));
        }
        let Some(single) = status.and_then(|_| single(&der, serial)) else {
            return Err(error(
                "is malformed: expected DER, as `openssl ocsp -respout` writes it".into(),
            ));
        };
        let single = single.ok_or_else(|| error("is about another certificate".into()))?;
        if !single.is_good {
            return Err(error(
                "says that the certificate is revoked or unknown".into(),
            ));
        }
        if now < single.this_update {
            return Err(error(format!(
                "is not valid before {}",
                date(single.this_update)
            )));
        }
        if let Some(until) = single.next_update.filter(|until| *until <= now) {
            return Err(error(format!("has expired at {}", date(until))));
        }
        Ok(Self {
            der,
            next_update: single.next_update,
        })
    }

    /// Whether clients accept the response at `now`.
    pub(crate) fn is_current(&self, now: i64) -> bool {
        self.next_update.is_none_or(|until| now < until)
    }
}

/// The status of one certificate, from an OCSP response (RFC 6960, section 4.2.1).
struct SingleResponse {
    is_good: bool,
    this_update: i64,
    next_update: Option<i64>,
}

/// A DER value: its tag, its contents, and all of its bytes.
#[derive(Clone, Copy)]
struct Value<'d> {
    tag: u8,
    contents: &'d [u8],
    whole: &'d [u8],
}

/// The values of a DER sequence. Ends at the first that is malformed.
struct Values<'d>(&'d [u8]);

impl<'d> Iterator for Values<'d> {
    type Item = Value<'d>;

    fn next(&mut self) -> Option<Value<'d>> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let length = bytes
                    .iter()
                    .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
                (length, rest)
            }
            _ => return None,
        };
        let (contents, after) = rest.split_at_checked(length)?;
        let whole = &self.0[..self.0.len() - after.len()];
        self.0 = after;
        Some(Value {
            tag,
            contents,
            whole,
        })
    }
}

impl<'d> Values<'d> {
    /// The next value, if it has this tag.
    fn expect(&mut self, tag: u8) -> Option<&'d [u8]> {
        self.next()
            .filter(|value| value.tag == tag)
            .map(|value| value.contents)
    }
}

/// `responseStatus`; 0 is `successful`.
fn status(der: &[u8]) -> Option<u8> {
    let response = Values(der).expect(SEQUENCE)?;
    Values(response).expect(ENUMERATED)?.first().copied()
}

/// The status of the certificate with this serial number; `Some(None)` if the response has none. `None` if it is malformed.
fn single(der: &[u8], serial: &[u8]) -> Option<Option<SingleResponse>> {
    let mut response = Values(Values(der).expect(SEQUENCE)?);
    response.expect(ENUMERATED)?;
    let mut bytes = Values(Values(response.expect(CONTEXT_0)?).expect(SEQUENCE)?);
    // The type of the response; there is only one.
    bytes.next()?;
    let basic = Values(bytes.expect(OCTETS)?).expect(SEQUENCE)?;
    let mut data = Values(Values(basic).expect(SEQUENCE)?);
    // Version and responder come first, then the time of production and the responses.
    let responses = data.by_ref().skip_while(|value| value.tag != TIME).nth(1)?;
    for response in Values(responses.contents) {
        let mut fields = Values(response.contents);
        let id = fields.expect(SEQUENCE)?;
        let number = Values(id).find(|value| value.tag == INTEGER)?;
        if number.contents != serial {
            continue;
        }
        let is_good = fields.next()?.tag == GOOD;
        let this_update = time(fields.next()?)?;
        let next_update = { fields.next() }.filter(|value| value.tag == CONTEXT_0);
        return Some(Some(SingleResponse {
            is_good,
            this_update,
            next_update: match next_update {
                Some(value) => Some(time(Values(value.contents).next()?)?),
                None => None,
            },
        }));
    }
    Some(None)
}

fn time(value: Value<'_>) -> Option<i64> {
    let (_, time) = ASN1Time::from_der(value.whole).ok()?;
    Some(time.timestamp())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn value(tag: u8, contents: &[u8]) -> Vec<u8> {
        let length = u16::try_from(contents.len()).expect("short");
        let mut der = vec![tag, 0x82];
        der.extend_from_slice(&length.to_be_bytes());
        der.extend_from_slice(contents);
        der
    }

    /// A response about `serial`, without a valid signature.
    pub(crate) fn response(serial: &[u8], status: u8, next_update: Option<&str>) -> Vec<u8> {
        let time = |text: &str| value(TIME, text.as_bytes());
        let id = [
            value(SEQUENCE, &[]),
            value(OCTETS, b"n"),
            value(OCTETS, b"k"),
            value(INTEGER, serial),
        ];
        let mut single = [
            value(SEQUENCE, &id.concat()),
            value(status, &[]),
            time("20200101000000Z"),
        ]
        .concat();
        if let Some(until) = next_update {
            single.extend(value(CONTEXT_0, &time(until)));
        }
        let responder = value(0xa2, &value(OCTETS, b"key"));
        let responses = value(SEQUENCE, &value(SEQUENCE, &single));
        let data = value(
            SEQUENCE,
            &[responder, time("20200101000000Z"), responses].concat(),
        );
        let basic = value(SEQUENCE, &[data, value(SEQUENCE, &[])].concat());
        let bytes = value(
            SEQUENCE,
            &[value(0x06, &[1]), value(OCTETS, &basic)].concat(),
        );
        value(
            SEQUENCE,
            &[value(ENUMERATED, &[0]), value(CONTEXT_0, &bytes)].concat(),
        )
    }

    /// 2026-01-01, in seconds since the epoch.
    const NOW: i64 = 1_767_225_600;

    fn parsed(der: Vec<u8>) -> Result<OcspResponse, String> {
        OcspResponse::new(Path::new("a.ocsp"), der, &[7, 9], NOW).map_err(|e| e.message)
    }

    #[test]
    fn a_good_response_is_used_until_its_end() {
        let read = parsed(response(&[7, 9], GOOD, Some("20300101000000Z"))).expect("good");
        assert_eq!(read.next_update, Some(1_893_456_000));
        assert!(read.is_current(1_893_455_999) && !read.is_current(1_893_456_000));
        let endless = parsed(response(&[7, 9], GOOD, None)).expect("good");
        assert!(endless.is_current(i64::MAX));
    }

    #[test]
    fn every_other_response_is_refused_with_the_reason() {
        let good = response(&[7, 9], GOOD, Some("20300101000000Z"));
        for (der, says) in [
            (response(&[7, 8], GOOD, None), "another certificate"),
            (response(&[7, 9], 0xa1, None), "revoked or unknown"),
            (response(&[7, 9], 0x82, None), "revoked or unknown"),
            (
                response(&[7, 9], GOOD, Some("20250101000000Z")),
                "has expired at 2025-01-01T00:00:00Z",
            ),
            (vec![SEQUENCE, 3, ENUMERATED, 1, 6], "the error status 6"),
            (b"-----BEGIN".to_vec(), "malformed"),
            (Vec::new(), "malformed"),
        ] {
            let error = parsed(der).expect_err(says);
            assert!(error.contains(says), "{error}");
        }
        for length in 0..good.len() {
            assert!(parsed(good[..length].to_vec()).is_err(), "{length} bytes");
        }
    }
}
