//! Scenarios of users who differ, and of conversions.

use cutover::config::rollout::GuardSpec;

use crate::goals::GoalCase;
use crate::report::Reference;
use crate::scenarios::{Case, GOALS, Scenario, USERS};
use crate::users::UserCase;

pub fn users_who_differ() -> Vec<Scenario> {
    let case = |users, share_broken, activity, share, once| UserCase {
        users,
        broken: (share_broken, 0.3),
        base: 0.001,
        activity,
        share,
        extra: 0.0,
        once,
        converts: false,
    };
    let alike = UserCase {
        broken: (0.0, 0.0),
        base: 0.01,
        ..case(2_000, 0.0, 1.5, 0.1, 60)
    };
    // The whole rate hangs on 40 users, four of them on the canary.
    let only_broken = UserCase {
        base: 0.0,
        ..case(2_000, 0.02, 1.5, 0.1, 60)
    };
    let cases = [
        (500, case(2_000, 0.02, 1.5, 0.1, 0), Reference::False(19.4)),
        (500, case(2_000, 0.02, 1.5, 0.1, 60), Reference::False(0.0)),
        (300, case(2_000, 0.02, 1.5, 0.5, 60), Reference::False(0.0)),
        (500, case(20_000, 0.01, 1.0, 0.1, 60), Reference::False(0.0)),
        (500, only_broken, Reference::Unbounded),
        (300, alike, Reference::False(0.0)),
    ];
    let scenario = |(rollouts, case, reference): (u64, UserCase, Reference)| Scenario {
        table: USERS,
        name: format!(
            "{} users, {} % of them broken, {} % errors of the others, share {} %, {}",
            case.users,
            case.broken.0 * 100.0,
            case.base * 100.0,
            case.share * 100.0,
            counted(case.once)
        ),
        rollouts,
        case: Case::Users(case),
        spec: GuardSpec::default(),
        reference,
    };
    cases.into_iter().map(scenario).collect()
}

fn counted(once: i64) -> &'static str {
    match once {
        0 => "every event counts",
        _ => "a user counts once in 60 s",
    }
}

pub fn conversions() -> Vec<Scenario> {
    let goal = vec![("purchase".to_owned(), 0.9)];
    let alone = GuardSpec {
        errors: Vec::new(),
        latency: Vec::new(),
        goals: goal.clone(),
        ..GuardSpec::default()
    };
    let third = GuardSpec {
        goals: goal,
        ..GuardSpec::default()
    };
    let wide = GuardSpec {
        goals: vec![("purchase".to_owned(), 0.7)],
        ..alone.clone()
    };
    let mut all = Vec::new();
    // A few users on the canary may convert more or less than the others, whatever its version: no promise for the rule alone.
    use Reference::{AtMostOnePercent, Unbounded};
    for (users, share, once, spec, reference) in [
        (2_000, 0.1, 0, &alone, Unbounded),
        (2_000, 0.1, 60, &alone, Unbounded),
        (2_000, 0.1, 60, &third, Unbounded),
        (2_000, 0.1, 60, &wide, AtMostOnePercent),
        (2_000, 0.5, 60, &third, AtMostOnePercent),
        (20_000, 0.1, 60, &alone, AtMostOnePercent),
    ] {
        let case = UserCase {
            users,
            broken: (0.0, 0.0),
            base: 0.01,
            activity: 1.5,
            share,
            extra: 0.0,
            once,
            converts: true,
        };
        all.push(Scenario {
            table: GOALS,
            name: format!(
                "{users} users who differ, 1% of requests convert, share {}%, x{} {}, {}",
                share * 100.0,
                spec.goals[0].1,
                if spec.errors.is_empty() {
                    "alone"
                } else {
                    "beside errors and latency"
                },
                counted(once)
            ),
            rollouts: 500,
            case: Case::Users(case),
            spec: spec.clone(),
            reference,
        });
    }
    for base in [0.002, 0.01, 0.05] {
        for (factor, rollouts) in [(1.0, 2_000), (0.9, 4_000), (0.5, 500), (0.0, 500)] {
            for (spec, weight) in [(&alone, "alone"), (&third, "beside errors and latency")] {
                let same = factor >= 0.9;
                if same && weight != "alone" {
                    continue;
                }
                let case = GoalCase {
                    base,
                    factor,
                    share: 0.1,
                    seconds: 1800,
                };
                all.push(Scenario {
                    table: GOALS,
                    name: format!(
                        "{}% of requests convert, canary x{factor}, x0.9 {weight}",
                        base * 100.0
                    ),
                    rollouts,
                    case: Case::Goals(case),
                    spec: spec.clone(),
                    reference: match factor {
                        1.0 => Reference::AtMostOnePercent,
                        0.9 => Reference::OnLimit,
                        _ => Reference::None,
                    },
                });
            }
        }
    }
    all
}
