//! A fixed table of clients that all workers share without a lock.
//!
//! A client's hash selects a bucket of eight slots and is compared in full within it, so that two clients share a slot only if
//! all 64 bits are equal. A client without a slot takes the one whose TAT is lowest. That is nearly always one in the past,
//! which carries no information. If all eight clients of a bucket are in debt, the one with the least debt loses its slot and
//! starts afresh: collisions let a client do more than its limit, never less.
//!
//! A slot is two words: the hash, and the TAT with some bits of the hash as a check. Only the second is changed by
//! compare-and-swap. Between the swap that takes a slot over and the store of the new hash, the check tells the former owner
//! that the slot isn't its own any more. Two workers that see a client for the first time in the same instant may both take a
//! slot for it; later lookups find the first of them. All accesses are relaxed: no other memory is published through them.

use std::sync::atomic::{AtomicU64, Ordering};

use super::gcra::Gcra;

/// Number of buckets: 1 MiB of slots.
const BUCKETS: usize = 8192;
const SLOTS: usize = 8;
/// Number of attempts at a slot that other workers keep changing. After these, the request is admitted uncounted.
const ATTEMPTS: usize = 16;
/// Bits of a word that hold the TAT; the others hold the check.
const TAT_BITS: u32 = 54;
const TAT_MASK: u64 = (1 << TAT_BITS) - 1;

/// The TATs of many clients.
#[derive(Debug)]
pub(super) struct ClientTable {
    buckets: Box<[Bucket]>,
}

/// Eight slots, in two cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Bucket([Slot; SLOTS]);

#[derive(Debug, Default)]
struct Slot {
    /// The hash of the client; 0 if the slot was never used.
    client: AtomicU64,
    /// The check in the upper bits, the TAT in the lower ones.
    word: AtomicU64,
}

impl ClientTable {
    pub(super) fn new() -> Self {
        Self::with_buckets(BUCKETS)
    }

    /// `buckets` must be a power of two.
    fn with_buckets(buckets: usize) -> Self {
        Self {
            buckets: (0..buckets).map(|_| Bucket::default()).collect(),
        }
    }

