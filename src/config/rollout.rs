//! Rollouts: the plan that raises the share of a canary step by step, and the guard that judges it.
//!
//! Like [`spec`](super::spec), these types hold validated values only. [`RolloutSpec`] is `[service.NAME.rollout]`; it takes effect
//! for the version whose entry in `split` is `"rollout"`, or for the flag whose share is.

use std::path::PathBuf;
use std::time::Duration;

use super::share::{PathPattern, Share};
use crate::index::{FlagIx, VersionIx};

/// The subject that follows a rollout: its share is the one that the rollout has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RolloutSubject {
    /// A canary: the users of the version are compared with those of stable.
    Version(VersionIx),
    /// A flag: the users who have it are compared with those who don't.
    Flag(FlagIx),
}

/// The plan of a rollout: `[service.NAME.rollout]`.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutSpec {
    /// Steps in order, linear ones written out. Never empty; shares never fall.
    pub steps: Vec<RolloutStep>,
    /// Limits that the canary has to keep.
    pub guard: GuardSpec,
    /// Requests that the version must answer before the first user reaches it. Default empty.
    pub smoke: Vec<SmokeCheck>,
    /// Calls that must succeed before the rollout continues.
    pub hooks: Hooks,
    /// Receivers to which each change of state is reported. Default empty.
    pub notify: Vec<Notify>,
    /// External measurements, asked while a step holds. Default empty.
    pub queries: Vec<QuerySpec>,
    /// Behaviour if the state directory has no record of earlier rollouts. Default [`UnknownPast::Start`].
    pub unknown: UnknownPast,
}

/// One step of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RolloutStep {
    /// The canary's share, above 0.
    pub share: Share,
    /// The condition under which the next step may begin.
    pub hold: StepHold,
}

/// The condition under which a step ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StepHold {
    /// `10% for 5m`: after this time, at least 1 s, unless the guard objects.
    For(Duration),
    /// `50% until approved`: when an operator approves.
    Approval,
}

/// Limits that the canary of a rollout has to keep: `[service.NAME.rollout.guard]`.
#[derive(Clone, Debug, PartialEq)]
pub struct GuardSpec {
    /// Limits of the error rate; all are weighed together. Default 1 %, +0.5 % and x1.5. Empty: errors aren't judged.
    pub errors: Vec<ErrorLimit>,
    /// Limits of latency by quantile, each quantile at most once. Default p99 x1.3. Empty: latency isn't judged.
    pub latency: Vec<LatencyGuard>,
    /// Least ratio of conversions by goal: `goal.purchase = "x0.9"` is (`purchase`, 0.9). Default empty.
    pub goals: Vec<(String, f64)>,
    /// Probability that an A/A rollout isn't rolled back, from 0.5 to below 1. Default 0.99.
    pub confidence: f64,
    /// Requests of the canary that a step needs to pass. Default 200.
    pub min_requests: u64,
    /// Behaviour if a step ends with fewer requests. Default [`OnSilence::Hold`].
    pub on_silence: OnSilence,
    /// Behaviour after a failing verdict. Default [`OnFail::Rollback`].
    pub on_fail: OnFail,
    /// Time from its first traffic on in which the latency of a canary isn't judged. Default 0 s.
    pub warmup: Duration,
    /// Whether a step, except the last, may end once the canary is proven to be within all limits. Default `false`.
    pub early: bool,
}

/// A limit of the canary's error rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ErrorLimit {
    /// `1%`: at most this rate, as a ratio, or stable's if that is higher.
    Absolute(f64),
    /// `+0.5%`: at most this much above stable's rate, as a ratio.
    Difference(f64),
    /// `x1.5`: at most this many times stable's rate.
    Ratio(f64),
}

/// Limits of one quantile of the canary's latency.
#[derive(Clone, Debug, PartialEq)]
pub struct LatencyGuard {
    /// The quantile.
    pub quantile: Quantile,
    /// The limits; never empty.
    pub limits: Vec<LatencyLimit>,
}

words! {
    /// A quantile of latency that a guard can judge.
    pub enum Quantile {
        /// The median.
        P50 "p50",
        /// 90 %.
        P90 "p90",
        /// 95 %.
        P95 "p95",
        /// 99 %.
        P99 "p99",
        /// 99.9 %.
        P999 "p999",
    }
}

impl Quantile {
    /// Returns the quantile as a number in (0, 1).
    pub fn value(self) -> f64 {
        match self {
            Self::P50 => 0.5,
            Self::P90 => 0.9,
            Self::P95 => 0.95,
            Self::P99 => 0.99,
            Self::P999 => 0.999,
        }
    }
}

/// A limit of a quantile of the canary's latency.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LatencyLimit {
    /// `500ms`: at most this duration, or stable's if that is longer.
    Absolute(Duration),
    /// `x1.3`: at most this many times stable's duration.
    Ratio(f64),
}

words! {
    /// Behaviour at the end of a step with too few requests for a verdict.
    #[derive(Default)]
    pub enum OnSilence {
        /// The rollout holds until there are enough requests.
        #[default]
        Hold "hold",
        /// The step is prolonged by its own length, once; then the rollout holds.
        Extend "extend",
        /// The step counts as passed.
        Pass "pass",
    }
}

words! {
    /// Behaviour after a failing verdict.
    #[derive(Default)]
    pub enum OnFail {
        /// The canary loses its share, and the plan is latched.
        #[default]
        Rollback "rollback",
        /// The rollout pauses at its share.
        Pause "pause",
    }
}

