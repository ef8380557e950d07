//! What a client's frames cost: a budget that work refills and idle chatter uses up.
//!
//! The h2 crate bounds what it stores, and by itself refuses empty and tiny DATA frames and long chains of CONTINUATION frames.
//! What it answers without complaint is metered here, on the bytes as they pass: SETTINGS, PING, PRIORITY, WINDOW_UPDATE,
//! frames of unknown types, and streams that are opened and taken back.

use std::cell::Cell;
use std::rc::Rc;

use crate::net::Watches;
use crate::proxy::h2::Progress;

/// Frames about nothing that may come at once.
const BURST: i64 = 1_000;
/// Most that data can earn.
const MOST: i64 = 20_000;
/// Frames a second that may come on top.
const REFILL_PER_SECOND: i64 = 200;
/// Streams after which resets are counted anew.
const STREAMS: u32 = 500;
/// So many of them may be taken back.
const RESETS: u32 = 300;
/// Streams are counted anew after so long, too.
const WINDOW_MS: u64 = 30_000;
/// The length of the client's preface.
const PREFACE: usize = 24;
/// The length of a frame's head.
const HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// One connection's budget.
#[derive(Debug)]
pub(super) struct Meter {
    watches: Watches,
    progress: Progress,
    left: Cell<i64>,
    refilled_ms: Cell<u64>,
    over: Cell<bool>,
    opened: Cell<u32>,
    taken_back: Cell<u32>,
    counted_since_ms: Cell<u64>,
    inside: Cell<bool>,
    /// The connection was told that its budget is used up.
    pub cut: Cell<bool>,
    /// Our side of the connection was ended.
    pub ended: Cell<bool>,
}

impl Meter {
    /// A full one.
    pub fn new(watches: Watches, progress: Progress) -> Rc<Self> {
        let now = watches.now_ms();
        Rc::new(Self {
            watches,
            progress,
            left: Cell::new(BURST),
            refilled_ms: Cell::new(now),
            over: Cell::new(false),
            opened: Cell::new(0),
            taken_back: Cell::new(0),
            counted_since_ms: Cell::new(now),
            inside: Cell::new(false),
            cut: Cell::new(false),
            ended: Cell::new(false),
        })
    }

    /// The budget is used up: the connection has to end.
    pub fn is_over(&self) -> bool {
        self.over.get()
    }

    /// The last bytes ended inside a frame or a header block.
    pub fn is_inside(&self) -> bool {
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

    fn open(&self) {
        let now = self.watches.now_ms();
        if self.opened.get() >= STREAMS || now - self.counted_since_ms.get() > WINDOW_MS {
            self.opened.set(0);
            self.taken_back.set(0);
            self.counted_since_ms.set(now);
        }
        self.opened.set(self.opened.get() + 1);
    }

    fn take_back(&self) {
        self.taken_back.set(self.taken_back.get() + 1);
        if self.taken_back.get() > RESETS {
            self.over.set(true);
        }
    }
}

/// Finds the frames' heads in the bytes as they come.
#[derive(Debug)]
pub(super) struct Scan {
    meter: Rc<Meter>,
    skip: usize,
    head: [u8; HEAD],
    have: usize,
    newest: u32,
    block: bool,
}

impl Scan {
    /// Of a connection that begins with its preface.
    pub fn new(meter: Rc<Meter>) -> Self {
        Self {
            meter,
            skip: PREFACE,
            head: [0; HEAD],
            have: 0,
            newest: 0,
            block: false,
        }
    }

    /// The next bytes.
    pub fn see(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let n = (HEAD - self.have).min(bytes.len());
            self.head[self.have..self.have + n].copy_from_slice(&bytes[..n]);
            self.have += n;
            bytes = &bytes[n..];
            if self.have == HEAD {
                self.have = 0;
                self.frame();
            }
        }
        self.meter
            .inside
            .set(self.skip > 0 || self.have > 0 || self.block);
    }

    fn frame(&mut self) {
        let [a, b, c, kind, flags, id @ ..] = self.head;
        let len = u32::from_be_bytes([0, a, b, c]);
        let stream = u32::from_be_bytes(id) & 0x7fff_ffff;
        self.skip = len as usize;
        if matches!(kind, HEADERS | CONTINUATION) {
            self.block = flags & END_HEADERS == 0;
        }
        match kind {
            // The crate's own budgets see to empty and tiny ones.
            DATA if len > 0 || flags & END_STREAM != 0 => self.meter.earn(1),
            HEADERS if stream > self.newest => {
                self.newest = stream;
                self.meter.open();
                self.meter.earn(2);
            }
            HEADERS | GOAWAY => {}
            RST_STREAM => {
                self.meter.take_back();
                self.meter.charge();
            }
            _ => self.meter.charge(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter() -> (Rc<Meter>, Scan) {
        let meter = Meter::new(Watches::new(), Progress::default());
        let mut scan = Scan::new(meter.clone());
        scan.see(&[b'x'; PREFACE]);
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

    #[test]
    fn streams_that_are_taken_back_are_cut_within_600() {
        let (_meter, mut scan) = meter();
        let n = passed(&mut scan, 30, |i| {
            [frame(1, 2 * i + 1, b"head"), frame(3, 2 * i + 1, &[0; 4])].concat()
        });
        assert_eq!(n, RESETS + 1);
    }

    #[test]
    fn a_client_that_takes_every_second_one_back_is_served() {
        let (_meter, mut scan) = meter();
        let n = passed(&mut scan, 30, |i| {
            let head = frame(1, 2 * i + 1, b"head");
            match i % 2 {
                0 => head,
                _ => [head, frame(3, 2 * i + 1, &[0; 4])].concat(),
            }
        });
        assert_eq!(n, 100_000);
    }
}
