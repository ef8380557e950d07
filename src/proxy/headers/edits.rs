//! Edits of one head, rendered: the fields that an encoder drops and adds beside those that it writes by itself.

use http::HeaderName;

use crate::snapshot::CompiledFields;
use crate::telemetry::trace::request::SentContext;

static X_FLAGS: HeaderName = HeaderName::from_static("x-flags");
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// Edits of the fields of one head, with their values.
#[derive(Debug, Default)]
pub struct RenderedFields<'a> {
    /// The fields that are dropped.
    compiled: Option<&'a CompiledFields>,
    /// Whether `x-forwarded-prefix` is dropped as well, because the proxy adds its own.
    has_prefix: bool,
    /// Whether `x-flags` is dropped as well, because the service has flags.
    has_flags: bool,
    /// Whether `traceparent` is dropped as well, because the proxy adds its own.
    has_trace: bool,
    /// Whether `tracestate` is dropped as well, because it belongs to a trace that isn't continued.
    drops_state: bool,
    /// The fields that are added.
    values: Vec<(&'a HeaderName, Vec<u8>)>,
}

impl<'a> RenderedFields<'a> {
    /// Compiled edits with the values of the fields that are added.
    pub(in crate::proxy) fn new(
        compiled: &'a CompiledFields,
        values: Vec<(&'a HeaderName, Vec<u8>)>,
    ) -> Self {
        Self {
            compiled: Some(compiled),
            values,
            ..Self::default()
        }
    }

    /// Adds `x-forwarded-prefix`, unless the edits are about that field themselves.
    pub(in crate::proxy) fn put_prefix(&mut self, prefix: Vec<u8>) {
        if !self.drops(X_FORWARDED_PREFIX.as_str().as_bytes()) {
            self.has_prefix = true;
            self.values.push((&X_FORWARDED_PREFIX, prefix));
        }
    }

    /// Replaces `x-flags` by this value, or drops it if the value is empty.
    pub(in crate::proxy) fn put_flags(&mut self, value: Vec<u8>) {
        self.has_flags = true;
        if !value.is_empty() {
            self.values.push((&X_FLAGS, value));
        }
    }

    /// Replaces `traceparent`, unless the edits are about that field themselves.
    pub(in crate::proxy) fn put_trace(&mut self, sent: &SentContext) {
        if !self.drops(TRACEPARENT.as_str().as_bytes()) {
            self.has_trace = true;
            self.drops_state = !sent.keeps_state;
            self.values.push((&TRACEPARENT, sent.traceparent.to_vec()));
        }
    }

    /// Whether the head's own fields of this name, in any case, are dropped.
    #[inline]
    pub fn drops(&self, name: &[u8]) -> bool {
        self.compiled.is_some_and(|compiled| compiled.drops(name))
            || (self.has_prefix
                && name.eq_ignore_ascii_case(X_FORWARDED_PREFIX.as_str().as_bytes()))
            || (self.has_flags && name.eq_ignore_ascii_case(X_FLAGS.as_str().as_bytes()))
            || (self.has_trace && name.eq_ignore_ascii_case(TRACEPARENT.as_str().as_bytes()))
            || (self.drops_state && name.eq_ignore_ascii_case(b"tracestate"))
    }

    /// The fields that are added.
    pub fn values(&self) -> impl Iterator<Item = (&HeaderName, &[u8])> {
        self.values.iter().map(|(name, value)| (*name, &value[..]))
    }
}

/// The changes of a request on its way to an endpoint.
#[derive(Debug, Default)]
pub struct RequestEdits<'a> {
    /// The path and query to send instead of the request's.
    pub target: Option<&'a [u8]>,
    /// The authority to send instead of the request's.
    pub authority: Option<&'a [u8]>,
    /// Edits of the fields.
    pub fields: Option<RenderedFields<'a>>,
}
