//! The certificates of a listener as its files change: each stays in use until its files hold one that is not worse.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::crypto::CryptoProvider;

use super::certs::{CertError, Certificate, CertificateKey, Files};
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
    /// What handshakes use.
    pub current: Arc<Certificate>,
    /// Why the files as they are now are not what is used.
    pub refused: Option<RefusedFiles>,
}

/// Files that were refused while an earlier certificate is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RefusedFiles {
    /// Of the files, if they could be read.
    fingerprint: Option<u64>,
    /// What is wrong with them.
    pub errors: Vec<CertError>,
    /// When it was noticed.
    pub since: SystemTime,
    /// When they may be good without having changed, in seconds since the epoch: a certificate that isn't valid yet.
    retry: Option<i64>,
}

/// An error of one certificate, by its place in the configuration.
pub(crate) type CertificateFault = (usize, CertError);

/// What came of reading the certificates of a listener.
#[derive(Debug)]
pub(crate) struct Reading {
    /// What is to be used.
    pub certificates: Certificates,
    /// Some of it is new.
    pub changed: bool,
    /// Files that are refused and were not before: the former certificates stay.
    pub refused: Vec<CertificateFault>,
    /// What is odd about certificates that are new.
    pub warnings: Vec<CertificateFault>,
}

impl Certificates {
    /// Reads the certificates of a listener. One of `former` with the same configuration stays where its files hold
    /// something worse now.
    ///
    /// # Errors
    /// Everything that is wrong with certificates that have no former one.
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

    /// The certificates.
    pub(crate) fn slots(&self) -> &[CertificateSlot] {
        &self.slots
    }

    /// Marks a certificate of `read` as refused for a reason that only all of them together have. What is used stays.
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

    /// Whether files that were refused may be good by now without having changed.
    pub(crate) fn may_have_ripened(&self, now: SystemTime) -> bool {
        let refused = self.slots.iter().filter_map(|slot| slot.refused.as_ref());
        let mut times = refused.filter_map(|refused| refused.retry);
        times.any(|time| time <= seconds(now))
    }
}

/// What a look at the files of one certificate found.
enum News {
    None,
    New,
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
            Ok(new) => match worse(&new, &former.current, seconds(now)) {
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

    /// This slot as it goes on, if the files are still what was read last.
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

    /// This slot with files that are refused. Said once, as long as the same is wrong.
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

/// Why `new` must not take the place of `current`; `None` if it may. One that isn't valid doesn't replace one that is, nor
/// does one that lacks a name of `sni` replace one that covers all of them. That it is valid for a shorter time is fine.
fn worse(new: &Certificate, current: &Certificate, now: i64) -> Option<CertError> {
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

/// Since the epoch.
pub(super) fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
