//! Limits the frames that a client may send without doing useful work.
//!
//! The h2 crate bounds what it stores, and rejects floods of empty DATA frames and of CONTINUATION frames by itself. Frames that
//! it accepts in any number are metered here, on the bytes as they pass: SETTINGS, PING, PRIORITY, WINDOW_UPDATE and unknown
//! types use up a frame budget, which requests and data refill. Streams that are opened and reset (CVE-2023-44487) have a
//! credit of their own. When either is exhausted the driver closes the connection with ENHANCE_YOUR_CALM.

use std::cell::Cell;
use std::rc::Rc;

use crate::http2::{Flaws, Frame, Inspector, SenderRole, kind};
use crate::net::TaskControls;
use crate::proxy::h2::FrameAllowance;

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
/// Codes of resets sent by us that the client has caused: PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR
/// (RFC 9113 §7). They cancel work like the client's own resets do (CVE-2025-8671).
const PROVOKED: [u32; 4] = [0x1, 0x3, 0x5, 0x6];
/// REFUSED_STREAM. Not counted as a reset: a client that doesn't know our limit yet does no harm by exceeding it.
const REFUSED: u32 = 0x7;

/// Length of a frame header (RFC 9113 §4.1).
const HEAD: usize = 9;

/// One connection's frame budget and reset credit.
#[derive(Debug)]
pub(super) struct Meter {
    controls: TaskControls,
    progress: FrameAllowance,
    budget: Cell<i64>,
    refilled_ms: Cell<u64>,
    exhausted: Cell<bool>,
    resets: Resets,
    mid_frame: Cell<bool>,
    /// The driver has sent the GOAWAY for an exhausted budget.
    pub goaway_sent: Cell<bool>,
    /// Our side of the connection is closed.
    pub write_closed: Cell<bool>,
}

impl Meter {
    /// A meter with a full budget. `progress` counts the frames that our own sending allows the client to answer with.
    pub(super) fn new(controls: TaskControls, progress: FrameAllowance) -> Rc<Self> {
        let now = controls.now_ms();
        Rc::new(Self {
            controls,
            progress,
            budget: Cell::new(BURST),
            refilled_ms: Cell::new(now),
            exhausted: Cell::new(false),
            resets: Resets::new(now),
            mid_frame: Cell::new(false),
            goaway_sent: Cell::new(false),
            write_closed: Cell::new(false),
        })
    }

    /// Whether budget or credit is exhausted, so that the connection has to be closed.
    pub(super) fn is_exhausted(&self) -> bool {
        self.exhausted.get()
    }

    /// Whether the client has sent only part of a frame or of a header block.
    pub(super) fn is_mid_frame(&self) -> bool {
        self.mid_frame.get()
    }

    /// Takes one frame from the budget. What was earned by sending and by time is added only when the budget has run out, which
    /// keeps the common case to one subtraction.
    fn charge(&self) {
        self.budget.set(self.budget.get() - 1);
        if self.budget.get() > 0 {
            return;
        }
        let earned = self.progress.take().min(MOST as u64) as i64;
        let now = self.controls.now_ms();
        let waited = (now - self.refilled_ms.get()).min(BURST as u64 * 1_000) as i64;
        let given = (waited * REFILL_PER_SECOND / 1_000).min(BURST);
        self.refilled_ms.set(now);
        self.budget.set(earned + given);
        if earned + given == 0 {
            self.exhausted.set(true);
        }
    }

    fn earn(&self, frames: i64) {
        self.budget.set((self.budget.get() + frames).min(MOST));
    }

    /// Accounts for a reset sent or provoked by the client.
    fn reset(&self, stream: u32) {
        if !self.resets.allow(stream, self.controls.now_ms()) {
            self.exhausted.set(true);
        }
    }

    /// Whether the client has sent or provoked any reset.
    pub(super) fn has_resets(&self) -> bool {
        self.resets.any.get()
    }

    fn account(&self, frame: Frame) {
        match frame.kind {
            // The h2 crate limits empty and tiny DATA frames by itself.
            kind::DATA if frame.len > 0 || frame.ends_stream() => self.earn(1),
            kind::HEADERS if frame.opens => {
                self.resets.open(frame.stream, self.controls.now_ms());
                self.earn(2);
            }
            kind::HEADERS | kind::GOAWAY => {}
            kind::RST_STREAM => {
                self.reset(frame.stream);
                self.charge();
            }
            _ => self.charge(),
        }
    }
}

/// The reset credit: opening a stream earns one, a reset costs one, and a rapid reset two.
#[derive(Debug)]
struct Resets {
    credit: Cell<i64>,
    credited_ms: Cell<u64>,
    newest: Cell<u32>,
    /// Streams up to this id are older than [`RAPID_MS`]. At `aged_ms` + [`RAPID_MS`] those up to `next_aged` will be. So the age
    /// of a stream is known to about a second without a timestamp for each.
    aged: Cell<u32>,
    next_aged: Cell<u32>,
    aged_ms: Cell<u64>,
    any: Cell<bool>,
}

