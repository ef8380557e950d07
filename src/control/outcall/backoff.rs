//! Exponential back-off between the attempts of a call.

use std::time::Duration;

/// The pauses between attempts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    /// The pause after the first failure.
    pub first: Duration,
    /// Each pause as a multiple of the one before.
    pub factor: u32,
    /// The longest pause.
    pub most: Duration,
}

impl Backoff {
    /// Returns the pause after this many failures in a row, at least 1.
    pub(super) fn after(&self, failures: u32) -> Duration {
        let factor = self.factor.saturating_pow(failures.saturating_sub(1));
        self.first.saturating_mul(factor).min(self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_longest() {
        let backoff = Backoff {
            first: Duration::from_millis(500),
            factor: 2,
            most: Duration::from_secs(30),
        };
        let pauses: Vec<_> = (1..=8).map(|n| backoff.after(n).as_millis()).collect();
        assert_eq!(
            pauses,
            [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]
        );
        assert_eq!(backoff.after(0).as_millis(), 500);
        assert_eq!(backoff.after(u32::MAX), backoff.most);
    }
}