words! {
    /// Behaviour of a rollout whose past is unknown, because the state directory is new or was lost.
    #[derive(Default)]
    pub enum UnknownPast {
        /// The rollout starts.
        #[default]
        Start "start",
        /// The rollout waits for `cutover resume`.
        Hold "hold",
    }
}

/// A request that a version must answer as expected before users reach it.
#[derive(Clone, Debug, PartialEq)]
pub struct SmokeCheck {
    /// The method, in upper case.
    pub method: String,
    /// Path and query, from `/` on.
    pub target: String,
    /// Additional request headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The request body. A body given as a TOML table is JSON here.
    pub body: Option<SmokeBody>,
    /// Expected status: exact (200 to 200), or a class (`2xx`, 200 to 299).
    pub status: (u16, u16),
    /// Expected response headers: names in lower case and glob patterns of their values.
    pub expect_headers: Vec<(String, String)>,
    /// Expected JSON: every key must be there. A string is a glob, so `"*"` accepts any value.
    pub expect_json: Option<serde_json::Value>,
}

/// The body of a smoke request.
#[derive(Clone, Debug, PartialEq)]
pub enum SmokeBody {
    /// A text that is sent as it is, as `text/plain` unless a header says otherwise.
    Text(String),
    /// A document that is sent as `application/json`.
    Json(serde_json::Value),
}

/// Calls that a rollout waits for. Each is a POST with the rollout's state as JSON; a 2xx response lets it continue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// Before the first user reaches the version.
    pub before_rollout: Option<HookSpec>,
    /// Before each step.
    pub before_step: Option<HookSpec>,
    /// Before `promote` is carried out.
    pub before_promote: Option<HookSpec>,
    /// After a rollback or an abort; its result changes nothing.
    pub after_rollback: Option<HookSpec>,
}

/// One hook: `"http://…"` or `{ url = "…", timeout = "30s", retries = 2 }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookSpec {
    /// The URL, `http` or `https`.
    pub url: String,
    /// Time allowed for each attempt, at least 1 ms. Default 30 s.
    pub timeout: Duration,
    /// Further attempts after a connection error, a timeout or a 5xx, 0 to 10. Default 2.
    pub retries: u32,
}

/// A receiver of notifications: `"https://…"` or `{ url = "…", format = "plain" }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    /// The URL, `http` or `https`. It is a secret: it is never shown or logged.
    pub url: String,
    /// The format of the message.
    pub format: NotifyFormat,
}

words! {
    /// The format of a notification.
    #[derive(Default)]
    pub enum NotifyFormat {
        /// A JSON object with a `text`, as Slack's incoming webhooks and compatible receivers expect, and the rollout's state.
        #[default]
        Slack "slack",
        /// One line of plain text.
        Plain "plain",
    }
}

/// An external measurement: `[[service.NAME.rollout.query]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct QuerySpec {
    /// Base URL of a Prometheus server, `http` or `https`.
    pub prometheus: String,
    /// The PromQL expression. It must yield one number.
    pub query: String,
    /// The condition that the number must meet.
    pub pass: (Comparison, f64),
    /// Time between two measurements, at least 1 s. Default 30 s.
    pub every: Duration,
    /// Consecutive misses that end the rollout, 1 to 100. Default 3.
    pub fails: u32,
    /// File with a bearer token. Default `None`.
    pub token_file: Option<PathBuf>,
}

words! {
    /// A comparison with a number.
    pub enum Comparison {
        /// Less.
        Less "<",
        /// Less or equal.
        AtMost "<=",
        /// Greater.
        Greater ">",
        /// Greater or equal.
        AtLeast ">=",
        /// Equal.
        Equal "==",
        /// Not equal.
        NotEqual "!=",
    }
}

impl Comparison {
    /// Whether `value` compares to `limit` in this way. False if either isn't a number.
    pub fn holds(self, value: f64, limit: f64) -> bool {
        match self {
            Self::Less => value < limit,
            Self::AtMost => value <= limit,
            Self::Greater => value > limit,
            Self::AtLeast => value >= limit,
            Self::Equal => value == limit,
            Self::NotEqual => value != limit && !value.is_nan() && !limit.is_nan(),
        }
    }
}

/// A business event seen in the data path: `[service.NAME.goals]`, `purchase = "POST /checkout/complete 2xx"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoalSpec {
    /// Name from its key.
    pub name: String,
    /// The method, in upper case.
    pub method: String,
    /// The path, exact or `/prefix/*`.
    pub path: PathPattern,
    /// Statuses of the response that count, as an inclusive range.
    pub status: (u16, u16),
}

impl GoalSpec {
    /// Whether a path, without the query, is the goal's.
    #[inline]
    pub fn matches(&self, path: &[u8]) -> bool {
        match &self.path {
            PathPattern::Exact(exact) => path == exact.as_bytes(),
            PathPattern::Prefix(prefix) => {
                let rest = path.strip_prefix(prefix.as_bytes());
                rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
            }
        }
    }
}

impl Default for GuardSpec {
    fn default() -> Self {
        Self {
            errors: vec![
                ErrorLimit::Absolute(0.01),
                ErrorLimit::Difference(0.005),
                ErrorLimit::Ratio(1.5),
            ],
            latency: vec![LatencyGuard {
                quantile: Quantile::P99,
                limits: vec![LatencyLimit::Ratio(1.3)],
            }],
            goals: Vec::new(),
            confidence: 0.99,
            min_requests: 200,
            on_silence: OnSilence::default(),
            on_fail: OnFail::default(),
            warmup: Duration::ZERO,
            early: false,
        }
    }
}