impl Resets {
    fn new(now_ms: u64) -> Self {
        Self {
            credit: Cell::new(CREDIT),
            credited_ms: Cell::new(now_ms),
            newest: Cell::new(0),
            aged: Cell::new(0),
            next_aged: Cell::new(0),
            aged_ms: Cell::new(now_ms),
            any: Cell::new(false),
        }
    }

    fn open(&self, stream: u32, now_ms: u64) {
        self.age(now_ms);
        self.newest.set(stream);
        self.credit.set((self.credit.get() + 1).min(MOST_CREDIT));
    }

    /// Advances `aged` and `next_aged`, once every [`RAPID_MS`].
    fn age(&self, now_ms: u64) {
        let since = now_ms.saturating_sub(self.aged_ms.get());
        if since < RAPID_MS {
            return;
        }
        let next = self.next_aged.replace(self.newest.get());
        // If nothing was opened or reset for twice that time, even the newest stream is old enough.
        let all = since >= 2 * RAPID_MS;
        self.aged.set(if all { self.newest.get() } else { next });
        self.aged_ms.set(now_ms);
    }

    /// Takes back what a refused stream has earned.
    fn refuse(&self) {
        self.credit.set(self.credit.get() - 1);
    }

    /// Charges a reset and returns whether credit is left. Credit regained over time is added only once it has run out.
    fn allow(&self, stream: u32, now_ms: u64) -> bool {
        self.any.set(true);
        self.age(now_ms);
        let cost = if stream > self.aged.get() { 2 } else { 1 };
        self.credit.set(self.credit.get() - cost);
        if self.credit.get() <= 0 {
            let waited = now_ms.saturating_sub(self.credited_ms.replace(now_ms));
            let given = (waited.min(60_000) as i64 * CREDIT_PER_SECOND / 1_000).min(CREDIT);
            self.credit.set(self.credit.get() + given);
        }
        self.credit.get() > 0
    }
}

/// Parses the frames that the client sends, for the meter.
#[derive(Debug)]
pub(super) struct InboundScan {
    meter: Rc<Meter>,
    inspector: Inspector,
}

impl InboundScan {
    /// Begins with the client's connection preface. Flaws of request heads are reported to `flaws`.
    pub(super) fn new(meter: Rc<Meter>, flaws: Flaws) -> Self {
        Self {
            meter,
            inspector: Inspector::new(SenderRole::Client, flaws),
        }
    }

    /// Scans the next bytes received.
    pub(super) fn scan(&mut self, bytes: &[u8]) {
        let meter = &self.meter;
        if self
            .inspector
            .see(bytes, |frame| meter.account(frame))
            .is_err()
        {
            // Frames that can't be inspected must not bypass the meter.
            meter.exhausted.set(true);
        }
        meter.mid_frame.set(self.inspector.is_inside());
    }
}

/// Parses the frames that we send, for the resets among them.
#[derive(Debug)]
pub(super) struct OutboundScan {
    meter: Rc<Meter>,
    skip: usize,
    /// A frame header, followed by the error code if the frame is RST_STREAM.
    head: [u8; HEAD + 4],
    have: usize,
}

impl OutboundScan {
    /// Begins with the first byte sent on the connection.
    pub(super) fn new(meter: Rc<Meter>) -> Self {
        Self {
            meter,
            skip: 0,
            head: [0; HEAD + 4],
            have: 0,
        }
    }

    /// Scans the next bytes sent.
    pub(super) fn scan(&mut self, mut bytes: &[u8]) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return;
            }
            // The usual case, without a copy of the header: all of it is there, and no error code follows.
            if self.have == 0
                && let Some((head, rest)) = bytes.split_first_chunk::<HEAD>()
                && head[3] != kind::RST_STREAM
            {
                self.skip = payload_len(head);
                bytes = rest;
                continue;
            }
            let want = if self.have < HEAD {
                HEAD
            } else {
                self.head.len()
            };
            let n = (want - self.have).min(bytes.len());
            self.head[self.have..self.have + n].copy_from_slice(&bytes[..n]);
            self.have += n;
            bytes = &bytes[n..];
            if self.have == want {
                self.frame();
            }
        }
    }

    fn frame(&mut self) {
        let [_, _, _, kind, _, i, j, k, l, code @ ..] = self.head;
        if kind != kind::RST_STREAM {
            self.skip = payload_len(&self.head);
            self.have = 0;
        } else if self.have == self.head.len() {
            self.have = 0;
            match u32::from_be_bytes(code) {
                REFUSED => self.meter.resets.refuse(),
                code if PROVOKED.contains(&code) => {
                    self.meter.reset(u32::from_be_bytes([i, j, k, l]));
                }
                _ => {}
            }
        }
    }
}

