//! TLS to endpoints: the configuration of the client side, with the authorities and the certificate of a version.

use std::io;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::certificates::{
    self, CertError, CertificateKey, FileSlot, Material, News, Validity, provider,
};
use crate::config::spec::UpstreamTls;
use crate::net::StreamSocket;

/// The client side of TLS to the endpoints of a version.
#[derive(Debug)]
pub struct TlsClient {
    /// Offers HTTP/2 and HTTP/1.1.
    pub(super) any: Arc<ClientConfig>,
    /// Offers HTTP/1.1 only.
    pub(super) http1: Arc<ClientConfig>,
    /// The name to send and to verify. Default `None`: the host of the endpoint.
    pub(super) server_name: Option<ServerName<'static>>,
}

impl TlsClient {
    /// TLS 1.2 and 1.3 with these authorities, and the certificate if the server asks for one.
    fn new(
        roots: RootCertStore,
        certificate: Option<Arc<CertifiedKey>>,
        server_name: Option<ServerName<'static>>,
    ) -> Self {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            // aws-lc-rs implements both versions.
            .expect("the provider supports TLS 1.2 and 1.3")
            .with_root_certificates(roots);
        let mut config = match certificate {
            None => builder.with_no_client_auth(),
            Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let mut http1 = config.clone();
        http1.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self {
            any: Arc::new(config),
            http1: Arc::new(http1),
            server_name,
        }
    }
}

#[cfg(test)]
impl TlsClient {
    /// Creates a client that trusts no authority.
    pub(super) fn for_tests() -> Self {
        Self::new(RootCertStore::empty(), None, None)
    }
}

/// TLS with the system's root certificates, without a client certificate. Built on first use.
pub(super) static SYSTEM: LazyLock<TlsClient> =
    LazyLock::new(|| TlsClient::new(system_roots(), None, None));

/// Opens a TLS session over a connection to `host`, for a protocol over HTTP/2. `identity` replaces the system's settings.
///
/// # Errors
/// The handshake failed, or the server speaks no HTTP/2.
pub async fn open_h2(
    identity: Option<&TlsIdentity>,
    host: &str,
    tcp: StreamSocket,
) -> io::Result<TlsStream<StreamSocket>> {
    let client = identity.map_or(&*SYSTEM, |identity| &identity.client);
    let name = match &client.server_name {
        Some(name) => name.clone(),
        None => ServerName::try_from(host.to_owned()).map_err(io::Error::other)?,
    };
    let session = TlsConnector::from(client.any.clone()).connect(name, tcp);
    let session = session.await?;
    match session.get_ref().1.alpn_protocol() {
        Some(b"h2") => Ok(session),
        _ => Err(io::Error::other("the server speaks no HTTP/2")),
    }
}

/// Returns the configuration of TLS for clients that speak HTTP/1.1 only. The first call of the process reads the root
/// certificates from disk.
pub fn http1_tls() -> Arc<ClientConfig> {
    Arc::clone(&SYSTEM.http1)
}

/// The system's root certificates. The environment variables `SSL_CERT_FILE` and `SSL_CERT_DIR` replace them, as in OpenSSL.
fn system_roots() -> RootCertStore {
    static ROOTS: LazyLock<RootCertStore> = LazyLock::new(|| {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a root certificate of this machine could not be read");
        }
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            tracing::error!(
                "this machine has no root certificates: no https:// endpoint can be verified; \
                 install ca-certificates, set SSL_CERT_FILE, or name the authorities by `tls.ca`"
            );
        }
        roots
    });
    ROOTS.clone()
}

/// The TLS settings of a version, read from its files.
#[derive(Debug)]
pub struct TlsIdentity {
    /// The TLS settings in the configuration.
    pub spec: UpstreamTls,
    /// Validity of the client certificate, if there is one.
    pub validity: Option<Validity>,
    /// The TLS client that opens connections with these settings.
    pub client: Arc<TlsClient>,
    fingerprint: u64,
}

/// The settings in use, and the reason why present files were refused.
pub type IdentitySlot = FileSlot<TlsIdentity>;

/// Contents of the files of a version.
struct IdentityFiles {
    ca: Option<Vec<u8>>,
    chain: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
}

impl IdentityFiles {
    fn read(spec: &UpstreamTls) -> Result<Self, Vec<CertError>> {
        let file = |path: &Option<_>, part| {
            let path: Option<&Path> = path.as_deref();
            path.map(|path| certificates::file(path, part)).transpose()
        };
        let ca = file(&spec.ca, CertificateKey::Ca);
        let chain = file(&spec.cert, CertificateKey::Cert);
        let key = { spec.key.as_deref() }
            .map(certificates::key_file)
            .transpose();
        match (ca, chain, key) {
            (Ok(ca), Ok(chain), Ok(key)) => Ok(Self { ca, chain, key }),
            (ca, chain, key) => {
                let errors = [ca.err(), chain.err(), key.err()];
                Err(errors.into_iter().flatten().collect())
            }
        }
    }

