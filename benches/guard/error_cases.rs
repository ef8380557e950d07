//! Scenarios of errors.

use cutover::config::rollout::{ErrorLimit, GuardSpec};

use crate::errors::{ErrorCase, Noise};
use crate::report::Reference;
use crate::scenarios::{AA, ALONE, Case, ERRORS, HIDDEN, Scenario};

/// Errors have half of the weight: latency, which isn't fed, has the other half.
pub fn default_guard() -> GuardSpec {
    GuardSpec::default()
}

fn describe(noise: Noise) -> String {
    match noise {
        Noise::Independent => "independent".to_owned(),
        Noise::Outages(300.0) => "outages of both sides".to_owned(),
        Noise::Outages(every) => format!("outages of both sides, every {} min", every / 60.0),
        Noise::Drift(factor, period) => format!("drift x{factor} in {} min", period / 60.0),
        Noise::Gamma => "gamma noise by endpoint and second".to_owned(),
        Noise::Bursts(seconds) => format!("bursts of {seconds} s by endpoint"),
        Noise::Client(failures) => format!("a broken client, {failures} failures"),
    }
}

pub fn false_alarms() -> Vec<Scenario> {
    let aa = ErrorCase::AA;
    let calm = ErrorCase { memory: 300, ..aa };
    let case = |noise, base, from: ErrorCase| ErrorCase {
        noise,
        base,
        ..from
    };
    let endpoints = |endpoints, memory| ErrorCase {
        endpoints,
        memory,
        ..case(Noise::Bursts(2.0), 0.001, aa)
    };
    let cases = [
        (10_000, case(Noise::Independent, 0.001, calm), 0.0),
        (10_000, case(Noise::Independent, 0.01, calm), 0.04),
        (10_000, case(Noise::Independent, 0.05, calm), 0.0),
        (1_000, case(Noise::Outages(300.0), 0.01, aa), 0.0),
        (1_000, case(Noise::Outages(300.0), 0.001, aa), 0.0),
        (1_000, case(Noise::Drift(24.53, 1800.0), 0.01, aa), 0.0),
        (1_000, case(Noise::Bursts(0.7), 0.001, aa), 0.05),
        (1_000, case(Noise::Bursts(2.0), 0.001, aa), 0.15),
        (1_000, case(Noise::Bursts(2.0), 0.01, aa), 0.25),
        (1_000, case(Noise::Bursts(10.0), 0.001, aa), 0.2),
        (1_000, case(Noise::Gamma, 0.01, aa), 0.0),
        (1_000, case(Noise::Client(100.0), 0.001, aa), 0.0),
        (1_000, case(Noise::Client(1000.0), 0.001, aa), 0.0),
        (4_000, endpoints(3, 1800), 0.6),
        (1_000, endpoints(2, 7200), 0.3),
        (1_000, endpoints(1, 7200), 1.1),
    ];
    let scenario = |(rollouts, case, failed): (u64, ErrorCase, f64)| Scenario {
        table: AA,
        name: format!(
            "{}, base {}%, {} stable endpoint{}, {} min of memory",
            describe(case.noise),
            case.base * 100.0,
            case.endpoints,
            if case.endpoints == 1 { "" } else { "s" },
            case.memory / 60
        ),
        rollouts,
        case: Case::Errors(case),
        spec: default_guard(),
        reference: Reference::False(failed),
    };
    cases.into_iter().map(scenario).collect()
}

