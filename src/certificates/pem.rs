//! Classifies a file that should contain a certificate or a key and doesn't, so that error messages can say what it contains.

use std::path::Path;

use super::error::{CertError, CertificateKey};

/// The kind of content that a file appears to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Empty,
    Certificate,
    Key,
    EncryptedKey,
    /// A key in OpenSSH's own format.
    SshKey,
    PublicKey,
    Request,
    /// DER or PKCS #12.
    Binary,
    Other,
}

/// Classifies a file by its first PEM block.
pub(crate) fn content(bytes: &[u8]) -> Content {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Content::Empty;
    }
    // A DER sequence with a two-byte length, or of indefinite length as in some PKCS #12 files.
    if bytes.starts_with(&[0x30, 0x82]) || bytes.starts_with(&[0x30, 0x80]) {
        return Content::Binary;
    }
    let text = String::from_utf8_lossy(bytes);
    let label = text
        .split_once("-----BEGIN ")
        .and_then(|(_, rest)| rest.split_once("-----"));
    match label {
        // Only the first block counts: a file may contain a key and, behind it, its chain.
        Some(("CERTIFICATE" | "TRUSTED CERTIFICATE" | "X509 CERTIFICATE", _)) => {
            Content::Certificate
        }
        Some(("ENCRYPTED PRIVATE KEY", _)) => Content::EncryptedKey,
        // The traditional OpenSSL format says so in a header (RFC 1421 §4.6.1.1).
        Some(("RSA PRIVATE KEY" | "EC PRIVATE KEY", rest))
            if rest.contains("Proc-Type: 4,ENCRYPTED") =>
        {
            Content::EncryptedKey
        }
        Some(("OPENSSH PRIVATE KEY", _)) => Content::SshKey,
        Some((label, _)) if label.ends_with("PRIVATE KEY") => Content::Key,
        Some((label, _)) if label.ends_with("PUBLIC KEY") => Content::PublicKey,
        Some((label, _)) if label.ends_with("CERTIFICATE REQUEST") => Content::Request,
        _ => Content::Other,
    }
}

/// The error for a file without a certificate.
pub(crate) fn no_certificate(path: &Path, bytes: &[u8], part: CertificateKey) -> CertError {
    let (what, help) = match content(bytes) {
        Content::Empty => (
            "is empty, without a `BEGIN CERTIFICATE` block",
            "Write the PEM chain into it, the server's own certificate first".to_owned(),
        ),
        Content::Key | Content::EncryptedKey | Content::SshKey => (
            "holds a private key, and no certificate",
            "`cert` names the PEM chain, `key` the private key".to_owned(),
        ),
        Content::Request => (
            "holds a certificate request",
            "Use the certificate that the authority has issued for this request".to_owned(),
        ),
        Content::Binary => (
            "is binary (DER or PKCS #12), not PEM",
            format!(
                "Convert it, for DER by `openssl x509 -inform der -in {} -out cert.pem`",
                path.display()
            ),
        ),
        _ => (
            "holds no `BEGIN CERTIFICATE` block",
            match part {
                CertificateKey::ClientCa => {
                    "It must be the PEM of the authorities that issue your clients' certificates"
                        .to_owned()
                }
                CertificateKey::Ca => {
                    "It must be the PEM of the authorities that issue the endpoints' certificates"
                        .to_owned()
                }
                _ => "It must be a PEM chain, the server's own certificate first".to_owned(),
            },
        ),
    };
    CertError::new(
        part,
        format!("{} {} {what}", part.title(), path.display()),
        help,
    )
}

/// The error for a file without a usable key.
pub(crate) fn no_key(path: &Path, bytes: &[u8], why: &str) -> CertError {
    let shown = path.display();
    let (what, help) = match content(bytes) {
        Content::Empty => (
            "is empty".to_owned(),
            "Write the PEM of the private key into it".to_owned(),
        ),
        Content::EncryptedKey => (
            "is encrypted with a passphrase".to_owned(),
            format!(
                "cutover can't ask for it: decrypt the key by `openssl pkey -in {shown} -out plain.key`, and keep that file private"
            ),
        ),
        Content::Certificate => (
            "holds a certificate, and no private key".to_owned(),
            "`cert` names the PEM chain, `key` the private key".to_owned(),
        ),
        Content::SshKey => (
            "is in OpenSSH's own format".to_owned(),
            format!("Convert it by `ssh-keygen -p -m PKCS8 -f {shown}`"),
        ),
        Content::PublicKey => (
            "holds a public key".to_owned(),
            "The private key is needed".to_owned(),
        ),
        Content::Binary => (
            "is binary (DER or PKCS #12), not PEM".to_owned(),
            format!("Convert it, for DER by `openssl pkey -inform der -in {shown} -out plain.key`"),
        ),
        _ => (
            format!("holds no private key in PEM: {why}"),
            "Expected a `BEGIN PRIVATE KEY` block (not encrypted)".to_owned(),
        ),
    };
    CertError::new(CertificateKey::Key, format!("key {shown} {what}"), help)
}

/// Whether `cert` contains the key and `key` the certificate.
pub(crate) fn are_swapped(cert: &[u8], key: &[u8]) -> bool {
    let is_key = matches!(content(cert), Content::Key | Content::EncryptedKey);
    is_key && content(key) == Content::Certificate
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_distinguished() {
        for (text, expected) in [
            ("", Content::Empty),
            (" \n", Content::Empty),
            ("-----BEGIN CERTIFICATE-----\n", Content::Certificate),
            (
                "subject=x\n-----BEGIN CERTIFICATE-----\n",
                Content::Certificate,
            ),
            ("-----BEGIN PRIVATE KEY-----\n", Content::Key),
            ("-----BEGIN EC PRIVATE KEY-----\nMHcC\n", Content::Key),
            (
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\n",
                Content::EncryptedKey,
            ),
            (
                "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n",
                Content::EncryptedKey,
            ),
            ("-----BEGIN OPENSSH PRIVATE KEY-----\n", Content::SshKey),
            ("-----BEGIN PUBLIC KEY-----\n", Content::PublicKey),
            ("-----BEGIN CERTIFICATE REQUEST-----\n", Content::Request),
            ("\u{30}hello", Content::Other),
        ] {
            assert_eq!(content(text.as_bytes()), expected, "{text:?}");
        }
        assert_eq!(content(&[0x30, 0x82, 1, 2]), Content::Binary);
    }
}
