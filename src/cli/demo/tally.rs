//! What the users saw: everything since the start, and the last ten seconds by version.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The span of "now".
const WINDOW: Duration = Duration::from_secs(10);

/// One answer, or the lack of one.
#[derive(Clone, Copy, Debug)]
struct DemoAnswer {
    at: Instant,
    version: Option<usize>,
    took: Duration,
}

/// Figures of one version over the last seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Figures {
    /// Of all answers, in [0,1].
    pub share: f64,
    /// Answers a second.
    pub rate: f64,
    /// Median.
    pub p50: Duration,
    /// 99th percentile.
    pub p99: Duration,
}

/// Counts of requests.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    names: [&'static str; 2],
    begun: Instant,
    recent: VecDeque<DemoAnswer>,
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

    /// A whole answer with status 200 from this version.
    pub(super) fn answered(&mut self, version: &str, took: Duration) {
        match self.names.iter().position(|name| *name == version) {
            Some(version) => {
                self.answered[version] += 1;
                self.see(Some(version), took);
            }
            None => self.failed(&format!("an answer of version {version:?}"), took),
        }
    }

    /// Anything else.
    pub(super) fn failed(&mut self, why: &str, took: Duration) {
        self.failed += 1;
        self.first_failure.get_or_insert_with(|| why.to_owned());
        self.see(None, took);
    }

    fn see(&mut self, version: Option<usize>, took: Duration) {
        let at = Instant::now();
        self.recent.push_back(DemoAnswer { at, version, took });
        while self.recent.front().is_some_and(|s| at - s.at > WINDOW) {
            self.recent.pop_front();
        }
    }

    /// An edit was live after this time.
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

    /// How one version did over the last `span` (ten seconds at most).
    pub(super) fn figures(&self, version: usize, span: Duration) -> Figures {
        let now = Instant::now();
        let span = span.min(WINDOW).min(now - self.begun);
        let recent = self.recent.iter().filter(|s| now - s.at <= span);
        let (mut all, mut times) = (0_u32, Vec::new());
        for seen in recent {
            all += 1;
            if seen.version == Some(version) {
                times.push(seen.took);
            }
        }
        times.sort_unstable();
        let count = times.len();
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

    /// The last word.
    pub(super) fn summary(&self) -> String {
        let [(blue, b), (green, g)] = [0, 1].map(|v| (self.names[v], self.answered[v]));
        let mut text = format!(
            "{} requests, {} failed; {blue} answered {b}, {green} {g}",
            self.requests(),
            self.failed
        );
        if let Some(why) = &self.first_failure {
            text += &format!("\nthe first failure: {why}");
        }
        if !self.adoptions.is_empty() {
            let times: Vec<_> = self.adoptions.iter().map(|t| shown(*t)).collect();
            text += &format!("\nthe edits were live after {}", times.join(", "));
        }
        text
    }
}

/// A time as a person reads it: `2.4 ms`, `35 ms`.
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
