//! Limits the rate of requests of single clients.
//!
//! [`gcra`] is the arithmetic, [`table`] the memory. A [`ClientLimiter`] tells clients apart by a hash with a secret of its
//! own, so that nobody can choose keys that collide.

mod gcra;
mod table;

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::RequestView;
use crate::config::client_limit::{ClientKey, RequestRate};
use gcra::Gcra;
use table::ClientTable;

/// The limit on the requests of each client, and the use that clients have made of it. Shared by all workers.
///
/// It outlives a snapshot: a generation with the same limit takes it over, so that a reload doesn't give clients a new allowance.
#[derive(Debug)]
pub(crate) struct ClientLimiter {
    by: ClientKey,
    rate: RequestRate,
    gcra: Gcra,
    table: ClientTable,
    secret: RandomState,
    /// Time 0 of the table.
    epoch: Instant,
}

/// The key that tells clients apart. A header can't pass for an address.
#[derive(Hash)]
enum Identity<'a> {
    Address(Subscriber),
    Header(&'a [u8]),
}

/// A client as identified by its address.
#[derive(Hash)]
pub(crate) enum Subscriber {
    /// An IPv4 address.
    V4(u32),
    /// The first 64 bits of an IPv6 address.
    V6(u64),
}

impl ClientLimiter {
    /// A limiter that has seen no client yet.
    pub(crate) fn new(by: &ClientKey, rate: &RequestRate, now: Instant) -> Self {
        Self {
            by: by.clone(),
            rate: *rate,
            gcra: Gcra::new(rate),
            table: ClientTable::new(),
            secret: RandomState::new(),
            epoch: now,
        }
    }

    /// Whether this is the limiter for such a limit, so that it can continue after a reload.
    pub(crate) fn is_for(&self, by: &ClientKey, rate: &RequestRate) -> bool {
        self.by == *by && self.rate == *rate
    }

    /// Admits a request that arrived at `now`.
    ///
    /// # Errors
    /// The time after which the client may try again.
    pub(crate) fn admit(&self, request: &impl RequestView, now: Instant) -> Result<(), Duration> {
        // One tick after the epoch at least: the table takes a time of 0 for none.
        let ticks = gcra::ticks(now.saturating_duration_since(self.epoch)) + 1;
        self.table
            .admit(self.client(request), ticks, &self.gcra)
            .map_err(gcra::duration)
    }

    /// The hash of the client.
    fn client(&self, request: &impl RequestView) -> u64 {
        if let ClientKey::Header(name) = &self.by {
            let mut found = None;
            request.any_field(name, &mut |value| {
                found = Some(self.secret.hash_one(Identity::Header(value)));
                true
            });
            if let Some(hash) = found {
                return hash;
            }
        }
        self.secret
            .hash_one(Identity::Address(Subscriber::of(request.client())))
    }
}

impl Subscriber {
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            // A subscriber gets at least a /64 and may use any address in it.
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::*;
    use crate::config::client_limit::RatePeriod;

    fn limiter(by: ClientKey) -> (ClientLimiter, Instant) {
        let now = Instant::now();
        let rate = RequestRate {
            requests: 1,
            per: RatePeriod::Minute,
            burst: 1,
        };
        (ClientLimiter::new(&by, &rate, now), now)
    }

    fn from(client: &str) -> Fake {
        Fake {
            client: client.parse().expect("an address"),
            ..Fake::get("/")
        }
    }

    #[test]
    fn addresses_count_alone_in_ipv4_and_by_subnet_in_ipv6() {
        let (limiter, now) = limiter(ClientKey::Ip);
        for (client, admitted) in [
            ("192.0.2.1", true),
            ("192.0.2.1", false),
            ("192.0.2.2", true),
            ("::ffff:192.0.2.1", false),
            ("2001:db8::1", true),
            ("2001:db8::ffff:1:2:3", false),
            ("2001:db8:0:1::1", true),
        ] {
            let outcome = limiter.admit(&from(client), now);
            assert_eq!(outcome.is_ok(), admitted, "{client}");
        }
        let later = now + Duration::from_secs(60);
        assert!(limiter.admit(&from("192.0.2.1"), later).is_ok());
    }

    #[test]
    fn the_wait_is_told() {
        let (limiter, now) = limiter(ClientKey::Ip);
        assert!(limiter.admit(&from("192.0.2.1"), now).is_ok());
        let later = now + Duration::from_secs(45);
        let wait = limiter.admit(&from("192.0.2.1"), later);
        assert_eq!(wait, Err(Duration::from_secs(15)));
    }

    #[test]
    fn a_header_counts_across_addresses_and_its_absence_by_address() {
        let (limiter, now) = limiter(ClientKey::Header("x-key".to_owned()));
        let admits = |request: &Fake| limiter.admit(request, now).is_ok();
        assert!(admits(&from("192.0.2.1").with("x-key", "a")));
        assert!(!admits(&from("192.0.2.2").with("x-key", "a")));
        assert!(admits(&from("192.0.2.1").with("x-key", "b")));
        assert!(admits(&from("192.0.2.1")));
        assert!(!admits(&from("192.0.2.1")));
    }
}
