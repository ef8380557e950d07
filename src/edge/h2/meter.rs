//! What a client's frames cost: a budget that work refills and idle chatter uses up.
//!
//! The h2 crate bounds what it stores, and by itself refuses empty and tiny DATA frames and long chains of CONTINUATION frames.
//! What it answers without complaint is metered here, on the bytes as they pass: SETTINGS, PING, PRIORITY, WINDOW_UPDATE,
//! frames of unknown types, and streams that are opened and taken back.

use std::cell::Cell;
use std::rc::Rc;

use crate::http2::{Flaws, Frame, Inspector, SenderRole, kind};
use crate::net::TaskControls;
use crate::proxy::h2::FrameAllowance;

/// Frames about nothing that may come at once.
const BURST: i64 = 1_000;
/// Most that data can earn.
const MOST: i64 = 20_000;
/// Frames a second that may come on top.
const REFILL_PER_SECOND: i64 = 200;
/// Streams that a client may cancel before any of its requests was of use: more than a few pages' worth of concurrent streams.
const CREDIT: i64 = 400;
/// Most credit that streams without a reset can earn. A flood after long honest use is still cut within 600 streams.
const MOST_CREDIT: i64 = CREDIT + 128;
/// Credit that a second brings: cancelled streams at this rate are no flood.
const CREDIT_PER_SECOND: i64 = 20;
/// A stream that is reset within this time is cancelled as soon as begun, which is what a flood of resets (CVE-2023-44487) consists of.
const RAPID_MS: u64 = 1_000;
/// Resets for which the client is to blame, by their codes: PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR. A client
/// that makes us send them cancels work no less than by a reset of its own (CVE-2025-8671).
const PROVOKED: [u32; 4] = [0x1, 0x3, 0x5, 0x6];
/// REFUSED_STREAM. A client that doesn't know the limit yet may earn it; its stream was of no use, but did no harm either.
const REFUSED: u32 = 0x7;

/// The length of a frame's head.
const HEAD: usize = 9;

/// One connection's budget.
#[derive(Debug)]
pub(super) struct Meter {
    watches: TaskControls,
    progress: FrameAllowance,
    left: Cell<i64>,
    refilled_ms: Cell<u64>,
    over: Cell<bool>,
    resets: Resets,
    inside: Cell<bool>,
    /// The connection was told that its budget is used up.
    pub cut: Cell<bool>,
    /// Our side of the connection was ended.
    pub ended: Cell<bool>,
}

impl Meter {
    /// A full one.
    pub(super) fn new(watches: TaskControls, progress: FrameAllowance) -> Rc<Self> {
        let now = watches.now_ms();
        Rc::new(Self {
            watches,
            progress,
            left: Cell::new(BURST),
            refilled_ms: Cell::new(now),
            over: Cell::new(false),
            resets: Resets::new(now),
            inside: Cell::new(false),
            cut: Cell::new(false),
            ended: Cell::new(false),
        })
    }

    /// The budget is used up: the connection has to end.
    pub(super) fn is_over(&self) -> bool {
        self.over.get()
    }

    /// The last bytes ended inside a frame or a header block.
    pub(super) fn is_inside(&self) -> bool {
        self.inside.get()
    }

    fn charge(&self) {
        self.left.set(self.left.get() - 1);
        if self.left.get() > 0 {
            return;
        }
        let earned = self.progress.take().min(MOST as u64) as i64;
        let now = self.watches.now_ms();
        let waited = (now - self.refilled_ms.get()).min(BURST as u64 * 1_000) as i64;
        let given = (waited * REFILL_PER_SECOND / 1_000).min(BURST);
        self.refilled_ms.set(now);
        self.left.set(earned + given);
        if earned + given == 0 {
            self.over.set(true);
        }
    }

    fn earn(&self, frames: i64) {
        self.left.set((self.left.get() + frames).min(MOST));
    }

    /// A stream was reset, by the client or because of what it sent.
    fn reset(&self, stream: u32) {
        if !self.resets.allow(stream, self.watches.now_ms()) {
            self.over.set(true);
        }
    }

    /// Whether any stream was reset by the client, or because of what it sent.
    pub(super) fn has_resets(&self) -> bool {
        self.resets.any.get()
    }

