//! TLS towards clients: chooses certificate and policy for a handshake, and decides which requests a connection may carry.
//!
//! A listener has one [`CertificateTable`]. It maps server names to certificates, and has one rustls configuration per policy
//! (no client certificates, or those of a given authority). A session that began under one policy can't be resumed
//! under another, see [`tickets`]. Tables are immutable: a renewal creates a new one for new connections.

mod certs;
mod client_certificate;
mod renewal;
mod tickets;

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::acme::{self, AcmeAnswers};
use crate::certificates::{CertError, CertificateKey, OcspResponse, provider, seconds};
use crate::config::spec::{self, ClientAuth, TlsMinimum};
use crate::proxy::peer::TlsVersion;
use crate::routing::ClientCertificate;

use certs::ClientAuthority;
pub use renewal::{CertificateFault, CertificateSlot, Certificates};
pub use tickets::{TicketKeys, TicketSecret};

/// The versions for listeners that refuse TLS 1.2.
const ONLY_TLS13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// Result of a handshake, as far as requests on the connection depend on it.
#[derive(Clone, Debug)]
pub(crate) struct TlsInfo {
    /// The server name that the client sent (RFC 6066 §3), in lower case.
    pub sni: Option<String>,
    /// Names of the certificate that was presented: DNS names, possibly like `*.example.com`, and addresses as text. Lower case.
    pub names: Arc<[String]>,
    /// The negotiated version.
    pub version: Option<TlsVersion>,
    /// Whether HTTP/2 was negotiated (RFC 7301).
    pub alpn_h2: bool,
    /// The client's certificate, if one was requested.
    pub certificate: Option<Arc<ClientCertificate>>,
    table: Arc<CertificateTable>,
    policy: usize,
}

impl TlsInfo {
    /// Whether a request for `host` (lower case, without port) must be answered by 421 Misdirected Request (RFC 9110 §15.5.20).
    ///
    /// That is the case if the client sent another server name and the presented certificate doesn't cover `host`; and always
    /// if the certificate of `host` has another policy than this handshake. Otherwise a client could bypass a required client
    /// certificate by connecting with the name of a host that requires none.
    pub(crate) fn misdirected(&self, host: &str) -> bool {
        if self.table.names.policy_for(host, &self.table.entries) != self.policy {
            return true;
        }
        match &self.sni {
            None => false,
            Some(sni) if sni == host => false,
            Some(_) => !self.names.iter().any(|name| covers(name, host)),
        }
    }
}

/// Whether `name` (exact, or `*.` for one label) covers `host`.
fn covers(name: &str, host: &str) -> bool {
    match name.strip_prefix("*.") {
        Some(parent) => host
            .split_once('.')
            .is_some_and(|(label, rest)| !label.is_empty() && rest == parent),
        None => name == host,
    }
}

/// The certificates and policies of a listener.
///
/// Immutable. A handshake begins and ends with one table, and requests on its connection are checked against that one, also after a
/// renewal. Indices of certificates and policies are those of the table.
#[derive(Debug)]
pub struct CertificateTable {
    names: Arc<Names>,
    entries: Arc<[NamedCertificate]>,
    policies: Vec<Policy>,
    /// Whether HTTP/1.1 is not offered. Clients that don't negotiate a protocol get HTTP/2 then.
    only_h2: bool,
    #[cfg(test)]
    tickets: TicketKeys,
}

/// What differs between handshakes: the authority of client certificates, and with it the keys of tickets.
#[derive(Debug)]
struct Policy {
    config: Arc<ServerConfig>,
}

/// A certificate of the table, with the index of its policy.
#[derive(Debug)]
struct NamedCertificate {
    key: Arc<CertifiedKey>,
    /// The same certificate with an OCSP response.
    stapled: Option<(Arc<CertifiedKey>, OcspResponse)>,
    covers: Arc<[String]>,
    policy: usize,
}

/// Maps server names to indices of certificates, in the order of the configuration. A name may have several, such as an ECDSA and
/// an RSA certificate.
#[derive(Debug, Default)]
struct Names {
    exact: HashMap<String, Vec<usize>>,
    /// Wildcard names, without the leading `*.`.
    wildcard: HashMap<String, Vec<usize>>,
    /// Names whose certificate has not been obtained yet.
    missing: HashSet<String>,
}

impl Names {
    /// Looks for an exact match, then for a wildcard. Other names get the first certificate.
    fn find(&self, name: &str) -> &[usize] {
        self.known(name).map_or(&[0], |v| v)
    }

    fn known(&self, name: &str) -> Option<&Vec<usize>> {
        let exact = self.exact.get(name);
        let wildcard = || self.wildcard.get(name.split_once('.')?.1);
        exact.or_else(wildcard)
    }

    /// Whether there is no certificate for this name yet. Presenting another one would only cause a different error.
    fn lacks(&self, name: &str) -> bool {
        self.missing.contains(name) && self.known(name).is_none()
    }

