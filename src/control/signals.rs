//! The signals that the process heeds.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What the system may want.
pub(super) struct SignalStream(Option<[Signal; 3]>);

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SignalRequest {
    /// SIGHUP.
    Reload,
    /// SIGTERM, SIGINT.
    Stop,
}

impl SignalStream {
    /// Takes SIGHUP, SIGTERM and SIGINT from now on.
    ///
    /// # Errors
    /// The handlers can't be set.
    pub(super) fn listen() -> io::Result<Self> {
        let [hup, term, int] = [
            SignalKind::hangup(),
            SignalKind::terminate(),
            SignalKind::interrupt(),
        ]
        .map(signal);
        Ok(Self(Some([hup?, term?, int?])))
    }

    /// For a proxy inside another program, which has the signals.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self(None)
    }

    /// Waits for a signal that asks to stop; others are dropped.
    pub(crate) async fn stop(&mut self) {
        while self.next().await != SignalRequest::Stop {}
    }

    /// Waits for the next.
    pub(super) async fn next(&mut self) -> SignalRequest {
        let Some([hup, term, int]) = &mut self.0 else {
            return std::future::pending().await;
        };
        tokio::select! {
            Some(()) = hup.recv() => SignalRequest::Reload,
            Some(()) = term.recv() => SignalRequest::Stop,
            Some(()) = int.recv() => SignalRequest::Stop,
        }
    }
}
