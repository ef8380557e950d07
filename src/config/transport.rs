//! Security of connections and the announcement of clients: TLS of listeners and towards endpoints, and the PROXY protocol.

use std::path::PathBuf;

use rustls_pki_types::ServerName;

words! {
    /// The oldest version of TLS that a listener accepts.
    #[derive(Default)]
    pub enum TlsMinimum {
        #[default]
        V12 "1.2": "TLS 1.2 and 1.3.",
        V13 "1.3": "TLS 1.3 only.",
    }
}

words! {
    /// Whether clients must present a certificate where `client_ca` is set. An invalid one is refused in any case.
    #[derive(Default)]
    pub enum ClientAuth {
        #[default]
        Required "required": "Without a certificate the handshake fails.",
        Optional "optional": "Without a certificate the client is anonymous.",
    }
}

/// TLS towards the endpoints of a version: `tls`. At least one of the fields is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// PEM file with the authorities that issue the endpoints' certificates. Default `None`: the system's.
    pub ca: Option<PathBuf>,
    /// PEM file with the chain of the certificate to present to endpoints that ask for one. Default `None`: no certificate.
    pub cert: Option<PathBuf>,
    /// PEM file with the private key of `cert`; set if and only if `cert` is.
    pub key: Option<PathBuf>,
    /// The name that is sent (SNI, RFC 6066 section 3) and that the certificate must be valid for. Default `None`: the host of
    /// the endpoint.
    pub server_name: Option<ServerName<'static>>,
}

words! {
    /// A version of the PROXY protocol.
    pub enum ProxyProtocol {
        V1 "v1": "The header in words.",
        V2 "v2": "The binary header, with TLVs.",
    }
}
