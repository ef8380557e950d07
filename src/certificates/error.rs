//! Errors of certificate files.

use std::fmt;

/// The configuration key that an error refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateKey {
    /// `cert`
    Cert,
    /// `key`
    Key,
    /// `client_ca`
    ClientCa,
    /// `sni`
    Sni,
    /// `ca`
    Ca,
}

impl CertificateKey {
    /// The name in the configuration.
    pub fn key(self) -> &'static str {
        match self {
            Self::Cert => "cert",
            Self::Key => "key",
            Self::ClientCa => "client_ca",
            Self::Sni => "sni",
            Self::Ca => "ca",
        }
    }

    /// The name in messages.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Cert => "certificate",
            other => other.key(),
        }
    }
}

/// Why a certificate can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertError {
    /// The key of the configuration that names the file.
    pub part: CertificateKey,
    /// The problem, including the name of the file.
    pub message: String,
    /// Advice on how to solve it; may be empty.
    pub help: String,
}

impl CertError {
    pub(crate) fn new(
        part: CertificateKey,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self {
            part,
            message: message.into(),
            help: help.into(),
        }
    }
}

impl fmt::Display for CertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.help.as_str() {
            "" => f.write_str(&self.message),
            help => write!(f, "{}. {help}", self.message),
        }
    }
}
