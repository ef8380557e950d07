//! Scenarios of latency.

use std::time::Duration;

use cutover::config::rollout::{GuardSpec, LatencyGuard, LatencyLimit, Quantile};

use crate::latency::{Counting, LatencyCase, Load, Shape};
use crate::report::Reference;
use crate::scenarios::{Case, LATENCY, LATENCY_AA, Scenario};

/// p99 x1.3 as the only rule, or as one of two rules of latency beside errors.
fn p99(full: bool) -> GuardSpec {
    // The second rule never fails: it only takes its weight.
    let never = LatencyLimit::Absolute(Duration::from_secs(3600));
    let mut limits = vec![LatencyLimit::Ratio(1.3)];
    limits.extend(full.then_some(never));
    let latency = vec![LatencyGuard {
        quantile: Quantile::P99,
        limits,
    }];
    let mut spec = GuardSpec {
        latency,
        ..GuardSpec::default()
    };
    if !full {
        spec.errors.clear();
    }
    spec
}

pub fn latencies() -> Vec<Scenario> {
    use Load::{Endpoint, EndpointAndShared, Independent, Pauses};
    use Shape::{Bimodal, Lognormal, Pareto};
    let seconds = |requests: (f64, f64)| Reference::Seconds(requests.0 / 50.0, requests.1 / 50.0);
    // Alone, and in the full guard: the canary's requests, 50 a second, by 1,000 rollouts of the reference. A hundred of them are
    // too few: their median may be a fifth off.
    let cases = [
        (
            Lognormal,
            Independent,
            1.5,
            seconds((2950.0, 5350.0)),
            seconds((3550.0, 6300.0)),
        ),
        (
            Lognormal,
            Endpoint,
            1.5,
            Reference::Found(7.8),
            Reference::Found(4.6),
        ),
        (
            Lognormal,
            Pauses,
            1.5,
            Reference::Found(6.6),
            Reference::Found(3.7),
        ),
        (
            Pareto,
            Independent,
            1.5,
            seconds((13_950.0, f64::INFINITY)),
            Reference::Found(41.1),
        ),
        (
            Lognormal,
            Independent,
            3.0,
            seconds((150.0, 150.0)),
            seconds((150.0, 150.0)),
        ),
        (
            Lognormal,
            Endpoint,
            3.0,
            seconds((1750.0, 3650.0)),
            seconds((2000.0, 4150.0)),
        ),
        (
            Lognormal,
            EndpointAndShared,
            3.0,
            seconds((2200.0, 6750.0)),
            seconds((2600.0, 7650.0)),
        ),
        (
            Lognormal,
            Pauses,
            3.0,
            seconds((850.0, 1600.0)),
            seconds((1050.0, 1850.0)),
        ),
        (
            Pareto,
            Independent,
            3.0,
            seconds((250.0, 450.0)),
            seconds((300.0, 500.0)),
        ),
        (
            Lognormal,
            Independent,
            10.0,
            seconds((150.0, 150.0)),
            seconds((150.0, 150.0)),
        ),
        (
            Lognormal,
            Endpoint,
            10.0,
            seconds((150.0, 150.0)),
            seconds((150.0, 200.0)),
        ),
        (
            Lognormal,
            EndpointAndShared,
            10.0,
            seconds((150.0, 600.0)),
            seconds((150.0, 750.0)),
        ),
        (
            Lognormal,
            Pauses,
            10.0,
            seconds((150.0, 150.0)),
            seconds((150.0, 150.0)),
        ),
        (
            Bimodal,
            Independent,
            10.0,
            seconds((200.0, 300.0)),
            seconds((250.0, 350.0)),
        ),
        (
            Pareto,
            Independent,
            10.0,
            seconds((150.0, 150.0)),
            seconds((150.0, 150.0)),
        ),
    ];
    let plain = LatencyCase {
        shape: Lognormal,
        load: Independent,
        slow: 1.0,
        seconds: 300,
        counting: Counting::Reference,
    };
    let mut all = Vec::new();
    let mut add = |case: LatencyCase, full: bool, reference, rollouts| {
        all.push(latency_scenario(case, full, reference, rollouts));
    };
    let same = [
        (Lognormal, Independent),
        (Lognormal, Endpoint),
        (Lognormal, EndpointAndShared),
        (Lognormal, Pauses),
        (Pareto, EndpointAndShared),
    ];
    for (shape, load) in same {
        let case = LatencyCase {
            shape,
            load,
            seconds: 600,
            ..plain
        };
        add(case, false, Reference::False(0.0), 400);
        for counting in [Counting::Endpoints, Counting::Totals] {
            let case = LatencyCase { counting, ..case };
            add(case, false, Reference::AtMostOnePercent, 200);
        }
    }
    for (shape, load, slow, alone, full) in cases {
        let case = LatencyCase {
            shape,
            load,
            slow,
            ..plain
        };
        add(case, false, alone, 400);
        add(case, true, full, 400);
        for counting in [Counting::Endpoints, Counting::Totals] {
            let case = LatencyCase { counting, ..case };
            add(case, true, Reference::None, 100);
        }
    }
    all
}

fn latency_scenario(
    case: LatencyCase,
    full: bool,
    reference: Reference,
    rollouts: u64,
) -> Scenario {
    let shape = match case.shape {
        Shape::Lognormal => "lognormal",
        Shape::Pareto => "Pareto",
        Shape::Bimodal => "bimodal",
    };
    let load = match case.load {
        Load::Independent => "independent",
        Load::Endpoint => "load by endpoint",
        Load::EndpointAndShared => "load by endpoint and shared",
        Load::Pauses => "pauses by endpoint",
    };
    let detail = match case.counting {
        Counting::Reference => "",
        Counting::Endpoints => ", the product's buckets",
        Counting::Totals => ", the product's buckets, totals only",
    };
    Scenario {
        table: if case.slow == 1.0 {
            LATENCY_AA
        } else {
            LATENCY
        },
        name: format!(
            "x{} {shape}, {load}{detail}, {}",
            case.slow,
            if full { "full guard" } else { "p99 x1.3 alone" }
        ),
        rollouts,
        case: Case::Latency(case),
        spec: p99(full),
        reference,
    }
}