    /// Adds the certificate `index` to those of `name`.
    ///
    /// # Errors
    /// The name has a certificate with another policy already.
    fn add(
        &mut self,
        name: &str,
        index: usize,
        entries: &[NamedCertificate],
    ) -> Result<(), CertError> {
        let known = match name.strip_prefix("*.") {
            Some(parent) => self.wildcard.entry(parent.to_owned()),
            None => self.exact.entry(name.to_owned()),
        }
        .or_default();
        let policy = |index: usize| entries[index].policy;
        if known
            .first()
            .is_some_and(|first| policy(*first) != policy(index))
        {
            return Err(CertError::new(
                CertificateKey::Sni,
                format!(
                    "two certificates serve {name} with different `client_ca` or `client_auth`: it would be undefined which one a client gets"
                ),
                format!("Give both the same, or name {name} in the `sni` of one only"),
            ));
        }
        known.push(index);
        Ok(())
    }

    /// The policy of handshakes for this name. All certificates of a name have the same one, and no list of them is empty, see
    /// [`Self::add`].
    fn policy_for(&self, name: &str, entries: &[NamedCertificate]) -> usize {
        entries
            .get(self.find(name)[0])
            .map_or(0, |entry| entry.policy)
    }
}

/// Chooses the certificate during a handshake: the first one of the server name that fits the client's signature schemes.
#[derive(Debug)]
struct Resolver {
    names: Arc<Names>,
    entries: Arc<[NamedCertificate]>,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let sni = hello.server_name().map(str::to_ascii_lowercase);
        if sni.as_deref().is_some_and(|name| self.names.lacks(name)) {
            return None;
        }
        let candidates = sni
            .as_deref()
            .map_or(&[0][..], |name| self.names.find(name));
        let usable = candidates.iter().find(|i| {
            let entry = self.entries.get(**i);
            entry.is_some_and(|e| e.key.key.choose_scheme(hello.signature_schemes()).is_some())
        });
        let entry = self.entries.get(*usable.unwrap_or(&candidates[0]))?;
        match &entry.stapled {
            // Clients refuse a handshake with an outdated response.
            Some((key, response)) if response.is_current(seconds(SystemTime::now())) => {
                Some(key.clone())
            }
            _ => Some(entry.key.clone()),
        }
    }
}

impl CertificateTable {
    /// Builds the table of a listener. Tickets are sealed by `tickets`, so that clients can resume their sessions after a renewal.
    ///
    /// # Errors
    /// Two certificates of one name have different policies, or rustls rejects the configuration.
    pub fn new(
        listener: &spec::ListenerSpec,
        certificates: &Certificates,
        tickets: &TicketKeys,
    ) -> Result<Arc<Self>, CertificateFault> {
        let mut names = Names::default();
        let mut entries = Vec::new();
        // For each policy, its authority and the first certificate that has it.
        let mut authorities: Vec<(Option<ClientAuthority>, usize)> = Vec::new();
        for (index, slot) in certificates.slots().iter().enumerate() {
            let certificate = &slot.current;
            let authority = certificate.authority.as_ref();
            let known = authorities.iter();
            let policy = { known.map(|(known, _)| known.as_ref()) }
                .position(|known| are_same(known, authority));
            let policy = policy.unwrap_or_else(|| {
                authorities.push((certificate.authority.clone(), index));
                authorities.len() - 1
            });
            entries.push(NamedCertificate {
                key: certificate.key.clone(),
                stapled: certificate.stapled.clone(),
                covers: certificate.covers.clone(),
                policy,
            });
            for name in &certificate.serves {
                names
                    .add(name, index, &entries)
                    .map_err(|error| (index, error))?;
            }
        }
        let missing = certificates
            .missing()
            .iter()
            .flat_map(|cert| cert.sni.clone());
        names.missing.extend(missing);
        if authorities.is_empty() {
            // This policy is for handshakes that end because there is no certificate.
            authorities.push((None, 0));
        }
        let (names, entries) = (Arc::new(names), Arc::<[NamedCertificate]>::from(entries));
        let resolver = Arc::new(Resolver {
            names: names.clone(),
            entries: entries.clone(),
        });
        let policy = |(authority, index): (Option<ClientAuthority>, usize)| {
            let policy = Policy::new(listener, resolver.clone(), authority.as_ref(), tickets);
            policy.map_err(|message| (index, CertError::new(CertificateKey::ClientCa, message, "")))
        };
        let policies = authorities.into_iter().map(policy);
        Ok(Arc::new(Self {
            policies: policies.collect::<Result<_, CertificateFault>>()?,
            names,
            entries,
            only_h2: listener.h2 && !listener.h1,
            #[cfg(test)]
            tickets: tickets.clone(),
        }))
    }

