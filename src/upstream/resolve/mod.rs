//! Names of endpoints: lookups, the state of each name, and the endpoints that its addresses stand for.
//!
//! * [`record`] has the names and addresses. [`name_state`] is the state machine of one name, and [`expansion`] turns the endpoints
//!   of the configuration into those of a pool. Both are pure.
//! * [`resolver`] looks up a name with `/etc/hosts` ([`hosts`]) and the servers of the configuration or of [`resolv_conf`].
//!   [`message`] encodes and reads DNS messages, [`transport`] carries them.
//!
//! The control thread drives it: see `control::discovery`. Workers never resolve a name.

pub mod expansion;
mod hosts;
mod message;
pub mod name_state;
pub mod record;
mod resolv_conf;
pub mod resolver;
mod system_files;
mod transport;

#[cfg(test)]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "shared with the integration tests"
)]
#[path = "../../../tests/support/dns.rs"]
pub(crate) mod scripted_server;
