//! Messages of the OpenTelemetry protocol (OTLP 1.x, `opentelemetry/proto/collector/trace/v1`), as far as traces need them.
//!
//! They are declared here rather than generated, which needs neither `protoc` nor OpenTelemetry's SDK. The tags are those of
//! the published definitions and never change.

use crate::protobuf::{Field, Fixed32, Fixed64, Malformed, Message, Value, put_bytes};

message! {
    /// `ExportTraceServiceRequest`.
    pub(crate) struct ExportRequest {
        pub resource_spans: Vec<ResourceSpans> = 1,
    }
}

message! {
    /// `ExportTraceServiceResponse`.
    pub(crate) struct ExportResponse {
        pub partial_success: Option<PartialSuccess> = 1,
    }
}

message! {
    /// `ExportTracePartialSuccess`.
    pub(crate) struct PartialSuccess {
        pub rejected_spans: i64 = 1,
        pub error_message: String = 2,
    }
}

message! {
    /// `ResourceSpans`.
    pub(crate) struct ResourceSpans {
        pub resource: Option<Resource> = 1,
        pub scope_spans: Vec<ScopeSpans> = 2,
    }
}

message! {
    /// `Resource`.
    pub(crate) struct Resource {
        pub attributes: Vec<KeyValue> = 1,
    }
}

message! {
    /// `ScopeSpans`.
    pub(crate) struct ScopeSpans {
        pub scope: Option<Scope> = 1,
        pub spans: Vec<OtlpSpan> = 2,
    }
}

message! {
    /// `InstrumentationScope`.
    pub(crate) struct Scope {
        pub name: String = 1,
        pub version: String = 2,
    }
}

message! {
    /// `Span`.
    pub(crate) struct OtlpSpan {
        pub trace_id: Vec<u8> = 1,
        pub span_id: Vec<u8> = 2,
        pub trace_state: String = 3,
        pub parent_span_id: Vec<u8> = 4,
        pub name: String = 5,
        pub kind: i32 = 6,
        pub start_time_unix_nano: Fixed64 = 7,
        pub end_time_unix_nano: Fixed64 = 8,
        pub attributes: Vec<KeyValue> = 9,
        pub status: Option<SpanStatus> = 15,
        pub flags: Fixed32 = 16,
    }
}

/// `Span.SpanKind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum SpanKind {
    Server = 2,
    Client = 3,
}

message! {
    /// `Status`.
    pub(crate) struct SpanStatus {
        pub message: String = 2,
        /// 0 unset, 1 ok, 2 error.
        pub code: i32 = 3,
    }
}

message! {
    /// `KeyValue`.
    pub(crate) struct KeyValue {
        pub key: String = 1,
        pub value: Option<AnyValue> = 2,
    }
}

/// `AnyValue`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct AnyValue {
    pub value: Option<AttributeValue>,
}

/// The values that attributes have here.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum AttributeValue {
    Text(String),
    Flag(bool),
    Whole(i64),
    Fraction(f64),
}

/// A `oneof`: the one field that is set is sent, whatever its value.
impl Message for AnyValue {
    fn write(&self, out: &mut Vec<u8>) {
        match &self.value {
            Some(AttributeValue::Text(text)) => put_bytes(1, text.as_bytes(), out),
            Some(AttributeValue::Flag(flag)) => Some(*flag).write(2, out),
            Some(AttributeValue::Whole(number)) => Some(*number).write(3, out),
            Some(AttributeValue::Fraction(number)) => Some(*number).write(4, out),
            None => {}
        }
    }

    fn read_field(&mut self, _: u32, _: Value<'_>) -> Result<(), Malformed> {
        // Attributes are only sent.
        Ok(())
    }
}

impl From<&str> for AttributeValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for AttributeValue {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for AttributeValue {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<u64> for AttributeValue {
    fn from(number: u64) -> Self {
        Self::Whole(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<f64> for AttributeValue {
    fn from(number: f64) -> Self {
        Self::Fraction(number)
    }
}

impl KeyValue {
    pub(crate) fn new(key: &str, value: impl Into<AttributeValue>) -> Self {
        Self {
            key: key.to_owned(),
            value: Some(AnyValue {
                value: Some(value.into()),
            }),
        }
    }
}

/// The request that exports these spans of this process.
pub(crate) fn export_request(spans: Vec<OtlpSpan>, resource: Vec<KeyValue>) -> ExportRequest {
    ExportRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes: resource,
            }),
            scope_spans: vec![ScopeSpans {
                scope: Some(Scope {
                    name: env!("CARGO_PKG_NAME").to_owned(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                }),
                spans,
            }],
        }],
    }
}
