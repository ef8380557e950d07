//! What the guard is compared with.

use cutover::rollout::guard::EventTally;

/// Flagger's default: five intervals of a minute in which fewer than 99 % of the canary's requests succeed. Its failures
/// add up over the whole rollout.
#[derive(Default)]
pub struct Flagger {
    minute: EventTally,
    seconds: u32,
    failed: u32,
}

impl Flagger {
    /// Adds a second. Returns whether the canary is rolled back.
    pub fn second(&mut self, canary: EventTally) -> bool {
        self.minute.requests += canary.requests;
        self.minute.events += canary.events;
        self.seconds += 1;
        if self.seconds.is_multiple_of(60) {
            let minute = std::mem::take(&mut self.minute);
            self.failed += u32::from(minute.requests > 0 && minute.rate() > 0.01);
        }
        self.failed >= 5
    }
}

/// A one-sided z test of two proportions at 1 % with a fixed sample, looked at once. The sample is the one that finds twice
/// the base rate in nine of ten cases.
pub struct FixedTest {
    needed: u64,
    canary: EventTally,
    stable: EventTally,
}

const Z99: f64 = 2.326_348;
const Z90: f64 = 1.281_552;

impl FixedTest {
    pub fn new(base: f64, share: f64) -> Self {
        let per_stable = share / (1.0 - share);
        let twice = (2.0 * base).min(1.0);
        let pooled = share * twice + (1.0 - share) * base;
        let noise = |p: f64| p * (1.0 - p);
        let null = (noise(pooled) * (1.0 + per_stable)).sqrt();
        let alternative = (noise(twice) + noise(base) * per_stable).sqrt();
        let root = (Z99 * null + Z90 * alternative) / (twice - base);
        Self {
            needed: (root * root).ceil() as u64,
            canary: EventTally::default(),
            stable: EventTally::default(),
        }
    }

    /// Adds a second. Returns the decision once the sample is complete: whether the canary is rolled back.
    pub fn second(&mut self, canary: EventTally, stable: EventTally) -> Option<bool> {
        for (sum, new) in [(&mut self.canary, canary), (&mut self.stable, stable)] {
            sum.requests += new.requests;
            sum.events += new.events;
        }
        if self.canary.requests < self.needed {
            return None;
        }
        let (c, s) = (self.canary, self.stable);
        let (n_c, n_s) = (c.requests as f64, s.requests as f64);
        let pooled = (c.events + s.events) as f64 / (n_c + n_s);
        let error = (pooled * (1.0 - pooled) * (1.0 / n_c + 1.0 / n_s)).sqrt();
        Some((c.rate() - s.rate()) / error > Z99)
    }
}
