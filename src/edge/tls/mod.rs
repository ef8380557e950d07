//! TLS towards clients: which certificate and which policy a handshake gets, and what the connection may be used for.
//!
//! A listener has one [`CertificateTable`]: server names to certificates, and for each policy (no client certificate, or one from a
//! given authority) a rustls configuration with a ticket key of its own, so that a session begun under one policy is never
//! resumed under another. Tables are immutable: a renewed certificate makes a new one, for new connections.

mod certs;
mod client;
mod kept;
mod pem;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::spec;
use crate::proxy::peer::ClientCertificate;

pub(crate) use certs::{CertError, CertificateKey};
pub(crate) use kept::{CertificateFault, CertificateSlot, Certificates, RefusedFiles};

/// An authority for client certificates: its PEM, and what is in it.
type Authority = (Vec<u8>, Arc<RootCertStore>);

/// The cryptography of all listeners.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// What a request loop has to know about the handshake.
#[derive(Clone, Debug)]
pub(crate) struct TlsInfo {
    /// The server name that the client asked for, lower case.
    pub sni: Option<String>,
    /// What the presented certificate covers: DNS names (also `*.example.com`) and addresses as text, lower case.
    pub names: Arc<[String]>,
    /// HTTP/2 was agreed on.
    pub alpn_h2: bool,
    /// The client's certificate, where one was asked for.
    pub certificate: Option<Arc<ClientCertificate>>,
    table: Arc<CertificateTable>,
    policy: usize,
}

impl TlsInfo {
    /// Whether a request for `host` (lower case, without port) must not be answered on this connection: 421.
    ///
    /// That is so when the client asked for another name and the certificate does not cover this one; and always when this
    /// host's certificate demands other client certificates than this handshake did, or else the demand could be bypassed.
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

/// Everything that a listener's handshakes need.
#[derive(Debug)]
pub(crate) struct CertificateTable {
    names: Arc<Names>,
    entries: Arc<[NamedCertificate]>,
    policies: Vec<Policy>,
    /// HTTP/1.1 is not offered: who agrees on no protocol gets HTTP/2.
    only_h2: bool,
}

#[derive(Debug)]
struct Policy {
    client_ca: Option<Vec<u8>>,
    tickets: Arc<dyn ProducesTickets>,
    config: Arc<ServerConfig>,
}

#[derive(Debug)]
struct NamedCertificate {
    key: Arc<CertifiedKey>,
    covers: Arc<[String]>,
    policy: usize,
}

/// Server names to indices of certificates, in file order. A name may have several (ECDSA and RSA).
#[derive(Debug, Default)]
struct Names {
    exact: HashMap<String, Vec<usize>>,
    /// By what follows `*.`
    wildcard: HashMap<String, Vec<usize>>,
}

impl Names {
    /// Exact, then wildcard, then the first certificate.
    fn find(&self, name: &str) -> &[usize] {
        let exact = self.exact.get(name);
        let wildcard = || self.wildcard.get(name.split_once('.')?.1);
        exact.or_else(wildcard).map_or(&[0], |v| v)
    }

    /// Serves `name` with the certificate `index` as well.
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
                    "two certificates serve {name} with different `client_ca`: which one a client gets would be chance"
                ),
                format!("Give both the same `client_ca`, or name {name} in the `sni` of one only"),
            ));
        }
        known.push(index);
        Ok(())
    }

    fn policy_for(&self, name: &str, entries: &[NamedCertificate]) -> usize {
        entries[self.find(name)[0]].policy
    }
}

/// Chooses the certificate inside a handshake.
#[derive(Debug)]
struct Resolver {
    names: Arc<Names>,
    entries: Arc<[NamedCertificate]>,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let sni = hello.server_name().map(str::to_ascii_lowercase);
        let candidates = sni
            .as_deref()
            .map_or(&[0][..], |name| self.names.find(name));
        let usable = candidates.iter().find(|i| {
            let key = &self.entries[**i].key.key;
            key.choose_scheme(hello.signature_schemes()).is_some()
        });
        Some(self.entries[*usable.unwrap_or(&candidates[0])].key.clone())
    }
}

