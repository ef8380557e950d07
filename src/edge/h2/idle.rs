//! Deadlines of a connection without open streams: while the client reads its last responses, while it is idle, and while it sends
//! the next request head.

use std::time::Duration;

use super::state::{ConnectionState, LINGER};
use crate::net::TaskPhase;

/// Time for which a connection keeps the memory of its streams after the last one has ended: more requests often follow at once.
const KEEP_MEMORY: Duration = Duration::from_secs(1);

impl ConnectionState {
    pub(super) fn arm(&self, wait: Duration) {
        self.idle_after_release.set(None);
        self.control.arm(wait);
    }

    /// Bytes of responses that the client's socket hasn't taken.
    pub(super) fn undelivered(&self) -> usize {
        self.connection.core().output().len()
    }

    /// Sets phase and deadline when the last stream has ended. While the client has yet to read finished responses, the phase is
    /// that of a request, so that a drain waits for it.
    pub(super) fn enter_idle(&self) {
        if self.undelivered() > 0 {
            self.control.enter(TaskPhase::Request);
            self.arm_delivery();
            return;
        }
        self.control.enter(TaskPhase::Idle);
        let limits = &self.worker.snapshot().spec.limits;
        // The keepalive timeout is armed in two parts: the stream memory is released after the first one.
        match limits.keepalive_timeout.checked_sub(KEEP_MEMORY) {
            _ if self.closing.get() => self.arm(LINGER),
            None => self.arm(limits.keepalive_timeout),
            Some(rest) => {
                self.control.arm(KEEP_MEMORY);
                self.idle_after_release.set(Some(rest));
            }
        }
    }

    /// Gives the client the keepalive timeout to read at least some of what is undelivered.
    pub(super) fn arm_delivery(&self) {
        self.undelivered_when_armed.set(self.undelivered());
        let limits = &self.worker.snapshot().spec.limits;
        self.arm(limits.keepalive_timeout);
    }

    /// Renews the delivery deadline when the client has read something, and ends the phase when it has read all.
    pub(super) fn update_delivery_deadline(&self) {
        if self.open.get() > 0 || self.control.phase() != TaskPhase::Request {
            return;
        }
        match self.undelivered() {
            0 => self.enter_idle(),
            left if left != self.undelivered_when_armed.get() => self.arm_delivery(),
            _ => {}
        }
    }

    /// Gives an idle client that has begun to send a frame the time of a request head to complete it.
    pub(super) fn update_head_deadline(&self) {
        if self.open.get() > 0 || self.closing.get() {
            return;
        }
        match (self.control.phase(), self.mid_frame.get()) {
            (TaskPhase::Idle, true) => {
                self.control.enter(TaskPhase::Head);
                let limits = &self.worker.snapshot().spec.limits;
                self.arm(limits.header_timeout);
            }
            (TaskPhase::Head, false) => self.enter_idle(),
            _ => {}
        }
    }
}
