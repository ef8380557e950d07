//! A receiver of spans by OTLP over HTTP. Its messages are declared from the published definitions, apart from those of the proxy.

use std::collections::BTreeMap;

use prost::{Message as _, Oneof};

use super::origin::{Conn, Origin};
use super::until;
use super::wire::Message;

#[derive(Clone, PartialEq, prost::Message)]
struct ExportTraceServiceRequest {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<WireSpan>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireSpan {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    trace_state: String,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AnyValue {
    #[prost(oneof = "Value", tags = "1, 2, 3, 4")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Value {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Flag(bool),
    #[prost(int64, tag = "3")]
    Whole(i64),
    #[prost(double, tag = "4")]
    Fraction(f64),
}

/// A span as a test looks at it: ids in hexadecimal, attributes as text.
#[derive(Clone, Debug, PartialEq)]
pub struct ReceivedSpan {
    pub trace: String,
    pub id: String,
    /// Empty if it has none.
    pub parent: String,
    pub state: String,
    pub name: String,
    /// 2 for a server, 3 for a client.
    pub kind: i32,
    /// Nanoseconds since the epoch.
    pub time: (u64, u64),
    pub attributes: BTreeMap<String, String>,
    pub failed: bool,
    pub flags: u32,
}

impl ReceivedSpan {
    /// An attribute; empty if it has none of the name.
    pub fn get(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }
}

/// A receiver; ends with its value.
pub struct Receiver(Origin);

impl Receiver {
    /// Takes everything.
    pub fn start() -> Self {
        Self::each(|_, conn| conn.reply(200, ""))
    }

    /// Answers each request as this says.
    pub fn each(
        answer: impl Fn(&Message, &mut Conn) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self(Origin::each(answer))
    }

    /// The table of a proxy that exports to it, with more keys.
    pub fn table(&self, more: &str) -> String {
        format!("[trace]\notlp = \"http://{}\"\n{more}\n", self.0.at())
    }

    /// The requests up to now.
    pub fn requests(&self) -> Vec<Message> {
        self.0.requests()
    }

    /// The spans up to now.
    pub fn spans(&self) -> Vec<ReceivedSpan> {
        self.requests().iter().flat_map(spans).collect()
    }

    /// Waits until `count` spans have arrived, and returns them. Fails if there are more.
    #[track_caller]
    pub fn wait(&self, count: usize) -> Vec<ReceivedSpan> {
        let spans = until(&format!("{count} spans"), || {
            Some(self.spans()).filter(|spans| spans.len() >= count)
        });
        assert_eq!(spans.len(), count, "{spans:#?}");
        spans
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: AnyValue| match value.value.expect("a value") {
        Value::Text(text) => text,
        Value::Flag(flag) => flag.to_string(),
        Value::Whole(number) => number.to_string(),
        Value::Fraction(number) => number.to_string(),
    };
    let pairs = attributes.into_iter();
    pairs
        .map(|a| (a.key, text(a.value.expect("a value"))))
        .collect()
}

/// The spans of a request to the receiver.
fn spans(message: &Message) -> Vec<ReceivedSpan> {
    assert!(message.target().ends_with("/v1/traces"));
    let kind = message.field("content-type");
    assert_eq!(kind.as_deref(), Some("application/x-protobuf"));
    let request = ExportTraceServiceRequest::decode(&message.body[..]).expect("protobuf");
    let mut found = Vec::new();
    for of_resource in request.resource_spans {
        let resource = texts(of_resource.resource.expect("a resource").attributes);
        assert_eq!(resource["service.name"], "cutover");
        for span in of_resource.scope_spans.into_iter().flat_map(|s| s.spans) {
            assert_eq!((span.trace_id.len(), span.span_id.len()), (16, 8));
            found.push(ReceivedSpan {
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                state: span.trace_state,
                name: span.name,
                kind: span.kind,
                time: (span.start_time_unix_nano, span.end_time_unix_nano),
                attributes: texts(span.attributes),
                failed: span.status.is_some_and(|status| status.code == 2),
                flags: span.flags,
            });
        }
    }
    found
}
