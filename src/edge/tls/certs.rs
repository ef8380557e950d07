//! Reads certificate files and checks that they can be used: PEM, key format and permissions, matching key, names. Every error
//! names the file, the problem and what to do about it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use xxhash_rust::xxh3::xxh3_64;

use super::cert_error::{CertError, CertificateKey};
use super::pem;
use crate::config::spec;
use crate::snapshot::date;

/// Permission bits that let users other than owner and group read or write a key file.
const OTHERS: u32 = 0o006;

/// Contents of the files of one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Files {
    chain: Vec<u8>,
    key: Vec<u8>,
    /// Authorities for client certificates.
    client_ca: Option<Vec<u8>>,
}

impl Files {
    /// Reads the files of one certificate.
    ///
    /// # Errors
    /// All files that are missing or not readable, or a key file that other users can read or write.
    pub(super) fn read(cert: &spec::Cert) -> Result<Self, Vec<CertError>> {
        let chain = file(&cert.cert, CertificateKey::Cert);
        let key = file(&cert.key, CertificateKey::Key);
        let client_ca = cert.client_ca.as_deref();
        let client_ca = client_ca
            .map(|path| file(path, CertificateKey::ClientCa))
            .transpose();
        match (chain, key, client_ca) {
            (Ok(chain), Ok(key), Ok(client_ca)) => {
                // If `key` names a certificate by mistake, its permissions don't matter: the mistake itself is reported later.
                if pem::content(&key) != pem::Content::Certificate {
                    check_private(&cert.key).map_err(|error| vec![error])?;
                }
                Ok(Self {
                    chain,
                    key,
                    client_ca,
                })
            }
            (chain, key, client_ca) => Err([chain.err(), key.err(), client_ca.err()]
                .into_iter()
                .flatten()
                .collect()),
        }
    }

    /// A hash of all files, to detect changes.
    pub(super) fn fingerprint(&self) -> u64 {
        let parts = [Some(&self.chain), Some(&self.key), self.client_ca.as_ref()];
        let hashes: Vec<u8> = parts
            .into_iter()
            .flatten()
            .flat_map(|part| xxh3_64(part).to_le_bytes())
            .collect();
        xxh3_64(&hashes)
    }
}

fn file(path: &Path, part: CertificateKey) -> Result<Vec<u8>, CertError> {
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

/// Validity period of a certificate, in seconds since the epoch. Both ends are included (RFC 5280 §4.1.2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub not_before: i64,
    pub not_after: i64,
}

impl Validity {
    /// Whether the certificate is valid at `now`.
    pub(crate) fn covers(self, now: i64) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }
}

/// A certificate that handshakes can use.
#[derive(Debug)]
pub(crate) struct Certificate {
    /// Its configuration.
    pub spec: spec::Cert,
    /// Hash of the files that it was read from.
    pub fingerprint: u64,
    pub validity: Validity,
    /// Names in the certificate: DNS names, possibly like `*.example.com`, and addresses as text. Lower case.
    pub covers: Arc<[String]>,
    /// Server names for which it is presented.
    pub serves: Vec<String>,
    pub(super) key: Arc<CertifiedKey>,
    /// The authorities whose client certificates are required, as PEM and parsed.
    pub(super) authority: Option<(Vec<u8>, Arc<RootCertStore>)>,
}

impl Certificate {
    /// Parses and checks the files of a certificate.
    ///
    /// # Errors
    /// All errors found in them.
    pub(super) fn new(
        spec: &spec::Cert,
        files: &Files,
        provider: &CryptoProvider,
    ) -> Result<Self, Vec<CertError>> {
        if pem::are_swapped(&files.chain, &files.key) {
            let message = format!(
                "`cert` and `key` are swapped: {} holds the key, and {} the certificate",
                spec.cert.display(),
                spec.key.display()
            );
            return Err(vec![CertError::new(
                CertificateKey::Cert,
                message,
                "Exchange the two paths",
            )]);
        }
        let leaf = chain(&spec.cert, &files.chain);
        let key = signing_key(&spec.key, &files.key, provider);
        let authority = files.client_ca.as_ref().zip(spec.client_ca.as_ref());
        let authority = authority
            .map(|(pem, path)| authorities(path, pem).map(|roots| (pem.clone(), Arc::new(roots))))
            .transpose();
        let ((chain, about), key, authority) = match (leaf, key, authority) {
            (Ok(leaf), Ok(key), Ok(authority)) => (leaf, key, authority),
            (leaf, key, authority) => {
                let errors = [leaf.err(), key.err(), authority.err()];
                return Err(errors.into_iter().flatten().collect());
            }
        };
        let key = Arc::new(CertifiedKey::new(chain, key));
        check_key_matches(spec, &key).map_err(|error| vec![error])?;
        let serves = served_names(spec, &about.covers).map_err(|error| vec![error])?;
        Ok(Self {
            spec: spec.clone(),
            fingerprint: files.fingerprint(),
            validity: about.validity,
            covers: about.covers.into(),
            serves,
            key,
            authority,
        })
    }

