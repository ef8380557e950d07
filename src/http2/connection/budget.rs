//! Limits the frames that a peer may send without doing useful work.
//!
//! SETTINGS, PING, PRIORITY, WINDOW_UPDATE, empty DATA frames and unknown types use up a frame budget, which requests and data
//! refill. Streams that are opened and reset (CVE-2023-44487) have a credit of their own. When either is exhausted the
//! connection is closed with ENHANCE_YOUR_CALM.

use crate::http2::ErrorCode;

/// Control frames that may arrive in one burst.
const BURST: i64 = 1_000;
/// Upper bound of the budget that a client can earn.
const MOST: i64 = 20_000;
/// Control frames per second that are allowed regardless of useful work.
const REFILL_PER_SECOND: i64 = 200;
/// Initial reset credit. A browser may cancel a few pages with all of their concurrent streams before any request completed.
const CREDIT: i64 = 400;
/// Upper bound of the credit: a flood is cut within 600 streams, even after long regular use.
const MOST_CREDIT: i64 = CREDIT + 128;
/// Credit regained per second: resets at this rate are no flood.
const CREDIT_PER_SECOND: i64 = 20;
/// A reset that follows the stream's HEADERS within this time is rapid and costs double.
const RAPID_MS: u64 = 1_000;

/// One connection's frame budget and reset credit.
///
/// Exhaustion is final. Only a server keeps account: endpoints are trusted not to flood their proxy.
#[derive(Debug)]
pub(super) struct FloodBudget {
    /// Current time; set by the connection before it receives bytes.
    pub(super) now_ms: u64,
    frames: i64,
    /// Frames that our own sending allows the peer to answer with.
    earned: i64,
    refilled_ms: u64,
    exhausted: bool,
    resets: ResetCredit,
}

impl FloodBudget {
    /// A full budget.
    pub(super) fn new(now_ms: u64) -> Self {
        Self {
            now_ms,
            frames: BURST,
            earned: 0,
            refilled_ms: now_ms,
            exhausted: false,
            resets: ResetCredit::new(now_ms),
        }
    }

    /// Whether budget or credit is exhausted, so that the connection has to be closed.
    pub(super) fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    /// Whether the peer has sent or provoked any reset.
    pub(super) fn has_resets(&self) -> bool {
        self.resets.any
    }

    /// Takes one frame from the budget. What was earned by sending and by time is added only when the budget has run out, which
    /// keeps the common case to one subtraction.
    pub(super) fn charge(&mut self) {
        self.frames -= 1;
        if self.frames > 0 {
            return;
        }
        let earned = std::mem::take(&mut self.earned).min(MOST);
        let waited = self.now_ms.saturating_sub(self.refilled_ms);
        let waited = waited.min(BURST as u64 * 1_000) as i64;
        let given = (waited * REFILL_PER_SECOND / 1_000).min(BURST);
        self.refilled_ms = self.now_ms;
        self.frames = earned + given;
        self.exhausted |= self.frames == 0;
    }

    /// Accounts for a DATA frame with content or END_STREAM.
    pub(super) fn data(&mut self) {
        self.frames = (self.frames + 1).min(MOST);
    }

    /// Accounts for the stream that a HEADERS frame opens.
    pub(super) fn open(&mut self, stream: u32) {
        self.resets.open(stream, self.now_ms);
        self.frames = (self.frames + 2).min(MOST);
    }

    /// Accounts for DATA that we send: 4 frames for each call, and one for each 512 bytes.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.earned += 4 + (bytes / 512) as i64;
    }

    /// Accounts for a reset that the peer has sent.
    pub(super) fn reset(&mut self, stream: u32) {
        self.provoked(stream);
        self.charge();
    }

    /// Accounts for a reset that we send because of the peer's error. It cancels work like the peer's own resets do
    /// (CVE-2025-8671).
    pub(super) fn provoked(&mut self, stream: u32) {
        self.exhausted |= !self.resets.allow(stream, self.now_ms);
    }

    /// Takes back what a refused stream has earned. Not counted as a reset: a client that doesn't know our limit yet does no harm
    /// by exceeding it.
    pub(super) fn refused(&mut self) {
        self.resets.credit -= 1;
    }
}

/// The reset credit: opening a stream earns one, a reset costs one, and a rapid reset two.
#[derive(Debug)]
struct ResetCredit {
    credit: i64,
    credited_ms: u64,
    newest: u32,
    /// Streams up to this id are older than [`RAPID_MS`]. At `aged_ms` + [`RAPID_MS`] those up to `next_aged` will be. So the age
    /// of a stream is known to about a second without a timestamp for each.
    aged: u32,
    next_aged: u32,
    aged_ms: u64,
    any: bool,
}

impl ResetCredit {
    fn new(now_ms: u64) -> Self {
        Self {
            credit: CREDIT,
            credited_ms: now_ms,
            newest: 0,
            aged: 0,
            next_aged: 0,
            aged_ms: now_ms,
            any: false,
        }
    }

