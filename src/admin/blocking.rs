//! Runs work that may block, on a named thread of its own.

use std::thread;

use tokio::sync::oneshot;

/// Runs `work` on a new thread called `name`, and returns its result. If the caller is dropped, the work is completed nevertheless.
///
/// # Errors
/// The thread can't be started, or the work panicked.
pub(crate) async fn on_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let (done, result) = oneshot::channel();
    let run = move || {
        // Fails if the caller was dropped.
        drop(done.send(work()));
    };
    let started = thread::Builder::new().name(name.to_owned()).spawn(run);
    started.map_err(|error| format!("can't start a thread: {error}"))?;
    result.await.map_err(|_| format!("{name} panicked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn results_come_back_and_panics_are_caught() {
        assert_eq!(on_thread("work", || 7).await, Ok(7));
        let panicked = on_thread("work", || -> u8 { panic!("on purpose") }).await;
        assert_eq!(panicked, Err("work panicked".to_owned()));
    }
}
