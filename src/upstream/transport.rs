//! Settings for opening connections to the endpoints of a version, beyond their addresses: TLS, and the header of the
//! PROXY protocol.
//!
//! The [`Transport`] of a version may change at any time: with its configuration, and when files are renewed. Each has a
//! number, which connections keep, so that none that was opened by an earlier one carries another request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use super::tls::TlsClient;
use crate::config::spec::ProxyProtocol;

/// The number of a transport, which each connection that it opens keeps. The default belongs to a version without settings
/// of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransportId(u64);

impl TransportId {
    /// Set if connections belong to one client each, because they begin with a header that names it.
    const EXCLUSIVE: u64 = 1;

    fn new(is_exclusive: bool) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed) << 1;
        Self(number | if is_exclusive { Self::EXCLUSIVE } else { 0 })
    }

    /// Whether a connection may carry the requests of one client only.
    #[inline]
    pub(crate) fn is_exclusive(self) -> bool {
        self.0 & Self::EXCLUSIVE != 0
    }
}

/// Settings for opening connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transport {
    /// Number that identifies the transport in this process.
    id: TransportId,
    /// TLS for `https://` endpoints; `None` stands for the system's authorities and no certificate.
    pub(super) tls: Option<Arc<TlsClient>>,
    /// The header with which connections begin.
    pub(super) proxy_protocol: Option<ProxyProtocol>,
}

impl Transport {
    /// The number that connections opened by this transport keep.
    pub(crate) fn id(&self) -> TransportId {
        self.id
    }

    fn is_same(&self, tls: Option<&Arc<TlsClient>>, header: Option<ProxyProtocol>) -> bool {
        self.proxy_protocol == header && self.tls.as_ref().map(Arc::as_ptr) == tls.map(Arc::as_ptr)
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
    pub(crate) fn id(&self) -> TransportId {
        TransportId(self.id.load(Ordering::Relaxed))
    }

    /// The present transport.
    pub(super) fn current(&self) -> Arc<Transport> {
        self.current.load_full()
    }

    /// Replaces the transport, unless it is the same.
    pub(super) fn set(&self, tls: Option<&Arc<TlsClient>>, header: Option<ProxyProtocol>) {
        if self.current.load().is_same(tls, header) {
            return;
        }
        let id = TransportId::new(header.is_some());
        let next = Transport {
            id,
            tls: tls.cloned(),
            proxy_protocol: header,
        };
        // A connection that is opened in between has the new transport and its number, and at worst is not kept.
        self.current.store(Arc::new(next));
        self.id.store(id.0, Ordering::Relaxed);
    }
}
