//! The judge on an injected clock, and streaks over several workers.

use proptest::prelude::*;

use super::*;
use crate::config::spec::{self, EndpointAddress, Scheme};
use crate::telemetry::Telemetry;
use crate::upstream::Registry;

fn endpoint() -> Arc<Endpoint> {
    let metrics = Telemetry::new(2).version("s", "v");
    let spec = spec::EndpointSpec {
        scheme: Scheme::Http,
        address: EndpointAddress::Ip(([127, 0, 0, 1], 80).into()),
        weight: 1,
    };
    Registry::new().endpoint("s", "v", &spec, &metrics)
}

fn judge(members: usize) -> Judge {
    let mut judge = Judge::default();
    judge.keep(&(0..members).collect::<Vec<_>>(), 500);
    judge
}

fn nobody(_: usize) -> bool {
    false
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn five_in_a_row_are_five_of_all_workers_together() {
    let (endpoint, terms) = (endpoint(), policy::Outlier::default());
    for n in 1..=4 {
        assert_eq!(
            endpoint.note_outcome(WorkerId(n % 2), AttemptVerdict::ServerError, &terms),
            None
        );
    }
    assert!(endpoint.state.is_usable());
    let fifth = endpoint.note_outcome(WorkerId(1), AttemptVerdict::ServerError, &terms);
    assert_eq!(fifth, Some(EjectionReason::Consecutive5xx));
    assert_eq!(endpoint.state.flags(), flag::SUSPECT);
    // Told once.
    assert_eq!(
        endpoint.note_outcome(WorkerId(0), AttemptVerdict::ServerError, &terms),
        None
    );
    assert_eq!(endpoint.outcomes(), (0, 6));
}

#[test]
fn a_success_of_any_worker_ends_the_row() {
    let (endpoint, terms) = (endpoint(), policy::Outlier::default());
    for outcome in [
        AttemptVerdict::Ok,
        AttemptVerdict::ServerError,
        AttemptVerdict::Gateway,
    ] {
        for _ in 0..2 {
            assert_eq!(
                endpoint.note_outcome(WorkerId(0), AttemptVerdict::Gateway, &terms),
                None
            );
        }
        assert_eq!(
            endpoint.note_outcome(WorkerId(1), AttemptVerdict::Ok, &terms),
            None
        );
        assert_eq!(endpoint.note_outcome(WorkerId(1), outcome, &terms), None);
        endpoint.forget_streaks();
    }
}

#[test]
fn gateway_failures_count_in_both_rows_and_other_errors_in_one() {
    let terms = policy::Outlier::default();
    let run = |outcomes: &[AttemptVerdict]| {
        let endpoint = endpoint();
        let found = outcomes.iter().enumerate();
        found
            .filter_map(|(at, o)| Some((at, endpoint.note_outcome(WorkerId(0), *o, &terms)?)))
            .next()
    };
    use AttemptVerdict::{Gateway, ServerError};
    assert_eq!(
        run(&[Gateway; 9]),
        Some((2, EjectionReason::ConsecutiveGateway))
    );
    let mixed = [Gateway, Gateway, ServerError, Gateway, Gateway];
    assert_eq!(run(&mixed), Some((4, EjectionReason::Consecutive5xx)));
}

#[test]
fn what_is_out_is_not_suspected_and_zero_switches_off() {
    let out = endpoint();
    out.state.raise(flag::EJECTED);
    let off = endpoint();
    let none = policy::Outlier {
        consecutive_5xx: 0,
        consecutive_gateway: 0,
        ..policy::Outlier::default()
    };
    for _ in 0..20 {
        assert_eq!(
            out.note_outcome(
                WorkerId(0),
                AttemptVerdict::Gateway,
                &policy::Outlier::default()
            ),
            None
        );
        assert_eq!(
            off.note_outcome(WorkerId(0), AttemptVerdict::Gateway, &none),
            None
        );
    }
    assert_eq!((out.state.flags(), off.state.flags()), (flag::EJECTED, 0));
}

#[test]
fn the_only_endpoint_stays() {
    let terms = policy::Outlier::default();
    let mut judge = judge(1);
    let decision = judge.suspect(
        0,
        EjectionReason::Consecutive5xx,
        &terms,
        Instant::now(),
        &nobody,
    );
    assert_eq!(decision.map(|d| d.out_for), Some(None));
}

#[test]
fn of_three_one_may_go_and_the_last_that_is_well_stays() {
    let (terms, now) = (policy::Outlier::default(), Instant::now());
    let mut three = judge(3);
    let mut out = |slot| {
        let decision = three.suspect(slot, EjectionReason::Consecutive5xx, &terms, now, &nobody);
        decision.map(|d| d.out_for)
    };
    assert_eq!(out(1), Some(Some(s(30))));
    assert_eq!(out(1), None, "it is out already");
    assert_eq!((out(0), out(2)), (Some(None), Some(None)));
    assert_eq!(out(7), None, "nobody knows it");
    let mut two = judge(2);
    let down = |slot| slot == 1;
    let decision = two.suspect(0, EjectionReason::Consecutive5xx, &terms, now, &down);
    assert_eq!(decision.map(|d| d.out_for), Some(None));
}

#[test]
fn time_grows_with_each_ejection_and_falls_with_each_quiet_interval() {
    let terms = policy::Outlier {
        eject_max: s(80),
        ..policy::Outlier::default()
    };
    let (mut judge, mut now) = (judge(2), Instant::now());
    let eject = |judge: &mut Judge, now: &mut Instant| {
        let decision = judge.suspect(0, EjectionReason::Consecutive5xx, &terms, *now, &nobody);
        let out_for = decision.unwrap().out_for.unwrap();
        *now += out_for - s(1);
        assert_eq!(judge.readmit(*now), [0; 0]);
        *now += s(1);
        assert_eq!(judge.next_due(), Some(*now));
        assert_eq!(judge.readmit(*now), [0]);
        out_for
    };
    let times: Vec<_> = (0..4).map(|_| eject(&mut judge, &mut now)).collect();
    assert_eq!(times, [s(30), s(60), s(80), s(80)]);
    // It was out in the first of these intervals; the other three bring 4 down to 1.
    for _ in 0..4 {
        judge.sweep(&[], &terms, now, &nobody);
    }
    assert_eq!(eject(&mut judge, &mut now), s(60));
}

#[test]
fn a_passing_check_ends_the_ejection_for_gateway_failures_only() {
    let (terms, now) = (policy::Outlier::default(), Instant::now());
    for (reason, ends) in [
        (EjectionReason::ConsecutiveGateway, true),
        (EjectionReason::Consecutive5xx, false),
        (EjectionReason::SuccessRate, false),
    ] {
        let mut judge = judge(3);
        judge.suspect(2, reason, &terms, now, &nobody);
        assert!(
            !judge.passed(2, now - s(1)),
            "it knows nothing of the ejection"
        );
        let passed = judge.passed(2, now);
        assert_eq!((passed, judge.out()), (ends, usize::from(!ends)));
        assert!(!judge.passed(1, now));
    }
}

#[test]
fn of_a_smaller_pool_fewer_may_be_out() {
    let (terms, now) = (policy::Outlier::default(), Instant::now());
    let mut judge = judge(4);
    for (slot, at) in [(1, now), (0, now + s(1))] {
        judge.suspect(slot, EjectionReason::Consecutive5xx, &terms, at, &nobody);
    }
    assert_eq!(judge.keep(&[0, 1, 2, 3], 500), [0; 0]);
    assert_eq!(judge.keep(&[0, 1, 2], 500), [1]);
    assert_eq!(judge.keep(&[0], 500), [0]);
    assert_eq!(judge.out(), 0);
}

fn tallies(rates: &[(u64, u64)]) -> Vec<AttemptCounts> {
    let all = rates.iter().enumerate();
    all.map(|(slot, (answered, failed))| AttemptCounts {
        slot,
        answered: *answered,
        failed: *failed,
    })
    .collect()
}

/// Slots that one interval with these outcomes finds, from zero.
fn found(rates: &[(u64, u64)], terms: &policy::Outlier) -> Vec<usize> {
    let mut judge = judge(rates.len());
    judge.sweep(
        &tallies(&vec![(0, 0); rates.len()]),
        terms,
        Instant::now(),
        &nobody,
    );
    let decisions = judge.sweep(&tallies(rates), terms, Instant::now(), &nobody);
    decisions.iter().map(|d| d.slot).collect()
}

#[test]
fn a_success_rate_far_below_the_pool_is_found() {
    let terms = policy::Outlier::default();
    let mut rates = vec![(1000, 3); 5];
    assert_eq!(found(&rates, &terms), [0; 0]);
    rates[3] = (800, 200);
    assert_eq!(found(&rates, &terms), [3]);
    let off = policy::Outlier {
        success_rate_stdev: 0.0,
        ..terms.clone()
    };
    assert_eq!(found(&rates, &off), [0; 0]);
    assert_eq!(found(&rates[..4], &terms), [0; 0], "too few endpoints");
    rates[0] = (99, 0);
    assert_eq!(
        found(&rates, &terms),
        [0; 0],
        "too few with enough requests"
    );
}

#[test]
fn only_what_the_interval_brought_is_judged() {
    let terms = policy::Outlier::default();
    let (mut judge, now) = (judge(5), Instant::now());
    let mut rates = vec![(1000, 0); 5];
    rates[2] = (100, 900);
    // Attempts before the first sweep belong to no interval.
    assert_eq!(judge.sweep(&tallies(&rates), &terms, now, &nobody), []);
    for rate in &mut rates {
        rate.0 += 200;
    }
    assert_eq!(judge.sweep(&tallies(&rates), &terms, now, &nobody), []);
    for rate in &mut rates {
        rate.0 += 150;
    }
    rates[4].1 += 50;
    let found = judge.sweep(&tallies(&rates), &terms, now, &nobody);
    assert_eq!(found.iter().map(|d| d.slot).collect::<Vec<_>>(), [4]);
}

#[derive(Clone, Debug)]
enum Step {
    Suspect(usize, bool),
    Wait(u64),
    Sweep(Vec<(u64, u64)>),
    Pass(usize),
    Members(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0usize..12, any::<bool>()).prop_map(|(slot, gateway)| Step::Suspect(slot, gateway)),
        2 => (0u64..200).prop_map(Step::Wait),
        2 => proptest::collection::vec((0u64..400, 0u64..400), 12).prop_map(Step::Sweep),
        1 => (0usize..12).prop_map(Step::Pass),
        1 => (1usize..12).prop_map(Step::Members),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    #[test]
    fn never_all_never_above_the_share_never_longer_than_the_longest(
        steps in steps(),
        max_ejected in 0u32..=1000,
        absent in proptest::collection::vec(any::<bool>(), 12),
    ) {
        let terms = policy::Outlier { max_ejected, ..policy::Outlier::default() };
        let (mut members, mut now) = (12, Instant::now());
        let mut judge = judge(members);
        let mut sums = [(0, 0); 12];
        for step in steps {
            let gone = |slot: usize| absent[slot];
            let decisions: Vec<Decision> = match step {
                Step::Suspect(slot, gateway) => {
                    let reason = if gateway { EjectionReason::ConsecutiveGateway } else { EjectionReason::Consecutive5xx };
                    judge.suspect(slot, reason, &terms, now, &gone).into_iter().collect()
                }
                Step::Wait(seconds) => {
                    now += s(seconds);
                    judge.readmit(now);
                    prop_assert!(judge.next_due().is_none_or(|due| due > now));
                    Vec::new()
                }
                Step::Sweep(more) => {
                    for (sum, more) in sums.iter_mut().zip(more) {
                        *sum = (sum.0 + more.0, sum.1 + more.1);
                    }
                    judge.sweep(&tallies(&sums[..members]), &terms, now, &gone)
                }
                Step::Pass(slot) => {
                    judge.passed(slot, now);
                    Vec::new()
                }
                Step::Members(n) => {
                    members = n;
                    judge.keep(&(0..n).collect::<Vec<_>>(), max_ejected);
                    Vec::new()
                }
            };
            let enforced: Vec<_> = decisions.iter().filter_map(|d| d.out_for).collect();
            prop_assert!(enforced.iter().all(|t| *t >= terms.eject && *t <= terms.eject_max));
            let share = (members * max_ejected as usize / 1000).max(1);
            prop_assert!(judge.out() < members && judge.out() <= share);
            if !enforced.is_empty() {
                // Whoever is put out leaves somebody who is neither out nor absent.
                prop_assert!((0..members).any(|m| judge.out_until(m).is_none() && !absent[m]));
                prop_assert!(max_ejected > 0);
            }
        }
    }
}
