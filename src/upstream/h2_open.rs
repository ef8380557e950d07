//! Opens one HTTP/2 connection to an endpoint, within the ceiling of its version.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use h2::client::{Builder, Connection, SendRequest};

use super::h2_io::H2Io;
use super::limits::{ConnectionSlot, Limit};
use super::{ConnectError, Endpoint, connect};
use crate::http2::Flaws;
use crate::net::{OutgoingPiece, Stream};

/// What may be on its way for one stream: what a stalled client makes us hold.
const STREAM_WINDOW: u32 = 64 * 1024;
/// The same for all streams together: so much that streams that stand still don't stop the others.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// Most bytes of one request that wait inside the connection.
const SEND_BUFFER: usize = 64 * 1024;
/// Largest head of a response, as for HTTP/1.
const HEAD_BYTES: u32 = 256 * 1024;
/// Streams that we took back and of which the peer may not know yet.
const TAKEN_BACK: usize = 512;

/// Why opening failed, for all that waited for it.
#[derive(Clone, Debug)]
pub(super) enum OpenFailure {
    /// No connection.
    Connect(Rc<ConnectError>),
    /// It spoke HTTP/2 before and doesn't any more.
    NotHttp2,
    /// None may be opened.
    Limit(Limit),
}

/// Why there is no place.
#[derive(Debug)]
pub enum LeaseError {
    /// No connection could be opened.
    Connect(ConnectError),
    /// None may be opened, or none has a free stream. Nothing was sent, and the endpoint has no part in it.
    Limit(Limit),
}

/// Under what a connection is opened.
#[derive(Clone, Copy, Debug)]
pub struct OpenLimits {
    /// Longest time for it.
    pub connect: Duration,
    /// How long it may be without streams.
    pub idle: Duration,
    /// How many the version may have; 0 is no ceiling.
    pub connections: u32,
    /// How many requests may wait for one, or for a stream on one; 0 is no ceiling.
    pub pending: u32,
    /// How long.
    pub wait: Duration,
}

impl OpenFailure {
    /// As each of those that waited is told.
    pub(super) fn told(self) -> LeaseError {
        match self {
            Self::Limit(limit) => LeaseError::Limit(limit),
            Self::Connect(error) => LeaseError::Connect(error.again()),
            Self::NotHttp2 => {
                LeaseError::Connect(ConnectError::Io(io::ErrorKind::Unsupported.into()))
            }
        }
    }
}

/// A connection: to send by, to drive, and what is found wrong with its streams.
pub(super) type OpenedH2 = (
    SendRequest<OutgoingPiece>,
    Connection<H2Io, OutgoingPiece>,
    Flaws,
);

/// Both ends agree to speak HTTP/2 on `stream`.
pub(super) async fn handshake(stream: Stream) -> io::Result<OpenedH2> {
    let flaws = Flaws::default();
    let opened = Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(HEAD_BYTES)
        .max_concurrent_reset_streams(TAKEN_BACK)
        .handshake(H2Io::new(stream, flaws.clone()))
        .await;
    let (sender, connection) = opened.map_err(|e| {
        e.into_io()
            .unwrap_or_else(|| io::ErrorKind::InvalidData.into())
    })?;
    Ok((sender, connection, flaws))
}

/// Opens a connection in `slot`.
pub(super) async fn open(
    endpoint: &Endpoint,
    slot: ConnectionSlot,
    limit: Duration,
) -> Result<(ConnectionSlot, OpenedH2), OpenFailure> {
    let failed = |error| OpenFailure::Connect(Rc::new(error));
    let opened = connect::open(endpoint, limit).await;
    let opened = opened.map_err(failed)?;
    if !opened.h2 {
        // The next request begins anew.
        return Err(OpenFailure::NotHttp2);
    }
    let shaken = handshake(opened.stream).await;
    let shaken = shaken.map_err(|error| failed(ConnectError::Io(error)))?;
    Ok((slot, shaken))
}
