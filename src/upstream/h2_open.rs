//! Opens one HTTP/2 connection to an endpoint: transport, handshake and the settings of this proxy.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::connect::OpenedConnection;
use super::h2_io::H2Driver;
use super::limits::{ConnectionSlot, Limit};
use super::transport::TransportId;
use super::{ConnectError, Endpoint, connect};
use crate::http2::{self, BlockLimits, Sender};
use crate::net::{Buffer, Buffers, FramedStream};

/// Initial window of a stream (RFC 9113 section 6.9.2): the most that one stalled client makes the proxy hold.
const STREAM_WINDOW: u32 = 64 * 1024;
/// Window of the connection. It is large, because stalled streams occupy it and must not stop the others.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// Largest head of a response (SETTINGS_MAX_HEADER_LIST_SIZE), the same as for HTTP/1.
const HEAD_BYTES: u32 = 256 * 1024;
/// Most fields of a response.
const HEAD_FIELDS: usize = 4096;

/// Why opening failed. Cloned for each request that waited for the connection.
#[derive(Clone, Debug)]
pub(super) enum OpenFailure {
    /// The connection could not be established.
    Connect(Rc<ConnectError>),
    /// The endpoint has negotiated HTTP/2 before, and HTTP/1.1 this time.
    NotHttp2,
    /// A limit of the version forbids another connection.
    Limit(Limit),
}

/// Why a request got no stream.
#[derive(Debug)]
pub enum LeaseError {
    /// No connection could be opened.
    Connect(ConnectError),
    /// A limit forbids another connection, and none has a free stream. Nothing was sent, and the endpoint is not to blame.
    Limit(Limit),
}

/// The limits under which a connection is opened and a request waits for a stream.
#[derive(Clone, Copy, Debug)]
pub struct OpenLimits {
    /// Longest time to establish the connection, including TLS.
    pub connect: Duration,
    /// Longest time that it is kept without streams.
    pub idle: Duration,
    /// Most open connections of the version; 0 is unlimited.
    pub connections: u32,
    /// Most requests of the version that wait for a connection or a stream; 0 is unlimited.
    pub pending: u32,
    /// Longest wait for a connection slot or a stream.
    pub wait: Duration,
}

impl OpenFailure {
    /// The error for one of the requests that waited.
    pub(super) fn into_lease_error(self) -> LeaseError {
        match self {
            Self::Limit(limit) => LeaseError::Limit(limit),
            Self::Connect(error) => LeaseError::Connect(error.duplicate()),
            Self::NotHttp2 => {
                LeaseError::Connect(ConnectError::Io(io::ErrorKind::Unsupported.into()))
            }
        }
    }
}

/// An opened connection.
pub(super) struct OpenedH2 {
    /// Sends requests.
    pub(super) sender: Sender,
    /// Drives the connection.
    pub(super) driver: H2Driver,
    /// Number of the transport that it was opened by.
    pub(super) transport: TransportId,
}

/// Begins HTTP/2 on a connection. The preface and the settings are sent with the first request (RFC 9113 §3.4).
pub(super) fn begin(opened: OpenedConnection, buffers: Buffers) -> OpenedH2 {
    let limits = BlockLimits {
        bytes: HEAD_BYTES as usize,
        fields: HEAD_FIELDS,
    };
    let (connection, sender) = http2::Connection::client(http2::Config {
        stream_window: STREAM_WINDOW,
        connection_window: CONNECTION_WINDOW,
        max_streams: 0,
        extended_connect: false,
        header_list: HEAD_BYTES,
        head: limits,
        trailers: limits,
    });
    let transport = FramedStream::new(opened.stream, buffers, Buffer::default());
    OpenedH2 {
        sender,
        driver: H2Driver::new(connection, transport),
        transport: opened.transport,
    }
}

/// Opens a connection within `limit` and returns it with its `slot`. The slot is freed if opening fails.
pub(super) async fn open(
    endpoint: &Endpoint,
    slot: ConnectionSlot,
    limit: Duration,
    buffers: Buffers,
) -> Result<(ConnectionSlot, OpenedH2), OpenFailure> {
    let failed = |error| OpenFailure::Connect(Rc::new(error));
    let opened = connect::open(endpoint, limit).await;
    let opened = opened.map_err(failed)?;
    // The version has just been given a header for each client.
    if opened.transport.is_exclusive() {
        return Err(OpenFailure::NotHttp2);
    }
    if !opened.h2 {
        // The version of the protocol changed, for example by a rollback behind the same address. The HTTP/1.1 connection is
        // dropped, and the next request asks again what the endpoint speaks.
        return Err(OpenFailure::NotHttp2);
    }
    Ok((slot, begin(opened, buffers)))
}
