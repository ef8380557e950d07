//! Reloads the certificates of a listener when their files change.
//!
//! Certificate and key are separate files, and tools that renew them write one after the other. So a certificate stays in use
//! until its files contain a complete and matching pair that is not worse than it: see `rejection`. Files that were refused are
//! remembered by fingerprint, and reported once as long as the same is wrong with them.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::crypto::CryptoProvider;

use super::cert_error::{CertError, CertificateKey};
use super::certs::{Certificate, Files};
use crate::config::spec;
use crate::snapshot::date;

/// The certificates of a listener, in the order of the configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct Certificates {
    slots: Vec<CertificateSlot>,
}

/// One certificate of the configuration.
#[derive(Clone, Debug)]
pub(crate) struct CertificateSlot {
    /// The certificate in use.
    pub current: Arc<Certificate>,
    /// Set if the present files were refused.
    pub refused: Option<RefusedFiles>,
}

/// Files that were refused while an earlier certificate is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RefusedFiles {
    /// Fingerprint of the files; `None` if they could not be read.
    fingerprint: Option<u64>,
    pub errors: Vec<CertError>,
    /// When these errors were found first.
    pub since: SystemTime,
    /// The start of validity, in seconds since the epoch, if the certificate was refused because it is not valid yet.
    retry: Option<i64>,
}

/// An error of one certificate, with its index in the listener's configuration.
pub(crate) type CertificateFault = (usize, CertError);

/// Result of [`Certificates::read`].
#[derive(Debug)]
pub(crate) struct Reading {
    /// The certificates to use.
    pub certificates: Certificates,
    /// Whether any of them is new.
    pub changed: bool,
    /// Errors of files that are refused now and were not before. The former certificates stay in use.
    pub refused: Vec<CertificateFault>,
    /// Warnings about certificates that are new.
    pub warnings: Vec<CertificateFault>,
}

impl Certificates {
    /// Reads the certificates of a listener. If the files of a certificate are broken or worse now, the one of `former` with the
    /// same configuration stays in use.
    ///
    /// # Errors
    /// All errors of certificates that have no former one.
    pub(crate) fn read(
        certs: &[spec::Cert],
        former: Option<&Self>,
        provider: &CryptoProvider,
        now: SystemTime,
    ) -> Result<Reading, Vec<CertificateFault>> {
        let mut reading = Reading {
            certificates: Self::default(),
            changed: former.is_none_or(|f| f.slots.len() != certs.len()),
            refused: Vec::new(),
            warnings: Vec::new(),
        };
        let mut errors = Vec::new();
        for (index, cert) in certs.iter().enumerate() {
            let known = former.and_then(|f| f.slots.iter().find(|slot| slot.current.spec == *cert));
            let fault = |error: CertError| (index, error);
            match CertificateSlot::read(cert, known, provider, now) {
                Ok((slot, News::None)) => reading.certificates.slots.push(slot),
                Ok((slot, News::New)) => {
                    reading.changed = true;
                    let warnings = slot.current.warnings(seconds(now));
                    reading.warnings.extend(warnings.into_iter().map(fault));
                    reading.certificates.slots.push(slot);
                }
                Ok((slot, News::Refused)) => {
                    let refused = slot.refused.iter().flat_map(|r| r.errors.clone());
                    reading.refused.extend(refused.map(fault));
                    reading.certificates.slots.push(slot);
                }
                Err(wrong) => errors.extend(wrong.into_iter().map(fault)),
            }
        }
        match errors.is_empty() {
            true => Ok(reading),
            false => Err(errors),
        }
    }

    pub(crate) fn slots(&self) -> &[CertificateSlot] {
        &self.slots
    }

    /// Marks a certificate of `read` as refused because of a conflict with another one. The certificates in use stay in use.
    pub(crate) fn refuse(
        &mut self,
        (index, error): CertificateFault,
        read: &Self,
        now: SystemTime,
    ) {
        self.slots[index].refused = Some(RefusedFiles {
            fingerprint: Some(read.slots[index].current.fingerprint),
            errors: vec![error],
            since: now,
            retry: None,
        });
    }

