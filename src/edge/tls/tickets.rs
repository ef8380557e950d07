//! Tickets for the resumption of TLS sessions (RFC 8446 section 2.2, RFC 5077).
//!
//! All workers and listeners share one [`TicketKeys`], which a successor gets in a takeover, so that clients resume their
//! sessions with it. The keys are never written to disk. They change every six hours, and the previous ones are kept for as long
//! again. Each policy derives keys of its own from them, so that a session that began under one policy can't be resumed under
//! another.

use std::fmt;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::{hmac, rand};
use rustls::server::ProducesTickets;
use serde::{Deserialize, Serialize};

/// Seconds for which tickets are issued under one secret, as in rustls. With random nonces, 2^32 tickets would be safe (NIST SP
/// 800-38D section 8.3).
const LIFETIME_S: u64 = 6 * 60 * 60;
/// Number of bytes of a ticket that name its secret.
const ID_LEN: usize = 8;

/// A secret from which the keys of tickets are derived.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketSecret {
    bytes: [u8; 32],
    /// Time at which the secret was made, in seconds since the epoch.
    made_at_s: u64,
}

impl fmt::Debug for TicketSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TicketSecret(made_at_s: {})", self.made_at_s)
    }
}

impl TicketSecret {
    fn new(now_s: u64) -> Self {
        let mut bytes = [0; 32];
        // Fails only if the system has no source of randomness; TLS could not work then either.
        rand::fill(&mut bytes).expect("system randomness is available");
        Self {
            bytes,
            made_at_s: now_s,
        }
    }

    fn is_due(&self, now_s: u64) -> bool {
        now_s.saturating_sub(self.made_at_s) >= LIFETIME_S
    }

    /// HMAC-SHA256 as a key derivation function (NIST SP 800-108), for one use by one policy.
    fn derive(&self, purpose: u8, policy: &[u8]) -> hmac::Tag {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.bytes);
        let mut context = hmac::Context::with_key(&key);
        context.update(&[purpose]);
        context.update(policy);
        context.sign()
    }

    fn id(&self, policy: &[u8]) -> [u8; ID_LEN] {
        let tag = self.derive(0, policy);
        let mut id = [0; ID_LEN];
        id.copy_from_slice(&tag.as_ref()[..ID_LEN]);
        id
    }

    fn key(&self, policy: &[u8]) -> Option<RandomizedNonceKey> {
        RandomizedNonceKey::new(&AES_256_GCM, self.derive(1, policy).as_ref()).ok()
    }
}

/// The secret that tickets are issued with, and the one before it.
#[derive(Debug)]
struct Keyring {
    /// Empty until the first policy needs it. The first random number of a process takes tens of milliseconds, which a start
    /// without TLS saves.
    current: OnceLock<TicketSecret>,
    previous: Option<TicketSecret>,
    /// Time at which the keyring was made, in seconds since the epoch. That a secret which is made later counts as old as the
    /// keyring only makes it change earlier.
    made_at_s: u64,
}

impl Keyring {
    fn current(&self) -> &TicketSecret {
        let made = || TicketSecret::new(self.made_at_s);
        self.current.get_or_init(made)
    }
}

/// The secrets of the process. Clones share them.
#[derive(Clone, Debug)]
pub struct TicketKeys(Arc<ArcSwap<Keyring>>);

impl TicketKeys {
    /// A new secret, which is made when the first policy needs it.
    pub fn new(now_s: u64) -> Self {
        Self::from_offer(Vec::new(), now_s)
    }

    /// The secrets of a predecessor, as [`Self::secrets`] returned them, or as [`Self::new`] if there are none.
    pub fn from_offer(offered: Vec<TicketSecret>, now_s: u64) -> Self {
        let mut offered = offered.into_iter();
        let current = offered.next().map(OnceLock::from).unwrap_or_default();
        let previous = offered.next();
        Self(Arc::new(ArcSwap::from_pointee(Keyring {
            current,
            previous,
            made_at_s: now_s,
        })))
    }

    /// The secrets, the current one first. None if no policy has needed one.
    pub fn secrets(&self) -> Vec<TicketSecret> {
        let keyring = self.0.load();
        let current = keyring.current.get().cloned().into_iter();
        current.chain(keyring.previous.clone()).collect()
    }

    /// Replaces the secret if it is old enough. To be called regularly, by one thread.
    pub fn rotate(&self, now_s: u64) {
        let keyring = self.0.load();
        if let Some(current) = keyring.current.get()
            && current.is_due(now_s)
        {
            self.0.store(Arc::new(Keyring {
                current: OnceLock::from(TicketSecret::new(now_s)),
                previous: Some(current.clone()),
                made_at_s: now_s,
            }));
        }
    }

