//! Certificates that the proxy obtains itself, by ACME (RFC 8555): `[acme]`.

use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

/// Where and how certificates are obtained: `[acme]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeSpec {
    /// URL of the authority's directory (RFC 8555 section 7.1.1). Default [`DIRECTORY`].
    pub directory: String,
    /// Address for messages about the account. Default `None`.
    pub email: Option<String>,
    /// How the authority checks that a name leads to this proxy. Default [`AcmeChallenge::Http`].
    pub challenge: AcmeChallenge,
    /// PEM file with the authorities that the directory's own certificate is checked against. Default `None`: the system's.
    pub ca: Option<PathBuf>,
    /// The key that binds the account to one that exists elsewhere (RFC 8555 section 7.3.4). Default `None`.
    pub external_account: Option<ExternalAccount>,
    /// File with the key that seals the ACME state that the members of a fleet share. Default `None`: each proxy orders its own
    /// certificates.
    pub seal_key_file: Option<PathBuf>,
    /// Directory of the account and the certificates.
    pub store: PathBuf,
    /// The names, without duplicates, in the order of the file.
    pub names: Vec<String>,
}

/// The directory of Let's Encrypt.
pub const DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// An external account: `eab_kid` and `eab_hmac_file`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalAccount {
    /// The key's identifier.
    pub kid: String,
    /// File with the key, base64url-encoded.
    pub hmac_file: PathBuf,
}

words! {
    /// How the authority checks that a name leads to this proxy: `acme.challenge`.
    #[derive(Default)]
    pub enum AcmeChallenge {
        /// The authority requests a path of the name over HTTP, at port 80 (RFC 8555 section 8.3).
        #[default]
        Http "http-01",
        /// The authority opens a TLS connection to the name, at port 443 (RFC 8737).
        Tls "tls-alpn-01",
    }
}

/// The directory for accounts and certificates of one authority.
pub(crate) fn store(state_dir: &Path, directory: &str) -> PathBuf {
    // Another authority has another account, and its certificates must not be mixed up with those of this one.
    let authority = format!("{:016x}", xxh3_64(directory.as_bytes()));
    state_dir.join("acme").join(authority)
}

/// The file of a certificate and its key.
pub fn certificate_file(store: &Path, name: &str) -> PathBuf {
    store.join(format!("{name}.pem"))
}
