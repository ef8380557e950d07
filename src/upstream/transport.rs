//! How connections to the endpoints of a version are opened, beyond their addresses: the TLS settings.
//!
//! The [`Transport`] of a version may change at any time: with its configuration, and when files are renewed. Each has a
//! number, which connections keep, so that none that was opened by an earlier one carries another request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use super::tls::TlsClient;

/// How connections are opened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transport {
    /// Identifies the transport in this process. The default has 0.
    id: u64,
    /// TLS for `https://` endpoints; `None` stands for the system's authorities and no certificate.
    pub(super) tls: Option<Arc<TlsClient>>,
}

impl Transport {
    /// The number that connections opened by it keep.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    fn is_same(&self, tls: Option<&Arc<TlsClient>>) -> bool {
        self.tls.as_ref().map(Arc::as_ptr) == tls.map(Arc::as_ptr)
    }
}

/// The transport of a version. Written by the control thread.
#[derive(Debug, Default)]
pub(crate) struct TransportCell {
    /// The number of `current`, where workers read it for each connection that they take or keep.
    id: AtomicU64,
    current: ArcSwap<Transport>,
}

impl TransportCell {
    /// The number of the present transport.
    #[inline]
    pub(crate) fn id(&self) -> u64 {
        self.id.load(Ordering::Relaxed)
    }

    /// The present transport.
    pub(super) fn current(&self) -> Arc<Transport> {
        self.current.load_full()
    }

    /// Replaces the transport, unless it is the same.
    pub(super) fn set(&self, tls: Option<&Arc<TlsClient>>) {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        if self.current.load().is_same(tls) {
            return;
        }
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let next = Transport {
            id,
            tls: tls.cloned(),
        };
        // A connection that is opened in between has the new transport and its number, and at worst is not kept.
        self.current.store(Arc::new(next));
        self.id.store(id, Ordering::Relaxed);
    }
}