    /// Performs the server side of a handshake. There is no timeout: the caller has to drop the future.
    ///
    /// # Errors
    /// The ClientHello is malformed, there is no common protocol version or cipher suite, the client certificate is missing or
    /// invalid, or the connection was lost. [`HandshakeEnd`] if it was a challenge of an ACME authority, which `answers` has
    /// answered, or if there is no certificate for the name yet.
    pub(crate) async fn handshake<S>(
        self: Arc<Self>,
        stream: S,
        answers: Option<&AcmeAnswers>,
    ) -> io::Result<(TlsStream<S>, TlsInfo)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
        let sni = start
            .client_hello()
            .server_name()
            .map(str::to_ascii_lowercase);
        if let Some(answers) = answers
            && asks_for_challenge(&start.client_hello())
            && let Some(config) = sni.as_deref().and_then(|name| answers.to_handshake(name))
        {
            // The authority has seen the certificate once the handshake is complete (RFC 8737 section 3).
            start.into_stream(config).await?.shutdown().await?;
            return Err(io::Error::other(HandshakeEnd::Challenge));
        }
        let policy = match &sni {
            Some(name) => self.names.policy_for(name, &self.entries),
            None => self.entries.first().map_or(0, |entry| entry.policy),
        };
        let is_missing = match &sni {
            Some(name) => self.names.lacks(name),
            None => self.entries.is_empty(),
        };
        let config = self.policies[policy].config.clone();
        let shaken = start.into_stream(config).await;
        let stream = match shaken {
            // The client has got an alert: `access_denied`, as for any handshake without a certificate.
            Err(_) if is_missing || self.entries.is_empty() => {
                let name = sni.unwrap_or_default();
                return Err(io::Error::other(HandshakeEnd::NoCertificate(name)));
            }
            shaken => shaken?,
        };
        let alpn_h2 = match stream.get_ref().1.alpn_protocol() {
            Some(protocol) => protocol == b"h2",
            None => self.only_h2,
        };
        let version = match stream.get_ref().1.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => Some(TlsVersion::V13),
            Some(rustls::ProtocolVersion::TLSv1_2) => Some(TlsVersion::V12),
            _ => None,
        };
        let chain = stream.get_ref().1.peer_certificates();
        let certificate = chain
            .and_then(|chain| client_certificate::parse(chain.first()?))
            .map(Arc::new);
        // Certificates that share a name are meant to differ in their keys only: the first one tells which names are covered.
        let entry = sni.as_deref().map_or(0, |name| self.names.find(name)[0]);
        let names = self.entries.get(entry).map(|entry| entry.covers.clone());
        let names = names.unwrap_or_default();
        Ok((
            stream,
            TlsInfo {
                sni,
                names,
                version,
                alpn_h2,
                certificate,
                table: self,
                policy,
            },
        ))
    }
}

/// The label that distinguishes the tickets of a policy from those of all others, also in a successor of this process.
fn label(listener: &spec::ListenerSpec, authority: Option<&ClientAuthority>) -> Vec<u8> {
    let (auth, pem) = authority.map_or(("", &[][..]), |a| (a.auth.as_str(), &a.pem));
    [listener.name.as_bytes(), auth.as_bytes(), pem].join(&0)
}

/// Whether two certificates have the same policy.
fn are_same(one: Option<&ClientAuthority>, other: Option<&ClientAuthority>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => one.is_same(other),
        _ => false,
    }
}

/// Whether a client asks for the answer to a challenge.
fn asks_for_challenge(hello: &ClientHello<'_>) -> bool {
    let mut protocols = hello.alpn().into_iter().flatten();
    protocols.any(|protocol| protocol == acme::ALPN)
}

/// The reason why a handshake leads to no connection, although the client made no error.
#[derive(Debug)]
pub(crate) enum HandshakeEnd {
    /// The handshake was a challenge of an ACME authority, and was answered.
    Challenge,
    /// There is no certificate for this name yet.
    NoCertificate(String),
}

impl fmt::Display for HandshakeEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Challenge => f.write_str("challenge answered"),
            Self::NoCertificate(name) => {
                write!(f, "the certificate for {name:?} has not been obtained yet")
            }
        }
    }
}

impl Error for HandshakeEnd {}

impl Policy {
    fn new(
        listener: &spec::ListenerSpec,
        resolver: Arc<Resolver>,
        authority: Option<&ClientAuthority>,
        tickets: &TicketKeys,
    ) -> Result<Self, String> {
        let provider = provider();
        let internal = |e: rustls::Error| format!("TLS could not be set up: {e}");
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(match listener.tls_min {
                TlsMinimum::V12 => rustls::DEFAULT_VERSIONS,
                TlsMinimum::V13 => ONLY_TLS13,
            })
            .map_err(internal)?;
        let mut config = match authority {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let roots = authority.roots.clone();
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
                let verifier = match authority.auth {
                    ClientAuth::Required => verifier,
                    ClientAuth::Optional => verifier.allow_unauthenticated(),
                };
                builder.with_client_cert_verifier(
                    verifier
                        .build()
                        .map_err(|e| format!("client authorities: {e}"))?,
                )
            }
        }
        .with_cert_resolver(resolver);
        if listener.h2 {
            config.alpn_protocols.push(b"h2".to_vec());
        }
        if listener.h1 {
            config.alpn_protocols.push(b"http/1.1".to_vec());
        }
        config.ticketer = tickets.ticketer(label(listener, authority));
        // Sessions are resumed by tickets (RFC 8446 §2.2). A session store would be a lock shared by all workers.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self {
            config: Arc::new(config),
        })
    }
}

#[cfg(test)]
pub(super) mod tests;