/// The length of a frame's payload, the first 24 bits of its header (RFC 9113 §4.1).
fn payload_len(head: &[u8]) -> usize {
    u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter() -> (Rc<Meter>, InboundScan) {
        let meter = Meter::new(TaskControls::new(), FrameAllowance::default());
        let mut scan = InboundScan::new(meter.clone(), Flaws::default());
        scan.scan(&[b'x'; 24]);
        (meter, scan)
    }

    fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, payload.len() as u8, kind, 0];
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    /// How many of these frames pass, cut into pieces of `piece` bytes.
    fn passed(scan: &mut InboundScan, piece: usize, mut frames: impl FnMut(u32) -> Vec<u8>) -> u32 {
        for i in 0..100_000 {
            if scan.meter.is_exhausted() {
                return i;
            }
            frames(i).chunks(piece).for_each(|bytes| scan.scan(bytes));
        }
        100_000
    }

    #[test]
    fn control_frames_without_work_exhaust_the_budget() {
        for kind in [2, 4, 6, 8, 99] {
            for piece in [1, 7, 100] {
                let (_meter, mut scan) = meter();
                let n = passed(&mut scan, piece, |_| frame(kind, 0, &[1; 8]));
                assert_eq!(n, BURST as u32, "{kind} {piece}");
            }
        }
    }

    #[test]
    fn control_frames_that_accompany_work_do_not() {
        let (meter, mut scan) = meter();
        let n = passed(&mut scan, 50, |_| {
            // What was sent, and how the client acknowledges it.
            meter.progress.set(meter.progress.get() + 4);
            [frame(8, 0, &[1; 4]), frame(8, 1, &[1; 4])].concat()
        });
        assert_eq!(n, 100_000);
        let n = passed(&mut scan, 50, |_| {
            [frame(0, 1, b"data"), frame(6, 0, &[1; 8])].concat()
        });
        assert_eq!(n, 100_000);
    }

    /// A header block: `:method: GET`.
    const GET: &[u8] = &[0x82];

    fn open(stream: u32) -> Vec<u8> {
        let mut bytes = frame(1, stream, GET);
        bytes[4] = 0x5;
        bytes
    }

    fn reset(stream: u32) -> Vec<u8> {
        frame(3, stream, &[0; 4])
    }

    #[test]
    fn a_flood_of_resets_is_cut_within_600_streams() {
        for honest in [0, 10_000] {
            let (_meter, mut scan) = meter();
            let served = passed_up_to(&mut scan, honest, |i| open(2 * i + 1));
            assert_eq!(served, honest);
            let n = passed(&mut scan, 30, |i| {
                let stream = 2 * (honest + i) + 1;
                [open(stream), reset(stream)].concat()
            });
            assert!((300..600).contains(&n), "{n} after {honest}");
        }
    }

    fn passed_up_to(
        scan: &mut InboundScan,
        most: u32,
        mut frames: impl FnMut(u32) -> Vec<u8>,
    ) -> u32 {
        (0..most)
            .take_while(|i| {
                scan.scan(&frames(*i));
                !scan.meter.is_exhausted()
            })
            .count() as u32
    }

    #[test]
    fn a_client_that_resets_every_second_stream_is_served() {
        let (_meter, mut scan) = meter();
        let n = passed(&mut scan, 30, |i| {
            let stream = 2 * i + 1;
            match i % 2 {
                0 => open(stream),
                _ => [open(stream), reset(stream)].concat(),
            }
        });
        assert_eq!(n, 100_000);
    }

    #[test]
    fn all_streams_may_be_cancelled_at_once_a_few_times() {
        let (meter, mut scan) = meter();
        for round in 0..3 {
            let streams = || (0..128).map(|i| 2 * (round * 128 + i) + 1);
            streams().for_each(|stream| scan.scan(&open(stream)));
            streams().for_each(|stream| scan.scan(&reset(stream)));
            assert!(!meter.is_exhausted(), "{round}");
        }
    }

    #[test]
    fn resets_that_a_client_provokes_count_as_its_own() {
        let (meter, mut scan) = meter();
        let mut outbound = OutboundScan::new(meter.clone());
        let n = passed(&mut scan, 30, |i| {
            let stream = 2 * i + 1;
            if i % 2 == 0 {
                return [open(stream), reset(stream)].concat();
            }
            let frames = [frame(0, stream, b"data"), frame(3, stream, &[0, 0, 0, 1])].concat();
            frames.chunks(3).for_each(|bytes| outbound.scan(bytes));
            open(stream)
        });
        assert!((300..600).contains(&n), "{n}");
        // Refusals of ours, early answers and failures of upstreams are not the client's.
        let (meter, _) = self::meter();
        let mut outbound = OutboundScan::new(meter.clone());
        for code in [0, 2, 8] {
            (0..1_000).for_each(|i| outbound.scan(&frame(3, 2 * i + 1, &[0, 0, 0, code])));
        }
        assert!(!meter.is_exhausted() && !meter.has_resets());
    }

    #[test]
    fn only_streams_that_are_reset_within_a_second_cost_credit() {
        let resets = Resets::new(0);
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
        let resets = Resets::new(0);
        for n in 0..10_000_u32 {
            let now = u64::from(n) * 55;
            resets.open(2 * n + 1, now);
            assert!(resets.allow(2 * n + 1, now), "{n}");
        }
    }
}