    fn fingerprint(&self) -> u64 {
        let files = [&self.ca, &self.chain, &self.key];
        certificates::fingerprint(files.into_iter().flatten())
    }
}

impl TlsIdentity {
    /// Reads the files of a version. If they are broken or worse than those of `former`, its settings stay in use.
    ///
    /// # Errors
    /// All errors in the files of a version without `former`.
    pub fn read(
        spec: &UpstreamTls,
        former: Option<&IdentitySlot>,
        now: std::time::SystemTime,
    ) -> Result<(IdentitySlot, News), Vec<CertError>> {
        let files = IdentityFiles::read(spec);
        let fingerprint = files.as_ref().ok().map(IdentityFiles::fingerprint);
        let parse = || files.and_then(|files| Self::new(spec, &files));
        FileSlot::read(former, fingerprint, now, parse)
    }

    /// Reads the files, without any to fall back to.
    ///
    /// # Errors
    /// All errors in the files.
    pub fn load(spec: &UpstreamTls) -> Result<Self, Vec<CertError>> {
        Self::new(spec, &IdentityFiles::read(spec)?)
    }

    fn new(spec: &UpstreamTls, files: &IdentityFiles) -> Result<Self, Vec<CertError>> {
        let roots = match spec.ca.as_deref().zip(files.ca.as_deref()) {
            Some((path, pem)) => certificates::authorities(path, pem, CertificateKey::Ca),
            None => Ok(system_roots()),
        };
        let own = spec.cert.as_deref().zip(files.chain.as_deref());
        let own = own.zip(spec.key.as_deref().zip(files.key.as_deref()));
        let own = own.map(|(cert, key)| certificate(cert, key, &provider()));
        let (roots, own) = match (roots, own.transpose()) {
            (Ok(roots), Ok(own)) => (roots, own),
            (roots, own) => {
                let errors = roots.err().into_iter();
                return Err(errors.chain(own.err().into_iter().flatten()).collect());
            }
        };
        let (key, validity) = own.unzip();
        Ok(Self {
            spec: spec.clone(),
            validity,
            client: Arc::new(TlsClient::new(roots, key, spec.server_name.clone())),
            fingerprint: files.fingerprint(),
        })
    }

    /// Warns if endpoints will refuse the certificate at this time.
    pub fn warning(&self, now: i64) -> Option<CertError> {
        let (validity, path) = (self.validity?, self.spec.cert.as_ref()?);
        let message = || {
            format!(
                "certificate {} is not valid now (valid from {} to {}); endpoints will refuse it",
                path.display(),
                certificates::date(validity.not_before),
                certificates::date(validity.not_after)
            )
        };
        (!validity.covers(now)).then(|| CertError::new(CertificateKey::Cert, message(), ""))
    }

    /// The file whose state is shown: the certificate, or else the authorities.
    pub fn file(&self) -> &Path {
        let path = self.spec.cert.as_deref().or(self.spec.ca.as_deref());
        path.unwrap_or(Path::new(""))
    }
}

impl Material for TlsIdentity {
    fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    fn valid_from(&self) -> Option<i64> {
        self.validity.map(|validity| validity.not_before)
    }

    fn worse_than(&self, current: &Self, now: i64) -> Option<CertError> {
        let path = self.spec.cert.as_ref()?;
        certificates::outdated(path, self.validity?, current.validity?, now)
    }
}

/// Parses a certificate and its key.
fn certificate(
    cert: (&Path, &[u8]),
    key: (&Path, &[u8]),
    provider: &CryptoProvider,
) -> Result<(Arc<CertifiedKey>, Validity), Vec<CertError>> {
    if let Some(error) = certificates::swapped(cert, key) {
        return Err(vec![error]);
    }
    let chain = certificates::chain(cert.0, cert.1);
    let signing = certificates::signing_key(key.0, key.1, provider);
    let ((chain, leaf), signing) = match (chain, signing) {
        (Ok(chain), Ok(signing)) => (chain, signing),
        (chain, signing) => {
            let errors = [chain.err(), signing.err()];
            return Err(errors.into_iter().flatten().collect());
        }
    };
    let certified = CertifiedKey::new(chain, signing);
    certificates::check_key_matches(cert.0, key.0, &certified).map_err(|error| vec![error])?;
    Ok((Arc::new(certified), leaf.validity))
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
