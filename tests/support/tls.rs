//! Certificates made on the spot, and both ends of TLS.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PublicKeyData};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};

/// An authority of our own.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    pem: String,
}

/// A certificate with its key.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    cert_pem: String,
    key_pem: String,
}

impl Authority {
    /// A new one.
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "cutover test authority");
        let cert = params.self_signed(&key).expect("an authority");
        Self {
            der: cert.der().clone(),
            pem: cert.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A certificate for these names or addresses.
    pub fn issue(&self, names: &[&str]) -> Identity {
        self.issue_with(names, |_| {})
    }

    /// A certificate for these names that has expired.
    pub fn issue_expired(&self, names: &[&str]) -> Identity {
        self.issue_with(names, |params| {
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        })
    }

    fn issue_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        change(&mut params);
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        Identity {
            chain: vec![cert.der().clone()],
            cert_pem: cert.pem(),
            key_pem: key.serialize_pem(),
            key: PrivateKeyDer::try_from(key.serialize_der()).expect("a PKCS#8 key"),
        }
    }

    /// A certificate for these names and this public key, followed by the authority's certificate, as PEM. It is valid for
    /// an hour less than `days` days, so that the whole days that are left don't depend on the second; with 0 it has expired.
    pub fn issue_for(&self, key: &impl PublicKeyData, names: &[&str], days: u64) -> String {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.use_authority_key_identifier_extension = true;
        let now = SystemTime::now();
        params.not_before = (now - Duration::from_secs(3600)).into();
        params.not_after = match days {
            0 => (now - Duration::from_secs(60)).into(),
            _ => (now + Duration::from_secs(86_400 * days - 3600)).into(),
        };
        let cert = params.signed_by(key, &self.issuer).expect("a certificate");
        format!("{}{}", cert.pem(), self.pem)
    }

    /// Writes the authority's own certificate as PEM.
    pub fn save(&self, path: &Path) {
        std::fs::write(path, &self.pem).expect("write the authority");
    }

    /// A client's configuration that believes this authority only.
    pub fn client(&self, alpn: &[&str]) -> Arc<ClientConfig> {
        self.client_as(alpn, None)
    }

    /// As [`Self::client`]; it shows a certificate of its own.
    fn client_as(&self, alpn: &[&str], identity: Option<&Identity>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).expect("a root");
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("protocol versions")
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(own) => builder
                .with_client_auth_cert(own.chain.clone(), own.key.clone_key())
                .expect("a certificate and its key"),
        };
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    /// A TLS connection to `port` as `name`; the handshake is done.
    pub fn connect(
        &self,
        port: u16,
        name: &str,
        alpn: &[&str],
    ) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
        self.connect_as(port, name, alpn, None)
    }

    /// As [`Self::connect`]; the client shows a certificate of its own.
    pub fn connect_as(
        &self,
        port: u16,
        name: &str,
        alpn: &[&str],
        identity: Option<&Identity>,
    ) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
        self.handshake(super::client::dial(port), name, alpn, identity)
    }

    /// As [`Self::connect`], over a connection that something was sent on already.
    pub fn connect_over(
        &self,
        socket: TcpStream,
        name: &str,
        alpn: &[&str],
    ) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
        self.handshake(socket, name, alpn, None)
    }

    /// As [`Self::connect`], with the configuration that is given.
    pub fn connect_with(
        config: Arc<ClientConfig>,
        port: u16,
        name: &str,
    ) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
        let name = ServerName::try_from(name.to_owned()).expect("a server name");
        let mut session = ClientConnection::new(config, name).expect("a session");
        let mut socket = super::client::dial(port);
        while session.is_handshaking() {
            session.complete_io(&mut socket)?;
        }
        Ok(StreamOwned::new(session, socket))
    }

    /// A client's configuration that believes this authority only and speaks TLS 1.2 only.
    pub fn client_of_tls12(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).expect("a root");
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS12])
            .expect("a protocol version")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    }

    fn handshake(
        &self,
        mut socket: TcpStream,
        name: &str,
        alpn: &[&str],
        identity: Option<&Identity>,
    ) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
        let name = ServerName::try_from(name.to_owned()).expect("a server name");
        let mut session =
            ClientConnection::new(self.client_as(alpn, identity), name).expect("a session");
        while session.is_handshaking() {
            session.complete_io(&mut socket)?;
        }
        Ok(StreamOwned::new(session, socket))
    }
}

impl Identity {
    /// A server's configuration that shows this certificate.
    pub fn server(&self, alpn: &[&str]) -> Arc<ServerConfig> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("protocol versions")
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .expect("a certificate and its key");
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    /// As [`Self::server`], for clients with a certificate of this authority.
    pub fn server_requiring(&self, clients: &Authority) -> Arc<ServerConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(clients.der.clone()).expect("a root");
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("protocol versions")
            .with_client_cert_verifier(verifier.build().expect("a verifier"))
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .expect("a certificate and its key");
        Arc::new(config)
    }

    /// Writes `NAME.pem` and `NAME.key` into `dir`; the key is readable by its owner only.
    pub fn save(&self, dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        use std::os::unix::fs::PermissionsExt;
        let (cert, key) = (
            dir.join(format!("{name}.pem")),
            dir.join(format!("{name}.key")),
        );
        std::fs::write(&cert, &self.cert_pem).expect("write a certificate");
        std::fs::write(&key, &self.key_pem).expect("write a key");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("chmod");
        (cert, key)
    }

    /// The leaf, as it is shown in a handshake.
    pub fn leaf(&self) -> CertificateDer<'static> {
        self.chain[0].clone()
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
