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

use aws_lc_rs::rand;
use rustls::crypto::{CryptoProvider, aws_lc_rs as provided};
use xxhash_rust::xxh3::xxh3_64;

pub use error::{CertError, CertificateKey};
#[cfg(test)]
pub(crate) use ocsp::tests::response as ocsp_response;
pub(crate) use ocsp::{OcspResponse, ocsp_path};
pub use read::date;
pub(crate) use read::{
    Validity, authorities, chain, check_key_matches, file, key_file, signing_key, swapped,
};
pub use slot::{FileSlot, Material, News, RefusedFiles, outdated, seconds};

/// The cryptography provider of all TLS connections.
pub fn provider() -> Arc<CryptoProvider> {
    seed();
    Arc::new(provided::default_provider())
}

/// Seeds the process' generator of random numbers, unless it is seeded. To be called where a configuration with TLS is read.
///
/// The crypto library measures the jitter of the processor for it, which takes tens of milliseconds. Otherwise a worker would
/// stand still for that time in its first handshake.
pub(crate) fn seed() {
    // Where random numbers are needed, a failure is handled.
    let _ = rand::fill(&mut [0]);
}

/// A hash of the contents of several files, to detect changes.
pub(crate) fn fingerprint<'f>(files: impl Iterator<Item = &'f Vec<u8>>) -> u64 {
    let hashes: Vec<u8> = files.flat_map(|file| xxh3_64(file).to_le_bytes()).collect();
    xxh3_64(&hashes)
}
