//! Receive windows: how much of its request bodies a client may send before they are consumed (RFC 9113 §5.2).
//!
//! A stream whose body waits for an upstream occupies up to a stream window of the connection's window. If blocked streams could
//! occupy all of it, a stream that an upstream is reading from would get no more data, and all would be stuck. So the stream
//! windows of all allowed streams fit into the connection window together. A small window limits an upload to one window per
//! round trip; while few streams are open and one of them uploads in bulk, the stream window is raised.

use std::cell::Cell;

use crate::http2::Core;
use crate::proxy::h2_down::BULK;

/// Default stream window.
const SMALL: u32 = BULK as u32;
/// Stream window while few streams are open and one of them is a bulk upload.
const LARGE: u32 = 256 * 1024;
/// Minimum of the connection window: [`FEW`] large stream windows fit into it.
const LEAST: u32 = 2 * 1024 * 1024;
/// At most this many open streams allow the large window.
const FEW: usize = 8;
/// From this many open streams on the window is lowered again. The gap between the two avoids a SETTINGS frame per request when
/// the number of streams hovers around a threshold.
const MANY: usize = 32;

/// One connection's receive windows.
#[derive(Debug)]
pub(super) struct ReceiveWindows {
    /// Initial stream window (SETTINGS_INITIAL_WINDOW_SIZE).
    pub stream: u32,
    /// Window of the connection as a whole.
    pub connection: u32,
    announced: Cell<u32>,
}

impl ReceiveWindows {
    /// Windows for a connection with at most `streams` concurrent streams.
    pub(super) fn new(streams: u32) -> Self {
        Self {
            stream: SMALL,
            connection: streams.saturating_mul(SMALL).clamp(LEAST, 1 << 30),
            announced: Cell::new(SMALL),
        }
    }

    /// The stream window to announce, if it differs from the last one.
    fn fitting(&self, open: usize, bulk: usize) -> Option<u32> {
        match self.announced.get() {
            SMALL if bulk > 0 && open <= FEW => Some(LARGE),
            LARGE if open >= MANY => Some(SMALL),
            _ => None,
        }
    }

    /// Announces another stream window if the numbers of open streams and of bulk uploads call for it.
    pub(super) fn fit(&self, open: usize, bulk: usize, core: &mut Core) {
        // Fails while the client has yet to acknowledge the last change. Its acknowledgement leads here again.
        if let Some(size) = self.fitting(open, bulk)
            && core.set_stream_window(size)
        {
            self.announced.set(size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_streams_may_send_ahead_fits_into_the_connections_window() {
        for streams in [1, 100, 128, 1_000, u32::MAX] {
            let windows = ReceiveWindows::new(streams);
            let all = u64::from(streams) * u64::from(windows.stream);
            assert!(
                all.min(1 << 30) <= u64::from(windows.connection),
                "{streams}"
            );
        }
        assert!(FEW as u32 * LARGE <= LEAST);
    }

    #[test]
    fn windows_grow_for_few_bulk_uploads_and_shrink_before_many_streams() {
        let windows = ReceiveWindows::new(128);
        assert_eq!(windows.fitting(1, 0), None, "no bulk upload");
        assert_eq!(windows.fitting(FEW + 1, 1), None, "too many streams");
        assert_eq!(windows.fitting(FEW, 1), Some(LARGE));
        windows.announced.set(LARGE);
        assert_eq!(windows.fitting(MANY - 1, 1), None);
        assert_eq!(windows.fitting(0, 0), None, "the next upload may follow");
        assert_eq!(windows.fitting(MANY, 0), Some(SMALL));
    }
}