    fn open(&mut self, stream: u32, now_ms: u64) {
        self.age(now_ms);
        self.newest = stream;
        self.credit = (self.credit + 1).min(MOST_CREDIT);
    }

    /// Advances `aged` and `next_aged`, once every [`RAPID_MS`].
    fn age(&mut self, now_ms: u64) {
        let since = now_ms.saturating_sub(self.aged_ms);
        if since < RAPID_MS {
            return;
        }
        let next = std::mem::replace(&mut self.next_aged, self.newest);
        // If nothing was opened or reset for twice that time, even the newest stream is old enough.
        let all = since >= 2 * RAPID_MS;
        self.aged = if all { self.newest } else { next };
        self.aged_ms = now_ms;
    }

    /// Charges a reset and returns whether credit is left. Credit regained over time is added only once it has run out.
    fn allow(&mut self, stream: u32, now_ms: u64) -> bool {
        self.any = true;
        self.age(now_ms);
        self.credit -= if stream > self.aged { 2 } else { 1 };
        if self.credit <= 0 {
            let waited = now_ms.saturating_sub(std::mem::replace(&mut self.credited_ms, now_ms));
            let given = (waited.min(60_000) as i64 * CREDIT_PER_SECOND / 1_000).min(CREDIT);
            self.credit += given;
        }
        self.credit > 0
    }
}

/// Whether a reset with this code, sent by us, was caused by an error of the peer (RFC 9113 §7).
pub(super) fn is_provoked(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::PROTOCOL_ERROR
            | ErrorCode::FLOW_CONTROL_ERROR
            | ErrorCode::STREAM_CLOSED
            | ErrorCode::FRAME_SIZE_ERROR
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(budget: &mut FloodBudget, mut step: impl FnMut(&mut FloodBudget, u32)) -> u32 {
        (0..100_000)
            .find(|i| {
                let exhausted = budget.is_exhausted();
                if !exhausted {
                    step(budget, *i);
                }
                exhausted
            })
            .unwrap_or(100_000)
    }

    #[test]
    fn control_frames_without_work_exhaust_the_budget() {
        let n = passed(&mut FloodBudget::new(0), |budget, _| budget.charge());
        assert_eq!(n, BURST as u32);
    }

    #[test]
    fn control_frames_that_accompany_work_do_not() {
        let mut budget = FloodBudget::new(0);
        let n = passed(&mut budget, |budget, _| {
            // The frames that were sent, and how the client acknowledges them.
            budget.sent(0);
            budget.charge();
            budget.charge();
        });
        assert_eq!(n, 100_000);
        let n = passed(&mut budget, |budget, _| {
            budget.data();
            budget.charge();
        });
        assert_eq!(n, 100_000);
    }

    #[test]
    fn a_flood_of_resets_is_cut_within_600_streams() {
        for honest in [0, 10_000] {
            let mut budget = FloodBudget::new(0);
            (0..honest).for_each(|i| budget.open(2 * i + 1));
            let n = passed(&mut budget, |budget, i| {
                let stream = 2 * (honest + i) + 1;
                budget.open(stream);
                budget.reset(stream);
            });
            assert!((300..600).contains(&n), "{n} after {honest}");
        }
    }

    #[test]
    fn a_client_that_resets_every_second_stream_is_served() {
        let n = passed(&mut FloodBudget::new(0), |budget, i| {
            budget.open(2 * i + 1);
            if i % 2 == 1 {
                budget.reset(2 * i + 1);
            }
        });
        assert_eq!(n, 100_000);
    }

    #[test]
    fn all_streams_may_be_cancelled_at_once_a_few_times() {
        let mut budget = FloodBudget::new(0);
        for round in 0..3 {
            let streams = || (0..128).map(|i| 2 * (round * 128 + i) + 1);
            streams().for_each(|stream| budget.open(stream));
            streams().for_each(|stream| budget.reset(stream));
            assert!(!budget.is_exhausted(), "{round}");
        }
    }

    #[test]
    fn only_streams_that_are_reset_within_a_second_cost_credit() {
        let mut resets = ResetCredit::new(0);
        for n in 0..100_000_u32 {
            let (opened, stream) = (u64::from(n) * 2, 2 * n + 1);
            resets.open(stream, opened);
            // Each is reset 2.2 seconds later.
            if let Some(old) = n.checked_sub(1_100) {
                assert!(resets.allow(2 * old + 1, opened), "{n}");
            }
        }
    }

    #[test]
    fn a_few_cancelled_streams_a_second_are_no_flood() {
        let mut resets = ResetCredit::new(0);
        for n in 0..10_000_u32 {
            let now = u64::from(n) * 55;
            resets.open(2 * n + 1, now);
            assert!(resets.allow(2 * n + 1, now), "{n}");
        }
    }
}
