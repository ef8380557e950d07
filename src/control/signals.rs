//! Signals: SIGHUP reloads, SIGUSR1 reopens the access log, SIGTERM and SIGINT stop.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The stream of signals. `None` never yields one.
pub(super) struct SignalStream(Option<[Signal; 4]>);

/// The request that a signal stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SignalRequest {
    /// SIGHUP.
    Reload,
    /// SIGUSR1.
    ReopenLog,
    /// SIGTERM or SIGINT.
    Stop,
}

impl SignalStream {
    /// Installs handlers for SIGHUP, SIGUSR1, SIGTERM and SIGINT. Their default actions stay disabled for the life of the process.
    ///
    /// # Errors
    /// A handler can't be installed.
    pub(super) fn listen() -> io::Result<Self> {
        let [hup, usr1, term, int] = [
            SignalKind::hangup(),
            SignalKind::user_defined1(),
            SignalKind::terminate(),
            SignalKind::interrupt(),
        ]
        .map(signal);
        Ok(Self(Some([hup?, usr1?, term?, int?])))
    }

    /// A stream without signals, for a proxy inside a test.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self(None)
    }

    /// Waits for a signal that asks to stop. Other signals are ignored meanwhile.
    pub(crate) async fn stop(&mut self) {
        while self.next().await != SignalRequest::Stop {}
    }

    /// Waits for the next signal. Cancellation safe.
    pub(super) async fn next(&mut self) -> SignalRequest {
        let Some([hup, usr1, term, int]) = &mut self.0 else {
            return std::future::pending().await;
        };
        tokio::select! {
            Some(()) = hup.recv() => SignalRequest::Reload,
            Some(()) = usr1.recv() => SignalRequest::ReopenLog,
            Some(()) = term.recv() => SignalRequest::Stop,
            Some(()) = int.recv() => SignalRequest::Stop,
        }
    }
}
