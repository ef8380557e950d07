//! How close upon another checks begin. A reload may bring ten thousand endpoints at once: their first checks are spread over
//! a second and a half, so that the control thread has time for everything else, and a core that it shares with a worker.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// From one beginning to the next, when many wait.
const APART: Duration = Duration::from_micros(150);

/// Turns, one after the other.
#[derive(Debug, Default)]
pub(super) struct CheckPacer {
    /// The next that is free.
    next: Cell<Option<Instant>>,
}

impl CheckPacer {
    /// Waits for the next free turn: not at all, unless others began just now.
    pub(super) async fn turn(&self) {
        let now = Instant::now();
        let at = self.next.get().map_or(now, |next| next.max(now));
        self.next.set(Some(at + APART));
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
    async fn many_begin_one_after_the_other_and_few_at_once() {
        let (pace, began) = (Rc::new(CheckPacer::default()), Instant::now());
        let local = LocalSet::new();
        let begin = |_| {
            let pace = pace.clone();
            local.spawn_local(async move {
                pace.turn().await;
                began.elapsed()
            })
        };
        let turns: Vec<_> = (0..10_000).map(begin).collect();
        local.await;
        let mut waits = Vec::new();
        for turn in turns {
            waits.push(turn.await.expect("it ended well").as_millis());
        }
        assert_eq!(waits[0], 0);
        let soon = waits.iter().filter(|wait| **wait < 750).count();
        assert!((4900..=5000).contains(&soon), "{soon} in the first half");
        let last = waits.iter().max().expect("some");
        assert!((1500..1510).contains(last), "{last} ms");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let later = Instant::now();
        pace.turn().await;
        assert_eq!(
            later.elapsed(),
            Duration::ZERO,
            "it is as if nothing had been"
        );
    }
}
