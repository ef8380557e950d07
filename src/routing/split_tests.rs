use proptest::prelude::*;

use super::super::cohort::Cohort;
use super::super::fake::Fake;
use super::*;
use crate::config::spec::{self, CohortKey};

const W: u32 = Share::WHOLE;

fn split(versions: usize, stable: usize, canaries: &[(usize, u32)]) -> Split {
    let canaries: Vec<_> = canaries
        .iter()
        .map(|(v, s)| (VersionIx(*v), Share(*s)))
        .collect();
    let names: Vec<String> = (0..versions).map(|v| format!("v{v}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    Split::new(&names, VersionIx(stable), &canaries)
}

/// Running counts: `counts[n][v]` of the first n requests.
fn run(split: &Split, versions: usize, requests: usize) -> Vec<Vec<i64>> {
    let mut state = SplitState::default();
    let mut counts = vec![vec![0; versions]];
    for n in 0..requests {
        let mut next = counts[n].clone();
        next[split.next(&mut state).0] += 1;
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
            for (version, got) in VersionIx::enumerate(counts) {
                let due = n as i64 * i64::from(split.share(version).0);
                prop_assert!((got * WHOLE - due).abs() < WHOLE, "version {:?} after {}: {} for {}", version, n, got * WHOLE, due);
            }
        }
    }

}

proptest! {
    #[test]
    fn two_lanes_are_served_as_the_general_rule_says(share in 1..W, requests in 1..3_000usize) {
        let split = split(2, 0, &[(1, share)]);
        let (mut state, mut owed) = (SplitState::default(), [0; 2]);
        for n in 0..requests {
            prop_assert_eq!(split.next(&mut state), split.next_lane(&mut owed), "request {}", n);
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
            steps[split.at(CohortPoint(place as u64)).0] += 1;
        }
        for (version, steps) in VersionIx::enumerate(&steps) {
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
    assert_eq!(nothing.at(CohortPoint(0)), VersionIx(0));
    let everything = split(2, 0, &[(1, W)]);
    assert!(!everything.is_whole());
    assert_eq!(everything.share(VersionIx(0)), Share(0));
    assert_eq!(run(&everything, 2, 500)[500], [0, 500]);
    assert_eq!(
        (
            everything.at(CohortPoint(0)),
            everything.at(CohortPoint(u64::MAX))
        ),
        (VersionIx(1), VersionIx(1))
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
            .filter(|v| *v > VersionIx(0))
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

/// The versions of 2,000 users.
fn users(split: &Split) -> Vec<usize> {
    let cohort = Cohort::new(&spec::CohortSpec {
        by: vec![CohortKey::Cookie("uid".into())],
        salt: "shop".into(),
    });
    let version = |user| {
        let request = Fake::get("/").with("cookie", format!("uid=user-{user}"));
        split
            .at(cohort.place(&request).expect("it has the cookie").1)
            .0
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

/// By name: the versions of a file in its order, stable, and the split.
fn named(versions: &[&str], stable: &str, canaries: &[(&str, u32)]) -> Split {
    let at = |name: &str| VersionIx(versions.iter().position(|v| *v == name).expect("a version"));
    let canaries: Vec<_> = canaries.iter().map(|(v, s)| (at(v), Share(*s))).collect();
    Split::new(versions, at(stable), &canaries)
}

/// The names of the versions of 2,000 users.
fn names_of<'a>(versions: &[&'a str], split: &Split) -> Vec<&'a str> {
    users(split).into_iter().map(|v| versions[v]).collect()
}

const FOUR: [&str; 4] = ["v1", "v2", "v3", "v4"];

#[test]
fn deleting_an_unused_version_moves_nobody() {
    for canary in ["v2", "v3", "v4"] {
        let before = names_of(&FOUR, &named(&FOUR, "v1", &[(canary, 20_000)]));
        for unused in ["v2", "v3", "v4"].into_iter().filter(|v| *v != canary) {
            let left: Vec<_> = FOUR.into_iter().filter(|v| *v != unused).collect();
            let after = names_of(&left, &named(&left, "v1", &[(canary, 20_000)]));
            assert_eq!(before, after, "{canary} without {unused}");
        }
    }
}

#[test]
fn the_order_in_the_file_moves_nobody() {
    let canaries = [("v2", 20_000), ("v3", 10_000), ("v4", 5_000)];
    let before = names_of(&FOUR, &named(&FOUR, "v1", &canaries));
    for turn in 0..4 {
        let mut versions = FOUR;
        versions.rotate_left(turn);
        versions.swap(0, 2);
        let mut canaries = canaries;
        canaries.rotate_left(turn % 3);
        let after = names_of(&versions, &named(&versions, "v1", &canaries));
        assert_eq!(before, after, "{versions:?} {canaries:?}");
    }
}

#[test]
fn lowering_one_canary_to_nothing_moves_nobody_else() {
    let split = |v2, v3| named(&FOUR, "v1", &[("v2", v2), ("v3", v3)]);
    let before = names_of(&FOUR, &split(20_000, 20_000));
    for (v2, v3, gone) in [(0, 20_000, "v2"), (20_000, 0, "v3")] {
        let after = names_of(&FOUR, &split(v2, v3));
        for (before, after) in before.iter().zip(after) {
            let expected = if *before == gone { "v1" } else { before };
            assert_eq!(after, expected);
        }
    }
}

#[test]
fn the_only_name_in_the_split_is_at_the_bottom() {
    for canary in ["v1", "v2", "v4"] {
        let split = named(&FOUR, "v3", &[(canary, 30_000)]);
        let at = |step: u64| FOUR[split.at(CohortPoint((u64::MAX / 100) * step + (1 << 50))).0];
        assert_eq!((at(0), at(29)), (canary, canary));
        assert_eq!((at(30), at(99)), ("v3", "v3"));
    }
}

#[test]
fn a_name_that_is_last_in_order_joins_and_leaves_alone() {
    let versions = ["v1", "v8", "v9", "v10", "v11"];
    let mut canaries = vec![("v8", 20_000), ("v9", 20_000), ("v10", 20_000)];
    let three = named(&versions, "v1", &canaries);
    canaries.push(("v11", 10_000));
    let four = named(&versions, "v1", &canaries);
    let joins = CohortMove {
        from: VersionIx(0),
        to: VersionIx(4),
        users: Share(10_000),
    };
    assert_eq!(moves(&three, &four, Some), [joins]);
    let leaves = CohortMove {
        from: VersionIx(4),
        to: VersionIx(0),
        users: Share(10_000),
    };
    assert_eq!(moves(&four, &three, Some), [leaves]);
    // One that isn't last renumbers those after it.
    let without_first = named(&versions, "v1", &canaries[1..]);
    assert!(users_moved(&four, &without_first, Some) > Share(20_000));
}

#[test]
fn moves_are_told_by_version_and_counted() {
    let before = named(&["v1", "v2"], "v1", &[("v2", 30_000)]);
    let after = named(&["v3", "v2"], "v2", &[("v3", 10_000)]);
    // v2 becomes stable, v1 is gone, and v3 takes the bottom.
    let same = |version| (version == VersionIx(1)).then_some(VersionIx(1));
    let moves = moves(&before, &after, same);
    let told: Vec<_> = moves
        .iter()
        .map(|m| (m.from.0, m.to.0, m.users.0))
        .collect();
    assert_eq!(told, [(1, 0, 10_000), (0, 1, 70_000)]);
    assert_eq!(users_moved(&before, &after, same), Share(80_000));
    assert_eq!(users_moved(&before, &before, Some), Share(0));
}

/// What changing one canary's share may do: users move between it and stable, the way that the share moves.
fn only_moves_its_own(before: &Split, after: &Split, stable: usize, canary: usize) {
    let [was, is] = [before, after].map(|split| split.share(VersionIx(canary)));
    let grows = is > was;
    let way = if grows {
        (stable, canary)
    } else {
        (canary, stable)
    };
    for m in moves(before, after, Some) {
        assert_eq!((m.from.0, m.to.0), way, "{before:?} {after:?}");
        assert_eq!(m.users.0, is.0.abs_diff(was.0));
    }
    for (from, to) in users(before).into_iter().zip(users(after)) {
        assert!(from == to || (from, to) == way);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Wherever stable stands, in whatever order the split names them, up to 100 % together.
    #[test]
    fn two_canaries_move_users_only_between_themselves_and_stable(
        stable in 0..3usize,
        swapped in any::<bool>(),
        path in proptest::collection::vec((0..=W, 0..=W), 2..6),
    ) {
        let others: Vec<usize> = (0..3).filter(|v| *v != stable).collect();
        let at = |(a, b): (u32, u32)| {
            let mut canaries = vec![(others[0], a), (others[1], b)];
            if swapped { canaries.reverse(); }
            split(3, stable, &canaries)
        };
        for step in path.windows(2) {
            let [old, new] = [step[0], step[1]].map(|(a, b)| (a, b.min(W - a)));
            // One at a time, as a hand or a rollout moves them; the one that falls first, so that both fit.
            let between = if new.0 < old.0 { (new.0, old.1) } else { (old.0, new.1.min(W - old.0)) };
            for (from, to) in [(old, between), (between, new)] {
                let changed: Vec<_> = [(from.0, to.0), (from.1, to.1)].into_iter().enumerate().filter(|(_, (x, y))| x != y).collect();
                if let [(canary, _)] = changed[..] {
                    only_moves_its_own(&at(from), &at(to), stable, others[canary]);
                }
            }
        }
    }

    /// More than two, as long as each has no more than its part.
    #[test]
    fn many_small_canaries_move_users_only_between_themselves_and_stable(
        count in 3..9usize,
        shares in proptest::collection::vec(0..=W / 8, 9),
        changed in 0..9usize,
        next in 0..=W / 8,
    ) {
        let changed = changed % count;
        let at = |shares: &[u32]| {
            let canaries: Vec<_> = (0..count).map(|i| (i + 1, shares[i])).collect();
            split(count + 1, 0, &canaries)
        };
        let mut after = shares.clone();
        after[changed] = next;
        only_moves_its_own(&at(&shares), &at(&after), 0, changed + 1);
    }
}
