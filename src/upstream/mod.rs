//! The endpoints of all versions, and the connections to them.
//!
//! A [`Registry`] holds each [`Endpoint`] with its state for as long as anything refers to it, so that reloads keep its health,
//! ejection and load. The endpoints of a version form a [`Pool`], from which [`pick`] chooses one for each attempt by
//! the service's policy. [`limits`] admits the attempt, which then uses an idle HTTP/1 connection ([`conns`]), a stream on
//! an HTTP/2 connection ([`h2_conns`]), or a new connection ([`connect`]). Its outcome goes to [`outlier`] and
//! may draw on the retry [`budget`].
//!
//! On the control thread [`probe`] runs one health check, [`health`] turns results into a verdict, and [`resolve`]
//! looks up names.

mod addresses;
pub(crate) mod budget;
pub mod connect;
pub(crate) mod conns;
pub mod endpoint;
mod endpoint_shard;
pub(crate) mod h2_conns;
mod h2_io;
pub(crate) mod h2_open;
pub mod health;
pub(crate) mod limits;
pub mod outlier;
pub(crate) mod pick;
pub mod pool;
pub mod probe;
pub mod resolve;
pub mod tls;
pub(crate) mod tls_failure;
pub(crate) mod transport;
mod weak_map;

pub use addresses::Addresses;
pub use budget::RetryBudget;
pub use connect::ConnectError;
pub use conns::Conns;
pub use endpoint::{Endpoint, Registry};
pub use h2_conns::H2Conns;
pub use limits::VersionLoad;
pub use pick::PoolView;
pub use pool::Pool;
pub use transport::TransportId;
