//! Blocking work beside the control thread.

use tokio::sync::oneshot;

/// Runs blocking work on a thread of its own, and waits for its result without blocking this one.
///
/// # Errors
/// The thread can't be started, or the work panicked.
pub(super) async fn aside<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let (sender, result) = oneshot::channel();
    let run = move || {
        // Fails if nobody waits any more, which is all right.
        let _ = sender.send(work());
    };
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(run);
    started.map_err(|error| format!("can't start a thread: {error}"))?;
    result.await.map_err(|_| format!("{name} panicked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn results_and_panics_come_back() {
        assert_eq!(aside("work", || 7).await, Ok(7));
        let panicked = aside("work", || -> u8 { panic!("on purpose") }).await;
        assert_eq!(panicked, Err("work panicked".to_owned()));
    }
}
