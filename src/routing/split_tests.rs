use proptest::prelude::*;

use super::super::cohort::Cohort;
use super::super::fake::Fake;
use super::*;
use crate::config::spec::{self, CohortKey};

const W: u32 = Share::WHOLE;

fn split(versions: usize, stable: usize, canaries: &[(usize, u32)]) -> Split {
    let canaries: Vec<_> = canaries.iter().map(|(v, s)| (*v, Share(*s))).collect();
    Split::new(versions, stable, &canaries)
}

/// Running counts: `counts[n][v]` of the first n requests.
fn run(split: &Split, versions: usize, requests: usize) -> Vec<Vec<i64>> {
    let mut state = SplitState::default();
    let mut counts = vec![vec![0; versions]];
    for n in 0..requests {
        let mut next = counts[n].clone();
        next[split.next(&mut state)] += 1;
        counts.push(next);
    }
    counts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn two_versions_any_window_within_one(share in 0..=W, requests in 1..700usize) {
        let counts = run(&split(2, 0, &[(1, share)]), 2, requests);
        for from in 0..counts.len() {
            for to in from..counts.len() {
                let got = (counts[to][1] - counts[from][1]) * WHOLE;
                let due = (to - from) as i64 * i64::from(share);
                prop_assert!((got - due).abs() <= WHOLE, "{}..{}: {} for {}", from, to, got, due);
            }
        }
    }

    #[test]
    fn more_versions_from_the_start_within_one(
        weights in proptest::collection::vec(0..=W, 2..9),
        rest in 0..=W,
        stable in 0..9usize,
    ) {
        let stable = stable % (weights.len() + 1);
        let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum::<u64>() + u64::from(rest);
        let shares = weights.iter().map(|w| (u64::from(*w) * u64::from(W) / sum.max(1)) as u32);
        let canaries: Vec<_> = (0..=weights.len()).filter(|v| *v != stable).zip(shares).collect();
        let versions = weights.len() + 1;
        let split = split(versions, stable, &canaries);
        for (n, counts) in run(&split, versions, 3_000).iter().enumerate() {
            for (version, got) in counts.iter().enumerate() {
                let due = n as i64 * i64::from(split.share(version).0);
                prop_assert!((got * WHOLE - due).abs() < WHOLE, "version {} after {}: {} for {}", version, n, got * WHOLE, due);
            }
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn places_cover_exactly_the_shares(weights in proptest::collection::vec(0..20_000u32, 1..6)) {
        let canaries: Vec<_> = weights.iter().enumerate().map(|(i, s)| (i + 1, *s)).collect();
        let split = split(weights.len() + 1, 0, &canaries);
        let mut steps = vec![0u32; weights.len() + 1];
        for step in 0..W {
            // The middle of the step.
            let place = ((u128::from(step) * 2 + 1) << 63) / u128::from(W);
            steps[split.at(Place(place as u64))] += 1;
        }
        for (version, steps) in steps.iter().enumerate() {
            prop_assert_eq!(*steps, split.share(version).0);
        }
    }
}

#[test]
fn resolution_is_a_thousandth_of_a_percent() {
    let counts = run(&split(2, 0, &[(1, 1)]), 2, 300_000);
    assert_eq!(counts[100_000][1], 1);
    assert_eq!(counts[300_000][1], 3);
}

#[test]
fn nothing_and_everything() {
    let nothing = split(2, 0, &[(1, 0)]);
    assert!(nothing.is_whole());
    assert_eq!(run(&nothing, 2, 500)[500], [500, 0]);
    assert_eq!(nothing.at(Place(0)), 0);
    let everything = split(2, 0, &[(1, W)]);
    assert!(!everything.is_whole());
    assert_eq!(everything.share(0), Share(0));
    assert_eq!(run(&everything, 2, 500)[500], [0, 500]);
    assert_eq!(
        (everything.at(Place(0)), everything.at(Place(u64::MAX))),
        (1, 1)
    );
}

#[test]
fn the_issue_s_figure_on_eight_workers() {
    let split = split(2, 0, &[(1, 5_000)]);
    let on_canary: i64 = (0..8).map(|_| run(&split, 2, 1_250)[1_250][1]).sum();
    assert!((496..=504).contains(&on_canary), "{on_canary}");
}

#[test]
fn a_state_for_other_shares_starts_again_without_allocating() {
    let (a, b) = (
        split(3, 0, &[(1, 30_000), (2, 30_000)]),
        split(3, 0, &[(1, 10_000)]),
    );
    let mut state = SplitState::default();
    assert_eq!(
        (0..7)
            .map(|_| a.next(&mut state))
            .filter(|v| *v > 0)
            .count(),
        4
    );
    let place = state.owed.as_ptr();
    let resumed: Vec<_> = (0..50).map(|_| b.next(&mut state)).collect();
    assert_eq!(state.owed.as_ptr(), place);
    let mut fresh = SplitState::default();
    assert_eq!(
        resumed,
        (0..50).map(|_| b.next(&mut fresh)).collect::<Vec<_>>()
    );
}

/// A share of up to one half; often none, so that canaries come and go.
fn half() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), 0..=W / 2]
}

