//! The account and the certificates on disk.
//!
//! Every file is complete or absent: it is written under another name, made durable, and renamed. All of them are readable by
//! the proxy's user only, because they contain keys.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::plan::Period;
use crate::config::acme::certificate_file;

const ACCOUNT: &str = "account.json";
const LOCK: &str = "lock";

/// The directory of one authority's account and certificates.
#[derive(Clone, Debug)]
pub(super) struct AcmeStore(PathBuf);

/// The right to place orders. Another process gets it once this is dropped.
#[derive(Debug)]
pub(super) struct StoreLock {
    _file: File,
}

/// Properties of a stored certificate.
#[derive(Clone, Debug)]
pub(super) struct StoredCertificate {
    pub validity: Period,
    /// The encoded serial number, and the identifier of the authority's key, for renewal information (RFC 9773 section 4.1).
    pub serial: Vec<u8>,
    pub authority_key: Option<Vec<u8>>,
}

impl AcmeStore {
    pub(super) fn new(directory: &Path) -> Self {
        Self(directory.to_owned())
    }

    /// Creates the directory and takes the lock. `None` if another process has it.
    ///
    /// # Errors
    /// The directory can't be used.
    pub(super) fn lock(&self) -> io::Result<Option<StoreLock>> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(self.0.join(LOCK))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(StoreLock { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The stored account; `None` if there is none.
    ///
    /// # Errors
    /// The file can't be read.
    pub(super) fn account(&self) -> io::Result<Option<String>> {
        match fs::read_to_string(self.0.join(ACCOUNT)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Stores the account.
    ///
    /// # Errors
    /// The file can't be written.
    pub(super) fn save_account(&self, text: &str) -> io::Result<()> {
        self.save(&self.0.join(ACCOUNT), text.as_bytes())
    }

    /// Stores a certificate with its key, in one file, so that the two always fit.
    ///
    /// # Errors
    /// The file can't be written.
    pub(super) fn save_certificate(&self, name: &str, key: &str, chain: &str) -> io::Result<()> {
        let both = format!("{}\n{}\n", key.trim_end(), chain.trim_end());
        self.save(&certificate_file(&self.0, name), both.as_bytes())
    }

    /// Stores a certificate with its key that another member of the fleet has obtained.
    ///
    /// # Errors
    /// The file can't be written.
    pub(super) fn save_pem(&self, name: &str, pem: &str) -> io::Result<()> {
        self.save(&certificate_file(&self.0, name), pem.as_bytes())
    }

    /// The stored certificate of a name with its key; `None` if there is none.
    pub(super) fn pem(&self, name: &str) -> Option<String> {
        fs::read_to_string(certificate_file(&self.0, name)).ok()
    }

    /// The properties of the stored certificate of a name; `None` if there is none that can be read.
    pub(super) fn certificate(&self, name: &str) -> Option<StoredCertificate> {
        let pem = fs::read(certificate_file(&self.0, name)).ok()?;
        described(&pem)
    }

    fn save(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let temporary = self.0.join(format!(".new-{:016x}", fastrand::u64(..)));
        let written = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| {
                file.write_all(content)?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&temporary, path));
        if written.is_err() {
            // Best effort: a leftover has a random name and is never read.
            let _ = fs::remove_file(&temporary);
        }
        written?;
        // Makes the new directory entry durable, see fsync(2).
        File::open(&self.0)?.sync_all()
    }
}

/// Reads the first certificate of a PEM text.
pub(super) fn described(pem: &[u8]) -> Option<StoredCertificate> {
    let leaf = CertificateDer::pem_slice_iter(pem).next()?.ok()?;
    let (_, parsed) = X509Certificate::from_der(&leaf).ok()?;
    let authority_key = parsed
        .iter_extensions()
        .find_map(|e| match e.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                id.key_identifier.as_ref().map(|k| k.0.to_vec())
            }
            _ => None,
        });
    Some(StoredCertificate {
        validity: Period {
            start: parsed.validity().not_before.timestamp(),
            end: parsed.validity().not_after.timestamp(),
        },
        serial: parsed.tbs_certificate.raw_serial().to_vec(),
        authority_key,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn what_is_stored_is_private_and_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b");
        let store = AcmeStore::new(&path);
        let _lock = store.lock().unwrap().expect("the lock is free");
        assert_eq!(store.account().unwrap(), None);
        store.save_account("{}").unwrap();
        assert_eq!(store.account().unwrap().as_deref(), Some("{}"));
        assert!(store.certificate("a.test").is_none());
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 4, 1);
        let certificate = params.self_signed(&key).unwrap();
        store
            .save_certificate("a.test", &key.serialize_pem(), &certificate.pem())
            .unwrap();
        let stored = store.certificate("a.test").expect("it is there");
        assert_eq!(stored.validity.end - stored.validity.start, 90 * 86_400);
        for entry in fs::read_dir(&path).unwrap() {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{:?}", entry.file_name());
        }
        assert_eq!(fs::read_dir(&path).unwrap().count(), 3, "no leftovers");
    }

    #[test]
    fn one_process_at_a_time_has_the_lock() {
        let directory = tempfile::tempdir().unwrap();
        let store = AcmeStore::new(directory.path());
        let first = store.lock().unwrap();
        assert!(first.is_some() && store.lock().unwrap().is_none());
        drop(first);
        assert!(store.lock().unwrap().is_some());
    }
}
