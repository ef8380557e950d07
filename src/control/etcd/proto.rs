//! Messages of etcd's API v3 (`etcdserverpb`, `mvccpb`), as far as a fleet needs them.
//!
//! They are declared here rather than generated, which needs neither `protoc` nor a gRPC framework. The tags are those of the
//! published definitions and never change.

use bytes::Bytes;

message! {
    /// `ResponseHeader`.
    #[derive(Copy)]
    pub(super) struct ResponseHeader {
        pub cluster_id: u64 = 1,
        pub revision: i64 = 3,
    }
}

message! {
    /// `mvccpb.KeyValue`.
    pub(super) struct KeyValue {
        pub key: Bytes = 1,
        pub mod_revision: i64 = 3,
        pub value: Bytes = 5,
        pub lease: i64 = 6,
    }
}

message! {
    /// `RangeRequest`.
    pub(super) struct RangeRequest {
        pub key: Bytes = 1,
        pub range_end: Bytes = 2,
        pub limit: i64 = 3,
        pub revision: i64 = 4,
        pub keys_only: bool = 8,
    }
}

message! {
    /// `RangeResponse`.
    pub(super) struct RangeResponse {
        pub header: Option<ResponseHeader> = 1,
        pub kvs: Vec<KeyValue> = 2,
        pub more: bool = 3,
    }
}

message! {
    /// `PutRequest`.
    pub(super) struct PutRequest {
        pub key: Bytes = 1,
        pub value: Bytes = 2,
        pub lease: i64 = 3,
    }
}

message! {
    /// `PutResponse`, and other responses of which only the header is of interest.
    pub(super) struct HeaderResponse {
        pub header: Option<ResponseHeader> = 1,
    }
}

message! {
    /// `DeleteRangeRequest`.
    pub(super) struct DeleteRangeRequest {
        pub key: Bytes = 1,
        /// Empty: the one key.
        pub range_end: Bytes = 2,
    }
}

message! {
    /// `TxnRequest`.
    pub(super) struct TxnRequest {
        pub compare: Vec<Compare> = 1,
        pub success: Vec<TxnOperation> = 2,
        pub failure: Vec<TxnOperation> = 3,
    }
}

message! {
    /// `Compare` of the last revision of a key, for equality.
    pub(super) struct Compare {
        /// `EQUAL`.
        pub result: i32 = 1,
        pub target: i32 = 2,
        pub key: Bytes = 3,
        /// Part of a `oneof`, so that 0 is sent too.
        pub mod_revision: Option<i64> = 6,
    }
}

/// `Compare.CompareTarget.MOD`.
pub(super) const MOD_REVISION: i32 = 2;

message! {
    /// `RequestOp`, of which one field is set.
    pub(super) struct TxnOperation {
        pub range: Option<RangeRequest> = 1,
        pub put: Option<PutRequest> = 2,
    }
}

message! {
    /// `TxnResponse`.
    pub(super) struct TxnResponse {
        pub header: Option<ResponseHeader> = 1,
        pub succeeded: bool = 2,
        pub responses: Vec<TxnResult> = 3,
    }
}

message! {
    /// `ResponseOp`.
    pub(super) struct TxnResult {
        pub range: Option<RangeResponse> = 1,
    }
}

message! {
    /// `WatchRequest` that creates a watch.
    pub(super) struct WatchRequest {
        pub create: Option<WatchCreate> = 1,
    }
}

message! {
    /// `WatchCreateRequest`.
    pub(super) struct WatchCreate {
        pub key: Bytes = 1,
        pub range_end: Bytes = 2,
        pub start_revision: i64 = 3,
        /// Asks for an empty response from time to time: a quiet watch learns of later revisions by it.
        pub progress_notify: bool = 4,
        /// Allows the server to split large responses.
        pub fragment: bool = 8,
    }
}

message! {
    /// `WatchResponse`.
    pub(super) struct WatchResponse {
        pub header: Option<ResponseHeader> = 1,
        pub watch_id: i64 = 2,
        pub created: bool = 3,
        pub canceled: bool = 4,
        pub compact_revision: i64 = 5,
        pub cancel_reason: String = 6,
        /// More responses for the same revisions follow.
        pub fragment: bool = 7,
        pub events: Vec<Event> = 11,
    }
}

message! {
    /// `mvccpb.Event`.
    pub(super) struct Event {
        pub kind: i32 = 1,
        pub kv: Option<KeyValue> = 2,
    }
}

/// `mvccpb.Event.EventType.DELETE`.
pub(super) const EVENT_DELETE: i32 = 1;

message! {
    /// `LeaseGrantRequest`, with an ID that the server chooses.
    pub(super) struct LeaseGrantRequest {
        /// In seconds.
        pub ttl: i64 = 1,
    }
}

message! {
    /// `LeaseGrantResponse`.
    pub(super) struct LeaseGrantResponse {
        pub id: i64 = 2,
        pub error: String = 4,
    }
}

message! {
    /// `LeaseRevokeRequest`, `LeaseKeepAliveRequest`.
    pub(super) struct LeaseRequest {
        pub id: i64 = 1,
    }
}

message! {
    /// `LeaseKeepAliveResponse`.
    pub(super) struct LeaseKeepAliveResponse {
        /// In seconds. 0 or less if there is no such lease.
        pub ttl: i64 = 3,
    }
}

message! {
    /// `AuthenticateRequest`.
    pub(super) struct AuthenticateRequest {
        pub name: String = 1,
        pub password: String = 2,
    }
}

message! {
    /// `AuthenticateResponse`.
    pub(super) struct AuthenticateResponse {
        pub token: String = 2,
    }
}
