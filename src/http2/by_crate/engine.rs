//! The connection of the h2 crate, from its handshake to its end.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client::{self, SendRequest};
use h2::server;
use h2::{Error, RecvStream};
use http::Request;

use super::pipe::Pipe;
use crate::http2::Config;

/// Most bytes of one stream that wait inside the crate to be sent.
const SEND_BUFFER: usize = 64 * 1024;
/// Streams that were reset by us and are remembered.
const RESETS: usize = 512;
/// Streams that a client may have reset before they were accepted. The crate closes the connection of one that resets more.
const UNACCEPTED_RESETS: usize = 128;

/// Streams that were reset because of the client's errors, after which the crate closes its connection.
const ERRORS: usize = 500;

/// A request as the crate hands it out.
pub(super) type Accepted = (Request<RecvStream>, server::SendResponse<Bytes>);

/// A connection in one of its states.
#[derive(Debug)]
pub(super) enum Engine {
    /// A server waits for the client's preface.
    Handshake(server::Handshake<Pipe, Bytes>),
    /// A server.
    Server(server::Connection<Pipe, Bytes>),
    /// A client.
    Client(client::Connection<Pipe, Bytes>),
    /// The connection is over.
    Over,
}

impl Engine {
    /// The server's side of a connection over `pipe`.
    pub(super) fn server(config: &Config, pipe: Pipe) -> Self {
        let mut builder = server::Builder::new();
        builder
            .initial_window_size(config.stream_window)
            .initial_connection_window_size(config.connection_window)
            .max_concurrent_streams(config.max_streams)
            .max_header_list_size(config.header_list)
            .max_send_buffer_size(SEND_BUFFER)
            .max_concurrent_reset_streams(RESETS)
            .max_pending_accept_reset_streams(UNACCEPTED_RESETS)
            .max_local_error_reset_streams(Some(ERRORS));
        if config.extended_connect {
            builder.enable_connect_protocol();
        }
        Self::Handshake(builder.handshake(pipe))
    }

    /// The client's side of a connection over `pipe`, which has room for the preface. `None` if the crate can't begin.
    pub(super) fn client(config: &Config, pipe: Pipe) -> Option<(Self, SendRequest<Bytes>)> {
        let mut builder = client::Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(config.stream_window)
            .initial_connection_window_size(config.connection_window)
            .max_header_list_size(config.header_list)
            .max_send_buffer_size(SEND_BUFFER)
            .max_concurrent_reset_streams(RESETS);
        // The future only writes the preface, and for that there is room.
        let handshake = pin!(builder.handshake(pipe));
        match handshake.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok((sender, connection))) => Some((Self::Client(connection), sender)),
            Poll::Ready(Err(_)) | Poll::Pending => None,
        }
    }

    /// Handles the input in the pipe, and writes what there is to send. Ready when the connection is over.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        shuts_down: bool,
    ) -> Poll<Result<(), Error>> {
        if let Self::Handshake(handshake) = self {
            match Pin::new(handshake).poll(cx) {
                Poll::Ready(Ok(mut connection)) => {
                    if shuts_down {
                        connection.graceful_shutdown();
                    }
                    *self = Self::Server(connection);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        match self {
            Self::Server(connection) => connection.poll_closed(cx),
            Self::Client(connection) => Pin::new(connection).poll(cx),
            Self::Handshake(_) | Self::Over => Poll::Pending,
        }
    }

    /// The next stream that the client has opened. Ready with `None` when the connection is over.
    pub(super) fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Accepted, Error>>> {
        match self {
            Self::Server(connection) => connection.poll_accept(cx),
            _ => Poll::Pending,
        }
    }

    /// Begins a graceful shutdown.
    pub(super) fn shut_down(&mut self) {
        if let Self::Server(connection) = self {
            connection.graceful_shutdown();
        }
    }

    /// Announces another initial window for streams. `false` if earlier settings have yet to be acknowledged.
    pub(super) fn set_stream_window(&mut self, window: u32) -> bool {
        match self {
            Self::Server(connection) => connection.set_initial_window_size(window).is_ok(),
            Self::Client(connection) => connection.set_initial_window_size(window).is_ok(),
            Self::Handshake(_) | Self::Over => false,
        }
    }
}
