//! What a guard says and when, over the seconds of a rollout.

use std::time::Duration;

use crate::config::rollout::{ErrorLimit, GuardSpec, LatencyGuard, LatencyLimit, Quantile};
use crate::rollout::guard::burstiness::Burstiness;
use crate::rollout::guard::{
    EventTally, Guard, GuardState, HoldReason, Pairs, ResumeError, SecondCounts, SideCounts,
    SideNames, StepTraffic, UNUSED, step_warning, visibility,
};

fn errors_only() -> GuardSpec {
    GuardSpec {
        latency: Vec::new(),
        ..GuardSpec::default()
    }
}

fn side(canary: (u64, u64), stable: (u64, u64)) -> SideCounts<'static> {
    SideCounts {
        canary: EventTally::new(canary.0, canary.1),
        stable: EventTally::new(stable.0, stable.1),
        stable_endpoints: &[],
    }
}

fn second(canary: (u64, u64), stable: (u64, u64)) -> SecondCounts<'static> {
    SecondCounts {
        errors: side(canary, stable),
        canary_rate: canary.0 as f64,
        canary_endpoints: 1,
        ..SecondCounts::default()
    }
}

/// Seconds until a verdict, of at most 600.
fn seconds_to_verdict(guard: &mut Guard, counts: &SecondCounts<'_>) -> Option<u64> {
    (1..=600).find(|_| {
        guard.second(counts);
        guard.verdict().is_some()
    })
}

#[test]
fn a_bad_canary_fails_in_three_seconds_with_the_counts() {
    let mut guard = Guard::new(&errors_only());
    assert_eq!(
        seconds_to_verdict(&mut guard, &second((50, 10), (450, 1))),
        Some(3)
    );
    let verdict = guard.verdict().unwrap();
    assert!(verdict.guard.starts_with("errors "), "{}", verdict.guard);
    assert!(verdict.log_e >= guard.threshold());
    assert_eq!(
        verdict.reason,
        "the canary failed 30 of 150 (20 %) requests, stable 3 of 1350 (0.22 %)"
    );
    assert!(guard.leaning());
    let estimate = guard.estimate();
    assert_eq!(estimate.ratio, Some(90.0));
    assert!(estimate.low > 1.5 && estimate.high > 90.0, "{estimate:?}");
}

#[test]
fn an_equal_canary_passes_and_is_proven() {
    let mut guard = Guard::new(&errors_only());
    let seconds = (0..3000).position(|t| {
        guard.second(&second(
            (50, u64::from(t % 20 == 0)),
            (450, u64::from(t % 20 < 9)),
        ));
        assert_eq!(guard.verdict(), None);
        guard.proven()
    });
    assert!((1000..2800).contains(&seconds.unwrap()), "{seconds:?}");
    assert!(!guard.leaning());
    assert_eq!(guard.held_because(), None);
    assert_eq!(guard.time_to_verdict(), None, "none in sight");
}

#[test]
fn two_seconds_never_fail_a_canary() {
    let mut guard = Guard::new(&GuardSpec {
        errors: vec![ErrorLimit::Ratio(1.5)],
        ..errors_only()
    });
    for _ in 0..2 {
        guard.second(&second((50, 50), (450, 0)));
    }
    assert!(guard.total_evidence() > guard.threshold());
    assert_eq!(guard.verdict(), None);
    (0..62).for_each(|_| guard.second(&second((50, 0), (450, 0))));
    assert_eq!(guard.verdict(), None);
}

#[test]
fn failures_of_both_sides_hold_and_dont_fail() {
    let mut guard = Guard::new(&errors_only());
    (0..600).for_each(|_| guard.before(&second((0, 0), (500, 1))));
    for _ in 0..60 {
        guard.second(&second((50, 40), (450, 360)));
        assert_eq!(guard.verdict(), None);
    }
    let reason = guard.held_because().unwrap();
    assert!(matches!(
        reason,
        HoldReason::StableAboveLimit { limit: 0.01, .. }
    ));
    assert!(
        reason
            .words(SideNames::VERSIONS)
            .starts_with("stable fails too: "),
        "{reason:?}"
    );
    assert!(guard.evidence()[0].suspended);
    assert!(!guard.evidence()[1].suspended);
}

