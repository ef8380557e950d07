//! Notifications to the service manager, in the protocol of sd_notify(3). Without `NOTIFY_SOCKET` all functions do nothing.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use sd_notify::NotifyState;

use super::handover::message;
use crate::edge::inherit::STORED;

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "failed to notify the service manager");
    }
}

/// Reports that the proxy is ready, after startup or a reload, with a line for `systemctl status`.
pub(super) fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Reports the start of a reload. [`ready`] must follow even if the reload fails: systemd waits for it (`Type=notify-reload`).
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "failed to read the monotonic clock"),
    }
}

/// Sets the line for `systemctl status`.
pub(super) fn status(status: &str) {
    notify(&[NotifyState::Status(status)]);
}

/// Reports the start of the shutdown, and extends the stop timeout to `longest`.
pub(super) fn stopping(longest: Duration) {
    let usec = u32::try_from(longest.as_micros()).unwrap_or(u32::MAX);
    notify(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(usec)]);
}

/// Makes another process the main process of the service, which systemd watches from now on.
pub(super) fn main_process(pid: i32) {
    if let Ok(pid) = u32::try_from(pid) {
        notify(&[NotifyState::MainPid(pid)]);
    }
}

/// Stores a duplicate of a socket with the service manager, which passes it to the next process that it starts. Returns whether
/// the message was sent. A service manager whose store is full (`FileDescriptorStoreMax=`) drops it silently.
pub(super) fn store(name: &str, socket: BorrowedFd<'_>) -> bool {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return false;
    };
    let state = format!("FDSTORE=1\nFDNAME={STORED}{name}\n");
    let stored = UnixDatagram::unbound().and_then(|manager| {
        manager.connect(&path)?;
        message(manager.as_fd(), state.as_bytes(), &[socket])
    });
    if let Err(error) = &stored {
        tracing::debug!(%error, "failed to store a socket with the service manager");
    }
    stored.is_ok()
}

/// Removes the stored sockets of this listener.
pub(super) fn forget(name: &str) {
    let name = format!("FDNAME={STORED}{name}");
    notify(&[
        NotifyState::Custom("FDSTOREREMOVE=1"),
        NotifyState::Custom(&name),
    ]);
}

/// Sends a keep-alive to the watchdog.
pub(super) fn alive() {
    notify(&[NotifyState::Watchdog]);
}

/// The interval at which to call [`alive`]: a third of `WatchdogSec=`, so that one late call does no harm. `None` without a
/// watchdog.
pub(super) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
        .map(|limit| limit / 3)
        .filter(|d| !d.is_zero())
}
