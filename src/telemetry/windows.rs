//! Rate, errors and durations of each version, and of each service as its clients see it, over the last seconds and the last
//! minute.
//!
//! The control thread samples the cumulative counters once a second; a window is the difference of two samples. A
//! version without traffic for a minute keeps a single sample, so idle versions cost little memory.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::latency::{BOUNDS, BUCKETS};
use super::outcomes::OutcomeCounts;
use super::registry::Telemetry;

/// Samples per version: one for each second of a minute, one at its start, and one in reserve for ticks that come early.
const SAMPLES: usize = 62;

/// Fewest attempts for a quantile on which the treatment of requests depends.
const LEAST_FOR_QUANTILE: u64 = 100;

/// Rate, errors and durations (RED) over a window: of the attempts of a version, or of the requests of a service's clients.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Red {
    /// Requests that ended in the window.
    pub requests: u64,
    /// Requests that failed: status 5xx, or a gRPC status that counts as a failure of the server.
    pub errors: u64,
    /// Requests per second.
    pub rate: f64,
    /// Errors divided by requests, from 0 to 1; 0 if there were no requests.
    pub error_ratio: f64,
    /// Median duration, interpolated within a bucket, at most 120 s. Like the other two, `None` if there were no requests.
    pub p50: Option<Duration>,
    /// 90th percentile of the durations.
    pub p90: Option<Duration>,
    /// 99th percentile of the durations.
    pub p99: Option<Duration>,
}

/// Samples of the last minute for every version and service.
#[derive(Debug, Default)]
pub struct StatusWindows {
    versions: BTreeMap<String, BTreeMap<String, Ring>>,
    clients: BTreeMap<String, Ring>,
}

#[derive(Debug)]
struct Ring {
    /// Time of the first sample.
    since: Instant,
    samples: VecDeque<Sample>,
}

#[derive(Clone, Debug)]
struct Sample {
    at: Instant,
    counts: OutcomeCounts,
}

impl StatusWindows {
    /// Samples every version and service, and forgets those without series. Call it once a second.
    pub fn tick(&mut self, now: Instant, telemetry: &Telemetry) {
        telemetry.each_version(|service, version, metrics| {
            let rings = entry(&mut self.versions, service, BTreeMap::new);
            let ring = entry(rings, version, || Ring::new(now));
            ring.push(now, metrics.outcomes());
        });
        telemetry.each_service(|service, metrics| {
            let ring = entry(&mut self.clients, service, || Ring::new(now));
            ring.push(now, metrics.outcomes());
        });
        let is_sampled = |ring: &Ring| ring.samples.back().is_some_and(|last| last.at == now);
        self.versions.retain(|_, rings| {
            rings.retain(|_, ring| is_sampled(ring));
            !rings.is_empty()
        });
        self.clients.retain(|_, ring| is_sampled(ring));
    }

    /// Returns the figures of the time `over`, at most a minute, before the last tick.
    ///
    /// The rate of a version that is younger than `over` relates to its age. An unknown version has zeros.
    pub fn red(&self, service: &str, version: &str, over: Duration) -> Red {
        let ring = { self.versions.get(service) }.and_then(|rings| rings.get(version));
        ring.map_or_else(Red::default, |ring| ring.red(over))
    }

    /// Like [`Self::red`], for the clients of a service: each request counts once, the proxy's own answers included.
    pub fn clients(&self, service: &str, over: Duration) -> Red {
        let ring = self.clients.get(service);
        ring.map_or_else(Red::default, |ring| ring.red(over))
    }

    /// Whether nothing was counted for a minute, neither for the versions of a service nor for its clients. All figures of the
    /// service stay zero then until something is counted.
    pub fn is_idle(&self, service: &str) -> bool {
        let versions = self
            .versions
            .get(service)
            .into_iter()
            .flat_map(BTreeMap::values);
        let mut rings = versions.chain(self.clients.get(service));
        rings.all(|ring| ring.samples.len() == 1)
    }

    /// Returns the `q`-quantile of the durations of the time `over`, at most a minute, before the last tick. `None` if there
    /// were fewer than [`LEAST_FOR_QUANTILE`] attempts, or too few for one of them to be above the quantile.
    ///
    /// Cancelled attempts count as longer than all others. Without them the quantile would sink with each attempt that is
    /// cancelled because it has passed the quantile, until every request had a second try.
    pub fn duration(
        &self,
        service: &str,
        version: &str,
        (q, over): (f64, Duration),
    ) -> Option<Duration> {
        let ring = self.versions.get(service)?.get(version)?;
        let (base, last) = ring.window(over)?;
        let buckets = last.counts.durations_since(&base.counts);
        let ended: u64 = buckets.iter().sum();
        let all = ended + last.counts.cancelled_since(&base.counts);
        // Not quite 1, because 1 − q is rounded: of 100 attempts, one is above the 99th percentile.
        let is_enough = all >= LEAST_FOR_QUANTILE && all as f64 * (1.0 - q) >= 0.999;
        // The cancelled ones are in no bucket and count as the longest. So the quantile of all is a higher one of those that ended,
        // or lies beyond the longest of them.
        let share = q * all as f64 / ended.max(1) as f64;
        is_enough
            .then(|| quantile(&buckets, ended, share.min(1.0)))
            .flatten()
    }
}

