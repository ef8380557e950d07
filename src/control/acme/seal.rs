//! Seals the certificates and the account that the members of a fleet share through etcd: `acme.seal_key_file`.
//!
//! A sealed value is `cutover-seal-1:`, and in base64url a random nonce and the text encrypted by AES-256-GCM (NIST SP 800-38D).
//! The name of the key in etcd is authenticated with it, so that a value can't be moved to another key. A party that may only write
//! to etcd can neither read a private key nor replace one. It can put back an older value.

use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::config::secret;

/// The beginning of sealed values. Another format will have another number.
const HEAD: &[u8] = b"cutover-seal-1:";
/// Size of the key file in bytes.
const KEY_LEN: usize = 32;

/// The key that all members have.
#[derive(Debug)]
pub(super) struct Seal(RandomizedNonceKey);

impl Seal {
    /// Reads `seal_key_file`.
    ///
    /// # Errors
    /// The file can't be read, others may read it, or it isn't 32 bytes long. The message says what to do.
    pub(super) fn read(file: &Path) -> Result<Self, String> {
        let bytes = secret::read(file, "seal key", "read the private keys of certificates")?;
        let key = match bytes.len() {
            KEY_LEN => RandomizedNonceKey::new(&AES_256_GCM, &bytes).ok(),
            _ => None,
        };
        let shown = file.display();
        key.map(Self).ok_or_else(|| {
            let len = bytes.len();
            format!(
                "seal key {shown}: it has {len} bytes, expected {KEY_LEN} random ones. Make one with \
                 `(umask 077; head -c {KEY_LEN} /dev/urandom > {shown})`, and give it to all members"
            )
        })
    }

    /// Seals a text for this key in etcd. `None` if the cipher fails, which it does only for lack of randomness.
    pub(super) fn close(&self, key: &str, text: &str) -> Option<Vec<u8>> {
        let mut sealed = text.as_bytes().to_vec();
        let aad = Aad::from(key.as_bytes());
        let nonce = self.0.seal_in_place_append_tag(aad, &mut sealed).ok()?;
        let both = [&nonce.as_ref()[..], &sealed[..]].concat();
        Some([HEAD, URL_SAFE_NO_PAD.encode(both).as_bytes()].concat())
    }

    /// Opens a value that is sealed for this key in etcd; `None` if it isn't sealed by this key file.
    pub(super) fn open(&self, key: &str, value: &[u8]) -> Option<String> {
        let both = URL_SAFE_NO_PAD.decode(value.strip_prefix(HEAD)?).ok()?;
        let (nonce, sealed) = both.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let aad = Aad::from(key.as_bytes());
        let text = self.0.open_in_place(nonce, aad, &mut sealed).ok()?;
        String::from_utf8(text.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn seal(byte: u8) -> Seal {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), [byte; KEY_LEN]).unwrap();
        Seal::read(file.path()).unwrap()
    }

    #[test]
    fn only_the_same_key_file_opens_a_value_and_only_under_its_name() {
        let (ours, key) = (seal(7), "/cutover/front/acme/00/cert/a.test");
        let value = ours.close(key, "-----BEGIN PRIVATE KEY-----").unwrap();
        assert!(value.starts_with(HEAD) && !value.windows(7).any(|w| w == b"PRIVATE"));
        let again = ours.close(key, "-----BEGIN PRIVATE KEY-----").unwrap();
        assert_ne!(value, again, "another nonce");
        assert_eq!(
            seal(7).open(key, &value).as_deref(),
            Some("-----BEGIN PRIVATE KEY-----")
        );
        assert_eq!(seal(8).open(key, &value), None, "another key file");
        let moved = "/cutover/front/acme/00/cert/b.test";
        assert_eq!(ours.open(moved, &value), None, "another name");
        for at in HEAD.len()..value.len() {
            let mut changed = value.clone();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(ours.open(key, &changed), None, "byte {at}");
        }
        for cut in 0..value.len() {
            assert_eq!(ours.open(key, &value[..cut]), None, "{cut} bytes");
        }
    }

    #[test]
    fn a_key_file_is_32_bytes_and_private() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), [7; 31]).unwrap();
        let why = Seal::read(file.path()).unwrap_err();
        assert!(why.contains("31 bytes, expected 32"), "{why}");
        fs::write(file.path(), [7; 32]).unwrap();
        fs::set_permissions(file.path(), Permissions::from_mode(0o644)).unwrap();
        let why = Seal::read(file.path()).unwrap_err();
        assert!(why.contains("chmod"), "{why}");
    }
}
