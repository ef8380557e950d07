//! Reloads the certificates of a listener when their files change.
//!
//! Certificate and key are separate files, and tools that renew them write one after the other. So a certificate stays in use
//! until its files contain a complete and matching pair that is not worse than it: see `rejection`.

use std::time::SystemTime;

use rustls::crypto::CryptoProvider;

use super::certs::{Certificate, Files};
use crate::certificates::{self, CertError, CertificateKey, FileSlot, Material, News, seconds};
use crate::config::spec;

/// The certificates of a listener, in the order of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Certificates {
    slots: Vec<CertificateSlot>,
    /// Certificates that the proxy obtains itself and doesn't have yet.
    missing: Vec<spec::Cert>,
}

/// One certificate of the configuration.
pub type CertificateSlot = FileSlot<Certificate>;

/// An error of one certificate, with its index in the listener's configuration.
pub type CertificateFault = (usize, CertError);

/// Result of [`Certificates::read`].
#[derive(Debug)]
pub struct Reading {
    /// The certificates to use.
    pub certificates: Certificates,
    /// Whether any of them is new.
    pub changed: bool,
    /// Errors of files that are refused now and were not before. The previous certificates stay in use.
    pub refused: Vec<CertificateFault>,
    /// Warnings about certificates that are new.
    pub warnings: Vec<CertificateFault>,
}

impl Certificates {
    /// Reads the certificates of a listener. If the files of a certificate are broken or worse now, the one of `former` with the
    /// same configuration stays in use.
    ///
    /// # Errors
    /// All errors of certificates that have no previous one.
    pub fn read(
        certs: &[spec::Cert],
        former: Option<&Self>,
        provider: &CryptoProvider,
        now: SystemTime,
    ) -> Result<Reading, Vec<CertificateFault>> {
        let mut reading = Reading {
            certificates: Self::default(),
            changed: false,
            refused: Vec::new(),
            warnings: Vec::new(),
        };
        let mut errors = Vec::new();
        for (index, cert) in certs.iter().enumerate() {
            let known = former.and_then(|f| f.slots.iter().find(|slot| slot.current.spec == *cert));
            let fault = |error: CertError| (index, error);
            let files = Files::read(cert);
            let fingerprint = files.as_ref().ok().map(Files::fingerprint);
            let parse = || files.and_then(|files| Certificate::new(cert, &files, provider));
            match FileSlot::read(known, fingerprint, now, parse) {
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
                // An order replaces the file, whatever the error in it.
                Err(_) if cert.acme => reading.certificates.missing.push(cert.clone()),
                Err(wrong) => errors.extend(wrong.into_iter().map(fault)),
            }
        }
        let (slots, missing) = (&reading.certificates.slots, &reading.certificates.missing);
        let is_other = |f: &Self| f.slots.len() != slots.len() || f.missing != *missing;
        reading.changed |= former.is_none_or(is_other);
        match errors.is_empty() {
            true => Ok(reading),
            false => Err(errors),
        }
    }

    /// Certificates that have not been obtained yet.
    pub(crate) fn missing(&self) -> &[spec::Cert] {
        &self.missing
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
        let fingerprint = read.slots[index].current.fingerprint;
        self.slots[index].refuse(fingerprint, error, now);
    }

    /// Whether a certificate that was refused because it was not valid yet has become valid.
    pub(crate) fn may_have_become_valid(&self, now: SystemTime) -> bool {
        self.slots.iter().any(|slot| slot.may_be_ripe(now))
    }
}

impl Material for Certificate {
    fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    fn valid_from(&self) -> Option<i64> {
        Some(self.validity.not_before)
    }

    fn worse_than(&self, current: &Self, now: i64) -> Option<CertError> {
        rejection(self, current, now)
    }
}

/// The reason why `new` must not replace `current`; `None` if it may. A certificate that is expired or not valid yet doesn't
/// replace a valid one, and one that lacks a name of `sni` doesn't replace one that covers all of them. An earlier expiry is no
/// reason.
fn rejection(new: &Certificate, current: &Certificate, now: i64) -> Option<CertError> {
    let shown = new.spec.cert.display();
    let outdated = certificates::outdated(&new.spec.cert, new.validity, current.validity, now);
    if outdated.is_some() {
        return outdated;
    }
    if let Some(error) = current.ocsp_rejection(new, now) {
        return Some(error);
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