/// The value of a key, which is made if it is missing.
fn entry<'a, V>(
    map: &'a mut BTreeMap<String, V>,
    key: &str,
    make: impl FnOnce() -> V,
) -> &'a mut V {
    // Keys are copied for new values only, unlike by `BTreeMap::entry`.
    if !map.contains_key(key) {
        map.insert(key.to_owned(), make());
    }
    map.get_mut(key).expect("it was inserted if it was missing")
}

impl Ring {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            samples: VecDeque::new(),
        }
    }

    fn push(&mut self, at: Instant, counts: OutcomeCounts) {
        let is_idle = self.samples.front().is_some_and(|f| f.counts == counts);
        if is_idle {
            // Nothing has changed since the oldest sample, so this one can stand for all of them.
            self.samples.clear();
        }
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample { at, counts });
    }

    /// Returns the sample before which a window of the time `over` begins, and the last one.
    fn window(&self, over: Duration) -> Option<(&Sample, &Sample)> {
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        let age = |at: Instant| last.at.saturating_duration_since(at);
        let mut latest_first = self.samples.iter().rev();
        let base = latest_first.find(|s| age(s.at) >= over);
        Some((base.unwrap_or(first), last))
    }

    fn red(&self, over: Duration) -> Red {
        let Some((base, last)) = self.window(over) else {
            return Red::default();
        };
        let age = |at: Instant| last.at.saturating_duration_since(at);
        // If samples were dropped because the version was idle, the time since its first sample still counts: the rate
        // relates to the whole window, not to the time since the first request after the pause.
        let span = age(base.at).max(over.min(age(self.since)));
        let buckets = last.counts.durations_since(&base.counts);
        let requests: u64 = buckets.iter().sum();
        let errors = last.counts.errors_since(&base.counts);
        let errors = errors.min(requests);
        let ratio = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
        Red {
            requests,
            errors,
            rate: ratio(requests as f64, span.as_secs_f64()),
            error_ratio: ratio(errors as f64, requests as f64),
            p50: quantile(&buckets, requests, 0.5),
            p90: quantile(&buckets, requests, 0.9),
            p99: quantile(&buckets, requests, 0.99),
        }
    }
}

