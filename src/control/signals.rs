//! The signals that the process heeds.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What the system may want.
pub struct Signals(Option<[Signal; 3]>);

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// SIGHUP.
    Reload,
    /// SIGTERM, SIGINT.
    Stop,
}

impl Signals {
    /// Takes SIGHUP, SIGTERM and SIGINT from now on.
    ///
    /// # Errors
    /// The handlers can't be set.
    pub fn listen() -> io::Result<Self> {
        let [hup, term, int] = [
            SignalKind::hangup(),
            SignalKind::terminate(),
            SignalKind::interrupt(),
        ]
        .map(signal);
        Ok(Self(Some([hup?, term?, int?])))
    }

    /// For a proxy inside another program, which has the signals.
    pub fn none() -> Self {
        Self(None)
    }

    /// Waits for a signal that asks to stop; others are dropped.
    pub(crate) async fn stop(&mut self) {
        while self.next().await != Asked::Stop {}
    }

    /// Waits for the next.
    pub async fn next(&mut self) -> Asked {
        let Some([hup, term, int]) = &mut self.0 else {
            return std::future::pending().await;
        };
        tokio::select! {
            Some(()) = hup.recv() => Asked::Reload,
            Some(()) = term.recv() => Asked::Stop,
            Some(()) = int.recv() => Asked::Stop,
        }
    }
}
