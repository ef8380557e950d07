//! Reads certificates, keys and authorities from PEM files, and checks that they can be used.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::sign::{CertifiedKey, SigningKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::error::{CertError, CertificateKey};
use super::pem;

/// Permission bits that let users other than owner and group read or write a key file.
const OTHERS: u32 = 0o006;

/// Reads a file.
///
/// # Errors
/// The file is missing or not readable.
pub(crate) fn file(path: &Path, part: CertificateKey) -> Result<Vec<u8>, CertError> {
    std::fs::read(path).map_err(|e| {
        let help = match e.kind() {
            std::io::ErrorKind::NotFound => "Check the path; unless it begins with /, it is relative to the directory that cutover runs in",
            std::io::ErrorKind::PermissionDenied => "Make it readable for the user that cutover runs as",
            _ => "It must be a readable PEM file",
        };
        CertError::new(part, format!("{} {}: {e}", part.title(), path.display()), help)
    })
}

/// Checks that other users can't read or write a key file.
fn check_private(path: &Path) -> Result<(), CertError> {
    let Ok(metadata) = std::fs::metadata(path) else {
        // It was read a moment ago and has been replaced or removed since: the next reload finds out.
        return Ok(());
    };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & OTHERS == 0 {
        return Ok(());
    }
    let shown = path.display();
    Err(CertError::new(
        CertificateKey::Key,
        format!("key {shown}: every user of this machine may read or write it (mode {mode:04o})"),
        format!(
            "Run `chmod o-rw {shown}` (for a Kubernetes secret set `defaultMode: 0440`), and replace the key if it may have been copied"
        ),
    ))
}

/// Reads the file of a key.
///
/// # Errors
/// The file is missing or not readable, or other users can read or write it.
pub(crate) fn key_file(path: &Path) -> Result<Vec<u8>, CertError> {
    let key = file(path, CertificateKey::Key)?;
    // If `key` names a certificate by mistake, its permissions don't matter: the mistake itself is reported later.
    if pem::content(&key) != pem::Content::Certificate {
        check_private(path)?;
    }
    Ok(key)
}

/// Validity period of a certificate, in seconds since the epoch. Both ends are included (RFC 5280 §4.1.2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub not_before: i64,
    pub not_after: i64,
}

impl Validity {
    /// Whether the certificate is valid at `now`.
    pub(crate) fn covers(self, now: i64) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }
}

/// Properties of a leaf certificate.
#[derive(Debug)]
pub(crate) struct LeafInfo {
    pub validity: Validity,
    /// DNS names, possibly like `*.example.com`, and addresses as text. Lower case.
    pub covers: Vec<String>,
    /// The serial number, as DER has it.
    pub serial: Vec<u8>,
}

/// Parses the chain of a certificate, its leaf first.
///
/// # Errors
/// The file at `path` doesn't contain certificates in PEM, or the first one is malformed.
pub(crate) fn chain(
    path: &Path,
    pem: &[u8],
) -> Result<(Vec<CertificateDer<'static>>, LeafInfo), CertError> {
    let shown = path.display();
    let error = |message: String, help: &str| CertError::new(CertificateKey::Cert, message, help);
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|e| {
            let message = format!("certificate {shown} is not valid PEM: {e}");
            error(message, "The file may be incomplete")
        })?;
    let Some(leaf) = chain.first() else {
        return Err(pem::no_certificate(path, pem, CertificateKey::Cert));
    };
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|e| {
        let message = format!("certificate {shown}: its first certificate can't be read: {e}");
        error(message, "The file may be damaged")
    })?;
    let about = LeafInfo {
        validity: Validity {
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
        },
        covers: alternative_names(&parsed),
        serial: parsed.tbs_certificate.raw_serial().to_vec(),
    };
    Ok((chain, about))
}

