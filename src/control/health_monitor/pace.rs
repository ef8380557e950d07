//! Spacing between the starts of health checks.
//!
//! A reload may add ten thousand endpoints at once. Their first checks are spread over a second and a half, so that the control
//! thread stays responsive and leaves time for a worker that shares its core.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Interval between two starts while checks are waiting.
const INTERVAL: Duration = Duration::from_micros(150);

/// Grants turns at fixed intervals, in the order in which they are asked for.
#[derive(Debug, Default)]
pub(super) struct CheckPacer {
    /// The earliest time of the next turn.
    next: Cell<Option<Instant>>,
}

impl CheckPacer {
    /// Waits for the next turn. Returns immediately if none was granted within the last interval.
    pub(super) async fn turn(&self) {
        let now = Instant::now();
        let at = self.next.get().map_or(now, |next| next.max(now));
        self.next.set(Some(at + INTERVAL));
        if at > now {
            sleep_until(at).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use tokio::task::LocalSet;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_starts_are_spread_out_and_a_single_one_is_immediate() {
        let (pacer, began) = (Rc::new(CheckPacer::default()), Instant::now());
        let local = LocalSet::new();
        let begin = |_| {
            let pacer = pacer.clone();
            local.spawn_local(async move {
                pacer.turn().await;
                began.elapsed()
            })
        };
        let turns: Vec<_> = (0..10_000).map(begin).collect();
        local.await;
        let mut waits = Vec::new();
        for turn in turns {
            waits.push(turn.await.expect("the task ends").as_millis());
        }
        assert_eq!(waits[0], 0);
        let soon = waits.iter().filter(|wait| **wait < 750).count();
        assert!((4900..=5000).contains(&soon), "{soon} in the first half");
        let last = waits.iter().max().expect("some");
        assert!((1500..1510).contains(last), "{last} ms");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let later = Instant::now();
        pacer.turn().await;
        assert_eq!(
            later.elapsed(),
            Duration::ZERO,
            "no delay once the queue is empty"
        );
    }
}