    /// Names of its `sni` that it doesn't cover.
    pub(super) fn uncovered(&self) -> Vec<&str> {
        let covered = |name: &str| {
            let mut covers = self.covers.iter();
            covers.any(|c| c == name || super::covers(c, name))
        };
        let names = self.spec.sni.iter().map(String::as_str);
        names.filter(|name| !covered(name)).collect()
    }

    /// Warns if clients will reject the certificate, at this time or for some of the names in `sni`.
    pub(crate) fn warnings(&self, now: i64) -> Vec<CertError> {
        let shown = self.spec.cert.display();
        let mut warnings = Vec::new();
        if !self.validity.covers(now) {
            let Validity {
                not_before,
                not_after,
            } = self.validity;
            warnings.push(CertError::new(
                CertificateKey::Cert,
                format!(
                    "certificate {shown} is not valid now (valid from {} to {}); clients will refuse it",
                    date(not_before),
                    date(not_after)
                ),
                "",
            ));
        }
        for name in self.uncovered() {
            warnings.push(CertError::new(
                CertificateKey::Sni,
                format!(
                    "certificate {shown} does not cover {name}, which its `sni` names; clients will refuse it (it covers: {})",
                    self.covers.join(", ")
                ),
                "",
            ));
        }
        warnings
    }
}

/// Properties of a leaf certificate.
struct LeafInfo {
    validity: Validity,
    covers: Vec<String>,
}

fn chain(path: &Path, pem: &[u8]) -> Result<(Vec<CertificateDer<'static>>, LeafInfo), CertError> {
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
    };
    Ok((chain, about))
}

fn signing_key(
    path: &Path,
    bytes: &[u8],
    provider: &CryptoProvider,
) -> Result<Arc<dyn rustls::sign::SigningKey>, CertError> {
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
fn check_key_matches(spec: &spec::Cert, key: &CertifiedKey) -> Result<(), CertError> {
    match key.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(()),
        Err(e) => Err(CertError::new(
            CertificateKey::Key,
            format!(
                "key {} does not belong to certificate {} ({e})",
                spec.key.display(),
                spec.cert.display()
            ),
            "Use the key that the certificate was issued for, and put the server's own certificate first in the chain",
        )),
    }
}

/// Server names for which a certificate is presented: `sni`, or else its own names.
fn served_names(spec: &spec::Cert, covers: &[String]) -> Result<Vec<String>, CertError> {
    if !spec.sni.is_empty() {
        return Ok(spec.sni.clone());
    }
    if covers.is_empty() {
        return Err(CertError::new(
            CertificateKey::Cert,
            format!(
                "certificate {} has no subject alternative name, so it is unknown which hosts it is for",
                spec.cert.display()
            ),
            "Write `sni = [...]` beside it, or use a certificate with names",
        ));
    }
    // Clients don't send addresses as server names (RFC 6066 §3).
    let is_name = |name: &&String| name.parse::<std::net::IpAddr>().is_err();
    Ok(covers.iter().filter(is_name).cloned().collect())
}

/// Subject alternative names, in lower case; addresses as text.
fn alternative_names(cert: &X509Certificate<'_>) -> Vec<String> {
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

/// Parses the authorities for client certificates.
fn authorities(path: &Path, pem: &[u8]) -> Result<RootCertStore, CertError> {
    let shown = path.display();
    let error = |message: String| CertError::new(CertificateKey::ClientCa, message, "");
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(pem) {
        let cert = cert.map_err(|e| error(format!("client_ca {shown} is not valid PEM: {e}")))?;
        roots.add(cert).map_err(|e| {
            error(format!(
                "client_ca {shown}: one of its certificates can't be used: {e}"
            ))
        })?;
    }
    if roots.is_empty() {
        return Err(pem::no_certificate(path, pem, CertificateKey::ClientCa));
    }
    Ok(roots)
}