#[test]
fn requests_that_fail_on_both_veto_the_verdict() {
    let mut guard = Guard::new(&errors_only());
    let mut counts = second((50, 10), (450, 1));
    counts.pairs = Pairs {
        tried: 10,
        failed: 6,
    };
    assert_eq!(guard.held_because(), None);
    assert_eq!(seconds_to_verdict(&mut guard, &counts), None);
    let reason = guard.held_because().unwrap();
    assert_eq!(
        reason.words(SideNames::VERSIONS),
        "the same requests fail on stable: 180 of 300 tried there"
    );
    // Once the requests end, nothing of them is held against the canary.
    let mut after = guard.clone();
    for _ in 0..120 {
        after.second(&second((50, 0), (450, 1)));
        assert_eq!(after.verdict(), None);
    }
    assert_eq!(after.held_because(), None);
    counts.pairs.failed = 1;
    assert!(seconds_to_verdict(&mut guard, &counts).unwrap() < 20);
    assert_eq!(guard.held_because(), None);
}

#[test]
fn a_slow_canary_fails_by_its_slots() {
    let spec = GuardSpec::default();
    let mut guard = Guard::new(&spec);
    let thresholds = guard.thresholds(|q| {
        assert_eq!(q, 0.99);
        Some(Duration::from_millis(100))
    });
    assert_eq!(thresholds.stable[..3], [100_000_000, 300_000_000, UNUSED]);
    assert_eq!(thresholds.canary[..3], [130_000_000, 390_000_000, UNUSED]);
    assert_eq!(guard.thresholds(|_| None).stable, [UNUSED; 8]);
    let latency = [side((50, 30), (450, 5)), side((50, 20), (450, 0))];
    let mut counts = second((50, 0), (450, 0));
    counts.latency = &latency;
    (0..120).for_each(|_| guard.before(&counts));
    assert_eq!(seconds_to_verdict(&mut guard, &counts), Some(3));
    let verdict = guard.verdict().unwrap();
    assert_eq!(verdict.guard, "p99 x1.3");
    assert!(
        verdict.reason.contains("times stable's p99"),
        "{}",
        verdict.reason
    );
}

#[test]
fn a_cold_canary_isnt_judged_by_latency() {
    let spec = GuardSpec {
        warmup: Duration::from_secs(30),
        ..GuardSpec::default()
    };
    let mut guard = Guard::new(&spec);
    let latency = [side((50, 30), (450, 5)), side((50, 20), (450, 0))];
    let mut counts = second((50, 0), (450, 0));
    counts.latency = &latency;
    // Seconds without traffic don't warm it.
    (0..100).for_each(|_| guard.second(&second((0, 0), (500, 0))));
    assert_eq!(seconds_to_verdict(&mut guard, &counts), Some(33));
}

#[test]
fn an_absolute_limit_of_latency_has_one_slot() {
    let latency = |limits| LatencyGuard {
        quantile: Quantile::P50,
        limits,
    };
    let half = LatencyLimit::Absolute(Duration::from_millis(500));
    let spec = GuardSpec {
        errors: Vec::new(),
        latency: vec![latency(vec![half, LatencyLimit::Ratio(1.5)])],
        ..GuardSpec::default()
    };
    let mut guard = Guard::new(&spec);
    let thresholds = guard.thresholds(|_| Some(Duration::from_millis(100)));
    assert_eq!(
        thresholds.stable[..3],
        [500_000_000, 100_000_000, 300_000_000]
    );
    assert_eq!(
        thresholds.canary[..3],
        [500_000_000, 150_000_000, 450_000_000]
    );
    let names: Vec<String> = guard.evidence().into_iter().map(|e| e.name).collect();
    assert_eq!(names, ["p50 500ms", "p50 x1.5"]);
    let slots = [side((50, 48), (450, 40)), side((50, 0), (450, 225))];
    let mut counts = second((50, 0), (450, 0));
    counts.latency = &slots;
    (0..120).for_each(|_| guard.before(&counts));
    assert!(seconds_to_verdict(&mut guard, &counts).unwrap() < 10);
    assert_eq!(guard.verdict().unwrap().guard, "p50 500ms");
}

#[test]
fn fewer_conversions_fail_a_goal() {
    let spec = GuardSpec {
        goals: vec![("purchase".to_owned(), 0.9)],
        ..GuardSpec::default()
    };
    let mut guard = Guard::new(&spec);
    assert!(
        guard
            .rules
            .rules
            .iter()
            .take(3)
            .all(|r| r.weight == 1.0 / 9.0)
    );
    let mut counts = second((50, 0), (450, 0));
    let enough = [side((50, 1), (450, 9))];
    counts.goals = &enough;
    assert_eq!(
        seconds_to_verdict(&mut guard, &counts),
        None,
        "2 % on both sides"
    );
    let none = [side((50, 0), (450, 9))];
    counts.goals = &none;
    let seconds = seconds_to_verdict(&mut guard, &counts).unwrap();
    assert!((5..30).contains(&seconds), "{seconds}");
    let verdict = guard.verdict().unwrap();
    assert_eq!(verdict.guard, "goal purchase x0.9");
    assert!(verdict.reason.contains("reached the goal purchase"));
    assert_eq!(guard.goal_counts()[0].stable.events, 9 * (600 + seconds));
}

