//! The data plane from the socket to a parsed request: worker threads, listeners, TLS and client connections.
//!
//! * [`workers`] is the control thread's view of all worker threads; [`worker`] is one of them.
//! * [`listener`] binds sockets and accepts connections, and [`inherit`] takes sockets over from another process.
//!   [`admission`] limits how many connections the process has open, [`client_connections`] how many a client has, and
//!   [`descriptors`] is about the limit and the table of file descriptors. [`draining_listener`] tracks the connections of closed
//!   listeners. [`listener_info`] has the settings of a listener that connections need; [`connection_context`] is the state that
//!   the requests of a connection share; [`connection_gauge`] counts open connections.
//! * [`tls`] performs handshakes and reloads certificates.
//! * [`connection`] serves an HTTP/1 connection and [`h2`] an HTTP/2 connection. [`request`] converts a parsed HTTP/1 head to the
//!   request that the data path handles.

pub mod acme;
pub mod admission;
mod client_connections;
pub(crate) mod connection;
mod connection_context;
mod connection_gauge;
pub mod descriptors;
mod draining_listener;
mod h2;
pub mod inherit;
pub mod listener;
mod listener_info;
mod request;
pub mod tls;
pub mod worker;
pub mod workers;