impl CertificateTable {
    /// The table of a listener. `former` is the one that it replaces: ticket keys of policies that stay are taken over,
    /// so that clients can resume their sessions after a renewal.
    ///
    /// # Errors
    /// Two certificates contradict each other, or TLS can't be set up with one of them.
    pub(crate) fn new(
        listener: &spec::ListenerSpec,
        certificates: &Certificates,
        former: Option<&Self>,
    ) -> Result<Arc<Self>, CertificateFault> {
        let mut names = Names::default();
        let mut entries = Vec::new();
        // By policy: its authority, and the first certificate that has it.
        let mut authorities: Vec<(Option<Authority>, usize)> = Vec::new();
        for (index, slot) in certificates.slots().iter().enumerate() {
            let certificate = &slot.current;
            let pem = certificate.authority.as_ref().map(|(pem, _)| pem);
            let is_same = |(authority, _): &(Option<Authority>, usize)| {
                authority.as_ref().map(|(pem, _)| pem) == pem
            };
            let policy = authorities.iter().position(is_same).unwrap_or_else(|| {
                authorities.push((certificate.authority.clone(), index));
                authorities.len() - 1
            });
            entries.push(NamedCertificate {
                key: certificate.key.clone(),
                covers: certificate.covers.clone(),
                policy,
            });
            for name in &certificate.serves {
                names
                    .add(name, index, &entries)
                    .map_err(|error| (index, error))?;
            }
        }
        let (names, entries) = (Arc::new(names), Arc::<[NamedCertificate]>::from(entries));
        let resolver = Arc::new(Resolver {
            names: names.clone(),
            entries: entries.clone(),
        });
        let policy = |(authority, index): (Option<Authority>, usize)| {
            let policy = Policy::new(listener, resolver.clone(), authority, former);
            policy.map_err(|message| (index, CertError::new(CertificateKey::ClientCa, message, "")))
        };
        let policies = authorities.into_iter().map(policy);
        Ok(Arc::new(Self {
            policies: policies.collect::<Result<_, CertificateFault>>()?,
            names,
            entries,
            only_h2: listener.h2 && !listener.h1,
        }))
    }

    /// The server's half of a handshake. The caller limits its time.
    ///
    /// # Errors
    /// The client's hello is none, no protocol or cipher in common, or the connection broke.
    pub(crate) async fn handshake<S>(
        self: Arc<Self>,
        stream: S,
    ) -> io::Result<(TlsStream<S>, TlsInfo)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
        let sni = start
            .client_hello()
            .server_name()
            .map(str::to_ascii_lowercase);
        let policy = match &sni {
            Some(name) => self.names.policy_for(name, &self.entries),
            None => self.entries[0].policy,
        };
        let stream = start
            .into_stream(self.policies[policy].config.clone())
            .await?;
        let alpn_h2 = match stream.get_ref().1.alpn_protocol() {
            Some(protocol) => protocol == b"h2",
            None => self.only_h2,
        };
        let chain = stream.get_ref().1.peer_certificates();
        let certificate = chain
            .and_then(|chain| client::certificate(chain.first()?))
            .map(Arc::new);
        // Several certificates of one name differ in their keys only, so the first one tells what is covered.
        let entry = sni.as_deref().map_or(0, |name| self.names.find(name)[0]);
        let names = self.entries[entry].covers.clone();
        Ok((
            stream,
            TlsInfo {
                sni,
                names,
                alpn_h2,
                certificate,
                table: self,
                policy,
            },
        ))
    }
}

impl Policy {
    fn new(
        listener: &spec::ListenerSpec,
        resolver: Arc<Resolver>,
        authority: Option<Authority>,
        former: Option<&CertificateTable>,
    ) -> Result<Self, String> {
        let provider = provider();
        let (client_ca, roots) = authority.unzip();
        let internal = |e: rustls::Error| format!("TLS could not be set up: {e}");
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(internal)?;
        let mut config = match roots {
            None => builder.with_no_client_auth(),
            Some(roots) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
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
        let kept = former.and_then(|f| f.policies.iter().find(|p| p.client_ca == client_ca));
        let tickets = match kept {
            Some(policy) => policy.tickets.clone(),
            None => aws_lc_rs::Ticketer::new().map_err(internal)?,
        };
        config.ticketer = tickets.clone();
        // Sessions are resumed by tickets; a store would be one lock for all workers.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self {
            client_ca,
            tickets,
            config: Arc::new(config),
        })
    }
}

#[cfg(test)]
pub(super) mod tests;