/// Returns the `q`-quantile of `total` observations, interpolated linearly within its bucket.
///
/// This is how `histogram_quantile` of Prometheus estimates quantiles. Observations above the last bound count as the
/// last bound.
fn quantile(buckets: &[u64; BUCKETS], total: u64, q: f64) -> Option<Duration> {
    let wanted = q * total as f64;
    let (mut below, mut lower) = (0.0, 0);
    for (bucket, n) in buckets.iter().enumerate().filter(|(_, n)| **n > 0) {
        let n = *n as f64;
        let longest = BOUNDS[BOUNDS.len() - 1];
        let upper = BOUNDS.get(bucket).copied().unwrap_or(longest);
        lower = bucket.checked_sub(1).map_or(0, |b| BOUNDS[b]);
        if below + n >= wanted {
            let inside = (wanted - below) / n * (upper - lower) as f64;
            return Some(Duration::from_nanos(lower + inside as u64));
        }
        below += n;
    }
    // With observations, only a rounding error in `wanted` leads here.
    (total > 0).then_some(Duration::from_nanos(lower))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::Method;
    use crate::telemetry::WorkerId;

    const S: Duration = Duration::from_secs(1);

    struct SampleRun {
        telemetry: std::sync::Arc<Telemetry>,
        windows: StatusWindows,
        now: Instant,
    }

    impl SampleRun {
        fn new() -> Self {
            let telemetry = Telemetry::new(1);
            telemetry.version("shop", "v1");
            let (windows, now) = (StatusWindows::default(), Instant::now());
            let mut run = Self {
                telemetry,
                windows,
                now,
            };
            run.windows.tick(run.now, &run.telemetry);
            run
        }

        /// Simulates `seconds` seconds with `each` requests in each of them.
        fn seconds(&mut self, seconds: usize, each: usize, status: u16, took: Duration) {
            let metrics = self.telemetry.version("shop", "v1");
            for _ in 0..seconds {
                (0..each).for_each(|_| {
                    metrics
                        .shard(WorkerId(0))
                        .request(Method::Get, status, took)
                });
                self.now += S;
                self.windows.tick(self.now, &self.telemetry);
            }
        }

        fn red(&self, seconds: u32) -> Red {
            self.windows.red("shop", "v1", S * seconds)
        }
    }

    fn near(got: Option<Duration>, ms: u64) -> bool {
        let (got, expected) = (
            got.unwrap().as_secs_f64(),
            Duration::from_millis(ms).as_secs_f64(),
        );
        (got / expected - 1.0).abs() <= 0.34
    }

    #[test]
    fn both_windows_see_their_own_time() {
        let mut run = SampleRun::new();
        run.seconds(50, 10, 200, Duration::from_millis(3));
        run.seconds(10, 100, 500, Duration::from_millis(80));
        let (ten, minute) = (run.red(10), run.red(60));
        assert_eq!(
            (ten.requests, ten.errors, ten.rate, ten.error_ratio),
            (1_000, 1_000, 100.0, 1.0)
        );
        assert_eq!(
            (minute.requests, minute.errors, minute.rate),
            (1_500, 1_000, 25.0)
        );
        assert!(near(ten.p50, 80) && near(ten.p99, 80) && near(minute.p99, 80));
        run.seconds(10, 0, 200, S);
        assert_eq!(run.red(10), Red::default());
        assert_eq!(run.red(60).requests, 1_400);
        run.seconds(60, 0, 200, S);
        assert_eq!(run.red(60), Red::default());
    }

    #[test]
    fn quantiles_lie_in_their_bucket() {
        let mut run = SampleRun::new();
        run.seconds(1, 90, 200, Duration::from_millis(3));
        run.seconds(1, 9, 200, Duration::from_millis(30));
        run.seconds(1, 1, 200, Duration::from_millis(300));
        let red = run.red(10);
        assert!(
            near(red.p50, 3) && near(red.p90, 3) && near(red.p99, 30),
            "{red:?}"
        );
        run.seconds(1, 10_000, 200, Duration::from_secs(600));
        assert_eq!(run.red(10).p99, Some(Duration::from_secs(120)));
    }

    #[test]
    fn a_young_version_has_the_rate_of_its_time_and_a_quiet_one_that_of_the_window() {
        let mut run = SampleRun::new();
        assert_eq!(run.red(10), Red::default());
        run.seconds(2, 50, 200, S);
        assert_eq!((run.red(10).rate, run.red(60).rate), (50.0, 50.0));
        run.seconds(100, 0, 200, S);
        run.seconds(1, 60, 200, S);
        assert_eq!((run.red(10).rate, run.red(60).rate), (6.0, 1.0));
    }

    #[test]
    fn what_came_before_the_first_tick_does_not_count() {
        let telemetry = Telemetry::new(1);
        telemetry
            .version("shop", "v1")
            .shard(WorkerId(0))
            .request(Method::Get, 200, S);
        let mut windows = StatusWindows::default();
        windows.tick(Instant::now(), &telemetry);
        assert_eq!(windows.red("shop", "v1", S), Red::default());
        assert_eq!(windows.red("shop", "v9", S), Red::default());
    }

    #[test]
    fn grpc_failures_are_errors_and_refusals_are_not() {
        let mut run = SampleRun::new();
        run.seconds(1, 20, 200, S);
        let metrics = run.telemetry.version("shop", "v1");
        (0..=16).for_each(|status| metrics.shard(WorkerId(0)).grpc(status));
        run.seconds(1, 0, 200, S);
        assert_eq!(run.red(10).errors, 7);
    }

    #[test]
    fn cancelled_attempts_hold_a_quantile_up_and_few_attempts_have_none() {
        let mut run = SampleRun::new();
        let p95 = |run: &SampleRun| run.windows.duration("shop", "v1", (0.95, 60 * S));
        run.seconds(1, 94, 200, Duration::from_millis(3));
        run.seconds(1, 5, 200, Duration::from_millis(200));
        assert_eq!(p95(&run), None, "99 attempts");
        run.seconds(1, 901, 200, Duration::from_millis(3));
        assert!(p95(&run).is_some_and(|p95| p95 <= Duration::from_millis(3)));
        let metrics = run.telemetry.version("shop", "v1");
        (0..60).for_each(|_| metrics.shard(WorkerId(0)).hedge_won());
        run.seconds(1, 0, 200, S);
        assert!(near(p95(&run), 200), "{:?}", p95(&run));
        let p999 = run.windows.duration("shop", "v1", (0.999, 60 * S));
        assert!(near(p999, 200), "above all that ended: {p999:?}");
        let unknown = run.windows.duration("shop", "v9", (0.95, 60 * S));
        assert_eq!(unknown, None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut run = SampleRun::new();
        run.seconds(500, 1, 200, S);
        assert_eq!(run.windows.versions["shop"]["v1"].samples.len(), SAMPLES);
        run.seconds(100, 0, 200, S);
        assert_eq!(run.windows.versions["shop"]["v1"].samples.len(), 1);
    }
}