/// Parses a private key.
///
/// # Errors
/// The file at `path` doesn't contain a key that `provider` can use.
pub(crate) fn signing_key(
    path: &Path,
    bytes: &[u8],
    provider: &CryptoProvider,
) -> Result<Arc<dyn SigningKey>, CertError> {
    let key = PrivateKeyDer::from_pem_slice(bytes)
        .map_err(|e| pem::no_key(path, bytes, &e.to_string()))?;
    provider.key_provider.load_private_key(key).map_err(|e| {
        // A key that is encrypted in the traditional OpenSSL format has the PEM label of a plain key, and fails only here.
        match pem::content(bytes) {
            pem::Content::EncryptedKey => pem::no_key(path, bytes, &e.to_string()),
            _ => CertError::new(
                CertificateKey::Key,
                format!("key {} can't be used: {e}", path.display()),
                "RSA from 2048 bits, ECDSA P-256/P-384 and Ed25519 work",
            ),
        }
    })
}

/// Checks that the key belongs to the certificate. A key whose public part can't be computed is accepted.
///
/// # Errors
/// The key belongs to another certificate.
pub(crate) fn check_key_matches(
    cert_path: &Path,
    key_path: &Path,
    key: &CertifiedKey,
) -> Result<(), CertError> {
    match key.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(()),
        Err(e) => Err(CertError::new(
            CertificateKey::Key,
            format!(
                "key {} does not belong to certificate {} ({e})",
                key_path.display(),
                cert_path.display()
            ),
            "Use the key that the certificate was issued for, and put the server's own certificate first in the chain",
        )),
    }
}

/// The error for a certificate file that contains the key, and a key file that contains the certificate.
pub(crate) fn swapped(cert: (&Path, &[u8]), key: (&Path, &[u8])) -> Option<CertError> {
    pem::are_swapped(cert.1, key.1).then(|| {
        let message = format!(
            "`cert` and `key` are swapped: {} holds the key, and {} the certificate",
            cert.0.display(),
            key.0.display()
        );
        CertError::new(CertificateKey::Cert, message, "Exchange the two paths")
    })
}

/// Subject alternative names, in lower case; addresses as text.
pub(crate) fn alternative_names(cert: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = cert.subject_alternative_name() else {
        return Vec::new();
    };
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes)
                .ok()
                .map(|b| std::net::IpAddr::from(b).to_string()),
            16 => <[u8; 16]>::try_from(*bytes)
                .ok()
                .map(|b| std::net::IpAddr::from(b).to_string()),
            _ => None,
        },
        _ => None,
    };
    names.value.general_names.iter().filter_map(text).collect()
}

/// Parses the authorities that the key `part` names.
///
/// # Errors
/// The file at `path` doesn't contain certificates in PEM, or one of them can't be an authority.
pub(crate) fn authorities(
    path: &Path,
    pem: &[u8],
    part: CertificateKey,
) -> Result<RootCertStore, CertError> {
    let (shown, name) = (path.display(), part.key());
    let error = |message: String| CertError::new(part, message, "");
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(pem) {
        let cert = cert.map_err(|e| error(format!("{name} {shown} is not valid PEM: {e}")))?;
        roots.add(cert).map_err(|e| {
            error(format!(
                "{name} {shown}: one of its certificates can't be used: {e}"
            ))
        })?;
    }
    if roots.is_empty() {
        return Err(pem::no_certificate(path, pem, part));
    }
    Ok(roots)
}

/// Seconds since the epoch at which `humantime` can't format a time any more; it panics there.
const YEAR_10000: u64 = 253_402_300_800;

/// Formats seconds since the Unix epoch for people: `2026-11-28T17:00:00Z` (RFC 3339).
pub fn date(seconds: i64) -> String {
    // Nobody issues certificates for times before 1970 on purpose; the epoch is close enough.
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    match since.as_secs() < YEAR_10000 {
        true => humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string(),
        false => "the year 10000 or later".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn dates_of_every_size() {
        assert_eq!(date(0), "1970-01-01T00:00:00Z");
        assert_eq!(date(-5), "1970-01-01T00:00:00Z");
        assert_eq!(date(1_795_000_000), "2026-11-18T11:06:40Z");
        assert_eq!(date(253_402_300_799), "9999-12-31T23:59:59Z");
        assert_eq!(date(i64::MAX), "the year 10000 or later");
    }
}
