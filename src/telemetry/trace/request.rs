//! The trace of one request: its ids, and the start of each try.

use std::time::Instant;

use super::context::{SAMPLED, TraceContext, put_hex, traceparent};

/// The trace context that a request sends to an endpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SentContext {
    /// The value of `traceparent`.
    pub traceparent: [u8; super::context::TRACEPARENT_LEN],
    /// Whether the client's `tracestate` is passed on. It belongs to a trace that the client's `traceparent` identifies.
    pub keeps_state: bool,
}

/// The span of a try.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TrySpan {
    pub id: u64,
    pub began: Instant,
}

/// The ids of a request's spans.
#[derive(Debug)]
pub(crate) struct RequestTrace {
    /// The trace id of the client's context, or a new one.
    pub(crate) trace_id: u128,
    /// The client's span; 0 if the trace begins here.
    pub(crate) parent_id: u64,
    pub(crate) flags: u8,
    /// The span of the request as a whole.
    pub(crate) span_id: u64,
    /// The spans of the tries, in the order of the record, without a second one that is lost.
    tries: Vec<TrySpan>,
    /// The id of the second try, if the request is hedged.
    second_id: u64,
    /// The second try, if it didn't serve the request.
    lost_second: Option<TrySpan>,
}

impl RequestTrace {
    /// Continues the client's trace, or begins one if there is none to continue. `is_drawn`: a trace that begins here is
    /// sampled. `draw` returns random numbers.
    pub(crate) fn begin(
        client: Option<TraceContext>,
        is_drawn: bool,
        mut draw: impl FnMut() -> u64,
    ) -> Self {
        let mut id = || draw().max(1);
        let context = client.unwrap_or_else(|| TraceContext {
            trace_id: u128::from(id()) << 64 | u128::from(id()),
            parent_id: 0,
            flags: match is_drawn {
                true => SAMPLED,
                false => 0,
            },
        });
        Self {
            trace_id: context.trace_id,
            parent_id: context.parent_id,
            flags: context.flags,
            span_id: id(),
            tries: Vec::new(),
            second_id: id(),
            lost_second: None,
        }
    }

    /// Whether the trace was sampled when the request began: by its client, or by a draw if it begins here.
    pub(crate) fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The trace id in hexadecimal.
    pub(crate) fn id_text(&self) -> [u8; 32] {
        let mut text = [0; 32];
        put_hex(&mut text, self.trace_id);
        text
    }

    /// Starts the span of a try.
    pub(crate) fn begin_try(&mut self, id: u64, began: Instant) {
        let id = id.max(1);
        self.tries.push(TrySpan { id, began });
    }

    /// Makes the span of the second try the current one, which [`Self::begin_try`] has just started.
    pub(crate) fn enter_second(&mut self, began: Instant) {
        let id = self.second_id;
        if let Some(last) = self.tries.last_mut() {
            *last = TrySpan { id, began };
        }
    }

    /// Records that the second try doesn't serve the request.
    pub(crate) fn lose_second(&mut self, began: Instant) {
        let id = self.second_id;
        self.lost_second = Some(TrySpan { id, began });
    }

    /// The context that the current try sends.
    pub(crate) fn sent(&self) -> SentContext {
        self.sent_by(self.tries.last().map_or(self.span_id, |last| last.id))
    }

    /// The context that the second try sends.
    pub(crate) fn sent_by_second(&self) -> SentContext {
        self.sent_by(self.second_id)
    }

    fn sent_by(&self, span_id: u64) -> SentContext {
        SentContext {
            traceparent: traceparent(self.trace_id, span_id, self.flags),
            keeps_state: self.parent_id != 0,
        }
    }

    /// The spans of the tries, in the order of [`RequestRecord::tries`](crate::telemetry::record::RequestRecord::tries).
    pub(super) fn tries(&self) -> impl Iterator<Item = TrySpan> {
        self.tries.iter().chain(&self.lost_second).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers() -> impl FnMut() -> u64 {
        let mut last = 0;
        move || {
            last += 1;
            last
        }
    }

    #[test]
    fn a_client_decides_about_its_trace_and_a_draw_about_others() {
        let client = TraceContext {
            trace_id: 7,
            parent_id: 8,
            flags: 0,
        };
        let continued = RequestTrace::begin(Some(client), true, numbers());
        assert_eq!((continued.trace_id, continued.parent_id), (7, 8));
        assert!(!continued.is_sampled() && continued.sent().keeps_state);
        let begun = RequestTrace::begin(None, true, numbers());
        assert!(begun.is_sampled() && !begun.sent().keeps_state);
        assert_eq!(begun.trace_id, 1 << 64 | 2);
        assert!(!RequestTrace::begin(None, false, numbers()).is_sampled());
        assert_eq!(RequestTrace::begin(None, false, || 0).span_id, 1);
    }

    #[test]
    fn each_try_has_a_span_of_its_own() {
        let now = Instant::now();
        let mut trace = RequestTrace::begin(None, true, numbers());
        let text = |sent: SentContext| String::from_utf8_lossy(&sent.traceparent).into_owned();
        let mut seen = vec![text(trace.sent()), text(trace.sent_by_second())];
        trace.begin_try(100, now);
        seen.push(text(trace.sent()));
        trace.begin_try(101, now);
        seen.push(text(trace.sent()));
        let (all, trace_part) = (seen.len(), seen[0][..36].to_owned());
        assert!(seen.iter().all(|value| value.starts_with(&trace_part)));
        seen.dedup();
        assert_eq!(seen.len(), all);
        trace.begin_try(102, now);
        trace.enter_second(now);
        assert_eq!(text(trace.sent()), text(trace.sent_by_second()));
        trace.lose_second(now);
        assert_eq!(trace.tries().count(), 4);
    }
}