#[test]
fn a_canary_alone_is_compared_with_the_past() {
    let mut guard = Guard::new(&errors_only());
    let mut alone = second((500, 100), (0, 0));
    alone.alone = true;
    (0..120).for_each(|_| guard.second(&alone));
    assert_eq!(guard.verdict(), None, "no past to compare with");
    let mut guard = Guard::new(&errors_only());
    (0..600).for_each(|_| guard.before(&second((0, 0), (500, 1))));
    alone.errors.canary.events = 2;
    assert_eq!(
        seconds_to_verdict(&mut guard, &alone),
        None,
        "0.4 %, limit 1 %"
    );
    alone.errors.canary.events = 100;
    let mut fresh = guard.clone().restarted();
    let seconds = seconds_to_verdict(&mut guard, &alone).unwrap();
    assert!(
        (25..60).contains(&seconds),
        "an outage may be as long: {seconds}"
    );
    assert_eq!(
        seconds_to_verdict(&mut fresh, &alone),
        Some(3),
        "bad at once"
    );
    assert!(guard.verdict().unwrap().reason.contains("before/after"));
    assert_eq!(guard.held_because(), None);
}

fn busy_guard() -> Guard {
    let spec = GuardSpec {
        goals: vec![("purchase".to_owned(), 0.9)],
        ..GuardSpec::default()
    };
    let mut guard = Guard::new(&spec);
    let mut random = fastrand::Rng::with_seed(7);
    for t in 0..200 {
        let stable: Vec<EventTally> = (0..4)
            .map(|_| EventTally::new(100, random.u64(0..4)))
            .collect();
        let slots = [
            side((50, random.u64(0..3)), (450, 5)),
            side((50, 0), (450, random.u64(0..2))),
        ];
        let goals = [side((50, random.u64(0..3)), (450, 9))];
        let mut counts = second(
            (50, random.u64(0..3)),
            (400, stable.iter().map(|t| t.events).sum()),
        );
        counts.errors.stable_endpoints = &stable;
        counts.latency = &slots;
        counts.goals = &goals;
        if t < 100 {
            guard.before(&counts);
        } else {
            guard.second(&counts);
        }
    }
    guard
}

#[test]
fn a_stored_state_resumes_bit_for_bit() {
    let fresh = Guard::new(&GuardSpec::default());
    for mut guard in [fresh, busy_guard()] {
        let json = serde_json::to_string(guard.state()).unwrap();
        let state: GuardState = serde_json::from_str(&json).unwrap();
        let mut resumed = Guard::resume(&guard.spec, state).unwrap();
        assert_eq!(resumed.state(), guard.state());
        assert_eq!(serde_json::to_string(resumed.state()).unwrap(), json);
        let next = second((50, 3), (450, 2));
        guard.second(&next);
        resumed.second(&next);
        assert_eq!(resumed.state(), guard.state());
        assert!(json.len() < 40_000, "{}", json.len());
    }
}

#[test]
fn other_rules_dont_take_over_a_state() {
    let guard = busy_guard();
    let resume = |spec: &GuardSpec| Guard::resume(spec, guard.state().clone()).err();
    assert_eq!(resume(&guard.spec), None);
    assert_eq!(resume(&GuardSpec::default()), Some(ResumeError::Rules));
    let spec = guard.spec.clone();
    let confident = GuardSpec {
        confidence: 0.999,
        ..spec.clone()
    };
    assert_eq!(resume(&confident), Some(ResumeError::Rules));
    let mut json = serde_json::to_value(guard.state()).unwrap();
    json["signals"].as_array_mut().unwrap().pop();
    let state = serde_json::from_value(json).unwrap();
    assert_eq!(Guard::resume(&spec, state).err(), Some(ResumeError::Rules));
    let mut json = serde_json::to_value(guard.state()).unwrap();
    json["rate"] = "NaN".into();
    assert!(serde_json::from_value::<GuardState>(json.clone()).is_err());
    json["rate"] = "1".into();
    json["format"] = 2.into();
    let state = serde_json::from_value(json).unwrap();
    assert_eq!(Guard::resume(&spec, state).err(), Some(ResumeError::Format));
}

