//! A rollout whose process is killed at random instants, over and over.
//!
//! `CUTOVER_KILLS` says how often; `just kills` asks for a thousand.

use std::time::Duration;

use crate::rollouts::{Version, journal, restarted, rollout, service};
use crate::support::pause;
use crate::support::proxy::{Proxy, serve};

/// Kills in the test suite.
const KILLS: u32 = 16;
/// Number of kills from one abort to the next.
const ROUND: u32 = 12;
/// Number of kills between an abort and the retry that follows it.
const LATCHED: u32 = 4;

fn kills() -> u32 {
    std::env::var("CUTOVER_KILLS").map_or(KILLS, |n| n.parse().expect("a number of kills"))
}

/// One percent more each second.
fn plan() -> String {
    let steps: Vec<String> = (1..100).map(|n| format!("\"{n}% for 1s\"")).collect();
    format!(
        "steps = [{}, \"100% until approved\"]\nguard.min_requests = 0",
        steps.join(", ")
    )
}

/// The rollout's step, counted from 1, and its share in percent.
fn step_and_share(proxy: &Proxy) -> (u64, u64) {
    let rollout = rollout(proxy);
    let share = rollout["share"].as_str().expect("a share");
    let share = share.trim_end_matches('%').parse().expect("a whole number");
    (rollout["step"].as_u64().expect("a step"), share)
}

#[test]
fn kills_at_random_instants_raise_no_share_and_lose_no_latch_and_no_entry() {
    let (v1, v2) = (Version::new("v1", 0), Version::new("v2", 0));
    let mut proxy = serve(&service(&v1, &v2, "1.1.0", &plan()));
    let mut rng = fastrand::Rng::with_seed(11);
    let mut before = 0;
    let mut aborts = 0;
    for kill in 0..kills() {
        let at = kill % ROUND;
        if at == ROUND - LATCHED {
            let aborted = proxy.local(&["abort", "app"]);
            // It may have reached its last step, which waits for an approval: that can be aborted as well.
            assert_eq!(aborted.code, 0, "{}", aborted.stderr);
            aborts += 1;
        }
        let is_latched = at >= ROUND - LATCHED;
        // Half of the processes are killed within a step, the others after it: a restart begins the hold anew.
        let lives = if rng.bool() { 0..400 } else { 900..1500 };
        pause(Duration::from_millis(rng.u64(lives)));
        let (_, share) = step_and_share(&proxy);
        assert!(
            is_latched || share >= before,
            "kill {kill}: {before} then {share}"
        );
        proxy = restarted(&mut proxy);
        let (step, now) = step_and_share(&proxy);
        if is_latched {
            assert_eq!(rollout(&proxy)["state"], "aborted", "kill {kill}");
            assert_eq!(now, 0, "kill {kill}");
            before = 0;
        } else {
            assert!(
                now >= share,
                "kill {kill}: {share} before it, {now} after it"
            );
            assert!(now <= step, "kill {kill}: {now} % in step {step}");
            before = now;
        }
        if at == ROUND - 1 {
            let retried = proxy.local(&["retry", "app"]);
            assert_eq!(retried.code, 0, "{}", retried.stderr);
        }
    }
    let text = std::fs::read_to_string(journal(&proxy)).expect("the journal");
    let numbers: Vec<u64> = text
        .lines()
        .map(|line| {
            line.split(' ')
                .nth(1)
                .expect("a number")
                .parse()
                .expect("a number")
        })
        .collect();
    assert!(
        numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "entries are lost or doubled: {numbers:?}"
    );
    println!(
        "{} kills, {aborts} aborts, {} entries",
        kills(),
        numbers.len()
    );
}
