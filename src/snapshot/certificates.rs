//! The state of certificates, for operators.

use std::path::PathBuf;
use std::time::SystemTime;

use crate::certificates::Validity;

/// The state of a certificate, or of the authorities that a version's endpoints are verified against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateState {
    /// The listener or version that uses it.
    pub owner: CertificateOwner,
    /// Server names (SNI) that it is presented for. Empty for a version.
    pub names: Vec<String>,
    /// The file that holds the certificate chain, or the authorities of a version without a certificate of its own.
    pub file: PathBuf,
    /// Whether the proxy obtains the certificate itself. It is missing before the first order has succeeded: its times are 0 then.
    pub is_obtained: bool,
    /// Validity of the certificate; `None` for authorities.
    pub validity: Option<Validity>,
    /// Why the current files were refused, if the certificate or the authorities read before are still in use.
    pub error: Option<String>,
    /// When `error` was first seen.
    pub since: Option<SystemTime>,
}

/// Who uses a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateOwner {
    /// The listener of this name, towards clients.
    Listener(String),
    /// A version, towards its endpoints.
    Version {
        /// Name of the service.
        service: String,
        /// Name of the version.
        version: String,
    },
}
