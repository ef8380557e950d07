//! How long a connection may last on which no stream is open: while the client takes the last of its responses, while nothing
//! moves, and while a head has begun.

use std::time::Duration;

use super::meter::Meter;
use super::{ConnectionState, LINGER};
use crate::net::TaskPhase;

/// How long a connection without streams keeps the memory of those it had: the next ones often come at once.
const SPARE: Duration = Duration::from_secs(1);

impl ConnectionState {
    pub(super) fn arm(&self, wait: Duration) {
        self.spare.set(None);
        self.watch.arm(wait);
    }

    /// Bytes of responses that the client's socket hasn't taken.
    pub(super) fn undelivered(&self) -> usize {
        self.outbox.held() + self.gathered.get()
    }

    /// No stream is open: how long this may last. While bytes of finished responses wait for the client, drains give it the
    /// time of a request.
    pub(super) fn rest(&self) {
        if self.undelivered() > 0 {
            self.watch.enter(TaskPhase::Request);
            self.arm_delivery();
            return;
        }
        self.watch.enter(TaskPhase::Idle);
        let limits = &self.worker.snapshot().spec.limits;
        match limits.keepalive_timeout.checked_sub(SPARE) {
            _ if self.leaving.get() => self.arm(LINGER),
            None => self.arm(limits.keepalive_timeout),
            Some(rest) => {
                self.watch.arm(SPARE);
                self.spare.set(Some(rest));
            }
        }
    }

    /// The client has to take some of what waits for it within the time that a kept connection may be idle.
    pub(super) fn arm_delivery(&self) {
        self.seen_undelivered.set(self.undelivered());
        let limits = &self.worker.snapshot().spec.limits;
        self.arm(limits.keepalive_timeout);
    }

    /// Where no stream is open and the client still takes finished responses: whether it has taken some, or all.
    pub(super) fn heed_delivery(&self) {
        if self.open.get() > 0 || self.watch.phase() != TaskPhase::Request {
            return;
        }
        match self.undelivered() {
            0 => self.rest(),
            left if left != self.seen_undelivered.get() => self.arm_delivery(),
            _ => {}
        }
    }

    /// Where no stream is open, a head that has begun must come within its time.
    pub(super) fn heed(&self, meter: &Meter) {
        if self.open.get() > 0 || self.leaving.get() {
            return;
        }
        match (self.watch.phase(), meter.is_inside()) {
            (TaskPhase::Idle, true) => {
                self.watch.enter(TaskPhase::Head);
                let limits = &self.worker.snapshot().spec.limits;
                self.arm(limits.header_timeout);
            }
            (TaskPhase::Head, false) => self.rest(),
            _ => {}
        }
    }
}
