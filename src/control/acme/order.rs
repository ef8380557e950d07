//! One order: a certificate for one name, from the authority's challenge to the issued chain.

use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Identifier, NewOrder, Order, OrderStatus,
    RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::config::acme::AcmeChallenge;
use crate::edge::acme::AcmeAnswers;

/// Time for the authority to complete a validation, and to issue a certificate.
const POLLING: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(250))
    .backoff(1.6)
    .timeout(Duration::from_secs(90));

/// A certificate that was issued, as PEM.
pub(super) struct Issued {
    pub chain: String,
    pub key: String,
}

/// The reason why an order has failed.
#[derive(Debug)]
pub(super) enum OrderError {
    /// The authority or the connection to it has failed.
    Acme(instant_acme::Error),
    /// The authority doesn't offer the challenge that the configuration asks for.
    NotOffered(AcmeChallenge),
    /// The challenge failed. The text is the authority's.
    Challenge(String),
    /// A key or a certificate could not be made.
    Crypto(String),
}

impl From<instant_acme::Error> for OrderError {
    fn from(error: instant_acme::Error) -> Self {
        Self::Acme(error)
    }
}

impl From<rcgen::Error> for OrderError {
    fn from(error: rcgen::Error) -> Self {
        Self::Crypto(error.to_string())
    }
}

impl std::fmt::Display for OrderError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Acme(error) => write!(f, "{error}"),
            Self::NotOffered(challenge) => write!(f, "the authority doesn't offer {challenge}"),
            Self::Challenge(detail) => write!(f, "the challenge failed: {detail}"),
            Self::Crypto(error) => write!(f, "no certificate request could be made: {error}"),
        }
    }
}

/// Removes the answer to a challenge over TLS when the order has ended, however it does.
struct OpenChallenge<'a> {
    answers: &'a AcmeAnswers,
    name: &'a str,
}

impl Drop for OpenChallenge<'_> {
    fn drop(&mut self) {
        // Removing never fails.
        let _ = self.answers.set_certificate(self.name, None);
    }
}

/// Obtains a certificate for `name`.
///
/// # Errors
/// See [`OrderError`].
pub(super) async fn obtain(
    account: &Account,
    name: &str,
    challenge: AcmeChallenge,
    answers: &AcmeAnswers,
) -> Result<Issued, OrderError> {
    let _open = OpenChallenge { answers, name };
    let identifiers = [Identifier::Dns(name.to_owned())];
    let mut order = account.new_order(&NewOrder::new(&identifiers)).await?;
    authorize(&mut order, name, challenge, answers).await?;
    match order.poll_ready(&POLLING).await? {
        OrderStatus::Ready | OrderStatus::Processing | OrderStatus::Valid => {}
        _ => return Err(OrderError::Challenge(failure(&mut order).await)),
    }
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    // The authority takes the names from the extension; rcgen's default subject would be refused by some.
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key)?;
    order.finalize_csr(request.der()).await?;
    let chain = order.poll_certificate(&POLLING).await?;
    Ok(Issued {
        chain,
        key: key.serialize_pem(),
    })
}

/// Answers the challenges that are open.
async fn authorize(
    order: &mut Order,
    name: &str,
    challenge: AcmeChallenge,
    answers: &AcmeAnswers,
) -> Result<(), OrderError> {
    let kind = match challenge {
        AcmeChallenge::Http => ChallengeType::Http01,
        AcmeChallenge::Tls => ChallengeType::TlsAlpn01,
    };
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let offered = authorization.challenge(kind.clone());
        let mut open = offered.ok_or(OrderError::NotOffered(challenge))?;
        if challenge == AcmeChallenge::Tls {
            let digest = open.key_authorization().digest();
            let certificate = challenge_certificate(name, digest.as_ref())?;
            let set = answers.set_certificate(name, Some(certificate));
            set.map_err(|e| OrderError::Crypto(e.to_string()))?;
        }
        open.set_ready().await?;
    }
    Ok(())
}

/// The certificate that answers a challenge over TLS (RFC 8737 section 3).
fn challenge_certificate(name: &str, digest: &[u8]) -> Result<CertifiedKey, OrderError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    let proof = CustomExtension::new_acme_identifier(digest);
    params.custom_extensions.push(proof);
    let certificate = params.self_signed(&key)?;
    let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = aws_lc_rs::default_provider();
    let signing = provider.key_provider.load_private_key(der);
    let signing = signing.map_err(|e| OrderError::Crypto(e.to_string()))?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], signing))
}

/// The authority's explanation of the challenge that failed.
async fn failure(order: &mut Order) -> String {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else {
            continue;
        };
        let mut errors = state.challenges.iter().filter_map(|c| c.error.as_ref());
        if let Some(problem) = errors.next() {
            return problem.to_string();
        }
    }
    "the authority gives no reason".to_owned()
}
