//! Where requests go: pools of endpoints, and the connections to them.
//!
//! * [`endpoint`]: one address and its state, in a registry that outlives reloads.
//! * [`pool`]: a version's endpoints, weighted. [`view`], [`pick`]: which one is next.
//! * [`connect`]: opens connections. [`conns`]: one worker's idle ones. [`h2_conns`], [`h2_open`]: one worker's HTTP/2 connections.
//! * [`health`]: what checks say. [`probe`]: one check. [`outlier`]: who fails too often.
//! * [`limits`]: ceilings of a version. [`budget`]: how much may be tried again.
//! * [`discovery`]: names to addresses; `addresses`: which of them the next connection tries first.

mod addresses;
pub(crate) mod budget;
pub(crate) mod connect;
pub(crate) mod conns;
pub(crate) mod discovery;
pub(crate) mod endpoint;
pub(crate) mod h2_conns;
mod h2_io;
pub(crate) mod h2_open;
pub(crate) mod health;
pub(crate) mod limits;
pub(crate) mod outlier;
pub(crate) mod pick;
pub mod pool;
pub(crate) mod probe;
pub(crate) mod view;

pub use addresses::Addresses;
pub use budget::RetryBudget;
pub use connect::ConnectError;
pub use conns::Conns;
pub use endpoint::{Endpoint, Registry};
pub use h2_conns::H2Conns;
pub use limits::VersionLoad;
pub use pool::Pool;
pub use view::PoolView;
