//! The shield: stable answers for a canary that fails, and the canary is charged.

use std::io;

use crate::support::free_port;
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, serve};
use crate::support::until;

/// A canary with a fifth of the traffic that fails in three ways: by status, by reset, and by not being there.
struct Canary {
    stable: Origin,
    says_500: Origin,
    resets: Origin,
    proxy: Proxy,
}

impl Canary {
    fn new() -> Self {
        let stable = Origin::named("stable");
        let says_500 = Origin::each(|_, conn| conn.reply(500, "broken"));
        let resets = Origin::each(|_, conn| {
            conn.reset()?;
            Err(io::Error::other("reset"))
        });
        let proxy = serve(&format!(
            "[service.app]\nstable = \"v1\"\nsplit = {{ v2 = \"20%\" }}\nshield = true\n\
             balance = \"round_robin\"\n\
             [service.app.outlier]\nconsecutive_5xx = 0\nconsecutive_gateway = 0\nsuccess_rate_stdev = 0\n\
             [service.app.versions]\nv1 = [\"{}\"]\nv2 = [\"{}\", \"{}\", \"127.0.0.1:{}\"]\n",
            stable.at(),
            says_500.at(),
            resets.at(),
            free_port()
        ));
        Self {
            stable,
            says_500,
            resets,
            proxy,
        }
    }

    fn charged(&self, version: &str, labels: &[(&str, &str)]) -> f64 {
        let labels = [&[("service", "app"), ("version", version)], labels].concat();
        self.proxy.metrics().sum("http_requests_total", &labels)
    }

    fn shielded(&self) -> f64 {
        let labels = [("service", "app"), ("version", "v2")];
        self.proxy.metrics().sum("cutover_shielded_total", &labels)
    }
}

#[test]
fn users_see_nothing_of_a_canary_that_fails() {
    let canary = Canary::new();
    let mut clients: Vec<_> = (0..8).map(|_| canary.proxy.client()).collect();
    for n in 0..1600 {
        let answer = clients[n % 8].get("/");
        assert_eq!((answer.status(), answer.text().as_str()), (200, "stable"));
    }
    until("all are counted", || {
        (canary.charged("v1", &[]) == 1600.0).then_some(())
    });
    let failed = canary.charged("v2", &[]);
    assert!((318.0..=322.0).contains(&failed), "{failed} of 1600");
    assert_eq!(canary.shielded(), failed);
    let by_status = canary.charged("v2", &[("status", "500")]);
    assert_eq!(by_status, canary.says_500.hits() as f64);
    let broken = canary.charged("v2", &[("status", "502")]);
    assert_eq!(by_status + broken, failed, "nothing else is charged");
    let dead = broken - canary.resets.hits() as f64;
    for (how, times) in [
        ("status", by_status),
        ("reset", canary.resets.hits() as f64),
        ("death", dead),
    ] {
        assert!((100.0..=113.0).contains(&times), "{how}: {times}");
    }
    assert_eq!(canary.charged("v1", &[("status", "200")]), 1600.0);
}

#[test]
fn no_post_is_done_twice() {
    let canary = Canary::new();
    let mut client = canary.proxy.client();
    let post = "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 4\r\n\r\nbody";
    let statuses: Vec<u16> = (0..150).map(|_| client.ask(post).status()).collect();
    let count = |status: u16| statuses.iter().filter(|s| **s == status).count();
    assert_eq!(count(500), canary.says_500.hits());
    assert_eq!(count(502), canary.resets.hits());
    // The one that isn't there was sent nothing: stable may answer.
    assert_eq!(count(200), canary.stable.hits());
    assert_eq!((count(500), count(502), count(200)), (10, 10, 130));
    assert_eq!(canary.shielded(), 10.0);
}
