//! Counts the open connections of each client address, in a fixed table that all workers share without a lock.
//!
//! An address selects a bucket of eight slots by a hash with a secret, and is compared there by 40 more bits of it. A slot is
//! one word, a client and its count, so that both change together. A slot is in use while its count isn't 0. If all eight are
//! in use by others, a connection is accepted uncounted: collisions let a client do more than its limit, never less.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::routing::client_limit::Subscriber;

/// Number of buckets: 512 KiB of slots.
const BUCKETS: usize = 8192;
const SLOTS: usize = 8;
/// Bits of a word that hold the count, which is at most 1,000,000; the others identify the client.
const COUNT_BITS: u32 = 24;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
/// Number of attempts at a slot that other workers keep changing. After these, the connection isn't counted.
const ATTEMPTS: usize = 64;

/// Open connections by client.
#[derive(Debug)]
pub struct ClientConnections {
    buckets: Box<[[AtomicU64; SLOTS]]>,
    secret: RandomState,
}

/// A counted connection. Dropping it ends the count.
#[derive(Debug)]
pub(crate) struct ClientConnection {
    table: Arc<ClientConnections>,
    bucket: u32,
    slot: u32,
}

/// The client has as many connections as it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooManyConnections;

impl Default for ClientConnections {
    fn default() -> Self {
        Self::with_buckets(BUCKETS)
    }
}

impl ClientConnections {
    /// `buckets` must be a power of two.
    fn with_buckets(buckets: usize) -> Self {
        Self {
            buckets: (0..buckets).map(|_| Default::default()).collect(),
            secret: RandomState::new(),
        }
    }

    /// Counts a connection from `address`, of which there may be `limit`. `Ok(None)`: there is no room to count it.
    ///
    /// # Errors
    /// The client has `limit` connections already.
    pub(crate) fn enter(
        self: &Arc<Self>,
        address: IpAddr,
        limit: u32,
    ) -> Result<Option<ClientConnection>, TooManyConnections> {
        let hash = self.secret.hash_one(Subscriber::of(address));
        let client = hash & !COUNT_MASK;
        let bucket = hash as usize & (self.buckets.len() - 1);
        for _ in 0..ATTEMPTS {
            let words = self.buckets[bucket].iter().enumerate();
            let words = words.map(|(at, slot)| (at, slot.load(Ordering::Relaxed)));
            // The client's own slot, or else a free one.
            let wanted = |(_, word): &(usize, u64)| match word & COUNT_MASK {
                0 => 1,
                _ if word & !COUNT_MASK == client => 0,
                _ => 2,
            };
            let Some((at, word)) = words.min_by_key(wanted) else {
                return Ok(None);
            };
            let count = match wanted(&(at, word)) {
                0 if word & COUNT_MASK >= u64::from(limit) => return Err(TooManyConnections),
                0 => word & COUNT_MASK,
                1 => 0,
                _ => return Ok(None),
            };
            let slot = &self.buckets[bucket][at];
            let next = client | (count + 1);
            // If a slot is freed in between, two workers can count the same client in a slot each. It may then have up to twice its
            // limit, until either count is back at 0.
            let counted = slot.compare_exchange(word, next, Ordering::Relaxed, Ordering::Relaxed);
            if counted.is_ok() {
                return Ok(Some(ClientConnection {
                    table: self.clone(),
                    bucket: bucket as u32,
                    slot: at as u32,
                }));
            }
        }
        Ok(None)
    }
}

impl Drop for ClientConnection {
    fn drop(&mut self) {
        // The count is in the low bits and at least 1 while this exists.
        let slot = &self.table.buckets[self.bucket as usize][self.slot as usize];
        slot.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    #[test]
    fn a_client_gets_its_limit_and_more_once_connections_end() {
        let table = Arc::new(ClientConnections::default());
        let enter = |n| table.enter(address(n), 2);
        let first = enter(1).expect("below").expect("counted");
        let _second = enter(1).expect("below").expect("counted");
        assert_eq!(enter(1).err(), Some(TooManyConnections));
        assert!(enter(2).is_ok(), "another client");
        drop(first);
        assert!(enter(1).is_ok());
    }

    #[test]
    fn a_subnet_of_ipv6_is_one_client() {
        let table = Arc::new(ClientConnections::default());
        let enter = |text: &str| table.enter(text.parse().expect("an address"), 1);
        let _first = enter("2001:db8::1").expect("below");
        assert_eq!(enter("2001:db8::2").err(), Some(TooManyConnections));
        let _other = enter("2001:db8:0:1::1").expect("another subnet");
        let _v4 = enter("192.0.2.1").expect("another client");
        assert_eq!(enter("::ffff:192.0.2.1").err(), Some(TooManyConnections));
    }

    #[test]
    fn strangers_that_collide_are_never_refused() {
        let table = Arc::new(ClientConnections::with_buckets(2));
        let enter = |n| table.enter(address(n), 1);
        let held: Vec<_> = (0..10_000).map(|n| enter(n).expect("its first")).collect();
        let counted = held.iter().flatten().count();
        assert_eq!(counted, 2 * SLOTS, "the others aren't counted");
        drop(held);
        let is_free = |word: &AtomicU64| word.load(Ordering::Relaxed) & COUNT_MASK == 0;
        assert!(table.buckets.iter().flatten().all(is_free));
    }

    #[test]
    fn counts_are_exact_among_workers() {
        let table = Arc::new(ClientConnections::default());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..5_000 {
                        drop(table.enter(address(n % 3), 4));
                    }
                });
            }
        });
        for n in 0..3 {
            let held: Vec<_> = (0..4).map(|_| table.enter(address(n), 4)).collect();
            assert!(held.iter().all(Result::is_ok));
            assert_eq!(table.enter(address(n), 4).err(), Some(TooManyConnections));
        }
    }
}
