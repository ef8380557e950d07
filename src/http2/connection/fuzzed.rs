//! What fuzz targets use of a connection.

use std::task::{Context, Poll, Waker};

use super::{Config, Connection, Incoming, StreamHandle};
use crate::http2::{BlockLimits, HeadBlock};

/// Takes any bytes as frames of a peer and as use of streams.
///
/// # Panics
/// An invariant of the connection doesn't hold, or what it has sent is invalid.
pub fn fuzz(data: &[u8]) {
    super::random::fuzz(data);
}

/// A request that was received whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// `:method`
    pub method: Vec<u8>,
    /// `:path`
    pub path: Vec<u8>,
    /// Names and values of the fields.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
    /// The payloads of all its DATA frames.
    pub content: Vec<u8>,
    /// Names and values of the trailers.
    pub trailers: Vec<(Vec<u8>, Vec<u8>)>,
}

struct Arriving {
    id: u32,
    stream: StreamHandle,
    request: Request,
    is_whole: bool,
}

fn fields(head: &HeadBlock) -> Vec<(Vec<u8>, Vec<u8>)> {
    let owned = |(name, value): (&[u8], &[u8])| (name.to_vec(), value.to_vec());
    head.iter().map(owned).collect()
}

/// The requests that a server receives whole from a client which sends these bytes, in pieces of at most `piece` of them.
/// None is answered.
pub fn requests(bytes: &[u8], piece: usize) -> Vec<(u32, Request)> {
    let limits = BlockLimits {
        bytes: 64 * 1024,
        fields: 200,
    };
    let connection = Connection::server(
        Config {
            stream_window: 1 << 20,
            connection_window: 1 << 20,
            max_streams: 100,
            extended_connect: false,
            header_list: 64 * 1024,
            head: limits,
            trailers: limits,
        },
        0,
    );
    let (mut arriving, mut input) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        input.extend_from_slice(piece);
        let used = connection.core().receive(&input, 0);
        input.drain(..used);
        while let Some(Incoming { stream, head, .. }) = connection.accept() {
            arriving.push(Arriving {
                id: stream.id(),
                request: Request {
                    method: head.method().to_vec(),
                    path: head.path().to_vec(),
                    fields: fields(&head),
                    content: Vec::new(),
                    trailers: Vec::new(),
                },
                stream,
                is_whole: false,
            });
        }
        arriving.iter_mut().for_each(Arriving::read);
    }
    let whole = arriving.into_iter().filter(|a| a.is_whole);
    whole.map(|a| (a.id, a.request)).collect()
}

impl Arriving {
    fn read(&mut self) {
        let cx = Context::from_waker(Waker::noop());
        let mut data = Vec::new();
        while !self.is_whole {
            match self.stream.poll_data(&cx, &mut data) {
                Poll::Ready(Ok(true)) => {
                    self.request.content.extend_from_slice(&data);
                    self.stream.release(data.len());
                    data.clear();
                }
                Poll::Ready(Ok(false)) => {
                    let trailers = self.stream.take_trailers();
                    self.request.trailers = trailers.map_or(Vec::new(), |t| fields(&t));
                    self.is_whole = true;
                }
                Poll::Ready(Err(_)) | Poll::Pending => return,
            }
        }
    }
}
