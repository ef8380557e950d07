//! Documents for the tests of the view.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::model::WatchModel;
use crate::admin::status::ProxyStatus;

/// The time of the tests: 2026-01-31T12:00:00Z.
pub(super) fn noon() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_769_860_800)
}

fn red(rate: f64, errors: f64, p99: f64) -> Value {
    json!({"10s": {"rate": rate, "error_ratio": errors, "p50_ms": p99 / 4.0, "p99_ms": p99}})
}

/// An endpoint with this health.
pub(super) fn endpoint(address: &str, health: &str) -> Value {
    let reason = (health == "down").then_some("answered 503");
    json!({
        "address": address, "weight": 1, "active": 3, "streams": 0, "health": health, "reason": reason,
        "since": "2026-01-31T11:57:55Z", "ejected": null, "ramp": "100%", "draining": false
    })
}

/// A service with v1 as its stable version and v2 at 5 %, whose endpoints have this health, and a share of failed requests of v2.
pub(super) fn service(name: &str, health: &str, errors: f64) -> Value {
    json!({
        "name": name, "stable": "v1",
        "split": {"desired": {"v1": "95%", "v2": "5%"}, "effective": {"v1": "95%", "v2": "5%"}},
        "clients": red(100.0, errors * 0.05, 84.0),
        "versions": [
            {"name": "v1", "label": "1.0.0", "share": "95%", "in_flight": 7, "red": red(95.0, 0.0, 42.0),
             "endpoints": [endpoint("10.0.0.1:80", "up"), endpoint("10.0.0.2:80", health)]},
            {"name": "v2", "label": null, "share": "5%", "in_flight": 1, "red": red(5.0, errors, 84.0),
             "endpoints": [endpoint("10.0.0.3:80", "up")]}
        ]
    })
}

/// A rollout of v2 in this state.
pub(super) fn rollout(state: &str) -> Value {
    json!({
        "version": "v2", "label": "1.1.0", "state": state, "step": 2, "steps": 5, "share": "5%",
        "since": "2026-01-31T11:57:00Z", "held_s": 180.0, "hold_s": 600.0, "threshold": 2.0,
        "total_evidence": 1.2, "evidence": {"errors x1.5": 1.1, "p99 x1.3": -0.4},
        "counted": {"canary_requests": 900, "canary_failures": 12, "stable_requests": 17100, "stable_failures": 60},
        "ratio": {"ratio": 3.8, "low": 1.2, "high": null}, "time_to_verdict_s": 95.0, "time_to_verdict_p90_s": 240.0
    })
}

/// A document with these services.
pub(super) fn document(services: &[Value]) -> ProxyStatus {
    let document = json!({
        "version": "0.1.0", "pid": 4711, "phase": "ready", "generation": 12, "adopted": 12, "uptime_s": 125,
        "config": {"path": "/etc/cutover/cutover.toml", "hash": "0", "ok": true, "error": null,
                   "refused_hash": null, "published": null},
        "listeners": [], "services": services
    });
    serde_json::from_value(document).expect("a status document")
}

/// The view of these services.
pub(super) fn model(services: &[Value]) -> WatchModel {
    WatchModel::new(document(services), None, noon())
}

/// Four services: calm, with an endpoint down, with failing requests, in a rollout.
pub(super) fn four() -> [Value; 4] {
    let mut moving = service("shop", "up", 0.0);
    moving["rollout"] = rollout("step");
    [
        service("calm", "up", 0.0),
        service("limping", "down", 0.0),
        service("failing", "up", 0.5 * 20.0 / 5.0),
        moving,
    ]
}
