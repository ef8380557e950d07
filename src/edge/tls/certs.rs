//! Reads certificate files and checks that they can be used: PEM, key format and permissions, matching key, names. Every error
//! names the file, the problem and what to do about it.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;

use crate::certificates::{
    self, CertError, CertificateKey, OcspResponse, Validity, date, ocsp_path, seconds,
};
use crate::config::spec::{self, ClientAuth};

/// Contents of the files of one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Files {
    chain: Vec<u8>,
    key: Vec<u8>,
    /// Authorities for client certificates.
    client_ca: Option<Vec<u8>>,
    /// The OCSP response beside the certificate.
    ocsp: Option<Vec<u8>>,
}

impl Files {
    /// Reads the files of one certificate.
    ///
    /// # Errors
    /// All files that are missing or not readable, or a key file that other users can read or write.
    pub(super) fn read(cert: &spec::Cert) -> Result<Self, Vec<CertError>> {
        let chain = certificates::file(&cert.cert, CertificateKey::Cert);
        let key = certificates::key_file(&cert.key);
        let client_ca = cert.client_ca.as_deref();
        let client_ca = client_ca
            .map(|path| certificates::file(path, CertificateKey::ClientCa))
            .transpose();
        match (chain, key, client_ca) {
            (Ok(chain), Ok(key), Ok(client_ca)) => Ok(Self {
                chain,
                key,
                client_ca,
                // Most certificates have no OCSP response. A file that can't be read counts as missing.
                ocsp: std::fs::read(ocsp_path(&cert.cert)).ok(),
            }),
            (chain, key, client_ca) => Err([chain.err(), key.err(), client_ca.err()]
                .into_iter()
                .flatten()
                .collect()),
        }
    }

    /// A hash of all files, to detect changes.
    pub(super) fn fingerprint(&self) -> u64 {
        let optional = [&self.client_ca, &self.ocsp];
        let parts = [&self.chain, &self.key].into_iter();
        certificates::fingerprint(parts.chain(optional.into_iter().flatten()))
    }
}

/// A certificate that handshakes can use.
///
/// Immutable. The table of a listener and the reader of files share it; files that changed give a new one, and handshakes under way
/// end with the one that they have.
#[derive(Debug)]
pub struct Certificate {
    /// The certificate in the configuration.
    pub spec: spec::Cert,
    /// Hash of the files that it was read from.
    pub fingerprint: u64,
    pub validity: Validity,
    /// Names in the certificate: DNS names, possibly like `*.example.com`, and addresses as text. Lower case.
    pub covers: Arc<[String]>,
    /// Server names (SNI) for which the certificate is presented.
    pub serves: Vec<String>,
    pub(super) key: Arc<CertifiedKey>,
    /// The same certificate with the OCSP response beside it.
    pub(super) stapled: Option<(Arc<CertifiedKey>, OcspResponse)>,
    /// Why the file with that response can't be used.
    ocsp_error: Option<CertError>,
    /// The authorities whose client certificates are requested.
    pub(super) authority: Option<ClientAuthority>,
}

/// Certificate authorities for client certificates.
#[derive(Clone, Debug)]
pub(super) struct ClientAuthority {
    pub(super) pem: Vec<u8>,
    pub(super) auth: ClientAuth,
    pub(super) roots: Arc<RootCertStore>,
}

impl ClientAuthority {
    /// Whether handshakes under both are alike.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.auth == other.auth && self.pem == other.pem
    }
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
        let (cert_file, key_file) = ((&*spec.cert, &*files.chain), (&*spec.key, &*files.key));
        if let Some(error) = certificates::swapped(cert_file, key_file) {
            return Err(vec![error]);
        }
        let leaf = certificates::chain(&spec.cert, &files.chain);
        let key = certificates::signing_key(&spec.key, &files.key, provider);
        let authority = files.client_ca.as_ref().zip(spec.client_ca.as_ref());
        let authority = authority
            .map(|(pem, path)| {
                let roots = certificates::authorities(path, pem, CertificateKey::ClientCa)?;
                Ok(ClientAuthority {
                    pem: pem.clone(),
                    auth: spec.client_auth,
                    roots: Arc::new(roots),
                })
            })
            .transpose();
        // All files were read before the first error is reported, so that one attempt finds all of them.
        let ((chain, about), key, authority) = match (leaf, key, authority) {
            (Ok(leaf), Ok(key), Ok(authority)) => (leaf, key, authority),
            (leaf, key, authority) => {
                let errors = [leaf.err(), key.err(), authority.err()];
                return Err(errors.into_iter().flatten().collect());
            }
        };
        let key = Arc::new(CertifiedKey::new(chain, key));
        certificates::check_key_matches(&spec.cert, &spec.key, &key)
            .map_err(|error| vec![error])?;
        let serves = served_names(spec, &about.covers).map_err(|error| vec![error])?;
        let ocsp = files.ocsp.clone().map(|der| {
            let path = ocsp_path(&spec.cert);
            OcspResponse::new(&path, der, &about.serial, seconds(SystemTime::now()))
        });
        let (ocsp, ocsp_error) = match ocsp {
            None => (None, None),
            Some(Ok(response)) => (Some(response), None),
            // A response that can't be used is no reason to refuse the certificate: clients do without.
            Some(Err(error)) => (None, Some(error)),
        };
        Ok(Self {
            spec: spec.clone(),
            fingerprint: files.fingerprint(),
            validity: about.validity,
            covers: about.covers.into(),
            serves,
            stapled: ocsp.map(|response| (stapled(&key, &response), response)),
            ocsp_error,
            key,
            authority,
        })
    }

    /// The reason why the OCSP response of `new`, which has the same certificate, must not replace the current one. `None` if it
    /// may.
    pub(super) fn ocsp_rejection(&self, new: &Self, now: i64) -> Option<CertError> {
        let (_, response) = self.stapled.as_ref()?;
        let is_same = self.key.cert == new.key.cert && response.is_current(now);
        new.ocsp_error.clone().filter(|_| is_same)
    }

    /// Names in `sni` that the certificate doesn't cover.
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
        let mut warnings: Vec<CertError> = self.ocsp_error.clone().into_iter().collect();
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

/// The key with an OCSP response, for clients that ask for one.
fn stapled(key: &CertifiedKey, response: &OcspResponse) -> Arc<CertifiedKey> {
    let mut key = key.clone();
    key.ocsp = Some(response.der.clone());
    Arc::new(key)
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