/// The versions of 2,000 users.
fn users(split: &Split) -> Vec<usize> {
    let cohort = Cohort::new(&spec::Cohort {
        by: vec![CohortKey::Cookie("uid".into())],
        salt: "shop".into(),
    });
    let version = |user| {
        let request = Fake::get("/").with("cookie", format!("uid=user-{user}"));
        split.at(cohort.place(&request).expect("it has the cookie").1)
    };
    (0..2_000).map(version).collect()
}

#[test]
fn two_thousand_users_up_and_down() {
    let percents = [0, 5, 25, 60, 25, 5, 0];
    let steps: Vec<_> = percents
        .iter()
        .map(|p| users(&split(2, 0, &[(1, p * 1_000)])))
        .collect();
    for (percents, users) in percents.windows(2).zip(steps.windows(2)) {
        let moved = users[0].iter().zip(&users[1]).filter(|(a, b)| a != b);
        let wrong = moved
            .filter(|(_, to)| **to != usize::from(percents[1] > percents[0]))
            .count();
        assert_eq!(wrong, 0, "{percents:?}");
    }
    for (percent, users) in percents.iter().zip(&steps) {
        let canary = users.iter().filter(|v| **v == 1).count() as f64 / 20.0;
        assert!(
            (canary - f64::from(*percent)).abs() < 3.5,
            "{canary} for {percent}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    /// Wherever stable stands, in whatever order the split names them, and while the other comes, goes or moves itself.
    #[test]
    fn two_canaries_move_users_only_between_themselves_and_stable(
        stable in 0..3usize,
        swapped in any::<bool>(),
        path in proptest::collection::vec((half(), half()), 2..6),
    ) {
        let others: Vec<usize> = (0..3).filter(|v| *v != stable).collect();
        let at = |(a, b): (u32, u32)| {
            let mut canaries = vec![(others[0], a), (others[1], b)];
            canaries.retain(|(_, share)| *share > 0);
            if swapped { canaries.reverse(); }
            split(3, stable, &canaries)
        };
        for step in path.windows(2) {
            // One at a time, as a hand or a rollout moves them.
            let between = (step[1].0, step[0].1);
            for (from, to) in [(step[0], between), (between, step[1])] {
                let (before, after) = (at(from), at(to));
                for (x, y) in users(&before).into_iter().zip(users(&after)).filter(|(x, y)| x != y) {
                    let grew = if x == stable { y } else { x };
                    prop_assert!(x == stable || y == stable);
                    prop_assert_eq!(after.share(grew) > before.share(grew), x == stable);
                }
            }
        }
    }
}

#[test]
fn two_canaries_that_would_share_an_end_take_both() {
    // Four versions, ranks 0 and 2: both even.
    let split = split(4, 0, &[(3, 30_000), (1, 20_000)]);
    assert_eq!(split.at(Place(0)), 1);
    assert_eq!(split.at(Place(u64::MAX)), 3);
    assert_eq!(split.at(Place(u64::MAX / 2)), 0);
}
