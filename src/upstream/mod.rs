//! Where requests go: pools of endpoints, and the connections to them.
//!
//! * [`endpoint`]: one address and its state, in a registry that outlives reloads.
//! * [`pool`]: a version's endpoints, weighted. [`pick`]: which one is next.
//! * [`connect`]: opens connections. [`conns`]: one worker's idle ones.

pub mod endpoint;
pub mod pool;

pub use endpoint::{Endpoint, Registry};
pub use pool::Pool;