pub fn detection() -> Vec<Scenario> {
    let bad = |noise, base: f64, canary: f64| ErrorCase {
        noise,
        base,
        factor: canary / base,
        share: Some(0.1),
        memory: if noise == Noise::Independent {
            300
        } else {
            1800
        },
        seconds: 3600,
        ..ErrorCase::AA
    };
    let calm = |base, canary| bad(Noise::Independent, base, canary);
    let late = |change, case: ErrorCase| ErrorCase {
        change,
        seconds: change + 900,
        ..case
    };
    let one = |case| ErrorCase {
        endpoints: 1,
        ..case
    };
    let traffic = |rate, endpoints, share, case| ErrorCase {
        rate,
        endpoints,
        share: Some(share),
        ..case
    };
    let cases = [
        (calm(0.001, 0.002), 2371.0, f64::INFINITY),
        (calm(0.001, 0.005), 78.0, 148.0),
        (calm(0.001, 0.02), 9.0, 15.0),
        (calm(0.001, 0.2), 3.0, 3.0),
        (calm(0.01, 0.02), 81.0, 217.0),
        (calm(0.01, 0.05), 7.0, 12.0),
        (calm(0.01, 0.2), 3.0, 3.0),
        (calm(0.05, 0.1), 15.0, 23.0),
        (calm(0.05, 0.2), 3.0, 5.0),
        (late(15, calm(0.001, 0.2)), 3.0, 4.0),
        (late(600, calm(0.001, 0.2)), 4.0, 5.0),
        (late(600, calm(0.01, 0.05)), 14.0, 20.0),
        (late(600, calm(0.01, 0.2)), 5.0, 5.0),
        (traffic(5000.0, 9, 0.1, calm(0.001, 0.2)), 3.0, 3.0),
        (traffic(50.0, 3, 0.01, calm(0.001, 0.2)), 32.0, 60.0),
        (traffic(5.0, 2, 0.1, calm(0.01, 0.2)), 58.0, 112.0),
        (bad(Noise::Outages(300.0), 0.001, 0.2), 3.0, 3.0),
        (one(bad(Noise::Outages(300.0), 0.001, 0.2)), 75.0, 152.0),
        (bad(Noise::Gamma, 0.01, 0.2), 6.0, 10.0),
        (bad(Noise::Bursts(0.7), 0.001, 0.2), 9.0, 13.0),
        (bad(Noise::Bursts(2.0), 0.001, 0.2), 21.0, 33.0),
        (bad(Noise::Bursts(2.0), 0.01, 0.2), 20.0, 29.0),
        (bad(Noise::Bursts(10.0), 0.001, 0.2), 108.0, 165.0),
        (one(bad(Noise::Bursts(2.0), 0.001, 0.2)), 16.0, 32.0),
    ];
    let scenario = |(case, median, ninety): (ErrorCase, f64, f64)| Scenario {
        table: ERRORS,
        name: error_name(&case),
        rollouts: 400,
        case: Case::Errors(case),
        spec: default_guard(),
        reference: Reference::Seconds(median, ninety),
    };
    cases.into_iter().map(scenario).collect()
}

fn error_name(case: &ErrorCase) -> String {
    let percent = |ratio: f64| (ratio * 1e6).round() / 1e4;
    let mut name = format!(
        "{}, {}% to {}%",
        describe(case.noise),
        percent(case.base),
        percent(case.base * case.factor)
    );
    if case.change > 0 {
        name += &format!(" from second {} on", case.change);
    }
    if case.rate != 500.0 {
        let share = percent(case.share.unwrap_or(0.0));
        name += &format!(", {share}% of {} requests/s", case.rate);
    }
    if case.endpoints != 9 {
        name += &format!(", {} stable endpoint(s)", case.endpoints);
    }
    name
}

pub fn hidden_failures() -> Vec<Scenario> {
    let client = ErrorCase {
        noise: Noise::Client(1000.0),
        share: Some(0.1),
        memory: 10,
        seconds: 900,
        ..ErrorCase::AA
    };
    let shielded = ErrorCase {
        shield: true,
        ..client
    };
    let bad = |base: f64| ErrorCase {
        noise: Noise::Independent,
        base,
        factor: 0.2 / base,
        memory: 300,
        ..shielded
    };
    let cases = [
        (client, Reference::Unbounded),
        (shielded, Reference::AtMostOnePercent),
        (bad(0.001), Reference::Seconds(3.0, 3.0)),
        (bad(0.05), Reference::Seconds(3.0, 5.0)),
    ];
    let scenario = |(case, reference): (ErrorCase, Reference)| Scenario {
        table: HIDDEN,
        name: format!(
            "{}{}",
            error_name(&case),
            if case.shield {
                ""
            } else {
                ", not tried on stable"
            }
        ),
        rollouts: 400,
        case: Case::Errors(case),
        spec: default_guard(),
        reference,
    };
    cases.into_iter().map(scenario).collect()
}

pub fn before_and_after() -> Vec<Scenario> {
    use Reference::{False, Found, Seconds};
    let spec = GuardSpec {
        errors: vec![ErrorLimit::Ratio(1.5)],
        latency: Vec::new(),
        ..GuardSpec::default()
    };
    let day = Noise::Drift(10.0, 86_400.0);
    let noises = [
        (
            Noise::Independent,
            [False(0.0), Seconds(2.0, 2.0), Seconds(2.0, 2.0)],
        ),
        (day, [False(0.0), Seconds(3.0, 3.0), Seconds(2.0, 2.0)]),
        (
            Noise::Drift(5.0, 1800.0),
            [False(0.0), Found(49.2), Found(72.8)],
        ),
        (
            Noise::Outages(3600.0),
            [False(0.8), Found(42.5), Found(71.5)],
        ),
        (Noise::Outages(300.0), [False(1.5), Found(3.2), Found(6.2)]),
    ];
    let mut all = Vec::new();
    for (noise, references) in noises {
        for (factor, reference) in [1.0, 5.0, 20.0].into_iter().zip(references) {
            let case = ErrorCase {
                noise,
                base: 0.01,
                factor,
                share: Some(1.0),
                memory: 3600,
                seconds: 600,
                ..ErrorCase::AA
            };
            all.push(Scenario {
                table: ALONE,
                name: error_name(&case),
                rollouts: 200,
                case: Case::Errors(case),
                spec: spec.clone(),
                reference,
            });
        }
    }
    all
}