#[test]
fn a_new_label_forgets_the_canary_but_not_stable() {
    let guard = busy_guard();
    let stable = guard.state().signals[0].burstiness.clone();
    let again = guard.restarted();
    assert_eq!(again.state().signals[0].burstiness, stable);
    assert!(again.total_evidence().abs() < 1e-12);
    assert_eq!(again.counts().canary, EventTally::default());
    assert!(!again.proven());
}

#[test]
fn a_total_of_endpoints_is_as_bursty_as_one_of_them() {
    let mut random = fastrand::Rng::with_seed(3);
    let (mut each, mut total) = (Burstiness::new(None), Burstiness::new(None));
    for _ in 0..3600 {
        // Failures come in clusters of 4.
        let mut failures = || 4 * (0..2).filter(|_| random.u8(0..4) == 0).count() as u64;
        let stable: Vec<EventTally> = (0..8).map(|_| EventTally::new(100, failures())).collect();
        each.add(&stable);
        let events = stable.iter().map(|t| t.events).sum();
        total.add_total(EventTally::new(800, events), stable.len());
    }
    let (each, total) = (each.brakes(100.0).power, total.brakes(100.0).power);
    assert!((0.2..0.35).contains(&each), "{each}");
    assert!((total / each - 1.0).abs() < 0.25, "{total}, not {each}");
}

#[test]
fn endpoints_may_come_and_go() {
    let mut guard = busy_guard();
    for endpoints in [4, 5, 1, 0, 3] {
        let stable = vec![EventTally::new(100, 1); endpoints];
        for _ in 0..70 {
            let mut counts = second((50, 0), (100 * endpoints as u64, endpoints as u64));
            counts.errors.stable_endpoints = &stable;
            guard.second(&counts);
            assert!(guard.total_evidence().is_finite());
        }
    }
}

#[test]
fn the_forecast_meets_the_verdict() {
    for failures in [1, 2, 5] {
        let mut guard = Guard::new(&errors_only());
        let bad = second((50, failures), (450, 1));
        (0..3).for_each(|_| guard.second(&bad));
        let forecast = guard.time_to_verdict().unwrap();
        let seconds = seconds_to_verdict(&mut guard, &bad).unwrap_or(0) as f64;
        assert!(forecast.median <= forecast.nine_of_ten);
        assert!(
            seconds <= forecast.nine_of_ten + 1.0 && seconds >= forecast.median / 3.0,
            "{failures}: {seconds} s, expected {forecast:?}"
        );
    }
}

#[test]
fn a_step_that_is_too_small_is_warned_about() {
    let spec = GuardSpec::default();
    let traffic = |share, rate, seconds| StepTraffic {
        share,
        rate,
        seconds,
    };
    let seen = |t: StepTraffic, p| visibility(&spec, &t, p).unwrap().rate.unwrap();
    // Simulated: 93 to 100 % of the rollouts of such a canary fail in time.
    assert!((seen(traffic(0.01, 100.0, 300.0), 0.001) - 0.0296).abs() < 0.0005);
    assert!((seen(traffic(0.05, 500.0, 600.0), 0.001) - 0.0038).abs() < 0.0001);
    assert!((seen(traffic(0.1, 500.0, 60.0), 0.01) - 0.0309).abs() < 0.0005);
    assert!((seen(traffic(0.25, 50.0, 600.0), 0.01) - 0.0258).abs() < 0.0005);
    let small = traffic(0.01, 100.0, 300.0);
    assert_eq!(
        step_warning(&spec, "step 1 (1% for 5m", &small, 0.001).unwrap(),
        "step 1 (1% for 5m at 100 requests/s: about 300 canary requests) can only see errors from 3 % on, 20 times its limit \
         x1.5 of 0.15 %; 10% for 5m, or 1% for 50m, would see 0.83 %"
    );
    let tiny = step_warning(&spec, "step 1 (1% for 1s", &traffic(0.01, 10.0, 1.0), 0.001);
    assert!(tiny.unwrap().contains("can't see any errors"));
    assert_eq!(
        step_warning(&spec, "", &traffic(0.1, 500.0, 600.0), 0.001),
        None
    );
    assert_eq!(
        visibility(&spec, &traffic(1.0, 500.0, 60.0), 0.001),
        None,
        "no stable"
    );
}
