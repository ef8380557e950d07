//! 150 edits under load: no request fails, and every worker works by an edit within 100 ms of its save.
//!
//! A program of its own, so that no other test runs beside it: what it measures is time.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[expect(dead_code, reason = "the harness serves more tests than this one")]
mod support;

use support::origin::Origin;
use support::proxy::{Proxy, serve};

const EDITS: usize = 150;
const LIMIT: Duration = Duration::from_millis(100);
/// A machine that does something else at the same time may spoil a round, hardly three.
const ROUNDS: usize = 3;

fn file(stable: &str, blue: &Origin, green: &Origin) -> String {
    format!(
        "[service.app]\nstable = \"{stable}\"\n[service.app.versions]\nblue = [\"{}\"]\ngreen = [\"{}\"]\n",
        blue.at(),
        green.at()
    )
}

/// Ends the load also where an edit fails: a test that hangs says nothing.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The 95th percentile of the time from a save to its adoption.
fn round(proxy: &Proxy, blue: &Origin, green: &Origin) -> Duration {
    let mut took: Vec<_> = (0..EDITS)
        .map(|n| {
            let start = Instant::now();
            proxy.edit(&file(["green", "blue"][n % 2], blue, green));
            start.elapsed()
        })
        .collect();
    took.sort();
    took[EDITS * 95 / 100]
}

#[test]
fn edits_under_load_cost_no_request_and_are_adopted_at_once() {
    let (blue, green) = (Origin::named("blue"), Origin::named("green"));
    let proxy = serve(&file("blue", &blue, &green));
    let (done, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let load = || {
        let mut client = proxy.client();
        while !done.load(Ordering::Relaxed) {
            let answer = client.get("/");
            assert_eq!(answer.status(), 200);
            served.fetch_add(1, Ordering::Relaxed);
        }
    };
    let rounds = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(load)).collect();
        let end = EndOnDrop(&done);
        let mut rounds = Vec::new();
        while rounds.len() < ROUNDS && rounds.last().is_none_or(|p95| *p95 >= LIMIT) {
            rounds.push(round(&proxy, &blue, &green));
        }
        drop(end);
        for client in clients {
            client.join().expect("no request failed");
        }
        rounds
    });
    assert!(rounds.iter().any(|p95| *p95 < LIMIT), "{rounds:?}");
    assert!(served.load(Ordering::Relaxed) > EDITS);
    assert!(blue.hits() > 0 && green.hits() > 0);
    // Nothing that did not change was touched: a few connections for each worker and client, not one for each edit.
    assert!(
        blue.connections() < 20,
        "{} connections",
        blue.connections()
    );
}
