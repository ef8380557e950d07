use super::*;
use crate::config::access_log::LogTarget;

fn spec(sample: u32) -> AccessLogSpec {
    AccessLogSpec {
        to: LogTarget::Stdout,
        format: LogFormat::Json,
        sample: Share(sample),
        slow: Duration::from_secs(1),
        fields: Vec::new(),
    }
}

const ORDINARY: LineFacts<'_> = LineFacts {
    service: "shop",
    failed: false,
    canary: false,
};

const QUICK: Duration = Duration::from_millis(999);

#[test]
fn ordinary_requests_are_sampled() {
    let taken = |sample, drawn| is_logged(&spec(sample), ORDINARY, QUICK, || drawn);
    assert!(taken(1_000, 999));
    assert!(!taken(1_000, 1_000));
    assert!(!taken(0, 0));
    let all = is_logged(&spec(Share::WHOLE), ORDINARY, QUICK, || panic!("no draw"));
    assert!(all);
}

#[test]
fn all_others_are_always_logged() {
    let always = |facts, took| is_logged(&spec(0), facts, took, || panic!("no draw"));
    assert!(always(ORDINARY, Duration::from_secs(1)), "slow");
    let failed = LineFacts {
        failed: true,
        ..ORDINARY
    };
    assert!(always(failed, QUICK));
    let canary = LineFacts {
        canary: true,
        ..ORDINARY
    };
    assert!(always(canary, QUICK));
}
