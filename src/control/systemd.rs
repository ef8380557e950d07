//! What the service manager is told, where there is one. Without `NOTIFY_SOCKET` every call does nothing.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use sd_notify::NotifyState;

use super::handover::message;
use crate::edge::inherit::STORED;

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager could not be told");
    }
}

/// Up, or up again after a reload; with a line for `systemctl status`.
pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A reload begins. [`ready`] must follow, whatever comes of it.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "no monotonic clock"),
    }
}

/// A line for `systemctl status`.
pub(super) fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// The end begins; it may take so long.
pub(super) fn stopping(longest: Duration) {
    let usec = u32::try_from(longest.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(usec)]);
}

/// The process to watch from now on is another one.
pub(super) fn main_process(pid: i32) {
    if let Ok(pid) = u32::try_from(pid) {
        tell(&[NotifyState::MainPid(pid)]);
    }
}

/// Leaves a socket with the service manager, which passes it to the next process that it starts. Whether it was sent; a service
/// manager that has no room for it doesn't say so.
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
        tracing::debug!(%error, "the service manager could not be given a socket");
    }
    stored.is_ok()
}

/// The sockets of this listener are not to be kept any more.
pub(super) fn forget(name: &str) {
    let name = format!("FDNAME={STORED}{name}");
    tell(&[
        NotifyState::Custom("FDSTOREREMOVE=1"),
        NotifyState::Custom(&name),
    ]);
}

/// All threads are alive.
pub(super) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often [`alive`] is expected to be called: a third of what `WatchdogSec=` allows. `None` without a watchdog.
pub(super) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
        .map(|limit| limit / 3)
        .filter(|d| !d.is_zero())
}
