//! The task of an HTTP/2 connection to an endpoint: moves bytes between its transport and its state.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::http2::{Connection, StreamError};
use crate::net::FramedStream;

/// Reads per poll, after which other tasks get to run.
const READS: usize = 8;

/// Drives a connection. Resolves when it is over; streams that are still open learn that by then.
///
/// The future of the connection's task, and the owner of the transport. Streams are in the tasks of their requests, and wake this
/// one when they have written something.
#[derive(Debug)]
pub(super) struct H2Driver {
    connection: Connection,
    transport: FramedStream,
}

impl H2Driver {
    pub(super) fn new(connection: Connection, transport: FramedStream) -> Self {
        Self {
            connection,
            transport,
        }
    }

    /// How many streams the endpoint allows at a time.
    pub(super) fn most_streams(&mut self) -> usize {
        self.connection.core().most_streams()
    }

    /// Reads the bytes that have arrived. Returns whether there may be more.
    fn read(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        for _ in 0..READS {
            if self.connection.core().is_over() || self.connection.core().is_congested() {
                return Ok(false);
            }
            match self.transport.poll_read(cx) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::BrokenPipe.into()),
                Poll::Ready(Ok(_)) => {
                    let mut core = self.connection.core();
                    self.transport.receive(|bytes| core.receive(bytes, 0));
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Writes all output with as few calls as the socket permits.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut core = self.connection.core();
        while !core.output().is_empty() {
            let written = self.transport.poll_write(cx, core.output());
            core.set_stalled(written.is_pending());
            core.wrote(ready!(written)?);
        }
        if let Some(out) = core.reclaim_output() {
            self.transport.buffers().give_out(out);
        }
        self.transport.poll_flush(cx)
    }

    fn poll_io(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        {
            let mut core = self.connection.core();
            core.awaken();
            core.lend_output(|| self.transport.buffers().take_out());
        }
        self.connection.set_driver(cx.waker());
        let was_congested = self.connection.core().is_congested();
        let mut has_more = self.read(cx)?;
        let written = self.poll_write(cx)?;
        // The socket has room again, but nothing was read, so that no waker is registered for that.
        has_more |= was_congested && !self.connection.core().is_congested();
        if self.connection.core().is_over() {
            ready!(written);
            return self.transport.poll_shutdown(cx);
        }
        if has_more {
            cx.waker().wake_by_ref();
        }
        self.connection.core().sleep();
        Poll::Pending
    }
}

impl Future for H2Driver {
    type Output = Result<(), StreamError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Err(error) = ready!(this.poll_io(cx)) {
            this.connection.core().transport_failed(error.kind());
        }
        let error = this.connection.core().error();
        Poll::Ready(match error {
            // The end after the last stream.
            None | Some(StreamError::Io(io::ErrorKind::NotConnected)) => Ok(()),
            Some(error) => Err(error),
        })
    }
}
