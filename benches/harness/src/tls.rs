//! The load generator's side of TLS: TLS 1.3, X25519 only (the group that all proxies share), and
//! no verification of the certificate, which would be work for the generator and not for the proxy.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, SignatureScheme,
};

use crate::Result;

/// Whether connections take up earlier sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sessions {
    /// Every handshake is a full one.
    Full,
    /// Each connection resumes the session of the one before it in its place.
    Resume,
}

#[derive(Debug)]
struct Unverified(Vec<SignatureScheme>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

/// What the connections of one place in the load share.
#[derive(Clone)]
pub struct Client(Arc<ClientConfig>);

impl Client {
    /// A client with a session store of its own.
    pub fn new(sessions: Sessions) -> Result<Self> {
        let provider = CryptoProvider {
            kx_groups: vec![aws_lc_rs::kx_group::X25519],
            ..aws_lc_rs::default_provider()
        };
        let schemes = provider
            .signature_verification_algorithms
            .supported_schemes();
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unverified(schemes)))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = match sessions {
            Sessions::Full => Resumption::disabled(),
            Sessions::Resume => Resumption::store(Arc::new(ClientSessionMemoryCache::new(8))),
        };
        Ok(Self(Arc::new(config)))
    }

    /// A client that offers HTTP/2 only.
    pub fn over_http2(mut self) -> Self {
        Arc::make_mut(&mut self.0).alpn_protocols = vec![b"h2".to_vec()];
        self
    }

    /// A new connection's state.
    pub fn connect(&self) -> Result<ClientConnection> {
        Ok(ClientConnection::new(
            self.0.clone(),
            ServerName::try_from("localhost")?,
        )?)
    }
}

/// Whether the handshake took up an earlier session.
pub fn resumed(connection: &ClientConnection) -> bool {
    connection.handshake_kind() == Some(HandshakeKind::Resumed)
}
