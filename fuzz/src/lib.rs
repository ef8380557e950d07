//! What must hold for any bytes. `cargo test` replays the corpus through the same functions (tests/http1, and the tests of
//! src/net/proxy_protocol.rs).

pub mod checks;
pub mod http2;
#[cfg(fuzzing)]
pub mod http2_messages;
pub mod oracle;
pub mod proxy_header;
// The library doesn't export it, and it needs nothing else of it.
#[path = "../../src/net/proxy_protocol.rs"]
mod proxy_protocol;

use proxy_protocol::ConnectionSource;

/// Any bytes as frames and as use of a whole HTTP/2 connection, server or client. The library has it for fuzzing only.
#[cfg(fuzzing)]
pub use cutover::http2::fuzz_connection as http2_connection;

/// Any bytes as a header of the PROXY protocol.
pub fn proxy_protocol(data: &[u8]) {
    proxy_header::agree(data, |bytes| {
        let parsed = proxy_protocol::parse(bytes)?;
        Ok::<_, proxy_protocol::HeaderError>(parsed.map(|(length, source)| match source {
            ConnectionSource::Client(client) => (length, Some(client)),
            ConnectionSource::Sender => (length, None),
        }))
    });
}