    fn see(&self, frame: Frame) {
        match frame.kind {
            // The crate's own budgets see to empty and tiny ones.
            kind::DATA if frame.len > 0 || frame.ends_stream() => self.earn(1),
            kind::HEADERS if frame.opens => {
                self.resets.open(frame.stream, self.watches.now_ms());
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

/// Counts cancelled streams against those that were not.
#[derive(Debug)]
struct Resets {
    credit: Cell<i64>,
    credited_ms: Cell<u64>,
    newest: Cell<u32>,
    /// Streams up to this one are older than [`RAPID_MS`]; up to `next_aged`, from `aged_ms` + [`RAPID_MS`] on.
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

    /// Remembers every [`RAPID_MS`] which streams there were: their ages are known to that precision.
    fn age(&self, now_ms: u64) {
        let since = now_ms.saturating_sub(self.aged_ms.get());
        if since < RAPID_MS {
            return;
        }
        let next = self.next_aged.replace(self.newest.get());
        // After twice the time without a call even the newest is old enough.
        let all = since >= 2 * RAPID_MS;
        self.aged.set(if all { self.newest.get() } else { next });
        self.aged_ms.set(now_ms);
    }

    /// A stream wasn't begun: it earns nothing.
    fn refuse(&self) {
        self.credit.set(self.credit.get() - 1);
    }

    /// Whether one more reset is within bounds. It takes back what its stream has earned, and as much again if it came rapidly.
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

/// Looks at the bytes as they come.
#[derive(Debug)]
pub(super) struct Scan {
    meter: Rc<Meter>,
    inspector: Inspector,
}

impl Scan {
    /// Of a connection that begins with its preface; `flaws` are what is found wrong with its streams.
    pub(super) fn new(meter: Rc<Meter>, flaws: Flaws) -> Self {
        Self {
            meter,
            inspector: Inspector::new(SenderRole::Client, flaws),
        }
    }

    /// The next bytes.
    pub(super) fn see(&mut self, bytes: &[u8]) {
        let meter = &self.meter;
        if self.inspector.see(bytes, |frame| meter.see(frame)).is_err() {
            // What can't be checked is not served.
            meter.over.set(true);
        }
        meter.inside.set(self.inspector.is_inside());
    }
}

/// Looks at the bytes that leave, for the resets among them.
#[derive(Debug)]
pub(super) struct Sent {
    meter: Rc<Meter>,
    skip: usize,
    /// A frame's head, and of a reset its code.
    head: [u8; HEAD + 4],
    have: usize,
}

impl Sent {
    /// From a connection's first byte.
    pub(super) fn new(meter: Rc<Meter>) -> Self {
        Self {
            meter,
            skip: 0,
            head: [0; HEAD + 4],
            have: 0,
        }
    }

    /// The next bytes.
    pub(super) fn see(&mut self, mut bytes: &[u8]) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return;
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
        let [a, b, c, kind, _, i, j, k, l, code @ ..] = self.head;
        if kind != kind::RST_STREAM {
            self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn meter() -> (Rc<Meter>, Scan) {
        let meter = Meter::new(TaskControls::new(), FrameAllowance::default());
        let mut scan = Scan::new(meter.clone(), Flaws::default());
        scan.see(&[b'x'; 24]);
        (meter, scan)
    }

    fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, payload.len() as u8, kind, 0];
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    /// How many of these frames pass, cut into pieces of `piece` bytes.
    fn passed(scan: &mut Scan, piece: usize, mut frames: impl FnMut(u32) -> Vec<u8>) -> u32 {
        for i in 0..100_000 {
            if scan.meter.is_over() {
                return i;
            }
            frames(i).chunks(piece).for_each(|bytes| scan.see(bytes));
        }
        100_000
    }

    #[test]
    fn chatter_without_work_is_cut() {
        for kind in [2, 4, 6, 8, 99] {
            for piece in [1, 7, 100] {
                let (_meter, mut scan) = meter();
                let n = passed(&mut scan, piece, |_| frame(kind, 0, &[1; 8]));
                assert_eq!(n, BURST as u32, "{kind} {piece}");
            }
        }
    }

    #[test]
    fn chatter_about_work_is_not() {
        let (meter, mut scan) = meter();
        let n = passed(&mut scan, 50, |_| {
            // What was sent, and what the client says about it.
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
    fn streams_that_are_taken_back_are_cut_within_600() {
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

    fn passed_up_to(scan: &mut Scan, most: u32, mut frames: impl FnMut(u32) -> Vec<u8>) -> u32 {
        (0..most)
            .take_while(|i| {
                scan.see(&frames(*i));
                !scan.meter.is_over()
            })
            .count() as u32
    }

    #[test]
    fn a_client_that_takes_every_second_one_back_is_served() {
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
            streams().for_each(|stream| scan.see(&open(stream)));
            streams().for_each(|stream| scan.see(&reset(stream)));
            assert!(!meter.is_over(), "{round}");
        }
    }

    #[test]
    fn resets_that_a_client_provokes_count_as_its_own() {
        let (meter, mut scan) = meter();
        let mut sent = Sent::new(meter.clone());
        let n = passed(&mut scan, 30, |i| {
            let stream = 2 * i + 1;
            if i % 2 == 0 {
                return [open(stream), reset(stream)].concat();
            }
            let frames = [frame(0, stream, b"data"), frame(3, stream, &[0, 0, 0, 1])].concat();
            frames.chunks(3).for_each(|bytes| sent.see(bytes));
            open(stream)
        });
        assert!((300..600).contains(&n), "{n}");
        // Refusals of ours, early answers and failures of upstreams are not the client's.
        let (meter, _) = self::meter();
        let mut sent = Sent::new(meter.clone());
        for code in [0, 2, 8] {
            (0..1_000).for_each(|i| sent.see(&frame(3, 2 * i + 1, &[0, 0, 0, code])));
        }
        assert!(!meter.is_over() && !meter.has_resets());
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
