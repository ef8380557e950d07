//! Counts the responses that the clients got: totals since the start, and each response of the last ten seconds.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Time for which single responses are kept.
const WINDOW: Duration = Duration::from_secs(10);

/// The outcome of one request.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    at: Instant,
    /// Index of the version that answered; `None` for a failure.
    version: Option<usize>,
    took: Duration,
}

/// Figures of one version over a short time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Figures {
    /// Share of all requests, in 0 to 1.
    pub share: f64,
    /// Requests per second.
    pub rate: f64,
    /// Median latency.
    pub p50: Duration,
    /// 99th percentile of the latency.
    pub p99: Duration,
}

/// Counts and latencies of the demo's requests.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    names: [&'static str; 2],
    begun: Instant,
    recent: VecDeque<Outcome>,
    answered: [u64; 2],
    failed: u64,
    first_failure: Option<String>,
    adoptions: Vec<Duration>,
}

impl Tally {
    pub(super) fn new(names: [&'static str; 2]) -> Self {
        Self {
            names,
            begun: Instant::now(),
            recent: VecDeque::new(),
            answered: [0; 2],
            failed: 0,
            first_failure: None,
            adoptions: Vec::new(),
        }
    }

    /// Counts a complete response with status 200 from this version.
    pub(super) fn answered(&mut self, version: &str, took: Duration) {
        match self.names.iter().position(|name| *name == version) {
            Some(version) => {
                self.answered[version] += 1;
                self.record(Some(version), took);
            }
            None => self.failed(
                &format!("a response from unknown version {version:?}"),
                took,
            ),
        }
    }

    /// Counts a failed request.
    pub(super) fn failed(&mut self, why: &str, took: Duration) {
        self.failed += 1;
        self.first_failure.get_or_insert_with(|| why.to_owned());
        self.record(None, took);
    }

    fn record(&mut self, version: Option<usize>, took: Duration) {
        let at = Instant::now();
        self.recent.push_back(Outcome { at, version, took });
        while self.recent.front().is_some_and(|s| at - s.at > WINDOW) {
            self.recent.pop_front();
        }
    }

    /// Records the time that an edit took to be live.
    pub(super) fn adopted(&mut self, after: Duration) {
        self.adoptions.push(after);
    }

    /// Requests since the start, failed ones included.
    pub(super) fn requests(&self) -> u64 {
        self.answered.iter().sum::<u64>() + self.failed
    }

    /// Requests that failed since the start.
    pub(super) fn failures(&self) -> u64 {
        self.failed
    }

    /// Answers by version since the start.
    pub(super) fn by_version(&self) -> [u64; 2] {
        self.answered
    }

    /// The figures of one version over the last `span`, at most ten seconds.
    pub(super) fn figures(&self, version: usize, span: Duration) -> Figures {
        let now = Instant::now();
        let span = span.min(WINDOW).min(now - self.begun);
        let recent = self.recent.iter().filter(|s| now - s.at <= span);
        let (mut all, mut times) = (0_u32, Vec::new());
        for outcome in recent {
            all += 1;
            if outcome.version == Some(version) {
                times.push(outcome.took);
            }
        }
        times.sort_unstable();
        let count = times.len();
        // Nearest-rank percentile: the smallest value with at least this ratio of all values at or below it.
        let at = |ratio: f64| {
            let rank = (ratio * count as f64).ceil() as usize;
            times.get(rank.max(1) - 1).copied().unwrap_or_default()
        };
        Figures {
            share: count as f64 / f64::from(all.max(1)),
            rate: count as f64 / span.as_secs_f64().max(0.001),
            p50: at(0.5),
            p99: at(0.99),
        }
    }

    /// The summary that is printed at the end.
    pub(super) fn summary(&self) -> String {
        let [(blue, b), (green, g)] = [0, 1].map(|v| (self.names[v], self.answered[v]));
        let mut text = format!(
            "{} requests, {} failed\n  {blue} answered {b}, {green} answered {g}",
            self.requests(),
            self.failed
        );
        if let Some(why) = &self.first_failure {
            text += &format!("\n  first failure: {why}");
        }
        if !self.adoptions.is_empty() {
            let times: Vec<_> = self.adoptions.iter().map(|t| shown(*t)).collect();
            text += &format!("\n  edits live after {}", times.join(", "));
        }
        text
    }
}

/// Formats a latency in milliseconds: `2.4 ms`, `35 ms`.
pub(super) fn shown(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    match ms {
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms => format!("{ms:.0} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn figures_are_of_the_last_seconds() {
        let mut tally = Tally::new(["blue", "green"]);
        for _ in 0..20 {
            tally.answered("blue", 9 * MS);
        }
        tokio::time::advance(Duration::from_secs(11)).await;
        for n in 1..=100 {
            tally.answered("blue", n * MS);
        }
        for _ in 0..25 {
            tally.answered("green", MS);
        }
        let blue = tally.figures(0, WINDOW);
        assert_eq!((blue.share, blue.rate), (0.8, 10.0));
        assert_eq!((blue.p50, blue.p99), (50 * MS, 99 * MS));
        assert_eq!(tally.by_version(), [120, 25]);
        assert_eq!(tally.figures(1, Duration::from_secs(5)).rate, 5.0);
        tokio::time::advance(Duration::from_secs(2)).await;
        tally.answered("blue", 7 * MS);
        let last = tally.figures(0, Duration::from_secs(1));
        assert_eq!((last.share, last.p99), (1.0, 7 * MS));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_never_forgotten() {
        let mut tally = Tally::new(["blue", "green"]);
        assert_eq!(tally.figures(0, WINDOW), Figures::default());
        tally.failed("status 502", MS);
        tally.answered("red", MS);
        tokio::time::advance(Duration::from_secs(60)).await;
        tally.answered("green", MS);
        assert_eq!((tally.requests(), tally.failures()), (3, 2));
        let summary = tally.summary();
        assert!(summary.starts_with("3 requests, 2 failed"), "{summary}");
        assert!(summary.contains("status 502"), "{summary}");
    }
}