    /// Issues and reads the tickets of the policy with this label.
    pub(super) fn ticketer(&self, policy: Vec<u8>) -> Arc<dyn ProducesTickets> {
        // Now, and not when a worker issues its first ticket.
        self.0.load().current();
        Arc::new(Ticketer {
            keys: self.clone(),
            policy,
        })
    }
}

/// The tickets of one policy: the id of the secret, the nonce, and the sealed session.
#[derive(Debug)]
struct Ticketer {
    keys: TicketKeys,
    policy: Vec<u8>,
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME_S as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let keyring = self.keys.0.load();
        let secret = keyring.current();
        let id = secret.id(&self.policy);
        let mut sealed = plain.to_vec();
        let nonce = secret.key(&self.policy)?;
        let nonce = nonce
            .seal_in_place_append_tag(Aad::from(id), &mut sealed)
            .ok()?;
        Some([&id[..], nonce.as_ref(), &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (id, rest) = ticket.split_at_checked(ID_LEN)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        let keyring = self.keys.0.load();
        let mut secrets = std::iter::once(keyring.current()).chain(&keyring.previous);
        let secret = secrets.find(|secret| secret.id(&self.policy) == id)?;
        // For opening, the nonce needn't be unique: it is the one that the ticket was sealed with.
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let plain = secret.key(&self.policy)?;
        let plain = plain
            .open_in_place(nonce, Aad::from(id), &mut sealed)
            .ok()?;
        Some(plain.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(name: &str) -> Vec<u8> {
        name.as_bytes().to_vec()
    }

    #[test]
    fn tickets_are_read_by_the_same_policy_only_and_not_if_forged() {
        let keys = TicketKeys::new(0);
        let ticketer = keys.ticketer(policy("a"));
        let ticket = ticketer.encrypt(b"session").expect("a ticket");
        assert_eq!(ticketer.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        assert_ne!(ticketer.encrypt(b"session"), Some(ticket.clone()), "random");
        assert_eq!(keys.ticketer(policy("b")).decrypt(&ticket), None);
        for at in 0..ticket.len() {
            let mut forged = ticket.clone();
            forged[at] ^= 1;
            assert_eq!(ticketer.decrypt(&forged), None, "byte {at}");
            assert_eq!(ticketer.decrypt(&ticket[..at]), None, "{at} bytes");
        }
        assert!(ticket.windows(7).all(|bytes| bytes != b"session"));
    }

    #[test]
    fn a_secret_is_made_for_the_first_policy_only() {
        let keys = TicketKeys::new(0);
        keys.rotate(LIFETIME_S);
        assert_eq!(keys.secrets(), []);
        let successor = TicketKeys::from_offer(keys.secrets(), 9);
        let ticketers = ["a", "b"].map(|name| successor.ticketer(policy(name)));
        let secrets = successor.secrets();
        assert_eq!(secrets.len(), 1, "before the first ticket");
        assert!(ticketers.iter().all(|t| t.encrypt(b"session").is_some()));
        assert_eq!(successor.secrets(), secrets);
    }

    #[test]
    fn a_secret_is_replaced_after_its_time_and_read_for_as_long_again() {
        let keys = TicketKeys::new(0);
        let ticketer = keys.ticketer(policy("a"));
        let ticket = ticketer.encrypt(b"session").expect("a ticket");
        let first = keys.secrets();
        keys.rotate(LIFETIME_S - 1);
        assert_eq!(keys.secrets(), first, "not yet");
        keys.rotate(LIFETIME_S);
        assert_eq!(keys.secrets()[1..], first);
        assert!(ticketer.decrypt(&ticket).is_some());
        keys.rotate(2 * LIFETIME_S);
        assert_eq!(ticketer.decrypt(&ticket), None);
        assert_eq!(keys.secrets().len(), 2);
    }

    #[test]
    fn a_successor_reads_the_tickets_of_its_predecessor_and_shows_no_secret() {
        let keys = TicketKeys::new(0);
        keys.rotate(LIFETIME_S);
        let ticket = keys
            .ticketer(policy("a"))
            .encrypt(b"session")
            .expect("a ticket");
        let frame = serde_json::to_string(&keys.secrets()).expect("JSON");
        let offered = serde_json::from_str(&frame).expect("secrets");
        let successor = TicketKeys::from_offer(offered, 9);
        assert!(successor.ticketer(policy("a")).decrypt(&ticket).is_some());
        assert_eq!(successor.secrets(), keys.secrets());
        assert!(!format!("{keys:?}").contains("bytes"));
    }
}