    /// Admits a request of the client with this hash at `now`, which is above 0.
    ///
    /// # Errors
    /// The number of ticks after which the request would be admitted.
    pub(super) fn admit(&self, hash: u64, now: u64, gcra: &Gcra) -> Result<(), u64> {
        let Bucket(slots) = &self.buckets[hash as usize & (self.buckets.len() - 1)];
        // 0 marks a slot that was never used.
        let client = hash.max(1);
        for _ in 0..ATTEMPTS {
            let own = slots.iter().filter(|slot| slot.is_of(client));
            if let Some(outcome) = { own }.find_map(|slot| slot.admit(client, now, gcra)) {
                return outcome;
            }
            if Self::take_over(slots, client, now, gcra) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes over the slot with the lowest TAT for a first request; `false` if another worker has changed it meanwhile.
    fn take_over(slots: &[Slot; SLOTS], client: u64, now: u64, gcra: &Gcra) -> bool {
        let words = slots.iter().map(|s| (s, s.word.load(Ordering::Relaxed)));
        let Some((slot, word)) = words.min_by_key(|(_, word)| word & TAT_MASK) else {
            return false;
        };
        // A burst is at least 1, so that the first request of a client is always admitted.
        let tat = gcra.admit(0, now).unwrap_or(now);
        let taken = slot.swap(word, packed(client, tat));
        if taken {
            slot.client.store(client, Ordering::Relaxed);
        }
        taken
    }
}

impl Slot {
    fn is_of(&self, client: u64) -> bool {
        self.client.load(Ordering::Relaxed) == client
    }

    /// Admits a request of the owner; `None` if another client has taken the slot over, or while workers contend for it.
    fn admit(&self, client: u64, now: u64, gcra: &Gcra) -> Option<Result<(), u64>> {
        for _ in 0..ATTEMPTS {
            let word = self.word.load(Ordering::Relaxed);
            if word & !TAT_MASK != packed(client, 0) {
                return None;
            }
            match gcra.admit(word & TAT_MASK, now) {
                Err(early) => return Some(Err(early)),
                Ok(tat) if self.swap(word, packed(client, tat)) => return Some(Ok(())),
                Ok(_) => {}
            }
        }
        // More workers than attempts charge the same client in this instant.
        Some(Ok(()))
    }

    fn swap(&self, from: u64, to: u64) -> bool {
        let word = &self.word;
        word.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }
}

/// The word of a slot. The bucket is selected by the lowest bits of the hash; the check takes the highest.
fn packed(client: u64, tat: u64) -> u64 {
    client & !TAT_MASK | tat.min(TAT_MASK)
}

#[cfg(test)]
mod tests {
    use super::super::gcra::ticks;
    use super::*;
    use crate::config::client_limit::{RatePeriod, RequestRate};
    use std::time::Duration;

    fn gcra(requests: u32, burst: u32) -> Gcra {
        let per = RatePeriod::Second;
        Gcra::new(&RequestRate {
            requests,
            per,
            burst,
        })
    }

    fn at(ms: u64) -> u64 {
        ticks(Duration::from_millis(1_000 + ms))
    }

    #[test]
    fn many_strangers_below_their_limit_are_never_refused() {
        // 16 slots for 100,000 clients, which share their buckets with clients far above the limit.
        let table = ClientTable::with_buckets(2);
        let gcra = gcra(10, 1);
        let mut rng = fastrand::Rng::with_seed(1);
        let strangers: Vec<u64> = (0..100_000).map(|_| rng.u64(..)).collect();
        let greedy: Vec<u64> = (0..32).map(|_| rng.u64(..)).collect();
        for round in 0..5 {
            // Each stranger sends one request in 100 ms, which is just its limit.
            for (n, stranger) in strangers.iter().enumerate() {
                let now = at(round * 100) + n as u64;
                assert_eq!(table.admit(*stranger, now, &gcra), Ok(()));
                let _ = table.admit(greedy[n % greedy.len()], now, &gcra);
            }
        }
    }

    #[test]
    fn a_client_above_its_limit_is_throttled_among_many_others() {
        let table = ClientTable::new();
        let gcra = gcra(10, 5);
        let mut rng = fastrand::Rng::with_seed(2);
        let mut admitted = 0;
        for ms in 0..1_000 {
            admitted += usize::from(table.admit(42, at(ms), &gcra).is_ok());
            for _ in 0..30 {
                assert_eq!(table.admit(rng.u64(..), at(ms), &gcra), Ok(()));
            }
        }
        // The burst, and ten in the second.
        assert!((14..=15).contains(&admitted), "{admitted}");
    }

    #[test]
    fn the_client_with_the_least_debt_gives_way() {
        let table = ClientTable::with_buckets(1);
        let gcra = gcra(1, 10);
        for client in 1..=8 {
            for _ in 0..=client {
                assert_eq!(table.admit(client, at(0), &gcra), Ok(()));
            }
        }
        assert_eq!(table.admit(9, at(0), &gcra), Ok(()));
        let owners: Vec<u64> = { table.buckets[0].0.iter() }
            .map(|slot| slot.client.load(Ordering::Relaxed))
            .collect();
        assert_eq!(owners, [9, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn the_former_owner_of_a_slot_leaves_it_alone() {
        let table = ClientTable::with_buckets(1);
        let gcra = gcra(1, 1);
        let (former, next) = (1 << 60, 2 << 60);
        assert_eq!(table.admit(former, at(0), &gcra), Ok(()));
        // As it looks to another worker between the two steps of a takeover.
        let slot = &table.buckets[0].0[0];
        slot.word.store(packed(next, at(0)), Ordering::Relaxed);
        assert_eq!(slot.admit(former, at(0), &gcra), None);
        assert_eq!(
            table.admit(former, at(0), &gcra),
            Ok(()),
            "a slot of its own"
        );
        assert!(
            table.admit(former, at(0), &gcra).is_err(),
            "and it is charged there"
        );
    }

    #[test]
    fn workers_admit_together_what_one_would() {
        let table = ClientTable::new();
        let gcra = gcra(1, 1_000);
        let admitted = std::sync::atomic::AtomicUsize::new(0);
        // The slot exists before, so that no two workers create it at once.
        assert_eq!(table.admit(7, at(0), &gcra), Ok(()));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let one = usize::from(table.admit(7, at(0), &gcra).is_ok());
                        admitted.fetch_add(one, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(admitted.into_inner(), 999);
    }
}
