//! How much of its request bodies a client may send ahead.
//!
//! A stream whose body waits for an upstream keeps its window's worth of the connection's window. If all streams together could
//! keep all of that, the one that an upstream works on would starve, and no request would ever end. So the window of each is so small
//! that all of them fit into the connection's. Where few streams are open and one of them uploads much, theirs may be larger: a small
//! window bounds the rate to one window for each round trip.

use std::cell::Cell;

use h2::server::Connection;

use crate::proxy::h2_down::BULK;

/// A stream's window while many may be open.
const SMALL: u32 = BULK as u32;
/// A stream's window while few are open, one of them a bulk upload.
const LARGE: u32 = 256 * 1024;
/// The connection's window is at least this: eight large ones fit into it.
const LEAST: u32 = 2 * 1024 * 1024;
/// Up to this many open streams are few.
const FEW: usize = 8;
/// From this many on they are many. In between nothing changes, so that a client at the edge doesn't cost a SETTINGS frame for each request.
const MANY: usize = 32;

/// A connection's windows.
#[derive(Debug)]
pub(super) struct ReceiveWindows {
    /// What a connection announces of streams.
    pub stream: u32,
    /// The window of all of them together.
    pub connection: u32,
    set: Cell<u32>,
}

impl ReceiveWindows {
    /// Of a connection with at most `streams` streams.
    pub(super) fn new(streams: u32) -> Self {
        Self {
            stream: SMALL,
            connection: streams.saturating_mul(SMALL).clamp(LEAST, 1 << 30),
            set: Cell::new(SMALL),
        }
    }

    /// The stream window that fits, where it isn't the one that was announced last.
    fn fitting(&self, open: usize, bulk: usize) -> Option<u32> {
        match self.set.get() {
            SMALL if bulk > 0 && open <= FEW => Some(LARGE),
            LARGE if open >= MANY => Some(SMALL),
            _ => None,
        }
    }

    /// Announces the window that fits this many open streams, and bulk uploads among them; whether there is something to be sent.
    pub(super) fn fit<I, B>(
        &self,
        open: usize,
        bulk: usize,
        connection: &mut Connection<I, B>,
    ) -> bool
    where
        I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
        B: bytes::Buf,
    {
        let Some(size) = self.fitting(open, bulk) else {
            return false;
        };
        // Fails while the client has yet to acknowledge the last change: its acknowledgement leads here again.
        let announced = connection.set_initial_window_size(size).is_ok();
        if announced {
            self.set.set(size);
        }
        announced
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
        windows.set.set(LARGE);
        assert_eq!(windows.fitting(MANY - 1, 1), None);
        assert_eq!(windows.fitting(0, 0), None, "the next upload may follow");
        assert_eq!(windows.fitting(MANY, 0), Some(SMALL));
    }
}