    /// Whether a certificate that was refused because it was not valid yet has become valid.
    pub(crate) fn may_have_become_valid(&self, now: SystemTime) -> bool {
        let refused = self.slots.iter().filter_map(|slot| slot.refused.as_ref());
        let mut times = refused.filter_map(|refused| refused.retry);
        times.any(|time| time <= seconds(now))
    }
}

/// What has changed since the files of a certificate were read last.
enum News {
    None,
    /// They contain a new certificate, which is used.
    New,
    /// They were refused, for a reason that was not reported yet.
    Refused,
}

impl CertificateSlot {
    fn read(
        cert: &spec::Cert,
        former: Option<&Self>,
        provider: &CryptoProvider,
        now: SystemTime,
    ) -> Result<(Self, News), Vec<CertError>> {
        let files = Files::read(cert);
        let fingerprint = files.as_ref().ok().map(Files::fingerprint);
        if let Some(former) = former
            && let Some(news) = former.unchanged(fingerprint, now)
        {
            return Ok((news, News::None));
        }
        let read = files.and_then(|files| Certificate::new(cert, &files, provider));
        let Some(former) = former else {
            let current = Arc::new(read?);
            let slot = Self {
                current,
                refused: None,
            };
            return Ok((slot, News::New));
        };
        let (errors, retry) = match read {
            Ok(new) => match rejection(&new, &former.current, seconds(now)) {
                None => {
                    let slot = Self {
                        current: Arc::new(new),
                        refused: None,
                    };
                    return Ok((slot, News::New));
                }
                Some(error) => {
                    let from = new.validity.not_before;
                    (vec![error], (from > seconds(now)).then_some(from))
                }
            },
            Err(errors) => (errors, None),
        };
        Ok(former.keep(fingerprint, errors, retry, now))
    }

    /// The next state of the slot if the files are those that are in use, or those that were refused last.
    fn unchanged(&self, fingerprint: Option<u64>, now: SystemTime) -> Option<Self> {
        let fingerprint = fingerprint?;
        if fingerprint == self.current.fingerprint {
            return Some(Self {
                current: self.current.clone(),
                refused: None,
            });
        }
        let refused = self.refused.as_ref()?;
        let ripe = refused.retry.is_some_and(|time| time <= seconds(now));
        (refused.fingerprint == Some(fingerprint) && !ripe).then(|| self.clone())
    }

    /// The next state of the slot if the files are refused. The same errors are reported only once.
    fn keep(
        &self,
        fingerprint: Option<u64>,
        errors: Vec<CertError>,
        retry: Option<i64>,
        now: SystemTime,
    ) -> (Self, News) {
        let again = self.refused.as_ref().is_some_and(|r| r.errors == errors);
        let since = match &self.refused {
            Some(refused) if again => refused.since,
            _ => now,
        };
        let slot = Self {
            current: self.current.clone(),
            refused: Some(RefusedFiles {
                fingerprint,
                errors,
                since,
                retry,
            }),
        };
        (slot, if again { News::None } else { News::Refused })
    }
}

/// Why `new` must not replace `current`; `None` if it may. A certificate that is expired or not valid yet doesn't replace a valid
/// one, and one that lacks a name of `sni` doesn't replace one that covers all of them. An earlier expiry is no reason.
fn rejection(new: &Certificate, current: &Certificate, now: i64) -> Option<CertError> {
    let shown = new.spec.cert.display();
    if current.validity.covers(now) && !new.validity.covers(now) {
        let validity = new.validity;
        let when = match validity.not_before > now {
            true => format!("is not valid before {}", date(validity.not_before)),
            false => format!("has expired at {}", date(validity.not_after)),
        };
        let until = date(current.validity.not_after);
        return Some(CertError::new(
            CertificateKey::Cert,
            format!("certificate {shown} {when}; the one in use is valid until {until}"),
            "Put a valid certificate there",
        ));
    }
    let missing = new.uncovered();
    if current.uncovered().is_empty() && !missing.is_empty() {
        let missing = missing.join(", ");
        return Some(CertError::new(
            CertificateKey::Cert,
            format!(
                "certificate {shown} does not cover {missing}, which its `sni` names; the one in use does"
            ),
            "Put a certificate for these names there, or take the names out of `sni`",
        ));
    }
    None
}

/// Seconds since the epoch.
pub(super) fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
