//! Host and path to a service: the most specific wins.

use crate::config::spec;

/// Where a host and path lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Index into the services.
    pub service: usize,
    /// Index into the service's versions, where the host is a preview host.
    pub preview: Option<usize>,
}

/// The compiled table.
#[derive(Debug, Default)]
pub struct Table {}

impl Table {
    /// Compiles the routes of all services (they don't conflict: the configuration was checked).
    pub fn new(services: &[spec::Service]) -> Self {
        let _ = services;
        Self {}
    }

    /// The most specific route: exact host, then the longest wildcard host, then any host; within a host exact path,
    /// then the longest prefix. A host's table without a fitting path falls through to the next less specific host.
    pub fn find(&self, host: &str, path: &[u8]) -> Option<Found> {
        let _ = (host, path);
        None
    }
}
