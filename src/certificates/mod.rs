//! Files with certificates, keys and authorities: reads and checks them, and decides when new ones replace those in use. Every
//! error names the file, the problem and what to do about it.
//!
//! Listeners use it for their certificates, versions for the authorities and client certificates towards their endpoints.

mod error;
mod ocsp;
mod pem;
mod read;
mod slot;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use xxhash_rust::xxh3::xxh3_64;

pub(crate) use error::{CertError, CertificateKey};
#[cfg(test)]
pub(crate) use ocsp::tests::response as ocsp_response;
pub(crate) use ocsp::{OcspResponse, ocsp_path};
pub(crate) use read::{
    Validity, authorities, chain, check_key_matches, date, file, key_file, signing_key, swapped,
};
pub(crate) use slot::{FileSlot, Material, News, RefusedFiles, outdated, seconds};

/// The cryptography provider of all TLS connections.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// A hash of the contents of several files, to detect changes.
pub(crate) fn fingerprint<'f>(files: impl Iterator<Item = &'f Vec<u8>>) -> u64 {
    let hashes: Vec<u8> = files.flat_map(|file| xxh3_64(file).to_le_bytes()).collect();
    xxh3_64(&hashes)
}
