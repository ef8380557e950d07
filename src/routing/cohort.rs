//! Maps each user to a point in [0,1) by a salted hash, so that a user gets the same version on every request.
//!
//! The point is XXH3-64 of the user's value, seeded with XXH3-64 (seed 0) of the cohort's salt, read as a fraction of 2^64.
//! It is the same on every machine and must stay so in every release, otherwise an upgrade would move users. The kind of
//! key doesn't enter the hash: `cookie:uid` with `42` and `header:x-user-id` with `42` are the same user. Values are hashed
//! as sent, except that a query parameter is decoded first, and an address is hashed as its canonical text (RFC 5952), an
//! IPv4-mapped IPv6 address as that of the IPv4 address.

use std::io::{Cursor, Write};
use std::net::IpAddr;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::{RequestView, extract};
use crate::config::spec::{self, CohortKey};

/// A user's point in [0,1), as a fraction of 2^64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CohortPoint(pub u64);

impl CohortPoint {
    /// The point as a number in [0,1), rounded down to 53 bits.
    pub fn ratio(self) -> f64 {
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A compiled cohort: the keys that identify a user, and the salt.
#[derive(Debug)]
pub struct Cohort {
    by: Box<[CohortKey]>,
    seed: u64,
}

impl Cohort {
    /// Compiles a cohort.
    pub fn new(cohort: &spec::CohortSpec) -> Self {
        Self {
            by: cohort.by.clone().into(),
            seed: xxh3_64(cohort.salt.as_bytes()),
        }
    }

    /// The user's point, and the index of the key that identified the user: the first one with a value that isn't empty.
    /// Of several values of that key the first such value counts. `None` if there is none.
    ///
    /// Budget: 730 instructions (`just instructions`: cohort).
    pub fn place(&self, request: &impl RequestView) -> Option<(usize, CohortPoint)> {
        let mut by = self.by.iter().enumerate();
        by.find_map(|(index, key)| Some((index, self.by_key(key, request)?)))
    }

    fn by_key(&self, key: &CohortKey, request: &impl RequestView) -> Option<CohortPoint> {
        let mut place = None;
        let mut take = |value: &[u8]| {
            if !value.is_empty() {
                place = Some(self.of(value));
            }
            place.is_some()
        };
        match key {
            CohortKey::Cookie(name) => extract::any_cookie(request, name.as_bytes(), take),
            CohortKey::Header(name) => request.any_field(name, &mut take),
            CohortKey::Query(name) => {
                extract::any_parameter(request, name.as_bytes(), |raw| take(&extract::decoded(raw)))
            }
            CohortKey::Ip => take(text(request.client(), &mut [0; 40])),
        };
        place
    }

    fn of(&self, value: &[u8]) -> CohortPoint {
        CohortPoint(xxh3_64_with_seed(value, self.seed))
    }
}

/// The canonical text of an address, written to `buffer` instead of the heap.
fn text(address: IpAddr, buffer: &mut [u8; 40]) -> &[u8] {
    let mut out = Cursor::new(&mut buffer[..]);
    // The longest text, eight groups of four digits and seven colons, has 39 bytes.
    write!(out, "{}", address.to_canonical()).expect("an address has at most 39 bytes");
    let len = out.position() as usize;
    &buffer[..len]
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::*;

    fn cohort(by: &[CohortKey]) -> Cohort {
        Cohort::new(&spec::CohortSpec {
            by: by.to_vec(),
            salt: "shop".into(),
        })
    }

    fn keys() -> [CohortKey; 4] {
        [
            CohortKey::Cookie("uid".into()),
            CohortKey::Header("x-user-id".into()),
            CohortKey::Query("user".into()),
            CohortKey::Ip,
        ]
    }

    /// These must never change: users would move to other versions.
    #[test]
    fn places_are_pinned() {
        let cohort = cohort(&keys());
        let places = ["42", "alice@example.com", "127.0.0.1", "2001:db8::1"]
            .map(|value| cohort.of(value.as_bytes()).0);
        assert_eq!(
            places,
            [
                0xf3b0_2c02_1a85_bdd2,
                0xfd1c_affa_6f69_e48f,
                0xcea7_7847_9f86_3761,
                0x55cb_a8de_a70e_2ac5,
            ]
        );
    }

    #[test]
    fn the_first_key_that_is_present_and_not_empty_decides() {
        let cohort = cohort(&keys());
        let full = || Fake::get("/?user=u").with("x-user-id", "h");
        let place = |value: &str| cohort.of(value.as_bytes());
        assert_eq!(
            cohort.place(&full().with("cookie", "uid=c")),
            Some((0, place("c")))
        );
        assert_eq!(
            cohort.place(&full().with("cookie", "uid=; uid=d")),
            Some((0, place("d")))
        );
        assert_eq!(
            cohort.place(&full().with("cookie", "uid=")),
            Some((1, place("h")))
        );
        assert_eq!(
            cohort.place(&Fake::get("/?user=a%40b+c")),
            Some((2, place("a@b c")))
        );
        assert_eq!(
            cohort.place(&Fake::get("/?user=")),
            Some((3, place("127.0.0.1")))
        );
        assert_eq!(self::cohort(&keys()[..3]).place(&Fake::get("/")), None);
    }

    #[test]
    fn the_kind_of_key_has_no_part_in_the_place_but_the_salt_has() {
        let cohort = cohort(&keys());
        let by_cookie = cohort
            .place(&Fake::get("/").with("cookie", "uid=42"))
            .unwrap();
        let by_header = cohort
            .place(&Fake::get("/").with("x-user-id", "42"))
            .unwrap();
        assert_eq!(by_cookie.1, by_header.1);
        let other = Cohort::new(&spec::CohortSpec {
            by: keys().to_vec(),
            salt: "api".into(),
        });
        assert_ne!(other.of(b"42"), cohort.of(b"42"));
    }

    #[test]
    fn an_address_is_its_canonical_text() {
        for (address, canonical) in [
            ("10.0.0.1", "10.0.0.1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
            (
                "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            ),
        ] {
            assert_eq!(
                text(address.parse().unwrap(), &mut [0; 40]),
                canonical.as_bytes()
            );
        }
    }

    #[test]
    fn users_spread_evenly() {
        let cohort = cohort(&keys());
        let mut tenths = [0u32; 10];
        for user in 0..20_000 {
            tenths[(cohort.of(format!("user-{user}").as_bytes()).ratio() * 10.0) as usize] += 1;
        }
        // Five standard deviations.
        assert!(
            tenths.iter().all(|n| (1_790..=2_210).contains(n)),
            "{tenths:?}"
        );
    }
}
