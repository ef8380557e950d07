//! Certificate files to keys that a handshake can use. Every error says which file, what is wrong and what to do.

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

use crate::config::spec;

/// Permission bits of a key file that let others read or write it.
const OTHERS: u32 = 0o006;

/// The bytes of one certificate's files, read at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// PEM chain.
    pub chain: Vec<u8>,
    /// PEM key.
    pub key: Vec<u8>,
    /// PEM of the authorities for client certificates.
    pub client_ca: Option<Vec<u8>>,
}

/// What a certificate is good for.
pub(super) struct Material {
    pub key: Arc<CertifiedKey>,
    /// What the certificate covers.
    pub covers: Arc<[String]>,
    /// Server names that get this certificate.
    pub serves: Vec<String>,
    pub warnings: Vec<String>,
}

impl Files {
    /// Reads the files of one certificate.
    ///
    /// # Errors
    /// A file is not there, not readable, or the key is open to others.
    pub fn read(cert: &spec::Cert) -> Result<Self, String> {
        private(&cert.key)?;
        Ok(Self {
            chain: file(&cert.cert, "certificate")?,
            key: file(&cert.key, "key")?,
            client_ca: cert
                .client_ca
                .as_deref()
                .map(|p| file(p, "client_ca"))
                .transpose()?,
        })
    }
}

/// A number that differs when any of the files does.
pub fn fingerprint(files: &[Files]) -> u64 {
    let mut all = Vec::new();
    for f in files {
        for part in [Some(&f.chain), Some(&f.key), f.client_ca.as_ref()]
            .into_iter()
            .flatten()
        {
            all.extend_from_slice(&xxh3_64(part).to_le_bytes());
        }
    }
    xxh3_64(&all)
}

fn file(path: &Path, what: &str) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|e| {
        let hint = match e.kind() {
            std::io::ErrorKind::NotFound => "Check the path; it is taken from the directory that cutover runs in unless it begins with /",
            std::io::ErrorKind::PermissionDenied => "Make it readable for the user that cutover runs as",
            _ => "It must be a readable PEM file",
        };
        format!("{what} {}: {e}. {hint}", path.display())
    })
}

/// Refuses a key that others may read or write.
fn private(path: &Path) -> Result<(), String> {
    let Ok(metadata) = std::fs::metadata(path) else {
        // Reading it will fail as well, and says why.
        return Ok(());
    };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & OTHERS == 0 {
        return Ok(());
    }
    Err(format!(
        "key {}: every user of this machine may read or write it (mode {mode:04o}). Run `chmod o-rw {}` (for a Kubernetes \
         secret set `defaultMode: 0440`), and replace the key if it may have been copied",
        path.display(),
        path.display()
    ))
}

/// Makes a usable key of the files.
pub(super) fn read(
    cert: &spec::Cert,
    files: &Files,
    provider: &CryptoProvider,
) -> Result<Material, String> {
    let (cert_path, key_path) = (cert.cert.display(), cert.key.display());
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&files.chain)
        .collect::<Result<_, _>>()
        .map_err(|e| {
            format!("certificate {cert_path}: not valid PEM: {e}. It may be written only in part")
        })?;
    let Some(leaf) = chain.first() else {
        return Err(format!(
            "certificate {cert_path}: holds no `BEGIN CERTIFICATE` block. It must be a PEM chain, the server's own certificate first"
        ));
    };
    let (_, parsed) = X509Certificate::from_der(leaf)
        .map_err(|e| format!("certificate {cert_path}: its first certificate can't be read: {e}. Is the file damaged?"))?;
    let covers: Arc<[String]> = covered(&parsed).into();
    let mut warnings = Vec::new();
    if !parsed.validity().is_valid() {
        let v = parsed.validity();
        warnings.push(format!(
            "certificate {cert_path} is not valid now (valid from {} to {}); clients will refuse it",
            v.not_before, v.not_after
        ));
    }
    let serves = serves(cert, &covers, &mut warnings)?;
    let key = PrivateKeyDer::from_pem_slice(&files.key)
        .map_err(|e| format!("key {key_path}: no private key in PEM found: {e}. Expected a `BEGIN PRIVATE KEY` block (not encrypted)"))?;
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|e| format!("key {key_path}: can't be used: {e}. RSA from 2048 bits, ECDSA P-256/P-384 and Ed25519 work"))?;
    let key = Arc::new(CertifiedKey::new(chain, key));
    match key.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(e) => {
            return Err(format!(
                "key {key_path} does not belong to certificate {cert_path} ({e}). Put the key there that the certificate was issued for, and its certificate first in the chain"
            ));
        }
    }
    Ok(Material {
        key,
        covers,
        serves,
        warnings,
    })
}

/// Server names that get this certificate.
fn serves(
    cert: &spec::Cert,
    covers_names: &[String],
    warnings: &mut Vec<String>,
) -> Result<Vec<String>, String> {
    if cert.sni.is_empty() {
        // Addresses are never asked for by name.
        let names: Vec<String> = covers_names
            .iter()
            .filter(|n| n.parse::<std::net::IpAddr>().is_err())
            .cloned()
            .collect();
        if covers_names.is_empty() {
            return Err(format!(
                "certificate {}: names no host (it has no subject alternative name), so it is unknown whom it is for. Write `sni = [...]` beside it, or use a certificate with names",
                cert.cert.display()
            ));
        }
        return Ok(names);
    }
    for name in &cert.sni {
        if !covers_names
            .iter()
            .any(|c| c == name || super::covers(c, name))
        {
            warnings.push(format!(
                "certificate {} does not cover {name}, which its `sni` names; clients will refuse it (it covers: {})",
                cert.cert.display(),
                covers_names.join(", ")
            ));
        }
    }
    Ok(cert.sni.clone())
}

/// The subject alternative names, lower case; addresses as text.
fn covered(cert: &X509Certificate<'_>) -> Vec<String> {
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

/// The authorities whose client certificates are demanded.
pub(super) fn authorities(path: &Path, pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(pem) {
        let cert = cert.map_err(|e| format!("client_ca {}: not valid PEM: {e}", path.display()))?;
        roots.add(cert).map_err(|e| {
            format!(
                "client_ca {}: one of its certificates can't be used: {e}",
                path.display()
            )
        })?;
    }
    if roots.is_empty() {
        return Err(format!(
            "client_ca {}: holds no `BEGIN CERTIFICATE` block. It must be the PEM of the authorities that issue your clients' certificates",
            path.display()
        ));
    }
    Ok(roots)
}
