//! Runs work that may block on the file system, on a named thread of its own.

use std::thread;

use tokio::sync::oneshot;

/// Runs `work` on a new thread and returns its result; `None` if the thread can't be started or panics. If the caller is dropped,
/// the work is completed nevertheless.
pub(super) async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (done, result) = oneshot::channel();
    let run = move || {
        // Fails if the caller was dropped.
        drop(done.send(work()));
    };
    let started = thread::Builder::new().name("file-edit".into()).spawn(run);
    if let Err(error) = started {
        tracing::error!(%error, "cannot start a thread for the file system");
        return None;
    }
    result.await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn results_come_back_and_panics_are_caught() {
        assert_eq!(on_thread(|| 7).await, Some(7));
        let panicked = on_thread(|| -> u8 { panic!("on purpose") }).await;
        assert_eq!(panicked, None);
    }
}
