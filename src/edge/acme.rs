//! Answers to challenges of an ACME authority, which makes sure that a name leads to this proxy (RFC 8555 section 8).
//!
//! The control plane stores the answers; listeners read them. An answer over HTTP consists of the token that was asked for and the
//! thumbprint of the account's key, so that every proxy with the same account can give it, whichever of them ordered the
//! certificate.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::ServerConfig;
use rustls::sign::CertifiedKey;

/// The path of challenges, up to the token (RFC 8555 section 8.3).
const PATH: &[u8] = b"/.well-known/acme-challenge/";
/// The protocol of challenges over TLS (RFC 8737 section 3).
pub(crate) const ALPN: &[u8] = b"acme-tls/1";

/// The answers to challenges.
#[derive(Default)]
pub struct AcmeAnswers {
    /// Thumbprint of the account's key, once there is one.
    thumbprint: ArcSwapOption<String>,
    /// The certificates for challenges over TLS, by name.
    certificates: ArcSwap<HashMap<String, Arc<ServerConfig>>>,
}

impl fmt::Debug for AcmeAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AcmeAnswers")
    }
}

impl AcmeAnswers {
    /// Sets the thumbprint of the account's key.
    pub fn set_thumbprint(&self, thumbprint: &str) {
        self.thumbprint.store(Some(Arc::new(thumbprint.to_owned())));
    }

    /// Sets the certificate that a challenge for `name` gets; `None` removes it.
    ///
    /// # Errors
    /// rustls refuses the certificate.
    pub fn set_certificate(
        &self,
        name: &str,
        certificate: Option<CertifiedKey>,
    ) -> Result<(), rustls::Error> {
        let mut all = HashMap::clone(&self.certificates.load());
        match certificate {
            Some(certificate) => all.insert(name.to_owned(), config(certificate)?),
            None => all.remove(name),
        };
        self.certificates.store(Arc::new(all));
        Ok(())
    }

    /// The answer to a challenge over HTTP; `None` if the path isn't one, or there is no account yet.
    pub(crate) fn to_path(&self, path: &[u8]) -> Option<String> {
        let token = path.strip_prefix(PATH)?;
        // RFC 8555 section 8.3: base64url. Anything else can't be a token, and is not echoed.
        let is_token = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        if token.is_empty() || token.len() > 256 || !token.iter().all(is_token) {
            return None;
        }
        let thumbprint = self.thumbprint.load();
        let thumbprint = thumbprint.as_ref()?;
        Some(format!("{}.{thumbprint}", String::from_utf8_lossy(token)))
    }

    /// The configuration for a handshake in which an authority asks for `name`; `None` if no challenge is open for it.
    pub(crate) fn to_handshake(&self, name: &str) -> Option<Arc<ServerConfig>> {
        self.certificates.load().get(name).cloned()
    }
}

fn config(certificate: CertifiedKey) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certificate)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tokens_are_answered_and_only_with_an_account() {
        let answers = AcmeAnswers::default();
        let path = b"/.well-known/acme-challenge/abc-DEF_123";
        assert_eq!(answers.to_path(path), None);
        answers.set_thumbprint("print");
        assert_eq!(answers.to_path(path).as_deref(), Some("abc-DEF_123.print"));
        for other in [
            "/.well-known/acme-challenge/",
            "/.well-known/acme-challenge/a/b",
            "/.well-known/acme-challenge/a.b",
            "/.well-known/acme-challenge/%3Cscript%3E",
            "/.well-known/other",
            "/",
        ] {
            assert_eq!(answers.to_path(other.as_bytes()), None, "{other}");
        }
        let long = format!("/.well-known/acme-challenge/{}", "a".repeat(257));
        assert_eq!(answers.to_path(long.as_bytes()), None);
    }
}
